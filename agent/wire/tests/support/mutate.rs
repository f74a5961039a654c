//! Seeded mutations of well-formed input, for fuzz tests.
//!
//! The same input in every run: `FUZZ_ITERATIONS` and `FUZZ_SEED` choose others.

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// How many inputs are tried; 200 000 unless told.
pub(crate) fn iterations() -> u64 {
    setting("FUZZ_ITERATIONS", 200_000)
}

/// splitmix64: small, seeded, good enough to choose mutations.
pub(crate) struct Random(u64);

impl Random {
    /// Each stream has numbers of its own.
    pub(crate) fn new(stream: u64) -> Self {
        Self(setting("FUZZ_SEED", 0x0b00_71ac_e000).wrapping_add(stream))
    }

    /// Any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below the limit, or 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).expect("below a usize")
    }

    /// Any byte, telling ones more often.
    pub(crate) fn byte(&mut self) -> u8 {
        const TELLING: [u8; 12] = [0, 1, 2, 3, 4, 5, 16, 17, 127, 128, 254, 255];
        match self.below(3) {
            0 => TELLING[self.below(TELLING.len())],
            _ => (self.next() >> 32) as u8,
        }
    }

    /// True once in so many times.
    pub(crate) fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

/// An input of the corpus with some changes.
pub(crate) fn mutated(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].clone();
    for _ in 0..random.below(6) {
        let at = random.below(bytes.len());
        let until = at + random.below((bytes.len() - at).min(40) + 1);
        match random.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.byte(),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.byte()),
            4 => drop(bytes.drain(at..until)),
            5 => {
                let part = bytes[at..until].to_vec();
                bytes.splice(at..at, part);
            }
            6 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let tail = random.below(300);
                bytes.extend((0..tail).map(|_| random.byte()));
            }
        }
    }
    bytes
}
