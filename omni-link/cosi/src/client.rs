//! A [`State`] that is a `cosi.resource.State` service elsewhere.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use cosi_wire::resource as wire;
use futures_util::StreamExt;
use futures_util::stream;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Streaming;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::StdError;
use tonic::transport::{Channel, Endpoint, Uri};
use wire::state_client::StateClient;

use crate::error::Call;
use crate::wire as convert;
use crate::{
    Event, EventStream, Kind, ListOptions, MAX_MESSAGE_BYTES, Pointer, Resource, State, StateError,
    UpdateOptions, WatchOptions, WatchTarget,
};

/// The client. `T` is a tonic channel, or any service that carries gRPC, such as a channel behind an
/// interceptor that signs.
#[derive(Debug, Clone)]
pub struct GrpcState<T = Channel> {
    client: StateClient<T>,
}

/// Why [`GrpcState::connect_unix`] did not connect.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to the socket {path}")]
pub struct ConnectError {
    path: PathBuf,
    #[source]
    source: tonic::transport::Error,
}

impl GrpcState {
    /// Connects to a service on a unix socket. Reconnects by itself when the service starts anew.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect_unix(path: impl AsRef<Path>) -> Result<Self, ConnectError> {
        channel_unix(path).await.map(Self::new)
    }
}

/// A channel to a server on a unix socket. Reconnects by itself when the server starts anew.
///
/// # Errors
/// Nobody listens there.
pub async fn channel_unix(path: impl AsRef<Path>) -> Result<Channel, ConnectError> {
    let path = path.as_ref().to_path_buf();
    let socket = path.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The address is a form: the connector knows the path.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError { path, source })
}

impl<T> GrpcState<T>
where
    T: GrpcService<Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<StdError> + Send,
{
    /// A client over that channel.
    pub fn new(channel: T) -> Self {
        let client = StateClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self { client }
    }
}

#[async_trait]
impl<T> State for GrpcState<T>
where
    T: GrpcService<Body> + Clone + Send + Sync + 'static,
    T::Future: Send,
    T::Error: Into<StdError>,
    T::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<StdError> + Send,
{
    async fn get(&self, pointer: &Pointer) -> Result<Resource, StateError> {
        let Pointer { namespace, typ, id } = pointer.clone();
        let request =
            wire::GetRequest { namespace, r#type: typ, id, options: Some(wire::GetOptions::default()) };
        let answer = self.client.clone().get(request).await;
        let answer = answer.map_err(|status| StateError::from_status(Call::Read, &status))?;
        convert::required(answer.into_inner().resource)
    }

    async fn list(&self, kind: &Kind, options: &ListOptions) -> Result<Vec<Resource>, StateError> {
        let Kind { namespace, typ } = kind.clone();
        let options = wire::ListOptions {
            label_query: convert::queries_to_wire(&options.label_queries),
            id_query: convert::id_query_to_wire(options.id_query.as_deref()),
        };
        let request = wire::ListRequest { namespace, r#type: typ, options: Some(options) };
        let failed = |status| StateError::from_status(Call::Read, &status);
        let mut answers = self.client.clone().list(request).await.map_err(failed)?.into_inner();
        let mut resources = Vec::new();
        while let Some(answer) = answers.message().await.map_err(failed)? {
            resources.push(convert::required(answer.resource)?);
        }
        Ok(resources)
    }

    async fn create(&self, resource: Resource, owner: &str) -> Result<Resource, StateError> {
        let request = wire::CreateRequest {
            resource: Some(resource.into()),
            options: Some(wire::CreateOptions { owner: owner.to_owned() }),
        };
        let answer = self.client.clone().create(request).await;
        let answer = answer.map_err(|status| StateError::from_status(Call::Create, &status))?;
        convert::required(answer.into_inner().resource)
    }

    async fn update(&self, resource: Resource, options: &UpdateOptions) -> Result<Resource, StateError> {
        let request = wire::UpdateRequest {
            new_resource: Some(resource.into()),
            options: Some(wire::UpdateOptions {
                owner: options.owner.clone(),
                expected_phase: options.expected_phase.map(|phase| phase.to_string()),
            }),
        };
        let answer = self.client.clone().update(request).await;
        let answer = answer.map_err(|status| StateError::from_status(Call::Update, &status))?;
        convert::required(answer.into_inner().resource)
    }

    async fn destroy(&self, pointer: &Pointer, owner: &str) -> Result<(), StateError> {
        let Pointer { namespace, typ, id } = pointer.clone();
        let options = Some(wire::DestroyOptions { owner: owner.to_owned() });
        let request = wire::DestroyRequest { namespace, r#type: typ, id, options };
        let answer = self.client.clone().destroy(request).await;
        answer.map(|_| ()).map_err(|status| StateError::from_status(Call::Destroy, &status))
    }

    /// Falls back to get and update with a server that is too old for the call.
    async fn teardown(&self, pointer: &Pointer, owner: &str) -> Result<bool, StateError> {
        let Pointer { namespace, typ, id } = pointer.clone();
        let options = Some(wire::TeardownOptions { owner: owner.to_owned() });
        let request = wire::TeardownRequest { namespace, r#type: typ, id, options };
        match self.client.clone().teardown(request).await {
            Ok(answer) => Ok(answer.into_inner().destroy_ready),
            Err(status) if status.code() == tonic::Code::Unimplemented => {
                crate::modify::teardown_by_update(self, pointer, owner).await
            }
            Err(status) => Err(StateError::from_status(Call::Update, &status)),
        }
    }

    async fn watch(&self, target: &WatchTarget, options: &WatchOptions) -> Result<EventStream, StateError> {
        let failed = |status| StateError::from_status(Call::Watch, &status);
        let request = watch_request(target, options);
        let mut messages = self.client.clone().watch(request).await.map_err(failed)?.into_inner();
        // The first message is empty: the watch stands. Errors of the options come in its place.
        if messages.message().await.map_err(failed)?.is_none() {
            return Err(StateError::Unavailable("the watch ended before it stood".to_owned()));
        }
        let kind = target.kind.clone();
        let batches = stream::unfold(Some(messages), move |messages| next_batch(kind.clone(), messages));
        Ok(batches.boxed())
    }
}

fn watch_request(target: &WatchTarget, options: &WatchOptions) -> wire::WatchRequest {
    wire::WatchRequest {
        namespace: target.kind.namespace.clone(),
        r#type: target.kind.typ.clone(),
        id: target.id.clone(),
        options: Some(wire::WatchOptions {
            bootstrap_contents: options.bootstrap_contents,
            tail_events: 0,
            label_query: convert::queries_to_wire(&options.label_queries),
            id_query: convert::id_query_to_wire(options.id_query.as_deref()),
            aggregated: options.aggregated,
            start_from_bookmark: options.start_from_bookmark.clone(),
            bootstrap_bookmark: options.bootstrap_bookmark,
        }),
        api_version: 1,
    }
}

type Messages = Streaming<wire::WatchResponse>;
type Batch = Result<Vec<Event>, StateError>;

/// The next message that holds events; nothing more after an error.
async fn next_batch(kind: Kind, messages: Option<Messages>) -> Option<(Batch, Option<Messages>)> {
    let mut messages = messages?;
    loop {
        let message = match messages.message().await {
            Ok(message) => message?,
            Err(status) => return Some((Err(StateError::from_status(Call::Watch, &status)), None)),
        };
        let mut events = Vec::with_capacity(message.event.len());
        for event in message.event {
            match convert::event_from_wire(&kind, event) {
                Ok(event) => events.extend(event),
                Err(error) => return Some((Err(error), None)),
            }
        }
        if !events.is_empty() {
            return Some((Ok(events), Some(messages)));
        }
    }
}
