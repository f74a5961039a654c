//! TLS 1.3 in front of a router: handshakes with their limits. What machines trust is settled by whoever gives the
//! certificate.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// gRPC is HTTP/2.
const ALPN: &[u8] = b"h2";
/// From the first byte to the last; two round trips.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// The same while more than half of all handshakes are taken: whoever stalls makes room for those that do not.
const CROWDED: Duration = Duration::from_secs(2);
/// Handshakes at once; each may hold a message of 64 KiB. One takes milliseconds: a rack that comes up at the same
/// moment has its turn.
const HANDSHAKES_MAX: usize = 512;
/// Of these from one address, so that one client that stalls keeps nobody else out. A machine has one; as many as
/// this are a site behind one address.
const OF_ONE_MAX: usize = 64;

/// Takes connections; clones share the limits.
#[derive(Clone)]
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    under_way: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// TLS 1.3 only, without client certificates; nothing is kept between connections.
    pub(super) fn new(certificate: Arc<dyn ResolvesServerCert>) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring has TLS 1.3")
            .with_no_client_auth()
            .with_cert_resolver(certificate);
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Self { acceptor: TlsAcceptor::from(Arc::new(config)), under_way: Arc::default() }
    }

    /// The handshake of one connection; `None` when it is refused, fails or takes too long.
    pub(super) async fn accept(&self, stream: TcpStream, peer: SocketAddr) -> Option<TlsStream<TcpStream>> {
        let Some(turn) = self.turn(peer.ip()) else {
            tracing::debug!(%peer, "too many TLS handshakes at once");
            return None;
        };
        let limit = if turn.crowded { CROWDED } else { HANDSHAKE_TIME };
        match tokio::time::timeout(limit, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS"),
            Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
        }
        None
    }

    fn turn(&self, peer: IpAddr) -> Option<Turn> {
        let mut under_way = lock(&self.under_way);
        let all: usize = under_way.values().sum();
        let own = under_way.get(&peer).copied().unwrap_or_default();
        if all >= HANDSHAKES_MAX || own >= OF_ONE_MAX {
            return None;
        }
        under_way.insert(peer, own + 1);
        Some(Turn { under_way: Arc::clone(&self.under_way), peer, crowded: all > HANDSHAKES_MAX / 2 })
    }
}

type UnderWay = Mutex<HashMap<IpAddr, usize>>;

fn lock(under_way: &UnderWay) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A handshake that is counted until it is over.
struct Turn {
    under_way: Arc<UnderWay>,
    peer: IpAddr,
    crowded: bool,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut under_way = lock(&self.under_way);
        if let Some(count) = under_way.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.peer);
            }
        }
    }
}
