use std::time::Duration;

use super::views::*;
use crate::private::{BmcConfigurationSpec, PowerOperationSpec, PowerState};
use crate::reason::Reason;
use crate::specs::infra_machine_spec::MachinePowerState;
use crate::view::MachineView;
use crate::{
    PowerAction, PowerOffAck, RebootAction, power, power_off_ack, power_off_active, reboot, wants_power_on,
};

const PXE: PowerAction = PowerAction::On { pxe_once: true };
const DISK: PowerAction = PowerAction::On { pxe_once: false };
const CYCLE: PowerAction = PowerAction::Cycle { pxe_once: true };
const LEAVE: PowerAction = PowerAction::Leave;

fn prefers_on(view: MachineView) -> MachineView {
    view.with(|spec| spec.preferred_power_state = MachinePowerState::PowerStateOn as i32)
}

fn power_off_requested(view: MachineView) -> MachineView {
    view.with(|spec| spec.power_off_request_id = "p1".to_owned())
}

fn acknowledged(view: MachineView) -> MachineView {
    let mut view = power_off_requested(view);
    let ack = power_off_ack(&view).expect("a new request");
    let record = view.power.get_or_insert_with(PowerOperationSpec::default);
    record.last_power_off_id = ack.id;
    record.wipe_id_at_power_off = ack.wipe_id;
    view
}

fn wiped_in(mut view: MachineView, boot: u64) -> MachineView {
    view.wipe.as_mut().expect("a wiped machine").boot_at_wipe = Some(at(boot).into());
    view
}

fn left(seconds: u64) -> Reason {
    Reason::Booting { left: Duration::from_secs(seconds) }
}

fn check(now: u64, rows: Vec<(&str, MachineView, PowerAction, Reason)>) {
    for (name, view, action, reason) in rows {
        assert_eq!(power(&view, at(now)), (action, reason), "{name}");
    }
}

#[test]
fn only_accepted_machines_under_control_are_switched() {
    let no_address = MachineView { bmc: Some(BmcConfigurationSpec::default()), ..allocated() };
    check(
        0,
        vec![
            ("unknown", MachineView::unknown(), LEAVE, Reason::Unknown),
            ("pending, on", pending(), LEAVE, Reason::Pending),
            ("pending, off", pending().off(), LEAVE, Reason::Pending),
            ("rejected, on", rejected(), LEAVE, Reason::Rejected),
            ("rejected, off", rejected().off(), LEAVE, Reason::Rejected),
            ("going", allocated().tearing_down(), LEAVE, Reason::TearingDown),
            ("cordoned", allocated().cordoned(), LEAVE, Reason::Cordoned),
            ("no configuration", allocated().no_bmc(), LEAVE, Reason::NoBmcConfig),
            ("no driver", no_address, LEAVE, Reason::NoPowerControl),
            ("state unknown", allocated().status_is(PowerState::Unknown, false), LEAVE, Reason::PowerUnknown),
            ("no state", MachineView { status: None, ..allocated() }, LEAVE, Reason::PowerUnknown),
        ],
    );
}

#[test]
fn a_machine_goes_on_when_it_has_something_to_do() {
    let released_off = released().off();
    check(
        0,
        vec![
            ("to be wiped", accepted().off(), PXE, Reason::WipeDue),
            ("to be wiped again", released_off, PXE, Reason::WipeDue),
            ("allocated", allocated(), PXE, Reason::Allocated),
            ("installed", installed().off(), DISK, Reason::Allocated),
            ("allocated, stale", allocated().stale(), PXE, Reason::Allocated),
            ("preferred", prefers_on(idle()), PXE, Reason::PreferredOn),
            ("idle", idle(), LEAVE, Reason::Idle),
        ],
    );
}

#[test]
fn a_machine_goes_off_as_soon_as_nothing_is_left_to_do() {
    let no_inventory = MachineView { inventory: false, ..wiped() };
    check(
        1,
        vec![
            (
                "wiped a second after power-on",
                wiped().powered_on_at(0),
                PowerAction::Off,
                Reason::NothingLeftToDo,
            ),
            ("wiped, agent gone", wiped().on(), PowerAction::Off, Reason::NothingLeftToDo),
            ("inventory missing", no_inventory, LEAVE, Reason::WaitingForInventory),
            ("stale", wiped().stale(), LEAVE, Reason::Stale),
            ("preferred on", prefers_on(wiped()), LEAVE, Reason::PreferredOn),
            ("being wiped", accepted(), LEAVE, Reason::WipeDue),
            ("installed", installed(), LEAVE, Reason::Allocated),
        ],
    );
}

#[test]
fn the_agent_has_until_the_boot_deadline_to_show_up() {
    let booted = || accepted().on().powered_on_at(0);
    let rebooted = || accepted().on().powered_on_at(0).rebooted_at(5 * MINUTE, 0);
    let deadline = Duration::from_secs(10 * MINUTE);
    for (now, view, action, reason) in [
        (0, booted(), LEAVE, left(600)),
        (599, booted(), LEAVE, left(1)),
        (600, booted(), CYCLE, Reason::BootDeadlinePassed { after: deadline }),
        (600, rebooted(), LEAVE, left(300)),
        (900, rebooted(), CYCLE, Reason::BootDeadlinePassed { after: deadline }),
        (900, rebooted().stale(), LEAVE, Reason::Stale),
    ] {
        assert_eq!(power(&view, at(now)), (action, reason), "at {now}");
    }
}

#[test]
fn what_we_have_not_watched_for_long_is_not_cycled() {
    let mut view = accepted().on();
    assert_eq!(power(&view, at(0)).0, CYCLE, "watched since ever");
    view.watched_since = Some(at(0));
    assert_eq!(power(&view, at(599)), (LEAVE, left(1)));
    assert_eq!(power(&view, at(600)).0, CYCLE);
    view = view.powered_on_at(0);
    view.watched_since = Some(at(500));
    assert_eq!(power(&view, at(600)), (LEAVE, left(500)), "we were restarted while it booted");
}

#[test]
fn a_clock_that_was_set_back_cycles_nothing() {
    let view = accepted().on().powered_on_at(10_000);
    assert_eq!(power(&view, at(0)), (LEAVE, left(600)));
}

#[test]
fn a_released_machine_that_runs_talos_is_cycled_at_once_and_once() {
    assert_eq!(power(&released(), at(30)), (CYCLE, Reason::AgentWanted));
    let cycled = released().rebooted_at(30, 1);
    assert_eq!(power(&cycled, at(31)), (LEAVE, left(599)));
    assert_eq!(power(&cycled.clone().agent_at(90), at(91)), (LEAVE, Reason::WipeDue));
    let back_in_talos = cycled.with(|spec| spec.install_event_id = 2);
    assert_eq!(power(&back_in_talos, at(120)), (CYCLE, Reason::AgentWanted), "it booted its disk");
}

#[test]
fn a_machine_that_nobody_booted_is_given_the_deadline() {
    let mut view = released();
    view.power = None;
    view.watched_since = Some(at(0));
    assert_eq!(power(&view, at(30)), (LEAVE, left(570)));
}

#[test]
fn an_allocated_machine_that_runs_the_agent_boots_talos() {
    let rows = [
        ("never booted by us", allocated().agent_at(0), 1, CYCLE, Reason::TalosWanted),
        ("the agent of this boot", allocated().powered_on_at(0).agent_at(20), 21, CYCLE, Reason::TalosWanted),
        ("a tunnel that outlived its boot", allocated().powered_on_at(30).agent_at(20), 31, LEAVE, left(599)),
        (
            "rebooted for Talos, came back in the agent",
            allocated().powered_on_at(0).rebooted_at(30, 0).agent_at(60),
            61,
            LEAVE,
            left(569),
        ),
        (
            "and again after the deadline",
            allocated().powered_on_at(0).rebooted_at(30, 0).agent_at(60),
            630,
            CYCLE,
            Reason::TalosWanted,
        ),
        (
            "allocated right after the wipe that it was rebooted for",
            wiped_in(allocated().powered_on_at(0).rebooted_at(30, 0).agent_at(60), 30),
            61,
            CYCLE,
            Reason::TalosWanted,
        ),
        (
            "wiped in an earlier boot",
            wiped_in(allocated().powered_on_at(0).rebooted_at(30, 0).agent_at(60), 0),
            61,
            LEAVE,
            left(569),
        ),
        ("Talos boots", allocated().on().powered_on_at(0), 10_000, LEAVE, Reason::TalosBooting),
    ];
    for (name, view, now, action, reason) in rows {
        assert_eq!(power(&view, at(now)), (action, reason), "{name}");
    }
}

#[test]
fn a_power_off_request_keeps_the_machine_off_until_the_next_wipe() {
    let view = power_off_requested(installed().off());
    assert_eq!(power(&view, at(0)), (LEAVE, Reason::PowerOffRequested), "even before it is acknowledged");
    assert!(!power_off_active(&view));
    let ack = PowerOffAck { id: "p1".to_owned(), wipe_id: String::new() };
    assert_eq!(power_off_ack(&view), Some(ack));
    let view = acknowledged(installed().off());
    assert!(power_off_active(&view));
    assert_eq!(power_off_ack(&view), None);
    assert_eq!(power(&view, at(0)), (LEAVE, Reason::PowerOffRequested));
    let released = view.clone().with(|spec| spec.wipe_id = "new".to_owned());
    assert!(!power_off_active(&released));
    assert_eq!(power_off_ack(&released), None, "the same request is not honoured twice");
    assert_eq!(power(&released, at(0)), (PXE, Reason::WipeDue));
    let taken_back = view.with(|spec| spec.power_off_request_id.clear());
    assert!(!power_off_active(&taken_back));
    assert_eq!(power(&taken_back, at(0)), (DISK, Reason::Allocated));
}

#[test]
fn power_off_requests_of_machines_that_are_not_ours_are_not_acknowledged() {
    for view in [pending(), rejected(), accepted().cordoned(), accepted().tearing_down()] {
        assert_eq!(power_off_ack(&power_off_requested(view)), None);
    }
    assert_eq!(power_off_ack(&accepted()), None, "no request");
}

#[test]
fn wanting_power_is_having_something_to_do() {
    let rows = [
        (MachineView::unknown(), false),
        (idle(), false),
        (accepted(), true),
        (allocated(), true),
        (installed(), true),
        (idle().with(|spec| spec.install_event_id = 1), true),
    ];
    for (index, (view, expected)) in rows.into_iter().enumerate() {
        assert_eq!(wants_power_on(&view), expected, "row {index}");
    }
}

fn reboot_requested(view: MachineView) -> MachineView {
    view.with(|spec| spec.requested_reboot_id = "r1".to_owned())
}

fn reboot_done(view: MachineView) -> MachineView {
    let mut view = reboot_requested(view);
    view.reboot.get_or_insert_default().last_reboot_id = "r1".to_owned();
    view
}

#[test]
fn a_reboot_happens_once_when_asked_for_and_not_too_soon() {
    const NO: RebootAction = RebootAction::Leave;
    let from_disk = RebootAction::Reboot { pxe_once: false };
    let by_network = RebootAction::Reboot { pxe_once: true };
    let too_soon = |seconds| Reason::TooSoon { left: Duration::from_secs(seconds) };
    let taken_back = reboot_done(installed()).with(|spec| spec.requested_reboot_id.clear());
    let rows = [
        ("unknown", MachineView::unknown(), 0, NO, Reason::Unknown),
        ("pending", reboot_requested(pending()), 0, NO, Reason::Pending),
        ("rejected", reboot_requested(rejected()), 0, NO, Reason::Rejected),
        ("going", reboot_requested(installed()).tearing_down(), 0, NO, Reason::TearingDown),
        ("cordoned", reboot_requested(installed()).cordoned(), 0, NO, Reason::Cordoned),
        ("no request", installed(), 10_000, NO, Reason::NoRequest),
        ("taken back", taken_back, 10_000, NO, Reason::NoRequest),
        ("done", reboot_done(installed()), 10_000, NO, Reason::RequestDone),
        ("no power control", reboot_requested(installed()).no_bmc(), 10_000, NO, Reason::NoBmcConfig),
        ("stale", reboot_requested(installed()).stale(), 10_000, NO, Reason::Stale),
        (
            "state unknown",
            reboot_requested(installed()).status_is(PowerState::Unknown, false),
            10_000,
            NO,
            Reason::PowerUnknown,
        ),
        (
            "off",
            reboot_requested(installed()).off(),
            10_000,
            RebootAction::Acknowledge,
            Reason::RebootWhileOff,
        ),
        ("just booted", reboot_requested(installed()), 60, NO, too_soon(840)),
        ("just rebooted", reboot_requested(installed()).rebooted_at(500, 1), 900, NO, too_soon(500)),
        ("at the interval", reboot_requested(installed()), 900, from_disk, Reason::RebootRequested),
        (
            "another request",
            reboot_done(installed()).with(|spec| spec.requested_reboot_id = "r2".to_owned()),
            900,
            from_disk,
            Reason::RebootRequested,
        ),
        ("in the agent", reboot_requested(accepted()), 0, by_network, Reason::RebootRequested),
    ];
    for (name, view, now, action, reason) in rows {
        assert_eq!(reboot(&view, at(now)), (action, reason), "{name}");
    }
}
