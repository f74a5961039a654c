//! Between HTTP as tonic speaks it and the tunnel's frames: length prefixes, headers, status.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use std::time::Duration;

use super::{Metadata, Outcome};
use crate::rpc;

/// Flag byte and big-endian length before each message of a gRPC body.
const PREFIX: usize = 5;
/// Headers that belong to HTTP/2 or to gRPC's own framing and mean nothing inside the tunnel.
const HOP_HEADERS: [&str; 12] = [
    "connection",
    "content-length",
    "content-type",
    "date",
    "grpc-accept-encoding",
    "grpc-encoding",
    "grpc-message",
    "grpc-status",
    "grpc-status-details-bin",
    "host",
    "te",
    "transfer-encoding",
];

/// Cuts a gRPC body into messages.
#[derive(Debug, Default)]
pub(super) struct Deframer {
    buffer: BytesMut,
}

impl Deframer {
    pub(super) fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    pub(super) fn next(&mut self, max_message: usize) -> Result<Option<Bytes>, Outcome> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX>() else { return Ok(None) };
        if prefix[0] != 0 {
            return Err(Outcome::error(
                tonic::Code::Unimplemented,
                "compressed messages do not go through a tunnel",
            ));
        }
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if length > max_message {
            return Err(Outcome::error(
                tonic::Code::ResourceExhausted,
                format!("message of {length} bytes is over the limit of {max_message}"),
            ));
        }
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

/// The prefix of a message in a gRPC body.
pub(super) fn prefix(message: &Bytes) -> Bytes {
    let length = u32::try_from(message.len()).expect("messages are limited far below 4 GiB");
    let mut prefix = vec![0];
    prefix.extend_from_slice(&length.to_be_bytes());
    prefix.into()
}

/// Headers or trailers as the tunnel carries them. Values that are not text stay behind.
pub(super) fn to_metadata(headers: &HeaderMap) -> Metadata {
    headers
        .iter()
        .filter(|(name, _)| !HOP_HEADERS.contains(&name.as_str()))
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
        .collect()
}

/// The other way. Keys and values that HTTP cannot carry stay behind.
pub(super) fn to_headers(metadata: &Metadata) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (key, value) in metadata {
        if HOP_HEADERS.contains(&key.as_str()) {
            continue;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
    headers
}

/// The outcome as HTTP trailers.
pub(super) fn to_trailers(outcome: Outcome) -> HeaderMap {
    let mut trailers = to_headers(&outcome.trailers);
    let details = if outcome.details.is_empty() {
        Vec::new()
    } else {
        rpc::Status { code: outcome.code, message: outcome.message.clone(), details: outcome.details }
            .encode_to_vec()
    };
    let status = tonic::Status::with_details(
        tonic::Code::from_i32(outcome.code),
        outcome.message,
        Bytes::from(details),
    );
    if status.add_header(&mut trailers).is_err() {
        // A message that cannot be a header: the code alone.
        trailers.insert("grpc-status", HeaderValue::from(outcome.code.clamp(0, i32::from(u8::MAX))));
    }
    trailers
}

/// The outcome in HTTP trailers or, for an answer without body, in the headers.
pub(super) fn from_trailers(headers: &HeaderMap) -> Option<Outcome> {
    let status = tonic::Status::from_header_map(headers)?;
    Some(Outcome { trailers: to_metadata(headers), ..from_status(&status) })
}

/// The outcome that a status means.
pub(super) fn from_status(status: &tonic::Status) -> Outcome {
    let details = rpc::Status::decode(status.details()).map(|inner| inner.details).unwrap_or_default();
    Outcome {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details,
        trailers: to_metadata(&status.metadata().clone().into_headers()),
    }
}

/// What an answer without gRPC status means, by gRPC's rule for HTTP codes.
pub(super) fn from_http(code: http::StatusCode) -> Outcome {
    let grpc = match code.as_u16() {
        200 => return Outcome::error(tonic::Code::Internal, "answer ended without a status"),
        400 => tonic::Code::Internal,
        401 => tonic::Code::Unauthenticated,
        403 => tonic::Code::PermissionDenied,
        404 => tonic::Code::Unimplemented,
        429 | 502 | 503 | 504 => tonic::Code::Unavailable,
        _ => tonic::Code::Unknown,
    };
    Outcome::error(grpc, format!("answered with HTTP status {}", code.as_u16()))
}

/// The deadline in a `grpc-timeout` value; `None` when there is none that can be read.
pub(super) fn timeout(value: &str) -> Option<Duration> {
    // At most eight digits, says gRPC; with that no multiplication overflows.
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}
