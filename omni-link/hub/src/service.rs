//! The machine API as gRPC services.

use std::net::{IpAddr, SocketAddr};

use agent_wire::events::event_sink_service_server::{EventSinkService, EventSinkServiceServer};
use agent_wire::events::{EventRequest, EventResponse};
use agent_wire::link::provision_service_server::{ProvisionService, ProvisionServiceServer};
use agent_wire::link::{ProvisionRequest, ProvisionResponse};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::Hub;
use crate::limits::MAX_MESSAGE;

struct MachineApi(Hub);

pub(crate) fn routes(hub: Hub) -> Routes {
    let provision = ProvisionServiceServer::new(MachineApi(hub.clone()))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let routes = Routes::new(provision);
    match &hub.wireguard {
        Some(wireguard) => wireguard.add_to(routes),
        None => routes.add_service(events(hub)),
    }
}

/// The event sink alone, for inside the tunnel.
pub(crate) fn event_routes(hub: Hub) -> Routes {
    Routes::new(events(hub))
}

fn events(hub: Hub) -> EventSinkServiceServer<MachineApi> {
    EventSinkServiceServer::new(MachineApi(hub))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

/// Where the call comes from, under tonic's server as well as under axum's.
fn peer<T>(request: &Request<T>) -> Option<IpAddr> {
    let axum = || {
        let info = request.extensions().get::<axum::extract::ConnectInfo<SocketAddr>>();
        info.map(|axum::extract::ConnectInfo(address)| *address)
    };
    request.remote_addr().or_else(axum).map(|address| address.ip().to_canonical())
}

#[tonic::async_trait]
impl ProvisionService for MachineApi {
    async fn provision(
        &self,
        request: Request<ProvisionRequest>,
    ) -> Result<Response<ProvisionResponse>, Status> {
        let peer = peer(&request);
        Ok(Response::new(self.0.provision(request.into_inner(), peer).await?))
    }
}

#[tonic::async_trait]
impl EventSinkService for MachineApi {
    async fn publish(&self, request: Request<EventRequest>) -> Result<Response<EventResponse>, Status> {
        let peer = peer(&request);
        self.0.publish(request.into_inner(), peer).await?;
        Ok(Response::new(EventResponse {}))
    }
}

#[cfg(test)]
mod tests;
