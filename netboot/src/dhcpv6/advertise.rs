//! Router advertisements (RFC 4861) for networks that have no router which sends any: a host on such a network waits
//! for one, iPXE for 15 seconds. Ours says that we are no router (lifetime 0), and, when there is a prefix, that hosts
//! make their addresses of it.

use std::net::Ipv6Addr;
use std::time::Duration;

use crate::checksum::{folded, sum};
use crate::{Mac, Time};

/// The pause between advertisements that nobody asked for.
const PAUSE: Duration = Duration::from_secs(60);
/// The least pause between any two (RFC 4861, 6.2.6): whoever asks within it has heard, or hears, the last one.
const LEAST_PAUSE: Duration = Duration::from_millis(500);
/// How long the prefix holds without another advertisement: a day.
const PREFIX_SECONDS: u32 = 86_400;
const ICMPV6: u8 = 58;
const IPV6: usize = 40;
const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// "There is more to ask by DHCPv6" (O).
const OTHER_CONFIGURATION: u8 = 0x40;
/// Prefix: on this link (L), and good for addresses (A).
const ON_LINK_AUTONOMOUS: u8 = 0xc0;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// What is advertised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertising {
    /// This host's interface.
    pub mac: Mac,
    /// The /64 of which hosts make their addresses.
    pub prefix: Option<Ipv6Addr>,
    /// Whether DHCPv6 is answered.
    pub dhcpv6: bool,
}

/// When to advertise.
#[derive(Clone, Debug)]
pub struct Advertiser {
    packet: Vec<u8>,
    last: Option<Time>,
    due: Time,
}

impl Advertiser {
    /// The first one is due at once.
    #[must_use]
    pub fn new(now: Time, what: &Advertising) -> Self {
        Self { packet: packet(what), last: None, due: now }
    }

    /// Somebody asks.
    pub fn handle_solicitation(&mut self, now: Time) {
        let soonest = self.last.map_or(now, |last| last + LEAST_PAUSE);
        self.due = self.due.min(soonest.max(now));
    }

    /// When the next one is due.
    #[must_use]
    pub const fn poll_timeout(&self) -> Time {
        self.due
    }

    /// The IPv6 packet to send to all nodes, when it is time.
    pub fn poll_transmit(&mut self, now: Time) -> Option<&[u8]> {
        if now < self.due {
            return None;
        }
        self.last = Some(now);
        self.due = now + PAUSE;
        Some(&self.packet)
    }
}

/// Whether an IPv6 packet is a router solicitation from this link.
#[must_use]
pub fn is_solicitation(packet: &[u8]) -> bool {
    matches!(packet, [0x60..=0x6f, _, _, _, _, _, ICMPV6, 255, ..])
        && packet.get(IPV6) == Some(&SOLICITATION)
        && packet.get(IPV6 + 1) == Some(&0)
}

fn packet(what: &Advertising) -> Vec<u8> {
    let [a, b, c, d, e, f] = what.mac.0;
    let source = Ipv6Addr::from_bits(
        0xfe80 << 112 | u128::from(u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f])),
    );
    let flags = if what.dhcpv6 { OTHER_CONFIGURATION } else { 0 };
    // Hop limit unsaid, router lifetime 0, no times.
    let mut icmp = vec![ADVERTISEMENT, 0, 0, 0, 0, flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend([1, 1, a, b, c, d, e, f]);
    if let Some(prefix) = what.prefix {
        icmp.extend([3, 4, 64, ON_LINK_AUTONOMOUS]);
        icmp.extend(PREFIX_SECONDS.to_be_bytes());
        icmp.extend((PREFIX_SECONDS / 2).to_be_bytes());
        icmp.extend([0; 4]);
        icmp.extend(prefix.octets());
    }
    let sum = checksum(source, ALL_NODES, &icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((icmp.len() as u16).to_be_bytes());
    // Hop limit 255: from this link (RFC 4861).
    packet.extend([ICMPV6, 255]);
    packet.extend(source.octets());
    packet.extend(ALL_NODES.octets());
    packet.extend(icmp);
    packet
}

/// RFC 8200, 8.1.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) -> u16 {
    let length = (payload.len() as u32).to_be_bytes();
    let pseudo = [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, ICMPV6]].concat();
    !folded(sum(&pseudo) + sum(payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHAT: Advertising = Advertising {
        mac: Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]),
        prefix: Some(Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 0)),
        dhcpv6: true,
    };

    const fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    #[test]
    fn an_advertisement_says_no_router_and_the_prefix() {
        let packet = packet(&WHAT);
        assert_eq!(packet[8..24], "fe80::5054:ff:fe12:3456".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!((packet[7], packet[40], packet[45]), (255, 134, 0x40));
        assert_eq!(packet[46..48], [0, 0], "lifetime 0");
        assert_eq!(packet[56..58], [1, 1], "its own station");
        assert_eq!((packet[64..68].to_vec(), packet.len()), (vec![3, 4, 64, 0xc0], 96));
        // The sum over everything, checksum included, is all ones: what a receiver checks.
        let (source, icmp) = ("fe80::5054:ff:fe12:3456".parse().unwrap(), &packet[40..]);
        assert_eq!(checksum(source, ALL_NODES, icmp), 0);
        assert_eq!(super::packet(&Advertising { prefix: None, dhcpv6: false, ..WHAT }).len(), 64);
    }

    #[test]
    fn who_asks_is_answered_soon_but_not_more_often_than_allowed() {
        let mut advertiser = Advertiser::new(at(0), &WHAT);
        assert!(advertiser.poll_transmit(at(0)).is_some(), "at once");
        assert_eq!(advertiser.poll_timeout(), at(60_000));
        advertiser.handle_solicitation(at(100));
        advertiser.handle_solicitation(at(200));
        assert!(advertiser.poll_transmit(at(200)).is_none());
        assert_eq!(advertiser.poll_timeout(), at(500));
        assert!(advertiser.poll_transmit(at(500)).is_some());
        advertiser.handle_solicitation(at(9_000));
        assert!(advertiser.poll_transmit(at(9_000)).is_some());
        assert_eq!(advertiser.poll_timeout(), at(69_000));
    }

    #[test]
    fn a_solicitation_is_known() {
        let mut packet = vec![0; 48];
        (packet[0], packet[6], packet[7], packet[40]) = (0x60, 58, 255, 133);
        assert!(is_solicitation(&packet));
        for (at, value) in [(0, 0x45), (6, 17), (7, 254), (40, 134), (41, 1)] {
            let mut other = packet.clone();
            other[at] = value;
            assert!(!is_solicitation(&other), "byte {at}");
        }
        assert!(!is_solicitation(&packet[..40]) && !is_solicitation(&[]));
    }
}
