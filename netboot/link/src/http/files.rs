//! The handlers that answer with files.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use netboot::journal::{Event, Step};
use netboot::tftp::Files;
use netboot_assets::AssetError;

use super::body::FileBody;
use super::range::{Wanted, wanted};
use super::{Peer, Shared, address, path};
use crate::clock::unix_ms;

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// `/tftp/<name>`: from memory.
pub(super) async fn boot_file(
    State(shared): State<Arc<Shared>>,
    peer: Peer,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let Some(name) = path::plain(uri.path(), "/tftp/") else { return not_found() };
    let Some(bytes) = shared.files.open(&name) else { return not_found() };
    let length = bytes.len() as u64;
    answer(&headers, length, |range| {
        if method == Method::HEAD {
            return Body::empty();
        }
        let step = Step::FileServed { path: name, bytes: range.end - range.start };
        (shared.sink)(Event::new(unix_ms(), step).with_address(address(peer)));
        let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        Body::from(Bytes::from_owner(bytes).slice(index(range.start)..index(range.end)))
    })
}

/// `/assets/<path>` and `/image/<schematic>/<version>/<file>`: from the asset directory, where images have
/// the same path as here.
pub(super) async fn asset(
    State(shared): State<Arc<Shared>>,
    peer: Peer,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let started = Instant::now();
    let full = uri.path();
    let name = path::plain(full, "/assets/").or_else(|| path::plain(full, "/").filter(|_| is_image(full)));
    let Some(name) = name else { return not_found() };
    let (assets, path) = (shared.assets.clone(), name.clone());
    let opened = tokio::task::spawn_blocking(move || assets.open(&path)).await;
    let (file, length) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(AssetError::NotFound)) => return not_found(),
        Ok(Err(AssetError::Io(error))) => {
            tracing::warn!(%error, path = name, "cannot open an asset");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        Err(error) => {
            tracing::warn!(%error, "the lookup of an asset did not run");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    };
    answer(&headers, length, |range| {
        if method == Method::HEAD {
            return Body::empty();
        }
        let done = move |bytes| {
            let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let step = Step::AssetServed { path: name, bytes, millis };
            (shared.sink)(Event::new(unix_ms(), step).with_address(address(peer)));
        };
        Body::new(FileBody::new(file, range, Box::new(done)))
    })
}

fn is_image(path: &str) -> bool {
    path.starts_with("/image/")
}

/// The status and headers for a whole file, a part, or a part that is not there.
fn answer(headers: &HeaderMap, length: u64, body: impl FnOnce(Range<u64>) -> Body) -> Response {
    let header = headers.get(RANGE).and_then(|value| value.to_str().ok());
    let (status, range) = match wanted(header, length) {
        Wanted::All => (StatusCode::OK, 0..length),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::Unsatisfiable => {
            let of = [(CONTENT_RANGE, format!("bytes */{length}"))];
            return (StatusCode::RANGE_NOT_SATISFIABLE, of).into_response();
        }
    };
    let mut response = Response::new(body(range.clone()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, OCTETS);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, (range.end - range.start).into());
    if status == StatusCode::PARTIAL_CONTENT {
        let text = format!("bytes {}-{}/{length}", range.start, range.end - 1);
        headers.insert(CONTENT_RANGE, text.parse().expect("digits and ASCII signs are a header value"));
    }
    response
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "no such file\n").into_response()
}
