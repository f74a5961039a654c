//! How often is answered: each client, and all together. Everything here has a fixed size.
//!
//! A flood from random addresses cannot be told from machines that are switched on together, but a machine that
//! got no answer asks again and a random address does not. So what goes beyond the common limit is remembered
//! for some seconds, and who asks again is answered out of a part of its own.

use std::time::Duration;

use crate::{Mac, Time};

/// Answers that one client can get at once: a boot takes four to eight of them, in a few seconds.
const CLIENT_BURST: u32 = 64;
/// Answers that one client can get in a second, in the long run.
const CLIENT_RATE: u32 = 32;
/// Answers to all in a second: a third more than one core gives (150,000), so that nobody is turned away as long as
/// the core keeps up. Beyond that packets would only wait.
pub(super) const COMMON_RATE: u32 = 200_000;
/// Answers in a second to those who ask again while the common part is used up.
const PATIENT_RATE: u32 = 40_000;
/// Clients whose rate is known, in a table of fixed size (24 bytes each). Two that fall on one place put each
/// other out, which gives them more than their rate and costs nobody else anything.
const CLIENTS: usize = 2_048;
/// Bits of each half of the memory of those who were turned away: 256 KiB together, taken only under a flood.
/// 100,000 strangers a second beyond the common part fill a third of it before it is renewed.
const MEMORY_BITS: usize = 1 << 20;
/// How long one half is written before it becomes the other: a turned-away client is remembered for two to four
/// seconds, longer than firmware waits before it asks again.
const MEMORY_HALF: Duration = Duration::from_secs(2);

/// Tokens that come back with time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// In millionths, so that a microsecond gives back a whole number of them.
    tokens: u64,
    filled: Time,
}

impl Bucket {
    pub(super) const fn full(now: Time, burst: u32) -> Self {
        Self { tokens: burst as u64 * 1_000_000, filled: now }
    }

    /// Takes one token of a bucket that holds `burst` and gets `rate` in a second.
    pub(super) fn take(&mut self, now: Time, rate: u32, burst: u32) -> bool {
        let passed = u64::try_from(now.since(self.filled).as_micros()).unwrap_or(u64::MAX);
        self.filled = now.max(self.filled);
        let most = u64::from(burst) * 1_000_000;
        self.tokens = self.tokens.saturating_add(passed.saturating_mul(rate.into())).min(most);
        let has = self.tokens >= 1_000_000;
        if has {
            self.tokens -= 1_000_000;
        }
        has
    }
}

#[derive(Clone, Copy, Debug)]
struct Client {
    mac: Mac,
    bucket: Bucket,
}

/// Who was turned away lately: two Bloom filters that take turns.
#[derive(Debug)]
struct Memory {
    halves: [Vec<u64>; 2],
    since: Time,
}

impl Memory {
    fn new(now: Time) -> Self {
        Self { halves: [vec![0; MEMORY_BITS / 64], vec![0; MEMORY_BITS / 64]], since: now }
    }

    fn turn(&mut self, now: Time) {
        if now.since(self.since) >= MEMORY_HALF {
            self.since = now;
            self.halves.swap(0, 1);
            self.halves[0].fill(0);
        }
    }

    /// Whether it was there; it is there now.
    fn insert(&mut self, hash: u64) -> bool {
        let places = [hash as usize % MEMORY_BITS, (hash >> 32) as usize % MEMORY_BITS];
        let has = |half: &[u64]| places.iter().all(|place| half[place / 64] & (1 << (place % 64)) != 0);
        let known = self.halves.iter().any(|half| has(half));
        for place in places {
            self.halves[0][place / 64] |= 1 << (place % 64);
        }
        known
    }
}

/// Admits or turns away.
#[derive(Debug)]
pub(super) struct Limiter {
    seed: u64,
    clients: Vec<Option<Client>>,
    common: Bucket,
    patient: Bucket,
    memory: Option<Memory>,
}

impl Limiter {
    pub(super) fn new(now: Time, seed: u64) -> Self {
        Self {
            seed,
            clients: vec![None; CLIENTS],
            common: Bucket::full(now, COMMON_RATE),
            patient: Bucket::full(now, PATIENT_RATE),
            memory: None,
        }
    }

    /// Whether this client is answered now.
    pub(super) fn admits(&mut self, now: Time, mac: Mac) -> bool {
        let hash = self.hash(mac);
        let slot = &mut self.clients[hash as usize % CLIENTS];
        let client = match slot {
            Some(client) if client.mac == mac => client,
            _ => slot.insert(Client { mac, bucket: Bucket::full(now, CLIENT_BURST) }),
        };
        if !client.bucket.take(now, CLIENT_RATE, CLIENT_BURST) {
            return false;
        }
        if self.common.take(now, COMMON_RATE, COMMON_RATE) {
            // Calm again: the memory is given back.
            if self.memory.as_ref().is_some_and(|memory| now.since(memory.since) > 4 * MEMORY_HALF) {
                self.memory = None;
            }
            return true;
        }
        let memory = self.memory.get_or_insert_with(|| Memory::new(now));
        memory.turn(now);
        memory.insert(hash) && self.patient.take(now, PATIENT_RATE, PATIENT_RATE)
    }

    /// Seeded, so that nobody outside can choose addresses that fall on one place.
    fn hash(&self, mac: Mac) -> u64 {
        let [a, b, c, d, e, f] = mac.0;
        mix(u64::from_be_bytes([0, 0, a, b, c, d, e, f]) ^ self.seed)
    }
}

/// The finish of splitmix64: every bit of the number counts for every bit of the result.
pub(super) const fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(number: u64) -> Mac {
        let [.., a, b, c, d] = number.to_be_bytes();
        Mac([2, 0, a, b, c, d])
    }

    #[test]
    fn one_client_gets_its_burst_and_then_its_rate() {
        let mut limiter = Limiter::new(Time::ZERO, 1);
        let admitted = (0..1_000).filter(|_| limiter.admits(Time::ZERO, mac(1))).count();
        assert_eq!(admitted, CLIENT_BURST as usize);
        assert!(limiter.admits(Time::ZERO, mac(2)), "others are not touched");
        let second = Time::from_millis(1_000);
        let admitted = (0..1_000).filter(|_| limiter.admits(second, mac(1))).count();
        assert_eq!(admitted, CLIENT_RATE as usize);
    }

    /// Half as many strangers again as the common rate, for 6 seconds; from the third on one client asks each second.
    #[test]
    fn a_client_that_asks_again_gets_through_a_flood() {
        const FLOOD: u64 = COMMON_RATE as u64 * 3 / 2;
        let mut limiter = Limiter::new(Time::ZERO, 7);
        let real = mac(0xffff_ffff);
        let mut answered = Vec::new();
        for tick in 0..6 * FLOOD {
            let now = Time::from_micros(tick * 1_000_000 / FLOOD);
            limiter.admits(now, mac(tick));
            if tick >= 3 * FLOOD && tick % FLOOD == FLOOD / 2 && limiter.admits(now, real) {
                answered.push(now);
            }
        }
        assert!(limiter.memory.is_some(), "a flood indeed");
        let limit = Time::from_millis(3_500 + 2_000);
        assert!(answered.first().is_some_and(|first| *first <= limit), "{answered:?}");
        let size = limiter.memory.as_ref().map(|memory| memory.halves.iter().map(Vec::len).sum::<usize>());
        assert_eq!((limiter.clients.len(), size), (CLIENTS, Some(2 * MEMORY_BITS / 64)), "of fixed size");
        // Calm: the memory is given back.
        for millis in (7_000..40_000).step_by(100) {
            limiter.admits(Time::from_millis(millis), real);
        }
        assert!(limiter.memory.is_none());
    }
}
