//! `cosi.resource.State` over an inventory: Get, List and Watch; nothing can be written.
//!
//! Refusals are those of Talos: a type or namespace that is not served is "not supported", writing is not
//! allowed.

mod watch;

use std::pin::Pin;
use std::sync::Arc;

use cosi_wire::resource::label_term::Operation;
use cosi_wire::resource::state_server::{State, StateServer};
use cosi_wire::resource::{
    CreateRequest, CreateResponse, DestroyRequest, DestroyResponse, GetRequest, GetResponse, LabelQuery,
    ListRequest, ListResponse, Metadata, Resource, Spec, TeardownAndDestroyRequest,
    TeardownAndDestroyResponse, TeardownRequest, TeardownResponse, UpdateRequest, UpdateResponse,
    WatchRequest, WatchResponse,
};
use futures_util::Stream;
use tonic::{Request, Response, Status};

use super::registry::{Registry, Snapshot, Stored};
use super::{Source, definitions};

/// Terms of all label queries of a call; no client sends more than a handful.
const MAX_TERMS: usize = 64;
/// Where the types are, which are known without reading the machine.
const META: &str = "meta";

/// Serves an inventory.
#[derive(Debug)]
pub struct Inventory<S> {
    registry: Arc<Registry<S>>,
}

impl<S: Source> Inventory<S> {
    /// The service, for `tonic::service::Routes`.
    pub fn server(source: Arc<S>) -> StateServer<Self> {
        Self::over(Arc::new(Registry::new(source)))
    }

    /// The service over a registry that others use, too.
    pub fn over(registry: Arc<Registry<S>>) -> StateServer<Self> {
        StateServer::new(Self { registry })
    }

    async fn snapshot(&self, namespace: &str, typ: &str) -> Result<Arc<Snapshot>, Status> {
        supported(namespace, typ)?;
        Ok(if namespace == META { self.registry.known().0 } else { self.registry.refreshed().await?.0 })
    }
}

fn supported(namespace: &str, typ: &str) -> Result<(), Status> {
    if !definitions::is_type(typ) {
        return Err(Status::permission_denied(format!("resource type {typ:?} is not supported")));
    }
    if !definitions::is_namespace(namespace) {
        return Err(Status::permission_denied(format!("namespace {namespace:?} is not supported")));
    }
    Ok(())
}

/// Whether the queries let resources through; none here has a label. Any one query is enough, all of its terms
/// must hold.
fn queries_match(queries: &[LabelQuery]) -> Result<bool, Status> {
    if queries.iter().map(|query| query.terms.len()).sum::<usize>() > MAX_TERMS {
        return Err(Status::invalid_argument(format!("more than {MAX_TERMS} label terms")));
    }
    let holds = |query: &LabelQuery| {
        query.terms.iter().all(|term| (term.op() == Operation::NotExists) != term.invert)
    };
    Ok(queries.is_empty() || queries.iter().any(holds))
}

fn resource(stored: &Stored) -> Resource {
    let item = &stored.item;
    Resource {
        metadata: Some(Metadata {
            namespace: item.namespace.to_owned(),
            r#type: item.kind.to_owned(),
            id: item.id.clone(),
            version: stored.version.to_string(),
            phase: "running".to_owned(),
            created: Some(stored.created.into()),
            updated: Some(stored.updated.into()),
            ..Metadata::default()
        }),
        spec: Some(Spec { proto_spec: item.spec.clone().into(), yaml_spec: item.shown.text() }),
    }
}

fn not_found(namespace: &str, typ: &str, id: &str) -> Status {
    Status::not_found(format!("resource {typ}({namespace}/{id}) doesn't exist"))
}

fn read_only<T>() -> Result<T, Status> {
    Err(Status::permission_denied("write access is not allowed"))
}

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl<S: Source> State for Inventory<S> {
    type ListStream = Out<ListResponse>;
    type WatchStream = Out<WatchResponse>;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let GetRequest { namespace, r#type: typ, id, .. } = request.into_inner();
        let snapshot = self.snapshot(&namespace, &typ).await?;
        let found = snapshot.of(&namespace, &typ).get(id.as_str()).map(|stored| resource(stored));
        match found {
            Some(found) => Ok(Response::new(GetResponse { resource: Some(found) })),
            None => Err(not_found(&namespace, &typ, &id)),
        }
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let ListRequest { namespace, r#type: typ, options } = request.into_inner();
        let options = options.unwrap_or_default();
        if options.id_query.is_some() {
            return Err(Status::unimplemented("id queries are not implemented"));
        }
        let matches = queries_match(&options.label_query)?;
        let snapshot = self.snapshot(&namespace, &typ).await?;
        let found: Vec<Arc<Stored>> =
            if matches { snapshot.of(&namespace, &typ).into_values().cloned().collect() } else { Vec::new() };
        // Made into messages one by one, as fast as they are read.
        let found = found.into_iter().map(|stored| Ok(ListResponse { resource: Some(resource(&stored)) }));
        Ok(Response::new(Box::pin(futures_util::stream::iter(found))))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        supported(&request.namespace, &request.r#type)?;
        let permit = self.registry.watches.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Status::resource_exhausted("too many watches"))?;
        let stream = watch::start(self.registry.clone(), request, permit).await?;
        Ok(Response::new(Box::pin(stream)))
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

#[cfg(test)]
mod tests;
