//! The end that issues calls, without I/O.
//!
//! ```text
//! open ─► Open queued ─► sending ─ half_close ─► half closed
//!              │             │                        │
//!              └─────────────┴── Close / fail ────────┴─► over ── recv() tells it ─► forgotten
//!                     cancel() from any state ─► Cancel queued, forgotten
//! ```

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::flow::{Inbox, Outbox};
use super::frame::{Frame, Metadata, REVISION_ONE, REVISION_ZERO, TUNNEL, size_of};
use super::{Limits, Outcome, TunnelError};

/// Control frames (open, cancel) that may wait for the link per allowed call. A link that stalls while
/// calls begin and are given up must not gather them without end.
const CONTROL_PER_STREAM: usize = 4;

/// What happened to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// [`Caller::recv`] has something; with id -1: calls may begin.
    Readable(i64),
    /// [`Caller::send`] takes a message again.
    Writable(i64),
}

/// What [`Caller::recv`] hands out, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// Nothing yet.
    Pending,
    /// Headers, once, before messages.
    Headers(Metadata),
    /// A message.
    Message(Bytes),
    /// The end; the call is forgotten with it.
    Over(Outcome),
}

/// Why a call cannot begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Settings have not come yet.
    #[error("tunnel is not ready")]
    NotReady,
    /// As many as the limit.
    #[error("too many calls at once")]
    TooMany,
    /// The tunnel is over.
    #[error("tunnel is closed: {0}")]
    Closed(String),
}

/// A message that was not taken: another is on its way, or the call is over.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(pub Bytes);

#[derive(Debug)]
struct Call {
    inbox: Inbox,
    outbox: Outbox,
    headers: Option<Metadata>,
    had_headers: bool,
    half_close: HalfClose,
    over: Option<Outcome>,
}

#[derive(Debug, PartialEq, Eq)]
enum HalfClose {
    No,
    Wanted,
    Sent,
}

/// See the module.
#[derive(Debug)]
pub struct Caller {
    limits: Limits,
    /// Revision and the callee's window, once known.
    ready: Option<(i32, u32)>,
    closed: Option<Outcome>,
    /// Boxed: a tree begins with room for eleven, and a machine is seldom asked two things at once.
    calls: BTreeMap<i64, Box<Call>>,
    /// Round robin of calls that may have something to send.
    order: VecDeque<i64>,
    last: i64,
    control: VecDeque<(i64, Frame)>,
    events: VecDeque<Event>,
}

impl Caller {
    /// A new tunnel. `negotiated`: the callee announced that it sends Settings.
    pub fn new(limits: Limits, negotiated: bool) -> Self {
        Self {
            limits,
            ready: (!negotiated).then_some((REVISION_ZERO, 0)),
            closed: None,
            calls: BTreeMap::new(),
            order: VecDeque::new(),
            last: 0,
            control: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Whether calls may begin.
    pub fn is_ready(&self) -> bool {
        self.ready.is_some() && self.closed.is_none()
    }

    /// Begins a call.
    pub fn open(&mut self, method: &str, metadata: Metadata) -> Result<i64, OpenError> {
        if let Some(outcome) = &self.closed {
            return Err(OpenError::Closed(outcome.message.clone()));
        }
        let Some((revision, window)) = self.ready else { return Err(OpenError::NotReady) };
        if self.calls.len() >= self.limits.max_streams
            || self.control.len() >= CONTROL_PER_STREAM * self.limits.max_streams
        {
            return Err(OpenError::TooMany);
        }
        let own_window = (revision != REVISION_ZERO).then_some(self.limits.window);
        self.last += 1;
        let id = self.last;
        self.calls.insert(
            id,
            Box::new(Call {
                inbox: Inbox::new(own_window, self.limits.max_message),
                outbox: Outbox::new(own_window.map(|_| window)),
                headers: None,
                had_headers: false,
                half_close: HalfClose::No,
                over: None,
            }),
        );
        self.order.push_back(id);
        let window = own_window.unwrap_or_default();
        self.control.push_back((id, Frame::Open { method: method.into(), metadata, window, revision }));
        Ok(id)
    }

    /// Whether [`Self::send`] would take a message. True when the call is over, so that a sender finds out.
    pub fn can_send(&self, id: i64) -> bool {
        self.calls.get(&id).is_none_or(|call| call.over.is_some() || call.outbox.is_free())
    }

    /// Hands over a message.
    pub fn send(&mut self, id: i64, message: Bytes) -> Result<(), Refused> {
        match self.calls.get_mut(&id) {
            Some(call) if call.over.is_none() && call.half_close == HalfClose::No => {
                call.outbox.push(message).map_err(Refused)
            }
            _ => Err(Refused(message)),
        }
    }

    /// No more messages follow.
    pub fn half_close(&mut self, id: i64) {
        if let Some(call) = self.calls.get_mut(&id)
            && call.half_close == HalfClose::No
        {
            call.half_close = HalfClose::Wanted;
        }
    }

    /// Gives a call up and forgets it.
    pub fn cancel(&mut self, id: i64) {
        if let Some(call) = self.calls.remove(&id) {
            self.order.retain(|other| *other != id);
            if call.over.is_none() {
                self.control.push_back((id, Frame::Cancel));
            }
        }
    }

    /// Ends a call from this side with an outcome of ours, which [`Self::recv`] then tells.
    pub fn abort(&mut self, id: i64, outcome: Outcome) {
        if let Some(call) = self.calls.get_mut(&id)
            && call.over.is_none()
        {
            call.finish(outcome);
            self.control.push_back((id, Frame::Cancel));
            self.events.push_back(Event::Readable(id));
            self.events.push_back(Event::Writable(id));
        }
    }

    /// The next thing that a call received.
    pub fn recv(&mut self, id: i64) -> Received {
        let Some(call) = self.calls.get_mut(&id) else {
            return Received::Over(Outcome::error(tonic::Code::Unavailable, "call is over"));
        };
        if let Some(headers) = call.headers.take() {
            return Received::Headers(headers);
        }
        if let Some(message) = call.inbox.take() {
            return Received::Message(message);
        }
        let Some(outcome) = call.over.take() else { return Received::Pending };
        let torn = call.inbox.is_torn() && outcome.code == 0;
        self.calls.remove(&id);
        self.order.retain(|other| *other != id);
        if torn {
            return Received::Over(Outcome::error(tonic::Code::Internal, "answer ended within a message"));
        }
        Received::Over(outcome)
    }

    /// Takes a frame of the callee.
    pub fn handle_frame(&mut self, id: i64, frame: Frame) -> Result<(), TunnelError> {
        if self.closed.is_some() {
            return Ok(());
        }
        if self.ready.is_none() {
            return self.handle_settings(id, frame);
        }
        if id > self.last || id < 0 {
            return Err(match frame {
                Frame::Settings { .. } => TunnelError::StraySettings,
                _ => TunnelError::UnknownStream(id),
            });
        }
        // A call that is over here may not be over there yet.
        let Some(call) = self.calls.get_mut(&id) else { return Ok(()) };
        if call.over.is_some() {
            return Ok(());
        }
        let done = match frame {
            Frame::Headers(metadata) if size_of(&metadata) > self.limits.max_metadata => Err(Outcome::error(
                tonic::Code::ResourceExhausted,
                format!(
                    "headers of {} bytes are over the limit of {}",
                    size_of(&metadata),
                    self.limits.max_metadata
                ),
            )),
            Frame::Headers(metadata) => {
                if !call.had_headers {
                    call.had_headers = true;
                    call.headers = Some(metadata);
                }
                Ok(None)
            }
            Frame::Message { size, data } => call.inbox.message(size, data).map(|()| None),
            Frame::More(data) => call.inbox.more(data).map(|()| None),
            Frame::Window(add) => {
                call.outbox.widen(add);
                return Ok(());
            }
            Frame::Close(outcome) => Ok(Some(outcome)),
            Frame::Settings { .. }
            | Frame::Open { .. }
            | Frame::HalfClose
            | Frame::Cancel
            | Frame::Unknown => {
                Err(Outcome::error(tonic::Code::Internal, "peer broke the tunnel protocol: unknown frame"))
            }
        };
        match done {
            Ok(None) => {}
            Ok(Some(outcome)) => call.finish(outcome),
            Err(outcome) => {
                call.finish(outcome);
                self.control.push_back((id, Frame::Cancel));
            }
        }
        self.events.push_back(Event::Readable(id));
        if self.calls.get(&id).is_some_and(|call| call.over.is_some()) {
            self.events.push_back(Event::Writable(id));
        }
        Ok(())
    }

    fn handle_settings(&mut self, id: i64, frame: Frame) -> Result<(), TunnelError> {
        let Frame::Settings { revisions, window } = frame else { return Err(TunnelError::NoSettings) };
        if id != TUNNEL {
            return Err(TunnelError::StraySettings);
        }
        // An empty list means revision zero, says the protocol.
        self.ready = Some(if revisions.contains(&REVISION_ONE) {
            (REVISION_ONE, window)
        } else if revisions.is_empty() || revisions.contains(&REVISION_ZERO) {
            (REVISION_ZERO, 0)
        } else {
            return Err(TunnelError::Revision);
        });
        self.events.push_back(Event::Readable(TUNNEL));
        Ok(())
    }

    /// Ends the tunnel: every call ends with this outcome, and no other begins.
    pub fn fail(&mut self, outcome: Outcome) {
        if self.closed.is_some() {
            return;
        }
        for (id, call) in &mut self.calls {
            call.finish(outcome.clone());
            self.events.push_back(Event::Readable(*id));
            self.events.push_back(Event::Writable(*id));
        }
        self.control.clear();
        self.closed = Some(outcome);
    }

    /// The next frame to send.
    pub fn poll_transmit(&mut self) -> Option<(i64, Frame)> {
        if let Some(control) = self.control.pop_front() {
            return Some(control);
        }
        for position in 0..self.order.len() {
            let id = self.order[position];
            let Some(call) = self.calls.get_mut(&id) else { continue };
            let Some(frame) = call.transmit() else { continue };
            if call.half_close == HalfClose::No && call.outbox.is_free() {
                self.events.push_back(Event::Writable(id));
            }
            self.order.remove(position);
            self.order.push_back(id);
            return Some((id, frame));
        }
        None
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether frames may be read from the link.
    pub fn can_receive(&self) -> bool {
        self.control.len() < 2 * CONTROL_PER_STREAM * self.limits.max_streams
            && !self.calls.values().any(|call| call.inbox.is_clogged())
    }

    /// Calls that are not forgotten yet.
    pub fn active(&self) -> usize {
        self.calls.len()
    }
}

impl Call {
    fn finish(&mut self, outcome: Outcome) {
        if self.over.is_none() {
            self.over = Some(outcome);
            self.inbox.end();
        }
    }

    fn transmit(&mut self) -> Option<Frame> {
        if let Some(credit) = self.inbox.credit() {
            return Some(Frame::Window(credit));
        }
        if self.over.is_some() {
            return None;
        }
        if let Some(chunk) = self.outbox.chunk() {
            return Some(chunk);
        }
        if self.half_close == HalfClose::Wanted && self.outbox.is_free() {
            self.half_close = HalfClose::Sent;
            return Some(Frame::HalfClose);
        }
        None
    }
}
