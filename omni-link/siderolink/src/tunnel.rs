//! Device and stack as one thing that tasks share, and the task that drives it.

mod listener;
mod run;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::device::{Counters, Device, PeerConfig, PeerError, PeerStatus};
use crate::key::{PrivateKey, PublicKey};
use crate::relay::Relay;
use crate::stack::{Buffers, Stack, StackCounters};
pub use listener::{ListenError, Listener};
pub use stream::TunnelStream;

/// What a tunnel is made of.
#[derive(Clone, Debug)]
pub struct TunnelConfig {
    /// Its own key.
    pub key: PrivateKey,
    /// Its own address.
    pub address: Ipv6Addr,
    /// Streams at once; with [`Buffers`] this bounds the memory.
    pub max_streams: usize,
    /// 64 random bits, for TCP's sequence numbers.
    pub seed: u64,
}

/// One end of a tunnel, or of many with the same key. Clones are the same. Nothing moves without [`Tunnel::run`].
#[derive(Clone)]
pub struct Tunnel {
    shared: Arc<Shared>,
}

struct Shared {
    core: Mutex<Core>,
    /// Somebody wrote or read: the driver has work.
    wake: Notify,
    relay: Relay,
    public_key: PublicKey,
    address: Ipv6Addr,
}

struct Core {
    device: Device,
    stack: Stack,
    /// The driver ended: nothing will come any more.
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tunnel {
    /// A tunnel without peers.
    #[must_use]
    pub fn new(config: TunnelConfig) -> Self {
        let TunnelConfig { key, address, max_streams, seed } = config;
        let public_key = key.public();
        let core = Core {
            device: Device::new(key),
            stack: Stack::new(address, max_streams, seed, Instant::now()),
            ended: false,
        };
        let shared =
            Shared { core: Mutex::new(core), wake: Notify::new(), relay: Relay::new(), public_key, address };
        Self { shared: Arc::new(shared) }
    }

    /// Its own key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.shared.public_key
    }

    /// Its own address.
    #[must_use]
    pub fn address(&self) -> Ipv6Addr {
        self.shared.address
    }

    /// The way over gRPC, for its two ends.
    #[must_use]
    pub fn relay(&self) -> &Relay {
        &self.shared.relay
    }

    /// [`Device::set_peer`].
    ///
    /// # Errors
    /// As there.
    pub fn set_peer(&self, key: PublicKey, config: PeerConfig) -> Result<(), PeerError> {
        self.shared.lock().device.set_peer(Instant::now(), key, config)
    }

    /// [`Device::remove_peer`].
    pub fn remove_peer(&self, key: &PublicKey) {
        self.shared.lock().device.remove_peer(key);
    }

    /// [`Device::peer_at`].
    #[must_use]
    pub fn peer_at(&self, address: Ipv6Addr) -> Option<PublicKey> {
        self.shared.lock().device.peer_at(address)
    }

    /// [`Device::initiate`].
    pub fn initiate(&self, key: &PublicKey) {
        self.shared.lock().device.initiate(Instant::now(), key);
        self.shared.wake.notify_one();
    }

    /// [`Device::status`].
    #[must_use]
    pub fn status(&self, key: &PublicKey) -> Option<PeerStatus> {
        self.shared.lock().device.status(key)
    }

    /// How long ago keys were agreed on with the peer.
    #[must_use]
    pub fn handshake_age(&self, key: &PublicKey) -> Option<Duration> {
        self.status(key)?.last_handshake.map(|at| at.elapsed())
    }

    /// [`Device::statuses`].
    #[must_use]
    pub fn statuses(&self) -> Vec<(PublicKey, PeerStatus)> {
        self.shared.lock().device.statuses().collect()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> (Counters, StackCounters) {
        let core = self.shared.lock();
        (core.device.counters(), core.stack.counters())
    }

    /// How many streams there are, those included that close.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.shared.lock().stack.streams()
    }

    /// Opens a stream to an address in the tunnel.
    ///
    /// # Errors
    /// When there is no room, nobody answers within a minute, or the other end refuses.
    pub async fn connect(&self, remote: SocketAddrV6) -> io::Result<TunnelStream> {
        self.connect_with(remote, Buffers::default()).await
    }

    /// As [`Tunnel::connect`], with memory of one's own measure.
    ///
    /// # Errors
    /// As there.
    pub async fn connect_with(&self, remote: SocketAddrV6, buffers: Buffers) -> io::Result<TunnelStream> {
        TunnelStream::connect(&self.shared, remote, buffers).await
    }

    /// Takes connections to a port.
    ///
    /// # Errors
    /// When somebody listens there already.
    pub fn listen(&self, port: u16) -> Result<Listener, ListenError> {
        self.listen_with(port, Buffers::default())
    }

    /// As [`Tunnel::listen`], with memory of one's own measure.
    ///
    /// # Errors
    /// As there.
    pub fn listen_with(&self, port: u16, buffers: Buffers) -> Result<Listener, ListenError> {
        Listener::new(&self.shared, port, buffers)
    }
}
