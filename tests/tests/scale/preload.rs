//! A hub's store with many machines that have nothing to do: accepted, wiped, off; a third of them allocated and
//! installed, and on.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cosi::embedded::EmbeddedState;
use cosi::{Missing, Pointer, Resource, State, StateError};
use futures_util::{StreamExt, stream};
use hub::{Hub, HubConfig};
use omni_link::view::{self, Machine, Part, View};
use prost::Message;
use provider::private::{
    BmcConfigurationSpec, InventorySpec, PowerOperationSpec, WipeStatusSpec, bmc_configuration_spec,
    inventory_spec,
};
use provider::resources::{
    INFRA_MACHINE_OWNER, LABEL_CLUSTER, LABEL_INFRA_PROVIDER_ID, LABEL_MACHINE_SET, LABEL_ROLE_WORKER,
    ResourceSpec, provider_controller,
};
use provider::specs::infra_machine_config_spec::AcceptanceStatus;
use provider::specs::infra_machine_status_spec::MachinePowerState;
use provider::specs::{
    ClusterSpec, InfraMachineConfigSpec, InfraMachineSpec, InfraMachineStatusSpec, MachineSetNodeSpec,
    SiderolinkSpec,
};
use tokio_util::sync::CancellationToken;

use crate::decision::id;

const PROVIDER: &str = "bare-metal";
const CLUSTER: &str = "edge";
/// Writes at once; the store puts those that come together on the disk together.
const AT_ONCE: usize = 64;
const LIMIT: Duration = Duration::from_secs(120);

/// Whether this machine belongs to a cluster.
pub(crate) fn allocated(index: usize) -> bool {
    index % 3 == 2
}

/// Fills a new store in `directory`. What follows from what users write, the hub itself writes.
pub(crate) async fn preload(directory: &Path, machines: usize, bmcs: SocketAddr) {
    let state: Arc<dyn State> = Arc::new(EmbeddedState::open(directory.join("hub.redb")).unwrap());
    let config = HubConfig {
        provider_id: PROVIDER.to_owned(),
        machine_api_url: "grpc://127.0.0.1:8090".to_owned(),
        event_endpoint: "127.0.0.1:8090".to_owned(),
        kernel_log_endpoint: None,
        wireguard: None,
        image_factory: None,
    };
    let hub = Hub::open(config, Arc::clone(&state), Arc::new(|_| ())).await.unwrap();
    let shutdown = CancellationToken::new();
    let mirror = View::new(PROVIDER, Arc::new(|_, _| ()));
    let follows = tokio::spawn(view::run(Arc::clone(&mirror), Arc::clone(&state), shutdown.clone()));
    let running = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { hub.run(shutdown).await }
    });
    let cluster = ClusterSpec { talos_version: "1.13.9".to_owned(), ..ClusterSpec::default() };
    create(&state, shared::<ClusterSpec>(CLUSTER), "", &cluster).await;
    stream::iter(0..machines).for_each_concurrent(AT_ONCE, |index| users(&state, index)).await;
    let infra = |known: &Machine, index| {
        known.infra.as_ref().is_some_and(|infra| {
            infra.spec.acceptance_status() == AcceptanceStatus::Accepted
                && allocated(index) != infra.spec.cluster_talos_version.is_empty()
        })
    };
    until(&mirror, machines, "the hub writes all machines", infra).await;
    stream::iter(0..machines).for_each_concurrent(AT_ONCE, |index| provider(&state, index, bmcs)).await;
    until(&mirror, machines, "all is written", |known, _| {
        known.inventory.is_some()
            && known.infra.as_ref().is_some_and(|infra| !infra.metadata.finalizers.is_empty())
    })
    .await;
    shutdown.cancel();
    running.await.unwrap();
    follows.await.unwrap();
}

async fn until(mirror: &View, machines: usize, what: &str, holds: impl Fn(&Machine, usize) -> bool) {
    let mut generation = mirror.generation();
    let mut next = 0;
    let all = tokio::time::timeout(LIMIT, async {
        while next < machines {
            match mirror.machine(&id(next)) {
                Some(machine) if holds(&machine, next) => next += 1,
                Some(_) | None => generation.changed().await.unwrap(),
            }
        }
    });
    assert!(all.await.is_ok(), "{what}: waits for machine {next}");
}

fn shared<T: ResourceSpec>(id: &str) -> Pointer {
    Pointer::new(T::NAMESPACE, T::TYPE, id)
}

async fn create(state: &Arc<dyn State>, pointer: Pointer, owner: &str, spec: &impl Message) {
    let mut resource = Resource::empty(&pointer);
    resource.encode(spec);
    state.create(resource, owner).await.unwrap();
}

/// What a machine and its users say.
async fn users(state: &Arc<dyn State>, index: usize) {
    let id = id(index);
    let mut link =
        Resource::empty(&shared::<SiderolinkSpec>(&id)).with_label(LABEL_INFRA_PROVIDER_ID, PROVIDER);
    let [_, _, high, low] = u32::try_from(index).unwrap().to_be_bytes();
    link.encode(&SiderolinkSpec {
        node_subnet: format!("fdae:41e4:649b:9303::{index:x}/64"),
        node_public_key: format!("key-{index}"),
        connected: true,
        remote_addr: format!("10.0.{high}.{low}"),
        node_unique_token: format!("{{\"Fingerprint\":\"f{index:063x}\",\"Token\":\"{id}\"}}"),
        ..SiderolinkSpec::default()
    });
    state.create(link, "").await.unwrap();
    let config = InfraMachineConfigSpec {
        acceptance_status: AcceptanceStatus::Accepted as i32,
        ..InfraMachineConfigSpec::default()
    };
    create(state, shared::<InfraMachineConfigSpec>(&id), "", &config).await;
    if allocated(index) {
        let node = Resource::empty(&shared::<MachineSetNodeSpec>(&id))
            .with_label(LABEL_CLUSTER, CLUSTER)
            .with_label(LABEL_MACHINE_SET, "edge-workers")
            .with_label(LABEL_ROLE_WORKER, "");
        state.create(node, "").await.unwrap();
    }
}

/// What the provider wrote.
async fn provider(state: &Arc<dyn State>, index: usize, bmcs: SocketAddr) {
    let id = id(index);
    let on = allocated(index);
    let infra = shared::<InfraMachineSpec>(&id);
    let mut token = String::new();
    cosi::modify(state.as_ref(), &infra, INFRA_MACHINE_OWNER, Missing::Fail, |resource| {
        resource.insert_finalizer(&provider_controller(PROVIDER));
        let mut spec: InfraMachineSpec =
            resource.decode().map_err(|error| StateError::Unknown(error.to_string()))?;
        token.clone_from(&spec.node_unique_token);
        spec.install_event_id = u64::from(on);
        resource.encode(&spec);
        Ok(())
    })
    .await
    .unwrap();
    // The hub puts the label on what a provider writes; this writes past it.
    let mut status =
        Resource::empty(&shared::<InfraMachineStatusSpec>(&id)).with_label(LABEL_INFRA_PROVIDER_ID, PROVIDER);
    if on {
        status = status
            .with_label(LABEL_CLUSTER, CLUSTER)
            .with_label(LABEL_MACHINE_SET, "edge-workers")
            .with_label(LABEL_ROLE_WORKER, "");
    }
    let power = if on { MachinePowerState::PowerStateOn } else { MachinePowerState::PowerStateOff };
    status.encode(&InfraMachineStatusSpec {
        power_state: power as i32,
        ready_to_use: true,
        installed: on,
        wiped_node_unique_token: token.clone(),
        ..InfraMachineStatusSpec::default()
    });
    state.create(status, &Part::Status.owner(PROVIDER)).await.unwrap();
    let address = if on { SocketAddr::new([127, 0, 0, 2].into(), bmcs.port()) } else { bmcs };
    let api = bmc_configuration_spec::Api { address: address.to_string() };
    let bmc = BmcConfigurationSpec { api: Some(api), ..BmcConfigurationSpec::default() };
    record(state, Part::Bmc, &id, &bmc).await;
    let wipe = WipeStatusSpec {
        initial_wipe_done: true,
        wiped_node_unique_token: token,
        ..WipeStatusSpec::default()
    };
    record(state, Part::Wipe, &id, &wipe).await;
    let operation = PowerOperationSpec {
        last_power_on_timestamp: on.then(|| SystemTime::now().into()),
        ..PowerOperationSpec::default()
    };
    record(state, Part::Power, &id, &operation).await;
    record(state, Part::Inventory, &id, &inventory(index)).await;
}

/// As long as that of a usual server.
fn inventory(index: usize) -> InventorySpec {
    let disk = |n: u32| inventory_spec::Disk {
        name: format!("nvme{n}n1"),
        model: "SAMSUNG MZQL23T8HCLS-00A07".to_owned(),
        serial: format!("S64HNE0T{index:06}{n}"),
        wwid: format!("eui.36344830{index:08x}0025384{n:x}"),
        size_bytes: 3_840_755_982_336,
        transport: "nvme".to_owned(),
        ..inventory_spec::Disk::default()
    };
    let nic = |n: u32| inventory_spec::Nic {
        name: format!("enp65s0f{n}np{n}"),
        mac: format!("52:54:{n:02x}:{:02x}:{:02x}:{:02x}", index >> 16 & 255, index >> 8 & 255, index & 255),
        link_up: true,
        speed_mbps: 25_000,
        driver: "mlx5_core".to_owned(),
    };
    InventorySpec {
        observed_at: Some(SystemTime::now().into()),
        agent_version: "0.1.0".to_owned(),
        manufacturer: "Supermicro".to_owned(),
        product: "AS-1114S-WN10RT".to_owned(),
        serial: format!("E{index:014}"),
        firmware_version: "2.8a".to_owned(),
        cpu_model: "AMD EPYC 7543P 32-Core Processor".to_owned(),
        cpu_cores: 32,
        cpu_threads: 64,
        memory_bytes: 512 << 30,
        disks: (0..4).map(disk).collect(),
        nics: (0..2).map(nic).collect(),
        arch: "amd64".to_owned(),
    }
}

async fn record(state: &Arc<dyn State>, part: Part, id: &str, spec: &impl Message) {
    create(state, part.kind(PROVIDER).pointer(id), &part.owner(PROVIDER), spec).await;
}
