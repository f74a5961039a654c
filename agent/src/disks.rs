//! Which disks there are, and which of them a wipe means.

use std::path::{Path, PathBuf};

/// Where the kernel shows block devices.
pub const SYS_BLOCK: &str = "/sys/block";
/// Where their files are.
pub const DEV: &str = "/dev";

/// The kernel counts in these, whatever the disk's own sector is.
const KERNEL_SECTOR: u64 = 512;
/// Names of devices that are no disks: memory, files, network.
const NO_DISKS: [&str; 7] = ["loop", "ram", "zram", "nbd", "fd", "mtdblock", "zd"];

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
    pub reason: &'static str,
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

/// Why a wipe leaves this device alone.
fn skip_reason(name: &str, device: &Path) -> Option<&'static str> {
    let flag = |file: &str| attribute(device, file).is_some_and(|text| text != "0");
    let stacked = std::fs::read_dir(device.join("slaves")).is_ok_and(|mut slaves| slaves.next().is_some());
    if is_no_disk(name) {
        Some("not a disk")
    } else if name.starts_with("sr") {
        Some("optical drive")
    } else if name.starts_with("dm-") || name.starts_with("md") || stacked {
        Some("made of other disks, which are wiped themselves")
    } else if flag("hidden") {
        Some("one path of several to the same disk")
    } else if size(device) == 0 {
        Some("no medium")
    } else if flag("ro") {
        Some("read-only")
    } else {
        None
    }
}

/// The disks that a wipe means, and what it leaves alone and why.
pub fn scan(sys_block: &Path, dev: &Path) -> (Vec<Target>, Vec<Skipped>) {
    let mut targets = Vec::new();
    let mut skipped = Vec::new();
    for name in names(sys_block) {
        let device = sys_block.join(&name);
        match skip_reason(&name, &device) {
            Some(reason) => skipped.push(Skipped { name, reason }),
            // The kernel writes a slash in a device name as an exclamation mark (cciss!c0d0).
            None => {
                targets.push(Target { path: dev.join(name.replace('!', "/")), size: size(&device), name })
            }
        }
    }
    (targets, skipped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_writable_whole_disks_are_wiped() {
        let sys = tempfile::tempdir().unwrap();
        for (name, size, ro) in [
            ("sda", "2048", "0"),
            ("nvme0n1", "4096", "0"),
            ("sdb", "2048", "1"),
            ("sdc", "0", "0"),
            ("sr0", "2048", "0"),
            ("loop0", "8", "0"),
            ("ram0", "8", "0"),
            ("zram0", "8", "0"),
            ("dm-0", "8", "0"),
            ("md127", "8", "0"),
            ("cciss!c0d0", "16", "0"),
        ] {
            let device = sys.path().join(name);
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("size"), size).unwrap();
            fs::write(device.join("ro"), ro).unwrap();
        }
        fs::create_dir_all(sys.path().join("bcache0/slaves/sda")).unwrap();
        fs::create_dir_all(sys.path().join("nvme0c0n1")).unwrap();
        fs::write(sys.path().join("nvme0c0n1/hidden"), "1\n").unwrap();
        let (targets, skipped) = scan(sys.path(), Path::new("/dev"));
        let targets: Vec<_> =
            targets.iter().map(|target| (target.path.to_str().unwrap(), target.size)).collect();
        assert_eq!(targets, [("/dev/cciss/c0d0", 8192), ("/dev/nvme0n1", 2 << 20), ("/dev/sda", 1 << 20)]);
        let reason = |name: &str| skipped.iter().find(|skip| skip.name == name).unwrap().reason;
        assert_eq!(reason("sdb"), "read-only");
        assert_eq!(reason("sdc"), "no medium");
        assert_eq!(reason("sr0"), "optical drive");
        assert_eq!(reason("zram0"), "not a disk");
        assert_eq!(reason("nvme0c0n1"), "one path of several to the same disk");
        assert!(reason("bcache0").starts_with("made of other disks"));
        assert_eq!(skipped.len(), 10);
    }

    #[test]
    fn a_machine_without_disks_has_none() {
        assert_eq!(scan(Path::new("/nonexistent"), Path::new("/dev")), (vec![], vec![]));
    }
}
