//! What a machine tells, in Omni's words: a function of the machine's own resources.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_wire::common::{NetIp, NetIpPrefix};
use agent_wire::talos::block::DiskSpec;
use agent_wire::talos::hardware::{MemoryModuleSpec, ProcessorSpec};
use agent_wire::talos::network::{HostnameStatusSpec, LinkStatusSpec, NodeAddressSpec, RouteStatusSpec};
use agent_wire::talos::runtime::{
    ExtensionStatusSpec, KernelCmdlineSpec, PlatformMetadataSpec, SecurityStateSpec, VersionSpec,
};
use provider::specs::machine_status_spec::hardware_status::{BlockDevice, MemoryModule, Processor};
use provider::specs::machine_status_spec::network_status::NetworkLinkStatus;
use provider::specs::machine_status_spec::{HardwareStatus, NetworkStatus, PlatformMetadata, Schematic};
use provider::specs::{MachineStatusSpec, SecurityState};

use crate::setup::SUBNET_PREFIX;

/// The extension that an agent names.
const METAL_AGENT: &str = "metal-agent";
/// The extension whose version is the id of what the image was made of.
const SCHEMATIC: &str = "schematic";
/// ARP hardware type of Ethernet.
const ETHERNET: i32 = 1;
/// Scope of a route that leads out.
const SCOPE_GLOBAL: i32 = 0;
/// What Talos tells as the subsystem of every disk.
const BLOCK_SUBSYSTEM: &str = "/sys/class/block";

/// What was read of a machine; ids only where they say something.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Facts {
    pub(super) talos_version: String,
    pub(super) arch: String,
    pub(super) version: Option<VersionSpec>,
    pub(super) processors: Vec<ProcessorSpec>,
    pub(super) memory_modules: Vec<MemoryModuleSpec>,
    pub(super) disks: Vec<(String, DiskSpec)>,
    /// Name of the disk that Talos is installed on.
    pub(super) system_disk: Option<String>,
    pub(super) links: Vec<(String, LinkStatusSpec)>,
    pub(super) addresses: Option<NodeAddressSpec>,
    pub(super) routes: Vec<RouteStatusSpec>,
    pub(super) hostname: Option<HostnameStatusSpec>,
    pub(super) platform: Option<PlatformMetadataSpec>,
    pub(super) security: Option<SecurityStateSpec>,
    pub(super) cmdline: Option<KernelCmdlineSpec>,
    pub(super) extensions: Vec<ExtensionStatusSpec>,
}

impl Facts {
    /// Writes what was read over what was known before.
    pub(super) fn write(&self, status: &mut MachineStatusSpec) {
        status.talos_version.clone_from(&self.talos_version);
        if status.initial_talos_version.is_empty() {
            status.initial_talos_version.clone_from(&self.talos_version);
        }
        status.talos_version_name =
            self.version.as_ref().map(|version| version.name.clone()).unwrap_or_default();
        status.hardware = Some(self.hardware());
        status.network = Some(self.network());
        status.platform_metadata = self.platform.as_ref().map(platform);
        status.schematic = Some(self.schematic());
        status.security_state = Some(self.security());
        status.kernel_cmdline =
            self.cmdline.as_ref().map(|cmdline| cmdline.cmdline.clone()).unwrap_or_default();
        status.last_error.clear();
    }

    fn hardware(&self) -> HardwareStatus {
        let processors = self.processors.iter().filter(|one| one.core_count != 0 || one.max_speed != 0);
        let modules = self.memory_modules.iter().filter(|one| one.size != 0);
        HardwareStatus {
            processors: processors.map(processor).collect(),
            memory_modules: modules
                .map(|one| MemoryModule { size_mb: one.size, description: one.manufacturer.clone() })
                .collect(),
            blockdevices: self
                .disks
                .iter()
                .filter_map(|(name, disk)| {
                    block_device(name, disk, self.system_disk.as_deref() == Some(name))
                })
                .collect(),
            arch: self.arch.clone(),
        }
    }

    fn network(&self) -> NetworkStatus {
        let hostname = self.hostname.clone().unwrap_or_default();
        let addresses = self.addresses.iter().flat_map(|addresses| &addresses.addresses);
        let gateways = self.routes.iter().filter(|route| {
            route.scope == SCOPE_GLOBAL && route.destination.as_ref().and_then(address_of).is_none()
        });
        let physical = self.links.iter().filter(|(_, link)| link.r#type == ETHERNET && link.kind.is_empty());
        NetworkStatus {
            hostname: hostname.hostname,
            domainname: hostname.domainname,
            addresses: addresses.filter_map(prefix_text).collect(),
            default_gateways: gateways
                .filter_map(|route| ip(route.gateway.as_ref()?))
                .map(|gateway| gateway.to_string())
                .collect(),
            network_links: physical.map(|(name, link)| network_link(name, link)).collect(),
        }
    }

    fn schematic(&self) -> Schematic {
        let names = || self.extensions.iter().filter_map(|extension| extension.metadata.as_ref());
        if names().any(|metadata| metadata.name == METAL_AGENT) {
            return Schematic { in_agent_mode: true, ..Schematic::default() };
        }
        let id = names().find(|metadata| metadata.name == SCHEMATIC);
        Schematic {
            extensions: names()
                .filter(|metadata| metadata.name != SCHEMATIC && metadata.name != "modules.dep")
                .map(|metadata| metadata.name.clone())
                .collect(),
            full_id: id.map(|metadata| metadata.version.clone()).unwrap_or_default(),
            in_agent_mode: false,
        }
    }

    fn security(&self) -> SecurityState {
        let security = self.security.clone().unwrap_or_default();
        SecurityState {
            secure_boot: security.secure_boot,
            booted_with_uki: security.secure_boot || security.booted_with_uki,
        }
    }
}

fn processor(spec: &ProcessorSpec) -> Processor {
    Processor {
        core_count: spec.core_count,
        thread_count: spec.thread_count,
        frequency: spec.max_speed,
        description: format!("{} {}", spec.manufacturer, spec.product_name),
        manufacturer: spec.manufacturer.clone(),
    }
}

/// None for what is no disk to Omni.
fn block_device(name: &str, spec: &DiskSpec, system_disk: bool) -> Option<BlockDevice> {
    let typ = match spec.transport.as_str() {
        _ if spec.cdrom => "CD",
        "nvme" => "NVME",
        "mmc" => "SD",
        _ if spec.rotational => "HDD",
        "" => "UNKNOWN",
        _ => "SSD",
    };
    let unknown = typ == "UNKNOWN" && spec.modalias.is_empty() && spec.sub_system != BLOCK_SUBSYSTEM;
    if unknown || spec.dev_path.starts_with("/dev/loop") {
        return None;
    }
    Some(BlockDevice {
        size: spec.size,
        model: spec.model.clone(),
        linux_name: format!("/dev/{name}"),
        serial: spec.serial.clone(),
        uuid: spec.uuid.clone(),
        wwid: spec.wwid.clone(),
        r#type: typ.to_owned(),
        bus_path: spec.bus_path.clone(),
        system_disk,
        readonly: spec.readonly,
        transport: spec.transport.clone(),
        dev_path: spec.dev_path.clone(),
        io_size: spec.io_size,
        sector_size: spec.sector_size,
        modalias: spec.modalias.clone(),
        sub_system: spec.sub_system.clone(),
        rotational: spec.rotational,
        cdrom: spec.cdrom,
        pretty_size: spec.pretty_size.clone(),
        secondary_disks: spec.secondary_disks.clone(),
        symlinks: spec.symlinks.clone(),
    })
}

fn network_link(name: &str, spec: &LinkStatusSpec) -> NetworkLinkStatus {
    let hardware: Vec<String> = spec.hardware_addr.iter().map(|byte| format!("{byte:02x}")).collect();
    NetworkLinkStatus {
        linux_name: name.to_owned(),
        hardware_address: hardware.join(":"),
        speed_mbps: u32::try_from(spec.speed_megabits).unwrap_or_default(),
        link_up: spec.link_state,
        description: format!("{} {}", spec.vendor, spec.product).trim().to_owned(),
    }
}

fn platform(spec: &PlatformMetadataSpec) -> PlatformMetadata {
    let spec = spec.clone();
    PlatformMetadata {
        platform: spec.platform,
        hostname: spec.hostname,
        region: spec.region,
        zone: spec.zone,
        instance_type: spec.instance_type,
        instance_id: spec.instance_id,
        provider_id: spec.provider_id,
        spot: spec.spot,
    }
}

fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(|bytes| IpAddr::from(Ipv4Addr::from(bytes)));
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| IpAddr::from(Ipv6Addr::from(bytes)))).ok()
}

fn ip(address: &NetIp) -> Option<IpAddr> {
    ip_of(&address.ip)
}

fn address_of(prefix: &NetIpPrefix) -> Option<IpAddr> {
    ip_of(&prefix.ip)
}

/// Text of an address; none for the machine's address in the tunnel.
fn prefix_text(prefix: &NetIpPrefix) -> Option<String> {
    let address = address_of(prefix)?;
    let in_tunnel = matches!(address, IpAddr::V6(address) if address.segments()[..4] == SUBNET_PREFIX);
    (!in_tunnel).then(|| format!("{address}/{}", prefix.prefix_length))
}
