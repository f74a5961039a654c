//! DHCP on one network (an interface, or one VLAN of it), in one of four modes.
//!
//! ```text
//! packets ─► known shape? from here? not too often? ─┬─ proxy   boot file beside the site's DHCP server
//!                                                    ├─ merge   the site's server asked, one whole answer given
//!                                                    ├─ server  addresses and boot files
//!                                                    └─ off     nothing
//! ```
//!
//! A machine without sockets and clock. The driver feeds packets and time, and after each batch does in this
//! order: [`Responder::poll_record`] until empty and makes what it wrote durable; [`Responder::poll_transmit`];
//! [`Responder::poll_event`]; waits for [`Responder::poll_timeout`]. The order is what lets no client have an
//! address that a crash forgets.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};

use uuid::Uuid;

use super::boot;
use super::codec::{Message, Op};
use super::limiter::{Bucket, Limiter};
use super::merge::Merge;
use super::outcome::{Counters, IgnoreReason, Offered, Outcome, Port, Reply, ReplyTo, Seen};
use super::proxy::{Proxy, ProxyConfig};
use super::request::{MessageType, is_host};
use super::server::{Lease, Server, ServerConfig};
use crate::{Mac, Subnet, Time};

/// Events in a second: more than a thousand machines that boot together cause, and what a journal on a small
/// box takes. What is above is counted and not told.
const EVENT_RATE: u32 = 500;
/// Events at once.
const EVENT_BURST: u32 = 4_000;

/// How a network is served.
#[derive(Clone, Debug)]
pub enum Mode {
    /// Nothing is answered.
    Off,
    /// Boot files only; addresses are the site's DHCP server's affair.
    Proxy,
    /// Machines that boot get one answer: what the site's DHCP server says, with the boot file added.
    Merge,
    /// Addresses and boot files. The leases are those that were written down before.
    Server {
        /// What is given.
        config: Box<ServerConfig>,
        /// What was given.
        leases: Vec<Lease>,
        /// What the calendar says, in seconds since 1970.
        unix_now: u64,
    },
}

/// What a responder needs to know.
#[derive(Clone, Debug)]
pub struct ResponderConfig {
    /// What machines boot, and this host's address in the network: of TFTP and HTTP, and the one that answers.
    pub boot: ProxyConfig,
    /// This host's interface.
    pub mac: Mac,
    /// The networks that hosts on this link have addresses of. Whoever claims another address gets no answer;
    /// when there is none, every address is believed.
    pub subnets: Vec<Subnet>,
    /// How it is served.
    pub mode: Mode,
    /// Chance from outside: what others must not guess is made of it.
    pub seed: u64,
}

/// A DHCP packet that came.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The port it is for.
    pub port: Port,
    /// Who sent it.
    pub source: SocketAddrV4,
    /// Which station its frame came from: the sender, or the router in between.
    pub from: Mac,
    /// The message.
    pub payload: &'a [u8],
}

/// Which station a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Everybody.
    Everybody,
    /// One.
    Station(Mac),
}

/// A UDP packet to send, from this host's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The message.
    pub payload: Vec<u8>,
    /// From which port.
    pub from_port: u16,
    /// To whom.
    pub to: SocketAddrV4,
    /// In a frame to whom.
    pub link: Link,
}

/// Something to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// A DHCP message.
    Datagram(Datagram),
    /// An ARP question that claims no address (RFC 5227): does anybody have this one?
    ArpProbe(Ipv4Addr),
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A machine was told what to boot.
    Offered {
        /// Who.
        seen: Seen,
        /// What.
        offered: Offered,
    },
    /// A message was not answered.
    Ignored {
        /// Whose.
        seen: Seen,
        /// Why.
        reason: IgnoreReason,
    },
    /// A machine has an address, from us or through us.
    Leased {
        /// Which machine.
        mac: Mac,
        /// Its UUID, when it told.
        uuid: Option<Uuid>,
        /// The address.
        address: Ipv4Addr,
    },
    /// A machine was told that it cannot have an address.
    Denied {
        /// Which machine.
        mac: Mac,
        /// The address.
        address: Ipv4Addr,
    },
    /// The site's server gave no answer for a machine (mode `merge`).
    NoServer {
        /// Which machine.
        mac: Mac,
    },
    /// An address that could have been given is used by somebody.
    Conflict {
        /// The address.
        address: Ipv4Addr,
        /// By whom.
        by: Mac,
    },
    /// Another DHCP server answers here: mode `server` does not serve.
    OtherServer {
        /// Its address.
        server: Ipv4Addr,
    },
    /// Mode `server` serves from now on.
    Serving,
}

/// What a mode says, until the driver takes it.
#[derive(Debug)]
pub(super) struct Out {
    pub(super) transmit: VecDeque<Transmit>,
    pub(super) records: VecDeque<Lease>,
    events: VecDeque<Event>,
    event_bucket: Bucket,
    untold: u64,
    pub(super) counters: Counters,
}

impl Out {
    pub(super) fn new(now: Time) -> Self {
        Self {
            transmit: VecDeque::new(),
            records: VecDeque::new(),
            events: VecDeque::new(),
            event_bucket: Bucket::full(now, EVENT_BURST),
            untold: 0,
            counters: Counters::NONE,
        }
    }

    pub(super) fn send(&mut self, payload: Vec<u8>, from: Port, to: SocketAddrV4, link: Link) {
        let datagram = Datagram { payload, from_port: from.number(), to, link };
        self.transmit.push_back(Transmit::Datagram(datagram));
    }

    pub(super) fn tell(&mut self, now: Time, event: Event) {
        if self.event_bucket.take(now, EVENT_RATE, EVENT_BURST) {
            self.events.push_back(event);
        } else {
            self.untold += 1;
        }
    }

    pub(super) fn ignore(&mut self, now: Time, seen: Seen, reason: IgnoreReason) {
        self.counters.count_ignored(reason);
        self.tell(now, Event::Ignored { seen, reason });
    }

    /// A reply of the proxy.
    fn reply(&mut self, now: Time, port: Port, from: Mac, reply: Reply) {
        match reply.seen.message_type {
            MessageType::Discover => self.counters.offers += 1,
            _ => self.counters.acks += 1,
        }
        let link = match reply.to {
            ReplyTo::Broadcast => Link::Everybody,
            ReplyTo::Client { .. } | ReplyTo::Relay(_) => Link::Station(from),
        };
        self.send(reply.payload, port, reply.to.socket(), link);
        self.tell(now, Event::Offered { seen: reply.seen, offered: reply.offered });
    }
}

#[derive(Debug)]
enum Machine {
    Off,
    Proxy,
    Merge(Box<Merge>),
    Server(Box<Server>),
}

/// Everything that is said about DHCP on one network.
#[derive(Debug)]
pub struct Responder {
    own: Ipv4Addr,
    mac: Mac,
    subnets: Vec<Subnet>,
    proxy: Proxy,
    limiter: Limiter,
    machine: Machine,
    out: Out,
}

impl Responder {
    /// A responder that starts now. In mode `server` it first makes sure that no other server answers.
    #[must_use]
    pub fn new(now: Time, config: ResponderConfig) -> Self {
        let ResponderConfig { boot, mac, subnets, mode, seed } = config;
        let own = boot.server;
        let machine = match mode {
            Mode::Off => Machine::Off,
            Mode::Proxy => Machine::Proxy,
            Mode::Merge => Machine::Merge(Box::new(Merge::new(boot.clone(), seed))),
            Mode::Server { config, leases, unix_now } => Machine::Server(Box::new(Server::new(
                now,
                *config,
                boot.clone(),
                mac,
                leases,
                unix_now,
                seed,
            ))),
        };
        let (limiter, out) = (Limiter::new(now, seed), Out::new(now));
        Self { own, mac, subnets, proxy: Proxy::new(boot), limiter, machine, out }
    }

    /// What it has done.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.out.counters
    }

    /// Events that were too many to be told.
    #[must_use]
    pub fn untold(&self) -> u64 {
        self.out.untold
    }

    /// Takes in a packet to port 67 or 4011.
    pub fn handle_packet(&mut self, now: Time, packet: &Packet<'_>) {
        if packet.from == self.mac || matches!(self.machine, Machine::Off) {
            return;
        }
        self.out.counters.received += 1;
        if let Err(reason) = self.take(now, packet) {
            self.out.counters.count_ignored(reason);
        }
    }

    /// Takes in a packet to port 68, a server's answer to a client. Modes `merge` and `server` learn from them.
    pub fn handle_answer(&mut self, now: Time, packet: &Packet<'_>) {
        if packet.from == self.mac {
            return;
        }
        let Ok(message) = Message::parse(packet.payload) else { return };
        if message.op != Op::Reply {
            return;
        }
        match &mut self.machine {
            Machine::Merge(merge) => merge.overhear(&message),
            Machine::Server(server) => server.hear_answer(now, &message, packet.source, &mut self.out),
            Machine::Off | Machine::Proxy => {}
        }
    }

    /// Takes in that somebody has an address: from any ARP packet.
    pub fn handle_arp(&mut self, now: Time, address: Ipv4Addr, mac: Mac) {
        if let Machine::Server(server) = &mut self.machine
            && mac != self.mac
        {
            server.handle_arp(now, address, mac, &mut self.out);
        }
    }

    /// Acts on every deadline up to `now`.
    pub fn handle_timeout(&mut self, now: Time) {
        match &mut self.machine {
            Machine::Merge(merge) => merge.handle_timeout(now, &mut self.out),
            Machine::Server(server) => server.handle_timeout(now, &mut self.out),
            Machine::Off | Machine::Proxy => {}
        }
    }

    /// When [`Responder::handle_timeout`] is to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        match &self.machine {
            Machine::Merge(merge) => merge.poll_timeout(),
            Machine::Server(server) => server.poll_timeout(),
            Machine::Off | Machine::Proxy => None,
        }
    }

    /// The next lease to write down, before anything is transmitted.
    pub fn poll_record(&mut self) -> Option<Lease> {
        self.out.records.pop_front()
    }

    /// What could not be written down was not given: drops everything that waits to be sent. Clients ask again.
    pub fn handle_write_failure(&mut self) {
        self.out.records.clear();
        self.out.transmit.clear();
    }

    /// The next packet to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.transmit.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.out.events.pop_front()
    }

    /// All leases as they are: what a log of them can be cut down to.
    pub fn leases(&self) -> impl Iterator<Item = Lease> {
        let server = match &self.machine {
            Machine::Server(server) => Some(server.leases()),
            Machine::Off | Machine::Proxy | Machine::Merge(_) => None,
        };
        server.into_iter().flatten()
    }

    fn take(&mut self, now: Time, packet: &Packet<'_>) -> Result<(), IgnoreReason> {
        let message = Message::parse(packet.payload).map_err(IgnoreReason::Malformed)?;
        if message.op == Op::Reply {
            // To a relay: us, when we asked.
            return match &mut self.machine {
                Machine::Merge(merge) if packet.port == Port::Server67 => {
                    merge.handle_reply(now, &message, &mut self.out)
                }
                _ => Err(IgnoreReason::NotARequest),
            };
        }
        let (seen, class) = boot::identify(&message)?;
        if !self.is_from_here(packet.source, &message) {
            return Err(IgnoreReason::Spoofed);
        }
        if !self.limiter.admits(now, seen.mac) {
            return Err(IgnoreReason::TooOften);
        }
        let relayed = !message.giaddr.is_unspecified();
        match (&mut self.machine, packet.port) {
            (Machine::Merge(merge), Port::Server67) if !relayed => {
                merge.handle_request(now, &message, seen, class, &mut self.out);
            }
            (Machine::Server(server), Port::Server67) => {
                server.handle_request(now, packet.from, &message, seen, class, &mut self.out);
            }
            (Machine::Off | Machine::Proxy | Machine::Merge(_) | Machine::Server(_), _) => {
                match self.proxy.handle_message(packet.port, packet.source, &message) {
                    Outcome::Reply(reply) => self.out.reply(now, packet.port, packet.from, reply),
                    Outcome::Ignore { reason, seen: Some(seen) } => self.out.ignore(now, seen, reason),
                    Outcome::Ignore { reason, seen: None } => return Err(reason),
                }
            }
        }
        Ok(())
    }

    /// Whether the addresses in the packet can be of this network, or of a relay on a private one.
    fn is_from_here(&self, source: SocketAddrV4, message: &Message) -> bool {
        let here = |address: Ipv4Addr| {
            self.subnets.is_empty() || self.subnets.iter().any(|subnet| subnet.contains(address))
        };
        let from_relay = |address: Ipv4Addr| is_host(address) && (here(address) || is_private(address));
        if !message.giaddr.is_unspecified() {
            // A relay answers from whichever of its addresses.
            return from_relay(message.giaddr) && from_relay(*source.ip());
        }
        let fine = |address: Ipv4Addr| address.is_unspecified() || (address != self.own && here(address));
        fine(*source.ip()) && fine(message.ciaddr)
    }
}

/// RFC 1918 and 6598. Relays have such addresses; whoever forges another does not get us to answer there.
fn is_private(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    address.is_private() || (a == 100 && (64..128).contains(&b))
}

#[cfg(test)]
mod tests;
