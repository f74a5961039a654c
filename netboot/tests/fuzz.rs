//! Mutated packets against every parser and machine of this crate.
//!
//! The same packets in every run: `FUZZ_ITERATIONS` (default 200 000) and `FUZZ_SEED` choose others. In debug
//! builds overflows and debug assertions count as failures, so both profiles are worth a run.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use netboot::Time;
use netboot::dhcp::{Outcome, Port, Proxy, ProxyConfig, REPLY_MAX, codec, request};
use netboot::tftp::{self, Client, Files, Limits, Packet, Server, Wanted};

#[path = "../src/dhcp/fixtures.rs"]
#[allow(dead_code, reason = "the machine tests use more of them")]
mod fixtures;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

fn iterations() -> u64 {
    setting("FUZZ_ITERATIONS", 200_000)
}

/// splitmix64: small, seeded, good enough to choose mutations.
struct Random(u64);

impl Random {
    fn new(stream: u64) -> Self {
        Self(setting("FUZZ_SEED", 0x0b00_71ac_e000).wrapping_add(stream))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        const TELLING: [u8; 12] = [0, 1, 2, 3, 4, 5, 16, 17, 127, 128, 254, 255];
        match self.below(3) {
            0 => TELLING[self.below(TELLING.len())],
            _ => (self.next() >> 32) as u8,
        }
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

/// A packet of the corpus with some changes.
fn mutated(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].clone();
    for _ in 0..random.below(6) {
        let at = random.below(bytes.len());
        let until = at + random.below((bytes.len() - at).min(40) + 1);
        match random.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.byte(),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.byte()),
            4 => drop(bytes.drain(at..until)),
            5 => {
                let part = bytes[at..until].to_vec();
                bytes.splice(at..at, part);
            }
            6 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let tail = random.below(300);
                bytes.extend((0..tail).map(|_| random.byte()));
            }
        }
    }
    bytes
}

#[test]
fn dhcp_survives_any_packet_and_answers_well_formed_ones() {
    let corpus: Vec<Vec<u8>> = fixtures::all().iter().map(codec::Message::emit).collect();
    let binaries = ["undionly.kpxe", "snp.efi", "amd64/snp.efi"].into_iter().collect();
    let mut proxy = Proxy::new(ProxyConfig { server: SERVER, http_port: 50042, binaries });
    let mut random = Random::new(1);
    let (mut parsed, mut answered) = (0_u64, 0_u64);
    for _ in 0..iterations() {
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
    assert_eq!(proxy.counters().received, iterations());
    // The mutations are mild enough to get past the first check, most of the time.
    assert!(parsed > iterations() / 4 && answered > iterations() / 20, "{parsed} {answered}");
}

struct OneFile(Arc<[u8]>);

impl Files for OneFile {
    fn open(&self, name: &str) -> Option<Arc<[u8]>> {
        (name == "snp.efi").then(|| Arc::clone(&self.0))
    }
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
    corpus
}

#[test]
fn tftp_packets_are_read_or_refused() {
    let corpus = tftp_corpus();
    let mut random = Random::new(2);
    for _ in 0..iterations() {
        let bytes = mutated(&mut random, &corpus);
        if let Ok(packet) = Packet::parse(&bytes) {
            let again = packet.emit();
            assert_eq!(Packet::parse(&again), Ok(packet), "{bytes:02x?}");
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
    for _ in 0..iterations() {
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
    for _ in 0..iterations() / 100 {
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
