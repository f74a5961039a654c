//! Free addresses: those that were found silent, and those that were just offered.
//!
//! ```text
//! never asked ─ ARP probe ─► silent for 0.4 s ─► ready ─ offered ─► held for a machine ─ REQUEST ─► leased
//!                  │ answer: taken, for a while             ▲             │ 30 s without one
//!                  ▼                                        └─────────────┘
//! ```
//! Addresses are probed ahead, so that an offer waits for nothing and a flood of DISCOVERs causes no probes. An
//! offer takes an address out of the ready ones and holds it for its machine. When none is ready, the longest-held
//! one is offered once more: a flood then costs nobody an address, since only a REQUEST takes it, and of two real
//! machines with the same offer one is refused and asks again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::limiter::Bucket;
use crate::{Mac, Time};

/// Addresses that wait for a client: a rack or two that are switched on together are served at once.
const READY_TARGET: usize = 256;
/// How long a probed address counts as silent; afterwards it is probed again before it is offered.
const FRESH_FOR: Duration = Duration::from_secs(600);
/// How long answers to a probe are waited for; twice, since one may be lost.
const PROBE_WAIT: Duration = Duration::from_millis(200);
/// Probes for one address.
const PROBES: u8 = 2;
/// Probes in a second: 50 kB/s of broadcasts at most.
const PROBE_RATE: u32 = 512;
/// Probes at once.
const PROBE_BURST: u32 = 256;
/// How long an address is held for who was offered it. EDK2 collects offers for 3.5 s.
const HOLD_FOR: Duration = Duration::from_secs(30);
/// How long an address that somebody answered for is left alone.
const TAKEN_FOR: Duration = Duration::from_secs(600);
/// Addresses looked at for one that can be probed, each time: bounds the work when most are leased.
const SEARCH_STEPS: usize = 512;
/// The pause before the next search when one found nothing, or no probe may be sent.
const SEARCH_PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
struct Probe {
    address: Ipv4Addr,
    sent: u8,
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    address: Ipv4Addr,
    /// When it was found silent.
    found: Time,
    until: Time,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pool {
    ranges: Vec<RangeInclusive<Ipv4Addr>>,
    size: usize,
    /// The next address to look at, counted through all ranges.
    next: usize,
    /// When each probe is over, in that order.
    probes: VecDeque<(Time, Probe)>,
    ready: VecDeque<(Ipv4Addr, Time)>,
    holds: BTreeMap<Mac, Hold>,
    /// Whose holds end first.
    hold_order: VecDeque<(Time, Mac)>,
    /// Addresses that are probed, ready or held.
    busy: BTreeSet<Ipv4Addr>,
    /// Addresses that somebody uses: who, and until when we believe it.
    taken: BTreeMap<Ipv4Addr, (Mac, Time)>,
    bucket: Bucket,
    search_at: Time,
}

impl Pool {
    pub(super) fn new(now: Time, ranges: Vec<RangeInclusive<Ipv4Addr>>, seed: u64) -> Self {
        let size = ranges.iter().map(|range| (range.end().to_bits() - range.start().to_bits()) as usize + 1);
        let size = size.sum();
        Self {
            ranges,
            size,
            // Not all sites begin with the same address.
            next: if size == 0 { 0 } else { seed as usize % size },
            probes: VecDeque::new(),
            ready: VecDeque::new(),
            holds: BTreeMap::new(),
            hold_order: VecDeque::new(),
            busy: BTreeSet::new(),
            taken: BTreeMap::new(),
            bucket: Bucket::full(now, PROBE_BURST),
            search_at: now,
        }
    }

    /// An address for this machine: the one it was offered, the one it wants, the one that is ready longest.
    /// `free` says whether it can be given as far as leases go.
    pub(super) fn offer(
        &mut self,
        now: Time,
        mac: Mac,
        wanted: Option<Ipv4Addr>,
        free: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<Ipv4Addr> {
        if let Some(hold) = self.holds.get(&mac) {
            if free(hold.address) {
                return Some(hold.address);
            }
            self.drop_hold(mac);
        }
        let fresh = |(_, found): &(Ipv4Addr, Time)| now.since(*found) < FRESH_FOR;
        while let Some((address, _)) = self.ready.front().copied().filter(|ready| !fresh(ready)) {
            self.ready.pop_front();
            self.busy.remove(&address);
        }
        let place = wanted.and_then(|wanted| self.ready.iter().position(|(ready, _)| *ready == wanted));
        let mut found = self.ready.remove(place.unwrap_or(0));
        while found.is_some_and(|(address, _)| !free(address)) {
            found.map(|(address, _)| self.busy.remove(&address));
            found = self.ready.pop_front();
        }
        let (address, found) = match found {
            Some(found) => found,
            None => self.longest_held()?,
        };
        if !free(address) {
            self.busy.remove(&address);
            return None;
        }
        let until = now + HOLD_FOR;
        self.holds.insert(mac, Hold { address, found, until });
        self.hold_order.push_back((until, mac));
        Some(address)
    }

    /// Takes the address from who was offered it first.
    fn longest_held(&mut self) -> Option<(Ipv4Addr, Time)> {
        while let Some((until, mac)) = self.hold_order.pop_front() {
            if let Some(hold) = self.holds.get(&mac).copied().filter(|hold| hold.until == until) {
                self.holds.remove(&mac);
                return Some((hold.address, hold.found));
            }
        }
        None
    }

    fn drop_hold(&mut self, mac: Mac) {
        if let Some(hold) = self.holds.remove(&mac) {
            self.busy.remove(&hold.address);
        }
    }

    /// The address is leased now, or must not be given: it is in none of the lists any longer.
    pub(super) fn take_out(&mut self, address: Ipv4Addr) {
        if !self.busy.remove(&address) {
            return;
        }
        self.ready.retain(|(ready, _)| *ready != address);
        self.probes.retain(|(_, probe)| probe.address != address);
        let holder = self.holds.iter().find(|(_, hold)| hold.address == address).map(|(mac, _)| *mac);
        holder.and_then(|mac| self.holds.remove(&mac));
    }

    /// Who uses the address although we did not give it.
    pub(super) fn taken_by(&self, now: Time, address: Ipv4Addr) -> Option<Mac> {
        self.taken.get(&address).filter(|(_, until)| *until > now).map(|(mac, _)| *mac)
    }

    /// Somebody says to have the address; whether it stood to be given.
    pub(super) fn handle_arp(&mut self, now: Time, address: Ipv4Addr, mac: Mac) -> bool {
        let held_for = self.holds.get(&mac).is_some_and(|hold| hold.address == address);
        if held_for || !self.busy.contains(&address) {
            return false;
        }
        self.take_out(address);
        self.taken.insert(address, (mac, now + TAKEN_FOR));
        true
    }

    /// Ends holds and probes, and starts probes: `probe` is told which. `free` as in [`Pool::offer`].
    pub(super) fn handle_timeout(
        &mut self,
        now: Time,
        free: impl Fn(Ipv4Addr) -> bool,
        mut probe: impl FnMut(Ipv4Addr),
    ) {
        while let Some((until, mac)) = self.hold_order.front().copied() {
            if until > now {
                break;
            }
            self.hold_order.pop_front();
            if let Some(hold) = self.holds.get(&mac).copied().filter(|hold| hold.until == until) {
                self.holds.remove(&mac);
                self.ready.push_front((hold.address, hold.found));
            }
        }
        while let Some((due, mut asked)) = self.probes.front().copied() {
            if due > now {
                break;
            }
            self.probes.pop_front();
            if asked.sent < PROBES {
                asked.sent += 1;
                probe(asked.address);
                self.probes.push_back((now + PROBE_WAIT, asked));
            } else {
                self.ready.push_back((asked.address, now));
            }
        }
        self.taken.retain(|_, (_, until)| *until > now);
        self.refill(now, free, probe);
    }

    fn refill(&mut self, now: Time, free: impl Fn(Ipv4Addr) -> bool, mut probe: impl FnMut(Ipv4Addr)) {
        if self.search_at > now {
            return;
        }
        let mut steps = SEARCH_STEPS.min(self.size);
        while self.ready.len() + self.probes.len() < READY_TARGET.min(self.size) {
            if steps == 0 {
                self.search_at = now + SEARCH_PAUSE;
                return;
            }
            steps -= 1;
            let address = self.address(self.next);
            self.next = (self.next + 1) % self.size;
            let unusable = self.busy.contains(&address) || self.taken.contains_key(&address);
            if unusable || !free(address) {
                continue;
            }
            if !self.bucket.take(now, PROBE_RATE, PROBE_BURST) {
                self.search_at = now + PROBE_WAIT;
                return;
            }
            self.busy.insert(address);
            probe(address);
            self.probes.push_back((now + PROBE_WAIT, Probe { address, sent: 1 }));
        }
    }

    fn address(&self, mut index: usize) -> Ipv4Addr {
        for range in &self.ranges {
            let size = (range.end().to_bits() - range.start().to_bits()) as usize + 1;
            if index < size {
                return Ipv4Addr::from_bits(range.start().to_bits() + index as u32);
            }
            index -= size;
        }
        Ipv4Addr::UNSPECIFIED
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let wants_more = self.ready.len() + self.probes.len() < READY_TARGET.min(self.size);
        let search = wants_more.then_some(self.search_at);
        let probe = self.probes.front().map(|(due, _)| *due);
        let hold = self.hold_order.front().map(|(until, _)| *until);
        [search, probe, hold].into_iter().flatten().min()
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 5] {
        [self.ready.len(), self.holds.len(), self.hold_order.len(), self.busy.len(), self.taken.len()]
    }
}
