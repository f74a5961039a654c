//! Whose turn it is: a crowd is served some at a time.
//!
//! TFTP knows no congestion. A rack that is switched on at once has a window of each machine on its way, more than
//! switches and cards have room for, and all machines wait for the last of them. So data flows to some at a time, in
//! the order in which they agreed on options: who has its loader goes on with the next step of its boot while others
//! still wait. Nobody waits for longer than firmware takes for a slow answer, and who falls silent gives its turn up.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

/// A transfer's turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is not counted: nothing is agreed yet, it waited for long enough, or it fell silent.
    #[default]
    None,
    /// It waits, with this ticket.
    Waits(u64),
    /// Data flows.
    Has,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Turns {
    having: usize,
    tickets: u64,
    waiting: BTreeMap<u64, SocketAddrV4>,
}

impl Turns {
    /// A turn when fewer than `most` have one, else a ticket.
    pub(super) fn ask(&mut self, most: usize, peer: SocketAddrV4) -> Turn {
        if self.having < most {
            self.having += 1;
            return Turn::Has;
        }
        self.tickets += 1;
        self.waiting.insert(self.tickets, peer);
        Turn::Waits(self.tickets)
    }

    /// Takes a turn, or a ticket, back.
    pub(super) fn leave(&mut self, turn: Turn) {
        match turn {
            Turn::None => {}
            Turn::Waits(ticket) => drop(self.waiting.remove(&ticket)),
            Turn::Has => self.having -= 1,
        }
    }

    /// Who has waited longest, when fewer than `most` have a turn; it has one now.
    pub(super) fn next(&mut self, most: usize) -> Option<SocketAddrV4> {
        if self.having >= most {
            return None;
        }
        let (_, peer) = self.waiting.pop_first()?;
        self.having += 1;
        Some(peer)
    }
}
