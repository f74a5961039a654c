use smoltcp::wire::{Ipv4Packet, UdpPacket};

use super::*;
use crate::dhcp::frame::{Carried, parse};

const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
const STATION: Mac = Mac([2, 0, 0, 0, 0, 9]);

/// The frames as the card sends them, cut and with the checksums that it was asked for (as the kernel's
/// `__udp_gso_segment` has it).
fn sent(from: SocketAddrV4, burst: &Burst, payload: &[u8]) -> Vec<Vec<u8>> {
    let header = headers_of(OWN, STATION, from, burst, payload.len());
    let (card, header) = header.split_at(CARD_HEADER);
    let number = |at: usize| usize::from(u16::from_ne_bytes([card[at], card[at + 1]]));
    let (begin, place) = (number(6), number(6) + number(8));
    let size = match card[..2] {
        [NEEDS_CHECKSUM, 0] => {
            assert_eq!((number(2), number(4)), (0, 0));
            payload.len()
        }
        [NEEDS_CHECKSUM, CUT] => {
            assert_eq!(number(2), header.len());
            number(4)
        }
        ref other => panic!("{other:?}"),
    };
    let whole = u16::try_from(UDP + payload.len()).unwrap();
    let cut = |part: &[u8]| {
        let mut frame = [header, part].concat();
        let (ip, udp) =
            (u16::try_from(IP + UDP + part.len()).unwrap(), u16::try_from(UDP + part.len()).unwrap());
        let begun = u32::from(u16::from_be_bytes([frame[place], frame[place + 1]]));
        frame[HEADER + 2..][..2].copy_from_slice(&ip.to_be_bytes());
        frame[HEADER + 10..][..2].fill(0);
        let checksum = !folded(sum(&frame[HEADER..][..IP]));
        frame[HEADER + 10..][..2].copy_from_slice(&checksum.to_be_bytes());
        frame[begin + 4..][..2].copy_from_slice(&udp.to_be_bytes());
        // What was begun with the length of all goes on with its own.
        let begun = folded(begun + u32::from(!whole) + u32::from(udp));
        frame[place..][..2].copy_from_slice(&begun.to_be_bytes());
        let checksum = !folded(sum(&frame[begin..]));
        frame[place..][..2].copy_from_slice(&checksum.to_be_bytes());
        frame
    };
    payload.chunks(size).map(cut).collect()
}

#[test]
fn a_frame_is_whole_and_its_checksums_are_right() {
    let from = SocketAddrV4::new(Ipv4Addr::new(192, 168, 255, 254), 69);
    let blocks = [(1472, 1, 1472), (4, 1, 4), (517, 1, 517), (4 * 1472, 4, 1472), (3 * 516 + 9, 4, 516)];
    for (to, (length, datagrams, segment)) in
        [[192, 168, 255, 9], [10, 0, 0, 1], [192, 0, 2, 255], [192, 0, 2, 7], [172, 16, 0, 1]]
            .into_iter()
            .zip(blocks)
    {
        let to = SocketAddrV4::new(to.into(), 2070);
        let burst = Burst { peer: to, segment, datagrams, part: Part::Next };
        let payload: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        let frames = sent(from, &burst, &payload);
        assert_eq!(frames.len(), datagrams);
        for (frame, payload) in frames.iter().zip(payload.chunks(segment)) {
            assert_eq!((&frame[..6], &frame[6..12]), (&STATION.0[..], &OWN.0[..]));
            let read = parse(frame).unwrap();
            assert_eq!(read.carried, Carried::Udp { source: from, port: 2070, payload });
            let ip = Ipv4Packet::new_checked(&frame[HEADER..]).unwrap();
            assert!(ip.verify_checksum() && ip.dont_frag() && !ip.more_frags());
            assert_eq!((ip.dst_addr(), usize::from(ip.total_len())), (*to.ip(), frame.len() - HEADER));
            let udp = UdpPacket::new_checked(ip.payload()).unwrap();
            assert!(udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()), "{length} bytes");
        }
    }
}

#[test]
fn without_an_address_or_an_interface_the_kernel_sends_all() {
    assert!(Direct::open("lo", SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 69)).is_err());
    assert!(Direct::open("no such interface", SocketAddrV4::new(Ipv4Addr::LOCALHOST, 69)).is_err());
}

fn burst(port: u16, part: Part) -> Burst {
    Burst { peer: SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 9), port), segment: 4, datagrams: 1, part }
}

#[test]
fn a_station_is_asked_for_once_and_again_when_that_is_old() {
    let (mut stations, mut asked) = (Stations::default(), 0);
    let mut way = |millis: u64, part, knows: bool| {
        let ask = |_| {
            asked += 1;
            knows.then_some(STATION)
        };
        (stations.way(Time::from_millis(millis), &burst(1, part), ask), asked)
    };
    assert_eq!(way(0, Part::Other, true), (None, 0));
    assert_eq!(way(0, Part::Next, false), (None, 1));
    assert_eq!(way(0, Part::Next, true), (None, 1), "the kernel does not know it yet");
    assert_eq!(way(1, Part::Next, true), (Some(STATION), 2));
    assert_eq!(way(2_000, Part::Next, true), (Some(STATION), 2));
    assert_eq!(way(2_001, Part::Next, false), (None, 3), "it went away");
}

#[test]
fn who_lost_the_first_frame_is_left_to_the_kernel_and_who_lost_a_later_one_is_not() {
    let mut stations = Stations::default();
    let mut way = |millis: u64, port, part| {
        stations.way(Time::from_millis(millis), &burst(port, part), |_| Some(STATION))
    };
    for port in [1, 2] {
        assert_eq!(way(0, port, Part::Next), Some(STATION));
    }
    assert_eq!(way(1, 2, Part::Next), Some(STATION));
    for port in [1, 2] {
        assert_eq!(way(100, port, Part::Again), None, "what was lost is sent by the kernel");
    }
    assert_eq!(way(101, 1, Part::Next), None);
    assert_eq!(way(10_099, 1, Part::Next), None);
    assert_eq!(way(101, 2, Part::Next), Some(STATION));
    assert_eq!(way(10_101, 1, Part::Next), Some(STATION), "once more after a while");
}

#[test]
fn no_more_clients_are_remembered_than_there_can_be() {
    let mut stations = Stations::default();
    for port in 0..=u16::MAX {
        stations.way(Time::ZERO, &burst(port, Part::Next), |_| None);
        assert!(stations.0.len() <= STATIONS);
    }
}
