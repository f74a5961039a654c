//! The token by which Omni knows a machine again, and the fingerprint inside it.

use serde::{Deserialize, Serialize};

/// Longest JSON text that is read: real ones have some 130 bytes.
const MAX_TEXT: usize = 1024;

/// What a machine that joined once shows from then on. JSON names are the wire's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeUniqueToken {
    /// Lower-case hex SHA-256 of [`fingerprint_input`].
    #[serde(rename = "Fingerprint", default)]
    pub fingerprint: String,
    /// Random, made once; Omni compares this part.
    #[serde(rename = "Token", default)]
    pub token: String,
}

/// The text is no unique token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// More than a token ever has.
    #[error("token text is too long")]
    TooLong,
    /// Not the expected JSON.
    #[error("token text is not valid")]
    Json(#[from] serde_json::Error),
}

impl NodeUniqueToken {
    /// The text that goes into `node_unique_token`.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("two strings always serialize")
    }

    /// Reads such a text. Missing parts are empty, as in Omni.
    pub fn decode(text: &str) -> Result<Self, TokenError> {
        if text.len() > MAX_TEXT {
            return Err(TokenError::TooLong);
        }
        Ok(serde_json::from_str(text)?)
    }

    /// The same machine by token; the fingerprint does not count.
    pub fn same_token(&self, other: &Self) -> bool {
        !self.token.is_empty() && self.token == other.token
    }

    /// The same hardware. An empty fingerprint is never the same.
    pub fn same_fingerprint(&self, other: &Self) -> bool {
        !self.fingerprint.is_empty() && self.fingerprint == other.fingerprint
    }
}

/// What the fingerprint is the SHA-256 of: the raw addresses of the physical Ethernet links, each the
/// permanent one where the hardware tells it, sorted as bytes and joined. It must equal what Omni computes
/// from a real Talos on the same machine, or that Talos is taken for another machine with the same UUID.
pub fn fingerprint_input(addresses: &[[u8; 6]]) -> Vec<u8> {
    let mut sorted = addresses.to_vec();
    sorted.sort_unstable();
    sorted.concat()
}

/// Lower-case hex, as the digest is written.
pub fn hex(digest: &[u8]) -> String {
    use std::fmt::Write;
    digest.iter().fold(String::with_capacity(digest.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
