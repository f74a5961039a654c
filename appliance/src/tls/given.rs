//! Certificates from elsewhere: checked at the start, so that no machine stands before one that it cannot trust.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, bail};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};

use super::{Certificates, pem, seconds};

/// Reads the files, and checks that a machine which dials one of the addresses will take what it is shown.
pub(super) fn read(
    ca: Option<&Path>,
    cert: &Path,
    key: &Path,
    addresses: &[IpAddr],
    now: SystemTime,
) -> anyhow::Result<Certificates> {
    let chain = certificates(cert)?;
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| anyhow::anyhow!("no private key can be read from {}: {error}", key.display()))?;
    let provider = default_provider();
    let shown = CertifiedKey::from_der(chain.clone(), secret, &provider)
        .with_context(|| format!("{} and {} are of no use together", cert.display(), key.display()))?;
    let (end, rest) = chain.split_first().context("a file of certificates has one")?;
    let parsed =
        ParsedCertificate::try_from(end).with_context(|| format!("cannot use {}", cert.display()))?;
    for address in addresses {
        verify_server_name(&parsed, &ServerName::from(*address)).with_context(|| {
            format!("{} is not for {address}, the address that machines dial", cert.display())
        })?;
    }
    let Some(path) = ca else { return Ok(Certificates::Given { shown: Arc::new(shown), ca: None }) };
    let trusted = certificates(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in &trusted {
        roots
            .add(certificate.clone())
            .with_context(|| format!("cannot use a certificate of {}", path.display()))?;
    }
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds(now)));
    let algorithms = provider.signature_verification_algorithms.all;
    match verify_server_cert_signed_by_trust_anchor(&parsed, &roots, rest, now, algorithms) {
        Ok(()) => {}
        // It may be this host's clock: no reason not to start.
        Err(rustls::Error::InvalidCertificate(
            error @ (CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }),
        )) => tracing::warn!(path = %cert.display(), %error, "machines will not take the certificate"),
        Err(error) => bail!("{} is not signed by {}: {error}", cert.display(), path.display()),
    }
    // Only certificates: a key in the same file stays here.
    let ca = trusted.iter().map(|certificate| pem("CERTIFICATE", certificate)).collect();
    Ok(Certificates::Given { shown: Arc::new(shown), ca: Some(ca) })
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(|certificates| certificates.collect());
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => bail!("{} has no certificate", path.display()),
        Err(error) => bail!("no certificates can be read from {}: {error}", path.display()),
    }
}
