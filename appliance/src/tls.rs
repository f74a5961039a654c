//! The certificate that machines are shown, and whom they are told to trust.
//!
//! Without files from elsewhere the appliance is its own authority: made at the first start, kept beside the rest of
//! its state, renewed with the same key before it ends, so that machines that trust the old certificate trust what
//! the new one signs. What it signs lives in memory only, for hours, and is made anew whenever a client comes and
//! little of it is left.

mod given;

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_wire::certificate::{Authority, Certificate, Randomness, Validity};
use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::{Certificates as Source, Tls};

/// The authority's certificate and key.
const CA_NAME: &str = "tls-ca.pem";
/// Renewed when less than one in so many parts of the time is left, as the peer does.
const LEFT: u32 = 10;
/// How long before it is made a certificate is valid: a machine's clock may be set to the local time anywhere on Earth.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);
/// Letters of a line of base64 in PEM (RFC 7468).
const PEM_LINE: usize = 64;

/// What is shown, and by whom it is signed.
#[derive(Debug)]
pub(crate) enum Certificates {
    /// From the own authority.
    Own(Box<Mutex<Own>>),
    /// From files.
    Given {
        /// What is shown.
        shown: Arc<CertifiedKey>,
        /// Whom machines are to trust (PEM).
        ca: Option<String>,
    },
}

/// See [`Certificates::Own`].
#[derive(Debug)]
pub(crate) struct Own {
    path: PathBuf,
    addresses: Vec<IpAddr>,
    ca_ttl: Duration,
    cert_ttl: Duration,
    authority: Authority,
    shown: Option<(Arc<CertifiedKey>, Validity)>,
}

impl Certificates {
    /// Opens what is there, or makes it. `addresses` are those that machines dial.
    pub(crate) fn open(config: &Tls, state_dir: &Path, addresses: Vec<IpAddr>) -> anyhow::Result<Arc<Self>> {
        let (ca_ttl, cert_ttl) = match &config.certificates {
            Source::Own { ca_ttl, cert_ttl } => (*ca_ttl, *cert_ttl),
            Source::Given { ca, cert, key } => {
                return given::read(ca.as_deref(), cert, key, &addresses, SystemTime::now()).map(Arc::new);
            }
        };
        let path = state_dir.join(CA_NAME);
        let authority = match read_authority(&path)? {
            Some(authority) => authority,
            None => {
                let authority = Authority::generate(validity(SystemTime::now(), ca_ttl), &randomness()?);
                write_authority(&path, &authority)?;
                tracing::info!(path = %path.display(), "made a certificate authority");
                authority
            }
        };
        let mut own = Own { path, addresses, ca_ttl, cert_ttl, authority, shown: None };
        own.current(SystemTime::now())?;
        Ok(Arc::new(Self::Own(Box::new(Mutex::new(own)))))
    }

    /// The certificates that machines are to trust, PEM; `None` when these are public ones.
    pub(crate) fn ca(&self) -> Option<String> {
        match self {
            Self::Own(own) => {
                let mut own = lock(own);
                if let Err(error) = own.renew(SystemTime::now()) {
                    tracing::warn!(error = format!("{error:#}"), "the certificate authority is not renewed");
                }
                Some(pem("CERTIFICATE", &own.authority.certificate().certificate))
            }
            Self::Given { ca, .. } => ca.clone(),
        }
    }
}

fn lock(own: &Mutex<Own>) -> MutexGuard<'_, Own> {
    own.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match self {
            Self::Given { shown, .. } => Some(Arc::clone(shown)),
            Self::Own(own) => match lock(own).current(SystemTime::now()) {
                Ok(shown) => Some(shown),
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "no certificate for a machine");
                    None
                }
            },
        }
    }
}

impl Own {
    /// The certificate for now.
    fn current(&mut self, now: SystemTime) -> anyhow::Result<Arc<CertifiedKey>> {
        self.renew(now)?;
        if let Some((shown, validity)) = &self.shown
            && !ends(*validity, self.cert_ttl, now)
            // This host's clock went back to before it.
            && validity.not_before <= seconds(now)
        {
            return Ok(Arc::clone(shown));
        }
        let mut validity = validity(now, self.cert_ttl);
        validity.not_after = validity.not_after.min(self.authority.validity().not_after);
        let Certificate { certificate, key } =
            self.authority.issue(&self.addresses, validity, &randomness()?);
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
        let shown = CertifiedKey::from_der(vec![certificate.into()], key, &default_provider())
            .context("cannot use the certificate that was made")?;
        let shown = Arc::new(shown);
        self.shown = Some((Arc::clone(&shown), validity));
        tracing::debug!(not_after = validity.not_after, "made a certificate");
        Ok(shown)
    }

    /// Renews the authority when little of its time is left.
    fn renew(&mut self, now: SystemTime) -> anyhow::Result<()> {
        if !ends(self.authority.validity(), self.ca_ttl, now) {
            return Ok(());
        }
        let renewed = self.authority.renewed(validity(now, self.ca_ttl), &randomness()?);
        write_authority(&self.path, &renewed)?;
        tracing::info!(path = %self.path.display(), "renewed the certificate authority");
        (self.authority, self.shown) = (renewed, None);
        Ok(())
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn validity(now: SystemTime, ttl: Duration) -> Validity {
    let now = seconds(now);
    Validity {
        not_before: now.saturating_sub(BACKDATED.as_secs()),
        not_after: now.saturating_add(ttl.as_secs()),
    }
}

/// Little of its time is left.
fn ends(validity: Validity, ttl: Duration, now: SystemTime) -> bool {
    validity.not_after.saturating_sub(seconds(now)) < (ttl / LEFT).as_secs()
}

fn randomness() -> anyhow::Result<Randomness> {
    let mut random = [0; size_of::<Randomness>()];
    SystemRandom::new().fill(&mut random).ok().context("this host has no randomness")?;
    Ok(random)
}

/// `None` when there is none yet.
fn read_authority(path: &Path) -> anyhow::Result<Option<Authority>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let certificate = CertificateDer::from_pem_slice(&text).ok();
    let key = PrivatePkcs8KeyDer::from_pem_slice(&text).ok();
    let whole = certificate.zip(key).map(|(certificate, key)| Certificate {
        certificate: certificate.to_vec(),
        key: key.secret_pkcs8_der().to_vec(),
    });
    match whole.and_then(Authority::read) {
        Some(authority) => Ok(Some(authority)),
        None => bail!(
            "{} is damaged; remove it to have a new authority made, which machines trust from their next boot on",
            path.display()
        ),
    }
}

fn write_authority(path: &Path, authority: &Authority) -> anyhow::Result<()> {
    let Certificate { certificate, key } = authority.certificate();
    let text = pem("CERTIFICATE", certificate) + &pem("PRIVATE KEY", key);
    write_secret(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(PEM_LINE));
        // Writing to a text does not fail.
        let _ = writeln!(text, "{line}");
        rest = more;
    }
    let _ = writeln!(text, "-----END {label}-----");
    text
}

/// Whole or not at all, and for the owner only.
pub(crate) fn write_secret(path: &Path, secret: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    file.write_all(secret)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests;
