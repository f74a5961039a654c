//! What a raw stack moved and dropped.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Frames from the wire that passed.
    pub(super) received: AtomicU64,
    /// Frames to the wire; one can be cut into many.
    pub(super) sent: AtomicU64,
    /// Of a VLAN that is not served, or without the tag that is.
    pub(super) other_vlan: AtomicU64,
    /// Shorter than they say, longer than the room, or of no protocol that is spoken.
    pub(super) malformed: AtomicU64,
    /// Damaged on the way.
    pub(super) checksum: AtomicU64,
    /// From an address that is not of the network.
    pub(super) foreign: AtomicU64,
    /// For another address.
    pub(super) elsewhere: AtomicU64,
    /// No room in a queue.
    pub(super) full: AtomicU64,
}

impl Counters {
    /// Frames dropped because of their source.
    #[must_use]
    pub fn foreign(&self) -> u64 {
        self.foreign.load(Ordering::Relaxed)
    }

    /// Frames dropped because of their lengths.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.malformed.load(Ordering::Relaxed)
    }

    /// Frames dropped because of their checksums.
    #[must_use]
    pub fn bad_checksum(&self) -> u64 {
        self.checksum.load(Ordering::Relaxed)
    }

    /// Frames from the wire that passed.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
