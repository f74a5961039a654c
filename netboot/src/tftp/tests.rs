//! Every transition by hand, then both machines over a bad link.

mod link;
mod turns;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use super::packet::Packet;
use super::*;
use crate::Time;

const fn at(millis: u64) -> Time {
    Time::from_millis(millis)
}

const fn client(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), port)
}

/// Files by name.
#[derive(Default)]
struct Shelf(BTreeMap<String, Arc<[u8]>>);

impl Shelf {
    fn with(name: &str, length: usize) -> Self {
        let mut shelf = Self::default();
        shelf.0.insert(name.into(), bytes(length).into());
        shelf
    }
}

impl Files for Shelf {
    fn open(&self, name: &str) -> Option<Arc<[u8]>> {
        self.0.get(name).cloned()
    }
}

/// Bytes that differ from block to block.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

fn read(name: &str, options: Options) -> Vec<u8> {
    Packet::Read(Request { name, mode: Mode::Octet, options }).emit()
}

fn plain() -> Options {
    Options::default()
}

fn window(blocks: u16) -> Options {
    Options { block_size: Some(8), window_size: Some(blocks), ..plain() }
}

/// What the server says now, as one line per packet.
fn said(server: &mut Server) -> Vec<String> {
    std::iter::from_fn(|| server.poll_transmit()).map(|(_, bytes)| say(&bytes)).collect()
}

fn say(bytes: &[u8]) -> String {
    match Packet::parse(bytes).unwrap() {
        Packet::Data { block, payload } => format!("data {block} {}", payload.len()),
        Packet::OptionAck(options) => format!("oack {options:?}"),
        Packet::Error { code, .. } => format!("error {code}"),
        Packet::Ack { block } => format!("ack {block}"),
        Packet::Read(_) => "read".into(),
        Packet::Write(_) => "write".into(),
    }
}

fn events(server: &mut Server) -> Vec<Event> {
    std::iter::from_fn(|| server.poll_event()).collect()
}

/// A server with the file `f` and one client's request taken in.
struct Bench {
    server: Server,
    shelf: Shelf,
}

impl Bench {
    fn new(length: usize) -> Self {
        Self { server: Server::new(Limits::default()), shelf: Shelf::with("f", length) }
    }

    fn asked(length: usize, options: Options) -> Self {
        let mut bench = Self::new(length);
        bench.hear(0, &read("f", options));
        bench
    }

    fn hear(&mut self, millis: u64, bytes: &[u8]) {
        self.server.handle_packet(at(millis), client(2000), bytes, &self.shelf);
    }

    fn ack(&mut self, millis: u64, block: u16) -> Vec<String> {
        self.hear(millis, &Packet::Ack { block }.emit());
        said(&mut self.server)
    }

    fn wait(&mut self, millis: u64) -> Vec<String> {
        self.server.handle_timeout(at(millis));
        said(&mut self.server)
    }
}

#[test]
fn a_request_without_options_gets_data_at_once() {
    let mut bench = Bench::asked(1000, plain());
    assert_eq!(said(&mut bench.server), ["data 1 512"]);
    assert_eq!(bench.ack(1, 1), ["data 2 488"]);
    assert!(bench.ack(2, 2).is_empty());
    let file: Arc<str> = "f".into();
    assert_eq!(
        events(&mut bench.server),
        [
            Event::Started { peer: client(2000), file: file.clone() },
            Event::Finished { peer: client(2000), file, bytes: 1000, duration: Duration::from_millis(2) },
        ]
    );
    assert_eq!(bench.server.sessions(), 0);
    assert_eq!(bench.server.poll_timeout(), None);
}

#[test]
fn a_file_of_whole_blocks_ends_with_an_empty_block() {
    let mut bench = Bench::asked(1024, plain());
    assert_eq!(said(&mut bench.server), ["data 1 512"]);
    assert_eq!(bench.ack(1, 1), ["data 2 512"]);
    assert_eq!(bench.ack(2, 2), ["data 3 0"]);
    assert!(bench.ack(3, 3).is_empty());
    assert_eq!(bench.server.counters().finished, 1);
}

#[test]
fn an_empty_file_is_one_empty_block() {
    let mut bench = Bench::asked(0, plain());
    assert_eq!(said(&mut bench.server), ["data 1 0"]);
    assert!(bench.ack(1, 1).is_empty());
    assert_eq!(bench.server.counters().finished, 1);
}

#[test]
fn options_are_granted_up_to_the_limits() {
    let asked = Options {
        block_size: Some(9000),
        transfer_size: Some(0),
        timeout_secs: Some(3),
        window_size: Some(1000),
    };
    let mut bench = Bench::asked(5000, asked);
    let (_, bytes) = bench.server.poll_transmit().unwrap();
    let granted = Options {
        block_size: Some(MAX_BLOCK_SIZE),
        transfer_size: Some(5000),
        timeout_secs: Some(3),
        window_size: Some(MAX_WINDOW),
    };
    assert_eq!(Packet::parse(&bytes), Ok(Packet::OptionAck(granted)));
    assert_eq!(bench.ack(1, 0), ["data 1 1468", "data 2 1468", "data 3 1468", "data 4 596"]);
}

#[test]
fn an_option_ack_is_repeated_until_acknowledged() {
    let mut bench = Bench::asked(20, window(2));
    assert_eq!(said(&mut bench.server).len(), 1);
    let deadline = bench.server.poll_timeout().unwrap();
    bench.server.handle_timeout(deadline);
    assert!(said(&mut bench.server)[0].starts_with("oack"));
    assert!(bench.ack(900, 7).is_empty(), "only ACK 0 answers an OACK");
    assert_eq!(bench.ack(901, 0), ["data 1 8", "data 2 8"]);
}

#[test]
fn a_size_probe_leaves_no_trace_in_the_journal() {
    let mut bench = Bench::asked(1000, Options { transfer_size: Some(0), ..window(4) });
    assert_eq!(said(&mut bench.server).len(), 1);
    let error = Packet::Error { code: ErrorCode::OptionRefused, message: "User aborted the transfer" };
    bench.hear(1, &error.emit());
    assert!(said(&mut bench.server).is_empty());
    assert!(events(&mut bench.server).is_empty());
    assert_eq!(bench.server.sessions(), 0);
    assert_eq!(bench.server.counters().aborted, 1);
}

#[test]
fn a_client_that_ends_a_running_transfer_is_journaled_and_not_answered() {
    let mut bench = Bench::asked(1000, plain());
    said(&mut bench.server);
    bench.hear(7, &Packet::Error { code: ErrorCode::DiskFull, message: "full" }.emit());
    assert!(said(&mut bench.server).is_empty());
    let Some(Event::Failed { reason, .. }) = events(&mut bench.server).pop() else { panic!("no failure") };
    assert_eq!(reason, FailReason::Aborted { code: ErrorCode::DiskFull, message: "full".into() });
}

#[test]
fn a_repeated_ack_is_not_answered_twice() {
    let mut bench = Bench::asked(5000, plain());
    said(&mut bench.server);
    assert_eq!(bench.ack(1, 1), ["data 2 512"]);
    assert!(bench.ack(2, 1).is_empty());
    assert!(bench.ack(3, 1).is_empty());
    assert!(bench.ack(3, 0).is_empty());
    assert_eq!(bench.ack(4, 2), ["data 3 512"]);
    assert!(bench.ack(5, 1).is_empty());
    assert!(bench.ack(6, 900).is_empty(), "a block that was never sent");
}

#[test]
fn repeated_acks_do_not_put_off_sending_again() {
    let mut bench = Bench::asked(5000, plain());
    said(&mut bench.server);
    bench.ack(1, 1);
    let deadline = bench.server.poll_timeout();
    for millis in 2..50 {
        assert!(bench.ack(millis, 1).is_empty());
    }
    assert_eq!(bench.server.poll_timeout(), deadline);
    assert_eq!(bench.wait(deadline.unwrap().as_millis() + 1), ["data 2 512"]);
}

#[test]
fn an_ack_inside_the_window_goes_back_to_the_lost_block() {
    let mut bench = Bench::asked(80, window(4));
    said(&mut bench.server);
    assert_eq!(bench.ack(1, 0), ["data 1 8", "data 2 8", "data 3 8", "data 4 8"]);
    assert_eq!(bench.ack(2, 2), ["data 3 8", "data 4 8", "data 5 8", "data 6 8"]);
    assert!(bench.ack(3, 1).is_empty(), "an older ACK");
    assert_eq!(bench.ack(4, 6), ["data 7 8", "data 8 8", "data 9 8", "data 10 8"]);
}

#[test]
fn a_lost_first_block_of_a_window_is_believed_once() {
    let mut bench = Bench::asked(80, window(4));
    said(&mut bench.server);
    assert_eq!(bench.ack(1, 0).len(), 4);
    assert_eq!(bench.ack(2, 0), ["data 1 8", "data 2 8", "data 3 8", "data 4 8"]);
    assert!(bench.ack(3, 0).is_empty());
    assert_eq!(bench.ack(4, 4).len(), 4);
}

#[test]
fn silence_sends_the_window_again_ever_more_slowly_and_then_gives_up() {
    let mut bench = Bench::asked(80, window(2));
    said(&mut bench.server);
    assert_eq!(bench.ack(0, 0), ["data 1 8", "data 2 8"]);
    let mut waits = Vec::new();
    let mut now = at(0);
    while let Some(deadline) = bench.server.poll_timeout() {
        waits.push(deadline.since(now));
        now = deadline;
        bench.server.handle_timeout(now);
        let sent = said(&mut bench.server);
        assert!(sent == ["data 1 8", "data 2 8"] || sent == ["error 0"], "{sent:?}");
    }
    assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
    assert!(waits.len() > 6, "{waits:?}");
    assert!(now >= at(20_000) && now < at(26_000), "{now}");
    let Some(Event::Failed { reason, .. }) = events(&mut bench.server).pop() else { panic!("no failure") };
    assert_eq!(reason, FailReason::Silent);
    assert_eq!(bench.server.sessions(), 0);
}

#[test]
fn a_missing_last_ack_is_told_apart() {
    let mut bench = Bench::asked(5, plain());
    said(&mut bench.server);
    while let Some(deadline) = bench.server.poll_timeout() {
        bench.server.handle_timeout(deadline);
    }
    let Some(Event::Failed { reason, .. }) = events(&mut bench.server).pop() else { panic!("no failure") };
    assert_eq!(reason, FailReason::LastAckMissing);
}

#[test]
fn block_numbers_go_on_after_65535_with_0() {
    let mut bench = Bench::asked(8 * 65_540, Options { block_size: Some(8), ..plain() });
    said(&mut bench.server);
    for block in 0..=u16::MAX {
        let expected = format!("data {} 8", block.wrapping_add(1));
        assert_eq!(bench.ack(u64::from(block), block), [expected]);
    }
    assert_eq!(bench.ack(70_000, 0), ["data 1 8"]);
    for block in 1..=4 {
        bench.ack(70_000 + u64::from(block), block);
    }
    assert!(bench.ack(70_010, 5).is_empty());
    assert_eq!(bench.server.counters().finished, 1);
}

#[test]
fn a_repeated_request_starts_anew() {
    let mut bench = Bench::asked(80, window(2));
    said(&mut bench.server);
    bench.hear(5, &read("f", window(2)));
    assert!(said(&mut bench.server)[0].starts_with("oack"));
    assert_eq!(bench.ack(6, 0).len(), 2);
    bench.hear(7, &read("f", window(2)));
    assert!(said(&mut bench.server).is_empty(), "a late copy of the same request");
    bench.ack(7, 2);
    bench.hear(8, &read("f", window(2)));
    assert!(said(&mut bench.server).is_empty(), "a late copy of the same request");
    bench.hear(9, &read("f", plain()));
    assert_eq!(said(&mut bench.server), ["data 1 80"], "another request");
    bench.ack(10, 0);
    bench.hear(5_000, &read("f", plain()));
    assert_eq!(said(&mut bench.server), ["data 1 80"], "the same request after a reset");
    assert_eq!(bench.server.sessions(), 1);
}

#[test]
fn what_cannot_be_served_is_refused() {
    let netascii = Packet::Read(Request { name: "f", mode: Mode::Netascii, options: plain() }).emit();
    let mail = Packet::Read(Request { name: "f", mode: Mode::Mail, options: plain() }).emit();
    let write = Packet::Write(Request { name: "f", mode: Mode::Octet, options: plain() }).emit();
    let long = "x".repeat(MAX_NAME + 1);
    for (what, bytes, answer) in [
        ("missing", read("g", plain()), &["error 1"][..]),
        ("empty name", read("", plain()), &["error 1"]),
        ("traversal", read("../f", plain()), &["error 2"]),
        ("inner traversal", read("a/../../f", plain()), &["error 2"]),
        ("backslash", read("a\\f", plain()), &["error 2"]),
        ("long", read(&long, plain()), &["error 2"]),
        ("netascii", netascii, &["error 0"]),
        ("mail", mail, &["error 0"]),
        ("write", write, &["error 2"]),
        ("opcode", vec![0, 9, 1, 2], &["error 4"]),
        ("cut request", b"\0\x01f".to_vec(), &["error 4"]),
        ("unknown mode", b"\0\x01f\0x\0".to_vec(), &["error 4"]),
        ("stray data", vec![0, 3, 0, 1, 9], &[]),
        ("stray ack", vec![0, 4, 0, 1], &[]),
        ("stray oack", vec![0, 6], &[]),
        ("error", vec![0, 5, 0, 1, 0], &[]),
        ("cut error", vec![0, 5, 0], &[]),
        ("nothing", vec![], &[]),
        ("one byte", vec![0], &[]),
    ] {
        let mut bench = Bench::new(10);
        bench.hear(0, &bytes);
        assert_eq!(said(&mut bench.server), answer, "{what}");
        assert_eq!(bench.server.sessions(), 0, "{what}");
    }
}

#[test]
fn slashes_in_front_of_the_name_are_taken_off() {
    let mut bench = Bench::new(10);
    bench.hear(0, &read("//f", plain()));
    assert_eq!(said(&mut bench.server), ["data 1 10"]);
}

#[test]
fn junk_does_not_end_a_transfer() {
    let mut bench = Bench::asked(1000, plain());
    said(&mut bench.server);
    bench.hear(1, &[0, 9, 9, 9]);
    assert!(said(&mut bench.server).is_empty());
    assert_eq!(bench.ack(2, 1), ["data 2 488"]);
}

#[test]
fn one_address_holds_a_bounded_number_of_transfers() {
    let limits = Limits { max_sessions_per_address: 3, ..Limits::default() };
    let (mut server, shelf) = (Server::new(limits), Shelf::with("f", 10_000));
    for port in 0..10 {
        server.handle_packet(at(port.into()), client(port), &read("f", plain()), &shelf);
        assert!(server.sessions() <= 3);
    }
    let crowded: Vec<_> = events(&mut server)
        .into_iter()
        .filter_map(|event| match event {
            Event::Failed { peer, reason: FailReason::Crowded, .. } => Some(peer.port()),
            Event::Failed { .. } | Event::Started { .. } | Event::Finished { .. } => None,
        })
        .collect();
    assert_eq!(crowded, [0, 1, 2, 3, 4, 5, 6], "the stalest goes first");
}

#[test]
fn above_the_limit_requests_wait_unanswered() {
    let limits = Limits { max_sessions: 2, ..Limits::default() };
    let (mut server, shelf) = (Server::new(limits), Shelf::with("f", 10));
    for port in 0..3 {
        server.handle_packet(at(0), client(port), &read("f", plain()), &shelf);
    }
    assert_eq!(said(&mut server).len(), 2);
    assert_eq!(server.counters().busy, 1);
    server.handle_packet(at(1), client(0), &Packet::Ack { block: 1 }.emit(), &shelf);
    server.handle_packet(at(2), client(2), &read("f", plain()), &shelf);
    assert_eq!(said(&mut server), ["data 1 10"]);
}

#[test]
fn clients_take_turns() {
    let (mut server, shelf) = (Server::new(Limits::default()), Shelf::with("f", 80));
    for port in 0..2 {
        server.handle_packet(at(0), client(port), &read("f", window(3)), &shelf);
        while server.poll_transmit().is_some() {}
    }
    for port in 0..2 {
        server.handle_packet(at(1), client(port), &Packet::Ack { block: 0 }.emit(), &shelf);
    }
    let ports: Vec<_> = std::iter::from_fn(|| server.poll_transmit()).map(|(peer, _)| peer.port()).collect();
    assert_eq!(ports, [0, 1, 0, 1, 0, 1]);
}

#[test]
fn a_burst_is_the_whole_window_cut_into_equal_segments() {
    let mut bench = Bench::asked(100, window(8));
    said(&mut bench.server);
    bench.hear(1, &Packet::Ack { block: 0 }.emit());
    let mut out = vec![7; 3];
    let burst = bench.server.poll_burst(&mut out).unwrap();
    assert_eq!(burst, Burst { peer: client(2000), segment: 12, datagrams: 8, part: Part::Next });
    let blocks: Vec<String> = out.chunks(burst.segment).map(say).collect();
    assert_eq!(blocks, (1..=8).map(|block| format!("data {block} 8")).collect::<Vec<_>>());
    assert_eq!(bench.server.poll_burst(&mut out), None);
    bench.hear(2, &Packet::Ack { block: 8 }.emit());
    let burst = bench.server.poll_burst(&mut out).unwrap();
    assert_eq!((burst.datagrams, out.len()), (5, 4 * 12 + 4 + 4), "the last block is short");
    assert_eq!(bench.server.counters().bytes_sent, 100);
}

#[test]
fn a_burst_says_what_it_is_to_its_transfer() {
    let parts = |bench: &mut Bench| -> Vec<Part> {
        std::iter::from_fn(|| bench.server.poll_burst(&mut Vec::new())).map(|burst| burst.part).collect()
    };
    // Block by block: the options, the first block, the same once more, the second one.
    let mut bench = Bench::asked(30, window(1));
    assert_eq!(parts(&mut bench), [Part::Other]);
    bench.hear(1, &Packet::Ack { block: 0 }.emit());
    assert_eq!(parts(&mut bench), [Part::Next]);
    bench.server.handle_timeout(at(3_500));
    assert_eq!(parts(&mut bench), [Part::Again]);
    bench.hear(4_000, &Packet::Ack { block: 1 }.emit());
    assert_eq!(parts(&mut bench), [Part::Next]);
    // Windows, and the rest of one that was lost.
    let mut bench = Bench::asked(2_000, window(4));
    said(&mut bench.server);
    bench.hear(1, &Packet::Ack { block: 0 }.emit());
    assert_eq!(parts(&mut bench), [Part::Next]);
    bench.hear(2, &Packet::Ack { block: 2 }.emit());
    assert_eq!(parts(&mut bench), [Part::Again]);
    bench.hear(3, &Packet::Ack { block: 6 }.emit());
    assert_eq!(parts(&mut bench), [Part::Next]);
    // A window longer than one burst.
    let mut bench = Bench::asked(200_000, Options { block_size: Some(1468), ..window(64) });
    said(&mut bench.server);
    bench.hear(1, &Packet::Ack { block: 0 }.emit());
    assert_eq!(parts(&mut bench), [Part::Next, Part::Other]);
    // An error.
    bench.hear(3, b"\0\x02f\0octet\0");
    assert_eq!(parts(&mut bench), [Part::Other]);
}

#[test]
fn a_burst_fits_one_send() {
    let limits = Limits { max_window: u16::MAX, ..Limits::for_mtu(9000) };
    for (block_size, datagrams) in [(8, 64), (1468, 44), (8968, 7)] {
        let (mut server, shelf) = (Server::new(limits), Shelf::with("f", 2_000_000));
        let options = Options { block_size: Some(block_size), window_size: Some(1_000), ..plain() };
        server.handle_packet(at(0), client(1), &read("f", options), &shelf);
        let mut out = Vec::new();
        assert_eq!(server.poll_burst(&mut out).unwrap().datagrams, 1, "the OACK");
        server.handle_packet(at(0), client(1), &Packet::Ack { block: 0 }.emit(), &shelf);
        let mut sent = 0;
        while let Some(burst) = server.poll_burst(&mut out) {
            assert!(out.len() <= BURST_BYTES && burst.datagrams <= BURST_DATAGRAMS);
            assert_eq!(out.len().div_ceil(burst.segment), burst.datagrams);
            if sent == 0 {
                assert_eq!(burst.datagrams, datagrams, "blocks of {block_size}");
            }
            sent += burst.datagrams;
        }
        let blocks = 2_000_000 / usize::from(block_size) + 1;
        assert_eq!(sent, blocks.min(1_000), "a window, no more, until it is acknowledged");
    }
}

#[test]
fn blocks_grow_with_the_mtu_and_never_fall_below_the_least() {
    assert_eq!(Limits::for_mtu(1500).max_block_size, MAX_BLOCK_SIZE);
    assert_eq!(Limits::for_mtu(9000).max_block_size, 8968);
    assert_eq!(Limits::for_mtu(0).max_block_size, MIN_BLOCK_SIZE);
}

#[test]
fn a_session_takes_little_memory_beside_the_shared_file() {
    // The session, its name, its places in three tables.
    assert!(size_of::<super::session::Session>() + MAX_NAME + 3 * 64 <= 8 << 10);
}

#[test]
fn acks_that_put_the_deadline_off_do_not_lose_it() {
    let mut bench = Bench::asked(5000, plain());
    said(&mut bench.server);
    for block in 1..5_u16 {
        assert_eq!(bench.ack(u64::from(block) * 20, block).len(), 1);
    }
    // The table of deadlines still has the one of the first ACK: it wakes early, and finds nothing to do.
    let early = bench.server.poll_timeout().unwrap();
    assert!(early < at(80 + 60), "{early}");
    assert!(bench.wait(early.as_millis()).is_empty());
    let due = bench.server.poll_timeout().unwrap();
    assert!(due >= at(80 + 60), "{due}");
    assert_eq!(bench.wait(due.as_millis() + 1), ["data 5 512"]);
}
