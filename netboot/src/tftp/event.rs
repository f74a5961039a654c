//! What the server tells: events for the journal, and counters.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::name::NameError;
use super::packet::ErrorCode;
#[cfg(doc)]
use super::server::Limits;

/// What happened, for the journal. A size probe (options agreed, then ended by the client) leaves no event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first block is on its way.
    Started {
        /// The client.
        peer: SocketAddrV4,
        /// The file.
        file: Arc<str>,
    },
    /// The last block was acknowledged.
    Finished {
        /// The client.
        peer: SocketAddrV4,
        /// The file.
        file: Arc<str>,
        /// The file's length.
        bytes: u64,
        /// Since the request.
        duration: Duration,
    },
    /// The request was refused or the transfer broke off.
    Failed {
        /// The client.
        peer: SocketAddrV4,
        /// The file, or what the client called it.
        file: Arc<str>,
        /// Why.
        reason: FailReason,
        /// Since the request.
        duration: Duration,
    },
}

/// Why a transfer failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FailReason {
    /// There is no such file.
    #[error("no such file")]
    NotFound,
    /// The name is not one to look for.
    #[error("{0}")]
    Refused(NameError),
    /// The client sent no ACK for [`Limits::give_up`].
    #[error("client went silent")]
    Silent,
    /// As `Silent`, when only the ACK of the last block is missing: the client may well have everything.
    #[error("last block not acknowledged")]
    LastAckMissing,
    /// The client sent an ERROR.
    #[error("ended by client: error {code} {message:?}")]
    Aborted {
        /// Its code.
        code: ErrorCode,
        /// Its words.
        message: String,
    },
    /// The client started [`Limits::max_sessions_per_address`] newer ones.
    #[error("too many transfers to one address")]
    Crowded,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Read requests.
    pub requests: u64,
    /// Transfers acknowledged to the end.
    pub finished: u64,
    /// Transfers that broke off after data flowed, without those ended by the client.
    pub failed: u64,
    /// Transfers ended by an ERROR of the client, size probes among them.
    pub aborted: u64,
    /// Requests answered with an ERROR.
    pub refused: u64,
    /// Requests not answered because [`Limits::max_sessions`] were running.
    pub busy: u64,
    /// Datagrams that are no packet.
    pub malformed: u64,
    /// Packets of no transfer, and ACKs that were old, repeated or of nothing sent.
    pub stray: u64,
    /// Times that a deadline made us send again.
    pub timeouts: u64,
    /// Bytes of files in DATA packets, those sent again included.
    pub bytes_sent: u64,
}
