//! The port that speaks TLS, against clients that do not, stall, or send anything.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent_wire::certificate::{Authority, Validity};
use axum::Router;
use axum::routing::get;
use netboot_link::http::{Service, serve};
use proptest::prelude::*;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// As many handshakes as one address has at once.
const OF_ONE: usize = 64;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("this takes too long")
}

fn router() -> Router {
    Router::new().route("/", get(|| async { "in the clear" }))
}

struct Server {
    address: SocketAddr,
    roots: RootCertStore,
    shutdown: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Server {
    async fn start(encrypted: bool) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let hour = Validity { not_before: now - 60, not_after: now + 3600 };
        let authority = Authority::generate(hour, &[1; 48]);
        let issued = authority.issue(&[LOOPBACK], hour, &[2; 48]);
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate().certificate.clone().into()).unwrap();
        let key = PrivatePkcs8KeyDer::from(issued.key).into();
        let provider = rustls::crypto::ring::default_provider();
        let shown = CertifiedKey::from_der(vec![issued.certificate.into()], key, &provider).unwrap();
        let service = match encrypted {
            true => Service::encrypted(router(), Arc::new(SingleCertAndKey::from(shown))),
            false => router().into(),
        };
        let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
        tokio::spawn(serve(listener, service, shutdown.clone()));
        Self { address, roots, shutdown }
    }

    /// A connection from one of the loopback addresses.
    async fn dial(&self, from: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, from), 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    fn client(&self, version: &'static SupportedProtocolVersion, alpn: &[u8]) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let mut client = builder.unwrap().with_root_certificates(self.roots.clone()).with_no_client_auth();
        client.alpn_protocols = vec![alpn.to_vec()];
        client
    }

    async fn handshake(&self, from: u8) -> std::io::Result<TlsStream<TcpStream>> {
        let client = self.client(&rustls::version::TLS13, b"h2");
        let connector = TlsConnector::from(Arc::new(client));
        soon(connector.connect(ServerName::from(LOOPBACK), self.dial(from).await)).await
    }

    /// What comes back until the server closes.
    async fn answer(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.dial(1).await;
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = soon(stream.read_to_end(&mut answer)).await;
        answer
    }
}

#[tokio::test]
async fn only_tls_1_3_and_http_2_are_spoken() {
    let server = Server::start(true).await;
    let stream = server.handshake(1).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    for (version, alpn) in [(&rustls::version::TLS12, &b"h2"[..]), (&rustls::version::TLS13, b"http/1.1")] {
        let connector = TlsConnector::from(Arc::new(server.client(version, alpn)));
        let refused = soon(connector.connect(ServerName::from(LOOPBACK), server.dial(1).await)).await;
        refused.unwrap_err();
    }
    for plain in
        [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"", b"\x16"]
    {
        let answer = server.answer(plain).await;
        assert!(!answer.windows(4).any(|word| word == b"HTTP"), "{answer:?}");
        assert!(!answer.windows(5).any(|word| word == b"clear"), "{answer:?}");
    }
    server.handshake(1).await.unwrap();
}

#[tokio::test]
async fn tls_on_the_port_without_it_ends_soon() {
    let server = Server::start(false).await;
    server.handshake(1).await.unwrap_err();
}

#[tokio::test]
async fn whoever_stalls_keeps_nobody_else_out_and_is_cut_off() {
    let server = Server::start(true).await;
    let mut stalled = Vec::new();
    for _ in 0..OF_ONE {
        let mut stream = server.dial(2).await;
        stream.write_all(b"\x16\x03\x01").await.unwrap();
        stalled.push(stream);
    }
    // The same address has no more turns; the connection ends at once, not after the others' time.
    let mut one_more = server.dial(2).await;
    let ended = soon(one_more.read(&mut [0; 1])).await;
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    // Everybody else has.
    server.handshake(1).await.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    for mut stream in stalled {
        let ended = soon(stream.read(&mut [0; 1])).await;
        assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    }
    server.handshake(2).await.unwrap();
}

#[test]
fn no_bytes_end_the_server() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(Server::start(true));
    let client = Arc::new(server.client(&rustls::version::TLS13, b"h2"));
    let mut hello = Vec::new();
    let mut connection = rustls::ClientConnection::new(client, ServerName::from(LOOPBACK)).unwrap();
    connection.write_tls(&mut hello).unwrap();
    let mangled = (0..hello.len(), any::<u8>(), 0..=hello.len(), prop::collection::vec(any::<u8>(), 0..64));
    proptest!(ProptestConfig::with_cases(64), |((at, byte, cut, rest) in mangled)| {
        let mut bytes = hello.clone();
        bytes[at] = byte;
        bytes.truncate(cut);
        bytes.extend(rest);
        runtime.block_on(server.answer(&bytes));
    });
    runtime.block_on(server.handshake(1)).unwrap();
}
