use std::collections::BTreeMap;

use super::views::*;
use crate::private::{PowerOperationSpec, PowerState, RebootStatusSpec};
use crate::reason::Reason;
use crate::specs::InfraMachineStatusSpec;
use crate::specs::infra_machine_status_spec::MachinePowerState;
use crate::view::MachineView;
use crate::{ready, status, status_labels};

#[test]
fn ready_means_under_control_and_clean() {
    let rows = [
        (MachineView::unknown(), false, Reason::Unknown),
        (pending(), false, Reason::Pending),
        (rejected(), false, Reason::Rejected),
        (accepted(), false, Reason::WipeDue),
        (accepted().no_bmc(), false, Reason::NoBmcConfig),
        (wiped().no_bmc(), false, Reason::NoBmcConfig),
        (wiped(), true, Reason::Ready),
        (idle(), true, Reason::Ready),
        (installed(), true, Reason::Ready),
        (released(), false, Reason::WipeDue),
    ];
    for (index, (view, expected, reason)) in rows.into_iter().enumerate() {
        assert_eq!(ready(&view), (expected, reason), "row {index}");
    }
}

#[test]
fn power_states_are_reported_as_they_are() {
    let rows = [
        (PowerState::Unknown, MachinePowerState::PowerStateUnknown),
        (PowerState::Off, MachinePowerState::PowerStateOff),
        (PowerState::On, MachinePowerState::PowerStateOn),
    ];
    for (known, reported) in rows {
        assert_eq!(status(&accepted().status_is(known, false)).power_state(), reported);
    }
    assert_eq!(status(&MachineView::unknown()), InfraMachineStatusSpec::default());
}

#[test]
fn the_whole_status_follows_from_the_records() {
    let mut view = installed().with(|spec| spec.power_off_request_id = "p1".to_owned());
    view.reboot = Some(RebootStatusSpec {
        last_reboot_id: "r1".to_owned(),
        last_reboot_timestamp: Some(at(7).into()),
        install_event_id_at_reboot: 0,
    });
    view.wipe.as_mut().unwrap().wiped_node_unique_token = "{token}".to_owned();
    view.power = Some(PowerOperationSpec { last_power_off_id: "p1".to_owned(), ..Default::default() });
    let expected = InfraMachineStatusSpec {
        power_state: MachinePowerState::PowerStateOn as i32,
        ready_to_use: true,
        last_reboot_id: "r1".to_owned(),
        last_reboot_timestamp: Some(at(7).into()),
        installed: true,
        wiped_node_unique_token: "{token}".to_owned(),
        last_power_off_id: "p1".to_owned(),
    };
    assert_eq!(status(&view), expected);
    view.power.as_mut().unwrap().wipe_id_at_power_off = "another".to_owned();
    assert_eq!(status(&view).last_power_off_id, "", "a wipe ended the request");
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn labels_are_the_operators_the_allocations_and_omnis_own() {
    let mut view = installed();
    view.policy.machine_labels = labels(&[("rack", "7")]);
    view.machine.as_mut().unwrap().labels = labels(&[
        ("omni.sidero.dev/cluster", "blue"),
        ("omni.sidero.dev/role-worker", ""),
        ("omni.sidero.dev/infra-provider-id", "bare-metal"),
    ]);
    let existing = labels(&[
        ("omni.sidero.dev/infra-provider-id", "bare-metal"),
        ("omni.sidero.dev/cluster", "red"),
        ("omni.sidero.dev/role-controlplane", ""),
        ("old", "label"),
    ]);
    let expected = labels(&[
        ("rack", "7"),
        ("omni.sidero.dev/infra-provider-id", "bare-metal"),
        ("omni.sidero.dev/cluster", "blue"),
        ("omni.sidero.dev/role-worker", ""),
    ]);
    assert_eq!(status_labels(&view, &existing), expected);
    assert_eq!(status_labels(&view, &expected), expected, "it settles");
}
