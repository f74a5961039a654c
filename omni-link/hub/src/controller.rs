//! The controller of InfraMachines: from what a machine is and what users want to what the provider is told.
//!
//! It is level-triggered: events only say which machine to look at; everything else is read anew. Each step
//! is one write, and a finalizer holds what the next step depends on, so it can be stopped between any two.
//!
//! ```text
//! Link runs      -> InfraMachine runs, fields from InfraMachineConfig, MachineSetNode and its Cluster
//! node torn down -> InfraMachine free with a new wipe id, then the node's finalizer goes, then the node
//! Link torn down -> InfraMachine torn down; when the provider let go: InfraMachine, configuration, token,
//!                   allocation destroyed, then the Link's finalizer goes, then the Link
//! ```

mod fields;

use std::collections::BTreeSet;

use cosi::{
    Event, EventType, LabelQuery, LabelTerm, ListOptions, Metadata, Missing, Phase, State, StateError,
    WatchOptions, WatchTarget,
};
use futures_util::StreamExt;
use futures_util::stream::select_all;
use provider::resources::{
    INFRA_MACHINE_OWNER, LABEL_CLUSTER, LABEL_INFRA_PROVIDER_ID, LABEL_IS_STATIC_INFRA_PROVIDER,
};
use provider::specs::{
    ClusterSpec, InfraMachineBmcConfigSpec, InfraMachineConfigSpec, InfraMachineSpec,
    InfraProviderStatusSpec, MachineSetNodeSpec, NodeUniqueTokenSpec, SiderolinkSpec,
};

use crate::limits::RETRY_PAUSE;
use crate::store::{Typed, kind, pointer};
use crate::{Hub, HubEvent, HubEventKind};
use fields::{Wishes, apply};

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
        kind::<MachineSetNodeSpec>(),
        kind::<ClusterSpec>(),
        kind::<InfraProviderStatusSpec>(),
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
            // Somebody failed: try again after a pause, or as soon as something happens.
            match tokio::time::timeout(RETRY_PAUSE, events.next()).await {
                Ok(batch) => batch,
                Err(_) => Some(Ok(Vec::new())),
            }
        };
        let Some(batch) = batch else { return Ok(()) };
        for event in batch? {
            affected(hub, &event, &mut due).await?;
        }
        let mut failed = BTreeSet::new();
        for machine in std::mem::take(&mut due) {
            if let Err(error) = reconcile(hub, &machine).await {
                tracing::warn!(%machine, %error, "machine cannot be reconciled yet");
                failed.insert(machine);
            }
        }
        due = failed;
    }
}

/// The machines that an event concerns.
async fn affected(hub: &Hub, event: &Event, due: &mut BTreeSet<String>) -> Result<(), StateError> {
    match event.typ {
        EventType::Created | EventType::Updated | EventType::Destroyed => {}
        EventType::Bootstrapped | EventType::Noop => return Ok(()),
        EventType::Errored => {
            return Err(StateError::Unavailable(event.error.clone().unwrap_or_default()));
        }
    }
    let id = event.resource.id();
    let of = event.resource.pointer().kind();
    let all_with = async |kind: &cosi::Kind, label: &str| {
        let query = LabelQuery::new([LabelTerm::equal(label, id)]);
        hub.store.state().list(kind, &ListOptions::labels(query)).await
    };
    let machines = if of == kind::<ClusterSpec>() {
        all_with(&kind::<MachineSetNodeSpec>(), LABEL_CLUSTER).await?
    } else if of == kind::<InfraProviderStatusSpec>() {
        all_with(&kind::<SiderolinkSpec>(), LABEL_INFRA_PROVIDER_ID).await?
    } else {
        due.insert(id.to_owned());
        return Ok(());
    };
    due.extend(machines.into_iter().map(|resource| resource.metadata.id));
    Ok(())
}

/// Brings one machine's resources to where they belong.
async fn reconcile(hub: &Hub, machine: &str) -> Result<(), StateError> {
    match hub.store.find::<SiderolinkSpec>(machine).await? {
        Some(link) if !link.tearing_down() => running(hub, machine, &link).await,
        Some(_) | None => removed(hub, machine).await,
    }
}

async fn running(hub: &Hub, machine: &str, link: &Typed<SiderolinkSpec>) -> Result<(), StateError> {
    let Some(provider) = link.label(LABEL_INFRA_PROVIDER_ID) else { return Ok(()) };
    if !is_static(hub, provider).await? {
        return Ok(());
    }
    cosi::add_finalizer(&*hub.store.state(), &pointer::<SiderolinkSpec>(machine), INFRA_MACHINE_OWNER)
        .await?;
    if let Some(old) = hub.store.find::<InfraMachineSpec>(machine).await?
        && old.tearing_down()
        && !hub.store.remove(&pointer::<InfraMachineSpec>(machine)).await?
    {
        // Its predecessor is still on the way out; its destruction brings us back here.
        return Ok(());
    }
    store_token(hub, machine, link).await?;
    let node = hub.store.find::<MachineSetNodeSpec>(machine).await?;
    if let Some(node) = &node
        && !node.tearing_down()
    {
        // From here on the allocation cannot vanish without its wipe.
        let node = pointer::<MachineSetNodeSpec>(machine);
        cosi::add_finalizer(&*hub.store.state(), &node, INFRA_MACHINE_OWNER).await?;
    }
    let wishes = wishes(hub, machine, provider, link, node).await?;
    tell_provider(hub, machine, &wishes).await?;
    if wishes.released() {
        let node = pointer::<MachineSetNodeSpec>(machine);
        cosi::remove_finalizer(&*hub.store.state(), &node, INFRA_MACHINE_OWNER).await?;
        hub.store.remove(&node).await?;
    }
    Ok(())
}

/// Our own provider is static by nature; of others it is what their status says.
async fn is_static(hub: &Hub, provider: &str) -> Result<bool, StateError> {
    if provider == hub.config.provider_id {
        return Ok(true);
    }
    let status = hub.store.find::<InfraProviderStatusSpec>(provider).await?;
    Ok(status.is_some_and(|status| status.metadata.labels.contains_key(LABEL_IS_STATIC_INFRA_PROVIDER)))
}

async fn store_token(hub: &Hub, machine: &str, link: &Typed<SiderolinkSpec>) -> Result<(), StateError> {
    let token = &link.spec.node_unique_token;
    if token.is_empty() {
        return Ok(());
    }
    let change = |_: &mut Metadata, spec: &mut NodeUniqueTokenSpec| {
        spec.token.clone_from(token);
        Ok(())
    };
    hub.store.put::<NodeUniqueTokenSpec, _>(machine, "", Missing::Create, change).await.map(|_| ())
}

async fn wishes(
    hub: &Hub,
    machine: &str,
    provider: &str,
    link: &Typed<SiderolinkSpec>,
    node: Option<Typed<MachineSetNodeSpec>>,
) -> Result<Wishes, StateError> {
    let config = hub.store.find::<InfraMachineConfigSpec>(machine).await?;
    let cluster = match node.as_ref().and_then(|node| node.label(LABEL_CLUSTER)) {
        Some(cluster) => hub.store.find::<ClusterSpec>(cluster).await?,
        None => None,
    };
    Ok(Wishes {
        provider: provider.to_owned(),
        token: link.spec.node_unique_token.clone(),
        config: config.filter(|config| !config.tearing_down()).map(|config| config.spec),
        node: node.map(|node| (node.metadata.phase == Phase::Running, node.metadata.labels)),
        talos_version: cluster.map(|cluster| cluster.spec.talos_version),
    })
}

/// Writes the InfraMachine and tells what changed.
async fn tell_provider(hub: &Hub, machine: &str, wishes: &Wishes) -> Result<(), StateError> {
    let mut changes = Vec::new();
    let change = |metadata: &mut Metadata, spec: &mut InfraMachineSpec| {
        changes = apply(wishes, metadata, spec);
        Ok(())
    };
    hub.store.put::<InfraMachineSpec, _>(machine, INFRA_MACHINE_OWNER, Missing::Create, change).await?;
    for kind in changes {
        hub.emit(HubEvent { machine: machine.to_owned(), peer: None, kind });
    }
    Ok(())
}

/// The link is going or gone.
async fn removed(hub: &Hub, machine: &str) -> Result<(), StateError> {
    let had = hub.store.find::<InfraMachineSpec>(machine).await?.is_some();
    if !hub.store.remove(&pointer::<InfraMachineSpec>(machine)).await? {
        return Ok(());
    }
    let link = pointer::<SiderolinkSpec>(machine);
    if had || hub.store.find::<SiderolinkSpec>(machine).await?.is_some() {
        let node = pointer::<MachineSetNodeSpec>(machine);
        cosi::remove_finalizer(&*hub.store.state(), &node, INFRA_MACHINE_OWNER).await?;
        hub.store.remove(&node).await?;
        hub.store.remove(&pointer::<InfraMachineConfigSpec>(machine)).await?;
        hub.store.remove(&pointer::<InfraMachineBmcConfigSpec>(machine)).await?;
        hub.store.remove(&pointer::<NodeUniqueTokenSpec>(machine)).await?;
    }
    cosi::remove_finalizer(&*hub.store.state(), &link, INFRA_MACHINE_OWNER).await?;
    hub.store.remove(&link).await?;
    if had {
        hub.emit(HubEvent { machine: machine.to_owned(), peer: None, kind: HubEventKind::Removed });
    }
    Ok(())
}
