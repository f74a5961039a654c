//! Views by what they are.

use std::time::{Duration, SystemTime};

use crate::private::bmc_configuration_spec::Api;
use crate::private::{
    BmcConfigurationSpec, MachineStatusSpec, PowerOperationSpec, PowerState, RebootStatusSpec, WipeStatusSpec,
};
use crate::specs::InfraMachineSpec;
use crate::specs::infra_machine_config_spec::AcceptanceStatus;
use crate::view::{InfraMachine, MachineView};

/// Seconds after a moment that is long after the epoch.
pub(super) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

pub(super) const MINUTE: u64 = 60;

/// Joined, not decided upon; the agent runs.
pub(super) fn pending() -> MachineView {
    MachineView {
        fresh: true,
        machine: Some(InfraMachine::default()),
        status: Some(MachineStatusSpec {
            agent_accessible: true,
            power_state: PowerState::On as i32,
            initialized: true,
        }),
        agent_since: Some(at(0)),
        ..MachineView::unknown()
    }
}

pub(super) fn rejected() -> MachineView {
    pending().with(|spec| spec.acceptance_status = AcceptanceStatus::Rejected as i32)
}

/// Accepted, under power control, to be wiped, in the agent.
pub(super) fn accepted() -> MachineView {
    let mut view = pending().with(|spec| spec.acceptance_status = AcceptanceStatus::Accepted as i32);
    let api = Some(Api { address: "10.0.0.1:80".to_owned() });
    view.bmc = Some(BmcConfigurationSpec { api, ..BmcConfigurationSpec::default() });
    view
}

/// Wiped, free, inventory known, still on.
pub(super) fn wiped() -> MachineView {
    let mut view = accepted();
    view.wipe = Some(WipeStatusSpec { initial_wipe_done: true, ..WipeStatusSpec::default() });
    view.inventory = true;
    view
}

/// Wiped, free, off.
pub(super) fn idle() -> MachineView {
    wiped().off()
}

/// Allocated while off.
pub(super) fn allocated() -> MachineView {
    idle().with(|spec| spec.cluster_talos_version = "1.13.7".to_owned())
}

/// Allocated and installed, running.
pub(super) fn installed() -> MachineView {
    allocated().with(|spec| spec.install_event_id = 1).on().powered_on_at(0)
}

/// Was in a cluster, still runs Talos, is to be wiped.
pub(super) fn released() -> MachineView {
    installed().with(|spec| {
        spec.cluster_talos_version.clear();
        spec.wipe_id = "second".to_owned();
    })
}

impl MachineView {
    pub(super) fn with(mut self, change: impl FnOnce(&mut InfraMachineSpec)) -> Self {
        change(&mut self.machine.as_mut().expect("a known machine").spec);
        self
    }

    pub(super) fn tearing_down(mut self) -> Self {
        self.machine.as_mut().expect("a known machine").tearing_down = true;
        self
    }

    pub(super) fn cordoned(self) -> Self {
        self.with(|spec| spec.cordoned = true)
    }

    pub(super) fn stale(mut self) -> Self {
        self.fresh = false;
        self
    }

    pub(super) fn status_is(mut self, power: PowerState, agent: bool) -> Self {
        self.status =
            Some(MachineStatusSpec { agent_accessible: agent, power_state: power as i32, initialized: true });
        self
    }

    /// On, without an agent.
    pub(super) fn on(self) -> Self {
        self.status_is(PowerState::On, false)
    }

    pub(super) fn off(self) -> Self {
        self.status_is(PowerState::Off, false)
    }

    /// On, with an agent whose tunnel opened at that time.
    pub(super) fn agent_at(self, seconds: u64) -> Self {
        let mut view = self.status_is(PowerState::On, true);
        view.agent_since = Some(at(seconds));
        view
    }

    pub(super) fn powered_on_at(mut self, seconds: u64) -> Self {
        let record = self.power.get_or_insert_with(PowerOperationSpec::default);
        record.last_power_operation = PowerState::On as i32;
        record.last_power_on_timestamp = Some(at(seconds).into());
        self
    }

    pub(super) fn rebooted_at(mut self, seconds: u64, install_event_id: u64) -> Self {
        let record = self.reboot.get_or_insert_with(RebootStatusSpec::default);
        record.last_reboot_timestamp = Some(at(seconds).into());
        record.install_event_id_at_reboot = install_event_id;
        self
    }

    pub(super) fn no_bmc(mut self) -> Self {
        self.bmc = None;
        self
    }
}
