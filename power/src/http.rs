//! HTTP/1.1 to one controller: a connection, its exchanges one after the other, a limit on everything.
//!
//! The connection's future runs inside the exchanges, so that nothing is left behind when the caller gives up.

use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long a connection may take. A controller on the same site answers at once; a port that drops packets is
/// not worth the rest of a call.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// Bytes of an answer's headers. The real ones have one or two thousand.
const HEADERS_LIMIT: usize = 32 * 1024;

/// How much of an answer's body goes into an error text, in characters: one line on a screen.
const DETAIL_LIMIT: usize = 200;

/// What went wrong in one exchange, before it is known which request it was.
pub(crate) enum Failure {
    /// No connection, one that broke, or nothing in time.
    Network(Box<dyn Error + Send + Sync>),
    /// The answer is longer than allowed.
    TooLong(usize),
}

impl Failure {
    /// The other side had closed the connection: it did not hear the request.
    pub(crate) fn is_closed(&self) -> bool {
        let Self::Network(error) = self else { return false };
        let error = error.downcast_ref::<hyper::Error>();
        error.is_some_and(|error| error.is_canceled() || error.is_closed() || error.is_incomplete_message())
    }
}

pub(crate) fn network(error: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
    Failure::Network(error.into())
}

/// TCP, or TLS on it.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An open connection.
pub(crate) struct Connection {
    address: SocketAddr,
    sender: http1::SendRequest<Full<Bytes>>,
    /// Until the connection ends.
    running: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    certificate: Option<Vec<u8>>,
}

impl Connection {
    /// Connects, with TLS where a configuration is given.
    pub(crate) async fn open(
        address: SocketAddr,
        tls: Option<&Arc<ClientConfig>>,
        limit: Duration,
    ) -> Result<Self, Failure> {
        let connected = timeout(CONNECT_LIMIT.min(limit), TcpStream::connect(address)).await;
        let stream = connected.map_err(|_| network("no connection in time"))?.map_err(network)?;
        // Requests are small, and each is waited for.
        stream.set_nodelay(true).map_err(network)?;
        let mut certificate = None;
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(stream),
            Some(config) => {
                let name = ServerName::IpAddress(address.ip().into());
                let connecting = TlsConnector::from(Arc::clone(config)).connect(name, stream);
                let stream = timeout(limit, connecting)
                    .await
                    .map_err(|_| network("no TLS in time"))?
                    .map_err(network)?;
                let shown = stream.get_ref().1.peer_certificates();
                certificate = shown.and_then(|shown| shown.first()).map(|first| first.to_vec());
                Box::new(stream)
            }
        };
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEADERS_LIMIT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(network)?;
        // It ends with an error that the answer has told already.
        let running = Box::pin(async move { drop(connection.await) });
        Ok(Self { address, sender, running: Some(running), certificate })
    }

    /// The certificate that the controller showed, as DER.
    pub(crate) fn certificate(&self) -> Option<&[u8]> {
        self.certificate.as_deref()
    }

    /// Whether another exchange may be tried.
    pub(crate) fn is_open(&self) -> bool {
        self.running.is_some() && !self.sender.is_closed()
    }

    /// One request, and its answer with at most `most` bytes of body, both within `limit`.
    pub(crate) async fn exchange(
        &mut self,
        mut request: Request<Full<Bytes>>,
        most: usize,
        limit: Duration,
    ) -> Result<Response<Bytes>, Failure> {
        let host = self.address.to_string().parse().expect("an address is a header");
        request.headers_mut().insert(header::HOST, host);
        let Self { sender, running, .. } = self;
        let answer = async {
            sender.ready().await.map_err(network)?;
            let response = sender.send_request(request).await.map_err(network)?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, most).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() { Failure::TooLong(most) } else { Failure::Network(error) }
            })?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        let driven = async {
            let mut answer = pin!(answer);
            loop {
                let connection = async {
                    match running.as_mut() {
                        Some(running) => running.await,
                        None => std::future::pending().await,
                    }
                };
                // Cancel-safe: both go on where they were.
                tokio::select! {
                    biased;
                    answer = &mut answer => return answer,
                    () = connection => *running = None,
                }
            }
        };
        timeout(limit, driven).await.unwrap_or_else(|_| Err(network("no answer in time")))
    }
}

/// The beginning of a text as one printable line.
pub(crate) fn one_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line: String =
        text.chars().take(DETAIL_LIMIT).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = line.trim();
    if line.is_empty() { "no explanation".to_owned() } else { line.to_owned() }
}
