//! `ProxyDHCP` on raw frames: no conflict with a DHCP server on the same host, and answers to clients that
//! have no address.
//!
//! Tagged VLANs are not served: a frame with a tag is left alone, the interface of the VLAN has its own
//! socket.
//!
//! Port 4011 is answered with raw frames too. Nothing of the kernel listens there, so it would tell the
//! client "port unreachable" beside our answer. [`bind`] therefore also binds a kernel socket to 4011 that
//! drops whatever arrives; when that port is taken by another program, that program does the same for us.
//! Port 67 needs none: DISCOVER is a broadcast, for which the kernel sends no such message.

mod filter;
mod frame;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;

use netboot::Mac;
use netboot::dhcp::request::MessageType;
use netboot::dhcp::{IgnoreReason, Outcome, Proxy, Reply, Seen};
use netboot::journal::{Event, Sink, Step};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use self::frame::Incoming;
use crate::clock::unix_ms;
use crate::sys::{FrameKind, PacketSocket, attach_filter};

/// Room for one frame: DHCP messages of clients fit an Ethernet MTU; longer ones are cut and do not parse.
const FRAME: usize = 2048;
/// Frames taken before other tasks have their turn.
const BATCH: usize = 64;
/// The kernel's queue of frames not yet read: a thousand machines that are switched on at once (a short frame
/// takes about 1 KiB of it).
const RECEIVE_BUFFER: usize = 1 << 20;
/// Pause after an error of the socket that is not over by itself (the interface went down).
const ERROR_PAUSE: std::time::Duration = std::time::Duration::from_millis(200);
/// Machines known to boot from the network, whose later requests for an address are told to the journal. As
/// many as the journal itself correlates.
const KNOWN_MAX: usize = netboot::journal::CORRELATED_MAX;

/// Why DHCP cannot be answered.
#[derive(Debug, Error)]
pub enum DhcpError {
    /// There is no such interface, or it is no Ethernet interface.
    #[error("no Ethernet interface {0:?}")]
    NoInterface(String),
    /// The packet socket cannot be opened; it needs `CAP_NET_RAW`.
    #[error("cannot open a packet socket on {interface}")]
    Open {
        /// Which interface.
        interface: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The runtime does not take the socket.
    #[error("cannot use the packet socket")]
    Socket(#[source] io::Error),
}

/// A socket that sees the DHCP questions of one interface.
#[derive(Debug)]
pub struct DhcpSocket {
    socket: PacketSocket,
    interface: String,
    mac: Mac,
    /// Keeps "port unreachable" away; never read.
    _silencer: Option<UdpSocket>,
}

impl DhcpSocket {
    /// The interface's own address, from which answers come.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.mac
    }
}

/// Opens the socket of an interface.
///
/// # Errors
/// When there is no such Ethernet interface, or the process may not open packet sockets.
pub fn bind(interface: &str) -> Result<DhcpSocket, DhcpError> {
    let none = || DhcpError::NoInterface(interface.to_owned());
    let index = if_nametoindex(interface).map_err(|_| none())?;
    let mac = interface_mac(interface).ok_or_else(none)?;
    let socket = PacketSocket::open(index, &filter::DHCP_QUESTIONS)
        .map_err(|source| DhcpError::Open { interface: interface.to_owned(), source })?;
    // The forced size needs CAP_NET_ADMIN; the other is cut to net.core.rmem_max. Neither is fatal.
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
    }
    let silencer = silence_port_4011(interface)
        .inspect_err(|error| tracing::debug!(%error, interface, "port 4011 is not silenced"))
        .ok();
    Ok(DhcpSocket { socket, interface: interface.to_owned(), mac, _silencer: silencer })
}

fn interface_mac(interface: &str) -> Option<Mac> {
    let mut addresses = getifaddrs().ok()?.filter(|address| address.interface_name == interface);
    addresses
        .find_map(|address| address.address?.as_link_addr()?.addr())
        .map(Mac)
        .filter(|mac| mac.is_unicast())
}

fn silence_port_4011(interface: &str) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 4011))?;
    setsockopt(&socket.as_fd(), sockopt::BindToDevice, &interface.into())?;
    attach_filter(&socket, &filter::NOTHING)?;
    Ok(socket)
}

/// Answers until `shutdown`. Answers come from the address that the proxy advertises.
///
/// # Errors
/// When the runtime does not take the socket.
#[tracing::instrument(name = "dhcp", skip_all, fields(interface = socket.interface))]
pub async fn run(
    socket: DhcpSocket,
    proxy: Proxy,
    sink: Sink,
    shutdown: CancellationToken,
) -> Result<(), DhcpError> {
    let DhcpSocket { socket, mac, _silencer, .. } = socket;
    let socket = socket.register().map_err(DhcpError::Socket)?;
    let mut driver = Driver { proxy, mac, sink, known: BTreeSet::new() };
    let mut buffer = [0; FRAME];
    loop {
        // Cancel-safe: both only wait; frames stay in the socket's queue.
        let mut ready = tokio::select! {
            () = shutdown.cancelled() => break,
            ready = socket.readable() => ready.map_err(DhcpError::Socket)?,
        };
        for _ in 0..BATCH {
            match ready.try_io(|socket| socket.get_ref().receive(&mut buffer)) {
                Ok(Ok((length, FrameKind::Ours))) => {
                    let Some(answer) = driver.handle(&buffer[..length]) else { continue };
                    // A full queue of the interface: the client asks again.
                    if let Err(error) = socket.get_ref().send(&answer) {
                        tracing::debug!(%error, "cannot send an answer");
                    }
                }
                Ok(Ok((_, FrameKind::Others))) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "cannot receive");
                    tokio::time::sleep(ERROR_PAUSE).await;
                    break;
                }
                Err(_would_block) => break,
            }
        }
        tokio::task::yield_now().await;
    }
    tracing::info!(counters = ?driver.proxy.counters(), "DHCP ends");
    Ok(())
}

/// From frame to frame, without the socket.
struct Driver {
    proxy: Proxy,
    mac: Mac,
    sink: Sink,
    known: BTreeSet<Mac>,
}

impl Driver {
    /// The frame to send in answer to this one.
    fn handle(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let Incoming { mac, source, port, payload } = frame::parse(frame)?;
        if mac == self.mac {
            return None;
        }
        match self.proxy.handle_packet(port, source, payload) {
            Outcome::Reply(reply) => {
                let from = self.proxy.config().server;
                let answer = frame::reply(self.mac, from, mac, port, &reply);
                self.tell_reply(reply);
                Some(answer)
            }
            Outcome::Ignore { reason, seen } => {
                if let Some(seen) = seen {
                    self.tell_ignored(reason, &seen);
                }
                None
            }
        }
    }

    fn tell_reply(&mut self, reply: Reply) {
        let Reply { seen, offered, .. } = reply;
        self.learn(seen.mac);
        if seen.message_type == MessageType::Discover {
            self.tell(&seen, Step::DhcpDiscover { firmware: offered.firmware });
        }
        self.tell(&seen, Step::DhcpOffer { file: offered.file, port: offered.port.number() });
    }

    /// Tells of machines that boot from the network only; what else asks on the segment is counted.
    fn tell_ignored(&mut self, reason: IgnoreReason, seen: &Seen) {
        let step = match reason {
            IgnoreReason::BadUuid
            | IgnoreReason::NoArchitecture
            | IgnoreReason::NoBinary(_)
            | IgnoreReason::BadAddress
            | IgnoreReason::RelayInformation => {
                self.learn(seen.mac);
                if let (MessageType::Discover, Some(firmware)) = (seen.message_type, seen.firmware) {
                    self.tell(seen, Step::DhcpDiscover { firmware });
                }
                Step::DhcpIgnored { reason: reason.to_string() }
            }
            // The question for an address, which the site's DHCP server answers: who has which is worth
            // knowing, because everything after it comes from that address.
            IgnoreReason::NotForBootServer | IgnoreReason::OtherServer | IgnoreReason::NotNetboot => {
                let netboots = seen.firmware.is_some() || self.known.contains(&seen.mac);
                let Some(wanted) = seen.requested_ip.filter(|_| netboots) else { return };
                Step::AddressRequested { wanted: IpAddr::V4(wanted) }
            }
            IgnoreReason::Malformed(_)
            | IgnoreReason::NotARequest
            | IgnoreReason::NotEthernet
            | IgnoreReason::NoMessageType => return,
            // Of the other modes, which the responder has; this driver runs the proxy alone.
            _ => return,
        };
        self.tell(seen, step);
    }

    fn learn(&mut self, mac: Mac) {
        if self.known.len() >= KNOWN_MAX && !self.known.contains(&mac) {
            // Forgetting only costs a correlation, and its machine comes back with its next DISCOVER.
            self.known.clear();
        }
        self.known.insert(mac);
    }

    fn tell(&self, seen: &Seen, step: Step) {
        let event = Event::new(unix_ms(), step).with_mac(seen.mac).with_uuid(seen.uuid);
        (self.sink)(event.with_address(seen.requested_ip.map(IpAddr::V4)));
    }
}

#[cfg(test)]
mod tests;
