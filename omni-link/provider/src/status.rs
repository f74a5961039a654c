//! What the provider reports of a machine.

use std::collections::BTreeMap;

use crate::boot::{installed, requires_wipe};
use crate::power::power_off_active;
use crate::reason::Reason;
use crate::resources::{ALLOCATION_LABELS, SYSTEM_LABEL_PREFIX};
use crate::specs::InfraMachineStatusSpec;
use crate::specs::infra_machine_status_spec::MachinePowerState;
use crate::view::{Acceptance, MachineView};

/// Whether Omni may allocate the machine, and why (not).
#[must_use]
pub fn ready(view: &MachineView) -> (bool, Reason) {
    let Some(machine) = &view.machine else { return (false, Reason::Unknown) };
    match machine.acceptance() {
        Acceptance::Rejected => return (false, Reason::Rejected),
        Acceptance::Pending => return (false, Reason::Pending),
        Acceptance::Accepted => {}
    }
    if view.bmc.is_none() {
        (false, Reason::NoBmcConfig)
    } else if requires_wipe(view) {
        (false, Reason::WipeDue)
    } else {
        (true, Reason::Ready)
    }
}

/// The machine's status as Omni is told.
#[must_use]
pub fn status(view: &MachineView) -> InfraMachineStatusSpec {
    let power_state = match view.powered_on() {
        Some(true) => MachinePowerState::PowerStateOn,
        Some(false) => MachinePowerState::PowerStateOff,
        None => MachinePowerState::PowerStateUnknown,
    };
    let last_power_off_id = match &view.power {
        Some(power) if power_off_active(view) => power.last_power_off_id.clone(),
        Some(_) | None => String::new(),
    };
    let (last_reboot_id, last_reboot_timestamp) = match &view.reboot {
        Some(reboot) => (reboot.last_reboot_id.clone(), reboot.last_reboot_timestamp),
        None => (String::new(), None),
    };
    InfraMachineStatusSpec {
        power_state: power_state as i32,
        ready_to_use: ready(view).0,
        last_reboot_id,
        last_reboot_timestamp,
        installed: installed(view),
        wiped_node_unique_token: view
            .wipe
            .as_ref()
            .map(|wipe| wipe.wiped_node_unique_token.clone())
            .unwrap_or_default(),
        last_power_off_id,
    }
}

/// The labels of the machine's status, given those it has: Omni's own stay, the allocation's are copied, the
/// operator's are what they are configured to be.
#[must_use]
pub fn status_labels(view: &MachineView, existing: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = existing
        .iter()
        .filter(|(key, _)| key.starts_with(SYSTEM_LABEL_PREFIX))
        .filter(|(key, _)| !ALLOCATION_LABELS.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    for (key, value) in &view.policy.machine_labels {
        labels.insert(key.clone(), value.clone());
    }
    let Some(machine) = &view.machine else { return labels };
    for key in ALLOCATION_LABELS {
        if let Some(value) = machine.labels.get(key) {
            labels.insert(key.to_owned(), value.clone());
        }
    }
    labels
}
