//! Judging the metadata of a request.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue};
use thiserror::Error;

use crate::headers::{
    PAYLOAD_HEADER, Payload, SIGNATURE_HEADER, SIGNATURE_VERSION, SIGNED_HEADERS, TIMESTAMP_HEADER, values_of,
};
use crate::identity::Identity;
use crate::pgp::{PgpError, signature};

/// How far the caller's clock may be from ours, both ways; Omni's number.
pub const ALLOWED_SKEW: Duration = Duration::from_secs(5 * 60);

/// What a refused caller is told, whatever was wrong.
pub const INVALID_SIGNATURE: &str = "invalid signature";

/// The longest signed text. Ten headers with a list of nodes each fit well; servers of
/// HTTP/2 take 16 KiB of headers.
const MAX_PAYLOAD: usize = 16 * 1024;

/// The longest signature header. A signature is some 100 to 200 bytes.
const MAX_SIGNATURE: usize = 4 * 1024;

/// A key that may call, as the server keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// Whose key it is.
    pub identity: Identity,
    /// When it ends.
    pub expires: SystemTime,
    /// The Ed25519 public key.
    pub ed25519: [u8; 32],
}

/// Why a request is refused. For the log only: callers are told [`INVALID_SIGNATURE`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AuthError {
    /// A needed header is not there, or is empty.
    #[error("no {0} header")]
    Missing(&'static str),
    /// A header that can be there only once is there twice.
    #[error("more than one {0} header")]
    Repeated(&'static str),
    /// A header is longer than any real one.
    #[error("{0} header is too long")]
    TooLong(&'static str),
    /// The timestamp is not a number.
    #[error("timestamp is not a number of seconds")]
    Timestamp,
    /// The caller's clock and ours differ too much.
    #[error("signed {seconds} s {} our time, only {} s are allowed",
        if *.behind { "before" } else { "after" }, ALLOWED_SKEW.as_secs())]
    Skew {
        /// By how many seconds.
        seconds: u64,
        /// Whether the caller's time is before ours.
        behind: bool,
    },
    /// The signed text is not the JSON it should be.
    #[error("payload is not the JSON of a signed call")]
    Payload,
    /// The signed text is about another method.
    #[error("payload is for another method")]
    Method,
    /// The signed text says something else of a header than the request.
    #[error("payload and request differ in header {0}")]
    Header(&'static str),
    /// The signature header does not have its four parts.
    #[error("signature header is not \"{SIGNATURE_VERSION} identity fingerprint signature\"")]
    SignatureForm,
    /// No such key is stored.
    #[error("key is not known")]
    UnknownKey,
    /// The key has ended.
    #[error("key has expired")]
    Expired,
    /// The signature is not a signature of this text by this key.
    #[error("signature does not verify")]
    Signature(#[source] PgpError),
}

/// Judges the metadata of a call of `method` that arrived at `now`.
///
/// The name in the signature header is the caller's word and is not looked at: who
/// calls is what `lookup` says of the key with the fingerprint in that header.
///
/// # Errors
/// Whenever anything is not as it must be.
pub fn verify(
    headers: &HeaderMap,
    method: &str,
    now: SystemTime,
    lookup: impl Fn(&str) -> Option<PublicKey>,
) -> Result<Identity, AuthError> {
    check_timestamp(only(headers, TIMESTAMP_HEADER, MAX_SIGNATURE)?, now)?;

    let text = only(headers, PAYLOAD_HEADER, MAX_PAYLOAD)?.as_bytes();
    let payload: Payload = serde_json::from_slice(text).map_err(|_| AuthError::Payload)?;
    if payload.method != method {
        return Err(AuthError::Method);
    }
    for name in SIGNED_HEADERS {
        check_header(&payload, headers, name)?;
    }

    let header = only(headers, SIGNATURE_HEADER, MAX_SIGNATURE)?;
    let (fingerprint, signature) = parse_signature(header)?;
    let key = lookup(fingerprint).ok_or(AuthError::UnknownKey)?;
    if key.expires <= now {
        return Err(AuthError::Expired);
    }
    signature::verify_detached(&signature, text, &key.ed25519, fingerprint, now)
        .map_err(AuthError::Signature)?;
    Ok(key.identity)
}

/// The one value of a header.
fn only<'a>(headers: &'a HeaderMap, name: &'static str, limit: usize) -> Result<&'a HeaderValue, AuthError> {
    let mut values = headers.get_all(name).into_iter();
    let value = values.next().filter(|value| !value.is_empty()).ok_or(AuthError::Missing(name))?;
    if values.next().is_some() {
        return Err(AuthError::Repeated(name));
    }
    if value.len() > limit {
        return Err(AuthError::TooLong(name));
    }
    Ok(value)
}

fn check_timestamp(value: &HeaderValue, now: SystemTime) -> Result<(), AuthError> {
    let text = value.to_str().map_err(|_| AuthError::Timestamp)?;
    let seconds: i64 = text.parse().map_err(|_| AuthError::Timestamp)?;
    // A time before 1970 is outside of any skew, as 1970 itself is.
    let signed = u64::try_from(seconds).unwrap_or(0);
    let signed = UNIX_EPOCH.checked_add(Duration::from_secs(signed)).ok_or(AuthError::Timestamp)?;
    let (behind, skew) = match now.duration_since(signed) {
        Ok(skew) => (true, skew),
        Err(ahead) => (false, ahead.duration()),
    };
    if skew > ALLOWED_SKEW {
        return Err(AuthError::Skew { seconds: skew.as_secs(), behind });
    }
    Ok(())
}

/// The text and the request must name the same values in the same order. No header is
/// an absent name or `null`; an empty list is not the same.
fn check_header(payload: &Payload, headers: &HeaderMap, name: &'static str) -> Result<(), AuthError> {
    let mut carried = values_of(headers, name).peekable();
    let same = match payload.values(name) {
        None => carried.peek().is_none(),
        Some([]) => false,
        Some(signed) => signed.iter().map(String::as_bytes).eq(carried),
    };
    if same { Ok(()) } else { Err(AuthError::Header(name)) }
}

/// The fingerprint and the signature of `siderov1 identity fingerprint base64`.
fn parse_signature(value: &HeaderValue) -> Result<(&str, Vec<u8>), AuthError> {
    let text = value.to_str().map_err(|_| AuthError::SignatureForm)?;
    let mut parts = text.split(' ');
    let (Some(SIGNATURE_VERSION), Some(_), Some(fingerprint), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(AuthError::SignatureForm);
    };
    let signature = STANDARD.decode(signature).map_err(|_| AuthError::SignatureForm)?;
    Ok((fingerprint, signature))
}

#[cfg(test)]
mod tests;
