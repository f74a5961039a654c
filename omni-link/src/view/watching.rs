//! Feeds the view: a watch a kind, resumed where it broke, else begun anew.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cosi::{Event, EventStream, EventType, Resource, State, StateError, WatchOptions, WatchTarget};
use futures_util::StreamExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::parts::How;
use super::{Part, View, saved};
use crate::backoff::Backoff;

/// First and longest pause after a watch broke.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// Omni's bookmarks are revisions in this form, which can be compared.
const REVISION_BYTES: usize = 8;

/// Feeds the view from `state`, and its disk from the view, until `shutdown`.
pub async fn run(view: Arc<View>, state: Arc<dyn State>, shutdown: CancellationToken) {
    let mut tasks = JoinSet::new();
    if let Some(disk) = &view.disk {
        tasks.spawn(saved::run(Arc::clone(&view), Arc::clone(disk), shutdown.clone()));
    }
    for part in Part::ALL {
        let watcher = Watcher {
            view: Arc::clone(&view),
            state: Arc::clone(&state),
            part,
            bookmark: None,
            backoff: Backoff::new(RETRY_MIN, RETRY_MAX),
        };
        tasks.spawn(watcher.run(shutdown.clone()));
    }
    while tasks.join_next().await.is_some() {}
}

/// The watch of one kind.
struct Watcher {
    view: Arc<View>,
    state: Arc<dyn State>,
    part: Part,
    /// Everything up to here is in the view.
    bookmark: Option<Bytes>,
    backoff: Backoff,
}

/// What a full reading has brought so far.
struct Listing {
    seen: BTreeSet<String>,
    /// The view's generation when it began.
    began: u64,
    /// Resources that are older than what the view knows since before.
    turned_back: Vec<Resource>,
}

impl Watcher {
    async fn run(mut self, shutdown: CancellationToken) {
        loop {
            // Cancel-safe: a watch has no effect on the server, and the view is written in one go.
            let result = tokio::select! {
                result = self.watch() => result,
                () = shutdown.cancelled() => return,
            };
            let reason = match &result {
                Ok(()) => "the watch ended".to_owned(),
                Err(error) => error.to_string(),
            };
            if self.part == Part::UserBmc && result.as_ref().is_err_and(is_refusal) {
                // An older Omni does not have them: then there are none.
                tracing::debug!(reason, "Omni has no BMC configurations of people");
                self.view.set_synced(self.part);
            } else {
                tracing::warn!(part = ?self.part, reason, "watch broke; boots go on from what is known");
                self.view.set_broken(self.part, reason);
            }
            tokio::select! {
                () = tokio::time::sleep(self.backoff.pause()) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn watch(&mut self) -> Result<(), StateError> {
        let (mut events, mut listing) = match self.resume().await? {
            Some(events) => {
                self.synced();
                (events, None)
            }
            None => {
                self.bookmark = None;
                let began = self.view.current_generation();
                let options =
                    WatchOptions { bootstrap_contents: true, aggregated: true, ..Default::default() };
                let events = self.state.watch(&self.target(), &options).await?;
                (events, Some(Listing { seen: BTreeSet::new(), began, turned_back: Vec::new() }))
            }
        };
        while let Some(batch) = events.next().await {
            for event in batch? {
                self.take(event, &mut listing)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, event: Event, listing: &mut Option<Listing>) -> Result<(), StateError> {
        let resource = &event.resource;
        match event.typ {
            EventType::Created | EventType::Updated => {
                if let Some(listing) = listing {
                    listing.seen.insert(resource.metadata.id.clone());
                    if self.view.turned_back(self.part, resource, listing.began) {
                        listing.turned_back.push(resource.clone());
                    }
                }
                self.view.apply(self.part, resource);
            }
            EventType::Destroyed => self.view.put(self.part, &resource.metadata.id, None, How::Certain),
            EventType::Bootstrapped => {
                if let Some(listing) = listing.take() {
                    self.view.retain(self.part, &listing.seen);
                    for old in &listing.turned_back {
                        if self.view.turned_back(self.part, old, listing.began) {
                            tracing::warn!(part = ?self.part, machine = old.metadata.id, "Omni went back in time");
                            self.view.settle(self.part, &old.metadata.id, Some(old));
                        }
                    }
                }
                self.synced();
            }
            EventType::Errored => {
                return Err(StateError::Unavailable(event.error.unwrap_or_default()));
            }
            EventType::Noop => {}
        }
        if event.bookmark.is_some() {
            self.bookmark = event.bookmark;
        }
        Ok(())
    }

    fn synced(&mut self) {
        self.view.set_synced(self.part);
        self.backoff.reset();
    }

    fn target(&self) -> WatchTarget {
        WatchTarget::kind(self.part.kind(&self.view.provider_id))
    }

    /// Goes on after the last event. `None` when that cannot be: everything is to be read anew.
    async fn resume(&self) -> Result<Option<EventStream>, StateError> {
        let Some(bookmark) = &self.bookmark else { return Ok(None) };
        let options = WatchOptions {
            start_from_bookmark: Some(bookmark.clone()),
            aggregated: true,
            ..WatchOptions::default()
        };
        let resumed = match self.state.watch(&self.target(), &options).await {
            Err(error) if is_lost_bookmark(&error) => None,
            other => Some(other?),
        };
        // Omni waits in silence for a bookmark that is ahead of it, as it is after a restored backup.
        let ahead = resumed.is_some() && self.is_ahead(bookmark).await?;
        if resumed.is_none() || ahead {
            tracing::info!(part = ?self.part, ahead, "the bookmark is gone: reading everything anew");
            return Ok(None);
        }
        Ok(resumed)
    }

    async fn is_ahead(&self, bookmark: &Bytes) -> Result<bool, StateError> {
        let options = WatchOptions { bootstrap_bookmark: true, ..WatchOptions::default() };
        let mut events = match self.state.watch(&self.target(), &options).await {
            Err(StateError::Unimplemented(_)) => return Ok(false),
            other => other?,
        };
        let first = events.next().await.transpose()?.unwrap_or_default();
        let now = first.into_iter().find_map(|event| event.bookmark);
        Ok(now.is_some_and(|now| {
            now.len() == REVISION_BYTES && bookmark.len() == REVISION_BYTES && now < *bookmark
        }))
    }
}

fn is_lost_bookmark(error: &StateError) -> bool {
    matches!(
        error,
        StateError::InvalidBookmark(_) | StateError::InvalidArgument(_) | StateError::Unimplemented(_)
    )
}

/// The server knows what is asked for and does not give it.
fn is_refusal(error: &StateError) -> bool {
    matches!(
        error,
        StateError::NotFound(_)
            | StateError::PermissionDenied(_)
            | StateError::InvalidArgument(_)
            | StateError::Unimplemented(_)
    )
}
