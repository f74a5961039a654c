//! Our writes to Omni until Omni has them.
//!
//! ```text
//! act done -> put (on disk) -> view shows it -> sent -> done
//!                                  ^              |
//!                                  +-- Omni away -+   kept, in order, over restarts
//! ```
//!
//! A record is a whole state, so a later write of the same record takes the place of the one that waits:
//! each machine has at most one write a part here, which bounds it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cosi::Resource;
use prost_types::Timestamp;

use crate::disk::{Disk, DiskError, Waiting};
use crate::view::Part;

/// A write that waits.
#[derive(Debug, Clone, PartialEq)]
pub struct Pending {
    /// What it writes.
    pub part: Part,
    /// The resource to be; its version is the one that it was made from.
    pub resource: Resource,
    /// `created` of the InfraMachine that it is about: nothing is told of its successor.
    pub machine_created: Option<Timestamp>,
    sequence: u64,
    /// This very state is on the disk.
    saved: bool,
    /// A state of this part is on the disk.
    on_disk: bool,
}

/// See the module. The default one forgets everything at its end.
#[derive(Default)]
pub struct Outbox {
    disk: Option<Arc<Disk>>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    machines: BTreeMap<String, Vec<Pending>>,
    sequence: u64,
}

impl Outbox {
    /// What waited at the last end, and room for more.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn open(disk: Arc<Disk>) -> Result<Self, DiskError> {
        let mut inner = Inner::default();
        for (id, part, waiting) in disk.load_outbox()? {
            let Some(resource) = waiting.resource() else { continue };
            let Waiting { machine_created, sequence, .. } = waiting;
            inner.sequence = inner.sequence.max(sequence);
            let pending = Pending { part, resource, machine_created, sequence, saved: true, on_disk: true };
            inner.machines.entry(id).or_default().push(pending);
        }
        for waiting in inner.machines.values_mut() {
            waiting.sort_by_key(|pending| pending.sequence);
        }
        Ok(Self { disk: Some(disk), inner: Mutex::new(inner) })
    }

    /// How many writes wait.
    pub fn len(&self) -> usize {
        self.lock().machines.values().map(Vec::len).sum()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.lock().machines.is_empty()
    }

    /// Whether a write about this machine waits.
    pub fn holds(&self, id: &str) -> bool {
        self.lock().machines.contains_key(id)
    }

    /// Everything that waits.
    pub(crate) fn all(&self) -> Vec<(String, Pending)> {
        let inner = self.lock();
        let each = inner.machines.iter();
        each.flat_map(|(id, all)| all.iter().map(move |one| (id.clone(), one.clone()))).collect()
    }

    /// The machine's oldest write.
    pub(crate) fn first(&self, id: &str) -> Option<Pending> {
        self.lock().machines.get(id).and_then(|waiting| waiting.first().cloned())
    }

    /// Takes a write in. With `save` it is on the disk afterwards; should the disk refuse, it waits in
    /// memory all the same.
    pub(crate) async fn put(
        &self,
        id: &str,
        part: Part,
        resource: Resource,
        machine_created: Option<Timestamp>,
        save: bool,
    ) -> Result<(), DiskError> {
        {
            let mut inner = self.lock();
            inner.sequence += 1;
            let sequence = inner.sequence;
            let pending = Pending { part, resource, machine_created, sequence, saved: false, on_disk: false };
            let waiting = inner.machines.entry(id.to_owned()).or_default();
            match waiting.iter_mut().find(|known| known.part == part) {
                // It keeps the place of the one that it replaces: records go before what follows from them.
                Some(known) => {
                    let (sequence, on_disk) = (known.sequence, known.on_disk);
                    *known = Pending { sequence, on_disk, ..pending };
                }
                None => waiting.push(pending),
            }
        }
        if save { self.save(id).await } else { Ok(()) }
    }

    /// Puts the machine's writes on the disk.
    pub(crate) async fn save(&self, id: &str) -> Result<(), DiskError> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let unsaved: Vec<Pending> = {
            let inner = self.lock();
            let waiting = inner.machines.get(id).into_iter().flatten();
            waiting.filter(|pending| !pending.saved).cloned().collect()
        };
        if unsaved.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> =
            unsaved.iter().map(|pending| (id.to_owned(), pending.part, row(pending))).collect();
        let disk = Arc::clone(disk);
        blocking(move || disk.put_waiting(&rows)).await?;
        let mut inner = self.lock();
        for pending in inner.machines.get_mut(id).into_iter().flatten() {
            if unsaved.contains(pending) {
                pending.saved = true;
            }
            pending.on_disk |= unsaved.iter().any(|one| one.part == pending.part);
        }
        Ok(())
    }

    /// Omni has it, or it is void.
    pub(crate) async fn done(&self, id: &str, sent: &Pending) -> Result<(), DiskError> {
        {
            let mut inner = self.lock();
            let Some(waiting) = inner.machines.get_mut(id) else { return Ok(()) };
            // Only this very write: a later one may have taken its place meanwhile.
            let same = |known: &Pending| known.part == sent.part && known.resource == sent.resource;
            let Some(place) = waiting.iter().position(same) else { return Ok(()) };
            let removed = waiting.remove(place);
            if waiting.is_empty() {
                inner.machines.remove(id);
            }
            if !removed.on_disk {
                return Ok(());
            }
        }
        self.unsave(id, &[sent.part]).await
    }

    /// The machine is gone: nothing is told about it any more.
    pub(crate) async fn forget(&self, id: &str) -> Result<(), DiskError> {
        let Some(waiting) = self.lock().machines.remove(id) else { return Ok(()) };
        let parts: Vec<Part> =
            waiting.iter().filter(|pending| pending.on_disk).map(|pending| pending.part).collect();
        if parts.is_empty() { Ok(()) } else { self.unsave(id, &parts).await }
    }

    async fn unsave(&self, id: &str, parts: &[Part]) -> Result<(), DiskError> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let rows: Vec<_> = parts.iter().map(|part| (id.to_owned(), *part)).collect();
        let disk = Arc::clone(disk);
        blocking(move || disk.drop_waiting(&rows)).await
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn row(pending: &Pending) -> Waiting {
    Waiting::new(&pending.resource, pending.machine_created, pending.sequence)
}

/// The disk may take its time. Once begun it is done, even if nobody waits for it any more.
async fn blocking(work: impl FnOnce() -> Result<(), DiskError> + Send + 'static) -> Result<(), DiskError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
