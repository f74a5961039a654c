//! DHCP over a real pair of interfaces: a thread with its own network namespace for the server and one for
//! the client. Both namespaces, and the interfaces in them, end with their threads.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use netboot::dhcp::codec::{Message, Op, option};
use netboot::journal::{Sink, Step};
use netboot_link::dhcp;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::{geteuid, gettid};
use tokio_util::sync::CancellationToken;

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const CLIENT_MAC: [u8; 6] = [0x52, 0x54, 0, 0x88, 0, 1];
/// Far above what an answer takes; reached only when there is none.
const PATIENCE: Duration = Duration::from_secs(10);

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("ip is there");
    assert!(status.success(), "ip {arguments}");
}

/// The DHCP server in its namespace.
struct Server {
    shutdown: CancellationToken,
    told: Arc<Mutex<Vec<Step>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts in a new namespace, joined to the caller's by the pair `srv` and `cli`.
    fn start() -> Self {
        let (shutdown, told) = (CancellationToken::new(), Arc::new(Mutex::new(Vec::new())));
        let (ready_sender, ready) = channel();
        let (linked, linked_receiver) = channel();
        let thread = {
            let (shutdown, told) = (shutdown.clone(), told.clone());
            std::thread::spawn(move || serve(&ready_sender, &linked_receiver, shutdown, told))
        };
        let server = Self { shutdown, told, thread: Some(thread) };
        let namespace = ready.recv().expect("the server has its namespace");
        ip("link add srv type veth peer name cli");
        ip(&format!("link set srv netns {namespace}"));
        ip("link set cli address 52:54:00:88:00:01");
        ip("address add 192.0.2.2/24 dev cli");
        ip("link set cli up");
        linked.send(()).expect("the server waits");
        ready.recv().expect("the server listens");
        server
    }

    fn told(&self) -> Vec<Step> {
        self.told.lock().unwrap().drain(..).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.expect("it was started").expect("the server ends well");
        }
    }
}

fn serve(
    ready: &Sender<i32>,
    linked: &Receiver<()>,
    shutdown: CancellationToken,
    told: Arc<Mutex<Vec<Step>>>,
) {
    unshare(CloneFlags::CLONE_NEWNET).expect("root may have a namespace");
    ready.send(gettid().as_raw()).expect("the test waits");
    linked.recv().expect("the test links the namespaces");
    ip("address add 192.0.2.1/24 dev srv");
    ip("link set srv up");
    let network = dhcp::Network {
        vlan: None,
        address: SERVER,
        http_port: 50042,
        subnets: vec!["192.0.2.0/24".parse().expect("a network")],
        mode: dhcp::Mode::Proxy,
    };
    let socket = dhcp::bind("srv", None, vec![network]).expect("root may open packet sockets");
    let binaries = ["snp.efi"].into_iter().collect();
    let sink: Sink = Arc::new(move |event| told.lock().unwrap().push(event.step));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        ready.send(0).expect("the test waits");
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
    if !geteuid().is_root() {
        println!("not run: only root may make network namespaces and open packet sockets");
        return;
    }
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        println!("not run: no network namespace can be had here: {error}");
        return;
    }
    let server = Server::start();

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
    assert_eq!(server.told().len(), 2, "DhcpDiscover and DhcpOffer");

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
    assert_eq!(server.told().len(), 4);
}
