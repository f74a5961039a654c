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
/// Largest message of the machine API: all fields at their limits fit several times.
pub(crate) const MAX_MESSAGE: usize = 64 * 1024;
/// An armored public key with one user id and a subkey has about 600; more user ids fit.
pub(crate) const MAX_ARMORED_KEY: usize = 16 * 1024;
/// How long a key may last that others made: as in Omni a year, and a day for clocks and time zones.
pub(crate) const MAX_KEY_LIFETIME: Duration = Duration::from_secs(366 * 24 * 3600);
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
