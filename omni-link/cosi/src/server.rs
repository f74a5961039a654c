//! Any [`State`] as a `cosi.resource.State` service.

use cosi_wire::resource as wire;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};
use wire::state_server::StateServer;

use crate::wire as convert;
use crate::{
    Event, EventStream, EventType, Kind, ListOptions, MAX_MESSAGE_BYTES, State, StateError, UpdateOptions,
    WatchOptions, WatchTarget,
};

/// The service over a state.
#[derive(Debug, Clone)]
pub struct StateService<S> {
    state: S,
}

impl<S: State + 'static> StateService<S> {
    /// The service over `state`, which may be an `Arc<dyn State>`.
    pub fn new(state: S) -> Self {
        Self { state }
    }

    /// As a tonic server, with the message limits set. Takes gzip, which Go clients send.
    pub fn into_server(self) -> StateServer<Self> {
        StateServer::new(self)
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl<S: State + 'static> wire::state_server::State for StateService<S> {
    type ListStream = BoxStream<'static, Result<wire::ListResponse, Status>>;
    type WatchStream = BoxStream<'static, Result<wire::WatchResponse, Status>>;

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::GetResponse>, Status> {
        let request = request.into_inner();
        let pointer = convert::pointer(request.namespace, request.r#type, request.id);
        let resource = self.state.get(&pointer).await?;
        Ok(Response::new(wire::GetResponse { resource: Some(resource.into()) }))
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let request = request.into_inner();
        let options = request.options.unwrap_or_default();
        let options = ListOptions {
            label_queries: convert::queries_from_wire(options.label_query)?,
            id_query: convert::id_query_from_wire(options.id_query),
        };
        let resources = self.state.list(&Kind::new(request.namespace, request.r#type), &options).await?;
        let answers =
            resources.into_iter().map(|resource| Ok(wire::ListResponse { resource: Some(resource.into()) }));
        Ok(Response::new(stream::iter(answers).boxed()))
    }

    async fn create(
        &self,
        request: Request<wire::CreateRequest>,
    ) -> Result<Response<wire::CreateResponse>, Status> {
        let request = request.into_inner();
        let owner = request.options.unwrap_or_default().owner;
        let resource = convert::required(request.resource)?;
        let stored = self.state.create(resource, &owner).await?;
        Ok(Response::new(wire::CreateResponse { resource: Some(stored.into()) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateRequest>,
    ) -> Result<Response<wire::UpdateResponse>, Status> {
        let request = request.into_inner();
        let options = request.options.unwrap_or_default();
        let expected_phase = match options.expected_phase {
            None => None,
            Some(word) => {
                Some(word.parse().map_err(|error| StateError::InvalidArgument(format!("{error}")))?)
            }
        };
        let options = UpdateOptions { owner: options.owner, expected_phase };
        let resource = convert::required(request.new_resource)?;
        let stored = self.state.update(resource, &options).await?;
        Ok(Response::new(wire::UpdateResponse { resource: Some(stored.into()) }))
    }

    async fn destroy(
        &self,
        request: Request<wire::DestroyRequest>,
    ) -> Result<Response<wire::DestroyResponse>, Status> {
        let request = request.into_inner();
        let pointer = convert::pointer(request.namespace, request.r#type, request.id);
        self.state.destroy(&pointer, &request.options.unwrap_or_default().owner).await?;
        Ok(Response::new(wire::DestroyResponse {}))
    }

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let options = request.options.unwrap_or_default();
        if options.tail_events > 0 {
            return Err(Status::unknown("tail events are not supported"));
        }
        let target = WatchTarget { kind: Kind::new(request.namespace, request.r#type), id: request.id };
        let options = WatchOptions {
            bootstrap_contents: options.bootstrap_contents,
            bootstrap_bookmark: options.bootstrap_bookmark,
            start_from_bookmark: options.start_from_bookmark,
            label_queries: convert::queries_from_wire(options.label_query)?,
            id_query: convert::id_query_from_wire(options.id_query),
            aggregated: options.aggregated,
        };
        let events = self.state.watch(&target, &options).await?;
        // The watch stands from here on, which the empty message says.
        let ready = stream::iter([Ok(wire::WatchResponse::default())]);
        Ok(Response::new(ready.chain(messages(request.api_version, events)).boxed()))
    }

    async fn teardown(
        &self,
        request: Request<wire::TeardownRequest>,
    ) -> Result<Response<wire::TeardownResponse>, Status> {
        let request = request.into_inner();
        let pointer = convert::pointer(request.namespace, request.r#type, request.id);
        let owner = request.options.unwrap_or_default().owner;
        let destroy_ready = self.state.teardown(&pointer, &owner).await?;
        Ok(Response::new(wire::TeardownResponse { destroy_ready }))
    }

    async fn teardown_and_destroy(
        &self,
        request: Request<wire::TeardownAndDestroyRequest>,
    ) -> Result<Response<wire::TeardownAndDestroyResponse>, Status> {
        let request = request.into_inner();
        let pointer = convert::pointer(request.namespace, request.r#type, request.id);
        let owner = request.options.unwrap_or_default().owner;
        crate::teardown_and_destroy(&self.state, &pointer, &owner).await?;
        Ok(Response::new(wire::TeardownAndDestroyResponse {}))
    }
}

/// The events as messages. A client that does not know `Errored` gets the end as a status instead.
fn messages(
    api_version: i32,
    events: EventStream,
) -> impl futures_util::Stream<Item = Result<wire::WatchResponse, Status>> + Send + 'static {
    events.map_err(Status::from).try_filter_map(move |batch| {
        let message = message(api_version, batch);
        async move { message }
    })
}

fn message(api_version: i32, batch: Vec<Event>) -> Result<Option<wire::WatchResponse>, Status> {
    let mut event = Vec::with_capacity(batch.len());
    for one in batch {
        if api_version < 1 && one.typ == EventType::Errored {
            return Err(Status::unavailable(one.error.unwrap_or_default()));
        }
        event.extend(convert::event_to_wire(api_version, one));
    }
    Ok((!event.is_empty()).then_some(wire::WatchResponse { event }))
}
