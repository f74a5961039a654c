//! Which block devices there are, and what the kernel tells of each.

pub(crate) mod quiet;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::medium::Medium;
use crate::wipe::partitions;
use crate::wipe::plan::{Action, plan};
use agent_wire::keep::{DiskNames, Keep};

/// Where the kernel shows block devices.
pub const SYS_BLOCK: &str = "/sys/block";
/// Where their files are.
pub const DEV: &str = "/dev";
/// Where it shows what is mounted.
pub const MOUNTS: &str = "/proc/self/mountinfo";

/// The kernel counts in these, whatever the disk's own sector is.
const KERNEL_SECTOR: u64 = 512;
/// Names of devices that are no disks: memory, files, network.
const NO_DISKS: [&str; 7] = ["loop", "ram", "zram", "nbd", "fd", "mtdblock", "zd"];

/// A block device that is no partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Kernel name.
    pub name: String,
    /// Device file.
    pub path: PathBuf,
    /// Bytes; 0 without a medium.
    pub size: u64,
    /// Bytes of a logical sector.
    pub sector: u64,
    /// What it is.
    pub kind: Kind,
    /// Model, for people.
    pub model: String,
    /// Serial number, empty when there is none.
    pub serial: String,
    /// World wide names: WWID, EUI-64, NGUID, UUID.
    pub wwns: Vec<String>,
    /// The kernel refuses writes.
    pub read_only: bool,
    /// It, or a partition of it, is mounted.
    pub mounted: bool,
    /// This machine booted from it.
    pub boot_medium: bool,
    /// It can be told to forget.
    pub discards: bool,
    /// It is plugged into USB.
    pub usb: bool,
}

impl Disk {
    /// What a keep list is compared with.
    pub fn names(&self) -> DiskNames<'_> {
        DiskNames { serial: &self.serial, wwns: &self.wwns, size: self.size }
    }
}

/// What a block device is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A disk.
    #[default]
    Disk,
    /// Memory, a file, the network.
    NoDisk,
    /// A CD or DVD drive.
    Optical,
    /// RAID, device mapper, a cache: made of other disks.
    Stacked,
    /// One path of several to the same disk.
    Path,
}

/// A whole disk that a wipe means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Kernel name.
    pub name: String,
    /// Device file.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
}

/// A block device that a wipe leaves alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Kernel name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// Where to look.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// `/sys/block`
    pub sys_block: &'a Path,
    /// `/dev`
    pub dev: &'a Path,
    /// `/proc/self/mountinfo`
    pub mounts: &'a Path,
}

impl Default for Places<'_> {
    fn default() -> Self {
        Self { sys_block: Path::new(SYS_BLOCK), dev: Path::new(DEV), mounts: Path::new(MOUNTS) }
    }
}

/// Reads an attribute of a block device.
pub(crate) fn attribute(device: &Path, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(device.join(name)).ok()?;
    let text = text.trim_matches(|letter: char| letter.is_whitespace() || letter == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// Bytes of a block device.
pub(crate) fn size(device: &Path) -> u64 {
    attribute(device, "size").and_then(|text| text.parse().ok()).unwrap_or(0u64).saturating_mul(KERNEL_SECTOR)
}

/// Names of all block devices, sorted.
pub(crate) fn names(sys_block: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(sys_block)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Whether the name is that of memory, a file or the network.
pub(crate) fn is_no_disk(name: &str) -> bool {
    NO_DISKS.iter().any(|prefix| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|digit: char| digit.is_ascii_digit()))
    })
}

fn kind(name: &str, device: &Path) -> Kind {
    let stacked = std::fs::read_dir(device.join("slaves")).is_ok_and(|mut slaves| slaves.next().is_some());
    if is_no_disk(name) {
        Kind::NoDisk
    } else if name.starts_with("sr") {
        Kind::Optical
    } else if name.starts_with("dm-") || name.starts_with("md") || stacked {
        Kind::Stacked
    } else if attribute(device, "hidden").is_some_and(|text| text != "0") {
        Kind::Path
    } else {
        Kind::Disk
    }
}

/// The serial number: the block layer's, the device's, SCSI's page 0x80, or that of the USB device.
pub(crate) fn serial(device: &Path) -> Option<String> {
    attribute(device, "serial")
        .or_else(|| attribute(device, "device/serial"))
        .or_else(|| page_80(device))
        .or_else(|| attribute(&usb(device)?, "serial"))
}

/// The USB device that a block device is behind.
fn usb(device: &Path) -> Option<PathBuf> {
    let path = std::fs::canonicalize(device.join("device")).ok()?;
    path.ancestors().find(|at| at.join("idVendor").exists()).map(Path::to_owned)
}

/// SPC "Unit Serial Number": four bytes of header, the last two of them the length.
fn page_80(device: &Path) -> Option<String> {
    let page = std::fs::read(device.join("device/vpd_pg80")).ok()?;
    let length = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
    let text = page.get(4..)?;
    let text = String::from_utf8_lossy(&text[..text.len().min(length)]);
    let text = text.trim_matches(|letter: char| letter.is_whitespace() || letter == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// Device numbers of a disk and of its partitions, as `major:minor`.
fn numbers(device: &Path) -> impl Iterator<Item = String> {
    let partitions = names(device).into_iter().map(|name| device.join(name));
    std::iter::once(device.to_owned()).chain(partitions).filter_map(|at| attribute(&at, "dev"))
}

/// The third word of each line is the device's number.
fn mounted(mountinfo: &str) -> BTreeSet<&str> {
    mountinfo.lines().filter_map(|line| line.split(' ').nth(2)).collect()
}

/// Reads what there is. `medium`: the GPT identifier of the boot medium or of a partition on it, lower
/// case, or an MBR's eight hex digits; or that it is on USB.
pub fn inspect(places: Places<'_>, medium: &Medium) -> Vec<Disk> {
    let mounts = std::fs::read_to_string(places.mounts).unwrap_or_default();
    let mounts = mounted(&mounts);
    let disk = |name: String| {
        let device = places.sys_block.join(&name);
        let read = |file: &str| attribute(&device, file);
        let number = |file: &str| read(file).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let mut disk = Disk {
            // The kernel writes a slash in a device name as an exclamation mark (cciss!c0d0).
            path: places.dev.join(name.replace('!', "/")),
            size: size(&device),
            sector: number("queue/logical_block_size").max(KERNEL_SECTOR),
            kind: kind(&name, &device),
            model: read("device/model").unwrap_or_default(),
            serial: serial(&device).unwrap_or_default(),
            wwns: ["wwid", "device/wwid", "eui", "nguid", "uuid"].into_iter().filter_map(read).collect(),
            read_only: read("ro").is_some_and(|text| text != "0"),
            mounted: numbers(&device).any(|number| mounts.contains(number.as_str())),
            boot_medium: false,
            discards: number("queue/discard_max_bytes") > 0,
            usb: usb(&device).is_some(),
            name,
        };
        disk.boot_medium = (medium.usb && disk.usb) || (!medium.ids.is_empty() && holds(&disk, &medium.ids));
        disk
    };
    names(places.sys_block).into_iter().map(disk).collect()
}

fn holds(disk: &Disk, medium: &[String]) -> bool {
    if disk.kind != Kind::Disk || disk.size == 0 {
        return false;
    }
    let Ok(file) = File::open(&disk.path) else { return false };
    let table = partitions::read(&file, disk.size, disk.sector);
    table.ids.iter().any(|id| medium.contains(id))
}

/// The disks that a wipe without a keep list means, and what it leaves alone and why.
pub fn scan(sys_block: &Path, dev: &Path) -> (Vec<Target>, Vec<Skipped>) {
    let mut targets = Vec::new();
    let mut skipped = Vec::new();
    let places = Places { sys_block, dev, ..Places::default() };
    for (disk, action, reason) in plan(inspect(places, &Medium::default()), &Keep::default()) {
        match action {
            Action::Wipe => targets.push(Target { name: disk.name, path: disk.path, size: disk.size }),
            Action::Leave => skipped.push(Skipped { name: disk.name, reason: reason.to_string() }),
        }
    }
    (targets, skipped)
}

#[cfg(test)]
mod tests;
