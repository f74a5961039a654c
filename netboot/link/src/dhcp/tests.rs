use std::net::{IpAddr, SocketAddrV4};
use std::sync::{Arc, Mutex};

use netboot::dhcp::codec::{Message, Op, option};
use netboot::dhcp::request::MessageType;
use netboot::dhcp::server::LeaseState;
use netboot::dhcp::{Datagram, Link};
use netboot::firmware::Firmware;
use netboot::journal;
use netboot::journal::Step;
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

/// A client's frame.
fn frame(mac: Mac, source: SocketAddrV4, port: u16, payload: &[u8]) -> Vec<u8> {
    let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, port);
    let mut bytes = Vec::new();
    let datagram = Datagram { payload: payload.to_vec(), from_port: 1, to, link: Link::Everybody };
    frame::write_datagram(&mut bytes, mac, *source.ip(), &datagram);
    bytes[34..36].copy_from_slice(&source.port().to_be_bytes());
    bytes
}

fn network(vlan: Option<u16>, mode: Mode) -> (Network, Option<LeaseLog>, Vec<Lease>) {
    let vlan = vlan.and_then(VlanId::new);
    let subnets = vec!["10.0.0.0/24".parse().unwrap()];
    let log = match &mode {
        Mode::Server { lease_file, .. } => Some(LeaseLog::open(lease_file).unwrap().0),
        Mode::Proxy | Mode::Merge => None,
    };
    (Network { vlan, address: SERVER, http_port: 50042, subnets, mode }, log, Vec::new())
}

type Told = Arc<Mutex<Vec<journal::Event>>>;

/// A driver without a socket, and what it tells.
fn driver_of(networks: Vec<(Network, Option<LeaseLog>, Vec<Lease>)>) -> (Driver, Told) {
    let told = Told::default();
    let sink: Sink = {
        let told = told.clone();
        Arc::new(move |event| told.lock().unwrap().push(event))
    };
    let binaries = ["snp.efi", "undionly.kpxe"].into_iter().collect();
    (Driver::new(Time::ZERO, OWN, networks, &binaries, sink), told)
}

fn driver() -> (Driver, Told) {
    driver_of(vec![network(None, Mode::Proxy)])
}

impl Driver {
    /// The frames that come of this one, each with its VLAN.
    fn all(&mut self, now: Time, vlan: Option<u16>, bytes: &[u8]) -> Vec<(Option<VlanId>, Vec<u8>)> {
        self.handle(now, vlan.and_then(VlanId::new), bytes);
        self.flushed()
    }

    fn flushed(&mut self) -> Vec<(Option<VlanId>, Vec<u8>)> {
        let mut outbox = Outbox::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.flush(&mut outbox));
        outbox.waiting().map(|(vlan, bytes)| (vlan, bytes.to_vec())).collect()
    }

    fn one(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut all = self.all(Time::ZERO, None, bytes);
        assert!(all.len() <= 1);
        all.pop().map(|(_, bytes)| bytes)
    }
}

fn steps(told: &Mutex<Vec<journal::Event>>) -> Vec<Step> {
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
fn datagrams_go_where_they_should_with_right_checksums() {
    for (link, mac, to) in [
        (Link::Everybody, Mac([0xff; 6]), "255.255.255.255:68"),
        (Link::Station(CLIENT), CLIENT, "10.0.0.9:4011"),
        (Link::Station(CLIENT), CLIENT, "10.9.0.1:67"),
    ] {
        // An odd length needs padding in the checksum.
        for payload in [&b""[..], b"odd", b"even", &[0xff; 548]] {
            let mut bytes = vec![1, 2, 3];
            let to: SocketAddrV4 = to.parse().unwrap();
            let datagram = Datagram { payload: payload.to_vec(), from_port: 67, to, link };
            frame::write_datagram(&mut bytes, OWN, SERVER, &datagram);
            let (ethernet, source, destination, carried) = strict(&bytes[3..]);
            assert_eq!(ethernet.src_addr().0, OWN.0);
            assert_eq!(ethernet.dst_addr().0, mac.0);
            assert_eq!(source, SocketAddrV4::new(SERVER, 67));
            assert_eq!(destination, to);
            assert_eq!(carried, payload);
        }
    }
}

#[test]
fn a_frame_is_read_without_its_checksum_and_with_padding() {
    let mut bytes = frame(CLIENT, NOBODY, 67, b"hello");
    bytes[40..42].copy_from_slice(&[0x12, 0x34]);
    bytes.resize(80, 0);
    let carried = Carried::Udp { source: NOBODY, port: 67, payload: b"hello" };
    assert_eq!(frame::parse(&bytes), Some(Incoming { from: CLIENT, carried }));
}

#[test]
fn what_is_no_whole_udp_packet_is_not_read() {
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

#[test]
fn arp_tells_who_has_an_address_and_a_probe_tells_nothing() {
    let mut probe = Vec::new();
    frame::write_arp_probe(&mut probe, CLIENT, Ipv4Addr::new(10, 0, 0, 7));
    assert_eq!(probe.len(), 42);
    assert_eq!(frame::parse(&probe), None, "a probe claims no address");
    let mut claim = probe.clone();
    claim[28..32].copy_from_slice(&[10, 0, 0, 9]);
    let carried = Carried::Arp { address: Ipv4Addr::new(10, 0, 0, 9), mac: CLIENT };
    assert_eq!(frame::parse(&claim), Some(Incoming { from: CLIENT, carried }));
    for (at, value) in [(15, 6), (16, 9), (18, 5), (19, 6), (22, 1)] {
        let mut bytes = claim.clone();
        bytes[at] = value;
        assert_eq!(frame::parse(&bytes), None, "byte {at}");
    }
    for length in 0..claim.len() {
        assert_eq!(frame::parse(&claim[..length]), None, "cut to {length} bytes");
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
        let _ = driver().0.one(&bytes);
    }
}

#[test]
fn a_network_boot_is_offered_its_file_and_told() {
    let (mut driver, told) = driver();
    let question = frame(CLIENT, NOBODY, 67, &from_firmware(MessageType::Discover, 7).emit());
    let answer = driver.one(&question).unwrap();
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
    let answer = driver.one(&frame(CLIENT, source, 4011, &request.emit())).unwrap();
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
    assert!(driver.one(&request).is_none());
    assert!(steps(&told).is_empty(), "an ordinary client is nobody's business");

    driver.one(&frame(CLIENT, NOBODY, 67, &from_firmware(MessageType::Discover, 7).emit()));
    steps(&told);
    assert!(driver.one(&request).is_none());
    let event = told.lock().unwrap().pop().unwrap();
    let wanted = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));
    assert_eq!(event.step, Step::AddressRequested { wanted });
    assert_eq!((event.mac, event.address), (Some(CLIENT), Some(wanted)));
}

#[test]
fn firmware_without_a_boot_file_is_told_and_not_answered() {
    let (mut driver, told) = driver();
    assert!(
        driver.one(&frame(CLIENT, NOBODY, 67, &from_firmware(MessageType::Discover, 11).emit())).is_none()
    );
    let steps = steps(&told);
    assert!(matches!(&steps[..], [Step::DhcpDiscover { .. }, Step::DhcpIgnored { .. }]), "{steps:?}");
}

#[test]
fn ordinary_clients_and_our_own_frames_are_passed_over() {
    let (mut driver, told) = driver();
    let discover = message(MessageType::Discover).emit();
    assert!(driver.one(&frame(CLIENT, NOBODY, 67, &discover)).is_none());
    let netboot = from_firmware(MessageType::Discover, 7).emit();
    assert!(driver.one(&frame(OWN, NOBODY, 67, &netboot)).is_none());
    assert!(driver.one(&frame(CLIENT, NOBODY, 67, b"junk")).is_none());
    assert!(steps(&told).is_empty());
}

#[test]
fn each_vlan_has_its_own_network_and_others_none() {
    let (mut driver, _) = driver_of(vec![network(Some(10), Mode::Proxy), network(Some(20), Mode::Merge)]);
    let discover = frame(CLIENT, NOBODY, 67, &from_firmware(MessageType::Discover, 7).emit());
    let proxied = driver.all(Time::ZERO, Some(10), &discover);
    let [(vlan, bytes)] = &proxied[..] else { panic!("{proxied:?}") };
    assert_eq!((vlan.map(VlanId::number), strict(bytes).2.port()), (Some(10), 68));
    let merged = driver.all(Time::ZERO, Some(20), &discover);
    let [(vlan, bytes)] = &merged[..] else { panic!("{merged:?}") };
    assert_eq!((vlan.map(VlanId::number), strict(bytes).2.port()), (Some(20), 67), "asks the site's server");
    assert!(driver.all(Time::ZERO, None, &discover).is_empty());
    assert!(driver.all(Time::ZERO, Some(30), &discover).is_empty());
}

#[test]
fn a_frame_for_another_station_is_left_to_it() {
    let (mut driver, _) = driver();
    let mut question = frame(CLIENT, NOBODY, 67, &from_firmware(MessageType::Discover, 7).emit());
    question[..6].copy_from_slice(&[2, 0, 0, 0, 0, 99]);
    assert!(driver.one(&question).is_none());
    question[..6].copy_from_slice(&OWN.0);
    assert!(driver.one(&question).is_some());
}

fn server_config() -> Box<ServerConfig> {
    Box::new(ServerConfig {
        subnet: "10.0.0.0/24".parse().unwrap(),
        ranges: vec![Ipv4Addr::new(10, 0, 0, 100)..=Ipv4Addr::new(10, 0, 0, 109)],
        reservations: Vec::new(),
        routers: Vec::new(),
        dns: Vec::new(),
        ntp: Vec::new(),
        domain: None,
        search: Vec::new(),
        lease_time: Duration::from_secs(3_600),
        renew_after: None,
        rebind_after: None,
    })
}

/// Lets the machines' time pass; gives the frames of it.
fn pass(driver: &mut Driver, until: Time) -> Vec<(Option<VlanId>, Vec<u8>)> {
    let mut frames = driver.flushed();
    while let Some(deadline) = driver.poll_timeout().filter(|deadline| *deadline <= until) {
        driver.handle_timeout(deadline);
        frames.extend(driver.flushed());
    }
    frames
}

#[test]
fn a_lease_is_on_disk_when_its_ack_is_sent() {
    let directory = tempfile::tempdir().unwrap();
    let lease_file = directory.path().join("leases");
    let mode = Mode::Server { config: server_config(), lease_file: lease_file.clone() };
    let (mut driver, _) = driver_of(vec![network(None, mode)]);
    let later = Time::from_millis(6_000);
    let searched = pass(&mut driver, later);
    let is_arp = |bytes: &[u8]| bytes[12..14] == [8, 6];
    assert!(searched.iter().any(|(_, bytes)| is_arp(bytes)), "addresses are probed");
    let searches: Vec<_> = searched.iter().filter(|(_, bytes)| !is_arp(bytes)).collect();
    let (_, from, to, _) = strict(&searches[0].1);
    assert_eq!((from.to_string(), to.to_string()), ("0.0.0.0:68".into(), "255.255.255.255:67".into()));

    let offers = driver.all(later, None, &frame(CLIENT, NOBODY, 67, &message(MessageType::Discover).emit()));
    let offer = Message::parse(&strict(&offers[0].1).3).unwrap();
    let mut choice = message(MessageType::Request);
    choice.options.push(option::REQUESTED_IP, &offer.yiaddr.octets());
    choice.options.push(option::SERVER_ID, &SERVER.octets());
    let acks = driver.all(later, None, &frame(CLIENT, NOBODY, 67, &choice.emit()));
    assert_eq!(Message::parse(&strict(&acks[0].1).3).unwrap().yiaddr, offer.yiaddr);
    let (_, leases) = LeaseLog::open(&lease_file).unwrap();
    let [lease] = &leases[..] else { panic!("{leases:?}") };
    assert_eq!((lease.mac, lease.address, lease.state), (CLIENT, offer.yiaddr, LeaseState::Bound));

    // A disk that takes nothing: no ACK.
    driver.networks[0].log = None;
    assert!(driver.all(later, None, &frame(CLIENT, NOBODY, 67, &choice.emit())).is_empty());
}

#[test]
fn another_server_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    let mode = Mode::Server { config: server_config(), lease_file: directory.path().join("leases") };
    let (mut driver, _) = driver_of(vec![network(None, mode)]);
    let sent = pass(&mut driver, Time::ZERO);
    let search = sent.iter().find(|(_, bytes)| bytes[12..14] == [8, 0]).unwrap();
    let mut offer = Message::parse(&strict(&search.1).3).unwrap();
    let other = Ipv4Addr::new(10, 0, 0, 2);
    (offer.op, offer.yiaddr) = (Op::Reply, Ipv4Addr::new(10, 0, 0, 77));
    offer.options.set(option::MESSAGE_TYPE, &[MessageType::Offer.number()]);
    offer.options.push(option::SERVER_ID, &other.octets());
    driver.handle(Time::ZERO, None, &frame(CLIENT, SocketAddrV4::new(other, 67), 68, &offer.emit()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(driver.flush(&mut Outbox::new())), Some(other));
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    let error = bind("no-such-if", None, Vec::new()).unwrap_err();
    assert!(error.to_string().contains("no-such-if"));
    assert!(
        matches!(bind("lo", None, Vec::new()), Err(DhcpError::Frames(FrameError::NoInterface(_)))),
        "no Ethernet"
    );
}
