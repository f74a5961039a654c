//! The cache on disk.
//!
//! ```text
//! <root>/image/<schematic>/<version>/kernel-amd64
//!                                    initramfs-amd64.xz
//!                                    image-amd64.json      its record: only with it the two are an image
//! ```
//!
//! A file is written under another name, synced, renamed, and its directory synced; the record comes last and goes
//! first. So power may fail at any instruction: what is without its record at the next start is removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use netboot::firmware::Arch;
use nix::fcntl::OFlag;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::factory::{ImageFile, SchematicId, hex, with_v};

/// What an image consists of.
pub(super) const FILES: [ImageFile; 2] = [ImageFile::Kernel, ImageFile::Initramfs];
/// The folder beneath the root, as images are asked for by HTTP.
const FOLDER: &str = "image";
/// Bytes of a record. A command line has at most two thousand, a schematic some more.
const RECORD_MAX: u64 = 512 * 1024;
/// Bytes that are hashed at once.
const PIECE: usize = 256 * 1024;

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) id: SchematicId,
    /// With its `v`.
    pub(super) version: String,
    pub(super) arch: Arch,
}

impl Key {
    /// Its folder beneath the root.
    fn folder(&self) -> PathBuf {
        Path::new(FOLDER).join(self.id.as_str()).join(&self.version)
    }

    fn record_name(&self) -> String {
        format!("image-{}.json", self.arch)
    }

    /// The image and the file's name of the path of a file in the cache.
    pub(super) fn of_path(path: &str) -> Option<(Self, &str)> {
        let mut parts = path.strip_prefix(FOLDER)?.strip_prefix('/')?.splitn(3, '/');
        let (id, version, name) = (parts.next()?, parts.next()?, parts.next()?);
        let arch = [Arch::Amd64, Arch::Arm64];
        let arch = arch.into_iter().find(|arch| FILES.iter().any(|file| file.name(*arch) == name))?;
        Some((Self { id: id.parse().ok()?, version: version.to_owned(), arch }, name))
    }
}

/// What is known of an image in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The schematic's YAML, to fetch it again.
    pub(super) schematic: String,
    /// What the factory tells the kernel.
    pub(super) args: Vec<String>,
    pub(super) files: Vec<Sum>,
}

impl Record {
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// A whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sum {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// A change of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "tests read what is in it")]
pub(super) enum Step {
    MakeFolder(PathBuf),
    Create(PathBuf),
    Write(PathBuf),
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    SyncFolder(PathBuf),
    Remove(PathBuf),
}

/// Hears of each step before it is done, and may fail it: a test's power switch.
pub(super) type Switch = Arc<dyn Fn(&Step) -> io::Result<()> + Send + Sync>;

/// See the module. Everything here blocks.
#[derive(Clone)]
pub(super) struct Store {
    root: PathBuf,
    switch: Switch,
}

impl Store {
    pub(super) fn open(root: &Path, switch: Switch) -> io::Result<Self> {
        let store = Self { root: root.to_owned(), switch };
        fs::create_dir_all(root)?;
        store.make_folders(Path::new(FOLDER))?;
        Ok(store)
    }

    fn step(&self, step: &Step) -> io::Result<()> {
        (self.switch)(step)
    }

    /// Bytes that are free for us on the file system.
    pub(super) fn free(&self) -> io::Result<u64> {
        let stat = nix::sys::statvfs::statvfs(&self.root)?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }

    /// All images with a record and with files of its lengths, and since when they were not used; whatever else the
    /// cache writes is removed, names that it does not use are left alone.
    pub(super) fn scan(&self) -> io::Result<Vec<(Key, Record, SystemTime)>> {
        let mut found = Vec::new();
        for schematic in folders(&self.root.join(FOLDER))? {
            let Some(id) = schematic.file_name().and_then(|name| name.to_str()?.parse::<SchematicId>().ok())
            else {
                continue;
            };
            for version in folders(&schematic)? {
                let Some(name) = version.file_name().and_then(|name| name.to_str()) else { continue };
                if with_v(name).as_deref() != Ok(name) {
                    continue;
                }
                self.remove_parts(&version)?;
                for arch in [Arch::Amd64, Arch::Arm64] {
                    let key = Key { id: id.clone(), version: name.to_owned(), arch };
                    match self.read(&key) {
                        Some((record, used)) => found.push((key, record, used)),
                        None => self.remove(&key)?,
                    }
                }
            }
        }
        Ok(found)
    }

    fn remove_parts(&self, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with('.') && name.ends_with(".part") {
                self.unlink(&path)?;
            }
        }
        Ok(())
    }

    /// The record, when it is whole and the files have its lengths.
    fn read(&self, key: &Key) -> Option<(Record, SystemTime)> {
        let folder = self.root.join(key.folder());
        let path = folder.join(key.record_name());
        let metadata = fs::symlink_metadata(&path).ok()?;
        if !metadata.is_file() || metadata.len() > RECORD_MAX {
            return None;
        }
        let text = fs::read_to_string(&path).ok()?;
        let (sum, json) = text.split_once('\n')?;
        if hex(ring::digest::digest(&SHA256, json.as_bytes()).as_ref()) != sum {
            return None;
        }
        let record: Record = serde_json::from_str(json).ok()?;
        let whole = FILES.len() == record.files.len()
            && FILES.iter().zip(&record.files).all(|(file, sum)| {
                let metadata = fs::symlink_metadata(folder.join(&sum.name));
                sum.name == file.name(key.arch)
                    && metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == sum.bytes)
            })
            && SchematicId::computed(&record.schematic) == key.id;
        whole.then(|| (record, metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)))
    }

    /// Whether every file is what it was when it came. An end of the appliance breaks it off with an error.
    pub(super) fn check(&self, key: &Key, record: &Record, end: &CancellationToken) -> io::Result<bool> {
        for file in &record.files {
            let mut content = File::open(self.root.join(key.folder()).join(&file.name))?;
            let (mut hash, mut piece) = (Context::new(&SHA256), vec![0; PIECE]);
            loop {
                if end.is_cancelled() {
                    return Err(ErrorKind::Interrupted.into());
                }
                match content.read(&mut piece)? {
                    0 => break,
                    count => hash.update(&piece[..count]),
                }
            }
            if hex(hash.finish().as_ref()) != file.sha256 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The image's files, with locks that nobody can have who is being served one; `None` while somebody is.
    pub(super) fn lock(&self, key: &Key, record: &Record) -> Option<Vec<File>> {
        let folder = self.root.join(key.folder());
        let lock = |file: &Sum| match File::open(folder.join(&file.name)) {
            Ok(file) => file.try_lock().is_ok().then_some(Some(file)),
            // Gone already: nobody is served it from here.
            Err(_) => Some(None),
        };
        Some(record.files.iter().map(lock).collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Writes down that the image was used, for the next start.
    pub(super) fn touch(&self, key: &Key, now: SystemTime) -> io::Result<()> {
        File::open(self.root.join(key.folder()).join(key.record_name()))?.set_modified(now)
    }

    /// A new file, under another name until it is whole.
    pub(super) fn begin(&self, key: &Key, name: &str) -> io::Result<Part> {
        self.make_folders(&key.folder())?;
        let folder = self.root.join(key.folder());
        let path = folder.join(format!(".{name}.part"));
        self.unlink(&path)?;
        self.step(&Step::Create(path.clone()))?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&path)?;
        let hash = Context::new(&SHA256);
        Ok(Part {
            store: self.clone(),
            folder,
            name: name.to_owned(),
            path,
            file,
            hash,
            bytes: 0,
            whole: false,
        })
    }

    /// Makes the files an image.
    pub(super) fn commit(&self, key: &Key, record: &Record) -> io::Result<()> {
        let json = serde_json::to_string(record).map_err(io::Error::other)?;
        let mut part = self.begin(key, &key.record_name())?;
        part.write(hex(ring::digest::digest(&SHA256, json.as_bytes()).as_ref()).as_bytes())?;
        part.write(b"\n")?;
        part.write(json.as_bytes())?;
        part.finish().map(drop)
    }

    /// Removes an image, its record first, and its folders when nothing else is in them.
    pub(super) fn remove(&self, key: &Key) -> io::Result<()> {
        let folder = self.root.join(key.folder());
        if self.unlink(&folder.join(key.record_name()))? {
            self.sync_folder(&folder)?;
        }
        for file in FILES {
            self.unlink(&folder.join(file.name(key.arch)))?;
        }
        // Fails while there is something in them.
        for folder in folder.ancestors().take(2) {
            self.step(&Step::Remove(folder.to_owned()))?;
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Whether it was there.
    fn unlink(&self, path: &Path) -> io::Result<bool> {
        if fs::symlink_metadata(path).is_err() {
            return Ok(false);
        }
        self.step(&Step::Remove(path.to_owned()))?;
        match fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes the folders of a path beneath the root, each known to its parent before the next.
    fn make_folders(&self, path: &Path) -> io::Result<()> {
        let mut folder = self.root.clone();
        for part in path {
            let parent = folder.clone();
            folder.push(part);
            if folder.is_dir() {
                continue;
            }
            self.step(&Step::MakeFolder(folder.clone()))?;
            fs::create_dir(&folder)?;
            self.sync_folder(&parent)?;
        }
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.step(&Step::SyncFolder(folder.to_owned()))?;
        File::open(folder)?.sync_all()
    }
}

/// A file that is being written.
pub(super) struct Part {
    store: Store,
    folder: PathBuf,
    name: String,
    path: PathBuf,
    file: File,
    hash: Context,
    bytes: u64,
    whole: bool,
}

impl Part {
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.store.step(&Step::Write(self.path.clone()))?;
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Gives it its name.
    pub(super) fn finish(mut self) -> io::Result<Sum> {
        self.store.step(&Step::Sync(self.path.clone()))?;
        self.file.sync_all()?;
        let whole = self.folder.join(&self.name);
        self.store.step(&Step::Rename(self.path.clone(), whole.clone()))?;
        fs::rename(&self.path, &whole)?;
        self.whole = true;
        self.store.sync_folder(&self.folder)?;
        let sha256 = hex(self.hash.clone().finish().as_ref());
        Ok(Sum { name: self.name.clone(), bytes: self.bytes, sha256 })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.whole {
            // What stays is removed at the next start.
            let _ = self.store.unlink(&self.path);
        }
    }
}

/// The folders in a folder, no links.
fn folders(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}
