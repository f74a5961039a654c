//! Verifying calls in front of a server.

use std::fmt;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures_util::future::Either;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use tower::{Layer, Service};

use crate::verify::{INVALID_SIGNATURE, PublicKey, verify};

/// Finds the stored key with a fingerprint; called once for each request, so it must
/// not block.
pub type KeyLookup = Arc<dyn Fn(&str) -> Option<PublicKey> + Send + Sync>;

type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// gRPC's status code for a caller that is not known.
const UNAUTHENTICATED: HeaderValue = HeaderValue::from_static("16");

/// Lets only verified requests through, with their [`Identity`](crate::Identity) in the
/// request's extensions. All others are answered `Unauthenticated`, "invalid signature",
/// whatever was wrong; the reason goes to the log.
#[derive(Clone)]
pub struct VerifyLayer {
    lookup: KeyLookup,
    clock: Clock,
}

impl VerifyLayer {
    /// Verifies against the keys that `lookup` finds, by the system's clock.
    #[must_use]
    pub fn new(lookup: KeyLookup) -> Self {
        Self { lookup, clock: Arc::new(SystemTime::now) }
    }

    /// The same, by another clock.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Fn() -> SystemTime + Send + Sync>) -> Self {
        Self { clock, ..self }
    }
}

impl fmt::Debug for VerifyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyLayer").finish_non_exhaustive()
    }
}

impl<S> Layer<S> for VerifyLayer {
    type Service = Verified<S>;

    fn layer(&self, inner: S) -> Verified<S> {
        Verified { inner, layer: self.clone() }
    }
}

/// A service that sees only verified requests. Made by [`VerifyLayer`].
#[derive(Clone, Debug)]
pub struct Verified<S> {
    inner: S,
    layer: VerifyLayer,
}

impl<S, B, R> Service<Request<B>> for Verified<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<R>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let method = request.uri().path();
        let now = (self.layer.clock)();
        match verify(request.headers(), method, now, &*self.layer.lookup) {
            Ok(identity) => {
                request.extensions_mut().insert(identity);
                Either::Left(self.inner.call(request))
            }
            Err(reason) => {
                tracing::debug!(method, %reason, "call refused");
                Either::Right(ready(Ok(refusal())))
            }
        }
    }
}

/// An answer of gRPC that is over with its headers.
fn refusal<R: Default>() -> Response<R> {
    let mut response = Response::new(R::default());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", UNAUTHENTICATED);
    headers.insert("grpc-message", HeaderValue::from_static(INVALID_SIGNATURE));
    response
}
