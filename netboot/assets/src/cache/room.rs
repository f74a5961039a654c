//! Room for what is fetched: within the cache's own size, and without filling the file system.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use super::store::{Key, Record};
use super::{Entry, FILE_MAX, KEPT_FOR, Shared};

/// Why there is no room.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoRoom {
    #[error("a file of {0} bytes is larger than any of an image")]
    File(u64),
    #[error("the image cache (boot.image_cache_mb) is full of images in use")]
    Cache,
    #[error("the file system is full: {free} bytes are free, of which {reserve} stay free")]
    Disk { free: u64, reserve: u64 },
    #[error("the file system does not tell what is free")]
    Unknown(#[source] io::Error),
    #[error("an old image cannot be removed")]
    Remove(#[source] io::Error),
}

/// Bytes of the cache that are taken for a file; given back when it is dropped.
pub(super) struct Room {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.images().coming -= self.bytes;
    }
}

impl Shared {
    /// Takes room for a file, which images are removed for that were not used for longest. Blocks.
    pub(super) fn room(self: &Arc<Self>, bytes: u64) -> Result<Room, NoRoom> {
        if bytes > FILE_MAX {
            return Err(NoRoom::File(bytes));
        }
        loop {
            let disk = self.disk_room(bytes);
            let mut images = self.images();
            let held: u64 = images.entries.values().map(Entry::bytes).sum();
            let fits = held.saturating_add(images.coming).saturating_add(bytes) <= self.config.bytes_max;
            let lack = match (fits, disk) {
                (_, Err(error @ NoRoom::Unknown(_))) => return Err(error),
                (true, Ok(())) => {
                    images.coming += bytes;
                    return Ok(Room { shared: Arc::clone(self), bytes });
                }
                (true, Err(error)) => error,
                (false, _) => NoRoom::Cache,
            };
            let Some((key, record)) = self.eldest(&images.entries) else { return Err(lack) };
            images.entries.insert(key.clone(), Entry::Busy);
            drop(images);
            let removed = self.store.remove(&key);
            self.images().entries.remove(&key);
            removed.map_err(NoRoom::Remove)?;
            tracing::info!(
                schematic = %key.id, version = key.version, arch = %key.arch, bytes = record.bytes(),
                "removed the image that was not used for longest"
            );
        }
    }

    /// Whether so many bytes more leave the reserve free.
    pub(super) fn disk_room(&self, bytes: u64) -> Result<(), NoRoom> {
        let (free, reserve) = (self.store.free().map_err(NoRoom::Unknown)?, self.config.reserve);
        if free < bytes.saturating_add(reserve) { Err(NoRoom::Disk { free, reserve }) } else { Ok(()) }
    }

    /// The image that was not used for longest, of those that no machine was told to boot lately and nobody is
    /// being served.
    fn eldest(&self, entries: &std::collections::HashMap<Key, Entry>) -> Option<(Key, Arc<Record>)> {
        let mut idle: Vec<(SystemTime, &Key, &Arc<Record>)> = entries
            .iter()
            .filter_map(|(key, entry)| match entry {
                Entry::Ready { told: Some(told), .. } if told.elapsed() < KEPT_FOR => None,
                Entry::Ready { record, used, .. } => Some((*used, key, record)),
                Entry::Unchecked { .. } | Entry::Busy | Entry::Failed { .. } => None,
            })
            .collect();
        idle.sort_unstable_by_key(|(used, ..)| *used);
        let (_, key, record) =
            idle.into_iter().find(|(_, key, record)| self.store.lock(key, record).is_some())?;
        Some((key.clone(), Arc::clone(record)))
    }
}

impl Entry {
    fn bytes(&self) -> u64 {
        match self {
            Self::Unchecked { record, .. } | Self::Ready { record, .. } => record.bytes(),
            Self::Busy | Self::Failed { .. } => 0,
        }
    }
}
