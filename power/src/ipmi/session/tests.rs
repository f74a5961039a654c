use std::time::{Duration, Instant};

use super::handshake::UNKNOWN_SUITE_WAIT;
use super::*;
use crate::ipmi::packet::{Packet, Reader};

const PASSWORD: &str = "Secret-123";
const MANAGED: u32 = 0x0a0b_0c0d;
const BMC_RANDOM: [u8; 16] = [0x5a; 16];
const GUID: [u8; 16] = [0x33; 16];

/// Bytes that repeat in every run.
fn random() -> Random {
    let mut next = 7_u8;
    Box::new(move |bytes| {
        for byte in bytes {
            next = next.wrapping_mul(31).wrapping_add(17);
            *byte = next;
        }
    })
}

/// A BMC that does as it is told: the other end of the protocol, written anew from the specification.
#[derive(Clone)]
struct Bmc {
    suites: &'static [Suite],
    /// Says nothing to suites that it does not have.
    mute: bool,
    operator_only: bool,
    knows_user: bool,
    password: &'static str,
    capabilities: [u8; 5],
    login: Option<(Suite, u32, Vec<u8>)>,
    nonce: [u8; 16],
    keys: Option<Keys>,
    sequence: u32,
    executed: Vec<(u8, u8, Vec<u8>)>,
}

impl Bmc {
    fn new(suites: &'static [Suite]) -> Self {
        Self {
            suites,
            mute: false,
            operator_only: false,
            knows_user: true,
            password: PASSWORD,
            capabilities: [0, 1, 0x80, 0x04, 0x02],
            login: None,
            nonce: [0; 16],
            keys: None,
            sequence: 0,
            executed: Vec::new(),
        }
    }

    fn open(payload: Payload, data: &[u8]) -> Option<Vec<u8>> {
        Some(packet::emit_open(payload, data))
    }

    fn answer(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let packet = packet::parse(bytes, self.keys.as_ref()).expect("we speak well");
        match packet.payload {
            Payload::Message if packet.session == 0 => {
                let request = Message::parse(&packet.data).unwrap();
                assert_eq!((request.function, request.command), (APP, GET_AUTH_CAPABILITIES));
                Some(packet::emit_bare(&reply(&request, &self.capabilities)))
            }
            Payload::Message => self.execute(&packet),
            Payload::OpenRequest => {
                let [tag, role, _, _, console @ ..] = &packet.data[..] else { panic!("short") };
                let console = u32::from_le_bytes(console[..4].try_into().unwrap());
                let suite = [Suite::Sha256, Suite::Sha1]
                    .into_iter()
                    .find(|suite| packet.data[12] == suite.authentication())
                    .unwrap();
                let status = match () {
                    () if !self.suites.contains(&suite) && self.mute => return None,
                    () if !self.suites.contains(&suite) => 0x11,
                    () if self.operator_only && *role == 4 => 0x0a,
                    () => 0,
                };
                self.login = Some((suite, console, Vec::new()));
                let mut data = vec![*tag, status, *role, 0];
                data.extend(console.to_le_bytes());
                if status == 0 {
                    data.extend(MANAGED.to_le_bytes());
                    data.extend(&packet.data[8..]);
                }
                Self::open(Payload::OpenResponse, &data)
            }
            Payload::Rakp1 => self.prove(&packet.data),
            Payload::Rakp3 => self.key(&packet.data),
            Payload::OpenResponse | Payload::Rakp2 | Payload::Rakp4 => panic!("not ours to send"),
        }
    }

    fn prove(&mut self, data: &[u8]) -> Option<Vec<u8>> {
        let (suite, console, who) = self.login.as_mut()?;
        self.nonce = data[8..24].try_into().unwrap();
        *who = [&[data[24], data[27]], &data[28..]].concat();
        let mut answer = vec![data[0], if self.knows_user { 0 } else { 0x0d }, 0, 0];
        answer.extend(console.to_le_bytes());
        if self.knows_user {
            let ids = [console.to_le_bytes(), MANAGED.to_le_bytes()].concat();
            let code = suite.hmac(self.password.as_bytes(), &[&ids, &self.nonce, &BMC_RANDOM, &GUID, who]);
            answer.extend([&BMC_RANDOM[..], &GUID, &code].concat());
        }
        Self::open(Payload::Rakp2, &answer)
    }

    fn key(&mut self, data: &[u8]) -> Option<Vec<u8>> {
        let (suite, console, who) = self.login.clone()?;
        let password = self.password.as_bytes();
        let proof = suite.hmac(password, &[&BMC_RANDOM, &console.to_le_bytes(), &who]);
        let good = data[8..] == proof;
        let mut answer = vec![data[0], if good { 0 } else { 0x0f }, 0, 0];
        answer.extend(console.to_le_bytes());
        if good {
            let sik = suite.hmac(password, &[&self.nonce, &BMC_RANDOM, &who]);
            let code = suite.hmac(&sik, &[&self.nonce, &MANAGED.to_le_bytes(), &GUID]);
            answer.extend(&code[..suite.code_length()]);
            self.keys = Some(Keys::new(suite, &sik));
        }
        Self::open(Payload::Rakp4, &answer)
    }

    fn execute(&mut self, packet: &Packet) -> Option<Vec<u8>> {
        assert_eq!(packet.session, MANAGED);
        let request = Message::parse(&packet.data).unwrap();
        let data = request.data.clone();
        self.executed.push((request.function, request.command, data));
        let data: &[u8] = match request.command {
            // Set Session Privilege Level says which it is now.
            SET_PRIVILEGE => &[0, request.data[0]],
            _ => &[0, 0x21],
        };
        Some(self.seal(&reply(&request, data)))
    }

    fn seal(&mut self, message: &Message) -> Vec<u8> {
        self.sequence += 1;
        let console = self.login.as_ref().unwrap().1;
        packet::emit_sealed(self.keys.as_ref().unwrap(), console, self.sequence, message, [9; 16])
    }
}

fn reply(request: &Message, data: &[u8]) -> Message {
    Message { function: request.function | 1, data: data.to_vec(), ..request.clone() }
}

fn at(start: Instant, ms: u64) -> Instant {
    start + Duration::from_millis(ms)
}

/// Runs until an event. `loses(n)`: the n-th packet, either way, is lost.
fn run(session: &mut Session, bmc: &mut Bmc, now: &mut Instant, loses: impl Fn(usize) -> bool) -> Event {
    let mut passed = 0;
    let mut lost = || {
        passed += 1;
        loses(passed)
    };
    loop {
        if let Some(event) = session.poll_event() {
            return event;
        }
        match session.poll_transmit() {
            Some(bytes) => {
                if !lost()
                    && let Some(answer) = bmc.answer(&bytes)
                    && !lost()
                {
                    session.handle_packet(*now, &answer);
                }
            }
            None => {
                *now = session.poll_timeout().expect("waits for something");
                session.handle_timeout(*now);
            }
        }
    }
}

fn session(now: Instant) -> Session {
    Session::new(now, Login::new("admin", PASSWORD).unwrap(), Suite::Sha256, random())
}

fn log_in(bmc: &mut Bmc) -> (Session, Event, Duration) {
    let start = Instant::now();
    let mut now = start;
    let mut session = session(now);
    let event = run(&mut session, bmc, &mut now, |_| false);
    (session, event, now - start)
}

#[test]
fn either_suite_lets_in_and_carries_requests() {
    for (suites, suite) in [(&[Suite::Sha256, Suite::Sha1][..], Suite::Sha256), (&[Suite::Sha1], Suite::Sha1)]
    {
        let mut bmc = Bmc::new(suites);
        let (mut session, event, took) = log_in(&mut bmc);
        assert_eq!((event, session.suite(), took), (Event::Ready, suite, Duration::ZERO));
        let mut now = Instant::now();
        for number in 0..200_u8 {
            assert!(session.request(now, "a test", 0, 1, vec![number]));
            assert!(!session.request(now, "a test", 0, 1, vec![]), "one at a time");
            let event = run(&mut session, &mut bmc, &mut now, |_| false);
            assert_eq!(event, Event::Answer { completion: 0, data: vec![0x21] });
        }
        assert_eq!(bmc.executed.len(), 201, "rights, and the requests");
        assert_eq!(session.dropped(), 0);
        bmc.answer(&session.close().unwrap()).unwrap();
        assert_eq!(bmc.executed.last().unwrap(), &(APP, CLOSE, MANAGED.to_le_bytes().to_vec()));
    }
}

#[test]
fn a_bmc_that_says_nothing_to_the_new_suite_is_asked_for_the_old_one() {
    let mut bmc = Bmc { mute: true, ..Bmc::new(&[Suite::Sha1]) };
    let (session, event, took) = log_in(&mut bmc);
    assert_eq!((event, session.suite(), took), (Event::Ready, Suite::Sha1, UNKNOWN_SUITE_WAIT));
}

#[test]
fn an_operator_is_let_in_as_operator() {
    let mut bmc = Bmc { operator_only: true, ..Bmc::new(&[Suite::Sha256]) };
    assert_eq!(log_in(&mut bmc).1, Event::Ready);
    assert_eq!(bmc.executed, [(APP, SET_PRIVILEGE, vec![3])]);
}

#[test]
fn each_refusal_has_its_name() {
    let good = || Bmc::new(&[Suite::Sha256]);
    for (mut bmc, wanted) in [
        (Bmc { password: "other", ..good() }, LoginError::WrongPassword),
        (Bmc { knows_user: false, ..good() }, LoginError::UnknownUser),
        (Bmc { suites: &[], ..good() }, LoginError::NoSuite),
        (Bmc { capabilities: [0, 1, 0x80, 0x24, 0x02], ..good() }, LoginError::BmcKey),
        (Bmc { capabilities: [0, 1, 0x14, 0x04, 0x00], ..good() }, LoginError::TooOld),
    ] {
        assert_eq!(log_in(&mut bmc).1, Event::Failed(wanted.into()));
    }
    assert_eq!(Login::new(&"u".repeat(17), ""), Err(LoginError::BadName));
    assert_eq!(Login::new("u", &"p".repeat(21)), Err(LoginError::BadPassword));
    assert_eq!(Login::new("u", "p\0"), Err(LoginError::BadPassword));
}

#[test]
fn nobody_there_is_found_out_in_time() {
    let start = Instant::now();
    let mut now = start;
    let mut session = session(now);
    let event = run(&mut session, &mut Bmc::new(&[Suite::Sha256]), &mut now, |_| true);
    let what = "Get Channel Authentication Capabilities";
    assert_eq!(event, Event::Failed(SessionError::NoAnswer(what)));
    assert!(now - start < Duration::from_secs(5));
    assert_eq!((session.poll_transmit(), session.poll_timeout()), (None, None));
}

#[test]
fn any_single_lost_packet_is_made_up_for() {
    for lost in 1..=14 {
        // The unanswered new suite is taken for an unknown one.
        let mut bmc = Bmc::new(&[Suite::Sha256, Suite::Sha1]);
        let mut now = Instant::now();
        let mut session = session(now);
        assert_eq!(run(&mut session, &mut bmc, &mut now, |n| n == lost), Event::Ready, "{lost}");
        session.request(now, "a test", 0, 2, vec![1]);
        let event = run(&mut session, &mut bmc, &mut now, |n| n + 10 == lost);
        assert_eq!(event, Event::Answer { completion: 0, data: vec![0x21] }, "{lost}");
    }
}

#[test]
fn an_answer_is_taken_once_and_only_from_the_bmc() {
    let mut bmc = Bmc::new(&[Suite::Sha256]);
    let (mut session, _, _) = log_in(&mut bmc);
    let now = Instant::now();
    let mut replayed: Option<Vec<u8>> = None;
    // Six bits of number: the 65th request has the first one's.
    for number in 0..65_u8 {
        session.request(now, "a test", 0, 1, vec![number]);
        let asked = session.poll_transmit().unwrap();
        let answer = bmc.answer(&asked).unwrap();
        let request = Message { function: 0, number: session.number, command: 1, data: vec![] };
        session.handle_packet(now, &packet::emit_bare(&reply(&request, &[0, 1])));
        assert_eq!(session.poll_event(), None, "an answer that is not signed");
        if let Some(old) = &replayed {
            session.handle_packet(now, old);
            assert_eq!(session.poll_event(), None, "an old answer");
        }
        // RMCP's own header is not signed.
        for at in 4..answer.len() {
            let mut damaged = answer.clone();
            damaged[at] ^= 0x10;
            session.handle_packet(now, &damaged);
            assert_eq!(session.poll_event(), None, "byte {at}");
        }
        session.handle_packet(now, &answer);
        assert!(matches!(session.poll_event(), Some(Event::Answer { completion: 0, .. })));
        replayed.get_or_insert(answer);
    }
    assert!(session.dropped() > 65);
}

#[test]
fn a_late_answer_to_a_repeated_request_ends_it_once() {
    let mut bmc = Bmc::new(&[Suite::Sha1]);
    let (mut session, _, _) = log_in(&mut bmc);
    let start = Instant::now();
    session.request(start, "a test", 0, 1, vec![]);
    let first = bmc.answer(&session.poll_transmit().unwrap()).unwrap();
    session.handle_timeout(at(start, 400));
    let second = bmc.answer(&session.poll_transmit().unwrap()).unwrap();
    session.handle_packet(at(start, 500), &second);
    assert!(matches!(session.poll_event(), Some(Event::Answer { completion: 0, .. })));
    session.handle_packet(at(start, 600), &first);
    assert_eq!(session.poll_event(), None);
    assert_eq!(session.poll_timeout(), None);
}

#[test]
fn what_was_encrypted_is_decrypted_and_nothing_else_is() {
    let keys = Keys::new(Suite::Sha256, &[1; 32]);
    for length in 0..70 {
        let plain = vec![0xc3; length];
        let sealed = keys.encrypt(&plain, [4; 16]);
        assert_eq!(sealed.len() % 16, 0);
        assert_eq!(keys.decrypt(&sealed), Some(plain));
        assert_eq!(keys.decrypt(&sealed[..sealed.len() - 1]), None);
    }
    assert_eq!(keys.decrypt(&[]), None);
    assert_eq!(keys.decrypt(&[0; 16]), None);
    assert_eq!(Reader(&[1, 2]).u32(), Err(packet::ParseError::Short));
}

/// AES-128 of FIPS 197, appendix C.1, and HMAC-SHA-1 of RFC 2202, case 2: the keys are those of the session.
#[test]
fn the_primitives_are_the_standard_ones() {
    let code = Suite::Sha1.hmac(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
    assert_eq!(code[..4], [0xef, 0xfc, 0xdf, 0x6a]);
    let code = Suite::Sha256.hmac(b"Jefe", &[b"what do ya want for nothing?"]);
    assert_eq!(code[..4], [0x5b, 0xdc, 0xc1, 0x46]);
}

/// ipmitool as the other end: keys, codes and encryption of both suites are the ones that everybody has. (Its
/// simulator of a BMC has only suite 3.)
#[test]
fn ipmitool_logs_into_the_bmc_of_these_tests_with_both_suites() {
    let tool = "/usr/bin/ipmitool";
    if !std::path::Path::new(tool).exists() {
        eprintln!("skipped: needs the package ipmitool");
        return;
    }
    for suite in [Suite::Sha256, Suite::Sha1] {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let port = socket.local_addr().unwrap().port().to_string();
        let bmc = std::thread::spawn(move || {
            let mut bmc = Bmc::new(&[Suite::Sha256, Suite::Sha1]);
            let mut bytes = [0; 1024];
            while !bmc.executed.iter().any(|(function, command, _)| (*function, *command) == (APP, CLOSE)) {
                let (length, from) = socket.recv_from(&mut bytes).unwrap();
                if let Some(answer) = bmc.answer(&bytes[..length]) {
                    socket.send_to(&answer, from).unwrap();
                }
            }
            bmc
        });
        let number = suite.number().to_string();
        let output = std::process::Command::new(tool)
            .args(["-I", "lanplus", "-C", &number, "-H", "127.0.0.1", "-p", &port, "-N", "5"])
            .args(["-U", "admin", "-P", PASSWORD, "raw", "0", "1"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.trim() == "21", "{output:?}");
        assert_eq!(bmc.join().unwrap().login.unwrap().0, suite);
    }
}
