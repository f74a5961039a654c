//! Whether an agent that says it is a machine is believed.
//!
//! A second machine with the same UUID must never be wiped instead of the first. Every machine joined with a
//! unique token that contains a fingerprint of its network hardware; an agent of another fingerprint runs on
//! another machine.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::view::MachineView;

/// The JSON of a node unique token.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct UniqueToken {
    /// Hex SHA-256 over the sorted addresses of the physical links.
    #[serde(rename = "Fingerprint")]
    pub fingerprint: String,
    /// Random, made when the machine first joined.
    #[serde(rename = "Token")]
    pub token: String,
}

/// A node unique token that is none.
#[derive(Debug, Error)]
#[error("node unique token is not the JSON that it should be")]
pub struct UniqueTokenError(#[source] serde_json::Error);

impl UniqueToken {
    /// Reads the JSON.
    ///
    /// # Errors
    /// When it is not a token.
    pub fn parse(text: &str) -> Result<Self, UniqueTokenError> {
        serde_json::from_str(text).map_err(UniqueTokenError)
    }

    /// Writes the JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("two strings always serialize")
    }

    /// Made by the same hardware.
    #[must_use]
    pub fn same_fingerprint(&self, fingerprint: &str) -> bool {
        !self.fingerprint.is_empty() && self.fingerprint.eq_ignore_ascii_case(fingerprint)
    }
}

/// What an agent says when it opens a tunnel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TunnelClaim {
    /// Of the machine that it runs on; the agent of other builders sends none.
    pub fingerprint: Option<String>,
    /// Where it comes from.
    pub peer: IpAddr,
}

/// Whether a tunnel is taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Admission {
    /// It is.
    Admit,
    /// It is not.
    Refuse(Refusal),
}

/// Why a tunnel is refused.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Refusal {
    /// Other hardware.
    #[error("another machine with the same UUID: its fingerprint is {claimed}, the machine's is {known}")]
    OtherFingerprint {
        /// What the agent sent.
        claimed: String,
        /// What the machine joined with.
        known: String,
    },
    /// No proof, but proof is demanded.
    #[error("the agent does not tell its fingerprint")]
    NoFingerprint,
    /// No proof, and another agent is here already.
    #[error("another agent with the same UUID is connected from {connected}")]
    OtherPeer {
        /// Where the present tunnel comes from.
        connected: IpAddr,
    },
    /// The token cannot be read, so nothing can be compared.
    #[error("the machine's unique token cannot be read")]
    UnreadableToken,
}

/// Whether the agent's tunnel is taken.
#[must_use]
pub fn tunnel_admission(view: &MachineView, claim: &TunnelClaim) -> Admission {
    match admit(view, claim) {
        Ok(()) => Admission::Admit,
        Err(refusal) => Admission::Refuse(refusal),
    }
}

fn admit(view: &MachineView, claim: &TunnelClaim) -> Result<(), Refusal> {
    let token = view.machine.as_ref().map_or("", |machine| machine.spec.node_unique_token.as_str());
    let known = match token {
        "" => None,
        text => Some(UniqueToken::parse(text).map_err(|_| Refusal::UnreadableToken)?.fingerprint),
    };
    match (claim.fingerprint.as_deref().filter(|text| !text.is_empty()), known) {
        (Some(claimed), Some(known)) if !claimed.eq_ignore_ascii_case(&known) => {
            Err(Refusal::OtherFingerprint { claimed: claimed.to_owned(), known })
        }
        (Some(_), _) => Ok(()),
        (None, _) if view.policy.fingerprint_required => Err(Refusal::NoFingerprint),
        (None, _) => match view.agent_peer {
            Some(connected) if connected != claim.peer => Err(Refusal::OtherPeer { connected }),
            Some(_) | None => Ok(()),
        },
    }
}
