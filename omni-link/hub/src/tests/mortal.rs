//! A store that dies: after so many writes nothing works any more, as after SIGKILL.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use cosi::{
    EventStream, Kind, ListOptions, Pointer, Resource, State, StateError, UpdateOptions, WatchOptions,
    WatchTarget,
};
use tokio_util::sync::CancellationToken;

pub(super) struct Mortal {
    inner: Arc<dyn State>,
    left: AtomicUsize,
    dead: CancellationToken,
}

impl Mortal {
    pub(super) fn new(inner: Arc<dyn State>) -> Self {
        Self { inner, left: AtomicUsize::new(usize::MAX), dead: CancellationToken::new() }
    }

    /// From now on this many writes are left.
    pub(super) fn dies_after(&self, writes: usize) {
        self.left.store(writes, Ordering::SeqCst);
    }

    pub(super) async fn death(&self) {
        self.dead.cancelled().await;
    }

    fn read(&self) -> Result<(), StateError> {
        if self.dead.is_cancelled() { Err(StateError::Unavailable("dead".to_owned())) } else { Ok(()) }
    }

    fn write(&self) -> Result<(), StateError> {
        self.read()?;
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_err() {
            self.dead.cancel();
        }
        self.read()
    }
}

#[async_trait]
impl State for Mortal {
    async fn get(&self, pointer: &Pointer) -> Result<Resource, StateError> {
        self.read()?;
        self.inner.get(pointer).await
    }

    async fn list(&self, kind: &Kind, options: &ListOptions) -> Result<Vec<Resource>, StateError> {
        self.read()?;
        self.inner.list(kind, options).await
    }

    async fn create(&self, resource: Resource, owner: &str) -> Result<Resource, StateError> {
        self.write()?;
        self.inner.create(resource, owner).await
    }

    async fn update(&self, resource: Resource, options: &UpdateOptions) -> Result<Resource, StateError> {
        self.write()?;
        self.inner.update(resource, options).await
    }

    async fn destroy(&self, pointer: &Pointer, owner: &str) -> Result<(), StateError> {
        self.write()?;
        self.inner.destroy(pointer, owner).await
    }

    async fn teardown(&self, pointer: &Pointer, owner: &str) -> Result<bool, StateError> {
        self.write()?;
        self.inner.teardown(pointer, owner).await
    }

    async fn watch(&self, target: &WatchTarget, options: &WatchOptions) -> Result<EventStream, StateError> {
        self.read()?;
        self.inner.watch(target, options).await
    }
}
