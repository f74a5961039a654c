use std::net::SocketAddrV4;
use std::sync::{Arc, Mutex};

use netboot::dhcp::ProxyConfig;
use netboot::dhcp::codec::{Message, Op, option};
use netboot::dhcp::{Offered, Port, ReplyTo};
use netboot::firmware::Firmware;
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{EthernetFrame, IpAddress, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr};

use super::*;

const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
const CLIENT: Mac = Mac([0x52, 0x54, 0, 0x88, 0, 1]);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const NOBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);

fn message(kind: MessageType) -> Message {
    let mut message = Message::new(Op::Request);
    message.xid = 7;
    message.chaddr[..6].copy_from_slice(&CLIENT.0);
    message.options.push(option::MESSAGE_TYPE, &[kind.number()]);
    message
}

fn from_firmware(kind: MessageType, architecture: u16) -> Message {
    let mut message = message(kind);
    message.options.push(option::VENDOR_CLASS, b"PXEClient:Arch:00007:UNDI:003000");
    message.options.push(option::CLIENT_ARCH, &architecture.to_be_bytes());
    message
}

/// A client's frame; built as a reply whose roles are turned round.
fn frame(mac: Mac, source: SocketAddrV4, port: u16, payload: &[u8]) -> Vec<u8> {
    let (source_port, to) = (source.port(), SocketAddrV4::new(Ipv4Addr::BROADCAST, port));
    let template = reply_to(ReplyTo::Client { addr: *to.ip(), port }, payload);
    let mut bytes = super::frame::reply(mac, *source.ip(), Mac([0xff; 6]), Port::Server67, &template);
    bytes[34..36].copy_from_slice(&source_port.to_be_bytes());
    bytes
}

fn reply_to(to: ReplyTo, payload: &[u8]) -> Reply {
    Reply {
        payload: payload.to_vec(),
        to,
        seen: Seen {
            mac: CLIENT,
            uuid: None,
            firmware: None,
            message_type: MessageType::Discover,
            requested_ip: None,
        },
        offered: Offered { file: "snp.efi".into(), firmware: Firmware::UefiX64, port: Port::Server67 },
    }
}

/// A driver without a socket, and what it tells.
fn driver() -> (Driver, Arc<Mutex<Vec<Event>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink: Sink = {
        let told = told.clone();
        Arc::new(move |event| told.lock().unwrap().push(event))
    };
    let binaries = ["snp.efi", "undionly.kpxe"].into_iter().collect();
    let proxy = Proxy::new(ProxyConfig { server: SERVER, http_port: 50042, binaries });
    (Driver { proxy, mac: OWN, sink, known: BTreeSet::new() }, told)
}

fn steps(told: &Mutex<Vec<Event>>) -> Vec<Step> {
    told.lock().unwrap().drain(..).map(|event| event.step).collect()
}

/// Reads a frame of ours strictly: lengths and checksums must be right. Ports, addresses and payload.
fn strict(bytes: &[u8]) -> (EthernetFrame<&[u8]>, SocketAddrV4, SocketAddrV4, Vec<u8>) {
    let ethernet = EthernetFrame::new_checked(bytes).unwrap();
    let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
    let checksums = ChecksumCapabilities::default();
    let ip_repr = Ipv4Repr::parse(&ip, &checksums).unwrap();
    assert_eq!(usize::from(ip.total_len()) + 14, bytes.len());
    let udp = UdpPacket::new_checked(ip.payload()).unwrap();
    assert_ne!(udp.checksum(), 0, "a checksum, not \"none\"");
    let (from, to) = (ip_repr.src_addr, ip_repr.dst_addr);
    let udp_repr = UdpRepr::parse(&udp, &IpAddress::Ipv4(from), &IpAddress::Ipv4(to), &checksums).unwrap();
    let from = SocketAddrV4::new(from, udp_repr.src_port);
    let to = SocketAddrV4::new(to, udp_repr.dst_port);
    (ethernet, from, to, udp.payload().to_vec())
}

#[test]
fn replies_go_where_they_should_with_right_checksums() {
    let client = ReplyTo::Client { addr: Ipv4Addr::new(10, 0, 0, 9), port: 4011 };
    for (to, port, mac, address) in [
        (ReplyTo::Broadcast, Port::Server67, Mac([0xff; 6]), "255.255.255.255:68"),
        (client, Port::Proxy4011, CLIENT, "10.0.0.9:4011"),
        (ReplyTo::Relay(Ipv4Addr::new(10, 9, 0, 1)), Port::Server67, CLIENT, "10.9.0.1:67"),
    ] {
        // An odd length needs padding in the checksum.
        for payload in [&b""[..], b"odd", b"even", &[0xff; 548]] {
            let bytes = frame::reply(OWN, SERVER, CLIENT, port, &reply_to(to, payload));
            let (ethernet, source, destination, carried) = strict(&bytes);
            assert_eq!(ethernet.src_addr().0, OWN.0);
            assert_eq!(ethernet.dst_addr().0, mac.0);
            assert_eq!(source, SocketAddrV4::new(SERVER, port.number()));
            assert_eq!(destination.to_string(), address);
            assert_eq!(carried, payload);
        }
    }
}

#[test]
fn a_frame_is_read_without_its_checksum_and_with_padding() {
    let mut bytes = frame(CLIENT, NOBODY, 67, b"hello");
    bytes[40..42].copy_from_slice(&[0x12, 0x34]);
    bytes.resize(80, 0);
    let incoming = frame::parse(&bytes).unwrap();
    assert_eq!(incoming, Incoming { mac: CLIENT, source: NOBODY, port: Port::Server67, payload: b"hello" });
}

#[test]
fn what_is_no_question_is_not_read() {
    let good = frame(CLIENT, NOBODY, 67, b"hello");
    assert!(frame::parse(&good).is_some());
    for (what, at, value) in [
        ("EtherType", 12, 0x86),
        ("group address as source", 6, 0x01),
        ("IP version", 14, 0x65),
        ("IP header length", 14, 0x4f),
        ("more fragments", 20, 0x20),
        ("fragment offset", 21, 1),
        ("protocol", 23, 6),
        ("port", 37, 68),
        ("IP length too long", 16, 9),
        ("UDP length too long", 38, 9),
        ("UDP length too short", 39, 7),
    ] {
        let mut bytes = good.clone();
        bytes[at] = value;
        assert_eq!(frame::parse(&bytes), None, "{what}");
    }
    for length in 0..good.len() {
        assert_eq!(frame::parse(&good[..length]), None, "cut to {length} bytes");
    }
}

proptest! {
    #[test]
    fn reading_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = frame::parse(&bytes);
    }

    #[test]
    fn reading_damaged_frames_never_panics(at in 0..60_usize, value in any::<u8>(), cut in 0..200_usize) {
        let mut bytes = frame(CLIENT, NOBODY, 67, &[7; 100]);
        bytes[at] = value;
        bytes.truncate(cut);
        let _ = driver().0.handle(&bytes);
    }
}

#[test]
fn a_network_boot_is_offered_its_file_and_told() {
    let (mut driver, told) = driver();
    let question = frame(CLIENT, NOBODY, 67, &from_firmware(MessageType::Discover, 7).emit());
    let answer = driver.handle(&question).unwrap();
    let (_, source, destination, payload) = strict(&answer);
    assert_eq!(source, SocketAddrV4::new(SERVER, 67));
    assert_eq!(destination.to_string(), "255.255.255.255:68");
    assert_eq!(Message::parse(&payload).unwrap().op, Op::Reply);
    assert_eq!(
        steps(&told),
        [
            Step::DhcpDiscover { firmware: Firmware::UefiX64 },
            Step::DhcpOffer { file: "snp.efi".into(), port: 67 }
        ]
    );
}

#[test]
fn port_4011_is_answered_to_the_asker_alone() {
    let (mut driver, told) = driver();
    let source = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 9), 4011);
    let mut request = from_firmware(MessageType::Request, 7);
    request.ciaddr = *source.ip();
    let answer = driver.handle(&frame(CLIENT, source, 4011, &request.emit())).unwrap();
    let (ethernet, from, to, _) = strict(&answer);
    assert_eq!(ethernet.dst_addr().0, CLIENT.0);
    assert_eq!((from, to), (SocketAddrV4::new(SERVER, 4011), source));
    let event = told.lock().unwrap().pop().unwrap();
    assert_eq!(event.step, Step::DhcpOffer { file: "snp.efi".into(), port: 4011 });
    assert_eq!(event.address, Some(IpAddr::V4(*source.ip())));
}

#[test]
fn the_address_that_a_booting_machine_takes_is_told() {
    let (mut driver, told) = driver();
    let mut request = message(MessageType::Request);
    request.options.push(option::REQUESTED_IP, &[10, 0, 0, 9]);
    let request = frame(CLIENT, NOBODY, 67, &request.emit());
    assert!(driver.handle(&request).is_none());
    assert!(steps(&told).is_empty(), "an ordinary client is nobody's business");

    driver.handle(&frame(CLIENT, NOBODY, 67, &from_firmware(MessageType::Discover, 7).emit()));
    steps(&told);
    assert!(driver.handle(&request).is_none());
    let event = told.lock().unwrap().pop().unwrap();
    let wanted = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));
    assert_eq!(event.step, Step::AddressRequested { wanted });
    assert_eq!((event.mac, event.address), (Some(CLIENT), Some(wanted)));
}

#[test]
fn firmware_without_a_boot_file_is_told_and_not_answered() {
    let (mut driver, told) = driver();
    assert!(
        driver.handle(&frame(CLIENT, NOBODY, 67, &from_firmware(MessageType::Discover, 11).emit())).is_none()
    );
    let steps = steps(&told);
    assert!(matches!(&steps[..], [Step::DhcpDiscover { .. }, Step::DhcpIgnored { .. }]), "{steps:?}");
}

#[test]
fn ordinary_clients_and_our_own_frames_are_passed_over() {
    let (mut driver, told) = driver();
    let discover = message(MessageType::Discover).emit();
    assert!(driver.handle(&frame(CLIENT, NOBODY, 67, &discover)).is_none());
    let netboot = from_firmware(MessageType::Discover, 7).emit();
    assert!(driver.handle(&frame(OWN, NOBODY, 67, &netboot)).is_none());
    assert!(driver.handle(&frame(CLIENT, NOBODY, 67, b"junk")).is_none());
    assert!(steps(&told).is_empty());
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    let error = bind("no-such-if").unwrap_err();
    assert!(error.to_string().contains("no-such-if"));
    assert!(matches!(bind("lo"), Err(DhcpError::NoInterface(_))), "no Ethernet");
}
