//! Service accounts: of providers, and of admins.
//!
//! An account is three resources, as in Omni: a `User` with a role, an `Identity` (its name as an e-mail
//! address) that names the user, and a `PublicKey` for each key. The private half of a key is made here and
//! given to the caller; it is not stored.
//!
//! All functions work on any [`State`] that may write these, so they serve the hub's own process as well as
//! an operator's on the other side of a socket.

use std::time::{Duration, SystemTime};

use cosi::{LabelQuery, LabelTerm, ListOptions, Metadata, Missing, Resource, State, StateError};
use omni_auth::{AccountName, BadAccountName, KeyError, Role, ServiceAccountKey};
use prost_types::Timestamp;
use provider::resources::{LABEL_INFRA_PROVIDER_ACCOUNT, LABEL_SERVICE_ACCOUNT, LABEL_USER_ID, ResourceSpec};
use provider::specs::public_key_spec::Type;
use provider::specs::{
    Identity as IdentityName, IdentitySpec, InfraProviderSpec, InfraProviderStatusSpec, PublicKeySpec,
    UserSpec,
};
use serde::Serialize;
use thiserror::Error;
use uuid::Uuid;

use crate::store::{Typed, decode, encode, kind, pointer};

/// Why an account could not be made or changed.
#[derive(Debug, Error)]
pub enum AccountError {
    /// It cannot have that name.
    #[error(transparent)]
    Name(#[from] BadAccountName),
    /// There is one already.
    #[error("service account {0} exists already: renew its key instead")]
    Exists(String),
    /// There is none.
    #[error("there is no service account {0}")]
    Missing(String),
    /// It is on its way out, and somebody holds it.
    #[error("infra provider {id} is being removed but not gone yet; it is held by {holders}")]
    Leaving {
        /// The provider.
        id: String,
        /// Their names.
        holders: String,
    },
    /// The key could not be made.
    #[error("the key cannot be made")]
    Key(#[from] KeyError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StateError),
}

/// A provider as an operator sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProviderSummary {
    /// Its id.
    pub id: String,
    /// What it calls itself; empty until it registered.
    pub name: String,
    /// Its version.
    pub version: String,
    /// It is being removed.
    pub removing: bool,
    /// Its keys, the last to end first.
    pub keys: Vec<KeySummary>,
}

/// A key as an operator sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeySummary {
    /// The key's id.
    pub fingerprint: String,
    /// When it ends.
    pub expires: SystemTime,
}

/// The public half of a key, to be stored.
pub(crate) struct NewKey {
    pub(crate) fingerprint: String,
    pub(crate) armored: String,
    pub(crate) expires: Option<SystemTime>,
}

impl NewKey {
    fn of(key: &ServiceAccountKey) -> Self {
        Self {
            fingerprint: key.fingerprint().to_owned(),
            armored: key.public_armored(),
            expires: key.expires_at(),
        }
    }
}

/// Makes a provider with an account, and a first key of it that ends after `lifetime`.
///
/// # Errors
/// When there is such an account, the id is not possible, or the store refuses.
pub async fn create_provider(
    state: &dyn State,
    id: &str,
    now: SystemTime,
    lifetime: Duration,
) -> Result<(Resource, ServiceAccountKey), AccountError> {
    let account = AccountName::infra_provider(id)?;
    if find::<IdentitySpec>(state, &account.identity()).await?.is_some() {
        return Err(AccountError::Exists(account.to_string()));
    }
    let key = ServiceAccountKey::generate_for(&account, now, lifetime)?;
    let provider =
        cosi::modify(state, &pointer::<InfraProviderSpec>(id), "", Missing::Create, |_| Ok(())).await?;
    create_account(state, &account, Role::InfraProvider, &NewKey::of(&key)).await?;
    Ok((provider, key))
}

/// Makes another key for a provider's account. The former ones work until they end.
///
/// # Errors
/// When there is no such account, or the store refuses.
pub async fn renew_provider(
    state: &dyn State,
    id: &str,
    now: SystemTime,
    lifetime: Duration,
) -> Result<ServiceAccountKey, AccountError> {
    let account = AccountName::infra_provider(id)?;
    let key = ServiceAccountKey::generate_for(&account, now, lifetime)?;
    add_key(state, &account, &NewKey::of(&key)).await?;
    Ok(key)
}

/// Stores another key of an account, with the account's role.
pub(crate) async fn add_key(
    state: &dyn State,
    account: &AccountName,
    key: &NewKey,
) -> Result<(), AccountError> {
    let missing = || AccountError::Missing(account.to_string());
    let identity = find::<IdentitySpec>(state, &account.identity()).await?.ok_or_else(missing)?;
    let user = find::<UserSpec>(state, &identity.spec.user_id).await?.ok_or_else(missing)?;
    let role = user.spec.role.parse().unwrap_or(Role::None);
    store_key(state, account, role, &identity.spec.user_id, key).await
}

/// All providers, by id.
///
/// # Errors
/// When the store fails.
pub async fn list_providers(state: &dyn State) -> Result<Vec<ProviderSummary>, AccountError> {
    let providers = state.list(&kind::<InfraProviderSpec>(), &ListOptions::default()).await?;
    let keys = state.list(&kind::<PublicKeySpec>(), &ListOptions::default()).await?;
    let mut summaries = Vec::with_capacity(providers.len());
    for provider in providers {
        let id = provider.id();
        let status = find::<InfraProviderStatusSpec>(state, id).await?;
        let status = status.map(|status| status.spec).unwrap_or_default();
        let identity = AccountName::infra_provider(id).map(|name| name.identity()).unwrap_or_default();
        summaries.push(ProviderSummary {
            id: id.to_owned(),
            name: status.name,
            version: status.version,
            removing: provider.is_tearing_down(),
            keys: keys_of(&keys, &identity),
        });
    }
    Ok(summaries)
}

/// Removes a provider with its account, its machines and all that is its; returns when it is gone. The hub
/// must be running: its controller does the work. What is not done within `patience` goes on after it.
///
/// # Errors
/// When there is no such provider, the store refuses, or it is not gone in time.
pub async fn delete_provider(state: &dyn State, id: &str, patience: Duration) -> Result<(), AccountError> {
    let provider = pointer::<InfraProviderSpec>(id);
    match state.teardown(&provider, "").await {
        Err(StateError::NotFound(_)) => return Err(AccountError::Missing(id.to_owned())),
        result => result?,
    };
    // Cancel-safe: the teardown is written, and whoever asks again waits for its end.
    match tokio::time::timeout(patience, cosi::teardown_and_destroy(state, &provider, "")).await {
        Ok(Ok(()) | Err(StateError::NotFound(_))) => Ok(()),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => match state.get(&provider).await {
            Err(StateError::NotFound(_)) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(resource) => {
                let holders = resource.metadata.finalizers.join(", ");
                let holders = if holders.is_empty() { "nobody: try again".to_owned() } else { holders };
                Err(AccountError::Leaving { id: id.to_owned(), holders })
            }
        },
    }
}

/// Makes a key for an admin's account, which is made too when there is none of that name.
///
/// # Errors
/// When the name is not possible, or the store refuses.
pub async fn create_admin_key(
    state: &dyn State,
    name: &str,
    now: SystemTime,
    lifetime: Duration,
) -> Result<ServiceAccountKey, AccountError> {
    let account: AccountName = name.parse()?;
    if account.is_infra_provider() {
        return Err(BadAccountName.into());
    }
    let key = ServiceAccountKey::generate_for(&account, now, lifetime)?;
    let new = NewKey::of(&key);
    match create_account(state, &account, Role::Admin, &new).await {
        Err(AccountError::Exists(_)) => add_key(state, &account, &new).await?,
        result => result?,
    }
    Ok(key)
}

/// Removes the account with its keys. Says whether there was one.
pub(crate) async fn delete_account(state: &dyn State, account: &AccountName) -> Result<bool, StateError> {
    let id = account.identity();
    let Some(identity) = find::<IdentitySpec>(state, &id).await? else { return Ok(false) };
    let user = &identity.spec.user_id;
    let query = LabelQuery::new([LabelTerm::equal(LABEL_USER_ID, user)]);
    for key in state.list(&kind::<PublicKeySpec>(), &ListOptions::labels(query)).await? {
        cosi::teardown_and_destroy(state, &key.pointer(), &key.metadata.owner).await?;
    }
    for pointer in [pointer::<UserSpec>(user), pointer::<IdentitySpec>(&id)] {
        match cosi::teardown_and_destroy(state, &pointer, "").await {
            Ok(()) | Err(StateError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// The identity comes last: without it the account does not exist, and making it can be tried again.
pub(crate) async fn create_account(
    state: &dyn State,
    account: &AccountName,
    role: Role,
    key: &NewKey,
) -> Result<(), AccountError> {
    if find::<IdentitySpec>(state, &account.identity()).await?.is_some() {
        return Err(AccountError::Exists(account.to_string()));
    }
    let user = Uuid::new_v4().to_string();
    let spec = UserSpec { role: role.to_string() };
    let mut resource = resource(&user, &spec);
    mark(&mut resource.metadata, account);
    state.create(resource, "").await?;
    store_key(state, account, role, &user, key).await?;
    let mut identity = self::resource(&account.identity(), &IdentitySpec { user_id: user.clone() });
    mark(&mut identity.metadata, account);
    identity.metadata.labels.insert(LABEL_USER_ID.to_owned(), user);
    identity.metadata.labels.insert(LABEL_SERVICE_ACCOUNT.to_owned(), String::new());
    match state.create(identity, "").await {
        Err(StateError::AlreadyExists(_)) => Err(AccountError::Exists(account.to_string())),
        result => Ok(result.map(drop)?),
    }
}

async fn store_key(
    state: &dyn State,
    account: &AccountName,
    role: Role,
    user: &str,
    key: &NewKey,
) -> Result<(), AccountError> {
    let spec = PublicKeySpec {
        public_key: key.armored.clone().into_bytes(),
        expiration: key.expires.map(Timestamp::from),
        confirmed: true,
        identity: Some(IdentityName { email: account.identity() }),
        role: role.to_string(),
        r#type: Type::Pgp as i32,
    };
    let mut resource = resource(&key.fingerprint, &spec);
    mark(&mut resource.metadata, account);
    resource.metadata.labels.insert(LABEL_USER_ID.to_owned(), user.to_owned());
    state.create(resource, "").await?;
    Ok(())
}

fn mark(metadata: &mut Metadata, account: &AccountName) {
    if account.is_infra_provider() {
        metadata.labels.insert(LABEL_INFRA_PROVIDER_ACCOUNT.to_owned(), String::new());
    }
}

fn resource<T: ResourceSpec + PartialEq + Serialize>(id: &str, spec: &T) -> Resource {
    let mut resource = Resource::empty(&pointer::<T>(id));
    encode(&mut resource, spec);
    resource
}

async fn find<T: ResourceSpec>(state: &dyn State, id: &str) -> Result<Option<Typed<T>>, StateError> {
    match state.get(&pointer::<T>(id)).await {
        Ok(resource) => Typed::read(resource).map(Some),
        Err(StateError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn keys_of(keys: &[Resource], identity: &str) -> Vec<KeySummary> {
    let mut summaries: Vec<_> = keys
        .iter()
        .filter_map(|resource| {
            let spec: PublicKeySpec = decode(resource).ok()?;
            (spec.identity?.email == identity).then(|| KeySummary {
                fingerprint: resource.id().to_owned(),
                expires: spec
                    .expiration
                    .and_then(|end| end.try_into().ok())
                    .unwrap_or(SystemTime::UNIX_EPOCH),
            })
        })
        .collect();
    summaries.sort_by_key(|key| std::cmp::Reverse(key.expires));
    summaries
}
