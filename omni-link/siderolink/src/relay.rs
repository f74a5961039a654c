//! WireGuard over gRPC: datagrams in a stream of messages, for networks that let no UDP through.
//!
//! Both ends are here. The control plane serves [`RelayServer`]; a machine keeps a stream with
//! [`Relay::keep_stream`]. Which stream is whose is told by a virtual address that the control plane gave to the
//! machine when it was registered: it is the stream's credential, and nothing else is protected by it than the
//! way, since the datagrams are WireGuard's.

mod client;
mod server;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddrV6;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc};

use crate::device::Endpoint;
use crate::limits::{RELAY_EXPECTED, RELAY_QUEUE, RELAY_RECEIVE_QUEUE};
pub use server::RelayServer;

/// Metadata that names the caller by its virtual address and port.
pub const PEER_ADDRESS_HEADER: &str = "x-siderolink-ipv6-addr";

/// Why a stream ended.
#[derive(Debug, Error)]
pub enum RelayError {
    /// The control plane does not know the virtual address (any more): register again.
    #[error("the control plane does not take this virtual address")]
    NotAllowed,
    /// Another stream with the same virtual address was opened.
    #[error("another stream took this one's place")]
    Replaced,
    /// Anything else; it may be tried again.
    #[error("{0}")]
    Broken(String),
}

/// The streams of one tunnel. Clones are the same.
#[derive(Clone)]
pub struct Relay {
    inner: Arc<Inner>,
}

struct Inner {
    streams: Mutex<Streams>,
    sender: mpsc::Sender<(SocketAddrV6, Bytes)>,
    receiver: AsyncMutex<mpsc::Receiver<(SocketAddrV6, Bytes)>>,
}

#[derive(Default)]
struct Streams {
    open: HashMap<SocketAddrV6, Arc<Outgoing>>,
    allowed: HashSet<SocketAddrV6>,
    /// What waits for a stream that this end will open.
    expected: HashMap<SocketAddrV6, VecDeque<Vec<u8>>>,
}

/// What waits for one stream.
#[derive(Default)]
pub(crate) struct Outgoing {
    queue: Mutex<VecDeque<Vec<u8>>>,
    wake: Notify,
    replaced: Notify,
}

impl Outgoing {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, datagram: Vec<u8>) {
        let mut queue = self.lock();
        if queue.len() == RELAY_QUEUE {
            queue.pop_front();
        }
        queue.push_back(datagram);
        drop(queue);
        self.wake.notify_one();
    }

    pub(crate) async fn next(&self) -> Vec<u8> {
        loop {
            if let Some(datagram) = self.lock().pop_front() {
                return datagram;
            }
            self.wake.notified().await;
        }
    }
}

impl Relay {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = mpsc::channel(RELAY_RECEIVE_QUEUE);
        let inner = Inner { streams: Mutex::default(), sender, receiver: AsyncMutex::new(receiver) };
        Self { inner: Arc::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.inner.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream with this virtual address may be opened from now on.
    pub fn allow(&self, address: SocketAddrV6) {
        self.lock().allowed.insert(address);
    }

    /// It may not any more; an open one ends.
    pub fn forbid(&self, address: SocketAddrV6) {
        let mut streams = self.lock();
        streams.allowed.remove(&address);
        if let Some(outgoing) = streams.open.remove(&address) {
            outgoing.replaced.notify_one();
        }
    }

    /// A stream to this address will be opened here: the first datagrams wait for it. Otherwise a handshake that
    /// begins before the stream is there would be repeated after five seconds only.
    pub fn expect(&self, address: SocketAddrV6) {
        self.lock().expected.entry(address).or_default();
    }

    fn allowed(&self, address: SocketAddrV6) -> bool {
        self.lock().allowed.contains(&address)
    }

    /// Takes the way to an address; who had it before loses it.
    pub(crate) fn attach(&self, address: SocketAddrV6) -> Attached {
        let outgoing = Arc::new(Outgoing::default());
        let mut streams = self.lock();
        if let Some(waiting) = streams.expected.get_mut(&address) {
            *outgoing.lock() = std::mem::take(waiting);
        }
        if let Some(before) = streams.open.insert(address, Arc::clone(&outgoing)) {
            before.replaced.notify_one();
        }
        drop(streams);
        Attached { relay: self.clone(), address, outgoing }
    }

    /// A datagram for whoever has the address; nobody's is lost, as datagrams are.
    pub(crate) fn send(&self, to: SocketAddrV6, datagram: Vec<u8>) {
        let mut streams = self.lock();
        if let Some(outgoing) = streams.open.get(&to).cloned() {
            drop(streams);
            outgoing.push(datagram);
        } else if let Some(waiting) = streams.expected.get_mut(&to) {
            if waiting.len() == RELAY_EXPECTED {
                waiting.pop_front();
            }
            waiting.push_back(datagram);
        }
    }

    /// The next datagram that came by a stream. Waits for ever when none comes.
    pub(crate) async fn receive(&self) -> (Endpoint, Bytes) {
        match self.inner.receiver.lock().await.recv().await {
            Some((from, datagram)) => (Endpoint::Relay(from), datagram),
            None => std::future::pending().await,
        }
    }
}

/// A stream's place among the others, as long as it lasts.
pub(crate) struct Attached {
    relay: Relay,
    address: SocketAddrV6,
    pub(crate) outgoing: Arc<Outgoing>,
}

impl Attached {
    /// A datagram that came by the stream. Waits while the driver is busy.
    async fn deliver(&self, datagram: Bytes) {
        // The receiver lives as long as the relay.
        let _ = self.relay.inner.sender.send((self.address, datagram)).await;
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut streams = self.relay.lock();
        if streams.open.get(&self.address).is_some_and(|open| Arc::ptr_eq(open, &self.outgoing)) {
            streams.open.remove(&self.address);
        }
    }
}
