use super::views::*;
use crate::private::WipeStatusSpec;
use crate::reason::Reason;
use crate::view::MachineView;
use crate::{WipeAction, requires_wipe, wipe, wipe_record};

#[test]
fn disks_are_wiped_only_when_everything_says_so() {
    let rows = [
        ("unknown", MachineView::unknown(), Reason::Unknown),
        ("pending", pending(), Reason::Pending),
        ("rejected", rejected(), Reason::Rejected),
        ("going", accepted().tearing_down(), Reason::TearingDown),
        ("cordoned", accepted().cordoned(), Reason::Cordoned),
        ("clean", wiped(), Reason::NotDue),
        ("installed", installed().agent_at(0), Reason::NotDue),
        ("stale", accepted().stale(), Reason::Stale),
        ("agent away", accepted().on(), Reason::AgentAway),
        ("off", accepted().off(), Reason::AgentAway),
        ("no status", MachineView { status: None, ..accepted() }, Reason::AgentAway),
    ];
    for (name, view, reason) in rows {
        assert_eq!(wipe(&view), (WipeAction::Leave, reason), "{name}");
    }
    for view in [accepted(), accepted().no_bmc(), released().agent_at(0)] {
        let (action, reason) = wipe(&view);
        assert!(matches!(action, WipeAction::Wipe(_)));
        assert_eq!(reason, Reason::WipeDue);
    }
}

#[test]
fn the_record_of_a_wipe_ends_the_need_for_it() {
    let mut view = released().agent_at(0).with(|spec| spec.node_unique_token = "{token}".to_owned());
    let (WipeAction::Wipe(record), _) = wipe(&view) else { panic!("a wipe is due") };
    let expected = WipeStatusSpec {
        last_wipe_id: "second".to_owned(),
        last_wipe_install_event_id: 1,
        initial_wipe_done: true,
        wiped_node_unique_token: "{token}".to_owned(),
        boot_at_wipe: Some(at(0).into()),
        ..WipeStatusSpec::default()
    };
    assert_eq!(*record, expected);
    assert_eq!(*record, wipe_record(&view.machine.as_ref().unwrap().spec, Some(at(0))));
    view.wipe = Some(*record);
    assert!(!requires_wipe(&view));
    assert!(!crate::installed(&view));
}

#[test]
fn a_wipe_that_was_asked_for_while_one_ran_is_done_too() {
    let mut view = released().agent_at(0);
    let (WipeAction::Wipe(record), _) = wipe(&view) else { panic!("a wipe is due") };
    view = view.with(|spec| spec.wipe_id = "third".to_owned());
    view.wipe = Some(*record);
    assert!(matches!(wipe(&view).0, WipeAction::Wipe(_)));
}
