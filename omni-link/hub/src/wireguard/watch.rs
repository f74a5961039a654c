//! Keeps the device in step with the store, and the store with what the device sees.
//!
//! ```text
//! Link, PendingMachine written    -> peer, LinkStatus
//! Link, PendingMachine destroyed  -> no peer, no LinkStatus
//! every 30 s                      -> Link.connected, Link.last_endpoint
//! ```

use std::collections::HashSet;
use std::time::Duration;

use cosi::{
    Event, EventType, Kind as ResourceKind, Metadata, Missing, Resource, State as _, StateError,
    WatchOptions, WatchTarget,
};
use futures_util::StreamExt;
use provider::resources::{EPHEMERAL_NAMESPACE, PENDING_MACHINE_TYPE};
use provider::specs::{LinkStatusSpec, SiderolinkSpec};

use super::Wireguard;
use super::peers::PeerKind;
use crate::Hub;
use crate::limits::RETRY_PAUSE;
use crate::store::{Store, decode, kind, pointer};

/// How often the device is asked how the machines are, as in Omni.
const POLL: Duration = Duration::from_secs(30);
/// After so many rounds every machine that is there had the time for a handshake, as in Omni.
const GRACE: u32 = 2;

impl PeerKind {
    fn resource_kind(self) -> ResourceKind {
        match self {
            Self::Link => kind::<SiderolinkSpec>(),
            Self::Pending => ResourceKind::new(EPHEMERAL_NAMESPACE, PENDING_MACHINE_TYPE),
        }
    }

    /// The status' id is made of the id and the type of what it is the status of, as in Omni.
    fn status_id(self, id: &str) -> String {
        format!("{id}/{}", self.resource_kind().typ)
    }
}

impl Wireguard {
    /// Takes in all that is stored.
    pub(super) async fn load(&self, store: &Store) -> Result<(), StateError> {
        for kind in [PeerKind::Link, PeerKind::Pending] {
            for resource in store.list(&kind.resource_kind()).await? {
                self.read(kind, &resource);
            }
        }
        Ok(())
    }

    fn read(&self, kind: PeerKind, resource: &Resource) -> Option<SiderolinkSpec> {
        match decode::<SiderolinkSpec>(resource) {
            Ok(link) => {
                self.take(kind, resource, &link);
                Some(link)
            }
            Err(error) => {
                tracing::warn!(%error, "a link cannot be read, it is no peer");
                None
            }
        }
    }

    async fn followed(&self, store: &Store, kind: PeerKind) {
        loop {
            if let Err(error) = self.follow(store, kind).await {
                tracing::warn!(%error, "the watch of WireGuard's peers broke, it begins anew");
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn follow(&self, store: &Store, kind: PeerKind) -> Result<(), StateError> {
        let target = WatchTarget::kind(kind.resource_kind());
        let options = WatchOptions { bootstrap_contents: true, aggregated: true, ..WatchOptions::default() };
        let mut events = store.state().watch(&target, &options).await?;
        let mut there = Some(HashSet::new());
        while let Some(batch) = events.next().await {
            for event in batch? {
                self.handle(store, kind, event, &mut there).await?;
            }
        }
        Ok(())
    }

    /// `there`: what exists, until all of it was told.
    async fn handle(
        &self,
        store: &Store,
        kind: PeerKind,
        event: Event,
        there: &mut Option<HashSet<String>>,
    ) -> Result<(), StateError> {
        let id = event.resource.id();
        match event.typ {
            EventType::Created | EventType::Updated => {
                if let Some(there) = there {
                    there.insert(id.to_owned());
                }
                if let Some(link) = self.read(kind, &event.resource) {
                    put_status(store, kind, id, &link).await?;
                }
            }
            EventType::Destroyed => {
                self.peers.remove(kind, id);
                store.remove(&pointer::<LinkStatusSpec>(&kind.status_id(id))).await?;
            }
            EventType::Bootstrapped => {
                let there = there.take().unwrap_or_default();
                self.peers.retain(kind, &there);
                remove_stale(store, kind, &there).await?;
            }
            EventType::Noop => {}
            EventType::Errored => return Err(StateError::Unavailable(event.error.unwrap_or_default())),
        }
        Ok(())
    }

    /// Writes into the Links what the device sees.
    pub(crate) async fn report(&self, store: &Store, all: bool) -> Result<(), StateError> {
        for seen in self.peers.observe(all) {
            let change = |_: &mut Metadata, spec: &mut SiderolinkSpec| {
                spec.connected = seen.connected;
                spec.last_endpoint.clone_from(&seen.last_endpoint);
                Ok(())
            };
            match store.put::<SiderolinkSpec, _>(&seen.machine, "", Missing::Fail, change).await {
                Ok(_) | Err(StateError::NotFound(_) | StateError::PhaseConflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn reported(&self, store: &Store) {
        let mut rounds = 0u32;
        loop {
            tokio::time::sleep(POLL).await;
            rounds = rounds.saturating_add(1);
            if let Err(error) = self.report(store, rounds > GRACE).await {
                tracing::warn!(%error, "the state of the links cannot be written");
            }
        }
    }
}

/// Runs all of it for ever.
pub(crate) async fn run(hub: &Hub) {
    let Some(wireguard) = &hub.wireguard else { return std::future::pending().await };
    let store = &hub.store;
    tokio::join!(
        wireguard.followed(store, PeerKind::Link),
        wireguard.followed(store, PeerKind::Pending),
        wireguard.reported(store),
    );
}

/// Tells that the machine is a peer.
async fn put_status(
    store: &Store,
    kind: PeerKind,
    id: &str,
    link: &SiderolinkSpec,
) -> Result<(), StateError> {
    let change = |_: &mut Metadata, spec: &mut LinkStatusSpec| {
        spec.node_subnet.clone_from(&link.node_subnet);
        spec.node_public_key.clone_from(&link.node_public_key);
        spec.virtual_addrport.clone_from(&link.virtual_addrport);
        id.clone_into(&mut spec.link_id);
        Ok(())
    };
    match store.put::<LinkStatusSpec, _>(&kind.status_id(id), "", Missing::Create, change).await {
        Ok(_) | Err(StateError::PhaseConflict(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What was destroyed while nobody watched.
async fn remove_stale(store: &Store, kind: PeerKind, there: &HashSet<String>) -> Result<(), StateError> {
    let suffix = kind.status_id("");
    for status in store.list(&crate::store::kind::<LinkStatusSpec>()).await? {
        let of = status.id().strip_suffix(&suffix);
        if of.is_some_and(|id| !there.contains(id)) {
            store.remove(&status.pointer()).await?;
        }
    }
    Ok(())
}
