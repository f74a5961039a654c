use super::*;
use proptest::prelude::*;

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const SERVER: [u8; 4] = [10, 0, 0, 1];

fn at(seconds: u64) -> Time {
    Duration::from_secs(seconds)
}

fn client() -> Client {
    Client::new(MAC, 41, at(0))
}

/// A server's answer to what the client sent last.
fn answer(kind: u8, xid: u32, address: [u8; 4], lease: u32) -> Vec<u8> {
    let mut reply = vec![0; FIXED];
    reply[0] = 2;
    reply[4..8].copy_from_slice(&xid.to_be_bytes());
    reply[16..20].copy_from_slice(&address);
    reply[28..34].copy_from_slice(&MAC);
    reply.extend_from_slice(&MAGIC);
    reply.extend_from_slice(&[OPTION_TYPE, 1, kind, 0, OPTION_NETMASK, 4, 255, 255, 0, 0]);
    reply.extend_from_slice(&[OPTION_DNS, 4, 10, 0, 0, 253]);
    reply.extend_from_slice(&[OPTION_ROUTER, 8, 10, 0, 0, 254, 10, 0, 0, 253, OPTION_SERVER, 4]);
    reply.extend_from_slice(&SERVER);
    reply.extend_from_slice(&[OPTION_LEASE, 4]);
    reply.extend_from_slice(&lease.to_be_bytes());
    reply.push(OPTION_END);
    reply
}

fn sent(client: &mut Client) -> (u8, Vec<u8>) {
    let (_, message) = client.poll_transmit().expect("a message");
    let options = &message[FIXED + 4..];
    assert_eq!(&options[..2], [OPTION_TYPE, 1]);
    (options[2], message)
}

fn bound(lease: u32) -> Client {
    let mut client = client();
    client.poll_transmit();
    client.handle_packet(at(1), &answer(OFFER, client.xid, [10, 0, 1, 5], lease));
    client.poll_transmit();
    client.handle_packet(at(2), &answer(ACK, client.xid, [10, 0, 1, 5], lease));
    client
}

#[test]
fn a_discover_an_offer_a_request_and_an_ack_give_a_lease() {
    let mut client = client();
    assert_eq!(sent(&mut client).0, DISCOVER);
    client.handle_packet(at(1), &answer(OFFER, client.xid, [10, 0, 1, 5], 3600));
    let (kind, request) = sent(&mut client);
    assert_eq!(kind, REQUEST);
    assert!(request.windows(6).any(|window| window == [OPTION_REQUESTED, 4, 10, 0, 1, 5]));
    assert!(request.windows(6).any(|window| window == [OPTION_SERVER, 4, 10, 0, 0, 1]));
    client.handle_packet(at(2), &answer(ACK, client.xid, [10, 0, 1, 5], 3600));
    assert_eq!(
        client.poll_event(),
        Some(Event::Bound(Lease {
            address: [10, 0, 1, 5].into(),
            netmask: [255, 255, 0, 0].into(),
            router: Some([10, 0, 0, 254].into()),
            dns: vec![[10, 0, 0, 253].into()],
            server: SERVER.into(),
            duration: at(3600),
        }))
    );
    assert_eq!(client.poll_timeout(), at(2 + 1800));
    assert_eq!(client.poll_transmit(), None);
}

#[test]
fn an_offer_without_an_address_is_one_of_a_proxy_and_ignored() {
    let mut client = client();
    client.poll_transmit();
    client.handle_packet(at(1), &answer(OFFER, client.xid, [0; 4], 3600));
    assert_eq!(client.poll_transmit(), None);
}

#[test]
fn answers_to_others_are_ignored() {
    let mut client = client();
    client.poll_transmit();
    let mut other_mac = answer(OFFER, client.xid, [10, 0, 1, 5], 1);
    other_mac[30] = 9;
    for reply in [answer(OFFER, client.xid + 1, [10, 0, 1, 5], 1), other_mac, vec![], vec![2; 300]] {
        client.handle_packet(at(1), &reply);
    }
    assert_eq!(client.state, State::Selecting);
}

#[test]
fn an_ack_that_nobody_asked_for_is_ignored() {
    let mut client = client();
    client.handle_packet(at(1), &answer(ACK, client.xid, [10, 0, 1, 5], 1));
    assert_eq!(client.state, State::Selecting);
    assert_eq!(client.poll_event(), None);
}

#[test]
fn discovers_repeat_with_longer_waits() {
    let mut client = client();
    let mut waits = vec![];
    let mut now = at(0);
    for _ in 0..6 {
        assert_eq!(sent(&mut client).0, DISCOVER);
        waits.push((client.poll_timeout() - now).as_secs());
        now = client.poll_timeout();
        client.handle_timeout(now);
    }
    assert_eq!(waits, [2, 4, 8, 16, 16, 16]);
}

#[test]
fn a_server_that_forgets_its_offer_is_left_after_four_requests() {
    let mut client = client();
    client.poll_transmit();
    client.handle_packet(at(1), &answer(OFFER, client.xid, [10, 0, 1, 5], 1));
    for _ in 0..4 {
        assert_eq!(sent(&mut client).0, REQUEST);
        client.handle_timeout(client.poll_timeout());
    }
    assert_eq!(sent(&mut client).0, DISCOVER);
}

#[test]
fn a_nak_begins_again() {
    let mut client = client();
    client.poll_transmit();
    client.handle_packet(at(1), &answer(OFFER, client.xid, [10, 0, 1, 5], 1));
    client.poll_transmit();
    client.handle_packet(at(2), &answer(NAK, client.xid, [0; 4], 0));
    assert_eq!(sent(&mut client).0, DISCOVER);
}

#[test]
fn a_renewal_keeps_the_address_without_a_word() {
    let mut client = bound(3600);
    client.poll_event();
    client.handle_timeout(at(1802));
    let (source, message) = client.poll_transmit().unwrap();
    assert_eq!(source, Ipv4Addr::new(10, 0, 1, 5));
    assert_eq!(message[12..16], [10, 0, 1, 5]);
    client.handle_packet(at(1803), &answer(ACK, client.xid, [10, 0, 1, 5], 3600));
    assert_eq!(client.poll_event(), None);
    assert_eq!(client.poll_timeout(), at(1803 + 1800));
}

#[test]
fn a_lease_that_nobody_renews_is_lost() {
    let mut client = bound(120);
    client.poll_event();
    let mut renewals = 0;
    while client.poll_event() != Some(Event::Lost) {
        client.handle_timeout(client.poll_timeout());
        renewals += 1;
        assert!(renewals < 20);
    }
    assert_eq!(client.poll_timeout().as_secs(), 2 + 120 + 2);
    assert_eq!(sent(&mut client).0, DISCOVER);
}

#[test]
fn a_nak_to_a_renewal_loses_the_address() {
    let mut client = bound(120);
    client.poll_event();
    client.handle_timeout(client.poll_timeout());
    client.handle_packet(at(70), &answer(NAK, client.xid, [0; 4], 0));
    assert_eq!(client.poll_event(), Some(Event::Lost));
}

#[test]
fn a_message_survives_the_way_through_a_packet() {
    let (source, message) = client().poll_transmit().unwrap();
    let mut packet = to_packet(source, &message);
    assert_eq!(checksum(&[&packet[..20]]), 0);
    let pseudo = [0, 17, packet[24], packet[25]];
    assert_eq!(checksum(&[&packet[12..20], &pseudo, &packet[20..]]), 0);
    assert_eq!(from_packet(&packet), None, "it goes to the server's port");
    packet[23] = 68;
    assert_eq!(from_packet(&packet), Some(&message[..]));
}

proptest! {
    #[test]
    fn no_packet_panics_the_client(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..8),
        options in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut client = client();
        for packet in &packets {
            let _ = from_packet(packet);
            client.handle_packet(at(1), packet);
            let mut reply = answer(OFFER, client.xid, [10, 0, 1, 5], 1);
            reply.truncate(FIXED + 4);
            reply.extend_from_slice(&options);
            client.handle_packet(at(1), &reply);
            client.handle_timeout(client.poll_timeout());
        }
        prop_assert!(client.poll_timeout() > at(0));
    }
}
