//! Mutated packets against every parser and machine of this crate.
//!
//! The same packets in every run: `FUZZ_SECONDS`, `FUZZ_ITERATIONS` (default 200 000) and `FUZZ_SEED` choose others.
//! In debug builds overflows and debug assertions count as failures, so both profiles are worth a run. The corpus
//! is captures (`tests/corpus`) and what the fixtures build field by field.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::{Ipv4Addr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use netboot::dhcp::server::{Lease, LeaseState, ServerConfig};
use netboot::dhcp::{
    Mode, Outcome, Packet, Port, Proxy, ProxyConfig, REPLY_MAX, Responder, ResponderConfig, Transmit, codec,
    request,
};
use netboot::tftp::{self, Client, Files, Limits, Server, Wanted};
use netboot::{Mac, Time, dhcpv6};

#[allow(dead_code, reason = "the drivers' fuzz tests use the rest")]
mod fuzz_support;

use fuzz_support::{Budget, Random, corpus, mutated};

#[path = "../src/dhcp/fixtures.rs"]
#[allow(dead_code, reason = "the machine tests use more of them")]
mod fixtures;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

#[test]
fn dhcp_survives_any_packet_and_answers_well_formed_ones() {
    let corpus = dhcp_corpus();
    let binaries = ["undionly.kpxe", "snp.efi", "amd64/snp.efi"].into_iter().collect();
    let mut proxy = Proxy::new(ProxyConfig { server: SERVER, http_port: 50042, binaries });
    let mut random = Random::new(1);
    let (mut parsed, mut answered) = (0_u64, 0_u64);
    let mut budget = Budget::of("dhcp");
    while budget.next() {
        let bytes = mutated(&mut random, &corpus);
        if let Ok(message) = codec::Message::parse(&bytes) {
            parsed += 1;
            assert_eq!(codec::Message::parse(&message.emit()).as_ref(), Ok(&message), "{bytes:02x?}");
        }
        let port = if random.one_in(2) { Port::Server67 } else { Port::Proxy4011 };
        let address =
            if random.one_in(4) { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::from(random.next() as u32) };
        let source = SocketAddrV4::new(address, random.next() as u16);
        if let Outcome::Reply(reply) = proxy.handle_packet(port, source, &bytes) {
            answered += 1;
            assert!(reply.payload.len() <= REPLY_MAX, "{bytes:02x?}");
            assert!(reply.to.socket().port() != 0, "{bytes:02x?}");
            let reply = codec::Message::parse(&reply.payload).unwrap();
            assert!(reply.yiaddr.is_unspecified(), "{bytes:02x?}");
        }
    }
    assert_eq!(proxy.counters().received, budget.done());
    // The mutations are mild enough to get past the first check, most of the time.
    assert!(parsed > budget.done() / 4 && answered > budget.done() / 20, "{parsed} {answered}");
}

fn server_config() -> ServerConfig {
    ServerConfig {
        subnet: "10.88.0.0/24".parse().unwrap(),
        ranges: vec![Ipv4Addr::new(10, 88, 0, 100)..=Ipv4Addr::new(10, 88, 0, 120)],
        reservations: Vec::new(),
        routers: vec![Ipv4Addr::new(10, 88, 0, 254)],
        dns: Vec::new(),
        ntp: Vec::new(),
        domain: Some("pxe.example".into()),
        search: vec!["pxe.example".into()],
        lease_time: Duration::from_secs(120),
        renew_after: None,
        rebind_after: None,
    }
}

/// All modes, fed with questions, with the answers to what they ask themselves, with ARP, and with time.
#[test]
fn the_responder_stays_within_its_limits_in_every_mode() {
    let corpus = dhcp_corpus();
    let mut random = Random::new(5);
    let own = Mac([2, 0, 0, 0, 0, 1]);
    let start = |mode| {
        let binaries = ["undionly.kpxe", "snp.efi", "amd64/snp.efi"].into_iter().collect();
        let boot = ProxyConfig { server: SERVER, http_port: 50042, binaries };
        let subnets = vec!["10.88.0.0/24".parse().unwrap()];
        Responder::new(Time::ZERO, ResponderConfig { boot, mac: own, subnets, mode, seed: 1 })
    };
    let server =
        Mode::Server { config: Box::new(server_config()), leases: Vec::new(), unix_now: 1_800_000_000 };
    let mut responders = [start(Mode::Proxy), start(Mode::Merge), start(server)];
    let (mut now, mut sent, mut asked) = (Time::ZERO, 0_u64, Vec::new());
    let mut budget = Budget::of("dhcp responder");
    while budget.next() {
        now = now + Duration::from_micros(random.next() % 20_000);
        let responder = &mut responders[random.below(3)];
        // Half of what comes back are answers to our own questions.
        let bytes = if asked.is_empty() || random.one_in(2) {
            mutated(&mut random, &corpus)
        } else {
            mutated(&mut random, &asked)
        };
        let last = random.next() as u8;
        let from = Mac([2, 0, 0, 0, 0, last]);
        let address = Ipv4Addr::new(10, 88, 0, if random.one_in(3) { 0 } else { last });
        let source = SocketAddrV4::new(if random.one_in(2) { Ipv4Addr::UNSPECIFIED } else { address }, 68);
        let port = if random.one_in(4) { Port::Proxy4011 } else { Port::Server67 };
        let packet = Packet { port, source, from, payload: &bytes };
        match random.below(8) {
            0 => responder.handle_answer(now, &packet),
            1 => responder.handle_arp(now, address, from),
            2 => responder.handle_timeout(now),
            _ => responder.handle_packet(now, &packet),
        }
        while responder.poll_record().is_some() {}
        while let Some(transmit) = responder.poll_transmit() {
            sent += 1;
            let Transmit::Datagram(datagram) = transmit else { continue };
            assert!(datagram.payload.len() <= codec::MESSAGE_MAX, "{bytes:02x?}");
            let mut message = codec::Message::parse(&datagram.payload).unwrap();
            if message.op == codec::Op::Request {
                // Another server's answer to it.
                message.op = codec::Op::Reply;
                message.yiaddr = Ipv4Addr::new(10, 88, 0, last);
                message.options.set(codec::option::MESSAGE_TYPE, &[[2, 5, 6][random.below(3)]]);
                message.options.set(codec::option::SERVER_ID, &[10, 88, 0, 2]);
                if asked.len() >= 64 {
                    asked.swap_remove(random.below(64));
                }
                asked.push(message.emit());
            }
        }
        while responder.poll_event().is_some() {}
        assert!(responder.leases().count() <= 21);
    }
    assert!(sent > budget.done() / 100, "{sent}");
}

#[test]
fn dhcpv6_survives_any_packet() {
    let corpus = corpus("dhcpv6");
    let mut random = Random::new(6);
    let mut server = dhcpv6::Server::new(dhcpv6::Config {
        address: "fd88::1".parse().unwrap(),
        http_port: 50042,
        mac: Mac([2, 0, 0, 0, 0, 1]),
        binaries: ["amd64/snp.efi"].into_iter().collect(),
    });
    let source = SocketAddrV6::new("fe80::1".parse().unwrap(), 546, 0, 1);
    let mut answered = 0_u64;
    let mut budget = Budget::of("dhcpv6");
    while budget.next() {
        let bytes = mutated(&mut random, &corpus);
        if let Ok(message) = dhcpv6::codec::Message::parse(&bytes) {
            assert_eq!(dhcpv6::codec::Message::parse(&message.emit()).as_ref(), Ok(&message), "{bytes:02x?}");
        }
        if let Ok(reply) = server.handle_packet(source, &bytes) {
            answered += 1;
            assert!(dhcpv6::codec::Message::parse(&reply.payload).is_ok());
        }
        let _ = dhcpv6::is_solicitation(&bytes);
    }
    assert!(answered > budget.done() / 20, "{answered}");
}

#[test]
fn a_lease_file_line_is_read_or_refused() {
    let lease = |last| Lease {
        state: LeaseState::Bound,
        until: 1_800_000_000,
        mac: Mac([2, 0, 0, 0, 0, last]),
        address: Ipv4Addr::new(10, 88, 0, last),
    };
    let corpus: Vec<Vec<u8>> = (1..9)
        .map(|last| {
            let mut text = String::new();
            lease(last).write_to(&mut text);
            text.trim_end().as_bytes().to_vec()
        })
        .collect();
    let mut random = Random::new(7);
    let mut budget = Budget::of("lease file");
    while budget.next() {
        let bytes = mutated(&mut random, &corpus);
        let Ok(line) = std::str::from_utf8(&bytes) else { continue };
        if let Some(lease) = Lease::parse(line) {
            let mut text = String::new();
            lease.write_to(&mut text);
            assert_eq!(Lease::parse(text.trim_end()), Some(lease));
        }
    }
}

struct OneFile(Arc<[u8]>);

impl Files for OneFile {
    fn open(&self, name: &str) -> Option<Arc<[u8]>> {
        (name == "snp.efi").then(|| Arc::clone(&self.0))
    }
}

/// Captures, and what the fixtures build.
fn dhcp_corpus() -> Vec<Vec<u8>> {
    let mut all = corpus("dhcp");
    all.extend(fixtures::all().iter().map(codec::Message::emit));
    all
}

fn tftp_corpus() -> Vec<Vec<u8>> {
    let request = |options: &str| {
        let mut bytes = b"\0\x01snp.efi\0octet\0".to_vec();
        bytes
            .extend(options.replace('=', "\0").split(' ').flat_map(|word| [word.as_bytes(), b"\0"].concat()));
        bytes
    };
    let mut corpus = vec![
        b"\0\x01snp.efi\0octet\0".to_vec(),
        b"\0\x01none\0octet\0".to_vec(),
        b"\0\x02snp.efi\0octet\0".to_vec(),
        request("tsize=0 blksize=1468 windowsize=4"),
        request("blksize=1432 tsize=0"),
        request("BLKSIZE=8 timeout=1 windowsize=65535"),
        b"\0\x05\0\x08User aborted the transfer\0".to_vec(),
        b"\0\x06blksize\x001468\0tsize\x0010000\0".to_vec(),
        b"\0\x03\0\x01data".to_vec(),
    ];
    corpus.extend((0..20_u8).map(|block| vec![0, 4, 0, block]));
    corpus.extend(fuzz_support::corpus("tftp"));
    corpus
}

#[test]
fn tftp_packets_are_read_or_refused() {
    let corpus = tftp_corpus();
    let mut random = Random::new(2);
    let mut budget = Budget::of("tftp");
    while budget.next() {
        let bytes = mutated(&mut random, &corpus);
        if let Ok(packet) = tftp::Packet::parse(&bytes) {
            let again = packet.emit();
            assert_eq!(tftp::Packet::parse(&again), Ok(packet), "{bytes:02x?}");
        }
    }
}

#[test]
fn the_tftp_server_stays_within_its_limits_and_comes_to_rest() {
    let corpus = tftp_corpus();
    let files = OneFile((0..10_000_u32).map(|at| at as u8).collect());
    let limits = Limits { max_sessions: 8, max_sessions_per_address: 3, ..Limits::default() };
    let mut server = Server::new(limits);
    let mut random = Random::new(3);
    let mut now = Time::ZERO;
    let mut budget = Budget::of("tftp server");
    while budget.next() {
        now = now + Duration::from_micros(random.next() % 200_000);
        let address = Ipv4Addr::new(10, 88, 0, 50 + random.below(4) as u8);
        let from = SocketAddrV4::new(address, 2_000 + random.below(5) as u16);
        server.handle_packet(now, from, &mutated(&mut random, &corpus), &files);
        if random.one_in(3) {
            server.handle_timeout(now);
        }
        drain(&mut server, limits);
    }
    assert!(server.counters().requests > 0 && server.counters().bytes_sent > 0);
    // Nobody speaks any more: retries end.
    for _ in 0..1_000 {
        let Some(deadline) = server.poll_timeout() else { break };
        now = now.max(deadline);
        server.handle_timeout(now);
        drain(&mut server, limits);
    }
    assert_eq!((server.sessions(), server.poll_timeout()), (0, None));
}

fn drain(server: &mut Server, limits: Limits) {
    // At most a window for each session, an answer to the packet, and a farewell for each.
    let most = limits.max_sessions * (usize::from(limits.max_window) + 1) + 1;
    let mut sent = 0;
    while let Some((_, datagram)) = server.poll_transmit() {
        sent += 1;
        assert!(datagram.len() <= 4 + usize::from(limits.max_block_size));
        assert!(sent <= most);
    }
    while server.poll_event().is_some() {}
    assert!(server.sessions() <= limits.max_sessions);
}

#[test]
fn the_tftp_client_always_ends() {
    let corpus = tftp_corpus();
    let mut random = Random::new(4);
    let from = SocketAddrV4::new(SERVER, 69);
    let mut budget = Budget::of("tftp client");
    while budget.next() {
        // A download takes many packets.
        (0..99).for_each(|_| assert!(budget.next() || budget.done() > 0));
        let wanted = Wanted {
            server: from,
            name: "snp.efi".to_owned(),
            options: tftp::Options {
                block_size: Some(1468),
                window_size: Some(4),
                ..tftp::Options::default()
            },
            max_bytes: 20_000,
        };
        let mut now = Time::ZERO;
        let mut client = Client::new(now, wanted);
        for _ in 0..100 {
            now = now + Duration::from_micros(random.next() % 500_000);
            client.handle_packet(now, from, &mutated(&mut random, &corpus));
            while client.poll_transmit().is_some() {}
            assert!(client.received() <= 20_000);
        }
        for _ in 0..100 {
            let Some(deadline) = client.poll_timeout() else { break };
            now = now.max(deadline);
            client.handle_timeout(now);
            while client.poll_transmit().is_some() {}
        }
        assert!(client.outcome().is_some());
    }
}
