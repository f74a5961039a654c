use super::super::codec::option;
use super::super::fixtures::*;
use super::super::limiter::COMMON_RATE;
use super::*;

const OWN: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
const OWN_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const NOWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);

fn responder(mode: Mode) -> Responder {
    let binaries = ["snp.efi", "undionly.kpxe"].into_iter().collect();
    let boot = ProxyConfig { server: OWN, http_port: 50042, binaries };
    let subnets = vec!["10.88.0.0/24".parse().unwrap()];
    Responder::new(Time::ZERO, ResponderConfig { boot, mac: OWN_MAC, subnets, mode, seed: 3 })
}

fn hear(responder: &mut Responder, now: Time, source: SocketAddrV4, port: Port, message: &Message) -> usize {
    let payload = message.emit();
    responder.handle_packet(now, &Packet { port, source, from: Mac(MAC), payload: &payload });
    std::iter::from_fn(|| responder.poll_transmit()).count()
}

#[test]
fn mode_off_says_nothing() {
    let mut responder = responder(Mode::Off);
    assert_eq!(hear(&mut responder, Time::ZERO, NOWHERE, Port::Server67, &discover_from_ovmf()), 0);
    assert_eq!(responder.poll_event(), None);
}

#[test]
fn mode_proxy_answers_as_the_proxy_does() {
    let mut responder = responder(Mode::Proxy);
    let payload = discover_from_ovmf().emit();
    let packet = Packet { port: Port::Server67, source: NOWHERE, from: Mac(MAC), payload: &payload };
    responder.handle_packet(Time::ZERO, &packet);
    let Some(Transmit::Datagram(datagram)) = responder.poll_transmit() else { panic!("no answer") };
    let binaries = ["snp.efi", "undionly.kpxe"].into_iter().collect();
    let mut proxy = Proxy::new(ProxyConfig { server: OWN, http_port: 50042, binaries });
    let Outcome::Reply(reply) = proxy.handle_packet(Port::Server67, NOWHERE, &payload) else { panic!() };
    assert_eq!(datagram.payload, reply.payload);
    assert_eq!((datagram.to, datagram.from_port, datagram.link), (reply.to.socket(), 67, Link::Everybody));
    assert_eq!(responder.poll_event(), Some(Event::Offered { seen: reply.seen, offered: reply.offered }));
    assert_eq!(responder.counters().offers, 1);
}

#[test]
fn whoever_claims_an_address_from_elsewhere_gets_nothing() {
    let from = |last: [u8; 4], port| SocketAddrV4::new(last.into(), port);
    let relay = |address: [u8; 4]| relayed(discover_from_ovmf(), address.into(), &[1, 1, 7]);
    let mut with_address = proxy_request_from_ovmf();
    with_address.ciaddr = [8, 8, 8, 8].into();
    for (what, source, port, message, answers) in [
        ("no address", NOWHERE, Port::Server67, discover_from_ovmf(), 1),
        ("one of ours", from([10, 88, 0, 50], 68), Port::Server67, discover_from_ovmf(), 1),
        ("elsewhere", from([10, 89, 0, 50], 68), Port::Server67, discover_from_ovmf(), 0),
        ("our own", from([10, 88, 0, 1], 68), Port::Server67, discover_from_ovmf(), 0),
        ("4011", from([10, 88, 0, 50], 4011), Port::Proxy4011, proxy_request_from_ovmf(), 1),
        ("4011 elsewhere", from([192, 0, 2, 50], 4011), Port::Proxy4011, proxy_request_from_ovmf(), 0),
        ("ciaddr elsewhere", from([10, 88, 0, 50], 4011), Port::Proxy4011, with_address, 0),
        ("relay", from([10, 99, 0, 1], 67), Port::Server67, relay([10, 99, 0, 1]), 1),
        ("relay abroad", from([10, 99, 0, 1], 67), Port::Server67, relay([198, 51, 100, 1]), 0),
        ("source abroad", from([198, 51, 100, 1], 67), Port::Server67, relay([10, 99, 0, 1]), 0),
    ] {
        let mut responder = responder(Mode::Proxy);
        assert_eq!(hear(&mut responder, Time::ZERO, source, port, &message), answers, "{what}");
        assert_eq!(responder.counters().spoofed, u64::from(answers == 0), "{what}");
    }
}

#[test]
fn our_own_frames_are_not_answered() {
    let mut responder = responder(Mode::Proxy);
    let payload = discover_from_ovmf().emit();
    let packet = Packet { port: Port::Server67, source: NOWHERE, from: OWN_MAC, payload: &payload };
    responder.handle_packet(Time::ZERO, &packet);
    assert_eq!(responder.poll_transmit(), None);
}

fn stranger(number: u32) -> Message {
    let mut message = discover_from_ovmf();
    message.xid = number;
    message.chaddr[2..6].copy_from_slice(&number.to_be_bytes());
    message.chaddr[0] = 0x06;
    message
}

/// Well above the common rate; a real machine comes late and asks each second, as firmware does.
#[test]
fn a_flood_from_random_addresses_keeps_tables_and_queues_and_a_machine_is_answered() {
    let mut responder = responder(Mode::Proxy);
    let rate = COMMON_RATE + COMMON_RATE / 2;
    let (mut told, mut answered) = (0, None);
    // The burst of the common part is used up by then.
    let begin = u64::from(rate) * 2;
    let mut sent = 0;
    for number in 0..rate * 4 {
        let now = Time::from_micros(u64::from(number) * 1_000_000 / u64::from(rate));
        // Every tenth packet is enough of a flood for a test: the bucket is asked for the other nine.
        if number % 10 == 0 {
            sent += hear(&mut responder, now, NOWHERE, Port::Server67, &stranger(number));
        } else {
            responder.limiter.admits(now, random_mac(number));
        }
        let since = u64::from(number).checked_sub(begin);
        if since.is_some_and(|since| since % u64::from(rate) == 0) && answered.is_none() {
            let got = hear(&mut responder, now, NOWHERE, Port::Server67, &discover_from_ovmf());
            answered = (got == 1).then_some(since.unwrap_or_default());
        }
        told += std::iter::from_fn(|| responder.poll_event()).count();
    }
    assert!(answered.is_some_and(|after| after <= u64::from(rate) * 2), "within two seconds: {answered:?}");
    assert!(sent > 0 && told <= (EVENT_BURST + 5 * EVENT_RATE) as usize, "{told} events");
    assert!(responder.untold() > 0);
}

fn random_mac(number: u32) -> Mac {
    let [a, b, c, d] = number.to_be_bytes();
    Mac([6, 0x54, a, b, c, d])
}

#[test]
fn one_client_is_answered_so_often_and_no_more() {
    let mut responder = responder(Mode::Proxy);
    let answers: usize = (0..1_000)
        .map(|_| hear(&mut responder, Time::ZERO, NOWHERE, Port::Server67, &discover_from_ovmf()))
        .sum();
    assert!((8..=100).contains(&answers), "{answers}");
    assert_eq!(responder.counters().limited, 1_000 - answers as u64);
}

#[test]
fn a_reply_is_no_question() {
    for mode in [Mode::Proxy, Mode::Merge] {
        let mut responder = responder(mode);
        let mut reply = discover_from_ovmf();
        reply.op = Op::Reply;
        reply.options.set(option::MESSAGE_TYPE, &[MessageType::Offer.number()]);
        assert_eq!(hear(&mut responder, Time::ZERO, NOWHERE, Port::Server67, &reply), 0);
    }
}
