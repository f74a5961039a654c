//! A file of ours in redb: opened for its owner's eyes only, checked, and with the errors told apart that a person
//! handles differently.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Builder, Database, DatabaseError, StorageError};

/// Why a file did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another place in this one, has it open.
    #[error("{path} is in use")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It is damaged, or never was one of ours.
    #[error("{path} is damaged or is none of ours: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another version of this program wrote it.
    #[error("{path} has format {found}, this program reads format {expected}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// Ours.
        expected: u64,
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

/// Opens the file, or creates it: its name, too, is on the disk then. `cache_bytes` are kept of its pages.
///
/// # Errors
/// See [`OpenError`]; the file is left as it is.
pub fn open(path: &Path, cache_bytes: usize) -> Result<Database, OpenError> {
    let file = open_file(path).map_err(|source| OpenError::Io { path: path.to_path_buf(), source })?;
    let database = FileBackend::new(file).and_then(|file| builder(cache_bytes).create_with_backend(file));
    database.map_err(|error| refused(path, error))
}

/// In memory.
///
/// # Errors
/// Never in practice.
pub fn in_memory(cache_bytes: usize) -> Result<Database, OpenError> {
    let database = builder(cache_bytes).create_with_backend(InMemoryBackend::new());
    database.map_err(|error| refused(Path::new("(memory)"), error))
}

/// What an error of the first reads and writes says of the file.
#[must_use]
pub fn damaged(path: &Path, error: impl Into<redb::Error>) -> OpenError {
    let path = path.to_path_buf();
    match error.into() {
        redb::Error::Io(source) => OpenError::Io { path, source },
        other => OpenError::Corrupt { path, reason: other.to_string() },
    }
}

fn builder(cache_bytes: usize) -> Builder {
    let mut builder = Database::builder();
    // Without the check a damaged file can end the process instead of being an error.
    builder.set_cache_size(cache_bytes).set_check_integrity_on_open(true);
    builder
}

/// The files hold passwords of BMCs: nobody else may read them.
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

fn refused(path: &Path, error: DatabaseError) -> OpenError {
    let path = path.to_path_buf();
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path },
        DatabaseError::Storage(StorageError::Io(source))
            if !matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            OpenError::Io { path, source }
        }
        other => OpenError::Corrupt { path, reason: other.to_string() },
    }
}
