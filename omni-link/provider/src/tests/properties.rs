//! What holds for any view, however odd.

use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use proptest::prelude::*;

use super::views::at;
use crate::private::bmc_configuration_spec::Api;
use crate::private::{
    BmcConfigurationSpec, MachineStatusSpec, PowerOperationSpec, RebootStatusSpec, WipeStatusSpec,
};
use crate::specs::InfraMachineSpec;
use crate::specs::infra_machine_config_spec::AcceptanceStatus;
use crate::view::{InfraMachine, MachineView};
use crate::{
    Admission, BootMode, PowerAction, RebootAction, TunnelClaim, UniqueToken, WipeAction, boot_mode, power,
    power_off_ack, ready, reboot, requires_wipe, status, tunnel_admission, wipe,
};

fn id() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), Just("one".to_owned()), Just("two".to_owned())]
}

fn time() -> impl Strategy<Value = SystemTime> {
    (0u64..3000).prop_map(at)
}

prop_compose! {
    fn spec()(
        acceptance_status in prop_oneof![4 => Just(1), 1 => -1i32..4],
        preferred_power_state in 0i32..3,
        cluster_talos_version in id(),
        wipe_id in id(),
        requested_reboot_id in id(),
        cordoned in proptest::bool::weighted(0.1),
        install_event_id in 0u64..3,
        power_off_request_id in id(),
    ) -> InfraMachineSpec {
        InfraMachineSpec {
            acceptance_status, preferred_power_state, cluster_talos_version, wipe_id, requested_reboot_id,
            cordoned, install_event_id, power_off_request_id, ..InfraMachineSpec::default()
        }
    }
}

prop_compose! {
    fn infra()(tearing_down in proptest::bool::weighted(0.1), spec in spec()) -> InfraMachine {
        InfraMachine { tearing_down, spec, ..InfraMachine::default() }
    }
}

fn bmc() -> impl Strategy<Value = BmcConfigurationSpec> {
    any::<bool>().prop_map(|driver| BmcConfigurationSpec {
        api: driver.then(|| Api { address: "10.0.0.1".to_owned() }),
        ..BmcConfigurationSpec::default()
    })
}

prop_compose! {
    fn wipe_status()(
        last_wipe_id in id(),
        event in 0u64..3,
        done in any::<bool>(),
        boot in proptest::option::of(time()),
    ) -> WipeStatusSpec {
        WipeStatusSpec {
            last_wipe_id, last_wipe_install_event_id: event, initial_wipe_done: done,
            boot_at_wipe: boot.map(Into::into),
            ..WipeStatusSpec::default()
        }
    }
}

prop_compose! {
    fn power_operation()(on in proptest::option::of(time()), off in id(), wipe in id(), event in 0u64..3)
        -> PowerOperationSpec {
        PowerOperationSpec {
            last_power_on_timestamp: on.map(Into::into), last_power_off_id: off, wipe_id_at_power_off: wipe,
            install_event_id_at_power_on: event, ..PowerOperationSpec::default()
        }
    }
}

prop_compose! {
    fn reboot_status()(last_reboot_id in id(), time in proptest::option::of(time()), event in 0u64..3)
        -> RebootStatusSpec {
        RebootStatusSpec {
            last_reboot_id, last_reboot_timestamp: time.map(Into::into), install_event_id_at_reboot: event,
        }
    }
}

prop_compose! {
    fn view()(
        fresh in any::<bool>(),
        machine in proptest::option::weighted(0.95, infra()),
        bmc in proptest::option::weighted(0.8, bmc()),
        wipe in proptest::option::of(wipe_status()),
        power in proptest::option::of(power_operation()),
        reboot in proptest::option::of(reboot_status()),
        status in proptest::option::weighted(0.9, (any::<bool>(), -1i32..4)),
        inventory in any::<bool>(),
        watched_since in proptest::option::of(time()),
        agent_since in proptest::option::of(time()),
    ) -> MachineView {
        let status = status.map(|(agent_accessible, power_state)| MachineStatusSpec {
            agent_accessible, power_state, initialized: true,
        });
        MachineView {
            fresh, machine, bmc, wipe, power, reboot, status, inventory, watched_since, agent_since,
            ..MachineView::unknown()
        }
    }
}

fn acceptance(view: &MachineView) -> Option<AcceptanceStatus> {
    AcceptanceStatus::try_from(view.machine.as_ref()?.spec.acceptance_status).ok()
}

fn untouched(view: &MachineView, now: SystemTime) -> bool {
    wipe(view).0 == WipeAction::Leave
        && power(view, now).0 == PowerAction::Leave
        && reboot(view, now).0 == RebootAction::Leave
        && power_off_ack(view).is_none()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn nothing_is_done_to_a_machine_that_is_not_accepted(view in view(), now in time()) {
        if acceptance(&view) != Some(AcceptanceStatus::Accepted) {
            prop_assert!(untouched(&view, now));
            prop_assert!(!ready(&view).0);
        }
    }

    #[test]
    fn nothing_is_done_to_a_machine_that_is_cordoned_or_going(view in view(), now in time()) {
        if view.machine.as_ref().is_some_and(|machine| machine.tearing_down || machine.spec.cordoned) {
            prop_assert!(untouched(&view, now));
        }
    }

    #[test]
    fn a_rejected_machine_boots_its_own_disk_and_no_other_unless_installed(view in view()) {
        let mode = boot_mode(&view).0;
        if acceptance(&view) == Some(AcceptanceStatus::Rejected) {
            prop_assert_eq!(mode, BootMode::Disk);
        } else if mode == BootMode::Disk {
            prop_assert!(crate::installed(&view) && !requires_wipe(&view));
        }
    }

    #[test]
    fn talos_boots_only_on_clean_disks_of_an_allocated_machine(view in view()) {
        if boot_mode(&view).0 == BootMode::Talos {
            prop_assert!(!requires_wipe(&view) && view.bmc.is_some());
            prop_assert!(view.machine.as_ref().is_some_and(InfraMachine::allocated));
        }
    }

    #[test]
    fn a_stale_view_wipes_reboots_and_switches_off_nothing(mut view in view(), now in time()) {
        view.fresh = false;
        prop_assert_eq!(wipe(&view).0, WipeAction::Leave);
        prop_assert_eq!(reboot(&view, now).0, RebootAction::Leave);
        let action = power(&view, now).0;
        prop_assert!(matches!(action, PowerAction::Leave | PowerAction::On { .. }), "{:?}", action);
    }

    #[test]
    fn a_wipe_needs_the_agent_and_ends_the_need(mut view in view()) {
        if let (WipeAction::Wipe(record), _) = wipe(&view) {
            prop_assert!(view.agent_accessible() && requires_wipe(&view));
            view.wipe = Some(*record);
            prop_assert_eq!(wipe(&view).0, WipeAction::Leave);
        }
    }

    #[test]
    fn an_emptied_reboot_request_does_nothing(mut view in view(), now in time()) {
        if let Some(machine) = &mut view.machine {
            machine.spec.requested_reboot_id.clear();
        }
        prop_assert_eq!(reboot(&view, now).0, RebootAction::Leave);
    }

    #[test]
    fn a_reboot_is_carried_out_once(mut view in view(), now in time()) {
        if reboot(&view, now).0 != RebootAction::Leave {
            let requested = view.machine.as_ref().unwrap().spec.requested_reboot_id.clone();
            view.reboot.get_or_insert_default().last_reboot_id = requested;
            prop_assert_eq!(reboot(&view, at(1_000_000)).0, RebootAction::Leave);
        }
    }

    #[test]
    fn switching_follows_from_the_power_state(view in view(), now in time()) {
        match power(&view, now).0 {
            PowerAction::On { pxe_once } => {
                prop_assert_eq!(view.powered_on(), Some(false));
                prop_assert_eq!(pxe_once, boot_mode(&view).0 != BootMode::Disk);
            }
            PowerAction::Off => {
                prop_assert_eq!(view.powered_on(), Some(true));
                prop_assert!(view.inventory && ready(&view).0 && !crate::wants_power_on(&view));
            }
            PowerAction::Cycle { .. } => prop_assert_eq!(view.powered_on(), Some(true)),
            PowerAction::Leave => {}
        }
    }

    #[test]
    fn a_machine_that_was_just_booted_is_cycled_only_when_it_showed_up(view in view(), now in time()) {
        let recent = view.last_boot().is_some_and(|boot| now < boot + view.policy.boot_deadline);
        if recent && matches!(power(&view, now).0, PowerAction::Cycle { .. }) {
            prop_assert!(view.reached_talos() || view.reached_agent());
        }
    }

    #[test]
    fn a_boot_that_was_just_recorded_is_not_repeated(mut view in view(), now in time()) {
        if matches!(power(&view, now).0, PowerAction::Cycle { .. }) {
            let event = view.machine.as_ref().unwrap().spec.install_event_id;
            let record = view.reboot.get_or_insert_default();
            record.last_reboot_timestamp = Some(now.into());
            record.install_event_id_at_reboot = event;
            let later = now + std::time::Duration::from_secs(1);
            prop_assert_eq!(power(&view, later).0, PowerAction::Leave);
        }
    }

    #[test]
    fn any_view_has_a_status_and_reasons_that_say_something(view in view(), now in time()) {
        let _ = status(&view);
        for text in [
            boot_mode(&view).1.to_string(),
            wipe(&view).1.to_string(),
            power(&view, now).1.to_string(),
            reboot(&view, now).1.to_string(),
            ready(&view).1.to_string(),
        ] {
            prop_assert!(text.len() > 5);
        }
    }

    #[test]
    fn another_fingerprint_is_never_admitted(mut view in view(), one in "[0-9a-f]{4}", other in "[0-9a-f]{4}") {
        prop_assume!(one != other && view.machine.is_some());
        let token = UniqueToken { fingerprint: one.clone(), token: "t".to_owned() };
        view.machine.as_mut().unwrap().spec.node_unique_token = token.to_json();
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let claim = |fingerprint| TunnelClaim { fingerprint: Some(fingerprint), peer };
        prop_assert!(tunnel_admission(&view, &claim(other)) != Admission::Admit);
        prop_assert_eq!(tunnel_admission(&view, &claim(one)), Admission::Admit);
    }

    #[test]
    fn any_text_is_a_unique_token_or_an_error(text in ".{0,100}") {
        let _ = UniqueToken::parse(&text);
    }
}
