//! The way to the machine API of machines in maintenance. Nobody signed their certificates: they are known by their
//! address in the tunnel.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, OnceLock};

use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
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
        let verifier = Arc::new(Machine { provider: Arc::clone(&provider) });
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

/// Any certificate will do, but whoever shows it must have its key.
#[derive(Debug)]
struct Machine {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Machine {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
