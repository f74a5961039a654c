//! How long to wait before trying again.

use std::time::Duration;

use tokio::time::Instant;

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

/// How long a machine is refused before it starts anew. The appliance gives the join configuration to a boot
/// that it saw begin less than ten minutes ago, so after a while only another boot helps; and a machine that was
/// rejected meanwhile boots from its disk then. Not less, since each boot fetches the agent again.
pub const REFUSED_LIMIT: Duration = Duration::from_secs(15 * 60);

/// How long nothing but refusals came.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    since: Option<Instant>,
}

impl Refusals {
    /// Takes note of an attempt. Says whether it is time to give up; the count begins again then, so that
    /// whoever cannot give up is asked again after the same time.
    pub fn saw(&mut self, now: Instant, refused: bool) -> bool {
        if !refused {
            // No answer is no refusal: the appliance may just be away.
            self.since = None;
            return false;
        }
        let over = now.duration_since(*self.since.get_or_insert(now)) >= REFUSED_LIMIT;
        if over {
            self.since = None;
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refusals_without_a_break_count() {
        let start = Instant::now();
        let at = |minutes: u64| start + Duration::from_secs(minutes * 60);
        let mut refusals = Refusals::default();
        assert!(!refusals.saw(at(0), true));
        assert!(!refusals.saw(at(14), true));
        assert!(!refusals.saw(at(14), false));
        assert!(!refusals.saw(at(15), true));
        assert!(!refusals.saw(at(29), true));
        assert!(refusals.saw(at(30), true));
        assert!(!refusals.saw(at(31), true), "and again after the same time");
        assert!(refusals.saw(at(46), true));
    }

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
