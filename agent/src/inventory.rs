//! What the machine is made of, in Talos' resource types, read-only through `cosi.resource.State`.
//!
//! Everything comes from `/sys`: nothing is guessed. It is read anew for each call, since disks and cables
//! come and go.

pub mod collect;

use std::pin::Pin;
use std::sync::Arc;

use cosi_wire::resource::state_server::{State, StateServer};
use cosi_wire::resource::{
    CreateRequest, CreateResponse, DestroyRequest, DestroyResponse, GetRequest, GetResponse, ListRequest,
    ListResponse, Metadata, Resource, Spec, TeardownAndDestroyRequest, TeardownAndDestroyResponse,
    TeardownRequest, TeardownResponse, UpdateRequest, UpdateResponse, WatchRequest, WatchResponse,
};
use futures_util::Stream;
use tonic::{Request, Response, Status};

/// A resource of the inventory.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Namespace.
    pub namespace: &'static str,
    /// Type.
    pub kind: &'static str,
    /// Id, unique within its type.
    pub id: String,
    /// The spec, encoded.
    pub spec: Vec<u8>,
}

/// Where an inventory comes from: the machine, or a test.
pub trait Source: Send + Sync + 'static {
    /// All resources, as they are now.
    fn items(&self) -> Vec<Item>;
}

impl<F: Fn() -> Vec<Item> + Send + Sync + 'static> Source for F {
    fn items(&self) -> Vec<Item> {
        self()
    }
}

/// Serves an inventory.
#[derive(Debug)]
pub struct Inventory<S> {
    source: Arc<S>,
}

impl<S: Source> Inventory<S> {
    /// The service, for `tonic::service::Routes`.
    pub fn server(source: Arc<S>) -> StateServer<Self> {
        StateServer::new(Self { source })
    }

    async fn items(&self) -> Result<Vec<Item>, Status> {
        let source = self.source.clone();
        // A disk that does not answer delays its attributes; the tunnel goes on meanwhile.
        tokio::task::spawn_blocking(move || source.items())
            .await
            .map_err(|_| Status::internal("the inventory cannot be read"))
    }
}

fn resource(item: Item) -> Resource {
    Resource {
        metadata: Some(Metadata {
            namespace: item.namespace.to_owned(),
            r#type: item.kind.to_owned(),
            id: item.id,
            version: "1".to_owned(),
            phase: "running".to_owned(),
            ..Metadata::default()
        }),
        spec: Some(Spec { proto_spec: item.spec.into(), yaml_spec: String::new() }),
    }
}

fn read_only<T>() -> Result<T, Status> {
    Err(Status::permission_denied("the inventory is read-only"))
}

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl<S: Source> State for Inventory<S> {
    type ListStream = Out<ListResponse>;
    type WatchStream = Out<WatchResponse>;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let wanted = request.into_inner();
        let found = self.items().await?.into_iter().find(|item| {
            (item.namespace, item.kind, &item.id) == (&wanted.namespace, &wanted.r#type, &wanted.id)
        });
        match found {
            Some(item) => Ok(Response::new(GetResponse { resource: Some(resource(item)) })),
            None => {
                Err(Status::not_found(format!("no {}/{} {}", wanted.namespace, wanted.r#type, wanted.id)))
            }
        }
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let wanted = request.into_inner();
        let found: Vec<_> = self
            .items()
            .await?
            .into_iter()
            .filter(|item| item.namespace == wanted.namespace && item.kind == wanted.r#type)
            .map(|item| Ok(ListResponse { resource: Some(resource(item)) }))
            .collect();
        Ok(Response::new(Box::pin(futures_util::stream::iter(found))))
    }

    async fn watch(&self, _request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("the inventory does not tell changes: list it again"))
    }

    async fn create(&self, _request: Request<CreateRequest>) -> Result<Response<CreateResponse>, Status> {
        read_only()
    }

    async fn update(&self, _request: Request<UpdateRequest>) -> Result<Response<UpdateResponse>, Status> {
        read_only()
    }

    async fn destroy(&self, _request: Request<DestroyRequest>) -> Result<Response<DestroyResponse>, Status> {
        read_only()
    }

    async fn teardown(
        &self,
        _request: Request<TeardownRequest>,
    ) -> Result<Response<TeardownResponse>, Status> {
        read_only()
    }

    async fn teardown_and_destroy(
        &self,
        _request: Request<TeardownAndDestroyRequest>,
    ) -> Result<Response<TeardownAndDestroyResponse>, Status> {
        read_only()
    }
}
