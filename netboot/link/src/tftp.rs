//! TFTP on a kernel UDP socket: one task, one loop. Requests and ACKs are taken in batches, and each window goes
//! out by one system call, cut into datagrams by the kernel.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket as StdUdpSocket};
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use netboot::Time;
use netboot::journal::{Event as JournalEvent, Sink, Step};
use netboot::tftp::{Burst, Event, Limits, Server};
use netboot_assets::BootFiles;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, unix_ms};
use crate::sys::batch::{BATCH, Outgoing, ReceiveBatch, send_many};

/// The kernel's queue of datagrams not yet read. The usual 208 KiB hold some 280 requests, and a rack that is
/// switched on at once sends more.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Windows on their way to the card: sixteen of the largest.
const SEND_BUFFER: usize = 1 << 20;
/// Room for one datagram: a request or an ACK. Longer ones are cut, and then are no packet.
const DATAGRAM: usize = 2048;
/// Bursts sent together, before the other direction has its turn: with the largest windows their buffers are
/// 1 MiB.
const BURSTS: usize = 16;

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
    /// The runtime does not take the socket.
    #[error("cannot use the TFTP socket")]
    Socket(#[source] io::Error),
}

/// A bound socket.
#[derive(Debug)]
pub struct TftpSocket {
    socket: StdUdpSocket,
    local: SocketAddr,
}

impl TftpSocket {
    /// Where it is bound; tells the port when 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
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
    let socket = StdUdpSocket::bind(address).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    // The forced size needs CAP_NET_ADMIN; the other is cut to net.core.rmem_max. Neither is fatal.
    if setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        let _ = setsockopt(&socket.as_fd(), sockopt::RcvBuf, &RECEIVE_BUFFER);
    }
    if setsockopt(&socket.as_fd(), sockopt::SndBufForce, &SEND_BUFFER).is_err() {
        let _ = setsockopt(&socket.as_fd(), sockopt::SndBuf, &SEND_BUFFER);
    }
    let local = socket.local_addr().map_err(failed)?;
    Ok(TftpSocket { socket, local })
}

/// Serves the files until `shutdown`.
///
/// # Errors
/// When the runtime does not take the socket.
#[tracing::instrument(name = "tftp", skip_all, fields(address = %socket.local))]
pub async fn run(
    socket: TftpSocket,
    files: Arc<BootFiles>,
    sink: Sink,
    shutdown: CancellationToken,
) -> Result<(), TftpError> {
    let socket = UdpSocket::from_std(socket.socket).map_err(TftpError::Socket)?;
    let clock = Clock::start();
    let mut server = Server::new(Limits::default());
    let mut inbox = ReceiveBatch::new(BATCH, DATAGRAM);
    let mut outbox = Outbox::new();
    let mut wake = pin!(tokio::time::sleep(Duration::ZERO));
    let mut armed = None;
    while !shutdown.is_cancelled() {
        if !outbox.more {
            arm(&server, &clock, &mut armed, wake.as_mut());
            // Cancel-safe: all branches only wait.
            tokio::select! {
                biased;
                _ = socket.readable() => {}
                () = wake.as_mut(), if armed.is_some() => armed = None,
                () = shutdown.cancelled() => break,
            }
        }
        receive(&socket, &mut inbox);
        let now = clock.now();
        for index in 0..inbox.len() {
            // What does not fit is no packet of a client.
            if let (Some(peer), (bytes, false)) = (inbox.peer(index), inbox.bytes(index)) {
                server.handle_packet(now, peer, bytes, &*files);
            }
        }
        if server.poll_timeout().is_some_and(|due| due <= now) {
            server.handle_timeout(now);
        }
        outbox.send(&socket, &mut server).await;
        while let Some(event) = server.poll_event() {
            sink(journaled(event));
        }
    }
    tracing::info!(counters = ?server.counters(), "TFTP ends");
    Ok(())
}

/// Sets the timer when the next deadline comes before what it is set to: most deadlines move on before they
/// come, and the timer is left alone.
fn arm(server: &Server, clock: &Clock, armed: &mut Option<Time>, wake: Pin<&mut Sleep>) {
    if let Some(due) = server.poll_timeout()
        && armed.is_none_or(|armed| due < armed)
    {
        *armed = Some(due);
        wake.reset(clock.instant(due));
    }
}

/// Takes the datagrams that wait.
fn receive(socket: &UdpSocket, inbox: &mut ReceiveBatch) {
    inbox.clear();
    let result = socket.try_io(Interest::READABLE, || match inbox.receive(socket) {
        Ok(count) if count < BATCH => Err(io::ErrorKind::WouldBlock.into()),
        result => result,
    });
    match result {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
            tracing::debug!(%error, "cannot receive");
        }
        Ok(_) | Err(_) => {}
    }
}

/// Bursts to send, with the buffers that they are written into; nothing is allocated for a packet.
struct Outbox {
    bursts: Vec<(Burst, Vec<u8>)>,
    /// Whether the kernel cuts bursts (`UDP_SEGMENT`). It does not for a card that computes no checksums.
    cuts: bool,
    /// Whether the server has more to send than one batch.
    more: bool,
}

impl Outbox {
    fn new() -> Self {
        let nobody = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let none = (Burst { peer: nobody, segment: 0, datagrams: 0 }, Vec::new());
        Self { bursts: vec![none; BURSTS], cuts: true, more: false }
    }

    /// Sends what the server has, one batch.
    async fn send(&mut self, socket: &UdpSocket, server: &mut Server) {
        let mut count = 0;
        for (burst, bytes) in &mut self.bursts {
            let Some(next) = server.poll_burst(bytes) else { break };
            *burst = next;
            count += 1;
        }
        self.more = count == self.bursts.len();
        let mut at = 0;
        while at < count {
            let (mut messages, mut filled) = ([Outgoing::default(); BURSTS], 0);
            for ((burst, bytes), message) in self.bursts[at..count].iter().zip(&mut messages) {
                if burst.datagrams > 1 && !self.cuts {
                    break;
                }
                message.parts[0] = bytes;
                message.to = Some(burst.peer);
                message.segment =
                    (burst.datagrams > 1).then_some(u16::try_from(burst.segment)).and_then(Result::ok);
                filled += 1;
            }
            if filled == 0 {
                send_one_by_one(socket, &self.bursts[at]).await;
                at += 1;
                continue;
            }
            match send_all(socket, &messages[..filled]).await {
                Ok(sent) => at += sent,
                Err(error) => {
                    let (burst, _) = &self.bursts[at];
                    let cannot_cut =
                        matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE));
                    if burst.datagrams > 1 && cannot_cut {
                        // EIO is the card's word; the others are this client's path, narrower than its blocks.
                        self.cuts &= error.raw_os_error() != Some(libc::EIO);
                        send_one_by_one(socket, &self.bursts[at]).await;
                    } else {
                        // The network's loss: the machine asks again.
                        tracing::debug!(%error, peer = %burst.peer, "cannot send");
                    }
                    at += 1;
                }
            }
        }
    }
}

/// Sends messages until one fails; a full send buffer is waited for. How many went, at least one.
async fn send_all(socket: &UdpSocket, messages: &[Outgoing<'_>]) -> io::Result<usize> {
    loop {
        match socket.try_io(Interest::WRITABLE, || send_many(socket, messages)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

async fn send_one_by_one(socket: &UdpSocket, (burst, bytes): &(Burst, Vec<u8>)) {
    for datagram in bytes.chunks(burst.segment.max(1)) {
        if let Err(error) = socket.send_to(datagram, burst.peer).await {
            tracing::debug!(%error, peer = %burst.peer, "cannot send");
            return;
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
    JournalEvent::new(unix_ms(), step).with_address(std::net::IpAddr::V4(*peer.ip()))
}

#[cfg(test)]
mod tests;
