//! The local view: every resource that a decision needs, as last seen.
//!
//! Each kind is watched by a task of its own ([`run`]). A broken watch makes the view stale
//! ([`View::fresh`]) until it has been read anew as a whole; what was known stays readable meanwhile, so
//! boots go on.

mod parts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cosi::{EventType, Resource, State, StateError, WatchOptions, WatchTarget};
use futures_util::StreamExt;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use parts::{Entry, Machine, Part};

use crate::happening::{Happening, Observer};

/// First pause after a watch broke; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// More machines than one appliance can serve are not taken in.
pub const MACHINES_MAX: usize = 8192;

/// See the module.
pub struct View {
    provider_id: String,
    inner: RwLock<Inner>,
    generation: watch::Sender<u64>,
    observer: Observer,
}

#[derive(Default)]
struct Inner {
    machines: BTreeMap<String, Slot>,
    join_config: Option<String>,
    /// Parts that are being watched and were read as a whole since the watch began.
    synced: BTreeSet<Part>,
    /// Whether the whole view was in sync once: from then on differences are news.
    complete: bool,
}

#[derive(Default)]
struct Slot {
    machine: Arc<Machine>,
    changed: Arc<Notify>,
}

impl View {
    /// An empty view.
    pub fn new(provider_id: &str, observer: Observer) -> Arc<Self> {
        Arc::new(Self {
            provider_id: provider_id.to_owned(),
            inner: RwLock::default(),
            generation: watch::Sender::new(0),
            observer,
        })
    }

    /// What is known of a machine.
    pub fn machine(&self, id: &str) -> Option<Arc<Machine>> {
        self.read(|inner| inner.machines.get(id).map(|slot| Arc::clone(&slot.machine)))
    }

    /// The machine configuration with the join token, for machines that may have it.
    pub fn join_config(&self) -> Option<String> {
        self.read(|inner| inner.join_config.clone())
    }

    /// Whether every kind is watched and was read as a whole.
    pub fn fresh(&self) -> bool {
        self.read(|inner| inner.synced.len() == Part::ALL.len())
    }

    /// The ids of all machines.
    pub fn ids(&self) -> Vec<String> {
        self.read(|inner| inner.machines.keys().cloned().collect())
    }

    /// Counts up at each change of anything.
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
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

    /// Takes in a resource that is newer than what is known: from a watch, or from an own write, so that
    /// the next decision sees it.
    pub fn apply(&self, part: Part, resource: &Resource) {
        self.put(part, &resource.metadata.id, Some(resource));
    }

    fn read<T>(&self, read: impl FnOnce(&Inner) -> T) -> T {
        read(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, part: Part, id: &str, resource: Option<&Resource>) {
        let news = {
            let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
            if part == Part::JoinConfig {
                if id == self.provider_id {
                    inner.join_config = resource.and_then(parts::join_config);
                }
                None
            } else {
                inner.put_machine(part, id, resource)
            }
        };
        self.generation.send_modify(|generation| *generation += 1);
        for happening in news.into_iter().flatten() {
            (self.observer)(id, happening);
        }
    }

    fn set_synced(&self, part: Part, synced: bool) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if synced {
            inner.synced.insert(part);
            inner.complete |= inner.synced.len() == Part::ALL.len();
        } else {
            inner.synced.remove(&part);
        }
        // Everyone may have something to do (or to stop doing) now.
        for slot in inner.machines.values() {
            slot.changed.notify_one();
        }
        drop(inner);
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Drops what a fresh listing did not contain.
    fn retain(&self, part: Part, seen: &BTreeSet<String>) {
        let gone: Vec<String> = self.read(|inner| {
            let known = |(id, slot): (&String, &Slot)| {
                (slot.machine.has(part) && !seen.contains(id)).then(|| id.clone())
            };
            inner.machines.iter().filter_map(known).collect()
        });
        for id in gone {
            self.put(part, &id, None);
        }
    }
}

impl Inner {
    fn put_machine(&mut self, part: Part, id: &str, resource: Option<&Resource>) -> Option<Vec<Happening>> {
        if !self.machines.contains_key(id) && (resource.is_none() || self.machines.len() >= MACHINES_MAX) {
            return None;
        }
        let slot = self.machines.entry(id.to_owned()).or_default();
        let mut machine = Machine::clone(&slot.machine);
        match machine.set(part, resource) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                tracing::warn!(machine = id, ?part, %error, "passing over a resource that cannot be read");
                return None;
            }
        }
        let news = (self.complete || slot.machine.infra.is_some())
            .then(|| parts::news(slot.machine.infra.as_ref(), machine.infra.as_ref()));
        slot.changed.notify_one();
        if machine.is_empty() {
            self.machines.remove(id);
        } else {
            slot.machine = Arc::new(machine);
        }
        news
    }
}

/// Feeds the view from `state` until `shutdown`.
pub async fn run(view: Arc<View>, state: Arc<dyn State>, shutdown: CancellationToken) {
    let mut tasks = JoinSet::new();
    for part in Part::ALL {
        let (view, state, shutdown) = (Arc::clone(&view), Arc::clone(&state), shutdown.clone());
        tasks.spawn(async move {
            let mut pause = RETRY_MIN;
            loop {
                // Cancel-safe: a watch has no effect on the server, and the view is written in one go.
                tokio::select! {
                    result = watch_part(&view, state.as_ref(), part, &mut pause) => {
                        view.set_synced(part, false);
                        if let Err(error) = result {
                            tracing::warn!(?part, %error, "watch broke; boots go on from what is known");
                        }
                    }
                    () = shutdown.cancelled() => return,
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
                    () = shutdown.cancelled() => return,
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

async fn watch_part(
    view: &View,
    state: &dyn State,
    part: Part,
    pause: &mut Duration,
) -> Result<(), StateError> {
    let target = WatchTarget { kind: part.kind(&view.provider_id), id: None };
    let options = WatchOptions { bootstrap_contents: true, ..WatchOptions::default() };
    let mut events = state.watch(&target, &options).await?;
    let mut listing = Some(BTreeSet::new());
    while let Some(batch) = events.next().await {
        for event in batch? {
            match event.typ {
                EventType::Created | EventType::Updated => {
                    if let Some(seen) = &mut listing {
                        seen.insert(event.resource.metadata.id.clone());
                    }
                    view.apply(part, &event.resource);
                }
                EventType::Destroyed => view.put(part, &event.resource.metadata.id, None),
                EventType::Bootstrapped => {
                    if let Some(seen) = listing.take() {
                        view.retain(part, &seen);
                    }
                    view.set_synced(part, true);
                    *pause = RETRY_MIN;
                }
                EventType::Errored => {
                    return Err(StateError::Unavailable(event.error.unwrap_or_default()));
                }
                EventType::Noop => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
