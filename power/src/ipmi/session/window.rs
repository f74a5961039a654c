//! Which of the BMC's sequence numbers came already.

/// How far behind the newest answer another one may come.
const REPLAY_WINDOW: u32 = 32;

/// The newest sequence number, and which of those before it came: bit 0 is the newest.
#[derive(Debug, Default)]
pub(super) struct Window {
    newest: u32,
    seen: u32,
}

impl Window {
    /// Takes note of a sequence number; false when it was there before or is too old to say.
    pub(super) fn is_new(&mut self, sequence: u32) -> bool {
        if sequence > self.newest {
            let ahead = sequence - self.newest;
            self.seen = if ahead < REPLAY_WINDOW { self.seen << ahead | 1 } else { 1 };
            self.newest = sequence;
            return true;
        }
        let behind = self.newest - sequence;
        if sequence == 0 || behind >= REPLAY_WINDOW || self.seen & (1 << behind) != 0 {
            return false;
        }
        self.seen |= 1 << behind;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_may_come_late_but_not_twice() {
        let mut window = Window::default();
        for (sequence, new) in [
            (0, false),
            (1, true),
            (1, false),
            (5, true),
            (3, true),
            (3, false),
            (40, true),
            (8, false),
            (9, true),
        ] {
            assert_eq!(window.is_new(sequence), new, "{sequence}");
        }
        assert!(window.is_new(u32::MAX) && !window.is_new(40));
    }
}
