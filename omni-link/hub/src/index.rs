//! Which machines there are and at which address each was seen last, so that no call looks through all links.
//!
//! It is a hint: who uses an address reads the link and sees whether it is true. So it needs no lock with the
//! store; it must only never lack what is there. Each hint has a number, and one that proved wrong goes only
//! if nobody has given it anew since.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cosi::{EventType, Resource, State as _, StateError, WatchOptions, WatchTarget};
use futures_util::StreamExt;
use provider::specs::SiderolinkSpec;

use crate::limits::RETRY_PAUSE;
use crate::store::{Store, decode, kind};

/// Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Index {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    machines: HashSet<String>,
    by_address: HashMap<String, BTreeMap<String, u64>>,
    last: u64,
}

/// A machine that may be at an address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Hint {
    pub(crate) machine: String,
    number: u64,
}

impl Index {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many machines have a link.
    pub(crate) fn machines(&self) -> usize {
        self.lock().machines.len()
    }

    /// The machine has this link; called after it was written.
    pub(crate) fn seen(&self, machine: &str, link: &SiderolinkSpec) {
        let mut inner = self.lock();
        inner.machines.insert(machine.to_owned());
        if link.remote_addr.is_empty() {
            return;
        }
        inner.last += 1;
        let number = inner.last;
        inner.by_address.entry(link.remote_addr.clone()).or_default().insert(machine.to_owned(), number);
    }

    /// The machines that may be at the address.
    pub(crate) fn at(&self, address: &str) -> Vec<Hint> {
        let inner = self.lock();
        let hints = inner.by_address.get(address).into_iter().flatten();
        hints.map(|(machine, number)| Hint { machine: machine.clone(), number: *number }).collect()
    }

    /// The hint proved wrong.
    pub(crate) fn wrong(&self, address: &str, hint: &Hint) {
        let mut inner = self.lock();
        let Some(machines) = inner.by_address.get_mut(address) else { return };
        if machines.get(&hint.machine) == Some(&hint.number) {
            machines.remove(&hint.machine);
        }
        if machines.is_empty() {
            inner.by_address.remove(address);
        }
    }

    fn gone(&self, machine: &str) {
        self.lock().machines.remove(machine);
    }

    /// Takes in all links.
    pub(crate) async fn load(&self, store: &Store) -> Result<(), StateError> {
        for resource in store.list(&kind::<SiderolinkSpec>()).await? {
            self.take(&resource);
        }
        Ok(())
    }

    fn take(&self, resource: &Resource) {
        match decode(resource) {
            Ok(link) => self.seen(resource.id(), &link),
            Err(error) => tracing::warn!(%error, "a link is not indexed"),
        }
    }

    /// Follows the store for ever: links are also removed, and written by others than the hub.
    pub(crate) async fn run(&self, store: &Store) {
        loop {
            if let Err(error) = self.follow(store).await {
                tracing::warn!(%error, "the watch of the links broke, it begins anew");
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn follow(&self, store: &Store) -> Result<(), StateError> {
        let target = WatchTarget::kind(kind::<SiderolinkSpec>());
        let options = WatchOptions { bootstrap_contents: true, aggregated: true, ..WatchOptions::default() };
        let mut events = store.state().watch(&target, &options).await?;
        while let Some(batch) = events.next().await {
            for event in batch? {
                match event.typ {
                    EventType::Created | EventType::Updated => self.take(&event.resource),
                    EventType::Destroyed => self.forget(store, &event.resource).await?,
                    EventType::Bootstrapped | EventType::Noop => {}
                    EventType::Errored => {
                        return Err(StateError::Unavailable(event.error.unwrap_or_default()));
                    }
                }
            }
        }
        Ok(())
    }

    /// The link was destroyed; there may be a new one already.
    async fn forget(&self, store: &Store, destroyed: &Resource) -> Result<(), StateError> {
        let link: SiderolinkSpec = decode(destroyed)?;
        let machine = destroyed.id();
        let hints = self.at(&link.remote_addr);
        match store.find::<SiderolinkSpec>(machine).await? {
            Some(new) => self.seen(machine, &new.spec),
            None => {
                self.gone(machine);
                for hint in hints.iter().filter(|hint| hint.machine == machine) {
                    self.wrong(&link.remote_addr, hint);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
