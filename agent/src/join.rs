//! Registers the machine: one call of SideroLink's Provision, repeated until it is answered.

use std::time::{Duration, SystemTime};

use agent_wire::link::provision_service_client::ProvisionServiceClient;
use agent_wire::link::{ProvisionRequest, ProvisionResponse};
use tonic::Request;
use tonic::transport::Endpoint;

use crate::config::{ConfigError, JoinConfig};
use crate::console::chain;
use crate::fetch::{self, FetchError};
use crate::identity::Identity;
use crate::retry::{Backoff, Refusals};
use crate::say;
use crate::tls::{self, ConnectError, Taken, Trust};

/// What the agent says of itself. From 1.6 on a unique token is taken in the same call, with which one
/// call is enough (older ones are refused where tokens are required).
pub const TALOS_VERSION: &str = "v1.13.7";
/// Omni answers within five seconds, the hub at once.
const PATIENCE: Duration = Duration::from_secs(15);

/// HTTP's word for a machine whose boot the appliance does not vouch for.
const FORBIDDEN: u16 = 403;

/// One attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No configuration.
    #[error("join configuration cannot be had")]
    Fetch(#[from] FetchError),
    /// A configuration that is no use.
    #[error("join configuration is no use")]
    Config(#[from] ConfigError),
    /// No connection.
    #[error("machine API cannot be reached")]
    Connect(#[from] ConnectError),
    /// Refused.
    #[error("machine API refused: {0}")]
    Refused(String),
}

/// What a successful call leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Registration {
    /// What it was made with.
    pub config: JoinConfig,
    /// What it answered.
    pub response: ProvisionResponse,
}

/// The call's contents; `version` is the Talos version that the machine stands for.
pub fn request(identity: &Identity, config: &JoinConfig, version: &str) -> ProvisionRequest {
    ProvisionRequest {
        node_uuid: identity.uuid.clone(),
        node_public_key: identity.wireguard.public().to_string(),
        join_token: config.join_token.clone(),
        node_unique_token: Some(identity.token.encode()),
        talos_version: Some(version.to_owned()),
        wireguard_over_grpc: config.over_grpc.then_some(true),
    }
}

/// One attempt: the configuration is fetched anew, since its token may have changed.
pub async fn attempt(config_url: &str, identity: &Identity) -> Result<Registration, JoinError> {
    attempt_with(config_url, identity, |_| {}).await
}

async fn attempt_with(
    config_url: &str,
    identity: &Identity,
    learned: impl Fn(&Trust),
) -> Result<Registration, JoinError> {
    let config = configuration(config_url).await?;
    learned(&config.trust);
    let response = provision(&config, identity, TALOS_VERSION).await?;
    Ok(Registration { config, response })
}

/// Registers with a configuration that was good before, until there is an answer. `None` when it is refused.
pub async fn again(config: JoinConfig, identity: &Identity, mut backoff: Backoff) -> Option<Registration> {
    loop {
        match provision(&config, identity, TALOS_VERSION).await {
            Ok(response) => return Some(Registration { config, response }),
            Err(JoinError::Connect(_)) => tokio::time::sleep(backoff.next_wait()).await,
            Err(error) => {
                say!("join: {}; fetches a new configuration", chain(&error));
                return None;
            }
        }
    }
}

/// Fetches the join configuration.
pub async fn configuration(url: &str) -> Result<JoinConfig, JoinError> {
    let document = fetch::document(url).await?;
    let mut config = JoinConfig::parse(&document.text)?;
    if let Some(date) = document.date {
        config.trust.set_clock(date, SystemTime::now());
    }
    Ok(config)
}

/// Registers once.
pub async fn provision(
    config: &JoinConfig,
    identity: &Identity,
    version: &str,
) -> Result<ProvisionResponse, JoinError> {
    let taken = Taken::NamedOrPublic(config.trust.clone());
    let limited = |endpoint: Endpoint| endpoint.connect_timeout(PATIENCE).timeout(PATIENCE);
    let channel = tls::connect(&config.endpoint, &taken, limited).await?;
    let response = ProvisionServiceClient::new(channel)
        .provision(Request::new(request(identity, config, version)))
        .await
        .map_err(|status| JoinError::Refused(format!("{:?}: {}", status.code(), status.message())))?;
    Ok(response.into_inner())
}

/// Attempts until one succeeds. `refused` is called when the configuration was refused for
/// [`REFUSED_LIMIT`](crate::retry::REFUSED_LIMIT), and may start the machine anew.
pub async fn join(
    config_url: &str,
    identity: &Identity,
    backoff: Backoff,
    refused: impl Fn(),
) -> Registration {
    join_with(config_url, identity, backoff, |_| {}, refused).await
}

/// As [`join`]; `learned` hears of whom each configuration says to trust.
pub async fn join_with(
    config_url: &str,
    identity: &Identity,
    mut backoff: Backoff,
    learned: impl Fn(&Trust),
    refused: impl Fn(),
) -> Registration {
    let mut refusals = Refusals::default();
    loop {
        match attempt_with(config_url, identity, &learned).await {
            Ok(registration) => {
                let address = &registration.response.node_address_prefix;
                say!("joined as {} ({address})", identity.uuid);
                return registration;
            }
            Err(error) => {
                let forbidden = matches!(error, JoinError::Fetch(FetchError::Status(FORBIDDEN, _)));
                if refusals.saw(tokio::time::Instant::now(), forbidden) {
                    refused();
                }
                let wait = backoff.next_wait();
                say!("join: {}; again in {} s", chain(&error), wait.as_secs());
                tokio::time::sleep(wait).await;
            }
        }
    }
}
