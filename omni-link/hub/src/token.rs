//! Join tokens.
//!
//! ```text
//! plain   the secret itself
//! v1      "v1:" + base64(JSON), signed with the default join token
//! v2      "v2:" + base64(JSON), signed with the secret of the provider that extra_data names
//! JSON    {"extra_data":{...},"signature":"base64 of HMAC-SHA256 over extra_data as Go writes it"}
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde::Deserialize;
use thiserror::Error;

/// Characters of a secret: 43 of 62 kinds are 256 bits.
const SECRET_LENGTH: usize = 43;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A token that is none.
#[derive(Debug, Error)]
pub enum TokenError {
    /// Not base64.
    #[error("invalid join token: not base64")]
    Base64(#[source] base64::DecodeError),
    /// Not the JSON that it should be.
    #[error("invalid join token: not the expected JSON")]
    Json(#[source] serde_json::Error),
}

/// A join token as a machine sends it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum JoinToken {
    /// The bare secret.
    Plain(String),
    /// Signed with the default join token.
    V1(SignedToken),
    /// Signed with a provider's secret.
    V2(SignedToken),
}

/// Signed data.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignedToken {
    /// What the link gets as labels.
    pub extra_data: BTreeMap<String, String>,
    signature: Vec<u8>,
}

#[derive(Deserialize)]
struct TokenJson {
    #[serde(default)]
    extra_data: Option<BTreeMap<String, String>>,
    #[serde(default)]
    signature: String,
}

impl JoinToken {
    /// Reads a token.
    ///
    /// # Errors
    /// When it has a version prefix and is broken.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        if let Some(rest) = text.strip_prefix("v2:") {
            Ok(Self::V2(SignedToken::parse(rest)?))
        } else if let Some(rest) = text.strip_prefix("v1:") {
            Ok(Self::V1(SignedToken::parse(rest)?))
        } else {
            Ok(Self::Plain(text.to_owned()))
        }
    }

    /// The text of a v2 token, signed with a provider's secret.
    #[must_use]
    pub fn sign_v2(secret: &str, extra_data: &BTreeMap<String, String>) -> String {
        let data = go_json(extra_data);
        let signature = hmac::sign(&key(secret), data.as_bytes());
        let json =
            format!("{{\"extra_data\":{data},\"signature\":\"{}\"}}", STANDARD.encode(signature.as_ref()));
        format!("v2:{}", STANDARD.encode(json))
    }

    /// Whether the holder knows the secret; takes the same time for every wrong one.
    #[must_use]
    pub fn valid(&self, secret: &str) -> bool {
        match self {
            Self::Plain(text) => same(text, secret),
            Self::V1(signed) | Self::V2(signed) => signed.valid(secret),
        }
    }
}

impl SignedToken {
    fn parse(base64: &str) -> Result<Self, TokenError> {
        let json = STANDARD.decode(base64).map_err(TokenError::Base64)?;
        let TokenJson { extra_data, signature } = serde_json::from_slice(&json).map_err(TokenError::Json)?;
        let signature = STANDARD.decode(signature).map_err(TokenError::Base64)?;
        Ok(Self { extra_data: extra_data.unwrap_or_default(), signature })
    }

    fn valid(&self, secret: &str) -> bool {
        !secret.is_empty()
            && hmac::verify(&key(secret), go_json(&self.extra_data).as_bytes(), &self.signature).is_ok()
    }
}

fn key(secret: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())
}

/// Compares by HMAC under one key, which takes the same time whatever differs.
fn same(one: &str, other: &str) -> bool {
    let key = key(other);
    let tag = hmac::sign(&key, other.as_bytes());
    !other.is_empty() && hmac::verify(&key, one.as_bytes(), tag.as_ref()).is_ok()
}

/// A new secret, `None` when the system has no randomness.
pub(crate) fn new_secret() -> Option<String> {
    /// Values from here on would make the first characters more likely.
    const FAIR: u8 = 248;
    let random = SystemRandom::new();
    let mut secret = String::with_capacity(SECRET_LENGTH);
    while secret.len() < SECRET_LENGTH {
        let mut bytes = [0u8; SECRET_LENGTH];
        random.fill(&mut bytes).ok()?;
        let fair = bytes.iter().filter(|byte| **byte < FAIR);
        secret.extend(fair.map(|byte| char::from(BASE62[usize::from(byte % 62)])));
    }
    secret.truncate(SECRET_LENGTH);
    Some(secret)
}

/// The map as Go's encoder writes it: sorted, compact, and with what HTML could mistake escaped.
fn go_json(map: &BTreeMap<String, String>) -> String {
    let mut out = String::from("{");
    for (index, (name, value)) in map.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        go_string(&mut out, name);
        out.push(':');
        go_string(&mut out, value);
    }
    out.push('}');
    out
}

fn go_string(out: &mut String, text: &str) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                write!(out, "\\u{:04x}", u32::from(letter)).expect("writing to a String cannot fail");
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// The text as a query value: everything but unreserved characters as `%XX`.
pub(crate) fn query_escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 3 / 2);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            other => write!(out, "%{other:02X}").expect("writing to a String cannot fail"),
        }
    }
    out
}

#[cfg(test)]
mod tests;
