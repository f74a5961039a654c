//! What a machine in limbo is given, as by Omni: Talos makes no unique token by itself.
//!
//! ```text
//! PendingMachine --tunnel--> [machine]:50000  disks: is Talos installed? links: the fingerprint
//!                            META 0x10 <- unique token; after a conflict 0x0f <- a new UUID
//!                --> PendingMachineStatus; the machine calls Provision again, with the token
//! ```
//!
//! The machine shows any certificate: nobody else is at that address of the tunnel. It is not believed anything by
//! which another machine would lose its place: that is decided when it comes back ([`crate::provision`]).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_wire::inventory::LINKS;
use agent_wire::machine::MetaWriteRequest;
use agent_wire::machine::machine_service_client::MachineServiceClient;
use agent_wire::storage::storage_service_client::StorageServiceClient;
use agent_wire::talos::network::LinkStatusSpec;
use agent_wire::token::{NodeUniqueToken, fingerprint_input, hex};
use cosi::client::GrpcState;
use cosi::{
    EventType, Kind, ListOptions, Missing, Resource, State as _, StateError, WatchOptions, WatchTarget,
};
use futures_util::StreamExt;
use provider::resources::{ANNOTATION_UUID_CONFLICT, LABEL_MACHINE_UUID};
use provider::specs::{PendingMachineStatusSpec, SiderolinkSpec};
use ring::digest::{SHA256, digest};
use thiserror::Error;
use tokio::sync::Semaphore;
use tonic::transport::Channel;
use uuid::Uuid;

use super::{kind, pointer};
use crate::limits::{MAX_LINKS, RETRY_PAUSE, VISIT_LIMIT, VISIT_PAUSE, VISITS_AT_ONCE};
use crate::store::{Typed, decode, pointer as pointer_of};
use crate::wireguard::Wireguard;
use crate::{Hub, HubEvent, HubEventKind, machine_api};

/// META's keys.
const META_UNIQUE_TOKEN: u32 = 0x10;
const META_UUID_OVERRIDE: u32 = 0x0f;
/// ARP hardware type of Ethernet.
const ETHERNET: i32 = 1;
/// The machine that the status is of: its UUID, or the one that it was given.
const ANNOTATION_UUID: &str = LABEL_MACHINE_UUID;
/// Who owns the statuses.
const OWNER: &str = "PendingMachineStatusController";

/// Why a visit was in vain.
#[derive(Debug, Error)]
enum VisitError {
    #[error("the machine does not answer")]
    Connect(#[from] tonic::transport::Error),
    #[error("the machine refuses: {}", .0.message())]
    Refused(#[from] tonic::Status),
    #[error("the machine tells no physical Ethernet link")]
    NoLinks,
    #[error("the machine takes too long")]
    TooLong,
    #[error("the machine's inventory: {0}")]
    Inventory(StateError),
    #[error("the hub's store: {0}")]
    Store(#[from] StateError),
}

/// Visits everybody who comes to limbo, for ever. Without WireGuard there is no way to them.
pub(super) async fn run(hub: &Hub) {
    let Some(wireguard) = hub.wireguard.clone() else { return std::future::pending().await };
    let visits = Visits {
        hub: hub.clone(),
        wireguard,
        room: Arc::new(Semaphore::new(VISITS_AT_ONCE)),
        under_way: Arc::default(),
    };
    loop {
        if let Err(error) = visits.follow().await {
            tracing::warn!(%error, "the watch of limbo broke, it begins anew");
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

#[derive(Clone)]
struct Visits {
    hub: Hub,
    wireguard: Wireguard,
    room: Arc<Semaphore>,
    /// By public key, and whether something happened to the machine since the visit began to look.
    under_way: Arc<Mutex<HashMap<String, bool>>>,
}

impl Visits {
    async fn follow(&self) -> Result<(), StateError> {
        // When the watch ends, so do the visits that it began: they begin anew with the next one.
        self.lock().clear();
        let mut visits = tokio::task::JoinSet::new();
        let options = WatchOptions { bootstrap_contents: true, aggregated: true, ..WatchOptions::default() };
        let mut events = self.hub.store.state().watch(&WatchTarget::kind(kind()), &options).await?;
        loop {
            // Cancel-safe: an event that is not taken now is taken by the next round.
            let batch = tokio::select! {
                Some(_) = visits.join_next() => continue,
                batch = events.next() => batch,
            };
            let Some(batch) = batch else { return Ok(()) };
            for event in batch? {
                if matches!(event.typ, EventType::Created | EventType::Updated)
                    && self.begins(event.resource.id())
                {
                    let (visits_of, id) = (self.clone(), event.resource.metadata.id);
                    visits.spawn(async move { visits_of.attend(&id).await });
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, bool>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happened to the machine. Says whether a visit is to begin: one that is under way looks again.
    fn begins(&self, id: &str) -> bool {
        match self.lock().entry(id.to_owned()) {
            Entry::Occupied(mut under_way) => {
                under_way.insert(true);
                false
            }
            Entry::Vacant(none) => {
                none.insert(false);
                true
            }
        }
    }

    /// Ends the visit, unless something happened since it was asked last.
    fn ends(&self, id: &str) -> bool {
        let mut under_way = self.lock();
        match under_way.get_mut(id) {
            Some(again) if *again => {
                *again = false;
                false
            }
            Some(_) | None => {
                under_way.remove(id);
                true
            }
        }
    }

    /// Until the machine has what it needs, or left.
    async fn attend(&self, id: &str) {
        loop {
            let visit = {
                let Ok(_room) = self.room.acquire().await else { return };
                tokio::time::timeout(VISIT_LIMIT, self.visit(id)).await
            };
            match visit.unwrap_or(Err(VisitError::TooLong)) {
                Ok(()) if self.ends(id) => return,
                Ok(()) => {}
                Err(error) => {
                    tracing::debug!(id, %error, "a machine in limbo is visited again");
                    tokio::time::sleep(VISIT_PAUSE).await;
                }
            }
        }
    }

    async fn visit(&self, id: &str) -> Result<(), VisitError> {
        let store = &self.hub.store;
        let pending = match store.state().get(&pointer(id)).await {
            Ok(pending) if !pending.is_tearing_down() => pending,
            Ok(_) | Err(StateError::NotFound(_)) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let link: SiderolinkSpec = decode(&pending)?;
        let machine = pending.label(LABEL_MACHINE_UUID).unwrap_or_default().to_owned();
        let conflict = pending.metadata.annotations.contains_key(ANNOTATION_UUID_CONFLICT);
        let known = store.find::<PendingMachineStatusSpec>(id).await?;
        let given = Given::of(known.as_ref(), &machine);
        let address = link.node_subnet.split('/').next().and_then(|text| text.parse().ok());
        let Some(address) = address.filter(|_| !given.token || (conflict && !given.uuid)) else {
            return Ok(());
        };
        let channel = machine_api::reach(&self.wireguard, address).await?;
        let mut talos = MachineServiceClient::new(channel.clone());
        if conflict && !given.uuid {
            let uuid = Uuid::new_v4().to_string();
            write(&mut talos, META_UUID_OVERRIDE, &uuid).await?;
            // Once and no more: each UUID that it is given makes a machine of it.
            self.note(id, |_, known_as| known_as.clone_from(&uuid)).await?;
        }
        if !given.token {
            let installed = installed(&channel).await?;
            let token = NodeUniqueToken {
                fingerprint: fingerprint(channel).await?,
                token: Uuid::new_v4().to_string(),
            };
            let token = token.encode();
            write(&mut talos, META_UNIQUE_TOKEN, &token).await?;
            self.note(id, |spec, known_as| {
                spec.token.clone_from(&token);
                spec.talos_installed = installed;
                if known_as.is_empty() {
                    known_as.clone_from(&machine);
                }
            })
            .await?;
            self.hub.emit(HubEvent { machine, peer: None, kind: HubEventKind::TokenGiven });
        }
        Ok(())
    }

    async fn note(
        &self,
        id: &str,
        change: impl Fn(&mut PendingMachineStatusSpec, &mut String) + Send + Sync,
    ) -> Result<(), StateError> {
        self.hub
            .store
            .put::<PendingMachineStatusSpec, _>(id, OWNER, Missing::Create, |metadata, spec| {
                let annotation = metadata.annotations.entry(ANNOTATION_UUID.to_owned()).or_default();
                change(spec, annotation);
                Ok(())
            })
            .await
            .map(drop)
    }
}

/// What a machine has got already.
struct Given {
    token: bool,
    uuid: bool,
}

impl Given {
    fn of(status: Option<&Typed<PendingMachineStatusSpec>>, machine: &str) -> Self {
        let uuid = status.and_then(|status| status.metadata.annotations.get(ANNOTATION_UUID));
        Self {
            token: status.is_some_and(|status| !status.spec.token.is_empty()),
            uuid: uuid.is_some_and(|uuid| !uuid.is_empty() && uuid != machine),
        }
    }
}

/// What is known of a machine that was visited, `None` when it was not.
pub(super) async fn installed_of(hub: &Hub, id: &str) -> Result<bool, StateError> {
    let status = hub.store.find::<PendingMachineStatusSpec>(id).await?;
    Ok(status.is_some_and(|status| status.spec.talos_installed))
}

/// The status goes with its machine.
pub(super) async fn forget(hub: &Hub, id: &str) -> Result<(), StateError> {
    hub.store.remove(&pointer_of::<PendingMachineStatusSpec>(id)).await.map(drop)
}

async fn installed(channel: &Channel) -> Result<bool, VisitError> {
    let disks = StorageServiceClient::new(channel.clone()).disks(()).await?.into_inner();
    Ok(disks.messages.iter().flat_map(|machine| &machine.disks).any(|disk| disk.system_disk))
}

async fn write(talos: &mut MachineServiceClient<Channel>, key: u32, value: &str) -> Result<(), VisitError> {
    let value = value.as_bytes().to_vec().into();
    talos.meta_write(MetaWriteRequest { key, value }).await?;
    Ok(())
}

/// As Omni computes it, so that an agent that made its own token has the same.
async fn fingerprint(channel: Channel) -> Result<String, VisitError> {
    let (namespace, typ) = LINKS;
    let links = GrpcState::new(channel).list(&Kind::new(namespace, typ), &ListOptions::default()).await;
    let links = links.map_err(VisitError::Inventory)?;
    let addresses: Vec<[u8; 6]> = links.iter().take(MAX_LINKS).filter_map(physical_address).collect();
    if addresses.is_empty() {
        // Of nothing all machines have the same.
        return Err(VisitError::NoLinks);
    }
    Ok(hex(digest(&SHA256, &fingerprint_input(&addresses)).as_ref()))
}

fn physical_address(link: &Resource) -> Option<[u8; 6]> {
    let link: LinkStatusSpec = link.decode().ok()?;
    if link.r#type != ETHERNET || !link.kind.is_empty() {
        return None;
    }
    let known = [link.permanent_addr, link.hardware_addr].into_iter().find(|address| !address.is_empty())?;
    known.as_ref().try_into().ok()
}
