//! Whom TLS trusts: the system's authorities, or Mozilla's where a system has none (a container with nothing
//! but the binary); and one more when the operator names its file.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// Where systems keep their authorities: Debian and Alpine, Fedora and RHEL, openSUSE, Talos (whose extension
/// services bind it), what others have.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/certs/ca-certificates",
    "/etc/ssl/cert.pem",
];
/// Bytes of a bundle. Those of today have a quarter of a megabyte.
const BUNDLE_MAX: u64 = 8 * 1024 * 1024;

/// Why no authority can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The file cannot be read.
    #[error("cannot read the certificate authorities in {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It has no certificate that could be used.
    #[error("no usable certificate authority in {0}")]
    Empty(PathBuf),
}

/// A client that trusts the system's authorities and those in `ca_file`.
pub(super) fn client(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, RootsError> {
    let mut roots = RootCertStore::empty();
    match BUNDLES.iter().map(Path::new).find(|bundle| bundle.is_file()) {
        Some(bundle) => {
            let added = add(&mut roots, bundle);
            // With an authority of their own, operators need not care for the system's.
            if ca_file.is_none() {
                added?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    if let Some(path) = ca_file {
        add(&mut roots, path)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has suites for every version of TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn add(roots: &mut RootCertStore, path: &Path) -> Result<(), RootsError> {
    let mut pem = Vec::new();
    let read = File::open(path).and_then(|file| file.take(BUNDLE_MAX).read_to_end(&mut pem));
    read.map_err(|source| RootsError::Read { path: path.to_owned(), source })?;
    let certificates = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
    let (added, _too_old) = roots.add_parsable_certificates(certificates);
    if added == 0 { Err(RootsError::Empty(path.to_owned())) } else { Ok(()) }
}
