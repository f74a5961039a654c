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

use super::crypto::{Keys, Suite, same};
use super::packet::{self, Message, OpenResponse, Payload, Rakp2, Rakp4};

/// Waits for an answer to what may be repeated at will. On a site's network a BMC answers within milliseconds;
/// one that is busy needs a second.
const WAITS: [Duration; 3] =
    [Duration::from_millis(400), Duration::from_millis(800), Duration::from_millis(1500)];
/// The same while logging in: a BMC that hears RAKP 1 twice may take another random number for the second, so
/// it gets its time. Slow ones need a second for the hashes.
const LOGIN_WAITS: [Duration; 3] =
    [Duration::from_millis(1200), Duration::from_millis(1400), Duration::from_millis(1600)];
/// A BMC that does not know a suite may say nothing at all: then the older one is tried after this.
const UNKNOWN_SUITE_WAIT: Duration = Duration::from_millis(1000);
/// How far behind the newest answer another one may come.
const REPLAY_WINDOW: u32 = 32;
/// The longest names and passwords of IPMI 2.0.
pub const USER_MAX: usize = 16;
/// See [`USER_MAX`].
pub const PASSWORD_MAX: usize = 20;

/// The bit that has the BMC look a user up by name alone.
const BY_NAME: u8 = 0x10;
/// Function and commands of logging in and out (chapter 22).
const APP: u8 = 0x06;
const GET_AUTH_CAPABILITIES: u8 = 0x38;
const SET_PRIVILEGE: u8 = 0x3b;
const CLOSE: u8 = 0x3c;
/// "This channel", with the extended answer.
const THIS_CHANNEL_2_0: u8 = 0x8e;

/// Who logs in.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    user: Vec<u8>,
    password: Vec<u8>,
}

impl fmt::Debug for Login {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Login").field("user", &String::from_utf8_lossy(&self.user)).finish_non_exhaustive()
    }
}

impl Login {
    /// A name of up to 16 bytes and a password of up to 20, without zero bytes: longer ones do not exist.
    pub fn new(user: &str, password: &str) -> Result<Self, LoginError> {
        let fits = |text: &str, most: usize| text.len() <= most && !text.bytes().any(|byte| byte == 0);
        if !fits(user, USER_MAX) {
            return Err(LoginError::BadName);
        }
        if !fits(password, PASSWORD_MAX) {
            return Err(LoginError::BadPassword);
        }
        Ok(Self { user: user.into(), password: password.into() })
    }
}

/// Why a BMC does not let us in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// Longer than IPMI has them.
    #[error("the user's name is longer than {USER_MAX} bytes")]
    BadName,
    /// Longer than IPMI has them.
    #[error("the password is longer than {PASSWORD_MAX} bytes")]
    BadPassword,
    /// It does not know the name, or the user may not use this channel.
    #[error("it has no such user, or the user is disabled on its network channel")]
    UnknownUser,
    /// It has another password for the user.
    #[error("the password is wrong")]
    WrongPassword,
    /// Neither suite.
    #[error("it has neither cipher suite 17 nor 3 enabled: allow one of them in its settings")]
    NoSuite,
    /// The user may not switch machines.
    #[error("the user has neither administrator's nor operator's rights on its network channel")]
    Privilege,
    /// Too many sessions.
    #[error("it has no room for another session: close some, or restart the BMC")]
    NoRoom,
    /// A second key is demanded.
    #[error("it demands a BMC key (Kg), which is not supported: clear it")]
    BmcKey,
    /// Too old.
    #[error("it speaks only IPMI 1.5: its network interface is not safe to use")]
    TooOld,
    /// Another status (table 13-15).
    #[error("it refuses the session with status {0:#04x}")]
    Other(u8),
}

impl LoginError {
    fn of(status: u8) -> Self {
        match status {
            0x01 | 0x0b => Self::NoRoom,
            0x04 | 0x05 | 0x10 | 0x11 => Self::NoSuite,
            0x09 | 0x0a => Self::Privilege,
            0x0d => Self::UnknownUser,
            0x0f => Self::WrongPassword,
            other => Self::Other(other),
        }
    }
}

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

/// Highest rights that a session asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Administrator,
    Operator,
}

impl Role {
    fn number(self) -> u8 {
        match self {
            Self::Administrator => 4,
            Self::Operator => 3,
        }
    }
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
    /// Newest sequence number, and which of those before it came: bit 0 is the newest.
    newest: u32,
    seen: u32,
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
            newest: 0,
            seen: 0,
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

    /// Capabilities: completion, channel, kinds of authentication, status, extended ones, ..
    fn probed(&mut self, now: Instant, data: &[u8]) {
        if let [0, _, kinds, status, extended, ..] = data {
            let (has_extended, has_2_0, demands_key) =
                (kinds & 0x80 != 0, extended & 0x02 != 0, status & 0x20 != 0);
            if !has_extended || !has_2_0 {
                return self.fail(LoginError::TooOld.into());
            }
            if demands_key {
                return self.fail(LoginError::BmcKey.into());
            }
        }
        // Who does not tell may still let us in.
        self.open(now);
    }

    fn open(&mut self, now: Instant) {
        let mut id = [0; 4];
        (self.random)(&mut id);
        // Zero means no session.
        self.console = u32::from_le_bytes(id).max(1);
        self.tag = self.tag.wrapping_add(1);
        let data = packet::open_request(self.tag, self.role.number(), self.console, self.suite);
        self.state = State::Opening;
        let sent = Sent::Plain(packet::emit_open(Payload::OpenRequest, &data));
        let waits: &'static [Duration] = match self.suite {
            Suite::Sha256 => std::slice::from_ref(&UNKNOWN_SUITE_WAIT),
            Suite::Sha1 => &LOGIN_WAITS,
        };
        self.send(now, "Open Session", sent, waits);
    }

    fn opened(&mut self, now: Instant, response: &OpenResponse) {
        let wanted = [self.suite.authentication(), self.suite.integrity(), self.suite.confidentiality()];
        let error = match response.status {
            0 if response.algorithms == wanted && response.managed != 0 => None,
            // It chose something else, or nothing.
            0 => Some(LoginError::NoSuite),
            // "Illegal parameter" is what some say to a suite that they do not know.
            0x12 => Some(LoginError::NoSuite),
            status => Some(LoginError::of(status)),
        };
        match error {
            None => self.prove(now, response.managed),
            Some(LoginError::NoSuite) if self.suite == Suite::Sha256 => {
                self.suite = Suite::Sha1;
                self.open(now);
            }
            Some(LoginError::Privilege) if self.role == Role::Administrator => self.step_down(now),
            Some(error) => self.fail(error.into()),
        }
    }

    fn prove(&mut self, now: Instant, managed: u32) {
        self.managed = managed;
        (self.random)(&mut self.nonce);
        self.tag = self.tag.wrapping_add(1);
        let data = packet::rakp1(self.tag, managed, &self.nonce, self.role_byte(), &self.login.user);
        self.state = State::Proving;
        self.send(now, "RAKP 1", Sent::Plain(packet::emit_open(Payload::Rakp1, &data)), &LOGIN_WAITS);
    }

    fn proved(&mut self, now: Instant, response: &Rakp2) {
        match LoginError::of(response.status) {
            _ if response.status == 0 => {}
            LoginError::Privilege if self.role == Role::Administrator => return self.step_down(now),
            error => return self.fail(error.into()),
        }
        let (console, managed) = (self.console.to_le_bytes(), self.managed.to_le_bytes());
        let who = [&[self.role_byte(), self.login.user.len() as u8], &self.login.user[..]].concat();
        let hmac = |key: &[u8], parts: &[&[u8]]| self.suite.hmac(key, parts);
        let password = &self.login.password;
        let proof =
            hmac(password, &[&console, &managed, &self.nonce, &response.random, &response.guid, &who]);
        if !same(&proof, &response.code) {
            return self.fail(LoginError::WrongPassword.into());
        }
        let ours = hmac(password, &[&response.random, &console, &who]);
        let sik = hmac(password, &[&self.nonce, &response.random, &who]);
        let mut expected = hmac(&sik, &[&self.nonce, &managed, &response.guid]);
        expected.truncate(self.suite.code_length());
        self.tag = self.tag.wrapping_add(1);
        let data = packet::rakp3(self.tag, self.managed, &ours);
        self.state = State::Keying { expected, keys: Box::new(Keys::new(self.suite, &sik)) };
        self.send(now, "RAKP 3", Sent::Plain(packet::emit_open(Payload::Rakp3, &data)), &LOGIN_WAITS);
    }

    fn keyed(&mut self, now: Instant, response: &Rakp4, expected: &[u8], keys: Keys) {
        if response.status != 0 {
            return self.fail(LoginError::of(response.status).into());
        }
        if !same(expected, &response.code) {
            return self.fail(LoginError::WrongPassword.into());
        }
        self.keys = Some(keys);
        let message = self.message(APP, SET_PRIVILEGE, vec![self.role.number()]);
        self.state = State::Raising;
        self.send(now, "Set Session Privilege Level", Sent::Sealed(message), &WAITS);
    }

    fn step_down(&mut self, now: Instant) {
        self.role = Role::Operator;
        self.open(now);
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

    fn role_byte(&self) -> u8 {
        BY_NAME | self.role.number()
    }

    /// An answer while logging in names the request and our id; a refusal may leave the latter out.
    fn is_for_us(&self, tag: u8, console: u32, status: u8) -> Option<()> {
        (tag == self.tag && (console == self.console || (status != 0 && console == 0))).then_some(())
    }

    /// The data of a response to the present request.
    fn answer(&self, bytes: &[u8], function: u8, command: u8) -> Option<Vec<u8>> {
        let message = Message::parse(bytes).ok()?;
        let ours =
            (message.function, message.command, message.number) == (function | 1, command, self.number);
        ours.then_some(message.data)
    }

    fn sealed_answer(&mut self, packet: &packet::Packet) -> Option<Vec<u8>> {
        if packet.session != self.console || !self.is_new(packet.sequence) {
            return None;
        }
        let Sent::Sealed(request) = &self.waiting.as_ref()?.sent else { return None };
        self.answer(&packet.data, request.function, request.command)
    }

    /// Takes note of a sequence number; false when it was there before or is too old to say.
    fn is_new(&mut self, sequence: u32) -> bool {
        if sequence > self.newest {
            let ahead = sequence - self.newest;
            self.seen = if ahead < REPLAY_WINDOW { self.seen << ahead | 1 } else { 1 };
            self.newest = sequence;
            return true;
        }
        let behind = self.newest - sequence;
        if sequence == 0 || behind >= REPLAY_WINDOW || self.seen & (1 << behind) != 0 {
            return false;
        }
        self.seen |= 1 << behind;
        true
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
