//! A WireGuard device as a value: packets in, datagrams out, and back. No socket, no task.
//!
//! ```text
//! peer   quiet      no session, nothing to say; its timers rest
//!          | packet to send, or a datagram from it
//!        awake      handshake or session; its timers are looked at each second
//!          | nothing heard for so long that boringtun gives up
//!        quiet      (a peer with keepalive tries again)
//! ```

mod peer;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use thiserror::Error;

use crate::key::{PrivateKey, PublicKey};
use crate::limits::{HANDSHAKES_PER_SECOND, MAX_DATAGRAM, MAX_PEERS, MAX_QUEUED, MTU, TICK};
use peer::{Outcome, Peer};

/// Where a peer's datagrams go.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Endpoint {
    /// By UDP.
    Udp(SocketAddr),
    /// Into the gRPC stream that goes by this virtual address.
    Relay(SocketAddrV6),
}

impl Endpoint {
    fn ip(&self) -> IpAddr {
        match self {
            Self::Udp(address) => address.ip(),
            Self::Relay(address) => IpAddr::V6(*address.ip()),
        }
    }
}

/// What is known of a peer beside its key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerConfig {
    /// The only address that its packets may come from, and whose packets go to it.
    pub address: Ipv6Addr,
    /// Where it is, as far as known. Each datagram of its own corrects it.
    pub endpoint: Option<Endpoint>,
    /// How often it hears from us when there is nothing to say. Such a peer is never given up.
    pub keepalive: Option<Duration>,
}

/// Why a peer is not taken.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum PeerError {
    /// There are [`MAX_PEERS`].
    #[error("too many peers")]
    TooMany,
    /// Another key has the address.
    #[error("another peer has this address")]
    AddressTaken,
}

/// How a peer is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PeerStatus {
    /// Its address in the tunnel.
    pub address: Ipv6Addr,
    /// Where it is.
    pub endpoint: Option<Endpoint>,
    /// When keys were agreed on last.
    pub last_handshake: Option<Instant>,
    /// Bytes of packets from it.
    pub received: u64,
    /// Bytes of packets to it.
    pub sent: u64,
}

/// What happened, in numbers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Datagrams that are no WireGuard, or belong to no session, or are forged or repeated.
    pub bad_datagrams: u64,
    /// Handshakes with keys that are no peer's.
    pub unknown_keys: u64,
    /// Handshakes that were answered with a cookie.
    pub cookies: u64,
    /// Packets with an address that is not their peer's, or no IPv6.
    pub foreign_packets: u64,
    /// Packets to no peer, to one that is nowhere, or of a wrong length.
    pub no_route: u64,
    /// Packets and datagrams beyond `MAX_QUEUED` or a peer's queue.
    pub overflow: u64,
}

/// The device.
pub struct Device {
    private: PrivateKey,
    limiter: Arc<RateLimiter>,
    limiter_reset: Option<Instant>,
    peers: HashMap<u32, Peer>,
    by_key: HashMap<PublicKey, u32>,
    by_address: HashMap<Ipv6Addr, u32>,
    /// boringtun gives 24 bits of a session's number to the peer.
    last_index: u32,
    next_tick: Option<Instant>,
    transmits: VecDeque<(Endpoint, Vec<u8>)>,
    packets: VecDeque<Vec<u8>>,
    buffer: Box<[u8]>,
    counters: Counters,
}

const INDEX_MASK: u32 = 0x00ff_ffff;

impl Device {
    /// A device without peers.
    #[must_use]
    pub fn new(private: PrivateKey) -> Self {
        let limiter = RateLimiter::new(&private.public().point(), HANDSHAKES_PER_SECOND);
        Self {
            private,
            limiter: Arc::new(limiter),
            limiter_reset: None,
            peers: HashMap::new(),
            by_key: HashMap::new(),
            by_address: HashMap::new(),
            last_index: 0,
            next_tick: None,
            transmits: VecDeque::new(),
            packets: VecDeque::new(),
            buffer: vec![0; MAX_DATAGRAM].into_boxed_slice(),
            counters: Counters::default(),
        }
    }

    /// Its own key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.private.public()
    }

    /// Adds a peer, or changes what is known of it; its session stays.
    ///
    /// # Errors
    /// When there is no room or the address is another peer's.
    pub fn set_peer(&mut self, now: Instant, key: PublicKey, config: PeerConfig) -> Result<(), PeerError> {
        let known = self.by_key.get(&key).copied();
        if self.by_address.get(&config.address).is_some_and(|index| Some(*index) != known) {
            return Err(PeerError::AddressTaken);
        }
        match known {
            None if self.peers.len() >= MAX_PEERS => return Err(PeerError::TooMany),
            None => {
                let index = self.free_index();
                let tunn = Tunn::new(
                    self.private.secret().clone(),
                    key.point(),
                    None,
                    None,
                    index,
                    Some(Arc::clone(&self.limiter)),
                );
                self.by_key.insert(key, index);
                self.by_address.insert(config.address, index);
                self.peers.insert(index, Peer::new(key, tunn, config, now));
            }
            Some(index) => {
                let Some(peer) = self.peers.get_mut(&index) else { return Ok(()) };
                self.by_address.remove(&peer.config().address);
                self.by_address.insert(config.address, index);
                peer.reconfigure(config);
            }
        }
        Ok(())
    }

    /// Forgets a peer and its session.
    pub fn remove_peer(&mut self, key: &PublicKey) {
        let Some(index) = self.by_key.remove(key) else { return };
        if let Some(peer) = self.peers.remove(&index) {
            self.by_address.remove(&peer.config().address);
        }
    }

    /// Who has the address.
    #[must_use]
    pub fn peer_at(&self, address: Ipv6Addr) -> Option<PublicKey> {
        self.peers.get(self.by_address.get(&address)?).map(Peer::key)
    }

    /// How a peer is.
    #[must_use]
    pub fn status(&self, key: &PublicKey) -> Option<PeerStatus> {
        self.peers.get(self.by_key.get(key)?).map(Peer::status)
    }

    /// How all peers are.
    pub fn statuses(&self) -> impl Iterator<Item = (PublicKey, PeerStatus)> {
        self.peers.values().map(|peer| (peer.key(), peer.status()))
    }

    /// Begins a handshake with a peer that has an endpoint, unless one is under way.
    pub fn initiate(&mut self, now: Instant, key: &PublicKey) {
        let Some(index) = self.by_key.get(key).copied() else { return };
        self.with_peer(index, |peer, buffer, out| peer.initiate(now, buffer, out));
        self.ensure_tick(now);
    }

    /// As [`Device::initiate`], also while a handshake is under way; its own timer does it after five seconds.
    #[cfg(test)]
    fn resend(&mut self, key: &PublicKey) {
        let index = self.by_key[key];
        self.with_peer(index, Peer::resend);
    }

    /// A packet for the peer that has its destination.
    pub fn send(&mut self, now: Instant, packet: &[u8]) {
        let index = destination(packet).and_then(|address| self.by_address.get(&address).copied());
        let Some(index) = index.filter(|_| packet.len() <= MTU) else {
            self.counters.no_route += 1;
            return;
        };
        self.with_peer(index, |peer, buffer, out| peer.send(now, packet, buffer, out));
        self.ensure_tick(now);
    }

    /// A datagram from the network.
    pub fn handle_datagram(&mut self, now: Instant, from: Endpoint, datagram: &[u8]) {
        if datagram.len() > MAX_DATAGRAM {
            self.counters.bad_datagrams += 1;
            return;
        }
        if self.limiter_reset.is_none_or(|reset| now.saturating_duration_since(reset) >= TICK) {
            self.limiter.reset_count();
            self.limiter_reset = Some(now);
        }
        let mut cookie = [0; 64];
        let index = match self.limiter.verify_packet(Some(from.ip()), datagram, &mut cookie) {
            Ok(packet) => self.peer_of(&packet),
            Err(TunnResult::WriteToNetwork(cookie)) => {
                let cookie = cookie.to_vec();
                self.counters.cookies += 1;
                self.transmit(from, cookie);
                return;
            }
            Err(_) => None,
        };
        let Some(index) = index else {
            self.counters.bad_datagrams += 1;
            return;
        };
        self.with_peer(index, |peer, buffer, out| peer.handle_datagram(now, from, datagram, buffer, out));
        self.ensure_tick(now);
    }

    /// Which peer a datagram is from, if its sender is to be believed.
    fn peer_of(&mut self, packet: &Packet<'_>) -> Option<u32> {
        match packet {
            Packet::HandshakeInit(initiation) => {
                let public = self.private.public().point();
                let half = parse_handshake_anon(self.private.secret(), &public, initiation).ok()?;
                let index = self.by_key.get(&PublicKey::from_bytes(half.peer_static_public)).copied();
                if index.is_none() {
                    self.counters.unknown_keys += 1;
                }
                index
            }
            Packet::HandshakeResponse(response) => Some(response.receiver_idx >> 8),
            Packet::PacketCookieReply(reply) => Some(reply.receiver_idx >> 8),
            Packet::PacketData(data) => Some(data.receiver_idx >> 8),
        }
        .filter(|index| self.peers.contains_key(index))
    }

    /// Looks at the timers of all peers that are awake.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_tick.is_none_or(|tick| now < tick) {
            return;
        }
        let awake: Vec<u32> =
            self.peers.iter().filter(|(_, peer)| peer.awake()).map(|(index, _)| *index).collect();
        self.next_tick = if awake.is_empty() { None } else { Some(now + TICK) };
        for index in awake {
            self.with_peer(index, |peer, buffer, out| peer.tick(now, buffer, out));
        }
    }

    /// When [`Device::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_tick
    }

    /// The next datagram for the network.
    pub fn poll_transmit(&mut self) -> Option<(Endpoint, Vec<u8>)> {
        self.transmits.pop_front()
    }

    /// The next packet from a peer; its source is that peer's address.
    pub fn poll_packet(&mut self) -> Option<Vec<u8>> {
        self.packets.pop_front()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Lets a peer work and takes what comes of it.
    fn with_peer(&mut self, index: u32, work: impl FnOnce(&mut Peer, &mut [u8], &mut Outcome)) {
        let Some(peer) = self.peers.get_mut(&index) else { return };
        let mut outcome = Outcome::default();
        work(peer, &mut self.buffer, &mut outcome);
        self.counters.bad_datagrams += outcome.bad_datagrams;
        self.counters.foreign_packets += outcome.foreign_packets;
        self.counters.no_route += outcome.no_route;
        self.counters.overflow += outcome.overflow;
        for (to, datagram) in outcome.transmits {
            self.transmit(to, datagram);
        }
        for packet in outcome.packets {
            if self.packets.len() < MAX_QUEUED {
                self.packets.push_back(packet);
            } else {
                self.counters.overflow += 1;
            }
        }
    }

    fn transmit(&mut self, to: Endpoint, datagram: Vec<u8>) {
        if self.transmits.len() < MAX_QUEUED {
            self.transmits.push_back((to, datagram));
        } else {
            self.counters.overflow += 1;
        }
    }

    fn ensure_tick(&mut self, now: Instant) {
        self.next_tick.get_or_insert(now + TICK);
    }

    fn free_index(&mut self) -> u32 {
        // Never the number of a peer that just went: its late datagrams are nobody's.
        loop {
            self.last_index = (self.last_index + 1) & INDEX_MASK;
            if !self.peers.contains_key(&self.last_index) {
                return self.last_index;
            }
        }
    }
}

/// Where an IPv6 packet goes.
fn destination(packet: &[u8]) -> Option<Ipv6Addr> {
    let version = packet.first()? >> 4;
    let octets: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
    (version == 6).then(|| octets.into())
}

#[cfg(test)]
mod tests;
