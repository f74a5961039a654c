//! The virtual PXE network: namespaces, a router, QEMU machines with power switches, and the appliance under test.
//!
//! The demo, the end-to-end tests and the benches are written on top of it:
//!
//! ```no_run
//! use testbed::{Bed, ApplianceSpec, DiskSpec, Firmware, LIMIT, MachineSpec};
//!
//! # fn main() -> anyhow::Result<()> {
//! let bed = Bed::start()?;
//! let appliance = bed.appliance(ApplianceSpec::new("target/release/bootlace", "target/assets"))?;
//! let journal = appliance.journal()?;
//! let machine = bed.machine(MachineSpec::new("bios", Firmware::Bios).disk(DiskSpec::blank(256)))?;
//! machine.power_on()?;
//! journal.wait_step(LIMIT, &machine, "pending")?;
//! appliance.cli_ok(&["machines", "accept", &machine.uuid().to_string()])?;
//! machine.wait_power(LIMIT, false)?;
//! # Ok(()) }
//! ```
//!
//! Invariants: a bed leaves nothing behind, however its owner ends: Drop, a signal and an aborting panic take it
//! down, children die with the owner, and the next bed sweeps what is left of owners that are dead. Beds do not see
//! each other. No wait is without a limit. Machines run under TCG unless `BOOTLACE_KVM=1`.
//!
//! It needs root and Debian's packages; [`doctor::check`] says which. [`agent`], [`fault_proxy`] and [`seed`] need
//! nothing: the chaos tests run on loopback.

pub mod agent;
mod appliance;
mod bed;
pub mod doctor;
pub mod fault_proxy;
mod journal;
mod kernel;
mod laptop;
mod machine;
mod net;
mod remains;
mod router;
pub mod seed;
mod site;
mod switch;
mod sys;
mod wait;

use std::time::Duration;

pub use appliance::{Appliance, ApplianceSpec, TALOS_VERSION, built};
pub use bed::Bed;
pub use journal::{Entry, Journal};
pub use kernel::Kernel;
pub use laptop::Laptop;
pub use machine::{
    BMC_PASSWORD, BMC_USER, BootOrder, Bus, Call, Console, Disk, DiskSpec, Fault, Firmware, Line, Machine,
    MachineSpec, Nic, Snapshot,
};
pub use net::{APPLIANCE_ADDRESS, Net, POWER_ADDRESS, ROUTER_ADDRESS, Role};
pub use site::{Listed, Site};
pub use switch::{Trunk, TrunkVlan};
pub use wait::{TimedOut, wait_until};

/// Long enough for any single step of a boot on a busy machine without KVM; a step that takes longer hangs.
pub const LIMIT: Duration = Duration::from_secs(90);
