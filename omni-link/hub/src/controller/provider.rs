//! Providers: what they get, and what becomes of it all when one is removed.

use std::time::{Duration, SystemTime};

use ::provider::private;
use ::provider::resources::{LABEL_INFRA_PROVIDER_ID, PrivateSpec, ResourceSpec, private_namespace};
use ::provider::specs::infra_provider_combined_status_spec::Health;
use ::provider::specs::{
    InfraMachineSpec, InfraMachineStatusSpec, InfraProviderCombinedStatusSpec, InfraProviderHealthStatusSpec,
    InfraProviderSpec, InfraProviderStatusSpec, MachineRequestSetSpec, MachineRequestSpec,
    MachineRequestStatusSpec, ProviderJoinConfigSpec, SiderolinkSpec,
};
use cosi::{Kind, Metadata, Missing, Resource, StateError};
use omni_auth::AccountName;

use super::machine::let_go;
use super::{Progress, labelled};
use crate::limits::{HEARTBEAT_CHECK, HEARTBEAT_LIFETIME};
use crate::store::{decode, kind, pointer};
use crate::{Hub, OpenError, accounts, setup};

/// Holds an InfraProvider until all that is its is gone.
const CLEANUP: &str = "InfraProviderCleanupController";
/// Who owns the combined statuses.
const COMBINED_OWNER: &str = "InfraProviderCombinedStatusController";

/// Brings one provider's resources to where they belong.
pub(super) async fn reconcile(hub: &Hub, id: &str) -> Result<Progress, StateError> {
    match hub.store.find::<InfraProviderSpec>(id).await? {
        Some(provider) if !provider.tearing_down() => {
            cosi::add_finalizer(&*hub.store.state(), &pointer::<InfraProviderSpec>(id), CLEANUP).await?;
            join_config(hub, id).await?;
            combine(hub, id).await?;
            Ok(Progress::Done)
        }
        // Also without the finalizer: it may be torn down before we come to put it there.
        Some(_) => {
            if !clean_up(hub, id).await? {
                return Ok(Progress::Waits);
            }
            cosi::remove_finalizer(&*hub.store.state(), &pointer::<InfraProviderSpec>(id), CLEANUP).await?;
            Ok(Progress::Done)
        }
        // A status of nobody may stay: a provider of that name may come back.
        None => {
            hub.store.remove(&pointer::<InfraProviderCombinedStatusSpec>(id)).await.map(|_| Progress::Done)
        }
    }
}

/// What the provider's machines join with.
pub(crate) async fn join_config(hub: &Hub, id: &str) -> Result<(), StateError> {
    let failed = |error: OpenError| match error {
        OpenError::Store(error) => error,
        other => StateError::Unavailable(other.to_string()),
    };
    let addresses = setup::Addresses::of(&hub.config).map_err(failed)?;
    setup::join_config(&hub.store, &addresses, id).await.map_err(failed)
}

/// Removes all that is the provider's. Says whether it is gone.
async fn clean_up(hub: &Hub, id: &str) -> Result<bool, StateError> {
    let mut gone = true;
    let with_label = async |kind: &Kind| labelled(hub, kind, LABEL_INFRA_PROVIDER_ID, id).await;
    for link in with_label(&kind::<SiderolinkSpec>()).await? {
        gone &= hub.store.remove(&link.pointer()).await?;
    }
    for set in hub.store.list(&kind::<MachineRequestSetSpec>()).await? {
        // Only its own: those of other providers are none of its business.
        if decode::<MachineRequestSetSpec>(&set)?.provider_id == id {
            gone &= hub.store.remove(&set.pointer()).await?;
        }
    }
    // Nobody is left to let go of these.
    for kind in [kind::<MachineRequestSpec>(), kind::<InfraMachineStatusSpec>(), config_patch_requests()] {
        for resource in with_label(&kind).await? {
            let_go(hub, &resource.pointer()).await?;
            gone &= hub.store.remove(&resource.pointer()).await?;
        }
    }
    // These the hub holds itself, until their machines are on the way out.
    for status in with_label(&kind::<MachineRequestStatusSpec>()).await? {
        gone &= hub.store.remove(&status.pointer()).await?;
    }
    gone &= with_label(&kind::<InfraMachineSpec>()).await?.is_empty();
    for pointer in [
        pointer::<InfraProviderStatusSpec>(id),
        pointer::<InfraProviderHealthStatusSpec>(id),
        pointer::<InfraProviderCombinedStatusSpec>(id),
        pointer::<ProviderJoinConfigSpec>(id),
    ] {
        let_go(hub, &pointer).await?;
        gone &= hub.store.remove(&pointer).await?;
    }
    private_records(hub, id).await?;
    if let Ok(account) = AccountName::infra_provider(id) {
        accounts::delete_account(&*hub.store.state(), &account).await?;
    }
    Ok(gone)
}

fn config_patch_requests() -> Kind {
    Kind::new(InfraMachineSpec::NAMESPACE, "ConfigPatchRequests.omni.sidero.dev")
}

/// The records that providers of bare metal keep: passwords are among them.
async fn private_records(hub: &Hub, id: &str) -> Result<(), StateError> {
    let types = [
        private::BmcConfigurationSpec::resource_type(id),
        private::MachineStatusSpec::resource_type(id),
        private::PowerOperationSpec::resource_type(id),
        private::RebootStatusSpec::resource_type(id),
        private::TlsConfigSpec::resource_type(id),
        private::WipeStatusSpec::resource_type(id),
        private::InventorySpec::resource_type(id),
    ];
    for typ in types {
        for record in hub.store.list(&Kind::new(private_namespace(id), typ)).await? {
            let_go(hub, &record.pointer()).await?;
            hub.store.remove(&record.pointer()).await?;
        }
    }
    Ok(())
}

/// Looks at all heartbeats again and again: that one stays away is no event.
pub(crate) async fn run_health(hub: &Hub) {
    loop {
        tokio::time::sleep(HEARTBEAT_CHECK).await;
        if let Err(error) = combine_all(hub).await {
            tracing::warn!(%error, "the heartbeats cannot be looked at");
        }
    }
}

async fn combine_all(hub: &Hub) -> Result<(), StateError> {
    for provider in hub.store.list(&kind::<InfraProviderSpec>()).await? {
        if !provider.is_tearing_down() {
            combine(hub, provider.id()).await?;
        }
    }
    Ok(())
}

async fn combine(hub: &Hub, id: &str) -> Result<Resource, StateError> {
    let status = hub.store.find::<InfraProviderStatusSpec>(id).await?.map(|status| status.spec);
    let health = hub.store.find::<InfraProviderHealthStatusSpec>(id).await?.map(|health| health.spec);
    let combined = combined(status, health, hub.now());
    let change = |_: &mut Metadata, spec: &mut InfraProviderCombinedStatusSpec| {
        spec.clone_from(&combined);
        Ok(())
    };
    hub.store.put(id, COMBINED_OWNER, Missing::Create, change).await
}

fn combined(
    status: Option<InfraProviderStatusSpec>,
    health: Option<InfraProviderHealthStatusSpec>,
    now: SystemTime,
) -> InfraProviderCombinedStatusSpec {
    let InfraProviderStatusSpec { name, description, icon, version, .. } = status.unwrap_or_default();
    let beat = health.as_ref().and_then(|health| health.last_heartbeat_timestamp);
    let beat = beat.and_then(|beat| SystemTime::try_from(beat).ok());
    // A beat from the future is a clock that differs, not a dead provider.
    let age = beat.map(|beat| now.duration_since(beat).unwrap_or(Duration::ZERO));
    let health = Health {
        connected: age.is_some_and(|age| age < HEARTBEAT_LIFETIME),
        error: health.map(|health| health.error).unwrap_or_default(),
        initialized: beat.is_some(),
    };
    InfraProviderCombinedStatusSpec { name, description, icon, health: Some(health), version }
}

#[cfg(test)]
mod tests;
