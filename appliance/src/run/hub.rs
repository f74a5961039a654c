//! The embedded hub: started in this process, linked to like any Omni.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use async_trait::async_trait;
use cosi::State;
use cosi::embedded::EmbeddedState;
use futures_util::stream;
use hub::{ApiServer, Hub, HubConfig, ImageFactory, SchematicError, ValidatedState, WireguardConfig};
use netboot_assets::factory::{Factory, FactoryConfig};
use netboot_link::http;
use omni_auth::ServiceAccountKey;

use super::Site;
use super::sockets::HubSockets;
use crate::events;
use crate::tls::write_secret;

const STORE_NAME: &str = "hub.redb";
/// The appliance's own key for its own hub.
const KEY_NAME: &str = "provider.key";
const KEY_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// A key that ends sooner is renewed at the start.
const KEY_RENEW_BEFORE: Duration = Duration::from_secs(60 * 24 * 3600);

/// What the rest of the appliance needs of the hub.
pub(super) struct Started {
    /// For operators: everything, checked before it is written.
    pub(super) state: Arc<ValidatedState>,
    /// For operators, too: what Omni's management API has.
    pub(super) management: tonic::service::Routes,
    /// For the link.
    pub(super) key: ServiceAccountKey,
}

/// Opens the hub and serves its API and the machine API.
pub(super) async fn start(site: &mut Site, sockets: HubSockets) -> anyhow::Result<Started> {
    let config = &site.config;
    let store: Arc<dyn State> = Arc::new(
        EmbeddedState::open(config.state_dir.join(STORE_NAME)).context("cannot open the hub's store")?,
    );
    let machine_api = SocketAddr::new(IpAddr::V4(site.advertise), config.hub.machine_api_port);
    let observer = {
        let (sink, tunnel) = (site.recorder.sink(), config.hub.wireguard.is_some());
        Arc::new(move |event| {
            if let Some(event) = events::of_hub(event, tunnel) {
                sink(event);
            }
        })
    };
    let hub_config = HubConfig {
        provider_id: config.id.clone(),
        machine_api_url: format!("grpc://{machine_api}"),
        event_endpoint: machine_api.to_string(),
        kernel_log_endpoint: config
            .hub
            .kernel_log_port
            .map(|port| SocketAddr::new(IpAddr::V4(site.advertise), port).to_string()),
        wireguard: sockets.wireguard.as_ref().zip(config.hub.wireguard).map(|(socket, wireguard)| {
            let endpoint = SocketAddr::new(IpAddr::V4(site.advertise), wireguard.port).to_string();
            WireguardConfig { endpoint, over_grpc: socket.over_grpc }
        }),
        image_factory: Some(Arc::new(FactoryForHub::new(&config.boot.factory)?)),
    };
    let hub = Hub::open(hub_config, store, observer).await.context("cannot open the hub")?;
    let key = own_key(&config.state_dir, &config.id, &hub).await?;
    let (state, management) = (hub.state(), hub.management());

    let shutdown = site.shutdown.clone();
    let api = ApiServer::new(None).context("cannot serve the hub's API")?.run(
        sockets.api,
        hub.api(),
        shutdown.clone(),
    );
    site.spawn("hub API", async move { Ok(api.await?) });
    for listener in sockets.kernel_logs {
        let connections = stream::unfold(listener, |listener| async move {
            let accepted = listener.accept().await;
            Some((accepted.map(|(connection, peer)| (connection, peer.ip())), listener))
        });
        let (hub, shutdown) = (hub.clone(), shutdown.clone());
        site.spawn("kernel logs", async move {
            hub.serve_kernel_logs(connections, shutdown).await;
            Ok(())
        });
    }
    let routes = hub.routes().into_axum_router();
    for listener in sockets.machine_api {
        let machine_api = http::serve(listener, routes.clone(), shutdown.clone());
        site.spawn("machine API", async move {
            machine_api.await;
            Ok(())
        });
    }
    if let Some(socket) = sockets.wireguard {
        let (hub, shutdown) = (hub.clone(), shutdown.clone());
        site.spawn("wireguard", async move { Ok(hub.serve_wireguard(&socket.udp, shutdown).await?) });
    }
    site.spawn("hub", async move {
        hub.run(shutdown).await;
        Ok(())
    });
    Ok(Started { state, management, key })
}

/// The Image Factory for providers that have their schematics made by Omni.
#[derive(Debug)]
struct FactoryForHub {
    factory: Factory,
    config: FactoryConfig,
}

impl FactoryForHub {
    fn new(config: &FactoryConfig) -> anyhow::Result<Self> {
        let factory = Factory::new(config).context("cannot use the Image Factory")?;
        Ok(Self { factory, config: config.clone() })
    }
}

#[async_trait]
impl ImageFactory for FactoryForHub {
    fn base_url(&self) -> &str {
        &self.config.base_url
    }

    fn pxe_base_url(&self) -> &str {
        &self.config.pxe_base_url
    }

    async fn ensure_schematic(&self, yaml: &str) -> Result<String, SchematicError> {
        self.factory.ensure_schematic(yaml).await.map(|id| id.to_string()).map_err(|error| {
            let last = error.is_final();
            let text = format!("{:#}", anyhow::Error::from(error));
            if last { SchematicError::Refused(text) } else { SchematicError::Unavailable(text) }
        })
    }
}

/// The key that this appliance signs its calls to its own hub with: made at the first start, renewed in time.
async fn own_key(state_dir: &Path, id: &str, hub: &Hub) -> anyhow::Result<ServiceAccountKey> {
    let path = state_dir.join(KEY_NAME);
    let now = SystemTime::now();
    match fs::read_to_string(&path) {
        Ok(text) => {
            let key = ServiceAccountKey::from_env_value(text.trim()).with_context(|| {
                format!("{} is damaged; remove it to have a new one made", path.display())
            })?;
            if key.expires_at().is_none_or(|ends| ends > now + KEY_RENEW_BEFORE) {
                return Ok(key);
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    // A start that was killed between the account and the file leaves an account without its key: renew.
    let key = match hub.create_provider(id, now, KEY_LIFETIME).await {
        Ok((_, key)) => key,
        Err(hub::AccountError::Exists(_)) => {
            hub.renew_provider(id, now, KEY_LIFETIME).await.context("cannot make a key for the own hub")?
        }
        Err(error) => return Err(error).context("cannot make an account at the own hub"),
    };
    write_secret(&path, key.encode().as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(key)
}
