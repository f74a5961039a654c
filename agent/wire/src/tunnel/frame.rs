//! Frames of either direction as one type, and their protobuf forms (`proto/tunnel.proto`).

use bytes::Bytes;

use super::Outcome;
use crate::grpctunnel::{
    ClientToServer, CloseStream, MessageData, Metadata as WireMetadata, NewStream, ServerToClient, Settings,
    client_to_server, metadata, server_to_client,
};
use crate::rpc;

/// Headers or trailers, in order, keys in lower case.
pub type Metadata = Vec<(String, String)>;

/// Revision without flow control.
pub const REVISION_ZERO: i32 = crate::grpctunnel::ProtocolRevision::RevisionZero as i32;
/// Revision with flow control.
pub const REVISION_ONE: i32 = crate::grpctunnel::ProtocolRevision::RevisionOne as i32;
/// Stream id of frames that mean the whole tunnel.
pub const TUNNEL: i64 = -1;

/// A frame without its stream id.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// First frame of a callee.
    Settings {
        /// Numbers of the revisions it knows.
        revisions: Vec<i32>,
        /// Bytes a new call may send.
        window: u32,
    },
    /// A caller begins a call.
    Open {
        /// package.Service/Method.
        method: String,
        /// Headers.
        metadata: Metadata,
        /// Bytes the answer may send.
        window: u32,
        /// Rules of this call.
        revision: i32,
    },
    /// A callee's headers.
    Headers(Metadata),
    /// First chunk of a message.
    Message {
        /// Bytes of the whole message.
        size: u32,
        /// The chunk.
        data: Bytes,
    },
    /// Another chunk.
    More(Bytes),
    /// The caller sends no more.
    HalfClose,
    /// The caller gave up.
    Cancel,
    /// So many bytes were consumed.
    Window(u32),
    /// The callee ends the call.
    Close(Outcome),
    /// A frame that this end does not know, or that the peer's role may not send.
    Unknown,
}

impl Frame {
    /// What a caller sent.
    pub fn from_caller(wire: ClientToServer) -> (i64, Self) {
        use client_to_server::Frame as F;
        let frame = match wire.frame {
            Some(F::NewStream(new)) => Self::Open {
                method: new.method_name,
                metadata: from_wire(new.request_headers),
                window: new.initial_window_size,
                revision: new.protocol_revision,
            },
            Some(F::RequestMessage(part)) => Self::Message { size: part.size, data: part.data },
            Some(F::MoreRequestData(data)) => Self::More(data),
            Some(F::HalfClose(())) => Self::HalfClose,
            Some(F::Cancel(())) => Self::Cancel,
            Some(F::WindowUpdate(add)) => Self::Window(add),
            None => Self::Unknown,
        };
        (wire.stream_id, frame)
    }

    /// What a callee sent.
    pub fn from_callee(wire: ServerToClient) -> (i64, Self) {
        use server_to_client::Frame as F;
        let frame = match wire.frame {
            Some(F::Settings(settings)) => Self::Settings {
                revisions: settings.supported_protocol_revisions,
                window: settings.initial_window_size,
            },
            Some(F::ResponseHeaders(metadata)) => Self::Headers(from_wire(Some(metadata))),
            Some(F::ResponseMessage(part)) => Self::Message { size: part.size, data: part.data },
            Some(F::MoreResponseData(data)) => Self::More(data),
            Some(F::CloseStream(close)) => {
                let status = close.status.unwrap_or_default();
                Self::Close(Outcome {
                    code: status.code,
                    message: status.message,
                    details: status.details,
                    trailers: from_wire(close.response_trailers),
                })
            }
            Some(F::WindowUpdate(add)) => Self::Window(add),
            None => Self::Unknown,
        };
        (wire.stream_id, frame)
    }

    /// As a caller sends it. Frames of the callee become an empty frame, which no machine here emits.
    pub fn into_caller(self, stream_id: i64) -> ClientToServer {
        use client_to_server::Frame as F;
        let frame = match self {
            Self::Open { method, metadata, window, revision } => Some(F::NewStream(NewStream {
                method_name: method,
                request_headers: Some(to_wire(metadata)),
                initial_window_size: window,
                protocol_revision: revision,
            })),
            Self::Message { size, data } => Some(F::RequestMessage(MessageData { size, data })),
            Self::More(data) => Some(F::MoreRequestData(data)),
            Self::HalfClose => Some(F::HalfClose(())),
            Self::Cancel => Some(F::Cancel(())),
            Self::Window(add) => Some(F::WindowUpdate(add)),
            Self::Settings { .. } | Self::Headers(_) | Self::Close(_) | Self::Unknown => None,
        };
        ClientToServer { stream_id, frame }
    }

    /// As a callee sends it. Frames of the caller become an empty frame, which no machine here emits.
    pub fn into_callee(self, stream_id: i64) -> ServerToClient {
        use server_to_client::Frame as F;
        let frame = match self {
            Self::Settings { revisions, window } => Some(F::Settings(Settings {
                supported_protocol_revisions: revisions,
                initial_window_size: window,
            })),
            Self::Headers(metadata) => Some(F::ResponseHeaders(to_wire(metadata))),
            Self::Message { size, data } => Some(F::ResponseMessage(MessageData { size, data })),
            Self::More(data) => Some(F::MoreResponseData(data)),
            Self::Close(Outcome { code, message, details, trailers }) => Some(F::CloseStream(CloseStream {
                response_trailers: Some(to_wire(trailers)),
                status: Some(rpc::Status { code, message, details }),
            })),
            Self::Window(add) => Some(F::WindowUpdate(add)),
            Self::Open { .. } | Self::HalfClose | Self::Cancel | Self::Unknown => None,
        };
        ServerToClient { stream_id, frame }
    }
}

/// Bytes of all keys and values.
pub(super) fn size_of(metadata: &Metadata) -> usize {
    metadata.iter().map(|(key, value)| key.len() + value.len()).sum()
}

fn from_wire(wire: Option<WireMetadata>) -> Metadata {
    let mut metadata: Metadata = wire
        .unwrap_or_default()
        .md
        .into_iter()
        .flat_map(|(key, values)| values.val.into_iter().map(move |value| (key.to_ascii_lowercase(), value)))
        .collect();
    // The wire's map has no order; ours is stable so that runs repeat. Equal keys keep theirs.
    metadata.sort_by(|a, b| a.0.cmp(&b.0));
    metadata
}

fn to_wire(metadata: Metadata) -> WireMetadata {
    let mut wire = WireMetadata::default();
    for (key, value) in metadata {
        wire.md.entry(key).or_insert_with(metadata::Values::default).val.push(value);
    }
    wire
}
