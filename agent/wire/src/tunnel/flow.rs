//! The two halves of a call: what came in and what has yet to go out. Pure.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::frame::Frame;
use super::{CHUNK, INITIAL_WINDOW, Outcome};

/// Empty messages cost no window; more than this many unread ones are an attack.
const MAX_EMPTY_UNREAD: usize = 1024;
/// Unread bytes of a call without flow control at which the tunnel stops being read.
const UNCONTROLLED_BACKLOG: usize = INITIAL_WINDOW as usize;
/// Window is given back in steps of at least this part of it, to save frames. Below the whole window, so that
/// the sender never waits for a step that cannot come.
const CREDIT_PART: u32 = 4;

/// Messages on their way in.
#[derive(Debug)]
pub(super) struct Inbox {
    /// What the peer may still send; `None` without flow control.
    window: Option<u32>,
    partial: Option<(usize, BytesMut)>,
    unread: VecDeque<Bytes>,
    unread_bytes: usize,
    /// Bytes taken off the window and not given back yet.
    owed: u32,
    /// What is owed at least before it is given back.
    credit_step: u32,
    max_message: usize,
    ended: bool,
}

impl Inbox {
    /// With this window, or without flow control.
    pub(super) fn new(window: Option<u32>, max_message: usize) -> Self {
        Self {
            window,
            credit_step: window.unwrap_or_default() / CREDIT_PART,
            partial: None,
            unread: VecDeque::new(),
            unread_bytes: 0,
            owed: 0,
            max_message,
            ended: false,
        }
    }

    /// Takes the first chunk of a message.
    pub(super) fn message(&mut self, size: u32, data: Bytes) -> Result<(), Outcome> {
        if self.ended {
            return Ok(());
        }
        if self.partial.is_some() {
            return Err(broken("a message began before the one before it was complete"));
        }
        let size = size as usize;
        if size > self.max_message {
            return Err(Outcome::error(
                tonic::Code::ResourceExhausted,
                format!("message of {size} bytes is over the limit of {}", self.max_message),
            ));
        }
        self.spend(data.len())?;
        match data.len() {
            length if length > size => return Err(broken("more data than the message has")),
            // Copied: a part of what came at once would keep all of it.
            length if length == size => self.push(Bytes::copy_from_slice(&data))?,
            _ => {
                // No more than a chunk up front: only what was sent costs memory.
                let mut partial = BytesMut::with_capacity(size.min(CHUNK).max(data.len()));
                partial.extend_from_slice(&data);
                self.partial = Some((size, partial));
            }
        }
        Ok(())
    }

    /// Takes another chunk.
    pub(super) fn more(&mut self, data: Bytes) -> Result<(), Outcome> {
        if self.ended {
            return Ok(());
        }
        self.spend(data.len())?;
        let Some((size, mut partial)) = self.partial.take() else {
            return Err(broken("a chunk without a message"));
        };
        if partial.len() + data.len() > size {
            return Err(broken("more data than the message has"));
        }
        partial.extend_from_slice(&data);
        if partial.len() == size {
            self.push(partial.freeze())?;
        } else {
            self.partial = Some((size, partial));
        }
        Ok(())
    }

    fn spend(&mut self, length: usize) -> Result<(), Outcome> {
        let Some(window) = &mut self.window else { return Ok(()) };
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        *window = window
            .checked_sub(length)
            .ok_or_else(|| Outcome::error(tonic::Code::ResourceExhausted, "flow control window exceeded"))?;
        self.owed += length;
        Ok(())
    }

    fn push(&mut self, message: Bytes) -> Result<(), Outcome> {
        let empty = self.unread.len().saturating_sub(self.unread_bytes);
        if message.is_empty() && empty >= MAX_EMPTY_UNREAD {
            return Err(Outcome::error(tonic::Code::ResourceExhausted, "too many empty messages"));
        }
        self.unread_bytes += message.len();
        self.unread.push_back(message);
        Ok(())
    }

    /// No more will come.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Whether a message was cut off by the end.
    pub(super) fn is_torn(&self) -> bool {
        self.partial.is_some()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended && self.unread.is_empty()
    }

    pub(super) fn take(&mut self) -> Option<Bytes> {
        let message = self.unread.pop_front()?;
        self.unread_bytes -= message.len();
        Some(message)
    }

    /// Window to give back now. Only a reader that keeps up gets any.
    pub(super) fn credit(&mut self) -> Option<u32> {
        let window = self.window.as_mut()?;
        if self.ended || !self.unread.is_empty() || self.owed < self.credit_step.max(1) {
            return None;
        }
        let credit = std::mem::take(&mut self.owed);
        *window += credit;
        Some(credit)
    }

    /// Whether the tunnel must not be read on for the sake of this call.
    pub(super) fn is_clogged(&self) -> bool {
        self.window.is_none()
            && (self.unread_bytes > UNCONTROLLED_BACKLOG || self.unread.len() > MAX_EMPTY_UNREAD)
    }
}

/// The message on its way out. One at a time: the next is asked for when this one is gone.
#[derive(Debug)]
pub(super) struct Outbox {
    /// What may still be sent; `None` without flow control.
    window: Option<u32>,
    message: Option<Bytes>,
    /// The message's size, while its first chunk is unsent.
    size: Option<u32>,
}

impl Outbox {
    pub(super) fn new(window: Option<u32>) -> Self {
        Self { window, message: None, size: None }
    }

    pub(super) fn is_free(&self) -> bool {
        self.message.is_none()
    }

    /// Gives the message back when another is still on its way.
    pub(super) fn push(&mut self, message: Bytes) -> Result<(), Bytes> {
        if self.message.is_some() {
            return Err(message);
        }
        self.size = Some(u32::try_from(message.len()).unwrap_or(u32::MAX));
        self.message = Some(message);
        Ok(())
    }

    pub(super) fn widen(&mut self, add: u32) {
        if let Some(window) = &mut self.window {
            *window = window.saturating_add(add);
        }
    }

    /// The next chunk that the window allows.
    pub(super) fn chunk(&mut self) -> Option<Frame> {
        let message = self.message.as_mut()?;
        let allowed = self.window.map_or(usize::MAX, |window| window as usize);
        if allowed == 0 && !message.is_empty() {
            return None;
        }
        let data = message.split_to(message.len().min(CHUNK).min(allowed));
        if message.is_empty() {
            self.message = None;
        }
        if let Some(window) = &mut self.window {
            *window -= u32::try_from(data.len()).expect("a chunk is shorter than the window");
        }
        Some(match self.size.take() {
            Some(size) => Frame::Message { size, data },
            None => Frame::More(data),
        })
    }
}

fn broken(what: &str) -> Outcome {
    Outcome::error(tonic::Code::Internal, format!("peer broke the tunnel protocol: {what}"))
}
