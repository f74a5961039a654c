//! What was told a moment ago.
//!
//! Firmware that is not heard asks again after seconds, iPXE for its script too. Whoever asks the same many times a second (a broken card, a
//! flood) would push everybody else's events out of the journal: its questions are told once.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use netboot::journal::{Event, Step};

/// How long something counts as just told: at least so long, at most twice.
const WINDOW_MS: u64 = 1000;
/// Remembered in a window; what does not fit is told again.
const REMEMBERED_MAX: usize = 8192;

/// See the module.
#[derive(Default)]
pub(super) struct Repeats {
    window: u64,
    now: HashSet<u64>,
    before: HashSet<u64>,
    hasher: RandomState,
}

impl Repeats {
    /// Whether the same question or answer of the same machine was told just now. Other events are always new.
    pub(super) fn has(&mut self, event: &Event) -> bool {
        let Some(hash) = self.hash(event) else { return false };
        let window = event.at_ms / WINDOW_MS;
        if window != self.window {
            self.before = std::mem::take(&mut self.now);
            // Longer ago than the last window, or the clock was set.
            if window != self.window + 1 {
                self.before.clear();
            }
            self.window = window;
        }
        if self.now.contains(&hash) || self.before.contains(&hash) {
            return true;
        }
        if self.now.len() < REMEMBERED_MAX {
            self.now.insert(hash);
        }
        false
    }

    fn hash(&self, event: &Event) -> Option<u64> {
        let who = (event.mac, event.uuid, event.address);
        match &event.step {
            Step::DhcpDiscover { firmware } => Some(self.hasher.hash_one((who, 1, firmware))),
            Step::DhcpOffer { file, port } => Some(self.hasher.hash_one((who, 2, file, port))),
            Step::DhcpIgnored { reason } => Some(self.hasher.hash_one((who, 3, reason))),
            Step::ScriptServed { mode, reason } => Some(self.hasher.hash_one((who, 4, mode, reason))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netboot::Mac;

    fn ignored(at_ms: u64, mac: u8) -> Event {
        let step = Step::DhcpIgnored { reason: "no file".into() };
        Event::new(at_ms, step).with_mac(Mac([2, 0, 0, 0, 0, mac]))
    }

    #[test]
    fn a_question_is_told_once_in_a_window_and_again_after_two() {
        let mut repeats = Repeats::default();
        assert!(!repeats.has(&ignored(5_000, 1)));
        assert!(repeats.has(&ignored(5_001, 1)));
        assert!(repeats.has(&ignored(6_500, 1)));
        assert!(!repeats.has(&ignored(7_000, 1)));
        assert!(!repeats.has(&ignored(60_000, 1)));
    }

    #[test]
    fn machines_and_steps_are_told_apart_and_other_steps_are_always_told() {
        let mut repeats = Repeats::default();
        assert!(!repeats.has(&ignored(0, 1)) && !repeats.has(&ignored(0, 2)));
        let offer = Event { step: Step::DhcpOffer { file: "a".into(), port: 67 }, ..ignored(0, 1) };
        assert!(!repeats.has(&offer) && repeats.has(&offer));
        assert!(
            !repeats.has(&Event { step: Step::DhcpOffer { file: "a".into(), port: 4011 }, ..offer.clone() })
        );
        let pending = Event { step: Step::Pending, ..offer };
        assert!(!repeats.has(&pending) && !repeats.has(&pending));
    }

    #[test]
    fn a_flood_of_machines_is_not_remembered_without_end() {
        let mut repeats = Repeats::default();
        for number in 0..20_000_u32 {
            let [_, a, b, c] = number.to_be_bytes();
            repeats.has(&ignored(1, 1).with_mac(Mac([2, 0, 0, a, b, c])));
        }
        assert_eq!(repeats.now.len(), REMEMBERED_MAX);
    }
}
