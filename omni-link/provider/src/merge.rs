//! Our record of an act meets another writer's: what is true of both.
//!
//! A record of ours that waited while Omni was away may find that somebody else wrote meanwhile: another
//! appliance of the same provider, or the Go provider. An act that was done stays done whoever did it, and
//! the later of two acts is the one that counts.

use std::time::SystemTime;

use crate::private::{BmcConfigurationSpec, PowerOperationSpec, RebootStatusSpec, WipeStatusSpec};
use crate::specs::InfraMachineSpec;

/// The wipe that counts: the one that Omni asks for now, else that of the later installation, else ours.
/// Taking the earlier one would wipe a machine that is in use.
#[must_use]
pub fn merge_wipe(
    ours: &WipeStatusSpec,
    theirs: &WipeStatusSpec,
    machine: &InfraMachineSpec,
) -> WipeStatusSpec {
    if !ours.initial_wipe_done || !theirs.initial_wipe_done {
        return if theirs.initial_wipe_done { theirs.clone() } else { ours.clone() };
    }
    let asked_for = |record: &WipeStatusSpec| record.last_wipe_id == machine.wipe_id;
    let theirs_count = match (asked_for(ours), asked_for(theirs)) {
        (true, false) => false,
        (false, true) => true,
        (true, true) | (false, false) => theirs.last_wipe_install_event_id > ours.last_wipe_install_event_id,
    };
    if theirs_count { theirs.clone() } else { ours.clone() }
}

/// The later power-on, and the acknowledgement of the request that stands now.
#[must_use]
pub fn merge_power(
    ours: &PowerOperationSpec,
    theirs: &PowerOperationSpec,
    machine: &InfraMachineSpec,
) -> PowerOperationSpec {
    let mut merged = ours.clone();
    if time(theirs.last_power_on_timestamp) > time(ours.last_power_on_timestamp) {
        merged.last_power_operation = theirs.last_power_operation;
        merged.last_power_on_timestamp = theirs.last_power_on_timestamp;
        merged.install_event_id_at_power_on = theirs.install_event_id_at_power_on;
    }
    if stands(&theirs.last_power_off_id, &ours.last_power_off_id, &machine.power_off_request_id) {
        merged.last_power_off_id.clone_from(&theirs.last_power_off_id);
        merged.wipe_id_at_power_off.clone_from(&theirs.wipe_id_at_power_off);
    }
    merged
}

/// The later reboot, and the request that stands now if either did it.
#[must_use]
pub fn merge_reboot(
    ours: &RebootStatusSpec,
    theirs: &RebootStatusSpec,
    machine: &InfraMachineSpec,
) -> RebootStatusSpec {
    let mut merged = ours.clone();
    if time(theirs.last_reboot_timestamp) > time(ours.last_reboot_timestamp) {
        merged.last_reboot_timestamp = theirs.last_reboot_timestamp;
        merged.install_event_id_at_reboot = theirs.install_event_id_at_reboot;
    }
    if stands(&theirs.last_reboot_id, &ours.last_reboot_id, &machine.requested_reboot_id) {
        merged.last_reboot_id.clone_from(&theirs.last_reboot_id);
    }
    merged
}

/// What a person typed in counts more than what an agent told.
#[must_use]
pub fn merge_bmc(ours: &BmcConfigurationSpec, theirs: &BmcConfigurationSpec) -> BmcConfigurationSpec {
    if theirs.manually_configured && !ours.manually_configured { theirs.clone() } else { ours.clone() }
}

/// Only theirs is the answer to the request.
fn stands(theirs: &str, ours: &str, requested: &str) -> bool {
    theirs == requested && ours != requested
}

fn time(timestamp: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    timestamp.and_then(|timestamp| SystemTime::try_from(timestamp).ok())
}
