//! Signing the calls of a client.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use http::Request;
use tower::{Layer, Service};

use crate::ServiceAccountKey;

/// Signs every call that goes through, or none when there is no key.
///
/// To be put around a tonic `Channel`; the path of the request is the method.
#[derive(Clone, Debug, Default)]
pub struct SigningLayer {
    key: Option<Arc<ServiceAccountKey>>,
}

impl SigningLayer {
    /// Signs with this key; without one, requests pass as they are.
    #[must_use]
    pub const fn new(key: Option<Arc<ServiceAccountKey>>) -> Self {
        Self { key }
    }
}

impl<S> Layer<S> for SigningLayer {
    type Service = Signed<S>;

    fn layer(&self, inner: S) -> Signed<S> {
        Signed::new(inner, self.key.clone())
    }
}

/// A service whose requests are signed. Made by [`SigningLayer`].
#[derive(Clone)]
pub struct Signed<S> {
    inner: S,
    key: Option<Arc<ServiceAccountKey>>,
}

impl<S> Signed<S> {
    /// Signs what goes to `inner` with this key; without one, requests pass as they are.
    pub const fn new(inner: S, key: Option<Arc<ServiceAccountKey>>) -> Self {
        Self { inner, key }
    }
}

impl<S> fmt::Debug for Signed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed").field("key", &self.key).finish_non_exhaustive()
    }
}

impl<S, B> Service<Request<B>> for Signed<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if let Some(key) = &self.key {
            let now = SystemTime::now();
            let signed = key.sign_request(now, request.uri().path(), request.headers());
            signed.apply(request.headers_mut());
        }
        self.inner.call(request)
    }
}
