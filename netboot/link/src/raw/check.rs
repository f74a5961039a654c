//! Which frames pass from the wire to a network: a filter for the kernel, and what it cannot check.

use std::net::Ipv4Addr;

use netboot::Mac;
use nix::libc::{
    BPF_ABS, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JSET, BPF_K, BPF_LD, BPF_LDX, BPF_MSH, BPF_RET, BPF_W,
};
use smoltcp::wire::{
    ArpPacket, ArpRepr, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet, TcpPacket, UdpPacket,
};

use super::Network;
use crate::frames::filter::{IP, Instruction, jump, statement};
use crate::frames::{Frame, HEADER};

/// `virtio_net_hdr`: the checksum is left to whoever sends the frame on; the card has checked it.
const CHECKSUM_IS_GOOD: u8 = 0x01 | 0x02;

/// Frames to our MAC or to everybody with ARP in them or IPv4 that is no DHCP: that has a socket of its own, and
/// this one must not answer "port unreachable" beside it.
pub(super) fn filter(Mac([a, b, c, d, e, f]): Mac) -> [Instruction; 21] {
    let (high, low) = (u32::from(u16::from_be_bytes([a, b])), u32::from_be_bytes([c, d, e, f]));
    [
        statement(BPF_LD | BPF_H | BPF_ABS, 0),
        jump(BPF_JEQ, high, 0, 2),
        statement(BPF_LD | BPF_W | BPF_ABS, 2),
        jump(BPF_JEQ, low, 3, 16),
        jump(BPF_JEQ, 0xffff, 0, 15),
        statement(BPF_LD | BPF_W | BPF_ABS, 2),
        jump(BPF_JEQ, u32::MAX, 0, 13),
        // The EtherType.
        statement(BPF_LD | BPF_H | BPF_ABS, 12),
        jump(BPF_JEQ, 0x0806, 10, 0),
        jump(BPF_JEQ, 0x0800, 0, 10),
        // UDP that is no later fragment has a destination port.
        statement(BPF_LD | BPF_B | BPF_ABS, IP + 9),
        jump(BPF_JEQ, 17, 0, 7),
        statement(BPF_LD | BPF_H | BPF_ABS, IP + 6),
        jump(BPF_JSET, 0x1fff, 5, 0),
        statement(BPF_LDX | BPF_B | BPF_MSH, IP),
        statement(BPF_LD | BPF_H | BPF_IND, IP + 2),
        jump(BPF_JEQ, 67, 3, 0),
        jump(BPF_JEQ, 68, 2, 0),
        jump(BPF_JEQ, 4011, 1, 0),
        statement(BPF_RET | BPF_K, u32::MAX),
        statement(BPF_RET | BPF_K, 0),
    ]
}

/// Why a frame does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is shorter than it says, or of no protocol that is spoken.
    Malformed,
    /// It was damaged on the way.
    Checksum,
    /// It is from an address that is not of the network.
    Foreign,
    /// It is for another address.
    Elsewhere,
}

/// Whether a frame may pass to a network. Never panics.
pub(super) fn check(frame: &Frame<'_>, network: Network) -> Result<(), Refused> {
    let kind = frame.bytes.get(12..HEADER).and_then(|kind| kind.first_chunk()).ok_or(Refused::Malformed)?;
    let payload = &frame.bytes[HEADER..];
    match EthernetProtocol::from(u16::from_be_bytes(*kind)) {
        EthernetProtocol::Arp => check_arp(payload, network),
        EthernetProtocol::Ipv4 => {
            let good = frame.card.first().is_some_and(|flags| flags & CHECKSUM_IS_GOOD != 0);
            check_ip(payload, good, network)
        }
        _ => Err(Refused::Malformed),
    }
}

fn check_arp(bytes: &[u8], network: Network) -> Result<(), Refused> {
    let packet = ArpPacket::new_checked(bytes).map_err(|_| Refused::Malformed)?;
    let ArpRepr::EthernetIpv4 { source_protocol_addr, target_protocol_addr, .. } =
        ArpRepr::parse(&packet).map_err(|_| Refused::Malformed)?
    else {
        return Err(Refused::Malformed);
    };
    // A machine that asks whether an address is free has none itself.
    if !source_protocol_addr.is_unspecified() && !network.has_host(source_protocol_addr) {
        return Err(Refused::Foreign);
    }
    let ours = target_protocol_addr == network.address() || target_protocol_addr == source_protocol_addr;
    if ours { Ok(()) } else { Err(Refused::Elsewhere) }
}

fn check_ip(bytes: &[u8], checksum_is_good: bool, network: Network) -> Result<(), Refused> {
    let packet = Ipv4Packet::new_checked(bytes).map_err(|_| Refused::Malformed)?;
    if packet.version() != 4 || packet.header_len() < 20 {
        return Err(Refused::Malformed);
    }
    if !packet.verify_checksum() {
        return Err(Refused::Checksum);
    }
    let (source, destination) = (packet.src_addr(), packet.dst_addr());
    if !network.has_host(source) || source == network.address() {
        return Err(Refused::Foreign);
    }
    let everybody = destination == Ipv4Addr::BROADCAST || destination == network.broadcast();
    if destination != network.address() && !everybody {
        return Err(Refused::Elsewhere);
    }
    if packet.more_frags() || packet.frag_offset() != 0 {
        // Put together and checked by the kernel of the namespace.
        return Ok(());
    }
    let (from, to) = (IpAddress::Ipv4(source), IpAddress::Ipv4(destination));
    let good = match packet.next_header() {
        IpProtocol::Tcp => {
            let segment = TcpPacket::new_checked(packet.payload()).map_err(|_| Refused::Malformed)?;
            checksum_is_good || segment.verify_checksum(&from, &to)
        }
        IpProtocol::Udp => {
            let datagram = UdpPacket::new_checked(packet.payload()).map_err(|_| Refused::Malformed)?;
            checksum_is_good || datagram.verify_checksum(&from, &to)
        }
        // Checked by the kernel of the namespace, which answers echo.
        IpProtocol::Icmp => true,
        _ => return Err(Refused::Malformed),
    };
    if good { Ok(()) } else { Err(Refused::Checksum) }
}
