//! A state whose calls end: a link that stalls is one that is away.

use std::time::Duration;

use async_trait::async_trait;
use cosi::{
    EventStream, Kind, ListOptions, Pointer, Resource, State, StateError, UpdateOptions, WatchOptions,
    WatchTarget,
};

/// One message each way, over the slowest link that is any use.
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// A list may be thousands of messages.
const LIST_LIMIT: Duration = Duration::from_secs(120);

/// Limits every call; a watch only until it stands.
#[derive(Debug, Clone)]
pub struct Limited<S> {
    inner: S,
}

impl<S> Limited<S> {
    /// Around that state.
    pub const fn new(inner: S) -> Self {
        Self { inner }
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
        limited(CALL_LIMIT, self.inner.get(pointer)).await
    }

    async fn list(&self, kind: &Kind, options: &ListOptions) -> Result<Vec<Resource>, StateError> {
        limited(LIST_LIMIT, self.inner.list(kind, options)).await
    }

    async fn create(&self, resource: Resource, owner: &str) -> Result<Resource, StateError> {
        limited(CALL_LIMIT, self.inner.create(resource, owner)).await
    }

    async fn update(&self, resource: Resource, options: &UpdateOptions) -> Result<Resource, StateError> {
        limited(CALL_LIMIT, self.inner.update(resource, options)).await
    }

    async fn destroy(&self, pointer: &Pointer, owner: &str) -> Result<(), StateError> {
        limited(CALL_LIMIT, self.inner.destroy(pointer, owner)).await
    }

    async fn teardown(&self, pointer: &Pointer, owner: &str) -> Result<bool, StateError> {
        limited(CALL_LIMIT, self.inner.teardown(pointer, owner)).await
    }

    async fn watch(&self, target: &WatchTarget, options: &WatchOptions) -> Result<EventStream, StateError> {
        limited(CALL_LIMIT, self.inner.watch(target, options)).await
    }
}
