//! TFTP's short way over a real pair of interfaces. Which way a block came is told by a firewall: the kernel's packets
//! pass one on their way out, frames do not.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[path = "support/namespaces.rs"]
mod namespaces;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use namespaces::{Server, run};
use netboot::Time;
use netboot::tftp::{Client, Options, Wanted};
use netboot_assets::BootFiles;
use netboot_link::tftp;
use tokio_util::sync::CancellationToken;

const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 69);
/// Far above what a transfer takes; reached only when there is none.
const PATIENCE: Duration = Duration::from_secs(60);
const BYTES: usize = 100_000;

fn file() -> Vec<u8> {
    (0..BYTES).map(|index| (index % 251) as u8).collect()
}

/// The appliance's end in its namespace, whose card cuts a frame into so many.
fn serve(cuts: u16, listens: &Sender<()>, shutdown: CancellationToken) {
    run("ip", "address add 192.0.2.1/24 dev srv");
    run("ip", &format!("link set srv up gso_max_segs {cuts}"));
    // The kernel's own packets are marked.
    run("nft", "add table ip way");
    run("nft", "add chain ip way out { type filter hook output priority 0 ; }");
    run("nft", "add rule ip way out ip dscp set 10");
    let socket = tftp::bind(SERVER.into()).expect("the port is free").only_by("srv");
    let files = Arc::new(BootFiles::from_memory(vec![("snp.efi".into(), file())]));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        listens.send(()).expect("the test waits");
        tftp::run(socket, files, Arc::new(|_| {}), shutdown).await.expect("the server runs");
    });
}

/// Reads the file by a socket whose kernel checks lengths and checksums.
fn download(options: Options) -> Vec<u8> {
    let socket = UdpSocket::bind("192.0.2.2:0").unwrap();
    let began = Instant::now();
    let now = || Time::ZERO + began.elapsed();
    let wanted = Wanted { server: SERVER, name: "snp.efi".into(), options, max_bytes: 1 << 20 };
    let mut client = Client::new(now(), wanted);
    let mut buffer = [0; 2048];
    loop {
        while let Some((to, bytes)) = client.poll_transmit() {
            socket.send_to(&bytes, to).unwrap();
        }
        if let Some(outcome) = client.outcome() {
            return outcome.expect("all of it").to_vec();
        }
        assert!(began.elapsed() < PATIENCE, "it takes too long");
        let wait = client.poll_timeout().expect("it waits for something").since(now());
        socket.set_read_timeout(Some(wait.max(Duration::from_millis(1)))).unwrap();
        match socket.recv_from(&mut buffer) {
            Ok((length, std::net::SocketAddr::V4(from))) => {
                client.handle_packet(now(), from, &buffer[..length]);
            }
            _ => client.handle_timeout(now()),
        }
    }
}

/// Runs a test with a server and with a rule for its blocks that are no packets of the kernel.
fn with_server(cuts: u16, verdict: &str, test: impl FnOnce()) {
    if !namespaces::enter() {
        return;
    }
    let server = Server::start(move |listens, shutdown| serve(cuts, listens, shutdown));
    run("nft", "add table ip way");
    run("nft", "add chain ip way in { type filter hook input priority 0 ; }");
    run("nft", &format!("add rule ip way in udp sport 69 udp length > 1000 ip dscp != 10 {verdict}"));
    test();
    drop(server);
}

/// Blocks that were no packets of the kernel.
fn frames() -> u64 {
    let rules = Command::new("nft").args(["list", "table", "ip", "way"]).output().expect("it is there");
    let rules = String::from_utf8(rules.stdout).unwrap();
    let count = rules.split_once("counter packets ").and_then(|(_, rest)| rest.split(' ').next());
    count.expect("the rule counts").parse().unwrap()
}

const BLOCKS: Options =
    Options { block_size: Some(1468), window_size: None, transfer_size: None, timeout_secs: None };

/// Downloads until frames came: a machine that stands still for a moment looks like a lost block, and is left to the
/// kernel for some seconds.
fn until_by_frames(options: Options) {
    let (began, before) = (Instant::now(), frames());
    while frames() == before {
        assert!(began.elapsed() < PATIENCE, "all blocks are the kernel's");
        assert!(download(options) == file());
    }
}

#[test]
fn blocks_and_windows_go_as_frames() {
    with_server(64, "counter", || {
        until_by_frames(BLOCKS);
        until_by_frames(Options { window_size: Some(4), ..BLOCKS });
        // The last window is shorter, and so is the last block.
        until_by_frames(Options { window_size: Some(16), block_size: Some(1000), ..BLOCKS });
    });
}

#[test]
fn windows_arrive_by_a_card_that_cannot_cut_them() {
    with_server(1, "counter", || {
        until_by_frames(Options { window_size: Some(4), ..BLOCKS });
    });
}

#[test]
fn where_frames_do_not_pass_the_kernel_sends_what_they_lost() {
    with_server(64, "counter drop", || {
        assert!(download(BLOCKS) == file());
        assert!(download(BLOCKS) == file());
        assert!(download(Options { window_size: Some(4), ..BLOCKS }) == file());
        println!("{} frames were lost", frames());
    });
}
