use crate::private::{BmcConfigurationSpec, PowerOperationSpec, RebootStatusSpec, WipeStatusSpec};
use crate::specs::InfraMachineSpec;
use crate::view::{InfraMachine, MachineView};
use crate::{merge_bmc, merge_power, merge_reboot, merge_wipe, requires_wipe};

fn wiped_for(id: &str, event: u64) -> WipeStatusSpec {
    WipeStatusSpec {
        last_wipe_id: id.to_owned(),
        last_wipe_install_event_id: event,
        initial_wipe_done: true,
        ..WipeStatusSpec::default()
    }
}

fn asks_for(wipe_id: &str) -> InfraMachineSpec {
    InfraMachineSpec { wipe_id: wipe_id.to_owned(), ..InfraMachineSpec::default() }
}

fn seconds(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

#[test]
fn the_wipe_that_omni_asks_for_counts_whoever_did_it() {
    let rows = [
        ("ours is asked for", wiped_for("b", 1), wiped_for("a", 5), "b", true),
        ("theirs is asked for", wiped_for("a", 5), wiped_for("b", 1), "b", false),
        ("both, theirs later", wiped_for("a", 1), wiped_for("a", 2), "a", false),
        ("both, ours later", wiped_for("a", 2), wiped_for("a", 1), "a", true),
        ("neither, theirs later", wiped_for("a", 1), wiped_for("b", 2), "c", false),
        ("both the same", wiped_for("a", 1), wiped_for("a", 1), "a", true),
        ("theirs is no wipe", wiped_for("a", 1), WipeStatusSpec::default(), "", true),
        ("ours is no wipe", WipeStatusSpec::default(), wiped_for("a", 1), "", false),
    ];
    for (name, ours, theirs, asked, ours_count) in rows {
        let expected = if ours_count { &ours } else { &theirs };
        assert_eq!(merge_wipe(&ours, &theirs, &asks_for(asked)), *expected, "{name}");
    }
}

#[test]
fn a_merge_never_asks_for_a_wipe_that_either_writer_did() {
    for ours in ["a", "b", ""] {
        for theirs in ["a", "b", ""] {
            let machine = asks_for("a");
            let merged = merge_wipe(&wiped_for(ours, 1), &wiped_for(theirs, 1), &machine);
            let view = MachineView {
                machine: Some(InfraMachine { spec: machine, ..InfraMachine::default() }),
                wipe: Some(merged),
                ..MachineView::unknown()
            };
            assert_eq!(requires_wipe(&view), ours != "a" && theirs != "a", "{ours:?} {theirs:?}");
        }
    }
}

#[test]
fn the_later_power_on_and_the_standing_request_count() {
    let record = |at, off: &str| PowerOperationSpec {
        last_power_on_timestamp: seconds(at),
        last_power_off_id: off.to_owned(),
        wipe_id_at_power_off: off.to_owned(),
        install_event_id_at_power_on: at.unsigned_abs(),
        ..PowerOperationSpec::default()
    };
    let machine = InfraMachineSpec { power_off_request_id: "now".to_owned(), ..InfraMachineSpec::default() };
    let merged = merge_power(&record(1, "old"), &record(2, "now"), &machine);
    assert_eq!(merged, record(2, "now"));
    let merged = merge_power(&record(2, "now"), &record(1, "old"), &machine);
    assert_eq!(merged, record(2, "now"));
    let merged = merge_power(&record(1, "now"), &record(2, "old"), &machine);
    assert_eq!((merged.last_power_on_timestamp, merged.last_power_off_id.as_str()), (seconds(2), "now"));
}

#[test]
fn a_reboot_that_either_did_is_not_done_again() {
    let record = |at, id: &str| RebootStatusSpec {
        last_reboot_timestamp: seconds(at),
        last_reboot_id: id.to_owned(),
        ..RebootStatusSpec::default()
    };
    let machine = InfraMachineSpec { requested_reboot_id: "now".to_owned(), ..InfraMachineSpec::default() };
    for (ours, theirs) in [("now", "old"), ("old", "now"), ("now", "now")] {
        let merged = merge_reboot(&record(5, ours), &record(3, theirs), &machine);
        assert_eq!(merged, record(5, "now"), "{ours} {theirs}");
    }
}

#[test]
fn what_a_person_typed_in_stays() {
    let manual = BmcConfigurationSpec { manually_configured: true, ..BmcConfigurationSpec::default() };
    let told = BmcConfigurationSpec::default();
    assert_eq!(merge_bmc(&told, &manual), manual);
    assert_eq!(merge_bmc(&manual, &told), manual);
}
