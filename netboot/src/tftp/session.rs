//! One transfer to one client.
//!
//! ```text
//!            options agreed                 ACK 0                     ACK of the last block
//!   RRQ ──► Negotiating (OACK) ──────────► Sending (window of DATA) ──────────► finished
//!     │            │ silence: OACK again     ▲  │ silence: go back to the acked block
//!     └────────────┼─────────────────────────┘  │
//!       no options └────────────────────────────┴──► given up
//! ```
//! Blocks are counted without wrap in here; the wire sees the low 16 bits.

use std::sync::Arc;
use std::time::Duration;

use super::packet::{Options, Packet};
use super::rtt::Rtt;
use super::server::{Limits, Part};
use super::turns::Turn;
use super::{BURST_BYTES, DATA_HEADER, DEFAULT_BLOCK_SIZE, MIN_BLOCK_SIZE};
use crate::Time;

/// What a session does with an ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acked {
    /// Old, repeated or never sent: nothing happens, so that doubled packets do not double for ever.
    Ignored,
    /// The options stand; the first blocks follow.
    Agreed,
    /// More to send.
    Progress,
    /// Everything arrived.
    Finished,
}

/// What a session does when its deadline passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// Sends again.
    Retry,
    /// The client has been silent for too long.
    GiveUp,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The OACK waits for ACK 0; `due` when it is to be sent.
    Negotiating { due: bool },
    /// Blocks up to `acked` arrived, `next` is the next to send, `highest` the highest ever sent.
    Sending { acked: u64, next: u64, highest: u64 },
}

/// One transfer.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) file: Arc<[u8]>,
    pub(super) name: Arc<str>,
    /// What the client asked for, to know a repeated request.
    pub(super) asked: Options,
    pub(super) started: Time,
    /// When the client last moved the transfer on.
    pub(super) progressed: Time,
    /// When it acts on its own.
    pub(super) deadline: Time,
    /// Where it stands in the server's table of deadlines: never later than [`Self::deadline`]. An ACK that puts
    /// the deadline off leaves the table alone, and the early wake-up, one for each wait, moves the entry.
    pub(super) armed: Time,
    /// Whether it stands in the server's queue of senders.
    pub(super) queued: bool,
    /// Whether it is its turn.
    pub(super) turn: Turn,
    agreed: Options,
    block_size: u16,
    window: u16,
    state: State,
    rtt: Rtt,
    /// When the outstanding window (or OACK) was first sent, and whether it was sent again since.
    sent: Time,
    resent: bool,
    /// Whether a repeated ACK of this block has been taken as "the next one is missing" already.
    gap_answered: bool,
}

impl Session {
    pub(super) fn new(now: Time, name: Arc<str>, file: Arc<[u8]>, asked: Options, limits: &Limits) -> Self {
        let agreed = Options {
            block_size: asked.block_size.map(|size| size.min(limits.max_block_size).max(MIN_BLOCK_SIZE)),
            transfer_size: asked.transfer_size.map(|_| file.len() as u64),
            timeout_secs: asked.timeout_secs,
            window_size: asked.window_size.map(|blocks| blocks.min(limits.max_window).max(1)),
        };
        let rtt = Rtt::new(agreed.timeout_secs.map(|secs| Duration::from_secs(secs.into())));
        Self {
            file,
            name,
            asked,
            started: now,
            progressed: now,
            deadline: now + rtt.timeout(),
            armed: now + rtt.timeout(),
            queued: false,
            turn: Turn::None,
            agreed,
            block_size: agreed.block_size.unwrap_or(DEFAULT_BLOCK_SIZE),
            window: agreed.window_size.unwrap_or(1),
            state: if agreed.is_empty() {
                State::Sending { acked: 0, next: 1, highest: 0 }
            } else {
                State::Negotiating { due: true }
            },
            rtt,
            sent: now,
            resent: false,
            gap_answered: false,
        }
    }

    /// Blocks of the file; the last is short, if need be empty.
    fn total(&self) -> u64 {
        self.file.len() as u64 / u64::from(self.block_size) + 1
    }

    /// Whether data flows (and not only a size was asked for).
    pub(super) fn sending(&self) -> bool {
        matches!(self.state, State::Sending { .. })
    }

    /// Whether the client has acknowledged anything, be it the options.
    pub(super) fn heard(&self) -> bool {
        matches!(self.state, State::Sending { acked, .. } if acked > 0 || !self.agreed.is_empty())
    }

    /// Whether only the last ACK is missing: the client probably has everything.
    pub(super) fn all_sent(&self) -> bool {
        matches!(self.state, State::Sending { highest, .. } if highest == self.total())
    }

    /// It has waited, and its first window goes out now.
    pub(super) fn begin(&mut self, now: Time) {
        self.sent = now;
        self.deadline = now + self.rtt.timeout();
    }

    /// Whether something is to be sent now.
    pub(super) fn wants_to_send(&self) -> bool {
        match self.state {
            _ if matches!(self.turn, Turn::Waits(_)) => false,
            State::Negotiating { due } => due,
            State::Sending { acked, next, .. } => {
                next <= self.total() && next <= acked + u64::from(self.window)
            }
        }
    }

    /// What would be sent now is to the transfer.
    pub(super) fn part(&self) -> Part {
        match self.state {
            _ if self.resent => Part::Again,
            State::Sending { acked, next, .. } if next == acked + 1 => Part::Next,
            State::Sending { .. } | State::Negotiating { .. } => Part::Other,
        }
    }

    /// Appends packets to `out`: as many as may be sent now, at most `most` and [`BURST_BYTES`]. All but the last
    /// have the length that is returned first; how many there are comes second.
    pub(super) fn emit(&mut self, out: &mut Vec<u8>, most: usize) -> (usize, usize) {
        if !self.wants_to_send() {
            return (0, 0);
        }
        let (total, window, size) = (self.total(), u64::from(self.window), usize::from(self.block_size));
        match &mut self.state {
            State::Negotiating { due } => {
                *due = false;
                let before = out.len();
                Packet::OptionAck(self.agreed).append_to(out);
                (out.len() - before, 1)
            }
            State::Sending { acked, next, highest } => {
                let segment = DATA_HEADER + size;
                let room = (BURST_BYTES / segment).clamp(1, most) as u64;
                let until = total.min(*acked + window).min(*next + room - 1);
                let count = until - *next + 1;
                out.reserve(usize::try_from(count).map_or(0, |count| count * segment));
                for block in *next..=until {
                    let start = usize::try_from(block - 1).map_or(self.file.len(), |index| index * size);
                    let end = (start + size).min(self.file.len());
                    Packet::Data { block: on_wire(block), payload: &self.file[start..end] }.append_to(out);
                }
                *highest = (*highest).max(until);
                *next = until + 1;
                (segment, usize::try_from(count).unwrap_or(most))
            }
        }
    }

    /// The client says that everything up to `block` arrived.
    pub(super) fn handle_ack(&mut self, now: Time, block: u16) -> Acked {
        match self.state {
            State::Negotiating { .. } => {
                if block != 0 {
                    return Acked::Ignored;
                }
                self.state = State::Sending { acked: 0, next: 1, highest: 0 };
                self.progress(now);
                Acked::Agreed
            }
            State::Sending { acked, next, highest } => {
                let ahead = u64::from(block.wrapping_sub(on_wire(acked)));
                if ahead == 0 {
                    return self.handle_repeated_ack(now);
                }
                let acked = acked + ahead;
                if acked > highest {
                    return Acked::Ignored;
                }
                if acked == self.total() {
                    return Acked::Finished;
                }
                // An ACK inside the window means that the block after it was lost (RFC 7440).
                let gap = acked < highest;
                let next = if gap { acked + 1 } else { next };
                self.state = State::Sending { acked, next, highest };
                self.progress(now);
                self.resent = gap;
                Acked::Progress
            }
        }
    }

    /// The same ACK again. In lock step it is ignored. In a window it can also mean that the window's first
    /// block was lost, so it is believed once for each block: bounded, and no wait for the timer.
    fn handle_repeated_ack(&mut self, now: Time) -> Acked {
        let State::Sending { acked, highest, .. } = self.state else { return Acked::Ignored };
        if self.gap_answered || highest < acked + 2 {
            return Acked::Ignored;
        }
        self.gap_answered = true;
        self.state = State::Sending { acked, next: acked + 1, highest };
        self.resent = true;
        self.deadline = now + self.rtt.timeout();
        Acked::Progress
    }

    fn progress(&mut self, now: Time) {
        if self.resent {
            self.rtt.ambiguous();
        } else {
            self.rtt.measured(now.since(self.sent));
        }
        self.progressed = now;
        self.sent = now;
        self.resent = false;
        self.gap_answered = false;
        self.deadline = now + self.rtt.timeout();
    }

    /// The deadline passed.
    pub(super) fn handle_timeout(&mut self, now: Time, give_up: Duration) -> Expired {
        if now.since(self.progressed) >= give_up {
            return Expired::GiveUp;
        }
        match &mut self.state {
            State::Negotiating { due } => *due = true,
            State::Sending { acked, next, .. } => *next = *acked + 1,
        }
        self.resent = true;
        self.rtt.expired();
        self.deadline = now + self.rtt.timeout();
        Expired::Retry
    }
}

/// A block's number as the wire has it: 0 comes after 65535.
pub(super) const fn on_wire(block: u64) -> u16 {
    (block & 0xffff) as u16
}
