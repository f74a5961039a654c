//! The store with the resources' messages read and written.

use std::sync::Arc;

use cosi::{Kind, ListOptions, Metadata, Missing, Pointer, Resource, State, StateError};
use provider::resources::ResourceSpec;
use provider::unknown_fields::encode_keeping;
use serde::Serialize;

/// A resource with its message.
#[derive(Clone, Debug)]
pub(crate) struct Typed<T> {
    pub(crate) metadata: Metadata,
    pub(crate) spec: T,
}

impl<T: ResourceSpec> Typed<T> {
    pub(crate) fn read(resource: Resource) -> Result<Self, StateError> {
        let spec = decode(&resource)?;
        Ok(Self { metadata: resource.metadata, spec })
    }

    pub(crate) fn tearing_down(&self) -> bool {
        self.metadata.phase == cosi::Phase::TearingDown
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.metadata.labels.get(key).map(String::as_str)
    }
}

/// Reads the message.
pub(crate) fn decode<T: ResourceSpec>(resource: &Resource) -> Result<T, StateError> {
    resource.decode().map_err(|error| {
        StateError::Unknown(format!("spec of {} cannot be read: {error}", resource.pointer()))
    })
}

/// Writes the message and its rendering for people. What a newer writer put there stays.
pub(crate) fn encode<T: ResourceSpec + PartialEq + Serialize>(resource: &mut Resource, spec: &T) {
    resource.spec.proto = encode_keeping(&resource.spec.proto, spec);
    resource.spec.yaml = serde_yaml_ng::to_string(spec).unwrap_or_default();
}

/// The resource of a type with that id.
pub(crate) fn pointer<T: ResourceSpec>(id: &str) -> Pointer {
    Pointer::new(T::NAMESPACE, T::TYPE, id)
}

/// The kind of a type.
pub(crate) fn kind<T: ResourceSpec>() -> Kind {
    Kind::new(T::NAMESPACE, T::TYPE)
}

/// A [`State`] with types. Not validated: it is the hub's own.
#[derive(Clone)]
pub(crate) struct Store {
    state: Arc<dyn State>,
}

impl Store {
    pub(crate) fn new(state: Arc<dyn State>) -> Self {
        Self { state }
    }

    pub(crate) fn state(&self) -> Arc<dyn State> {
        Arc::clone(&self.state)
    }

    /// The resource, `None` when there is none.
    pub(crate) async fn find<T: ResourceSpec>(&self, id: &str) -> Result<Option<Typed<T>>, StateError> {
        match self.state.get(&pointer::<T>(id)).await {
            Ok(resource) => Typed::read(resource).map(Some),
            Err(StateError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All of a type, unread.
    pub(crate) async fn list(&self, kind: &Kind) -> Result<Vec<Resource>, StateError> {
        self.state.list(kind, &ListOptions::default()).await
    }

    /// Changes the resource, or creates it. The change may be tried several times.
    pub(crate) async fn put<T, F>(
        &self,
        id: &str,
        owner: &str,
        missing: Missing,
        mut change: F,
    ) -> Result<Resource, StateError>
    where
        T: ResourceSpec + Serialize + PartialEq + Clone,
        F: FnMut(&mut Metadata, &mut T) -> Result<(), StateError> + Send,
    {
        cosi::modify(&*self.state, &pointer::<T>(id), owner, missing, |resource| {
            let before: T = decode(resource)?;
            let mut spec = before.clone();
            change(&mut resource.metadata, &mut spec)?;
            if spec != before || resource.metadata.version == cosi::Version::Undefined {
                encode(resource, &spec);
            }
            Ok(())
        })
        .await
    }

    /// Tears the resource down and destroys it if nobody holds it. Says whether it is gone.
    pub(crate) async fn remove(&self, pointer: &Pointer) -> Result<bool, StateError> {
        let owner = match self.state.get(pointer).await {
            Ok(resource) => resource.metadata.owner,
            Err(StateError::NotFound(_)) => return Ok(true),
            Err(error) => return Err(error),
        };
        match self.state.teardown(pointer, &owner).await {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(StateError::NotFound(_)) => return Ok(true),
            Err(error) => return Err(error),
        }
        match self.state.destroy(pointer, &owner).await {
            Ok(()) | Err(StateError::NotFound(_)) => Ok(true),
            Err(StateError::PendingFinalizers(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
