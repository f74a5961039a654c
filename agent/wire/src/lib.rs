//! What a machine and the appliance say to each other: SideroLink's registration, the agent's service,
//! Talos' inventory messages, and the reverse tunnel that carries calls back to the machine.
//!
//! Invariant: the frame machines in [`tunnel`] read no clock and no socket; only its three drivers
//! ([`tunnel::TunnelChannel`], [`tunnel::TunnelService`], [`tunnel::serve`]) do. Nothing here decides who
//! may open a tunnel: that is the [`tunnel::TunnelHandler`] of the appliance.

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated; the protobuf files carry the documentation"
)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/wire.rs"));
}

pub mod keep;
pub mod password;
pub mod token;
pub mod tunnel;

pub use proto::events;
/// Outcome of a call as it travels in a tunnel.
pub use proto::google::rpc;
/// Messages of the tunnel.
pub use proto::grpctunnel::v1 as grpctunnel;
/// Talos' machine events.
pub use proto::machine;
/// The agent's service.
pub use proto::management;
/// SideroLink's registration.
pub use proto::sidero::link;
/// Talos' inventory messages.
pub use proto::talos::resource::definitions as talos;

/// Metadata of the answer to `WipeDisks`: one line for each disk, what was done and how long it took. A provider
/// that does not know it loses nothing.
pub const WIPE_REPORT_HEADER: &str = "bootlace-wipe-report";

/// Type URL under which Talos sends a [`machine::SequenceEvent`].
pub const SEQUENCE_EVENT_TYPE_URL: &str = "talos/runtime/machine.SequenceEvent";

/// Talos' resource types that the agent serves, as (namespace, type).
pub mod inventory {
    /// The machine as a whole; its only id is [`SYSTEM_INFORMATION_ID`].
    pub const SYSTEM_INFORMATION: (&str, &str) = ("hardware", "SystemInformations.hardware.talos.dev");
    /// Processor packages.
    pub const PROCESSORS: (&str, &str) = ("hardware", "Processors.hardware.talos.dev");
    /// Memory modules.
    pub const MEMORY_MODULES: (&str, &str) = ("hardware", "MemoryModules.hardware.talos.dev");
    /// Whole disks, by kernel name.
    pub const DISKS: (&str, &str) = ("runtime", "Disks.block.talos.dev");
    /// Network interfaces, by kernel name.
    pub const LINKS: (&str, &str) = ("network", "LinkStatuses.net.talos.dev");
    /// Id of the machine's own record.
    pub const SYSTEM_INFORMATION_ID: &str = "systeminformation";
}
