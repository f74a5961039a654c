//! The keys that calls may be signed with, as the server keeps them at hand.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cosi::{Event, EventType, Resource, State as _, StateError, WatchOptions, WatchTarget};
use futures_util::StreamExt;
use omni_auth::{Certificate, Identity, PublicKey, Role};
use prost_types::Timestamp;
use provider::specs::PublicKeySpec;
use provider::specs::public_key_spec::Type;

use crate::limits::{MAX_ARMORED_KEY, RETRY_PAUSE};
use crate::store::{Store, decode, kind};

/// All keys by fingerprint, kept up to date by a watch. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Keys {
    by_fingerprint: Arc<RwLock<HashMap<String, PublicKey>>>,
}

impl Keys {
    pub(crate) fn find(&self, fingerprint: &str) -> Option<PublicKey> {
        self.by_fingerprint.read().unwrap_or_else(PoisonError::into_inner).get(fingerprint).cloned()
    }

    /// Takes a stored key, or drops it when it is good for nothing any more.
    pub(crate) fn put(&self, resource: &Resource) {
        let key = readable(resource);
        let mut keys = self.by_fingerprint.write().unwrap_or_else(PoisonError::into_inner);
        match key {
            Some(key) => keys.insert(resource.id().to_owned(), key),
            None => keys.remove(resource.id()),
        };
    }

    fn replace(&self, resources: &[Resource]) {
        let keys =
            resources.iter().filter_map(|resource| Some((resource.id().to_owned(), readable(resource)?)));
        *self.by_fingerprint.write().unwrap_or_else(PoisonError::into_inner) = keys.collect();
    }

    /// Reads all keys anew.
    pub(crate) async fn load(&self, store: &Store) -> Result<(), StateError> {
        let resources = store.list(&kind::<PublicKeySpec>()).await?;
        self.replace(&resources);
        Ok(())
    }

    /// Follows the store for ever.
    pub(crate) async fn run(&self, store: &Store) {
        loop {
            if let Err(error) = self.follow(store).await {
                tracing::warn!(%error, "the watch of the keys broke, it begins anew");
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn follow(&self, store: &Store) -> Result<(), StateError> {
        let target = WatchTarget::kind(kind::<PublicKeySpec>());
        let options = WatchOptions { aggregated: true, ..WatchOptions::default() };
        let mut events = store.state().watch(&target, &options).await?;
        // After the watch stands: nothing is missed, and what was removed meanwhile is gone.
        self.load(store).await?;
        while let Some(batch) = events.next().await {
            for event in batch? {
                self.take(&event)?;
            }
        }
        Ok(())
    }

    fn take(&self, event: &Event) -> Result<(), StateError> {
        match event.typ {
            EventType::Created | EventType::Updated => self.put(&event.resource),
            EventType::Destroyed => {
                let mut keys = self.by_fingerprint.write().unwrap_or_else(PoisonError::into_inner);
                keys.remove(event.resource.id());
            }
            EventType::Bootstrapped | EventType::Noop => {}
            EventType::Errored => {
                return Err(StateError::Unavailable(event.error.clone().unwrap_or_default()));
            }
        }
        Ok(())
    }
}

/// A key that may be used, `None` for any other.
fn readable(resource: &Resource) -> Option<PublicKey> {
    let refused = |reason: &str| {
        tracing::warn!(key = resource.id(), reason, "a stored key is not used");
        None
    };
    let Ok(spec) = decode::<PublicKeySpec>(resource) else { return refused("it cannot be read") };
    if resource.is_tearing_down() {
        return None;
    }
    if !spec.confirmed {
        return refused("nobody confirmed it");
    }
    if spec.r#type() == Type::Plain {
        return refused("it is no OpenPGP key");
    }
    let Ok(role) = spec.role.parse::<Role>() else { return refused("its role is not known") };
    let Some(identity) = spec.identity.filter(|identity| !identity.email.is_empty()) else {
        return refused("it has no identity");
    };
    let Some(expires) = spec.expiration.as_ref().and_then(time) else {
        return refused("it has no end");
    };
    let armored = std::str::from_utf8(&spec.public_key).ok().filter(|text| text.len() <= MAX_ARMORED_KEY);
    let Some(armored) = armored else { return refused("it is too long or no text") };
    let certificate = match Certificate::from_armored(armored) {
        Ok(certificate) if certificate.fingerprint() == resource.id() => certificate,
        Ok(_) => return refused("its id is not its fingerprint"),
        Err(error) => return refused(&error.to_string()),
    };
    // The earlier end counts: the stored one may be shortened by an admin.
    let expires = certificate.expires_at().map_or(expires, |own| own.min(expires));
    Some(PublicKey {
        identity: Identity { id: identity.email, role },
        expires,
        ed25519: *certificate.ed25519(),
    })
}

fn time(stamp: &Timestamp) -> Option<SystemTime> {
    let seconds = u64::try_from(stamp.seconds).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
