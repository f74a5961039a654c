//! What Omni is told of the provider itself: its registration, and that it lives.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use cosi::{Metadata, Pointer, Resource, State, StateError, UpdateOptions, Version};
use prost::Message;
use provider::resources::{LABEL_IS_STATIC_INFRA_PROVIDER, ResourceSpec};
use provider::specs::{InfraProviderHealthStatusSpec, InfraProviderStatusSpec};
use provider::unknown_fields::encode_keeping;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::view::View;

/// Omni takes a provider for dead after 31 s: two beats may be lost.
pub const HEARTBEAT: Duration = Duration::from_secs(10);
/// A beat that takes longer is late anyway; the next one follows.
const BEAT_LIMIT: Duration = Duration::from_secs(9);
/// The provider's picture.
const ICON: &[u8] = include_bytes!("icon.svg");

/// How the provider shows itself.
#[derive(Debug, Clone)]
pub struct ProviderInfo {
    /// Its id in Omni.
    pub id: String,
    /// For people.
    pub name: String,
    /// For people.
    pub description: String,
    /// Of this program.
    pub version: String,
    /// When the service account key stops working.
    pub key_expires: Option<SystemTime>,
}

/// Registers the provider and beats.
pub struct Provider {
    info: ProviderInfo,
    state: Arc<dyn State>,
    view: Arc<View>,
    /// As Omni stored the last beat.
    beat: Option<Metadata>,
    registered: bool,
    /// The last failure in the log: a repetition is no news.
    reported: Option<String>,
}

impl Provider {
    /// Tells Omni through `state` what the view knows.
    pub fn new(info: ProviderInfo, state: Arc<dyn State>, view: Arc<View>) -> Self {
        Self { info, state, view, beat: None, registered: false, reported: None }
    }

    /// Until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(HEARTBEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Cancel-safe: a tick that is not taken stays.
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled() => return,
            }
            // Not cancel-safe, and need not be: a beat may be lost.
            let result = tokio::select! {
                result = tokio::time::timeout(BEAT_LIMIT, self.step()) => result,
                () = shutdown.cancelled() => return,
            };
            let result = result.unwrap_or_else(|_| Err(StateError::Unavailable("no answer in time".into())));
            self.report(result);
        }
    }

    async fn step(&mut self) -> Result<(), StateError> {
        let now = SystemTime::now();
        let warning = self.info.key_expires.and_then(|expires| crate::endpoint::key_warning(now, expires));
        self.view.board().warn("key", warning);
        if !self.view.fresh() {
            // Whatever Omni lost meanwhile is made again.
            self.registered = false;
        }
        if !self.registered {
            self.register().await?;
            // With the view not fresh yet it is looked at once more, which costs one call.
            self.registered = self.view.fresh();
        }
        self.beat(now).await
    }

    fn report(&mut self, result: Result<(), StateError>) {
        match result {
            Ok(()) => {
                if self.reported.take().is_some() {
                    tracing::info!("the heartbeat reaches Omni again");
                }
            }
            Err(error) => {
                let reason = error.to_string();
                if self.reported.as_ref() != Some(&reason) {
                    tracing::warn!(%error, "the heartbeat does not reach Omni");
                    self.reported = Some(reason);
                }
            }
        }
    }

    /// Creates or corrects the provider's status; other people's labels stay.
    async fn register(&self) -> Result<(), StateError> {
        let pointer = self.pointer::<InfraProviderStatusSpec>();
        let spec = InfraProviderStatusSpec {
            schema: String::new(),
            name: self.info.name.clone(),
            description: self.info.description.clone(),
            icon: STANDARD_NO_PAD.encode(ICON),
            version: self.info.version.clone(),
        };
        let resource =
            Resource::empty(&pointer).with_label(LABEL_IS_STATIC_INFRA_PROVIDER, "").with_spec(&spec);
        match self.state.create(resource, "").await {
            Err(StateError::AlreadyExists(_)) => {}
            other => return other.map(drop),
        }
        let mut known = self.state.get(&pointer).await?;
        let before = known.clone();
        known.metadata.labels.entry(LABEL_IS_STATIC_INFRA_PROVIDER.to_owned()).or_default();
        if known.decode::<InfraProviderStatusSpec>().ok().as_ref() != Some(&spec) {
            known.spec.proto = encode_keeping(&known.spec.proto, &spec);
            known.spec.yaml.clear();
        }
        if known == before {
            return Ok(());
        }
        let owner = known.metadata.owner.clone();
        self.state.update(known, &UpdateOptions::owner(owner)).await.map(drop)
    }

    /// One call, as long as nobody else writes the beat.
    async fn beat(&mut self, now: SystemTime) -> Result<(), StateError> {
        let spec = InfraProviderHealthStatusSpec {
            last_heartbeat_timestamp: Some(now.into()),
            error: provider::health_text(&self.view.health(), now),
        };
        let written = match self.beat.take() {
            Some(known) => self.write_beat(known, &spec).await,
            None => Err(StateError::NotFound(String::new())),
        };
        let written = match written {
            // The namespace forgets everything when Omni restarts.
            Err(StateError::NotFound(_)) => self.write_beat(self.new_beat(), &spec).await,
            other => other,
        };
        let stored = match written {
            Err(error) if error.is_conflict() => {
                let known = self.state.get(&self.pointer::<InfraProviderHealthStatusSpec>()).await?;
                self.write_beat(known.metadata, &spec).await?
            }
            other => other?,
        };
        self.beat = Some(stored.metadata);
        Ok(())
    }

    fn new_beat(&self) -> Metadata {
        let owner = format!("{}.ProviderHealthStatusController", self.info.id);
        let pointer = self.pointer::<InfraProviderHealthStatusSpec>();
        Metadata { owner, ..Resource::empty(&pointer).metadata }
    }

    async fn write_beat<T: Message>(&self, metadata: Metadata, spec: &T) -> Result<Resource, StateError> {
        let owner = metadata.owner.clone();
        let mut resource = Resource { metadata, ..Resource::default() };
        resource.encode(spec);
        match resource.metadata.version {
            Version::Undefined => self.state.create(resource, &owner).await,
            Version::Number(_) => self.state.update(resource, &UpdateOptions::owner(owner)).await,
        }
    }

    fn pointer<T: ResourceSpec>(&self) -> Pointer {
        Pointer::new(T::NAMESPACE, T::TYPE, &self.info.id)
    }
}

#[cfg(test)]
mod tests;
