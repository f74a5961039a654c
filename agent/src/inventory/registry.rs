//! The inventory as it was last read, with versions: who reads or watches it shares one reading.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::Instant;
use tonic::Status;

use super::{Item, Source, definitions};

/// What was read this long ago is as good as new: a client that asks for twenty types walks `/sys` once.
const FRESH: Duration = Duration::from_millis(250);
/// How often somebody who watches looks for changes.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Watches at once: Omni opens fourteen, and a person with talosctl a few.
pub(super) const MAX_WATCHES: usize = 64;

/// A resource with what COSI tells of its history.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) item: Item,
    pub(super) version: u64,
    pub(super) created: SystemTime,
    pub(super) updated: SystemTime,
}

/// By namespace, type and id.
pub(super) type Key = (&'static str, &'static str, String);

/// All resources at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    /// Grows with every change.
    pub(super) sequence: u64,
    pub(super) resources: BTreeMap<Key, Arc<Stored>>,
}

impl Snapshot {
    /// This snapshot with other contents; none when they are the same.
    fn with(&self, items: Vec<Item>, now: SystemTime) -> Option<Self> {
        let mut changed = false;
        let mut resources = BTreeMap::new();
        for item in items {
            let key = (item.namespace, item.kind, item.id.clone());
            if resources.contains_key(&key) {
                // The first of two with one id counts, every time.
                continue;
            }
            let stored = match self.resources.get(&key) {
                Some(old) if old.item.spec == item.spec => old.clone(),
                old => {
                    changed = true;
                    let version = old.map_or(0, |old| old.version) + 1;
                    let created = old.map_or(now, |old| old.created);
                    Arc::new(Stored { item, version, created, updated: now })
                }
            };
            resources.insert(key, stored);
        }
        changed |= resources.len() != self.resources.len();
        changed.then_some(Self { sequence: self.sequence + 1, resources })
    }

    /// The resources of a kind, by id.
    pub(super) fn of(&self, namespace: &str, kind: &str) -> BTreeMap<&str, &Arc<Stored>> {
        self.resources
            .iter()
            .filter(|((a, b, _), _)| (*a, *b) == (namespace, kind))
            .map(|((_, _, id), stored)| (id.as_str(), stored))
            .collect()
    }
}

/// When the source was read last, and how it was then.
#[derive(Debug)]
struct Reading {
    at: Instant,
    generation: u64,
}

/// Shared by everybody who reads or watches.
#[derive(Debug)]
pub struct Registry<S> {
    source: Arc<S>,
    /// Held while reading: who comes meanwhile uses the result.
    reading: Mutex<Option<Reading>>,
    current: watch::Sender<Arc<Snapshot>>,
    pub(super) watches: Arc<Semaphore>,
    /// Tells this run of the agent from others, for bookmarks.
    pub(super) epoch: [u8; 8],
}

impl<S: Source> Registry<S> {
    /// Nothing is read yet.
    pub fn new(source: Arc<S>) -> Self {
        let known = Snapshot::default().with(definitions::items(), SystemTime::now()).unwrap_or_default();
        let mut epoch = [0; 8];
        // Best effort: two runs with the same epoch would have to be at the same sequence, too.
        let _ = crate::sys::random(&mut epoch, false);
        Self {
            source,
            reading: Mutex::default(),
            current: watch::Sender::new(Arc::new(known)),
            watches: Arc::new(Semaphore::new(MAX_WATCHES)),
            epoch,
        }
    }

    /// Lets whoever watches hear of a change that is known to have happened.
    pub(crate) async fn look(&self) {
        // When the machine cannot be read, they hear of that by themselves.
        let _ = self.refreshed().await;
    }

    /// The ids and encoded specs of a kind, as they are now.
    pub(crate) async fn specs(
        &self,
        (namespace, kind): (&str, &str),
    ) -> Result<Vec<(String, Vec<u8>)>, Status> {
        let (snapshot, _) = self.refreshed().await?;
        let found = snapshot.of(namespace, kind).into_iter();
        Ok(found.map(|(id, stored)| (id.to_owned(), stored.item.spec.clone())).collect())
    }

    /// What is known without reading: the types at least. And later changes of it.
    pub(super) fn known(&self) -> (Arc<Snapshot>, watch::Receiver<Arc<Snapshot>>) {
        let mut receiver = self.current.subscribe();
        let snapshot = receiver.borrow_and_update().clone();
        (snapshot, receiver)
    }

    /// Everything as it is now, and later changes of it.
    pub(super) async fn refreshed(&self) -> Result<(Arc<Snapshot>, watch::Receiver<Arc<Snapshot>>), Status> {
        let mut reading = self.reading.lock().await;
        let generation = self.source.generation();
        let fresh =
            reading.as_ref().is_some_and(|last| last.generation == generation && last.at.elapsed() < FRESH);
        if !fresh {
            let source = self.source.clone();
            // A disk that does not answer delays its attributes; other calls go on meanwhile.
            let mut items = tokio::task::spawn_blocking(move || source.items())
                .await
                .map_err(|_| Status::internal("the inventory cannot be read"))?;
            items.extend(definitions::items());
            *reading = Some(Reading { at: Instant::now(), generation });
            self.current.send_if_modified(|current| {
                let next = current.with(items, SystemTime::now());
                let changed = next.is_some();
                if let Some(next) = next {
                    *current = Arc::new(next);
                }
                changed
            });
        }
        Ok(self.known())
    }
}

#[cfg(test)]
mod tests {
    use agent_wire::talos::network::HostnameStatusSpec;

    use super::*;

    fn named(id: &str, hostname: &str) -> Item {
        Item::new(id, &HostnameStatusSpec { hostname: hostname.to_owned(), ..Default::default() })
    }

    #[test]
    fn what_did_not_change_keeps_its_version() {
        let (first, later) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(1));
        let one = Snapshot::default().with(vec![named("a", "x"), named("b", "x")], first).unwrap();
        assert!(one.with(vec![named("b", "x"), named("a", "x")], later).is_none());
        let two = one.with(vec![named("a", "y"), named("b", "x")], later).unwrap();
        let of = two.of("network", "HostnameStatuses.net.talos.dev");
        assert_eq!((of["a"].version, of["a"].created, of["a"].updated), (2, first, later));
        assert_eq!((of["b"].version, of["b"].updated, two.sequence), (1, first, 2));
    }

    #[test]
    fn what_is_gone_is_a_change() {
        let one = Snapshot::default().with(vec![named("a", "x")], SystemTime::UNIX_EPOCH).unwrap();
        let two = one.with(vec![], SystemTime::UNIX_EPOCH).unwrap();
        assert!(two.resources.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reading_is_shared_for_a_moment_and_a_known_change_ends_it() {
        use std::sync::atomic::{AtomicU64, Ordering};
        #[derive(Default)]
        struct Counts {
            read: AtomicU64,
            generation: AtomicU64,
        }
        impl Source for Counts {
            fn items(&self) -> Vec<Item> {
                self.read.fetch_add(1, Ordering::Relaxed);
                vec![]
            }
            fn generation(&self) -> u64 {
                self.generation.load(Ordering::Relaxed)
            }
        }
        let source = Arc::new(Counts::default());
        let registry = Registry::new(source.clone());
        let read = || source.read.load(Ordering::Relaxed);
        registry.refreshed().await.unwrap();
        registry.refreshed().await.unwrap();
        assert_eq!(read(), 1);
        source.generation.fetch_add(1, Ordering::Relaxed);
        registry.refreshed().await.unwrap();
        assert_eq!(read(), 2);
        tokio::time::advance(FRESH).await;
        registry.refreshed().await.unwrap();
        assert_eq!(read(), 3);
    }
}
