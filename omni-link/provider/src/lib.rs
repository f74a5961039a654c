//! Omni's infrastructure resources and every decision about a machine.
//!
//! What it is: the messages of the resources that a static infrastructure provider reads and writes
//! ([`specs`], [`private`]), their names ([`resources`]), and the decisions that follow from them as plain
//! functions of a [`MachineView`]: which boot mode, whether to wipe, switch power, reboot, admit a tunnel,
//! and what to report. Each decision comes with its reason, which is what an operator reads.
//!
//! Invariant: no I/O, no clock, no randomness. Time is an argument; a decision never reaches for anything
//! that is not in the view. A machine that nobody accepted is never switched, rebooted or wiped, and nothing
//! is wiped from a stale view.
//!
//! Its driver is `omni-link`, which keeps the view and carries the decisions out.

pub mod bmc;
pub mod boot;
pub mod health;
pub mod machine_config;
pub mod merge;
pub mod power;
pub mod reason;
pub mod resources;
pub mod schematic;
pub mod status;
pub mod tunnel;
pub mod unknown_fields;
pub mod view;
pub mod wipe;
mod yaml;

/// Omni's own messages (package `specs`).
pub mod specs {
    #![allow(missing_docs, reason = "generated; the proto files document them")]
    include!(concat!(env!("OUT_DIR"), "/specs.rs"));
}

/// The provider's private records (package `baremetalproviderspecs`) and our inventory.
pub mod private {
    #![allow(missing_docs, reason = "generated; the proto files document them")]
    include!(concat!(env!("OUT_DIR"), "/baremetalproviderspecs.rs"));
    include!(concat!(env!("OUT_DIR"), "/bootlace.provider.rs"));
}

pub use bmc::{BmcPlan, bmc_plan};
pub use boot::{BootMode, boot_mode, installed, requires_wipe};
pub use health::{Health, health_text};
pub use merge::{merge_bmc, merge_power, merge_reboot, merge_wipe};
pub use power::{
    PowerAction, PowerOffAck, RebootAction, power, power_off_ack, power_off_active, reboot, wants_power_on,
};
pub use reason::{BootReason, Reason};
pub use status::{ready, status, status_labels};
pub use tunnel::{Admission, Refusal, TunnelClaim, UniqueToken, tunnel_admission};
pub use view::{InfraMachine, MachineView, Policy};
pub use wipe::{WipeAction, wipe, wipe_record};

#[cfg(test)]
mod tests;
