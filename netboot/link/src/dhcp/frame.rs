//! Ethernet frames with DHCP in them.

use std::net::{Ipv4Addr, SocketAddrV4};

use netboot::Mac;
use netboot::dhcp::{Port, Reply, ReplyTo};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol, Ipv4Packet,
    Ipv4Repr, UdpPacket, UdpRepr,
};

/// The usual life of a packet; relays are a few hops away.
const HOPS: u8 = 64;

/// A question for a DHCP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Incoming<'a> {
    /// Where its frame came from: the client, or the router or relay in between.
    pub(super) mac: Mac,
    pub(super) source: SocketAddrV4,
    pub(super) port: Port,
    pub(super) payload: &'a [u8],
}

/// Reads a frame; `None` for whatever is no whole UDP packet to our ports.
///
/// Checksums are not looked at: between virtual machines the sender leaves them to a card that is not there,
/// and a DHCP message that was damaged does not parse or does not match.
pub(super) fn parse(bytes: &[u8]) -> Option<Incoming<'_>> {
    let frame = EthernetFrame::new_checked(bytes).ok()?;
    let mac = Mac(frame.src_addr().0);
    if frame.ethertype() != EthernetProtocol::Ipv4 || !mac.is_unicast() {
        return None;
    }
    let header = EthernetFrame::<&[u8]>::header_len();
    let ip = Ipv4Packet::new_checked(&bytes[header..]).ok()?;
    if ip.version() != 4 || ip.next_header() != IpProtocol::Udp || ip.more_frags() || ip.frag_offset() != 0 {
        return None;
    }
    let start = header + usize::from(ip.header_len());
    let end = header + usize::from(ip.total_len());
    let udp = UdpPacket::new_checked(bytes.get(start..end)?).ok()?;
    let port = match udp.dst_port() {
        67 => Port::Server67,
        4011 => Port::Proxy4011,
        _ => return None,
    };
    let payload = bytes.get(start + 8..start + usize::from(udp.len()))?;
    Some(Incoming { mac, source: SocketAddrV4::new(ip.src_addr(), udp.src_port()), port, payload })
}

/// The frame that carries a reply, from the port that was asked. `asker` is where the question's frame came
/// from: whoever is not reached by broadcast is reached through it.
pub(super) fn reply(own: Mac, from: Ipv4Addr, asker: Mac, port: Port, reply: &Reply) -> Vec<u8> {
    let to = reply.to.socket();
    let destination = match reply.to {
        ReplyTo::Broadcast => EthernetAddress::BROADCAST,
        ReplyTo::Client { .. } | ReplyTo::Relay(_) => EthernetAddress(asker.0),
    };
    let udp = UdpRepr { src_port: port.number(), dst_port: to.port() };
    let ip = Ipv4Repr {
        src_addr: from,
        dst_addr: *to.ip(),
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + reply.payload.len(),
        hop_limit: HOPS,
    };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(own.0),
        dst_addr: destination,
        ethertype: EthernetProtocol::Ipv4,
    };
    let checksums = ChecksumCapabilities::default();
    let (ip_at, udp_at) = (ethernet.buffer_len(), ethernet.buffer_len() + ip.buffer_len());
    let mut bytes = vec![0; ip_at + ip.buffer_len() + ip.payload_len];
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut bytes[..]));
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[ip_at..]), &checksums);
    udp.emit(
        &mut UdpPacket::new_unchecked(&mut bytes[udp_at..]),
        &IpAddress::Ipv4(from),
        &IpAddress::Ipv4(*to.ip()),
        reply.payload.len(),
        |payload| payload.copy_from_slice(&reply.payload),
        &checksums,
    );
    bytes
}
