//! Limbo: machines that came without a unique token, or with the UUID of another one.
//!
//! Each is a PendingMachine named by its public key, and is forgotten when it did not come back for
//! [`PENDING_LIFETIME`].

mod visit;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cosi::{Kind, Missing, ModifyOptions, Phase, Pointer, Resource, StateError};
use provider::resources::{
    ANNOTATION_UUID_CONFLICT, EPHEMERAL_NAMESPACE, LABEL_MACHINE_UUID, PENDING_MACHINE_TYPE,
};
use provider::specs::SiderolinkSpec;

use crate::Hub;
use crate::limits::{PENDING_LIFETIME, RETRY_PAUSE};
use crate::provision::{Lot, ProvisionError, Request};
use crate::store::{decode, encode};
use crate::wireguard::PeerKind;

/// When the machine last called, in Unix milliseconds of the hub's clock.
const ANNOTATION_TIMESTAMP: &str = "timestamp";

fn pointer(public_key: &str) -> Pointer {
    Pointer::new(EPHEMERAL_NAMESPACE, PENDING_MACHINE_TYPE, public_key)
}

fn kind() -> Kind {
    Kind::new(EPHEMERAL_NAMESPACE, PENDING_MACHINE_TYPE)
}

/// What the machine was given in limbo.
pub(crate) async fn lot(hub: &Hub, public_key: &str) -> Result<Option<Lot>, ProvisionError> {
    match hub.store.state().get(&pointer(public_key)).await {
        Ok(resource) => {
            let SiderolinkSpec { node_subnet, virtual_addrport, .. } = decode(&resource)?;
            let fresh = Lot::random()?;
            let virtual_addrport =
                if virtual_addrport.is_empty() { fresh.virtual_addrport } else { virtual_addrport };
            Ok(Some(Lot { subnet: node_subnet, virtual_addrport }))
        }
        Err(StateError::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The machine left limbo.
pub(crate) async fn forget(hub: &Hub, public_key: &str) -> Result<(), StateError> {
    hub.store.remove(&pointer(public_key)).await?;
    visit::forget(hub, public_key).await
}

/// Whether Talos was found on the disk of the machine while it was in limbo.
pub(crate) async fn installed(hub: &Hub, public_key: &str) -> Result<bool, StateError> {
    visit::installed_of(hub, public_key).await
}

/// Puts the machine into limbo, or keeps it there.
pub(crate) async fn put(
    hub: &Hub,
    request: &Request,
    conflict: bool,
) -> Result<SiderolinkSpec, ProvisionError> {
    let known = lot(hub, &request.public_key).await?.is_some();
    if !known && hub.store.list(&kind()).await?.len() >= hub.room.pending {
        return Err(ProvisionError::TooMany);
    }
    let lot = Lot::random()?;
    let now = unix_ms(hub.now()).to_string();
    let options = ModifyOptions {
        owner: Some(String::new()),
        missing: Missing::Create,
        expected_phase: Some(Phase::Running),
    };
    let change = |resource: &mut Resource| {
        let mut spec: SiderolinkSpec = decode(resource)?;
        request.fill(&mut spec, &lot);
        encode(resource, &spec);
        let metadata = &mut resource.metadata;
        metadata.labels.insert(LABEL_MACHINE_UUID.to_owned(), request.machine.clone());
        metadata.annotations.insert(ANNOTATION_TIMESTAMP.to_owned(), now.clone());
        if conflict {
            metadata.annotations.insert(ANNOTATION_UUID_CONFLICT.to_owned(), String::new());
        }
        Ok(())
    };
    let pointer = pointer(&request.public_key);
    let resource = cosi::modify_with(&*hub.store.state(), &pointer, &options, change).await?;
    let spec = decode(&resource)?;
    if let Some(wireguard) = &hub.wireguard {
        wireguard.take(PeerKind::Pending, &resource, &spec);
    }
    Ok(spec)
}

/// Visits who is in limbo, and forgets who did not come back, again and again.
pub(crate) async fn run(hub: &Hub) {
    tokio::join!(visit::run(hub), expire(hub));
}

async fn expire(hub: &Hub) {
    loop {
        let pause = match hub.expire_pending().await {
            Ok(next) => next.unwrap_or(PENDING_LIFETIME),
            Err(error) => {
                tracing::warn!(%error, "machines in limbo cannot be looked through");
                RETRY_PAUSE
            }
        };
        tokio::time::sleep(pause.max(RETRY_PAUSE)).await;
    }
}

impl Hub {
    /// Forgets the machines whose time in limbo is over; [`Hub::run`] does it too. Answers when the next one
    /// is due.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn expire_pending(&self) -> Result<Option<Duration>, StateError> {
        let now = unix_ms(self.now());
        let lifetime = u64::try_from(PENDING_LIFETIME.as_millis()).expect("the constant is small");
        let mut next: Option<Duration> = None;
        for resource in self.store.list(&kind()).await? {
            let since = resource.metadata.annotations.get(ANNOTATION_TIMESTAMP);
            let since: u64 = since.and_then(|text| text.parse().ok()).unwrap_or(0);
            // A clock that was set back makes nobody immortal.
            let age = if since > now { lifetime } else { now - since };
            if age >= lifetime || resource.is_tearing_down() {
                forget(self, resource.id()).await?;
            } else {
                let left = Duration::from_millis(lifetime - age);
                next = Some(next.map_or(left, |next| next.min(left)));
            }
        }
        Ok(next)
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
