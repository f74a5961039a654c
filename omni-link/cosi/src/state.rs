//! The store as a trait.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::{Kind, LabelQuery, ListOptions, Phase, Pointer, Resource, StateError};

/// What an update expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateOptions {
    /// Must be the stored owner.
    pub owner: String,
    /// The phase that the stored resource must be in; `None` for any. Running by default.
    pub expected_phase: Option<Phase>,
}

impl UpdateOptions {
    /// As that owner, expecting a running resource.
    pub fn owner(owner: impl Into<String>) -> Self {
        Self { owner: owner.into(), expected_phase: Some(Phase::Running) }
    }

    /// In any phase: what taking a finalizer off needs.
    #[must_use]
    pub fn any_phase(mut self) -> Self {
        self.expected_phase = None;
        self
    }
}

impl Default for UpdateOptions {
    fn default() -> Self {
        Self::owner("")
    }
}

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchTarget {
    /// Namespace and type.
    pub kind: Kind,
    /// One resource, or `None` for all of the kind.
    pub id: Option<String>,
}

impl WatchTarget {
    /// Every resource of a kind.
    #[must_use]
    pub fn kind(kind: Kind) -> Self {
        Self { kind, id: None }
    }

    /// One resource, which need not exist yet.
    #[must_use]
    pub fn resource(pointer: Pointer) -> Self {
        Self { kind: Kind::new(pointer.namespace, pointer.typ), id: Some(pointer.id) }
    }
}

/// How a watch begins and what it leaves out.
///
/// With an id only `start_from_bookmark` counts, and contents or queries are refused: such a watch begins
/// with the resource as it is (`Created`, or `Destroyed` with an undefined version when there is none).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WatchOptions {
    /// First `Created` for each resource that exists, then `Bootstrapped` with a bookmark.
    pub bootstrap_contents: bool,
    /// One `Noop` with a bookmark at the start.
    pub bootstrap_bookmark: bool,
    /// Replay everything after this bookmark.
    pub start_from_bookmark: Option<Bytes>,
    /// Only resources that one of these matches; empty means all.
    pub label_queries: Vec<LabelQuery>,
    /// Only ids that this regular expression matches somewhere.
    pub id_query: Option<String>,
    /// Several events may come in one item; else each item holds one.
    pub aggregated: bool,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// It is new, or came to match the queries.
    Created,
    /// It changed; `old` is set.
    Updated,
    /// It is gone, or no longer matches the queries.
    Destroyed,
    /// The contents at the start are complete. The resource is a dummy.
    Bootstrapped,
    /// The watch ends here, see `error`. The resource is a dummy.
    Errored,
    /// A bookmark only. The resource is a dummy.
    Noop,
}

/// One event of a watch.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// What happened.
    pub typ: EventType,
    /// The resource after it happened (with `Destroyed`: before).
    pub resource: Resource,
    /// With `Updated`: the resource before.
    pub old: Option<Resource>,
    /// A later watch may start from here. Absent on bootstrapped contents.
    pub bookmark: Option<Bytes>,
    /// With `Errored`: why.
    pub error: Option<String>,
}

/// The events of a watch. It ends after an `Err` or an `Errored`.
pub type EventStream = BoxStream<'static, Result<Vec<Event>, StateError>>;

/// A store of resources.
#[async_trait]
pub trait State: Send + Sync {
    /// The resource of that name.
    async fn get(&self, pointer: &Pointer) -> Result<Resource, StateError>;

    /// All resources of a kind that match, by id.
    async fn list(&self, kind: &Kind, options: &ListOptions) -> Result<Vec<Resource>, StateError>;

    /// Stores a new resource as `owner`'s. Answers what is stored.
    async fn create(&self, resource: Resource, owner: &str) -> Result<Resource, StateError>;

    /// Replaces the resource if it still has the version that `resource` brings. Answers what is stored.
    async fn update(&self, resource: Resource, options: &UpdateOptions) -> Result<Resource, StateError>;

    /// Removes a resource that has no finalizers.
    async fn destroy(&self, pointer: &Pointer, owner: &str) -> Result<(), StateError>;

    /// Marks a resource as going away, which it may be already; says whether it has no finalizers.
    async fn teardown(&self, pointer: &Pointer, owner: &str) -> Result<bool, StateError>;

    /// Follows changes. No change after the return of this call is missed.
    async fn watch(&self, target: &WatchTarget, options: &WatchOptions) -> Result<EventStream, StateError>;
}

#[async_trait]
impl<S: State + ?Sized> State for Arc<S> {
    async fn get(&self, pointer: &Pointer) -> Result<Resource, StateError> {
        (**self).get(pointer).await
    }

    async fn list(&self, kind: &Kind, options: &ListOptions) -> Result<Vec<Resource>, StateError> {
        (**self).list(kind, options).await
    }

    async fn create(&self, resource: Resource, owner: &str) -> Result<Resource, StateError> {
        (**self).create(resource, owner).await
    }

    async fn update(&self, resource: Resource, options: &UpdateOptions) -> Result<Resource, StateError> {
        (**self).update(resource, options).await
    }

    async fn destroy(&self, pointer: &Pointer, owner: &str) -> Result<(), StateError> {
        (**self).destroy(pointer, owner).await
    }

    async fn teardown(&self, pointer: &Pointer, owner: &str) -> Result<bool, StateError> {
        (**self).teardown(pointer, owner).await
    }

    async fn watch(&self, target: &WatchTarget, options: &WatchOptions) -> Result<EventStream, StateError> {
        (**self).watch(target, options).await
    }
}
