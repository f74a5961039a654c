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

pub mod certificate;
mod codec;
pub mod keep;
pub mod password;
pub mod token;
pub mod tunnel;

/// What several of Talos' packages use.
pub use proto::common;
/// Resources that describe types and namespaces.
pub use proto::cosi::meta;
pub use proto::events;
/// Outcome of a call as it travels in a tunnel.
pub use proto::google::rpc;
/// Messages of the tunnel.
pub use proto::grpctunnel::v1 as grpctunnel;
/// Talos' machine events and machine API.
pub use proto::machine;
/// The agent's service.
pub use proto::management;
/// SideroLink's registration.
pub use proto::sidero::link;
/// Talos' storage service.
pub use proto::storage;
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
    /// Addresses, by link and prefix.
    pub const ADDRESSES: (&str, &str) = ("network", "AddressStatuses.net.talos.dev");
    /// Routes.
    pub const ROUTES: (&str, &str) = ("network", "RouteStatuses.net.talos.dev");
    /// Sets of the machine's addresses; Omni shows [`NODE_ADDRESS_CURRENT_ID`].
    pub const NODE_ADDRESSES: (&str, &str) = ("network", "NodeAddresses.net.talos.dev");
    /// The machine's name; its only id is `hostname`.
    pub const HOSTNAME: (&str, &str) = ("network", "HostnameStatuses.net.talos.dev");
    /// The disk that Talos is installed on.
    pub const SYSTEM_DISK: (&str, &str) = ("runtime", "SystemDisks.block.talos.dev");
    /// What the platform tells; its only id is `platformmetadata`.
    pub const PLATFORM_METADATA: (&str, &str) = ("runtime", "PlatformMetadatas.talos.dev");
    /// What firmware and kernel enforce; its only id is `securitystate`.
    pub const SECURITY_STATE: (&str, &str) = ("runtime", "SecurityStates.talos.dev");
    /// How the kernel was started; its only id is `cmdline`.
    pub const KERNEL_CMDLINE: (&str, &str) = ("runtime", "KernelCmdlines.runtime.talos.dev");
    /// System extensions.
    pub const EXTENSIONS: (&str, &str) = ("runtime", "ExtensionStatuses.runtime.talos.dev");
    /// What the machine is doing; its only id is `machine`.
    pub const MACHINE_STATUS: (&str, &str) = ("runtime", "MachineStatuses.runtime.talos.dev");
    /// The release; its only id is `version`.
    pub const VERSION: (&str, &str) = ("runtime", "Versions.runtime.talos.dev");
    /// Entries of META, by key as `0x10`.
    pub const META_KEYS: (&str, &str) = ("runtime", "MetaKeys.runtime.talos.dev");
    /// What Omni tells machines apart by; its only id is `unique-machine-token`.
    pub const UNIQUE_TOKEN: (&str, &str) = ("runtime", "UniqueMachineTokens.runtime.talos.dev");
    /// What is wrong with the machine.
    pub const DIAGNOSTICS: (&str, &str) = ("runtime", "Diagnostics.runtime.talos.dev");
    /// The types.
    pub const DEFINITIONS: (&str, &str) = ("meta", "ResourceDefinitions.meta.cosi.dev");
    /// The namespaces.
    pub const NAMESPACES: (&str, &str) = ("meta", "Namespaces.meta.cosi.dev");
    /// Id of the set of addresses on links that are up.
    pub const NODE_ADDRESS_CURRENT_ID: &str = "current";
    /// Id of the machine's own record.
    pub const SYSTEM_INFORMATION_ID: &str = "systeminformation";
}
