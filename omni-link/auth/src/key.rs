//! The key of a service account.

use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use ring::rand::SecureRandom as _;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::headers::{Payload, SIGNATURE_VERSION, SignedHeaders};
use crate::identity::{AccountName, BadAccountName};
use crate::pgp::secret::{SecretKey, Seeds};
use crate::pgp::{Certificate, PgpError, unix_seconds};

/// The longest value of the environment variable that is looked at. A real one has some
/// 1.5 kB; more user ids and subkeys fit well.
const MAX_ENV_VALUE: usize = 64 * 1024;

/// The longest name that a key's JSON may give; it goes into a header of every call.
const MAX_NAME: usize = 256;

/// What stands in brackets in a generated key's user id.
const USER_ID_COMMENT: &str = "bootlace";

/// Why a service account key cannot be used. Never shows any of it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// Too long to be one.
    #[error("service account key is longer than {MAX_ENV_VALUE} bytes")]
    TooLong,
    /// Not base64.
    #[error("service account key is not base64 (copy the value without quotes or line breaks)")]
    Base64,
    /// Not the JSON it should be.
    #[error("service account key is not JSON with \"name\" and \"pgp_key\"")]
    Json,
    /// The name cannot stand in a header.
    #[error("service account key has a name that is empty, too long or not printable ASCII")]
    Name,
    /// The name of an account to be made is none.
    #[error("cannot make a key")]
    AccountName(#[from] BadAccountName),
    /// A key must last at least a second, and end before 2106 (32 bits of seconds).
    #[error("a key cannot have this lifetime")]
    Lifetime,
    /// The system gave no random numbers.
    #[error("no randomness from the system")]
    Randomness,
    /// The OpenPGP key within is not usable.
    #[error("service account key has an unusable OpenPGP key")]
    Pgp(#[from] PgpError),
}

#[derive(Serialize, Deserialize)]
struct KeyJson {
    name: String,
    pgp_key: String,
}

impl Drop for KeyJson {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.pgp_key);
    }
}

/// The private key of a service account and its name.
///
/// `Debug` shows the name, the fingerprint and the end only.
pub struct ServiceAccountKey {
    name: String,
    armored: Zeroizing<String>,
    secret: SecretKey,
}

impl ServiceAccountKey {
    /// Reads the value of `OMNI_SERVICE_ACCOUNT_KEY`: base64 of JSON with the name and
    /// the armored private key. White space around it is forgiven.
    ///
    /// An expired key is read as any other; see [`expires_at`](Self::expires_at).
    ///
    /// # Errors
    /// When it is not such a value, or its key is locked or not of the one usable kind.
    pub fn from_env_value(value: &str) -> Result<Self, KeyError> {
        if value.len() > MAX_ENV_VALUE {
            return Err(KeyError::TooLong);
        }
        let json = STANDARD.decode(value.trim()).map_err(|_| KeyError::Base64)?;
        let json = Zeroizing::new(json);
        // The parser's own error could quote the key.
        let mut fields: KeyJson = serde_json::from_slice(&json).map_err(|_| KeyError::Json)?;
        let armored = Zeroizing::new(std::mem::take(&mut fields.pgp_key));
        let name = std::mem::take(&mut fields.name);
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(KeyError::Name);
        }
        let secret = SecretKey::from_armored(&armored)?;
        Ok(Self { name, armored, secret })
    }

    /// Makes a key for the infrastructure provider with this id, valid from `now` on.
    ///
    /// # Errors
    /// When the id or the lifetime is not possible, or there is no randomness.
    pub fn generate(provider_id: &str, now: SystemTime, lifetime: Duration) -> Result<Self, KeyError> {
        Self::generate_for(&AccountName::infra_provider(provider_id)?, now, lifetime)
    }

    /// Makes a key for any service account, valid from `now` on.
    ///
    /// # Errors
    /// When the lifetime is not possible, or there is no randomness.
    pub fn generate_for(
        account: &AccountName,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Self, KeyError> {
        let mut seeds = Seeds::default();
        let random = ring::rand::SystemRandom::new();
        for seed in [&mut seeds.ed25519, &mut seeds.x25519] {
            random.fill(seed.as_mut_slice()).map_err(|_| KeyError::Randomness)?;
        }
        Self::from_seeds(account, now, lifetime, &seeds)
    }

    fn from_seeds(
        account: &AccountName,
        now: SystemTime,
        lifetime: Duration,
        seeds: &Seeds,
    ) -> Result<Self, KeyError> {
        let created = unix_seconds(now);
        let lifetime = u32::try_from(lifetime.as_secs())
            .ok()
            .filter(|&seconds| seconds > 0 && created.checked_add(seconds).is_some())
            .ok_or(KeyError::Lifetime)?;
        let user_id = format!("{} ({USER_ID_COMMENT}) <{}>", account.base(), account.identity());
        let (secret, armored) = SecretKey::generate(seeds, &user_id, created, lifetime);
        Ok(Self { name: account.to_string(), armored, secret })
    }

    /// The value for `OMNI_SERVICE_ACCOUNT_KEY`. A secret.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<String> {
        let fields = KeyJson { name: self.name.clone(), pgp_key: self.armored.to_string() };
        // Room for all of it at once: what is written never moves, and leaves no copy.
        let room = 2 * (fields.name.len() + fields.pgp_key.len()) + 64;
        let mut json = Zeroizing::new(Vec::with_capacity(room));
        serde_json::to_writer(&mut *json, &fields).expect("two strings always serialize");
        Zeroizing::new(STANDARD.encode(&json))
    }

    /// The fingerprint: 40 hexadecimal digits, lower case.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        self.certificate().fingerprint()
    }

    /// The name that the key's JSON gives, as `infra-provider:bare-metal`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When the key ends; `None` when it never does.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.certificate().expires_at()
    }

    /// The public half.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        self.secret.certificate()
    }

    /// The public half as armored text, as servers take it.
    #[must_use]
    pub fn public_armored(&self) -> String {
        self.certificate().to_armored()
    }

    /// Signs a call of `method` (`/package.Service/Method`) at `now`.
    #[must_use]
    pub fn sign(&self, now: SystemTime, method: &str) -> SignedHeaders {
        self.sign_request(now, method, &HeaderMap::new())
    }

    /// Signs a call that carries other metadata, some of which must be signed with it.
    #[must_use]
    pub fn sign_request(&self, now: SystemTime, method: &str, headers: &HeaderMap) -> SignedHeaders {
        let timestamp = unix_seconds(now).to_string();
        let payload = Payload::of(method, &timestamp, headers).to_ascii();
        let signature = self.sign_text(payload.as_bytes(), now);
        SignedHeaders { timestamp, payload, signature }
    }

    /// The signature header over this text.
    pub(crate) fn sign_text(&self, text: &[u8], now: SystemTime) -> String {
        let signature = self.secret.sign_detached(text, unix_seconds(now));
        let signature = STANDARD.encode(signature);
        let fingerprint = self.fingerprint();
        format!("{SIGNATURE_VERSION} {} {fingerprint} {signature}", self.name)
    }
}

impl fmt::Debug for ServiceAccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAccountKey")
            .field("name", &self.name)
            .field("fingerprint", &self.fingerprint())
            .field("expires_at", &self.expires_at())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
