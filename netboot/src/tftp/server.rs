//! The server: all transfers of one port.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use super::event::{Counters, Event, FailReason};
use super::name::{MAX_NAME, NameError, clean_name};
use super::packet::{ErrorCode, Mode, Packet, ParseError, Request};
use super::session::{Acked, Expired, Session};
use super::turns::{Turn, Turns};
use super::{BURST_DATAGRAMS, DATA_HEADER, IP_AND_UDP, MAX_BLOCK_SIZE, MAX_WINDOW, MIN_BLOCK_SIZE};
use crate::Time;

/// A request that repeats a transfer's own, this soon after the transfer last moved, is a late copy made by
/// the network. A machine that was reset needs longer to ask again, and then starts anew.
const LATE_COPY: Duration = Duration::from_secs(1);

/// The files that may be read, by the name that the client says (already cleaned).
pub trait Files {
    /// The file's bytes, shared and not copied.
    fn open(&self, name: &str) -> Option<Arc<[u8]>>;
}

/// What the server grants at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a block; [`MAX_BLOCK_SIZE`] by default.
    pub max_block_size: u16,
    /// Blocks of a window; [`MAX_WINDOW`] by default.
    pub max_window: u16,
    /// Transfers in all. A session is some 300 bytes, so the default of 4096 is about 1 MiB: four racks'
    /// worth of machines for each of a thousand.
    pub max_sessions: usize,
    /// Transfers to one address. Firmware reads one file at a time and may leave one behind; 16 leave room
    /// for machines behind one address.
    pub max_sessions_per_address: usize,
    /// Transfers with options that data flows to at once; further ones wait for their turn. So many fill a link.
    pub max_sending: usize,
    /// How long a transfer waits for its turn at most. Firmware waits for four seconds before it complains, iPXE for a
    /// quarter of one before it says its ACK again.
    pub max_wait: Duration,
    /// How long a silent client is kept. iPXE's own retries reach 10 s, so it is heard at least once.
    pub give_up: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_block_size: MAX_BLOCK_SIZE,
            max_window: MAX_WINDOW,
            max_sessions: 4096,
            max_sessions_per_address: 16,
            max_sending: 128,
            max_wait: Duration::from_secs(2),
            give_up: Duration::from_secs(20),
        }
    }
}

impl Limits {
    /// The default, with blocks as large as an interface of this MTU carries whole (jumbo frames), and never
    /// above what the standard knows. For clients beyond a router the path may be narrower: use the default.
    #[must_use]
    pub fn for_mtu(mtu: u16) -> Self {
        let headers = (IP_AND_UDP + DATA_HEADER) as u16;
        let max_block_size = mtu.saturating_sub(headers).max(MIN_BLOCK_SIZE);
        Self { max_block_size, ..Self::default() }
    }
}

/// Datagrams for one client, end to end in one buffer: what one `sendmsg` with `UDP_SEGMENT` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// The client.
    pub peer: SocketAddrV4,
    /// The length of each datagram; only the last may be shorter (and holds at least its 4 bytes of header).
    pub segment: usize,
    /// How many there are: 1 to [`BURST_DATAGRAMS`], together at most [`BURST_BYTES`](super::BURST_BYTES).
    pub datagrams: usize,
    /// What it is to its transfer.
    pub part: Part,
}

/// What a [`Burst`] is to its transfer: a driver with more than one way to a client chooses by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The next window, or its beginning: the client has everything before it, and it was not sent yet.
    Next,
    /// Sent once already: the client, or the way to it, lost it.
    Again,
    /// Anything else: options, errors, the rest of a window that is too long for one burst.
    Other,
}

/// All transfers of one port.
#[derive(Debug, Default)]
pub struct Server {
    limits: Limits,
    sessions: BTreeMap<SocketAddrV4, Session>,
    deadlines: BTreeSet<(Time, SocketAddrV4)>,
    /// Sessions with something to send, each in turn for one packet.
    senders: VecDeque<SocketAddrV4>,
    turns: Turns,
    /// Answers outside of a session. The driver empties it after every packet.
    refusals: VecDeque<(SocketAddrV4, ErrorCode, &'static str)>,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Server {
    /// A server without transfers.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Counts since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Transfers now.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Takes in one datagram.
    pub fn handle_packet(&mut self, now: Time, from: SocketAddrV4, bytes: &[u8], files: &dyn Files) {
        match Packet::parse(bytes) {
            Ok(Packet::Read(request)) => self.handle_read(now, from, &request, files),
            Ok(Packet::Write(_)) => {
                self.refuse(from, ErrorCode::AccessViolation, "this server is read-only");
            }
            Ok(Packet::Ack { block }) => self.handle_ack(now, from, block),
            Ok(Packet::Error { code, message }) => self.handle_error(now, from, code, message),
            // A late packet of some other transfer; an answer would only add to the confusion.
            Ok(Packet::Data { .. } | Packet::OptionAck(_)) => self.counters.stray += 1,
            Err(error) => self.handle_malformed(from, bytes, error),
        }
        self.give_turns(now);
    }

    /// Acts on every deadline up to `now`.
    pub fn handle_timeout(&mut self, now: Time) {
        while let Some(&(deadline, peer)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            let Some(session) = self.sessions.get_mut(&peer) else { continue };
            if session.deadline > now {
                session.armed = session.deadline;
                self.deadlines.insert((session.armed, peer));
                continue;
            }
            // Whether it waited for long enough or fell silent: it goes on without being counted.
            let turn = std::mem::take(&mut session.turn);
            self.turns.leave(turn);
            if let Turn::Waits(_) = turn {
                session.begin(now);
            } else if session.handle_timeout(now, self.limits.give_up) == Expired::Retry {
                self.counters.timeouts += 1;
            } else {
                let all_sent = session.all_sent();
                let reason = if all_sent { FailReason::LastAckMissing } else { FailReason::Silent };
                self.refusals.push_back((peer, ErrorCode::Undefined, "no answer for too long"));
                self.fail(now, peer, reason);
                continue;
            }
            session.armed = session.deadline;
            self.deadlines.insert((session.armed, peer));
            queue(&mut self.senders, peer, session);
        }
        self.give_turns(now);
    }

    /// When [`Server::handle_timeout`] is to be called next. It may then find nothing to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The next packet to send, and to whom.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddrV4, Vec<u8>)> {
        let mut out = Vec::new();
        self.poll_transmit_into(&mut out).map(|peer| (peer, out))
    }

    /// As [`Server::poll_transmit`], into a buffer that the driver keeps.
    pub fn poll_transmit_into(&mut self, out: &mut Vec<u8>) -> Option<SocketAddrV4> {
        self.poll_burst_of(out, 1).map(|burst| burst.peer)
    }

    /// The next packets to send to one client, all that its window allows now: replaces what `out` holds, a
    /// buffer that the driver keeps, so that nothing is allocated. Send `out` by one `sendmsg` with `UDP_SEGMENT`
    /// = [`Burst::segment`] (needless when there is one datagram), or `out.chunks(segment)` one by one.
    ///
    /// Clients take turns, a burst each.
    pub fn poll_burst(&mut self, out: &mut Vec<u8>) -> Option<Burst> {
        self.poll_burst_of(out, BURST_DATAGRAMS)
    }

    fn poll_burst_of(&mut self, out: &mut Vec<u8>, most: usize) -> Option<Burst> {
        out.clear();
        if let Some((peer, code, message)) = self.refusals.pop_front() {
            Packet::Error { code, message }.emit_into(out);
            return Some(Burst { peer, segment: out.len(), datagrams: 1, part: Part::Other });
        }
        while let Some(peer) = self.senders.pop_front() {
            let Some(session) = self.sessions.get_mut(&peer) else { continue };
            session.queued = false;
            let part = session.part();
            let (segment, datagrams) = session.emit(out, most);
            if datagrams == 0 {
                continue;
            }
            if session.sending() {
                self.counters.bytes_sent += out.len().saturating_sub(DATA_HEADER * datagrams) as u64;
            }
            queue(&mut self.senders, peer, session);
            return Some(Burst { peer, segment, datagrams, part });
        }
        None
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn handle_read(&mut self, now: Time, from: SocketAddrV4, request: &Request<'_>, files: &dyn Files) {
        self.counters.requests += 1;
        if let Some(session) = self.sessions.get(&from) {
            let same = session.asked == request.options && clean_name(request.name) == Ok(&*session.name);
            if same && session.heard() && now.since(session.progressed) < LATE_COPY {
                self.counters.stray += 1;
                return;
            }
            self.remove(from);
        }
        if request.mode != Mode::Octet {
            self.refuse(from, ErrorCode::Undefined, "only mode octet is served");
            return;
        }
        let name = match clean_name(request.name) {
            Ok(name) => name,
            Err(error) => {
                let code = match error {
                    NameError::Empty => ErrorCode::NotFound,
                    NameError::TooLong | NameError::Traversal | NameError::Character => {
                        ErrorCode::AccessViolation
                    }
                };
                self.fail_request(from, request.name, FailReason::Refused(error));
                self.refuse(from, code, "no such name");
                return;
            }
        };
        let Some(file) = files.open(name) else {
            self.fail_request(from, name, FailReason::NotFound);
            self.refuse(from, ErrorCode::NotFound, "no such file");
            return;
        };
        self.make_room(now, *from.ip());
        if self.sessions.len() >= self.limits.max_sessions {
            // No ERROR: a machine that hears nothing asks again, one that hears "busy" stops booting.
            self.counters.busy += 1;
            return;
        }
        self.start(Session::new(now, name.into(), file, request.options, &self.limits), from);
    }

    fn start(&mut self, mut session: Session, peer: SocketAddrV4) {
        if session.sending() {
            self.events.push_back(Event::Started { peer, file: session.name.clone() });
        }
        self.deadlines.insert((session.armed, peer));
        queue(&mut self.senders, peer, &mut session);
        self.sessions.insert(peer, session);
    }

    /// Ends the stalest transfer of an address that has too many: a machine that was reset over and over.
    fn make_room(&mut self, now: Time, address: Ipv4Addr) {
        let range = SocketAddrV4::new(address, 0)..=SocketAddrV4::new(address, u16::MAX);
        if self.sessions.range(range.clone()).count() < self.limits.max_sessions_per_address {
            return;
        }
        let stalest = self.sessions.range(range).min_by_key(|(_, session)| session.progressed);
        if let Some(peer) = stalest.map(|(peer, _)| *peer) {
            self.fail(now, peer, FailReason::Crowded);
        }
    }

    fn handle_ack(&mut self, now: Time, from: SocketAddrV4, block: u16) {
        let Some(session) = self.sessions.get_mut(&from) else {
            self.counters.stray += 1;
            return;
        };
        match session.handle_ack(now, block) {
            Acked::Ignored => {
                self.counters.stray += 1;
                return;
            }
            Acked::Agreed => {
                self.events.push_back(Event::Started { peer: from, file: session.name.clone() });
                session.turn = self.turns.ask(self.limits.max_sending, from);
                if session.turn != Turn::Has {
                    session.deadline = now + self.limits.max_wait;
                }
            }
            Acked::Progress => {}
            Acked::Finished => {
                self.counters.finished += 1;
                self.events.push_back(Event::Finished {
                    peer: from,
                    file: session.name.clone(),
                    bytes: session.file.len() as u64,
                    duration: now.since(session.started),
                });
                self.remove(from);
                return;
            }
        }
        arm(&mut self.deadlines, from, session);
        queue(&mut self.senders, from, session);
    }

    /// Lets those begin whose turn has come.
    fn give_turns(&mut self, now: Time) {
        while let Some(peer) = self.turns.next(self.limits.max_sending) {
            let Some(session) = self.sessions.get_mut(&peer) else {
                // It cannot be: whoever leaves takes its ticket along.
                self.turns.leave(Turn::Has);
                continue;
            };
            session.turn = Turn::Has;
            session.begin(now);
            arm(&mut self.deadlines, peer, session);
            queue(&mut self.senders, peer, session);
        }
    }

    fn handle_error(&mut self, now: Time, from: SocketAddrV4, code: ErrorCode, message: &str) {
        let Some(session) = self.remove(from) else {
            self.counters.stray += 1;
            return;
        };
        self.counters.aborted += 1;
        if session.sending() {
            self.events.push_back(Event::Failed {
                peer: from,
                file: session.name,
                reason: FailReason::Aborted { code, message: message.to_owned() },
                duration: now.since(session.started),
            });
        }
    }

    /// Answers a stranger's junk, but never an ERROR (two servers would talk for ever), and never within a
    /// transfer, which junk must not end.
    fn handle_malformed(&mut self, from: SocketAddrV4, bytes: &[u8], error: ParseError) {
        self.counters.malformed += 1;
        let answerable = match error {
            ParseError::Opcode(_) | ParseError::Mode | ParseError::Name | ParseError::TooManyOptions => true,
            ParseError::Truncated => matches!(bytes, [0, 1 | 2, ..]),
        };
        if answerable && !self.sessions.contains_key(&from) {
            self.refuse(from, ErrorCode::IllegalOperation, "not a TFTP request");
        }
    }

    fn refuse(&mut self, to: SocketAddrV4, code: ErrorCode, message: &'static str) {
        self.counters.refused += 1;
        self.refusals.push_back((to, code, message));
    }

    fn fail_request(&mut self, peer: SocketAddrV4, name: &str, reason: FailReason) {
        let name: String = name.escape_debug().take(MAX_NAME).collect();
        self.events.push_back(Event::Failed { peer, file: name.into(), reason, duration: Duration::ZERO });
    }

    fn fail(&mut self, now: Time, peer: SocketAddrV4, reason: FailReason) {
        let Some(session) = self.remove(peer) else { return };
        if session.sending() {
            self.counters.failed += 1;
            let duration = now.since(session.started);
            self.events.push_back(Event::Failed { peer, file: session.name, reason, duration });
        }
    }

    fn remove(&mut self, peer: SocketAddrV4) -> Option<Session> {
        let session = self.sessions.remove(&peer)?;
        self.deadlines.remove(&(session.armed, peer));
        self.turns.leave(session.turn);
        Some(session)
    }
}

/// Puts a deadline forward in the table; one that was put off stays there (see [`Session::armed`]).
fn arm(deadlines: &mut BTreeSet<(Time, SocketAddrV4)>, peer: SocketAddrV4, session: &mut Session) {
    if session.deadline < session.armed {
        deadlines.remove(&(session.armed, peer));
        session.armed = session.deadline;
        deadlines.insert((session.armed, peer));
    }
}

/// Lines a session up when it has something to send.
fn queue(senders: &mut VecDeque<SocketAddrV4>, peer: SocketAddrV4, session: &mut Session) {
    if !session.queued && session.wants_to_send() {
        session.queued = true;
        senders.push_back(peer);
    }
}
