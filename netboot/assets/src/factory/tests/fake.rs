//! A factory that misbehaves on order.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What it does with a connection, once it has read the request.
pub(crate) enum Reply {
    /// Sends these bytes and closes.
    Bytes(Vec<u8>),
    /// Sends these bytes and says no more.
    Hang(Vec<u8>),
    /// Sends the first and then the second without end.
    Endless(&'static [u8], &'static [u8]),
}

/// An answer with a body.
pub(crate) fn answer(status: &str, body: &str) -> Reply {
    let length = body.len();
    Reply::Bytes(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes())
}

/// A factory on loopback. Each connection gets the next reply, the ones after the last are closed.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    server: tokio::task::JoinHandle<()>,
}

impl Fake {
    pub(crate) async fn new(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self::serve("127.0.0.1", None, replies).await
    }

    /// With a certificate for 127.0.0.1.
    pub(crate) async fn with_tls(host: &str, replies: impl IntoIterator<Item = Reply>) -> Self {
        let chain = vec![CertificateDer::from_pem_slice(include_bytes!("server.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("server.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Self::serve(host, Some(TlsAcceptor::from(Arc::new(config))), replies).await
    }

    async fn serve(host: &str, tls: Option<TlsAcceptor>, replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let replies: Vec<Reply> = replies.into_iter().collect();
        let server = tokio::spawn(async move {
            // Those that hang stay open until the factory is gone.
            let mut hanging = tokio::task::JoinSet::new();
            for reply in replies {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, seen) = (tls.clone(), Arc::clone(&seen));
                hanging.spawn(async move {
                    match tls {
                        None => converse(stream, reply, &seen).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                converse(stream, reply, &seen).await;
                            }
                        }
                    }
                });
            }
            while hanging.join_next().await.is_some() {}
        });
        Self { address, requests, server }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Heads and bodies as they came.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, reply: Reply, seen: &Mutex<Vec<String>>) {
    let mut request = Vec::new();
    while !complete(&request) {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    seen.lock().unwrap().push(String::from_utf8(request).unwrap());
    // Whoever has enough hangs up; that is no error here.
    let _ = match reply {
        Reply::Bytes(bytes) => {
            let _ = stream.write_all(&bytes).await;
            stream.shutdown().await
        }
        Reply::Hang(bytes) => {
            let _ = stream.write_all(&bytes).await;
            stream.read_u8().await.map(drop)
        }
        Reply::Endless(first, then) => {
            let mut sent = stream.write_all(first).await;
            while sent.is_ok() {
                sent = stream.write_all(then).await;
            }
            sent
        }
    };
}

fn complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}
