//! The driver of one machine: look, decide, act, write down.
//!
//! Every step reads the view anew, does one thing at most, and writes what it did before the next step.
//! Being killed between acting and writing repeats the act, which every act here allows: a wipe is repeated
//! only while the agent runs and before the machine may be allocated.
//!
//! While Omni is away the machine is looked at, its state is written down for later, and it is switched on
//! when it has work to do. Everything that cannot be undone waits, and is confirmed with Omni when it comes.

mod acts;
mod learning;
mod records;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cosi::{Phase, Pointer, StateError};
use power::PowerError;
use provider::private::{MachineStatusSpec, PowerState as SpecPowerState};
use provider::{InfraMachine, MachineView};
use tokio_util::sync::CancellationToken;

use super::Controller;
use super::power::{POLL_INTERVAL, PowerState, SwitchError};
use crate::agents::AgentError;
use crate::backoff::Backoff;
use crate::happening::Happening;
use crate::view::{Entry, Machine, Part};

/// First and longest pause after a failure.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);

pub(super) struct Task {
    controller: Arc<Controller>,
    id: String,
    since: SystemTime,
    power: PowerState,
    /// The tunnel (by its opening time) whose agent was asked for the inventory, and whether it told.
    asked: Option<(SystemTime, bool)>,
    backoff: Backoff,
    /// The last failure in the journal: a repetition is no news.
    reported: Option<String>,
    /// The wipe (by its id) that was begun, as the journal tells, and has not ended well yet.
    wiping: Option<String>,
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
    #[error("Omni's {0} cannot be read: nothing is done that cannot be undone")]
    Unreadable(Pointer),
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
            power: PowerState::new(&id, controller.redfish.clone()),
            controller,
            id,
            asked: None,
            backoff: Backoff::new(RETRY_MIN, RETRY_MAX),
            reported: None,
            wiping: None,
            ready: false,
        }
    }

    /// Until the machine is gone or `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        self.work(shutdown).await;
        self.power.close().await;
    }

    async fn work(&mut self, shutdown: CancellationToken) {
        loop {
            // Anew each time: a machine that was removed and came back has another one.
            let Some(changed) = self.controller.view.changed(&self.id) else {
                self.controller.view.board().well(&self.id);
                return;
            };
            // Not cancel-safe by itself, and need not be: an act that is cut off is decided upon again. Boxed,
            // because most machines only wait most of the time.
            let next = tokio::select! {
                next = Box::pin(self.step()) => next,
                () = shutdown.cancelled() => return,
            };
            let pause = match next {
                Ok(Next::Gone) => {
                    self.controller.view.board().well(&self.id);
                    return;
                }
                Ok(Next::Again) => {
                    self.backoff.reset();
                    continue;
                }
                Ok(Next::Wait(pause)) => {
                    self.backoff.reset();
                    self.reported = None;
                    self.controller.view.board().well(&self.id);
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

    /// Tells the journal and the heartbeat, and says when to try again.
    fn failed(&mut self, error: &StepError) -> Duration {
        let pause = self.backoff.pause();
        let reason = error.to_string();
        match error {
            // Somebody else wrote first: the watch brings their word, and wakes us.
            StepError::State(error) if error.is_conflict() => return pause,
            // That Omni is away is told once, not for each machine.
            StepError::State(error) if error.is_transient() => {
                tracing::debug!(machine = self.id, %error, retry_in = ?pause, "Omni does not answer");
                return pause;
            }
            _ => tracing::warn!(machine = self.id, %error, retry_in = ?pause, "step failed"),
        }
        self.controller.view.board().trouble(&self.id, &reason);
        if self.reported.as_deref() != Some(&reason) {
            match error {
                StepError::Wipe(_) => self.tell(Happening::WipeFailed { reason: reason.clone() }),
                StepError::Configure(_) | StepError::Switch(_) => {
                    self.tell(Happening::PowerFailed { reason: reason.clone() });
                }
                StepError::State(_) | StepError::Inventory(_) | StepError::Unreadable(_) => {}
            }
            self.reported = Some(reason);
            self.controller.view.count_up();
        }
        pause
    }

    async fn step(&mut self) -> Result<Next, StepError> {
        let Some(machine) = self.controller.view.machine(&self.id) else { return Ok(Next::Gone) };
        if !self.controller.view.fresh() {
            return self.step_without_omni(&machine).await;
        }
        let Some(infra) = &machine.infra else {
            return self.clear_away(&machine).await;
        };
        if infra.metadata.phase == Phase::TearingDown {
            return self.let_go(&machine).await;
        }
        if self.controller.view.outbox().holds(&self.id) {
            self.flush(&machine).await?;
            return Ok(Next::Again);
        }
        if self.hold(&machine, infra).await?
            || self.read_inventory(&machine).await?
            || self.configure_power(&machine).await?
        {
            return Ok(Next::Again);
        }
        self.poll_power(&machine).await?;
        if self.record_driver(&machine).await? {
            return Ok(Next::Again);
        }
        let view = self.view_of(&machine, infra);
        if self.report(&machine, &view).await? || self.act(&machine, &view).await? {
            return Ok(Next::Again);
        }
        Ok(Next::Wait(POLL_INTERVAL))
    }

    /// Looks, writes down for later, and switches on what has work to do. The decisions know that the view
    /// is stale, and hold back what cannot be undone.
    async fn step_without_omni(&mut self, machine: &Machine) -> Result<Next, StepError> {
        let running = |infra: &&Arc<Entry<_>>| infra.metadata.phase == Phase::Running;
        if let Some(infra) = machine.infra.as_ref().filter(running) {
            self.poll_power(machine).await?;
            let view = self.view_of(machine, infra);
            let away = self.controller.view.away();
            if self.report(machine, &view).await? || (away && self.act(machine, &view).await?) {
                return Ok(Next::Again);
            }
        }
        Ok(Next::Wait(POLL_INTERVAL))
    }

    /// Asks the BMC for the power state, if there is one.
    async fn poll_power(&mut self, machine: &Machine) -> Result<(), StepError> {
        let Some(bmc) = &machine.bmc else { return Ok(()) };
        let was = self.power.on();
        let polled = self.power.poll(&bmc.spec).await;
        if self.power.on() == Some(false) && was != Some(false) {
            self.controller.tunnels.forget(&self.id);
        }
        Ok(polled?)
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

    fn pointer(&self, part: Part) -> Pointer {
        part.kind(&self.controller.provider_id).pointer(&self.id)
    }

    fn tell(&self, happening: Happening) {
        (self.controller.observer)(&self.id, happening);
    }
}
