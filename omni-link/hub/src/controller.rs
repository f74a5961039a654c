//! The controllers: from what a machine is and what users want to what providers are told.
//!
//! They are level-triggered: events only say what to look at; everything else is read anew. Each step is one
//! write, and a finalizer holds what the next step depends on, so they can be stopped between any two.
//!
//! ```text
//! Link runs      -> InfraMachine runs, fields from InfraMachineConfig, MachineSetNode and its Cluster
//! node torn down -> InfraMachine free with a new wipe id, then the node's finalizer goes, then the node
//! Link torn down -> InfraMachine torn down; when the provider let go: InfraMachine, configuration, token,
//!                   allocation destroyed, then the Link's finalizer goes, then the Link
//! InfraProvider runs      -> ProviderJoinConfig, combined status
//! InfraProvider torn down -> all that is its goes, then the finalizer
//! MachineRequestSet       -> that many MachineRequests
//! MachineRequestStatus torn down -> the machine's Link torn down, then the finalizer goes
//! ```

mod fields;
mod machine;
mod provider;
mod request;

use std::collections::BTreeSet;

use ::provider::resources::{LABEL_CLUSTER, LABEL_INFRA_PROVIDER_ID, LABEL_MACHINE_REQUEST_SET};
use ::provider::specs::{
    BmcConfigSpec, ClusterSpec, InfraMachineBmcConfigSpec, InfraMachineConfigSpec, InfraMachineSpec,
    InfraProviderHealthStatusSpec, InfraProviderSpec, InfraProviderStatusSpec, MachineRegistrationSpec,
    MachineRequestSetSpec, MachineRequestSpec, MachineRequestStatusSpec, MachineSetNodeSpec, SiderolinkSpec,
};
use cosi::{
    Event, EventType, LabelQuery, LabelTerm, ListOptions, Resource, State as _, StateError, WatchOptions,
    WatchTarget,
};
use futures_util::StreamExt;
use futures_util::stream::{self, select_all};

use crate::Hub;
use crate::limits::{RECONCILE_AT_ONCE, RETRY_PAUSE};
use crate::store::kind;
pub(crate) use provider::{join_config, run_health};

/// Something to look at.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Due {
    Machine(String),
    Provider(String),
    RequestSet(String),
    Request(String),
}

/// What became of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Progress {
    Done,
    /// Somebody else has to do something first, which may not show in what is watched.
    Waits,
}

/// Follows the store for ever.
pub(crate) async fn run(hub: &Hub) {
    loop {
        if let Err(error) = follow(hub).await {
            tracing::warn!(%error, "the hub's watches broke, they begin anew");
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Follows the store until a watch breaks. Each watch begins with what exists: a full reconciliation.
async fn follow(hub: &Hub) -> Result<(), StateError> {
    let kinds = [
        kind::<SiderolinkSpec>(),
        kind::<InfraMachineSpec>(),
        kind::<InfraMachineConfigSpec>(),
        kind::<InfraMachineBmcConfigSpec>(),
        kind::<BmcConfigSpec>(),
        kind::<MachineRegistrationSpec>(),
        kind::<MachineSetNodeSpec>(),
        kind::<ClusterSpec>(),
        kind::<InfraProviderSpec>(),
        kind::<InfraProviderStatusSpec>(),
        kind::<InfraProviderHealthStatusSpec>(),
        kind::<MachineRequestSetSpec>(),
        kind::<MachineRequestSpec>(),
        kind::<MachineRequestStatusSpec>(),
    ];
    let state = hub.store.state();
    let options = WatchOptions { bootstrap_contents: true, aggregated: true, ..WatchOptions::default() };
    let mut watches = Vec::new();
    for kind in kinds {
        watches.push(state.watch(&WatchTarget::kind(kind), &options).await?);
    }
    let mut events = select_all(watches);
    let mut due = BTreeSet::new();
    loop {
        let batch = if due.is_empty() {
            events.next().await
        } else {
            // Somebody failed or waits: try again after a pause, or as soon as something happens.
            match tokio::time::timeout(RETRY_PAUSE, events.next()).await {
                Ok(batch) => batch,
                Err(_) => Some(Ok(Vec::new())),
            }
        };
        let Some(batch) = batch else { return Ok(()) };
        for event in batch? {
            affected(hub, &event, &mut due).await?;
        }
        due = reconcile_all(hub, std::mem::take(&mut due)).await;
    }
}

/// Looks at all of them, several at once. Answers what must be looked at again.
async fn reconcile_all(hub: &Hub, due: BTreeSet<Due>) -> BTreeSet<Due> {
    stream::iter(due)
        .map(|due| async move {
            match reconcile(hub, &due).await {
                Ok(Progress::Done) => None,
                Ok(Progress::Waits) => Some(due),
                Err(error) => {
                    tracing::warn!(?due, %error, "it cannot be reconciled yet");
                    Some(due)
                }
            }
        })
        .buffer_unordered(RECONCILE_AT_ONCE)
        .filter_map(async |again| again)
        .collect()
        .await
}

async fn reconcile(hub: &Hub, due: &Due) -> Result<Progress, StateError> {
    match due {
        Due::Machine(id) => machine::reconcile(hub, id).await.map(|()| Progress::Done),
        Due::Provider(id) => provider::reconcile(hub, id).await,
        Due::RequestSet(id) => request::reconcile_set(hub, id).await,
        Due::Request(id) => request::reconcile_status(hub, id).await.map(|()| Progress::Done),
    }
}

/// What an event concerns.
async fn affected(hub: &Hub, event: &Event, due: &mut BTreeSet<Due>) -> Result<(), StateError> {
    match event.typ {
        EventType::Created | EventType::Updated | EventType::Destroyed => {}
        EventType::Bootstrapped | EventType::Noop => return Ok(()),
        EventType::Errored => {
            return Err(StateError::Unavailable(event.error.clone().unwrap_or_default()));
        }
    }
    let id = event.resource.id();
    let of = event.resource.pointer().kind();
    let machine = |resource: Resource| Due::Machine(resource.metadata.id);
    if of == kind::<ClusterSpec>() {
        let nodes = labelled(hub, &kind::<MachineSetNodeSpec>(), LABEL_CLUSTER, id).await?;
        due.extend(nodes.into_iter().map(machine));
    } else if of == kind::<InfraProviderStatusSpec>() || of == kind::<InfraProviderSpec>() {
        let links = labelled(hub, &kind::<SiderolinkSpec>(), LABEL_INFRA_PROVIDER_ID, id).await?;
        due.extend(links.into_iter().map(machine));
        due.insert(Due::Provider(id.to_owned()));
    } else if of == kind::<InfraProviderHealthStatusSpec>() {
        due.insert(Due::Provider(id.to_owned()));
    } else if of == kind::<MachineRequestSetSpec>() {
        due.insert(Due::RequestSet(id.to_owned()));
    } else if of == kind::<MachineRequestSpec>() {
        let set = event.resource.label(LABEL_MACHINE_REQUEST_SET);
        due.extend(set.map(|set| Due::RequestSet(set.to_owned())));
    } else if of == kind::<MachineRequestStatusSpec>() {
        due.insert(Due::Request(id.to_owned()));
    } else {
        due.insert(Due::Machine(id.to_owned()));
    }
    Ok(())
}

/// All of a kind with that label.
async fn labelled(
    hub: &Hub,
    kind: &cosi::Kind,
    label: &str,
    value: &str,
) -> Result<Vec<Resource>, StateError> {
    let query = LabelQuery::new([LabelTerm::equal(label, value)]);
    hub.store.state().list(kind, &ListOptions::labels(query)).await
}
