//! What happens from the moment that the kernel is ready: network, join, tunnel, for ever.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent_wire::tunnel::{self, FINGERPRINT_HEADER, Limits, MACHINE_ID_HEADER};
use siderolink::Tunnel;
use tokio::sync::{Notify, OnceCell, mpsc, watch};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::service::Routes;

use crate::cmdline::{Cmdline, substitute};
use crate::console::chain;
use crate::identity::{self, Identity, IdentityError};
use crate::inventory::{self, Inventory, Source};
use crate::machine::{BareMetal, Machine};
use crate::machine_api::{self, MachineApi};
use crate::meta::{Meta, UNIQUE_MACHINE_TOKEN};
use crate::retry::Backoff;
use crate::service::Agent;
use crate::tls::{Taken, Trust};
use crate::{join, modules, net, retry, say, sys, tls, wireguard};

/// A tunnel of a machine that is not known yet may be refused, so the join goes first; a machine that
/// cannot join is still worth a tunnel, after this.
const JOIN_HEADSTART: Duration = Duration::from_secs(15);
/// A tunnel that held this long was a good one: the next try comes soon.
const GOOD_TUNNEL: Duration = Duration::from_secs(30);

/// The boot cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel does not say how it was started.
    #[error("kernel command line cannot be read")]
    Cmdline(#[source] std::io::Error),
    /// The machine does not say who it is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Neither a configuration nor a provider is named.
    #[error("kernel command line has neither talos.config nor metal.provider.address")]
    NothingToDo,
}

/// The tunnel's two services.
pub fn routes<M: Machine, S: Source>(machine: Arc<M>, source: Arc<S>, test_mode: bool) -> Routes {
    Routes::new(Agent::server(machine, test_mode)).add_service(Inventory::server(source))
}

/// The metadata that opens a tunnel.
pub fn tunnel_metadata(identity: &Identity) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    for (key, value) in [(MACHINE_ID_HEADER, &identity.uuid), (FINGERPRINT_HEADER, &identity.fingerprint)] {
        if let Ok(value) = MetadataValue::try_from(value) {
            metadata.insert(key, value);
        }
    }
    metadata
}

/// What the machine is as it stands: it changes when the machine joins.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Who it is: the name that it joined with, which is the control plane's to change.
    pub identity: Identity,
    /// Whom the last configuration says to trust.
    pub trust: Trust,
}

/// Where tunnels are opened to.
#[derive(Clone, Debug)]
pub struct Provider {
    /// `http://` or `https://`, address and port.
    pub uri: String,
    /// Any certificate will do.
    pub skip_verify: bool,
}

/// Keeps a tunnel open, and says in `open` whether it is. A machine that joins under another name opens another
/// tunnel. Never returns.
pub async fn keep_tunnel(
    provider: &Provider,
    mut standing: watch::Receiver<Standing>,
    routes: Routes,
    mut backoff: Backoff,
    open: &AtomicBool,
) {
    loop {
        let begun = tokio::time::Instant::now();
        let opened = || open.store(true, Ordering::Relaxed);
        let now = standing.borrow_and_update().clone();
        // Cancel-safe: a tunnel that is dropped is closed.
        tokio::select! {
            end = tunnel_once(provider, &now, routes.clone(), opened) => say!("tunnel: {end}"),
            uuid = renamed(&mut standing, &now.identity.uuid) => {
                say!("tunnel: this machine is {uuid} now");
                open.store(false, Ordering::Relaxed);
                continue;
            }
        }
        open.store(false, Ordering::Relaxed);
        if begun.elapsed() > GOOD_TUNNEL {
            backoff.reset();
        }
        let wait = backoff.next_wait();
        say!("tunnel: again in {} s", wait.as_secs());
        // Cancel-safe: both only wait. A new configuration may name another authority.
        let _ = tokio::time::timeout(wait, changed(&mut standing, &now)).await;
    }
}

/// Until the machine has another name: that.
async fn renamed(standing: &mut watch::Receiver<Standing>, uuid: &str) -> String {
    let other = |standing: &Standing| standing.identity.uuid != uuid;
    let name = standing.wait_for(other).await.map(|standing| standing.identity.uuid.clone());
    match name {
        Ok(name) => name,
        // Nobody is left who could rename it.
        Err(_) => std::future::pending().await,
    }
}

/// Until a tunnel may do that did not before.
async fn changed(standing: &mut watch::Receiver<Standing>, old: &Standing) {
    let other = |new: &Standing| new.identity.uuid != old.identity.uuid || new.trust != old.trust;
    if standing.wait_for(other).await.is_err() {
        std::future::pending().await
    }
}

async fn tunnel_once(
    provider: &Provider,
    standing: &Standing,
    routes: Routes,
    opened: impl FnOnce(),
) -> String {
    let (uri, identity) = (&provider.uri, &standing.identity);
    let taken = if provider.skip_verify { Taken::Anybodys } else { Taken::Named(standing.trust.clone()) };
    let channel = match tls::connect(uri, &taken, tunnel::limited).await {
        Ok(channel) => channel,
        Err(error) => return chain(&error),
    };
    let opened = || {
        say!("tunnel: open to {uri}");
        opened();
    };
    match tunnel::serve_with(channel, tunnel_metadata(identity), routes, Limits::default(), opened).await {
        Ok(ended) => format!("ended: {}", ended.reason),
        Err(error) => chain(&error),
    }
}

/// The whole of it. Returns only when it cannot even begin.
pub async fn run() -> Result<(), BootError> {
    let text = std::fs::read_to_string("/proc/cmdline").map_err(BootError::Cmdline)?;
    let cmdline = Cmdline::parse(&text);
    let skip_verify = cmdline.skip_verify;
    let provider = cmdline.provider_uri().map(|uri| Provider { uri, skip_verify });
    if cmdline.config_url.is_none() && provider.is_none() {
        return Err(BootError::NothingToDo);
    }

    // For transaction ids and jitter; never blocks.
    let mut seed = [0; 4];
    let _ = sys::random(&mut seed, false);
    let seed = u32::from_ne_bytes(seed);
    let (sender, addresses) = mpsc::channel(16);
    let ((), result) = tokio::join!(net::run(sender, seed), serve(&cmdline, provider, addresses, seed));
    result
}

/// Registers, keeps SideroLink's tunnel up and serves the machine API inside. Never returns.
async fn keep_joined<S: Source>(
    url: &str,
    identity: &Identity,
    source: Arc<S>,
    standing: &watch::Sender<Standing>,
    joined: &Notify,
    refused: impl Fn(),
    seed: u32,
) {
    let meta = Meta::default();
    // As in Talos, where what the machine registers with can be read again. It fits: nothing else is there.
    let _ = meta.write(UNIQUE_MACHINE_TOKEN, identity.token.encode().as_bytes());
    let mut last = None;
    let learned = |trust: &Trust| standing.send_modify(|standing| standing.trust = trust.clone());
    let register = async || {
        let identity = identity.clone().with(&meta.entries());
        // The configuration is given for the first minutes of a boot only; what was good is good enough.
        let again = match last.clone() {
            Some(config) => join::again(config, &identity, Backoff::new(seed)).await,
            None => None,
        };
        let registration = match again {
            Some(registration) => registration,
            None => join::join_with(url, &identity, Backoff::new(seed), learned, &refused).await,
        };
        last = Some(registration.config.clone());
        standing.send_modify(|standing| standing.identity = identity);
        joined.notify_one();
        registration
    };
    let mut entries = meta.subscribe();
    let renamed = async || {
        // The sender lives as long as this function.
        while entries.changed().await.is_ok() {
            if identity.clone().with(&entries.borrow_and_update()) != *identity {
                return;
            }
        }
    };
    let api = OnceCell::new();
    let serve = async |tunnel: Tunnel| {
        let api = api.get_or_try_init(|| MachineApi::new(source.clone(), meta.clone()));
        match (api.await, tunnel.listen(machine_api::PORT)) {
            (Ok(api), Ok(listener)) => {
                machine_api::serve(listener, api.clone(), std::future::pending()).await
            }
            (Err(error), _) => say!("machine API: {}", chain(&error)),
            (_, Err(error)) => say!("machine API: {}", chain(&error)),
        }
    };
    let backoff = Backoff::new(seed.rotate_left(13));
    wireguard::keep(register, renamed, &identity.wireguard, serve, backoff).await;
}

/// Everything after the first address. Ends at once when the network ends, else never.
async fn serve(
    cmdline: &Cmdline,
    provider: Option<Provider>,
    mut addresses: mpsc::Receiver<net::Up>,
    seed: u32,
) -> Result<(), BootError> {
    // When there is none, the network has said why.
    let Some(first) = addresses.recv().await else { return Ok(()) };
    net::write_resolv(&first.lease.dns);
    // Only now: the fingerprint covers every NIC, and the last driver may have come up late.
    let _ = tokio::task::spawn_blocking(modules::settle).await;
    let randomness = identity::randomness().await;
    let identity = Identity::read(Path::new(identity::DMI), Path::new(net::SYS_NET), randomness)?;
    say!("this machine is {}", identity.uuid);

    let mac = net::mac_text(first.nic.mac);
    let serial = std::fs::read_to_string(Path::new(identity::DMI).join("product_serial")).unwrap_or_default();
    let url = cmdline
        .config_url
        .as_deref()
        .map(|url| substitute(url, &identity.uuid, Some(&mac), Some(serial.trim())));
    let source = Arc::new(inventory::collect::Machine::default());
    let machine = Arc::new(BareMetal { orders: cmdline.orders() });
    let open = AtomicBool::new(false);
    let refused = || {
        // Whoever has a tunnel is looked after, and may be wiping.
        if !open.load(Ordering::Relaxed) {
            let minutes = retry::REFUSED_LIMIT.as_secs() / 60;
            say!("join: refused for {minutes} minutes; a new boot may be let in");
            machine.reboot();
        }
    };
    let (standing, watched) =
        watch::channel(Standing { identity: identity.clone(), trust: Trust::default() });
    let joined = Notify::new();
    let join = async {
        match &url {
            Some(url) => {
                keep_joined(url, &identity, source.clone(), &standing, &joined, &refused, seed).await
            }
            None => say!("no talos.config: does not join"),
        }
    };
    let mut join = std::pin::pin!(join);
    let headstart = tokio::time::sleep(JOIN_HEADSTART);
    // Cancel-safe: the join goes on below, and the other two are not asked again.
    let joins = tokio::select! {
        () = &mut join => false,
        () = joined.notified() => true,
        () = headstart => true,
    };

    let tunnel = async {
        if let Some(provider) = &provider {
            let routes = routes(machine.clone(), source.clone(), cmdline.test_mode);
            keep_tunnel(provider, watched, routes, Backoff::new(seed.rotate_left(7)), &open).await;
        }
    };
    let rest = async {
        if joins {
            join.await;
        }
        // Later addresses are there already; their name servers count while there are no others.
        let mut named = !first.lease.dns.is_empty();
        while let Some(up) = addresses.recv().await {
            if !up.lease.dns.is_empty() && (!named || up.nic == first.nic) {
                named = true;
                net::write_resolv(&up.lease.dns);
            }
        }
    };
    tokio::join!(tunnel, rest);
    Ok(())
}
