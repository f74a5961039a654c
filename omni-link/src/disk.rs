//! What survives a restart without Omni: the view, and the writes that wait.
//!
//! One file (redb). The view in it is a cache: it may be older than the one in memory, and that of another
//! Omni is dropped. The waiting writes are none: what is taken in is on the disk before the answer.

use std::path::Path;

use bytes::Bytes;
use cosi::Resource;
use cosi::database::{self, OpenError};
use cosi_wire::resource as wire;
use prost::Message;
use prost_types::Timestamp;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use crate::view::Part;

/// Page cache: the file is read once and then only written.
const CACHE_BYTES: usize = 1 << 20;
const FORMAT: &str = "format";
const FORMAT_VALUE: u64 = 1;
/// What is no number.
const NO_FORMAT: u64 = 0;
const ORIGIN: &str = "origin";

/// Part, id.
type Key = (&'static str, &'static str);
/// The view's resources.
const VIEW: TableDefinition<'static, Key, &'static [u8]> = TableDefinition::new("view");
/// The waiting writes.
const OUTBOX: TableDefinition<'static, Key, &'static [u8]> = TableDefinition::new("outbox");
/// What the other tables are.
const FACTS: TableDefinition<'static, &'static str, &'static str> = TableDefinition::new("facts");

/// Why the file was not written.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the file of the view: {0}")]
pub struct DiskError(#[source] Box<redb::Error>);

impl<E: Into<redb::Error>> From<E> for DiskError {
    fn from(error: E) -> Self {
        Self(Box::new(error.into()))
    }
}

/// A waiting write as stored.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Waiting {
    #[prost(message, optional, tag = "1")]
    resource: Option<wire::Resource>,
    /// `created` of the InfraMachine that it is about.
    #[prost(message, optional, tag = "2")]
    pub(crate) machine_created: Option<Timestamp>,
    /// Its place in the order.
    #[prost(uint64, tag = "3")]
    pub(crate) sequence: u64,
}

impl Waiting {
    pub(crate) fn new(resource: &Resource, machine_created: Option<Timestamp>, sequence: u64) -> Self {
        Self { resource: Some(resource.clone().into()), machine_created, sequence }
    }

    pub(crate) fn resource(&self) -> Option<Resource> {
        self.resource.clone()?.try_into().ok()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Disk {
    database: Database,
}

impl Disk {
    /// Opens the file, or creates it for its owner's eyes only: it holds what the view holds.
    ///
    /// # Errors
    /// See [`OpenError`]; the file is left as it is.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let disk = Self { database: database::open(path, CACHE_BYTES)? };
        let found = disk.prepare().map_err(|DiskError(error)| database::damaged(path, *error))?;
        if found != FORMAT_VALUE {
            return Err(OpenError::Format { path: path.to_path_buf(), found, expected: FORMAT_VALUE });
        }
        Ok(disk)
    }

    /// In memory; for tests.
    ///
    /// # Errors
    /// Never in practice.
    pub fn in_memory() -> Result<Self, OpenError> {
        let disk = Self { database: database::in_memory(CACHE_BYTES)? };
        disk.prepare().map_err(|DiskError(error)| database::damaged(Path::new("(memory)"), *error))?;
        Ok(disk)
    }

    /// Creates the tables; answers the format.
    fn prepare(&self) -> Result<u64, DiskError> {
        let write = self.database.begin_write()?;
        {
            let mut facts = write.open_table(FACTS)?;
            let found = facts.get(FORMAT)?.map(|format| format.value().parse());
            match found {
                Some(Ok(FORMAT_VALUE)) => {}
                Some(other) => return Ok(other.unwrap_or(NO_FORMAT)),
                None => drop(facts.insert(FORMAT, FORMAT_VALUE.to_string().as_str())?),
            }
            write.open_table(VIEW)?;
            write.open_table(OUTBOX)?;
        }
        write.commit()?;
        Ok(FORMAT_VALUE)
    }

    /// The view as it was; nothing when it was that of another `origin`.
    pub(crate) fn load_view(&self, origin: &str) -> Result<Vec<(Part, Resource)>, DiskError> {
        let write = self.database.begin_write()?;
        let mut loaded = Vec::new();
        {
            let mut facts = write.open_table(FACTS)?;
            let same = facts.get(ORIGIN)?.is_some_and(|known| known.value() == origin);
            let mut view = write.open_table(VIEW)?;
            if same {
                for entry in view.iter()? {
                    let (key, value) = entry?;
                    loaded.extend(read(key.value(), |()| decode(value.value())));
                }
            } else {
                view.retain(|_, _| false)?;
                facts.insert(ORIGIN, origin)?;
            }
        }
        write.commit()?;
        Ok(loaded)
    }

    /// Writes what changed in the view; `None` is gone.
    pub(crate) fn save_view(&self, changes: &[(Part, String, Option<Resource>)]) -> Result<(), DiskError> {
        let write = self.database.begin_write()?;
        {
            let mut view = write.open_table(VIEW)?;
            for (part, id, resource) in changes {
                let key = (part.name(), id.as_str());
                match resource {
                    Some(resource) => drop(view.insert(key, encode(resource).as_slice())?),
                    None => drop(view.remove(key)?),
                }
            }
        }
        write.commit()?;
        Ok(())
    }

    /// All waiting writes with their machines, in no order.
    pub(crate) fn load_outbox(&self) -> Result<Vec<(String, Part, Waiting)>, DiskError> {
        let read_only = self.database.begin_read()?;
        let mut loaded = Vec::new();
        for entry in read_only.open_table(OUTBOX)?.iter()? {
            let (key, value) = entry?;
            let id = key.value().1.to_owned();
            let decoded = read(key.value(), |()| Waiting::decode(Bytes::copy_from_slice(value.value())).ok());
            loaded.extend(decoded.map(|(part, waiting)| (id, part, waiting)));
        }
        Ok(loaded)
    }

    /// Takes waiting writes in; they are on the disk when this returns.
    pub(crate) fn put_waiting(&self, waiting: &[(String, Part, Waiting)]) -> Result<(), DiskError> {
        let write = self.database.begin_write()?;
        {
            let mut outbox = write.open_table(OUTBOX)?;
            for (id, part, waiting) in waiting {
                outbox.insert((part.name(), id.as_str()), waiting.encode_to_vec().as_slice())?;
            }
        }
        write.commit()?;
        Ok(())
    }

    /// Forgets waiting writes. This may come back after a crash: a write that is sent twice finds itself.
    pub(crate) fn drop_waiting(&self, sent: &[(String, Part)]) -> Result<(), DiskError> {
        let mut write = self.database.begin_write()?;
        write.set_durability(Durability::None)?;
        {
            let mut outbox = write.open_table(OUTBOX)?;
            for (id, part) in sent {
                outbox.remove((part.name(), id.as_str()))?;
            }
        }
        write.commit()?;
        Ok(())
    }
}

fn encode(resource: &Resource) -> Vec<u8> {
    wire::Resource::from(resource.clone()).encode_to_vec()
}

fn decode(bytes: &[u8]) -> Option<Resource> {
    wire::Resource::decode(Bytes::copy_from_slice(bytes)).ok()?.try_into().ok()
}

/// One row; a row that cannot be read is passed over.
fn read<T>((part, id): (&str, &str), value: impl FnOnce(()) -> Option<T>) -> Option<(Part, T)> {
    let found = Part::by_name(part).zip(value(()));
    if found.is_none() {
        tracing::warn!(part, machine = id, "passing over a row of the view's file that cannot be read");
    }
    found
}

#[cfg(test)]
mod tests;
