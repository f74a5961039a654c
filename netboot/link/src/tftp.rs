//! TFTP on a kernel UDP socket: one task, one loop.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket as StdUdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use netboot::journal::{Event as JournalEvent, Sink, Step};
use netboot::tftp::{Event, Limits, Server};
use netboot_assets::BootFiles;
use nix::sys::socket::{setsockopt, sockopt};
use thiserror::Error;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, unix_ms};

/// The kernel's queue of datagrams not yet read. The usual 208 KiB hold some 280 requests, and a rack that is
/// switched on at once sends more.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Room for one datagram: a request or an ACK. Longer ones are cut, and then are no packet.
const DATAGRAM: usize = 2048;
/// Datagrams read, and packets sent, before the other direction has its turn.
const BATCH: usize = 64;

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
    let mut received = [0; DATAGRAM];
    let mut packet = Vec::with_capacity(DATAGRAM);
    let mut more_to_send = false;
    while !shutdown.is_cancelled() {
        if !more_to_send {
            let deadline = server.poll_timeout().map(|time| clock.instant(time));
            // Cancel-safe: all branches only wait.
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = socket.readable() => {}
                () = wait_until(deadline) => {}
            }
        }
        for _ in 0..BATCH {
            match socket.try_recv_from(&mut received) {
                Ok((length, SocketAddr::V4(peer))) => {
                    server.handle_packet(clock.now(), peer, &received[..length], &*files);
                }
                Ok((_, SocketAddr::V6(_))) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::debug!(%error, "cannot receive");
                    break;
                }
            }
        }
        server.handle_timeout(clock.now());
        more_to_send = send(&socket, &mut server, &mut packet).await;
        while let Some(event) = server.poll_event() {
            sink(journaled(event));
        }
    }
    tracing::info!(counters = ?server.counters(), "TFTP ends");
    Ok(())
}

/// Sends one batch; whether there may be more.
async fn send(socket: &UdpSocket, server: &mut Server, packet: &mut Vec<u8>) -> bool {
    for _ in 0..BATCH {
        let Some(peer) = server.poll_transmit_into(packet) else { return false };
        // A full send buffer is waited for. Any other failure is the network's loss: the machine sends again.
        if let Err(error) = socket.send_to(packet, peer).await {
            tracing::debug!(%error, %peer, "cannot send");
        }
    }
    true
}

async fn wait_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
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
