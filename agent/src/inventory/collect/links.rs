//! Network interfaces, from `/sys/class/net` and netlink.

use std::path::{Path, PathBuf};

use agent_wire::talos::network::LinkStatusSpec;

use super::Told;
use crate::disks::{attribute, names};
use crate::net;

/// RFC 2863 states as the kernel names them, in the order of their numbers.
const OPERATIONAL: [&str; 7] =
    ["unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up"];
/// Connector: other.
const PORT_OTHER: i32 = 255;

/// The network interfaces, by kernel name.
pub fn links(sys_net: &Path, told: &Told) -> Vec<(String, LinkStatusSpec)> {
    names(sys_net)
        .into_iter()
        // Files such as bonding_masters lie beside the links.
        .filter(|name| sys_net.join(name).join("ifindex").exists())
        .map(|name| {
            let spec = link(&sys_net.join(&name), &name, told);
            (name, spec)
        })
        .collect()
}

fn link(device: &Path, name: &str, told: &Told) -> LinkStatusSpec {
    let read = |file: &str| attribute(device, file).unwrap_or_default();
    let number = |file: &str| read(file).parse::<i64>().unwrap_or(0);
    let hex = |file: &str| read(file).trim_start_matches("0x").to_owned();
    let target = |file: &str| {
        std::fs::canonicalize(device.join(file))
            .ok()
            .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .unwrap_or_default()
    };
    let index = u32::try_from(number("ifindex")).unwrap_or(0);
    let from_netlink = told.network.links.get(&index).filter(|link| link.name == name).cloned();
    let hardware = net::parse_mac(&read("address")).map(Vec::from).unwrap_or_default();
    let physical = device.join("device").exists();
    let card = pci_device(device);
    let of_card = |file: &str| card.as_ref().and_then(|card| attribute(&card.path, file)).unwrap_or_default();
    let mut spec = LinkStatusSpec {
        index,
        r#type: i32::try_from(number("type")).unwrap_or(0),
        flags: u32::from_str_radix(&hex("flags"), 16).unwrap_or(0),
        broadcast_addr: net::parse_mac(&read("broadcast")).map(Vec::from).unwrap_or_default().into(),
        mtu: u32::try_from(number("mtu")).unwrap_or(0),
        operational_state: OPERATIONAL
            .iter()
            .position(|state| *state == read("operstate"))
            .and_then(|at| i32::try_from(at).ok())
            .unwrap_or(0),
        bus_path: match &card {
            Some(card) => card.slot.clone(),
            None if physical => target("device"),
            None => String::new(),
        },
        pciid: match &card {
            // As in Talos, not for what is on another bus behind the card.
            Some(card) if card.direct => pci_id(&of_card("vendor"), &of_card("device")),
            _ => String::new(),
        },
        driver: if physical { target("device/driver") } else { String::new() },
        vendor_id: of_card("vendor"),
        product_id: of_card("device"),
        link_state: number("carrier") == 1,
        speed_megabits: number("speed").max(0),
        port: PORT_OTHER,
        duplex: match read("duplex").as_str() {
            "full" => 1,
            "half" => 0,
            _ => 255,
        },
        permanent_addr: told
            .permanent
            .get(name)
            .map(|address| address.to_vec())
            .or_else(|| physical.then(|| hardware.clone()))
            .unwrap_or_default()
            .into(),
        hardware_addr: hardware.into(),
        ..LinkStatusSpec::default()
    };
    match from_netlink {
        Some(link) => {
            spec.kind = link.kind;
            spec.slave_kind = link.slave_kind;
            spec.link_index = link.link_index;
            spec.master_index = link.master_index;
            spec.queue_disc = link.queue_disc;
            spec.alias = link.alias;
            spec.alt_names = link.alt_names;
        }
        // Files tell the kind of some virtual links only.
        None if !physical => spec.kind = device_type(&read("uevent")),
        None => {}
    }
    spec
}

fn device_type(uevent: &str) -> String {
    uevent.lines().find_map(|line| line.strip_prefix("DEVTYPE=")).unwrap_or_default().to_owned()
}

/// `8086:100E` of `0x8086` and `0x100e`
fn pci_id(vendor: &str, device: &str) -> String {
    let digits = |text: &str| text.trim_start_matches("0x").to_ascii_uppercase();
    if vendor.is_empty() { String::new() } else { format!("{}:{}", digits(vendor), digits(device)) }
}

/// A PCI card.
struct Card {
    path: PathBuf,
    /// `0000:00:02.0`
    slot: String,
    /// It is the link's own device, not one that its bus hangs on.
    direct: bool,
}

/// The card that a link is on, itself or (virtio) one bus below it. A USB adapter is on none: the card above it
/// is the USB controller.
fn pci_device(link: &Path) -> Option<Card> {
    let device = std::fs::canonicalize(link.join("device")).ok()?;
    let is_virtio =
        |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("virtio"));
    let (path, direct) =
        if is_virtio(&device) { (device.parent()?.to_owned(), false) } else { (device, true) };
    let slot = path.file_name()?.to_str()?.to_owned();
    is_slot(&slot).then_some(Card { path, slot, direct })
}

/// Domain, bus, device and function.
fn is_slot(name: &str) -> bool {
    let hex = |text: &str, length: usize| {
        text.len() >= length && text.bytes().all(|digit| digit.is_ascii_hexdigit())
    };
    let mut parts = name.splitn(3, ':');
    let (Some(domain), Some(bus), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let Some((device, function)) = rest.split_once('.') else { return false };
    hex(domain, 4) && hex(bus, 2) && hex(device, 2) && hex(function, 1)
}
