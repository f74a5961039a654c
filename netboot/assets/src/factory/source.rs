//! Where a boot policy learns from what a machine boots Talos.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use netboot::firmware::Arch;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Factory, SchematicId};

/// Schematics that wait to be told to the factory. A site has as many as it has sets of machine classes, and
/// machines ask again: more would only be told later.
pub const QUEUE_MAX: usize = 64;
/// Schematics that are told at once.
const AT_ONCE_MAX: usize = 4;
/// Failures that are remembered; the ones whose time is over are forgotten first.
const FAILURES_MAX: usize = 1024;
/// After the first failure; twice as long after each further one.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// At most; also when asking again will not help by itself.
pub(crate) const RETRY_LAST: Duration = Duration::from_secs(60);

/// What a machine is to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image<'a> {
    /// The canonical YAML of the schematic. It holds the kernel arguments too.
    pub schematic: &'a str,
    /// The version of Talos, with or without `v`.
    pub version: &'a str,
    /// The machine's processor.
    pub arch: Arch,
    /// Whether its firmware checks signatures.
    pub secure_boot: bool,
}

/// From what a machine boots it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootSource {
    /// From files whose places are known.
    LocalFiles {
        /// The kernel.
        kernel_url: String,
        /// Its initial file system.
        initrd_url: String,
        /// All that the kernel is told, the schematic's arguments among it.
        args: Vec<String>,
    },
    /// By a script that is elsewhere.
    Chain {
        /// Where.
        url: String,
    },
    /// Not at the moment: the machine is to ask again.
    NotYet {
        /// Why, for the operator.
        reason: String,
    },
}

/// Knows from what machines boot Talos.
pub trait ImageSource: Send + Sync {
    /// Answers at once: a machine waits, and so does everyone who asks after it.
    fn boot(&self, image: &Image<'_>) -> BootSource;
}

/// Boots machines from an Image Factory by its own scripts.
///
/// ```text
///   unknown ──asked──▶ waiting ──told──▶ known (the factory remembers it)
///                         ▲  │
///        asked, time over │  └──failed──▶ failed until a time
///                         └───────────────────┘
/// ```
///
/// A schematic is told to the factory when a machine or [`Self::prepare`] first asks for it, by the
/// [`FactoryWorker`]. Until then the answer is [`BootSource::NotYet`].
#[derive(Clone)]
pub struct FactoryImages {
    shared: Arc<Shared>,
    queue: mpsc::Sender<String>,
}

struct Shared {
    factory: Arc<Factory>,
    open: Mutex<HashMap<SchematicId, Open>>,
}

/// A schematic that the factory does not know yet.
enum Open {
    /// In the queue or on its way.
    Waiting,
    /// It failed, for this reason.
    Failed { reason: String, failures: u32, until: Instant },
}

impl FactoryImages {
    /// The source, and the worker that must run for it.
    #[must_use]
    pub fn new(factory: impl Into<Arc<Factory>>) -> (Self, FactoryWorker) {
        let (queue, asked) = mpsc::channel(QUEUE_MAX);
        let shared = Arc::new(Shared { factory: factory.into(), open: Mutex::default() });
        (Self { shared: Arc::clone(&shared), queue }, FactoryWorker { shared, asked })
    }

    /// The factory.
    #[must_use]
    pub fn factory(&self) -> &Factory {
        &self.shared.factory
    }

    /// Has a schematic told to the factory before a machine asks. The error says why it is not known yet.
    ///
    /// # Errors
    /// As long as the factory was not told.
    pub fn prepare(&self, schematic: &str) -> Result<SchematicId, String> {
        let key = SchematicId::computed(schematic);
        let mut open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Beneath the lock: the worker learns an id before it takes the schematic out.
        if let Some(id) = self.shared.factory.known_by(&key) {
            return Ok(id);
        }
        match open.get(&key) {
            Some(Open::Waiting) => return Err("image factory is being told the schematic".to_owned()),
            Some(Open::Failed { reason, until, .. }) if Instant::now() < *until => return Err(reason.clone()),
            Some(Open::Failed { .. }) | None => {}
        }
        if self.queue.try_send(schematic.to_owned()).is_err() {
            return Err("image factory is busy with other schematics".to_owned());
        }
        match open.get_mut(&key) {
            // The number of failures stays with the reason until it is told.
            Some(Open::Failed { until, reason, .. }) => {
                *until = Instant::now() + RETRY_LAST;
                Err(format!("{reason}; trying again"))
            }
            _ => {
                open.insert(key, Open::Waiting);
                Err("image factory is being told the schematic".to_owned())
            }
        }
    }
}

impl ImageSource for FactoryImages {
    fn boot(&self, image: &Image<'_>) -> BootSource {
        let id = match self.prepare(image.schematic) {
            Ok(id) => id,
            Err(reason) => return BootSource::NotYet { reason },
        };
        match self.factory().pxe_url(&id, image.version, image.arch, image.secure_boot) {
            Ok(url) => BootSource::Chain { url },
            Err(error) => BootSource::NotYet { reason: error.to_string() },
        }
    }
}

/// Tells the factory what [`FactoryImages`] was asked for.
pub struct FactoryWorker {
    shared: Arc<Shared>,
    asked: mpsc::Receiver<String>,
}

impl FactoryWorker {
    /// Runs until `shutdown`, or until nobody can ask any more.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut told = JoinSet::new();
        loop {
            // Cancel-safe: a receive that loses takes nothing, a task that loses stays in its set.
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = told.join_next(), if !told.is_empty() => {}
                asked = self.asked.recv(), if told.len() < AT_ONCE_MAX => match asked {
                    Some(schematic) => {
                        let shared = Arc::clone(&self.shared);
                        told.spawn(async move { shared.tell(&schematic).await });
                    }
                    None => break,
                },
            }
        }
        told.shutdown().await;
    }
}

impl Shared {
    async fn tell(&self, schematic: &str) {
        let result = self.factory.ensure_schematic(schematic).await;
        let key = SchematicId::computed(schematic);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let error = match result {
            Ok(id) => {
                open.remove(&key);
                tracing::debug!(%id, "image factory knows the schematic");
                return;
            }
            Err(error) => error,
        };
        let failures = match open.get(&key) {
            Some(Open::Failed { failures, .. }) => failures.saturating_add(1),
            Some(Open::Waiting) | None => 1,
        };
        let wait = if error.is_final() { RETRY_LAST } else { backoff(failures) };
        let reason = with_causes(&error);
        tracing::warn!(reason, failures, "image factory was not told a schematic");
        let now = Instant::now();
        if open.len() >= FAILURES_MAX {
            open.retain(|_, open| !matches!(open, Open::Failed { until, .. } if *until <= now));
        }
        if open.len() >= FAILURES_MAX {
            // Forgotten, so asked again at once: by then there may be room.
            open.remove(&key);
            return;
        }
        open.insert(key, Open::Failed { reason, failures, until: now + wait });
    }
}

pub(crate) fn backoff(failures: u32) -> Duration {
    let factor = 2_u32.saturating_pow(failures.saturating_sub(1));
    RETRY_FIRST.saturating_mul(factor).min(RETRY_LAST)
}

/// The error and what caused it, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
