//! The answers of the boot path as axum wants them: for HTTP/2, and for HTTP/1 that the front leaves to hyper.

use std::sync::Arc;

use axum::body::Body as AxumBody;
use axum::extract::State;
use axum::response::Response;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE,
};
use http::{HeaderMap, Method, StatusCode, Uri};

use super::answer::{Answer, Body, Boot, Question};
use super::body::FileBody;
use super::{Peer, address};

/// Every path of the boot path.
pub(super) async fn handle(
    State(boot): State<Arc<Boot>>,
    peer: Peer,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let question = Question {
        head: method == Method::HEAD,
        path: uri.path(),
        query: uri.query().unwrap_or_default(),
        range: headers.get(RANGE).and_then(|value| value.to_str().ok()),
        peer: address(peer),
    };
    match boot.answer(question).await {
        Some(answer) => response(answer),
        None => {
            let mut response = Response::new(AxumBody::empty());
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

fn response(answer: Answer) -> Response {
    let Answer { status, kind, secret, ranges, part, length, body } = answer;
    let mut response = Response::new(match body {
        Body::None => AxumBody::empty(),
        Body::Bytes(bytes) => AxumBody::from(bytes),
        Body::File(part) => AxumBody::new(FileBody::new(part.file, part.range, part.done)),
    });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_LENGTH, length.into());
    if ranges {
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    if secret {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if let Some(part) = part {
        headers.insert(CONTENT_RANGE, part.parse().expect("digits and ASCII signs are a header value"));
    }
    response
}
