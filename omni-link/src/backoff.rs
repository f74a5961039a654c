//! How long to wait before the next try: twice as long each time, and never at the same moment as others.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Pauses that double from a least to a most, each shortened by chance by up to a half: appliances that lost
/// the same Omni do not come back in step.
#[derive(Debug, Clone)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `least` and ends at `most`.
    pub fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, next: least }
    }

    /// It worked: the next pause is the least again.
    pub fn reset(&mut self) {
        self.next = self.least;
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        self.pause_with(chance())
    }

    /// The next pause for a number of chance between 0 and 1.
    fn pause_with(&mut self, chance: f64) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.most);
        pause.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0)
    }
}

/// Each state of the standard library's hasher has keys of its own; no secret depends on them here.
fn chance() -> f64 {
    let random = RandomState::new().hash_one(0_u8) >> 32;
    f64::from(u32::try_from(random).unwrap_or(0)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests;
