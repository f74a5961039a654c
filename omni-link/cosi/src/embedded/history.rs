//! The last changes, which watchers read each at its own pace.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::{EventType, Resource};

/// One committed change.
#[derive(Debug)]
pub(super) struct Change {
    /// `Created`, `Updated` or `Destroyed`.
    pub(super) typ: EventType,
    pub(super) resource: Resource,
    pub(super) old: Option<Resource>,
    pub(super) bytes: usize,
}

/// The reader is so far behind that changes it has not seen are no longer kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overrun;

/// Changes number `floor + 1` to `floor + len`, without a gap.
#[derive(Debug)]
struct History {
    changes: VecDeque<Arc<Change>>,
    floor: u64,
    bytes: usize,
    max_changes: usize,
    max_bytes: usize,
}

/// A change with its revision.
pub(super) type Numbered = (u64, Arc<Change>);

impl History {
    fn head(&self) -> u64 {
        self.floor + self.changes.len() as u64
    }

    fn restart(&mut self, revision: u64) {
        self.changes.clear();
        self.bytes = 0;
        self.floor = revision;
    }

    fn push(&mut self, change: Change) {
        self.bytes += change.bytes;
        self.changes.push_back(Arc::new(change));
        while self.changes.len() > self.max_changes.max(1)
            || (self.bytes > self.max_bytes && self.changes.len() > 1)
        {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.bytes -= oldest.bytes;
            self.floor += 1;
        }
    }

    fn after(&self, position: u64, limit: usize) -> Result<Vec<Numbered>, Overrun> {
        let seen = position.checked_sub(self.floor).ok_or(Overrun)?;
        let seen = usize::try_from(seen).unwrap_or(usize::MAX);
        let unseen = self.changes.iter().skip(seen).take(limit);
        Ok((position + 1..).zip(unseen.cloned()).collect())
    }
}

/// What the writer and the watchers share.
#[derive(Debug)]
pub(super) struct Shared {
    history: Mutex<History>,
    published: watch::Receiver<u64>,
}

/// The writer's end: while it lives, watches go on.
#[derive(Debug)]
pub(super) struct Publisher {
    shared: Arc<Shared>,
    published: watch::Sender<u64>,
}

impl Publisher {
    /// The history of a store whose last change has that revision.
    pub(super) fn new(revision: u64, max_changes: usize, max_bytes: usize) -> Self {
        let history = History { changes: VecDeque::new(), floor: revision, bytes: 0, max_changes, max_bytes };
        let (sender, receiver) = watch::channel(revision);
        let shared = Shared { history: Mutex::new(history), published: receiver };
        Self { shared: Arc::new(shared), published: sender }
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Called after the commit of changes number `before + 1` and on.
    pub(super) fn publish(&self, before: u64, changes: Vec<Change>) {
        let mut history = self.shared.lock();
        if history.head() != before {
            // A commit that was reported as failed had happened: whoever waited for it must start afresh.
            history.restart(before);
        }
        for change in changes {
            history.push(change);
        }
        let head = history.head();
        drop(history);
        self.published.send_replace(head);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to `limit` changes after a revision, none when there are none yet.
    pub(super) fn after(&self, position: u64, limit: usize) -> Result<Vec<Numbered>, Overrun> {
        self.lock().after(position, limit)
    }

    /// A bookmark of that revision has lost nothing.
    pub(super) fn reaches(&self, revision: u64) -> bool {
        self.lock().floor <= revision
    }

    /// Wakes with each publication; fails when the store is closed.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.published.clone()
    }
}

#[cfg(test)]
mod tests;
