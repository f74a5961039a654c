//! Builds the appliance from its configuration, top-down, and runs it.
//!
//! ```text
//! recorder <- everything tells the boot journal
//! boot files -> DHCP, TFTP
//! store -> hub -> link (view, tunnels, controller)      standalone
//!         Omni -> link                                  with an Omni elsewhere
//! assets, policy(view) -> HTTP + tunnels
//! ```
//!
//! All sockets are bound before the first part runs. The first part that ends stops all.

mod address;
mod dhcp;
mod hub;
mod link;
mod netboot;
mod networks;
mod sockets;

use std::fs::File;
use std::net::Ipv4Addr;
use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use netboot::PREFETCH_REST;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sockets::Sockets;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use tracing_subscriber::EnvFilter;

use crate::config::Config;
use crate::log;
use crate::operator;
use crate::recorder::{Recorder, unix_millis};
use crate::status;
use crate::sys;
use crate::tls::Certificates;

/// The appliance is one small box; two threads serve it, or one where only one can run: two on one core would only
/// wake each other.
const WORKERS_MAX: usize = 2;
/// After this the hub and the link have done what they do once, and the image cache has looked what is needed.
const START_REST: Duration = PREFETCH_REST.saturating_add(Duration::from_millis(500));
const LOCK_NAME: &str = "lock";

type Ended = (&'static str, anyhow::Result<()>);

/// What every part is built from, and the parts that run.
struct Site {
    config: Config,
    advertise: Ipv4Addr,
    recorder: Arc<Recorder>,
    status: status::Source,
    /// When tunnels are opened over TLS.
    certificates: Option<Arc<Certificates>>,
    shutdown: CancellationToken,
    tasks: JoinSet<Ended>,
}

/// Runs until a signal, or until a part ends.
pub(crate) fn start(config: Config) -> anyhow::Result<()> {
    sys::keep_one_small_heap();
    start_logging(&config);
    let workers = std::thread::available_parallelism().map_or(WORKERS_MAX, NonZero::get).min(WORKERS_MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(run(config))
}

/// A connection is a file: the usual 1,024 are fewer than the machines of a few racks have together.
fn raise_file_limit() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

fn start_logging(config: &Config) {
    // The filter was checked with the configuration. boringtun warns of every machine that is switched off.
    let filter = EnvFilter::new(format!("boringtun=off,{}", config.log_level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(log::writer);
    if config.log_json { builder.json().init() } else { builder.with_ansi(false).init() }
}

async fn run(config: Config) -> anyhow::Result<()> {
    raise_file_limit();
    let mut networks = networks::of_tables(&config)?;
    if networks.is_empty() {
        networks.push(address::of_flags(&config)?);
    }
    let advertise = sockets::main_address(&config, &networks)?;
    let _lock = lock_state_dir(&config.state_dir)?;
    let recorder = Recorder::open(&config.state_dir).context("cannot open the boot journal")?;
    let addresses = networks.iter().map(|network| network.address.into()).collect();
    let certificates = match &config.tls {
        Some(tls) => Some(Certificates::open(tls, &config.state_dir, addresses).context("TLS")?),
        None => None,
    };
    let sockets = Sockets::bind(&config, networks).await?;
    let status = status::Source::new(&config, advertise, unix_millis());
    let (shutdown, tasks) = (CancellationToken::new(), JoinSet::new());
    let mut site = Site { config, advertise, recorder, status, certificates, shutdown, tasks };

    // Machines that were switched on are not kept waiting for the hub.
    let networks = netboot::answer(&mut site, sockets.boot).await?;
    site.recorder.wait_until_read().await;
    let link = match sockets.hub {
        Some(sockets_of_hub) => {
            let hub = hub::start(&mut site, sockets_of_hub).await?;
            site.spawn_operator(sockets.operator, hub.state, Some(hub.management));
            link::start(&mut site, Some(hub.key))?
        }
        None => {
            let link = link::start(&mut site, None)?;
            site.spawn_operator(sockets.operator, Arc::clone(&link.state), None);
            link
        }
    };
    site.status.watch(Arc::clone(&link.view));
    netboot::start(&mut site, networks, link.view, link.tunnels)?;
    tracing::info!(%advertise, "serving");
    tokio::spawn(async {
        tokio::time::sleep(START_REST).await;
        sys::let_go_of_code();
    });
    site.wait().await
}

impl Site {
    /// Runs a part; its end is the appliance's end.
    fn spawn(&mut self, name: &'static str, part: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.tasks.spawn(async move { (name, part.await) }.instrument(tracing::info_span!("part", name)));
    }

    /// `management`: of the embedded hub.
    fn spawn_operator(
        &mut self,
        listener: tokio::net::UnixListener,
        state: impl cosi::State + 'static,
        management: Option<tonic::service::Routes>,
    ) {
        let recorder = Arc::clone(&self.recorder);
        let part =
            operator::run(listener, state, management, recorder, self.status.clone(), self.shutdown.clone());
        self.spawn("operator", async move { Ok(part.await?) });
    }

    /// Until a signal or the first end; then all the others.
    async fn wait(mut self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // Cancel-safe: a signal or an end that is not taken now is taken by nobody else.
        let mut result = tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            Some(ended) = self.tasks.join_next() => outcome(ended),
        };
        tracing::info!("stopping");
        self.shutdown.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Ok((name, Err(error))) = ended {
                tracing::warn!(name, error = format!("{error:#}"), "ended with an error");
                result = result.and(Err(error.context(name)));
            }
        }
        result
    }
}

fn outcome(ended: Result<Ended, JoinError>) -> anyhow::Result<()> {
    match ended {
        Ok((name, Ok(()))) => bail!("{name} ended by itself"),
        Ok((name, Err(error))) => Err(error.context(name)),
        Err(error) => Err(error.into()),
    }
}

/// One appliance a state directory.
fn lock_state_dir(directory: &Path) -> anyhow::Result<Flock<File>> {
    std::fs::create_dir_all(directory).with_context(|| {
        format!("cannot make the state directory {}; set state_dir to one that is yours", directory.display())
    })?;
    let path = directory.join(LOCK_NAME);
    let file = File::create(&path).with_context(|| format!("cannot write to {}", directory.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
        anyhow::anyhow!(
            "{}: another bootlace runs in this state directory; stop it, or give this one another state_dir ({error})",
            path.display()
        )
    })
}
