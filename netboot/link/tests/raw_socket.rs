//! DHCP over a real pair of interfaces.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[path = "support/namespaces.rs"]
mod namespaces;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use namespaces::{CLIENT_MAC, Server, run};
use netboot::dhcp::codec::{Message, Op, option};
use netboot::journal::{Sink, Step};
use netboot_link::dhcp;
use nix::sys::socket::{setsockopt, sockopt};
use tokio_util::sync::CancellationToken;

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Far above what an answer takes; reached only when there is none.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the server told its journal.
type Told = Arc<Mutex<Vec<Step>>>;

/// The DHCP server in its namespace.
fn serve(listens: &Sender<Told>, shutdown: CancellationToken) {
    run("ip", "address add 192.0.2.1/24 dev srv");
    run("ip", "link set srv up");
    let network = dhcp::Network {
        vlan: None,
        address: SERVER,
        http_port: 50042,
        subnets: vec!["192.0.2.0/24".parse().expect("a network")],
        mode: dhcp::Mode::Proxy,
    };
    let socket = dhcp::bind("srv", None, vec![network]).expect("root may open packet sockets");
    let binaries = ["snp.efi"].into_iter().collect();
    let told = Told::default();
    let sink: Sink = {
        let told = told.clone();
        Arc::new(move |event| told.lock().unwrap().push(event.step))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        listens.send(told).expect("the test waits");
        dhcp::run(socket, binaries, sink, shutdown).await.expect("the server runs");
    });
}

/// A client's socket on its interface.
fn client(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    setsockopt(&socket.as_fd(), sockopt::BindToDevice, &"cli".into()).unwrap();
    socket.set_broadcast(true).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn message(kind: u8) -> Message {
    let mut message = Message::new(Op::Request);
    message.chaddr[..6].copy_from_slice(&CLIENT_MAC);
    message.options.push(option::MESSAGE_TYPE, &[kind]);
    message
}

fn from_firmware(kind: u8) -> Message {
    let mut message = message(kind);
    message.options.push(option::VENDOR_CLASS, b"PXEClient:Arch:00007:UNDI:003000");
    message.options.push(option::CLIENT_ARCH, &[0, 7]);
    message
}

/// One answer. The kernel has checked its lengths and checksums.
fn answer(socket: &UdpSocket) -> io::Result<(Message, SocketAddr)> {
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer)?;
    Ok((Message::parse(&buffer[..length]).expect("a DHCP message"), from))
}

#[test]
fn firmware_is_answered_on_both_ports_and_hears_no_refusal() {
    if !namespaces::enter() {
        return;
    }
    let server = Server::start(serve);
    let told = || server.told.lock().unwrap().drain(..).collect::<Vec<_>>();

    // Port 67, by broadcast. What is no network boot stays unanswered, so the first answer is the offer.
    let socket = client(68);
    let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
    for question in [message(1).emit(), b"junk".to_vec(), from_firmware(1).emit()] {
        socket.send_to(&question, everybody).unwrap();
    }
    let (offer, from) = answer(&socket).unwrap();
    assert_eq!(from, SocketAddr::from((SERVER, 67)));
    assert_eq!(offer.options.value(option::MESSAGE_TYPE), Some(&[2][..]));
    assert_eq!(offer.options.value(option::BOOT_FILE), Some(&b"snp.efi"[..]));
    assert_eq!(told().len(), 2, "DhcpDiscover and DhcpOffer");

    // Port 4011, from port 4011 as EDK2 does. On a connected socket "port unreachable" would be an error.
    let socket = client(4011);
    socket.connect((SERVER, 4011)).unwrap();
    let mut request = from_firmware(3);
    request.ciaddr = CLIENT;
    for _ in 0..3 {
        socket.send(&request.emit()).unwrap();
        let (ack, from) = answer(&socket).unwrap();
        assert_eq!(from, SocketAddr::from((SERVER, 4011)));
        assert_eq!(ack.options.value(option::MESSAGE_TYPE), Some(&[5][..]));
        assert_eq!(ack.siaddr, SERVER);
    }
    // Anything unanswerable there is not refused by the kernel either: the next answer comes as before.
    socket.send(b"junk").unwrap();
    socket.send(&request.emit()).unwrap();
    assert!(answer(&socket).is_ok());
    assert_eq!(told().len(), 4);
}
