//! The machine's end in tests: a service that gives back what it is sent, and who it is.

use std::future::pending;

use agent_wire::management::agent_service_client::AgentServiceClient;
use agent_wire::management::agent_service_server::{AgentService, AgentServiceServer};
use agent_wire::management::*;
use agent_wire::tunnel::{MACHINE_ID_HEADER, TunnelChannel};
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// Its id, as the appliance hands it on.
pub(crate) const MACHINE_ID: &str = "4c4c4544-0000";

/// The id as firmware may write it.
pub(crate) fn metadata() -> MetadataMap {
    let mut metadata = MetadataMap::new();
    metadata.insert(MACHINE_ID_HEADER, MACHINE_ID.to_uppercase().parse().unwrap());
    metadata
}

/// What it serves.
pub(crate) fn routes() -> Routes {
    Routes::new(AgentServiceServer::new(Agent))
}

/// Sends a message of this size and has it sent back.
pub(crate) async fn echo(channel: TunnelChannel, size: usize) -> Result<(), Status> {
    let name: String = ('a'..='z').cycle().take(size).collect();
    let answer = AgentServiceClient::new(channel).get_power_management(named(&name)).await?;
    assert!(answer.into_inner().ipmi.unwrap().address == name, "an answer was damaged");
    Ok(())
}

/// A request as long as the test likes.
pub(crate) fn named(name: &str) -> GetPowerManagementRequest {
    let ipmi = get_power_management_request::Ipmi { check_username: name.to_owned() };
    GetPowerManagementRequest { ipmi: Some(ipmi), api: None }
}

struct Agent;

#[tonic::async_trait]
impl AgentService for Agent {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        let mut response = Response::new(HelloResponse {});
        if let Some(value) = request.metadata().get("echo") {
            response.metadata_mut().insert("echo", value.clone());
        }
        Ok(response)
    }

    async fn get_power_management(
        &self,
        request: Request<GetPowerManagementRequest>,
    ) -> Result<Response<GetPowerManagementResponse>, Status> {
        // The user's name comes back as the address.
        let name = request.into_inner().ipmi.unwrap_or_default().check_username;
        let ipmi = get_power_management_response::Ipmi { address: name, port: 623, user_exists: true };
        Ok(Response::new(GetPowerManagementResponse { ipmi: Some(ipmi), api: None }))
    }

    async fn set_power_management(
        &self,
        _request: Request<SetPowerManagementRequest>,
    ) -> Result<Response<SetPowerManagementResponse>, Status> {
        Err(Status::not_found("no BMC: \u{b5}"))
    }

    async fn reboot(&self, _request: Request<RebootRequest>) -> Result<Response<RebootResponse>, Status> {
        panic!("a service that breaks")
    }

    async fn wipe_disks(
        &self,
        _request: Request<WipeDisksRequest>,
    ) -> Result<Response<WipeDisksResponse>, Status> {
        pending().await
    }
}
