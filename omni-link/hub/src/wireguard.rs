//! The hub's end of SideroLink: one WireGuard device in user space for all machines.
//!
//! ```text
//! Link, PendingMachine --> Peers --> Tunnel (siderolink) <-- UDP, or gRPC on the machine API
//!                                      |  [fdae:41e4:649b:9303::1]
//!                                      |-- :8090 event sink      the caller's address is the machine
//!                                      '-- :8092 kernel logs
//! ```
//!
//! What it knows is in the store: its key in the SideroLink configuration, each machine's key, address and last
//! endpoint in its Link. After a restart it calls the machines itself, so that none of them has to join again.

mod peers;
mod watch;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use cosi::{Resource, Version};
use futures_util::StreamExt;
use provider::resources::SIDEROLINK_CONFIG_ID;
use provider::specs::{SiderolinkConfigSpec, SiderolinkSpec};
use ring::rand::{SecureRandom, SystemRandom};
use siderolink::{Buffers, Listener, PrivateKey, RelayServer, Tunnel, TunnelConfig, TunnelStream};
use thiserror::Error;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::setup::SUBNET_PREFIX;
use crate::store::Store;
use crate::{Hub, OpenError, service};
pub(crate) use peers::PeerKind;
use peers::Peers;
pub(crate) use watch::run;

/// Where events are taken inside the tunnel, as by Omni.
pub(crate) const EVENTS_PORT: u16 = 8090;
/// Where kernel logs are taken inside the tunnel, as by Omni.
pub(crate) const LOGS_PORT: u16 = 8092;
/// Streams of all machines at once: an event stream and a log stream of each of 2,000, and half of that again for
/// those that closed and are not gone.
const MAX_STREAMS: usize = 6_000;
/// Memory of one stream. What machines send is small, and there are thousands: 6 KB each are 36 MB at most.
const BUFFERS: Buffers = Buffers { receive: 4 * 1024, send: 2 * 1024 };
/// Machines that are called at once after a restart, and the pause before the next ones: 800 a second, below what
/// the device takes without asking for cookies.
const CALL_AT_ONCE: usize = 100;
const CALL_PAUSE: Duration = Duration::from_millis(125);
/// Calls of one machine at once.
const CALLS_AT_ONCE: usize = 16;
/// A call that takes longer is given up.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// What the hub is told about WireGuard.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WireguardConfig {
    /// Where machines reach it by UDP: `ip:port`.
    pub endpoint: String,
    /// All machines shall come over gRPC, which goes through the machine API's port; else those that ask for it.
    pub over_grpc: bool,
}

/// The hub's address in the tunnel.
pub(crate) fn server_address() -> Ipv6Addr {
    let [a, b, c, d] = SUBNET_PREFIX;
    Ipv6Addr::new(a, b, c, d, 0, 0, 0, 1)
}

/// Clones are the same.
#[derive(Clone)]
pub(crate) struct Wireguard {
    tunnel: Tunnel,
    peers: Arc<Peers>,
    pub(crate) over_grpc: bool,
}

impl Wireguard {
    /// The device with the stored key and all stored peers. The key was made by the setup.
    pub(crate) async fn open(config: &WireguardConfig, store: &Store) -> Result<Self, OpenError> {
        let stored =
            store.find::<SiderolinkConfigSpec>(SIDEROLINK_CONFIG_ID).await.map_err(OpenError::Store)?;
        let key = stored.map(|stored| stored.spec.private_key).unwrap_or_default();
        let key = PrivateKey::from_base64(&key)
            .map_err(|_| OpenError::Config("the stored WireGuard key is damaged".to_owned()))?;
        let mut seed = [0; 8];
        SystemRandom::new().fill(&mut seed).map_err(|_| OpenError::Random)?;
        let tunnel = Tunnel::new(TunnelConfig {
            key,
            address: server_address(),
            max_streams: MAX_STREAMS,
            seed: u64::from_ne_bytes(seed),
        });
        let peers = Arc::new(Peers::new(tunnel.clone()));
        let wireguard = Self { tunnel, peers, over_grpc: config.over_grpc };
        wireguard.load(store).await.map_err(OpenError::Store)?;
        Ok(wireguard)
    }

    /// WireGuard over gRPC, for the machine API.
    pub(crate) fn add_to(&self, routes: Routes) -> Routes {
        routes.add_service(RelayServer::service(self.tunnel.relay()))
    }

    /// The machine is a peer from now on, as this Link of it says, which is stored.
    pub(crate) fn take(&self, kind: PeerKind, resource: &Resource, link: &SiderolinkSpec) {
        self.peers.take(kind, resource.id(), version(resource), link);
    }

    /// The machine whose address in the tunnel this is.
    pub(crate) fn machine_at(&self, address: &str) -> Option<String> {
        self.peers.machine_at(address.parse().ok()?)
    }

    /// Calls all machines of which it is known where they were, some at a time.
    async fn call_all(&self) {
        for keys in self.peers.callable().chunks(CALL_AT_ONCE) {
            for key in keys {
                self.tunnel.initiate(key);
            }
            tokio::time::sleep(CALL_PAUSE).await;
        }
    }

    /// A stream to whoever has that address in the tunnel.
    pub(crate) async fn dial(&self, address: Ipv6Addr, port: u16) -> io::Result<TunnelStream> {
        self.tunnel.connect(SocketAddrV6::new(address, port, 0, 0)).await
    }

    fn listen(&self, port: u16) -> Result<Listener, WireguardError> {
        Ok(self.tunnel.listen_with(port, BUFFERS)?)
    }
}

/// As the store counts.
fn version(resource: &Resource) -> u64 {
    match resource.metadata.version {
        Version::Number(number) => number,
        Version::Undefined => 0,
    }
}

/// Why WireGuard ends.
#[derive(Debug, Error)]
pub enum WireguardError {
    /// The hub was opened without it.
    #[error("the hub has no WireGuard")]
    Off,
    /// It runs already.
    #[error(transparent)]
    Listen(#[from] siderolink::ListenError),
    /// The event sink failed.
    #[error("the event sink in the tunnel failed")]
    Events(#[source] tonic::transport::Error),
}

impl Hub {
    /// A stream to a machine through the tunnel, `None` when it is not known.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn connect_machine(&self, machine: &str, port: u16) -> io::Result<Option<TunnelStream>> {
        let Some(wireguard) = &self.wireguard else { return Ok(None) };
        let Some(address) = wireguard.peers.address_of(PeerKind::Link, machine) else { return Ok(None) };
        wireguard.tunnel.connect(SocketAddrV6::new(address, port, 0, 0)).await.map(Some)
    }

    /// Runs WireGuard on this socket until `shutdown`, with the event sink and the kernel logs inside.
    ///
    /// # Errors
    /// When the hub was opened without it, or runs it already.
    pub async fn serve_wireguard(
        &self,
        socket: &UdpSocket,
        shutdown: CancellationToken,
    ) -> Result<(), WireguardError> {
        let wireguard = self.wireguard.clone().ok_or(WireguardError::Off)?;
        let events = wireguard.listen(EVENTS_PORT)?;
        let logs = wireguard.listen(LOGS_PORT)?.filter_map(|stream| async move {
            let from = stream.as_ref().map(|stream| IpAddr::V6(*stream.peer_addr().ip())).ok()?;
            Some(stream.map(|stream| (stream, from)))
        });
        let server = tonic::transport::Server::builder()
            .concurrency_limit_per_connection(CALLS_AT_ONCE)
            .timeout(CALL_LIMIT)
            .add_routes(service::event_routes(self.clone()))
            .serve_with_incoming(events);
        let calls = async {
            wireguard.call_all().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            // Cancel-safe: what a machine sent and was not answered, it sends again.
            () = shutdown.cancelled() => Ok(()),
            () = wireguard.tunnel.run(Some(socket)) => Ok(()),
            () = self.serve_kernel_logs(logs, shutdown.clone()) => Ok(()),
            () = calls => Ok(()),
            result = server => result.map_err(WireguardError::Events),
        }
    }
}
