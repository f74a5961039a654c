//! The raw stack over a real pair of interfaces: HTTP and TFTP on an interface without any address, what must not
//! pass, and a body over a link that loses.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[path = "support/namespaces.rs"]
mod namespaces;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use namespaces::{Server, run};
use netboot::boot::{BootAnswer, BootBody, BootPolicy, BootRequest, Refusal};
use netboot_assets::{AssetDir, BootFiles};
use netboot_link::http::{HttpConfig, Service};
use netboot_link::raw::{Counters, Network, Wire};
use netboot_link::{http, raw, tftp};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Far above what an answer takes; reached only when there is none.
const PATIENCE: Duration = Duration::from_secs(20);
const BODY: usize = 9_000_001;

struct Nobody;

impl BootPolicy for Nobody {
    fn boot(&self, _: &BootRequest) -> BootAnswer {
        BootAnswer { mode: "none".into(), reason: String::new(), body: BootBody::NotFound("no\n".into()) }
    }

    fn join_config(&self, _: Option<Uuid>, _: std::net::IpAddr) -> Result<String, Refusal> {
        Err(Refusal::TooMany)
    }
}

fn body() -> Vec<u8> {
    (0..BODY).map(|index| (index % 251) as u8).collect()
}

/// The appliance's end in its namespace.
fn serve(wire: Wire, listens: &Sender<Arc<Counters>>, shutdown: CancellationToken) {
    // Neither up nor with an address: the stack sees to the one and needs not the other.
    let stack = raw::bind("srv", &[(None, Network::new(SERVER, 24).unwrap())], wire).expect("root may");
    if wire == Wire::PacketSocket {
        assert!(!stack.is_macvlan());
    }
    println!("{wire:?}: macvlan {}", stack.is_macvlan());
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("kernel"), body()).unwrap();
    let files = Arc::new(BootFiles::from_memory(vec![("snp.efi".into(), body())]));
    let service = Service::new(HttpConfig {
        policy: Arc::new(Nobody),
        files: files.clone(),
        assets: AssetDir::new(directory.path()).unwrap(),
        init_script: "#!ipxe\n".into(),
        sink: Arc::new(|_| {}),
    });
    let (listener, tftp_socket) = (stack.listen(0, 50042).unwrap(), stack.tftp(0, 69).unwrap());
    assert!(stack.listen(1, 50042).is_err(), "there is one network");
    assert!(stack.listen(0, 50042).is_err(), "the port is taken");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        listens.send(stack.counters()).expect("the test waits");
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let tftp = tftp::run(tftp_socket, files, Arc::new(|_| {}), shutdown.clone());
        let http = http::serve(listener, service, shutdown.clone());
        let (stack, tftp, ()) = tokio::join!(raw::run(stack, shutdown.clone()), tftp, http);
        stack.expect("the stack runs");
        tftp.expect("TFTP runs");
    });
}

fn get(path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect((SERVER, 50042)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{:?}", String::from_utf8_lossy(&answer[..end]));
    answer.split_off(end)
}

fn tftp_request(from: Ipv4Addr) -> UdpSocket {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"\0\x01snp.efi\0octet\0blksize\x001468\0windowsize\x008\0", (SERVER, 69)).unwrap();
    socket
}

#[test]
fn an_interface_without_an_address_serves_http_and_tftp_and_its_own_network_only() {
    serves(Wire::PacketSocket);
}

#[test]
fn so_it_does_by_the_kernels_own_way_to_the_wire() {
    serves(Wire::Best);
}

fn serves(wire: Wire) {
    if !namespaces::enter() {
        return;
    }
    let server = Server::start(move |listens, shutdown| serve(wire, listens, shutdown));
    run("ip", "address add 198.51.100.2/32 dev cli");
    assert!(get("/assets/kernel") == body());
    assert!(get("/tftp/snp.efi") == body());

    // TFTP: not a block before the options are acknowledged, then one window and no more.
    let socket = tftp_request(Ipv4Addr::new(192, 0, 2, 2));
    let mut packet = [0; 2048];
    let (length, from) = socket.recv_from(&mut packet).unwrap();
    assert_eq!((from, &packet[..2]), (SocketAddr::from((SERVER, 69)), &[0, 6][..]), "{length} bytes");
    socket.send_to(&[0, 4, 0, 0], from).unwrap();
    for block in 1..=8 {
        let (length, _) = socket.recv_from(&mut packet).unwrap();
        assert_eq!((length, &packet[..4]), (1472, &[0, 3, 0, block][..]));
        assert!(packet[4..length] == body()[1468 * (usize::from(block) - 1)..1468 * usize::from(block)]);
    }
    // What comes next is the same window again after a while, not the next one.
    socket.recv_from(&mut packet).unwrap();
    assert_eq!(packet[3], 1);

    // A source that is not of the network is not heard: the answer after it is of the question after it.
    let before = server.told.foreign();
    let foreign = tftp_request(Ipv4Addr::new(198, 51, 100, 2));
    let socket = tftp_request(Ipv4Addr::new(192, 0, 2, 2));
    socket.recv_from(&mut packet).unwrap();
    foreign.set_nonblocking(true).unwrap();
    assert!(foreign.recv_from(&mut packet).is_err());
    if wire == Wire::PacketSocket {
        assert!(server.told.foreign() > before);
    }

    // A link that loses one frame in a hundred each way costs time, never a byte.
    run("nft", "add table ip lossy");
    run("nft", "add chain ip lossy in { type filter hook input priority 0 ; }");
    run("nft", "add rule ip lossy in numgen random mod 100 < 1 drop");
    assert!(get("/assets/kernel") == body());
}
