use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::Mac;
use crate::dhcp::Offered;
use crate::dhcp::codec::{Op, text};
use crate::dhcp::fixtures::{self, *};
use crate::firmware::{Firmware, Platform};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 50);
const RELAY: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const NOWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);

fn proxy_with(binaries: &[&str]) -> Proxy {
    let binaries = binaries.iter().copied().collect();
    Proxy::new(ProxyConfig { server: SERVER, http_port: 50042, binaries })
}

/// The files of Debian's ipxe package.
fn proxy() -> Proxy {
    proxy_with(&["undionly.kpxe", "snp.efi", "ipxe.efi", "amd64/snp.efi", "amd64/ipxe.efi"])
}

fn handle(port: Port, source: SocketAddrV4, message: &Message) -> Outcome {
    proxy().handle_packet(port, source, &message.emit())
}

fn reply_to(port: Port, source: SocketAddrV4, message: &Message) -> (Reply, Message) {
    match handle(port, source, message) {
        Outcome::Reply(reply) => {
            let parsed = Message::parse(&reply.payload).unwrap();
            (reply, parsed)
        }
        Outcome::Ignore { reason, .. } => panic!("ignored: {reason}"),
    }
}

fn ignored(port: Port, message: &Message) -> IgnoreReason {
    match handle(port, NOWHERE, message) {
        Outcome::Ignore { reason, .. } => reason,
        Outcome::Reply(reply) => panic!("answered: {reply:?}"),
    }
}

fn with_option(mut message: Message, number: u8, value: &[u8]) -> Message {
    let kept = message.options.clone();
    message.options = crate::dhcp::codec::Options::new();
    for (known, old) in kept.iter().filter(|(known, _)| *known != number) {
        message.options.push(known, old);
    }
    message.options.push(number, value);
    message
}

fn without_option(message: Message, number: u8) -> Message {
    let mut without = message.clone();
    without.options = crate::dhcp::codec::Options::new();
    for (known, old) in message.options.iter().filter(|(known, _)| *known != number) {
        without.options.push(known, old);
    }
    without
}

#[test]
fn each_firmware_is_offered_what_it_can_start() {
    let init = "http://10.88.0.1:50042/ipxe/init.ipxe";
    let table = [
        (discover_from_bios(), Firmware::Bios, "undionly.kpxe"),
        (discover_from_ovmf(), Firmware::UefiX64, "snp.efi"),
        (discover("PXEClient:Arch:00009", &[9]), Firmware::UefiX64, "snp.efi"),
        (discover_from_ovmf_http(), Firmware::UefiHttpX64, "http://10.88.0.1:50042/tftp/amd64/snp.efi"),
        (discover_from_qemu_rom(), Firmware::Ipxe(Platform::Bios), init),
        (discover_from_lkrn(), Firmware::Ipxe(Platform::Bios), init),
        (discover_from_undionly(), Firmware::Ipxe(Platform::Bios), init),
        (discover_from_snponly(), Firmware::Ipxe(Platform::UefiX64), init),
    ];
    for (message, firmware, file) in table {
        let (reply, offer) = reply_to(Port::Server67, NOWHERE, &message);
        assert_eq!(reply.offered, Offered { file: file.to_owned(), firmware, port: Port::Server67 });
        assert_eq!(reply.seen.firmware, Some(firmware));
        assert_eq!(text(&offer.file), file);
        assert_eq!(offer.options.value(option::BOOT_FILE), Some(file.as_bytes()));
    }
}

#[test]
fn firmware_without_a_binary_gets_no_offer() {
    let table = [
        (6, Firmware::UefiIa32),
        (10, Firmware::UefiArm32),
        (11, Firmware::UefiArm64),
        (21, Firmware::UBootArm32),
        (22, Firmware::UBootArm64),
        (27, Firmware::Unknown(27)),
        (41, Firmware::RaspberryPi),
        (65_535, Firmware::Unknown(65_535)),
    ];
    for (number, firmware) in table {
        let message = discover("PXEClient", &[number]);
        assert_eq!(ignored(Port::Server67, &message), IgnoreReason::NoBinary(firmware));
    }
    for (number, firmware) in [
        (15, Firmware::UefiHttpIa32),
        (18, Firmware::UefiHttpArm32),
        (19, Firmware::UefiHttpArm64),
        (0, Firmware::Unknown(0)),
    ] {
        let message = discover("HTTPClient", &[number]);
        assert_eq!(ignored(Port::Server67, &message), IgnoreReason::NoBinary(firmware));
    }
    let bios = discover_from_bios().emit();
    let outcome = proxy_with(&[]).handle_packet(Port::Server67, NOWHERE, &bios);
    assert!(matches!(
        outcome,
        Outcome::Ignore { reason: IgnoreReason::NoBinary(Firmware::Bios), seen: Some(_) }
    ));
}

#[test]
fn arm64_gets_its_own_binaries_when_they_exist() {
    let mut proxy = proxy_with(&["snp-arm64.efi", "arm64/snp.efi"]);
    for (class, number, file) in [
        ("PXEClient", 11, "snp-arm64.efi"),
        ("PXEClient", 22, "snp-arm64.efi"),
        ("HTTPClient", 19, "http://10.88.0.1:50042/tftp/arm64/snp.efi"),
    ] {
        let message = discover(class, &[number]);
        match proxy.handle_packet(Port::Server67, NOWHERE, &message.emit()) {
            Outcome::Reply(reply) => assert_eq!(reply.offered.file, file),
            Outcome::Ignore { reason, .. } => panic!("{number}: {reason}"),
        }
    }
}

#[test]
fn the_first_entry_with_a_binary_counts() {
    let offered =
        |list: &[u16]| reply_to(Port::Server67, NOWHERE, &discover("PXEClient", list)).0.offered.firmware;
    assert_eq!(offered(&[7, 0]), Firmware::UefiX64);
    assert_eq!(offered(&[6, 0]), Firmware::Bios);
    assert_eq!(offered(&[11, 41, 9]), Firmware::UefiX64);
}

#[test]
fn a_client_gets_what_its_class_can_fetch() {
    let (reply, _) = reply_to(Port::Server67, NOWHERE, &discover("PXEClient", &[16]));
    assert_eq!(reply.offered.file, "snp.efi");
    let (reply, _) = reply_to(Port::Server67, NOWHERE, &discover("HTTPClient", &[7]));
    assert_eq!(reply.offered.file, "http://10.88.0.1:50042/tftp/amd64/snp.efi");
}

#[test]
fn without_option_93_the_text_of_the_class_counts() {
    let (reply, _) = reply_to(Port::Server67, NOWHERE, &discover("PXEClient:Arch:00007:UNDI:003000", &[]));
    assert_eq!(reply.offered.firmware, Firmware::UefiX64);
    for class in ["PXEClient", "PXEClient:Arch", "PXEClient:Arch:x", "PXEClient:Arch:99999"] {
        assert_eq!(ignored(Port::Server67, &discover(class, &[])), IgnoreReason::NoArchitecture);
    }
}

#[test]
fn ipxe_is_known_by_its_user_class_or_its_own_option() {
    let script = |message: &Message| {
        matches!(reply_to(Port::Server67, NOWHERE, message).0.offered.firmware, Firmware::Ipxe(_))
    };
    let bios = discover_from_bios;
    assert!(!script(&bios()));
    assert!(script(&with_option(bios(), option::USER_CLASS, b"iPXE")));
    assert!(script(&with_option(bios(), option::USER_CLASS, b"\x04iPXE")));
    assert!(script(&with_option(bios(), option::USER_CLASS, b"\x03abc\x04iPXE")));
    assert!(!script(&with_option(bios(), option::USER_CLASS, b"\xffiPXE")));
    assert!(!script(&with_option(bios(), option::USER_CLASS, b"\x00\x00")));
    assert!(script(&with_option(bios(), option::IPXE, &[0xb1, 1, 0])));
    assert!(script(&with_option(bios(), option::IPXE, &[])));
}

#[test]
fn ipxe_without_http_and_gpxe_are_given_an_ipxe_that_has_it() {
    let firmware = |message: &Message| reply_to(Port::Server67, NOWHERE, message).0.offered.firmware;
    // DNS and TFTP only.
    let poor = with_option(discover_from_qemu_rom(), option::IPXE, &[0x17, 1, 1, 0x15, 1, 1]);
    assert_eq!(firmware(&poor), Firmware::Bios);
    // A list that is cut off says nothing.
    let cut = with_option(discover_from_qemu_rom(), option::IPXE, &[0x17, 1, 1, 0x15, 9]);
    assert_eq!(firmware(&cut), Firmware::Ipxe(Platform::Bios));
    let gpxe = with_option(discover_from_qemu_rom(), option::USER_CLASS, b"gPXE");
    assert_eq!(firmware(&gpxe), Firmware::Bios);
}

#[test]
fn an_offer_has_what_firmware_insists_on() {
    let (reply, offer) = reply_to(Port::Server67, NOWHERE, &discover_from_ovmf());
    assert_eq!(reply.to, ReplyTo::Broadcast);
    assert_eq!(reply.to.socket().to_string(), "255.255.255.255:68");
    assert_eq!((offer.op, offer.xid, offer.flags), (Op::Reply, discover_from_ovmf().xid, 0x8000));
    assert_eq!(offer.hardware_address(), MAC);
    assert_eq!((offer.yiaddr, offer.ciaddr), (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED));
    assert_eq!(offer.siaddr, SERVER);
    let order: Vec<u8> = offer.options.iter().map(|(number, _)| number).collect();
    assert_eq!(order, [53, 54, 60, 43, 66, 67, 97]);
    assert_eq!(offer.options.value(53), Some(&[2][..]));
    assert_eq!(offer.options.value(54), Some(&SERVER.octets()[..]));
    assert_eq!(offer.options.value(60), Some(&b"PXEClient"[..]));
    assert_eq!(offer.options.value(43), Some(&[6, 1, 8, 255][..]));
    assert_eq!(offer.options.value(66), Some(&b"10.88.0.1"[..]));
    assert_eq!(offer.options.value(97), discover_from_ovmf().options.value(97));
    assert!(reply.payload.len() >= 300);
}

#[test]
fn http_boot_is_offered_a_url_and_no_pxe_options() {
    let (_, offer) = reply_to(Port::Server67, NOWHERE, &discover_from_ovmf_http());
    let order: Vec<u8> = offer.options.iter().map(|(number, _)| number).collect();
    assert_eq!(order, [53, 54, 60, 67, 97]);
    assert_eq!(offer.options.value(60), Some(&b"HTTPClient"[..]));
}

#[test]
fn port_4011_answers_where_the_question_came_from() {
    let source = SocketAddrV4::new(CLIENT, 4011);
    let (reply, ack) = reply_to(Port::Proxy4011, source, &proxy_request_from_ovmf());
    assert_eq!(reply.to, ReplyTo::Client { addr: CLIENT, port: 4011 });
    assert_eq!(reply.to.socket(), source);
    assert_eq!(ack.options.value(53), Some(&[5][..]));
    assert_eq!(ack.ciaddr, CLIENT);
    assert_eq!(reply.offered.port, Port::Proxy4011);
    // The ROM asks from port 68 and may leave ciaddr out.
    let mut request = proxy_request_from_ovmf();
    request.ciaddr = Ipv4Addr::UNSPECIFIED;
    let (reply, _) = reply_to(Port::Proxy4011, SocketAddrV4::new(CLIENT, 68), &request);
    assert_eq!(reply.to, ReplyTo::Client { addr: CLIENT, port: 68 });
    let (reply, _) = reply_to(Port::Proxy4011, NOWHERE, &request);
    assert_eq!(reply.to, ReplyTo::Broadcast);
}

#[test]
fn port_4011_answers_each_kind_of_question_in_its_way() {
    let kind = |message_type: MessageType| {
        let message = with_option(discover_from_ovmf(), 53, &[message_type.number()]);
        match handle(Port::Proxy4011, NOWHERE, &message) {
            Outcome::Reply(reply) => request::message_type(&Message::parse(&reply.payload).unwrap()),
            Outcome::Ignore { .. } => None,
        }
    };
    assert_eq!(kind(MessageType::Discover), Some(MessageType::Offer));
    assert_eq!(kind(MessageType::Request), Some(MessageType::Ack));
    assert_eq!(kind(MessageType::Inform), Some(MessageType::Ack));
    for other in [MessageType::Offer, MessageType::Decline, MessageType::Release, MessageType::Unknown(99)] {
        assert_eq!(kind(other), None, "{other:?}");
    }
}

#[test]
fn port_67_answers_discovers_only() {
    for number in 0..=255 {
        let message = with_option(discover_from_ovmf(), 53, &[number]);
        let answered = matches!(handle(Port::Server67, NOWHERE, &message), Outcome::Reply(_));
        assert_eq!(answered, number == 1, "{number}");
    }
}

#[test]
fn an_address_request_tells_the_address_and_gets_no_answer() {
    for server in [[10, 88, 0, 2], SERVER.octets()] {
        for request in [address_request_from_ovmf(), address_request_from_qemu_rom()] {
            let message = with_option(request, 54, &server);
            let Outcome::Ignore { reason, seen: Some(seen) } = handle(Port::Server67, NOWHERE, &message)
            else {
                panic!("answered");
            };
            assert_eq!(reason, IgnoreReason::NotForBootServer);
            assert_eq!(seen.requested_ip, Some(Ipv4Addr::new(10, 0, 2, 15)));
            assert_eq!(seen.mac, Mac(MAC));
            assert_eq!(seen.uuid, Some(Uuid::from_u128(0x8c9d6b1e_0d4b_4b0e_9d6f_0123456789ab)));
        }
    }
}

#[test]
fn the_address_of_a_system_that_runs_is_seen_too() {
    let request = with_option(fixtures::client(MessageType::Request), 50, &CLIENT.octets());
    let Outcome::Ignore { reason, seen: Some(seen) } = handle(Port::Server67, NOWHERE, &request) else {
        panic!("answered");
    };
    assert_eq!((reason, seen.firmware), (IgnoreReason::NotNetboot, None));
    assert_eq!(seen.requested_ip, Some(CLIENT));
    // One that renews has it in ciaddr.
    let mut renewal = fixtures::client(MessageType::Request);
    renewal.ciaddr = CLIENT;
    let Outcome::Ignore { seen: Some(seen), .. } = handle(Port::Server67, NOWHERE, &renewal) else {
        panic!("answered");
    };
    assert_eq!(seen.requested_ip, Some(CLIENT));
}

#[test]
fn a_question_for_another_boot_server_is_left_to_it() {
    let source = SocketAddrV4::new(CLIENT, 4011);
    let ours = with_option(proxy_request_from_ovmf(), 54, &SERVER.octets());
    assert!(matches!(handle(Port::Proxy4011, source, &ours), Outcome::Reply(_)));
    let other = with_option(proxy_request_from_ovmf(), 54, &[10, 88, 0, 3]);
    assert_eq!(ignored(Port::Proxy4011, &other), IgnoreReason::OtherServer);
}

#[test]
fn a_relay_gets_the_answer_with_its_information_last() {
    let information = [1, 4, 0, 0, 0, 7, 2, 2, 9, 9];
    let message = relayed(discover_from_ovmf(), RELAY, &information);
    let (reply, offer) = reply_to(Port::Server67, SocketAddrV4::new(RELAY, 67), &message);
    assert_eq!(reply.to, ReplyTo::Relay(RELAY));
    assert_eq!(reply.to.socket().to_string(), "10.99.0.1:67");
    assert_eq!(offer.giaddr, RELAY);
    assert_eq!(offer.options.iter().last(), Some((82, &information[..])));
}

#[test]
fn a_relay_that_is_no_host_is_not_answered() {
    for relay in [[255, 255, 255, 255], [224, 0, 0, 1], [127, 0, 0, 1], [0, 1, 2, 3]] {
        let message = relayed(discover_from_ovmf(), relay.into(), &[1, 1, 1]);
        assert_eq!(ignored(Port::Server67, &message), IgnoreReason::BadAddress, "{relay:?}");
    }
}

#[test]
fn a_client_with_an_address_is_answered_there_and_never_by_broadcast_to_others() {
    let mut message = discover_from_ovmf();
    message.ciaddr = CLIENT;
    let (reply, _) = reply_to(Port::Server67, SocketAddrV4::new(CLIENT, 68), &message);
    assert_eq!(reply.to, ReplyTo::Client { addr: CLIENT, port: 68 });
    for source in [SocketAddrV4::new(Ipv4Addr::BROADCAST, 68), SocketAddrV4::new(CLIENT, 0)] {
        let outcome = handle(Port::Server67, source, &message);
        assert!(matches!(outcome, Outcome::Ignore { reason: IgnoreReason::BadAddress, .. }), "{source}");
    }
}

#[test]
fn what_is_no_network_boot_is_ignored_with_its_reason() {
    assert_eq!(ignored(Port::Server67, &discover_from_linux()), IgnoreReason::NotNetboot);
    let almost = with_option(discover_from_ovmf(), 60, b"XPXEClient");
    assert_eq!(ignored(Port::Server67, &almost), IgnoreReason::NotNetboot);
    let bootp = without_option(discover_from_ovmf(), 53);
    assert_eq!(ignored(Port::Server67, &bootp), IgnoreReason::NoMessageType);
    let reply = Message { op: Op::Reply, ..discover_from_ovmf() };
    assert_eq!(ignored(Port::Server67, &reply), IgnoreReason::NotARequest);
    let infiniband = Message { htype: 32, hlen: 0, ..discover_from_ovmf() };
    assert_eq!(ignored(Port::Server67, &infiniband), IgnoreReason::NotEthernet);
    let short = Message { hlen: 5, ..discover_from_ovmf() };
    assert_eq!(ignored(Port::Server67, &short), IgnoreReason::NotEthernet);
    let group = Message { chaddr: [0xff; 16], ..discover_from_ovmf() };
    assert_eq!(ignored(Port::Server67, &group), IgnoreReason::NotEthernet);
    let outcome = proxy().handle_packet(Port::Server67, NOWHERE, b"hello");
    assert!(matches!(outcome, Outcome::Ignore { reason: IgnoreReason::Malformed(_), seen: None }));
}

#[test]
fn the_uuid_is_absent_or_17_bytes_of_type_0() {
    let absent = without_option(discover_from_ovmf(), 97);
    let (reply, offer) = reply_to(Port::Server67, NOWHERE, &absent);
    assert_eq!((reply.seen.uuid, offer.options.value(97)), (None, None));
    for bad in [&[][..], &[0], &[0; 16], &[0; 18], &[1; 17]] {
        let message = with_option(discover_from_ovmf(), 97, bad);
        assert_eq!(ignored(Port::Server67, &message), IgnoreReason::BadUuid, "{bad:?}");
    }
    // Boards without a UUID send all zero or all one: answered, but nobody's name.
    for nobody in [0, 0xff] {
        let mut value = [nobody; 17];
        value[0] = 0;
        let (reply, _) = reply_to(Port::Server67, NOWHERE, &with_option(discover_from_ovmf(), 97, &value));
        assert_eq!(reply.seen.uuid, None);
    }
}

#[test]
fn relay_information_that_cannot_be_echoed_is_not_answered() {
    let longest = relayed(discover_from_ovmf(), RELAY, &[7; 255]);
    let (reply, _) = reply_to(Port::Server67, NOWHERE, &longest);
    assert!(reply.payload.len() <= REPLY_MAX);
    let too_long = relayed(discover_from_ovmf(), RELAY, &[7; 256]);
    assert_eq!(ignored(Port::Server67, &too_long), IgnoreReason::RelayInformation);
}

#[test]
fn every_packet_is_counted_once() {
    let mut proxy = proxy();
    let source = SocketAddrV4::new(CLIENT, 4011);
    proxy.handle_packet(Port::Server67, NOWHERE, &discover_from_ovmf().emit());
    proxy.handle_packet(Port::Proxy4011, source, &proxy_request_from_ovmf().emit());
    proxy.handle_packet(Port::Server67, NOWHERE, b"");
    proxy.handle_packet(Port::Server67, NOWHERE, &discover_from_linux().emit());
    proxy.handle_packet(Port::Server67, NOWHERE, &discover("PXEClient", &[6]).emit());
    let expected = Counters {
        received: 5,
        offers: 1,
        acks: 1,
        malformed: 1,
        not_for_us: 1,
        no_binary: 1,
        ..Counters::default()
    };
    assert_eq!(proxy.counters(), expected);
}

proptest! {
    #[test]
    fn every_reply_is_well_formed_and_fits(
        which in 0..fixtures::all().len(),
        changes in prop::collection::vec((0..400_usize, any::<u8>()), 0..6),
        on_4011: bool,
        source: [u8; 4],
        source_port: u16,
    ) {
        let mut bytes = fixtures::all().swap_remove(which).emit();
        for (offset, value) in changes {
            let offset = offset % bytes.len();
            bytes[offset] = value;
        }
        let port = if on_4011 { Port::Proxy4011 } else { Port::Server67 };
        let mut proxy = proxy();
        if let Outcome::Reply(reply) = proxy.handle_packet(port, SocketAddrV4::new(source.into(), source_port), &bytes) {
            prop_assert!(reply.payload.len() <= REPLY_MAX);
            prop_assert!(reply.to.socket().port() != 0);
            let parsed = Message::parse(&reply.payload).unwrap();
            prop_assert_eq!(parsed.emit(), reply.payload);
            prop_assert_eq!(parsed.op, Op::Reply);
            prop_assert_eq!(parsed.yiaddr, Ipv4Addr::UNSPECIFIED);
            prop_assert_eq!(parsed.options.value(54), Some(&SERVER.octets()[..]));
        }
    }
}
