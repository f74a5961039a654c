use super::super::codec::Op;
use super::super::fixtures::*;
use super::super::responder::{Datagram, Mode, Packet, Responder, ResponderConfig, Transmit};
use super::*;

const OWN: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
const OWN_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const SITE: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 3);
const GIVEN: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 100);
const NOWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);

const fn at(millis: u64) -> Time {
    Time::from_millis(millis)
}

fn responder() -> Responder {
    let binaries = ["snp.efi", "undionly.kpxe", "amd64/snp.efi"].into_iter().collect();
    Responder::new(
        at(0),
        ResponderConfig {
            boot: ProxyConfig { server: OWN, http_port: 50042, binaries },
            mac: OWN_MAC,
            subnets: vec!["10.88.0.0/24".parse().unwrap()],
            mode: Mode::Merge,
            seed: 7,
        },
    )
}

fn sent(responder: &mut Responder) -> Vec<(Datagram, Message)> {
    let datagrams = std::iter::from_fn(|| responder.poll_transmit()).map(|transmit| match transmit {
        Transmit::Datagram(datagram) => datagram,
        Transmit::ArpProbe(address) => panic!("probes {address}"),
    });
    datagrams.map(|datagram| (datagram.clone(), Message::parse(&datagram.payload).unwrap())).collect()
}

fn events(responder: &mut Responder) -> Vec<Event> {
    std::iter::from_fn(|| responder.poll_event()).collect()
}

fn hear(responder: &mut Responder, millis: u64, message: &Message) -> Vec<(Datagram, Message)> {
    let (payload, from) = (message.emit(), Mac(MAC));
    let packet = Packet { port: Port::Server67, source: NOWHERE, from, payload: &payload };
    responder.handle_packet(at(millis), &packet);
    sent(responder)
}

/// What a server answers a relay's question.
fn answer_of(server: Ipv4Addr, question: &Message, kind: MessageType, address: Ipv4Addr) -> Message {
    let mut reply = question.reply();
    reply.yiaddr = address;
    reply.siaddr = server;
    reply.sname[..4].copy_from_slice(b"site");
    reply.file[..9].copy_from_slice(b"other.bin");
    reply.options.push(option::MESSAGE_TYPE, &[kind.number()]);
    reply.options.push(option::SERVER_ID, &server.octets());
    reply.options.push(option::LEASE_TIME, &3_600_u32.to_be_bytes());
    reply.options.push(option::SUBNET_MASK, &[255, 255, 255, 0]);
    reply.options.push(option::ROUTER, &SITE.octets());
    reply.options.push(option::BOOT_FILE, b"other.bin");
    reply.options.push(option::VENDOR_CLASS, b"PXEClient");
    reply.options.push(option::RELAY_AGENT, b"\x01\x01x");
    reply
}

fn replied(responder: &mut Responder, millis: u64, reply: &Message) -> Vec<(Datagram, Message)> {
    let payload = reply.emit();
    let server = request::address(reply, option::SERVER_ID).unwrap_or(SITE);
    let packet = Packet {
        port: Port::Server67,
        source: SocketAddrV4::new(server, 67),
        from: Mac([2, 0, 0, 0, 0, 2]),
        payload: &payload,
    };
    responder.handle_packet(at(millis), &packet);
    sent(responder)
}

fn overheard(responder: &mut Responder, reply: &Message) {
    let payload = reply.emit();
    let (source, from) = (SocketAddrV4::new(SITE, 67), Mac([2, 0, 0, 0, 0, 2]));
    responder.handle_answer(at(0), &Packet { port: Port::Server67, source, from, payload: &payload });
}

/// The REQUEST of the machine for what it was offered.
fn request_for(address: Ipv4Addr, server: Ipv4Addr) -> Message {
    let mut message = discover_from_ovmf();
    message.options.set(option::MESSAGE_TYPE, &[MessageType::Request.number()]);
    message.options.set(option::REQUESTED_IP, &address.octets());
    message.options.set(option::SERVER_ID, &server.octets());
    message
}

/// As far as our offer of [`GIVEN`].
fn offered() -> (Responder, Message) {
    let mut responder = responder();
    let asked = hear(&mut responder, 0, &discover_from_ovmf());
    let offer = answer_of(SITE, &asked[0].1, MessageType::Offer, GIVEN);
    let answered = replied(&mut responder, 1, &offer);
    assert_eq!(answered.len(), 1);
    events(&mut responder);
    (responder, answered[0].1.clone())
}

#[test]
fn the_site_server_is_asked_as_a_relay_asks() {
    let mut responder = responder();
    let asked = hear(&mut responder, 0, &discover_from_ovmf());
    let [(datagram, question)] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((datagram.from_port, datagram.to.to_string()), (67, "255.255.255.255:67".to_owned()));
    assert_eq!((question.giaddr, question.hops, question.op), (OWN, 1, Op::Request));
    assert_ne!(question.xid, discover_from_ovmf().xid, "a number of our own");
    let whole =
        Message { giaddr: Ipv4Addr::UNSPECIFIED, hops: 0, xid: discover_from_ovmf().xid, ..question.clone() };
    assert_eq!(whole, discover_from_ovmf(), "nothing else is changed");
}

#[test]
fn the_machine_gets_one_whole_offer_that_names_us() {
    let (_, offer) = offered();
    assert_eq!((offer.yiaddr, offer.siaddr), (GIVEN, OWN));
    assert_eq!((offer.xid, offer.giaddr), (discover_from_ovmf().xid, Ipv4Addr::UNSPECIFIED));
    assert_eq!(request::address(&offer, option::SERVER_ID), Some(OWN));
    assert_eq!(offer.options.value(option::LEASE_TIME), Some(&3_600_u32.to_be_bytes()[..]));
    assert_eq!(request::address(&offer, option::ROUTER), Some(SITE));
    assert_eq!(offer.options.value(option::BOOT_FILE), Some(&b"snp.efi"[..]), "ours, not the site's");
    assert_eq!(super::super::codec::text(&offer.file), "snp.efi");
    assert_eq!(offer.options.value(option::VENDOR_SPECIFIC), Some(&[6, 1, 8, 255][..]));
    assert_eq!(offer.options.value(option::RELAY_AGENT), None);
}

#[test]
fn the_request_for_us_becomes_one_for_the_site_server_and_the_ack_is_whole() {
    let (mut responder, _) = offered();
    let asked = hear(&mut responder, 10, &request_for(GIVEN, OWN));
    let [(_, question)] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(request::address(question, option::SERVER_ID), Some(SITE));
    assert_eq!(request::address(question, option::REQUESTED_IP), Some(GIVEN));
    assert_eq!(question.giaddr, OWN);
    let acked = replied(&mut responder, 11, &answer_of(SITE, question, MessageType::Ack, GIVEN));
    let [(datagram, ack)] = &acked[..] else { panic!("{acked:?}") };
    // OVMF asks for broadcasts.
    assert_eq!((datagram.to.to_string().as_str(), datagram.link), ("255.255.255.255:68", Link::Everybody));
    assert_eq!(request::message_type(ack), Some(MessageType::Ack));
    assert_eq!(request::address(ack, option::SERVER_ID), Some(OWN));
    assert_eq!((ack.yiaddr, ack.options.value(option::BOOT_FILE)), (GIVEN, Some(&b"snp.efi"[..])));
    let events = events(&mut responder);
    assert!(matches!(&events[..], [Event::Leased { address: GIVEN, .. }]), "{events:?}");
}

#[test]
fn a_machine_that_can_hear_unicast_gets_unicast() {
    let mut responder = responder();
    let mut discover = discover_from_ovmf();
    discover.flags = 0;
    let asked = hear(&mut responder, 0, &discover);
    let answered = replied(&mut responder, 1, &answer_of(SITE, &asked[0].1, MessageType::Offer, GIVEN));
    assert_eq!(answered[0].0.to, SocketAddrV4::new(GIVEN, 68));
    assert_eq!(answered[0].0.link, Link::Station(Mac(MAC)));
}

#[test]
fn two_servers_give_two_offers_and_the_chosen_one_is_asked() {
    let mut responder = responder();
    let asked = hear(&mut responder, 0, &discover_from_ovmf());
    let other = Ipv4Addr::new(10, 88, 0, 201);
    for (server, address) in [(SITE, GIVEN), (SECOND, other)] {
        let answered =
            replied(&mut responder, 1, &answer_of(server, &asked[0].1, MessageType::Offer, address));
        assert_eq!(answered[0].1.yiaddr, address);
    }
    for (address, server) in [(other, SECOND), (GIVEN, SITE)] {
        let asked = hear(&mut responder, 2, &request_for(address, OWN));
        assert_eq!(request::address(&asked[0].1, option::SERVER_ID), Some(server));
    }
}

#[test]
fn a_silent_server_means_no_answer_and_a_word_to_the_journal() {
    let mut responder = responder();
    hear(&mut responder, 0, &discover_from_ovmf());
    let due = responder.poll_timeout().unwrap();
    assert_eq!(due, at(0) + PENDING_FOR);
    responder.handle_timeout(due);
    assert!(sent(&mut responder).is_empty());
    assert_eq!(events(&mut responder), [Event::NoServer { mac: Mac(MAC) }]);
    assert_eq!(responder.poll_timeout(), None);
}

#[test]
fn whoever_does_not_boot_or_does_not_mean_us_is_left_alone() {
    let (mut responder, _) = offered();
    let mut renewal = address_request_from_ovmf();
    renewal.ciaddr = GIVEN;
    renewal.options.remove(option::SERVER_ID);
    for message in [
        discover_from_linux(),
        client(MessageType::Request),
        request_for(GIVEN, SITE),
        renewal,
        address_request_from_ovmf(),
        request_for(Ipv4Addr::new(10, 88, 0, 250), OWN),
    ] {
        assert!(hear(&mut responder, 5, &message).is_empty(), "{message:?}");
    }
}

#[test]
fn what_is_not_an_answer_to_us_is_not_passed_on() {
    let mut responder = responder();
    let asked = hear(&mut responder, 0, &discover_from_ovmf());
    let good = answer_of(SITE, &asked[0].1, MessageType::Offer, GIVEN);
    let mut other_mac = good.clone();
    other_mac.chaddr[5] ^= 1;
    let mut no_server = good.clone();
    no_server.options.remove(option::SERVER_ID);
    for bad in [
        Message { xid: good.xid ^ 1, ..good.clone() },
        Message { giaddr: SITE, ..good.clone() },
        Message { yiaddr: Ipv4Addr::UNSPECIFIED, ..good.clone() },
        Message { yiaddr: Ipv4Addr::BROADCAST, ..good.clone() },
        other_mac,
        no_server,
        answer_of(SITE, &asked[0].1, MessageType::Ack, GIVEN),
    ] {
        assert!(replied(&mut responder, 1, &bad).is_empty(), "{bad:?}");
    }
    assert_eq!(replied(&mut responder, 1, &good).len(), 1);
}

#[test]
fn one_question_gets_a_bounded_number_of_answers() {
    let mut responder = responder();
    let asked = hear(&mut responder, 0, &discover_from_ovmf());
    let answers: usize = (0..50)
        .map(|last| {
            let server = Ipv4Addr::new(10, 88, 0, 150 + last);
            replied(&mut responder, 1, &answer_of(server, &asked[0].1, MessageType::Offer, GIVEN)).len()
        })
        .sum();
    assert_eq!(answers, OFFERS_MAX);
}

#[test]
fn a_server_that_refuses_what_is_not_for_it_is_overtaken_from_the_second_time_on() {
    let (mut responder, _) = offered();
    let request = request_for(GIVEN, OWN);
    assert_eq!(hear(&mut responder, 10, &request).len(), 1, "only the server is asked");
    let mut refusal = request.reply();
    refusal.options.push(option::MESSAGE_TYPE, &[MessageType::Nak.number()]);
    refusal.options.push(option::SERVER_ID, &SITE.octets());
    overheard(&mut responder, &refusal);

    // The machine begins again.
    let mut discover = discover_from_ovmf();
    discover.xid = 99;
    let asked = hear(&mut responder, 20, &discover);
    replied(&mut responder, 21, &answer_of(SITE, &asked[0].1, MessageType::Offer, GIVEN));
    let mut request = request_for(GIVEN, OWN);
    request.xid = 99;
    let sent = hear(&mut responder, 30, &request);
    let [(_, ack), (_, question)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(request::message_type(ack), Some(MessageType::Ack));
    assert_eq!((ack.yiaddr, ack.xid), (GIVEN, 99));
    assert_eq!(ack.options.value(option::BOOT_FILE), Some(&b"snp.efi"[..]));
    assert_eq!(request::address(question, option::SERVER_ID), Some(SITE), "it is asked all the same");
    let late = replied(&mut responder, 31, &answer_of(SITE, question, MessageType::Ack, GIVEN));
    assert!(late.is_empty(), "one ACK");
}

#[test]
fn a_refusal_for_somebody_else_changes_nothing() {
    let (mut responder, _) = offered();
    hear(&mut responder, 10, &request_for(GIVEN, OWN));
    let mut refusal = request_for(GIVEN, OWN).reply();
    refusal.xid ^= 1;
    refusal.options.push(option::MESSAGE_TYPE, &[MessageType::Nak.number()]);
    refusal.options.push(option::SERVER_ID, &SITE.octets());
    overheard(&mut responder, &refusal);
    assert_eq!(hear(&mut responder, 11, &request_for(GIVEN, OWN)).len(), 1);
}

#[test]
fn a_refusal_is_passed_on() {
    let (mut responder, _) = offered();
    let asked = hear(&mut responder, 10, &request_for(GIVEN, OWN));
    let answered =
        replied(&mut responder, 11, &answer_of(SITE, &asked[0].1, MessageType::Nak, Ipv4Addr::UNSPECIFIED));
    assert_eq!(request::message_type(&answered[0].1), Some(MessageType::Nak));
    assert_eq!(request::address(&answered[0].1, option::SERVER_ID), Some(OWN));
    assert_eq!(answered[0].0.link, Link::Everybody);
}

#[test]
fn what_is_declined_or_released_is_told_to_the_site_server() {
    let (mut responder, _) = offered();
    let mut decline = request_for(GIVEN, OWN);
    decline.options.set(option::MESSAGE_TYPE, &[MessageType::Decline.number()]);
    let mut release = request_for(GIVEN, OWN);
    release.options.set(option::MESSAGE_TYPE, &[MessageType::Release.number()]);
    release.options.remove(option::REQUESTED_IP);
    release.ciaddr = GIVEN;
    for message in [decline, release] {
        let told = hear(&mut responder, 5, &message);
        assert_eq!(request::address(&told[0].1, option::SERVER_ID), Some(SITE));
        assert_eq!(request::message_type(&told[0].1), request::message_type(&message));
    }
}

#[test]
fn options_in_the_file_and_name_fields_are_read() {
    let mut responder = responder();
    let asked = hear(&mut responder, 0, &discover_from_ovmf());
    let mut offer = answer_of(SITE, &asked[0].1, MessageType::Offer, GIVEN);
    offer.options.push(option::OVERLOAD, &[3]);
    (offer.file, offer.sname) = ([0; 128], [0; 64]);
    offer.file[..8].copy_from_slice(&[42, 4, 10, 88, 0, 9, 255, 0]);
    offer.sname[..7].copy_from_slice(&[6, 4, 10, 88, 0, 8, 255]);
    let (_, merged) = &replied(&mut responder, 1, &offer)[0];
    assert_eq!(request::address(merged, option::NTP), Some(Ipv4Addr::new(10, 88, 0, 9)));
    assert_eq!(request::address(merged, option::DNS), Some(Ipv4Addr::new(10, 88, 0, 8)));
    assert_eq!(merged.options.value(option::OVERLOAD), None);
    assert_eq!(super::super::codec::text(&merged.sname), "");
}

#[test]
fn an_answer_that_would_be_too_long_keeps_what_is_needed() {
    let mut responder = responder();
    let mut discover = discover_from_ovmf();
    discover.options.set(option::MAX_MESSAGE_SIZE, &576_u16.to_be_bytes());
    let asked = hear(&mut responder, 0, &discover);
    let mut offer = answer_of(SITE, &asked[0].1, MessageType::Offer, GIVEN);
    offer.options.push(200, &[7; 250]);
    let (datagram, merged) = &replied(&mut responder, 1, &offer)[0];
    assert!(datagram.payload.len() <= 576 - 28, "{}", datagram.payload.len());
    assert_eq!(merged.options.value(200), None);
    assert_eq!(request::address(merged, option::ROUTER), Some(SITE));
    assert!(merged.options.value(option::BOOT_FILE).is_some());
}

#[test]
fn a_machine_that_asks_again_asks_the_server_by_the_same_number() {
    let mut responder = responder();
    let first = hear(&mut responder, 0, &discover_from_ovmf());
    let second = hear(&mut responder, 1_000, &discover_from_ovmf());
    assert_eq!(first[0].1.xid, second[0].1.xid);
}

#[test]
fn a_flood_fills_no_table_and_is_passed_on_in_bounds() {
    let mut responder = responder();
    let mut asked = 0;
    for number in 0..20_000_u32 {
        let mut discover = discover_from_ovmf();
        discover.xid = number;
        discover.chaddr[2..6].copy_from_slice(&number.to_be_bytes());
        // 100,000 a second.
        asked += hear(&mut responder, u64::from(number) / 100, &discover).len();
    }
    assert!(asked <= PENDING_MAX, "{asked}");
    // What is kept is given up in time.
    responder.handle_timeout(at(20_000));
    let silent = events(&mut responder);
    assert!(silent.iter().any(|event| matches!(event, Event::NoServer { .. })));
    assert_eq!(responder.poll_timeout(), None);
}

#[test]
fn a_relayed_machine_is_answered_as_by_the_proxy() {
    let mut responder = responder();
    let relayed = relayed(discover_from_ovmf(), Ipv4Addr::new(10, 99, 0, 1), &[1, 4, 0, 0, 0, 7]);
    let payload = relayed.emit();
    let source = SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 1), 67);
    let from = Mac([2, 0, 0, 0, 0, 9]);
    responder.handle_packet(at(0), &Packet { port: Port::Server67, source, from, payload: &payload });
    let sent = sent(&mut responder);
    assert_eq!(sent[0].0.to.to_string(), "10.99.0.1:67");
    assert!(sent[0].1.yiaddr.is_unspecified());
}
