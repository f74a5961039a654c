//! TCP over the device's packets: smoltcp with as many listening sockets as there are connections coming in.
//!
//! A connection's socket is made when its SYN arrives, so that nothing waits idle and nobody is refused because
//! another one is slow. Packets in by [`Stack::handle_packet`], out by [`Stack::poll_packet`]; [`Stack::run`]
//! in between.

mod queues;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::task::Waker;
use std::time::Instant;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, CongestionControl, State};
use smoltcp::time::Instant as Micros;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, Ipv6Packet, TcpPacket};

use crate::limits::{
    FIRST_EPHEMERAL_PORT, MAX_BACKLOG, MAX_STREAMS_PER_ADDRESS, STREAM_KEEPALIVE, STREAM_LINGER,
    STREAM_TIMEOUT,
};
use queues::Queues;

/// SideroLink's network is a /64.
const PREFIX: u8 = 64;

/// Memory of one stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Buffers {
    /// For what came in and is not read yet.
    pub receive: usize,
    /// For what was written and is not acknowledged yet.
    pub send: usize,
}

impl Default for Buffers {
    /// Enough for calls of some kilobytes; a tunnel is no way for images.
    fn default() -> Self {
        Self { receive: 16 * 1024, send: 16 * 1024 }
    }
}

/// What happened, in numbers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct StackCounters {
    /// Connections that found no room; their next SYN may.
    pub refused: u64,
    /// Packets that found no room.
    pub overflow: u64,
}

/// A connection that somebody may accept.
pub(crate) struct Incoming {
    pub(crate) handle: SocketHandle,
    pub(crate) remote: SocketAddrV6,
}

struct Port {
    /// Tells one listener from the next one on the same port.
    id: u64,
    buffers: Buffers,
    opening: usize,
    ready: VecDeque<Incoming>,
    waker: Option<Waker>,
}

/// What smoltcp does not keep.
#[derive(Clone, Copy)]
struct Meta {
    remote: SocketAddrV6,
    local_port: u16,
}

pub(crate) struct Stack {
    address: Ipv6Addr,
    begin: Instant,
    interface: Interface,
    sockets: SocketSet<'static>,
    queues: Queues,
    max_streams: usize,
    ports: HashMap<u16, Port>,
    streams: HashMap<SocketHandle, Meta>,
    tuples: HashSet<(SocketAddrV6, u16)>,
    by_address: HashMap<Ipv6Addr, usize>,
    /// Not established yet, with the listener's port and number.
    opening: Vec<(SocketHandle, u16, u64)>,
    /// Dropped by their user, until when.
    lingering: Vec<(SocketHandle, Instant)>,
    next_port: u16,
    next_id: u64,
    counters: StackCounters,
}

impl Stack {
    pub(crate) fn new(address: Ipv6Addr, max_streams: usize, seed: u64, now: Instant) -> Self {
        let mut queues = Queues::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut queues, Micros::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::Ipv6(address), PREFIX)).expect("the list has room for one");
        });
        let spread = (seed >> 32) as u16 % (u16::MAX - FIRST_EPHEMERAL_PORT);
        Self {
            address,
            begin: now,
            interface,
            sockets: SocketSet::new(Vec::new()),
            queues,
            max_streams,
            ports: HashMap::new(),
            streams: HashMap::new(),
            tuples: HashSet::new(),
            by_address: HashMap::new(),
            opening: Vec::new(),
            lingering: Vec::new(),
            next_port: FIRST_EPHEMERAL_PORT + spread,
            next_id: 0,
            counters: StackCounters::default(),
        }
    }

    pub(crate) fn counters(&self) -> StackCounters {
        StackCounters { overflow: self.queues.overflow, ..self.counters }
    }

    pub(crate) fn streams(&self) -> usize {
        self.streams.len()
    }

    fn micros(&self, now: Instant) -> Micros {
        let micros = now.saturating_duration_since(self.begin).as_micros();
        Micros::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    /// Takes a packet in; its source is known to be true.
    pub(crate) fn handle_packet(&mut self, packet: Vec<u8>) {
        if let Some((remote, port)) = new_connection(&packet, self.address) {
            let known = self.tuples.contains(&(remote, port));
            if !known && self.ports.contains_key(&port) && !self.prepare(remote, port) {
                self.counters.refused += 1;
                return;
            }
        }
        self.queues.push(packet);
    }

    /// Makes the socket that takes the SYN. Says whether there was room.
    fn prepare(&mut self, remote: SocketAddrV6, local_port: u16) -> bool {
        let room = self.room(remote.ip());
        let Some(port) = self.ports.get_mut(&local_port) else { return false };
        if !room || port.opening + port.ready.len() >= MAX_BACKLOG {
            return false;
        }
        let mut socket = socket(port.buffers);
        if socket.listen((IpAddress::Ipv6(self.address), local_port)).is_err() {
            return false;
        }
        port.opening += 1;
        let id = port.id;
        let handle = self.add(socket, remote, local_port);
        self.opening.push((handle, local_port, id));
        true
    }

    fn room(&self, remote: &Ipv6Addr) -> bool {
        let used = self.by_address.get(remote).copied().unwrap_or(0);
        self.streams.len() < self.max_streams && used < MAX_STREAMS_PER_ADDRESS
    }

    fn add(&mut self, socket: tcp::Socket<'static>, remote: SocketAddrV6, local_port: u16) -> SocketHandle {
        let handle = self.sockets.add(socket);
        self.streams.insert(handle, Meta { remote, local_port });
        self.tuples.insert((remote, local_port));
        *self.by_address.entry(*remote.ip()).or_default() += 1;
        handle
    }

    fn remove(&mut self, handle: SocketHandle) {
        let Some(meta) = self.streams.remove(&handle) else { return };
        self.sockets.remove(handle);
        self.tuples.remove(&(meta.remote, meta.local_port));
        if let Some(used) = self.by_address.get_mut(meta.remote.ip()) {
            *used -= 1;
            if *used == 0 {
                self.by_address.remove(meta.remote.ip());
            }
        }
    }

    /// Works off what came in and what is due.
    pub(crate) fn run(&mut self, now: Instant) {
        let micros = self.micros(now);
        self.interface.poll(micros, &mut self.queues, &mut self.sockets);
        self.settle_opening();
        self.settle_lingering(now);
    }

    fn settle_opening(&mut self) {
        for (handle, number, id) in std::mem::take(&mut self.opening) {
            let state = self.sockets.get::<tcp::Socket<'_>>(handle).state();
            if state == State::SynReceived {
                self.opening.push((handle, number, id));
                continue;
            }
            let port = self.ports.get_mut(&number).filter(|port| port.id == id);
            let remote = self.streams.get(&handle).map(|meta| meta.remote);
            match (port, remote, state) {
                (Some(port), _, State::Listen | State::Closed) => {
                    port.opening -= 1;
                    self.remove(handle);
                }
                (Some(port), Some(remote), _) => {
                    port.opening -= 1;
                    port.ready.push_back(Incoming { handle, remote });
                    if let Some(waker) = port.waker.take() {
                        waker.wake();
                    }
                }
                // The listener is gone.
                (None, _, _) | (_, None, _) => {
                    self.sockets.get_mut::<tcp::Socket<'_>>(handle).abort();
                    self.remove(handle);
                }
            }
        }
    }

    fn settle_lingering(&mut self, now: Instant) {
        for (handle, until) in std::mem::take(&mut self.lingering) {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
            if matches!(socket.state(), State::Closed | State::TimeWait) {
                self.remove(handle);
            } else if now >= until {
                // Its reset goes out with the next run, then it is closed.
                socket.abort();
                self.lingering.push((handle, until));
            } else {
                self.lingering.push((handle, until));
            }
        }
    }

    /// When [`Stack::run`] is due, `None` for not before something happens.
    pub(crate) fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        let delay = self.interface.poll_delay(self.micros(now), &self.sockets);
        let stack = delay.map(|delay| now + std::time::Duration::from_micros(delay.total_micros()));
        let linger = self.lingering.iter().map(|(_, until)| *until).min();
        [stack, linger].into_iter().flatten().min()
    }

    /// The next packet to send.
    pub(crate) fn poll_packet(&mut self) -> Option<Vec<u8>> {
        self.queues.pop()
    }

    /// Connections to this port wait from now on to be accepted.
    pub(crate) fn listen(&mut self, port: u16, buffers: Buffers) -> io::Result<u64> {
        if port == 0 || self.ports.contains_key(&port) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        self.next_id += 1;
        let id = self.next_id;
        let fresh = Port { id, buffers, opening: 0, ready: VecDeque::new(), waker: None };
        self.ports.insert(port, fresh);
        Ok(id)
    }

    /// The listener is gone, and with it what it did not accept.
    pub(crate) fn unlisten(&mut self, port: u16, id: u64, now: Instant) {
        if self.ports.get(&port).is_none_or(|port| port.id != id) {
            return;
        }
        for incoming in self.ports.remove(&port).into_iter().flat_map(|port| port.ready) {
            self.release(incoming.handle, now);
        }
    }

    /// The next connection, or the waker is kept.
    pub(crate) fn accept(&mut self, port: u16, id: u64, waker: &Waker) -> Option<Incoming> {
        let port = self.ports.get_mut(&port).filter(|port| port.id == id)?;
        let incoming = port.ready.pop_front();
        if incoming.is_none() {
            port.waker = Some(waker.clone());
        }
        incoming
    }

    /// Begins a connection.
    pub(crate) fn connect(&mut self, remote: SocketAddrV6, buffers: Buffers) -> io::Result<SocketHandle> {
        if !self.room(remote.ip()) {
            return Err(io::Error::other("too many connections in the tunnel"));
        }
        let local_port = self.free_port(remote).ok_or(io::ErrorKind::AddrInUse)?;
        let mut socket = socket(buffers);
        let to = (IpAddress::Ipv6(*remote.ip()), remote.port());
        let from = (IpAddress::Ipv6(self.address), local_port);
        socket.connect(self.interface.context(), to, from).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(self.add(socket, remote, local_port))
    }

    fn free_port(&mut self, remote: SocketAddrV6) -> Option<u16> {
        for _ in FIRST_EPHEMERAL_PORT..=u16::MAX {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_EPHEMERAL_PORT);
            if !self.tuples.contains(&(remote, port)) && !self.ports.contains_key(&port) {
                return Some(port);
            }
        }
        None
    }

    pub(crate) fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Local end of a stream.
    pub(crate) fn local(&self, handle: SocketHandle) -> SocketAddrV6 {
        let port = self.streams.get(&handle).map_or(0, |meta| meta.local_port);
        SocketAddrV6::new(self.address, port, 0, 0)
    }

    /// Nothing will move any more: whoever waits is woken.
    pub(crate) fn end(&mut self) {
        for handle in self.streams.keys() {
            self.sockets.get_mut::<tcp::Socket<'_>>(*handle).abort();
        }
        for port in self.ports.values_mut() {
            if let Some(waker) = port.waker.take() {
                waker.wake();
            }
        }
    }

    /// Nobody uses the stream any more; what was written is still delivered.
    pub(crate) fn release(&mut self, handle: SocketHandle, now: Instant) {
        if !self.streams.contains_key(&handle) {
            return;
        }
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.close();
        self.lingering.push((handle, now + STREAM_LINGER));
    }
}

fn socket(buffers: Buffers) -> tcp::Socket<'static> {
    let buffer = |size: usize| tcp::SocketBuffer::new(vec![0; size]);
    let mut socket = tcp::Socket::new(buffer(buffers.receive), buffer(buffers.send));
    socket.set_timeout(Some(STREAM_TIMEOUT.into()));
    socket.set_keep_alive(Some(STREAM_KEEPALIVE.into()));
    socket.set_congestion_control(CongestionControl::Reno);
    // Calls are written at once: waiting for more only makes them late.
    socket.set_nagle_enabled(false);
    socket
}

/// Who opens a connection to which port, if that is what the packet does.
fn new_connection(packet: &[u8], own: Ipv6Addr) -> Option<(SocketAddrV6, u16)> {
    let ip = Ipv6Packet::new_checked(packet).ok()?;
    if ip.next_header() != smoltcp::wire::IpProtocol::Tcp || ip.dst_addr() != own {
        return None;
    }
    let source = ip.src_addr();
    let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
    let opens = tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin() && tcp.src_port() != 0;
    opens.then(|| (SocketAddrV6::new(source, tcp.src_port(), 0, 0), tcp.dst_port()))
}
