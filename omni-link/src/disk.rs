//! What survives a restart without Omni: the view, and the writes that wait.
//!
//! One file (redb). The view in it is a cache: it may be older than the one in memory, and that of another
//! Omni is dropped. The waiting writes are none: what is taken in is on the disk before the answer.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cosi::Resource;
use prost::Message;
use prost_types::Timestamp;
use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageError,
    TableDefinition,
};

use crate::view::Part;

mod envelope;

/// Page cache: the file is read once and then only written.
const CACHE_BYTES: usize = 1 << 20;
const FORMAT: &str = "format";
const FORMAT_VALUE: &str = "1";
const ORIGIN: &str = "origin";

/// Part, id.
type Key = (&'static str, &'static str);
/// The view's resources.
const VIEW: TableDefinition<'static, Key, &'static [u8]> = TableDefinition::new("view");
/// The waiting writes.
const OUTBOX: TableDefinition<'static, Key, &'static [u8]> = TableDefinition::new("outbox");
/// What the other tables are.
const FACTS: TableDefinition<'static, &'static str, &'static str> = TableDefinition::new("facts");

/// Why the file did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{0} is in use")]
    InUse(PathBuf),
    /// It is damaged or something else.
    #[error("{path} is damaged or is no view: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It cannot be read or written.
    #[error("cannot open {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

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
    resource: Option<cosi_wire::resource::Resource>,
    /// `created` of the InfraMachine that it is about.
    #[prost(message, optional, tag = "2")]
    pub(crate) machine_created: Option<Timestamp>,
    /// Its place in the order.
    #[prost(uint64, tag = "3")]
    pub(crate) sequence: u64,
}

impl Waiting {
    pub(crate) fn new(resource: &Resource, machine_created: Option<Timestamp>, sequence: u64) -> Self {
        Self { resource: Some(envelope::to_wire(resource)), machine_created, sequence }
    }

    pub(crate) fn resource(&self) -> Option<Resource> {
        envelope::from_wire(self.resource.clone()?)
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
        let failed = |source| OpenError::Io { path: path.to_path_buf(), source };
        let backend = FileBackend::new(open_file(path).map_err(failed)?);
        let database = backend
            .and_then(|backend| builder().create_with_backend(backend))
            .map_err(|error| open_error(path, error))?;
        let disk = Self { database };
        let corrupt = |reason| OpenError::Corrupt { path: path.to_path_buf(), reason };
        match disk.prepare() {
            Ok(None) => Ok(disk),
            Ok(Some(format)) => Err(corrupt(format!("it has format {format}, not {FORMAT_VALUE}"))),
            Err(error) => Err(corrupt(error.to_string())),
        }
    }

    /// In memory; for tests.
    ///
    /// # Errors
    /// Never in practice.
    pub fn in_memory() -> Result<Self, DiskError> {
        let disk = Self { database: builder().create_with_backend(InMemoryBackend::new())? };
        disk.prepare()?;
        Ok(disk)
    }

    /// Creates the tables; answers another format than ours.
    fn prepare(&self) -> Result<Option<String>, DiskError> {
        let write = self.database.begin_write()?;
        {
            let mut facts = write.open_table(FACTS)?;
            let found = facts.get(FORMAT)?.map(|format| format.value().to_owned());
            match found {
                Some(format) if format != FORMAT_VALUE => return Ok(Some(format)),
                Some(_) => {}
                None => drop(facts.insert(FORMAT, FORMAT_VALUE)?),
            }
            write.open_table(VIEW)?;
            write.open_table(OUTBOX)?;
        }
        write.commit()?;
        Ok(None)
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
                    loaded.extend(read(key.value(), |()| envelope::decode(value.value())));
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
                    Some(resource) => drop(view.insert(key, envelope::encode(resource).as_slice())?),
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

/// One row; a row that cannot be read is passed over.
fn read<T>((part, id): (&str, &str), value: impl FnOnce(()) -> Option<T>) -> Option<(Part, T)> {
    let found = Part::by_name(part).zip(value(()));
    if found.is_none() {
        tracing::warn!(part, machine = id, "passing over a row of the view's file that cannot be read");
    }
    found
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    // Without the check a damaged file can end the process instead of being an error.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = options.create_new(true).open(path)?;
            // The name, too, must be there after a power cut.
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
            Ok(file)
        }
        other => other,
    }
}

fn open_error(path: &Path, error: DatabaseError) -> OpenError {
    let path = path.to_path_buf();
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path),
        DatabaseError::Storage(StorageError::Io(source))
            if !matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            OpenError::Io { path, source }
        }
        other => OpenError::Corrupt { path, reason: other.to_string() },
    }
}

#[cfg(test)]
mod tests;
