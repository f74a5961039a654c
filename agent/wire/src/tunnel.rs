//! gRPC calls inside one gRPC stream, so that the appliance can call a machine that dialed it.
//!
//! The wire is jhump/grpctunnel's, revisions zero and one (`proto/tunnel.proto`), checked against its
//! v0.3.0 as the other end in both roles. The *caller* issues calls, the *callee* serves them; in the
//! reverse direction the network client is the callee.
//!
//! ```text
//! appliance                                                   agent
//! TunnelChannel ─ caller::Caller ─┐                 ┌─ callee::Callee ─ serve() ─ tonic services
//!                      TunnelService ═ one stream ═ tonic Channel
//! ```
//!
//! [`caller`] and [`callee`] are machines without I/O: frames go in, frames and events come out. A message
//! is cut into chunks of 16 KiB; with revision one each call has its own window, so that a slow reader
//! stalls only itself. Revision zero has none: there a full inbox stops the whole tunnel from being read.

pub mod callee;
pub mod caller;
pub mod frame;

mod channel;
mod driver;
mod flow;
mod grpc;
mod pieces;
mod serve;
mod service;

use std::time::Duration;

pub use channel::TunnelChannel;
pub use frame::{Frame, Metadata};
pub use serve::{Ended, ServeError, connect, limited, serve, serve_with};
pub use service::{Opened, TunnelHandler, TunnelService};

/// Request and response header by which both sides agree that a Settings frame is sent.
pub const NEGOTIATE_HEADER: &str = "grpctunnel-negotiate";
/// Its only value.
pub const NEGOTIATE_ON: &str = "on";
/// Metadata of the opening call: the machine's SMBIOS UUID.
pub const MACHINE_ID_HEADER: &str = "machine-id";
/// Metadata of the opening call: the machine's fingerprint ([`crate::token`]); only our agent sends it.
pub const FINGERPRINT_HEADER: &str = "bootlace-fingerprint";

/// Window of a new call in bytes, as every known peer has it; [`Limits`] may have a smaller one.
pub const INITIAL_WINDOW: u32 = 65_536;
/// Longest chunk of a message, as the protocol demands.
pub const CHUNK: usize = 16_384;

/// How often an idle connection is pinged. With [`KEEPALIVE_TIMEOUT`] a dead machine is noticed within 15 s:
/// soon enough to show it, late enough for a switch that relearns its ports.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long a ping may stay unanswered.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the other side may take to send its Settings once the tunnel is open.
pub const SETTINGS_TIMEOUT: Duration = Duration::from_secs(10);

/// What a frame may have beside a chunk or headers: lengths, names, the text of an error.
const FRAME_EXTRA: usize = 4 << 10;

/// What one end of a tunnel puts up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls at the same time. A machine serves a handful; a list and a wipe may overlap.
    pub max_streams: usize,
    /// Bytes of one message, either way.
    pub max_message: usize,
    /// Bytes of the headers of a call or of an answer.
    pub max_metadata: usize,
    /// Bytes that a call may send which nobody has read yet.
    pub window: u32,
}

impl Limits {
    /// What the appliance takes from a machine that is not trusted: 1,000 tunnels that all stop within answers
    /// cost less than 64 MB (`omni-link/tests/stuck.rs`). The longest answer of an agent, a disk's record, is
    /// below 2 KiB; the longest headers, the report of a wipe, are made to fit; a dozen calls at the same time
    /// are more than a machine is ever asked.
    pub const APPLIANCE: Self =
        Self { max_streams: 16, max_message: 4 << 10, max_metadata: 3 << 10, window: 16 << 10 };

    /// The longest frame that is decoded.
    fn max_frame(self) -> usize {
        self.max_message.min(CHUNK).max(self.max_metadata) + FRAME_EXTRA
    }
}

impl Default for Limits {
    fn default() -> Self {
        // 4 MiB is what gRPC clients accept by default.
        Self { max_streams: 64, max_message: 4 << 20, max_metadata: 64 << 10, window: INITIAL_WINDOW }
    }
}

/// The peer broke the protocol, or ended: the tunnel as a whole is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// Something other than Settings came first.
    #[error("first frame is not settings")]
    NoSettings,
    /// Settings came again, or for a single call.
    #[error("settings frame out of place")]
    StraySettings,
    /// No revision in common.
    #[error("peer speaks no revision that is known here")]
    Revision,
    /// A frame for a call that never began.
    #[error("frame for call {0}, which never began")]
    UnknownStream(i64),
    /// A call id that is not above all earlier ones.
    #[error("call id {0} was already used")]
    StreamReused(i64),
}

/// The end of a call: status and trailers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// gRPC code; 0 is good.
    pub code: i32,
    /// For people.
    pub message: String,
    /// For programs.
    pub details: Vec<prost_types::Any>,
    /// Trailers other than the status.
    pub trailers: Metadata,
}

impl Outcome {
    /// An outcome that says why there is no answer.
    pub fn error(code: tonic::Code, message: impl Into<String>) -> Self {
        Self { code: code as i32, message: message.into(), ..Self::default() }
    }

    /// The call took longer than its caller waits.
    fn deadline_passed() -> Self {
        Self::error(tonic::Code::DeadlineExceeded, "deadline has passed")
    }
}

#[cfg(test)]
mod tests;
