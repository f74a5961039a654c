//! The store as one caller sees it.

use std::sync::Arc;

use async_trait::async_trait;
use cosi::{
    Event, EventStream, EventType, Kind, ListOptions, Metadata, Pointer, Resource, State, StateError,
    UpdateOptions, Version, WatchOptions, WatchTarget,
};
use futures_util::{StreamExt, future};
use omni_auth::Identity;
use provider::resources::{LABEL_INFRA_PROVIDER_ID, ResourceSpec};
use provider::specs::InfraProviderSpec;

use crate::access::{Grant, Verb, Write, access};

/// A [`State`] for one identity: what it may not do is refused, what is another provider's is not there, and
/// what a provider writes carries its label whatever it says.
pub(crate) struct AccessState {
    inner: Arc<dyn State>,
    identity: Identity,
}

impl AccessState {
    pub(crate) fn new(inner: Arc<dyn State>, identity: Identity) -> Self {
        Self { inner, identity }
    }

    async fn permit(&self, verb: Verb, kind: &Kind, id: Option<&str>) -> Result<Grant, StateError> {
        let grant = access(&self.identity, verb, kind, id)?;
        match &grant {
            Grant::All => {}
            Grant::Private { provider } | Grant::Own { provider, .. } => self.registered(provider).await?,
        }
        Ok(grant)
    }

    async fn registered(&self, provider: &str) -> Result<(), StateError> {
        let pointer = Pointer::new(InfraProviderSpec::NAMESPACE, InfraProviderSpec::TYPE, provider);
        match self.inner.get(&pointer).await {
            Ok(_) => Ok(()),
            Err(StateError::NotFound(_)) => {
                Err(StateError::PermissionDenied(format!("infra provider {provider:?} is not registered")))
            }
            Err(error) => Err(error),
        }
    }

    /// The stored resource, if it is the provider's.
    async fn own(&self, provider: &str, pointer: &Pointer) -> Result<Resource, StateError> {
        let resource = self.inner.get(pointer).await?;
        if belongs(&resource, provider) { Ok(resource) } else { Err(not_found(pointer)) }
    }

    /// What stands in the way of a provider that wants to remove something.
    async fn removable(&self, verb: Verb, pointer: &Pointer) -> Result<(), StateError> {
        match self.permit(verb, &pointer.kind(), Some(&pointer.id)).await? {
            Grant::All | Grant::Private { .. } => Ok(()),
            Grant::Own { provider, write } => {
                self.own(&provider, pointer).await?;
                match write {
                    Write::All => Ok(()),
                    Write::Finalizers => Err(StateError::PermissionDenied(format!(
                        "infra providers may not remove {}",
                        pointer.typ
                    ))),
                }
            }
        }
    }
}

fn belongs(resource: &Resource, provider: &str) -> bool {
    resource.label(LABEL_INFRA_PROVIDER_ID) == Some(provider)
}

fn not_found(pointer: &Pointer) -> StateError {
    StateError::NotFound(format!("resource {pointer} does not exist"))
}

/// The stored resource with the finalizers of the new one, if nothing else differs.
fn finalizers_only(stored: Resource, new: Resource) -> Result<Resource, StateError> {
    let same = |stored: &Metadata, new: &Metadata| {
        (&stored.owner, stored.phase, &stored.labels, &stored.annotations)
            == (&new.owner, new.phase, &new.labels, &new.annotations)
    };
    if !same(&stored.metadata, &new.metadata) || stored.spec.proto != new.spec.proto {
        return Err(StateError::PermissionDenied(format!(
            "infra providers may change nothing but finalizers of {}",
            stored.metadata.typ
        )));
    }
    let metadata = Metadata {
        finalizers: new.metadata.finalizers,
        // The caller's: whether it is still the stored one is for the store to say.
        version: new.metadata.version,
        ..stored.metadata
    };
    Ok(Resource { metadata, spec: stored.spec })
}

/// Whether an event is for this provider. Dummies are for everybody, and so is that there is nothing.
fn concerns(event: &Event, provider: &str) -> bool {
    match event.typ {
        EventType::Bootstrapped | EventType::Errored | EventType::Noop => true,
        EventType::Destroyed if event.resource.metadata.version == Version::Undefined => true,
        EventType::Created | EventType::Updated | EventType::Destroyed => belongs(&event.resource, provider),
    }
}

#[async_trait]
impl State for AccessState {
    async fn get(&self, pointer: &Pointer) -> Result<Resource, StateError> {
        match self.permit(Verb::Get, &pointer.kind(), Some(&pointer.id)).await? {
            Grant::All | Grant::Private { .. } => self.inner.get(pointer).await,
            Grant::Own { provider, .. } => self.own(&provider, pointer).await,
        }
    }

    async fn list(&self, kind: &Kind, options: &ListOptions) -> Result<Vec<Resource>, StateError> {
        let grant = self.permit(Verb::List, kind, None).await?;
        let mut resources = self.inner.list(kind, options).await?;
        match grant {
            Grant::All | Grant::Private { .. } => {}
            Grant::Own { provider, .. } => resources.retain(|resource| belongs(resource, &provider)),
        }
        Ok(resources)
    }

    async fn create(&self, mut resource: Resource, owner: &str) -> Result<Resource, StateError> {
        let pointer = resource.pointer();
        match self.permit(Verb::Create, &pointer.kind(), Some(&pointer.id)).await? {
            Grant::All | Grant::Private { .. } => {}
            Grant::Own { provider, .. } => {
                resource.metadata.labels.insert(LABEL_INFRA_PROVIDER_ID.to_owned(), provider);
            }
        }
        self.inner.create(resource, owner).await
    }

    async fn update(&self, resource: Resource, options: &UpdateOptions) -> Result<Resource, StateError> {
        let pointer = resource.pointer();
        let resource = match self.permit(Verb::Update, &pointer.kind(), Some(&pointer.id)).await? {
            Grant::All | Grant::Private { .. } => resource,
            Grant::Own { provider, write } => {
                let stored = self.own(&provider, &pointer).await?;
                match write {
                    Write::Finalizers => finalizers_only(stored, resource)?,
                    Write::All => resource.with_label(LABEL_INFRA_PROVIDER_ID, provider),
                }
            }
        };
        self.inner.update(resource, options).await
    }

    async fn destroy(&self, pointer: &Pointer, owner: &str) -> Result<(), StateError> {
        self.removable(Verb::Destroy, pointer).await?;
        self.inner.destroy(pointer, owner).await
    }

    async fn teardown(&self, pointer: &Pointer, owner: &str) -> Result<bool, StateError> {
        self.removable(Verb::Teardown, pointer).await?;
        self.inner.teardown(pointer, owner).await
    }

    async fn watch(&self, target: &WatchTarget, options: &WatchOptions) -> Result<EventStream, StateError> {
        let grant = self.permit(Verb::Watch, &target.kind, target.id.as_deref()).await?;
        let events = self.inner.watch(target, options).await?;
        let Grant::Own { provider, .. } = grant else { return Ok(events) };
        let own = events.filter_map(move |batch| {
            let batch = batch.map(|mut events| {
                events.retain(|event| concerns(event, &provider));
                events
            });
            let nothing = matches!(&batch, Ok(events) if events.is_empty());
            future::ready((!nothing).then_some(batch))
        });
        Ok(own.boxed())
    }
}

#[cfg(test)]
mod tests;
