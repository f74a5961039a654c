//! Chance that comes again: a test that fails prints its seed.

/// SplitMix64: small, and good enough to choose victims.
#[derive(Debug, Clone)]
pub struct Seed(u64);

impl Seed {
    /// The sequence of this number.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The sequence of the number in this environment variable, or of `default`; printed, so that a failure can be
    /// had again.
    pub fn of_environment(variable: &str, default: u64) -> Self {
        let seed = std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
        println!("{variable}={seed}");
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 when that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.draw() % end).unwrap_or_default()
    }

    /// Holds once in `n` draws.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A sequence of its own, so that who draws more often does not change what others draw.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.draw())
    }
}

#[cfg(test)]
mod tests {
    use super::Seed;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let draw = |seed| {
            let mut seed = Seed::new(seed);
            (0..8).map(|_| seed.draw()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn a_draw_stays_below_its_end() {
        let mut seed = Seed::new(1);
        assert!((0..1000).all(|_| seed.below(3) < 3));
        assert_eq!(seed.below(0), 0);
    }
}
