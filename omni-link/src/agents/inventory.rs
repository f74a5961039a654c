//! Reads an agent's inventory: Talos' own resources, listed over the tunnel.

use agent_wire::inventory::{DISKS, LINKS, MEMORY_MODULES, PROCESSORS, SYSTEM_INFORMATION};
use agent_wire::talos::block::DiskSpec;
use agent_wire::talos::hardware::{MemoryModuleSpec, ProcessorSpec, SystemInformationSpec};
use agent_wire::talos::network::LinkStatusSpec;
use agent_wire::tunnel::TunnelChannel;
use cosi_wire::resource::ListRequest;
use cosi_wire::resource::state_client::StateClient;
use prost::Message;
use provider::private::InventorySpec;
use provider::private::inventory_spec::{Disk, Nic};
use tonic::Status;

/// A machine with more of anything is cut off here.
const LIST_MAX: usize = 512;
/// Nor do all records of a kind have more bytes than this: ten times those of a storage server.
const LIST_BYTES_MAX: usize = 128 << 10;
/// Linux' number for Ethernet, as in [`LinkStatusSpec::type`].
const ARPHRD_ETHER: i32 = 1;
/// RFC 2863 `up`, as in [`LinkStatusSpec::operational_state`].
const OPER_UP: i32 = 6;

/// Lists everything; `Unimplemented` when the agent does not tell.
pub(super) async fn read(channel: TunnelChannel) -> Result<InventorySpec, Status> {
    let mut client = StateClient::new(channel);
    let system = list::<SystemInformationSpec>(&mut client, SYSTEM_INFORMATION).await?;
    let processors = list::<ProcessorSpec>(&mut client, PROCESSORS).await?;
    let memory = list::<MemoryModuleSpec>(&mut client, MEMORY_MODULES).await?;
    let disks = list::<DiskSpec>(&mut client, DISKS).await?;
    let links = list::<LinkStatusSpec>(&mut client, LINKS).await?;
    let system = system.into_iter().next().map(|(_, spec)| spec).unwrap_or_default();
    Ok(InventorySpec {
        manufacturer: system.manufacturer,
        product: system.product_name,
        serial: system.serial_number,
        cpu_model: processors.first().map(|(_, spec)| spec.product_name.clone()).unwrap_or_default(),
        cpu_cores: processors.iter().map(|(_, spec)| spec.core_count).sum(),
        cpu_threads: processors.iter().map(|(_, spec)| spec.thread_count).sum(),
        memory_bytes: memory.iter().map(|(_, spec)| u64::from(spec.size) << 20).sum(),
        disks: disks.into_iter().map(|(id, spec)| disk(id, spec)).collect(),
        nics: links
            .into_iter()
            .filter(|(_, spec)| is_physical(spec))
            .map(|(id, spec)| nic(id, spec))
            .collect(),
        ..InventorySpec::default()
    })
}

/// One line for the journal.
pub fn summary(inventory: &InventorySpec) -> String {
    let disks: Vec<String> =
        inventory.disks.iter().map(|disk| format!("{} {}", disk.name, bytes(disk.size_bytes))).collect();
    let nics: Vec<&str> = inventory.nics.iter().map(|nic| nic.mac.as_str()).collect();
    let model = [inventory.manufacturer.as_str(), inventory.product.as_str()].join(" ");
    format!(
        "{}; {} threads, {}; disks {}; links {}",
        model.trim(),
        inventory.cpu_threads,
        bytes(inventory.memory_bytes),
        if disks.is_empty() { "none".to_owned() } else { disks.join(", ") },
        nics.join(", "),
    )
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0 => "unknown size".into(),
        _ if bytes >> 40 >= 10 => format!("{} TiB", bytes >> 40),
        _ if bytes >> 30 >= 10 => format!("{} GiB", bytes >> 30),
        _ => format!("{} MiB", bytes >> 20),
    }
}

async fn list<T: Message + Default>(
    client: &mut StateClient<TunnelChannel>,
    (namespace, typ): (&str, &str),
) -> Result<Vec<(String, T)>, Status> {
    let request = ListRequest { namespace: namespace.to_owned(), r#type: typ.to_owned(), options: None };
    let mut stream = client.list(request).await?.into_inner();
    let mut found = Vec::new();
    let mut bytes = 0;
    while let Some(response) = stream.message().await? {
        if found.len() == LIST_MAX {
            break;
        }
        let Some(resource) = response.resource else { continue };
        let id = resource.metadata.map(|metadata| metadata.id).unwrap_or_default();
        let spec = resource.spec.map(|spec| spec.proto_spec).unwrap_or_default();
        bytes += id.len() + spec.len();
        if bytes > LIST_BYTES_MAX {
            let text = format!("the list of {typ} is over the limit of {LIST_BYTES_MAX} bytes");
            return Err(Status::resource_exhausted(text));
        }
        let spec = T::decode(spec.as_ref())
            .map_err(|error| Status::internal(format!("{typ} {id} cannot be read: {error}")))?;
        found.push((id, spec));
    }
    Ok(found)
}

fn disk(id: String, spec: DiskSpec) -> Disk {
    Disk {
        name: id,
        model: spec.model,
        serial: spec.serial,
        wwid: spec.wwid,
        size_bytes: spec.size,
        rotational: spec.rotational,
        read_only: spec.readonly,
        transport: spec.transport,
    }
}

/// Neither loopback nor anything made by software.
fn is_physical(spec: &LinkStatusSpec) -> bool {
    spec.r#type == ARPHRD_ETHER && spec.kind.is_empty()
}

fn nic(id: String, spec: LinkStatusSpec) -> Nic {
    let address = if spec.permanent_addr.is_empty() { &spec.hardware_addr } else { &spec.permanent_addr };
    let mac: Vec<String> = address.iter().map(|byte| format!("{byte:02x}")).collect();
    Nic {
        name: id,
        mac: mac.join(":"),
        link_up: spec.operational_state == OPER_UP,
        speed_mbps: u32::try_from(spec.speed_megabits).unwrap_or_default(),
        driver: spec.driver,
    }
}
