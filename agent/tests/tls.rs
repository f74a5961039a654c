//! The agent against an appliance and a machine API that speak TLS, or do not.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "support/machine.rs"]
mod machine;
#[path = "support/tunnels.rs"]
mod tunnels;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use agent_wire::certificate::{Authority, Certificate, Validity};
use agent_wire::link::provision_service_server::{ProvisionService, ProvisionServiceServer};
use agent_wire::link::{ProvisionRequest, ProvisionResponse};
use agent_wire::tunnel::{Opened, limited};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bootlace_agent::boot::{Provider, Standing, keep_tunnel, routes};
use bootlace_agent::config::JoinConfig;
use bootlace_agent::console::chain;
use bootlace_agent::ipmi::{Made, SetupError, Told};
use bootlace_agent::join;
use bootlace_agent::machine::Machine;
use bootlace_agent::retry::Backoff;
use bootlace_agent::tls::{Taken, Trust, connect};
use bootlace_agent::wipe::Report;
use machine::{UUID, identity, soon};
use netboot_link::http::Service;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tunnels::{every_tunnel, serve};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const HOUR: u64 = 3600;
const OTHER_UUID: &str = "11111111-2222-4333-8444-555555555555";

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// Valid for an hour from this second on.
fn hour_from(second: u64) -> Validity {
    Validity { not_before: second, not_after: second + HOUR }
}

fn authority(seed: u8) -> Authority {
    Authority::generate(hour_from(now() - 60), &[seed; 48])
}

fn pem(authority: &Authority) -> String {
    let text = BASE64_STANDARD.encode(&authority.certificate().certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

fn trust(authority: &Authority) -> Trust {
    let mut trust = Trust::default();
    trust.add(&pem(authority));
    trust
}

fn shown(certificate: Certificate) -> Arc<SingleCertAndKey> {
    let key = PrivatePkcs8KeyDer::from(certificate.key).into();
    let provider = rustls::crypto::ring::default_provider();
    let key = CertifiedKey::from_der(vec![certificate.certificate.into()], key, &provider).unwrap();
    Arc::new(SingleCertAndKey::from(key))
}

/// An appliance that shows this certificate.
async fn appliance(certificate: Certificate) -> (SocketAddr, mpsc::UnboundedReceiver<Opened>) {
    let (router, opened) = every_tunnel();
    (serve(Service::encrypted(router, shown(certificate))).await, opened)
}

/// Nothing is done to it here.
#[derive(Default)]
struct Untouched;

impl Machine for Untouched {
    fn wipe(&self, _: bool) -> Result<Vec<Report>, String> {
        Err("not here".into())
    }
    fn reboot(&self) {}
    fn ask_bmc(&self, _: &str) -> Result<Option<Told>, String> {
        Ok(None)
    }
    fn set_bmc_user(&self, _: &str, _: &str) -> Result<Made, SetupError> {
        Err(SetupError::NoSlot(0))
    }
}

/// Why there is no connection.
async fn refusal(address: SocketAddr, taken: Taken) -> String {
    let error = soon(connect(&format!("https://{address}"), &taken, limited)).await.unwrap_err();
    chain(&error)
}

#[tokio::test]
async fn a_tunnel_opens_over_tls_once_the_configuration_names_the_authority_and_follows_the_name() {
    let authority = authority(1);
    let (address, mut tunnels) =
        appliance(authority.issue(&[LOOPBACK], hour_from(now() - 60), &[2; 48])).await;
    let standing = Standing { identity: identity(UUID), trust: Trust::default() };
    let (sender, standing) = watch::channel(standing);
    let agent = tokio::spawn(async move {
        let provider = Provider { uri: format!("https://{address}"), skip_verify: false };
        let routes = routes(Arc::new(Untouched), Arc::new(Vec::new), false);
        keep_tunnel(&provider, standing, routes, Backoff::new(1), &AtomicBool::new(false)).await;
    });
    // Nobody is trusted before; the configuration comes while it waits.
    sender.send_modify(|standing| standing.trust = trust(&authority));
    let first = soon(tunnels.recv()).await.unwrap();
    assert_eq!(first.machine_id, UUID);
    // The control plane gave it another name, and it joined with that.
    sender.send_modify(|standing| standing.identity = identity(OTHER_UUID));
    let second = soon(tunnels.recv()).await.unwrap();
    assert_eq!(second.machine_id, OTHER_UUID);
    // Joining again under the same name changes nothing.
    sender.send_modify(|standing| standing.identity = identity(OTHER_UUID));
    soon(async {
        use agent_wire::management::{HelloRequest, agent_service_client::AgentServiceClient};
        AgentServiceClient::new(second.channel.clone()).hello(HelloRequest {}).await.unwrap();
    })
    .await;
    assert!(tunnels.try_recv().is_err());
    agent.abort();
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_told() {
    let good = authority(1);
    let issued = |addresses: &[IpAddr], from| good.issue(addresses, hour_from(from), &[2; 48]);
    let named = || Taken::Named(trust(&good));
    let (address, _tunnels) = appliance(issued(&[LOOPBACK], now() - 60)).await;
    assert!(refusal(address, Taken::Named(Trust::default())).await.contains("names nobody to trust"));
    let text = refusal(address, Taken::Named(trust(&authority(9)))).await;
    assert!(text.contains("signed by nobody whom the configuration names"), "{text}");
    let public = refusal(address, Taken::NamedOrPublic(Trust::default())).await;
    assert!(public.contains("signed by nobody"), "{public}");

    let (address, _tunnels) = appliance(issued(&[LOOPBACK], now() - 2 * HOUR)).await;
    let text = refusal(address, named()).await;
    assert!(text.contains("expired"), "{text}");
    let (address, _tunnels) = appliance(issued(&[LOOPBACK], now() + HOUR)).await;
    let text = refusal(address, named()).await;
    assert!(text.contains("not valid yet"), "{text}");
    let (address, _tunnels) = appliance(issued(&[[10, 88, 0, 1].into()], now() - 60)).await;
    let text = refusal(address, named()).await;
    assert!(text.contains("127.0.0.1") && text.contains("10.88.0.1"), "{text}");
    // The kernel command line may say that any will do.
    soon(connect(&format!("https://{address}"), &Taken::Anybodys, limited)).await.unwrap();
}

#[tokio::test]
async fn certificates_are_held_against_the_clock_of_whoever_gave_the_configuration() {
    // This machine's clock is thirty years behind the appliance's, or ahead of it.
    for then in [now() + 30 * 365 * 24 * HOUR, now() - 30 * 365 * 24 * HOUR] {
        let authority = Authority::generate(hour_from(then - 60), &[1; 48]);
        let (address, _tunnels) =
            appliance(authority.issue(&[LOOPBACK], hour_from(then - 60), &[2; 48])).await;
        let mut trust = trust(&authority);
        let text = refusal(address, Taken::Named(trust.clone())).await;
        assert!(text.contains("expired") || text.contains("not valid yet"), "{text}");
        trust.set_clock(SystemTime::UNIX_EPOCH + Duration::from_secs(then), SystemTime::now());
        soon(connect(&format!("https://{address}"), &Taken::Named(trust), limited)).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_without_tls_gets_no_word_in_the_clear() {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut first = [0; 1];
        stream.read_exact(&mut first).await.unwrap();
        // As a server of HTTP does.
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let again = tokio::time::timeout(Duration::from_millis(500), listener.accept()).await;
        (first[0], again.is_err())
    });
    let text = refusal(address, Taken::Named(trust(&authority(1)))).await;
    assert!(text.contains("does not speak TLS"), "{text}");
    // 22 begins a handshake; nothing else was tried.
    assert_eq!(soon(heard).await.unwrap(), (22, true));
}

#[tokio::test]
async fn older_tls_is_not_spoken_with_the_appliance() {
    let authority = authority(1);
    let certificate = shown(authority.issue(&[LOOPBACK], hour_from(now() - 60), &[2; 48]));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    for taken in [Taken::Named(trust(&authority)), Taken::Anybodys] {
        let text = refusal(address, taken).await;
        assert!(text.contains("no TLS"), "{text}");
    }
}

struct Hub;

#[tonic::async_trait]
impl ProvisionService for Hub {
    async fn provision(
        &self,
        request: Request<ProvisionRequest>,
    ) -> Result<Response<ProvisionResponse>, Status> {
        let response =
            ProvisionResponse { server_public_key: request.into_inner().node_uuid, ..Default::default() };
        Ok(Response::new(response))
    }
}

#[tokio::test]
async fn the_machine_joins_over_tls() {
    let authority = authority(1);
    let router = Routes::new(ProvisionServiceServer::new(Hub)).into_axum_router();
    let certificate = authority.issue(&[LOOPBACK], hour_from(now() - 60), &[2; 48]);
    let address = serve(Service::encrypted(router, shown(certificate))).await;
    let config = |authority: &Authority| {
        let pem = pem(authority).replace('\n', "\n    ");
        JoinConfig::parse(&format!(
            "kind: SideroLinkConfig\napiUrl: https://{address}?jointoken=a\n---\nkind: TrustedRootsConfig\n\
             certificates: |\n    {pem}\n"
        ))
        .unwrap()
    };
    let identity = identity(UUID);
    let response = soon(join::provision(&config(&authority), &identity, "v1.13.7")).await.unwrap();
    assert_eq!(response.server_public_key, UUID);
    let other = Authority::generate(hour_from(now() - 60), &[9; 48]);
    let error = soon(join::provision(&config(&other), &identity, "v1.13.7")).await.unwrap_err();
    assert!(chain(&error).contains("signed by nobody"), "{}", chain(&error));
}
