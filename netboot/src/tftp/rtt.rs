//! How long to wait for an answer: a round-trip estimate after RFC 6298, with backoff.

use std::time::Duration;

/// The wait before anything was measured. Below iPXE's and EDK2's own first retry (0.25 s and 1 s) it would
/// only double their packets; much above, one lost packet at the start costs a visible pause.
pub(super) const INITIAL_RTO: Duration = Duration::from_millis(400);
/// Firmware polls its card from a timer of some 10 ms and is busy for tens of ms now and then; a wait
/// below that would send windows twice on a clean link.
pub(super) const MIN_RTO: Duration = Duration::from_millis(60);
/// Where doubling ends: often enough that a link coming back is noticed within seconds.
pub(super) const MAX_RTO: Duration = Duration::from_secs(4);

/// The estimate of one transfer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    /// How often the wait has been doubled since the last measurement.
    doublings: u32,
    cap: Duration,
}

impl Rtt {
    /// `cap` bounds every wait, for a client that negotiated its own `timeout`.
    pub(super) fn new(cap: Option<Duration>) -> Self {
        let cap = cap.unwrap_or(MAX_RTO).clamp(MIN_RTO, MAX_RTO);
        Self { smoothed: None, variation: Duration::ZERO, doublings: 0, cap }
    }

    /// The wait for the next answer.
    pub(super) fn timeout(&self) -> Duration {
        let base = match self.smoothed {
            None => INITIAL_RTO,
            Some(smoothed) => (smoothed + 4 * self.variation).max(MIN_RTO),
        };
        base.saturating_mul(1 << self.doublings.min(8)).min(self.cap)
    }

    /// An answer came `sample` after what it answers, which was sent once only (Karn's rule is the caller's).
    pub(super) fn measured(&mut self, sample: Duration) {
        match self.smoothed {
            None => {
                self.smoothed = Some(sample);
                self.variation = sample / 2;
            }
            Some(smoothed) => {
                self.variation = (3 * self.variation + smoothed.abs_diff(sample)) / 4;
                self.smoothed = Some((7 * smoothed + sample) / 8);
            }
        }
        self.doublings = 0;
    }

    /// No answer came in time.
    pub(super) fn expired(&mut self) {
        self.doublings = self.doublings.saturating_add(1);
    }

    /// An answer came, but to something sent more than once: good for nothing but an end of the backoff.
    pub(super) fn ambiguous(&mut self) {
        self.doublings = self.doublings.min(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_fast_link_waits_the_least() {
        let mut rtt = Rtt::new(None);
        assert_eq!(rtt.timeout(), INITIAL_RTO);
        for _ in 0..20 {
            rtt.measured(Duration::from_micros(100));
        }
        assert_eq!(rtt.timeout(), MIN_RTO);
    }

    #[test]
    fn a_slow_link_is_waited_for() {
        let mut rtt = Rtt::new(None);
        for _ in 0..50 {
            rtt.measured(ms(500));
        }
        assert!(rtt.timeout() >= ms(500) && rtt.timeout() < ms(600), "{:?}", rtt.timeout());
    }

    #[test]
    fn silence_doubles_the_wait_up_to_the_cap() {
        let mut rtt = Rtt::new(None);
        rtt.measured(ms(100));
        let first = rtt.timeout();
        rtt.expired();
        assert_eq!(rtt.timeout(), first * 2);
        for _ in 0..100 {
            rtt.expired();
        }
        assert_eq!(rtt.timeout(), MAX_RTO);
        rtt.measured(ms(100));
        assert!(rtt.timeout() <= first);
    }

    #[test]
    fn a_negotiated_timeout_is_the_cap() {
        let mut rtt = Rtt::new(Some(Duration::from_secs(1)));
        for _ in 0..10 {
            rtt.expired();
        }
        assert_eq!(rtt.timeout(), Duration::from_secs(1));
    }
}
