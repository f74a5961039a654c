//! What is written to Omni, and how it gets there.

use std::collections::BTreeMap;

use cosi::{Pointer, Resource, Spec, StateError, UpdateOptions, Version};
use prost::Message;
use provider::private::MachineStatusSpec;
use provider::resources::PrivateSpec;
use provider::unknown_fields::encode_keeping;
use provider::view::Acceptance;
use provider::{MachineView, resources};
use serde::Serialize;

use super::{Next, POLL_INTERVAL, StepError, Task};
use crate::happening::Happening;
use crate::outbox::Pending;
use crate::view::{Entry, Machine, Part};

/// How often one write is tried against others that write the same.
const CONFLICTS_MAX: usize = 8;
/// The Go provider's controllers, which hold finalizers of their own: a machine that it left to us must not
/// wait for them for ever.
const PEER_CONTROLLERS: [&str; 6] = [
    "PowerOperationController",
    "InfraMachineStatusController",
    "BMCConfigurationController",
    "RebootStatusController",
    "WipeStatusController",
    "MachineStatusController",
];

impl Task {
    /// Puts our finalizer on the machine: Omni waits for us before it forgets it.
    pub(super) async fn hold(
        &self,
        machine: &Machine,
        infra: &Entry<provider::specs::InfraMachineSpec>,
    ) -> Result<bool, StepError> {
        let finalizer = resources::provider_controller(&self.controller.provider_id);
        if infra.metadata.finalizers.contains(&finalizer) {
            return Ok(false);
        }
        let Some(mut resource) = machine.resource(Part::Infra) else { return Ok(false) };
        resource.insert_finalizer(&finalizer);
        let stored =
            self.controller.state.update(resource, &UpdateOptions::owner(&infra.metadata.owner)).await?;
        self.controller.view.apply(Part::Infra, &stored);
        Ok(true)
    }

    /// Tells Omni how the machine is. Writes only what changed.
    pub(super) async fn report(&mut self, machine: &Machine, view: &MachineView) -> Result<bool, StepError> {
        if view.machine.as_ref().is_none_or(|infra| infra.acceptance() != Acceptance::Accepted) {
            return Ok(false);
        }
        let status = provider::status(view);
        let known = machine.status.as_ref();
        let no_labels = BTreeMap::new();
        let existing = known.map_or(&no_labels, |entry| &entry.metadata.labels);
        let labels = provider::status_labels(view, existing);
        if status.ready_to_use && !self.ready && known.is_none_or(|entry| !entry.spec.ready_to_use) {
            self.tell(Happening::Ready);
        }
        self.ready = status.ready_to_use;
        if known.is_some_and(|entry| entry.spec == status) && *existing == labels {
            return Ok(false);
        }
        let mut resource = self.resource(Part::Status, machine, &status);
        resource.metadata.labels = labels;
        self.store(Part::Status, machine, resource).await?;
        Ok(true)
    }

    /// Omni removes the machine: our records go first, then our finalizer. A wiped token that stayed behind
    /// would lock the machine out when it comes back.
    pub(super) async fn let_go(&self, machine: &Machine) -> Result<Next, StepError> {
        if !self.confirm(machine, Part::Infra).await? {
            return Ok(Next::Again);
        }
        self.destroy_records(machine).await?;
        self.destroy_record_of_peer().await?;
        let Some(mut resource) = machine.resource(Part::Infra) else { return Ok(Next::Again) };
        let id = &self.controller.provider_id;
        let before = resource.metadata.finalizers.len();
        resource.drop_finalizer(&resources::provider_controller(id));
        for controller in PEER_CONTROLLERS {
            resource.drop_finalizer(&format!("{id}.{controller}"));
        }
        if resource.metadata.finalizers.len() != before {
            let options = UpdateOptions::owner(&resource.metadata.owner).any_phase();
            match self.controller.state.update(resource, &options).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Next::Wait(POLL_INTERVAL))
    }

    /// Omni does not know the machine: what we wrote about it goes, too.
    pub(super) async fn clear_away(&self, machine: &Machine) -> Result<Next, StepError> {
        let ours = Part::OURS.iter().any(|part| machine.has(*part));
        if ours && !self.confirm(machine, Part::Infra).await? {
            return Ok(Next::Again);
        }
        self.destroy_records(machine).await?;
        Ok(Next::Wait(POLL_INTERVAL))
    }

    async fn destroy_records(&self, machine: &Machine) -> Result<(), StepError> {
        let view = &self.controller.view;
        if let Err(error) = view.outbox().forget(&self.id).await {
            tracing::warn!(machine = self.id, %error, "what waits to be sent is forgotten in memory only");
        }
        for part in Part::OURS {
            let Some(metadata) = machine.metadata(part) else { continue };
            match self.controller.state.destroy(&self.pointer(part), &metadata.owner).await {
                Ok(()) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
            view.settle(part, &self.id, None);
        }
        Ok(())
    }

    /// What the Go provider last saw of the machine: we keep no such record, but it may have left one to us.
    async fn destroy_record_of_peer(&self) -> Result<(), StepError> {
        let (state, id) = (&self.controller.state, &self.controller.provider_id);
        let typ = MachineStatusSpec::resource_type(id);
        let pointer = Pointer::new(resources::private_namespace(id), typ, &self.id);
        let mut record = match state.get(&pointer).await {
            Err(error) if error.is_not_found() => return Ok(()),
            result => result?,
        };
        let owner = record.metadata.owner.clone();
        if !record.metadata.finalizers.is_empty() {
            record.metadata.finalizers.clear();
            state.update(record, &UpdateOptions::owner(&owner).any_phase()).await?;
        }
        match state.destroy(&pointer, &owner).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Asks Omni whether a part is still what the decision was made from: a watch may lag behind, and what
    /// follows cannot be undone. When it is not, the view knows better afterwards.
    pub(super) async fn confirm(&self, machine: &Machine, part: Part) -> Result<bool, StepError> {
        let now = match self.controller.state.get(&self.pointer(part)).await {
            Ok(resource) => Some(resource),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        let is_now = |known: Option<&cosi::Metadata>| match (&now, known) {
            (Some(now), Some(known)) => {
                (now.metadata.version, now.metadata.created) == (known.version, known.created)
            }
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        let known = machine.metadata(part);
        if is_now(known) {
            return Ok(true);
        }
        tracing::debug!(machine = self.id, ?part, "Omni was faster than its watch");
        if let Some(now) = &now {
            self.controller.view.apply(part, now);
        }
        let known_now = || self.controller.view.machine(&self.id);
        if known_now().as_deref().and_then(|machine| machine.metadata(part)) == known {
            // Still what we thought, so Omni has it no longer, or went back to an older one.
            self.controller.view.settle(part, &self.id, now.as_ref());
        }
        if known_now().as_deref().and_then(|machine| machine.metadata(part)) == known {
            return Err(StepError::Unreadable(self.pointer(part)));
        }
        Ok(false)
    }

    pub(super) async fn write<T>(&self, part: Part, machine: &Machine, spec: &T) -> Result<(), StepError>
    where
        T: Message + Default + PartialEq + Serialize,
    {
        self.store(part, machine, self.resource(part, machine, spec)).await
    }

    /// The stored resource with a new spec, or a new resource.
    fn resource<T>(&self, part: Part, machine: &Machine, spec: &T) -> Resource
    where
        T: Message + Default + PartialEq + Serialize,
    {
        let mut resource = machine.resource(part).unwrap_or_else(|| {
            let mut new = Resource::empty(&self.pointer(part));
            new.metadata.owner = part.owner(&self.controller.provider_id);
            new
        });
        resource.spec = Spec {
            proto: encode_keeping(&resource.spec.proto, spec),
            // Omni renders its own types; of ours it knows only what we send.
            yaml: if part == Part::Status { String::new() } else { yaml(spec) },
        };
        resource
    }

    /// Keeps it, lets the next step see it, and sends it when Omni is there. A record of an act is on the
    /// disk before that: whatever happens, the act is not repeated.
    async fn store(&self, part: Part, machine: &Machine, resource: Resource) -> Result<(), StepError> {
        let view = &self.controller.view;
        let created = machine.infra.as_ref().map(|infra| infra.metadata.created);
        let fresh = view.fresh();
        let put =
            view.outbox().put(&self.id, part, resource.clone(), created, part.is_record() || !fresh).await;
        view.want(part, &resource);
        self.disk_worked(put);
        if fresh { self.flush(machine).await } else { Ok(()) }
    }

    /// Sends what waits, oldest first.
    pub(super) async fn flush(&self, machine: &Machine) -> Result<(), StepError> {
        let outbox = self.controller.view.outbox();
        while let Some(pending) = outbox.first(&self.id) {
            let sent = if is_about(&pending, machine) {
                self.send(&pending, machine).await
            } else {
                tracing::info!(machine = self.id, part = ?pending.part, "Omni has another machine of this id now");
                self.look_up(pending.part).await.map(drop)
            };
            if let Err(error) = sent {
                self.disk_worked(outbox.save(&self.id).await);
                return Err(error.into());
            }
            self.disk_worked(outbox.done(&self.id, &pending).await);
            self.controller.view.count_up();
        }
        Ok(())
    }

    /// Creates or updates. Whoever wrote meanwhile is heard: what is true of both is written.
    async fn send(&self, pending: &Pending, machine: &Machine) -> Result<(), StateError> {
        let (part, state) = (pending.part, &self.controller.state);
        let mut resource = pending.resource.clone();
        for _ in 0..CONFLICTS_MAX {
            let owner = resource.metadata.owner.clone();
            let result = match resource.metadata.version {
                Version::Undefined => state.create(resource.clone(), &owner).await,
                Version::Number(_) => {
                    state.update(resource.clone(), &UpdateOptions::owner(owner).any_phase()).await
                }
            };
            match result {
                Ok(stored) => {
                    self.controller.view.apply(part, &stored);
                    return Ok(());
                }
                Err(
                    StateError::VersionConflict(_)
                    | StateError::AlreadyExists(_)
                    | StateError::NotFound(_)
                    | StateError::OwnerConflict(_)
                    | StateError::PhaseConflict(_),
                ) => {}
                Err(error) => return Err(error),
            }
            resource = match self.look_up(part).await? {
                Some(theirs) => match merged(pending, &theirs, machine) {
                    Some(merged) => merged,
                    None => return Ok(()),
                },
                None => {
                    let mut new = pending.resource.clone();
                    new.metadata.version = Version::Undefined;
                    new
                }
            };
        }
        Err(StateError::VersionConflict(format!("{} changes too often", self.pointer(part))))
    }

    /// What Omni has; the view knows it afterwards.
    async fn look_up(&self, part: Part) -> Result<Option<Resource>, StateError> {
        let found = match self.controller.state.get(&self.pointer(part)).await {
            Ok(found) => Some(found),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        self.controller.view.settle(part, &self.id, found.as_ref());
        Ok(found)
    }

    fn disk_worked(&self, result: Result<(), crate::disk::DiskError>) {
        let warning = result.err().map(|error| {
            tracing::error!(machine = self.id, %error, "writes to Omni do not survive a crash");
            format!("writes to Omni do not survive a crash: {error}")
        });
        self.controller.view.board().warn("disk", warning);
    }
}

/// A write is about the machine that it was made for, not about a later one with the same id.
fn is_about(pending: &Pending, machine: &Machine) -> bool {
    let created = machine.infra.as_ref().map(|infra| infra.metadata.created);
    pending.machine_created == created
}

/// Their resource with what is true of both; `None` when theirs says it all.
fn merged(pending: &Pending, theirs: &Resource, machine: &Machine) -> Option<Resource> {
    let infra = machine.infra.as_ref().map(|entry| entry.spec.clone()).unwrap_or_default();
    let ours = &pending.resource;
    match pending.part {
        Part::Wipe => with(ours, theirs, |ours, theirs| provider::merge_wipe(ours, theirs, &infra)),
        Part::Power => with(ours, theirs, |ours, theirs| provider::merge_power(ours, theirs, &infra)),
        Part::Reboot => with(ours, theirs, |ours, theirs| provider::merge_reboot(ours, theirs, &infra)),
        Part::Bmc => with(ours, theirs, provider::merge_bmc),
        Part::Inventory => {
            let latest = |ours: &provider::private::InventorySpec, _: &_| ours.clone();
            with(ours, theirs, latest)
        }
        // It follows from the records, and is made of them anew.
        Part::Status | Part::Infra | Part::UserBmc | Part::JoinConfig => None,
    }
}

fn with<T>(ours: &Resource, theirs: &Resource, merge: impl FnOnce(&T, &T) -> T) -> Option<Resource>
where
    T: Message + Default + PartialEq + Serialize,
{
    // What cannot be read is no record.
    let known: T = theirs.decode().unwrap_or_default();
    let merged = merge(&ours.decode().unwrap_or_default(), &known);
    if merged == known {
        return None;
    }
    let spec = Spec { proto: encode_keeping(&theirs.spec.proto, &merged), yaml: yaml(&merged) };
    Some(Resource { spec, ..theirs.clone() })
}

fn yaml<T: Serialize>(spec: &T) -> String {
    serde_yaml_ng::to_string(spec).unwrap_or_default()
}
