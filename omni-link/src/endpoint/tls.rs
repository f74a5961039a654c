//! Whom we take for Omni, and for a BMC.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_wire::certificate::AnyHolder;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, Error, RootCertStore};

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
        let verifier = Arc::new(AnyHolder(provider));
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
