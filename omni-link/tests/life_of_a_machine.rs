//! The controller against a real store, a real tunnel over loopback and a real HTTP power API: accepted,
//! wiped, switched off, allocated, switched on. The agent and the BMC are fakes that misbehave on order.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/site.rs"]
mod site;

use std::sync::atomic::Ordering;

use omni_link::Happening;
use provider::private::MachineStatusSpec;
use provider::resources::{INFRA_MACHINE_OWNER, PrivateSpec, ResourceSpec, private_namespace};
use provider::specs::InfraMachineSpec;
use provider::specs::infra_machine_config_spec::AcceptanceStatus;
use provider::specs::infra_machine_status_spec::MachinePowerState;

use cosi::{Kind, Pointer, Resource, State as _};
use site::{Agent, FINGERPRINT, ID, LIMIT, Site, token};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accepted_machine_is_wiped_once_switched_off_and_switched_on_when_allocated() {
    let site = Site::new().await;
    let link = site.link().await;
    site.write(|spec| spec.node_unique_token = token()).await;
    link.dial(&site.agent, FINGERPRINT);
    link.until("held", |machine| {
        machine.infra.as_ref().is_some_and(|infra| !infra.metadata.finalizers.is_empty())
    })
    .await;
    assert_eq!(site.agent.wipes.load(Ordering::SeqCst), 0, "nothing is wiped before acceptance");

    site.update(|spec| spec.acceptance_status = AcceptanceStatus::Accepted as i32).await;
    link.until_status("ready", |status| status.ready_to_use).await;
    link.until_status("off", |status| status.power_state() == MachinePowerState::PowerStateOff).await;
    assert_eq!(site.agent.wipes.load(Ordering::SeqCst), 1);
    assert_eq!(*site.bmc.log.lock().unwrap(), ["poweroff"]);
    let wiped = link.view.machine(ID).unwrap().status.as_ref().unwrap().spec.wiped_node_unique_token.clone();
    assert_eq!(wiped, token(), "a wiped machine may join with a new token");

    site.update(|spec| spec.cluster_talos_version = "1.13.9".into()).await;
    link.until_status("on", |status| status.power_state() == MachinePowerState::PowerStateOn).await;
    assert_eq!(*site.bmc.log.lock().unwrap(), ["poweroff", "pxeboot", "poweron"]);

    site.update(|spec| spec.install_event_id = 1).await;
    link.until_status("installed", |status| status.installed).await;
    assert_eq!(site.agent.wipes.load(Ordering::SeqCst), 1);
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wipe_that_fails_is_tried_again_and_told_once() {
    let site = Site::new().await;
    site.agent.fail_wipes.store(2, Ordering::SeqCst);
    let link = site.link().await;
    site.accept().await;
    link.dial(&site.agent, FINGERPRINT);
    link.until_status("ready", |status| status.ready_to_use).await;
    assert_eq!(site.agent.wipes.load(Ordering::SeqCst), 1);
    let failures =
        site.news().into_iter().filter(|news| matches!(news, Happening::WipeFailed { .. })).count();
    assert_eq!(failures, 1);
    assert_eq!(site.happened(&Happening::WipeStarted), 1, "{:?}", site.news());
    // The next one is another wipe: off as it is unused, it is switched on, and its agent dials anew.
    site.until_news(&Happening::PowerOff).await;
    site.update(|spec| spec.wipe_id = "released".into()).await;
    site.until_news(&Happening::PowerOn { pxe: true }).await;
    link.dial(&site.agent, FINGERPRINT);
    site.until_told("wiped anew", |_| site.happened(&Happening::WipeStarted) == 2).await;
    link.until("wiped anew", |_| site.agent.wipes.load(Ordering::SeqCst) == 2).await;
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bmc_that_fails_delays_and_loses_nothing() {
    let site = Site::new().await;
    site.bmc.fail.store(2, Ordering::SeqCst);
    let link = site.link().await;
    site.accept().await;
    link.dial(&site.agent, FINGERPRINT);
    link.until_status("off", |status| status.power_state() == MachinePowerState::PowerStateOff).await;
    assert_eq!(*site.bmc.log.lock().unwrap(), ["poweroff"]);
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_where_it_was() {
    let site = Site::new().await;
    let link = site.link().await;
    site.accept().await;
    link.dial(&site.agent, FINGERPRINT);
    link.until("wiped", |machine| machine.wipe.is_some()).await;
    link.stop().await;

    let link = site.link().await;
    link.dial(&site.agent, FINGERPRINT);
    link.until_status("off", |status| status.power_state() == MachinePowerState::PowerStateOff).await;
    assert_eq!(site.agent.wipes.load(Ordering::SeqCst), 1, "a done wipe is not done again");
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_machine_with_the_same_uuid_is_refused_and_never_wiped() {
    let site = Site::new().await;
    let link = site.link().await;
    site.accept().await;
    link.until("known", |machine| machine.infra.is_some()).await;
    let impostor = Agent::default();
    let refused =
        tokio::time::timeout(LIMIT, link.dial(&impostor, "bb")).await.expect("is told at once").unwrap();
    assert!(!matches!(&refused, Ok(ended) if ended.reason.is_empty()), "{refused:?}");
    link.dial(&site.agent, FINGERPRINT);
    link.until_status("ready", |status| status.ready_to_use).await;
    assert_eq!(impostor.wipes.load(Ordering::SeqCst), 0);
    assert_eq!(site.agent.wipes.load(Ordering::SeqCst), 1);
    assert!(site.news().iter().any(|news| matches!(news, Happening::TunnelRefused { .. })));
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_machine_is_never_touched() {
    let site = Site::new().await;
    let link = site.link().await;
    site.write(|spec| spec.node_unique_token = token()).await;
    link.dial(&site.agent, FINGERPRINT);
    site.update(|spec| spec.acceptance_status = AcceptanceStatus::Rejected as i32).await;
    link.until("rejected", |machine| {
        machine.infra.as_ref().unwrap().spec.acceptance_status() == AcceptanceStatus::Rejected
    })
    .await;
    // An accepted neighbour would have been wiped by the time that this one's agent has answered.
    link.until("asked", |machine| {
        machine.infra.as_ref().is_some_and(|infra| !infra.metadata.finalizers.is_empty())
    })
    .await;
    link.stop().await;
    assert_eq!(site.agent.wipes.load(Ordering::SeqCst), 0);
    assert!(site.bmc.log.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removal_takes_our_records_before_our_finalizer() {
    let site = Site::new().await;
    let link = site.link().await;
    site.accept().await;
    link.dial(&site.agent, FINGERPRINT);
    link.until_status("ready", |status| status.ready_to_use).await;
    // Of the Go provider that had the machine before.
    let left =
        Pointer::new(private_namespace("bare-metal"), MachineStatusSpec::resource_type("bare-metal"), ID);
    let mut record = Resource::empty(&left).with_spec(&MachineStatusSpec::default());
    record.insert_finalizer("bare-metal.PowerOperationController");
    site.state.create(record, "bare-metal.MachineStatusController").await.unwrap();
    let pointer = Kind::new(InfraMachineSpec::NAMESPACE, InfraMachineSpec::TYPE).pointer(ID);
    assert!(!site.state.teardown(&pointer, INFRA_MACHINE_OWNER).await.unwrap(), "our finalizer holds it");
    link.until("let go", |machine| {
        machine.status.is_none()
            && machine.infra.as_ref().is_some_and(|infra| infra.metadata.finalizers.is_empty())
    })
    .await;
    assert!(site.state.get(&left).await.unwrap_err().is_not_found(), "the peer's record is gone, too");
    site.state.destroy(&pointer, INFRA_MACHINE_OWNER).await.unwrap();
    let mut generation = link.view.generation();
    tokio::time::timeout(LIMIT, async {
        while link.view.machine(ID).is_some() {
            generation.changed().await.unwrap();
        }
    })
    .await
    .expect("nothing stays behind");
    assert_eq!(site.happened(&Happening::Removed), 1);
    link.stop().await;
}
