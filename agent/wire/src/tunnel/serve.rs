//! The machine's end: dials the appliance and serves the calls that come back.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::HeaderValue;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tower::{Service, ServiceExt};

use super::callee::{Callee, Request};
use super::driver::{CallEvent, LINK_QUEUE, Shared};
use super::{
    Frame, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, Limits, Metadata, NEGOTIATE_HEADER, NEGOTIATE_ON, Outcome,
    grpc,
};
use crate::grpctunnel::ServerToClient;
use crate::grpctunnel::tunnel_service_client::TunnelServiceClient;

/// How long a connection, and then the answer to the opening call, may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// A tunnel that was open has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Why.
    pub reason: String,
}

/// A tunnel did not open.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The other side said no, or is not there.
    #[error("tunnel was refused")]
    Refused(#[source] Box<tonic::Status>),
    /// No answer.
    #[error("tunnel did not open in time")]
    TimedOut,
}

/// The endpoint with the keepalive that a tunnel needs: a dead peer is noticed within 15 s.
pub fn limited(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(OPEN_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}

/// Connects without TLS, [`limited`].
pub async fn connect(uri: http::Uri) -> Result<Channel, tonic::transport::Error> {
    limited(Endpoint::from(uri)).connect().await
}

/// Opens a reverse tunnel and serves its calls until it ends. `metadata` names the machine
/// ([`super::MACHINE_ID_HEADER`]); `routes` is `tonic::service::Routes`, a generated server or an axum router.
pub async fn serve<S, B>(channel: Channel, metadata: MetadataMap, routes: S) -> Result<Ended, ServeError>
where
    S: Service<http::Request<Body>, Response = http::Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Display,
{
    serve_with(channel, metadata, routes, Limits::default(), || {}).await
}

/// As [`serve`], with other limits and a call when the tunnel is open.
pub async fn serve_with<S, B>(
    channel: Channel,
    mut metadata: MetadataMap,
    routes: S,
    limits: Limits,
    opened: impl FnOnce(),
) -> Result<Ended, ServeError>
where
    S: Service<http::Request<Body>, Response = http::Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Display,
{
    let (outbound, frames) = mpsc::channel::<Box<ServerToClient>>(LINK_QUEUE);
    metadata.insert(NEGOTIATE_HEADER, MetadataValue::from_static(NEGOTIATE_ON));
    let request = tonic::Request::from_parts(
        metadata,
        tonic::Extensions::default(),
        ReceiverStream::new(frames).map(|frame| *frame),
    );
    let mut client = TunnelServiceClient::new(channel).max_decoding_message_size(limits.max_frame());
    let response = tokio::time::timeout(OPEN_TIMEOUT, client.open_reverse_tunnel(request))
        .await
        .map_err(|_| ServeError::TimedOut)?
        .map_err(|status| ServeError::Refused(Box::new(status)))?;
    let negotiated = response.metadata().get(NEGOTIATE_HEADER).is_some_and(|value| value == NEGOTIATE_ON);
    opened();

    let shared = Arc::new(Shared::new(Callee::new(limits, negotiated)));
    let inbound = response.into_inner().map(|item| item.map(Frame::from_caller));
    let mut tasks = JoinSet::new();
    let mut running: HashMap<i64, AbortHandle> = HashMap::new();
    let outcome = shared
        .drive(
            inbound,
            outbound,
            |id, frame| frame.into_callee(id),
            |event| match event {
                CallEvent::Opened { id, method, metadata } => {
                    while tasks.try_join_next().is_some() {}
                    running.retain(|_, task| !task.is_finished());
                    let call = Call { shared: shared.clone(), id, max_message: limits.max_message };
                    running.insert(id, tasks.spawn(call.answer(routes.clone(), method, metadata)));
                }
                CallEvent::Cancelled(id) => {
                    if let Some(task) = running.remove(&id) {
                        task.abort();
                    }
                }
            },
        )
        .await;
    tasks.shutdown().await;
    let reason = if outcome.code == 0 { "closed by the other side".to_owned() } else { outcome.message };
    Ok(Ended { reason })
}

/// A call that is being served. However it ends, the caller gets an outcome.
struct Call {
    shared: Arc<Shared<Callee>>,
    id: i64,
    max_message: usize,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.close(Outcome::error(tonic::Code::Internal, "the service ended without an answer"));
        self.shared.forget(self.id);
    }
}

impl Call {
    fn close(&self, outcome: Outcome) {
        self.shared.with(|callee| callee.close(self.id, outcome));
    }

    async fn answer<S, B>(self, routes: S, method: String, metadata: Metadata)
    where
        S: Service<http::Request<Body>, Response = http::Response<B>, Error = Infallible>,
        B: http_body::Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        let timeout = metadata
            .iter()
            .rev()
            .find(|(key, _)| key == "grpc-timeout")
            .and_then(|(_, value)| grpc::timeout(value));
        let work = self.run(routes, method, metadata);
        let outcome = match timeout {
            None => work.await,
            Some(timeout) => {
                tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| Outcome::deadline_passed())
            }
        };
        self.close(outcome);
    }

    async fn run<S, B>(&self, routes: S, method: String, metadata: Metadata) -> Outcome
    where
        S: Service<http::Request<Body>, Response = http::Response<B>, Error = Infallible>,
        B: http_body::Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        let body = RequestBody { shared: self.shared.clone(), id: self.id, payload: None };
        let Ok(uri) = http::Uri::try_from(format!("/{method}")) else {
            return Outcome::error(tonic::Code::InvalidArgument, "malformed method name");
        };
        let mut request = http::Request::new(Body::new(body));
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = uri;
        *request.headers_mut() = grpc::to_headers(&metadata);
        request
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        request.headers_mut().insert(http::header::TE, HeaderValue::from_static("trailers"));

        let Ok(response) = routes.oneshot(request).await;
        let (parts, body) = response.into_parts();
        if let Some(outcome) = grpc::from_trailers(&parts.headers) {
            return outcome;
        }
        if parts.status != http::StatusCode::OK {
            return grpc::from_http(parts.status);
        }
        self.shared.with(|callee| callee.headers(self.id, grpc::to_metadata(&parts.headers)));
        self.copy(body).await
    }

    async fn copy<B>(&self, body: B) -> Outcome
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        let mut body = pin!(body);
        let mut deframer = grpc::Deframer::default();
        loop {
            match deframer.next(self.max_message) {
                Ok(Some(message)) => {
                    let sent = poll_fn(|cx| {
                        self.shared.poll_write(self.id, cx, |callee| {
                            callee.can_send(self.id).then(|| callee.send(self.id, message.clone()))
                        })
                    });
                    if sent.await.is_err() {
                        return Outcome::error(tonic::Code::Cancelled, "the caller gave up");
                    }
                    continue;
                }
                Ok(None) => {}
                Err(outcome) => return outcome,
            }
            match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => deframer.push(&data),
                    Err(frame) => {
                        if let Some(outcome) = frame.trailers_ref().and_then(grpc::from_trailers) {
                            return outcome;
                        }
                    }
                },
                Some(Err(error)) => return Outcome::error(tonic::Code::Internal, error.to_string()),
                None => return grpc::from_http(http::StatusCode::OK),
            }
        }
    }
}

/// The messages of a request as an HTTP body.
struct RequestBody {
    shared: Arc<Shared<Callee>>,
    id: i64,
    /// The message whose prefix was just handed out.
    payload: Option<Bytes>,
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, tonic::Status>>> {
        if let Some(payload) = self.payload.take() {
            return Poll::Ready(Some(Ok(http_body::Frame::data(payload))));
        }
        let id = self.id;
        let request = std::task::ready!(self.shared.poll_read(id, cx, |callee| match callee.recv(id) {
            Request::Pending => None,
            request => Some(request),
        }));
        Poll::Ready(match request {
            Request::Message(message) => {
                let prefix = grpc::prefix(&message);
                self.payload = Some(message).filter(|message| !message.is_empty());
                Some(Ok(http_body::Frame::data(prefix)))
            }
            Request::Gone => Some(Err(tonic::Status::cancelled("the caller gave up"))),
            Request::End | Request::Pending => None,
        })
    }
}
