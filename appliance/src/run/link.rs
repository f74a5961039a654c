//! The link to Omni, or to the hub: the same for both.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use cosi::State;
use cosi::database::OpenError;
use futures_util::FutureExt;
use omni_auth::ServiceAccountKey;
use omni_link::agents::{Agents, Timeouts};
use omni_link::controller::{Controller, Redfish};
use omni_link::disk::Disk;
use omni_link::endpoint::{Endpoint, EndpointOptions, bmc_config, connect};
use omni_link::provider::{Provider, ProviderInfo};
use omni_link::tunnels::Tunnels;
use omni_link::view::{self, GRACE, View, ViewOptions};
use power::api::AddressBook;
use power::redfish::RedfishOptions;

use super::Site;
use crate::config::{Config, Omni};
use crate::events;

const VIEW_NAME: &str = "view.redb";
/// A damaged view is kept under this name for whoever wants to look at it.
const DAMAGED_VIEW_NAME: &str = "view.redb.damaged";
/// The own hub's name as an Omni; its address may change.
const OWN_HUB: &str = "hub";

/// What the rest of the appliance needs of the link.
pub(super) struct Link {
    pub(super) state: Arc<dyn State>,
    pub(super) view: Arc<View>,
    pub(super) tunnels: Arc<Tunnels>,
}

/// Links to the Omni of the configuration, or with `own_key` to the hub of this process.
pub(super) fn start(site: &mut Site, own_key: Option<ServiceAccountKey>) -> anyhow::Result<Link> {
    let (origin, endpoint, key) = match (&site.config.omni, own_key) {
        (Some(omni), _) => (omni.endpoint.clone(), endpoint_of(omni)?, key_of_environment()?),
        (None, key) => (OWN_HUB.to_owned(), own_endpoint(&site.config)?, key),
    };
    let key_expires = key.as_ref().and_then(ServiceAccountKey::expires_at);
    let state = connect(&endpoint, key.map(Arc::new));
    let config = &site.config;
    let observer: omni_link::Observer = {
        let sink = site.recorder.sink();
        Arc::new(move |id: &str, happening| sink(events::of_link(id, happening)))
    };
    let disk = Arc::new(open_disk(&config.state_dir)?);
    let options = ViewOptions { disk, origin, grace: GRACE };
    let view =
        View::open(&config.id, Arc::clone(&observer), options).context("cannot read the link's view")?;
    let tunnels = Tunnels::new(Arc::clone(&view), Arc::clone(&observer));
    let timeouts = Timeouts {
        call: config.agent.call_timeout,
        fast_wipe: config.agent.fast_wipe_timeout,
        zeroes_wipe: config.agent.zeroes_wipe_timeout,
    };
    let redfish = redfish_of(config)?;
    let controller = Controller {
        provider_id: config.id.clone(),
        state: Arc::clone(&state),
        view: Arc::clone(&view),
        tunnels: Arc::clone(&tunnels),
        agents: Agents::new(Arc::clone(&tunnels), timeouts, config.wipe_with_zeroes),
        policy: provider::Policy {
            min_reboot_interval: config.min_reboot_interval,
            machine_labels: config.machine_labels.clone(),
            ..provider::Policy::default()
        },
        pxe_mode: config.boot.pxe_mode,
        redfish,
        power_apis: config.api.power_mgmt_state_dir.clone().map(AddressBook::new),
        observer,
        started: SystemTime::now(),
    };
    let info = ProviderInfo {
        id: config.id.clone(),
        name: config.provider.name.clone(),
        description: config.provider.description.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        key_expires,
    };
    let registration = Provider::new(info, Arc::clone(&state), Arc::clone(&view));
    let feed = view::run(Arc::clone(&view), Arc::clone(&state), site.shutdown.clone());
    for (name, part) in [
        ("view", feed.boxed()),
        ("controller", controller.run(site.shutdown.clone()).boxed()),
        ("provider", registration.run(site.shutdown.clone()).boxed()),
    ] {
        site.spawn(name, part.map(Ok));
    }
    Ok(Link { state, view, tunnels })
}

/// The view is a copy of what Omni has: a damaged one is put aside and read anew.
fn open_disk(state_dir: &Path) -> anyhow::Result<Disk> {
    let path = state_dir.join(VIEW_NAME);
    match Disk::open(&path) {
        Err(error @ (OpenError::Corrupt { .. } | OpenError::Format { .. })) => {
            tracing::warn!(%error, "the link's view is damaged; it is read anew from Omni");
            std::fs::rename(&path, state_dir.join(DAMAGED_VIEW_NAME)).context("cannot put the view aside")?;
            Ok(Disk::open(&path)?)
        }
        opened => Ok(opened?),
    }
}

fn endpoint_of(omni: &Omni) -> anyhow::Result<Endpoint> {
    let options = EndpointOptions {
        ca_file: omni.ca_file.clone(),
        insecure_skip_tls_verify: omni.insecure_skip_tls_verify,
        allow_plaintext: omni.allow_plaintext,
    };
    Ok(Endpoint::parse(&omni.endpoint, &options)?)
}

/// A BMC's certificate may be signed by the authority that signs Omni's.
fn redfish_of(config: &Config) -> anyhow::Result<Redfish> {
    let settings = &config.redfish;
    let ca_file = config.boot.factory.ca_file.as_deref();
    let tls = match settings.https {
        true => Some(Arc::new(bmc_config(settings.insecure_skip_tls_verify, ca_file)?)),
        false => None,
    };
    let options = RedfishOptions {
        tls,
        port: settings.port,
        set_boot_source_override_mode: settings.set_boot_source_override_mode,
    };
    Ok(Redfish { usage: settings.usage, options })
}

/// What is said to the own address does not leave this host, whatever the address is.
fn own_endpoint(config: &Config) -> anyhow::Result<Endpoint> {
    let mut address = config.hub.api_listen;
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let options = EndpointOptions { allow_plaintext: true, ..EndpointOptions::default() };
    Ok(Endpoint::parse(&format!("grpc://{address}"), &options)?)
}

fn key_of_environment() -> anyhow::Result<Option<ServiceAccountKey>> {
    // In this order, as Omni's own clients read them.
    for name in ["SIDERO_SERVICE_ACCOUNT_KEY", "OMNI_SERVICE_ACCOUNT_KEY"] {
        match std::env::var(name) {
            Ok(value) if !value.is_empty() => {
                let key = ServiceAccountKey::from_env_value(&value);
                return key.map(Some).with_context(|| format!("{name} is no service account key"));
            }
            Ok(_) | Err(_) => {}
        }
    }
    tracing::warn!(
        "neither OMNI_SERVICE_ACCOUNT_KEY nor SIDERO_SERVICE_ACCOUNT_KEY is set: calls are not signed"
    );
    Ok(None)
}
