//! Two people who write one resource: who loses is told that, so that the usual retry works.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use cosi::embedded::EmbeddedState;
use cosi::{Pointer, Resource, State, StateError, UpdateOptions};
use hub::ValidatedState;
use provider::resources::ResourceSpec;
use provider::specs::InfraMachineConfigSpec;
use provider::specs::infra_machine_config_spec::AcceptanceStatus;

fn config(acceptance: AcceptanceStatus) -> Resource {
    let pointer = Pointer::new(InfraMachineConfigSpec::NAMESPACE, InfraMachineConfigSpec::TYPE, "m");
    let mut resource = Resource::empty(&pointer);
    let spec = InfraMachineConfigSpec { acceptance_status: acceptance as i32, ..Default::default() };
    resource.encode(&spec);
    resource
}

fn state(dir: &tempfile::TempDir) -> ValidatedState {
    ValidatedState::new(Arc::new(EmbeddedState::open(dir.path().join("hub.redb")).unwrap()))
}

#[tokio::test]
async fn an_update_of_an_old_version_is_a_conflict_even_if_the_machine_was_accepted_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(&dir);
    let old = state.create(config(AcceptanceStatus::Pending), "").await.unwrap();
    let mut accepted = config(AcceptanceStatus::Accepted);
    accepted.metadata = old.metadata.clone();
    state.update(accepted, &UpdateOptions::default()).await.unwrap();
    let late = state.update(old.with_label("rack", "r12"), &UpdateOptions::default()).await;
    assert!(matches!(late, Err(StateError::VersionConflict(_))), "{late:?}");
}

#[tokio::test]
async fn a_second_creation_is_told_that_there_is_one_even_if_the_machine_was_accepted_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(&dir);
    state.create(config(AcceptanceStatus::Accepted), "").await.unwrap();
    let late = state.create(config(AcceptanceStatus::Pending), "").await;
    assert!(matches!(late, Err(StateError::AlreadyExists(_))), "{late:?}");
}
