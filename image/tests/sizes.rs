//! How large the images are, with the kernels and the agent that are on this machine. What is not there is
//! skipped, and said so.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;
use std::path::{Path, PathBuf};

use bootlace_image::binary::Arch;
use bootlace_image::initramfs::{Contents, Packed, pack};
use bootlace_image::modules::Tree;

const MIB: usize = 1 << 20;
/// The agent, stripped.
const AGENT_LIMIT: usize = 6 * MIB;
/// The appliance, stripped.
const APPLIANCE_LIMIT: u64 = 16_000_000;
/// Agent and virtio drivers, compressed.
const VIRTIO_LIMIT: usize = 4 * MIB;
/// The generic kernel with the metal drivers: what a server fetches for its discovery.
const METAL_LIMIT: usize = 40 * MIB;

/// Of zstd.
const QUICK_LEVEL: i32 = 3;

/// The release build of the agent, next to which this test was built.
fn agent() -> Option<Vec<u8>> {
    let test = std::env::current_exe().unwrap();
    // <target>/<triple>/<profile>/deps/<test>
    let triple = test.ancestors().nth(3).unwrap();
    let agent = fs::read(triple.join("agent/bootlace-agent")).ok();
    if agent.is_none() {
        eprintln!("skipped: no small build of the agent (cargo build --profile agent -p bootlace-agent)");
    }
    agent
}

/// The newest kernel of Debian's flavour, with its modules.
fn kernel(flavour: &str) -> Option<(PathBuf, Tree)> {
    let mut found: Vec<PathBuf> =
        fs::read_dir("/lib/modules").ok()?.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.strip_suffix(flavour).is_some_and(|rest| rest.ends_with(|end: char| end.is_ascii_digit()))
    });
    found.sort();
    let modules = found.pop()?;
    let image = Path::new("/boot").join(format!("vmlinuz-{}", modules.file_name()?.to_str()?));
    image.exists().then(|| (image, Tree::open(&modules).unwrap()))
}

fn packed(init: &[u8], tree: &Tree, drivers: &str) -> Packed {
    let firmware = Some(Path::new("/lib/firmware"));
    let drivers = [drivers.to_owned()];
    pack(Contents { arch: Arch::Amd64, init, tree, drivers: &drivers, firmware, files: Vec::new() }).unwrap()
}

#[test]
fn the_agent_is_small() {
    let Some(agent) = agent() else { return };
    eprintln!("agent: {} bytes", agent.len());
    assert!(agent.len() <= AGENT_LIMIT, "{} bytes", agent.len());
}

#[test]
fn the_image_for_virtual_machines_is_small() {
    let Some(agent) = agent() else { return };
    for flavour in ["-cloud-amd64", "-amd64"] {
        let Some((_, tree)) = kernel(flavour) else {
            eprintln!("skipped: no kernel {flavour} is installed");
            continue;
        };
        let plain = packed(&agent, &tree, "virtio").plain;
        let bytes = zstd::bulk::compress(&plain, QUICK_LEVEL).unwrap().len();
        eprintln!("virtio, {flavour}: {bytes} bytes");
        assert!(bytes <= VIRTIO_LIMIT, "{bytes} bytes");
    }
}

#[test]
fn the_image_for_servers_is_small_with_its_kernel_and_has_what_servers_need() {
    let Some(agent) = agent() else { return };
    let Some((kernel, tree)) = kernel("-amd64") else {
        return eprintln!("skipped: linux-image-amd64 is not installed");
    };
    // The most thorough level takes minutes in a debug build; this one gives a larger file.
    let image = packed(&agent, &tree, "metal");
    let kernel_bytes = fs::metadata(kernel).unwrap().len();
    let compressed = zstd::bulk::compress(&image.plain, QUICK_LEVEL).unwrap().len();
    let bytes = compressed + usize::try_from(kernel_bytes).unwrap();
    eprintln!("metal with kernel: {bytes} bytes, {} modules", image.modules.len());
    assert!(bytes <= METAL_LIMIT, "{bytes} bytes");
    for driver in [
        "e1000e",
        "ixgbe",
        "mlx5_core",
        "nvme",
        "ahci",
        "mpt3sas",
        "usb-storage",
        "xhci-pci",
        "ipmi_si",
        "ipmi_devintf",
    ] {
        let file = format!("{driver}.ko");
        assert!(image.modules.iter().any(|path| path.ends_with(&file)), "{driver} is not in the image");
    }
}

#[test]
fn the_appliance_is_small() {
    let test = std::env::current_exe().unwrap();
    let Ok(binary) = fs::metadata(test.ancestors().nth(3).unwrap().join("release/bootlace")) else {
        return eprintln!("skipped: no release build of the appliance (cargo build --release -p bootlace)");
    };
    eprintln!("appliance: {} bytes", binary.len());
    assert!(binary.len() <= APPLIANCE_LIMIT, "{} bytes", binary.len());
}
