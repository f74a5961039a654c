//! What users may write.

mod request;

use std::sync::Arc;

use async_trait::async_trait;
use cosi::{
    EventStream, Kind, LabelQuery, LabelTerm, ListOptions, Pointer, Resource, State, StateError,
    UpdateOptions, WatchOptions, WatchTarget,
};
use provider::resources::{LABEL_CLUSTER, ResourceSpec};
use provider::specs::infra_machine_config_spec::{AcceptanceStatus, MachinePowerState};
use provider::specs::{
    ClusterSpec, InfraMachineConfigSpec, InfraMachineSpec, InfraMachineStatusSpec, MachineClassSpec,
    MachineRequestSetSpec, MachineRequestSpec, MachineSetNodeSpec, SiderolinkSpec,
};

use crate::limits::{MAX_EXTRA_KERNEL_ARGS, MAX_REQUEST_ID};
use crate::render;
use crate::store::{Store, Typed, decode, kind};

/// Checks a change of a machine's configuration; `old` is `None` when it is new.
///
/// # Errors
/// When acceptance is taken back, or a value is not known or too long: [`StateError::InvalidArgument`].
pub fn validate_config_change(
    old: Option<&InfraMachineConfigSpec>,
    new: &InfraMachineConfigSpec,
) -> Result<(), StateError> {
    let invalid = |text: &str| Err(StateError::InvalidArgument(text.to_owned()));
    if AcceptanceStatus::try_from(new.acceptance_status).is_err() {
        return invalid("acceptance status is not known");
    }
    if MachinePowerState::try_from(new.power_state).is_err() {
        return invalid("power state is not known");
    }
    text("requested reboot id", &new.requested_reboot_id, MAX_REQUEST_ID)?;
    text("power-off request id", &new.power_off_request_id, MAX_REQUEST_ID)?;
    text("extra kernel args", &new.extra_kernel_args, MAX_EXTRA_KERNEL_ARGS)?;
    let accepted =
        |spec: &InfraMachineConfigSpec| spec.acceptance_status == AcceptanceStatus::Accepted as i32;
    if old.is_some_and(accepted) && !accepted(new) {
        return invalid("an accepted machine stays accepted: remove the machine instead");
    }
    Ok(())
}

/// A [`State`] that checks what users write before it is stored: what the hub offers to operators.
///
/// Checked are machine configurations (acceptance is final), allocations (only an accepted machine that is
/// ready, to a cluster that exists), what is asked of providers that make machines (by their schema), and the
/// removal of clusters in use. Everything else passes. A destroy of
/// an allocation or a link that the controller still holds is taken as its teardown.
pub struct ValidatedState {
    inner: Arc<dyn State>,
    store: Store,
}

impl ValidatedState {
    /// Checks before `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn State>) -> Self {
        Self { store: Store::new(Arc::clone(&inner)), inner }
    }

    async fn check_write(&self, new: &Resource) -> Result<(), StateError> {
        let kind_of = |wanted: Kind| new.pointer().kind() == wanted;
        if kind_of(kind::<InfraMachineConfigSpec>()) {
            let spec = readable(new)?;
            let old = self.store.find::<InfraMachineConfigSpec>(new.id()).await?;
            validate_config_change(old.as_ref().map(|old| &old.spec), &spec)
        } else if kind_of(kind::<MachineSetNodeSpec>()) {
            self.check_allocation(new).await
        } else if kind_of(kind::<ClusterSpec>()) {
            let spec: ClusterSpec = readable(new)?;
            if version_like(&spec.talos_version) {
                Ok(())
            } else {
                Err(StateError::InvalidArgument(format!(
                    "Talos version {:?} of cluster {} is no version like 1.13.7",
                    spec.talos_version,
                    new.id()
                )))
            }
        } else if kind_of(kind::<MachineRequestSetSpec>()) {
            request::check_set(&self.store, new).await
        } else if kind_of(kind::<MachineClassSpec>()) {
            request::check_class(&self.store, new).await
        } else if kind_of(kind::<MachineRequestSpec>()) {
            request::check_request(&self.store, new).await
        } else {
            Ok(())
        }
    }

    async fn check_allocation(&self, node: &Resource) -> Result<(), StateError> {
        let id = node.id();
        let invalid = |text: String| Err(StateError::InvalidArgument(text));
        let Some(cluster) = node.label(LABEL_CLUSTER) else {
            return invalid(format!("allocation of machine {id} has no label {LABEL_CLUSTER}"));
        };
        if let Some(old) = self.store.find::<MachineSetNodeSpec>(id).await? {
            // Finalizers, labels of the role: fine. Another cluster: only by way of a release, with its wipe.
            return match old.label(LABEL_CLUSTER) {
                Some(now) if now != cluster => {
                    invalid(format!("machine {id} belongs to cluster {now}: release it first"))
                }
                Some(_) | None => Ok(()),
            };
        }
        match self.store.find::<ClusterSpec>(cluster).await? {
            Some(found) if !found.tearing_down() => {}
            Some(_) => return invalid(format!("cluster {cluster} is being removed")),
            None => return invalid(format!("cluster {cluster} does not exist")),
        }
        let machine = self.store.find::<InfraMachineSpec>(id).await?;
        let status = self.store.find::<InfraMachineStatusSpec>(id).await?;
        allocatable(id, machine.as_ref(), status.as_ref()).map_err(StateError::InvalidArgument)
    }

    fn controlled(pointer: &Pointer) -> bool {
        let of = pointer.kind();
        of == kind::<MachineSetNodeSpec>() || of == kind::<SiderolinkSpec>()
    }

    async fn check_removal(&self, pointer: &Pointer) -> Result<(), StateError> {
        let invalid = |text: String| Err(StateError::InvalidArgument(text));
        if pointer.kind() == kind::<InfraMachineConfigSpec>() {
            let config = self.store.find::<InfraMachineConfigSpec>(&pointer.id).await?;
            let accepted = |config: &Typed<InfraMachineConfigSpec>| {
                config.spec.acceptance_status == AcceptanceStatus::Accepted as i32
            };
            let machine = self.store.find::<InfraMachineSpec>(&pointer.id).await?;
            if machine.is_some() && config.as_ref().is_some_and(accepted) {
                return invalid(format!("machine {} is accepted: remove the machine instead", pointer.id));
            }
        } else if pointer.kind() == kind::<ClusterSpec>() {
            let query = LabelQuery::new([LabelTerm::equal(LABEL_CLUSTER, &pointer.id)]);
            let nodes = self.inner.list(&kind::<MachineSetNodeSpec>(), &ListOptions::labels(query)).await?;
            if !nodes.is_empty() {
                return invalid(format!("cluster {} still has {} machine(s)", pointer.id, nodes.len()));
            }
        }
        Ok(())
    }
}

/// Why a machine may not be allocated.
fn allocatable(
    id: &str,
    machine: Option<&Typed<InfraMachineSpec>>,
    status: Option<&Typed<InfraMachineStatusSpec>>,
) -> Result<(), String> {
    let machine = machine.ok_or_else(|| format!("machine {id} does not exist"))?;
    if machine.tearing_down() {
        return Err(format!("machine {id} is being removed"));
    }
    if machine.spec.acceptance_status != AcceptanceStatus::Accepted as i32 {
        return Err(format!("machine {id} is not accepted"));
    }
    if !machine.spec.cluster_talos_version.is_empty() {
        let cluster = machine.label(LABEL_CLUSTER).unwrap_or("a cluster");
        return Err(format!("machine {id} is still allocated to {cluster}"));
    }
    let ready = status.is_some_and(|status| !status.tearing_down() && status.spec.ready_to_use);
    if ready { Ok(()) } else { Err(format!("machine {id} is not ready for use yet")) }
}

fn version_like(text: &str) -> bool {
    let mut parts = text.trim_start_matches('v').split(['.', '-', '+']);
    (0..3).all(|_| {
        parts.next().is_some_and(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// A text of a user that others repeat: bounded, and without what would move a cursor.
fn text(what: &str, text: &str, most: usize) -> Result<(), StateError> {
    let wrong = if text.len() > most {
        format!("{what} is too long: {} bytes (max {most})", text.len())
    } else if text.chars().any(char::is_control) {
        format!("{what} contains a control character")
    } else {
        return Ok(());
    };
    Err(StateError::InvalidArgument(wrong))
}

/// The message of what a user wrote.
fn readable<T: ResourceSpec>(resource: &Resource) -> Result<T, StateError> {
    decode(resource).map_err(|error| StateError::InvalidArgument(error.to_string()))
}

#[async_trait]
impl State for ValidatedState {
    async fn get(&self, pointer: &Pointer) -> Result<Resource, StateError> {
        self.inner.get(pointer).await
    }

    async fn list(&self, kind: &Kind, options: &ListOptions) -> Result<Vec<Resource>, StateError> {
        self.inner.list(kind, options).await
    }

    async fn create(&self, mut resource: Resource, owner: &str) -> Result<Resource, StateError> {
        render::fill(&mut resource)?;
        if let Err(refused) = self.check_write(&resource).await {
            return Err(match self.inner.get(&resource.pointer()).await {
                Ok(_) => StateError::AlreadyExists(format!("{} exists already", resource.pointer())),
                Err(_) => refused,
            });
        }
        self.inner.create(resource, owner).await
    }

    async fn update(&self, mut resource: Resource, options: &UpdateOptions) -> Result<Resource, StateError> {
        render::fill(&mut resource)?;
        if let Err(refused) = self.check_write(&resource).await {
            // Who lost a race is told of the race, not of a rule: the usual retry works then.
            let stored = self.inner.get(&resource.pointer()).await;
            return Err(match stored {
                Ok(stored) if stored.metadata.version != resource.metadata.version => {
                    StateError::VersionConflict(format!("{} was changed meanwhile", resource.pointer()))
                }
                Ok(_) | Err(_) => refused,
            });
        }
        if resource.is_tearing_down() {
            // A teardown by update, as clients do it that do not know the call.
            self.check_removal(&resource.pointer()).await?;
        }
        self.inner.update(resource, options).await
    }

    async fn destroy(&self, pointer: &Pointer, owner: &str) -> Result<(), StateError> {
        self.check_removal(pointer).await?;
        match self.inner.destroy(pointer, owner).await {
            // To destroy an allocation or a link is to ask for the release or the removal of the machine: the
            // controller destroys it once it has done what comes before.
            Err(StateError::PendingFinalizers(_)) if Self::controlled(pointer) => {
                self.inner.teardown(pointer, owner).await.map(|_| ())
            }
            result => result,
        }
    }

    async fn teardown(&self, pointer: &Pointer, owner: &str) -> Result<bool, StateError> {
        self.check_removal(pointer).await?;
        self.inner.teardown(pointer, owner).await
    }

    async fn watch(&self, target: &WatchTarget, options: &WatchOptions) -> Result<EventStream, StateError> {
        self.inner.watch(target, options).await
    }
}

#[cfg(test)]
mod tests;
