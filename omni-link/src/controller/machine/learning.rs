//! What a machine's agent and its people tell of it.

use agent_wire::password;
use provider::private::BmcConfigurationSpec;
use provider::private::bmc_configuration_spec::{Api, Ipmi};
use provider::view::Acceptance;
use provider::{BmcPlan, InfraMachine};
use tonic::Code;

use super::{StepError, SystemTime, Task};
use crate::agents::{AgentError, BMC_USER};
use crate::happening::Happening;
use crate::view::{Machine, Part};

impl Task {
    /// Asks the agent once a tunnel what hardware it found. Looking is allowed before acceptance.
    pub(super) async fn read_inventory(&mut self, machine: &Machine) -> Result<bool, StepError> {
        let Some((since, _)) = self.controller.tunnels.open_since(&self.id) else { return Ok(false) };
        if self.asked.is_some_and(|(asked, _)| asked == since) {
            return Ok(false);
        }
        let inventory = match self.controller.agents.inventory(&self.id).await {
            Ok(inventory) => inventory,
            Err(error)
                if self.controller.tunnels.open_since(&self.id).is_some_and(|(now, _)| now == since) =>
            {
                // It lives, but does not tell: the machine goes on without.
                let reason = format!("cannot read the inventory: {error}");
                tracing::warn!(machine = self.id, %error, "cannot read the inventory");
                self.tell(Happening::AgentFailed { reason });
                None
            }
            Err(error) => return Err(StepError::Inventory(error)),
        };
        self.asked = Some((since, inventory.is_some()));
        let Some(mut inventory) = inventory else { return Ok(false) };
        if let Some(known) = &machine.inventory {
            // The time alone is no news.
            inventory.observed_at = known.spec.observed_at;
            if known.spec == inventory {
                return Ok(false);
            }
        }
        inventory.observed_at = Some(SystemTime::now().into());
        let summary = crate::agents::inventory::summary(&inventory);
        self.write(Part::Inventory, machine, &inventory).await?;
        self.tell(Happening::Inventory { summary });
        Ok(true)
    }

    /// Learns how the machine is switched, once it is accepted: from whoever typed it in, or from the agent.
    pub(super) async fn configure_power(&mut self, machine: &Machine) -> Result<bool, StepError> {
        let accepted = machine.infra.as_ref().is_some_and(|infra| {
            let infra = InfraMachine { spec: infra.spec.clone(), ..InfraMachine::default() };
            infra.acceptance() == Acceptance::Accepted && !infra.spec.cordoned
        });
        if !accepted {
            return Ok(false);
        }
        let user = machine.user_bmc.as_ref().and_then(|entry| entry.spec.config.as_ref());
        let spec = match provider::bmc_plan(user, machine.bmc.as_ref().map(|entry| &entry.spec)) {
            BmcPlan::Keep => return Ok(false),
            BmcPlan::Record(spec) => *spec,
            BmcPlan::Ask if self.controller.agents.is_connected(&self.id) => self.ask_for_power().await?,
            BmcPlan::Ask => return Ok(false),
        };
        self.write(Part::Bmc, machine, &spec).await?;
        if spec.api.is_some() {
            self.tell(Happening::PowerConfigured { driver: "api", reason: String::new() });
        }
        Ok(true)
    }

    /// Writes down what answers at the BMC's address, once it has: Redfish or IPMI.
    pub(super) async fn record_driver(&self, machine: &Machine) -> Result<bool, StepError> {
        let (Some(bmc), Some(choice)) = (&machine.bmc, self.power.choice()) else { return Ok(false) };
        if bmc.spec.driver == choice.driver {
            return Ok(false);
        }
        let spec = BmcConfigurationSpec {
            driver: choice.driver.to_owned(),
            driver_reason: choice.reason.clone(),
            ..bmc.spec.clone()
        };
        self.write(Part::Bmc, machine, &spec).await?;
        self.tell(Happening::PowerConfigured { driver: choice.driver, reason: choice.reason });
        Ok(true)
    }

    /// The power API where the agent runs in test mode, else the machine's own BMC with a user of ours.
    async fn ask_for_power(&self) -> Result<BmcConfigurationSpec, StepError> {
        let agents = &self.controller.agents;
        let configure = |error: AgentError| StepError::Configure(error.to_string());
        let told = agents.power_management(&self.id).await.map_err(configure)?;
        if told.api.is_some() {
            let address = self.power_api().map_err(StepError::Configure)?;
            agents.use_power_api(&self.id).await.map_err(configure)?;
            return Ok(BmcConfigurationSpec {
                api: Some(Api { address }),
                ..BmcConfigurationSpec::default()
            });
        }
        let Some(bmc) = told.ipmi else {
            return Err(StepError::Configure(
                "the machine has no BMC that its agent can see: configure one, or its power API".into(),
            ));
        };
        let password = self.make_bmc_user().await.map_err(configure)?;
        let ipmi = Ipmi { address: bmc.address, port: bmc.port, username: BMC_USER.into(), password };
        Ok(BmcConfigurationSpec { ipmi: Some(ipmi), ..BmcConfigurationSpec::default() })
    }

    /// Has the agent make our user on the BMC; gives its password. Another password each time: the one of an
    /// attempt that was cut off is nowhere.
    async fn make_bmc_user(&self) -> Result<String, AgentError> {
        let agents = &self.controller.agents;
        let mut random = || {
            let mut byte = [0];
            let provider = rustls::crypto::ring::default_provider();
            provider.secure_random.fill(&mut byte).expect("the kernel always has random bytes");
            byte[0]
        };
        let (plain, special) =
            (password::generate(false, &mut random), password::generate(true, &mut random));
        match agents.set_bmc_user(&self.id, BMC_USER, &plain).await {
            Ok(()) => Ok(plain),
            // Some BMCs demand a special letter, some refuse any.
            Err(AgentError::Failed(status)) if status.code() == Code::InvalidArgument => {
                agents.set_bmc_user(&self.id, BMC_USER, &special).await.map(|()| special)
            }
            Err(error) => Err(error),
        }
    }

    fn power_api(&self) -> Result<String, String> {
        let book = self
            .controller
            .power_apis
            .as_ref()
            .ok_or("the agent names a power API, but [api] power_mgmt_state_dir is not set")?;
        let uuid = self.id.parse().map_err(|_| format!("`{}` is no UUID", self.id))?;
        book.find(uuid).map(|address| address.to_string()).map_err(|error| error.to_string())
    }
}
