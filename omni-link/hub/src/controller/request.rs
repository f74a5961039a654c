//! Machines on request: a set of N becomes N requests, which a provider answers.
//!
//! Deprovision is the provider's to drive: the request is torn down, the provider tears its status down, the
//! machine's link goes, the status is let go of, the provider lets go of the request, the request goes.

use ::provider::resources::{LABEL_INFRA_PROVIDER_ID, LABEL_MACHINE_REQUEST_SET, LABEL_ROLE_CONTROLPLANE};
use ::provider::specs::{
    InfraProviderSpec, MachineRequestSetSpec, MachineRequestSetStatusSpec, MachineRequestSpec,
    MachineRequestStatusSpec, MachineSetNodeSpec, SiderolinkSpec,
};
use cosi::{Missing, Resource, State as _, StateError};
use ring::rand::{SecureRandom, SystemRandom};

use super::machine::let_go;
use super::{Progress, labelled};
use crate::Hub;
use crate::limits::MAX_REQUESTED_MACHINES;
use crate::store::{Typed, encode, kind, pointer};

/// Owns the sets' statuses and holds the sets.
const SET_CONTROLLER: &str = "MachineRequestSetStatusController";
/// Holds the requests' statuses until their machines are on the way out.
const STATUS_CLEANUP: &str = "MachineRequestStatusCleanupController";
/// Letters of the last part of a request's name: none that look alike, and no vowels to make words of.
const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// How many of them.
const SUFFIX_LENGTH: usize = 6;
/// Names that are tried before giving up for now.
const NAME_ATTEMPTS: usize = 100;

/// Makes the set's requests as many as it asks for.
pub(super) async fn reconcile_set(hub: &Hub, id: &str) -> Result<Progress, StateError> {
    let set = hub.store.find::<MachineRequestSetSpec>(id).await?;
    let requests = labelled(hub, &kind::<MachineRequestSpec>(), LABEL_MACHINE_REQUEST_SET, id).await?;
    let (leaving, staying): (Vec<_>, Vec<_>) = requests.into_iter().partition(Resource::is_tearing_down);
    let mut left = 0;
    for request in &leaving {
        left += usize::from(!remove(hub, request).await?);
    }
    let Some(set) = set.filter(|set| !set.tearing_down()) else {
        for request in &staying {
            left += usize::from(!remove(hub, request).await?);
        }
        if left > 0 {
            return Ok(Progress::Waits);
        }
        hub.store.remove(&pointer::<MachineRequestSetStatusSpec>(id)).await?;
        let set = pointer::<MachineRequestSetSpec>(id);
        cosi::remove_finalizer(&*hub.store.state(), &set, SET_CONTROLLER).await?;
        return Ok(Progress::Done);
    };
    cosi::add_finalizer(&*hub.store.state(), &pointer::<MachineRequestSetSpec>(id), SET_CONTROLLER).await?;
    hub.store
        .put::<MachineRequestSetStatusSpec, _>(id, SET_CONTROLLER, Missing::Create, |_, _| Ok(()))
        .await?;
    let wanted = usize::try_from(set.spec.machine_count).unwrap_or(0).min(MAX_REQUESTED_MACHINES);
    for _ in staying.len()..wanted {
        ask(hub, &set).await?;
    }
    if staying.len() > wanted {
        let surplus = staying.len() - wanted;
        for request in expendable(hub, staying).await?.into_iter().take(surplus) {
            remove(hub, &request).await?;
        }
    }
    Ok(Progress::Done)
}

/// Removes a request; when its provider is gone nobody else lets go of it. Says whether it is gone.
async fn remove(hub: &Hub, request: &Resource) -> Result<bool, StateError> {
    if hub.store.remove(&request.pointer()).await? {
        return Ok(true);
    }
    let provider = request.label(LABEL_INFRA_PROVIDER_ID).unwrap_or_default();
    match hub.store.find::<InfraProviderSpec>(provider).await? {
        Some(provider) if !provider.tearing_down() => Ok(false),
        Some(_) | None => {
            let_go(hub, &request.pointer()).await?;
            hub.store.remove(&request.pointer()).await
        }
    }
}

/// Asks for one machine more.
async fn ask(hub: &Hub, set: &Typed<MachineRequestSetSpec>) -> Result<(), StateError> {
    let wanted = set.spec.clone();
    let spec = MachineRequestSpec {
        talos_version: wanted.talos_version,
        overlay: None,
        extensions: wanted.extensions,
        kernel_args: wanted.kernel_args,
        meta_values: wanted.meta_values,
        provider_data: wanted.provider_data,
        grpc_tunnel: wanted.grpc_tunnel,
    };
    for _ in 0..NAME_ATTEMPTS {
        let name = format!("{}-{}", set.metadata.id, suffix()?);
        let mut request = Resource::empty(&pointer::<MachineRequestSpec>(&name))
            .with_label(LABEL_INFRA_PROVIDER_ID, &wanted.provider_id)
            .with_label(LABEL_MACHINE_REQUEST_SET, &set.metadata.id);
        encode(&mut request, &spec);
        match hub.store.state().create(request, "").await {
            Err(StateError::AlreadyExists(_)) => {}
            result => return result.map(drop),
        }
    }
    Err(StateError::Unavailable(format!("no name is free in machine request set {}", set.metadata.id)))
}

fn suffix() -> Result<String, StateError> {
    let mut bytes = [0u8; SUFFIX_LENGTH];
    let failed = |_| StateError::Unavailable("the system gives no random numbers".to_owned());
    SystemRandom::new().fill(&mut bytes).map_err(failed)?;
    // That some letters are a little likelier does not matter for a name.
    Ok(bytes.iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect())
}

/// The requests in the order in which they may go: unused ones first, control planes last, old before new.
async fn expendable(hub: &Hub, requests: Vec<Resource>) -> Result<Vec<Resource>, StateError> {
    let mut ranked = Vec::with_capacity(requests.len());
    for request in requests {
        let status = hub.store.find::<MachineRequestStatusSpec>(request.id()).await?;
        let machine = status.map(|status| status.spec.id).filter(|machine| !machine.is_empty());
        let node = match machine {
            Some(machine) => hub.store.find::<MachineSetNodeSpec>(&machine).await?,
            None => None,
        };
        let controlplane = node.as_ref().is_some_and(|node| node.label(LABEL_ROLE_CONTROLPLANE).is_some());
        let created = request.metadata.created;
        ranked.push(((node.is_some(), controlplane, created.seconds, created.nanos), request));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    Ok(ranked.into_iter().map(|(_, request)| request).collect())
}

/// Holds a status that runs; lets go of one that is torn down once its machine is on the way out.
pub(super) async fn reconcile_status(hub: &Hub, id: &str) -> Result<(), StateError> {
    let status = pointer::<MachineRequestStatusSpec>(id);
    let Some(found) = hub.store.find::<MachineRequestStatusSpec>(id).await? else { return Ok(()) };
    if !found.tearing_down() {
        return cosi::add_finalizer(&*hub.store.state(), &status, STATUS_CLEANUP).await.map(drop);
    }
    let machine = &found.spec.id;
    if !machine.is_empty() {
        hub.store.remove(&pointer::<MachineSetNodeSpec>(machine)).await?;
        hub.store.remove(&pointer::<SiderolinkSpec>(machine)).await?;
    }
    cosi::remove_finalizer(&*hub.store.state(), &status, STATUS_CLEANUP).await
}
