//! Properties: server and client over a link that loses, repeats, reorders and delays always end.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 69);

/// How bad the link is, in percent and milliseconds.
#[derive(Clone, Copy, Debug)]
struct Weather {
    loss: u64,
    repeat: u64,
    late: u64,
    delay_ms: u64,
    seed: u64,
}

/// The seeded numbers of one run (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound.max(1)
    }
}

/// One packet underway: when it arrives, a number that keeps the order, whether to the server, its bytes.
type Underway = Reverse<(Time, u64, bool, Vec<u8>)>;

struct Link {
    weather: Weather,
    dice: Dice,
    underway: BinaryHeap<Underway>,
    sent: u64,
}

impl Link {
    fn send(&mut self, now: Time, to_server: bool, bytes: &[u8]) {
        if self.dice.roll(100) < self.weather.loss {
            return;
        }
        let copies = if self.dice.roll(100) < self.weather.repeat { 2 } else { 1 };
        for _ in 0..copies {
            let late = self.dice.roll(100) < self.weather.late;
            let delay = self.weather.delay_ms * 1_000 * if late { 1 + self.dice.roll(20) } else { 1 };
            self.sent += 1;
            let arrival = now + Duration::from_micros(delay + 50);
            self.underway.push(Reverse((arrival, self.sent, to_server, bytes.to_vec())));
        }
    }
}

/// Runs one download to its end; the result, and packets sent for it.
fn download(length: usize, options: Options, weather: Weather) -> (Result<Vec<u8>, ClientError>, u64) {
    let (result, sent, _) = timed_download(length, options, weather);
    (result, sent)
}

/// As [`download`], with the time that the client took.
fn timed_download(
    length: usize,
    options: Options,
    weather: Weather,
) -> (Result<Vec<u8>, ClientError>, u64, Duration) {
    let mut server = Server::new(Limits::default());
    let shelf = Shelf::with("f", length);
    let wanted = Wanted { server: SERVER, name: "f".into(), options, max_bytes: length };
    let mut reader = Client::new(Time::ZERO, wanted);
    let dice = Dice(weather.seed | 1);
    let mut link = Link { weather, dice, underway: BinaryHeap::new(), sent: 0 };
    let (mut now, mut ended) = (Time::ZERO, None);
    let blocks = length / usize::from(options.block_size.unwrap_or(512).min(MAX_BLOCK_SIZE)) + 1;
    // Each block may need a few waits of 4 s at worst; a minute for the rest.
    let bound = Time::ZERO + Duration::from_secs(60 + 20 * blocks as u64);
    loop {
        while let Some((_, bytes)) = reader.poll_transmit() {
            link.send(now, true, &bytes);
        }
        while let Some((peer, bytes)) = server.poll_transmit() {
            assert_eq!(peer, client(2000));
            link.send(now, false, &bytes);
        }
        while server.poll_event().is_some() {}
        if ended.is_none() && reader.outcome().is_some() {
            ended = Some(now);
        }
        let arrival = link.underway.peek().map(|Reverse((arrival, ..))| *arrival);
        let next = [arrival, server.poll_timeout(), reader.poll_timeout()].into_iter().flatten().min();
        // The server too must come to an end, after the client has.
        let Some(next) = next else { break };
        assert!(next >= now || arrival.is_none_or(|arrival| arrival > next), "time runs forward");
        now = now.max(next);
        assert!(now < bound, "still running at {now} with {} bytes", reader.received());
        if arrival.is_some_and(|arrival| arrival <= now) {
            let Some(Reverse((_, _, to_server, bytes))) = link.underway.pop() else { break };
            if to_server {
                server.handle_packet(now, client(2000), &bytes, &shelf);
            } else {
                reader.handle_packet(now, SERVER, &bytes);
            }
        } else {
            server.handle_timeout(now);
            reader.handle_timeout(now);
        }
    }
    assert_eq!(server.sessions(), 0, "no session is left behind");
    let outcome = reader.outcome().expect("the client has ended");
    let took = ended.unwrap_or(now).since(Time::ZERO);
    (outcome.map(<[u8]>::to_vec).map_err(Clone::clone), link.sent, took)
}

fn assert_right(length: usize, options: Options, weather: Weather) {
    let (result, _) = download(length, options, weather);
    assert!(result.as_deref() == Ok(&bytes(length)[..]), "{options:?} {weather:?}: wrong or no bytes");
}

const CLEAN: Weather = Weather { loss: 0, repeat: 0, late: 0, delay_ms: 1, seed: 1 };

#[test]
fn a_clean_link_carries_every_size_in_the_least_packets() {
    for block_size in [8, 512, 1468] {
        for length in [0, 1, 7, 8, 511, 512, 513, 1468, 2936, 30_000] {
            for blocks in [1, 4, 64] {
                let options = Options {
                    block_size: Some(block_size),
                    window_size: Some(blocks),
                    transfer_size: Some(0),
                    timeout_secs: None,
                };
                let (result, sent) = download(length, options, CLEAN);
                assert_eq!(result.as_deref(), Ok(&bytes(length)[..]));
                let data = (length / usize::from(block_size) + 1) as u64;
                assert_eq!(sent, 3 + data + data.div_ceil(blocks.into()), "RRQ, OACK, ACK 0, blocks, ACKs");
            }
        }
    }
}

/// What others need 3 to 16 s for: 256 KiB to 20 clients, 1 % lost each way, 1 ms each way. Several rounds of 20,
/// since 20 alone say little of the slowest.
#[test]
fn one_percent_of_loss_costs_tenths_of_a_second() {
    for (blocks, limit_ms) in [(1, 3_000), (4, 1_500), (16, 1_500)] {
        let mut times: Vec<Duration> = (0..200_u64)
            .map(|seed| {
                let weather = Weather { loss: 1, seed: seed * 7_919 + 1, ..CLEAN };
                let options = Options { block_size: Some(1468), window_size: Some(blocks), ..plain() };
                let (result, _, took) = timed_download(256 << 10, options, weather);
                assert!(result.is_ok(), "every client gets its file");
                took
            })
            .collect();
        times.sort();
        let (p50, p99, worst) = (times[100], times[197], times[199]);
        println!("window {blocks}: p50 {p50:?}, p99 {p99:?}, worst {worst:?}");
        assert!(p99 <= Duration::from_millis(limit_ms), "window {blocks}: p99 {p99:?}, worst {worst:?}");
    }
}

#[test]
fn a_repeating_link_does_not_multiply_packets() {
    let weather = Weather { repeat: 100, ..CLEAN };
    for blocks in [1, 8] {
        let (result, sent) = download(80_000, Options { window_size: Some(blocks), ..plain() }, weather);
        assert!(result.is_ok());
        let clean = download(80_000, Options { window_size: Some(blocks), ..plain() }, CLEAN).1;
        assert!(sent <= clean * 7, "{sent} packets where a clean link needs {clean}");
    }
}

#[test]
fn files_of_more_than_65535_blocks_come_through_a_bad_link() {
    for (seed, blocks) in [(3, 1), (5, 16)] {
        let weather = Weather { loss: 1, repeat: 2, late: 2, delay_ms: 1, seed };
        let options = Options { block_size: Some(8), window_size: Some(blocks), ..plain() };
        assert_right(600_000, options, weather);
    }
}

#[test]
fn a_server_that_is_gone_is_given_up() {
    let weather = Weather { loss: 100, ..CLEAN };
    assert_eq!(download(100, plain(), weather).0, Err(ClientError::Silent));
}

fn any_weather(worst: u64) -> impl Strategy<Value = Weather> {
    (0..=worst, 0..=worst, 0..=worst, 0..30_u64, any::<u64>())
        .prop_map(|(loss, repeat, late, delay_ms, seed)| Weather { loss, repeat, late, delay_ms, seed })
}

fn any_request() -> impl Strategy<Value = (usize, Options)> {
    let block_size = proptest::option::of(prop_oneof![Just(8_u16), 8..2000_u16, Just(65_464)]);
    let window_size = proptest::option::of(prop_oneof![Just(1_u16), 1..100_u16, Just(65_535)]);
    let timeout_secs = proptest::option::of(1..=255_u8);
    (block_size, window_size, timeout_secs, 0..60_usize, -1..=1_isize).prop_map(
        |(block_size, window_size, timeout_secs, blocks, more)| {
            let block = usize::from(block_size.unwrap_or(512).min(MAX_BLOCK_SIZE));
            let length = (blocks * block).saturating_add_signed(more);
            (length, Options { block_size, window_size, timeout_secs, transfer_size: Some(0) })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, rng_seed: RngSeed::Fixed(69), ..ProptestConfig::default() })]

    #[test]
    fn a_bad_link_ends_with_the_file_or_a_clear_error(
        (length, options) in any_request(),
        weather in any_weather(30),
    ) {
        let (result, _) = download(length, options, weather);
        match result {
            Ok(data) => prop_assert!(data == bytes(length), "wrong bytes"),
            Err(ClientError::Silent | ClientError::Server { .. }) => {}
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn a_poor_link_ends_with_the_file((length, options) in any_request(), weather in any_weather(5)) {
        let (result, _) = download(length, options, weather);
        prop_assert!(result.as_deref() == Ok(&bytes(length)[..]), "{:?}", result.map(|data| data.len()));
    }

    #[test]
    fn the_server_survives_any_packets(
        packets in proptest::collection::vec((0..4_u16, 0..8_u8, proptest::collection::vec(
            prop_oneof![Just(0_u8), Just(1_u8), Just(b'f'), any::<u8>()], 0..40), 0..9_000_u64), 0..60),
    ) {
        let (mut server, shelf) = (Server::new(Limits::default()), Shelf::with("f", 3_000));
        let mut now = Time::ZERO;
        for (port, opcode, rest, millis) in packets {
            now = now + Duration::from_millis(millis);
            server.handle_timeout(now);
            let packet = [&[0, opcode], rest.as_slice()].concat();
            server.handle_packet(now, client(port), &packet, &shelf);
            if opcode == 1 {
                server.handle_packet(now, client(port), &read("f", window(u16::from(rest.len() as u8))), &shelf);
            }
            let sent = std::iter::from_fn(|| server.poll_transmit()).count();
            prop_assert!(sent <= 4 * 64 + 2, "{sent} packets");
        }
        while let Some(deadline) = server.poll_timeout() {
            server.handle_timeout(deadline);
            while server.poll_transmit().is_some() {}
        }
        prop_assert_eq!(server.sessions(), 0);
    }
}
