use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::callee::{self, Callee, Request};
use super::caller::{self, Caller, OpenError, Received, Refused};
use super::frame::{REVISION_ONE, REVISION_ZERO, TUNNEL};
use super::*;
use crate::grpctunnel::{ClientToServer, ServerToClient};

const LIMITS: Limits =
    Limits { max_streams: 3, max_message: 256 << 10, max_metadata: 1 << 10, window: INITIAL_WINDOW };

fn settings(revisions: &[i32]) -> Frame {
    Frame::Settings { revisions: revisions.to_vec(), window: INITIAL_WINDOW }
}

fn ready_caller() -> Caller {
    let mut caller = Caller::new(LIMITS, true);
    caller.handle_frame(TUNNEL, settings(&[REVISION_ZERO, REVISION_ONE])).unwrap();
    caller
}

fn callee_with_call() -> Callee {
    let mut callee = Callee::new(LIMITS, false);
    callee.handle_frame(1, open(REVISION_ONE)).unwrap();
    callee
}

fn open(revision: i32) -> Frame {
    Frame::Open { method: "/a.B/C".into(), metadata: vec![], window: INITIAL_WINDOW, revision }
}

fn message(size: usize) -> Frame {
    Frame::Message { size: u32::try_from(size).unwrap(), data: Bytes::from(vec![7; size]) }
}

#[test]
fn an_unread_message_keeps_nothing_of_what_came_with_it() {
    let came = Bytes::from(vec![7; 9_000]);
    let mut caller = ready_caller();
    let id = caller.open("/a.B/C", vec![]).unwrap();
    caller.handle_frame(id, Frame::Message { size: 1, data: came.slice(..1) }).unwrap();
    assert!(came.is_unique(), "9,000 bytes are kept for one");
    assert_eq!(caller.recv(id), Received::Message(Bytes::from_static(&[7])));
}

#[test]
fn no_call_begins_before_the_settings() {
    let mut caller = Caller::new(LIMITS, true);
    assert_eq!(caller.open("/a.B/C", vec![]), Err(OpenError::NotReady));
    assert_eq!(caller.handle_frame(1, message(1)), Err(TunnelError::NoSettings));
}

#[test]
fn settings_choose_the_highest_common_revision() {
    for (offered, expected) in [
        (&[REVISION_ZERO, REVISION_ONE][..], Ok(REVISION_ONE)),
        (&[REVISION_ZERO], Ok(REVISION_ZERO)),
        (&[], Ok(REVISION_ZERO)),
        (&[9], Err(TunnelError::Revision)),
    ] {
        let mut caller = Caller::new(LIMITS, true);
        let result = caller.handle_frame(TUNNEL, settings(offered)).map(|()| {
            caller.open("/a.B/C", vec![]).unwrap();
            match caller.poll_transmit().unwrap().1 {
                Frame::Open { revision, .. } => revision,
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(result, expected);
    }
}

#[test]
fn settings_after_the_first_frame_end_the_tunnel() {
    let mut caller = ready_caller();
    assert_eq!(caller.handle_frame(TUNNEL, settings(&[1])), Err(TunnelError::StraySettings));
    assert_eq!(Caller::new(LIMITS, true).handle_frame(1, settings(&[1])), Err(TunnelError::StraySettings));
}

#[test]
fn frames_for_calls_that_never_began_end_the_tunnel() {
    assert_eq!(ready_caller().handle_frame(1, message(1)), Err(TunnelError::UnknownStream(1)));
    assert_eq!(callee_with_call().handle_frame(2, message(1)), Err(TunnelError::UnknownStream(2)));
    assert_eq!(callee_with_call().handle_frame(1, open(1)), Err(TunnelError::StreamReused(1)));
    assert_eq!(callee_with_call().handle_frame(0, open(1)), Err(TunnelError::StreamReused(0)));
}

#[test]
fn frames_for_calls_that_are_over_are_ignored() {
    let mut caller = ready_caller();
    let id = caller.open("/a.B/C", vec![]).unwrap();
    caller.cancel(id);
    assert_eq!(caller.handle_frame(id, message(1)), Ok(()));
    let mut callee = callee_with_call();
    callee.handle_frame(1, Frame::Cancel).unwrap();
    assert_eq!(callee.handle_frame(1, message(1)), Ok(()));
    assert_eq!(callee.recv(1), Request::Gone);
}

#[test]
fn more_calls_than_the_limit_are_refused_on_both_sides() {
    let mut caller = ready_caller();
    for _ in 0..LIMITS.max_streams {
        caller.open("/a.B/C", vec![]).unwrap();
    }
    assert_eq!(caller.open("/a.B/C", vec![]), Err(OpenError::TooMany));

    let mut callee = Callee::new(LIMITS, false);
    for id in 1..=4 {
        callee.handle_frame(id, open(REVISION_ONE)).unwrap();
    }
    let (id, Frame::Close(outcome)) = callee.poll_transmit().unwrap() else { panic!("no close") };
    assert_eq!((id, outcome.code), (4, tonic::Code::ResourceExhausted as i32));
    assert_eq!(callee.active(), 3);
}

#[test]
fn opens_and_cancels_do_not_pile_up_on_a_stalled_link() {
    let mut caller = ready_caller();
    let refused = (0..1000).any(|_| match caller.open("/a.B/C", vec![]) {
        Ok(id) => {
            caller.cancel(id);
            false
        }
        Err(error) => error == OpenError::TooMany,
    });
    assert!(refused);
}

#[test]
fn an_unknown_revision_is_refused_for_the_call_alone() {
    let mut callee = Callee::new(LIMITS, false);
    callee.handle_frame(1, open(7)).unwrap();
    let (1, Frame::Close(outcome)) = callee.poll_transmit().unwrap() else { panic!("no close") };
    assert_eq!(outcome.code, tonic::Code::Unavailable as i32);
}

#[test]
fn a_peer_that_overruns_the_window_loses_the_call() {
    let mut callee = callee_with_call();
    for _ in 0..4 {
        callee.handle_frame(1, message(CHUNK)).unwrap();
    }
    callee.handle_frame(1, message(1)).unwrap();
    let (1, Frame::Close(outcome)) = callee.poll_transmit().unwrap() else { panic!("no close") };
    assert_eq!(outcome.code, tonic::Code::ResourceExhausted as i32);
}

#[test]
fn malformed_messages_end_the_call_and_not_the_tunnel() {
    let over = Bytes::from_static(b"xyz");
    for frames in [
        vec![Frame::More(over.clone())],
        vec![Frame::Message { size: 2, data: over.clone() }],
        vec![Frame::Message { size: 4, data: over.clone() }, Frame::More(over.clone())],
        vec![Frame::Message { size: 4, data: over.clone() }, message(1)],
        vec![Frame::Message { size: u32::MAX, data: over.clone() }],
        vec![Frame::Message { size: 4, data: over }, Frame::HalfClose],
        vec![Frame::Unknown],
        vec![Frame::Headers(vec![])],
    ] {
        let mut callee = callee_with_call();
        for frame in frames {
            callee.handle_frame(1, frame).unwrap();
        }
        assert!(matches!(callee.poll_transmit(), Some((1, Frame::Close(_)))));
        assert_eq!(callee.active(), 0);
    }
}

#[test]
fn empty_messages_have_a_limit() {
    let mut callee = callee_with_call();
    for _ in 0..2000 {
        callee.handle_frame(1, message(0)).unwrap();
    }
    assert_eq!(callee.active(), 0);
}

#[test]
fn window_is_given_back_only_to_a_reader_that_keeps_up() {
    let mut callee = callee_with_call();
    callee.handle_frame(1, message(CHUNK)).unwrap();
    assert_eq!(callee.poll_transmit(), None);
    assert!(matches!(callee.recv(1), Request::Message(_)));
    assert_eq!(callee.poll_transmit(), Some((1, Frame::Window(CHUNK as u32))));
}

#[test]
fn without_flow_control_a_full_inbox_stops_the_tunnel_from_being_read() {
    let mut callee = Callee::new(LIMITS, false);
    callee.handle_frame(1, open(REVISION_ZERO)).unwrap();
    callee.handle_frame(1, message(CHUNK)).unwrap();
    assert!(callee.can_receive());
    callee.handle_frame(1, message(100_000)).unwrap();
    assert!(!callee.can_receive());
    callee.recv(1);
    callee.recv(1);
    assert!(callee.can_receive());
}

#[test]
fn headers_over_the_limit_end_the_call() {
    let mut caller = ready_caller();
    let id = caller.open("/a.B/C", vec![]).unwrap();
    let long = vec![("k".to_owned(), "v".repeat(LIMITS.max_metadata))];
    caller.handle_frame(id, Frame::Headers(long.clone())).unwrap();
    let Received::Over(outcome) = caller.recv(id) else { panic!("not over") };
    assert_eq!(outcome.message, "headers of 1025 bytes are over the limit of 1024");

    let mut callee = Callee::new(LIMITS, false);
    let open = Frame::Open { method: "/a.B/C".into(), metadata: long, window: 1, revision: REVISION_ONE };
    callee.handle_frame(1, open).unwrap();
    let (1, Frame::Close(outcome)) = callee.poll_transmit().unwrap() else { panic!("no close") };
    assert_eq!(outcome.code, tonic::Code::ResourceExhausted as i32);
}

#[test]
fn a_small_window_is_announced_kept_and_given_back() {
    let mut caller = Caller::new(Limits { window: 1_000, ..LIMITS }, true);
    caller.handle_frame(TUNNEL, settings(&[REVISION_ONE])).unwrap();
    let id = caller.open("/a.B/C", vec![]).unwrap();
    assert!(matches!(caller.poll_transmit(), Some((_, Frame::Open { window: 1_000, .. }))));
    caller.handle_frame(id, message(1_000)).unwrap();
    assert!(matches!(caller.recv(id), Received::Message(_)));
    assert_eq!(caller.poll_transmit(), Some((id, Frame::Window(1_000))));
    caller.handle_frame(id, message(1_001)).unwrap();
    let Received::Over(outcome) = caller.recv(id) else { panic!("not over") };
    assert_eq!(outcome.message, "flow control window exceeded");
}

#[test]
fn an_answer_that_ends_within_a_message_is_an_error() {
    let mut caller = ready_caller();
    let id = caller.open("/a.B/C", vec![]).unwrap();
    caller.handle_frame(id, Frame::Message { size: 9, data: Bytes::from_static(b"x") }).unwrap();
    caller.handle_frame(id, Frame::Close(Outcome::default())).unwrap();
    let Received::Over(outcome) = caller.recv(id) else { panic!("not over") };
    assert_eq!(outcome.code, tonic::Code::Internal as i32);
}

#[test]
fn headers_go_before_messages_and_the_end_behind_them() {
    let mut callee = callee_with_call();
    callee.send(1, Bytes::from_static(b"x")).unwrap();
    assert_eq!(callee.send(1, Bytes::new()), Err(Refused(Bytes::new())));
    callee.close(1, Outcome::default());
    assert_eq!(callee.poll_transmit(), Some((1, Frame::Headers(vec![]))));
    assert_eq!(callee.poll_transmit(), Some((1, message_of(b"x"))));
    assert_eq!(callee.poll_transmit(), Some((1, Frame::Close(Outcome::default()))));
    assert_eq!(callee.poll_transmit(), None);
}

fn message_of(data: &'static [u8]) -> Frame {
    Frame::Message { size: data.len() as u32, data: Bytes::from_static(data) }
}

#[test]
fn a_failed_tunnel_ends_every_call() {
    let mut caller = ready_caller();
    let id = caller.open("/a.B/C", vec![]).unwrap();
    caller.fail(Outcome::error(tonic::Code::Unavailable, "gone"));
    assert!(matches!(caller.recv(id), Received::Over(outcome) if outcome.message == "gone"));
    assert_eq!(caller.open("/a.B/C", vec![]), Err(OpenError::Closed("gone".into())));
    assert!(caller.can_send(id));
    assert_eq!(caller.active(), 0);
}

/// Two machines, a link that holds frames back, and an echo service.
struct World {
    caller: Caller,
    callee: Callee,
    up: VecDeque<Vec<u8>>,
    down: VecDeque<Vec<u8>>,
    requests: BTreeMap<i64, VecDeque<Bytes>>,
    expected: BTreeMap<i64, Vec<Bytes>>,
    answers: BTreeMap<i64, Vec<Bytes>>,
    ended: BTreeMap<i64, Outcome>,
    serving: BTreeMap<i64, Option<Bytes>>,
    dead: bool,
}

const LINK: usize = 4;

impl World {
    fn new(negotiated: bool) -> Self {
        Self {
            caller: Caller::new(LIMITS, negotiated),
            callee: Callee::new(LIMITS, negotiated),
            up: VecDeque::new(),
            down: VecDeque::new(),
            requests: BTreeMap::new(),
            expected: BTreeMap::new(),
            answers: BTreeMap::new(),
            ended: BTreeMap::new(),
            serving: BTreeMap::new(),
            dead: false,
        }
    }

    fn begin(&mut self, messages: &[usize]) -> bool {
        let Ok(id) = self.caller.open("/echo.Echo/Echo", vec![("k".into(), "v".into())]) else {
            return false;
        };
        let messages: Vec<Bytes> = messages
            .iter()
            .enumerate()
            .map(|(index, size)| Bytes::from(vec![index as u8 ^ id as u8; *size]))
            .collect();
        self.requests.insert(id, messages.iter().cloned().collect());
        self.expected.insert(id, messages);
        self.answers.insert(id, vec![]);
        true
    }

    /// One of the things that can happen; says whether something did.
    fn step(&mut self, kind: u8, which: usize) -> bool {
        match kind {
            0 => self.up.len() < LINK && self.transmit_up(),
            1 => self.down.len() < LINK && self.transmit_down(),
            2 => self.callee.can_receive() && self.deliver_up(),
            3 => self.caller.can_receive() && self.deliver_down(),
            4 => self.pick(which).is_some_and(|id| self.client_sends(id)),
            5 => self.pick(which).is_some_and(|id| self.client_reads(id)),
            _ => {
                let id = self.serving.keys().nth(which % self.serving.len().max(1)).copied();
                id.is_some_and(|id| self.server_echoes(id))
            }
        }
    }

    fn pick(&self, which: usize) -> Option<i64> {
        let live: Vec<i64> = self.answers.keys().filter(|id| !self.ended.contains_key(id)).copied().collect();
        live.get(which % live.len().max(1)).copied()
    }

    fn transmit_up(&mut self) -> bool {
        let frame = self.caller.poll_transmit();
        self.up.extend(frame.as_ref().map(|(id, frame)| frame.clone().into_caller(*id).encode_to_vec()));
        frame.is_some()
    }

    fn transmit_down(&mut self) -> bool {
        let frame = self.callee.poll_transmit();
        self.down.extend(frame.as_ref().map(|(id, frame)| frame.clone().into_callee(*id).encode_to_vec()));
        frame.is_some()
    }

    fn deliver_up(&mut self) -> bool {
        let Some(bytes) = self.up.pop_front() else { return false };
        let (id, frame) = Frame::from_caller(ClientToServer::decode(&bytes[..]).unwrap());
        self.callee.handle_frame(id, frame).unwrap();
        self.callee_events();
        true
    }

    fn callee_events(&mut self) {
        while let Some(event) = self.callee.poll_event() {
            match event {
                callee::Event::Opened { id, method, metadata } => {
                    assert_eq!(method, "echo.Echo/Echo");
                    assert_eq!(metadata, vec![("k".into(), "v".into())]);
                    self.serving.insert(id, None);
                }
                callee::Event::Cancelled(id) => drop(self.serving.remove(&id)),
                callee::Event::Readable(_) | callee::Event::Writable(_) => {}
            }
        }
    }

    fn deliver_down(&mut self) -> bool {
        let Some(bytes) = self.down.pop_front() else { return false };
        let (id, frame) = Frame::from_callee(ServerToClient::decode(&bytes[..]).unwrap());
        self.caller.handle_frame(id, frame).unwrap();
        while let Some(caller::Event::Readable(_) | caller::Event::Writable(_)) = self.caller.poll_event() {}
        true
    }

    fn client_sends(&mut self, id: i64) -> bool {
        let Some(requests) = self.requests.get_mut(&id) else { return false };
        if !self.caller.can_send(id) {
            return false;
        }
        match requests.pop_front() {
            Some(message) => drop(self.caller.send(id, message)),
            None => {
                self.caller.half_close(id);
                self.requests.remove(&id);
            }
        }
        true
    }

    fn client_reads(&mut self, id: i64) -> bool {
        match self.caller.recv(id) {
            Received::Pending => return false,
            Received::Headers(_) => {}
            Received::Message(message) => self.answers.get_mut(&id).unwrap().push(message),
            Received::Over(outcome) => drop(self.ended.insert(id, outcome)),
        }
        true
    }

    fn server_echoes(&mut self, id: i64) -> bool {
        if let Some(message) = self.serving[&id].clone() {
            if !self.callee.can_send(id) {
                return false;
            }
            self.callee.send(id, message).unwrap();
            self.serving.insert(id, None);
            return true;
        }
        match self.callee.recv(id) {
            Request::Pending => return false,
            Request::Message(message) => drop(self.serving.insert(id, Some(message))),
            Request::End => {
                self.callee.close(id, Outcome::default());
                self.serving.remove(&id);
            }
            Request::Gone => drop(self.serving.remove(&id)),
        }
        true
    }

    fn die(&mut self) {
        self.dead = true;
        self.up.clear();
        self.down.clear();
        self.caller.fail(Outcome::error(tonic::Code::Unavailable, "dead"));
        self.callee.fail();
        self.callee_events();
    }

    fn settle(&mut self) {
        loop {
            let mut progress = false;
            for kind in 0..7 {
                for which in 0..LIMITS.max_streams {
                    progress |= self.step(kind, which);
                }
            }
            if !progress {
                return;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn calls_over_a_link_that_stalls_and_dies_always_end(
        negotiated in any::<bool>(),
        calls in prop::collection::vec(prop::collection::vec(0usize..150_000, 0..4), 1..6),
        steps in prop::collection::vec((0u8..7, 0usize..3), 0..400),
        cancel_at in prop::option::of(0usize..400),
        die_at in prop::option::of(0usize..400),
    ) {
        let mut world = World::new(negotiated);
        let mut calls = calls.into_iter().peekable();
        let mut cancelled = None;
        for (index, (kind, which)) in steps.into_iter().enumerate() {
            if calls.peek().is_some_and(|call| world.begin(call)) {
                calls.next();
            }
            if cancel_at == Some(index) && let Some(id) = world.pick(0) {
                world.caller.cancel(id);
                world.ended.insert(id, Outcome::default());
                world.requests.remove(&id);
                cancelled = Some(id);
            }
            if die_at == Some(index) {
                world.die();
            }
            world.step(kind, which);
        }
        world.settle();
        while !world.dead && calls.peek().is_some() {
            prop_assert!(calls.peek().is_some_and(|call| world.begin(call)));
            calls.next();
            world.settle();
        }
        prop_assert_eq!(world.caller.active(), 0);
        prop_assert_eq!(world.callee.active(), 0);
        for (id, outcome) in &world.ended {
            if cancelled == Some(*id) {
                continue;
            }
            if outcome.code == 0 {
                prop_assert_eq!(&world.answers[id], &world.expected[id]);
            } else {
                prop_assert!(world.dead);
            }
        }
        prop_assert_eq!(world.ended.len(), world.answers.len());
    }

    #[test]
    fn any_bytes_are_some_frame_and_never_panic_a_machine(
        frames in prop::collection::vec((-2i64..5, prop::collection::vec(any::<u8>(), 0..40)), 0..40),
        negotiated in any::<bool>(),
    ) {
        let mut caller = Caller::new(LIMITS, negotiated);
        let mut callee = Callee::new(LIMITS, negotiated);
        for (id, bytes) in frames {
            let _ = caller.open("/a.B/C", vec![]);
            if let Ok(wire) = ServerToClient::decode(&bytes[..]) {
                let (_, frame) = Frame::from_callee(wire);
                let _ = caller.handle_frame(id, frame);
            }
            if let Ok(wire) = ClientToServer::decode(&bytes[..]) {
                let (_, frame) = Frame::from_caller(wire);
                let _ = callee.handle_frame(id, frame);
            }
            while caller.poll_transmit().is_some() || callee.poll_transmit().is_some() {}
        }
    }
}

#[test]
fn grpc_timeouts_are_read() {
    for (text, expected) in [
        ("5S", Some(Duration::from_secs(5))),
        ("100m", Some(Duration::from_millis(100))),
        ("1H", Some(Duration::from_secs(3600))),
        ("2M", Some(Duration::from_secs(120))),
        ("7u", Some(Duration::from_micros(7))),
        ("7n", Some(Duration::from_nanos(7))),
        ("123456789S", None),
        ("S", None),
        ("", None),
        ("5x", None),
        ("5é", None),
    ] {
        assert_eq!(grpc::timeout(text), expected, "{text}");
    }
}

#[test]
fn an_outcome_survives_the_way_through_trailers() {
    let outcome = Outcome {
        code: 5,
        message: "no \u{fc}ber".into(),
        details: vec![prost_types::Any { type_url: "a/b".into(), value: vec![1, 2] }],
        trailers: vec![("x-more".into(), "1".into())],
    };
    assert_eq!(grpc::from_trailers(&grpc::to_trailers(outcome.clone())), Some(outcome));
}
