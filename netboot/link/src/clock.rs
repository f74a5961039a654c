//! The only reader of clocks: a steady one for the machines, the calendar for the journal.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use netboot::Time;

/// A steady clock that starts with its driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(&self) -> Time {
        Time::ZERO + self.0.elapsed()
    }

    /// The moment as tokio's timers want it.
    pub(crate) fn instant(&self, time: Time) -> tokio::time::Instant {
        (self.0 + time.since(Time::ZERO)).into()
    }
}

/// Milliseconds since the Unix epoch, for the journal.
pub(crate) fn unix_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
