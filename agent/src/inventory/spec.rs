//! The resources' specs: where each kind lives, and how Talos writes it out as YAML.

use std::net::{Ipv4Addr, Ipv6Addr};

use agent_wire::common::{NetIp, NetIpPrefix};
use agent_wire::inventory as kinds;
use agent_wire::meta::{NamespaceSpec, ResourceDefinitionSpec};
use agent_wire::talos::block::DiskSpec;
use agent_wire::talos::hardware::{MemoryModuleSpec, ProcessorSpec, SystemInformationSpec};
use agent_wire::talos::network::{
    AddressStatusSpec, HostnameStatusSpec, LinkStatusSpec, NodeAddressSpec, RouteStatusSpec,
};
use agent_wire::talos::runtime::{
    ExtensionStatusSpec, KernelCmdlineSpec, MachineStatusSpec, MetaKeySpec, PlatformMetadataSpec,
    SecurityStateSpec, UniqueMachineTokenSpec, VersionSpec,
};
use serde_yaml_ng::{Mapping, Value};

use super::names;

/// Namespace and type.
pub type Kind = (&'static str, &'static str);

/// A spec that can be served.
pub trait Spec: prost::Message {
    /// Where it lives.
    const KIND: Kind;

    /// As Talos shows it.
    fn shown(&self) -> Shown;
}

/// A YAML mapping in the making.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown(Mapping);

impl Shown {
    /// With a value.
    fn always(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.into(), value.into());
        self
    }

    /// With a value, unless it is empty, zero or false.
    fn unless_empty(self, key: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let empty = match &value {
            Value::Null => true,
            Value::Bool(value) => !value,
            Value::Number(value) => value.as_f64() == Some(0.0),
            Value::String(value) => value.is_empty(),
            Value::Sequence(value) => value.is_empty(),
            Value::Mapping(value) => value.is_empty(),
            Value::Tagged(_) => false,
        };
        if empty { self } else { self.always(key, value) }
    }

    /// The text.
    pub fn text(&self) -> String {
        serde_yaml_ng::to_string(&self.0).expect("keys are texts and values plain")
    }
}

impl From<Shown> for Value {
    fn from(shown: Shown) -> Self {
        Self::Mapping(shown.0)
    }
}

fn list(texts: &[String]) -> Value {
    Value::Sequence(texts.iter().map(|text| text.as_str().into()).collect())
}

/// An address as text; empty when it is none.
fn address_text(bytes: &[u8]) -> String {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        Ipv4Addr::from(four).to_string()
    } else if let Ok(sixteen) = <[u8; 16]>::try_from(bytes) {
        Ipv6Addr::from(sixteen).to_string()
    } else {
        String::new()
    }
}

pub(super) fn ip(address: Option<&NetIp>) -> String {
    address.map(|address| address_text(&address.ip)).unwrap_or_default()
}

pub(super) fn prefix(prefix: Option<&NetIpPrefix>) -> String {
    let text = prefix.map(|prefix| address_text(&prefix.ip)).unwrap_or_default();
    match prefix {
        Some(prefix) if !text.is_empty() => format!("{text}/{}", prefix.prefix_length),
        _ => String::new(),
    }
}

fn hardware_address(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

impl Spec for SystemInformationSpec {
    const KIND: Kind = kinds::SYSTEM_INFORMATION;
    fn shown(&self) -> Shown {
        Shown::default()
            .unless_empty("manufacturer", self.manufacturer.as_str())
            .unless_empty("productName", self.product_name.as_str())
            .unless_empty("version", self.version.as_str())
            .unless_empty("serialnumber", self.serial_number.as_str())
            .unless_empty("uuid", self.uuid.as_str())
            .unless_empty("wakeUpType", self.wake_up_type.as_str())
            .unless_empty("skuNumber", self.sku_number.as_str())
    }
}

impl Spec for ProcessorSpec {
    const KIND: Kind = kinds::PROCESSORS;
    fn shown(&self) -> Shown {
        Shown::default()
            .unless_empty("socket", self.socket.as_str())
            .unless_empty("manufacturer", self.manufacturer.as_str())
            .unless_empty("productName", self.product_name.as_str())
            .unless_empty("maxSpeedMhz", self.max_speed)
            .unless_empty("bootSpeedMhz", self.boot_speed)
            .unless_empty("status", self.status)
            .unless_empty("serialNumber", self.serial_number.as_str())
            .unless_empty("assetTag", self.asset_tag.as_str())
            .unless_empty("partNumber", self.part_number.as_str())
            .unless_empty("coreCount", self.core_count)
            .unless_empty("coreEnabled", self.core_enabled)
            .unless_empty("threadCount", self.thread_count)
    }
}

impl Spec for MemoryModuleSpec {
    const KIND: Kind = kinds::MEMORY_MODULES;
    fn shown(&self) -> Shown {
        Shown::default()
            .unless_empty("sizeMiB", self.size)
            .unless_empty("deviceLocator", self.device_locator.as_str())
            .unless_empty("bankLocator", self.bank_locator.as_str())
            .unless_empty("speed", self.speed)
            .unless_empty("manufacturer", self.manufacturer.as_str())
            .unless_empty("serialNumber", self.serial_number.as_str())
            .unless_empty("assetTag", self.asset_tag.as_str())
            .unless_empty("productName", self.product_name.as_str())
    }
}

impl Spec for DiskSpec {
    const KIND: Kind = kinds::DISKS;
    fn shown(&self) -> Shown {
        Shown::default()
            .always("dev_path", self.dev_path.as_str())
            .always("size", self.size)
            .always("pretty_size", self.pretty_size.as_str())
            .always("io_size", self.io_size)
            .always("sector_size", self.sector_size)
            .always("readonly", self.readonly)
            .always("cdrom", self.cdrom)
            .unless_empty("model", self.model.as_str())
            .unless_empty("serial", self.serial.as_str())
            .unless_empty("modalias", self.modalias.as_str())
            .unless_empty("wwid", self.wwid.as_str())
            .unless_empty("uuid", self.uuid.as_str())
            .unless_empty("bus_path", self.bus_path.as_str())
            .unless_empty("sub_system", self.sub_system.as_str())
            .unless_empty("transport", self.transport.as_str())
            .unless_empty("rotational", self.rotational)
            .unless_empty("secondary_disks", list(&self.secondary_disks))
            .unless_empty("symlinks", list(&self.symlinks))
    }
}

impl Spec for LinkStatusSpec {
    const KIND: Kind = kinds::LINKS;
    fn shown(&self) -> Shown {
        Shown::default()
            .unless_empty("alias", self.alias.as_str())
            .unless_empty("altNames", list(&self.alt_names))
            .always("index", self.index)
            .always("type", names::link_type(self.r#type))
            .always("linkIndex", self.link_index)
            .always("flags", names::link_flags(self.flags))
            .always("hardwareAddr", hardware_address(&self.hardware_addr))
            .always("permanentAddr", hardware_address(&self.permanent_addr))
            .always("broadcastAddr", hardware_address(&self.broadcast_addr))
            .always("mtu", self.mtu)
            .always("queueDisc", self.queue_disc.as_str())
            .unless_empty("masterIndex", self.master_index)
            .always("operationalState", names::operational_state(self.operational_state))
            .always("kind", self.kind.as_str())
            .always("slaveKind", self.slave_kind.as_str())
            .unless_empty("busPath", self.bus_path.as_str())
            .unless_empty("pciID", self.pciid.as_str())
            .unless_empty("driver", self.driver.as_str())
            .unless_empty("driverVersion", self.driver_version.as_str())
            .unless_empty("firmwareVersion", self.firmware_version.as_str())
            .unless_empty("productID", self.product_id.as_str())
            .unless_empty("vendorID", self.vendor_id.as_str())
            .unless_empty("product", self.product.as_str())
            .unless_empty("vendor", self.vendor.as_str())
            .always("linkState", self.link_state)
            .unless_empty("speedMbit", self.speed_megabits)
            .always("port", names::port(self.port))
            .always("duplex", names::duplex(self.duplex))
    }
}

impl Spec for AddressStatusSpec {
    const KIND: Kind = kinds::ADDRESSES;
    fn shown(&self) -> Shown {
        // Talos shows neither local, broadcast, anycast nor multicast addresses: Go takes them for empty.
        Shown::default()
            .always("address", prefix(self.address.as_ref()))
            .always("linkIndex", self.link_index)
            .always("linkName", self.link_name.as_str())
            .always("family", names::family(self.family))
            .always("scope", names::scope(self.scope))
            .always("flags", names::address_flags(self.flags))
            .always("priority", self.priority)
    }
}

impl Spec for RouteStatusSpec {
    const KIND: Kind = kinds::ROUTES;
    fn shown(&self) -> Shown {
        Shown::default()
            .always("family", names::family(self.family))
            .always("dst", prefix(self.destination.as_ref()))
            .always("src", ip(self.source.as_ref()))
            .always("gateway", ip(self.gateway.as_ref()))
            .unless_empty("outLinkIndex", self.out_link_index)
            .unless_empty("outLinkName", self.out_link_name.as_str())
            .always("table", names::table(self.table))
            .always("priority", self.priority)
            .always("scope", names::scope(self.scope))
            .always("type", names::route_type(self.r#type))
            .always("flags", names::route_flags(self.flags))
            .always("protocol", names::route_protocol(self.protocol))
            .unless_empty("mtu", self.mtu)
    }
}

impl Spec for NodeAddressSpec {
    const KIND: Kind = kinds::NODE_ADDRESSES;
    fn shown(&self) -> Shown {
        let addresses: Vec<String> = self.addresses.iter().map(|address| prefix(Some(address))).collect();
        Shown::default().always("addresses", list(&addresses)).always("sortAlgorithm", "v1")
    }
}

impl Spec for HostnameStatusSpec {
    const KIND: Kind = kinds::HOSTNAME;
    fn shown(&self) -> Shown {
        Shown::default()
            .always("hostname", self.hostname.as_str())
            .always("domainname", self.domainname.as_str())
    }
}

impl Spec for PlatformMetadataSpec {
    const KIND: Kind = kinds::PLATFORM_METADATA;
    fn shown(&self) -> Shown {
        Shown::default()
            .unless_empty("platform", self.platform.as_str())
            .unless_empty("hostname", self.hostname.as_str())
            .unless_empty("region", self.region.as_str())
            .unless_empty("zone", self.zone.as_str())
            .unless_empty("instanceType", self.instance_type.as_str())
            .unless_empty("instanceId", self.instance_id.as_str())
            .unless_empty("providerId", self.provider_id.as_str())
            .unless_empty("spot", self.spot)
    }
}

impl Spec for SecurityStateSpec {
    const KIND: Kind = kinds::SECURITY_STATE;
    fn shown(&self) -> Shown {
        let unless_off = |number: i32, word: String| if number == 0 { String::new() } else { word };
        Shown::default()
            .always("secureBoot", self.secure_boot)
            .unless_empty("ukiSigningKeyFingerprint", self.uki_signing_key_fingerprint.as_str())
            .unless_empty("pcrSigningKeyFingerprint", self.pcr_signing_key_fingerprint.as_str())
            .unless_empty(
                "selinuxState",
                unless_off(self.se_linux_state, names::selinux(self.se_linux_state)),
            )
            .unless_empty("fipsState", unless_off(self.fips_state, names::fips(self.fips_state)))
            .unless_empty("bootedWithUKI", self.booted_with_uki)
            .unless_empty("moduleSignatureEnforced", self.module_signature_enforced)
    }
}

impl Spec for KernelCmdlineSpec {
    const KIND: Kind = kinds::KERNEL_CMDLINE;
    fn shown(&self) -> Shown {
        Shown::default().always("cmdline", self.cmdline.as_str())
    }
}

impl Spec for ExtensionStatusSpec {
    const KIND: Kind = kinds::EXTENSIONS;
    fn shown(&self) -> Shown {
        let metadata = self.metadata.clone().unwrap_or_default();
        let talos = metadata.compatibility.unwrap_or_default().talos.unwrap_or_default();
        let compatibility =
            Shown::default().always("talos", Shown::default().always("version", talos.version));
        Shown::default().always("image", self.image.as_str()).always(
            "metadata",
            Shown::default()
                .always("name", metadata.name)
                .always("version", metadata.version)
                .always("author", metadata.author)
                .always("description", metadata.description)
                .always("compatibility", compatibility)
                .unless_empty("extraInfo", metadata.extra_info),
        )
    }
}

impl Spec for MachineStatusSpec {
    const KIND: Kind = kinds::MACHINE_STATUS;
    fn shown(&self) -> Shown {
        let ready = self.status.is_some_and(|status| status.ready);
        let unmet = Value::Sequence(Vec::new());
        Shown::default()
            .always("stage", names::stage(self.stage))
            .always("status", Shown::default().always("ready", ready).always("unmetConditions", unmet))
    }
}

impl Spec for VersionSpec {
    const KIND: Kind = kinds::VERSION;
    fn shown(&self) -> Shown {
        Shown::default().always("name", self.name.as_str()).always("version", self.version.as_str())
    }
}

impl Spec for MetaKeySpec {
    const KIND: Kind = kinds::META_KEYS;
    fn shown(&self) -> Shown {
        Shown::default().always("value", self.value.as_str())
    }
}

impl Spec for UniqueMachineTokenSpec {
    const KIND: Kind = kinds::UNIQUE_TOKEN;
    fn shown(&self) -> Shown {
        Shown::default().always("token", self.token.as_str())
    }
}

impl Spec for NamespaceSpec {
    const KIND: Kind = kinds::NAMESPACES;
    fn shown(&self) -> Shown {
        Shown::default().always("description", self.description.as_str())
    }
}

impl Spec for ResourceDefinitionSpec {
    const KIND: Kind = kinds::DEFINITIONS;
    fn shown(&self) -> Shown {
        let columns = self.print_columns.iter().map(|column| {
            Shown::default()
                .always("name", column.name.as_str())
                .always("jsonPath", column.json_path.as_str())
                .into()
        });
        Shown::default()
            .always("type", self.resource_type.as_str())
            .always("displayType", self.display_type.as_str())
            .always("defaultNamespace", self.default_namespace.as_str())
            .always("aliases", list(&self.aliases))
            .always("allAliases", list(&self.all_aliases))
            .always("printColumns", Value::Sequence(columns.collect()))
    }
}
