//! What a stranger may send, and how much of it is kept.

use std::time::Duration;

/// A UUID has 36; Omni takes any text, so does the hub, within reason.
pub(crate) const MAX_MACHINE_ID: usize = 64;
/// A v2 token with every label that Omni puts in has about 400.
pub(crate) const MAX_JOIN_TOKEN: usize = 4096;
/// The JSON of a fingerprint and a UUID has about 140.
pub(crate) const MAX_UNIQUE_TOKEN: usize = 1024;
/// `v1.13.7-alpha.0-123-gabcdef` is the longest kind.
pub(crate) const MAX_TALOS_VERSION: usize = 64;
/// Base64 of a WireGuard key has 44.
pub(crate) const MAX_PUBLIC_KEY: usize = 64;
/// Machines of one hub: five times the largest site that it is measured with. Only a leaked join token gets
/// near it.
const MAX_MACHINES: usize = 10_000;
/// Machines in limbo at once: each lasts [`PENDING_LIFETIME`], so this is a boot storm of a large site.
const MAX_PENDING: usize = 1_000;
/// A machine in limbo is forgotten after this time, as in Omni.
pub(crate) const PENDING_LIFETIME: Duration = Duration::from_secs(30);
/// Machines in limbo that are visited at once, as in Omni.
pub(crate) const VISITS_AT_ONCE: usize = 32;
/// A visit that takes longer is given up, as in Omni.
pub(crate) const VISIT_LIMIT: Duration = Duration::from_secs(10);
/// Pause before the next visit of a machine that had none that did.
pub(crate) const VISIT_PAUSE: Duration = Duration::from_secs(1);
/// Network links of one machine: a large switch has 128 ports, and containers make no physical ones.
pub(crate) const MAX_LINKS: usize = 1024;
/// Largest message of the machine API: all fields at their limits fit several times.
pub(crate) const MAX_MESSAGE: usize = 64 * 1024;
/// An armored public key with one user id and a subkey has about 600; more user ids fit.
pub(crate) const MAX_ARMORED_KEY: usize = 16 * 1024;
/// How long a key may last that others made: as in Omni a year, and a day for clocks and time zones.
pub(crate) const MAX_KEY_LIFETIME: Duration = Duration::from_secs(366 * 24 * 3600);
/// A schematic with an embedded machine configuration of the largest cluster has some 50 KiB.
pub(crate) const MAX_SCHEMATIC: usize = 256 * 1024;
/// Largest message of the management API: a schematic and its envelope.
pub(crate) const MAX_MANAGEMENT_MESSAGE: usize = MAX_SCHEMATIC + 4 * 1024;
/// A part of an image's name, its version, or the id of a schematic: that one has 64.
pub(crate) const MAX_ASSET_NAME: usize = 128;
/// A line of a kernel log: the kernel's own limit is 1 KiB of text, and each byte may be six in JSON.
pub(crate) const MAX_LOG_LINE: usize = 8 * 1024;
/// What is kept of one machine's kernel log: a boot of a server with many disks has about 1,500 lines of 160 bytes.
pub(crate) const MAX_MACHINE_LOG: usize = 256 * 1024;
/// What is kept of all kernel logs: the boots of some 64 machines, and little beside the appliance's 64 MB.
pub(crate) const MAX_LOG_BYTES: usize = 16 * 1024 * 1024;
/// Lines of one machine at once: it sends all that its kernel remembers when it connects.
pub(crate) const LOG_BURST: u32 = 4096;
/// Lines of one machine for long: a driver that repeats itself must not push everything else out.
pub(crate) const LOG_LINES_PER_SECOND: u32 = 256;
/// Connections of one machine: it has one for each place in its configuration that names us, and old ones that it
/// forgot when its power went.
pub(crate) const LOG_CONNECTIONS: usize = 4;
/// Connections of all machines for their kernel logs: two for each of the largest site.
pub(crate) const MAX_LOG_CONNECTIONS: usize = 4_000;
/// A provider's schema of what it takes: those of Omni's own providers have some 5 KiB.
pub(crate) const MAX_SCHEMA: usize = 256 * 1024;
/// Schemas within schemas, references included: recursion must end.
pub(crate) const MAX_SCHEMA_DEPTH: usize = 64;
/// Schemas that are looked at for one set of data: choices within choices double it.
pub(crate) const MAX_SCHEMA_WORK: usize = 100_000;
/// Bytes of a compiled pattern of a schema.
pub(crate) const MAX_PATTERN: usize = 256 * 1024;
/// Violations that a user is told of at once.
pub(crate) const MAX_VIOLATIONS: usize = 20;
/// What a user may tell a provider of one machine.
pub(crate) const MAX_PROVIDER_DATA: usize = 64 * 1024;
/// Kernel arguments of a request, and the bytes of one, as in Omni.
pub(crate) const MAX_KERNEL_ARGS: usize = 64;
pub(crate) const MAX_KERNEL_ARG: usize = 256;
/// Bytes of what a user calls a reboot or a power-off, as in Omni.
pub(crate) const MAX_REQUEST_ID: usize = 128;
/// Bytes of a machine's extra kernel arguments: the kernel takes 2 or 4 KiB in all.
pub(crate) const MAX_EXTRA_KERNEL_ARGS: usize = 4 * 1024;
/// Machines that one request set may ask for: a typing error must not fill the store.
pub(crate) const MAX_REQUESTED_MACHINES: usize = 1_000;
/// Machines that are looked after at once: their writes share commits.
pub(crate) const RECONCILE_AT_ONCE: usize = 64;
/// A provider whose last heartbeat is older is shown as not connected, as in Omni.
pub(crate) const HEARTBEAT_LIFETIME: Duration = Duration::from_secs(31);
/// How often that is looked at when nothing happens.
pub(crate) const HEARTBEAT_CHECK: Duration = Duration::from_secs(5);
/// Pause before a failed reconciliation or a broken watch is tried again.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How many machines are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// With a link.
    pub(crate) machines: usize,
    /// In limbo.
    pub(crate) pending: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { machines: MAX_MACHINES, pending: MAX_PENDING }
    }
}
