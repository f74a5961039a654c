//! So much of OpenPGP (RFC 4880, with the Ed25519 and Curve25519 of RFC 9580's section
//! on version 4 keys) as service account keys and their signatures need.
//!
//! Reading never panics and never allocates more than it was given.

mod armor;
mod certificate;
pub(crate) mod secret;
pub(crate) mod signature;
mod wire;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;

pub use certificate::Certificate;

/// Why a key or a signature cannot be used. Never shows any of it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PgpError {
    /// Not an armored key, or cut, or its checksum is wrong.
    #[error("not an armored OpenPGP key, or damaged")]
    Armor,
    /// Not OpenPGP packets, or cut.
    #[error("malformed OpenPGP packets")]
    Malformed,
    /// Another kind of packet than needed here.
    #[error("another kind of OpenPGP packet than needed")]
    Unexpected,
    /// Only version 4 with Ed25519 (algorithm 22) is used for these keys.
    #[error("not a version 4 Ed25519 key or signature")]
    Algorithm,
    /// The private key is protected by a passphrase.
    #[error("private key is locked by a passphrase")]
    Locked,
    /// The private and the public half do not belong together.
    #[error("private and public key do not match")]
    Mismatch,
    /// No user id with a valid signature by the key itself.
    #[error("no user id that the key itself certifies")]
    NoUserId,
    /// The key may not sign.
    #[error("key is not meant for signing")]
    NotForSigning,
    /// The key was revoked.
    #[error("key is revoked")]
    Revoked,
    /// A part that one must understand and we do not.
    #[error("signature has a critical part that is not understood")]
    Critical,
    /// The signature names another key.
    #[error("signature is by another key")]
    Issuer,
    /// The signature has no time, or one that is over or yet to come.
    #[error("signature is not valid at this time")]
    Time,
    /// The arithmetic says no.
    #[error("signature is wrong")]
    Signature,
}

/// Seconds since 1970 as OpenPGP counts them, in 32 bits; a time outside of them (before
/// 1970, after 2106) becomes the nearest within.
pub(crate) fn unix_seconds(time: SystemTime) -> u32 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

/// The time that many seconds after 1970.
fn at(seconds: u64) -> SystemTime {
    // Two 32-bit numbers at most are added: that is within every system's time.
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests;
