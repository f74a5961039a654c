//! `management.AgentService`: what the appliance asks of the machine.

use std::sync::Arc;

use agent_wire::WIPE_REPORT_HEADER;
use agent_wire::management::agent_service_server::{AgentService, AgentServiceServer};
use agent_wire::management::{
    GetPowerManagementRequest, GetPowerManagementResponse, HelloRequest, HelloResponse, RebootRequest,
    RebootResponse, SetPowerManagementRequest, SetPowerManagementResponse, WipeDisksRequest,
    WipeDisksResponse, get_power_management_response,
};
use tokio::sync::Mutex;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use crate::machine::Machine;
use crate::say;

/// Letters of a disk's report; a real one has 200.
const MAX_REPORT: usize = 1000;

/// The service.
#[derive(Debug)]
pub struct Agent<M> {
    machine: Arc<M>,
    test_mode: bool,
    /// One wipe at a time: a second call waits, then wipes blank disks again.
    wiping: Arc<Mutex<()>>,
}

impl<M: Machine> Agent<M> {
    /// The service, for `tonic::service::Routes`. `test_mode`: power is switched from outside.
    pub fn server(machine: Arc<M>, test_mode: bool) -> AgentServiceServer<Self> {
        AgentServiceServer::new(Self { machine, test_mode, wiping: Arc::new(Mutex::new(())) })
    }
}

#[tonic::async_trait]
impl<M: Machine> AgentService for Agent<M> {
    async fn hello(&self, _request: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Ok(Response::new(HelloResponse {}))
    }

    async fn get_power_management(
        &self,
        _request: Request<GetPowerManagementRequest>,
    ) -> Result<Response<GetPowerManagementResponse>, Status> {
        if self.test_mode {
            let api = Some(get_power_management_response::Api {});
            return Ok(Response::new(GetPowerManagementResponse { api, ipmi: None }));
        }
        if self.machine.has_bmc() {
            // Saying "none" would have the operator look for a BMC that is there.
            return Err(Status::unimplemented(
                "this machine has a BMC (/dev/ipmi0), but this agent does not speak IPMI yet: \
                 configure its address and user by hand",
            ));
        }
        Ok(Response::new(GetPowerManagementResponse::default()))
    }

    async fn set_power_management(
        &self,
        request: Request<SetPowerManagementRequest>,
    ) -> Result<Response<SetPowerManagementResponse>, Status> {
        if self.test_mode || request.get_ref().ipmi.is_none() {
            return Ok(Response::new(SetPowerManagementResponse {}));
        }
        Err(Status::unimplemented(
            "this agent does not speak IPMI yet: make the BMC's user by hand, then configure it",
        ))
    }

    async fn reboot(&self, _request: Request<RebootRequest>) -> Result<Response<RebootResponse>, Status> {
        say!("reboot was asked for");
        self.machine.reboot();
        Ok(Response::new(RebootResponse {}))
    }

    async fn wipe_disks(
        &self,
        request: Request<WipeDisksRequest>,
    ) -> Result<Response<WipeDisksResponse>, Status> {
        let zeroes = request.into_inner().zeroes;
        let turn = self.wiping.clone().lock_owned().await;
        let machine = self.machine.clone();
        let result = tokio::task::spawn_blocking(move || {
            // Held to the end of the work, also when the caller gives up meanwhile.
            let _turn = turn;
            machine.wipe(zeroes)
        })
        .await
        .map_err(|_| Status::internal("the wipe ended without a result"))?;
        let reports = result.map_err(|failed| Status::internal(format!("failed to wipe: {failed}")))?;
        let mut response = Response::new(WipeDisksResponse {});
        for report in reports {
            if let Ok(line) = MetadataValue::try_from(printable(&report.to_string())) {
                response.metadata_mut().append(WIPE_REPORT_HEADER, line);
            }
        }
        Ok(response)
    }
}

/// What metadata may carry: serial numbers and models come from the disk's maker.
fn printable(text: &str) -> String {
    text.chars()
        .map(|letter| if matches!(letter, ' '..='~') { letter } else { '?' })
        .take(MAX_REPORT)
        .collect()
}
