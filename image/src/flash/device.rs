//! The disks of this host, from sysfs, and what they are used for.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Unit of sysfs' sizes, whatever the sectors of the disk are (Documentation/ABI/stable/sysfs-block).
const SIZE_UNIT: u64 = 512;
/// Devices on top of devices (RAID, LVM, encryption): more levels than anyone stacks.
const LEVELS_MAX: usize = 8;
/// Mount points without which this host does not run.
const SYSTEM: [&str; 4] = ["/", "/boot", "/boot/efi", "/usr"];

/// What a disk is used for now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// A file system that this host runs from.
    System(String),
    /// Another file system.
    Mounted(String),
    /// Swap space.
    Swap(String),
    /// A part of a RAID, a volume group or an encrypted volume of that name.
    Part(String),
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(at) => write!(f, "this system runs from it ({at})"),
            Self::Mounted(at) => write!(f, "mounted at {at}"),
            Self::Swap(name) => write!(f, "swap space ({name})"),
            Self::Part(of) => write!(f, "part of {of}"),
        }
    }
}

/// A whole disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The kernel's name, as `sda`.
    pub name: String,
    /// Maker and model as the disk says them; may be empty.
    pub model: String,
    /// Size in bytes.
    pub bytes: u64,
    /// It can be pulled out: removable, or on USB.
    pub removable: bool,
    /// It cannot be written.
    pub read_only: bool,
    /// What it is used for.
    pub uses: BTreeSet<Use>,
}

impl Device {
    /// Where it is opened.
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// Why it is not to be written at all.
    pub fn impossible(&self) -> Option<String> {
        if self.read_only {
            return Some("it is read-only".to_owned());
        }
        if self.bytes == 0 {
            return Some("there is no medium in it".to_owned());
        }
        self.uses.iter().find(|uses| matches!(uses, Use::System(_))).map(ToString::to_string)
    }

    /// Why it is not to be written unless a person insists.
    pub fn doubts(&self) -> Vec<String> {
        let fixed = (!self.removable).then(|| "it is not removable".to_owned());
        fixed.into_iter().chain(self.uses.iter().map(ToString::to_string)).collect()
    }
}

/// What the kernel says about disks.
#[derive(Debug, Clone)]
pub struct Host {
    /// `/sys`
    pub sys: PathBuf,
    /// Text of `/proc/self/mountinfo`.
    pub mounts: String,
    /// Text of `/proc/swaps`.
    pub swaps: String,
}

impl Host {
    /// This one.
    pub fn here() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read what is mounted")?;
        let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
        Ok(Self { sys: PathBuf::from("/sys"), mounts, swaps })
    }

    /// All disks that are there: no loop devices, RAM disks, optical drives, or volumes on other disks.
    pub fn devices(&self) -> Result<Vec<Device>> {
        let blocks = self.sys.join("block");
        let mut names: Vec<String> = fs::read_dir(&blocks)
            .with_context(|| format!("cannot read {}", blocks.display()))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| blocks.join(name).join("device").exists() && !name.starts_with("sr"))
            .collect();
        names.sort_unstable();
        Ok(names.iter().map(|name| self.device(name)).collect())
    }

    /// The disk that a path names, by whatever link; `None` when it is a partition or no block device.
    pub fn find(&self, path: &Path) -> Result<Option<Device>> {
        let path = fs::canonicalize(path).with_context(|| format!("no such device: {}", path.display()))?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let known = path.parent() == Some(Path::new("/dev")) && self.sys.join("block").join(name).exists();
        Ok(known.then(|| self.device(name)))
    }

    fn device(&self, name: &str) -> Device {
        let directory = self.sys.join("block").join(name);
        let text =
            |file: &str| fs::read_to_string(directory.join(file)).unwrap_or_default().trim().to_owned();
        let words = [text("device/vendor"), text("device/model")].join(" ");
        let on_usb = fs::canonicalize(directory.join("device")).is_ok_and(|path| {
            path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("usb"))
        });
        let mut uses = BTreeSet::new();
        self.add_uses(&directory, name, LEVELS_MAX, &mut uses);
        Device {
            name: name.to_owned(),
            model: words.split_whitespace().collect::<Vec<_>>().join(" "),
            bytes: text("size").parse::<u64>().unwrap_or_default() * SIZE_UNIT,
            removable: on_usb || text("removable") == "1",
            read_only: text("ro") == "1",
            uses,
        }
    }

    /// Of a disk or volume, of its partitions, and of what is made of them.
    fn add_uses(&self, directory: &Path, name: &str, levels: usize, uses: &mut BTreeSet<Use>) {
        let partition = |entry: fs::DirEntry| {
            let path = entry.path();
            path.join("partition").exists().then(|| (entry.file_name().to_string_lossy().into_owned(), path))
        };
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let parts = entries.filter_map(partition).chain([(name.to_owned(), directory.to_path_buf())]);
        for (name, path) in parts {
            let number = fs::read_to_string(path.join("dev")).unwrap_or_default();
            uses.extend(self.mounts_of(&name, number.trim()));
            let device = format!("/dev/{name}");
            let swap = |line: &str| line.split_whitespace().next() == Some(&device);
            uses.extend(self.swaps.lines().any(swap).then(|| Use::Swap(name.clone())));
            for holder in fs::read_dir(path.join("holders")).into_iter().flatten().flatten() {
                let holder = holder.file_name().to_string_lossy().into_owned();
                uses.insert(Use::Part(holder.clone()));
                if levels > 0 {
                    let directory = self.sys.join("block").join(&holder);
                    self.add_uses(&directory, &holder, levels - 1, uses);
                }
            }
        }
    }

    /// By device number, or by name where a file system has a number of its own (btrfs).
    fn mounts_of(&self, name: &str, number: &str) -> Vec<Use> {
        let device = format!("/dev/{name}");
        let mount = |line: &str| {
            let mut fields = line.split(' ');
            let (its_number, at) = (fields.nth(2)?, fields.nth(1)?);
            let source = line.split(" - ").nth(1)?.split(' ').nth(1)?;
            (its_number == number || source == device).then(|| at.replace("\\040", " "))
        };
        let named = |at: String| {
            if SYSTEM.contains(&at.as_str()) { Use::System(at) } else { Use::Mounted(at) }
        };
        self.mounts.lines().filter_map(mount).map(named).collect()
    }
}

#[cfg(test)]
mod tests;
