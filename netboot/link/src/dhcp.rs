//! DHCP on raw frames: no conflict with a DHCP server on the same host, answers to clients that have no address,
//! and every VLAN of a trunk by one socket. Each network, untagged or a VLAN, has a
//! [`Responder`] of its own, which decides everything.
//!
//! Unicast to ports 4011 and 67 (boot servers, renewals, answers to us as a relay) is answered with raw frames
//! too. Nothing of the kernel listens there, so it would tell the client "port unreachable" beside our answer.
//! [`bind`] therefore also binds a kernel socket that drops whatever arrives. When port 4011 is taken by another
//! program, that program does the same for us; when port 67 is taken in mode `server`, that is another DHCP
//! server, and two would quarrel.

mod filter;
pub mod frame;
mod lease_log;
mod tell;
pub mod v6;

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::time::Duration;

use netboot::dhcp::server::{Lease, ServerConfig};
use netboot::dhcp::{self, Event, Packet, Port, ProxyConfig, Responder, ResponderConfig, Transmit};
use netboot::firmware::BinarySet;
use netboot::journal::Sink;
use netboot::{Mac, Subnet, Time};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind as bind_socket, setsockopt, socket, sockopt,
};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use self::frame::{Carried, Incoming};
use self::lease_log::LeaseLog;
use self::tell::Teller;
use crate::clock::{Clock, unix_ms};
use crate::frames::{FrameError, FrameSocket, Frames, Inbox, Outbox, Settings, VlanId};
use crate::sys::attach_filter;

/// Room for one frame: DHCP messages of clients fit an Ethernet MTU.
const FRAME: usize = 2048;
/// Frames taken at once.
const BATCH: usize = 64;
/// Pause after an error of the socket that is not over by itself (the interface went down).
const ERROR_PAUSE: Duration = Duration::from_millis(200);

/// Why DHCP cannot be answered.
#[derive(Debug, Error)]
pub enum DhcpError {
    /// The interface's frames cannot be had.
    #[error(transparent)]
    Frames(#[from] FrameError),
    /// The leases cannot be read.
    #[error("cannot open the lease file {path}")]
    Leases {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another program has UDP port 67, in mode `server`.
    #[error(
        "cannot take UDP port 67 on {interface}: another DHCP server runs on this host; stop it, or use proxy or merge"
    )]
    PortTaken {
        /// Which interface.
        interface: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another server answers, in mode `server`.
    #[error(
        "another DHCP server ({server}) answers on {interface}; use proxy or merge beside it, or switch it off"
    )]
    OtherServer {
        /// Which interface.
        interface: String,
        /// Its address.
        server: Ipv4Addr,
    },
    /// The runtime does not take the socket.
    #[error("cannot use the packet socket")]
    Socket(#[source] io::Error),
}

/// How a network is served.
#[derive(Clone, Debug)]
pub enum Mode {
    /// Boot files beside the site's DHCP server.
    Proxy,
    /// One whole answer, made of the site's.
    Merge,
    /// Addresses and boot files.
    Server {
        /// What is given.
        config: Box<ServerConfig>,
        /// Where it is written down.
        lease_file: PathBuf,
    },
}

/// A network of an interface.
#[derive(Clone, Debug)]
pub struct Network {
    /// Which VLAN; untagged when absent.
    pub vlan: Option<VlanId>,
    /// This host's address in it, of TFTP and HTTP as well.
    pub address: Ipv4Addr,
    /// The port of HTTP.
    pub http_port: u16,
    /// The networks that its hosts have addresses of; all are believed when empty.
    pub subnets: Vec<Subnet>,
    /// How it is served.
    pub mode: Mode,
}

/// A socket that sees the DHCP questions of one interface, and the networks that it is for.
#[derive(Debug)]
pub struct DhcpSocket {
    socket: FrameSocket,
    mac: Mac,
    networks: Vec<(Network, Option<LeaseLog>, Vec<Lease>)>,
    /// Keep "port unreachable" away; never read.
    _silencers: Vec<UdpSocket>,
}

impl DhcpSocket {
    /// The interface.
    #[must_use]
    pub fn interface(&self) -> &str {
        self.socket.interface()
    }

    /// The address of the station that answers.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.mac
    }
}

/// Opens the socket of an interface, and the lease files of its networks. Answers come from the interface's own
/// station, or from `mac` when the networks are those of a raw stack.
///
/// # Errors
/// When there is no such Ethernet interface, the process may not open packet sockets, a lease file cannot be used,
/// or another program of this host is a DHCP server and a network is to be served in mode `server`.
pub fn bind(interface: &str, mac: Option<Mac>, networks: Vec<Network>) -> Result<DhcpSocket, DhcpError> {
    let serves = networks.iter().any(|network| matches!(network.mode, Mode::Server { .. }));
    let merges = networks.iter().any(|network| matches!(network.mode, Mode::Merge));
    let filter = match (serves, merges) {
        (true, _) => &filter::WITH_ARP[..],
        (false, true) => &filter::QUESTIONS_AND_ANSWERS[..],
        (false, false) => &filter::QUESTIONS[..],
    };
    let socket = FrameSocket::open(interface, &Settings { extra_mac: mac, ..Settings::new(filter) })?;
    let mut silencers = Vec::new();
    // A station of its own has no kernel behind it that could refuse anything, or one that is silenced already.
    if mac.is_none() {
        match silence(interface, 4011) {
            Ok(silencer) => silencers.push(silencer),
            Err(error) => tracing::debug!(%error, interface, "port 4011 is not silenced"),
        }
        if serves || merges {
            match silence(interface, 67) {
                Ok(silencer) => silencers.push(silencer),
                Err(source) if serves => {
                    return Err(DhcpError::PortTaken { interface: interface.to_owned(), source });
                }
                Err(error) => tracing::debug!(%error, interface, "port 67 is not silenced"),
            }
        }
    }
    let networks = networks.into_iter().map(|network| {
        let (log, leases) = match &network.mode {
            Mode::Server { lease_file, .. } => {
                let opened = LeaseLog::open(lease_file);
                let failed = |source| DhcpError::Leases { path: lease_file.clone(), source };
                opened.map_err(failed).map(|(log, leases)| (Some(log), leases))?
            }
            Mode::Proxy | Mode::Merge => (None, Vec::new()),
        };
        Ok((network, log, leases))
    });
    let networks = networks.collect::<Result<Vec<_>, DhcpError>>()?;
    let mac = mac.unwrap_or(socket.mac());
    Ok(DhcpSocket { socket, mac, networks, _silencers: silencers })
}

/// A socket of this interface alone, so that other interfaces can have theirs.
pub(crate) fn silence(interface: &str, port: u16) -> io::Result<UdpSocket> {
    let kind = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = UdpSocket::from(socket(AddressFamily::Inet, SockType::Datagram, kind, None)?);
    setsockopt(&socket.as_fd(), sockopt::BindToDevice, &interface.into())?;
    attach_filter(&socket, &crate::frames::filter::NOTHING)?;
    bind_socket(socket.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port))?;
    Ok(socket)
}

/// Answers until `shutdown`.
///
/// # Errors
/// When the runtime does not take the socket, and when another server answers where addresses are to be given.
#[tracing::instrument(name = "dhcp", skip_all, fields(interface = socket.interface()))]
pub async fn run(
    socket: DhcpSocket,
    binaries: BinarySet,
    sink: Sink,
    shutdown: CancellationToken,
) -> Result<(), DhcpError> {
    let DhcpSocket { socket, mac, networks, _silencers } = socket;
    let frames = socket.register().map_err(DhcpError::Socket)?;
    let clock = Clock::start();
    let mut driver = Driver::new(clock.now(), mac, networks, &binaries, sink);
    let (mut inbox, mut outbox) = (Inbox::new(BATCH, FRAME), Outbox::new());
    let mut more = true;
    while !shutdown.is_cancelled() {
        if !more {
            let deadline = driver.poll_timeout().map(|time| clock.instant(time));
            // Cancel-safe: all branches only wait; frames stay in the socket's queue.
            tokio::select! {
                () = shutdown.cancelled() => break,
                ready = frames.readable() => ready.map_err(DhcpError::Socket)?,
                () = wait_until(deadline) => {}
            }
        }
        match inbox.receive(&frames) {
            Ok(count) => more = count == BATCH,
            Err(error) => {
                tracing::warn!(%error, "cannot receive");
                more = false;
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
        let now = clock.now();
        for frame in inbox.frames() {
            driver.handle(now, frame.vlan, frame.bytes);
        }
        driver.handle_timeout(now);
        if let Some(server) = driver.flush(&mut outbox).await {
            send(&mut outbox, &frames);
            return Err(DhcpError::OtherServer { interface: frames.interface().to_owned(), server });
        }
        send(&mut outbox, &frames);
        // Other tasks of this thread have their turn even under a flood.
        if more {
            tokio::task::yield_now().await;
        }
    }
    driver.networks.iter().for_each(|network| {
        let (counters, untold) = (network.responder.counters(), network.responder.untold());
        tracing::info!(vlan = ?network.vlan, ?counters, untold, "DHCP ends");
    });
    Ok(())
}

fn send(outbox: &mut Outbox, frames: &Frames) {
    // A full queue of the interface: the client asks again.
    if let Err(error) = outbox.send(frames) {
        tracing::debug!(%error, "cannot send");
    }
}

async fn wait_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// One network with its machine.
struct Served {
    vlan: Option<VlanId>,
    address: Ipv4Addr,
    responder: Responder,
    log: Option<LeaseLog>,
    /// It has something to say.
    touched: bool,
}

/// From frames to frames, without the socket.
struct Driver {
    mac: Mac,
    networks: Vec<Served>,
    teller: Teller,
    records: Vec<Lease>,
}

impl Driver {
    fn new(
        now: Time,
        mac: Mac,
        networks: Vec<(Network, Option<LeaseLog>, Vec<Lease>)>,
        binaries: &BinarySet,
        sink: Sink,
    ) -> Self {
        let serve = |(network, log, leases): (Network, Option<LeaseLog>, Vec<Lease>)| {
            let Network { vlan, address, http_port, subnets, mode } = network;
            let mode = match mode {
                Mode::Proxy => dhcp::Mode::Proxy,
                Mode::Merge => dhcp::Mode::Merge,
                Mode::Server { config, .. } => {
                    dhcp::Mode::Server { config, leases, unix_now: unix_ms() / 1_000 }
                }
            };
            let boot = ProxyConfig { server: address, http_port, binaries: binaries.clone() };
            let responder = Responder::new(now, ResponderConfig { boot, mac, subnets, mode, seed: chance() });
            Served { vlan, address, responder, log, touched: true }
        };
        let networks = networks.into_iter().map(serve).collect();
        Self { mac, networks, teller: Teller::new(sink), records: Vec::new() }
    }

    fn handle(&mut self, now: Time, vlan: Option<VlanId>, bytes: &[u8]) {
        let Some(network) = self.networks.iter_mut().find(|network| network.vlan == vlan) else { return };
        let Some(Incoming { from, carried }) = frame::parse(bytes) else { return };
        let to: Mac = bytes.first_chunk().map_or(self.mac, |to| Mac(*to));
        if to.is_unicast() && to != self.mac {
            // For another station: seen because the card shows more than it was asked for.
            return;
        }
        let responder = &mut network.responder;
        match carried {
            Carried::Arp { address, mac } => responder.handle_arp(now, address, mac),
            Carried::Udp { source, port: 67, payload } => {
                responder.handle_packet(now, &Packet { port: Port::Server67, source, from, payload });
            }
            Carried::Udp { source, port: 4011, payload } => {
                responder.handle_packet(now, &Packet { port: Port::Proxy4011, source, from, payload });
            }
            Carried::Udp { source, port: 68, payload } => {
                responder.handle_answer(now, &Packet { port: Port::Server67, source, from, payload });
            }
            Carried::Udp { .. } => {}
        }
        network.touched = true;
    }

    fn handle_timeout(&mut self, now: Time) {
        for network in &mut self.networks {
            if network.responder.poll_timeout().is_some_and(|deadline| deadline <= now) {
                network.responder.handle_timeout(now);
                network.touched = true;
            }
        }
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.networks.iter().filter_map(|network| network.responder.poll_timeout()).min()
    }

    /// Writes down what has to be, then hands over what is to be sent, then tells. Gives the other server that was
    /// found, if one was.
    async fn flush(&mut self, outbox: &mut Outbox) -> Option<Ipv4Addr> {
        let mut other = None;
        for network in self.networks.iter_mut().filter(|network| network.touched) {
            network.touched = false;
            self.records.extend(std::iter::from_fn(|| network.responder.poll_record()));
            if !self.records.is_empty() && !network.write(std::mem::take(&mut self.records)).await {
                network.responder.handle_write_failure();
            }
            while let Some(transmit) = network.responder.poll_transmit() {
                outbox.push_with(network.vlan, |out| match transmit {
                    Transmit::Datagram(datagram) => {
                        frame::write_datagram(out, self.mac, network.address, &datagram);
                    }
                    Transmit::ArpProbe(address) => frame::write_arp_probe(out, self.mac, address),
                });
            }
            while let Some(event) = network.responder.poll_event() {
                if let Event::OtherServer { server } = event {
                    other = Some(server);
                }
                self.teller.tell(event);
            }
        }
        other
    }
}

impl Served {
    /// Whether the leases are on disk now.
    async fn write(&mut self, records: Vec<Lease>) -> bool {
        let Some(mut log) = self.log.take() else { return false };
        let live: Option<Vec<Lease>> = log.is_long().then(|| self.responder.leases().collect());
        let wrote = tokio::task::spawn_blocking(move || {
            let result = match live {
                // It has the new ones already.
                Some(live) => log.rewrite(&live),
                None => log.append(&records),
            };
            (log, result)
        });
        match wrote.await {
            Ok((log, result)) => {
                self.log = Some(log);
                if let Err(error) = &result {
                    tracing::error!(%error, "cannot write leases down; none is given");
                }
                result.is_ok()
            }
            Err(error) => {
                tracing::error!(%error, "the writer of leases is gone");
                false
            }
        }
    }
}

/// A number that nobody outside can guess: what the standard library seeds its maps with.
fn chance() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests;
