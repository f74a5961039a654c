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

use crate::console::chain;
use crate::ipmi::SetupError;
use crate::machine::Machine;
use crate::say;
use crate::wipe::Report;

/// Letters of a disk's report; a real one has 200.
const MAX_REPORT: usize = 500;
/// Bytes of all reports in an answer, or of an error's text: the appliance takes 3 KiB of headers. The console
/// has them all.
const MAX_REPORTS: usize = 2_500;

/// The service.
#[derive(Debug)]
pub struct Agent<M> {
    machine: Arc<M>,
    test_mode: bool,
    /// One wipe at a time: a second call waits, then wipes blank disks again.
    wiping: Arc<Mutex<()>>,
    /// One conversation with the BMC at a time.
    bmc: Arc<Mutex<()>>,
}

impl<M: Machine> Agent<M> {
    /// The service, for `tonic::service::Routes`. `test_mode`: power is switched from outside.
    pub fn server(machine: Arc<M>, test_mode: bool) -> AgentServiceServer<Self> {
        AgentServiceServer::new(Self { machine, test_mode, wiping: Arc::default(), bmc: Arc::default() })
    }

    /// Runs work with the BMC, which blocks, to its end.
    async fn with_bmc<T: Send + 'static>(
        &self,
        work: impl FnOnce(&M) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let turn = self.bmc.clone().lock_owned().await;
        let machine = self.machine.clone();
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work(&machine)
        })
        .await
        .map_err(|_| Status::internal("the BMC was asked without a result"))
    }
}

#[tonic::async_trait]
impl<M: Machine> AgentService for Agent<M> {
    async fn hello(&self, _request: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Ok(Response::new(HelloResponse {}))
    }

    async fn get_power_management(
        &self,
        request: Request<GetPowerManagementRequest>,
    ) -> Result<Response<GetPowerManagementResponse>, Status> {
        if self.test_mode {
            let api = Some(get_power_management_response::Api {});
            return Ok(Response::new(GetPowerManagementResponse { api, ipmi: None }));
        }
        let user = request.into_inner().ipmi.unwrap_or_default().check_username;
        let told = self.with_bmc(move |machine| machine.ask_bmc(&user)).await?;
        let told = told.map_err(|error| Status::internal(format!("failed to ask the BMC: {error}")))?;
        if told.as_ref().is_some_and(|told| told.address.is_unspecified()) {
            return Err(Status::failed_precondition(
                "the BMC has no IPv4 address: its network port has no DHCP lease and no fixed address",
            ));
        }
        let ipmi = told.map(|told| get_power_management_response::Ipmi {
            address: told.address.to_string(),
            port: u32::from(told.port),
            user_exists: told.user_exists,
        });
        Ok(Response::new(GetPowerManagementResponse { ipmi, api: None }))
    }

    async fn set_power_management(
        &self,
        request: Request<SetPowerManagementRequest>,
    ) -> Result<Response<SetPowerManagementResponse>, Status> {
        let Some(user) = request.into_inner().ipmi.filter(|_| !self.test_mode) else {
            return Ok(Response::new(SetPowerManagementResponse {}));
        };
        let name = user.username.clone();
        let made = self.with_bmc(move |machine| machine.set_bmc_user(&user.username, &user.password)).await?;
        match made {
            Ok(made) => {
                say!("BMC: user {name:?} is in slot {} for channel {}", made.slot, made.channel);
                for what in made.unverified {
                    say!("BMC: cannot be read back: {what}");
                }
                Ok(Response::new(SetPowerManagementResponse {}))
            }
            Err(error) => {
                let text = format!("failed to set up the BMC's user: {}", chain(&error));
                say!("BMC: {text}");
                Err(match error {
                    // The caller may try another one.
                    SetupError::Password(_) | SetupError::Argument(_) => Status::invalid_argument(text),
                    SetupError::NoSlot(_) => Status::resource_exhausted(text),
                    SetupError::Call(_) | SetupError::Forgot(_) => Status::internal(text),
                })
            }
        }
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
        let reports = result.map_err(|failed| Status::internal(cut(format!("failed to wipe: {failed}"))))?;
        let mut response = Response::new(WipeDisksResponse {});
        for line in lines(reports.iter().map(Report::to_string)) {
            if let Ok(line) = MetadataValue::try_from(line) {
                response.metadata_mut().append(WIPE_REPORT_HEADER, line);
            }
        }
        Ok(response)
    }
}

/// The reports as far as they go into the metadata, and how many do not.
fn lines(reports: impl ExactSizeIterator<Item = String>) -> Vec<String> {
    let (mut lines, mut left, mut bytes) = (Vec::new(), reports.len(), 0);
    for line in reports.map(|report| printable(&report)) {
        bytes += line.len() + WIPE_REPORT_HEADER.len();
        if bytes > MAX_REPORTS {
            lines.push(format!("and {left} more disks"));
            break;
        }
        lines.push(line);
        left -= 1;
    }
    lines
}

/// As much of a text as the appliance takes.
fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().find(|(at, _)| *at >= MAX_REPORTS) {
        text.truncate(end);
        text.push_str(" ...");
    }
    text
}

/// What metadata may carry: serial numbers and models come from the disk's maker.
fn printable(text: &str) -> String {
    text.chars()
        .map(|letter| if matches!(letter, ' '..='~') { letter } else { '?' })
        .take(MAX_REPORT)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_fit_into_the_metadata_and_say_how_many_are_missing() {
        let few = lines(["sda: blank".to_owned(), "sdb: \u{fc}\n".to_owned()].into_iter());
        assert_eq!(few, ["sda: blank", "sdb: ??"]);
        let many = lines(vec!["x".repeat(900); 50].into_iter());
        let bytes: usize = many.iter().map(String::len).sum();
        assert!(bytes < MAX_REPORTS && many.iter().all(|line| line.len() <= MAX_REPORT));
        assert_eq!(many.last().unwrap(), &format!("and {} more disks", 50 - (many.len() - 1)));
    }
}
