//! How long to wait before trying again.

use std::time::Duration;

/// Doubles from one second to half a minute, with up to a quarter of jitter, so that a rack of machines
/// does not knock all at once when the appliance comes back.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    seed: u32,
}

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

impl Backoff {
    /// Starts at a second; `seed` decides the jitter.
    pub fn new(seed: u32) -> Self {
        Self { next: FIRST, seed: seed | 1 }
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        // xorshift: any spread will do.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 17;
        self.seed ^= self.seed << 5;
        let wait = self.next + self.next / 4 * (self.seed % 256) / 256;
        self.next = (self.next * 2).min(LONGEST);
        wait
    }

    /// Something worked: start again.
    pub fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_half_a_minute_and_start_again_after_success() {
        let mut backoff = Backoff::new(7);
        let waits: Vec<u64> = (0..7).map(|_| backoff.next_wait().as_secs()).collect();
        for (wait, base) in waits.iter().zip([1, 2, 4, 8, 16, 30, 30]) {
            assert!((base..=base + base / 4 + 1).contains(wait), "{waits:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() < Duration::from_millis(1300));
    }
}
