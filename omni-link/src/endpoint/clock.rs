//! Makes errors of the channel say what is wrong: the whole chain of a failed connection, and a clock that
//! is off when Omni does not take a signature.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use http::header::DATE;
use http::{HeaderMap, HeaderValue, Request, Response};
use tonic::{Code, Status};
use tower::Service;

/// Omni allows five minutes; what is worth naming is less.
const SKEW_NAMED: Duration = Duration::from_secs(60);
const GRPC_STATUS: &str = "grpc-status";
const GRPC_MESSAGE: &str = "grpc-message";

/// A channel whose errors say what is wrong.
#[derive(Debug, Clone)]
pub struct Clocked<S> {
    inner: S,
}

impl<S> Clocked<S> {
    /// Around that channel.
    pub const fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B, R> Service<Request<B>> for Clocked<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Response = Response<R>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(told)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let response = self.inner.call(request);
        Box::pin(async move {
            let mut response = response.await.map_err(told)?;
            name_skew(response.headers_mut(), SystemTime::now());
            Ok(response)
        })
    }
}

/// The innermost cause is the one that helps; tonic shows the outermost.
fn told<E: Into<Box<dyn Error + Send + Sync>>>(error: E) -> Box<dyn Error + Send + Sync> {
    let error = error.into();
    if error.is::<Status>() {
        return error;
    }
    let mut text = String::new();
    let mut cause: Option<&(dyn Error + 'static)> = Some(error.as_ref());
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&part);
        }
        cause = error.source();
    }
    Box::new(Status::unavailable(text))
}

/// A refused signature next to a clock that differs is no riddle.
fn name_skew(headers: &mut HeaderMap, now: SystemTime) {
    let unauthenticated = (Code::Unauthenticated as i32).to_string();
    if headers.get(GRPC_STATUS).is_none_or(|status| status.as_bytes() != unauthenticated.as_bytes()) {
        return;
    }
    let date = headers.get(DATE).and_then(|date| date.to_str().ok());
    let Some(theirs) = date.and_then(|date| httpdate::parse_http_date(date).ok()) else { return };
    let (skew, word) = match now.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    if skew < SKEW_NAMED {
        return;
    }
    let message = headers.get(GRPC_MESSAGE).and_then(|message| message.to_str().ok()).unwrap_or_default();
    // Spaces and letters need no escapes in this header.
    let text = format!("{message}; the clock here is {} s {word} Omni's: set it", skew.as_secs());
    if let Ok(text) = HeaderValue::try_from(text.trim_start_matches("; ")) {
        headers.insert(GRPC_MESSAGE, text);
    }
}

#[cfg(test)]
mod tests;
