//! Machines on request.

use cosi::{Metadata, Missing, Resource, State};
use provider::resources::{
    LABEL_CLUSTER, LABEL_INFRA_PROVIDER_ID, LABEL_MACHINE_REQUEST, LABEL_MACHINE_REQUEST_SET,
};
use provider::specs::machine_request_status_spec::Stage;
use provider::specs::{
    MachineRegistrationSpec, MachineRequestSetSpec, MachineRequestSetStatusSpec, MachineRequestSpec,
    MachineRequestStatusSpec, MachineSetNodeSpec, SiderolinkSpec,
};

use super::site::*;
use crate::store::{kind, pointer};

const SET: &str = "vms";

async fn ask_for(site: &Site, provider: &str, count: i32) {
    let change = |_: &mut Metadata, spec: &mut MachineRequestSetSpec| {
        spec.provider_id = provider.to_owned();
        spec.machine_count = count;
        spec.talos_version = "1.13.8".to_owned();
        spec.provider_data = "cores: 2\n".to_owned();
        Ok(())
    };
    site.hub.store.put(SET, "", Missing::Create, change).await.unwrap();
}

/// The requests once there are that many.
async fn requests(site: &Site, count: usize) -> Vec<Resource> {
    soon("the requests", async {
        loop {
            let requests = site.hub.store.list(&kind::<MachineRequestSpec>()).await.unwrap();
            if requests.len() == count {
                return requests;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn a_set_of_three_is_three_requests_that_its_provider_sees() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let (provider, other) = (site.provider("vms").await, site.provider("other").await);
    ask_for(&site, "vms", 3).await;
    for request in requests(&site, 3).await {
        let (set, suffix) = request.id().split_once('-').unwrap();
        assert_eq!((set, suffix.len()), (SET, 6));
        assert_eq!(request.label(LABEL_INFRA_PROVIDER_ID), Some("vms"));
        assert_eq!(request.label(LABEL_MACHINE_REQUEST_SET), Some(SET));
        assert_eq!(request.metadata.owner, "");
        let spec: MachineRequestSpec = request.decode().unwrap();
        assert_eq!((spec.talos_version.as_str(), spec.provider_data.as_str()), ("1.13.8", "cores: 2\n"));
        provider.get(&request.pointer()).await.unwrap();
        assert!(other.get(&request.pointer()).await.is_err());
    }
    site.until::<MachineRequestSetStatusSpec>(SET, |_| true).await;
    ask_for(&site, "vms", 1).await;
    requests(&site, 1).await;
    site.kill().await;
}

#[tokio::test]
async fn a_machine_in_use_is_the_last_to_go() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let provider = site.provider("vms").await;
    ask_for(&site, "vms", 3).await;
    let used = requests(&site, 3).await[1].id().to_owned();
    let spec = MachineRequestStatusSpec { id: MACHINE.to_owned(), ..Default::default() };
    let status = Resource::empty(&pointer::<MachineRequestStatusSpec>(&used)).with_spec(&spec);
    provider.create(status, "vms.ProvisionController").await.unwrap();
    let node = Resource::empty(&pointer::<MachineSetNodeSpec>(MACHINE)).with_label(LABEL_CLUSTER, "blue");
    site.state.create(node, "").await.unwrap();
    ask_for(&site, "vms", 1).await;
    assert_eq!(requests(&site, 1).await[0].id(), used);
    site.kill().await;
}

/// The order that a provider with Omni's library follows.
#[tokio::test]
async fn a_machine_is_deprovisioned_link_first_and_request_last() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let provider = site.provider("vms").await;
    ask_for(&site, "vms", 1).await;
    let request_id = requests(&site, 1).await[0].id().to_owned();
    let request_pointer = pointer::<MachineRequestSpec>(&request_id);
    let owner = "vms.ProvisionController";
    cosi::add_finalizer(&provider, &request_pointer, owner).await.unwrap();
    let spec = MachineRequestStatusSpec {
        id: MACHINE.to_owned(),
        stage: Stage::Provisioned as i32,
        ..Default::default()
    };
    let status = pointer::<MachineRequestStatusSpec>(&request_id);
    provider.create(Resource::empty(&status).with_spec(&spec), owner).await.unwrap();
    site.until::<MachineRequestStatusSpec>(&request_id, |status| !status.metadata.finalizers.is_empty())
        .await;
    let token = site.join_token_of("vms", &[(LABEL_MACHINE_REQUEST, &request_id)]).await;
    site.provision(address(30), request(MACHINE, Some(token), Some(&unique("aa", "one")))).await.unwrap();
    let seen = site.until::<MachineRegistrationSpec>(MACHINE, |_| true).await;
    assert_eq!(seen.label(LABEL_MACHINE_REQUEST), Some(request_id.as_str()));

    let set = pointer::<MachineRequestSetSpec>(SET);
    site.users.state.teardown(&set, "").await.unwrap();
    site.until::<MachineRequestSpec>(&request_id, |request| request.tearing_down()).await;
    provider.teardown(&status, owner).await.unwrap();
    site.gone::<SiderolinkSpec>(MACHINE).await;
    site.until::<MachineRequestStatusSpec>(&request_id, |status| status.metadata.finalizers.is_empty()).await;
    provider.destroy(&status, owner).await.unwrap();
    cosi::remove_finalizer(&provider, &request_pointer, owner).await.unwrap();
    site.gone::<MachineRequestSpec>(&request_id).await;
    site.until::<MachineRequestSetSpec>(SET, |set| set.metadata.finalizers.is_empty()).await;
    site.users.state.destroy(&set, "").await.unwrap();
    site.kill().await;
}

#[tokio::test]
async fn removing_a_provider_ends_its_sets_and_no_others() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let provider = site.provider("vms").await;
    ask_for(&site, "vms", 2).await;
    for request in requests(&site, 2).await {
        cosi::add_finalizer(&provider, &request.pointer(), "vms.ProvisionController").await.unwrap();
    }
    let change = |_: &mut Metadata, spec: &mut MachineRequestSetSpec| {
        spec.provider_id = PROVIDER.to_owned();
        Ok(())
    };
    site.hub.store.put("kept", "", Missing::Create, change).await.unwrap();
    soon("the removal", crate::accounts::delete_provider(&*site.users.state, "vms")).await.unwrap();
    requests(&site, 0).await;
    assert!(site.find::<MachineRequestSetSpec>(SET).await.is_none());
    assert!(!site.find::<MachineRequestSetSpec>("kept").await.unwrap().tearing_down());
    site.kill().await;
}
