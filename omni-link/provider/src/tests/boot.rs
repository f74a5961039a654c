use super::views::*;
use crate::private::WipeStatusSpec;
use crate::reason::BootReason;
use crate::view::MachineView;
use crate::{BootMode, boot_mode, installed as is_installed, requires_wipe};

#[test]
fn every_machine_boots_what_the_rule_says() {
    use BootMode::{Agent, Disk, Talos};
    let talos = BootReason::Allocated { talos_version: "1.13.7".to_owned() };
    let rows: Vec<(&str, MachineView, BootMode, BootReason)> = vec![
        ("unknown", MachineView::unknown(), Agent, BootReason::Unknown),
        ("pending", pending(), Agent, BootReason::Pending),
        ("pending, stale", pending().stale(), Agent, BootReason::Pending),
        ("strange acceptance", pending().with(|spec| spec.acceptance_status = 9), Agent, BootReason::Pending),
        ("rejected", rejected(), Disk, BootReason::Rejected),
        ("rejected, going", rejected().tearing_down(), Disk, BootReason::Rejected),
        (
            "rejected, allocated",
            rejected().with(|spec| spec.cluster_talos_version = "1".to_owned()),
            Disk,
            BootReason::Rejected,
        ),
        ("pending, going", pending().tearing_down(), Agent, BootReason::TearingDown),
        ("installed, going", installed().tearing_down(), Agent, BootReason::TearingDown),
        ("accepted", accepted(), Agent, BootReason::NotAllocated),
        ("wiped", wiped(), Agent, BootReason::NotAllocated),
        ("allocated", allocated(), Talos, talos.clone()),
        ("allocated, stale", allocated().stale(), Talos, talos.clone()),
        ("allocated, cordoned", allocated().cordoned(), Talos, talos),
        ("allocated without power control", allocated().no_bmc(), Agent, BootReason::NoBmcConfig),
        ("installed without power control", installed().no_bmc(), Agent, BootReason::NoBmcConfig),
        (
            "allocated, to be wiped",
            allocated().with(|spec| spec.wipe_id = "new".to_owned()),
            Agent,
            BootReason::WipeDue,
        ),
        ("installed", installed(), Disk, BootReason::Installed),
        ("released", released(), Agent, BootReason::NotAllocated),
    ];
    for (name, view, mode, reason) in rows {
        assert_eq!(boot_mode(&view), (mode, reason), "{name}");
    }
}

#[test]
fn a_machine_is_installed_when_it_was_heard_of_since_the_last_wipe() {
    let wiped_at = |event: u64| WipeStatusSpec {
        initial_wipe_done: true,
        last_wipe_install_event_id: event,
        ..WipeStatusSpec::default()
    };
    let rows = [
        (MachineView::unknown(), None, false),
        (accepted(), None, false),
        (accepted().with(|spec| spec.install_event_id = 1), None, true),
        (accepted().with(|spec| spec.install_event_id = 1), Some(wiped_at(0)), true),
        (accepted().with(|spec| spec.install_event_id = 3), Some(wiped_at(3)), false),
        (accepted().with(|spec| spec.install_event_id = 2), Some(wiped_at(3)), false),
        (accepted().with(|spec| spec.install_event_id = 4), Some(wiped_at(3)), true),
    ];
    for (index, (mut view, wipe, expected)) in rows.into_iter().enumerate() {
        view.wipe = wipe;
        assert_eq!(is_installed(&view), expected, "row {index}");
    }
}

#[test]
fn disks_are_clean_only_after_the_wipe_that_is_asked_for() {
    let mut half = wiped();
    half.wipe = Some(WipeStatusSpec::default());
    let rows = [
        ("unknown", MachineView::unknown(), true),
        ("never wiped", accepted(), true),
        ("initial wipe not done", half, true),
        ("wiped", wiped(), false),
        ("asked again", wiped().with(|spec| spec.wipe_id = "second".to_owned()), true),
        ("request taken back to an older id", released().with(|spec| spec.wipe_id = String::new()), false),
    ];
    for (name, view, expected) in rows {
        assert_eq!(requires_wipe(&view), expected, "{name}");
    }
}

#[test]
fn modes_have_the_names_of_the_peer() {
    assert_eq!(BootMode::Agent.to_string(), "agent-pxe");
    assert_eq!(BootMode::Talos.to_string(), "talos-pxe");
    assert_eq!(BootMode::Disk.to_string(), "talos-disk");
}
