//! Whom the machine believes over TLS.
//!
//! The appliance's tunnel: TLS 1.3, and only the authorities that the configuration names (`TrustedRootsConfig`).
//! The machine API: these and the public ones, since Omni's is behind one of those. Never without TLS where an address
//! says `https`.
//!
//! A bare machine's clock may be anywhere, so certificates are held against the clock of whoever gave the
//! configuration: it named whom to trust, in the same answer.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent_wire::certificate::AnyHolder;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint};

/// gRPC is HTTP/2.
const ALPN: &[u8] = b"h2";
const HTTPS_PORT: u16 = 443;
/// For the connection and the handshake: a tunnel has as long to open.
const PATIENCE: Duration = Duration::from_secs(10);
/// Certificates of a configuration: some authorities of an operator beside the appliance's.
const MAX_ROOTS: usize = 256;

/// What a configuration says about trust.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    roots: Vec<CertificateDer<'static>>,
    clock: Clock,
}

/// The time as whoever gave the configuration has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Clock {
    ahead: Duration,
    behind: Duration,
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Some(UnixTime::since_unix_epoch((now + self.ahead).saturating_sub(self.behind)))
    }
}

impl Trust {
    /// The certificates in a PEM text, as far as they can be read.
    pub fn add(&mut self, pem: &str) {
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok);
        self.roots.extend(certificates.take(MAX_ROOTS.saturating_sub(self.roots.len())));
    }

    /// Sets the clock by the date of an answer that came at `now`.
    pub fn set_clock(&mut self, date: SystemTime, now: SystemTime) {
        self.clock = match date.duration_since(now) {
            Ok(ahead) => Clock { ahead, behind: Duration::ZERO },
            Err(past) => Clock { ahead: Duration::ZERO, behind: past.duration() },
        };
    }

    /// Whether nobody is named.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }
}

/// Whose certificate will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Theirs whom the configuration names, by TLS 1.3.
    Named(Trust),
    /// Theirs, and the public authorities'.
    NamedOrPublic(Trust),
    /// Anybody's, by TLS 1.3: the kernel command line says so.
    Anybodys,
}

/// There is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No address.
    #[error("{0:?} is no address")]
    Uri(String),
    /// Nobody to be trusted.
    #[error("the configuration names nobody to trust (TrustedRootsConfig), and {0} is https")]
    NoRoots(String),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Setup(#[from] Error),
    /// No connection, or no TLS.
    #[error("no connection")]
    Transport(#[from] tonic::transport::Error),
}

/// Connects to `http://` or `https://` and an address; `adjust` sets the connection's limits.
pub async fn connect(
    uri: &str,
    taken: &Taken,
    adjust: impl FnOnce(Endpoint) -> Endpoint,
) -> Result<Channel, ConnectError> {
    let no_uri = || ConnectError::Uri(uri.to_owned());
    let target: Uri = uri.parse().map_err(|_| no_uri())?;
    if target.scheme_str() != Some("https") {
        return Ok(adjust(Endpoint::from(target)).connect().await?);
    }
    if matches!(taken, Taken::Named(trust) if trust.is_empty()) {
        return Err(ConnectError::NoRoots(uri.to_owned()));
    }
    let host = target.host().ok_or_else(no_uri)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host.clone()).map_err(|_| no_uri())?;
    let dial = Dial {
        address: (host, target.port_u16().unwrap_or(HTTPS_PORT)),
        name,
        connector: TlsConnector::from(Arc::new(config(taken)?)),
    };
    // The connector knows where to go and that it is by TLS; tonic would refuse the scheme.
    let form = Endpoint::from_static("http://appliance").origin(target);
    Ok(adjust(form).connect_with_connector(dial).await?)
}

/// Dials and shakes hands.
#[derive(Clone)]
struct Dial {
    address: (String, u16),
    name: ServerName<'static>,
    connector: TlsConnector,
}

type Dialed = std::pin::Pin<
    Box<dyn Future<Output = Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>, io::Error>> + Send>,
>;

impl Service<Uri> for Dial {
    type Response = TokioIo<tokio_rustls::client::TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Dialed;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), io::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Dialed {
        let this = self.clone();
        Box::pin(async move {
            let connected = async {
                let (host, port) = &this.address;
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                let _ = stream.set_nodelay(true);
                this.connector.connect(this.name, stream).await.map_err(|error| told(&error))
            };
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no TLS connection in time");
            tokio::time::timeout(PATIENCE, connected).await.map_err(late)?.map(TokioIo::new)
        })
    }
}

/// What a person at the console can act on.
fn told(error: &io::Error) -> io::Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let text = match tls {
        // The second when another appliance's authority, whose name is the same, is named.
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            "its certificate is signed by nobody whom the configuration names".to_owned()
        }
        Some(Error::InvalidCertificate(what)) => format!("its certificate will not do: {what}"),
        Some(Error::InvalidMessage(_)) => "it does not speak TLS".to_owned(),
        Some(other) => format!("no TLS: {other}"),
        None => format!("no TLS: {error}"),
    };
    io::Error::new(error.kind(), text)
}

static TLS_1_3: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

fn config(taken: &Taken) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let (versions, trust, mut roots) = match taken {
        Taken::Anybodys => (TLS_1_3, &Trust::default(), RootCertStore::empty()),
        Taken::Named(trust) => (TLS_1_3, trust, RootCertStore::empty()),
        Taken::NamedOrPublic(trust) => {
            let roots = webpki_roots::TLS_SERVER_ROOTS.to_vec();
            (rustls::DEFAULT_VERSIONS, trust, RootCertStore { roots })
        }
    };
    roots.add_parsable_certificates(trust.roots.iter().cloned());
    let builder = ClientConfig::builder_with_details(Arc::clone(&provider), Arc::new(trust.clock))
        .with_protocol_versions(versions)?;
    let mut config = match taken {
        Taken::Anybodys => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyHolder(provider)))
            .with_no_client_auth(),
        Taken::Named(_) | Taken::NamedOrPublic(_) => {
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    // One connection each; nothing is resumed.
    config.resumption = Resumption::disabled();
    Ok(config)
}
