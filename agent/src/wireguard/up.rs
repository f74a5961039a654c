//! A tunnel that is up: its socket or stream, and the task that drives it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use siderolink::{Endpoint, KEEPALIVE, PeerConfig, PeerError, PrivateKey, RelayError, Tunnel, TunnelConfig};
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::transport::Endpoint as Uri;

use super::{Plan, PlanError};
use crate::console::chain;
use crate::tls::{self, Taken, Trust};
use crate::{say, sys};

/// Streams at once: the control plane's calls, and the machine's own.
const MAX_STREAMS: usize = 32;
/// Before a broken stream is opened again.
const STREAM_PAUSE: Duration = Duration::from_secs(2);
/// Between two looks at a tunnel that is down, whether it came back.
const LOOK: Duration = Duration::from_secs(1);

/// The tunnel is not up.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The registration's answer is no use.
    #[error("the registration's answer is no use")]
    Plan(#[from] PlanError),
    /// No socket.
    #[error("no socket for WireGuard")]
    Socket(#[source] std::io::Error),
    /// The device refuses the control plane.
    #[error("the control plane is no peer")]
    Peer(#[from] PeerError),
}

/// A tunnel, up until it is dropped.
pub struct Up {
    plan: Plan,
    tunnel: Tunnel,
    since: Instant,
    tasks: Vec<JoinHandle<()>>,
    /// The stream is not taken (any more).
    refused: Arc<Notify>,
}

impl Drop for Up {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Up {
    /// Brings the tunnel up and begins the handshake; it does not wait for it.
    pub async fn start(plan: Plan, trust: Trust, key: &PrivateKey) -> Result<Self, UpError> {
        let mut seed = [0; 8];
        let _ = sys::random(&mut seed, false);
        let tunnel = Tunnel::new(TunnelConfig {
            key: key.clone(),
            address: plan.address,
            max_streams: MAX_STREAMS,
            seed: u64::from_ne_bytes(seed),
        });
        let peer = PeerConfig {
            address: plan.server_address,
            endpoint: Some(plan.endpoint),
            keepalive: Some(KEEPALIVE),
        };
        tunnel.set_peer(plan.server, peer)?;
        let refused = Arc::new(Notify::new());
        let mut tasks = Vec::new();
        let socket = match (plan.endpoint, plan.stream) {
            (Endpoint::Udp(server), _) => Some(bind(server).await.map_err(UpError::Socket)?),
            (Endpoint::Relay(server), Some(own)) => {
                tunnel.relay().expect(server);
                let uri = (plan.machine_api.clone(), Taken::NamedOrPublic(trust));
                let (tunnel, refused) = (tunnel.clone(), Arc::clone(&refused));
                tasks.push(tokio::spawn(keep_stream(tunnel, uri, own, server, refused)));
                None
            }
            (Endpoint::Relay(_), None) => None,
        };
        let driven = tunnel.clone();
        tasks.push(tokio::spawn(async move { driven.run(socket.as_ref()).await }));
        tunnel.initiate(&plan.server);
        Ok(Self { plan, tunnel, since: Instant::now(), tasks, refused })
    }

    /// What it was made of.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The tunnel itself.
    pub fn tunnel(&self) -> &Tunnel {
        &self.tunnel
    }

    /// Begins a handshake, unless one is under way.
    pub fn call(&self) {
        self.tunnel.initiate(&self.plan.server);
    }

    /// Until the tunnel is down: no first handshake for `patience`, none again for [`siderolink::PEER_DOWN`], or its
    /// stream is refused. Looks every `check`.
    pub(super) async fn down(&self, check: Duration, patience: Duration) {
        let silent = async {
            loop {
                let down = match self.tunnel.handshake_age(&self.plan.server) {
                    Some(age) => age >= siderolink::PEER_DOWN,
                    None => self.since.elapsed() >= patience,
                };
                if down {
                    return;
                }
                tokio::time::sleep(check).await;
            }
        };
        // Cancel-safe: both only look.
        tokio::select! {
            () = silent => {}
            () = self.refused.notified() => {}
        }
    }

    /// Until there is a handshake that is new.
    pub(super) async fn recovered(&self) {
        let down_at = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            if self.tunnel.handshake_age(&self.plan.server).is_some_and(|age| age < down_at.elapsed()) {
                return;
            }
        }
    }
}

async fn bind(server: SocketAddr) -> std::io::Result<UdpSocket> {
    match server {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await,
    }
}

/// Keeps the stream open until it is refused.
async fn keep_stream(
    tunnel: Tunnel,
    (uri, taken): (String, Taken),
    own: SocketAddrV6,
    server: SocketAddrV6,
    refused: Arc<Notify>,
) {
    let limited = |endpoint: Uri| {
        endpoint.connect_timeout(STREAM_PAUSE * 5).tcp_nodelay(true).http2_keep_alive_interval(KEEPALIVE)
    };
    loop {
        match tls::connect(&uri, &taken, limited).await {
            Ok(channel) => match tunnel.relay().keep_stream(channel, own, server).await {
                RelayError::NotAllowed => {
                    refused.notify_one();
                    return;
                }
                error @ (RelayError::Replaced | RelayError::Broken(_)) => {
                    say!("wireguard: the stream ended: {error}");
                }
            },
            Err(error) => say!("wireguard: no stream: {}", chain(&error)),
        }
        tokio::time::sleep(STREAM_PAUSE).await;
    }
}
