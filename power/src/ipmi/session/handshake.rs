//! Logging in (chapter 13): from the BMC's capabilities to the keys of the session.

use std::time::{Duration, Instant};

use super::login::LoginError;
use super::{APP, SET_PRIVILEGE, Sent, Session, State, WAITS};
use crate::ipmi::crypto::{Keys, Suite, same};
use crate::ipmi::packet::{self, OpenResponse, Payload, Rakp2, Rakp4};

/// As [`WAITS`], while logging in: a BMC that hears RAKP 1 twice may take another random number for the second, so
/// it gets its time. Slow ones need a second for the hashes.
const LOGIN_WAITS: [Duration; 3] =
    [Duration::from_millis(1200), Duration::from_millis(1400), Duration::from_millis(1600)];
/// A BMC that does not know a suite may say nothing at all: then the older one is tried after this.
pub(super) const UNKNOWN_SUITE_WAIT: Duration = Duration::from_millis(1000);
/// The bit that has the BMC look a user up by name alone.
const BY_NAME: u8 = 0x10;

/// Highest rights that a session asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Administrator,
    Operator,
}

impl Role {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Administrator => 4,
            Self::Operator => 3,
        }
    }
}

impl Session {
    /// Capabilities: completion, channel, kinds of authentication, status, extended ones, ..
    pub(super) fn probed(&mut self, now: Instant, data: &[u8]) {
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

    pub(super) fn open(&mut self, now: Instant) {
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

    pub(super) fn opened(&mut self, now: Instant, response: &OpenResponse) {
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

    pub(super) fn proved(&mut self, now: Instant, response: &Rakp2) {
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

    pub(super) fn keyed(&mut self, now: Instant, response: &Rakp4, expected: &[u8], keys: Keys) {
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

    fn role_byte(&self) -> u8 {
        BY_NAME | self.role.number()
    }

    /// An answer while logging in names the request and our id; a refusal may leave the latter out.
    pub(super) fn is_for_us(&self, tag: u8, console: u32, status: u8) -> Option<()> {
        (tag == self.tag && (console == self.console || (status != 0 && console == 0))).then_some(())
    }
}
