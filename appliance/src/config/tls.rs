//! `[tls]`: the second port, on which machines open their tunnels over TLS.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use super::check::Checker;
use super::file::Agent;
use super::flags::Overrides;

/// The peer's.
const PORT: u16 = 50043;
/// A certificate of less has to be made anew all the time.
const CERT_TTL_MIN: Duration = Duration::from_secs(5 * 60);

/// `[tls]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TlsTable {
    /// Whether agents are told to use TLS.
    pub enabled: bool,
    /// TCP port.
    pub api_port: Option<u16>,
    /// Agents take any certificate.
    pub agent_skip_verify: bool,
    /// How long the own authority is valid.
    pub ca_ttl: Option<Spanned<String>>,
    /// How long a certificate of the own authority is valid.
    pub cert_ttl: Option<Spanned<String>>,
    /// Certificates (PEM) that machines are to trust, when the one below is from elsewhere.
    pub ca_cert_file: Option<PathBuf>,
    /// A certificate from elsewhere.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
}

/// TLS for machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tls {
    /// TCP port.
    pub port: u16,
    /// Agents take any certificate.
    pub agent_skip_verify: bool,
    /// What is shown.
    pub certificates: Certificates,
}

/// Where certificates come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Certificates {
    /// From an authority of this appliance's own.
    Own {
        /// How long it is valid.
        ca_ttl: Duration,
        /// How long what it signs is.
        cert_ttl: Duration,
    },
    /// From files.
    Given {
        /// Whom machines are to trust.
        ca: Option<PathBuf>,
        /// What is shown.
        cert: PathBuf,
        /// Its key.
        key: PathBuf,
    },
}

impl Checker<'_> {
    /// `None` when it is off: what is wrong then harms nobody.
    pub(super) fn tls(
        &self,
        table: &TlsTable,
        agent: &Agent,
        flags: &Overrides,
    ) -> Result<Option<Tls>, ConfigError> {
        if !(flags.tls_enabled || table.enabled) {
            return Ok(None);
        }
        let port = flags.tls_api_port.or(table.api_port).unwrap_or(PORT);
        if port == 0 {
            return Err(self.wrong("tls.api_port", "machines have to be told a port above 0".to_owned()));
        }
        let agent_skip_verify = flags.tls_agent_skip_verify || table.agent_skip_verify;
        let file = |flag: &Option<PathBuf>, file: &Option<PathBuf>| flag.clone().or_else(|| file.clone());
        let ca = file(&flags.tls_ca_cert_file, &table.ca_cert_file);
        let cert = file(&flags.tls_cert_file, &table.cert_file);
        let key = file(&flags.tls_key_file, &table.key_file);
        let certificates = match (ca, cert, key) {
            (None, None, None) => self.own(table, flags)?,
            (None, Some(_), Some(_)) if !agent_skip_verify && is_ours(agent) => {
                return Err(self.wrong(
                    "tls.ca_cert_file",
                    "our agent trusts nobody but whom it is told to: name the file of the authority that signed \
                     tls.cert_file, or that file itself"
                        .to_owned(),
                ));
            }
            (ca, Some(cert), Some(key)) => Certificates::Given { ca, cert, key },
            (_, None, _) => return Err(self.together("tls.cert_file")),
            (_, _, None) => return Err(self.together("tls.key_file")),
        };
        Ok(Some(Tls { port, agent_skip_verify, certificates }))
    }

    fn own(&self, table: &TlsTable, flags: &Overrides) -> Result<Certificates, ConfigError> {
        let ca_ttl =
            self.duration(&flags.tls_ca_ttl, "--tls-ca-ttl", &table.ca_ttl, "tls.ca_ttl", "262800h")?;
        let cert_ttl =
            self.duration(&flags.tls_cert_ttl, "--tls-cert-ttl", &table.cert_ttl, "tls.cert_ttl", "24h")?;
        if cert_ttl < CERT_TTL_MIN {
            return Err(self.wrong("tls.cert_ttl", "a certificate is valid for 5m at least".to_owned()));
        }
        if ca_ttl <= cert_ttl {
            return Err(
                self.wrong("tls.ca_ttl", "an authority outlives its certificates: tls.cert_ttl".to_owned())
            );
        }
        Ok(Certificates::Own { ca_ttl, cert_ttl })
    }

    fn together(&self, missing: &str) -> ConfigError {
        let message = "tls.cert_file and tls.key_file are needed together, and for tls.ca_cert_file";
        self.wrong(missing, format!("is missing: {message}"))
    }
}

fn is_ours(agent: &Agent) -> bool {
    agent.kind.as_ref().is_none_or(|kind| kind.get_ref() == "bootlace")
}
