//! An Omni that says what it should not: nothing panics, nothing is wiped, and what is not ours stays.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/site.rs"]
mod site;

use std::sync::atomic::Ordering;

use cosi::{Kind, Resource, State, UpdateOptions};
use prost::Message;
use provider::resources::{INFRA_MACHINE_OWNER, ResourceSpec, provider_controller};
use provider::specs::InfraMachineSpec;
use provider::specs::infra_machine_config_spec::AcceptanceStatus;
use site::{FINGERPRINT, ID, Link, Site, token};

/// More than any resource of Omni has.
const HUGE: usize = 10 << 20;

fn kind() -> Kind {
    Kind::new(InfraMachineSpec::NAMESPACE, InfraMachineSpec::TYPE)
}

async fn held(link: &Link) {
    link.until("held", |machine| {
        machine.infra.as_ref().is_some_and(|infra| !infra.metadata.finalizers.is_empty())
    })
    .await;
}

/// What Omni stores for the machine from now on.
async fn replace(site: &Site, proto: Vec<u8>) {
    let change = |resource: &mut Resource| {
        resource.spec.proto = proto.clone().into();
        Ok(())
    };
    let pointer = kind().pointer(ID);
    cosi::modify(site.state.as_ref(), &pointer, INFRA_MACHINE_OWNER, cosi::Missing::Fail, change)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_whose_wishes_cannot_be_read_is_not_wiped() {
    let site = Site::new().await;
    let link = site.link().await;
    site.accept().await;
    held(&link).await;
    // It may say that the machine was rejected meanwhile.
    replace(&site, vec![0xff; 64]).await;
    link.dial(&site.agent, FINGERPRINT);
    link.until_view("told", |view| {
        view.health().troubles.iter().any(|(id, _, reason)| id == ID && reason.contains("cannot be read"))
    })
    .await;
    assert_eq!(site.agent.wipes.load(Ordering::SeqCst), 0);
    let spec = InfraMachineSpec {
        node_unique_token: token(),
        acceptance_status: AcceptanceStatus::Accepted as i32,
        ..InfraMachineSpec::default()
    };
    replace(&site, spec.encode_to_vec()).await;
    link.until_status("ready", |status| status.ready_to_use).await;
    assert_eq!(site.agent.wipes.load(Ordering::SeqCst), 1);
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_newer_omni_says_is_given_back_as_it_was() {
    let site = Site::new().await;
    let link = site.link().await;
    let mut proto =
        InfraMachineSpec { node_unique_token: token(), acceptance_status: 77, ..InfraMachineSpec::default() }
            .encode_to_vec();
    // Field 900, a string.
    prost::encoding::string::encode(900, &"news".to_owned(), &mut proto);
    let resource = Resource::empty(&kind().pointer(ID));
    let resource =
        Resource { spec: cosi::Spec { proto: proto.clone().into(), yaml: String::new() }, ..resource };
    site.state.create(resource, INFRA_MACHINE_OWNER).await.unwrap();
    link.dial(&site.agent, FINGERPRINT);
    held(&link).await;
    let stored = site.state.get(&kind().pointer(ID)).await.unwrap();
    assert_eq!(stored.metadata.finalizers, [provider_controller("bare-metal")]);
    assert_eq!(stored.spec.proto, proto, "Omni lets a provider change nothing but finalizers");
    assert_eq!(site.agent.wipes.load(Ordering::SeqCst), 0, "an unknown decision is none");
    link.stop().await;
}

/// Says that there is a machine of ten megabytes, and one with a name of a thousand letters.
struct Huge(std::sync::Arc<dyn State>);

#[tonic::async_trait]
impl State for Huge {
    async fn get(&self, pointer: &cosi::Pointer) -> Result<Resource, cosi::StateError> {
        self.0.get(pointer).await
    }

    async fn list(
        &self,
        kind: &Kind,
        options: &cosi::ListOptions,
    ) -> Result<Vec<Resource>, cosi::StateError> {
        self.0.list(kind, options).await
    }

    async fn create(&self, resource: Resource, owner: &str) -> Result<Resource, cosi::StateError> {
        self.0.create(resource, owner).await
    }

    async fn update(
        &self,
        resource: Resource,
        options: &UpdateOptions,
    ) -> Result<Resource, cosi::StateError> {
        self.0.update(resource, options).await
    }

    async fn destroy(&self, pointer: &cosi::Pointer, owner: &str) -> Result<(), cosi::StateError> {
        self.0.destroy(pointer, owner).await
    }

    async fn teardown(&self, pointer: &cosi::Pointer, owner: &str) -> Result<bool, cosi::StateError> {
        self.0.teardown(pointer, owner).await
    }

    async fn watch(
        &self,
        target: &cosi::WatchTarget,
        options: &cosi::WatchOptions,
    ) -> Result<cosi::EventStream, cosi::StateError> {
        use futures_util::StreamExt;
        let event = |id: &str, size: usize| cosi::Event {
            typ: cosi::EventType::Created,
            resource: Resource::new(&target.kind.namespace, &target.kind.typ, id, vec![0; size]),
            old: None,
            bookmark: None,
            error: None,
        };
        let lies = vec![event("huge", HUGE), event(&"x".repeat(1000), 0), event("", 0)];
        let events = self.0.watch(target, options).await?;
        Ok(futures_util::stream::iter([Ok(lies)]).chain(events).boxed())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_not_taken_in() {
    let site = Site::new().await;
    let link = site.link_through(std::sync::Arc::new(Huge(site.state.clone()))).await;
    link.until_view("in sync", |view| view.fresh()).await;
    assert!(link.view.machine("huge").is_none());
    assert!(link.view.ids().iter().all(|id| id.len() < 1000));
    link.stop().await;
}
