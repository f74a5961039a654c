//! What both drivers share: a machine behind a lock, wakers by call, and the loop between it and the link.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::sync::{Notify, mpsc, watch};

use super::{Frame, Outcome, TunnelError, callee, caller};

/// Frames between the loop and the link. Few: what waits here is past the reach of round robin. They are boxed:
/// a channel reserves room for 32 of them, however few it may hold, for as long as the tunnel is open.
pub(super) const LINK_QUEUE: usize = 4;

/// How long the loop listens for a reason once the other side takes nothing any more. It comes with the end
/// of the stream, if at all.
const FAREWELL: Duration = Duration::from_secs(1);

/// The part of a machine that the loop needs.
pub(super) trait Machine: Send + 'static {
    fn handle(&mut self, id: i64, frame: Frame) -> Result<(), TunnelError>;
    fn transmit(&mut self) -> Option<(i64, Frame)>;
    fn can_receive(&self) -> bool;
    fn fail(&mut self, outcome: Outcome);
    fn event(&mut self) -> Option<Wake>;
}

/// What the loop does about an event.
pub(super) enum Wake {
    Reader(i64),
    Writer(i64),
    Call(CallEvent),
}

/// What the loop tells the end that serves calls.
pub(super) enum CallEvent {
    Opened { id: i64, method: String, metadata: super::Metadata },
    Cancelled(i64),
}

impl Machine for caller::Caller {
    fn handle(&mut self, id: i64, frame: Frame) -> Result<(), TunnelError> {
        self.handle_frame(id, frame)
    }
    fn transmit(&mut self) -> Option<(i64, Frame)> {
        self.poll_transmit()
    }
    fn can_receive(&self) -> bool {
        self.can_receive()
    }
    fn fail(&mut self, outcome: Outcome) {
        self.fail(outcome);
    }
    fn event(&mut self) -> Option<Wake> {
        self.poll_event().map(|event| match event {
            caller::Event::Readable(id) => Wake::Reader(id),
            caller::Event::Writable(id) => Wake::Writer(id),
        })
    }
}

impl Machine for callee::Callee {
    fn handle(&mut self, id: i64, frame: Frame) -> Result<(), TunnelError> {
        self.handle_frame(id, frame)
    }
    fn transmit(&mut self) -> Option<(i64, Frame)> {
        self.poll_transmit()
    }
    fn can_receive(&self) -> bool {
        self.can_receive()
    }
    fn fail(&mut self, _outcome: Outcome) {
        self.fail();
    }
    fn event(&mut self) -> Option<Wake> {
        self.poll_event().map(|event| match event {
            callee::Event::Opened { id, method, metadata } => {
                Wake::Call(CallEvent::Opened { id, method, metadata })
            }
            callee::Event::Readable(id) => Wake::Reader(id),
            callee::Event::Writable(id) => Wake::Writer(id),
            callee::Event::Cancelled(id) => Wake::Call(CallEvent::Cancelled(id)),
        })
    }
}

#[derive(Debug)]
struct State<M> {
    machine: M,
    readers: HashMap<i64, Waker>,
    writers: HashMap<i64, Waker>,
}

/// A machine that several tasks use.
#[derive(Debug)]
pub(super) struct Shared<M> {
    state: Mutex<State<M>>,
    changed: Notify,
    /// Asks the loop to end.
    stop: watch::Sender<Option<Outcome>>,
    /// Says that it did.
    ended: watch::Sender<Option<Outcome>>,
}

impl<M: Machine> Shared<M> {
    pub(super) fn new(machine: M) -> Self {
        Self {
            state: Mutex::new(State { machine, readers: HashMap::new(), writers: HashMap::new() }),
            changed: Notify::new(),
            stop: watch::Sender::new(None),
            ended: watch::Sender::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        // A panic of another task does not make the machine wrong: each step is complete in itself.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Does something to the machine, then lets the loop look for what there is to send.
    pub(super) fn with<R>(&self, act: impl FnOnce(&mut M) -> R) -> R {
        let result = act(&mut self.lock().machine);
        self.changed.notify_one();
        result
    }

    /// Polls for reading: `act` says `None` for nothing yet.
    pub(super) fn poll_read<R>(
        &self,
        id: i64,
        cx: &Context<'_>,
        act: impl FnOnce(&mut M) -> Option<R>,
    ) -> Poll<R> {
        let mut state = self.lock();
        let Some(result) = act(&mut state.machine) else {
            state.readers.insert(id, cx.waker().clone());
            return Poll::Pending;
        };
        state.readers.remove(&id);
        drop(state);
        self.changed.notify_one();
        Poll::Ready(result)
    }

    /// Polls for writing: `act` says `None` for not yet.
    pub(super) fn poll_write<R>(
        &self,
        id: i64,
        cx: &Context<'_>,
        act: impl FnOnce(&mut M) -> Option<R>,
    ) -> Poll<R> {
        let mut state = self.lock();
        let Some(result) = act(&mut state.machine) else {
            state.writers.insert(id, cx.waker().clone());
            return Poll::Pending;
        };
        state.writers.remove(&id);
        drop(state);
        self.changed.notify_one();
        Poll::Ready(result)
    }

    /// Drops the wakers of a call that nobody waits for any more.
    pub(super) fn forget(&self, id: i64) {
        let mut state = self.lock();
        state.readers.remove(&id);
        state.writers.remove(&id);
    }

    /// Asks the loop to end with this outcome.
    pub(super) fn stop(&self, outcome: Outcome) {
        self.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            if first {
                *stop = Some(outcome);
            }
            first
        });
    }

    /// Waits for the end of the tunnel.
    pub(super) async fn ended(&self) -> Outcome {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_default(),
            Err(_) => Outcome::error(tonic::Code::Unavailable, "tunnel is gone"),
        }
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    fn fail(&self, outcome: Outcome, calls: &mut impl FnMut(CallEvent)) {
        self.lock().machine.fail(outcome.clone());
        self.dispatch(calls);
        let state = &mut *self.lock();
        // Nothing wakes them later.
        state.readers.drain().chain(state.writers.drain()).for_each(|(_, waker)| waker.wake());
        self.ended.send_replace(Some(outcome));
    }

    fn dispatch(&self, calls: &mut impl FnMut(CallEvent)) {
        let mut wakers = Vec::new();
        let mut events = Vec::new();
        {
            let state = &mut *self.lock();
            while let Some(event) = state.machine.event() {
                match event {
                    Wake::Reader(id) => wakers.extend(state.readers.remove(&id)),
                    Wake::Writer(id) => wakers.extend(state.writers.remove(&id)),
                    Wake::Call(event) => {
                        if let CallEvent::Cancelled(id) = event {
                            wakers.extend(state.readers.remove(&id));
                            wakers.extend(state.writers.remove(&id));
                        }
                        events.push(event);
                    }
                }
            }
        }
        wakers.into_iter().for_each(Waker::wake);
        events.into_iter().for_each(calls);
    }

    /// Runs until the link or the machine ends; the outcome says why. Code 0: the peer closed it.
    pub(super) async fn drive<I, O>(
        &self,
        mut inbound: I,
        outbound: mpsc::Sender<Box<O>>,
        wrap: impl Fn(i64, Frame) -> O,
        mut calls: impl FnMut(CallEvent),
    ) -> Outcome
    where
        I: Stream<Item = Result<(i64, Frame), tonic::Status>> + Unpin,
        O: Send,
    {
        let mut stop = self.stop.subscribe();
        let mut next = None;
        // The other side takes nothing any more: what it said last, and why, may still be on its way.
        let mut farewell = pin!(tokio::time::sleep(FAREWELL));
        let mut leaving = false;
        let outcome = loop {
            self.dispatch(&mut calls);
            if next.is_none() {
                next = self.lock().machine.transmit();
                if next.is_some() {
                    // Sending may have made room for another message.
                    self.dispatch(&mut calls);
                }
            }
            let can_receive = self.lock().machine.can_receive();
            // Cancel-safe: a permit that is not used sends nothing, a stream's next() loses no item, a
            // watch and a notify keep what they know.
            tokio::select! {
                Ok(permit) = outbound.reserve(), if next.is_some() && !leaving => {
                    if let Some((id, frame)) = next.take() {
                        permit.send(Box::new(wrap(id, frame)));
                    }
                }
                item = inbound.next(), if can_receive => match item {
                    Some(Ok((id, frame))) => {
                        let result = self.lock().machine.handle(id, frame);
                        if let Err(error) = result {
                            break Outcome::error(tonic::Code::Unavailable, error.to_string());
                        }
                    }
                    Some(Err(status)) => break Outcome::error(
                        tonic::Code::Unavailable,
                        format!("link failed: {}", status.message()),
                    ),
                    None => break Outcome::default(),
                },
                () = outbound.closed(), if !leaving => {
                    leaving = true;
                    farewell.as_mut().reset(tokio::time::Instant::now() + FAREWELL);
                }
                () = farewell.as_mut(), if leaving => {
                    break Outcome::error(tonic::Code::Unavailable, "link is closed");
                }
                () = self.changed.notified() => {}
                stopped = stop.wait_for(Option::is_some) => {
                    break stopped.ok().and_then(|outcome| outcome.clone()).unwrap_or_default();
                }
            }
        };
        let mut told = outcome.clone();
        if told.code == 0 {
            // Calls that were under way did not end well, whatever the tunnel did.
            told = Outcome::error(tonic::Code::Unavailable, "tunnel was closed");
        } else if told.code != tonic::Code::Unavailable as i32 {
            told.code = tonic::Code::Unavailable as i32;
        }
        self.fail(told, &mut calls);
        outcome
    }
}
