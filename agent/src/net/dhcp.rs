//! A DHCPv4 client (RFC 2131) without I/O: packets and time go in; packets, leases and deadlines come out.
//!
//! ```text
//! Selecting ─ offer ─► Requesting ─ ack ─► Bound ─ T1 ─► Renewing ─ ack ─► Bound
//!     ▲                   │ nak, 4 tries                    │ nak, expiry
//!     └───────────────────┴──────────── Lost ◄──────────────┘
//! ```
//!
//! It identifies itself as iPXE did on the same NIC (client id = type and MAC), so that the server gives
//! the address it gave before. Renewals are broadcast: simpler than unicast, and every server answers them.

use std::net::Ipv4Addr;
use std::time::Duration;

/// Time since an arbitrary start.
pub type Time = Duration;

/// First wait for an answer; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(16);
/// Requests for one offer before another is sought.
const REQUEST_TRIES: u32 = 4;
/// A lease that says less is renewed at this pace anyway.
const SHORTEST_LEASE: Duration = Duration::from_secs(60);
/// Leases without end are renewed as if they had this: a week.
const LONGEST_LEASE: Duration = Duration::from_secs(7 * 86_400);

/// As many as a resolver asks.
const MAX_DNS: usize = 3;

const MAGIC: [u8; 4] = [99, 130, 83, 99];
const FIXED: usize = 236;
const OPTION_NETMASK: u8 = 1;
const OPTION_ROUTER: u8 = 3;
const OPTION_DNS: u8 = 6;
const OPTION_REQUESTED: u8 = 50;
const OPTION_LEASE: u8 = 51;
const OPTION_TYPE: u8 = 53;
const OPTION_SERVER: u8 = 54;
const OPTION_PARAMETERS: u8 = 55;
const OPTION_MAX_SIZE: u8 = 57;
const OPTION_CLIENT: u8 = 61;
const OPTION_END: u8 = 255;
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// What the server gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Our address.
    pub address: Ipv4Addr,
    /// Of the subnet.
    pub netmask: Ipv4Addr,
    /// Default gateway.
    pub router: Option<Ipv4Addr>,
    /// Name servers; no more than `MAX_DNS`.
    pub dns: Vec<Ipv4Addr>,
    /// Who gave it.
    pub server: Ipv4Addr,
    /// How long it is ours.
    pub duration: Duration,
}

/// What the interface's owner has to act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Configure this. Also sent when a renewal changed it.
    Bound(Lease),
    /// The address is no longer ours.
    Lost,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Selecting,
    Requesting { offer: Lease, tries: u32 },
    Bound { lease: Lease, expires: Time },
    Renewing { lease: Lease, expires: Time },
}

/// See the module.
#[derive(Debug)]
pub struct Client {
    mac: [u8; 6],
    xid: u32,
    state: State,
    wait: Duration,
    deadline: Time,
    outgoing: Option<Vec<u8>>,
    event: Option<Event>,
}

impl Client {
    /// Begins at `now`; `seed` makes the transaction ids of machines differ.
    pub fn new(mac: [u8; 6], seed: u32, now: Time) -> Self {
        let mut client = Self {
            mac,
            xid: seed,
            state: State::Selecting,
            wait: FIRST_WAIT,
            deadline: now,
            outgoing: None,
            event: None,
        };
        client.select(now);
        client
    }

    /// The next DHCP message to broadcast, and the source address to send it from.
    pub fn poll_transmit(&mut self) -> Option<(Ipv4Addr, Vec<u8>)> {
        let source = match &self.state {
            State::Renewing { lease, .. } => lease.address,
            State::Selecting | State::Requesting { .. } | State::Bound { .. } => Ipv4Addr::UNSPECIFIED,
        };
        self.outgoing.take().map(|message| (source, message))
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.event.take()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Time {
        self.deadline
    }

    /// Takes the payload of a UDP packet to port 68. Anything that is not for us is ignored.
    pub fn handle_packet(&mut self, now: Time, payload: &[u8]) {
        let Some(reply) = Reply::parse(payload, self.mac, self.xid) else { return };
        match (&self.state, reply.kind) {
            // A ProxyDHCP offer has no address: it is for firmware.
            (State::Selecting, OFFER) => {
                if let Some(offer) = reply.lease() {
                    self.wait = FIRST_WAIT;
                    self.request(now, offer, 1);
                }
            }
            (State::Requesting { .. } | State::Renewing { .. }, ACK) => {
                if let Some(lease) = reply.lease() {
                    self.bind(now, lease);
                }
            }
            (State::Requesting { offer, .. }, NAK) if reply.server == Some(offer.server) => self.select(now),
            (State::Renewing { .. }, NAK) => {
                self.event = Some(Event::Lost);
                self.select(now);
            }
            _ => {}
        }
    }

    /// A deadline has passed.
    pub fn handle_timeout(&mut self, now: Time) {
        if now < self.deadline {
            return;
        }
        match self.state.clone() {
            State::Selecting => self.discover(now),
            State::Requesting { tries, .. } if tries >= REQUEST_TRIES => self.select(now),
            State::Requesting { offer, tries } => self.request(now, offer, tries + 1),
            State::Bound { lease, expires } => {
                self.xid = self.xid.wrapping_add(1);
                self.wait = FIRST_WAIT;
                self.renew(now, lease, expires);
            }
            State::Renewing { expires, .. } if now >= expires => {
                self.event = Some(Event::Lost);
                self.select(now);
            }
            State::Renewing { lease, expires } => self.renew(now, lease, expires),
        }
    }

    fn select(&mut self, now: Time) {
        self.state = State::Selecting;
        self.xid = self.xid.wrapping_add(1);
        self.wait = FIRST_WAIT;
        self.discover(now);
    }

    fn discover(&mut self, now: Time) {
        self.outgoing = Some(self.message(DISCOVER, Ipv4Addr::UNSPECIFIED, None));
        self.arm(now);
    }

    fn request(&mut self, now: Time, offer: Lease, tries: u32) {
        self.outgoing = Some(self.message(REQUEST, Ipv4Addr::UNSPECIFIED, Some(&offer)));
        self.state = State::Requesting { offer, tries };
        self.arm(now);
    }

    fn renew(&mut self, now: Time, lease: Lease, expires: Time) {
        self.outgoing = Some(self.message(REQUEST, lease.address, None));
        self.state = State::Renewing { lease, expires };
        self.arm(now);
        self.deadline = self.deadline.min(expires.max(now));
    }

    fn bind(&mut self, now: Time, lease: Lease) {
        let known = match &self.state {
            State::Renewing { lease: old, .. } => {
                (old.address, old.netmask, old.router, &old.dns)
                    == (lease.address, lease.netmask, lease.router, &lease.dns)
            }
            State::Selecting | State::Requesting { .. } | State::Bound { .. } => false,
        };
        if !known {
            self.event = Some(Event::Bound(lease.clone()));
        }
        let duration = lease.duration.clamp(SHORTEST_LEASE, LONGEST_LEASE);
        self.deadline = now + duration / 2;
        self.state = State::Bound { lease, expires: now + duration };
    }

    fn arm(&mut self, now: Time) {
        self.deadline = now + self.wait;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
    }

    fn message(&self, kind: u8, ciaddr: Ipv4Addr, offer: Option<&Lease>) -> Vec<u8> {
        let mut message = vec![0; FIXED];
        // BOOTREQUEST over Ethernet, six address bytes.
        message[..3].copy_from_slice(&[1, 1, 6]);
        message[4..8].copy_from_slice(&self.xid.to_be_bytes());
        // Answer by broadcast: there is no address to answer to yet.
        message[10] = 0x80;
        message[12..16].copy_from_slice(&ciaddr.octets());
        message[28..34].copy_from_slice(&self.mac);
        message.extend_from_slice(&MAGIC);
        message.extend_from_slice(&[OPTION_TYPE, 1, kind]);
        message.extend_from_slice(&[OPTION_CLIENT, 7, 1]);
        message.extend_from_slice(&self.mac);
        message.extend_from_slice(&[OPTION_MAX_SIZE, 2, 0x05, 0xdc]);
        message.extend_from_slice(&[
            OPTION_PARAMETERS,
            4,
            OPTION_NETMASK,
            OPTION_ROUTER,
            OPTION_DNS,
            OPTION_LEASE,
        ]);
        if let Some(offer) = offer {
            message.extend_from_slice(&[OPTION_REQUESTED, 4]);
            message.extend_from_slice(&offer.address.octets());
            message.extend_from_slice(&[OPTION_SERVER, 4]);
            message.extend_from_slice(&offer.server.octets());
        }
        message.push(OPTION_END);
        // Old servers drop what is shorter than BOOTP.
        message.resize(message.len().max(300), 0);
        message
    }
}

struct Reply {
    kind: u8,
    address: Ipv4Addr,
    netmask: Option<Ipv4Addr>,
    router: Option<Ipv4Addr>,
    dns: Vec<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    duration: Option<u32>,
}

impl Reply {
    fn parse(payload: &[u8], mac: [u8; 6], xid: u32) -> Option<Self> {
        let (fixed, rest) = payload.split_at_checked(FIXED)?;
        let options = rest.strip_prefix(&MAGIC[..])?;
        if fixed[0] != 2 || fixed[4..8] != xid.to_be_bytes() || fixed[28..34] != mac {
            return None;
        }
        let mut reply = Self {
            kind: 0,
            address: ip(&fixed[16..20])?,
            netmask: None,
            router: None,
            dns: Vec::new(),
            server: None,
            duration: None,
        };
        let mut options = options;
        while let [code, rest @ ..] = options {
            match *code {
                0 => options = rest,
                OPTION_END => break,
                code => {
                    let (length, rest) = rest.split_first()?;
                    let (value, rest) = rest.split_at_checked(usize::from(*length))?;
                    options = rest;
                    match code {
                        OPTION_TYPE => reply.kind = *value.first()?,
                        OPTION_NETMASK => reply.netmask = ip(value),
                        // Several may be given, best first.
                        OPTION_ROUTER => reply.router = value.get(..4).and_then(ip),
                        OPTION_DNS => {
                            reply.dns = value.chunks_exact(4).filter_map(ip).take(MAX_DNS).collect()
                        }
                        OPTION_SERVER => reply.server = ip(value),
                        OPTION_LEASE => reply.duration = value.try_into().ok().map(u32::from_be_bytes),
                        _ => {}
                    }
                }
            }
        }
        Some(reply)
    }

    fn lease(&self) -> Option<Lease> {
        if self.address.is_unspecified() || self.address.is_broadcast() {
            return None;
        }
        Some(Lease {
            address: self.address,
            netmask: self.netmask.unwrap_or(Ipv4Addr::new(255, 255, 255, 0)),
            router: self.router.filter(|router| !router.is_unspecified()),
            dns: self.dns.clone(),
            server: self.server?,
            duration: Duration::from_secs(u64::from(self.duration.unwrap_or(3600))),
        })
    }
}

fn ip(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

/// Puts a DHCP message into UDP and IPv4, to everybody.
pub fn to_packet(source: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(28 + message.len()).expect("messages here have some 300 bytes");
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&[255; 4]);
    let sum = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut udp = vec![0, 68, 0, 67, 0, 0, 0, 0];
    udp[4..6].copy_from_slice(&(length - 20).to_be_bytes());
    let pseudo = [0, 17, udp[4], udp[5]];
    let sum = checksum(&[&packet[12..20], &pseudo, &udp, message]);
    // Zero would mean that there is none.
    udp[6..8].copy_from_slice(&(if sum == 0 { 0xffff } else { sum }).to_be_bytes());
    packet.extend_from_slice(&udp);
    packet.extend_from_slice(message);
    packet
}

/// The payload of an IPv4 packet that is UDP to port 68. Checksums are not looked at: the host side of a
/// virtual NIC may leave them to hardware that is not there.
pub fn from_packet(packet: &[u8]) -> Option<&[u8]> {
    let header = usize::from(*packet.first()? & 0x0f) * 4;
    let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x3fff;
    if packet[0] >> 4 != 4 || header < 20 || *packet.get(9)? != 17 || fragment != 0 {
        return None;
    }
    let udp = packet.get(header..)?;
    let length = usize::from(u16::from_be_bytes([*udp.get(4)?, *udp.get(5)?]));
    if udp.get(2..4)? != [0, 68] {
        return None;
    }
    udp.get(8..length)
}

fn checksum(parts: &[&[u8]]) -> u16 {
    // Every part but the last has an even length.
    let mut sum: u32 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests;
