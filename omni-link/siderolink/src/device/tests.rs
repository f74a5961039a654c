use std::collections::VecDeque;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::limits::MAX_WAITING;

const HUB: Ipv6Addr = Ipv6Addr::new(0xfdae, 0, 0, 0, 0, 0, 0, 1);

fn machine(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfdae, 0, 0, 0, 0, 0, 1, number)
}

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_bytes([seed; 32])
}

fn at(port: u16) -> Endpoint {
    Endpoint::Udp((Ipv4Addr::LOCALHOST, port).into())
}

const HUB_AT: u16 = 1;
const MACHINE_AT: u16 = 2;

/// An IPv6 packet with `text` in it.
fn packet(from: Ipv6Addr, to: Ipv6Addr, text: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
    packet.extend([59, 64]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(text);
    packet
}

fn config(address: Ipv6Addr, endpoint: Option<Endpoint>) -> PeerConfig {
    PeerConfig { address, endpoint, keepalive: None }
}

/// A machine that knows where the hub is, and a hub that knows the machine's key.
fn pair() -> (Device, Device) {
    let now = Instant::now();
    let (mut device, mut hub) = (Device::new(key(1)), Device::new(key(2)));
    device.set_peer(now, hub.public_key(), config(HUB, Some(at(HUB_AT)))).unwrap();
    hub.set_peer(now, device.public_key(), config(machine(1), None)).unwrap();
    (device, hub)
}

/// Carries everything both ways until nothing moves.
fn settle(device: &mut Device, hub: &mut Device) {
    loop {
        let (to_hub, to_machine) = (device.poll_transmit(), hub.poll_transmit());
        if to_hub.is_none() && to_machine.is_none() {
            return;
        }
        if let Some((to, datagram)) = to_hub {
            assert_eq!(to, at(HUB_AT));
            hub.handle_datagram(Instant::now(), at(MACHINE_AT), &datagram);
        }
        if let Some((to, datagram)) = to_machine {
            assert_eq!(to, at(MACHINE_AT));
            device.handle_datagram(Instant::now(), at(HUB_AT), &datagram);
        }
    }
}

fn packets(device: &mut Device) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| device.poll_packet()).collect()
}

#[test]
fn packets_go_both_ways_and_the_first_ones_wait_for_the_handshake() {
    let (mut device, mut hub) = pair();
    let (hello, answer) = (packet(machine(1), HUB, b"hello"), packet(HUB, machine(1), b"answer"));
    device.send(Instant::now(), &hello);
    device.send(Instant::now(), &hello);
    settle(&mut device, &mut hub);
    assert_eq!(packets(&mut hub), [hello.clone(), hello]);
    hub.send(Instant::now(), &answer);
    settle(&mut device, &mut hub);
    assert_eq!(packets(&mut device), [answer]);
    let status = hub.status(&device.public_key()).unwrap();
    assert_eq!((status.endpoint, status.received), (Some(at(MACHINE_AT)), 90));
    assert!(
        status.last_handshake.is_some() && device.status(&hub.public_key()).unwrap().last_handshake.is_some()
    );
}

#[test]
fn a_machine_that_moves_is_followed() {
    let (mut device, mut hub) = pair();
    device.initiate(Instant::now(), &hub.public_key());
    settle(&mut device, &mut hub);
    device.send(Instant::now(), &packet(machine(1), HUB, b"elsewhere"));
    let (_, datagram) = device.poll_transmit().unwrap();
    hub.handle_datagram(Instant::now(), at(77), &datagram);
    hub.send(Instant::now(), &packet(HUB, machine(1), b"there"));
    assert_eq!(hub.poll_transmit().unwrap().0, at(77));
    // Who only repeats the datagram moves nothing.
    hub.handle_datagram(Instant::now(), at(78), &datagram);
    assert_eq!(hub.status(&device.public_key()).unwrap().endpoint, Some(at(77)));
}

#[test]
fn a_handshake_alone_moves_no_endpoint() {
    let (mut device, mut hub) = pair();
    device.initiate(Instant::now(), &hub.public_key());
    let (_, initiation) = device.poll_transmit().unwrap();
    hub.handle_datagram(Instant::now(), at(66), &initiation);
    assert_eq!(hub.poll_transmit().unwrap().0, at(66), "the answer goes to who asked");
    assert_eq!(hub.status(&device.public_key()).unwrap().endpoint, None);
}

#[test]
fn a_peer_cannot_use_anothers_address() {
    let (mut device, mut hub) = pair();
    device.send(Instant::now(), &packet(machine(2), HUB, b"I am another one"));
    settle(&mut device, &mut hub);
    assert!(packets(&mut hub).is_empty());
    assert_eq!(hub.counters().foreign_packets, 1);
    let other = key(3).public();
    let taken = hub.set_peer(Instant::now(), other, config(machine(1), None));
    assert_eq!(taken, Err(PeerError::AddressTaken));
}

#[test]
fn a_key_that_is_no_peers_gets_no_answer() {
    let (_, mut hub) = pair();
    let mut stranger = Device::new(key(9));
    stranger.set_peer(Instant::now(), hub.public_key(), config(HUB, Some(at(HUB_AT)))).unwrap();
    stranger.send(Instant::now(), &packet(machine(1), HUB, b"let me in"));
    let (_, datagram) = stranger.poll_transmit().unwrap();
    hub.handle_datagram(Instant::now(), at(9), &datagram);
    assert!(hub.poll_transmit().is_none() && packets(&mut hub).is_empty());
    assert_eq!(hub.counters().unknown_keys, 1);
}

#[test]
fn a_new_key_takes_the_address_of_the_old_one() {
    let (mut device, mut hub) = pair();
    device.initiate(Instant::now(), &hub.public_key());
    settle(&mut device, &mut hub);
    hub.remove_peer(&device.public_key());
    let mut rebooted = Device::new(key(5));
    rebooted.set_peer(Instant::now(), hub.public_key(), config(HUB, Some(at(HUB_AT)))).unwrap();
    hub.set_peer(Instant::now(), rebooted.public_key(), config(machine(1), None)).unwrap();
    let hello = packet(machine(1), HUB, b"again");
    rebooted.send(Instant::now(), &hello);
    settle(&mut rebooted, &mut hub);
    assert_eq!(packets(&mut hub), std::slice::from_ref(&hello));
    // The old key's session is nobody's.
    device.send(Instant::now(), &hello);
    settle(&mut device, &mut hub);
    assert!(packets(&mut hub).is_empty());
    assert_eq!(hub.peer_at(machine(1)), Some(rebooted.public_key()));
}

#[test]
fn a_flood_of_handshakes_is_asked_for_cookies() {
    let (mut device, mut hub) = pair();
    let now = Instant::now();
    for _ in 0..HANDSHAKES_PER_SECOND {
        device.resend(&hub.public_key());
        let (_, initiation) = device.poll_transmit().unwrap();
        hub.handle_datagram(now, at(MACHINE_AT), &initiation);
        while hub.poll_transmit().is_some() {}
        if hub.counters().cookies > 0 {
            break;
        }
    }
    assert!(hub.counters().cookies > 0, "{:?}", hub.counters());
    // With the cookie it is served, flood or not.
    device.resend(&hub.public_key());
    let (_, initiation) = device.poll_transmit().unwrap();
    hub.handle_datagram(now, at(MACHINE_AT), &initiation);
    let (_, cookie) = hub.poll_transmit().unwrap();
    device.handle_datagram(now, at(HUB_AT), &cookie);
    device.resend(&hub.public_key());
    settle(&mut device, &mut hub);
    assert!(hub.status(&device.public_key()).unwrap().last_handshake.is_some());
}

#[test]
fn what_cannot_go_anywhere_is_counted_and_bounded() {
    let (mut device, mut hub) = pair();
    let now = Instant::now();
    hub.send(now, &packet(HUB, machine(1), b"it was never seen"));
    hub.send(now, &packet(HUB, machine(7), b"nobody"));
    hub.send(now, &[0; MTU + 1]);
    hub.send(now, &[]);
    assert_eq!(hub.counters().no_route, 4);
    for _ in 0..100 {
        device.send(now, &packet(machine(1), HUB, b"waits"));
    }
    assert_eq!(device.counters().overflow, 100 - MAX_WAITING as u64);
    settle(&mut device, &mut hub);
    assert_eq!(packets(&mut hub).len(), MAX_WAITING);
}

#[test]
fn a_device_without_anything_to_do_wants_no_timer() {
    let (mut device, hub) = pair();
    assert_eq!(device.poll_timeout(), None);
    device.initiate(Instant::now(), &hub.public_key());
    assert!(device.poll_timeout().is_some());
}

/// A link that loses, repeats and reorders; each byte of `fate` decides about one datagram.
#[derive(Default)]
struct Link {
    under_way: VecDeque<Vec<u8>>,
}

impl Link {
    fn put(&mut self, fate: u8, datagram: Vec<u8>) {
        match fate % 4 {
            0 => {}
            1 => self.under_way.extend([datagram.clone(), datagram]),
            2 => self.under_way.push_front(datagram),
            _ => self.under_way.push_back(datagram),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn over_a_bad_link_packets_arrive_whole_once_or_not_at_all_and_a_good_one_mends_it(
        fates in proptest::collection::vec(any::<u8>(), 1..200),
        count in 1usize..20,
    ) {
        let (mut device, mut hub) = pair();
        let mut fates = fates.into_iter();
        let (mut to_hub, mut to_machine) = (Link::default(), Link::default());
        let sent: Vec<_> = (0..count).map(|number| packet(machine(1), HUB, &[number as u8; 40])).collect();
        let mut waiting = sent.iter();
        let mut seen: Vec<Vec<u8>> = Vec::new();
        while let Some(fate) = fates.next() {
            if fate & 0x10 != 0 {
                device.resend(&hub.public_key());
            }
            if let Some(packet) = waiting.next() {
                device.send(Instant::now(), packet);
            }
            while let Some((_, datagram)) = device.poll_transmit() {
                to_hub.put(fates.next().unwrap_or(3), datagram);
            }
            if let Some(datagram) = to_hub.under_way.pop_front() {
                hub.handle_datagram(Instant::now(), at(MACHINE_AT), &datagram);
            }
            while let Some((_, datagram)) = hub.poll_transmit() {
                to_machine.put(fates.next().unwrap_or(3), datagram);
            }
            if let Some(datagram) = to_machine.under_way.pop_front() {
                device.handle_datagram(Instant::now(), at(HUB_AT), &datagram);
            }
            seen.extend(packets(&mut hub));
        }
        let mut once = seen.clone();
        once.sort();
        once.dedup();
        prop_assert_eq!(once.len(), seen.len(), "a repeated datagram is no second packet");
        prop_assert!(seen.iter().all(|packet| sent.contains(packet)));
        // The link mends: what is sent now arrives.
        device.resend(&hub.public_key());
        settle(&mut device, &mut hub);
        packets(&mut hub);
        let last = packet(machine(1), HUB, b"at last");
        device.send(Instant::now(), &last);
        settle(&mut device, &mut hub);
        prop_assert!(packets(&mut hub).contains(&last));
    }

    #[test]
    fn garbage_never_panics_and_never_becomes_a_packet(
        noise in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..20),
        kind in 0u8..6,
    ) {
        let (mut device, mut hub) = pair();
        device.initiate(Instant::now(), &hub.public_key());
        settle(&mut device, &mut hub);
        for mut datagram in noise {
            hub.handle_datagram(Instant::now(), at(5), &datagram);
            // With a header that is believed at first, at the lengths of all messages.
            for length in [32, 64, 92, 148, 1536, 1537] {
                datagram.resize(length, 0);
                datagram[..8].copy_from_slice(&[kind, 0, 0, 0, 1, 1, 0, 0]);
                hub.handle_datagram(Instant::now(), at(5), &datagram);
            }
            let mut packet = datagram.clone();
            packet.truncate(64);
            hub.send(Instant::now(), &packet);
        }
        prop_assert!(packets(&mut hub).is_empty());
        let last = packet(machine(1), HUB, b"still there");
        device.send(Instant::now(), &last);
        settle_ignoring_strangers(&mut device, &mut hub);
        prop_assert!(packets(&mut hub).contains(&last));
    }

    #[test]
    fn a_datagram_with_any_bit_changed_is_dropped(at_byte in 0usize..112, bit in 0u8..8) {
        let (mut device, mut hub) = pair();
        device.initiate(Instant::now(), &hub.public_key());
        settle(&mut device, &mut hub);
        device.send(Instant::now(), &packet(machine(1), HUB, &[7; 40]));
        let (_, mut datagram) = device.poll_transmit().unwrap();
        prop_assert_eq!(datagram.len(), 112);
        datagram[at_byte] ^= 1 << bit;
        hub.handle_datagram(Instant::now(), at(MACHINE_AT), &datagram);
        prop_assert!(packets(&mut hub).is_empty());
    }
}

/// As [`settle`]; answers to strangers (cookies) go nowhere.
fn settle_ignoring_strangers(device: &mut Device, hub: &mut Device) {
    while let Some((_, datagram)) = device.poll_transmit() {
        hub.handle_datagram(Instant::now(), at(MACHINE_AT), &datagram);
        while let Some((to, datagram)) = hub.poll_transmit() {
            if to == at(MACHINE_AT) {
                device.handle_datagram(Instant::now(), at(HUB_AT), &datagram);
            }
        }
    }
}
