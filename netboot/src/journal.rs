//! The boot journal: one line per step of a machine's way, and who that machine is.
//!
//! Drivers report what they saw with what they know of the machine (a MAC here, a UUID or only an address
//! there). The [`Journal`] keeps the last events and fills in the rest from what earlier events told, so that
//! "why is this machine waiting" has one answer whichever part noticed.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Mac;

mod step;

pub use step::Step;

/// Where drivers send what they saw.
pub type Sink = Arc<dyn Fn(Event) + Send + Sync>;

/// How many machines each correlation table remembers: beyond any site one appliance serves, and about
/// 1 MB for all tables together. The entry that was confirmed longest ago goes first.
pub const CORRELATED_MAX: usize = 4096;

/// One step of one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The machine's boot interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The machine's SMBIOS UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// The address it spoke from, or asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// What happened.
    #[serde(flatten)]
    pub step: Step,
}

impl Event {
    /// A step of a machine of which nothing is known yet.
    #[must_use]
    pub const fn new(at_ms: u64, step: Step) -> Self {
        Self { at_ms, mac: None, uuid: None, address: None, step }
    }

    /// The same with the MAC, when there is one.
    #[must_use]
    pub fn with_mac(mut self, mac: impl Into<Option<Mac>>) -> Self {
        self.mac = mac.into();
        self
    }

    /// The same with the UUID, when there is one.
    #[must_use]
    pub fn with_uuid(mut self, uuid: impl Into<Option<Uuid>>) -> Self {
        self.uuid = uuid.into();
        self
    }

    /// The same with the address, when there is one.
    #[must_use]
    pub fn with_address(mut self, address: impl Into<Option<IpAddr>>) -> Self {
        self.address = address.into();
        self
    }
}

/// One calm line, without the time: who, then what.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.mac, self.uuid, self.address) {
            (Some(mac), ..) => write!(f, "{mac} {}", self.step),
            (None, Some(uuid), _) => write!(f, "{uuid} {}", self.step),
            (None, None, Some(address)) => write!(f, "{address} {}", self.step),
            (None, None, None) => write!(f, "{}", self.step),
        }
    }
}

/// The last events, numbered, with what they told about who is who.
#[derive(Debug)]
pub struct Journal {
    capacity: usize,
    next_seq: u64,
    events: VecDeque<(u64, Event)>,
    mac_of_address: Memory<IpAddr, Mac>,
    uuid_of_address: Memory<IpAddr, Uuid>,
    uuid_of_mac: Memory<Mac, Uuid>,
    mac_of_uuid: Memory<Uuid, Mac>,
}

impl Journal {
    /// A journal that keeps the last `capacity` events (at least one).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            next_seq: 1,
            events: VecDeque::new(),
            mac_of_address: Memory::default(),
            uuid_of_address: Memory::default(),
            uuid_of_mac: Memory::default(),
            mac_of_uuid: Memory::default(),
        }
    }

    /// Keeps the event, completed with what is known of its machine, and numbers it (from 1, without gaps).
    pub fn record(&mut self, event: Event) -> (u64, Event) {
        let event = self.complete(event);
        self.learn(&event);
        let seq = self.next_seq;
        self.next_seq += 1;
        if self.events.len() == self.capacity {
            self.events.pop_front();
        }
        self.events.push_back((seq, event.clone()));
        (seq, event)
    }

    /// The kept events after number `seq`, oldest first; 0 means all.
    pub fn since(&self, seq: u64) -> impl Iterator<Item = &(u64, Event)> {
        let from = self.events.partition_point(|(at, _)| *at <= seq);
        self.events.range(from..)
    }

    /// The number of the last event; 0 before the first.
    #[must_use]
    pub const fn last_seq(&self) -> u64 {
        self.next_seq - 1
    }

    /// How many events are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether nothing has been recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    fn complete(&self, mut event: Event) -> Event {
        if event.mac.is_none() {
            // The UUID first: it stays with the machine, an address can have moved on to another.
            event.mac = match (event.uuid, event.address) {
                (Some(uuid), _) => self.mac_of_uuid.recall(&uuid),
                (None, Some(address)) => self.mac_of_address.recall(&address),
                (None, None) => None,
            };
        }
        if event.uuid.is_none() {
            event.uuid = match (event.mac, event.address) {
                (Some(mac), _) => self.uuid_of_mac.recall(&mac),
                (None, Some(address)) => self.uuid_of_address.recall(&address),
                (None, None) => None,
            };
        }
        event
    }

    fn learn(&mut self, event: &Event) {
        let address = event.address.filter(|address| !address.is_unspecified() && !address.is_loopback());
        if let (Some(address), Some(mac)) = (address, event.mac) {
            // The address went to another machine: what the old one was called does not hold for it.
            if self.mac_of_address.recall(&address) != Some(mac) && event.uuid.is_none() {
                self.uuid_of_address.forget(&address);
            }
            self.mac_of_address.learn(address, mac);
        }
        if let (Some(address), Some(uuid)) = (address, event.uuid) {
            if event.mac.is_none() && self.uuid_of_address.recall(&address) != Some(uuid) {
                self.mac_of_address.forget(&address);
            }
            self.uuid_of_address.learn(address, uuid);
        }
        if let (Some(mac), Some(uuid)) = (event.mac, event.uuid) {
            self.uuid_of_mac.learn(mac, uuid);
            self.mac_of_uuid.learn(uuid, mac);
        }
    }
}

/// A map that forgets the entry learnt longest ago when it is full.
#[derive(Debug)]
struct Memory<K, V> {
    known: BTreeMap<K, (u64, V)>,
    by_age: BTreeMap<u64, K>,
    clock: u64,
}

impl<K, V> Default for Memory<K, V> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), by_age: BTreeMap::new(), clock: 0 }
    }
}

impl<K: Ord + Copy, V: Copy> Memory<K, V> {
    fn recall(&self, key: &K) -> Option<V> {
        self.known.get(key).map(|(_, value)| *value)
    }

    fn learn(&mut self, key: K, value: V) {
        self.clock += 1;
        if let Some((age, _)) = self.known.insert(key, (self.clock, value)) {
            self.by_age.remove(&age);
        }
        self.by_age.insert(self.clock, key);
        if self.known.len() > CORRELATED_MAX
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.known.remove(&oldest);
        }
    }

    fn forget(&mut self, key: &K) {
        if let Some((age, _)) = self.known.remove(key) {
            self.by_age.remove(&age);
        }
    }
}

#[cfg(test)]
mod tests;
