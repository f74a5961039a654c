//! What the hub tells about machines.

use std::net::IpAddr;
use std::sync::Arc;

use thiserror::Error;

/// Takes events; called where they happen, so it must not block.
pub type Observer = Arc<dyn Fn(HubEvent) + Send + Sync>;

/// Something happened to a machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HubEvent {
    /// The machine's id, its UUID. As claimed by the machine when it is about joining.
    pub machine: String,
    /// Where the machine called from, when a call caused it.
    pub peer: Option<IpAddr>,
    /// What happened.
    pub kind: HubEventKind,
}

/// What happened. Displayed it is what an operator reads.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum HubEventKind {
    /// It joined, or joined again.
    #[error("joined")]
    Joined,
    /// It must not join.
    #[error("may not join: {reason}")]
    JoinRefused {
        /// Why.
        reason: String,
    },
    /// It joined without a unique token: it is in limbo until it comes back with one.
    #[error("waits in limbo for a unique token")]
    Limbo,
    /// It was given a unique token in limbo, to come back with.
    #[error("was given a unique token")]
    TokenGiven,
    /// It is not the machine that joined with this UUID.
    #[error("another machine has this UUID: {reason}")]
    UuidConflict {
        /// What differs.
        reason: String,
    },
    /// It waits for acceptance.
    #[error("waits for acceptance")]
    Pending,
    /// The user accepted it.
    #[error("accepted")]
    Accepted,
    /// The user rejected it.
    #[error("rejected")]
    Rejected,
    /// It belongs to a cluster now.
    #[error("allocated to {cluster} with Talos {talos_version}")]
    Allocated {
        /// The cluster.
        cluster: String,
        /// The cluster's version.
        talos_version: String,
    },
    /// It is free again and must be wiped.
    #[error("released")]
    Released,
    /// Talos runs from its disk.
    #[error("Talos is installed")]
    Installed,
    /// It is gone.
    #[error("removed")]
    Removed,
}
