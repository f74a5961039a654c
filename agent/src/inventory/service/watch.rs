//! A watch: what differs between the snapshot that the client knows and the newest one.
//!
//! No history is kept: a slow client gets fewer events, not an overrun. A bookmark is good as long as nothing
//! changed since, and for this run of the agent only.

use std::collections::VecDeque;
use std::sync::Arc;

use cosi_wire::resource::{Event, EventType, Metadata, Resource, Spec, WatchRequest, WatchResponse};
use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::Status;

use super::{META, queries_match, resource};
use crate::inventory::Source;
use crate::inventory::registry::{LOOK_AGAIN, Registry, Snapshot, Stored};

/// What is watched, and how it is told.
#[derive(Debug)]
struct Target {
    namespace: String,
    typ: String,
    /// None: all of the kind.
    id: Option<String>,
    /// The label queries let resources through.
    matches: bool,
    aggregated: bool,
    /// From 1 on, clients know all types of events.
    api_version: i32,
    epoch: [u8; 8],
}

struct Watcher<S> {
    registry: Arc<Registry<S>>,
    target: Target,
    seen: Arc<Snapshot>,
    changes: watch::Receiver<Arc<Snapshot>>,
    pending: VecDeque<WatchResponse>,
    _permit: OwnedSemaphorePermit,
}

/// Begins a watch; its first message is empty.
pub(super) async fn start<S: Source>(
    registry: Arc<Registry<S>>,
    request: WatchRequest,
    permit: OwnedSemaphorePermit,
) -> Result<impl Stream<Item = Result<WatchResponse, Status>> + Send + 'static, Status> {
    let options = request.options.unwrap_or_default();
    if options.tail_events > 0 || options.id_query.is_some() {
        return Err(Status::unimplemented("tail events and id queries are not implemented"));
    }
    let one = request.id.is_some();
    if one && (options.bootstrap_contents || !options.label_query.is_empty()) {
        return Err(Status::unimplemented(
            "bootstrap contents and label queries are not implemented for a watch of one resource",
        ));
    }
    let target = Target {
        namespace: request.namespace,
        typ: request.r#type,
        id: request.id,
        matches: queries_match(&options.label_query)?,
        aggregated: options.aggregated,
        api_version: request.api_version,
        epoch: registry.epoch,
    };
    let (seen, changes) =
        if target.namespace == META { registry.known() } else { registry.refreshed().await? };
    let mut events = Vec::new();
    if let Some(bookmark) = &options.start_from_bookmark {
        if bookmark[..] != target.bookmark(&seen) {
            return Err(Status::failed_precondition("invalid watch bookmark"));
        }
    } else if one {
        events.push(target.as_it_is(&seen));
    } else if options.bootstrap_contents {
        events.extend(target.changes(&Snapshot::default(), &seen));
        events.push(target.dummy(EventType::Bootstrapped, &seen));
    }
    if options.bootstrap_bookmark {
        events.push(target.dummy(EventType::Noop, &seen));
    }
    let mut pending = VecDeque::from([WatchResponse::default()]);
    target.tell(events, &mut pending);
    let watcher = Watcher { registry, target, seen, changes, pending, _permit: permit };
    Ok(stream::unfold(watcher, |mut watcher| async move {
        let next = watcher.next().await;
        Some((next, watcher))
    }))
}

impl<S: Source> Watcher<S> {
    async fn next(&mut self) -> Result<WatchResponse, Status> {
        loop {
            if let Some(response) = self.pending.pop_front() {
                return Ok(response);
            }
            // Cancel-safe: a change stays marked until it is taken below.
            tokio::select! {
                _ = self.changes.changed() => {}
                () = tokio::time::sleep(LOOK_AGAIN), if self.target.namespace != META => {
                    self.registry.refreshed().await?;
                }
            }
            let now = self.changes.borrow_and_update().clone();
            let mut events = self.target.changes(&self.seen, &now);
            if let Some(last) = events.last_mut() {
                last.bookmark = Some(self.target.bookmark(&now).to_vec().into());
            }
            self.target.tell(events, &mut self.pending);
            self.seen = now;
        }
    }
}

impl Target {
    /// Where the client is: which run of the agent, and which snapshot of it.
    fn bookmark(&self, snapshot: &Snapshot) -> [u8; 16] {
        let mut bookmark = [0; 16];
        bookmark[..8].copy_from_slice(&self.epoch);
        bookmark[8..].copy_from_slice(&snapshot.sequence.to_be_bytes());
        bookmark
    }

    fn changes(&self, old: &Snapshot, new: &Snapshot) -> Vec<Event> {
        if !self.matches {
            return Vec::new();
        }
        let wanted = |id: &str| self.id.as_deref().is_none_or(|wanted| wanted == id);
        let mut old = old.of(&self.namespace, &self.typ);
        let mut events = Vec::new();
        for (id, stored) in new.of(&self.namespace, &self.typ) {
            let before = old.remove(id);
            if !wanted(id) || before.is_some_and(|before| Arc::ptr_eq(before, stored)) {
                continue;
            }
            let typ = if before.is_some() { EventType::Updated } else { EventType::Created };
            events.push(event(typ, resource(stored), before.map(|before| resource(before))));
        }
        let gone = old.into_iter().filter(|(id, _)| wanted(id));
        events.extend(gone.map(|(_, stored)| event(EventType::Destroyed, resource(stored), None)));
        events
    }

    /// The first event of a watch of one resource.
    fn as_it_is(&self, snapshot: &Snapshot) -> Event {
        let id = self.id.as_deref().unwrap_or_default();
        let stored: Option<&Arc<Stored>> = snapshot.of(&self.namespace, &self.typ).get(id).copied();
        match stored {
            Some(stored) => event(EventType::Created, resource(stored), None),
            None => event(EventType::Destroyed, self.tombstone(id), None),
        }
    }

    /// An event about no resource.
    fn dummy(&self, typ: EventType, snapshot: &Snapshot) -> Event {
        let mut event = event(typ, self.tombstone(""), None);
        event.bookmark = Some(self.bookmark(snapshot).to_vec().into());
        event
    }

    fn tombstone(&self, id: &str) -> Resource {
        let metadata = Metadata {
            namespace: self.namespace.clone(),
            r#type: self.typ.clone(),
            id: id.to_owned(),
            version: "undefined".to_owned(),
            phase: "running".to_owned(),
            ..Metadata::default()
        };
        Resource { metadata: Some(metadata), spec: Some(Spec::default()) }
    }

    /// Puts the events into messages.
    fn tell(&self, mut events: Vec<Event>, to: &mut VecDeque<WatchResponse>) {
        if self.api_version < 1 {
            events.retain(|event| {
                matches!(event.event_type(), EventType::Created | EventType::Updated | EventType::Destroyed)
            });
        }
        if self.aggregated {
            to.extend((!events.is_empty()).then_some(WatchResponse { event: events }));
        } else {
            to.extend(events.into_iter().map(|event| WatchResponse { event: vec![event] }));
        }
    }
}

fn event(typ: EventType, resource: Resource, old: Option<Resource>) -> Event {
    Event { resource: Some(resource), event_type: typ.into(), old, error: None, bookmark: None }
}
