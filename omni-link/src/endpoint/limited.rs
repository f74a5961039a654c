//! A state whose calls end, and of which few run at a time: a link that stalls is one that is away, and what
//! thousands of machines have to say after an outage goes over it in turn.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cosi::{
    EventStream, Kind, ListOptions, Pointer, Resource, State, StateError, UpdateOptions, WatchOptions,
    WatchTarget,
};
use tokio::sync::Semaphore;

/// One message each way, over the slowest link that is any use.
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// Calls on their way: enough to fill a link of 300 ms, and each takes 20 KiB while it runs.
const CALLS_MAX: usize = 64;
/// A list may be thousands of messages.
const LIST_LIMIT: Duration = Duration::from_secs(120);

/// Limits every call; a watch only until it stands.
#[derive(Debug, Clone)]
pub struct Limited<S> {
    inner: S,
    turns: Arc<Semaphore>,
}

impl<S> Limited<S> {
    /// Around that state.
    pub fn new(inner: S) -> Self {
        Self { inner, turns: Arc::new(Semaphore::new(CALLS_MAX)) }
    }

    /// Waits for a turn, then calls; both within the limit.
    async fn in_turn<'a, T, C>(
        &'a self,
        limit: Duration,
        call: impl FnOnce(&'a S) -> C,
    ) -> Result<T, StateError>
    where
        C: Future<Output = Result<T, StateError>>,
    {
        limited(limit, async {
            // The semaphore is never closed.
            let _turn = self.turns.acquire().await;
            call(&self.inner).await
        })
        .await
    }
}

async fn limited<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, StateError>>,
) -> Result<T, StateError> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result,
        Err(_) => Err(StateError::Unavailable(format!("Omni did not answer within {limit:?}"))),
    }
}

#[async_trait]
impl<S: State> State for Limited<S> {
    async fn get(&self, pointer: &Pointer) -> Result<Resource, StateError> {
        self.in_turn(CALL_LIMIT, |inner| inner.get(pointer)).await
    }

    async fn list(&self, kind: &Kind, options: &ListOptions) -> Result<Vec<Resource>, StateError> {
        self.in_turn(LIST_LIMIT, |inner| inner.list(kind, options)).await
    }

    async fn create(&self, resource: Resource, owner: &str) -> Result<Resource, StateError> {
        self.in_turn(CALL_LIMIT, |inner| inner.create(resource, owner)).await
    }

    async fn update(&self, resource: Resource, options: &UpdateOptions) -> Result<Resource, StateError> {
        self.in_turn(CALL_LIMIT, |inner| inner.update(resource, options)).await
    }

    async fn destroy(&self, pointer: &Pointer, owner: &str) -> Result<(), StateError> {
        self.in_turn(CALL_LIMIT, |inner| inner.destroy(pointer, owner)).await
    }

    async fn teardown(&self, pointer: &Pointer, owner: &str) -> Result<bool, StateError> {
        self.in_turn(CALL_LIMIT, |inner| inner.teardown(pointer, owner)).await
    }

    async fn watch(&self, target: &WatchTarget, options: &WatchOptions) -> Result<EventStream, StateError> {
        limited(CALL_LIMIT, self.inner.watch(target, options)).await
    }
}
