//! Where Omni is, and the channel to it.
//!
//! `https://` is TLS (port 443), `grpc://` and `http://` are not (port 80). A signed call that is not
//! encrypted can be repeated by whoever sees it: without TLS the other end must be this machine, or the
//! operator says that the wire is safe.

mod clock;
mod limited;
mod tls;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cosi::State;
use cosi::client::GrpcState;
use http::Uri;
use http::uri::Authority;
use hyper_util::rt::TokioIo;
use omni_auth::{ServiceAccountKey, Signed};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::transport::Channel;

pub use clock::Clocked;
pub use limited::Limited;
pub use tls::{TlsError, bmc_config};

/// Between pings on a quiet connection, as Omni's own client has it: a stalled link shows by then.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How long the answer to a ping may take.
const KEEPALIVE_LIMIT: Duration = Duration::from_secs(20);
/// How long a connection may take, TLS included.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// From here on an operator is reminded of the key's end: time for a maintenance window or two.
const KEY_WARNING: Duration = Duration::from_secs(28 * 24 * 60 * 60);
const DAY: u64 = 24 * 60 * 60;
const HTTPS_PORT: u16 = 443;
const HTTP_PORT: u16 = 80;

/// How Omni is reached.
#[derive(Debug, Clone, Default)]
pub struct EndpointOptions {
    /// PEM file of the authorities that sign Omni's certificate, instead of the public ones.
    pub ca_file: Option<PathBuf>,
    /// Whoever answers is Omni.
    pub insecure_skip_tls_verify: bool,
    /// No TLS to other machines either.
    pub allow_plaintext: bool,
}

/// Why a URL cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// No URL.
    #[error("`{0}` is no URL of Omni: https://HOST, or grpc://HOST:PORT without TLS")]
    NotAUrl(String),
    /// Another scheme.
    #[error("`{0}` is no scheme of Omni's API: https, grpc or http")]
    Scheme(String),
    /// A path, a query or a user.
    #[error("`{0}`: the URL of Omni's API is only scheme, host and port")]
    TooMuch(String),
    /// Not encrypted, and not on this machine.
    #[error(
        "{host} is another machine and the URL is without TLS: whoever sees a signed call can repeat it; \
         use https, or allow plaintext"
    )]
    Plaintext {
        /// It.
        host: String,
    },
    /// Options for TLS without TLS.
    #[error("{0} is for https only")]
    NoTls(&'static str),
    /// The authorities.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Omni's address, checked.
#[derive(Clone)]
pub struct Endpoint {
    host: String,
    port: u16,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    authority: Authority,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

impl fmt::Display for Endpoint {
    /// As it names an Omni: scheme, host and port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "grpc" };
        write!(f, "{scheme}://{}:{}", self.authority.host(), self.port)
    }
}

impl Endpoint {
    /// Reads the URL, and the file of authorities.
    ///
    /// # Errors
    /// See [`EndpointError`].
    pub fn parse(url: &str, options: &EndpointOptions) -> Result<Self, EndpointError> {
        let not_a_url = || EndpointError::NotAUrl(url.to_owned());
        let uri: Uri = url.trim().parse().map_err(|_| not_a_url())?;
        let encrypted = match uri.scheme_str() {
            Some("https") => true,
            Some("grpc" | "http") => false,
            Some(other) => return Err(EndpointError::Scheme(other.to_owned())),
            None => return Err(not_a_url()),
        };
        let authority = uri.authority().ok_or_else(not_a_url)?.clone();
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(EndpointError::TooMuch(url.to_owned()));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(not_a_url());
        }
        let port = authority.port_u16().unwrap_or(if encrypted { HTTPS_PORT } else { HTTP_PORT });
        let tls = if encrypted {
            let name = ServerName::try_from(host.clone()).map_err(|_| not_a_url())?;
            Some((Arc::new(tls::config(options)?), name))
        } else {
            check_plaintext(&host, options)?;
            None
        };
        Ok(Self { host, port, tls, authority })
    }

    /// A connection, encrypted as the URL says.
    async fn dial(self) -> Result<TokioIo<Box<dyn Stream>>, DialError> {
        let limited = tokio::time::timeout(CONNECT_LIMIT, self.open()).await;
        limited.unwrap_or(Err(DialError::TimedOut)).map(TokioIo::new)
    }

    async fn open(&self) -> Result<Box<dyn Stream>, DialError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(DialError::Connect)?;
        // Small messages go at once. Without it they are only slower.
        let _ = stream.set_nodelay(true);
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some((config, name)) => {
                let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name.clone(), stream).await.map_err(DialError::Tls)?;
                Ok(Box::new(stream))
            }
        }
    }

    /// Connects at the first call and again whenever it must.
    fn channel(&self) -> Channel {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let origin = Uri::builder().scheme(scheme).authority(self.authority.clone()).path_and_query("/");
        let origin = origin.build().expect("its parts come from a URL");
        let this = self.clone();
        let connector = tower::service_fn(move |_: Uri| this.clone().dial());
        // The address is a form: the connector knows where to go, and whether by TLS.
        tonic::transport::Endpoint::from_static("http://omni")
            .origin(origin)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_LIMIT)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(connector)
    }
}

fn check_plaintext(host: &str, options: &EndpointOptions) -> Result<(), EndpointError> {
    if options.ca_file.is_some() {
        return Err(EndpointError::NoTls("a CA file"));
    }
    let loopback = host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    if loopback || options.allow_plaintext {
        return Ok(());
    }
    Err(EndpointError::Plaintext { host: host.to_owned() })
}

/// Both kinds of connection.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("cannot connect to Omni: {0}")]
    Connect(#[source] std::io::Error),
    #[error("no TLS with Omni: {0}")]
    Tls(#[source] std::io::Error),
    #[error("Omni did not take the connection within {CONNECT_LIMIT:?}")]
    TimedOut,
}

/// Omni's state behind signed calls, each with a limit. Connects when it is first used, and again when it
/// must; whoever calls again waits before (see [`crate::backoff`]).
pub fn connect(endpoint: &Endpoint, key: Option<Arc<ServiceAccountKey>>) -> Arc<dyn State> {
    let channel = Clocked::new(Signed::new(endpoint.channel(), key));
    Arc::new(Limited::new(GrpcState::new(channel)))
}

/// What to tell an operator whose service account key ends soon.
pub fn key_warning(now: SystemTime, expires: SystemTime) -> Option<String> {
    match expires.duration_since(now) {
        Ok(left) if left > KEY_WARNING => None,
        Ok(left) => Some(format!(
            "the service account key expires in {} days: renew it with `omnictl infraprovider renewkey`",
            left.as_secs() / DAY
        )),
        Err(past) => Some(format!(
            "the service account key expired {} days ago: renew it with `omnictl infraprovider renewkey`",
            past.duration().as_secs() / DAY
        )),
    }
}

#[cfg(test)]
mod tests;
