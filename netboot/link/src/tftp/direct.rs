//! The short way to a client: windows as frames to its station.
//!
//! What the kernel does for a datagram (route, neighbour, headers, hooks) is the same for each window of a transfer.
//! Block by block, where each is a datagram of its own, that is a fifth of what the server pays. So a window goes out
//! as a whole frame, by a packet socket, to the station that the kernel itself spoke with a moment ago. A window of
//! several blocks is one frame too, which the card, or the kernel for it, cuts into datagrams.
//!
//! The kernel's way stays for everything else, and for everybody whom this one does not fit: options come first and by
//! the kernel, which asks for the station; a client whose station it does not know is beyond a router; what was lost is
//! sent again by the kernel; and a transfer whose first frame was lost, for whatever reason, is left to it.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use netboot::checksum::{folded, sum};
use netboot::tftp::{Burst, Part};
use netboot::{Mac, Time};
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt};

use super::outbox::BURSTS;
use crate::frames::{CARD_HEADER, HEADER, SEND_BUFFER, interface_mac};
use crate::sys::PacketSocket;
use crate::sys::batch::{Outgoing, send_many};
use crate::sys::interface::neighbour;

/// How long a station is believed before the kernel is asked again: an address may go to another machine.
const KNOWN: Duration = Duration::from_secs(2);
/// As long, when the kernel did not know it: the next block may find it out, and whoever is beyond a router costs a
/// question a millisecond at most.
const UNKNOWN: Duration = Duration::from_millis(1);
/// How long a transfer that lost its first frame is left to the kernel. Where frames do not pass (a translation of
/// addresses on this host) that is one wait for the deadline in so many seconds.
const LOST: Duration = Duration::from_secs(10);
/// Clients remembered: as many as there are transfers.
const STATIONS: usize = 4096;

const IP: usize = 20;
const UDP: usize = 8;
const HEADERS: usize = CARD_HEADER + HEADER + IP + UDP;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the card, or whoever is in its place, makes the checksum of UDP.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`: it is to be cut into datagrams, each with headers of its own (Linux 6.2).
const CUT: u8 = 5;

#[derive(Clone, Copy, Debug)]
struct Station {
    /// Absent when it is to be left to the kernel.
    mac: Option<Mac>,
    until: Time,
    /// A frame arrived there: what is lost after it is the network's loss.
    proven: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Direct {
    socket: PacketSocket,
    interface: String,
    own: Mac,
    from: SocketAddrV4,
    stations: Stations,
    /// Whether the kernel takes a frame that is to be cut.
    cuts: bool,
    blocks: u64,
}

impl Direct {
    /// On an Ethernet interface, from an address of it.
    pub(super) fn open(interface: &str, from: SocketAddrV4) -> io::Result<Self> {
        if from.ip().is_unspecified() {
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "no address of its own"));
        }
        let own = interface_mac(interface).ok_or(io::ErrorKind::Unsupported)?;
        let socket = PacketSocket::open_sending(if_nametoindex(interface)?)?;
        // As in `frames`: neither is fatal.
        if setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
            let _ = setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER);
        }
        let interface = interface.to_owned();
        Ok(Self { socket, interface, own, from, stations: Stations::default(), cuts: true, blocks: 0 })
    }

    /// Blocks that went this way.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Sends what it can of some bursts (at most [`BURSTS`]), and puts that behind the rest; how many are left, which
    /// the kernel is to send.
    pub(super) fn send(&mut self, now: Time, kernel: &UdpSocket, bursts: &mut [(Burst, Vec<u8>)]) -> usize {
        let mut headers = [[0; HEADERS]; BURSTS];
        let (mut left, mut end) = (0, bursts.len());
        while left < end {
            let ask = |address| neighbour(kernel, &self.interface, address);
            let (burst, bytes) = &bursts[left];
            let fits = burst.datagrams == 1 || self.cuts;
            match fits.then(|| self.stations.way(now, burst, ask)).flatten() {
                Some(mac) => {
                    end -= 1;
                    headers[end] = headers_of(self.own, mac, self.from, burst, bytes.len());
                    bursts.swap(left, end);
                }
                None => left += 1,
            }
        }
        let mut messages = [Outgoing::default(); BURSTS];
        for ((message, header), (_, bytes)) in messages.iter_mut().zip(&headers).zip(&*bursts).skip(left) {
            message.parts = [header, bytes, &[], &[]];
        }
        // From the last one down: what does not go is then next to the rest.
        let frames = &mut messages[left..bursts.len()];
        frames.reverse();
        let mut sent = 0;
        let mut failed = None;
        while sent < frames.len() && failed.is_none() {
            match send_many(&self.socket, &frames[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => failed = Some(error),
            }
        }
        let left = bursts.len() - sent;
        self.blocks += bursts[left..].iter().map(|(burst, _)| burst.datagrams as u64).sum::<u64>();
        // The queue is full, or the interface is not what it was: the kernel knows what to do.
        if let Some(error) = failed {
            let (burst, _) = &bursts[left - 1];
            // An older kernel does not know what is asked for.
            self.cuts &= burst.datagrams == 1 || error.raw_os_error() != Some(libc::EINVAL);
            tracing::debug!(%error, windows = self.cuts, "cannot send frames");
        }
        left
    }
}

/// Where clients are, by what the kernel says and by what became of the last frames.
#[derive(Debug, Default)]
struct Stations(HashMap<SocketAddrV4, Station>);

impl Stations {
    /// The station that a burst can be sent to, if any; the kernel is asked by `ask`.
    fn way(&mut self, now: Time, burst: &Burst, ask: impl FnOnce(Ipv4Addr) -> Option<Mac>) -> Option<Mac> {
        match (burst.part, self.0.get_mut(&burst.peer)) {
            (Part::Other, _) | (Part::Again, None) => None,
            (Part::Again, Some(station)) => {
                if station.mac.is_some() && !station.proven {
                    *station = Station { mac: None, until: now + LOST, proven: false };
                }
                None
            }
            (Part::Next, Some(station)) if now < station.until => {
                // The next one is due: the one before it arrived.
                station.proven = station.mac.is_some();
                station.mac
            }
            (Part::Next, _) => {
                let mac = ask(*burst.peer.ip());
                let until = now + if mac.is_some() { KNOWN } else { UNKNOWN };
                if self.0.len() >= STATIONS {
                    // Forgetting costs a question each.
                    self.0.clear();
                }
                self.0.insert(burst.peer, Station { mac, until, proven: false });
                mac
            }
        }
    }
}

/// Everything before the payload of a frame.
fn headers_of(own: Mac, station: Mac, from: SocketAddrV4, burst: &Burst, payload: usize) -> [u8; HEADERS] {
    let to = burst.peer;
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
    let (udp, all) = (length(UDP + payload), length(IP + UDP + payload));
    let mut out = [0; HEADERS];
    let (card, frame) = out.split_at_mut(CARD_HEADER);
    card[0] = NEEDS_CHECKSUM;
    // How to cut it: what each begins with, and what of the payload it carries.
    if burst.datagrams > 1 {
        card[1] = CUT;
        card[2..4].copy_from_slice(&length(HEADERS - CARD_HEADER).to_ne_bytes());
        card[4..6].copy_from_slice(&length(burst.segment).to_ne_bytes());
    }
    // Where to begin, and where the sum stands from there; in the host's order.
    card[6..8].copy_from_slice(&length(HEADER + IP).to_ne_bytes());
    card[8..10].copy_from_slice(&6_u16.to_ne_bytes());
    let (ethernet, packet) = frame.split_at_mut(HEADER);
    ethernet[..6].copy_from_slice(&station.0);
    ethernet[6..12].copy_from_slice(&own.0);
    ethernet[12..].copy_from_slice(&[8, 0]);
    let (ip, datagram) = packet.split_at_mut(IP);
    // Version 4, 20 bytes; not to be cut, so it needs no number; 64 hops; UDP.
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&all.to_be_bytes());
    ip[6..10].copy_from_slice(&[0x40, 0, 64, 17]);
    ip[12..16].copy_from_slice(&from.ip().octets());
    ip[16..].copy_from_slice(&to.ip().octets());
    let addresses = sum(&ip[12..]);
    let checksum = !folded(sum(ip));
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    datagram[..2].copy_from_slice(&from.port().to_be_bytes());
    datagram[2..4].copy_from_slice(&to.port().to_be_bytes());
    datagram[4..6].copy_from_slice(&udp.to_be_bytes());
    // What the card is to begin with: the addresses, the protocol and the length.
    datagram[6..].copy_from_slice(&folded(addresses + 17 + u32::from(udp)).to_be_bytes());
    out
}

#[cfg(test)]
mod tests;
