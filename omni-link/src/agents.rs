//! Calls to an agent over its tunnel, each with a limit.

use std::sync::Arc;
use std::time::Duration;

use agent_wire::WIPE_REPORT_HEADER;
use agent_wire::management::agent_service_client::AgentServiceClient;
use agent_wire::management::{
    GetPowerManagementRequest, GetPowerManagementResponse, HelloRequest, RebootRequest,
    SetPowerManagementRequest, WipeDisksRequest, get_power_management_request, set_power_management_request,
};
use agent_wire::tunnel::TunnelChannel;
use provider::private::InventorySpec;
use tonic::{Code, Status};

use crate::tunnels::Tunnels;

pub mod inventory;

/// Our user on the machines' BMCs: the name that the Go provider takes, so that either takes over from the other.
pub const BMC_USER: &str = "talos-agent";
/// Disks whose wipe goes into the journal: more than a storage server has.
const REPORTS_MAX: usize = 64;
/// Letters of an agent's text that go into the journal: some lines on a screen.
const TEXT_MAX: usize = 500;

/// Limits of the calls; the flags `--agent-*-timeout`.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Any call but a wipe.
    pub call: Duration,
    /// A wipe of signatures.
    pub fast_wipe: Duration,
    /// A wipe with zeroes.
    pub zeroes_wipe: Duration,
}

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The machine has no tunnel open.
    #[error("the agent is not connected")]
    NotConnected,
    /// The agent did not answer in time.
    #[error("the agent did not answer within {0:?}")]
    TimedOut(Duration),
    /// The agent answered with an error, or the tunnel died.
    #[error("the agent answered {code:?}: {message}", code = .0.code(), message = .0.message())]
    Failed(#[source] Box<Status>),
}

/// See the module.
pub struct Agents {
    tunnels: Arc<Tunnels>,
    timeouts: Timeouts,
    zeroes: bool,
}

impl Agents {
    /// `zeroes`: wipes write zeroes over whole disks.
    pub fn new(tunnels: Arc<Tunnels>, timeouts: Timeouts, zeroes: bool) -> Self {
        Self { tunnels, timeouts, zeroes }
    }

    /// Whether the machine's agent has a tunnel open.
    pub fn is_connected(&self, id: &str) -> bool {
        self.tunnels.open_since(id).is_some()
    }

    /// Asks for a sign of life.
    pub async fn hello(&self, id: &str) -> Result<(), AgentError> {
        let mut client = self.client(id)?;
        limited(self.timeouts.call, client.hello(HelloRequest {})).await.map(drop)
    }

    /// How the machine can be switched, as the agent sees it.
    pub async fn power_management(&self, id: &str) -> Result<GetPowerManagementResponse, AgentError> {
        let mut client = self.client(id)?;
        let ipmi = get_power_management_request::Ipmi { check_username: BMC_USER.to_owned() };
        let request = GetPowerManagementRequest { ipmi: Some(ipmi), ..Default::default() };
        limited(self.timeouts.call, client.get_power_management(request)).await
    }

    /// Makes a user on the machine's BMC, or gives it this password.
    pub async fn set_bmc_user(&self, id: &str, user: &str, password: &str) -> Result<(), AgentError> {
        let mut client = self.client(id)?;
        let ipmi =
            set_power_management_request::Ipmi { username: user.to_owned(), password: password.to_owned() };
        let request = SetPowerManagementRequest { ipmi: Some(ipmi), ..Default::default() };
        limited(self.timeouts.call, client.set_power_management(request)).await.map(drop)
    }

    /// Tells the agent that the HTTP power API is used.
    pub async fn use_power_api(&self, id: &str) -> Result<(), AgentError> {
        let mut client = self.client(id)?;
        let request = SetPowerManagementRequest {
            api: Some(set_power_management_request::Api {}),
            ..Default::default()
        };
        limited(self.timeouts.call, client.set_power_management(request)).await.map(drop)
    }

    /// Reboots the machine from within.
    pub async fn reboot(&self, id: &str) -> Result<(), AgentError> {
        let mut client = self.client(id)?;
        limited(self.timeouts.call, client.reboot(RebootRequest {})).await.map(drop)
    }

    /// Wipes the machine's disks and waits for the end of it. Gives a line for each disk, when the agent tells
    /// (Talos' metal agent does not).
    pub async fn wipe_disks(&self, id: &str) -> Result<Vec<String>, AgentError> {
        let mut client = self.client(id)?;
        let limit = if self.zeroes { self.timeouts.zeroes_wipe } else { self.timeouts.fast_wipe };
        let call = async {
            let answer = client.wipe_disks(WipeDisksRequest { zeroes: self.zeroes }).await?;
            let reports = answer.metadata().get_all(WIPE_REPORT_HEADER).iter().take(REPORTS_MAX);
            let lines = reports.filter_map(|line| line.to_str().ok()).map(one_line).collect();
            Ok(tonic::Response::new(lines))
        };
        limited(limit, call).await
    }

    /// What hardware the agent found; `None` when it does not tell (Talos' metal agent does not).
    pub async fn inventory(&self, id: &str) -> Result<Option<InventorySpec>, AgentError> {
        let channel = self.tunnels.channel(id).ok_or(AgentError::NotConnected)?;
        match tokio::time::timeout(self.timeouts.call, inventory::read(channel)).await {
            Ok(Ok(inventory)) => Ok(Some(inventory)),
            Ok(Err(status)) if status.code() == Code::Unimplemented => Ok(None),
            Ok(Err(status)) => Err(failed(&status)),
            Err(_) => Err(AgentError::TimedOut(self.timeouts.call)),
        }
    }

    fn client(&self, id: &str) -> Result<AgentServiceClient<TunnelChannel>, AgentError> {
        self.tunnels.channel(id).map(AgentServiceClient::new).ok_or(AgentError::NotConnected)
    }
}

async fn limited<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, AgentError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(failed(&status)),
        Err(_) => Err(AgentError::TimedOut(limit)),
    }
}

/// The error as it goes into journals and onto screens.
fn failed(status: &Status) -> AgentError {
    AgentError::Failed(Box::new(Status::new(status.code(), one_line(status.message()))))
}

/// What a machine says, fit for a line of the journal: it may say anything.
fn one_line(text: &str) -> String {
    let clean = |letter: char| if letter.is_control() { ' ' } else { letter };
    text.chars().map(clean).take(TEXT_MAX).collect()
}
