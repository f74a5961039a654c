//! What a provider sees of the store.

use cosi::embedded::{EmbeddedState, Options};
use cosi::{Phase, UpdateOptions};
use omni_auth::{INFRA_PROVIDER_SUFFIX, Role};

use super::*;

const MACHINES: &str = "InfraMachines.omni.sidero.dev";
const STATUSES: &str = "InfraMachineStatuses.omni.sidero.dev";
const OWNER: &str = "InfraMachineController";

fn provider(id: &str) -> Identity {
    Identity { id: format!("{id}{INFRA_PROVIDER_SUFFIX}"), role: Role::InfraProvider }
}

fn resource(typ: &str, id: &str, provider: &str) -> Resource {
    Resource::new("infra-provider", typ, id, vec![0x10, 1]).with_label(LABEL_INFRA_PROVIDER_ID, provider)
}

fn pointer(typ: &str, id: &str) -> Pointer {
    Pointer::new("infra-provider", typ, id)
}

/// Two providers with a machine each, and the store as the first of them sees it.
async fn two() -> (Arc<dyn State>, AccessState) {
    let store: Arc<dyn State> = Arc::new(EmbeddedState::in_memory(Options::default()).unwrap());
    for id in ["one", "two"] {
        let provider = Resource::new("infra-provider", InfraProviderSpec::TYPE, id, Vec::new());
        store.create(provider, "").await.unwrap();
        store.create(resource(MACHINES, &format!("of-{id}"), id), OWNER).await.unwrap();
        store.create(resource(STATUSES, &format!("of-{id}"), id), "x").await.unwrap();
    }
    let seen = AccessState::new(Arc::clone(&store), provider("one"));
    (store, seen)
}

fn any_phase() -> UpdateOptions {
    UpdateOptions::owner(OWNER).any_phase()
}

#[tokio::test]
async fn what_is_another_providers_is_not_there() {
    let (_, seen) = two().await;
    for typ in [MACHINES, STATUSES] {
        let foreign = pointer(typ, "of-two");
        assert!(matches!(seen.get(&foreign).await, Err(StateError::NotFound(_))));
        let listed = seen.list(&foreign.kind(), &ListOptions::default()).await.unwrap();
        assert_eq!(listed.iter().map(Resource::id).collect::<Vec<_>>(), ["of-one"]);
        let mut stolen = resource(typ, "of-two", "one");
        stolen.metadata.version = Version::Number(1);
        assert!(matches!(seen.update(stolen, &any_phase()).await, Err(StateError::NotFound(_))));
        assert!(matches!(seen.destroy(&foreign, "x").await, Err(StateError::NotFound(_))));
        assert!(matches!(seen.teardown(&foreign, "x").await, Err(StateError::NotFound(_))));
    }
    let own = pointer(InfraProviderSpec::TYPE, "one");
    assert!(matches!(seen.get(&own).await, Err(StateError::NotFound(_))), "it has no label");
}

#[tokio::test]
async fn what_a_provider_writes_carries_its_label_whatever_it_says() {
    let (store, seen) = two().await;
    let new = seen.create(resource(STATUSES, "new", "two"), "x").await.unwrap();
    assert_eq!(new.label(LABEL_INFRA_PROVIDER_ID), Some("one"));
    let mut changed = new.clone();
    changed.metadata.labels.clear();
    let changed = seen.update(changed, &UpdateOptions::owner("x")).await.unwrap();
    assert_eq!(changed.label(LABEL_INFRA_PROVIDER_ID), Some("one"));
    assert_eq!(store.get(&pointer(STATUSES, "new")).await.unwrap(), changed);
    assert!(seen.teardown(&pointer(STATUSES, "new"), "x").await.unwrap());
    seen.destroy(&pointer(STATUSES, "new"), "x").await.unwrap();
}

#[tokio::test]
async fn of_a_machine_only_finalizers_may_change() {
    let (_, seen) = two().await;
    let before = seen.get(&pointer(MACHINES, "of-one")).await.unwrap();
    let spoil: [fn(&mut Resource); 6] = [
        |machine| machine.spec.proto = vec![0x10, 2].into(),
        |machine| drop(machine.metadata.labels.insert("a".to_owned(), "b".to_owned())),
        |machine| machine.metadata.labels.clear(),
        |machine| drop(machine.metadata.annotations.insert("a".to_owned(), "b".to_owned())),
        |machine| machine.metadata.phase = Phase::TearingDown,
        |machine| machine.metadata.owner = "me".to_owned(),
    ];
    for (row, spoil) in spoil.iter().enumerate() {
        let mut spoilt = before.clone();
        spoilt.insert_finalizer("one.Controller");
        spoil(&mut spoilt);
        let refused = seen.update(spoilt, &any_phase()).await;
        assert!(matches!(refused, Err(StateError::PermissionDenied(_))), "row {row}: {refused:?}");
    }
    let mut held = before.clone();
    held.insert_finalizer("one.Controller");
    // What a client leaves out or cannot know: the rendering and the times.
    held.spec.yaml.clear();
    held.metadata.updated = prost_types::Timestamp::default();
    let held = seen.update(held, &any_phase()).await.unwrap();
    assert!(held.has_finalizer("one.Controller"));
    assert_eq!((&held.spec, &held.metadata.labels), (&before.spec, &before.metadata.labels));
    let stale = seen.update(before, &any_phase()).await;
    assert!(matches!(stale, Err(StateError::VersionConflict(_))), "{stale:?}");
    let nobodys = UpdateOptions::owner("").any_phase();
    let mut let_go = held.clone();
    let_go.drop_finalizer("one.Controller");
    assert!(matches!(seen.update(let_go.clone(), &nobodys).await, Err(StateError::OwnerConflict(_))));
    assert!(seen.update(let_go, &any_phase()).await.unwrap().metadata.finalizers.is_empty());
}

#[tokio::test]
async fn a_machine_is_not_made_or_removed_by_its_provider() {
    let (_, seen) = two().await;
    let machine = pointer(MACHINES, "of-one");
    let denied = |result: Result<(), StateError>| {
        assert!(matches!(result, Err(StateError::PermissionDenied(_))), "{result:?}");
    };
    denied(seen.create(resource(MACHINES, "new", "one"), OWNER).await.map(drop));
    denied(seen.destroy(&machine, OWNER).await);
    denied(seen.teardown(&machine, OWNER).await.map(drop));
    let missing = seen.destroy(&pointer(MACHINES, "none"), OWNER).await;
    assert!(matches!(missing, Err(StateError::NotFound(_))));
}

#[tokio::test]
async fn a_provider_that_is_not_registered_may_nothing_but_read_what_is_public() {
    let (store, seen) = two().await;
    store.destroy(&pointer(InfraProviderSpec::TYPE, "one"), "").await.unwrap();
    let refused = seen.get(&pointer(MACHINES, "of-one")).await;
    assert!(matches!(refused, Err(StateError::PermissionDenied(_))));
    let private = Kind::new("infra-provider:one", "Lease.one.infraprovider.sidero.dev");
    let refused = seen.list(&private, &ListOptions::default()).await;
    assert!(matches!(refused, Err(StateError::PermissionDenied(_))));
    let public = Kind::new("meta", "ResourceDefinitions.meta.cosi.dev");
    seen.list(&public, &ListOptions::default()).await.unwrap();
}

#[tokio::test]
async fn its_own_namespace_is_a_providers_to_do_as_it_likes() {
    let (_, seen) = two().await;
    let lease =
        Resource::new("infra-provider:one", "Lease.one.infraprovider.sidero.dev", "x", b"\xff".to_vec());
    let stored = seen.create(lease, "me").await.unwrap();
    assert!(stored.metadata.labels.is_empty(), "no label is forced");
    assert_eq!(seen.get(&stored.pointer()).await.unwrap(), stored);
    let rival = seen.create(Resource { metadata: stored.metadata.clone(), ..stored.clone() }, "me").await;
    assert!(matches!(rival, Err(StateError::AlreadyExists(_))));
    seen.destroy(&stored.pointer(), "me").await.unwrap();
}

#[tokio::test]
async fn a_watch_tells_of_ones_own_only() {
    let (store, seen) = two().await;
    let target = WatchTarget::kind(pointer(MACHINES, "").kind());
    let options = WatchOptions { bootstrap_contents: true, aggregated: true, ..WatchOptions::default() };
    let mut events = seen.watch(&target, &options).await.unwrap();
    let mut told = Vec::new();
    for (id, provider) in [("later-two", "two"), ("later-one", "one")] {
        store.create(resource(MACHINES, id, provider), OWNER).await.unwrap();
    }
    while told.last() != Some(&(EventType::Created, "later-one".to_owned())) {
        let batch = events.next().await.unwrap().unwrap();
        assert!(!batch.is_empty());
        told.extend(batch.into_iter().map(|event| (event.typ, event.resource.metadata.id)));
    }
    let wanted = [
        (EventType::Created, "of-one".to_owned()),
        (EventType::Bootstrapped, String::new()),
        (EventType::Created, "later-one".to_owned()),
    ];
    assert_eq!(told, wanted);
}
