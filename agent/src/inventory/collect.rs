//! Reads the inventory: `/sys`, `/proc`, SMBIOS, and what the kernel tells over netlink.

mod disks;
mod links;
mod network;
mod platform;
mod processors;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use agent_wire::inventory::{NODE_ADDRESS_CURRENT_ID, SYSTEM_INFORMATION_ID};
use agent_wire::talos::hardware::{MemoryModuleSpec, SystemInformationSpec};

use super::rtnetlink::{self, Network};
use super::{Item, Source};
use crate::disks::attribute;
use crate::{modules, say, smbios, sys};

pub use disks::disks;
pub use links::links;
pub use processors::processors;

/// Bytes of a file that are read: the kernel's tables have some ten thousand.
const MAX_FILE: u64 = 1 << 20;

/// The machine that this kernel runs on, or directories that look like one.
#[derive(Clone, Debug)]
pub struct Machine {
    /// `/sys`
    pub sys: PathBuf,
    /// `/proc`
    pub proc: PathBuf,
    /// The running kernel is asked, too.
    pub live: bool,
    /// Waits until every driver is loaded.
    pub settle: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into(), live: true, settle: true }
    }
}

/// What the kernel tells other than by files.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Links, addresses, routes.
    pub network: Network,
    /// The addresses that network cards came with, by kernel name.
    pub permanent: BTreeMap<String, [u8; 6]>,
}

impl Source for Machine {
    fn items(&self) -> Vec<Item> {
        if self.settle {
            modules::settle();
        }
        self.items_with(&if self.live { self.ask() } else { Told::default() })
    }
}

impl Machine {
    fn ask(&self) -> Told {
        let network = rtnetlink::read().unwrap_or_else(|error| {
            say!("the kernel does not tell its network: {error}");
            Network::default()
        });
        let names = crate::disks::names(&self.sys.join("class/net"));
        let permanent = names.into_iter().filter_map(|name| {
            let address = sys::link::permanent_address(&name)?;
            Some((name, address))
        });
        Told { network, permanent: permanent.collect() }
    }

    /// Everything, as the files and the kernel tell it.
    pub fn items_with(&self, told: &Told) -> Vec<Item> {
        let table = file(&self.sys.join("firmware/dmi/tables/DMI"));
        let system = system_information(&self.sys.join("class/dmi/id"));
        let links = links(&self.sys.join("class/net"), told);
        let mut items = vec![Item::new(SYSTEM_INFORMATION_ID, &system)];
        for (id, processor) in processors(&table, &text(&self.proc.join("cpuinfo"))) {
            items.push(Item::new(&id, &processor));
        }
        for (id, module) in memory_modules(&table, &text(&self.proc.join("meminfo"))) {
            items.push(Item::new(&id, &module));
        }
        for (name, disk) in disks(&self.sys.join("block")) {
            items.push(Item::new(&name, &disk));
        }
        for (id, addresses) in network::node_addresses(&links, &told.network) {
            items.push(Item::new(id, &addresses));
        }
        items.extend(links.iter().map(|(name, link)| Item::new(name, link)));
        items.extend(network::addresses(&told.network));
        items.extend(network::routes(&told.network));
        items.extend(network::hostname(&self.proc).map(|hostname| Item::new("hostname", &hostname)));
        items.extend(platform::items(&self.sys, &self.proc, &system.uuid));
        items
    }
}

/// A file's bytes, none when it cannot be read.
fn file(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        // What was read before an error counts.
        let _ = file.take(MAX_FILE).read_to_end(&mut bytes);
    }
    bytes
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&file(path)).into_owned()
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

/// The memory modules by their places; without SMBIOS, as in Talos, all memory as one of an unknown kind.
pub fn memory_modules(table: &[u8], meminfo: &str) -> Vec<(String, MemoryModuleSpec)> {
    const UNKNOWN: &str = "UNKNOWN";
    let modules = smbios::memory_modules(table);
    if !modules.is_empty() {
        return with_ids(modules, "DIMM", |module| {
            format!("{} {}", module.device_locator, module.bank_locator).trim().to_owned()
        });
    }
    let kibibytes = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse::<u64>().ok());
    let size = kibibytes.and_then(|number| u32::try_from(number / 1024).ok()).unwrap_or(0);
    if size == 0 {
        return Vec::new();
    }
    let all = MemoryModuleSpec { size, manufacturer: UNKNOWN.into(), ..MemoryModuleSpec::default() };
    vec![(UNKNOWN.to_owned(), all)]
}

/// Names each by its place, with dashes for spaces; by number where the firmware names no place, or the same
/// twice.
fn with_ids<T>(specs: Vec<T>, fallback: &str, place: impl Fn(&T) -> String) -> Vec<(String, T)> {
    let mut named = BTreeMap::new();
    let mut found = Vec::new();
    for (index, spec) in specs.into_iter().enumerate() {
        let place = place(&spec).replace(' ', "-");
        let mut id = if place.is_empty() { format!("{fallback}-{index}") } else { place };
        if named.insert(id.clone(), ()).is_some() {
            id = format!("{id}-{index}");
            named.insert(id.clone(), ());
        }
        found.push((id, spec));
    }
    found
}

#[cfg(test)]
mod tests;
