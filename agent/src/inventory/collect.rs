//! Reads the inventory from `/sys`.

use std::path::{Path, PathBuf};

use agent_wire::inventory::{
    DISKS, LINKS, MEMORY_MODULES, PROCESSORS, SYSTEM_INFORMATION, SYSTEM_INFORMATION_ID,
};
use agent_wire::talos::block::DiskSpec;
use agent_wire::talos::hardware::SystemInformationSpec;
use agent_wire::talos::network::LinkStatusSpec;
use prost::Message;

use super::{Item, Source};
use crate::disks::{attribute, is_no_disk, names, serial, size};
use crate::{net, smbios, sys};

/// What Talos tells as the subsystem of every disk.
const BLOCK_SUBSYSTEM: &str = "/sys/class/block";
/// RFC 2863 states as the kernel names them, in the order of their numbers.
const OPERATIONAL: [&str; 7] =
    ["unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up"];
/// Connector: other.
const PORT_OTHER: i32 = 255;

/// The machine that this kernel runs on.
#[derive(Clone, Debug)]
pub struct Machine {
    /// `/sys`, or a directory that looks like it.
    pub sys: PathBuf,
}

impl Default for Machine {
    fn default() -> Self {
        Self { sys: "/sys".into() }
    }
}

impl Source for Machine {
    fn items(&self) -> Vec<Item> {
        if self.sys == Path::new("/sys") {
            crate::modules::settle();
        }
        let table = std::fs::read(self.sys.join("firmware/dmi/tables/DMI")).unwrap_or_default();
        let mut items = vec![item(
            SYSTEM_INFORMATION,
            SYSTEM_INFORMATION_ID,
            &system_information(&self.sys.join("class/dmi/id")),
        )];
        for (index, processor) in smbios::processors(&table).into_iter().enumerate() {
            items.push(item(PROCESSORS, &format!("CPU-{index}"), &processor));
        }
        for (index, module) in smbios::memory_modules(&table).into_iter().enumerate() {
            items.push(item(MEMORY_MODULES, &format!("DIMM-{index}"), &module));
        }
        for (name, disk) in disks(&self.sys.join("block")) {
            items.push(item(DISKS, &name, &disk));
        }
        for (name, link) in links(&self.sys.join("class/net"), &sys::permanent_address) {
            items.push(item(LINKS, &name, &link));
        }
        items
    }
}

fn item((namespace, kind): (&'static str, &'static str), id: &str, spec: &impl Message) -> Item {
    Item { namespace, kind, id: id.to_owned(), spec: spec.encode_to_vec() }
}

/// The machine as a whole.
pub fn system_information(dmi: &Path) -> SystemInformationSpec {
    let read = |name: &str| attribute(dmi, name).unwrap_or_default();
    SystemInformationSpec {
        manufacturer: read("sys_vendor"),
        product_name: read("product_name"),
        version: read("product_version"),
        serial_number: read("product_serial"),
        uuid: read("product_uuid").to_ascii_lowercase(),
        wake_up_type: String::new(),
        sku_number: read("product_sku"),
    }
}

/// The disks and optical drives, by kernel name.
pub fn disks(sys_block: &Path) -> Vec<(String, DiskSpec)> {
    names(sys_block)
        .into_iter()
        .filter(|name| !is_no_disk(name) && !name.starts_with("dm-") && !name.starts_with("md"))
        .map(|name| {
            let spec = disk(&sys_block.join(&name), &name);
            (name, spec)
        })
        .collect()
}

fn disk(device: &Path, name: &str) -> DiskSpec {
    let read = |file: &str| attribute(device, file);
    let number = |file: &str| read(file).and_then(|text| text.parse().ok()).unwrap_or(0);
    // Where the link of a real tree leads: …/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda.
    let path = std::fs::canonicalize(device).unwrap_or_default();
    let path = path.to_string_lossy();
    let io_size = match number("queue/optimal_io_size") {
        0 => number("queue/minimum_io_size"),
        size => size,
    };
    DiskSpec {
        size: size(device),
        io_size,
        sector_size: number("queue/logical_block_size"),
        readonly: read("ro").is_some_and(|text| text != "0"),
        model: read("device/model").unwrap_or_default(),
        serial: serial(device).unwrap_or_default(),
        modalias: read("device/modalias").unwrap_or_default(),
        wwid: read("wwid").or_else(|| read("device/wwid")).unwrap_or_default(),
        bus_path: path
            .split_once("/devices")
            .and_then(|(_, rest)| rest.split_once("/block/"))
            .map(|(bus, _)| bus.to_owned())
            .unwrap_or_default(),
        sub_system: BLOCK_SUBSYSTEM.to_owned(),
        transport: transport(name, &path).to_owned(),
        rotational: number("queue/rotational") == 1,
        cdrom: name.starts_with("sr"),
        dev_path: format!("/dev/{}", name.replace('!', "/")),
        ..DiskSpec::default()
    }
}

fn transport(name: &str, path: &str) -> &'static str {
    if name.starts_with("nvme") {
        "nvme"
    } else if name.starts_with("mmcblk") {
        "mmc"
    } else if path.contains("/usb") {
        "usb"
    } else if path.contains("/ata") {
        "sata"
    } else if path.contains("/end_device-") {
        "sas"
    } else if path.contains("/session") {
        "iscsi"
    } else if path.contains("/virtio") {
        "virtio"
    } else {
        ""
    }
}

/// The network interfaces, by kernel name.
pub fn links(sys_net: &Path, permanent: &dyn Fn(&str) -> Option<[u8; 6]>) -> Vec<(String, LinkStatusSpec)> {
    names(sys_net)
        .into_iter()
        // Files such as bonding_masters lie beside the links.
        .filter(|name| sys_net.join(name).join("ifindex").exists())
        .map(|name| {
            let spec = link(&sys_net.join(&name), permanent(&name));
            (name, spec)
        })
        .collect()
}

fn link(device: &Path, permanent: Option<[u8; 6]>) -> LinkStatusSpec {
    let read = |file: &str| attribute(device, file).unwrap_or_default();
    let number = |file: &str| read(file).parse::<i64>().unwrap_or(0);
    let hex = |file: &str| read(file).trim_start_matches("0x").to_owned();
    let target = |file: &str| {
        std::fs::canonicalize(device.join(file))
            .ok()
            .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .unwrap_or_default()
    };
    let hardware = net::parse_mac(&read("address")).map(Vec::from).unwrap_or_default();
    let physical = device.join("device").exists();
    let (vendor, product) = (hex("device/vendor"), hex("device/device"));
    LinkStatusSpec {
        index: u32::try_from(number("ifindex")).unwrap_or(0),
        r#type: i32::try_from(number("type")).unwrap_or(0),
        link_index: u32::try_from(number("iflink")).unwrap_or(0),
        flags: u32::from_str_radix(&hex("flags"), 16).unwrap_or(0),
        broadcast_addr: net::parse_mac(&read("broadcast")).map(Vec::from).unwrap_or_default().into(),
        mtu: u32::try_from(number("mtu")).unwrap_or(0),
        operational_state: OPERATIONAL
            .iter()
            .position(|state| *state == read("operstate"))
            .and_then(|at| i32::try_from(at).ok())
            .unwrap_or(0),
        // The kernel tells the kind of virtual links only.
        kind: if physical { String::new() } else { device_type(&read("uevent")) },
        bus_path: if physical { target("device") } else { String::new() },
        pciid: if vendor.is_empty() { String::new() } else { format!("{vendor}:{product}") },
        driver: if physical { target("device/driver") } else { String::new() },
        vendor_id: vendor,
        product_id: product,
        link_state: number("carrier") == 1,
        speed_megabits: number("speed").max(0),
        port: PORT_OTHER,
        duplex: match read("duplex").as_str() {
            "full" => 1,
            "half" => 0,
            _ => 255,
        },
        permanent_addr: permanent
            .map(Vec::from)
            .or_else(|| physical.then(|| hardware.clone()))
            .unwrap_or_default()
            .into(),
        hardware_addr: hardware.into(),
        ..LinkStatusSpec::default()
    }
}

fn device_type(uevent: &str) -> String {
    uevent.lines().find_map(|line| line.strip_prefix("DEVTYPE=")).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
