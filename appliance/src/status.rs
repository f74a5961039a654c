//! What the appliance is doing, in one small answer: for the console, for `bootlace status`, for health checks.

use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use netboot_assets::cache::ImageCache;
use omni_link::view::View;
use provider::specs::infra_machine_config_spec::AcceptanceStatus;
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// See the module. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Of the appliance.
    pub(crate) version: String,
    /// Provider id in Omni.
    pub(crate) id: String,
    /// Where machines reach it.
    pub(crate) address: Ipv4Addr,
    /// Its HTTP port there.
    pub(crate) port: u16,
    /// Since when it runs.
    pub(crate) started_ms: u64,
    /// The link to Omni.
    pub(crate) omni: Omni,
    /// How many there are of each kind.
    pub(crate) machines: Machines,
    /// The image cache; `None` without one.
    #[serde(default)]
    pub(crate) images: Option<CachedImages>,
}

/// Images of Talos that are kept here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CachedImages {
    /// How many.
    pub(crate) count: usize,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// How many are being fetched.
    pub(crate) coming: usize,
    /// Fetches that failed since the start.
    pub(crate) failures: u64,
}

/// The link to Omni.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Omni {
    /// Its URL; `None`: the embedded hub.
    pub(crate) endpoint: Option<String>,
    /// Whether all that Omni wants is known now.
    pub(crate) in_sync: bool,
    /// What a person must know, as the heartbeat tells it; empty when all is well.
    pub(crate) trouble: String,
}

/// Machines by what a person decided about them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machines {
    /// Waiting for the decision.
    pub(crate) pending: usize,
    /// Accepted, those in clusters included.
    pub(crate) accepted: usize,
    /// Rejected: they boot from their disks.
    pub(crate) rejected: usize,
    /// In a cluster.
    pub(crate) allocated: usize,
}

/// Makes the answer. The view comes when the link starts; before that there is no machine.
#[derive(Clone)]
pub(crate) struct Source {
    blank: Status,
    view: Arc<OnceLock<Arc<View>>>,
    cache: Arc<OnceLock<ImageCache>>,
}

impl Source {
    /// Of an appliance that starts now.
    pub(crate) fn new(config: &Config, address: Ipv4Addr, started_ms: u64) -> Self {
        let endpoint = config.omni.as_ref().map(|omni| omni.endpoint.clone());
        let blank = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            id: config.id.clone(),
            address,
            port: config.api.listen.port(),
            started_ms,
            omni: Omni { endpoint, in_sync: false, trouble: "starting".to_owned() },
            machines: Machines::default(),
            images: None,
        };
        Self { blank, view: Arc::default(), cache: Arc::default() }
    }

    /// From here on there is something to tell.
    pub(crate) fn watch(&self, view: Arc<View>) {
        // The link starts once.
        let _ = self.view.set(view);
    }

    /// From here on there is a cache.
    pub(crate) fn show_cache(&self, cache: ImageCache) {
        // It is opened once.
        let _ = self.cache.set(cache);
    }

    /// As it is now.
    pub(crate) fn status(&self, now: SystemTime) -> Status {
        let mut status = self.blank.clone();
        status.images = self.cache.get().map(|cache| {
            let size = cache.size();
            CachedImages {
                count: size.images,
                bytes: size.bytes,
                coming: size.coming,
                failures: size.failures,
            }
        });
        let Some(view) = self.view.get() else { return status };
        status.omni.in_sync = view.fresh();
        status.omni.trouble = provider::health_text(&view.health(), now);
        for machine in view.ids().iter().filter_map(|id| view.machine(id)) {
            let Some(infra) = &machine.infra else { continue };
            let machines = &mut status.machines;
            *match infra.spec.acceptance_status() {
                AcceptanceStatus::Pending => &mut machines.pending,
                AcceptanceStatus::Accepted => &mut machines.accepted,
                AcceptanceStatus::Rejected => &mut machines.rejected,
            } += 1;
            machines.allocated += usize::from(!infra.spec.cluster_talos_version.is_empty());
        }
        status
    }
}
