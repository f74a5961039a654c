//! Machines on request.

use cosi::{Metadata, Missing, Resource, State, StateError, UpdateOptions};
use provider::resources::{
    LABEL_CLUSTER, LABEL_INFRA_PROVIDER_ID, LABEL_IS_STATIC_INFRA_PROVIDER, LABEL_MACHINE_REQUEST,
    LABEL_MACHINE_REQUEST_SET,
};
use provider::specs::machine_class_spec::Provision;
use provider::specs::machine_request_status_spec::Stage;
use provider::specs::{
    InfraProviderStatusSpec, MachineClassSpec, MachineRegistrationSpec, MachineRequestSetSpec,
    MachineRequestSetStatusSpec, MachineRequestSpec, MachineRequestStatusSpec, MachineSetNodeSpec,
    SiderolinkSpec,
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
    soon("the removal", crate::accounts::delete_provider(&*site.users.state, "vms", PATIENCE)).await.unwrap();
    requests(&site, 0).await;
    assert!(site.find::<MachineRequestSetSpec>(SET).await.is_none());
    assert!(!site.find::<MachineRequestSetSpec>("kept").await.unwrap().tearing_down());
    site.kill().await;
}

async fn registers(client: &impl State, id: &str, schema: &str, stays_as_it_is: bool) {
    let spec = InfraProviderStatusSpec { schema: schema.to_owned(), ..InfraProviderStatusSpec::default() };
    let mut status = Resource::empty(&pointer::<InfraProviderStatusSpec>(id)).with_spec(&spec);
    if stays_as_it_is {
        status = status.with_label(LABEL_IS_STATIC_INFRA_PROVIDER, "");
    }
    client.create(status, "").await.unwrap();
}

fn set(provider: &str, data: &str) -> MachineRequestSetSpec {
    MachineRequestSetSpec {
        provider_id: provider.to_owned(),
        talos_version: "1.13.8".to_owned(),
        provider_data: data.to_owned(),
        ..MachineRequestSetSpec::default()
    }
}

fn refused(result: Result<Resource, StateError>, because: &str) {
    match result {
        Err(StateError::InvalidArgument(text)) => assert!(text.contains(because), "{text}"),
        other => panic!("{because}: {other:?}"),
    }
}

#[tokio::test]
async fn what_users_ask_of_a_provider_is_checked_by_its_schema() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let state = &*site.users.state;
    let schema = r#"{"type": "object", "properties": {"cores": {"type": "integer", "minimum": 1}}}"#;
    registers(&site.provider("vms").await, "vms", schema, false).await;
    registers(&site.provider("metal").await, "metal", "", true).await;
    registers(&site.provider("broken").await, "broken", "{", false).await;
    let create = |spec: MachineRequestSetSpec| async move {
        state.create(Resource::empty(&pointer::<MachineRequestSetSpec>(SET)).with_spec(&spec), "").await
    };
    refused(create(set("", "")).await, "provider id can not be empty");
    refused(create(set("nobody", "")).await, "has not registered");
    refused(create(set("metal", "")).await, "static");
    refused(create(set("broken", "")).await, "schema of infra provider \"broken\" is not usable");
    refused(create(set("vms", "cores: 0")).await, "config value \".cores\": must be at least 1");
    refused(create(set("vms", "cores: [")).await, "cannot be read");
    let version = MachineRequestSetSpec { talos_version: "latest".to_owned(), ..set("vms", "") };
    refused(create(version).await, "talos version");
    let args = MachineRequestSetSpec { kernel_args: vec!["a\nb".to_owned()], ..set("vms", "") };
    refused(create(args).await, "kernel args[0] contains a control character");

    let stored = create(set("vms", "cores: 2")).await.unwrap();
    let worse = stored.clone().with_spec(&set("vms", "cores: -1"));
    refused(state.update(worse, &UpdateOptions::default()).await, "must be at least 1");
    // The hub puts its finalizer on it meanwhile.
    cosi::modify(state, &stored.pointer(), "", cosi::Missing::Fail, |resource| {
        resource.encode(&MachineRequestSetSpec { machine_count: 1, ..set("vms", "cores: 2") });
        Ok(())
    })
    .await
    .unwrap();

    let request = requests(&site, 1).await.remove(0);
    let other = MachineRequestSpec { talos_version: "1.14.0".to_owned(), ..MachineRequestSpec::default() };
    refused(state.update(request.with_spec(&other), &UpdateOptions::default()).await, "immutable");
    site.kill().await;
}

#[tokio::test]
async fn a_machine_class_that_has_machines_made_is_checked_by_the_schema_too() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let schema = r#"{"required": ["size"]}"#;
    registers(&site.provider("vms").await, "vms", schema, false).await;
    let create = |spec: MachineClassSpec| {
        let class = Resource::empty(&pointer::<MachineClassSpec>("class")).with_spec(&spec);
        site.users.state.create(class, "")
    };
    let made = |data: &str| {
        let provision = Provision {
            provider_id: "vms".to_owned(),
            provider_data: data.to_owned(),
            ..Provision::default()
        };
        MachineClassSpec { auto_provision: Some(provision), ..MachineClassSpec::default() }
    };
    refused(create(MachineClassSpec::default()).await, "either");
    refused(create(MachineClassSpec { match_labels: vec!["a".to_owned()], ..made("size: 1") }).await, "both");
    refused(create(made("")).await, "config value \".size\": is required");
    create(made("size: small")).await.unwrap();
    site.kill().await;
}
