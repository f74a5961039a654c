//! Builds the appliance from its configuration, top-down, and runs it.
//!
//! ```text
//! recorder <- everything tells the boot journal
//! store -> hub -> operator socket -> link (view, tunnels, controller)
//! assets, policy(view) -> HTTP + tunnels, TFTP, DHCP
//! ```
//!
//! All sockets are bound before the first part runs. The first part that ends stops all.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use agent_wire::tunnel::TunnelService;
use anyhow::{Context, bail};
use cosi::State;
use cosi::client::GrpcState;
use cosi::embedded::EmbeddedState;
use futures_util::FutureExt;
use hub::{Hub, HubConfig};
use netboot::dhcp::{Proxy, ProxyConfig};
use netboot::ipxe::{BaseUrl, init_script};
use netboot::journal::Sink;
use netboot_assets::{AssetDir, BootFiles};
use netboot_link::{dhcp, http, tftp};
use nix::fcntl::{Flock, FlockArg};
use omni_link::agents::{Agents, Timeouts};
use omni_link::controller::Controller;
use omni_link::tunnels::Tunnels;
use omni_link::view::{self, View};
use power::api::AddressBook;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::config::Config;
use crate::policy::{Policy, Settings};
use crate::recorder::Recorder;
use crate::{events, operator};

/// The appliance is one small box; two threads serve it.
const WORKERS: usize = 2;
const STORE_NAME: &str = "hub.redb";
const LOCK_NAME: &str = "lock";

/// Runs until a signal, or until a part ends.
pub(crate) fn start(config: Config) -> anyhow::Result<()> {
    start_logging(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(run(config))
}

fn start_logging(config: &Config) {
    // The filter was checked with the configuration.
    let filter = EnvFilter::new(&config.log_level);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if config.log_json { builder.json().init() } else { builder.with_ansi(false).init() }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let advertise = advertise_address(&config)?;
    let interface = match (&config.netboot.interface, config.netboot.dhcp_proxy) {
        (_, false) => None,
        (Some(name), true) => Some(match name.parse() {
            Ok(address) => interface_of(address)?,
            Err(_) => name.clone(),
        }),
        (None, true) => Some(interface_of(advertise)?),
    };
    let _lock = lock_state_dir(&config.state_dir)?;
    let recorder = Recorder::open(&config.state_dir).context("cannot open the boot journal")?;
    let store: Arc<dyn State> = Arc::new(
        EmbeddedState::open(config.state_dir.join(STORE_NAME)).context("cannot open the hub's store")?,
    );

    let sockets = Sockets::bind(&config, advertise, interface.as_deref()).await?;
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();

    let state = start_hub(
        &config,
        advertise,
        store,
        &recorder,
        sockets.operator,
        sockets.machine_api,
        &mut tasks,
        &shutdown,
    )
    .await?;
    let observer = {
        let sink = recorder.sink();
        Arc::new(move |id: &str, happening| sink(events::of_link(id, happening)))
    };
    let view = View::new(&config.id, observer.clone());
    let tunnels = Tunnels::new(Arc::clone(&view), observer.clone());
    let controller = Controller {
        provider_id: config.id.clone(),
        state: Arc::clone(&state),
        view: Arc::clone(&view),
        tunnels: Arc::clone(&tunnels),
        agents: Agents::new(
            Arc::clone(&tunnels),
            Timeouts {
                call: config.agent.call_timeout,
                fast_wipe: config.agent.fast_wipe_timeout,
                zeroes_wipe: config.agent.zeroes_wipe_timeout,
            },
            config.wipe_with_zeroes,
        ),
        policy: provider::Policy {
            min_reboot_interval: config.min_reboot_interval,
            machine_labels: config.machine_labels.clone(),
            ..provider::Policy::default()
        },
        pxe_mode: config.boot.pxe_mode,
        power_apis: config.api.power_mgmt_state_dir.clone().map(AddressBook::new),
        observer,
        started: SystemTime::now(),
    };
    spawn(&mut tasks, "view", {
        let (view, shutdown) = (Arc::clone(&view), shutdown.clone());
        view::run(view, state, shutdown).map(Ok)
    });
    spawn(&mut tasks, "controller", {
        let shutdown = shutdown.clone();
        controller.run(shutdown).map(Ok)
    });
    start_netboot(&config, advertise, view, tunnels, &recorder, sockets.boot, &mut tasks, &shutdown)?;
    tracing::info!(%advertise, interface = interface.as_deref().unwrap_or("none"), "serving");
    wait(tasks, shutdown).await
}

/// Everything that is bound before anything runs.
struct Sockets {
    operator: tokio::net::UnixListener,
    machine_api: TcpListener,
    boot: BootSockets,
}

struct BootSockets {
    http: TcpListener,
    tftp: tftp::TftpSocket,
    dhcp: Option<dhcp::DhcpSocket>,
}

impl Sockets {
    async fn bind(config: &Config, advertise: Ipv4Addr, interface: Option<&str>) -> anyhow::Result<Self> {
        let listen = config.api.listen;
        let machine_api = SocketAddr::new(listen.ip(), config.machine_api_port);
        // A TFTP client drops what comes from another address than it asked.
        let tftp_ip = if listen.ip().is_unspecified() { IpAddr::V4(advertise) } else { listen.ip() };
        let tftp_address = SocketAddr::new(tftp_ip, config.netboot.tftp_port);
        Ok(Self {
            operator: operator::bind(&config.socket())
                .with_context(|| format!("cannot take the operator socket {}", config.socket().display()))?,
            machine_api: TcpListener::bind(machine_api)
                .await
                .with_context(|| format!("cannot listen on {machine_api} for the machine API"))?,
            boot: BootSockets {
                http: TcpListener::bind(listen)
                    .await
                    .with_context(|| format!("cannot listen on {listen} for HTTP"))?,
                tftp: tftp::bind(tftp_address)
                    .with_context(|| format!("cannot listen on udp {tftp_address} for TFTP"))?,
                dhcp: match interface {
                    Some(name) => Some(
                        dhcp::bind(name)
                            .with_context(|| format!("cannot open a raw socket on {name} for DHCP"))?,
                    ),
                    None => None,
                },
            },
        })
    }
}

/// Starts the hub and the operator socket, and links to it as to any Omni: over gRPC.
#[expect(clippy::too_many_arguments, reason = "wiring: each is used once")]
async fn start_hub(
    config: &Config,
    advertise: Ipv4Addr,
    store: Arc<dyn State>,
    recorder: &Arc<Recorder>,
    operator_listener: tokio::net::UnixListener,
    machine_api: TcpListener,
    tasks: &mut JoinSet<(&'static str, anyhow::Result<()>)>,
    shutdown: &CancellationToken,
) -> anyhow::Result<Arc<dyn State>> {
    let machine_api_address = SocketAddr::new(IpAddr::V4(advertise), config.machine_api_port);
    let observer = {
        let sink = recorder.sink();
        Arc::new(move |event| {
            if let Some(event) = events::of_hub(event) {
                sink(event);
            }
        })
    };
    let hub_config = HubConfig {
        provider_id: config.id.clone(),
        machine_api_url: format!("grpc://{machine_api_address}"),
        event_endpoint: machine_api_address.to_string(),
    };
    let hub = Hub::open(hub_config, store, observer).await.context("cannot open the hub")?;
    spawn(tasks, "operator", {
        let run = operator::run(operator_listener, hub.state(), Arc::clone(recorder), shutdown.clone());
        async move { Ok(run.await?) }
    });
    spawn(tasks, "machine API", {
        let router = hub.routes().into_axum_router();
        let run = http::serve(machine_api, router, shutdown.clone());
        run.map(Ok)
    });
    spawn(tasks, "hub", {
        let shutdown = shutdown.clone();
        async move { hub.run(shutdown).await }.map(Ok)
    });
    let state = GrpcState::connect_unix(config.socket()).await.context("cannot link to the hub")?;
    Ok(Arc::new(state))
}

/// Starts HTTP, TFTP and DHCP.
#[expect(clippy::too_many_arguments, reason = "wiring: each is used once")]
fn start_netboot(
    config: &Config,
    advertise: Ipv4Addr,
    view: Arc<View>,
    tunnels: Arc<Tunnels>,
    recorder: &Arc<Recorder>,
    sockets: BootSockets,
    tasks: &mut JoinSet<(&'static str, anyhow::Result<()>)>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let port = config.api.listen.port();
    let base = BaseUrl::new(advertise, port);
    let init = init_script(base).text();
    let files = Arc::new(
        BootFiles::load(
            &config.netboot.ipxe_dir,
            vec![("autoexec.ipxe".to_owned(), init.clone().into_bytes())],
        )
        .with_context(|| format!("cannot read iPXE binaries from {}", config.netboot.ipxe_dir.display()))?,
    );
    let settings = Settings {
        base,
        disk_method: config.boot.disk_method,
        schematic: config.boot.schematic.clone(),
        agent_test_mode: config.agent.test_mode,
        agent_args: config.agent.extra_kernel_args.clone(),
        talos_args: config.boot.extra_kernel_args.clone(),
    };
    let policy = Arc::new(Policy::new(settings, view));
    let sink: Sink = {
        let (policy, journal) = (Arc::clone(&policy), recorder.sink());
        Arc::new(move |event| {
            policy.saw(&event);
            journal(event);
        })
    };
    let router = http::router(http::HttpConfig {
        policy,
        files: Arc::clone(&files),
        assets: AssetDir::new(&config.boot.assets_path).with_context(|| {
            format!(
                "cannot open the directory of boot assets {}; set boot.assets_path",
                config.boot.assets_path.display()
            )
        })?,
        init_script: init,
        sink: Arc::clone(&sink),
    })
    .merge(tonic::service::Routes::new(TunnelService::new(tunnels).into_server()).into_axum_router());
    spawn(tasks, "http", {
        let run = http::serve(sockets.http, router, shutdown.clone());
        run.map(Ok)
    });
    if let Some(socket) = sockets.dhcp {
        let proxy =
            Proxy::new(ProxyConfig { server: advertise, http_port: port, binaries: files.binaries() });
        let run = dhcp::run(socket, proxy, Arc::clone(&sink), shutdown.clone());
        spawn(tasks, "dhcp", async move { Ok(run.await?) });
    }
    let run = tftp::run(sockets.tftp, files, sink, shutdown.clone());
    spawn(tasks, "tftp", async move { Ok(run.await?) });
    Ok(())
}

fn spawn(
    tasks: &mut JoinSet<(&'static str, anyhow::Result<()>)>,
    name: &'static str,
    part: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) {
    use tracing::Instrument;
    tasks.spawn(async move { (name, part.await) }.instrument(tracing::info_span!("part", name)));
}

/// Until a signal or the first end; then all the others.
async fn wait(
    mut tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Cancel-safe: a signal or an end that is not taken now is taken by nobody else.
    let mut result = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(ended) = tasks.join_next() => outcome(ended),
    };
    tracing::info!("stopping");
    shutdown.cancel();
    while let Some(ended) = tasks.join_next().await {
        if let Ok((name, Err(error))) = ended {
            tracing::warn!(name, error = format!("{error:#}"), "ended with an error");
            result = result.and(Err(error.context(name)));
        }
    }
    result
}

fn outcome(ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>) -> anyhow::Result<()> {
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
        anyhow::anyhow!("{}: another bootlace runs in this state directory ({error})", path.display())
    })
}

/// The configured address, or the only one that other machines can reach.
fn advertise_address(config: &Config) -> anyhow::Result<Ipv4Addr> {
    if let Some(address) = config.api.advertise {
        return Ok(address);
    }
    let found: Vec<(String, Ipv4Addr)> = ipv4_addresses()?
        .into_iter()
        .filter(|(_, address)| !address.is_loopback() && !address.is_link_local())
        .collect();
    match found.as_slice() {
        [(_, address)] => Ok(*address),
        [] => bail!("no interface has a routable IPv4 address; set --api-advertise-address"),
        several => {
            let list: Vec<String> =
                several.iter().map(|(name, address)| format!("{address} ({name})")).collect();
            bail!(
                "several addresses could be advertised: {}; choose one by --api-advertise-address",
                list.join(", ")
            )
        }
    }
}

fn interface_of(address: Ipv4Addr) -> anyhow::Result<String> {
    ipv4_addresses()?.into_iter().find_map(|(name, found)| (found == address).then_some(name)).with_context(
        || format!("no interface has {address}; name the one for DHCP by --dhcp-proxy-iface-or-ip"),
    )
}

fn ipv4_addresses() -> anyhow::Result<Vec<(String, Ipv4Addr)>> {
    let all = nix::ifaddrs::getifaddrs().context("cannot list the network interfaces")?;
    Ok(all
        .filter_map(|entry| {
            let address = entry.address?.as_sockaddr_in()?.ip();
            Some((entry.interface_name, address))
        })
        .collect())
}
