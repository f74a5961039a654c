//! One machine: from its link to what its provider is told.

use cosi::{Metadata, Missing, ModifyOptions, Phase, Pointer, Resource, State as _, StateError};
use provider::resources::{
    INFRA_MACHINE_OWNER, LABEL_CLUSTER, LABEL_INFRA_PROVIDER_ID, LABEL_IS_STATIC_INFRA_PROVIDER,
};
use provider::specs::{
    BmcConfigSpec, ClusterSpec, InfraMachineBmcConfigSpec, InfraMachineConfigSpec, InfraMachineSpec,
    InfraProviderSpec, InfraProviderStatusSpec, MachineRegistrationSpec, MachineSetNodeSpec,
    NodeUniqueTokenSpec, SiderolinkSpec,
};

use super::fields::{Wishes, apply};
use crate::store::{Typed, pointer};
use crate::{Hub, HubEvent, HubEventKind};

/// Who owns the BMCConfigs.
const BMC_CONFIG_OWNER: &str = "BMCConfigController";
/// Who owns the InfraMachineRegistrations.
const REGISTRATION_OWNER: &str = "InfraMachineRegistrationController";

/// Brings one machine's resources to where they belong.
pub(super) async fn reconcile(hub: &Hub, machine: &str) -> Result<(), StateError> {
    match hub.store.find::<SiderolinkSpec>(machine).await? {
        Some(link) if !link.tearing_down() => running(hub, machine, &link).await,
        Some(_) | None => removed(hub, machine).await,
    }
}

async fn running(hub: &Hub, machine: &str, link: &Typed<SiderolinkSpec>) -> Result<(), StateError> {
    let Some(provider) = link.label(LABEL_INFRA_PROVIDER_ID) else { return Ok(()) };
    register(hub, machine, link).await?;
    bmc_config(hub, machine, provider).await?;
    if !is_static(hub, provider).await? {
        return Ok(());
    }
    cosi::add_finalizer(&*hub.store.state(), &pointer::<SiderolinkSpec>(machine), INFRA_MACHINE_OWNER)
        .await?;
    if leaving::<InfraMachineSpec>(hub, machine).await? {
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

/// What the provider's status says; our own one is static until it says otherwise.
async fn is_static(hub: &Hub, provider: &str) -> Result<bool, StateError> {
    let status = hub.store.find::<InfraProviderStatusSpec>(provider).await?;
    Ok(status.map_or(provider == hub.config.provider_id, |status| {
        status.metadata.labels.contains_key(LABEL_IS_STATIC_INFRA_PROVIDER)
    }))
}

/// Tells the provider of the link: by its labels, among them the request that the machine was made for.
async fn register(hub: &Hub, machine: &str, link: &Typed<SiderolinkSpec>) -> Result<(), StateError> {
    let change = |metadata: &mut Metadata, _: &mut MachineRegistrationSpec| {
        metadata.labels.clone_from(&link.metadata.labels);
        Ok(())
    };
    if leaving::<MachineRegistrationSpec>(hub, machine).await? {
        return Ok(());
    }
    let put = hub.store.put(machine, REGISTRATION_OWNER, Missing::Create, change);
    put.await.map(drop)
}

/// Gives the provider what a user typed in about the machine's BMC, and takes it back.
async fn bmc_config(hub: &Hub, machine: &str, provider: &str) -> Result<(), StateError> {
    let config = hub.store.find::<InfraMachineBmcConfigSpec>(machine).await?;
    let Some(config) = config.filter(|config| !config.tearing_down()) else {
        return hub.store.remove(&pointer::<BmcConfigSpec>(machine)).await.map(drop);
    };
    if leaving::<BmcConfigSpec>(hub, machine).await? {
        return Ok(());
    }
    let change = |metadata: &mut Metadata, spec: &mut BmcConfigSpec| {
        metadata.labels.insert(LABEL_INFRA_PROVIDER_ID.to_owned(), provider.to_owned());
        spec.config = Some(config.spec.clone());
        Ok(())
    };
    hub.store.put(machine, BMC_CONFIG_OWNER, Missing::Create, change).await.map(drop)
}

/// Whether a predecessor is still on its way out; its destruction brings us back here.
async fn leaving<T: provider::resources::ResourceSpec>(hub: &Hub, machine: &str) -> Result<bool, StateError> {
    match hub.store.find::<T>(machine).await? {
        Some(old) if old.tearing_down() => Ok(!hub.store.remove(&pointer::<T>(machine)).await?),
        Some(_) | None => Ok(false),
    }
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
    for (held, owner) in [
        (pointer::<InfraMachineSpec>(machine), INFRA_MACHINE_OWNER),
        (pointer::<BmcConfigSpec>(machine), BMC_CONFIG_OWNER),
        (pointer::<MachineRegistrationSpec>(machine), REGISTRATION_OWNER),
    ] {
        if !release(hub, &held, owner).await? {
            return Ok(());
        }
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
        hub.logs.forget(machine);
        hub.emit(HubEvent { machine: machine.to_owned(), peer: None, kind: HubEventKind::Removed });
    }
    Ok(())
}

/// Removes what a provider may hold. When the provider is gone nobody else will let go. Says whether it is
/// gone.
async fn release(hub: &Hub, held: &Pointer, owner: &str) -> Result<bool, StateError> {
    match hub.store.state().get(held).await {
        // What somebody else made is theirs.
        Ok(resource) if resource.metadata.owner != owner => return Ok(true),
        Ok(_) => {}
        Err(StateError::NotFound(_)) => return Ok(true),
        Err(error) => return Err(error),
    }
    if hub.store.remove(held).await? {
        return Ok(true);
    }
    let resource = match hub.store.state().get(held).await {
        Ok(resource) => resource,
        Err(StateError::NotFound(_)) => return Ok(true),
        Err(error) => return Err(error),
    };
    let provider = resource.label(LABEL_INFRA_PROVIDER_ID).unwrap_or_default();
    match hub.store.find::<InfraProviderSpec>(provider).await? {
        Some(provider) if !provider.tearing_down() => Ok(false),
        Some(_) | None => {
            let_go(hub, held).await?;
            hub.store.remove(held).await
        }
    }
}

/// Takes all finalizers off.
pub(super) async fn let_go(hub: &Hub, held: &Pointer) -> Result<(), StateError> {
    let options = ModifyOptions { owner: None, missing: Missing::Fail, expected_phase: None };
    let change = |resource: &mut Resource| {
        resource.metadata.finalizers.clear();
        Ok(())
    };
    match cosi::modify_with(&*hub.store.state(), held, &options, change).await {
        Ok(_) | Err(StateError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
