//! The channel to Omni over real TLS on loopback: whom it trusts, and what it says when it does not.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use cosi::embedded::{EmbeddedState, Options};
use cosi::server::StateService;
use cosi::{Pointer, Resource, State, StateError};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use omni_auth::ServiceAccountKey;
use omni_link::endpoint::{Endpoint, EndpointOptions, connect};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const NAME: &str = "localhost";

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for that name, and its key.
    fn issue(&self, name: &str, expired: bool) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.der().clone(), PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }
}

/// What Omni saw of a call.
#[derive(Debug, Clone, Default)]
struct Seen {
    scheme: Option<String>,
    authority: Option<String>,
    signature: Option<String>,
}

struct Omni {
    address: SocketAddr,
    dir: tempfile::TempDir,
    seen: Arc<Mutex<Seen>>,
}

impl Omni {
    /// Serves an empty state with that certificate.
    async fn start((certificate, key): (CertificateDer<'static>, PrivateKeyDer<'static>)) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let seen = Arc::<Mutex<Seen>>::default();
        let router = router(Arc::clone(&seen));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, router) = (acceptor.clone(), router.clone());
                tokio::spawn(async move {
                    // A client that does not trust us hangs up.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = TowerToHyperService::new(router);
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, dir: tempfile::tempdir().unwrap(), seen }
    }

    fn ca_file(&self, authority: &Authority) -> Option<PathBuf> {
        let path = self.dir.path().join("ca.pem");
        std::fs::write(&path, &authority.pem).unwrap();
        Some(path)
    }

    fn state(&self, options: &EndpointOptions, key: Option<Arc<ServiceAccountKey>>) -> Arc<dyn State> {
        let url = format!("https://{NAME}:{}", self.address.port());
        connect(&Endpoint::parse(&url, options).unwrap(), key)
    }

    async fn error(&self, options: &EndpointOptions) -> String {
        match self.state(options, None).get(&pointer()).await {
            Err(StateError::Unavailable(text)) => text,
            other => panic!("{other:?}"),
        }
    }
}

fn router(seen: Arc<Mutex<Seen>>) -> axum::Router {
    let state = EmbeddedState::in_memory(Options::default()).unwrap();
    let look = move |request: Request, next: Next| {
        let header = request.headers().get("x-sidero-signature");
        *seen.lock().unwrap() = Seen {
            scheme: request.uri().scheme_str().map(str::to_owned),
            authority: request.uri().authority().map(ToString::to_string),
            signature: header.map(|value| value.to_str().unwrap().to_owned()),
        };
        next.run(request)
    };
    let service = StateService::new(state).into_server();
    tonic::service::Routes::new(service).into_axum_router().layer(from_fn(look))
}

fn pointer() -> Pointer {
    Pointer::new("default", "Tests.example.org", "one")
}

fn trusting(ca_file: Option<PathBuf>) -> EndpointOptions {
    EndpointOptions { ca_file, ..EndpointOptions::default() }
}

#[tokio::test]
async fn an_omni_of_the_named_authority_is_trusted_and_gets_signed_calls() {
    let authority = Authority::new();
    let omni = Omni::start(authority.issue(NAME, false)).await;
    let year = Duration::from_secs(365 * 24 * 60 * 60);
    let key = ServiceAccountKey::generate("bare-metal", SystemTime::now(), year).unwrap();
    let fingerprint = key.fingerprint().to_owned();
    let state = omni.state(&trusting(omni.ca_file(&authority)), Some(Arc::new(key)));
    state.create(Resource::empty(&pointer()), "me").await.unwrap();
    assert_eq!(state.get(&pointer()).await.unwrap().metadata.owner, "me");
    let seen = omni.seen.lock().unwrap().clone();
    assert_eq!(seen.scheme.as_deref(), Some("https"));
    assert_eq!(seen.authority, Some(format!("{NAME}:{}", omni.address.port())));
    let signature = seen.signature.expect("the call is signed");
    assert!(signature.starts_with("siderov1 ") && signature.contains(&fingerprint), "{signature}");
}

#[tokio::test]
async fn another_authority_is_not_trusted() {
    let omni = Omni::start(Authority::new().issue(NAME, false)).await;
    let other = Authority::new();
    let error = omni.error(&trusting(omni.ca_file(&other))).await;
    assert!(error.contains("no TLS with Omni") && error.contains("certificate"), "{error}");
    let public = omni.error(&EndpointOptions::default()).await;
    assert!(public.contains("UnknownIssuer"), "{public}");
}

#[tokio::test]
async fn an_expired_certificate_is_named_as_such() {
    let authority = Authority::new();
    let omni = Omni::start(authority.issue(NAME, true)).await;
    let error = omni.error(&trusting(omni.ca_file(&authority))).await;
    assert!(error.contains("expired"), "{error}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_taken() {
    let authority = Authority::new();
    let omni = Omni::start(authority.issue("omni.example.com", false)).await;
    let error = omni.error(&trusting(omni.ca_file(&authority))).await;
    assert!(error.contains("not valid for name") || error.contains("NotValidForName"), "{error}");
}

#[tokio::test]
async fn whoever_skips_verification_reaches_any_omni() {
    let omni = Omni::start(Authority::new().issue("omni.example.com", true)).await;
    let options = EndpointOptions { insecure_skip_tls_verify: true, ..EndpointOptions::default() };
    let missing = omni.state(&options, None).get(&pointer()).await.unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
}

#[tokio::test]
async fn plaintext_to_tls_and_nobody_at_all_are_told_apart() {
    let omni = Omni::start(Authority::new().issue(NAME, false)).await;
    let plain = Endpoint::parse(&format!("grpc://{}", omni.address), &EndpointOptions::default()).unwrap();
    let error = connect(&plain, None).get(&pointer()).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let nobody = Endpoint::parse(&format!("grpc://{address}"), &EndpointOptions::default()).unwrap();
    let error = connect(&nobody, None).get(&pointer()).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("refused"), "{error:?}");
}

#[tokio::test]
async fn an_omni_that_starts_late_is_reached_by_the_same_client() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let endpoint = Endpoint::parse(&format!("grpc://{address}"), &EndpointOptions::default()).unwrap();
    let state = connect(&endpoint, None);
    assert!(state.get(&pointer()).await.unwrap_err().is_transient());
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move { axum::serve(listener, router(Arc::default())).await.unwrap() });
    assert!(state.get(&pointer()).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_clock_that_is_off_is_named_when_omni_takes_no_signature() {
    let refuse = |_: Request| async {
        axum::response::Response::builder()
            .header("content-type", "application/grpc")
            .header("date", "Tue, 17 Nov 2020 10:00:00 GMT")
            .header("grpc-status", "16")
            .header("grpc-message", "invalid signature")
            .body(axum::body::Body::empty())
            .unwrap()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("grpc://{}", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(refuse);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let endpoint = Endpoint::parse(&endpoint, &EndpointOptions::default()).unwrap();
    let error = connect(&endpoint, None).get(&pointer()).await.unwrap_err();
    assert!(matches!(error, StateError::Unauthenticated(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("invalid signature") && text.contains("ahead of Omni's"), "{text}");
}
