//! The way to the machine API of machines in maintenance. Nobody signed their certificates: they are known by their
//! address in the tunnel.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, OnceLock};

use agent_wire::certificate::AnyHolder;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::wireguard::Wireguard;

/// Where Talos' machine API is.
const PORT: u16 = 50000;
/// gRPC is HTTP/2.
const ALPN: &[u8] = b"h2";

/// The machine API of whoever has this address in the tunnel.
pub(crate) async fn reach(
    wireguard: &Wireguard,
    address: Ipv6Addr,
) -> Result<Channel, tonic::transport::Error> {
    let wireguard = wireguard.clone();
    let tls = TlsConnector::from(tls_config());
    let connector = tower::service_fn(move |_| {
        let (wireguard, tls) = (wireguard.clone(), tls.clone());
        async move {
            let stream = wireguard.dial(address, PORT).await?;
            let name = ServerName::IpAddress(IpAddr::V6(address).into());
            tls.connect(name, stream).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://machine").connect_with_connector(connector).await
}

/// The same for all machines.
pub(crate) fn tls_config() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let make = || {
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(AnyHolder(Arc::clone(&provider)));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the versions that rustls calls safe")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Arc::new(config)
    };
    Arc::clone(CONFIG.get_or_init(make))
}
