//! The driver of one machine: look, decide, act, write down.
//!
//! Every step reads the view anew, does one thing at most, and writes what it did before the next step.
//! Being killed between acting and writing repeats the act, which every act here allows: a wipe is repeated
//! only while the agent runs and before the machine may be allocated.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent_wire::management::GetPowerManagementResponse;
use cosi::{Phase, Resource, StateError, UpdateOptions};
use power::PowerError;
use prost::Message;
use provider::private::bmc_configuration_spec::Api;
use provider::private::{
    BmcConfigurationSpec, MachineStatusSpec, PowerOperationSpec, PowerState as SpecPowerState,
    RebootStatusSpec, WipeStatusSpec,
};
use provider::{InfraMachine, MachineView, PowerAction, RebootAction, WipeAction};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Controller;
use super::power::{POLL_INTERVAL, PowerState, SwitchError, bmc};
use crate::agents::AgentError;
use crate::happening::Happening;
use crate::view::{Entry, Machine, Part};

/// First pause after a failure; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);

pub(super) struct Task {
    controller: Arc<Controller>,
    id: String,
    since: SystemTime,
    power: PowerState,
    /// The tunnel (by its opening time) whose agent was asked for the inventory, and whether it told.
    asked: Option<(SystemTime, bool)>,
    retry: Duration,
    /// The last failure in the journal: a repetition is no news.
    reported: Option<String>,
    ready: bool,
}

enum Next {
    /// Something was done: look again.
    Again,
    /// Nothing to do until something changes, or for this long.
    Wait(Duration),
    /// The machine is gone.
    Gone,
}

/// Why a step did not do what was decided.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("cannot write to Omni: {0}")]
    State(#[from] StateError),
    #[error("cannot wipe the disks: {0}")]
    Wipe(#[source] AgentError),
    #[error("cannot set up power management: {0}")]
    Configure(String),
    #[error("cannot switch the machine: {0}")]
    Switch(#[from] SwitchError),
    #[error("cannot read the inventory: {0}")]
    Inventory(#[source] AgentError),
}

impl From<PowerError> for StepError {
    fn from(error: PowerError) -> Self {
        Self::Switch(error.into())
    }
}

impl Task {
    pub(super) fn new(controller: Arc<Controller>, id: String) -> Self {
        Self {
            since: controller.started.max(SystemTime::UNIX_EPOCH),
            controller,
            id,
            power: PowerState::default(),
            asked: None,
            retry: RETRY_MIN,
            reported: None,
            ready: false,
        }
    }

    /// Until the machine is gone or `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let Some(changed) = self.controller.view.changed(&self.id) else { return };
        loop {
            // Not cancel-safe by itself, and need not be: an act that is cut off is decided upon again.
            let next = tokio::select! {
                next = self.step() => next,
                () = shutdown.cancelled() => return,
            };
            let pause = match next {
                Ok(Next::Gone) => return,
                Ok(Next::Again) => {
                    self.retry = RETRY_MIN;
                    continue;
                }
                Ok(Next::Wait(pause)) => {
                    self.retry = RETRY_MIN;
                    self.reported = None;
                    pause
                }
                Err(error) => self.failed(&error),
            };
            // Cancel-safe: a wake-up that comes meanwhile is kept by the Notify.
            tokio::select! {
                () = changed.notified() => {}
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Tells the journal and says when to try again.
    fn failed(&mut self, error: &StepError) -> Duration {
        let pause = self.retry;
        self.retry = (self.retry * 2).min(RETRY_MAX);
        let reason = error.to_string();
        match error {
            // Somebody else wrote first: the watch brings their word, and wakes us.
            StepError::State(error) if error.is_conflict() => return pause,
            _ => tracing::warn!(machine = self.id, %error, retry_in = ?pause, "step failed"),
        }
        if self.reported.as_deref() != Some(&reason) {
            match error {
                StepError::Wipe(_) => self.tell(Happening::WipeFailed { reason: reason.clone() }),
                StepError::Configure(_) | StepError::Switch(_) => {
                    self.tell(Happening::PowerFailed { reason: reason.clone() });
                }
                StepError::State(_) | StepError::Inventory(_) => {}
            }
            self.reported = Some(reason);
        }
        pause
    }

    async fn step(&mut self) -> Result<Next, StepError> {
        let Some(machine) = self.controller.view.machine(&self.id) else { return Ok(Next::Gone) };
        if !self.controller.view.fresh() {
            // Nothing is done, and nothing can be written down, until Omni is back.
            return Ok(Next::Wait(POLL_INTERVAL));
        }
        let Some(infra) = &machine.infra else {
            return self.destroy_records(&machine).await;
        };
        if infra.metadata.phase == Phase::TearingDown {
            return self.let_go(&machine, infra).await;
        }
        if self.hold(infra).await?
            || self.read_inventory(&machine).await?
            || self.configure_power(&machine).await?
        {
            return Ok(Next::Again);
        }
        if let Some(bmc) = &machine.bmc {
            let was = self.power.on();
            let polled = self.power.poll(&bmc.spec).await;
            if self.power.on() == Some(false) && was != Some(false) {
                self.controller.tunnels.forget(&self.id);
            }
            polled?;
        }
        let view = self.view_of(&machine, infra);
        if self.report(&machine, &view).await? || self.act(&machine, &view).await? {
            return Ok(Next::Again);
        }
        Ok(Next::Wait(POLL_INTERVAL))
    }

    /// What the decisions see.
    fn view_of(&self, machine: &Machine, infra: &Entry<provider::specs::InfraMachineSpec>) -> MachineView {
        let tunnel = self.controller.tunnels.open_since(&self.id);
        let power_state = match self.power.on() {
            Some(true) => SpecPowerState::On,
            Some(false) => SpecPowerState::Off,
            None => SpecPowerState::Unknown,
        };
        let told = |(since, told): (SystemTime, bool)| tunnel.is_none_or(|(open, _)| open == since) && !told;
        MachineView {
            fresh: self.controller.view.fresh(),
            machine: Some(InfraMachine {
                tearing_down: infra.metadata.phase == Phase::TearingDown,
                labels: infra.metadata.labels.clone(),
                spec: infra.spec.clone(),
            }),
            bmc: machine.bmc.as_ref().map(|entry| entry.spec.clone()),
            wipe: machine.wipe.as_ref().map(|entry| entry.spec.clone()),
            power: machine.power.as_ref().map(|entry| entry.spec.clone()),
            reboot: machine.reboot.as_ref().map(|entry| entry.spec.clone()),
            status: Some(MachineStatusSpec {
                agent_accessible: tunnel.is_some() && self.power.on() != Some(false),
                power_state: power_state as i32,
                initialized: true,
            }),
            // An agent that does not tell (Talos' own) is not waited for.
            inventory: machine.inventory.is_some() || self.asked.is_some_and(told),
            watched_since: Some(self.since),
            agent_since: tunnel.map(|(since, _)| since),
            agent_peer: tunnel.map(|(_, peer)| peer),
            policy: self.controller.policy.clone(),
        }
    }

    /// Puts our finalizer on the machine: Omni waits for us before it forgets it.
    async fn hold(&self, infra: &Entry<provider::specs::InfraMachineSpec>) -> Result<bool, StepError> {
        let finalizer = provider::resources::provider_controller(&self.controller.provider_id);
        if infra.metadata.finalizers.contains(&finalizer) {
            return Ok(false);
        }
        let mut resource = Resource::empty(&self.pointer(Part::Infra));
        resource.metadata = infra.metadata.clone();
        resource.encode(&infra.spec);
        resource.insert_finalizer(&finalizer);
        let stored =
            self.controller.state.update(resource, &UpdateOptions::owner(&infra.metadata.owner)).await?;
        self.controller.view.apply(Part::Infra, &stored);
        Ok(true)
    }

    /// Asks the agent once a tunnel what hardware it found. Looking is allowed before acceptance.
    async fn read_inventory(&mut self, machine: &Machine) -> Result<bool, StepError> {
        let Some((since, _)) = self.controller.tunnels.open_since(&self.id) else { return Ok(false) };
        if self.asked.is_some_and(|(asked, _)| asked == since) {
            return Ok(false);
        }
        let inventory = self.controller.agents.inventory(&self.id).await.map_err(StepError::Inventory)?;
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

    /// Learns from the agent how the machine is switched, once it is accepted.
    async fn configure_power(&mut self, machine: &Machine) -> Result<bool, StepError> {
        let accepted = machine.infra.as_ref().is_some_and(|infra| {
            let infra = InfraMachine { spec: infra.spec.clone(), ..InfraMachine::default() };
            infra.acceptance() == provider::view::Acceptance::Accepted && !infra.spec.cordoned
        });
        if machine.bmc.is_some() || !accepted || !self.controller.agents.is_connected(&self.id) {
            return Ok(false);
        }
        let agents = &self.controller.agents;
        let configure = |error: AgentError| StepError::Configure(error.to_string());
        let told = agents.power_management(&self.id).await.map_err(configure)?;
        let address = self.power_api(&told).map_err(StepError::Configure)?;
        agents.use_power_api(&self.id).await.map_err(configure)?;
        let spec = BmcConfigurationSpec { api: Some(Api { address }), ..BmcConfigurationSpec::default() };
        self.write(Part::Bmc, machine, &spec).await?;
        self.tell(Happening::PowerConfigured { driver: "api" });
        Ok(true)
    }

    fn power_api(&self, told: &GetPowerManagementResponse) -> Result<String, String> {
        if told.api.is_none() {
            return Err("the agent names no power API; IPMI is not supported".into());
        }
        let book = self
            .controller
            .power_apis
            .as_ref()
            .ok_or("the agent names a power API, but [api] power_mgmt_state_dir is not set")?;
        let uuid = self.id.parse().map_err(|_| format!("`{}` is no UUID", self.id))?;
        book.find(uuid).map(|address| address.to_string()).map_err(|error| error.to_string())
    }

    /// Tells Omni how the machine is. Writes only what changed.
    async fn report(&mut self, machine: &Machine, view: &MachineView) -> Result<bool, StepError> {
        if view
            .machine
            .as_ref()
            .is_none_or(|infra| infra.acceptance() != provider::view::Acceptance::Accepted)
        {
            return Ok(false);
        }
        let status = provider::status(view);
        let known = machine.status.as_ref();
        let no_labels = std::collections::BTreeMap::new();
        let existing = known.map_or(&no_labels, |entry| &entry.metadata.labels);
        let labels = provider::status_labels(view, existing);
        if status.ready_to_use && !self.ready && known.is_none_or(|entry| !entry.spec.ready_to_use) {
            self.tell(Happening::Ready);
        }
        self.ready = status.ready_to_use;
        if known.is_some_and(|entry| entry.spec == status) && *existing == labels {
            return Ok(false);
        }
        let mut resource = self.resource(Part::Status, machine, &status);
        resource.metadata.labels = labels;
        self.store(Part::Status, resource).await?;
        Ok(true)
    }

    /// Wipes, reboots or switches the machine, when that is what is decided.
    async fn act(&mut self, machine: &Machine, view: &MachineView) -> Result<bool, StepError> {
        if let Some(ack) = provider::power_off_ack(view) {
            let mut spec = view.power.clone().unwrap_or_default();
            spec.last_power_off_id = ack.id;
            spec.wipe_id_at_power_off = ack.wipe_id;
            self.write(Part::Power, machine, &spec).await?;
            return Ok(true);
        }
        if let (WipeAction::Wipe(record), reason) = provider::wipe(view) {
            tracing::info!(machine = self.id, %reason, "wiping");
            self.wipe(machine, &record).await?;
            return Ok(true);
        }
        let now = SystemTime::now();
        match provider::reboot(view, now) {
            (RebootAction::Leave, _) => {}
            (action, reason) => {
                tracing::info!(machine = self.id, ?action, %reason, "reboot request");
                self.reboot(machine, view, action, now).await?;
                return Ok(true);
            }
        }
        let (action, reason) = provider::power(view, now);
        if action == PowerAction::Leave {
            tracing::debug!(machine = self.id, %reason, "power stays as it is");
            return Ok(false);
        }
        tracing::info!(machine = self.id, ?action, %reason, "switching");
        self.switch(machine, view, action, now).await?;
        Ok(true)
    }

    async fn wipe(&self, machine: &Machine, record: &WipeStatusSpec) -> Result<(), StepError> {
        self.tell(Happening::WipeStarted);
        let begin = Instant::now();
        self.controller.agents.wipe_disks(&self.id).await.map_err(StepError::Wipe)?;
        let millis = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.write(Part::Wipe, machine, record).await?;
        self.tell(Happening::WipeFinished { millis });
        Ok(())
    }

    async fn reboot(
        &mut self,
        machine: &Machine,
        view: &MachineView,
        action: RebootAction,
        now: SystemTime,
    ) -> Result<(), StepError> {
        let Some(infra) = &view.machine else { return Ok(()) };
        let mut record = view.reboot.clone().unwrap_or_default();
        record.last_reboot_id.clone_from(&infra.spec.requested_reboot_id);
        match action {
            RebootAction::Reboot { pxe_once } => self.reset(machine, pxe_once).await?,
            RebootAction::Acknowledge | RebootAction::Leave => {
                return self.write(Part::Reboot, machine, &record).await;
            }
        }
        self.record_reboot(machine, infra, record, now).await
    }

    async fn switch(
        &mut self,
        machine: &Machine,
        view: &MachineView,
        action: PowerAction,
        now: SystemTime,
    ) -> Result<(), StepError> {
        let (Some(entry), Some(infra)) = (&machine.bmc, &view.machine) else { return Ok(()) };
        let mut record: PowerOperationSpec = view.power.clone().unwrap_or_default();
        match action {
            PowerAction::On { pxe_once } => {
                let switch = bmc(&entry.spec)?;
                if pxe_once {
                    switch.set_pxe_boot_once(self.controller.pxe_mode).await?;
                }
                switch.power_on().await?;
                self.power.set(true);
                record.last_power_operation = SpecPowerState::On as i32;
                record.last_power_on_timestamp = Some(now.into());
                record.install_event_id_at_power_on = infra.spec.install_event_id;
                self.tell(Happening::PowerOn { pxe: pxe_once });
                self.write(Part::Power, machine, &record).await
            }
            PowerAction::Off => {
                bmc(&entry.spec)?.power_off().await?;
                self.power.set(false);
                self.controller.tunnels.forget(&self.id);
                record.last_power_operation = SpecPowerState::Off as i32;
                self.tell(Happening::PowerOff);
                self.write(Part::Power, machine, &record).await
            }
            PowerAction::Cycle { pxe_once } => {
                self.reset(machine, pxe_once).await?;
                self.record_reboot(machine, infra, view.reboot.clone().unwrap_or_default(), now).await
            }
            PowerAction::Leave => Ok(()),
        }
    }

    async fn reset(&self, machine: &Machine, pxe_once: bool) -> Result<(), StepError> {
        let Some(entry) = &machine.bmc else { return Ok(()) };
        let switch = bmc(&entry.spec)?;
        if pxe_once {
            switch.set_pxe_boot_once(self.controller.pxe_mode).await?;
        }
        switch.reboot().await?;
        self.controller.tunnels.forget(&self.id);
        Ok(())
    }

    async fn record_reboot(
        &self,
        machine: &Machine,
        infra: &InfraMachine,
        mut record: RebootStatusSpec,
        now: SystemTime,
    ) -> Result<(), StepError> {
        record.last_reboot_timestamp = Some(now.into());
        record.install_event_id_at_reboot = infra.spec.install_event_id;
        self.tell(Happening::Rebooted);
        self.write(Part::Reboot, machine, &record).await
    }

    /// Omni removes the machine: our records go first, then our finalizer. A wiped token that stayed behind
    /// would lock the machine out when it comes back.
    async fn let_go(
        &self,
        machine: &Machine,
        infra: &Entry<provider::specs::InfraMachineSpec>,
    ) -> Result<Next, StepError> {
        self.destroy_records(machine).await?;
        let finalizer = provider::resources::provider_controller(&self.controller.provider_id);
        if infra.metadata.finalizers.contains(&finalizer) {
            let mut resource = Resource::empty(&self.pointer(Part::Infra));
            resource.metadata = infra.metadata.clone();
            resource.encode(&infra.spec);
            resource.drop_finalizer(&finalizer);
            let options = UpdateOptions::owner(&infra.metadata.owner).any_phase();
            match self.controller.state.update(resource, &options).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Next::Wait(POLL_INTERVAL))
    }

    async fn destroy_records(&self, machine: &Machine) -> Result<Next, StepError> {
        for part in [Part::Status, Part::Bmc, Part::Wipe, Part::Power, Part::Reboot, Part::Inventory] {
            let Some(metadata) = machine.metadata(part) else { continue };
            match self.controller.state.destroy(&self.pointer(part), &metadata.owner).await {
                Ok(()) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Next::Wait(POLL_INTERVAL))
    }

    async fn write<T: Message>(&self, part: Part, machine: &Machine, spec: &T) -> Result<(), StepError> {
        self.store(part, self.resource(part, machine, spec)).await
    }

    /// The stored resource with a new spec, or a new resource.
    fn resource<T: Message>(&self, part: Part, machine: &Machine, spec: &T) -> Resource {
        let mut resource = Resource::empty(&self.pointer(part));
        if let Some(metadata) = machine.metadata(part) {
            resource.metadata = metadata.clone();
        } else {
            resource.metadata.owner = part.owner(&self.controller.provider_id);
        }
        resource.encode(spec);
        resource
    }

    /// Creates or updates, and lets the next step see it.
    async fn store(&self, part: Part, resource: Resource) -> Result<(), StepError> {
        let owner = resource.metadata.owner.clone();
        let stored = if resource.metadata.version == cosi::Version::Undefined {
            self.controller.state.create(resource, &owner).await?
        } else {
            self.controller.state.update(resource, &UpdateOptions::owner(owner)).await?
        };
        self.controller.view.apply(part, &stored);
        Ok(())
    }

    fn pointer(&self, part: Part) -> cosi::Pointer {
        part.kind(&self.controller.provider_id).pointer(&self.id)
    }

    fn tell(&self, happening: Happening) {
        (self.controller.observer)(&self.id, happening);
    }
}
