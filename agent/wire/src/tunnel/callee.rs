//! The end that serves calls, without I/O.
//!
//! ```text
//! Open ─► serving ── headers ─ send* ─ close() ─► Close queued behind the last chunk ─► forgotten
//!            │ HalfClose: recv() ends
//!            └ Cancel / fail ─► event Cancelled ─► forgotten
//! ```

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::caller::Refused;
use super::flow::{Inbox, Outbox};
use super::frame::{Frame, Metadata, REVISION_ONE, REVISION_ZERO, TUNNEL, size_of};
use super::{Limits, Outcome, TunnelError};

/// Refusals of new calls that may wait for the link. Beyond it the link is not read on.
const MAX_REFUSALS: usize = 64;

/// What happened to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A call began.
    Opened {
        /// Its id.
        id: i64,
        /// package.Service/Method, without a leading slash.
        method: String,
        /// Headers.
        metadata: Metadata,
    },
    /// [`Callee::recv`] has something.
    Readable(i64),
    /// [`Callee::send`] takes a message again.
    Writable(i64),
    /// The caller gave up, or the tunnel is over.
    Cancelled(i64),
}

/// What [`Callee::recv`] hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Nothing yet.
    Pending,
    /// A message.
    Message(Bytes),
    /// The caller sends no more.
    End,
    /// The call is over.
    Gone,
}

#[derive(Debug)]
struct Call {
    inbox: Inbox,
    outbox: Outbox,
    headers: Option<Metadata>,
    headers_sent: bool,
    close: Option<Outcome>,
}

/// See the module.
#[derive(Debug)]
pub struct Callee {
    limits: Limits,
    closed: bool,
    calls: BTreeMap<i64, Call>,
    order: VecDeque<i64>,
    last: i64,
    control: VecDeque<(i64, Frame)>,
    events: VecDeque<Event>,
}

impl Callee {
    /// A new tunnel. `negotiated`: the caller announced that it takes Settings.
    pub fn new(limits: Limits, negotiated: bool) -> Self {
        let settings =
            Frame::Settings { revisions: vec![REVISION_ZERO, REVISION_ONE], window: limits.window };
        Self {
            limits,
            closed: false,
            calls: BTreeMap::new(),
            order: VecDeque::new(),
            last: -1,
            control: negotiated.then_some((TUNNEL, settings)).into_iter().collect(),
            events: VecDeque::new(),
        }
    }

    /// Takes a frame of the caller.
    pub fn handle_frame(&mut self, id: i64, frame: Frame) -> Result<(), TunnelError> {
        if self.closed {
            return Ok(());
        }
        if let Frame::Open { method, metadata, window, revision } = frame {
            return self.handle_open(id, &method, metadata, window, revision);
        }
        if id > self.last || id < 0 {
            return Err(TunnelError::UnknownStream(id));
        }
        // A call that is over here may not be over there yet.
        let Some(call) = self.calls.get_mut(&id) else { return Ok(()) };
        let result = match frame {
            Frame::Message { size, data } => call.inbox.message(size, data),
            Frame::More(data) => call.inbox.more(data),
            Frame::HalfClose if call.inbox.is_torn() => {
                Err(Outcome::error(tonic::Code::InvalidArgument, "request ended within a message"))
            }
            Frame::HalfClose => {
                call.inbox.end();
                Ok(())
            }
            Frame::Window(add) => {
                call.outbox.widen(add);
                return Ok(());
            }
            Frame::Cancel => {
                self.forget(id);
                self.events.push_back(Event::Cancelled(id));
                return Ok(());
            }
            Frame::Settings { .. }
            | Frame::Open { .. }
            | Frame::Headers(_)
            | Frame::Close(_)
            | Frame::Unknown => {
                Err(Outcome::error(tonic::Code::Internal, "peer broke the tunnel protocol: unknown frame"))
            }
        };
        match result {
            Ok(()) => self.events.push_back(Event::Readable(id)),
            Err(outcome) => {
                self.forget(id);
                self.control.push_back((id, Frame::Close(outcome)));
                self.events.push_back(Event::Cancelled(id));
            }
        }
        Ok(())
    }

    fn handle_open(
        &mut self,
        id: i64,
        method: &str,
        metadata: Metadata,
        window: u32,
        revision: i32,
    ) -> Result<(), TunnelError> {
        if id <= self.last {
            return Err(TunnelError::StreamReused(id));
        }
        self.last = id;
        let refusal = if revision != REVISION_ZERO && revision != REVISION_ONE {
            Some(Outcome::error(tonic::Code::Unavailable, format!("unknown revision {revision}")))
        } else if size_of(&metadata) > self.limits.max_metadata {
            Some(Outcome::error(tonic::Code::ResourceExhausted, "headers are over the limit"))
        } else if self.calls.len() >= self.limits.max_streams {
            Some(Outcome::error(tonic::Code::ResourceExhausted, "too many calls at once"))
        } else {
            None
        };
        if let Some(outcome) = refusal {
            self.control.push_back((id, Frame::Close(outcome)));
            return Ok(());
        }
        let flow_control = revision != REVISION_ZERO;
        self.calls.insert(
            id,
            Call {
                inbox: Inbox::new(flow_control.then_some(self.limits.window), self.limits.max_message),
                outbox: Outbox::new(flow_control.then_some(window)),
                headers: None,
                headers_sent: false,
                close: None,
            },
        );
        self.order.push_back(id);
        let method = method.trim_start_matches('/').to_owned();
        self.events.push_back(Event::Opened { id, method, metadata });
        Ok(())
    }

    /// The next message of a call.
    pub fn recv(&mut self, id: i64) -> Request {
        let Some(call) = self.calls.get_mut(&id) else { return Request::Gone };
        match call.inbox.take() {
            Some(message) => Request::Message(message),
            None if call.inbox.has_ended() => Request::End,
            None => Request::Pending,
        }
    }

    /// Sends headers; only the first time counts, and they go before any message.
    pub fn headers(&mut self, id: i64, metadata: Metadata) {
        if let Some(call) = self.calls.get_mut(&id)
            && !call.headers_sent
        {
            call.headers = Some(metadata);
        }
    }

    /// Whether [`Self::send`] would take a message. True when the call is over, so that a sender finds out.
    pub fn can_send(&self, id: i64) -> bool {
        self.calls.get(&id).is_none_or(|call| call.outbox.is_free())
    }

    /// Hands over a message.
    pub fn send(&mut self, id: i64, message: Bytes) -> Result<(), Refused> {
        match self.calls.get_mut(&id) {
            Some(call) if call.close.is_none() => call.outbox.push(message).map_err(Refused),
            _ => Err(Refused(message)),
        }
    }

    /// Ends a call, after what was sent before.
    pub fn close(&mut self, id: i64, outcome: Outcome) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.close.get_or_insert(outcome);
            // Whatever the request still has is of no interest and must not clog a tunnel without windows.
            call.inbox.end();
            while call.inbox.take().is_some() {}
        }
    }

    /// Ends the tunnel: every call is cancelled.
    pub fn fail(&mut self) {
        if self.closed {
            return;
        }
        self.closed = true;
        self.control.clear();
        self.order.clear();
        for (id, _) in std::mem::take(&mut self.calls) {
            self.events.push_back(Event::Cancelled(id));
        }
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
            if matches!(frame, Frame::Close(_)) {
                self.forget(id);
            } else {
                if call.outbox.is_free() {
                    self.events.push_back(Event::Writable(id));
                }
                self.order.remove(position);
                self.order.push_back(id);
            }
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
        self.control.len() < MAX_REFUSALS && !self.calls.values().any(|call| call.inbox.is_clogged())
    }

    /// Calls that are not over.
    pub fn active(&self) -> usize {
        self.calls.len()
    }

    fn forget(&mut self, id: i64) {
        self.calls.remove(&id);
        self.order.retain(|other| *other != id);
    }
}

impl Call {
    fn transmit(&mut self) -> Option<Frame> {
        if let Some(credit) = self.inbox.credit() {
            return Some(Frame::Window(credit));
        }
        // Before the first message even when there is nothing to say; an end without messages needs none.
        let bare = !self.outbox.is_free() && !self.headers_sent;
        if let Some(headers) = self.headers.take().or_else(|| bare.then(Metadata::new)) {
            self.headers_sent = true;
            return Some(Frame::Headers(headers));
        }
        if let Some(chunk) = self.outbox.chunk() {
            return Some(chunk);
        }
        if self.outbox.is_free() { self.close.take().map(Frame::Close) } else { None }
    }
}
