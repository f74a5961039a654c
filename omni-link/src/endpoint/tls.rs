//! Whom we take for Omni, and for a BMC.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::EndpointOptions;

/// gRPC is HTTP/2.
const ALPN: &[u8] = b"h2";

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file of authorities.
    #[error("cannot read the certificates in {path}: {source}")]
    CaFile {
        /// It.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// It holds none.
    #[error("{0} holds no certificate that can be used")]
    NoCertificate(PathBuf),
    /// The library.
    #[error("cannot set up TLS: {0}")]
    Setup(#[source] Error),
}

pub(super) fn config(options: &EndpointOptions) -> Result<ClientConfig, TlsError> {
    let mut config = plain_config(options.insecure_skip_tls_verify, options.ca_file.as_deref())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// Whom we take for a machine's BMC: whoever answers, as the peer does unless told otherwise, or who has a certificate
/// of a known authority for its address. Up to TLS 1.2 is what most BMCs have.
pub fn bmc_config(insecure_skip_tls_verify: bool, ca_file: Option<&Path>) -> Result<ClientConfig, TlsError> {
    plain_config(insecure_skip_tls_verify, ca_file)
}

fn plain_config(insecure_skip_tls_verify: bool, ca_file: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?;
    let roots = roots(ca_file)?;
    Ok(if insecure_skip_tls_verify {
        let verifier = Arc::new(Anyone { provider });
        builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
    } else {
        builder.with_root_certificates(roots).with_no_client_auth()
    })
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_file else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(roots);
    };
    let failed = |source| TlsError::CaFile { path: path.to_path_buf(), source };
    for certificate in CertificateDer::pem_file_iter(path).map_err(failed)? {
        roots.add_parsable_certificates([certificate.map_err(failed)?]);
    }
    if roots.is_empty() { Err(TlsError::NoCertificate(path.to_path_buf())) } else { Ok(roots) }
}

/// `--insecure-skip-tls-verify`, of Omni or of Redfish: any certificate will do, but whoever shows it must have its key.
#[derive(Debug)]
struct Anyone {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anyone {
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
