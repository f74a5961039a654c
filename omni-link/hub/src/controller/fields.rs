//! The fields of an InfraMachine as a function of what is known; no I/O.

use std::collections::BTreeMap;

use cosi::{Metadata, Version};
use provider::resources::{ALLOCATION_LABELS, LABEL_ACCEPT_PENDING, LABEL_CLUSTER, LABEL_INFRA_PROVIDER_ID};
use provider::specs::infra_machine_config_spec::{AcceptanceStatus, MachinePowerState as Wanted};
use provider::specs::infra_machine_spec::MachinePowerState;
use provider::specs::{InfraMachineConfigSpec, InfraMachineSpec};
use uuid::Uuid;

use crate::HubEventKind;

/// Everything that an InfraMachine is made of.
pub(super) struct Wishes {
    pub(super) provider: String,
    /// The machine's unique token.
    pub(super) token: String,
    pub(super) config: Option<InfraMachineConfigSpec>,
    /// The machine's allocation: whether it stands, and its labels.
    pub(super) node: Option<(bool, BTreeMap<String, String>)>,
    /// Of the allocation's cluster, when that exists.
    pub(super) talos_version: Option<String>,
}

impl Wishes {
    /// The allocation ends: it is there only until the release is written.
    pub(super) fn released(&self) -> bool {
        self.node.as_ref().is_some_and(|(stands, _)| !stands)
    }
}

/// Writes the wishes into the resource. Answers what a user would call a change.
pub(super) fn apply(
    wishes: &Wishes,
    metadata: &mut Metadata,
    spec: &mut InfraMachineSpec,
) -> Vec<HubEventKind> {
    let mut changes = Vec::new();
    metadata.labels.insert(LABEL_INFRA_PROVIDER_ID.to_owned(), wishes.provider.clone());
    spec.node_unique_token.clone_from(&wishes.token);
    let new = metadata.version == Version::Undefined;
    acceptance(wishes, metadata, spec, new, &mut changes);
    allocation(wishes, metadata, spec, &mut changes);
    configuration(wishes, spec);
    changes
}

fn acceptance(
    wishes: &Wishes,
    metadata: &mut Metadata,
    spec: &mut InfraMachineSpec,
    new: bool,
    changes: &mut Vec<HubEventKind>,
) {
    let before = spec.acceptance_status;
    let wanted =
        wishes.config.as_ref().map_or(AcceptanceStatus::Pending, InfraMachineConfigSpec::acceptance_status);
    // Accepted is final, whatever became of the configuration.
    if before != AcceptanceStatus::Accepted as i32 {
        spec.acceptance_status = wanted as i32;
    }
    if spec.acceptance_status == AcceptanceStatus::Pending as i32 {
        metadata.labels.insert(LABEL_ACCEPT_PENDING.to_owned(), String::new());
    } else {
        metadata.labels.remove(LABEL_ACCEPT_PENDING);
    }
    if new || spec.acceptance_status != before {
        changes.push(match spec.acceptance_status() {
            AcceptanceStatus::Pending => HubEventKind::Pending,
            AcceptanceStatus::Accepted => HubEventKind::Accepted,
            AcceptanceStatus::Rejected => HubEventKind::Rejected,
        });
    }
}

fn allocation(
    wishes: &Wishes,
    metadata: &mut Metadata,
    spec: &mut InfraMachineSpec,
    changes: &mut Vec<HubEventKind>,
) {
    let stands = wishes.node.as_ref().and_then(|(stands, labels)| stands.then_some(labels));
    let now = metadata.labels.get(LABEL_CLUSTER);
    let moved = stands.is_some_and(|labels| now.is_some() && labels.get(LABEL_CLUSTER) != now);
    if (stands.is_none() || moved) && !spec.cluster_talos_version.is_empty() {
        spec.cluster_talos_version.clear();
        spec.extensions.clear();
        spec.wipe_id = Uuid::new_v4().to_string();
        changes.push(HubEventKind::Released);
    }
    for key in ALLOCATION_LABELS {
        match stands.and_then(|labels| labels.get(key)) {
            Some(value) => metadata.labels.insert(key.to_owned(), value.clone()),
            None => metadata.labels.remove(key),
        };
    }
    let accepted = spec.acceptance_status == AcceptanceStatus::Accepted as i32;
    let (Some(labels), Some(version), true) = (stands, &wishes.talos_version, accepted) else { return };
    let version = version.trim_start_matches('v');
    if spec.cluster_talos_version != version {
        version.clone_into(&mut spec.cluster_talos_version);
        changes.push(HubEventKind::Allocated {
            cluster: labels.get(LABEL_CLUSTER).cloned().unwrap_or_default(),
            talos_version: version.to_owned(),
        });
    }
}

fn configuration(wishes: &Wishes, spec: &mut InfraMachineSpec) {
    let config = wishes.config.clone().unwrap_or_default();
    spec.preferred_power_state = match config.power_state() {
        Wanted::PowerStateOn => MachinePowerState::PowerStateOn,
        Wanted::PowerStateOff | Wanted::PowerStateDefault => MachinePowerState::PowerStateOff,
    } as i32;
    spec.cordoned = config.cordoned;
    spec.power_off_request_id = if spec.cluster_talos_version.is_empty() {
        // A free machine is off anyway; what was asked of its last use is void.
        String::new()
    } else {
        config.power_off_request_id
    };
    spec.requested_reboot_id = config.requested_reboot_id;
    spec.extra_kernel_args = config.extra_kernel_args;
}
