//! Images of Image Factory, kept so that machines boot from this box and not over the WAN.
//!
//! ```text
//!   (not known) ──asked──▶ busy (waits, is fetched) ──whole──▶ ready ──room is needed──▶ (not known)
//!                            ▲ │                                ▲ │
//!          asked, time over  │ └─failed─▶ failed until a time   │ └─ a file is gone ─▶ (not known)
//!                            └────────────────┘                 │
//!   at the start: on disk ─▶ unchecked ──────────right──────────┘
//!                                └──────wrong──▶ busy
//! ```
//!
//! Nobody waits for it: [`ImageCache::boot`] answers at once, and an image that is not ready is fetched by the
//! [`CacheWorker`]. An image is kernel and initramfs of a schematic, and what the factory tells the kernel: the same
//! that its own script would boot.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use netboot::firmware::Arch;
use nix::errno::Errno;
use tokio::sync::mpsc;
use tokio::time::Instant;

mod magic;
mod room;
mod store;
mod worker;

use crate::asset_dir::{AssetDir, AssetError};
use crate::factory::{Factory, SchematicId, with_v};
use store::{Key, Record, Store, Switch};
pub use worker::CacheWorker;

/// Bytes of the file system that the cache leaves free: the store, the journal and the view are on it, too.
pub const RESERVE: u64 = 256 << 20;
/// Bytes of a file. An initramfs with the largest extensions has some 700 MB.
pub const FILE_MAX: u64 = 1 << 30;
/// Images that wait to be fetched or are. A site has as many as sets of extensions times versions.
pub const QUEUE_MAX: usize = 64;
/// Images that are fetched at once: the link to the factory is thin, and one whole image is worth more than two halves.
pub const FETCHES_MAX: usize = 2;
/// Failures that are remembered; the ones whose time is over are forgotten first.
const FAILURES_MAX: usize = 256;
/// How long an image that a machine was told to boot is kept, so that the machine finds it: as long as the machine may
/// fetch its configuration.
const KEPT_FOR: Duration = netboot::boot::VALID_FOR;
/// How often an image's last use is written down: the order of eviction need not be finer, and flash wears.
const TOUCH_EVERY: Duration = Duration::from_secs(3600);

/// Where the cache is, and how large.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// Its own directory, made when missing.
    pub root: PathBuf,
    /// Bytes of all images together.
    pub bytes_max: u64,
    /// Bytes of the file system that stay free.
    pub reserve: u64,
}

/// From what a machine boots that boots from the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedImage {
    /// The schematic's folder.
    pub id: SchematicId,
    /// The version's folder.
    pub version: String,
    /// What the factory tells the kernel, the schematic's own arguments at the end.
    pub args: Vec<String>,
}

/// What is in the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheSize {
    /// Images that machines can boot.
    pub images: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Images that are fetched, or wait for it.
    pub coming: usize,
    /// Fetches that failed since the start.
    pub failures: u64,
}

/// See the module.
#[derive(Clone)]
pub struct ImageCache {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Order>,
}

/// An image to fetch.
#[derive(Clone, Debug)]
struct Order {
    key: Key,
    /// The schematic's YAML.
    schematic: String,
}

struct Shared {
    config: CacheConfig,
    store: Store,
    /// The directory as it is read for machines.
    files: AssetDir,
    factory: Arc<Factory>,
    images: Mutex<Images>,
}

#[derive(Default)]
struct Images {
    entries: HashMap<Key, Entry>,
    /// Bytes of files that are being fetched, whole ones of images that are not whole among them.
    coming: u64,
    failures: u64,
}

enum Entry {
    /// On disk since an earlier run.
    Unchecked { record: Arc<Record>, used: SystemTime },
    /// Machines can boot it.
    Ready { record: Arc<Record>, used: SystemTime, written: SystemTime, told: Option<Instant> },
    /// In the queue, on its way, being checked or being removed.
    Busy,
    /// It failed.
    Failed { until: Instant },
}

impl ImageCache {
    /// Opens the cache, removes what an end without notice left of a fetch, and gives the worker that must run for
    /// it. Images of an earlier run are ready when the worker has checked them.
    ///
    /// # Errors
    /// When the directory cannot be made, read or written.
    pub fn open(config: CacheConfig, factory: Arc<Factory>) -> io::Result<(Self, CacheWorker)> {
        Self::open_with(config, factory, Arc::new(|_| Ok(())))
    }

    fn open_with(
        config: CacheConfig,
        factory: Arc<Factory>,
        switch: Switch,
    ) -> io::Result<(Self, CacheWorker)> {
        let store = Store::open(&config.root, switch)?;
        let found = store.scan()?;
        let entries = found.into_iter().map(|(key, record, used)| {
            let record = Arc::new(record);
            (key, Entry::Unchecked { record, used })
        });
        let images = Mutex::new(Images { entries: entries.collect(), ..Images::default() });
        let files = AssetDir::new(&config.root)?;
        let shared = Arc::new(Shared { config, store, files, factory, images });
        let (queue, orders) = mpsc::channel(QUEUE_MAX);
        let worker = CacheWorker::new(Arc::clone(&shared), orders, queue.clone());
        Ok((Self { shared, queue }, worker))
    }

    /// From what a machine boots the image of this schematic (its canonical YAML); `None` when it is not here: then
    /// it is fetched, if that did not fail just now.
    #[must_use]
    pub fn boot(&self, schematic: &str, version: &str, arch: Arch) -> Option<CachedImage> {
        let key = Key { id: SchematicId::computed(schematic), version: with_v(version).ok()?, arch };
        let mut images = self.shared.images();
        match images.entries.get_mut(&key) {
            Some(Entry::Ready { record, told, .. }) => {
                *told = Some(Instant::now());
                let args = record.args.clone();
                return Some(CachedImage { id: key.id, version: key.version, args });
            }
            Some(Entry::Unchecked { .. } | Entry::Busy) => return None,
            Some(Entry::Failed { until }) if Instant::now() < *until => return None,
            Some(Entry::Failed { .. }) | None => {}
        }
        let order = Order { key: key.clone(), schematic: schematic.to_owned() };
        // A queue that is full is no matter: whoever boots asks again.
        if self.queue.try_send(order).is_ok() {
            images.entries.insert(key, Entry::Busy);
        }
        None
    }

    /// How large it is.
    #[must_use]
    pub fn size(&self) -> CacheSize {
        let images = self.shared.images();
        let none = CacheSize { failures: images.failures, ..CacheSize::default() };
        images.entries.values().fold(none, |mut size, entry| {
            match entry {
                Entry::Ready { record, .. } | Entry::Unchecked { record, .. } => {
                    size.images += 1;
                    size.bytes += record.bytes();
                }
                Entry::Busy => size.coming += 1,
                Entry::Failed { .. } => {}
            }
            size
        })
    }

    /// Opens a file of a whole image. As long as it is open, the image is not evicted.
    pub(crate) fn open_file(&self, path: &str) -> Result<(File, u64), AssetError> {
        let Some((key, name)) = Key::of_path(path) else { return Err(AssetError::NotFound) };
        let now = SystemTime::now();
        let mut images = self.shared.images();
        let Some(Entry::Ready { record, used, written, told }) = images.entries.get_mut(&key) else {
            return Err(AssetError::NotFound);
        };
        let bytes = record.files.iter().find(|file| file.name == name).map(|file| file.bytes);
        // Beneath the lock: whoever evicts sees either the image's use or the lock on its file.
        match self.shared.files.open(path) {
            Ok((file, length)) if Some(length) == bytes => {
                // Where files cannot be locked, the time since the machine was told must do.
                let _ = file.try_lock_shared();
                (*used, *told) = (now, Some(Instant::now()));
                if now.duration_since(*written).is_ok_and(|since| since > TOUCH_EVERY) {
                    *written = now;
                    if let Err(error) = self.shared.store.touch(&key, now) {
                        tracing::debug!(%error, "the use of an image was not written down");
                    }
                }
                Ok((file, length))
            }
            Err(AssetError::Io(error)) if too_many_files(&error) => Err(AssetError::Io(error)),
            // Somebody else was here, or the disk is going.
            Ok(_) | Err(_) => {
                tracing::warn!(
                    path,
                    "a file of the image cache is not what it was: fetched again when asked for"
                );
                images.entries.remove(&key);
                Err(AssetError::NotFound)
            }
        }
    }
}

/// Which says nothing about the file.
fn too_many_files(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM))
}

impl fmt::Debug for ImageCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageCache").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Shared {
    fn images(&self) -> MutexGuard<'_, Images> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
