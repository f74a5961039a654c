//! Watches: the start from a snapshot or a bookmark, then the history.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::watch;

use super::history::{Change, Shared};
use super::store::{Snapshot, Stored};
use crate::query::Filter;
use crate::{Event, EventStream, EventType, Resource, StateError, WatchOptions, WatchTarget};

/// Changes taken from the history at a time: how much a watcher holds on its own.
const BATCH_CHANGES: usize = 128;
/// Weight at which an aggregated item is full: well below what a Go client takes by itself (4 MiB), which one
/// event stays below alone.
const BATCH_BYTES: usize = 1 << 20;
/// The same for what there was at the start: each item is in memory several times, as events, as messages and
/// as bytes, on both ends.
const BOOTSTRAP_BYTES: usize = 64 << 10;
/// What an event weighs beside its content: names, times, the shape of the messages.
const EVENT_BYTES: usize = 256;

/// One watch.
pub(super) struct Watcher {
    shared: Arc<Shared>,
    published: watch::Receiver<u64>,
    target: WatchTarget,
    filter: Filter,
    aggregated: bool,
    /// Revision of the last change that was looked at.
    position: u64,
    /// What there was at the start, to be given out before all else. Kept as it is stored: a slow reader of
    /// thousands of resources holds a megabyte, not twenty.
    contents: VecDeque<Stored>,
    /// Events to be given out next.
    pending: VecDeque<Event>,
    ended: bool,
}

impl Watcher {
    pub(super) fn start(
        snapshot: &Snapshot,
        shared: Arc<Shared>,
        target: WatchTarget,
        options: WatchOptions,
    ) -> Result<Self, StateError> {
        check_options(&target, &options)?;
        let filter = Filter::new(&options.label_queries, options.id_query.as_deref())?;
        let mut position = snapshot.revision();
        let (mut contents, mut pending) = (VecDeque::new(), VecDeque::new());
        if let Some(bookmark) = &options.start_from_bookmark {
            let revision = read_bookmark(bookmark, position)?;
            if !shared.reaches(revision) {
                return Err(StateError::InvalidBookmark("bookmark is older than the history".to_owned()));
            }
            position = revision;
        } else if let Some(id) = &target.id {
            pending.push_back(initial(snapshot, &target, id)?);
        }
        if options.bootstrap_contents {
            contents = snapshot.list_stored(&target.kind, &filter)?;
            pending.push_back(dummy(&target, EventType::Bootstrapped, Some(bookmark(position))));
        }
        if options.bootstrap_bookmark && target.id.is_none() {
            pending.push_back(dummy(&target, EventType::Noop, Some(bookmark(position))));
        }
        let published = shared.subscribe();
        let aggregated = options.aggregated;
        let ended = false;
        Ok(Self { shared, published, target, filter, aggregated, position, contents, pending, ended })
    }

    pub(super) fn into_stream(self) -> EventStream {
        stream::unfold(self, |mut watcher| async move {
            let batch = watcher.next_batch().await?;
            Some((batch, watcher))
        })
        .boxed()
    }

    /// `None` at the end: after `Errored`, or when the store is closed. Cancel-safe: what it awaits is only
    /// the news that there is something; position and pending events change without a wait between.
    async fn next_batch(&mut self) -> Option<Result<Vec<Event>, StateError>> {
        loop {
            if !self.contents.is_empty() {
                return Some(self.take_contents());
            }
            if !self.pending.is_empty() {
                return Some(Ok(self.take_pending()));
            }
            if self.ended {
                return None;
            }
            match self.shared.after(self.position, BATCH_CHANGES) {
                Err(_) => {
                    self.ended = true;
                    let mut event = dummy(&self.target, EventType::Errored, None);
                    event.error =
                        Some(format!("the watch fell behind: changes after {} are gone", self.position));
                    self.pending.push_back(event);
                }
                Ok(changes) if changes.is_empty() => {
                    let position = self.position;
                    self.published.wait_for(|&revision| revision > position).await.ok()?;
                }
                Ok(changes) => {
                    for (revision, change) in changes {
                        self.position = revision;
                        self.pending.extend(self.select(revision, &change));
                    }
                }
            }
        }
    }

    /// A batch of what there was at the start. What cannot be read ends the watch.
    fn take_contents(&mut self) -> Result<Vec<Event>, StateError> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(stored) = self.contents.pop_front() {
            let resource = stored.decode().inspect_err(|_| {
                self.contents.clear();
                self.pending.clear();
                self.ended = true;
            })?;
            let event = event(EventType::Created, resource, None);
            bytes += weight(&event);
            batch.push(event);
            if !self.aggregated || bytes >= BOOTSTRAP_BYTES {
                return Ok(batch);
            }
        }
        // Small contents come with the news that they are all.
        batch.extend(self.pending.drain(..));
        Ok(batch)
    }

    fn take_pending(&mut self) -> Vec<Event> {
        let mut batch: Vec<Event> = self.pending.pop_front().into_iter().collect();
        let mut bytes: usize = batch.iter().map(weight).sum();
        while self.aggregated
            && let Some(event) = self.pending.front()
            && bytes + weight(event) <= BATCH_BYTES
        {
            bytes += weight(event);
            batch.extend(self.pending.pop_front());
        }
        batch
    }

    /// What a change is to this watch. One that starts or ends a match is a creation or destruction to it.
    fn select(&self, revision: u64, change: &Change) -> Option<Event> {
        let metadata = &change.resource.metadata;
        let same_kind =
            metadata.namespace == self.target.kind.namespace && metadata.typ == self.target.kind.typ;
        if !same_kind || self.target.id.as_ref().is_some_and(|id| *id != metadata.id) {
            return None;
        }
        let now = self.filter.matches(&change.resource);
        let before = change.old.as_ref().map(|old| self.filter.matches(old));
        let typ = match (before, now) {
            (None, true) => change.typ,
            (Some(true), true) => EventType::Updated,
            (Some(true), false) => EventType::Destroyed,
            (Some(false), true) => EventType::Created,
            (None | Some(false), false) => return None,
        };
        let old = if typ == EventType::Updated { change.old.clone() } else { None };
        Some(event(typ, change.resource.clone(), old).at(revision))
    }
}

impl Event {
    fn at(mut self, revision: u64) -> Self {
        self.bookmark = Some(bookmark(revision));
        self
    }
}

fn check_options(target: &WatchTarget, options: &WatchOptions) -> Result<(), StateError> {
    let refused = |text: &str| Err(StateError::Unimplemented(text.to_owned()));
    if target.id.is_some() && options.bootstrap_contents {
        return refused("bootstrap contents are for watches of a kind");
    }
    if target.id.is_some() && !(options.label_queries.is_empty() && options.id_query.is_none()) {
        return refused("queries are for watches of a kind");
    }
    if options.bootstrap_contents && options.start_from_bookmark.is_some() {
        let text = "a watch starts from its contents or from a bookmark, not from both";
        return Err(StateError::InvalidArgument(text.to_owned()));
    }
    Ok(())
}

fn initial(snapshot: &Snapshot, target: &WatchTarget, id: &str) -> Result<Event, StateError> {
    let pointer = target.kind.pointer(id);
    Ok(match snapshot.get(&pointer)? {
        Some(resource) => event(EventType::Created, resource, None),
        None => event(EventType::Destroyed, Resource::empty(&pointer), None),
    })
}

fn event(typ: EventType, resource: Resource, old: Option<Resource>) -> Event {
    Event { typ, resource, old, bookmark: None, error: None }
}

fn dummy(target: &WatchTarget, typ: EventType, bookmark: Option<Bytes>) -> Event {
    let id = target.id.as_deref().unwrap_or_default();
    Event { bookmark, ..event(typ, Resource::empty(&target.kind.pointer(id)), None) }
}

/// About what it takes on the wire.
fn weight(event: &Event) -> usize {
    let of = |resource: &Resource| {
        let metadata = &resource.metadata;
        let maps = metadata.labels.iter().chain(&metadata.annotations);
        let maps: usize = maps.map(|(key, value)| key.len() + value.len()).sum();
        let finalizers: usize = metadata.finalizers.iter().map(String::len).sum();
        resource.spec.proto.len() + resource.spec.yaml.len() + maps + finalizers
    };
    EVENT_BYTES + of(&event.resource) + event.old.as_ref().map_or(0, of)
}

fn bookmark(revision: u64) -> Bytes {
    Bytes::copy_from_slice(&revision.to_be_bytes())
}

/// A bookmark from the future is of another store: waiting for it would be waiting in silence.
fn read_bookmark(bookmark: &Bytes, last: u64) -> Result<u64, StateError> {
    let bytes: [u8; 8] = bookmark
        .as_ref()
        .try_into()
        .map_err(|_| StateError::InvalidBookmark("bookmark does not have 8 bytes".to_owned()))?;
    let revision = u64::from_be_bytes(bytes);
    if revision > last {
        return Err(StateError::InvalidBookmark("bookmark is not of this store".to_owned()));
    }
    Ok(revision)
}
