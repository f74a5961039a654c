//! Mode `merge`: for firmware that ignores `ProxyDHCP`. The machine gets one whole answer: the address, the times
//! and the options of the site's DHCP server, with the boot file added.
//!
//! ```text
//! machine                       us                            site's server
//!   DISCOVER ─ broadcast ─────► │ DISCOVER, giaddr = us ─────► │   (it hears the machine's broadcast as well,
//!   ◄──────────── OFFER, its address, no boot file ─────────── │    and its own OFFER comes first)
//!   ◄─ OFFER: address + file ── │ ◄──────── OFFER to giaddr ── │
//!   REQUEST for us ───────────► │ REQUEST for it ────────────► │
//!   ◄── ACK: address + file ─── │ ◄────────── ACK to giaddr ── │
//! ```
//!
//! **The race.** On one segment the server hears what we hear, so the machine gets two offers and the incomplete
//! one first. Firmware that boots waits for an offer with a boot file (EDK2 3.5 s, PXE ROMs 4 s) and prefers it.
//! Then ours must stay *one* answer, and it does because our offers name **us** as the server (option 54): the
//! machine's REQUEST is for us, the site's server takes it as "somebody else was chosen" and stays silent, and
//! the only ACK is ours. Were its own id left in, its ACK without a boot file would always be the first of two,
//! and firmware boots by the first ACK.
//!
//! One kind of server does not stay silent: dnsmasq with `dhcp-authoritative` refuses (NAK) every REQUEST that
//! names another server. We overhear that, and from then on answer the REQUESTs of machines that were offered
//! that server's addresses at once, from the offer, while the server is asked in parallel: the ACK is then ahead
//! of the NAK, and a machine that has its address hears no NAK. The first machine loses one round.
//!
//! **Who is left alone.** Clients that do not boot from the network, and every message that does not name us.
//! A client that keeps its lease asks the site's server without us: its unicast renewal to us gets no answer, so
//! that it asks everybody (T2), and the server answers itself. Messages that a relay brings are answered as in
//! mode `proxy`: the server's answer to *our* giaddr would be for our network and not for the relay's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::boot::Plan;
use super::codec::{Message, option};
use super::limiter::{Bucket, mix};
use super::outcome::{IgnoreReason, Port, Seen};
use super::proxy::ProxyConfig;
use super::request::{self, Class, MessageType, is_host};
use super::responder::{Event, Link, Out};
use crate::{Mac, Time};
use answer::{answer, deny, unfolded};

mod answer;

/// Questions to the site's server that wait for answers: a thousand machines that are switched on together.
const PENDING_MAX: usize = 1_024;
/// How long an answer is waited for: dnsmasq tries an address for 3 s before it offers it.
const PENDING_FOR: Duration = Duration::from_secs(6);
/// Machines whose offers are remembered until they choose one; the stalest makes room.
const CLIENTS_MAX: usize = 1_024;
/// Offers remembered for one machine: sites have one DHCP server or two.
const OFFERS_MAX: usize = 4;
/// Questions to the site's server in a second; it is somebody else's.
const ASK_RATE: u32 = 500;
/// Questions at once.
const ASK_BURST: u32 = 1_000;
/// Servers known to refuse what is not for them.
const HASTY_MAX: usize = 16;
/// RFC 1542: what came through this many relays goes in circles.
const HOPS_MAX: u8 = 16;
/// IPv4 and UDP headers, which option 57 counts in.
const HEADERS: usize = 28;
/// The least and the most of what a client takes (RFC 2131; an Ethernet frame).
const SIZE: std::ops::RangeInclusive<usize> = 576..=1_500;

/// A question that was passed on.
#[derive(Debug)]
struct Pending {
    seen: Seen,
    plan: Plan,
    /// The start of the answer: what it repeats of the question.
    header: Message,
    /// The payload that the client takes at most.
    room: usize,
    /// How many servers answered.
    answers: usize,
    /// An ACK was given ahead of the server's.
    given: bool,
}

#[derive(Debug)]
struct Offer {
    server: Ipv4Addr,
    message: Message,
}

#[derive(Debug)]
struct Client {
    /// The question of its DISCOVER, to know a repeated one.
    xid: u32,
    offers: Vec<Offer>,
    touched: Time,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Merge {
    boot: ProxyConfig,
    next_xid: u64,
    pending: BTreeMap<u32, Pending>,
    /// When each is given up, in that order.
    deadlines: VecDeque<(Time, u32)>,
    clients: BTreeMap<Mac, Client>,
    hasty: BTreeSet<Ipv4Addr>,
    asked: Option<Bucket>,
}

impl Merge {
    pub(super) fn new(boot: ProxyConfig, seed: u64) -> Self {
        Self {
            boot,
            next_xid: seed,
            pending: BTreeMap::new(),
            deadlines: VecDeque::new(),
            clients: BTreeMap::new(),
            hasty: BTreeSet::new(),
            asked: None,
        }
    }

    /// A message from a client of this network, on port 67.
    pub(super) fn handle_request(
        &mut self,
        now: Time,
        message: &Message,
        mut seen: Seen,
        class: Option<Class>,
        out: &mut Out,
    ) {
        if let Err(reason) = self.pass_on(now, message, &mut seen, class, out) {
            out.ignore(now, seen, reason);
        }
    }

    fn pass_on(
        &mut self,
        now: Time,
        message: &Message,
        seen: &mut Seen,
        class: Option<Class>,
        out: &mut Out,
    ) -> Result<(), IgnoreReason> {
        let class = class.ok_or(IgnoreReason::NotNetboot)?;
        let named = request::address(message, option::SERVER_ID);
        match seen.message_type {
            MessageType::Discover if named.is_none_or(|server| server == self.boot.server) => {}
            MessageType::Discover => return Err(IgnoreReason::OtherServer),
            MessageType::Request | MessageType::Decline | MessageType::Release => match named {
                Some(server) if server == self.boot.server => {}
                Some(_) => return Err(IgnoreReason::OtherServer),
                None => return Err(IgnoreReason::NotForBootServer),
            },
            _ => return Err(IgnoreReason::NotForBootServer),
        }
        if message.hops >= HOPS_MAX {
            return Err(IgnoreReason::Hops);
        }
        let plan = Plan::new(&self.boot, message, class)?;
        seen.firmware = Some(plan.firmware);
        if !self.asked.get_or_insert(Bucket::full(now, ASK_BURST)).take(now, ASK_RATE, ASK_BURST) {
            return Err(IgnoreReason::TooOften);
        }
        match seen.message_type {
            MessageType::Discover => self.ask(now, message, *seen, plan, None, out),
            MessageType::Request => {
                let wanted = request::address(message, option::REQUESTED_IP);
                let wanted = wanted.ok_or(IgnoreReason::NotForBootServer)?;
                let server = self.server_of(seen.mac, wanted).ok_or(IgnoreReason::UnknownAddress)?;
                self.ask(now, message, *seen, plan, Some((server, wanted)), out)
            }
            // Neither is answered; the server is to know that the address is free, or taken.
            _ => {
                let about = match seen.message_type {
                    MessageType::Release => Some(message.ciaddr),
                    _ => request::address(message, option::REQUESTED_IP),
                };
                let server = about.and_then(|address| self.server_of(seen.mac, address));
                let server = server.ok_or(IgnoreReason::UnknownAddress)?;
                let xid = self.new_xid();
                self.relay(message, xid, Some(server), out);
                Ok(())
            }
        }
    }

    /// Which server offered this address to this machine.
    fn server_of(&self, mac: Mac, address: Ipv4Addr) -> Option<Ipv4Addr> {
        let offers = &self.clients.get(&mac)?.offers;
        offers.iter().find(|offer| offer.message.yiaddr == address).map(|offer| offer.server)
    }

    fn ask(
        &mut self,
        now: Time,
        message: &Message,
        seen: Seen,
        plan: Plan,
        chosen: Option<(Ipv4Addr, Ipv4Addr)>,
        out: &mut Out,
    ) -> Result<(), IgnoreReason> {
        // A machine that asks again asks the server again, by the same number.
        let repeated = self.clients.get(&seen.mac).filter(|client| client.xid == message.xid);
        let again = repeated.and_then(|_| self.pending_of(seen, message.xid));
        let xid = match again {
            Some(xid) => xid,
            None if self.pending.len() >= PENDING_MAX => return Err(IgnoreReason::Busy),
            None => {
                let xid = self.new_xid();
                self.deadlines.push_back((now + PENDING_FOR, xid));
                xid
            }
        };
        if seen.message_type == MessageType::Discover {
            self.remember(now, seen.mac, message.xid);
        }
        let room = request::number(message, option::MAX_MESSAGE_SIZE)
            .map_or(*SIZE.start(), usize::from)
            .clamp(*SIZE.start(), *SIZE.end())
            - HEADERS;
        let header = message.reply();
        let mut pending = Pending { seen, plan, header, room, answers: 0, given: false };
        if let Some((server, wanted)) = chosen.filter(|(server, _)| self.hasty.contains(server)) {
            pending.given = self.answer_ahead(now, &pending, server, wanted, out);
        }
        self.pending.insert(xid, pending);
        self.relay(message, xid, chosen.map(|(server, _)| server), out);
        Ok(())
    }

    fn pending_of(&self, seen: Seen, xid: u32) -> Option<u32> {
        let same = |pending: &Pending| {
            pending.seen.mac == seen.mac
                && pending.header.xid == xid
                && pending.seen.message_type == seen.message_type
        };
        self.pending.iter().find(|(_, pending)| same(pending)).map(|(xid, _)| *xid)
    }

    fn new_xid(&mut self) -> u32 {
        loop {
            self.next_xid = self.next_xid.wrapping_add(1);
            let xid = (mix(self.next_xid) >> 32) as u32;
            if !self.pending.contains_key(&xid) {
                return xid;
            }
        }
    }

    /// A DISCOVER forgets what was offered before it.
    fn remember(&mut self, now: Time, mac: Mac, xid: u32) {
        if self.clients.len() >= CLIENTS_MAX && !self.clients.contains_key(&mac) {
            let stalest = self.clients.iter().min_by_key(|(_, client)| client.touched).map(|(mac, _)| *mac);
            stalest.and_then(|mac| self.clients.remove(&mac));
        }
        let client = self.clients.entry(mac).or_insert(Client { xid, offers: Vec::new(), touched: now });
        if client.xid != xid {
            client.xid = xid;
            client.offers.clear();
        }
        client.touched = now;
    }

    /// Sends the message on as a relay does, to every server and relay of the segment.
    fn relay(&self, message: &Message, xid: u32, server: Option<Ipv4Addr>, out: &mut Out) {
        let mut relayed = message.clone();
        relayed.xid = xid;
        relayed.hops += 1;
        relayed.giaddr = self.boot.server;
        if let Some(server) = server {
            relayed.options.set(option::SERVER_ID, &server.octets());
        } else {
            relayed.options.remove(option::SERVER_ID);
        }
        let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, Port::Server67.number());
        out.send(relayed.emit(), Port::Server67, everybody, Link::Everybody);
    }

    /// A server's answer to us as the relay.
    pub(super) fn handle_reply(
        &mut self,
        now: Time,
        reply: &Message,
        out: &mut Out,
    ) -> Result<(), IgnoreReason> {
        let pending = self.pending.get_mut(&reply.xid).ok_or(IgnoreReason::NotForBootServer)?;
        let is_answer = reply.giaddr == self.boot.server && reply.chaddr == pending.header.chaddr;
        let kind =
            request::message_type(reply).filter(|_| is_answer).ok_or(IgnoreReason::NotForBootServer)?;
        let server = request::address(reply, option::SERVER_ID).filter(|server| is_host(*server));
        let server = server.ok_or(IgnoreReason::BadAddress)?;
        if pending.answers >= OFFERS_MAX {
            return Err(IgnoreReason::TooOften);
        }
        pending.answers += 1;
        let asked = pending.seen.message_type;
        match (asked, kind) {
            (MessageType::Discover, MessageType::Offer) if is_host(reply.yiaddr) => {
                let client = self.clients.get_mut(&pending.seen.mac).ok_or(IgnoreReason::Busy)?;
                client.offers.retain(|offer| offer.server != server);
                if client.offers.len() < OFFERS_MAX {
                    client.offers.push(Offer { server, message: unfolded(reply) });
                }
                answer(&self.boot, now, pending, kind, reply, out);
            }
            (MessageType::Request, MessageType::Ack) if is_host(reply.yiaddr) => {
                if !pending.given {
                    answer(&self.boot, now, pending, kind, reply, out);
                }
            }
            (MessageType::Request, MessageType::Nak) => {
                let (mac, address) = (pending.seen.mac, pending.seen.requested_ip);
                deny(&self.boot, pending, out);
                out.tell(now, Event::Denied { mac, address: address.unwrap_or(Ipv4Addr::UNSPECIFIED) });
            }
            _ => return Err(IgnoreReason::NotForBootServer),
        }
        Ok(())
    }

    /// The ACK from the offer, for servers whose NAK would be faster than an ACK by way of them.
    fn answer_ahead(
        &self,
        now: Time,
        pending: &Pending,
        server: Ipv4Addr,
        wanted: Ipv4Addr,
        out: &mut Out,
    ) -> bool {
        let offers = self.clients.get(&pending.seen.mac).map(|client| &client.offers);
        let offer = offers.and_then(|offers| {
            offers.iter().find(|offer| offer.server == server && offer.message.yiaddr == wanted)
        });
        if let Some(offer) = offer {
            answer(&self.boot, now, pending, MessageType::Ack, &offer.message, out);
        }
        offer.is_some()
    }

    /// An answer that a server gives to a client itself. A NAK for a machine that chose us shows a server that
    /// refuses whatever is not for it.
    pub(super) fn overhear(&mut self, message: &Message) {
        let refused = request::message_type(message) == Some(MessageType::Nak);
        let Some(server) = request::address(message, option::SERVER_ID).filter(|_| refused) else { return };
        let ours = server == self.boot.server;
        let asks = |pending: &Pending| {
            pending.seen.message_type == MessageType::Request
                && pending.header.xid == message.xid
                && pending.header.chaddr == message.chaddr
        };
        if !ours && self.hasty.len() < HASTY_MAX && self.pending.values().any(asks) {
            self.hasty.insert(server);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Time, out: &mut Out) {
        while let Some((deadline, xid)) = self.deadlines.front().copied() {
            if deadline > now {
                return;
            }
            self.deadlines.pop_front();
            let Some(pending) = self.pending.remove(&xid) else { continue };
            if pending.answers == 0 {
                out.tell(now, Event::NoServer { mac: pending.seen.mac });
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.deadlines.front().map(|(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests;
