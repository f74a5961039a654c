//! From joining to removal, and who may do what when.

use provider::resources::{LABEL_ACCEPT_PENDING, LABEL_CLUSTER, LABEL_MACHINE_SET, LABEL_ROLE_WORKER};
use provider::specs::infra_machine_config_spec::{AcceptanceStatus, MachinePowerState};
use provider::specs::{
    ClusterSpec, InfraMachineConfigSpec, InfraMachineSpec, MachineSetNodeSpec, NodeUniqueTokenSpec,
    SiderolinkSpec, infra_machine_spec,
};
use tonic::Code;

use super::site::*;
use crate::HubEventKind;
use crate::store::{Typed, pointer};
use cosi::{State as _, StateError};

fn accepted(machine: &Typed<InfraMachineSpec>) -> bool {
    machine.spec.acceptance_status == AcceptanceStatus::Accepted as i32
}

fn invalid<T: std::fmt::Debug>(result: Result<T, StateError>) -> String {
    match result {
        Err(StateError::InvalidArgument(text)) => text,
        other => panic!("not refused as invalid: {other:?}"),
    }
}

/// A machine that joined, was accepted, and whose provider says that it is ready.
async fn ready(site: &Site, machine: &str) {
    site.join(address(11), machine, &unique("aa", "one")).await;
    site.users.decide(machine, AcceptanceStatus::Accepted).await.unwrap();
    site.until::<InfraMachineSpec>(machine, accepted).await;
    site.users.report_ready(machine).await;
}

#[tokio::test]
async fn a_machine_goes_all_the_way_and_back() {
    let disk = Disk::new();
    let mut site = Site::start(&disk).await;
    ready(&site, MACHINE).await;
    let machine = site.until::<InfraMachineSpec>(MACHINE, accepted).await;
    assert_eq!(machine.label(LABEL_ACCEPT_PENDING), None);
    assert_eq!(machine.spec.wipe_id, "", "the first wipe is the provider's own");
    site.users.cluster("blue", "v1.13.8").await.unwrap();
    site.users.allocate(MACHINE, "blue").await.unwrap();
    let allocated = |machine: &Typed<InfraMachineSpec>| machine.spec.cluster_talos_version == "1.13.8";
    let machine = site.until::<InfraMachineSpec>(MACHINE, allocated).await;
    assert_eq!(machine.label(LABEL_CLUSTER), Some("blue"));
    assert_eq!(machine.label(LABEL_MACHINE_SET), Some("blue-workers"));
    assert_eq!(machine.label(LABEL_ROLE_WORKER), Some(""));
    let event =
        site.told(&HubEventKind::Allocated { cluster: String::new(), talos_version: String::new() }).await;
    assert_eq!(
        event.kind,
        HubEventKind::Allocated { cluster: "blue".to_owned(), talos_version: "1.13.8".to_owned() }
    );
    site.users.cluster("blue", "1.13.9").await.unwrap();
    site.until::<InfraMachineSpec>(MACHINE, |machine| machine.spec.cluster_talos_version == "1.13.9").await;
    site.users.release(MACHINE).await.unwrap();
    let machine = site
        .until::<InfraMachineSpec>(MACHINE, |machine| machine.spec.cluster_talos_version.is_empty())
        .await;
    assert_eq!(machine.spec.wipe_id.len(), 36);
    assert_eq!(machine.label(LABEL_CLUSTER), None);
    assert_eq!(machine.label(LABEL_ROLE_WORKER), None);
    site.gone::<MachineSetNodeSpec>(MACHINE).await;
    site.told(&HubEventKind::Released).await;
    site.users.allocate(MACHINE, "blue").await.unwrap();
    site.until::<InfraMachineSpec>(MACHINE, |machine| !machine.spec.cluster_talos_version.is_empty()).await;
    site.users.release(MACHINE).await.unwrap();
    let again = site.until::<InfraMachineSpec>(MACHINE, |now| now.spec.wipe_id != machine.spec.wipe_id).await;
    assert!(!again.spec.wipe_id.is_empty(), "each release asks for another wipe");
    site.kill().await;
}

#[tokio::test]
async fn destroying_an_allocation_is_a_release_too() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    ready(&site, MACHINE).await;
    site.users.cluster("blue", "1.13.8").await.unwrap();
    site.users.allocate(MACHINE, "blue").await.unwrap();
    site.until::<InfraMachineSpec>(MACHINE, |machine| !machine.spec.cluster_talos_version.is_empty()).await;
    site.users.state.destroy(&pointer::<MachineSetNodeSpec>(MACHINE), "").await.unwrap();
    site.until::<InfraMachineSpec>(MACHINE, |machine| !machine.spec.wipe_id.is_empty()).await;
    site.gone::<MachineSetNodeSpec>(MACHINE).await;
    site.kill().await;
}

#[tokio::test]
async fn a_rejected_machine_may_be_accepted_later_but_not_the_other_way_round() {
    let disk = Disk::new();
    let mut site = Site::start(&disk).await;
    site.join(address(11), MACHINE, &unique("aa", "one")).await;
    site.told(&HubEventKind::Pending).await;
    site.users.decide(MACHINE, AcceptanceStatus::Rejected).await.unwrap();
    site.told(&HubEventKind::Rejected).await;
    let machine = site
        .until::<InfraMachineSpec>(MACHINE, |now| {
            now.spec.acceptance_status == AcceptanceStatus::Rejected as i32
        })
        .await;
    assert_eq!(machine.label(LABEL_ACCEPT_PENDING), None);
    site.users.decide(MACHINE, AcceptanceStatus::Accepted).await.unwrap();
    site.told(&HubEventKind::Accepted).await;
    let text = invalid(site.users.decide(MACHINE, AcceptanceStatus::Rejected).await);
    assert!(text.contains("stays accepted"), "{text}");
    invalid(site.users.decide(MACHINE, AcceptanceStatus::Pending).await);
    invalid(site.users.state.destroy(&pointer::<InfraMachineConfigSpec>(MACHINE), "").await);
    invalid(site.users.state.teardown(&pointer::<InfraMachineConfigSpec>(MACHINE), "").await);
    assert!(accepted(&site.find::<InfraMachineSpec>(MACHINE).await.unwrap()));
    site.kill().await;
}

#[tokio::test]
async fn only_accepted_and_ready_machines_are_allocated() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let text = invalid(site.users.allocate(MACHINE, "blue").await);
    assert!(text.contains("cluster blue does not exist"), "{text}");
    invalid(site.users.cluster("blue", "latest").await);
    site.users.cluster("blue", "1.13.8").await.unwrap();
    let text = invalid(site.users.allocate(MACHINE, "blue").await);
    assert!(text.contains("does not exist"), "{text}");
    site.join(address(11), MACHINE, &unique("aa", "one")).await;
    site.until::<InfraMachineSpec>(MACHINE, |_| true).await;
    let text = invalid(site.users.allocate(MACHINE, "blue").await);
    assert!(text.contains("not accepted"), "{text}");
    site.users.decide(MACHINE, AcceptanceStatus::Accepted).await.unwrap();
    site.until::<InfraMachineSpec>(MACHINE, accepted).await;
    let text = invalid(site.users.allocate(MACHINE, "blue").await);
    assert!(text.contains("not ready"), "{text}");
    site.users.report_ready(MACHINE).await;
    site.users.allocate(MACHINE, "blue").await.unwrap();
    site.users.cluster("red", "1.13.8").await.unwrap();
    let twice = site.users.allocate(MACHINE, "red").await;
    assert!(matches!(twice, Err(StateError::AlreadyExists(_))), "{twice:?}");
    let text = invalid(site.users.state.destroy(&pointer::<ClusterSpec>("blue"), "").await);
    assert!(text.contains("still has 1 machine"), "{text}");
    site.users.state.destroy(&pointer::<ClusterSpec>("red"), "").await.unwrap();
    site.kill().await;
}

#[tokio::test]
async fn a_users_wishes_reach_the_provider_and_go_when_taken_back() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    ready(&site, MACHINE).await;
    let wishes = |spec: &mut InfraMachineConfigSpec| {
        spec.power_state = MachinePowerState::PowerStateOn as i32;
        spec.cordoned = true;
        spec.requested_reboot_id = "r1".to_owned();
        spec.extra_kernel_args = "a=b".to_owned();
        spec.power_off_request_id = "p1".to_owned();
    };
    site.users.configure(MACHINE, wishes).await.unwrap();
    let machine = site.until::<InfraMachineSpec>(MACHINE, |machine| machine.spec.cordoned).await.spec;
    assert_eq!(machine.preferred_power_state(), infra_machine_spec::MachinePowerState::PowerStateOn);
    assert_eq!(machine.requested_reboot_id, "r1");
    assert_eq!(machine.extra_kernel_args, "a=b");
    assert_eq!(machine.power_off_request_id, "", "a free machine is not asked to go off");
    site.users.cluster("blue", "1.13.8").await.unwrap();
    site.users.allocate(MACHINE, "blue").await.unwrap();
    site.until::<InfraMachineSpec>(MACHINE, |machine| machine.spec.power_off_request_id == "p1").await;
    let nothing = |spec: &mut InfraMachineConfigSpec| {
        let acceptance_status = AcceptanceStatus::Accepted as i32;
        *spec = InfraMachineConfigSpec { acceptance_status, ..InfraMachineConfigSpec::default() };
    };
    site.users.configure(MACHINE, nothing).await.unwrap();
    let machine = site.until::<InfraMachineSpec>(MACHINE, |machine| !machine.spec.cordoned).await.spec;
    assert_eq!(machine.preferred_power_state(), infra_machine_spec::MachinePowerState::PowerStateOff);
    assert_eq!(machine.requested_reboot_id, "");
    assert_eq!(machine.extra_kernel_args, "");
    assert_eq!(machine.power_off_request_id, "");
    site.kill().await;
}

#[tokio::test]
async fn events_count_as_installed_once_the_machine_is_accepted() {
    let disk = Disk::new();
    let mut site = Site::start(&disk).await;
    let status = site.publish(address(11), &boot_started()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown);
    assert_eq!(status.message(), "no machines found for address 127.0.0.11");
    site.join(address(11), MACHINE, &unique("aa", "one")).await;
    site.until::<InfraMachineSpec>(MACHINE, |_| true).await;
    let status = site.publish(address(11), &boot_started()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown, "not accepted yet");
    site.users.decide(MACHINE, AcceptanceStatus::Accepted).await.unwrap();
    site.until::<InfraMachineSpec>(MACHINE, accepted).await;
    site.publish(address(11), &boot_started()).await.unwrap();
    assert_eq!(site.find::<InfraMachineSpec>(MACHINE).await.unwrap().spec.install_event_id, 1);
    site.publish(address(11), &installer_reboots()).await.unwrap();
    assert_eq!(site.find::<InfraMachineSpec>(MACHINE).await.unwrap().spec.install_event_id, 2);
    site.told(&HubEventKind::Installed).await;
    let mut stopped = boot_started();
    stopped.action = 2;
    site.publish(address(11), &stopped).await.unwrap();
    let mut failed = installer_reboots();
    failed.error.as_mut().unwrap().message = "no disk".to_owned();
    site.publish(address(11), &failed).await.unwrap();
    let mut other = boot_started();
    other.sequence = "shutdown".to_owned();
    site.publish(address(11), &other).await.unwrap();
    assert_eq!(site.find::<InfraMachineSpec>(MACHINE).await.unwrap().spec.install_event_id, 2);
    let status = site.publish(address(12), &boot_started()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown, "nobody joined from there");
    site.kill().await;
}

#[tokio::test]
async fn an_address_belongs_to_who_joined_from_it_last() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    ready(&site, MACHINE).await;
    site.join(address(11), OTHER, &unique("bb", "two")).await;
    site.users.decide(OTHER, AcceptanceStatus::Accepted).await.unwrap();
    site.until::<InfraMachineSpec>(OTHER, accepted).await;
    site.publish(address(11), &boot_started()).await.unwrap();
    assert_eq!(site.find::<InfraMachineSpec>(OTHER).await.unwrap().spec.install_event_id, 1);
    assert_eq!(site.find::<InfraMachineSpec>(MACHINE).await.unwrap().spec.install_event_id, 0);
    site.kill().await;
}

#[tokio::test]
async fn a_removed_machine_waits_for_the_provider_and_comes_back_pending() {
    let disk = Disk::new();
    let mut site = Site::start(&disk).await;
    ready(&site, MACHINE).await;
    site.users.cluster("blue", "1.13.8").await.unwrap();
    site.users.allocate(MACHINE, "blue").await.unwrap();
    site.until::<InfraMachineSpec>(MACHINE, |machine| !machine.spec.cluster_talos_version.is_empty()).await;
    let infra = pointer::<InfraMachineSpec>(MACHINE);
    cosi::add_finalizer(&*site.state, &infra, "bare-metal.MachineController").await.unwrap();
    site.users.state.teardown(&pointer::<SiderolinkSpec>(MACHINE), "").await.unwrap();
    site.until::<InfraMachineSpec>(MACHINE, Typed::tearing_down).await;
    let attempt = request(MACHINE, Some(site.join_token().await), Some(&unique("aa", "one")));
    let status = site.provision(address(11), attempt.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "not while it is being removed");
    assert!(site.find::<InfraMachineConfigSpec>(MACHINE).await.is_some());
    cosi::remove_finalizer(&*site.state, &infra, "bare-metal.MachineController").await.unwrap();
    site.gone::<SiderolinkSpec>(MACHINE).await;
    site.told(&HubEventKind::Removed).await;
    assert!(site.find::<InfraMachineSpec>(MACHINE).await.is_none());
    assert!(site.find::<InfraMachineConfigSpec>(MACHINE).await.is_none());
    assert!(site.find::<NodeUniqueTokenSpec>(MACHINE).await.is_none());
    assert!(site.find::<MachineSetNodeSpec>(MACHINE).await.is_none());
    site.provision(address(11), attempt).await.unwrap();
    let machine = site.until::<InfraMachineSpec>(MACHINE, |_| true).await;
    assert_eq!(machine.spec.acceptance_status, AcceptanceStatus::Pending as i32);
    site.kill().await;
}

#[tokio::test]
async fn a_machine_may_be_accepted_before_it_joins() {
    let disk = Disk::new();
    let mut site = Site::start(&disk).await;
    site.users.decide(MACHINE, AcceptanceStatus::Accepted).await.unwrap();
    site.join(address(11), MACHINE, &unique("aa", "one")).await;
    site.told(&HubEventKind::Accepted).await;
    assert!(!site.told_so_far().contains(&HubEventKind::Pending));
    site.kill().await;
}

#[tokio::test]
async fn a_restart_keeps_secrets_and_machines() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let token = unique("aa", "one");
    let before = (site.join_token().await, site.join(address(11), MACHINE, &token).await);
    site.until::<InfraMachineSpec>(MACHINE, |_| true).await;
    site.kill().await;
    let site = Site::start(&disk).await;
    let after = (site.join_token().await, site.join(address(11), MACHINE, &token).await);
    assert_eq!(before, after);
    assert!(site.find::<InfraMachineSpec>(MACHINE).await.is_some());
    site.kill().await;
}
