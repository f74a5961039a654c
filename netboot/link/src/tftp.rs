//! TFTP on a kernel UDP socket: one thread, one loop. Requests and ACKs are taken in batches, and each window goes
//! out by one system call, cut into datagrams by the kernel.
//!
//! The thread waits in the receiving call itself: block by block, a transfer is one datagram in and one out, and a
//! third call that only asks whether there is something (and the runtime behind it) is a tenth of the whole cost.

mod direct;
mod outbox;

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use netboot::journal::{Event as JournalEvent, Sink, Step};
use netboot::tftp::{DEFAULT_BLOCK_SIZE, Event, Limits, Server};
use netboot::{Subnet, Time};
use netboot_assets::BootFiles;
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use thiserror::Error;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::direct::Direct;
use self::outbox::Outbox;
use crate::clock::{Clock, unix_ms};
use crate::sys::batch::{BATCH, FEW, ReceiveBatch};
use crate::sys::interface::Interface;
use crate::sys::never_fragment;

/// The kernel's queue of datagrams not yet read. The usual 208 KiB hold some 280 requests, and a rack that is
/// switched on at once sends more.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Windows on their way to the card: sixteen of the largest.
const SEND_BUFFER: usize = 1 << 20;
/// Room for one datagram: a request or an ACK. Longer ones are cut, and then are no packet.
const DATAGRAM: usize = 2048;
/// How often deadlines are looked at while transfers run and nothing comes. The least of them is 60 ms.
const TICK: Duration = Duration::from_millis(10);
/// Pause after an error of the socket that is not over by itself.
const ERROR_PAUSE: Duration = Duration::from_millis(200);
/// With so many transfers at once, which fill any link however long an answer takes, the server waits a little before
/// it looks again: one wake-up for several ACKs, where each costs as much as half a block.
const CROWD: usize = 64;
/// How long that is; the kernel adds some 50 µs.
const GATHER: Duration = Duration::from_micros(20);
/// Between two words about requests from elsewhere.
const FOREIGN_PAUSE: Duration = Duration::from_mins(1);

/// Why TFTP cannot be served.
#[derive(Debug, Error)]
pub enum TftpError {
    /// The address is not IPv4, the only protocol of PXE that we speak.
    #[error("{0} is not an IPv4 address")]
    NotIpv4(SocketAddr),
    /// The socket cannot be bound.
    #[error("cannot bind TFTP to {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no thread for it, or the thread died.
    #[error("cannot run the TFTP server")]
    Thread(#[source] io::Error),
}

/// A bound socket, and how it is served.
#[derive(Debug)]
pub struct TftpSocket {
    socket: UdpSocket,
    local: SocketAddr,
    limits: Limits,
    subnets: Vec<Subnet>,
    direct: Option<Direct>,
}

impl TftpSocket {
    /// Where it is bound; tells the port when 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The same when an interface is the only way to the clients: blocks as large as it carries them, and the short
    /// way (frames to their stations) for windows. Whatever of it cannot be had stays as it was.
    #[must_use]
    pub fn only_by(self, interface: &str) -> Self {
        let this = match Interface::named(interface).and_then(|interface| interface.mtu()) {
            Ok(mtu) => self.with_mtu(mtu),
            Err(error) => {
                tracing::debug!(interface, %error, "the MTU is not known");
                self
            }
        };
        this.with_frames_of(interface)
    }

    /// The interface is of the calling thread's network namespace, as the socket is.
    pub(crate) fn with_frames_of(self, interface: &str) -> Self {
        let SocketAddr::V4(from) = self.local else { return self };
        let direct = Direct::open(interface, from);
        if let Err(error) = &direct {
            tracing::debug!(interface, %error, "blocks go by the kernel alone");
        }
        Self { direct: direct.ok(), ..self }
    }

    pub(crate) fn with_mtu(self, mtu: u16) -> Self {
        let Limits { max_block_size, .. } = Limits::for_mtu(mtu);
        // Nothing on the way is narrower, so the kernel need not be ready to cut a datagram once more: it looks for
        // no path's MTU and makes no number to put fragments together by. Blocks without a negotiation must fit.
        if max_block_size >= DEFAULT_BLOCK_SIZE
            && let Err(error) = never_fragment(&self.socket)
        {
            tracing::debug!(%error, "datagrams may be cut");
        }
        Self { limits: Limits { max_block_size, ..self.limits }, ..self }
    }

    /// The same for machines of these networks only; for all when there is none. Whoever has another address gets no
    /// answer at all: an answer would go to somebody who did not ask.
    #[must_use]
    pub fn only_for(self, subnets: Vec<Subnet>) -> Self {
        Self { subnets, ..self }
    }
}

/// Binds the socket. On a host with several addresses, bind the advertised one: from the wildcard address the
/// kernel answers with the primary address of the interface, and clients drop what another address sends.
///
/// # Errors
/// When the address is not IPv4 or cannot be bound.
pub fn bind(address: SocketAddr) -> Result<TftpSocket, TftpError> {
    if !address.is_ipv4() {
        return Err(TftpError::NotIpv4(address));
    }
    let failed = |source| TftpError::Bind { address, source };
    let socket = UdpSocket::bind(address).map_err(failed)?;
    // The forced size needs CAP_NET_ADMIN; the other is cut to net.core.rmem_max. Neither is fatal.
    if setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        let _ = setsockopt(&socket.as_fd(), sockopt::RcvBuf, &RECEIVE_BUFFER);
    }
    if setsockopt(&socket.as_fd(), sockopt::SndBufForce, &SEND_BUFFER).is_err() {
        let _ = setsockopt(&socket.as_fd(), sockopt::SndBuf, &SEND_BUFFER);
    }
    let local = socket.local_addr().map_err(failed)?;
    Ok(TftpSocket { socket, local, limits: Limits::default(), subnets: Vec::new(), direct: None })
}

/// Serves the files until `shutdown`, or until it is dropped.
///
/// # Errors
/// When there is no thread for it.
#[tracing::instrument(name = "tftp", skip_all, fields(address = %socket.local))]
pub async fn run(
    socket: TftpSocket,
    files: Arc<BootFiles>,
    sink: Sink,
    shutdown: CancellationToken,
) -> Result<(), TftpError> {
    let mut socket = socket;
    let outbox = Outbox::new(socket.direct.take());
    let stop = Stop { socket: Arc::new(socket), stop: Arc::default() };
    let (end, ended) = oneshot::channel::<()>();
    let (socket, stopped, span) = (stop.socket.clone(), stop.stop.clone(), tracing::Span::current());
    let serve = move || {
        span.in_scope(|| serve(&socket, outbox, &files, &sink, &stopped));
        drop((socket, end));
    };
    let thread = thread::Builder::new().name("tftp".into()).spawn(serve).map_err(TftpError::Thread)?;
    let mut ended = ended;
    // Cancel-safe: both only wait. The thread ends when `stop` is dropped.
    tokio::select! {
        () = shutdown.cancelled() => {
            stop.now();
            let _ = (&mut ended).await;
        }
        _ = &mut ended => {}
    }
    // It has nothing more to do than to return.
    thread.join().map_err(|_| TftpError::Thread(io::Error::other("it panicked")))
}

/// Ends the thread, also when nobody waits for it any more.
struct Stop {
    socket: Arc<TftpSocket>,
    stop: Arc<AtomicBool>,
}

impl Stop {
    fn now(&self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes whoever waits in a receiving call. A socket without a peer cannot be shut down, so it is an error.
        let _ = shutdown(self.socket.socket.as_raw_fd(), Shutdown::Read);
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.now();
    }
}

fn serve(socket: &TftpSocket, mut outbox: Outbox, files: &BootFiles, sink: &Sink, stop: &AtomicBool) {
    let TftpSocket { socket, limits, subnets, .. } = socket;
    let clock = Clock::start();
    let mut server = Server::new(*limits);
    let mut inbox = ReceiveBatch::new(BATCH, DATAGRAM);
    let (mut foreign, mut ticking, mut most) = (Foreign::default(), false, FEW);
    while !stop.load(Ordering::Relaxed) {
        if ticking != server.poll_timeout().is_some() {
            ticking = !ticking;
            // It does not fail for a number of this size; without it deadlines would wait for packets.
            let _ = socket.set_read_timeout(ticking.then_some(TICK));
        }
        receive(socket, &mut inbox, most, outbox.more());
        most = if inbox.len() < FEW { FEW } else { BATCH };
        let now = clock.now();
        for index in 0..inbox.len() {
            // What does not fit is no packet of a client.
            let (Some(peer), (bytes, false)) = (inbox.peer(index), inbox.bytes(index)) else { continue };
            if is_of(subnets, peer) {
                server.handle_packet(now, peer, bytes, files);
            } else {
                foreign.heard(now, peer);
            }
        }
        if server.poll_timeout().is_some_and(|due| due <= now) {
            server.handle_timeout(now);
        }
        outbox.send(now, socket, &mut server);
        while let Some(event) = server.poll_event() {
            sink(journaled(event));
        }
        if server.sessions() >= CROWD && inbox.len() < FEW && !outbox.more() {
            thread::sleep(GATHER);
        }
    }
    let (counters, foreign, direct) = (server.counters(), foreign.count, outbox.direct());
    tracing::info!(?counters, foreign, direct, "TFTP ends");
}

/// Who asked from elsewhere.
#[derive(Debug, Default)]
struct Foreign {
    count: u64,
    quiet_until: Time,
}

impl Foreign {
    /// Counts it and says so, not for each: a machine beyond a router and a flood look alike from here.
    fn heard(&mut self, now: Time, peer: SocketAddrV4) {
        self.count += 1;
        if now >= self.quiet_until {
            self.quiet_until = now + FOREIGN_PAUSE;
            tracing::warn!(%peer, count = self.count, "a request from outside the served networks is not answered; netboot.routed names more");
        }
    }
}

fn is_of(subnets: &[Subnet], peer: SocketAddrV4) -> bool {
    subnets.is_empty() || subnets.iter().any(|subnet| subnet.has_host(*peer.ip()))
}

/// Takes the datagrams that are there; waits for the first unless there is something to be done.
fn receive(socket: &UdpSocket, inbox: &mut ReceiveBatch, most: usize, busy: bool) {
    let result = if busy { inbox.receive(socket) } else { inbox.wait(socket, most) };
    match result {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
        Err(error) => {
            tracing::debug!(%error, "cannot receive");
            thread::sleep(ERROR_PAUSE);
        }
    }
}

fn journaled(event: Event) -> JournalEvent {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (peer, step): (SocketAddrV4, Step) = match event {
        Event::Started { peer, file } => (peer, Step::TftpStarted { file: file.to_string() }),
        Event::Finished { peer, file, bytes, duration } => {
            (peer, Step::TftpFinished { file: file.to_string(), bytes, millis: millis(duration) })
        }
        Event::Failed { peer, file, reason, duration: _ } => {
            (peer, Step::TftpFailed { file: file.to_string(), reason: reason.to_string() })
        }
    };
    JournalEvent::new(unix_ms(), step).with_address(IpAddr::V4(*peer.ip()))
}

#[cfg(test)]
mod tests;
