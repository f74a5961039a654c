//! Mutated frames against the tunnel's parser and both of its machines.
//!
//! The same frames in every run: `FUZZ_ITERATIONS` (default 200 000) and `FUZZ_SEED` choose others.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../../netboot/tests/fuzz_support/mod.rs"]
#[allow(dead_code, reason = "netboot's fuzz tests use the rest")]
mod fuzz_support;

use std::collections::BTreeSet;

use agent_wire::grpctunnel::{ClientToServer, ServerToClient};
use agent_wire::tunnel::callee::{Callee, Event, Request};
use agent_wire::tunnel::caller::{Caller, Received};
use agent_wire::tunnel::frame::{REVISION_ONE, REVISION_ZERO, TUNNEL};
use agent_wire::tunnel::{Frame, INITIAL_WINDOW, Limits, Outcome};
use bytes::Bytes;
use fuzz_support::{Random, iterations, mutated};
use prost::Message;

const LIMITS: Limits =
    Limits { max_streams: 4, max_message: 64 << 10, max_metadata: 4 << 10, window: INITIAL_WINDOW };
/// More than any frame queue of a machine may hold: refusals, opens and cancels, a few frames for each call.
const QUEUED_MAX: usize = 200;

/// A conversation of one call, and what else a peer may say.
fn from_callers() -> Vec<Vec<u8>> {
    let open = |revision| Frame::Open {
        method: "management.AgentService/Hello".into(),
        metadata: vec![("grpc-timeout".into(), "30S".into()), ("user-agent".into(), "grpc-go".into())],
        window: INITIAL_WINDOW,
        revision,
    };
    let mut frames = Vec::new();
    for id in 1..6 {
        frames.extend([
            (id, open(if id % 2 == 0 { REVISION_ZERO } else { REVISION_ONE })),
            (id, Frame::Message { size: 3, data: Bytes::from_static(b"abc") }),
            (id, Frame::Message { size: 2_000, data: vec![7; 500].into() }),
            (id, Frame::More(vec![8; 500].into())),
            (id, Frame::Message { size: 60_000, data: vec![9; 16_384].into() }),
            (id, Frame::Message { size: 0, data: Bytes::new() }),
            (id, Frame::Window(16_384)),
            (id, Frame::HalfClose),
            (id, Frame::Cancel),
        ]);
    }
    frames.into_iter().map(|(id, frame)| frame.into_caller(id).encode_to_vec()).collect()
}

fn from_callees() -> Vec<Vec<u8>> {
    let settings = Frame::Settings { revisions: vec![REVISION_ZERO, REVISION_ONE], window: INITIAL_WINDOW };
    let mut frames = vec![(TUNNEL, settings)];
    for id in 1..6 {
        frames.extend([
            (id, Frame::Headers(vec![("a-bin".into(), "AA==".into())])),
            (id, Frame::Message { size: 3, data: Bytes::from_static(b"abc") }),
            (id, Frame::Message { size: 2_000, data: vec![7; 500].into() }),
            (id, Frame::More(vec![8; 500].into())),
            (id, Frame::Message { size: 60_000, data: vec![9; 16_384].into() }),
            (id, Frame::Window(16_384)),
            (id, Frame::Close(Outcome::error(tonic::Code::Internal, "no"))),
            (id, Frame::Close(Outcome::default())),
        ]);
    }
    frames.into_iter().map(|(id, frame)| frame.into_callee(id).encode_to_vec()).collect()
}

#[test]
fn frames_are_read_or_refused_and_what_was_read_is_written_as_it_was() {
    let (callers, callees) = (from_callers(), from_callees());
    let mut random = Random::new(1);
    let mut read = 0;
    for _ in 0..iterations() {
        let corpus = if random.one_in(2) { &callers } else { &callees };
        let bytes = mutated(&mut random, corpus);
        if let Ok(wire) = ClientToServer::decode(&bytes[..]) {
            let (id, frame) = Frame::from_caller(wire);
            let again = ClientToServer::decode(&frame.clone().into_caller(id).encode_to_vec()[..]).unwrap();
            assert_eq!(Frame::from_caller(again), (id, frame), "{bytes:02x?}");
            read += 1;
        }
        if let Ok(wire) = ServerToClient::decode(&bytes[..]) {
            let (id, frame) = Frame::from_callee(wire);
            let again = ServerToClient::decode(&frame.clone().into_callee(id).encode_to_vec()[..]).unwrap();
            assert_eq!(Frame::from_callee(again), (id, frame), "{bytes:02x?}");
            read += 1;
        }
    }
    // The mutations are mild enough to get past the first check, most of the time.
    assert!(read > iterations() / 4, "{read}");
}

#[test]
fn the_end_that_serves_stays_within_its_limits_whatever_a_caller_sends() {
    let corpus = from_callers();
    let mut random = Random::new(2);
    let mut callee = Callee::new(LIMITS, true);
    let mut live = BTreeSet::new();
    let (mut opened, mut tunnels) = (0_u64, 0_u64);
    for _ in 0..iterations() {
        if callee.can_receive()
            && let Ok(wire) = ClientToServer::decode(&mutated(&mut random, &corpus)[..])
        {
            let (id, frame) = Frame::from_caller(wire);
            if callee.handle_frame(id, frame).is_err() || random.one_in(500) {
                callee.fail();
                events(&mut callee, &mut live, &mut opened);
                assert!(live.is_empty() && callee.active() == 0, "a tunnel's end is the end of its calls");
                callee = Callee::new(LIMITS, random.one_in(2));
                tunnels += 1;
            }
        }
        events(&mut callee, &mut live, &mut opened);
        assert!(callee.active() <= LIMITS.max_streams);
        if let Some(&id) = live.iter().nth(random.below(live.len())) {
            match random.below(5) {
                0 => {
                    if let Request::Message(message) = callee.recv(id) {
                        assert!(message.len() <= LIMITS.max_message);
                    }
                }
                1 if callee.can_send(id) => drop(callee.send(id, vec![1; random.below(40_000)].into())),
                2 => callee.headers(id, vec![("k".into(), "v".into())]),
                3 if random.one_in(4) => callee.close(id, Outcome::default()),
                _ => {}
            }
        }
        // A link that stalls for long, and then takes everything.
        if random.one_in(50) || !callee.can_receive() {
            let mut frames = 0;
            while callee.poll_transmit().is_some() {
                frames += 1;
                assert!(frames <= QUEUED_MAX, "frames pile up");
            }
            live.iter().copied().for_each(|id| while matches!(callee.recv(id), Request::Message(_)) {});
            events(&mut callee, &mut live, &mut opened);
            live.retain(|id| callee.recv(*id) != Request::Gone);
        }
    }
    assert!(opened > iterations() / 200 && tunnels > 10, "{opened} calls, {tunnels} tunnels");
}

fn events(callee: &mut Callee, live: &mut BTreeSet<i64>, opened: &mut u64) {
    while let Some(event) = callee.poll_event() {
        match event {
            Event::Opened { id, .. } => {
                live.insert(id);
                *opened += 1;
            }
            Event::Cancelled(id) => drop(live.remove(&id)),
            Event::Readable(_) | Event::Writable(_) => {}
        }
    }
}

#[test]
fn the_end_that_calls_stays_within_its_limits_whatever_a_callee_sends() {
    let corpus = from_callees();
    let mut random = Random::new(3);
    let mut caller = Caller::new(LIMITS, true);
    let mut live = Vec::new();
    let (mut opened, mut ended) = (0_u64, 0_u64);
    for _ in 0..iterations() {
        if random.one_in(3)
            && let Ok(id) = caller.open("/management.AgentService/Hello", vec![])
        {
            live.push(id);
            opened += 1;
        }
        if caller.can_receive()
            && let Ok(wire) = ServerToClient::decode(&mutated(&mut random, &corpus)[..])
        {
            let (id, frame) = Frame::from_callee(wire);
            if caller.handle_frame(id, frame).is_err() || random.one_in(500) {
                caller.fail(Outcome::error(tonic::Code::Unavailable, "over"));
                for id in live.drain(..) {
                    while !matches!(caller.recv(id), Received::Over(_)) {}
                    ended += 1;
                }
                assert_eq!(caller.active(), 0);
                caller = Caller::new(LIMITS, random.one_in(2));
            }
        }
        while caller.poll_event().is_some() {}
        assert!(caller.active() <= LIMITS.max_streams);
        if !live.is_empty() {
            let at = random.below(live.len());
            let id = live[at];
            match random.below(6) {
                0 | 1 => match caller.recv(id) {
                    Received::Message(message) => assert!(message.len() <= LIMITS.max_message),
                    Received::Over(_) => {
                        live.swap_remove(at);
                        ended += 1;
                    }
                    Received::Headers(_) | Received::Pending => {}
                },
                2 if caller.can_send(id) => drop(caller.send(id, vec![1; random.below(40_000)].into())),
                3 => caller.half_close(id),
                4 if random.one_in(8) => {
                    caller.cancel(id);
                    live.swap_remove(at);
                    ended += 1;
                }
                _ => {}
            }
        }
        if random.one_in(50) || !caller.can_receive() {
            let mut frames = 0;
            while caller.poll_transmit().is_some() {
                frames += 1;
                assert!(frames <= QUEUED_MAX, "frames pile up");
            }
            // Readers keep up, else a tunnel without windows stays clogged.
            for id in &live {
                while matches!(caller.recv(*id), Received::Message(_)) {}
            }
        }
    }
    assert!(opened > iterations() / 200 && ended + LIMITS.max_streams as u64 >= opened, "{opened} {ended}");
}
