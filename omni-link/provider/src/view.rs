//! What is known of one machine.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use crate::private::{
    BmcConfigurationSpec, MachineStatusSpec, PowerOperationSpec, PowerState, RebootStatusSpec, WipeStatusSpec,
};
use crate::specs::InfraMachineSpec;
use crate::specs::infra_machine_config_spec::AcceptanceStatus;

/// The peer's `--min-reboot-interval`.
pub const DEFAULT_MIN_REBOOT_INTERVAL: Duration = Duration::from_secs(15 * 60);
/// Big servers take minutes for their memory test; whoever needs longer than this hangs.
pub const DEFAULT_BOOT_DEADLINE: Duration = Duration::from_secs(10 * 60);

/// An InfraMachine: its specification and what decisions need of its metadata.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InfraMachine {
    /// It is being removed.
    pub tearing_down: bool,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// What Omni wants.
    pub spec: InfraMachineSpec,
}

/// The operator's settings that decisions depend on.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// A reboot that a user asks for waits this long after the boot before.
    pub min_reboot_interval: Duration,
    /// A machine that we switched on gets this long to show up before its power is cycled.
    pub boot_deadline: Duration,
    /// Refuse agents that do not prove which machine they run on.
    pub fingerprint_required: bool,
    /// Labels that every machine status carries.
    pub machine_labels: BTreeMap<String, String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            min_reboot_interval: DEFAULT_MIN_REBOOT_INTERVAL,
            boot_deadline: DEFAULT_BOOT_DEADLINE,
            fingerprint_required: false,
            machine_labels: BTreeMap::new(),
        }
    }
}

/// Everything that is known of one machine; what is absent is not known (yet).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MachineView {
    /// The link is up and this is Omni's last word; false: it may have changed its mind since.
    pub fresh: bool,
    /// What Omni wants.
    pub machine: Option<InfraMachine>,
    /// How its power is controlled.
    pub bmc: Option<BmcConfigurationSpec>,
    /// Its last wipe.
    pub wipe: Option<WipeStatusSpec>,
    /// Its last power operation.
    pub power: Option<PowerOperationSpec>,
    /// Its last reboot.
    pub reboot: Option<RebootStatusSpec>,
    /// Its power state and whether its agent answers.
    pub status: Option<MachineStatusSpec>,
    /// Its inventory is recorded.
    pub inventory: bool,
    /// Since when we look at it: the start of this process, or its first appearance. Whatever it does not
    /// do counts from here at the earliest. `None`: since ever.
    pub watched_since: Option<SystemTime>,
    /// Since when the agent's present tunnel is open.
    pub agent_since: Option<SystemTime>,
    /// Where the agent's present tunnel comes from.
    pub agent_peer: Option<IpAddr>,
    /// The operator's settings.
    pub policy: Policy,
}

/// A user's decision about a machine, with the unknown kept apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Acceptance {
    /// Nobody decided yet, or Omni says something that we do not know.
    Pending,
    /// It is ours.
    Accepted,
    /// It is not ours.
    Rejected,
}

impl InfraMachine {
    /// The user's decision.
    #[must_use]
    pub fn acceptance(&self) -> Acceptance {
        match AcceptanceStatus::try_from(self.spec.acceptance_status) {
            Ok(AcceptanceStatus::Accepted) => Acceptance::Accepted,
            Ok(AcceptanceStatus::Rejected) => Acceptance::Rejected,
            Ok(AcceptanceStatus::Pending) | Err(_) => Acceptance::Pending,
        }
    }

    /// It belongs to a cluster.
    #[must_use]
    pub fn allocated(&self) -> bool {
        !self.spec.cluster_talos_version.is_empty()
    }
}

impl MachineView {
    /// A machine that nothing is known of.
    #[must_use]
    pub fn unknown() -> Self {
        Self::default()
    }

    /// The agent answers.
    #[must_use]
    pub fn agent_accessible(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.agent_accessible)
    }

    /// On or off, `None` when not known.
    #[must_use]
    pub fn powered_on(&self) -> Option<bool> {
        match self.status.as_ref()?.power_state() {
            PowerState::On => Some(true),
            PowerState::Off => Some(false),
            PowerState::Unknown => None,
        }
    }

    /// When we last switched it on or rebooted it.
    #[must_use]
    pub fn last_boot(&self) -> Option<SystemTime> {
        self.last_power_on().max(self.last_reboot())
    }

    pub(crate) fn last_power_on(&self) -> Option<SystemTime> {
        self.power.as_ref().and_then(|power| power.last_power_on_timestamp).and_then(system_time)
    }

    pub(crate) fn last_reboot(&self) -> Option<SystemTime> {
        self.reboot.as_ref().and_then(|reboot| reboot.last_reboot_timestamp).and_then(system_time)
    }

    /// Talos has run from the disk since we last switched it on or rebooted it.
    pub(crate) fn reached_talos(&self) -> bool {
        let Some(machine) = &self.machine else { return false };
        // The number only grows, so the greater one is that of the later boot, whatever the clock said then.
        let power = self.power.as_ref().filter(|_| self.last_power_on().is_some());
        let reboot = self.reboot.as_ref().filter(|_| self.last_reboot().is_some());
        let known = power
            .map(|record| record.install_event_id_at_power_on)
            .max(reboot.map(|record| record.install_event_id_at_reboot));
        known.is_some_and(|known| machine.spec.install_event_id > known)
    }

    /// The boot that we last caused was one to wipe the disks, and they are wiped.
    pub(crate) fn wiped_in_this_boot(&self) -> bool {
        let wiped_in = self.wipe.as_ref().and_then(|wipe| wipe.boot_at_wipe).and_then(system_time);
        wiped_in.is_some() && wiped_in == self.last_boot()
    }

    /// The agent came up in the boot that we last caused, or we caused none.
    pub(crate) fn reached_agent(&self) -> bool {
        self.agent_accessible()
            && match (self.agent_since, self.last_boot()) {
                (_, None) => true,
                (Some(since), Some(boot)) => since > boot,
                (None, Some(_)) => false,
            }
    }
}

/// A timestamp of the wire; one that no clock shows is none.
fn system_time(timestamp: prost_types::Timestamp) -> Option<SystemTime> {
    SystemTime::try_from(timestamp).ok()
}
