//! The embedded control plane: Omni's side of the wire, for standalone use and for tests.
//!
//! What it is: the resources that Omni would keep, in any [`cosi::State`]; Omni's API for callers that sign
//! ([`Hub::api`]: users, and providers by the rules of their role); the machine API by which machines join
//! (SideroLink `Provision`) and report (the event sink); and the controllers between what a machine is
//! (`Link`), what a user wants of it (`InfraMachineConfig`, `MachineSetNode`, `Cluster`) and what its
//! provider is told (`InfraMachine`).
//!
//! ```text
//! Provision -> Link ------------.
//! user -> InfraMachineConfig ---+--> InfraMachine -> provider
//! user -> Cluster, MachineSetNode    (finalizers hold each step until the next one is written)
//! user -> InfraProvider --> ProviderJoinConfig -> provider -> status, heartbeat --> combined status
//! user -> MachineRequestSet --> MachineRequest -> provider -> MachineRequestStatus
//! ```
//!
//! Invariants: everything it knows is in the store, so it can be killed at any point and goes on from there;
//! what it keeps in memory beside (keys, addresses of machines) is read from there; it never touches a
//! machine; a second machine with the UUID of a first one never takes its place; a provider sees and writes
//! only what is its own; what anybody sends is bounded before it is looked at.
//!
//! Its driver is the appliance, which opens the store, serves [`Hub::routes`] on the machine API port and
//! [`Hub::api`] with an [`ApiServer`], serves [`Hub::state`] to operators, runs [`Hub::run`], and with WireGuard
//! [`Hub::serve_wireguard`]: then machines are told apart by their address in the tunnel, else by the one that
//! they call from.

pub mod accounts;

mod access;
mod access_state;
mod api;
mod collector;
mod controller;
mod definitions;
mod event;
mod image_factory;
mod index;
mod kernel_log;
mod keys;
mod limits;
mod machine_api;
mod machine_event;
mod management;
mod pending;
mod provision;
mod render;
mod schema;
mod serve;
mod service;
mod setup;
mod store;
mod token;
mod validate;
mod wireguard;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cosi::State;
use omni_auth::ServiceAccountKey;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

pub use accounts::AccountError;
pub use event::{HubEvent, HubEventKind, Observer};
pub use image_factory::{ImageFactory, SchematicError};
pub use kernel_log::Received;
pub use machine_event::PublishError;
pub use management::machine_logs;
pub use provision::ProvisionError;
pub use serve::{ApiServer, ServeError, TlsFiles};
pub use token::{JoinToken, TokenError};
pub use validate::{ValidatedState, validate_config_change};
pub use wireguard::{WireguardConfig, WireguardError};

/// What the hub is told.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// The provider that machines join for.
    pub provider_id: String,
    /// Where machines reach the machine API: `grpc://ip:port`.
    pub machine_api_url: String,
    /// Where machines send their events: `ip:port`.
    pub event_endpoint: String,
    /// Where machines send their kernel logs: `ip:port`. Without it they are not told to.
    pub kernel_log_endpoint: Option<String>,
    /// WireGuard; without it machines are told apart by the address that they call from. With it the two endpoints
    /// above are inside the tunnel, and only their ports and the log's presence count.
    pub wireguard: Option<WireguardConfig>,
    /// What makes images for providers that ask Omni for them; without one they are told so.
    pub image_factory: Option<Arc<dyn ImageFactory>>,
}

/// Why the hub could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The configuration is not usable.
    #[error("{0}")]
    Config(String),
    /// No randomness for keys.
    #[error("the system gives no random numbers")]
    Random,
    /// The store refuses.
    #[error("the hub's store cannot be prepared")]
    Store(#[source] cosi::StateError),
}

/// The control plane. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Hub {
    config: Arc<HubConfig>,
    store: store::Store,
    observer: Observer,
    clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    room: limits::Room,
    index: index::Index,
    keys: keys::Keys,
    logs: kernel_log::KernelLogs,
    wireguard: Option<wireguard::Wireguard>,
}

impl Hub {
    /// Opens the hub on a store and creates what must be there; what is there already stays. Everything that
    /// happens is told to `observer`, which must not block.
    ///
    /// # Errors
    /// When the configuration is not usable or the store refuses.
    pub async fn open(
        config: HubConfig,
        state: Arc<dyn State>,
        observer: Observer,
    ) -> Result<Self, OpenError> {
        let store = store::Store::new(state);
        setup::prepare(&config, &store).await?;
        let (index, keys) = (index::Index::default(), keys::Keys::default());
        index.load(&store).await.map_err(OpenError::Store)?;
        keys.load(&store).await.map_err(OpenError::Store)?;
        let wireguard = match &config.wireguard {
            Some(config) => Some(wireguard::Wireguard::open(config, &store).await?),
            None => None,
        };
        Ok(Self {
            config: Arc::new(config),
            store,
            observer,
            clock: Arc::new(SystemTime::now),
            room: limits::Room::default(),
            index,
            keys,
            logs: kernel_log::KernelLogs::default(),
            wireguard,
        })
    }

    /// Takes the time from this function.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Fn() -> SystemTime + Send + Sync>) -> Self {
        self.clock = clock;
        self
    }

    /// The hub's store as its users may write it: every rule is checked before the write.
    #[must_use]
    pub fn state(&self) -> Arc<ValidatedState> {
        Arc::new(ValidatedState::new(self.store.state()))
    }

    /// The machine API: `sidero.link.ProvisionService`; with WireGuard also `sidero.link.WireGuardOverGRPCService`,
    /// without it `events.EventSinkService`, which else is inside the tunnel.
    #[must_use]
    pub fn routes(&self) -> tonic::service::Routes {
        service::routes(self.clone())
    }

    /// Omni's API, `cosi.resource.State` for signed calls, to be served on TCP: by [`ApiServer`], or by any
    /// server of HTTP/2.
    #[must_use]
    pub fn api(&self) -> tonic::service::Routes {
        api::routes(self)
    }

    /// Omni's management API for operators: nothing is signed, everything is allowed. Only who may do all may
    /// reach it.
    #[must_use]
    pub fn management(&self) -> tonic::service::Routes {
        api::for_operators(self)
    }

    /// [`accounts::create_provider`] on this hub: its key works from now on.
    ///
    /// # Errors
    /// As there.
    pub async fn create_provider(
        &self,
        id: &str,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<(cosi::Resource, ServiceAccountKey), AccountError> {
        let made = accounts::create_provider(&*self.store.state(), id, now, lifetime).await?;
        controller::join_config(self, id).await?;
        self.keys.load(&self.store).await?;
        Ok(made)
    }

    /// [`accounts::renew_provider`] on this hub: its key works from now on.
    ///
    /// # Errors
    /// As there.
    pub async fn renew_provider(
        &self,
        id: &str,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<ServiceAccountKey, AccountError> {
        let key = accounts::renew_provider(&*self.store.state(), id, now, lifetime).await?;
        self.keys.load(&self.store).await?;
        Ok(key)
    }

    /// [`accounts::create_admin_key`] on this hub: its key works from now on.
    ///
    /// # Errors
    /// As there.
    pub async fn create_admin_key(
        &self,
        name: &str,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<ServiceAccountKey, AccountError> {
        let key = accounts::create_admin_key(&*self.store.state(), name, now, lifetime).await?;
        self.keys.load(&self.store).await?;
        Ok(key)
    }

    /// Runs the controllers until `shutdown`. A store that fails is tried again.
    pub async fn run(&self, shutdown: CancellationToken) {
        tokio::select! {
            // Cancel-safe: each step of the loops is one write, and all go on from what is written.
            () = shutdown.cancelled() => {}
            () = controller::run(self) => {}
            () = controller::run_health(self) => {}
            () = pending::run(self) => {}
            () = self.index.run(&self.store) => {}
            () = self.keys.run(&self.store) => {}
            () = wireguard::run(self) => {}
            () = collector::run(self) => {}
        }
    }

    fn emit(&self, event: HubEvent) {
        tracing::info!(machine = %event.machine, peer = ?event.peer, event = %event.kind, "hub");
        (self.observer)(event);
    }

    fn now(&self) -> SystemTime {
        (self.clock)()
    }
}

#[cfg(test)]
mod tests;
