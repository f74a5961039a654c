//! One exchange over HTTP/1.1: a connection, a request, an answer with a limit.
//!
//! Exchanges with a factory are rare, so no connection outlives its exchange. Redirects are answers like any
//! other; proxies of the environment are not asked.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::url::BaseUrl;

/// How long one address may take to answer a connection, so that one that drops packets leaves time for others.
const CONNECT: Duration = Duration::from_secs(3);
/// Bytes of an answer's headers.
const HEADERS_MAX: usize = 32 * 1024;
/// Bytes of a large body that are read ahead.
const BODY_AT_ONCE: usize = 128 * 1024;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The name has no address.
    #[error("no address for {host}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No address answers.
    #[error("cannot connect to {authority}")]
    Connect {
        /// Where.
        authority: String,
        /// What the last address said.
        #[source]
        source: io::Error,
    },
    /// The server is not who it says, or speaks no TLS.
    #[error("no TLS with {authority}")]
    Tls {
        /// Where.
        authority: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke, or it is no HTTP.
    #[error("the exchange broke off")]
    Http(#[source] hyper::Error),
    /// The connection broke in the body.
    #[error("the answer broke off")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// More than was to be expected.
    #[error("an answer of more than {0} bytes")]
    TooLarge(usize),
    /// It takes too long.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

/// What to ask.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// From the base's root.
    pub(super) path: &'a str,
    /// What the body is.
    pub(super) content_type: Option<&'static str>,
    pub(super) body: Bytes,
    /// Bytes of an answer that is read.
    pub(super) answer_max: usize,
}

/// What was answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Where and how to ask.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) timeout: Duration,
}

impl Client {
    pub(super) async fn exchange(&self, base: &BaseUrl, ask: Ask<'_>) -> Result<Answer, ExchangeError> {
        let exchange = self.without_limit(base, ask);
        tokio::time::timeout(self.timeout, exchange)
            .await
            .unwrap_or(Err(ExchangeError::TimedOut(self.timeout)))
    }

    /// Begins to read a large file. The head may take `head`: a factory makes an image when it is first asked for
    /// it; each part of the body may take `part`, the whole as long as it wants.
    pub(super) async fn download(
        &self,
        base: &BaseUrl,
        path: &str,
        head: Duration,
        part: Duration,
    ) -> Result<Download, ExchangeError> {
        let ask = Ask { method: Method::GET, path, content_type: None, body: Bytes::new(), answer_max: 0 };
        let request = request(base, ask);
        let begin = async {
            let stream = connect(base).await?;
            match &self.tls {
                Some(config) if base.tls => begin(encrypt(config, base, stream).await?, request, part).await,
                _ => begin(stream, request, part).await,
            }
        };
        tokio::time::timeout(head, begin).await.unwrap_or(Err(ExchangeError::TimedOut(head)))
    }

    async fn without_limit(&self, base: &BaseUrl, ask: Ask<'_>) -> Result<Answer, ExchangeError> {
        let answer_max = ask.answer_max;
        let request = request(base, ask);
        let stream = connect(base).await?;
        match &self.tls {
            Some(config) if base.tls => send(encrypt(config, base, stream).await?, request, answer_max).await,
            _ => send(stream, request, answer_max).await,
        }
    }
}

async fn encrypt(
    config: &Arc<ClientConfig>,
    base: &BaseUrl,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, ExchangeError> {
    let tls_error = |source| ExchangeError::Tls { authority: base.authority.clone(), source };
    let name = ServerName::try_from(base.host.clone())
        .map_err(|error| tls_error(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await.map_err(tls_error)
}

fn request(base: &BaseUrl, ask: Ask<'_>) -> Request<Full<Bytes>> {
    let mut request = Request::builder()
        .method(ask.method)
        .uri(base.path(ask.path))
        .header(HOST, &base.authority)
        .header(ACCEPT, "*/*")
        .header(USER_AGENT, concat!("bootlace/", env!("CARGO_PKG_VERSION")));
    if let Some(content_type) = ask.content_type {
        request = request.header(CONTENT_TYPE, content_type);
    }
    if let Some(basic) = base.basic() {
        request = request.header(AUTHORIZATION, basic);
    }
    request.body(Full::new(ask.body)).expect("the base and the path were checked to be plain ASCII")
}

async fn connect(base: &BaseUrl) -> Result<TcpStream, ExchangeError> {
    let resolved = tokio::net::lookup_host((base.host.as_str(), base.port)).await;
    let addresses: Vec<SocketAddr> = match resolved {
        Ok(addresses) => addresses.take(ADDRESSES_MAX).collect(),
        Err(source) => return Err(ExchangeError::Resolve { host: base.host.clone(), source }),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        last = match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error,
            Err(_) => io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")),
        };
    }
    Err(ExchangeError::Connect { authority: base.authority.clone(), source: last })
}

/// The connection is driven here too: no task is left behind when this is dropped.
async fn send<S>(stream: S, request: Request<Full<Bytes>>, answer_max: usize) -> Result<Answer, ExchangeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let handshake = http1::Builder::new().max_buf_size(HEADERS_MAX).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(ExchangeError::Http)?;
    let mut connection = pin!(connection);
    let mut answer = pin!(async {
        let answer = sender.send_request(request).await.map_err(ExchangeError::Http)?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, answer_max).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                ExchangeError::TooLarge(answer_max)
            } else {
                ExchangeError::Body(error)
            }
        })?;
        Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() })
    });
    tokio::select! {
        // Both are pinned outside and lose nothing.
        answer = &mut answer => answer,
        // The connection is over before its answer was read; what it was over for comes out there.
        _ = &mut connection => answer.await,
    }
}

/// Ends with the connection.
type Connection = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// An answer whose body is read part by part. Its connection goes with it.
pub(crate) struct Download {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Incoming,
    /// `None` when it is over; what was read before is still in the body.
    connection: Option<Connection>,
    part: Duration,
}

impl Download {
    /// The next part; `None` at the end, which comes only after as many bytes as the head said.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ExchangeError> {
        let part = self.part;
        let next = async {
            loop {
                let frame = match &mut self.connection {
                    None => self.body.frame().await,
                    Some(connection) => tokio::select! {
                        // Cancel-safe: a frame that is not taken stays in the body.
                        frame = self.body.frame() => frame,
                        _ = connection => {
                            self.connection = None;
                            continue;
                        }
                    },
                };
                return match frame {
                    None => Ok(None),
                    Some(Err(error)) => Err(ExchangeError::Body(error.into())),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => Ok(Some(data)),
                        Err(_trailers) => continue,
                    },
                };
            }
        };
        tokio::time::timeout(part, next).await.unwrap_or(Err(ExchangeError::TimedOut(part)))
    }

    /// The first bytes of a body that is no file: what an error says.
    pub(super) async fn beginning(mut self, bytes_max: usize) -> Bytes {
        let mut text = Vec::new();
        while text.len() < bytes_max
            && let Ok(Some(data)) = self.next().await
        {
            text.extend_from_slice(&data[..data.len().min(bytes_max - text.len())]);
        }
        text.into()
    }
}

async fn begin<S>(stream: S, request: Request<Full<Bytes>>, part: Duration) -> Result<Download, ExchangeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = http1::Builder::new().max_buf_size(BODY_AT_ONCE).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(ExchangeError::Http)?;
    let mut connection: Option<Connection> = Some(Box::pin(connection));
    let mut answer = pin!(sender.send_request(request));
    let answer = match connection.as_mut() {
        // Both are pinned outside and lose nothing.
        Some(running) => tokio::select! {
            answer = &mut answer => answer,
            _ = running => {
                connection = None;
                answer.await
            }
        },
        None => answer.await,
    };
    let (parts, body) = answer.map_err(ExchangeError::Http)?.into_parts();
    Ok(Download { status: parts.status, headers: parts.headers, body, connection, part })
}
