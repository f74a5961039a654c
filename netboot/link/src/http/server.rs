//! HTTP/1.1 and HTTP/2 on one port, and TLS on another.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use super::Service;
use super::front::{self, End};

/// Connections at once; further ones wait in the kernel's queue. A machine that boots holds one or two, one
/// with an agent one more: a thousand machines at the same moment. Each holds a few KiB.
pub const MAX_CONNECTIONS: usize = 4096;
/// How long a new connection may take to say its first whole request, and an open HTTP/1 connection its next.
/// Firmware sends it with its first packets.
pub const FIRST_REQUEST: Duration = Duration::from_secs(15);
/// How long running answers are waited for at the end.
pub const DRAIN: Duration = Duration::from_secs(5);

/// How often an HTTP/2 connection is asked whether it lives, and how long it may think about it. Reverse
/// tunnels of agents are such connections: they are to be noticed as gone within a minute.
const PING: Duration = Duration::from_secs(20);
/// Bytes sent and not acknowledged may wait so long before the connection counts as dead: a machine that was
/// switched off in the middle of a download.
const UNACKNOWLEDGED_MS: u32 = 60_000;
/// Bytes of an HTTP/1 head, and of a body on its way out, above which no more is taken.
const BUFFER: usize = 64 << 10;
/// HTTP/2 streams of one connection: the reverse tunnel is one, tools open a few.
const MAX_STREAMS: u32 = 16;
/// Bytes that a client may send which nobody has read yet, of a stream and of the connection: what a thousand stuck
/// tunnels may cost (`omni-link/tests/stuck.rs`). HTTP/2 has them at 64 KiB when nothing is said, hyper at 1 MiB.
const WINDOW: u32 = 64 << 10;
/// Bytes of an HTTP/2 request's head.
const MAX_HEADERS: u32 = 16 << 10;
/// Streams that a client opens and resets at once, before it is taken for an attacker (CVE-2023-44487).
const MAX_RESETS: usize = 64;
/// Before another try when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown`, then lets running answers end for [`DRAIN`].
#[tracing::instrument(name = "http", skip_all)]
pub async fn serve(listener: TcpListener, service: impl Into<Service>, shutdown: CancellationToken) {
    let service = service.into();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // Cancel-safe: a permit not taken is given back, accept and join_next lose nothing when dropped.
        let (accepted, slot) = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            both = async {
                let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
                (listener.accept().await, slot)
            } => both,
        };
        match accepted {
            Ok((stream, peer)) => {
                connections.spawn(connection(
                    (stream, slot),
                    peer,
                    service.clone(),
                    slots.clone(),
                    shutdown.clone(),
                ));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::info!(connections = connections.len(), "connections are cut");
        connections.shutdown().await;
    }
}

/// One connection; the slot is its own until it ends.
async fn connection(
    (stream, _slot): (TcpStream, OwnedSemaphorePermit),
    peer: SocketAddr,
    service: Service,
    slots: Arc<Semaphore>,
    shutdown: CancellationToken,
) {
    // Answers leave at once; a dead peer is noticed. Neither is worth refusing a connection for.
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(&stream.as_fd(), sockopt::TcpUserTimeout, &UNACKNOWLEDGED_MS);
    // Each part is boxed, so that a tunnel, which stays for as long as its machine runs, holds only the last.
    let (stream, first) = match (&service.tls, &service.boot) {
        (Some(tls), _) => match Box::pin(tls.accept(stream, peer)).await {
            None => return,
            Some(stream) => (Either::Right(Box::new(stream)), Vec::new()),
        },
        (None, None) => (Either::Left(stream), Vec::new()),
        (None, Some(boot)) => match Box::pin(front::serve(stream, peer, boot, &slots, &shutdown)).await {
            End::Over => return,
            End::HandOver(stream, first) => (Either::Left(stream), first),
        },
    };
    Box::pin(by_hyper(Resumed { first, read: 0, stream }, peer, service.router, shutdown)).await;
}

async fn by_hyper(stream: Resumed, peer: SocketAddr, router: Router, shutdown: CancellationToken) {
    let asked = Arc::new(AtomicBool::new(false));
    let service = {
        let asked = asked.clone();
        service_fn(move |request: hyper::Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            let mut router = router.clone();
            async move { Ok::<_, Infallible>(router.call(request).await.unwrap_or_else(|never| match never {})) }
        })
    };
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(FIRST_REQUEST).max_buf_size(BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buf_size(BUFFER)
        .max_header_list_size(MAX_HEADERS)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_RESETS);
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let mut first_request = pin!(tokio::time::sleep(FIRST_REQUEST));
    let (mut ending, mut waiting) = (false, true);
    loop {
        // Cancel-safe: the connection is polled by reference, the others only wait.
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%peer, error, "connection broke");
                }
                return;
            }
            () = shutdown.cancelled(), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
            // Covers what hyper's own timer does not: a client that has not shown which HTTP it speaks.
            () = first_request.as_mut(), if waiting => {
                if !asked.load(Ordering::Relaxed) {
                    tracing::debug!(%peer, "no request in time");
                    return;
                }
                waiting = false;
            }
        }
    }
}

/// One type for both, so that HTTP is compiled only once; the larger one is boxed.
type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// A connection of which some bytes were read already.
struct Resumed {
    first: Vec<u8>,
    read: usize,
    stream: Stream,
}

impl AsyncRead for Resumed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let rest = &this.first[this.read..];
        if rest.is_empty() {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        this.read += count;
        if this.read == this.first.len() {
            (this.first, this.read) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Resumed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
