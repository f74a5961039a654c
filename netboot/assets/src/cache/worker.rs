//! Fetches images, and checks those of an earlier run.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::room::{NoRoom, Room};
use super::store::{FILES, Key, Part, Record, Sum};
use super::{Entry, FAILURES_MAX, FETCHES_MAX, Order, QUEUE_MAX, Shared, magic};
use crate::factory::source::{RETRY_LAST, backoff, with_causes};
use crate::factory::{Download, ExchangeError, FactoryError, ImageFile};

/// How often a fetch is tried before it waits to be asked for again: some four minutes.
const ATTEMPTS_MAX: u32 = 8;
/// Bytes that are written at once, and after which the free space is looked at again.
const BATCH: usize = 1 << 20;

/// Why an image did not come.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Factory(#[from] FactoryError),
    #[error("{name} broke off after {got} of {length} bytes")]
    Broken {
        name: String,
        got: u64,
        length: u64,
        #[source]
        source: Option<ExchangeError>,
    },
    #[error("what came as {0} is no such file: a proxy's page?")]
    Portal(String),
    #[error("no room: {0}")]
    Room(#[from] NoRoom),
    #[error("cannot write to the image cache")]
    Disk(#[from] io::Error),
}

impl FetchError {
    /// Whether trying again at once would not help.
    fn is_final(&self) -> bool {
        match self {
            Self::Factory(FactoryError::Status { status, .. }) => status.is_client_error(),
            Self::Factory(error) => error.is_final(),
            Self::Room(_) => true,
            Self::Broken { .. } | Self::Portal(_) | Self::Disk(_) => false,
        }
    }
}

/// Runs for an [`super::ImageCache`].
pub struct CacheWorker {
    shared: Arc<Shared>,
    orders: mpsc::Receiver<Order>,
    /// For images that turn out to be damaged.
    queue: mpsc::Sender<Order>,
}

impl CacheWorker {
    pub(super) fn new(
        shared: Arc<Shared>,
        orders: mpsc::Receiver<Order>,
        queue: mpsc::Sender<Order>,
    ) -> Self {
        Self { shared, orders, queue }
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let slots = Arc::new(Semaphore::new(FETCHES_MAX));
        let mut tasks = JoinSet::new();
        let (shared, queue, end) = (Arc::clone(&self.shared), self.queue.clone(), shutdown.clone());
        tasks.spawn_blocking(move || shared.check_all(&queue, &end));
        loop {
            // Cancel-safe: a receive that loses takes nothing, a task that loses stays in its set.
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                Some(order) = self.orders.recv(), if tasks.len() < QUEUE_MAX => {
                    tasks.spawn(Arc::clone(&self.shared).fetch(order, Arc::clone(&slots)));
                }
            }
        }
        tasks.shutdown().await;
    }
}

impl Shared {
    /// Checks what an earlier run left, what was used last first. Blocks.
    fn check_all(&self, queue: &mpsc::Sender<Order>, end: &CancellationToken) {
        let mut all: Vec<(SystemTime, Key, Arc<Record>)> = Vec::new();
        for (key, entry) in &self.images().entries {
            if let Entry::Unchecked { record, used } = entry {
                all.push((*used, key.clone(), Arc::clone(record)));
            }
        }
        all.sort_unstable_by_key(|(used, ..)| std::cmp::Reverse(*used));
        let count = all.len();
        for (at, (used, key, record)) in all.into_iter().enumerate() {
            let right = match self.store.check(&key, &record, end) {
                Ok(right) => right,
                Err(_) if end.is_cancelled() => return,
                Err(error) => {
                    tracing::warn!(%error, "cannot read an image in the cache");
                    false
                }
            };
            let (schematic, version, arch) = (key.id.as_str(), key.version.as_str(), key.arch);
            if right {
                tracing::info!(schematic, version, %arch, checked = at + 1, of = count, "checked an image");
                let ready = Entry::Ready { record, used, written: used, told: None };
                self.images().entries.insert(key, ready);
                continue;
            }
            tracing::warn!(schematic, version, %arch, checked = at + 1, of = count, "a damaged image is removed");
            self.images().entries.insert(key.clone(), Entry::Busy);
            if let Err(error) = self.store.remove(&key) {
                tracing::warn!(%error, "a damaged image was not removed");
            }
            let order = Order { key: key.clone(), schematic: record.schematic.clone() };
            if queue.try_send(order).is_err() {
                self.images().entries.remove(&key);
            }
        }
    }

    async fn fetch(self: Arc<Self>, order: Order, slots: Arc<Semaphore>) {
        let Order { key, schematic } = &order;
        let mut whole = Vec::new();
        let mut failures = 0;
        loop {
            let Ok(slot) = slots.acquire().await else { return };
            let (id, version, arch) = (key.id.as_str(), key.version.as_str(), key.arch);
            tracing::info!(schematic = id, version, %arch, "fetching an image");
            let began = Instant::now();
            let error = match self.attempt(key, schematic, &mut whole).await {
                Ok(record) => {
                    let (bytes, seconds) = (record.bytes(), began.elapsed().as_secs());
                    tracing::info!(schematic = id, version, %arch, bytes, seconds, "fetched an image");
                    let now = SystemTime::now();
                    let ready =
                        Entry::Ready { record: Arc::new(record), used: now, written: now, told: None };
                    // Its bytes count as the image's before they are given back as what comes.
                    self.images().entries.insert(key.clone(), ready);
                    return;
                }
                Err(error) => error,
            };
            drop(slot);
            failures += 1;
            self.images().failures += 1;
            let reason = with_causes(&error);
            tracing::warn!(schematic = id, version, %arch, reason, failures, "an image was not fetched");
            if error.is_final() || failures >= ATTEMPTS_MAX {
                break;
            }
            tokio::time::sleep(backoff(failures)).await;
        }
        let (shared, gone) = (Arc::clone(&self), key.clone());
        // What came of it takes room that others need.
        if let Err(error) = blocking(move || shared.store.remove(&gone)).await {
            tracing::warn!(%error, "a part of an image was not removed");
        }
        self.failed(key);
    }

    fn failed(&self, key: &Key) {
        let now = Instant::now();
        let entries = &mut self.images().entries;
        let failures = |entries: &std::collections::HashMap<Key, Entry>| {
            entries.values().filter(|entry| matches!(entry, Entry::Failed { .. })).count()
        };
        if failures(entries) >= FAILURES_MAX {
            entries.retain(|_, entry| !matches!(entry, Entry::Failed { until } if *until <= now));
        }
        if failures(entries) >= FAILURES_MAX {
            // Forgotten, so asked again at once: by then there may be room.
            entries.remove(key);
        } else {
            entries.insert(key.clone(), Entry::Failed { until: now + RETRY_LAST });
        }
    }

    /// `whole`: the files that an attempt before this one got.
    async fn attempt(
        self: &Arc<Self>,
        key: &Key,
        schematic: &str,
        whole: &mut Vec<(Sum, Room)>,
    ) -> Result<Record, FetchError> {
        let id = self.factory.ensure_schematic(schematic).await?;
        let script = self.factory.boot_script(&id, &key.version, key.arch, false).await?;
        for file in FILES.into_iter().skip(whole.len()) {
            let (download, length) = self.factory.download(&id, &key.version, key.arch, file).await?;
            whole.push(self.file(key, file, download, length).await?);
        }
        let files = whole.iter().map(|(sum, _)| sum.clone()).collect();
        let record = Record { schematic: schematic.to_owned(), args: script.args, files };
        let (shared, key, commit) = (Arc::clone(self), key.clone(), record.clone());
        blocking(move || shared.store.commit(&key, &commit)).await?;
        Ok(record)
    }

    async fn file(
        self: &Arc<Self>,
        key: &Key,
        file: ImageFile,
        mut download: Download,
        length: u64,
    ) -> Result<(Sum, Room), FetchError> {
        let name = file.name(key.arch);
        let (shared, to, part) = (Arc::clone(self), key.clone(), name.clone());
        let (room, mut part) =
            blocking(move || Ok::<_, FetchError>((shared.room(length)?, shared.store.begin(&to, &part)?)))
                .await?;
        let (mut got, mut known) = (0, false);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let broken = |got, source| FetchError::Broken { name: name.clone(), got, length, source };
            let bytes = download.next().await.map_err(|error| broken(got, Some(error)))?;
            let ended = bytes.is_none();
            if let Some(bytes) = bytes {
                got += bytes.len() as u64;
                batch.extend_from_slice(&bytes);
            }
            if !known && (ended || batch.len() >= magic::BEGINNING) {
                if !magic::fits(file, &batch) {
                    return Err(FetchError::Portal(name));
                }
                known = true;
            }
            if ended && got != length {
                return Err(broken(got, None));
            }
            if ended || batch.len() >= BATCH {
                let shared = Arc::clone(self);
                (part, batch) = blocking(move || shared.write(part, batch)).await?;
            }
            if ended {
                return Ok((blocking(move || part.finish()).await?, room));
            }
        }
    }

    /// Gives the batch back empty.
    fn write(&self, mut part: Part, mut batch: Vec<u8>) -> Result<(Part, Vec<u8>), FetchError> {
        self.disk_room(batch.len() as u64)?;
        part.write(&batch)?;
        batch.clear();
        Ok((part, batch))
    }
}

/// Runs what blocks beside the tasks.
async fn blocking<T: Send + 'static, E: From<io::Error> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(io::Error::other(error).into()),
    }
}
