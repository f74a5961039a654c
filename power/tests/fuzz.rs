//! Mutated packets and answers of a BMC against the parsers, IPMI's session and Redfish's dialogue.
//!
//! The same packets in every run: `FUZZ_ITERATIONS` (default 200 000) and `FUZZ_SEED` choose others.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../netboot/tests/fuzz_support/mod.rs"]
#[allow(dead_code, reason = "netboot's fuzz tests use the rest")]
mod fuzz_support;

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use fuzz_support::{Random, iterations, mutated};
use power::PxeMode;
use power::ipmi::crypto::{Keys, Suite};
use power::ipmi::packet::{self, Message, OpenResponse, Payload, Rakp2, Rakp4};
use power::ipmi::session::{Event, Login, Session};
use power::redfish::dialogue::{Done, Known, Order, REQUESTS_MAX, carry_out};
use power::redfish::wire::{self, Answer, Request, Target, Wire};

fn keys() -> Keys {
    Keys::new(Suite::Sha1, &[7; 20])
}

/// What a BMC says from the first answer to the last, to a console whose ids and numbers begin with one.
fn corpus() -> Vec<Vec<u8>> {
    let response = |number: u8, function: u8, command: u8, data: &[u8]| Message {
        function,
        number,
        command,
        data: data.to_vec(),
    };
    let mut corpus = Vec::new();
    for number in 1..5 {
        corpus.push(packet::emit_bare(&response(number, 7, 0x38, &[0, 1, 0x80, 4, 2, 0, 0, 0, 0])));
        let session =
            packet::emit_sealed(&keys(), 1, number.into(), &response(number, 1, 1, &[0, 1]), [3; 16]);
        corpus.push(session);
    }
    let mut open = vec![1, 0, 4, 0, 1, 0, 0, 0, 9, 9, 9, 9];
    for (kind, algorithm) in [(0, 3), (1, 4), (2, 1)] {
        open.extend([kind, 0, 0, 8, algorithm, 0, 0, 0]);
    }
    corpus.push(packet::emit_open(Payload::OpenResponse, &open));
    corpus.push(packet::emit_open(Payload::OpenResponse, &[1, 0x11, 0, 0, 1, 0, 0, 0]));
    corpus.push(packet::emit_open(Payload::Rakp2, &[vec![2, 0, 0, 0, 1, 0, 0, 0], vec![5; 64]].concat()));
    corpus.push(packet::emit_open(Payload::Rakp2, &[2, 0x0d, 0, 0, 1, 0, 0, 0]));
    corpus.push(packet::emit_open(Payload::Rakp4, &[vec![3, 0, 0, 0, 1, 0, 0, 0], vec![5; 16]].concat()));
    corpus
}

#[test]
fn packets_are_read_or_refused() {
    let (corpus, keys) = (corpus(), keys());
    let mut random = Random::new(11);
    let (mut read, mut opened) = (0_u64, 0_u64);
    for _ in 0..iterations() {
        let bytes = mutated(&mut random, &corpus);
        for keys in [None, Some(&keys)] {
            let Ok(packet) = packet::parse(&bytes, keys) else { continue };
            read += 1;
            assert!(packet.session == 0 || keys.is_some(), "{bytes:02x?}");
            opened += u64::from(packet.session != 0);
            if let Ok(message) = Message::parse(&packet.data) {
                let again = Message::parse(&message.emit()).unwrap();
                assert_eq!(again, message, "{bytes:02x?}");
            }
            let _ = OpenResponse::parse(&packet.data);
            let _ = Rakp2::parse(&packet.data);
            let _ = Rakp4::parse(&packet.data);
        }
    }
    // The mutations are mild enough to get past the first check, most of the time; but not past a signature.
    assert!(read > iterations() / 4 && opened > iterations() / 100, "{read} {opened}");
}

#[test]
fn a_session_always_ends_and_never_believes_what_is_not_signed() {
    let corpus = corpus();
    let mut random = Random::new(12);
    for _ in 0..iterations() / 50 {
        // Ids are one, so that the corpus is for us.
        let ones = Box::new(|bytes: &mut [u8]| {
            bytes.fill(0);
            bytes[0] = 1;
        });
        let login = Login::new("admin", "secret").unwrap();
        let mut now = Instant::now();
        let mut session = Session::new(now, login, Suite::Sha256, ones);
        let mut sent = 0;
        let failed = loop {
            while session.poll_transmit().is_some() {
                sent += 1;
            }
            match session.poll_event() {
                Some(Event::Failed(_)) => break true,
                Some(Event::Ready | Event::Answer { .. }) => break false,
                None => {}
            }
            if random.one_in(8) {
                now = session.poll_timeout().unwrap();
                session.handle_timeout(now);
            } else {
                now += Duration::from_millis(1);
                session.handle_packet(now, &mutated(&mut random, &corpus));
            }
        };
        assert!(failed, "nobody who does not know the password lets us in");
        assert!(sent < 40, "{sent} packets");
        assert_eq!(session.poll_timeout(), None);
    }
}

/// Heads and bodies of the transcripts.
fn answers() -> Vec<Vec<u8>> {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/redfish/golden");
    let mut answers = Vec::new();
    for file in std::fs::read_dir(golden).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let parts = text.split("\n< ").skip(1);
        answers.extend(parts.map(|part| part.split("\n>").next().unwrap().as_bytes().to_vec()));
    }
    assert!(answers.len() > 50);
    answers
}

/// Says anything: the answers of all makers in any order, and bent.
struct Chaos<'a> {
    answers: &'a [Vec<u8>],
    random: &'a mut Random,
    asked: usize,
}

impl Wire for Chaos<'_> {
    type Error = ();

    async fn ask(&mut self, request: &Request) -> Result<Answer, ()> {
        self.asked += 1;
        // What is asked can be sent.
        assert!(request.path.parse::<http::uri::PathAndQuery>().is_ok(), "{request}");
        assert!(request.path.starts_with('/') && !request.path.starts_with("//"), "{request}");
        let bytes = match self.random.one_in(2) {
            true => self.answers[self.random.below(self.answers.len())].clone(),
            false => mutated(self.random, self.answers),
        };
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let body = bytes.get(end + 1..).unwrap_or_default().to_vec();
        let mut words = head.splitn(2, ' ');
        let status = words.next().and_then(|status| status.parse::<u16>().ok()).unwrap_or(200);
        let mut answer = http::Response::new(body.into());
        *answer.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
        for header in words.next().unwrap_or_default().split(" | ") {
            let Some((name, value)) = header.split_once(": ") else { continue };
            let name = http::HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, http::HeaderValue::from_bytes(value.as_bytes())) {
                answer.headers_mut().insert(name, value);
            }
        }
        Ok(answer)
    }

    async fn pause(&mut self, _: Duration) {}
}

#[test]
fn a_redfish_dialogue_always_ends_and_asks_for_paths_only() {
    let answers = answers();
    let mut random = Random::new(13);
    let login = wire::Login::new("root", "calvin-1");
    let origin = "https://192.0.2.7:443".to_owned();
    let machine = Some("4c4c4544-0044-4810-8031-b2c04f595831".parse().unwrap());
    let target = Target { origin, machine, set_mode: true };
    let orders = [Order::Look, Order::On, Order::Off, Order::Restart, Order::BootNetwork(PxeMode::Uefi)];
    let (mut known, mut done, mut requests) = (Known::default(), 0_u64, 0_usize);
    for round in 0..iterations() / 20 {
        let order = orders[usize::try_from(round).unwrap() % orders.len()];
        let mut chaos = Chaos { answers: &answers, random: &mut random, asked: 0 };
        let result = carry_out(&mut chaos, &login, &target, &mut known, order).now_or_never().unwrap();
        assert!(chaos.asked <= REQUESTS_MAX, "{order:?}");
        requests += chaos.asked;
        if let Ok(Done { doubt, .. }) = &result {
            done += 1;
            assert!(doubt.as_ref().is_none_or(|doubt| doubt.chars().count() <= 200));
        }
        assert!(!format!("{result:?} {known:?}").contains("calvin-1"), "{result:?}");
        // From the beginning, or from the middle.
        if random.one_in(4) {
            known = Known::default();
        } else if random.one_in(2) {
            known.auth = Some(wire::Auth::Basic("bG9naW4=".to_owned()));
            known.system = Some("/redfish/v1/Systems/1".to_owned());
        }
    }
    // Some get through: the answers are not too bent to be read.
    assert!(done > iterations() / 200 && requests > 1_000, "{done} {requests}");
}
