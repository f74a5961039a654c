//! Ethernet frames with DHCP or ARP in them.

use std::net::{Ipv4Addr, SocketAddrV4};

use netboot::Mac;
use netboot::dhcp::{Datagram, Link};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpPacket, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol,
    Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};

/// The usual life of a packet; relays are a few hops away.
const HOPS: u8 = 64;
const HEADER: usize = 14;
const ARP: usize = 28;

/// What a frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carried<'a> {
    /// A whole UDP packet.
    Udp {
        /// Who sent it.
        source: SocketAddrV4,
        /// For which port.
        port: u16,
        /// Its payload.
        payload: &'a [u8],
    },
    /// Somebody says that an address is its own.
    Arp {
        /// The address.
        address: Ipv4Addr,
        /// Whose.
        mac: Mac,
    },
}

/// A frame that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming<'a> {
    /// Where it came from: the client, or the router or relay in between.
    pub from: Mac,
    /// What it carries.
    pub carried: Carried<'a>,
}

/// Reads a frame without its VLAN tag; `None` for whatever is neither a whole UDP packet nor ARP.
///
/// Checksums are not looked at: between virtual machines the sender leaves them to a card that is not there,
/// and a DHCP message that was damaged does not parse or does not match.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Incoming<'_>> {
    let frame = EthernetFrame::new_checked(bytes).ok()?;
    let from = Mac(frame.src_addr().0);
    if !from.is_unicast() {
        return None;
    }
    let carried = match frame.ethertype() {
        EthernetProtocol::Ipv4 => parse_udp(&bytes[HEADER..])?,
        EthernetProtocol::Arp => parse_arp(&bytes[HEADER..])?,
        _ => return None,
    };
    Some(Incoming { from, carried })
}

fn parse_udp(bytes: &[u8]) -> Option<Carried<'_>> {
    let ip = Ipv4Packet::new_checked(bytes).ok()?;
    if ip.version() != 4 || ip.next_header() != IpProtocol::Udp || ip.more_frags() || ip.frag_offset() != 0 {
        return None;
    }
    let start = usize::from(ip.header_len());
    let udp = UdpPacket::new_checked(bytes.get(start..usize::from(ip.total_len()))?).ok()?;
    let payload = bytes.get(start + 8..start + usize::from(udp.len()))?;
    let source = SocketAddrV4::new(ip.src_addr(), udp.src_port());
    Some(Carried::Udp { source, port: udp.dst_port(), payload })
}

fn parse_arp(bytes: &[u8]) -> Option<Carried<'_>> {
    let arp = ArpPacket::new_checked(bytes).ok()?;
    let ethernet = u16::from(arp.hardware_type()) == 1 && arp.protocol_type() == EthernetProtocol::Ipv4;
    if !ethernet || arp.hardware_len() != 6 || arp.protocol_len() != 4 {
        return None;
    }
    let address = Ipv4Addr::from(<[u8; 4]>::try_from(arp.source_protocol_addr()).ok()?);
    let mac = Mac(arp.source_hardware_addr().try_into().ok()?);
    (!address.is_unspecified() && mac.is_unicast()).then_some(Carried::Arp { address, mac })
}

/// Appends the frame that carries a message from `address`, whose station is `own`.
pub(super) fn write_datagram(out: &mut Vec<u8>, own: Mac, address: Ipv4Addr, datagram: &Datagram) {
    let destination = match datagram.link {
        Link::Everybody => EthernetAddress::BROADCAST,
        Link::Station(mac) => EthernetAddress(mac.0),
    };
    // Whoever has no lease yet, as our own search for other servers, has no address to send from.
    let from = if datagram.from_port == 68 { Ipv4Addr::UNSPECIFIED } else { address };
    let udp = UdpRepr { src_port: datagram.from_port, dst_port: datagram.to.port() };
    let ip = Ipv4Repr {
        src_addr: from,
        dst_addr: *datagram.to.ip(),
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + datagram.payload.len(),
        hop_limit: HOPS,
    };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(own.0),
        dst_addr: destination,
        ethertype: EthernetProtocol::Ipv4,
    };
    let checksums = ChecksumCapabilities::default();
    let start = out.len();
    out.resize(start + HEADER + ip.buffer_len() + ip.payload_len, 0);
    let bytes = &mut out[start..];
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut bytes[..]));
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[HEADER..]), &checksums);
    udp.emit(
        &mut UdpPacket::new_unchecked(&mut bytes[HEADER + ip.buffer_len()..]),
        &IpAddress::Ipv4(from),
        &IpAddress::Ipv4(*datagram.to.ip()),
        datagram.payload.len(),
        |payload| payload.copy_from_slice(&datagram.payload),
        &checksums,
    );
}

/// Appends the frame that asks who has an address, without claiming one (RFC 5227).
pub(super) fn write_arp_probe(out: &mut Vec<u8>, own: Mac, address: Ipv4Addr) {
    out.reserve(HEADER + ARP);
    out.extend([0xff; 6]);
    out.extend(own.0);
    out.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1]);
    out.extend(own.0);
    out.extend([0; 4]);
    out.extend([0; 6]);
    out.extend(address.octets());
}
