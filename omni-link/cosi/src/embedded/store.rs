//! The file: tables, opening, reading.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cosi_wire::resource as wire;
use prost::Message;
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};

use super::{CACHE_BYTES, Clock};
use crate::database::{self, OpenError};
use crate::query::Filter;
use crate::{Kind, Pointer, Resource, StateError};

/// Namespace, type, id.
pub(super) type Key = (&'static str, &'static str, &'static str);

/// Each resource as the message of the wire.
pub(super) const RESOURCES: TableDefinition<'static, Key, &'static [u8]> = TableDefinition::new("resources");
/// Numbers about the store.
pub(super) const NUMBERS: TableDefinition<'static, &'static str, u64> = TableDefinition::new("numbers");
/// In [`NUMBERS`]: the revision of the last change.
pub(super) const REVISION: &str = "revision";
/// In [`NUMBERS`]: what the tables mean.
const FORMAT: &str = "format";
const FORMAT_VALUE: u64 = 1;
/// A new store begins at its birth in seconds, shifted by this: more changes than a store sees in a second.
const BIRTH_SHIFT: u32 = 20;

/// The open file.
#[derive(Debug, Clone)]
pub(super) struct Store {
    database: Arc<Database>,
    path: PathBuf,
}

/// What one commit left.
pub(super) struct Snapshot {
    resources: ReadOnlyTable<Key, &'static [u8]>,
    revision: u64,
}

impl Store {
    pub(super) fn open(path: &Path, clock: &Clock) -> Result<Self, OpenError> {
        Self::prepare(database::open(path, CACHE_BYTES)?, path, clock)
    }

    pub(super) fn in_memory(clock: &Clock) -> Result<Self, OpenError> {
        let path = Path::new("(memory)");
        Self::prepare(database::in_memory(CACHE_BYTES)?, path, clock)
    }

    /// Creates the tables of a new store; checks the format of an old one.
    fn prepare(database: Database, path: &Path, clock: &Clock) -> Result<Self, OpenError> {
        let store = Self { database: Arc::new(database), path: path.to_path_buf() };
        let found = store.initialise(clock).map_err(|error| store.damaged(error))?;
        if found != FORMAT_VALUE {
            let path = store.path;
            return Err(OpenError::Format { path, found, expected: FORMAT_VALUE });
        }
        Ok(store)
    }

    fn initialise(&self, clock: &Clock) -> Result<u64, redb::Error> {
        let write = self.database.begin_write()?;
        {
            let mut numbers = write.open_table(NUMBERS)?;
            let format = numbers.get(FORMAT)?.map(|format| format.value());
            if let Some(format) = format {
                return Ok(format);
            }
            numbers.insert(FORMAT, FORMAT_VALUE)?;
            let birth = u64::try_from(clock().seconds).unwrap_or_default();
            numbers.insert(REVISION, birth << BIRTH_SHIFT)?;
            write.open_table(RESOURCES)?;
        }
        write.commit()?;
        Ok(FORMAT_VALUE)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    pub(super) fn revision(&self) -> Result<u64, OpenError> {
        self.try_snapshot().map(|snapshot| snapshot.revision).map_err(|error| self.damaged(error))
    }

    pub(super) fn snapshot(&self) -> Result<Snapshot, StateError> {
        self.try_snapshot().map_err(|error| unreadable(&error))
    }

    fn try_snapshot(&self) -> Result<Snapshot, redb::Error> {
        let read = self.database.begin_read()?;
        let revision = read.open_table(NUMBERS)?.get(REVISION)?.map_or(0, |revision| revision.value());
        Ok(Snapshot { resources: read.open_table(RESOURCES)?, revision })
    }

    fn damaged(&self, error: redb::Error) -> OpenError {
        database::damaged(&self.path, error)
    }
}

impl Snapshot {
    /// The revision of the last change that is in it.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn get(&self, pointer: &Pointer) -> Result<Option<Resource>, StateError> {
        read(&self.resources, pointer)
    }

    pub(super) fn list(&self, kind: &Kind, filter: &Filter) -> Result<Vec<Resource>, StateError> {
        let mut resources = Vec::new();
        self.each(kind, |stored| {
            let resource = stored.decode()?;
            if filter.matches(&resource) {
                resources.push(resource);
            }
            Ok(())
        })?;
        Ok(resources)
    }

    /// The same as it is stored: a fraction of what the resources take.
    pub(super) fn list_stored(&self, kind: &Kind, filter: &Filter) -> Result<VecDeque<Stored>, StateError> {
        let mut all = VecDeque::new();
        self.each(kind, |stored| {
            if filter.is_empty() || filter.matches(&stored.decode()?) {
                all.push_back(Stored(stored.0.into()));
            }
            Ok(())
        })?;
        Ok(all)
    }

    fn each(
        &self,
        kind: &Kind,
        mut take: impl FnMut(Stored<&[u8]>) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        // The next type in the order of texts is this one with a zero byte behind.
        let next = format!("{}\0", kind.typ);
        let first = (kind.namespace.as_str(), kind.typ.as_str(), "");
        let end = (kind.namespace.as_str(), next.as_str(), "");
        for entry in self.resources.range(first..end).map_err(|error| unreadable(&error))? {
            let (_, value) = entry.map_err(|error| unreadable(&error))?;
            take(Stored(value.value()))?;
        }
        Ok(())
    }
}

/// A resource as it is in the file.
pub(super) struct Stored<B = Box<[u8]>>(B);

impl<B: AsRef<[u8]>> Stored<B> {
    pub(super) fn decode(&self) -> Result<Resource, StateError> {
        decode(self.0.as_ref())
    }
}

pub(super) fn read(
    table: &impl ReadableTable<Key, &'static [u8]>,
    pointer: &Pointer,
) -> Result<Option<Resource>, StateError> {
    let key = (pointer.namespace.as_str(), pointer.typ.as_str(), pointer.id.as_str());
    match table.get(key).map_err(|error| unreadable(&error))? {
        None => Ok(None),
        Some(value) => decode(value.value()).map(Some),
    }
}

fn decode(bytes: &[u8]) -> Result<Resource, StateError> {
    let message = wire::Resource::decode(Bytes::copy_from_slice(bytes));
    let message = message.map_err(|error| unreadable(&error))?;
    Resource::try_from(message).map_err(|error| unreadable(&error))
}

pub(super) fn encode(resource: &Resource) -> Vec<u8> {
    wire::Resource::from(resource.clone()).encode_to_vec()
}

pub(super) fn not_found(pointer: &Pointer) -> StateError {
    StateError::NotFound(format!("resource {pointer} does not exist"))
}

/// Nothing that the caller can do anything about.
pub(super) fn unreadable(error: &dyn std::fmt::Display) -> StateError {
    tracing::error!(%error, "the store cannot be read");
    StateError::Unknown(format!("the store cannot be read: {error}"))
}
