//! Mutated packets of a BMC against the parser and the session.
//!
//! The same packets in every run: `FUZZ_ITERATIONS` (default 200 000) and `FUZZ_SEED` choose others.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../netboot/tests/fuzz_support/mod.rs"]
#[allow(dead_code, reason = "netboot's fuzz tests use the rest")]
mod fuzz_support;

use std::time::{Duration, Instant};

use fuzz_support::{Random, iterations, mutated};
use power::ipmi::crypto::{Keys, Suite};
use power::ipmi::packet::{self, Message, OpenResponse, Payload, Rakp2, Rakp4};
use power::ipmi::session::{Event, Login, Session};

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
