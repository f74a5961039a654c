//! A way to Omni that breaks on order.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cosi::{
    EventStream, Kind, ListOptions, Pointer, Resource, State, StateError, UpdateOptions, WatchOptions,
    WatchTarget,
};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::watch;

/// What works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everything.
    Up,
    /// Nothing.
    Down,
    /// Calls reach Omni, answers do not come back; watches live on, silent.
    Deaf,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Faulty {
    inner: Arc<dyn State>,
    mode: watch::Sender<Mode>,
    /// How often everything broke: a watch that is slow to look misses none.
    cuts: watch::Sender<u32>,
    /// Watches that began from a bookmark, and those that read everything.
    pub(crate) resumed: Arc<AtomicU32>,
    pub(crate) bootstrapped: Arc<AtomicU32>,
    /// Bookmarks are refused.
    pub(crate) forgetful: Arc<AtomicU32>,
}

impl Faulty {
    pub(crate) fn new(inner: Arc<dyn State>) -> Self {
        Self {
            inner,
            mode: watch::Sender::new(Mode::Up),
            cuts: watch::Sender::new(0),
            resumed: Arc::default(),
            bootstrapped: Arc::default(),
            forgetful: Arc::default(),
        }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
        if mode == Mode::Down {
            self.cuts.send_modify(|cuts| *cuts += 1);
        }
    }

    async fn pass<T: Send>(
        &self,
        call: impl Future<Output = Result<T, StateError>> + Send,
    ) -> Result<T, StateError> {
        if *self.mode.borrow() == Mode::Down {
            return Err(away());
        }
        let result = call.await;
        if *self.mode.borrow() == Mode::Up { result } else { Err(away()) }
    }
}

fn away() -> StateError {
    StateError::Unavailable("the link is cut".to_owned())
}

#[tonic::async_trait]
impl State for Faulty {
    async fn get(&self, pointer: &Pointer) -> Result<Resource, StateError> {
        self.pass(self.inner.get(pointer)).await
    }

    async fn list(&self, kind: &Kind, options: &ListOptions) -> Result<Vec<Resource>, StateError> {
        self.pass(self.inner.list(kind, options)).await
    }

    async fn create(&self, resource: Resource, owner: &str) -> Result<Resource, StateError> {
        self.pass(self.inner.create(resource, owner)).await
    }

    async fn update(&self, resource: Resource, options: &UpdateOptions) -> Result<Resource, StateError> {
        self.pass(self.inner.update(resource, options)).await
    }

    async fn destroy(&self, pointer: &Pointer, owner: &str) -> Result<(), StateError> {
        self.pass(self.inner.destroy(pointer, owner)).await
    }

    async fn teardown(&self, pointer: &Pointer, owner: &str) -> Result<bool, StateError> {
        self.pass(self.inner.teardown(pointer, owner)).await
    }

    async fn watch(&self, target: &WatchTarget, options: &WatchOptions) -> Result<EventStream, StateError> {
        if options.start_from_bookmark.is_some() {
            let refuse = |left: u32| left.checked_sub(1);
            if self.forgetful.fetch_update(Ordering::SeqCst, Ordering::SeqCst, refuse).is_ok() {
                return Err(StateError::InvalidBookmark("compacted".to_owned()));
            }
        }
        let mut cuts = self.cuts.subscribe();
        let events = self.pass(self.inner.watch(target, options)).await?;
        if options.start_from_bookmark.is_some() {
            self.resumed.fetch_add(1, Ordering::SeqCst);
        } else if options.bootstrap_contents {
            self.bootstrapped.fetch_add(1, Ordering::SeqCst);
        }
        let cut = async move { cuts.changed().await.ok() };
        let broken = cut.map(|_| Err(away())).into_stream();
        // Whichever comes first; nothing after the break.
        let (events, broken) = (events.map(Some), broken.map(Some));
        let both = futures_util::stream::select(events, broken);
        let until_broken = both.scan(false, |ended, item| {
            let was = std::mem::replace(ended, item.as_ref().is_some_and(Result::is_err));
            std::future::ready(if was { None } else { item })
        });
        Ok(until_broken.boxed())
    }
}
