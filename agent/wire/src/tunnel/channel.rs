//! The appliance's end: a tonic channel whose wire is a tunnel.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderValue;
use http_body::Body as _;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};
use tonic::body::Body;

use super::caller::{Caller, OpenError, Received};
use super::driver::Shared;
use super::{Limits, Outcome, grpc};

/// Issues calls to the machine at the other end. Clones share the tunnel; generated clients run over it.
///
/// Once the tunnel is over every call, also those under way, ends with `UNAVAILABLE`. A call's deadline
/// (`tonic::Request::set_timeout`) covers its whole answer. Dropping an answer cancels the call.
#[derive(Clone, Debug)]
pub struct TunnelChannel {
    shared: Arc<Shared<Caller>>,
    max_message: usize,
}

impl TunnelChannel {
    pub(super) fn new(shared: Arc<Shared<Caller>>, limits: Limits) -> Self {
        Self { shared, max_message: limits.max_message }
    }

    /// Waits for the end of the tunnel and says why it ended.
    pub async fn closed(&self) -> String {
        self.shared.ended().await.message
    }

    /// Whether the tunnel is over.
    pub fn is_closed(&self) -> bool {
        self.shared.is_ended()
    }

    /// Ends the tunnel from this side.
    pub fn close(&self, reason: &str) {
        self.shared.stop(Outcome::error(tonic::Code::Unavailable, reason));
    }

    /// Whether both are the same tunnel, not just tunnels of the same machine.
    pub fn same_tunnel(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl tower::Service<http::Request<Body>> for TunnelChannel {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let called = Instant::now();
        let (parts, body) = request.into_parts();
        let metadata = grpc::to_metadata(&parts.headers);
        let opened = self.shared.with(|caller| caller.open(parts.uri.path(), metadata));
        let id = match opened {
            Ok(id) => id,
            Err(error) => {
                let code = match error {
                    OpenError::TooMany => tonic::Code::ResourceExhausted,
                    OpenError::NotReady | OpenError::Closed(_) => tonic::Code::Unavailable,
                };
                let answer = refusal(Outcome::error(code, error.to_string()));
                return Box::pin(std::future::ready(Ok(answer)));
            }
        };
        let timeout = parts.headers.get("grpc-timeout").and_then(|value| grpc::timeout(value.to_str().ok()?));
        let answer = Answer {
            pump: tokio::spawn(pump(self.shared.clone(), id, body, self.max_message)),
            shared: self.shared.clone(),
            id,
            payload: None,
            deadline: timeout.map(|timeout| Box::pin(tokio::time::sleep_until(called + timeout))),
        };
        Box::pin(answer.headers())
    }
}

/// Sends the request's messages, each when the one before it is gone.
async fn pump(shared: Arc<Shared<Caller>>, id: i64, mut body: Body, max_message: usize) {
    let mut deframer = grpc::Deframer::default();
    loop {
        match deframer.next(max_message) {
            Ok(Some(message)) => {
                let sent = poll_fn(|cx| {
                    shared.poll_write(id, cx, |caller| {
                        caller.can_send(id).then(|| caller.send(id, message.clone()))
                    })
                });
                if sent.await.is_err() {
                    // The call is over; whoever reads the answer learns why.
                    return;
                }
                continue;
            }
            Ok(None) => {}
            Err(outcome) => return shared.with(|caller| caller.abort(id, outcome)),
        }
        match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    deframer.push(&data);
                }
            }
            Some(Err(status)) => {
                return shared.with(|caller| caller.abort(id, grpc::from_status(&status)));
            }
            None => return shared.with(|caller| caller.half_close(id)),
        }
    }
}

/// A call under way, later the body of its answer.
struct Answer {
    shared: Arc<Shared<Caller>>,
    id: i64,
    pump: JoinHandle<()>,
    /// The message whose prefix was just handed out.
    payload: Option<Bytes>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Answer {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        if let Poll::Ready(received) =
            self.shared.poll_read(self.id, cx, |caller| match caller.recv(self.id) {
                Received::Pending => None,
                received => Some(received),
            })
        {
            let late = self.deadline.as_ref().is_some_and(|deadline| deadline.deadline() <= Instant::now());
            return Poll::Ready(match received {
                Received::Over(outcome) => Received::Over(by_its_name(outcome, late)),
                received => received,
            });
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            self.deadline = None;
            let outcome = Outcome::deadline_passed();
            self.shared.with(|caller| caller.abort(self.id, outcome.clone()));
            return Poll::Ready(Received::Over(outcome));
        }
        Poll::Pending
    }

    async fn headers(mut self) -> Result<http::Response<Body>, Infallible> {
        let received = poll_fn(|cx| self.poll_recv(cx)).await;
        let metadata = match received {
            Received::Over(outcome) => return Ok(refusal(outcome)),
            Received::Headers(metadata) => metadata,
            Received::Message(message) => {
                // A peer may leave the headers out.
                self.payload = Some(message);
                Vec::new()
            }
            Received::Pending => Vec::new(),
        };
        let early = self.payload.take();
        let mut response = http::Response::new(Body::new(AnswerBody { answer: self, early, done: false }));
        *response.headers_mut() = grpc::to_headers(&metadata);
        response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC);
        Ok(response)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.pump.abort();
        self.shared.with(|caller| caller.cancel(self.id));
        self.shared.forget(self.id);
    }
}

/// A failure after the deadline is the deadline's: a peer that keeps it as well may have another name for that (the Go
/// library's is "unknown"), and its word may be read before the clock.
fn by_its_name(outcome: Outcome, late: bool) -> Outcome {
    if late && outcome.code != tonic::Code::Ok as i32 { Outcome::deadline_passed() } else { outcome }
}

struct AnswerBody {
    answer: Answer,
    /// A message that came instead of headers.
    early: Option<Bytes>,
    /// Trailers were handed out.
    done: bool,
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, tonic::Status>>> {
        if let Some(payload) = self.answer.payload.take() {
            return Poll::Ready(Some(Ok(http_body::Frame::data(payload))));
        }
        if self.done {
            return Poll::Ready(None);
        }
        let received = match self.early.take() {
            Some(message) => Received::Message(message),
            None => std::task::ready!(self.answer.poll_recv(cx)),
        };
        Poll::Ready(match received {
            Received::Message(message) => {
                let prefix = grpc::prefix(&message);
                self.answer.payload = Some(message).filter(|message| !message.is_empty());
                Some(Ok(http_body::Frame::data(prefix)))
            }
            Received::Over(outcome) => {
                self.done = true;
                Some(Ok(http_body::Frame::trailers(grpc::to_trailers(outcome))))
            }
            Received::Headers(_) | Received::Pending => {
                // The machine tells headers once, and never says Pending when it is ready.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        })
    }
}

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// An answer that is only a status.
fn refusal(outcome: Outcome) -> http::Response<Body> {
    let mut response = http::Response::new(Body::empty());
    *response.headers_mut() = grpc::to_trailers(outcome);
    response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_tells_that_the_deadline_passed_it_has_one_name() {
        let unknown = Outcome::error(tonic::Code::Unknown, "context deadline exceeded");
        assert_eq!(by_its_name(unknown.clone(), true), Outcome::deadline_passed());
        assert_eq!(by_its_name(unknown.clone(), false), unknown, "it failed in time");
        assert_eq!(by_its_name(Outcome::default(), true), Outcome::default(), "a late answer is an answer");
    }
}
