//! What must be in the store before anything else: the provider, keys, the join configuration.

use std::collections::BTreeMap;

use cosi::{Missing, StateError};
use provider::resources::{
    FEATURES_CONFIG_ID, LABEL_INFRA_PROVIDER_ID, PROVIDER_JOIN_CONFIG_OWNER, SIDEROLINK_CONFIG_ID,
    SYS_VERSION_ID,
};
use provider::specs::{
    ConnectionParamsSpec, FeaturesConfigSpec, InfraProviderSpec, JoinConfig, ProviderJoinConfigSpec,
    SiderolinkApiConfigSpec, SiderolinkConfigSpec, SysVersionSpec,
};
use ring::rand::{SecureRandom, SystemRandom};
use siderolink::PrivateKey;

use crate::image_factory::FactoryUrl;
use crate::store::Store;
use crate::token::{JoinToken, new_secret, query_escape};
use crate::wireguard::{EVENTS_PORT, LOGS_PORT};
use crate::{HubConfig, OpenError, definitions, wireguard};

/// SideroLink's network of an installation without an id.
pub(crate) const SUBNET_PREFIX: [u16; 4] = [0xfdae, 0x41e4, 0x649b, 0x9303];
/// Omni's usual WireGuard port.
const WIREGUARD_PORT: u16 = 50180;
/// Where images come from when this hub has no factory of its own.
const FACTORY_URL: &str = "https://factory.talos.dev";
const FACTORY_PXE_URL: &str = "https://pxe.factory.talos.dev";
/// The Omni that this is like. From 1.9 on providers have Omni make their schematics.
const BACKEND_VERSION: &str = "v1.10.4";
/// Omni's number for its API: `omnictl` refuses another than its own.
const BACKEND_API_VERSION: u32 = 3;
const INSTANCE_NAME: &str = "bootlace";

/// Creates what is missing and brings the addresses up to date. Secrets are made once.
pub(crate) async fn prepare(config: &HubConfig, store: &Store) -> Result<(), OpenError> {
    let addresses = Addresses::of(config)?;
    let provider = &config.provider_id;
    match store.put::<InfraProviderSpec, _>(provider, "", Missing::Create, |_, _| Ok(())).await {
        // Being deleted: machines are refused until the user is done with it.
        Ok(_) | Err(StateError::PhaseConflict(_)) => {}
        Err(error) => return Err(OpenError::Store(error)),
    }
    siderolink_config(store, &addresses).await?;
    features(config, store).await?;
    definitions::prepare(store).await.map_err(OpenError::Store)?;
    join_config(store, &addresses, provider).await
}

/// What the server offers and is. Where the images come from is for whoever brings the factory to say; without one
/// what an admin wrote stays.
async fn features(config: &HubConfig, store: &Store) -> Result<(), OpenError> {
    let factory = match &config.image_factory {
        Some(factory) => Some((public_url(factory.base_url())?, public_url(factory.pxe_base_url())?)),
        None => None,
    };
    store
        .put::<FeaturesConfigSpec, _>(FEATURES_CONFIG_ID, "", Missing::Create, |_, spec| {
            if let Some((base, pxe)) = &factory {
                spec.image_factory_base_url.clone_from(base);
                spec.image_factory_pxe_base_url.clone_from(pxe);
            }
            if spec.image_factory_base_url.is_empty() {
                FACTORY_URL.clone_into(&mut spec.image_factory_base_url);
            }
            if spec.image_factory_pxe_base_url.is_empty() {
                FACTORY_PXE_URL.clone_into(&mut spec.image_factory_pxe_base_url);
            }
            Ok(())
        })
        .await
        .map_err(OpenError::Store)?;
    store
        .put::<SysVersionSpec, _>(SYS_VERSION_ID, "", Missing::Create, |_, spec| {
            BACKEND_VERSION.clone_into(&mut spec.backend_version);
            INSTANCE_NAME.clone_into(&mut spec.instance_name);
            spec.backend_api_version = BACKEND_API_VERSION;
            Ok(())
        })
        .await
        .map_err(OpenError::Store)?;
    Ok(())
}

/// A factory's URL as everybody may read it.
fn public_url(url: &str) -> Result<String, OpenError> {
    let unusable = || OpenError::Config("the Image Factory's URL is not usable".to_owned());
    FactoryUrl::parse(url).map(|url| url.public()).ok_or_else(unusable)
}

async fn siderolink_config(store: &Store, addresses: &Addresses) -> Result<(), OpenError> {
    let secret = new_secret().ok_or(OpenError::Random)?;
    let key = server_key()?;
    let [a, b, c, d] = SUBNET_PREFIX;
    let network = format!("{a:x}:{b:x}:{c:x}:{d:x}::");
    store
        .put::<SiderolinkConfigSpec, _>(SIDEROLINK_CONFIG_ID, "", Missing::Create, |_, spec| {
            if spec.join_token.is_empty() {
                spec.join_token.clone_from(&secret);
            }
            // Also in place of the public key without a private half that versions without a tunnel told.
            if spec.private_key.is_empty() {
                spec.private_key = key.to_base64();
                spec.public_key = key.public().to_string();
            }
            spec.subnet = format!("{network}/64");
            spec.server_address = format!("{network}1");
            spec.wireguard_endpoint.clone_from(&addresses.wireguard);
            Ok(())
        })
        .await
        .map_err(OpenError::Store)?;
    let resource =
        store.find::<SiderolinkConfigSpec>(SIDEROLINK_CONFIG_ID).await.map_err(OpenError::Store)?;
    let join_token = resource.map(|config| config.spec.join_token).unwrap_or_default();
    store
        .put::<ConnectionParamsSpec, _>(SIDEROLINK_CONFIG_ID, "", Missing::Create, |_, spec| {
            spec.args = addresses.join_config(&join_token).kernel_args.join(" ");
            spec.api_endpoint.clone_from(&addresses.machine_api_url);
            spec.wireguard_endpoint.clone_from(&addresses.wireguard);
            spec.join_token.clone_from(&join_token);
            spec.events_port = i32::from(addresses.events_port);
            spec.logs_port = i32::from(addresses.logs_port());
            Ok(())
        })
        .await
        .map_err(OpenError::Store)?;
    store
        .put::<SiderolinkApiConfigSpec, _>(SIDEROLINK_CONFIG_ID, "", Missing::Create, |_, spec| {
            spec.machine_api_advertised_url.clone_from(&addresses.machine_api_url);
            spec.wireguard_advertised_endpoint.clone_from(&addresses.wireguard);
            spec.events_port = i32::from(addresses.events_port);
            spec.logs_port = i32::from(addresses.logs_port());
            Ok(())
        })
        .await
        .map_err(OpenError::Store)?;
    Ok(())
}

/// WireGuard's key. It is stored also without WireGuard: clients want to parse one.
fn server_key() -> Result<PrivateKey, OpenError> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| OpenError::Random)?;
    Ok(PrivateKey::from_bytes(bytes))
}

/// What the provider gives to its machines.
pub(crate) async fn join_config(store: &Store, addresses: &Addresses, id: &str) -> Result<(), OpenError> {
    let secret = new_secret().ok_or(OpenError::Random)?;
    let put = store
        .put::<ProviderJoinConfigSpec, _>(
            id,
            PROVIDER_JOIN_CONFIG_OWNER,
            Missing::Create,
            |metadata, spec| {
                metadata.labels.insert(LABEL_INFRA_PROVIDER_ID.to_owned(), id.to_owned());
                if spec.join_token.is_empty() {
                    spec.join_token.clone_from(&secret);
                }
                let extra_data = BTreeMap::from([(LABEL_INFRA_PROVIDER_ID.to_owned(), id.to_owned())]);
                let token = JoinToken::sign_v2(&spec.join_token, &extra_data);
                spec.config = Some(addresses.join_config(&token));
                Ok(())
            },
        )
        .await;
    match put {
        // It goes with its provider.
        Ok(_) | Err(StateError::PhaseConflict(_)) => Ok(()),
        Err(error) => Err(OpenError::Store(error)),
    }
}

/// The addresses that machines are told.
pub(crate) struct Addresses {
    machine_api_url: String,
    events: String,
    events_port: u16,
    /// Host with port, and the port.
    logs: Option<(String, u16)>,
    wireguard: String,
    over_grpc: bool,
}

impl Addresses {
    pub(crate) fn of(config: &HubConfig) -> Result<Self, OpenError> {
        let wrong = |what: &str, value: &str| OpenError::Config(format!("{what} {value:?} is not usable"));
        if config.provider_id.is_empty() {
            return Err(OpenError::Config("provider id is empty".to_owned()));
        }
        let url = config.machine_api_url.trim_end_matches('/');
        let host_port = url.strip_prefix("grpc://").or_else(|| url.strip_prefix("https://"));
        if host_port.is_none_or(str::is_empty) {
            return Err(wrong("machine API URL", url));
        }
        let events = &config.event_endpoint;
        let host_and_port = |what: &str, endpoint: &str| {
            let parts = endpoint
                .rsplit_once(':')
                .and_then(|(host, port)| Some((host.to_owned(), port.parse::<u16>().ok()?)));
            parts.ok_or_else(|| wrong(what, endpoint))
        };
        let (host, events_port) = host_and_port("event endpoint", events)?;
        let logs = match &config.kernel_log_endpoint {
            Some(logs) => Some((logs.clone(), host_and_port("kernel log endpoint", logs)?.1)),
            None => None,
        };
        let Some(wireguard) = &config.wireguard else {
            return Ok(Self {
                machine_api_url: url.to_owned(),
                events: events.clone(),
                events_port,
                logs,
                wireguard: format!("{host}:{WIREGUARD_PORT}"),
                over_grpc: false,
            });
        };
        host_and_port("WireGuard endpoint", &wireguard.endpoint)?;
        let inside = wireguard::server_address();
        Ok(Self {
            machine_api_url: url.to_owned(),
            events: format!("[{inside}]:{EVENTS_PORT}"),
            events_port: EVENTS_PORT,
            logs: logs.map(|_| (format!("[{inside}]:{LOGS_PORT}"), LOGS_PORT)),
            wireguard: wireguard.endpoint.clone(),
            over_grpc: wireguard.over_grpc,
        })
    }

    /// 0 when there is no place for logs.
    fn logs_port(&self) -> u16 {
        self.logs.as_ref().map_or(0, |(_, port)| *port)
    }

    fn join_config(&self, token: &str) -> JoinConfig {
        let tunnel = if self.over_grpc { "&grpc_tunnel=y" } else { "" };
        let api = format!("{}?jointoken={}{tunnel}", self.machine_api_url, query_escape(token));
        let Self { events, logs, .. } = self;
        let mut kernel_args = vec![format!("siderolink.api={api}"), format!("talos.events.sink={events}")];
        let mut config = format!(
            "apiVersion: v1alpha1\nkind: SideroLinkConfig\napiUrl: {api}\n---\n\
             apiVersion: v1alpha1\nkind: EventSinkConfig\nendpoint: '{events}'\n"
        );
        if let Some((logs, _)) = logs {
            kernel_args.push(format!("talos.logging.kernel=tcp://{logs}"));
            config += &format!(
                "---\napiVersion: v1alpha1\nkind: KmsgLogConfig\nname: omni-kmsg\nurl: tcp://{logs}\n"
            );
        }
        JoinConfig { kernel_args, config }
    }
}
