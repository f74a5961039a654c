//! A session with a BMC over RMCP+, without I/O.
//!
//! ```text
//!            no answer, or suite 17 refused        role refused
//!                  ┌───────────┐               ┌────────────────┐
//! probing ─► opening(17) ─► opening(3) ─► proving(RAKP 1/2) ─► keying(RAKP 3/4) ─► raising ─► ready ⇄ asking
//!    any state ── refused, or unanswered to the last try ─► failed
//! ```
//!
//! Bytes and `now` go in; packets, one deadline and events come out. What cannot be read, or is not signed by
//! the session's key, is dropped and counted: anybody may send it. Randomness comes from whoever makes it.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::crypto::{Keys, Suite};
use super::packet::{self, Message, OpenResponse, Payload, Rakp2, Rakp4};
use handshake::Role;
pub use login::{Login, LoginError, PASSWORD_MAX, USER_MAX};
use window::Window;

mod handshake;
mod login;
mod window;

/// Waits for an answer to what may be repeated at will. On a site's network a BMC answers within milliseconds;
/// one that is busy needs a second.
const WAITS: [Duration; 3] =
    [Duration::from_millis(400), Duration::from_millis(800), Duration::from_millis(1500)];

/// Function and commands of logging in and out (chapter 22).
const APP: u8 = 0x06;
const GET_AUTH_CAPABILITIES: u8 = 0x38;
const SET_PRIVILEGE: u8 = 0x3b;
const CLOSE: u8 = 0x3c;
/// "This channel", with the extended answer.
const THIS_CHANNEL_2_0: u8 = 0x8e;

/// The session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Nothing came, however often it was asked.
    #[error("no answer to {0}")]
    NoAnswer(&'static str),
    /// It does not let us in.
    #[error(transparent)]
    Login(#[from] LoginError),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Logged in: requests may be made.
    Ready,
    /// The answer to the request: completion code (0 is good) and data.
    Answer {
        /// Completion code.
        completion: u8,
        /// What follows it.
        data: Vec<u8>,
    },
    /// The session is over.
    Failed(SessionError),
}

#[derive(Clone, Debug)]
enum State {
    Probing,
    Opening,
    Proving,
    Keying { expected: Vec<u8>, keys: Box<Keys> },
    Raising,
    Ready,
    Asking,
    Failed,
}

/// What waits for an answer.
#[derive(Clone, Debug)]
struct Waiting {
    what: &'static str,
    sent: Sent,
    deadline: Instant,
    waits: std::slice::Iter<'static, Duration>,
}

#[derive(Clone, Debug)]
enum Sent {
    /// Repeated as it was.
    Plain(Vec<u8>),
    /// Repeated with another sequence number.
    Sealed(Message),
}

/// Gives random bytes.
pub type Random = Box<dyn FnMut(&mut [u8]) + Send>;

/// See the module.
pub struct Session {
    login: Login,
    random: Random,
    state: State,
    suite: Suite,
    role: Role,
    tag: u8,
    number: u8,
    /// Session ids, ours and the BMC's.
    console: u32,
    managed: u32,
    nonce: [u8; 16],
    keys: Option<Keys>,
    sent: u32,
    came: Window,
    waiting: Option<Waiting>,
    transmit: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
    dropped: u64,
}

impl fmt::Debug for Session {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Session")
            .field("state", &self.state)
            .field("suite", &self.suite)
            .field("dropped", &self.dropped)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Begins to log in. `suite`: tried first; what worked last time saves a second with BMCs that say nothing
    /// to the other one.
    pub fn new(now: Instant, login: Login, suite: Suite, random: Random) -> Self {
        let mut session = Self {
            login,
            random,
            state: State::Probing,
            suite,
            role: Role::Administrator,
            tag: 0,
            number: 0,
            console: 0,
            managed: 0,
            nonce: [0; 16],
            keys: None,
            sent: 0,
            came: Window::default(),
            waiting: None,
            transmit: VecDeque::new(),
            events: VecDeque::new(),
            dropped: 0,
        };
        let data = vec![THIS_CHANNEL_2_0, session.role.number()];
        let probe = session.message(APP, GET_AUTH_CAPABILITIES, data);
        session.send(
            now,
            "Get Channel Authentication Capabilities",
            Sent::Plain(packet::emit_bare(&probe)),
            &WAITS,
        );
        session
    }

    /// The suite of the session.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Packets that were no answer.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Asks something; only when the session is ready and nothing else is asked. Says whether it was sent.
    pub fn request(
        &mut self,
        now: Instant,
        what: &'static str,
        function: u8,
        command: u8,
        data: Vec<u8>,
    ) -> bool {
        if !matches!(self.state, State::Ready) {
            return false;
        }
        let message = self.message(function, command, data);
        self.state = State::Asking;
        self.send(now, what, Sent::Sealed(message), &WAITS);
        true
    }

    /// Ends the session: the packet that tells the BMC, which is sent once and waits for nothing.
    pub fn close(mut self) -> Option<Vec<u8>> {
        self.keys.as_ref()?;
        let message = self.message(APP, CLOSE, self.managed.to_le_bytes().to_vec());
        self.seal(&message)
    }

    /// Takes a datagram that came.
    pub fn handle_packet(&mut self, now: Instant, bytes: &[u8]) {
        let keys = match &self.state {
            State::Keying { .. } | State::Probing | State::Opening | State::Proving | State::Failed => None,
            State::Raising | State::Ready | State::Asking => self.keys.as_ref(),
        };
        let taken = packet::parse(bytes, keys).ok().and_then(|packet| self.take(now, &packet));
        if taken.is_none() {
            self.dropped += 1;
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Some(waiting) = self.waiting.as_mut().filter(|waiting| waiting.deadline <= now) else { return };
        let what = waiting.what;
        if let Some(wait) = waiting.waits.next() {
            waiting.deadline = now + *wait;
            let sent = waiting.sent.clone();
            self.queue(&sent);
        } else if matches!(self.state, State::Opening) && self.suite == Suite::Sha256 {
            self.suite = Suite::Sha1;
            self.open(now);
        } else {
            self.fail(SessionError::NoAnswer(what));
        }
    }

    /// The next packet to send.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmit.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.as_ref().map(|waiting| waiting.deadline)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// `None`: it is no answer to what was asked.
    fn take(&mut self, now: Instant, packet: &packet::Packet) -> Option<()> {
        let state = self.state.clone();
        match (state, packet.payload) {
            (State::Probing, Payload::Message) if packet.session == 0 => {
                let data = self.answer(&packet.data, APP, GET_AUTH_CAPABILITIES)?;
                self.probed(now, &data);
            }
            (State::Opening, Payload::OpenResponse) => {
                let response = OpenResponse::parse(&packet.data).ok()?;
                self.is_for_us(response.tag, response.console, response.status)?;
                self.opened(now, &response);
            }
            (State::Proving, Payload::Rakp2) => {
                let response = Rakp2::parse(&packet.data).ok()?;
                self.is_for_us(response.tag, response.console, response.status)?;
                self.proved(now, &response);
            }
            (State::Keying { expected, keys }, Payload::Rakp4) => {
                let response = Rakp4::parse(&packet.data).ok()?;
                self.is_for_us(response.tag, response.console, response.status)?;
                self.keyed(now, &response, &expected, *keys);
            }
            (State::Raising, Payload::Message) => {
                let data = self.sealed_answer(packet)?;
                match data.first() {
                    Some(0) => self.ready(Event::Ready),
                    _ => self.fail(LoginError::Privilege.into()),
                }
            }
            (State::Asking, Payload::Message) => {
                let mut data = self.sealed_answer(packet)?;
                let completion = (!data.is_empty()).then(|| data.remove(0))?;
                self.ready(Event::Answer { completion, data });
            }
            (
                State::Probing
                | State::Opening
                | State::Proving
                | State::Keying { .. }
                | State::Raising
                | State::Ready
                | State::Asking
                | State::Failed,
                _,
            ) => return None,
        }
        Some(())
    }

    fn ready(&mut self, event: Event) {
        self.state = State::Ready;
        self.waiting = None;
        self.events.push_back(event);
    }

    fn fail(&mut self, error: SessionError) {
        self.state = State::Failed;
        self.waiting = None;
        self.transmit.clear();
        self.events.push_back(Event::Failed(error));
    }

    /// The data of a response to the present request.
    fn answer(&self, bytes: &[u8], function: u8, command: u8) -> Option<Vec<u8>> {
        let message = Message::parse(bytes).ok()?;
        let ours =
            (message.function, message.command, message.number) == (function | 1, command, self.number);
        ours.then_some(message.data)
    }

    fn sealed_answer(&mut self, packet: &packet::Packet) -> Option<Vec<u8>> {
        if packet.session != self.console || !self.came.is_new(packet.sequence) {
            return None;
        }
        let Sent::Sealed(request) = &self.waiting.as_ref()?.sent else { return None };
        self.answer(&packet.data, request.function, request.command)
    }

    /// A request with the next number.
    fn message(&mut self, function: u8, command: u8, data: Vec<u8>) -> Message {
        self.number = (self.number + 1) & 0x3f;
        Message { function, number: self.number, command, data }
    }

    fn seal(&mut self, message: &Message) -> Option<Vec<u8>> {
        let mut iv = [0; 16];
        (self.random)(&mut iv);
        self.sent = self.sent.wrapping_add(1).max(1);
        let keys = self.keys.as_ref()?;
        Some(packet::emit_sealed(keys, self.managed, self.sent, message, iv))
    }

    fn send(&mut self, now: Instant, what: &'static str, sent: Sent, waits: &'static [Duration]) {
        self.queue(&sent);
        let mut waits = waits.iter();
        let first = waits.next().copied().unwrap_or_default();
        self.waiting = Some(Waiting { what, sent, deadline: now + first, waits });
    }

    fn queue(&mut self, sent: &Sent) {
        let bytes = match sent {
            Sent::Plain(bytes) => Some(bytes.clone()),
            Sent::Sealed(message) => self.seal(message),
        };
        self.transmit.extend(bytes);
    }
}

#[cfg(test)]
mod tests;
