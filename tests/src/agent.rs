//! An agent of a test's making, as the appliance calls it through a tunnel. Its machine is switched by the HTTP power
//! API.

use agent_wire::management::agent_service_server::AgentService;
use agent_wire::management::{
    GetPowerManagementRequest, GetPowerManagementResponse, HelloRequest, HelloResponse, RebootRequest,
    RebootResponse, SetPowerManagementRequest, SetPowerManagementResponse, WipeDisksRequest,
    WipeDisksResponse, get_power_management_response,
};
use tonic::{Request, Response, Status};

/// What an agent does when it is called. Whatever is not said here it does at once, and well.
#[tonic::async_trait]
pub trait Conduct: Send + Sync + 'static {
    /// Before it says hello, or how its machine is switched.
    async fn asked(&self) {}

    /// When it shall reboot.
    async fn reboot(&self) {}

    /// When it shall wipe the disks.
    async fn wipe_disks(&self) -> Result<(), Status>;
}

/// An agent that behaves like that.
#[derive(Debug)]
pub struct FakeAgent<C>(pub C);

#[tonic::async_trait]
impl<C: Conduct> AgentService for FakeAgent<C> {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        self.0.asked().await;
        Ok(Response::new(HelloResponse {}))
    }

    async fn get_power_management(
        &self,
        _: Request<GetPowerManagementRequest>,
    ) -> Result<Response<GetPowerManagementResponse>, Status> {
        self.0.asked().await;
        let api = Some(get_power_management_response::Api {});
        Ok(Response::new(GetPowerManagementResponse { api, ipmi: None }))
    }

    async fn set_power_management(
        &self,
        _: Request<SetPowerManagementRequest>,
    ) -> Result<Response<SetPowerManagementResponse>, Status> {
        Ok(Response::new(SetPowerManagementResponse {}))
    }

    async fn reboot(&self, _: Request<RebootRequest>) -> Result<Response<RebootResponse>, Status> {
        self.0.reboot().await;
        Ok(Response::new(RebootResponse {}))
    }

    async fn wipe_disks(&self, _: Request<WipeDisksRequest>) -> Result<Response<WipeDisksResponse>, Status> {
        self.0.wipe_disks().await.map(|()| Response::new(WipeDisksResponse {}))
    }
}
