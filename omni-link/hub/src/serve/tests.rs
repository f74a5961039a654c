//! With TLS, as Omni's clients insist on it off the loopback network. The certificates are made for this
//! test: an authority of which nobody has the key, and a server's for `hub.test`.

use cosi::client::GrpcState;
use cosi::embedded::{EmbeddedState, Options};
use cosi::{Pointer, State, StateError};
use std::time::SystemTime;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use super::*;
use crate::{Hub, HubConfig};

fn files() -> TlsFiles {
    TlsFiles {
        certificate: include_bytes!("server-cert.pem").as_slice().into(),
        key: include_bytes!("server-key.pem").as_slice().into(),
    }
}

#[tokio::test]
async fn signed_calls_go_over_tls() {
    let config = HubConfig {
        provider_id: "bare-metal".to_owned(),
        machine_api_url: "grpc://127.0.0.1:8090".to_owned(),
        event_endpoint: "127.0.0.1:8090".to_owned(),
        kernel_log_endpoint: None,
        wireguard: None,
        image_factory: None,
    };
    let store = EmbeddedState::in_memory(Options::default()).unwrap();
    let hub = Hub::open(config, Arc::new(store), Arc::new(|_| {})).await.unwrap();
    let year = Duration::from_secs(365 * 24 * 3600);
    let (_, key) = hub.create_provider("bare-metal", SystemTime::now(), year).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let server = ApiServer::new(Some(&files())).unwrap().run(listener, hub.api(), shutdown.clone());
    let server = tokio::spawn(server);

    let authority = Certificate::from_pem(include_bytes!("ca-cert.pem"));
    let tls = ClientTlsConfig::new().ca_certificate(authority).domain_name("hub.test");
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap();
    let signed = omni_auth::Signed::new(endpoint.connect().await.unwrap(), Some(Arc::new(key)));
    let client = GrpcState::new(signed);
    client.get(&Pointer::new("ephemeral", "SysVersions.system.sidero.dev", "current")).await.unwrap();
    let machine = Pointer::new("infra-provider", "InfraMachines.omni.sidero.dev", "none");
    assert!(matches!(client.get(&machine).await, Err(StateError::NotFound(_))));
    assert!(
        Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.is_err() || {
            // A plain connection is only found out by its first call.
            let plain = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
            GrpcState::new(plain).get(&machine).await.is_err()
        }
    );

    shutdown.cancel();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_certificate_that_is_none_is_found_out_before_anything_is_served() {
    let bad = TlsFiles { certificate: b"nonsense".as_slice().into(), ..files() };
    assert!(matches!(ApiServer::new(Some(&bad)), Err(ServeError::Tls(_))));
    let bad = TlsFiles { key: b"nonsense".as_slice().into(), ..files() };
    assert!(matches!(ApiServer::new(Some(&bad)), Err(ServeError::Tls(_))));
    assert!(!format!("{:?}", files()).contains("PRIVATE"));
}
