//! HTTP, TFTP and DHCP, for each network that is served.
//!
//! DHCP and TFTP need nothing of the hub or of Omni: they answer at once ([`answer`]). HTTP, which tells machines what
//! they boot, follows when the view is there ([`start`]); who asks before waits in its socket's queue.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agent_wire::tunnel::TunnelService;
use anyhow::Context;
use axum::Router;
use netboot::boot::BootPolicy;
use netboot::ipxe::{AgentTls, BaseUrl, init_script};
use netboot::journal::{Event, Sink, Step};
use netboot_assets::cache::{CacheConfig, ImageCache, RESERVE};
use netboot_assets::factory::{Factory, FactoryImages};
use netboot_assets::{AssetDir, BootFiles, FoundFiles};
use netboot_link::dhcp::{self, v6};
use netboot_link::{http, raw, tftp};
use omni_link::tunnels::Tunnels;
use omni_link::view::View;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::Site;
use super::networks::Network;
use super::sockets::{BootSockets, NetworkSockets};
use crate::policy::{Images, Policy, Settings};
use crate::recorder::unix_millis;

/// Its folder in the state directory.
const CACHE_NAME: &str = "cache";
/// A rack that is allocated at once is looked at once. Machines take longer to be switched on and to ask.
pub(super) const PREFETCH_REST: Duration = Duration::from_secs(2);

/// What all networks share.
struct Common {
    policy: Policy,
    assets: AssetDir,
    tunnels: Router,
    /// The same over TLS, with limits for all networks together.
    encrypted: Option<http::Service>,
}

/// A network whose machines are answered but not yet told what they boot.
pub(super) struct Answering {
    network: Network,
    /// Over IPv4, and over IPv6 where that is served.
    http: Vec<TcpListener>,
    tls: Option<TcpListener>,
    files: Arc<BootFiles>,
    init: String,
    sink: Sink,
    /// Hears of every event once it is there.
    policy: Arc<OnceLock<Arc<Policy>>>,
}

/// Answers DHCP, then TFTP. A machine needs the bytes of what it is offered no sooner than an answer later, so they are
/// read when DHCP answers.
pub(super) async fn answer(site: &mut Site, sockets: BootSockets) -> anyhow::Result<Vec<Answering>> {
    for stack in sockets.stacks {
        let stack = raw::run(stack, site.shutdown.clone());
        site.spawn("raw stack", async move { Ok(stack.await?) });
    }
    let ipxe_dir = site.config.netboot.ipxe_dir.clone();
    let unreadable = || {
        let place = ipxe_dir.display();
        format!("cannot read iPXE binaries from {place}; install the package `ipxe`, or set netboot.ipxe_dir")
    };
    let found = FoundFiles::of(&ipxe_dir).with_context(unreadable)?;
    let (mut networks, mut begun) = (Vec::new(), Vec::new());
    for network in sockets.networks {
        networks.push(answer_dhcp(site, network, &found, &mut begun));
    }
    // The rest of the start is long and may have this thread's processor to itself: who answers has it first.
    for began in begun {
        // Nothing is said; its end is the word.
        let _ = began.await;
    }
    let files = found.load().with_context(unreadable)?;
    Ok(networks.into_iter().map(|network| answer_tftp(site, network, &files)).collect())
}

/// A network of which DHCP is answered.
struct Offering {
    network: Network,
    http: Vec<TcpListener>,
    tls: Option<TcpListener>,
    tftp: tftp::TftpSocket,
    sink: Sink,
    policy: Arc<OnceLock<Arc<Policy>>>,
}

/// `begun` ends when it is answered.
fn answer_dhcp(
    site: &mut Site,
    sockets: NetworkSockets,
    found: &FoundFiles,
    begun: &mut Vec<oneshot::Receiver<()>>,
) -> Offering {
    let NetworkSockets { network, http, tls, tftp, dhcp: dhcp_socket, ipv6 } = sockets;
    let policy: Arc<OnceLock<Arc<Policy>>> = Arc::default();
    let sink: Sink = {
        let (policy, journal) = (Arc::clone(&policy), site.recorder.sink());
        Arc::new(move |event| {
            if let Some(policy) = policy.get() {
                policy.saw(&event);
            }
            journal(event);
        })
    };
    let shutdown = site.shutdown.clone();
    if let Some(socket) = dhcp_socket {
        let server = dhcp::run(socket, found.binaries(), Arc::clone(&sink), shutdown.clone());
        let (begins, began) = oneshot::channel::<()>();
        site.spawn("dhcp", async move {
            drop(begins);
            Ok(server.await?)
        });
        begun.push(began);
    }
    let http6 = ipv6.and_then(|ipv6| {
        let server = v6::run(ipv6.sockets, found.binaries(), Arc::clone(&sink), shutdown);
        site.spawn("ipv6", async move { Ok(server.await?) });
        ipv6.http
    });
    let http = [http].into_iter().chain(http6).collect();
    Offering { network, http, tls, tftp, sink, policy }
}

fn answer_tftp(site: &mut Site, offering: Offering, files: &BootFiles) -> Answering {
    let Offering { network, http, tls, tftp: socket, sink, policy } = offering;
    let init = init_script(BaseUrl::new(network.address, site.config.api.listen.port())).text();
    let extra = vec![("autoexec.ipxe".to_owned(), init.clone().into_bytes())];
    let files = Arc::new(files.clone().with(extra));
    let server = tftp::run(socket, Arc::clone(&files), Arc::clone(&sink), site.shutdown.clone());
    site.spawn("tftp", async move { Ok(server.await?) });
    tell(&network, &sink);
    Answering { network, http, tls, files, init, sink, policy }
}

/// Tells the machines of all networks what they boot.
pub(super) fn start(
    site: &mut Site,
    networks: Vec<Answering>,
    view: Arc<View>,
    tunnels: Arc<Tunnels>,
) -> anyhow::Result<()> {
    let config = &site.config;
    let assets_path = &config.boot.assets_path;
    let assets = AssetDir::new(assets_path).with_context(|| {
        format!("cannot open the directory of boot assets {}; set boot.assets_path", assets_path.display())
    })?;
    let factory = Factory::new(&config.boot.factory).context("cannot use the Image Factory")?;
    let factory = Arc::new(factory);
    let cache = open_cache(site, &factory);
    let config = &site.config;
    let (factory, worker) = FactoryImages::new(factory);
    let images = Images { assets: assets.clone(), cache: cache.clone(), factory: Arc::new(factory) };
    let assets = assets.with_cache(cache.clone());
    let changes = view.generation();
    let base = BaseUrl::new(site.advertise, config.api.listen.port());
    let policy = Policy::new(settings(site, base), images, view);
    // What DHCP saw since the start is in the journal too.
    policy.recall(site.recorder.since(0).iter().map(|entry| &entry.event), unix_millis());
    let tunnels = tonic::service::Routes::new(TunnelService::new(tunnels).into_server()).into_axum_router();
    let encrypted = site.certificates.clone();
    let encrypted = encrypted.map(|certificates| http::Service::encrypted(tunnels.clone(), certificates));
    let common = Common { policy, assets, tunnels, encrypted };

    let factory = worker.run(site.shutdown.clone());
    site.spawn("image factory", async move {
        factory.await;
        Ok(())
    });
    let policies = networks.into_iter().map(|network| serve(site, network, &common)).collect();
    if cache.is_some() {
        let prefetch = prefetch(policies, changes, site.shutdown.clone());
        site.spawn("image prefetch", prefetch);
    }
    Ok(())
}

/// The image cache, and its worker. Without it machines boot from the factory.
fn open_cache(site: &mut Site, factory: &Arc<Factory>) -> Option<ImageCache> {
    let bytes_max = site.config.boot.image_cache_bytes;
    if bytes_max == 0 {
        return None;
    }
    let root = site.config.state_dir.join(CACHE_NAME);
    let config = CacheConfig { root, bytes_max, reserve: RESERVE };
    match ImageCache::open(config, Arc::clone(factory)) {
        Ok((cache, worker)) => {
            let worker = worker.run(site.shutdown.clone());
            site.spawn("image cache", async move {
                worker.await;
                Ok(())
            });
            site.status.show_cache(cache.clone());
            Some(cache)
        }
        Err(error) => {
            tracing::warn!(%error, "no image cache: machines boot Talos from the Image Factory");
            None
        }
    }
}

/// Has images fetched as soon as they are known to be needed.
async fn prefetch(
    policies: Vec<Arc<Policy>>,
    mut changes: watch::Receiver<u64>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        for policy in &policies {
            policy.prefetch(policies.len() > 1);
        }
        let changed = async {
            // An end of the view is the appliance's.
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(PREFETCH_REST).await;
            changes.mark_unchanged();
        };
        // Cancel-safe: nothing is lost at the end of all.
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = changed => {}
        }
    }
}

fn settings(site: &Site, base: BaseUrl) -> Settings {
    let config = &site.config;
    let tls = config.tls.as_ref().zip(site.certificates.clone()).map(|(tls, certificates)| {
        (AgentTls { port: tls.port, skip_verify: tls.agent_skip_verify }, certificates)
    });
    Settings {
        tls,
        base,
        disk_method: config.boot.disk_method,
        schematic: config.boot.schematic.clone(),
        agent: config.agent.kind.clone(),
        extra_documents: config.boot.extra_documents.clone(),
        agent_test_mode: config.agent.test_mode,
        agent_args: config.agent.extra_kernel_args.clone(),
        talos_args: config.boot.extra_kernel_args.clone(),
    }
}

/// Serves one network: its own scripts, which point to our address there.
fn serve(site: &mut Site, answering: Answering, common: &Common) -> Arc<Policy> {
    let Answering { network, http: listeners, tls, files, init, sink, policy: told } = answering;
    let base = BaseUrl::new(network.address, site.config.api.listen.port());
    let policy = Arc::new(policy(site, &network, base, &common.policy));
    // Set here and nowhere else.
    let _ = told.set(Arc::clone(&policy));
    let service = http::Service::new(http::HttpConfig {
        policy: Arc::clone(&policy) as Arc<dyn BootPolicy>,
        files,
        assets: common.assets.clone(),
        init_script: init,
        sink,
    })
    .merge(common.tunnels.clone());
    let plain = listeners.into_iter().map(|listener| (listener, service.clone()));
    for (listener, service) in plain.chain(tls.zip(common.encrypted.clone())) {
        let server = http::serve(listener, service, site.shutdown.clone());
        site.spawn("http", async move {
            server.await;
            Ok(())
        });
    }
    policy
}

/// The policy with what the network's profile says otherwise.
fn policy(site: &Site, network: &Network, base: BaseUrl, common: &Policy) -> Policy {
    let settings = settings(site, base);
    let profile = &network.profile;
    let settings = Settings {
        disk_method: profile.disk_method.unwrap_or(settings.disk_method),
        talos_args: settings.talos_args.and(&profile.talos_args),
        agent_args: settings.agent_args.and(&profile.agent_args),
        ..settings
    };
    common.for_network(settings, site.advertise, network.address)
}

/// Says which stack serves a network, and why.
fn tell(network: &Network, sink: &Sink) {
    let (stack, address, reason) = (network.stack(), network.address, &network.reason);
    tracing::info!(%network, stack, %address, reason, "serving a network");
    let step = Step::NetworkServed {
        network: format!("{network} ({address})"),
        stack: stack.to_owned(),
        reason: reason.clone(),
    };
    sink(Event::new(unix_millis(), step));
}
