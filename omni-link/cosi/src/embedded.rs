//! A [`State`] in one file.
//!
//! The file (redb) holds each resource as the message of the wire, and one number, the revision, that grows
//! by one with each change of anything. A bookmark is a revision.
//!
//! - **Writes** go through one thread that owns the write side: it takes all that wait (group commit), tries
//!   each against what the ones before it left, commits once with fsync, publishes the changes, then
//!   answers. So an answered write is on the disk, and a commit that fails is answered to all as
//!   [`StateError::Unavailable`].
//! - **Reads** see the last commit. One resource is read in place (microseconds, from the cache); lists and
//!   the starts of watches run on the blocking pool.
//! - **Watches** have no queue of their own. They read a bounded history of the last changes, each at its own
//!   position, and are only woken. A watcher that falls out of the history gets `Errored` and the end; it
//!   never holds a writer up and costs no memory.
//!
//! The history is in memory. After a restart a bookmark holds only if nothing was missed; else the answer is
//! [`StateError::InvalidBookmark`], upon which a client starts afresh. A new store begins at a revision made
//! from the time, so that a bookmark of a deleted store is not mistaken for one of its successor.

mod history;
mod store;
mod watch;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use prost_types::Timestamp;

pub use crate::database::OpenError;
use crate::query::Filter;
use crate::{
    EventStream, Kind, ListOptions, Pointer, Resource, State, StateError, UpdateOptions, WatchOptions,
    WatchTarget,
};
use history::{Publisher, Shared};
use store::Store;
use writer::{Op, Writer};

/// Largest resource, envelope included: what Omni's etcd takes (1.5 MiB).
pub const MAX_RESOURCE_BYTES: usize = 3 << 19;
/// Longest namespace, type or id: they are part of the key. Those of Omni stay below 256.
pub const MAX_NAME_BYTES: usize = 1024;
/// Changes kept for watchers that are behind or come back. A few minutes of a busy site.
pub const HISTORY_CHANGES: usize = 4096;
/// Memory that those changes may take; they hold the resource before and after.
pub const HISTORY_BYTES: usize = 8 << 20;
/// Page cache of the file: the working set of some thousand machines.
const CACHE_BYTES: usize = 4 << 20;

/// Tells the time that resources are stamped with.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    /// Tells the time that resources are stamped with.
    pub clock: Clock,
    /// Changes kept for watchers.
    pub history_changes: usize,
    /// Memory that those changes may take.
    pub history_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Arc::new(|| SystemTime::now().into()),
            history_changes: HISTORY_CHANGES,
            history_bytes: HISTORY_BYTES,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("history_changes", &self.history_changes)
            .field("history_bytes", &self.history_bytes)
            .finish_non_exhaustive()
    }
}

/// The store. Clones share it; the last one dropped waits for the write in progress and closes the file.
#[derive(Debug, Clone)]
pub struct EmbeddedState {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // Dropped first: it ends the thread, which holds the store, too.
    writer: Writer,
    store: Store,
    shared: Arc<Shared>,
}

impl EmbeddedState {
    /// Opens the store at `path` with the default [`Options`]; creates it, for its owner's eyes only, when
    /// there is none. Reads the whole file to see that it is sound.
    ///
    /// # Errors
    /// See [`OpenError`]. The file is left as it is.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open_with(path, Options::default())
    }

    /// Opens the store at `path`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_with(path: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        Self::start(Store::open(path.as_ref(), &options.clock)?, options)
    }

    /// A store in memory, which ends with its last clone.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn in_memory(options: Options) -> Result<Self, OpenError> {
        Self::start(Store::in_memory(&options.clock)?, options)
    }

    fn start(store: Store, options: Options) -> Result<Self, OpenError> {
        let revision = store.revision()?;
        let publisher = Publisher::new(revision, options.history_changes, options.history_bytes);
        let shared = publisher.shared();
        let writer = Writer::spawn(store.clone(), publisher, options.clock)
            .map_err(|source| OpenError::Io { path: store.path().to_path_buf(), source })?;
        Ok(Self { inner: Arc::new(Inner { writer, store, shared }) })
    }

    /// [`State::get`] for callers that cannot wait.
    ///
    /// # Errors
    /// There is no such resource, or the file cannot be read.
    pub fn read(&self, pointer: &Pointer) -> Result<Resource, StateError> {
        self.inner.store.snapshot()?.get(pointer)?.ok_or_else(|| store::not_found(pointer))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        let inner = Arc::clone(&self.inner);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(_) => Err(StateError::Unavailable("the read was cut off".to_owned())),
        }
    }
}

#[async_trait]
impl State for EmbeddedState {
    async fn get(&self, pointer: &Pointer) -> Result<Resource, StateError> {
        self.read(pointer)
    }

    async fn list(&self, kind: &Kind, options: &ListOptions) -> Result<Vec<Resource>, StateError> {
        let filter = Filter::new(&options.label_queries, options.id_query.as_deref())?;
        let kind = kind.clone();
        self.blocking(move |inner| inner.store.snapshot()?.list(&kind, &filter)).await
    }

    async fn create(&self, resource: Resource, owner: &str) -> Result<Resource, StateError> {
        self.inner.writer.write(Op::Create { resource, owner: owner.to_owned() }).await
    }

    async fn update(&self, resource: Resource, options: &UpdateOptions) -> Result<Resource, StateError> {
        self.inner.writer.write(Op::Update { resource, options: options.clone() }).await
    }

    async fn destroy(&self, pointer: &Pointer, owner: &str) -> Result<(), StateError> {
        let op = Op::Destroy { pointer: pointer.clone(), owner: owner.to_owned() };
        self.inner.writer.write(op).await.map(|_| ())
    }

    async fn teardown(&self, pointer: &Pointer, owner: &str) -> Result<bool, StateError> {
        let op = Op::Teardown { pointer: pointer.clone(), owner: owner.to_owned() };
        let torn = self.inner.writer.write(op).await?;
        Ok(torn.metadata.finalizers.is_empty())
    }

    async fn watch(&self, target: &WatchTarget, options: &WatchOptions) -> Result<EventStream, StateError> {
        let (target, options) = (target.clone(), options.clone());
        let watcher = self.blocking(move |inner| {
            let snapshot = inner.store.snapshot()?;
            watch::Watcher::start(&snapshot, Arc::clone(&inner.shared), target, options)
        });
        Ok(watcher.await?.into_stream())
    }
}

#[cfg(test)]
mod tests;
