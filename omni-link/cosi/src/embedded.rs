//! stub
use crate::*;
use async_trait::async_trait;
use std::path::Path;
/// The store.
#[derive(Debug, Clone)]
pub struct EmbeddedState {}
/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {}
impl EmbeddedState {
    /// Opens or creates the store at `path`.
    /// # Errors
    /// See [`OpenError`].
    pub fn open(_path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Ok(Self {})
    }
    /// A store that is only in memory.
    /// # Errors
    /// See [`OpenError`].
    pub fn in_memory() -> Result<Self, OpenError> {
        Ok(Self {})
    }
}
#[async_trait]
impl State for EmbeddedState {
    async fn get(&self, _pointer: &Pointer) -> Result<Resource, StateError> {
        Err(StateError::Unimplemented("".into()))
    }
    async fn list(&self, _kind: &Kind, _options: &ListOptions) -> Result<Vec<Resource>, StateError> {
        Err(StateError::Unimplemented("".into()))
    }
    async fn create(&self, _resource: Resource, _owner: &str) -> Result<Resource, StateError> {
        Err(StateError::Unimplemented("".into()))
    }
    async fn update(&self, _resource: Resource, _options: &UpdateOptions) -> Result<Resource, StateError> {
        Err(StateError::Unimplemented("".into()))
    }
    async fn destroy(&self, _pointer: &Pointer, _owner: &str) -> Result<(), StateError> {
        Err(StateError::Unimplemented("".into()))
    }
    async fn teardown(&self, _pointer: &Pointer, _owner: &str) -> Result<bool, StateError> {
        Err(StateError::Unimplemented("".into()))
    }
    async fn watch(&self, _target: &WatchTarget, _options: &WatchOptions) -> Result<EventStream, StateError> {
        Err(StateError::Unimplemented("".into()))
    }
}
