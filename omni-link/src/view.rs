//! The local view: every resource that a decision needs, as last seen.
//!
//! Each kind is watched by a task of its own ([`run`]). A broken watch makes the view stale
//! ([`View::fresh`]) until it goes on where it was or has been read anew as a whole; what was known stays
//! readable meanwhile, so boots go on. With a [`Disk`] that holds over a restart, too.
//!
//! What we want stored is in the view from the moment that it is wanted, so that no act is decided upon
//! twice while its record is on the way.

mod parts;
mod saved;
mod watching;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use cosi::Resource;
use tokio::sync::{Notify, watch};

pub use parts::{Entry, Machine, Part};
pub use watching::run;

use crate::disk::{Disk, DiskError};
use crate::happening::{Happening, Observer};
use crate::health::Board;
use crate::outbox::Outbox;
use parts::How;

/// More machines than one appliance can serve are not taken in.
pub const MACHINES_MAX: usize = 8192;
/// Omni's own store takes no larger resource; ours are some hundred bytes.
pub const RESOURCE_MAX: usize = 3 << 19;
/// Omni's ids are UUIDs, and names that people type.
const ID_MAX: usize = 256;
/// A restart or a break of the link this short changes nothing.
pub const GRACE: Duration = Duration::from_secs(30);

/// See the module.
pub struct View {
    provider_id: String,
    inner: RwLock<Inner>,
    generation: watch::Sender<u64>,
    appeared: watch::Sender<u64>,
    observer: Observer,
    disk: Option<Arc<Disk>>,
    grace: Duration,
    outbox: Outbox,
    board: Board,
}

/// How a view is kept over restarts.
#[derive(Debug, Clone)]
pub struct ViewOptions {
    /// Its file.
    pub disk: Arc<Disk>,
    /// Names the Omni, as its URL does: the view of another one is dropped.
    pub origin: String,
    /// See [`View::away`]; [`GRACE`] unless there is a reason.
    pub grace: Duration,
}

/// Since when Omni's wishes are not known for sure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    /// The first watch broke then.
    pub since: SystemTime,
    /// The same on the clock that nobody sets.
    pub since_instant: tokio::time::Instant,
    /// Why, as of the last try.
    pub reason: String,
}

struct Inner {
    machines: BTreeMap<String, Slot>,
    join_config: Option<Resource>,
    /// Parts that are being watched and were read as a whole since the watch began.
    synced: BTreeSet<Part>,
    /// Whether the whole view was in sync once: from then on differences are news.
    complete: bool,
    stale: Option<Stale>,
    outage: Option<(SystemTime, SystemTime)>,
    generation: u64,
    /// What the disk does not have yet.
    unsaved: BTreeSet<(Part, String)>,
}

#[derive(Default)]
struct Slot {
    machine: Arc<Machine>,
    changed: Arc<Notify>,
}

impl View {
    /// An empty view.
    pub fn new(provider_id: &str, observer: Observer) -> Arc<Self> {
        Arc::new(Self::with(provider_id, observer))
    }

    /// The view as it was at the last end, with the writes that wait.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn open(provider_id: &str, observer: Observer, options: ViewOptions) -> Result<Arc<Self>, DiskError> {
        let ViewOptions { disk, origin, grace } = options;
        let loaded = disk.load_view(&origin)?;
        let outbox = Outbox::open(Arc::clone(&disk))?;
        let view = Self { disk: Some(disk), grace, outbox, ..Self::with(provider_id, observer) };
        for (part, resource) in &loaded {
            view.put(*part, &resource.metadata.id, Some(resource), How::Certain);
        }
        for (id, pending) in view.outbox.all() {
            view.put(pending.part, &id, Some(&pending.resource), How::Wanted);
        }
        view.write(|inner| {
            inner.unsaved.clear();
            // What differs from what was known is news, even if it happened while nobody looked.
            inner.complete = !loaded.is_empty();
        });
        Ok(Arc::new(view))
    }

    fn with(provider_id: &str, observer: Observer) -> Self {
        let stale = Stale {
            since: SystemTime::now(),
            since_instant: tokio::time::Instant::now(),
            reason: "Omni was not reached yet".to_owned(),
        };
        let inner = Inner {
            machines: BTreeMap::new(),
            join_config: None,
            synced: BTreeSet::new(),
            complete: false,
            stale: Some(stale),
            outage: None,
            generation: 0,
            unsaved: BTreeSet::new(),
        };
        Self {
            provider_id: provider_id.to_owned(),
            inner: RwLock::new(inner),
            generation: watch::Sender::new(0),
            appeared: watch::Sender::new(0),
            observer,
            disk: None,
            grace: GRACE,
            outbox: Outbox::default(),
            board: Board::default(),
        }
    }

    /// What is known of a machine.
    pub fn machine(&self, id: &str) -> Option<Arc<Machine>> {
        self.read(|inner| inner.machines.get(id).map(|slot| Arc::clone(&slot.machine)))
    }

    /// The machine configuration with the join token, for machines that may have it.
    pub fn join_config(&self) -> Option<String> {
        self.read(|inner| inner.join_config.as_ref().and_then(parts::join_config))
    }

    /// Whether every kind is watched and nothing was missed. A link that stalls shows late: before an act
    /// that cannot be undone Omni is asked.
    pub fn fresh(&self) -> bool {
        self.read(|inner| inner.stale.is_none())
    }

    /// Omni is out of reach for longer than a short break: what can go on without it does.
    pub fn away(&self) -> bool {
        self.read(|inner| {
            inner.stale.as_ref().is_some_and(|stale| stale.since_instant.elapsed() >= self.grace)
        })
    }

    /// Our writes that Omni does not have yet.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// What does not work.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// The whole of what an operator must know.
    pub fn health(&self) -> provider::Health {
        self.board.health(self)
    }

    /// Since when the view is not fresh.
    pub fn stale(&self) -> Option<Stale> {
        self.read(|inner| inner.stale.clone())
    }

    /// The last time that the view was not fresh after it was once: from, until.
    pub fn last_outage(&self) -> Option<(SystemTime, SystemTime)> {
        self.read(|inner| inner.outage)
    }

    /// The ids of all machines.
    pub fn ids(&self) -> Vec<String> {
        self.read(|inner| inner.machines.keys().cloned().collect())
    }

    /// Counts up at each change of anything.
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Counts up at each machine that was not there before.
    pub fn appeared(&self) -> watch::Receiver<u64> {
        self.appeared.subscribe()
    }

    /// Woken when something of this machine changes. For one waiter.
    pub fn changed(&self, id: &str) -> Option<Arc<Notify>> {
        self.read(|inner| inner.machines.get(id).map(|slot| Arc::clone(&slot.changed)))
    }

    /// Wakes the machine's task without a change.
    pub fn wake(&self, id: &str) {
        if let Some(changed) = self.changed(id) {
            changed.notify_one();
        }
    }

    /// Takes in a resource that Omni told of: from a watch, or in answer to an own write, so that the next
    /// decision sees it.
    pub fn apply(&self, part: Part, resource: &Resource) {
        self.put(part, &resource.metadata.id, Some(resource), How::Seen);
    }

    /// Takes in what we want stored; it waits to be sent.
    pub(crate) fn want(&self, part: Part, resource: &Resource) {
        self.put(part, &resource.metadata.id, Some(resource), How::Wanted);
    }

    /// Takes in what Omni answered when asked for just this; `None`: there is none.
    pub(crate) fn settle(&self, part: Part, id: &str, resource: Option<&Resource>) {
        self.put(part, id, resource, How::Certain);
    }

    fn read<T>(&self, read: impl FnOnce(&Inner) -> T) -> T {
        read(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, write: impl FnOnce(&mut Inner) -> T) -> T {
        write(&mut self.inner.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, part: Part, id: &str, resource: Option<&Resource>, how: How) {
        if id.len() > ID_MAX || resource.is_some_and(|resource| weight(resource) > RESOURCE_MAX) {
            tracing::warn!(?part, "passing over a resource that is too large");
            return;
        }
        let (news, more) = self.write(|inner| {
            inner.generation += 1;
            let before = inner.machines.len();
            if part == Part::JoinConfig {
                if id != self.provider_id {
                    return (None, false);
                }
                inner.join_config = resource.cloned();
            }
            if self.disk.is_some() {
                inner.unsaved.insert((part, id.to_owned()));
            }
            let news = inner.put_machine(part, id, resource, how);
            (news, inner.machines.len() > before)
        });
        for happening in news.into_iter().flatten() {
            (self.observer)(id, happening);
        }
        if more {
            self.appeared.send_modify(|appeared| *appeared += 1);
        }
        self.count_up();
    }

    fn set_synced(&self, part: Part) {
        self.write(|inner| {
            inner.synced.insert(part);
            if inner.synced.len() == Part::ALL.len() {
                if let Some(stale) = inner.stale.take() {
                    tracing::info!(machines = inner.machines.len(), "in sync with Omni");
                    if inner.complete {
                        inner.outage = Some((stale.since, SystemTime::now()));
                    }
                }
                inner.complete = true;
            }
            inner.wake_all();
        });
        self.count_up();
    }

    fn set_broken(&self, part: Part, reason: String) {
        self.write(|inner| {
            inner.synced.remove(&part);
            match &mut inner.stale {
                Some(stale) => stale.reason = reason,
                None => {
                    let since_instant = tokio::time::Instant::now();
                    inner.stale = Some(Stale { since: SystemTime::now(), since_instant, reason });
                }
            }
            inner.wake_all();
        });
        self.count_up();
    }

    /// Something changed that others may wait for.
    pub(crate) fn count_up(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    fn current_generation(&self) -> u64 {
        self.read(|inner| inner.generation)
    }

    /// Drops what a fresh listing did not contain. What waits to be sent need not be there yet.
    fn retain(&self, part: Part, seen: &BTreeSet<String>) {
        let gone: Vec<String> = self.read(|inner| {
            if part == Part::JoinConfig {
                let known = inner.join_config.as_ref().map(|resource| resource.metadata.id.clone());
                return known.into_iter().filter(|id| !seen.contains(id)).collect();
            }
            let known = |(id, slot): (&String, &Slot)| {
                let machine = &slot.machine;
                (machine.has(part) && !machine.pending(part) && !seen.contains(id)).then(|| id.clone())
            };
            inner.machines.iter().filter_map(known).collect()
        });
        for id in gone {
            self.put(part, &id, None, How::Certain);
        }
    }

    /// Omni's listing has an older version than we know, and we know ours since before the listing: Omni was
    /// restored from a backup.
    fn turned_back(&self, part: Part, resource: &Resource, listed_at: u64) -> bool {
        let Some(machine) = self.machine(&resource.metadata.id) else { return false };
        machine.before(part, listed_at)
            && !machine.pending(part)
            && machine.metadata(part).is_some_and(|known| {
                resource.metadata.version != known.version
                    && parts::is_older_or_same(&resource.metadata, known)
            })
    }
}

/// About what it takes in memory.
fn weight(resource: &Resource) -> usize {
    let metadata = &resource.metadata;
    let maps = metadata.labels.iter().chain(&metadata.annotations);
    let maps: usize = maps.map(|(key, value)| key.len() + value.len()).sum();
    let finalizers: usize = metadata.finalizers.iter().map(String::len).sum();
    resource.spec.proto.len() + maps + finalizers + metadata.owner.len()
}

impl Inner {
    fn put_machine(
        &mut self,
        part: Part,
        id: &str,
        resource: Option<&Resource>,
        how: How,
    ) -> Option<Vec<Happening>> {
        if part == Part::JoinConfig
            || (!self.machines.contains_key(id)
                && (resource.is_none() || self.machines.len() >= MACHINES_MAX))
        {
            return None;
        }
        let generation = self.generation;
        let slot = self.machines.entry(id.to_owned()).or_default();
        let mut machine = Machine::clone(&slot.machine);
        let set = machine.set(part, resource, how, generation);
        if let Err(error) = &set {
            tracing::warn!(machine = id, ?part, %error, "passing over a resource that cannot be read");
        }
        if !matches!(set, Ok(true)) {
            if slot.machine.is_empty() {
                self.machines.remove(id);
            }
            return None;
        }
        let news = (self.complete || slot.machine.infra.is_some())
            .then(|| parts::news(slot.machine.infra.as_deref(), machine.infra.as_deref()));
        slot.changed.notify_one();
        if machine.is_empty() {
            self.machines.remove(id);
        } else {
            slot.machine = Arc::new(machine);
        }
        news
    }

    /// Everyone may have something to do (or to stop doing) now.
    fn wake_all(&self) {
        for slot in self.machines.values() {
            slot.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
