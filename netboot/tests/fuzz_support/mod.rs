//! What all fuzz tests share: a budget, seeded mutations, and the corpus of netboot and its drivers.

use std::path::Path;
use std::time::{Duration, Instant};

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// How many inputs are tried; 200 000 unless `FUZZ_ITERATIONS` tells.
pub(crate) fn iterations() -> u64 {
    setting("FUZZ_ITERATIONS").unwrap_or(200_000)
}

/// How long a target runs: `FUZZ_SECONDS`, or else `FUZZ_ITERATIONS`.
pub(crate) struct Budget {
    target: &'static str,
    start: Instant,
    seconds: Option<Duration>,
    iterations: u64,
    done: u64,
}

impl Budget {
    pub(crate) fn of(target: &'static str) -> Self {
        Self {
            target,
            start: Instant::now(),
            seconds: setting("FUZZ_SECONDS").map(Duration::from_secs),
            iterations: iterations(),
            done: 0,
        }
    }

    /// Whether to go on; counts.
    pub(crate) fn next(&mut self) -> bool {
        let more = match self.seconds {
            // The clock is dearer than a packet.
            Some(seconds) => !self.done.is_multiple_of(1_024) || self.start.elapsed() < seconds,
            None => self.done < self.iterations,
        };
        self.done += u64::from(more);
        more
    }

    pub(crate) fn done(&self) -> u64 {
        self.done
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        let (target, done, took) = (self.target, self.done, self.start.elapsed());
        println!("fuzz {target}: {done} executions in {:.0} s", took.as_secs_f64());
    }
}

/// Every file of a folder below `netboot/tests/corpus`, which holds captures; a failure leaves the folder's name.
pub(crate) fn corpus(target: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = if root.ends_with("link") { root.parent().expect("it lies in netboot") } else { root };
    let folder = root.join("tests/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.expect("a readable folder").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    paths.iter().map(|path| std::fs::read(path).expect("a readable file")).collect()
}

/// splitmix64: small, seeded (`FUZZ_SEED`), good enough to choose mutations.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(stream: u64) -> Self {
        Self(setting("FUZZ_SEED").unwrap_or(0x0b00_71ac_e000).wrapping_add(stream))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).expect("below a usize")
    }

    pub(crate) fn byte(&mut self) -> u8 {
        const TELLING: [u8; 12] = [0, 1, 2, 3, 4, 5, 16, 17, 127, 128, 254, 255];
        match self.below(3) {
            0 => TELLING[self.below(TELLING.len())],
            _ => (self.next() >> 32) as u8,
        }
    }

    pub(crate) fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

/// A packet of the corpus with some changes.
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
