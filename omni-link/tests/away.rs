//! Omni goes away and comes back: boots go on, writes wait and are told later, nothing is wiped, switched
//! off or done twice meanwhile.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/site.rs"]
mod site;

use std::sync::atomic::Ordering;
use std::time::Duration;

use cosi::{Kind, Pointer, Resource, UpdateOptions};
use faulty::Mode;
use omni_link::Happening;
use omni_link::view::{Machine, Part};
use prost::Message;
use provider::private::{BmcConfigurationSpec, WipeStatusSpec};
use provider::resources::{INFRA_MACHINE_OWNER, PrivateSpec, ResourceSpec, private_namespace};
use provider::specs::infra_machine_status_spec::MachinePowerState;
use provider::specs::{BmcConfigSpec, InfraMachineSpec, infra_machine_bmc_config_spec};
use site::{FINGERPRINT, ID, LIMIT, Link, Site, token};

fn private<T: PrivateSpec>() -> Pointer {
    Pointer::new(private_namespace("bare-metal"), T::resource_type("bare-metal"), ID)
}

fn infra() -> Pointer {
    Kind::new(InfraMachineSpec::NAMESPACE, InfraMachineSpec::TYPE).pointer(ID)
}

fn is_off(machine: &Machine) -> bool {
    machine.status.as_ref().is_some_and(|status| {
        !status.pending && status.spec.power_state() == MachinePowerState::PowerStateOff
    })
}

async fn accepted(site: &Site, link: &Link) {
    site.accept().await;
    link.dial(&site.agent, FINGERPRINT);
}

/// The agent is in the middle of a wipe when Omni goes away, and ends it then.
async fn wiped_while_away(site: &Site, link: &Link) {
    let holding = site.agent.holding.clone().lock_owned().await;
    accepted(site, link).await;
    site.until_news(&Happening::WipeStarted).await;
    site.faulty.set(Mode::Down);
    link.until_view("stale", |view| !view.fresh()).await;
    drop(holding);
    link.until("wiped", |machine| machine.wipe.as_ref().is_some_and(|wipe| wipe.pending)).await;
    assert!(site.state.get(&private::<WipeStatusSpec>()).await.unwrap_err().is_not_found());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wipe_that_ends_while_omni_is_away_is_told_later_and_not_repeated() {
    let site = Site::new().await;
    let link = site.link().await;
    wiped_while_away(&site, &link).await;
    link.stop().await;

    // The appliance starts anew, still without Omni: it knows its machines, and what it owes Omni.
    let link = site.link().await;
    assert!(!link.view.fresh());
    assert!(link.view.outbox().holds(ID));
    let machine = link.view.machine(ID).unwrap();
    assert!(machine.infra.is_some() && machine.wipe.as_ref().is_some_and(|wipe| wipe.pending));
    link.dial(&site.agent, FINGERPRINT);

    site.faulty.set(Mode::Up);
    link.until("off", is_off).await;
    assert_eq!(site.agent.wipes.load(Ordering::SeqCst), 1);
    let record: WipeStatusSpec =
        site.state.get(&private::<WipeStatusSpec>()).await.unwrap().decode().unwrap();
    assert!(record.initial_wipe_done);
    assert_eq!(record.wiped_node_unique_token, token());
    link.until_view("told", |view| view.outbox().is_empty()).await;
    assert!(link.view.last_outage().is_some());
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_get_lost_repeat_no_act() {
    let site = Site::new().await;
    let link = site.link().await;
    let holding = site.agent.holding.clone().lock_owned().await;
    accepted(&site, &link).await;
    site.until_news(&Happening::WipeStarted).await;
    site.faulty.set(Mode::Deaf);
    drop(holding);
    // The write arrives, its answer does not; the watch tells of it.
    link.until("stored", |machine| machine.wipe.as_ref().is_some_and(|wipe| !wipe.pending)).await;
    assert!(link.view.outbox().holds(ID));
    site.faulty.set(Mode::Up);
    link.until("off", is_off).await;
    assert_eq!(site.agent.wipes.load(Ordering::SeqCst), 1);
    assert_eq!(*site.bmc.log.lock().unwrap(), ["poweroff"]);
    link.until_view("told", |view| view.outbox().is_empty()).await;
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_omni_nothing_is_switched_off() {
    let mut site = Site::new().await;
    site.grace = Duration::ZERO;
    site.bmc.fail.store(u32::MAX, Ordering::SeqCst);
    let link = site.link().await;
    accepted(&site, &link).await;
    link.until_status("ready", |status| status.ready_to_use).await;
    link.stop().await;

    site.faulty.set(Mode::Down);
    site.bmc.fail.store(0, Ordering::SeqCst);
    let mut polls = site.bmc.polls.subscribe();
    polls.mark_unchanged();
    let link = site.link().await;
    link.dial(&site.agent, FINGERPRINT);
    tokio::time::timeout(LIMIT, polls.changed()).await.expect("its power state is looked at").unwrap();
    link.stop().await;
    assert!(site.bmc.log.lock().unwrap().is_empty());

    site.faulty.set(Mode::Up);
    let link = site.link().await;
    link.dial(&site.agent, FINGERPRINT);
    link.until("off", is_off).await;
    assert_eq!(*site.bmc.log.lock().unwrap(), ["poweroff"]);
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_work_to_do_is_switched_on_without_omni() {
    let mut site = Site::new().await;
    site.grace = Duration::ZERO;
    let link = site.link().await;
    accepted(&site, &link).await;
    link.until("off", is_off).await;
    // From here on the BMC fails: the allocation is known, and not acted upon, when Omni goes away.
    site.bmc.fail.store(u32::MAX, Ordering::SeqCst);
    site.update(|spec| spec.cluster_talos_version = "1.13.9".into()).await;
    link.until("allocated", |machine| {
        machine.infra.as_ref().is_some_and(|infra| !infra.spec.cluster_talos_version.is_empty())
    })
    .await;
    link.stop().await;

    site.faulty.set(Mode::Down);
    site.bmc.fail.store(0, Ordering::SeqCst);
    let link = site.link().await;
    site.until_news(&Happening::PowerOn { pxe: true }).await;
    link.until("written down", |machine| machine.power.as_ref().is_some_and(|power| power.pending)).await;
    site.faulty.set(Mode::Up);
    link.until_status("on", |status| status.power_state() == MachinePowerState::PowerStateOn).await;
    link.until_view("told", |view| view.outbox().is_empty()).await;
    assert_eq!(*site.bmc.log.lock().unwrap(), ["poweroff", "pxeboot", "poweron"]);
    link.stop().await;
}

/// A newer version of the record, as another appliance may write it.
#[derive(Clone, PartialEq, prost::Message)]
struct NewerWipe {
    #[prost(string, tag = "1")]
    last_wipe_id: String,
    #[prost(bool, tag = "3")]
    initial_wipe_done: bool,
    #[prost(string, tag = "900")]
    news: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_wrote_meanwhile_is_heard() {
    let site = Site::new().await;
    let link = site.link().await;
    wiped_while_away(&site, &link).await;
    let theirs = NewerWipe { last_wipe_id: "older".into(), news: "kept".into(), ..NewerWipe::default() };
    let resource = Resource::empty(&private::<WipeStatusSpec>()).with_spec(&theirs);
    site.state.create(resource, "somebody").await.unwrap();

    site.faulty.set(Mode::Up);
    link.until("off", is_off).await;
    assert_eq!(site.agent.wipes.load(Ordering::SeqCst), 1);
    let stored = site.state.get(&private::<WipeStatusSpec>()).await.unwrap();
    let read = NewerWipe::decode(stored.spec.proto.clone()).unwrap();
    assert!(read.initial_wipe_done && read.last_wipe_id.is_empty(), "our wipe is the one asked for");
    assert_eq!(read.news, "kept");
    assert!(stored.spec.yaml.contains("initialwipedone: true"), "{}", stored.spec.yaml);
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_told_of_a_machine_that_was_made_anew() {
    let site = Site::new().await;
    let link = site.link().await;
    wiped_while_away(&site, &link).await;
    // A person deletes the machine and it joins again, all while we are away.
    let mut resource = site.state.get(&infra()).await.unwrap();
    resource.metadata.finalizers.clear();
    let owner = UpdateOptions::owner(INFRA_MACHINE_OWNER);
    site.state.update(resource, &owner).await.unwrap();
    site.state.destroy(&infra(), INFRA_MACHINE_OWNER).await.unwrap();
    site.write(|spec| spec.node_unique_token = token()).await;

    site.faulty.set(Mode::Up);
    link.until_view("nothing waits", |view| view.fresh() && view.outbox().is_empty()).await;
    link.until("held", |machine| {
        machine.infra.as_ref().is_some_and(|infra| !infra.metadata.finalizers.is_empty())
    })
    .await;
    assert!(site.state.get(&private::<WipeStatusSpec>()).await.unwrap_err().is_not_found());
    assert!(link.view.machine(ID).unwrap().wipe.is_none(), "the new machine is not taken for wiped");
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_go_on_where_they_broke_and_start_over_when_they_cannot() {
    let site = Site::new().await;
    let link = site.link().await;
    let parts = u32::try_from(Part::ALL.len()).unwrap();
    link.until_view("in sync", |view| view.fresh()).await;
    assert_eq!(site.faulty.bootstrapped.load(Ordering::SeqCst), parts);

    site.faulty.set(Mode::Down);
    link.until_view("stale", |view| !view.fresh()).await;
    site.write(|spec| spec.node_unique_token = token()).await;
    site.faulty.set(Mode::Up);
    let resumed = || site.faulty.resumed.load(Ordering::SeqCst);
    let bootstrapped = || site.faulty.bootstrapped.load(Ordering::SeqCst);
    link.until_view("resumed", |view| view.fresh() && resumed() == parts).await;
    link.until("seen", |machine| machine.infra.is_some()).await;
    assert_eq!(bootstrapped(), parts);

    site.faulty.forgetful.store(1, Ordering::SeqCst);
    site.faulty.set(Mode::Down);
    link.until_view("stale", |view| !view.fresh()).await;
    site.faulty.set(Mode::Up);
    link.until_view("read anew", |view| view.fresh() && resumed() == 2 * parts - 1).await;
    assert_eq!(bootstrapped(), parts + 1);
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bmc_that_a_person_typed_in_is_used_and_one_taken_away_is_learnt_anew() {
    let site = Site::new().await;
    let link = site.link().await;
    let pointer = Pointer::new(BmcConfigSpec::NAMESPACE, BmcConfigSpec::TYPE, ID);
    let api = Some(infra_machine_bmc_config_spec::Api { address: site.bmc_address.to_string() });
    let config = provider::specs::InfraMachineBmcConfigSpec { api, ipmi: None };
    let spec = BmcConfigSpec { config: Some(config) };
    site.state.create(Resource::empty(&pointer).with_spec(&spec), "omni").await.unwrap();
    site.accept().await;
    // No agent is connected: the person's word is enough.
    link.until("configured", |machine| {
        machine.bmc.as_ref().is_some_and(|bmc| !bmc.pending && bmc.spec.manually_configured)
    })
    .await;
    site.state.destroy(&pointer, "omni").await.unwrap();
    link.dial(&site.agent, FINGERPRINT);
    link.until("learnt", |machine| {
        machine.bmc.as_ref().is_some_and(|bmc| !bmc.pending && !bmc.spec.manually_configured)
    })
    .await;
    let known = site.state.get(&private::<BmcConfigurationSpec>()).await.unwrap();
    let known: BmcConfigurationSpec = known.decode().unwrap();
    assert_eq!(known.api.unwrap().address, site.bmc_address.to_string());
    link.stop().await;
}
