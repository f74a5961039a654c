//! The one whole answer: what the site's server says, as ours and with the boot file.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::Pending;
use crate::Time;
use crate::dhcp::boot::OF_BOOTING;
use crate::dhcp::codec::{Message, Options, option};
use crate::dhcp::outcome::{Port, Seen};
use crate::dhcp::proxy::ProxyConfig;
use crate::dhcp::request::MessageType;
use crate::dhcp::responder::{Event, Link, Out};

/// The broadcast bit of the flags.
const BROADCAST: u16 = 0x8000;
/// Options that a client needs to use its address. When not all fit, the others are left out.
const NEEDED: [u8; 9] = [
    option::SUBNET_MASK,
    option::ROUTER,
    option::DNS,
    option::DOMAIN,
    option::BROADCAST,
    option::LEASE_TIME,
    option::RENEWAL,
    option::REBINDING,
    option::NTP,
];

/// Sends the client the server's answer, as ours and with the boot file.
pub(super) fn answer(
    boot: &ProxyConfig,
    now: Time,
    pending: &Pending,
    kind: MessageType,
    theirs: &Message,
    out: &mut Out,
) {
    let theirs = unfolded(theirs);
    let whole = merged(boot, pending, kind, &theirs, |_| true).emit();
    let payload = if whole.len() <= pending.room {
        whole
    } else {
        merged(boot, pending, kind, &theirs, |number| NEEDED.contains(&number)).emit()
    };
    let (to, link) = if pending.header.flags & BROADCAST != 0 {
        (Ipv4Addr::BROADCAST, Link::Everybody)
    } else {
        (theirs.yiaddr, Link::Station(pending.seen.mac))
    };
    out.send(payload, Port::Server67, SocketAddrV4::new(to, 68), link);
    let Seen { mac, uuid, .. } = pending.seen;
    if kind == MessageType::Ack {
        out.counters.acks += 1;
        out.tell(now, Event::Leased { mac, uuid, address: theirs.yiaddr });
    } else {
        out.counters.offers += 1;
        let offered = pending.plan.offered(Port::Server67);
        out.tell(now, Event::Offered { seen: pending.seen, offered });
    }
}

fn merged(
    boot: &ProxyConfig,
    pending: &Pending,
    kind: MessageType,
    theirs: &Message,
    keep: impl Fn(u8) -> bool,
) -> Message {
    let mut reply = pending.header.clone();
    reply.yiaddr = theirs.yiaddr;
    reply.options.push(option::MESSAGE_TYPE, &[kind.number()]);
    reply.options.push(option::SERVER_ID, &boot.server.octets());
    let ours = [option::MESSAGE_TYPE, option::OVERLOAD, option::RELAY_AGENT];
    for (number, value) in theirs.options.iter() {
        if !ours.contains(&number) && !OF_BOOTING.contains(&number) && keep(number) {
            reply.options.push(number, value);
        }
    }
    pending.plan.add_to(boot.server, &mut reply);
    reply
}

pub(super) fn deny(boot: &ProxyConfig, pending: &Pending, out: &mut Out) {
    let mut reply = pending.header.clone();
    reply.options.push(option::MESSAGE_TYPE, &[MessageType::Nak.number()]);
    reply.options.push(option::SERVER_ID, &boot.server.octets());
    let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, 68);
    out.send(reply.emit(), Port::Server67, everybody, Link::Everybody);
}

/// The message with the options that it keeps in `file` and `sname` (option 52) among the others.
pub(super) fn unfolded(message: &Message) -> Message {
    let mut whole = message.clone();
    let overload = message.options.value(option::OVERLOAD).and_then(<[u8]>::first).copied().unwrap_or(0);
    let fields: [(u8, &[u8]); 2] = [(1, &message.file), (2, &message.sname)];
    for (_, field) in fields.into_iter().filter(|(bit, _)| overload & bit != 0) {
        let folded = Options::parse(field).unwrap_or_default();
        folded.iter().for_each(|(number, value)| whole.options.push(number, value));
    }
    whole.options.remove(option::OVERLOAD);
    whole
}
