//! One connection: TLS, HTTP/2, and an end when nothing is asked for any more.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tonic::codegen::Service;
use tonic::service::Routes;
use tonic::{Status, body};

/// From the first byte to the last of the handshake; two round trips.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// A connection on which nothing is asked for this long ends. Clients connect again by themselves.
const IDLE_TIME: Duration = Duration::from_secs(120);
/// What is under way then may end.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// From a request's head to the head of its answer. The slowest read every disk's attributes.
const REQUEST_TIME: Duration = Duration::from_secs(60);
/// Peers that are gone without a word are found this way.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIME: Duration = Duration::from_secs(20);
/// Requests of one connection at once: Omni's fourteen watches and some calls.
const MAX_STREAMS: u32 = 64;
/// Bytes of a request's head.
const MAX_HEADERS: u32 = 16 << 10;
/// Bytes that a stream and a connection hold, each way.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;
const SEND_BUFFER: usize = 64 << 10;
/// Streams that a client opens and resets at once, before it is taken for an attacker (CVE-2023-44487).
const MAX_RESETS: usize = 64;
/// Requests of all connections that are being read or worked on. Further ones wait.
const MAX_REQUESTS: usize = 64;
/// Answers of all connections that are not read to their end yet. Further ones are refused.
const MAX_ANSWERS: usize = 256;

/// What all connections share.
#[derive(Clone)]
pub(super) struct Shared {
    acceptor: TlsAcceptor,
    routes: Routes,
    requests: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

impl Shared {
    pub(super) fn new(tls: rustls::ServerConfig, routes: Routes) -> Self {
        Self {
            acceptor: TlsAcceptor::from(Arc::new(tls)),
            routes,
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
            answers: Arc::new(Semaphore::new(MAX_ANSWERS)),
        }
    }

    /// Serves a connection to its end; `established` tells when the handshake is over.
    pub(super) async fn serve<IO>(self, io: IO, established: Arc<AtomicBool>) -> Result<(), ConnectionError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let tls = timeout(HANDSHAKE_TIME, self.acceptor.accept(io)).await??;
        established.store(true, Ordering::Relaxed);
        let (opened, open) = watch::channel(0);
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADERS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(MAX_RESETS)
            .max_local_error_reset_streams(MAX_RESETS)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIME);
        let caller = Caller { shared: self, opened: Arc::new(opened) };
        let mut connection = pin!(http.serve_connection(TokioIo::new(tls), caller));
        // Cancel-safe: both are kept until one ends.
        tokio::select! {
            ended = &mut connection => return Ok(ended?),
            () = idle(open) => {}
        }
        connection.as_mut().graceful_shutdown();
        Ok(timeout(DRAIN_TIME, connection).await??)
    }
}

/// How a connection ended, when not well.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("it took too long")]
    Slow(#[from] tokio::time::error::Elapsed),
    #[error("TLS failed")]
    Tls(#[from] io::Error),
    #[error("HTTP/2 failed")]
    Http(#[from] hyper::Error),
}

/// Ends when no request was open for a while.
async fn idle(mut open: watch::Receiver<usize>) {
    loop {
        if open.wait_for(|count| *count == 0).await.is_err() {
            return;
        }
        if timeout(IDLE_TIME, open.wait_for(|count| *count > 0)).await.is_err() {
            return;
        }
    }
}

/// The service of one connection.
struct Caller {
    shared: Shared,
    opened: Arc<watch::Sender<usize>>,
}

impl hyper::service::Service<http::Request<Incoming>> for Caller {
    type Response = http::Response<Answer>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let open = Open::new(self.opened.clone());
        let shared = self.shared.clone();
        Box::pin(async move {
            let (response, permit) =
                timeout(REQUEST_TIME, answer(shared, request)).await.unwrap_or_else(|_| {
                    (Status::deadline_exceeded("the request took too long").into_http(), None)
                });
            Ok(response.map(|body| Answer { body, _permit: permit, _open: open }))
        })
    }
}

async fn answer(
    shared: Shared,
    request: http::Request<Incoming>,
) -> (http::Response<body::Body>, Option<OwnedSemaphorePermit>) {
    let Ok(permit) = shared.answers.try_acquire_owned() else {
        return (Status::resource_exhausted("too many requests").into_http(), None);
    };
    let Ok(_turn) = shared.requests.acquire().await else {
        return (Status::unavailable("the machine API ends").into_http(), None);
    };
    let mut routes = shared.routes;
    let Ok(response) = routes.call(request).await;
    (response, Some(permit))
}

/// Counts an open request.
struct Open(Arc<watch::Sender<usize>>);

impl Open {
    fn new(opened: Arc<watch::Sender<usize>>) -> Self {
        opened.send_modify(|count| *count += 1);
        Self(opened)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// An answer, which counts until it is read or given up.
struct Answer {
    body: body::Body,
    _permit: Option<OwnedSemaphorePermit>,
    _open: Open,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
