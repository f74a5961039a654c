//! A client that reads one file: the other half of the property tests, and a load generator's core.
//!
//! ```text
//!   RRQ ──► Asking ── OACK or DATA 1 ──► Receiving ── short block ──► done (answers late copies)
//!              │                             │
//!              └── ERROR, silence ───────────┴──► failed
//! ```

use std::net::SocketAddrV4;
use std::time::Duration;

use thiserror::Error;

use super::DEFAULT_BLOCK_SIZE;
use super::packet::{ErrorCode, Mode, Options, Packet, Request};
use super::session::on_wire;
use crate::Time;

/// The first wait for an answer; doubled at each silence, as firmware does.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Where doubling ends.
const LONGEST_WAIT: Duration = Duration::from_secs(4);
/// Silences in a row after which the server counts as gone.
const MAX_SILENCES: u32 = 10;

/// What to read, and how.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The server.
    pub server: SocketAddrV4,
    /// The file's name.
    pub name: String,
    /// The options to ask for.
    pub options: Options,
    /// Bytes taken at most.
    pub max_bytes: usize,
}

/// Why there is no file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClientError {
    /// The server refused or ended the transfer.
    #[error("server error {code}: {message}")]
    Server {
        /// Its code.
        code: ErrorCode,
        /// Its words.
        message: String,
    },
    /// The server agreed to what was not asked for.
    #[error("server answered with options that were not asked for")]
    Options,
    /// More than [`Wanted::max_bytes`].
    #[error("file is too large")]
    TooLarge,
    /// No answer.
    #[error("no answer from the server")]
    Silent,
}

#[derive(Debug)]
enum State {
    Asking,
    /// `next` is the next block in order; `fresh` counts those since the last ACK; `gap` says that the block
    /// after a lost one was reported already.
    Receiving {
        next: u64,
        fresh: u16,
        gap: bool,
    },
    Done {
        last: u64,
    },
    Failed(ClientError),
}

/// One download.
#[derive(Debug)]
pub struct Client {
    wanted: Wanted,
    /// The server's end of the transfer, known from its first answer.
    peer: Option<SocketAddrV4>,
    block_size: u16,
    window: u16,
    state: State,
    /// Absent when nobody wants them.
    data: Option<Vec<u8>>,
    received: usize,
    deadline: Option<Time>,
    silences: u32,
    out: Option<Vec<u8>>,
}

impl Client {
    /// Starts the download; the request is the first packet to transmit.
    #[must_use]
    pub fn new(now: Time, wanted: Wanted) -> Self {
        let mut client = Self {
            wanted,
            peer: None,
            block_size: DEFAULT_BLOCK_SIZE,
            window: 1,
            state: State::Asking,
            data: Some(Vec::new()),
            received: 0,
            deadline: Some(now + FIRST_WAIT),
            silences: 0,
            out: None,
        };
        client.ask();
        client
    }

    /// The same, which counts the bytes and forgets them: for load by the thousand.
    #[must_use]
    pub fn counting(now: Time, wanted: Wanted) -> Self {
        Self { data: None, ..Self::new(now, wanted) }
    }

    /// Takes in one datagram.
    pub fn handle_packet(&mut self, now: Time, from: SocketAddrV4, bytes: &[u8]) {
        if from.ip() != self.wanted.server.ip() || self.peer.is_some_and(|peer| peer != from) {
            return;
        }
        let Ok(packet) = Packet::parse(bytes) else { return };
        match packet {
            Packet::Data { block, payload } => self.handle_data(now, from, block, payload),
            Packet::OptionAck(agreed) => self.handle_option_ack(now, from, agreed),
            Packet::Error { code, message } => {
                if matches!(self.state, State::Asking | State::Receiving { .. }) {
                    self.end(State::Failed(ClientError::Server { code, message: message.to_owned() }));
                }
            }
            Packet::Read(_) | Packet::Write(_) | Packet::Ack { .. } => {}
        }
    }

    /// Repeats what the server may have missed, or gives up.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return;
        }
        self.silences += 1;
        if self.silences > MAX_SILENCES {
            self.end(State::Failed(ClientError::Silent));
            return;
        }
        match &mut self.state {
            State::Asking => self.ask(),
            State::Receiving { next, fresh, gap } => {
                (*fresh, *gap) = (0, false);
                let block = on_wire(*next - 1);
                self.send(&Packet::Ack { block });
            }
            State::Done { .. } | State::Failed(_) => {}
        }
        self.deadline = Some(now + self.wait());
    }

    /// When [`Client::handle_timeout`] is to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.deadline
    }

    /// The next packet to send, and to whom.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddrV4, Vec<u8>)> {
        self.out.take().map(|bytes| (self.peer.unwrap_or(self.wanted.server), bytes))
    }

    /// The file (nothing of it when it is only counted), or why there is none; nothing while it runs. A finished client may go on answering late
    /// copies of the last block, for a server that missed its ACK.
    pub fn outcome(&self) -> Option<Result<&[u8], &ClientError>> {
        match &self.state {
            State::Asking | State::Receiving { .. } => None,
            State::Done { .. } => Some(Ok(self.data.as_deref().unwrap_or_default())),
            State::Failed(error) => Some(Err(error)),
        }
    }

    /// Bytes so far.
    #[must_use]
    pub fn received(&self) -> usize {
        self.received
    }

    fn handle_option_ack(&mut self, now: Time, from: SocketAddrV4, agreed: Options) {
        match self.state {
            State::Asking => {}
            // The server missed our ACK 0.
            State::Receiving { next: 1, .. } => return self.send(&Packet::Ack { block: 0 }),
            State::Receiving { .. } | State::Done { .. } | State::Failed(_) => return,
        }
        self.peer = Some(from);
        let asked = self.wanted.options;
        let within = |agreed: Option<u16>, asked: Option<u16>| agreed.is_none() || agreed <= asked;
        if !within(agreed.block_size, asked.block_size) || !within(agreed.window_size, asked.window_size) {
            self.send(&Packet::Error { code: ErrorCode::OptionRefused, message: "not asked for" });
            return self.end(State::Failed(ClientError::Options));
        }
        if agreed.transfer_size.is_some_and(|size| size > self.wanted.max_bytes as u64) {
            return self.too_large();
        }
        self.block_size = agreed.block_size.unwrap_or(DEFAULT_BLOCK_SIZE);
        self.window = agreed.window_size.unwrap_or(1);
        self.state = State::Receiving { next: 1, fresh: 0, gap: false };
        self.heard(now);
        self.send(&Packet::Ack { block: 0 });
    }

    fn handle_data(&mut self, now: Time, from: SocketAddrV4, block: u16, payload: &[u8]) {
        match self.state {
            // The server knows no options.
            State::Asking if block == 1 => {
                self.peer = Some(from);
                self.state = State::Receiving { next: 1, fresh: 0, gap: false };
            }
            State::Done { last } => {
                if block == on_wire(last) {
                    self.send(&Packet::Ack { block });
                }
                return;
            }
            State::Receiving { .. } => {}
            State::Asking | State::Failed(_) => return,
        }
        let State::Receiving { next, fresh, gap } = &mut self.state else { return };
        let ahead = block.wrapping_sub(on_wire(*next));
        if ahead != 0 {
            // Ahead within the window: one was lost, say so once. The block acknowledged last: the server missed
            // our ACK. Anything else is an old copy.
            let lost = ahead < self.window && !*gap;
            let repeated = ahead == u16::MAX && *fresh == 0;
            if lost || repeated {
                *gap |= lost;
                *fresh = 0;
                let block = on_wire(*next - 1);
                self.send(&Packet::Ack { block });
            }
            return;
        }
        if payload.len() > usize::from(self.block_size) {
            return;
        }
        *next += 1;
        *fresh += 1;
        *gap = false;
        let last = payload.len() < usize::from(self.block_size);
        let answer = last || *fresh >= self.window;
        if answer {
            *fresh = 0;
        }
        let number = *next - 1;
        if self.received + payload.len() > self.wanted.max_bytes {
            return self.too_large();
        }
        self.received += payload.len();
        if let Some(data) = &mut self.data {
            data.extend_from_slice(payload);
        }
        self.heard(now);
        if answer {
            self.send(&Packet::Ack { block });
        }
        if last {
            self.end(State::Done { last: number });
        }
    }

    fn too_large(&mut self) {
        self.send(&Packet::Error { code: ErrorCode::DiskFull, message: "too large" });
        self.end(State::Failed(ClientError::TooLarge));
    }

    fn end(&mut self, state: State) {
        self.state = state;
        self.deadline = None;
    }

    fn heard(&mut self, now: Time) {
        self.silences = 0;
        self.deadline = Some(now + self.wait());
    }

    fn wait(&self) -> Duration {
        FIRST_WAIT.saturating_mul(1 << self.silences.min(8)).min(LONGEST_WAIT)
    }

    fn ask(&mut self) {
        let name = self.wanted.name.clone();
        self.send(&Packet::Read(Request { name: &name, mode: Mode::Octet, options: self.wanted.options }));
    }

    /// One packet answers whatever came before: a newer one replaces one not sent yet.
    fn send(&mut self, packet: &Packet<'_>) {
        self.out = Some(packet.emit());
    }
}
