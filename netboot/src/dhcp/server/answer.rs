//! What the server answers, and to where.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::{BROADCAST, Server};
use crate::Mac;
use crate::dhcp::boot::Plan;
use crate::dhcp::codec::{Message, option};
use crate::dhcp::outcome::Port;
use crate::dhcp::request::{self, MessageType};
use crate::dhcp::responder::{Link, Out};

/// Options longer than this are not echoed.
const ECHO_MAX: usize = 255;

/// What an answer is made of.
pub(super) struct Reply<'a> {
    pub(super) from: Mac,
    pub(super) message: &'a Message,
    pub(super) plan: Option<&'a Plan>,
}

impl Server {
    /// `address`: the one that the client is given.
    pub(super) fn send(&self, to: &Reply<'_>, kind: MessageType, address: Option<Ipv4Addr>, out: &mut Out) {
        let request = to.message;
        let mut reply = request.reply();
        let nak = kind == MessageType::Nak;
        reply.yiaddr = address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        reply.ciaddr = if kind == MessageType::Ack { request.ciaddr } else { Ipv4Addr::UNSPECIFIED };
        if nak && !request.giaddr.is_unspecified() {
            // RFC 2131, 4.3.2: so that the relay broadcasts it.
            reply.flags |= BROADCAST;
        }
        reply.options.push(option::MESSAGE_TYPE, &[kind.number()]);
        reply.options.push(option::SERVER_ID, &self.own.octets());
        if let Some(id) = request.options.value(option::CLIENT_ID).filter(|id| id.len() <= ECHO_MAX) {
            // RFC 6842.
            reply.options.push(option::CLIENT_ID, id);
        }
        if !nak {
            self.push_options(&mut reply, address.is_some());
        }
        match to.plan.filter(|_| !nak) {
            Some(plan) => plan.add_to(self.boot.server, &mut reply),
            None => echo_relay_information(request, &mut reply),
        }
        let (address, link) = destination(to.from, request, &reply, nak);
        out.send(reply.emit(), Port::Server67, address, link);
    }

    fn push_options(&self, reply: &mut Message, with_times: bool) {
        let config = &self.config;
        let options = &mut reply.options;
        let mut seconds = |number, duration: Duration| {
            options.push(number, &u32::try_from(duration.as_secs()).unwrap_or(u32::MAX).to_be_bytes());
        };
        if with_times {
            seconds(option::LEASE_TIME, config.lease_time);
            seconds(option::RENEWAL, config.renew_after());
            seconds(option::REBINDING, config.rebind_after());
        }
        options.push(option::SUBNET_MASK, &config.subnet.mask().octets());
        options.push(option::BROADCAST, &config.subnet.broadcast().octets());
        let servers =
            [(option::ROUTER, &config.routers), (option::DNS, &config.dns), (option::NTP, &config.ntp)];
        for (number, list) in servers {
            if !list.is_empty() {
                let octets: Vec<u8> = list.iter().flat_map(|address| address.octets()).collect();
                options.push(number, &octets);
            }
        }
        if let Some(domain) = &config.domain {
            options.push(option::DOMAIN, domain.as_bytes());
        }
        let search = config.search_on_wire();
        if !search.is_empty() {
            options.push(option::SEARCH, &search);
        }
    }
}

fn echo_relay_information(request: &Message, reply: &mut Message) {
    let information = request.options.value(option::RELAY_AGENT).filter(|value| value.len() <= ECHO_MAX);
    if let Some(information) = information {
        reply.options.push(option::RELAY_AGENT, information);
    }
}

/// RFC 2131, 4.1: to the relay; to the address it has; to everybody when it cannot hear otherwise; else to the
/// address that it is given, in a frame to its interface, which needs no ARP.
fn destination(from: Mac, request: &Message, reply: &Message, nak: bool) -> (SocketAddrV4, Link) {
    let client = |address| SocketAddrV4::new(address, 68);
    if !request.giaddr.is_unspecified() {
        return (SocketAddrV4::new(request.giaddr, Port::Server67.number()), Link::Station(from));
    }
    if !nak && !request.ciaddr.is_unspecified() {
        return (client(request.ciaddr), Link::Station(from));
    }
    match request::mac(request) {
        Some(mac) if !nak && request.flags & BROADCAST == 0 && !reply.yiaddr.is_unspecified() => {
            (client(reply.yiaddr), Link::Station(mac))
        }
        _ => (client(Ipv4Addr::BROADCAST), Link::Everybody),
    }
}
