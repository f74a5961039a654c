//! Disks, from `/sys/block`.

use std::path::Path;

use agent_wire::talos::block::DiskSpec;

use crate::disks::{attribute, is_no_disk, names, serial, size};

/// What Talos tells as the subsystem of every disk.
const BLOCK_SUBSYSTEM: &str = "/sys/class/block";

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
        pretty_size: pretty(size(device)),
        io_size,
        sector_size: number("queue/logical_block_size"),
        readonly: read("ro").is_some_and(|text| text != "0"),
        model: read("device/model").unwrap_or_default(),
        serial: serial(device).unwrap_or_default(),
        modalias: read("device/modalias").unwrap_or_default(),
        wwid: read("wwid").or_else(|| read("device/wwid")).unwrap_or_default(),
        uuid: read("uuid").unwrap_or_default(),
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
        secondary_disks: Vec::new(),
        symlinks: Vec::new(),
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

/// A size as Talos writes it: powers of 1000, one decimal below ten.
fn pretty(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut divisor: u128 = 1000;
    while u128::from(bytes) / divisor >= 1000 && unit + 1 < UNITS.len() {
        divisor *= 1000;
        unit += 1;
    }
    let tenths = (u128::from(bytes) * 10 + divisor / 2) / divisor;
    if tenths < 100 {
        return format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]);
    }
    // A half goes to the even side, as printf does it.
    let (whole, rest) = (tenths / 10, tenths % 10);
    let up = rest > 5 || (rest == 5 && whole % 2 == 1);
    format!("{} {}", whole + u128::from(up), UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_talos_writes_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1536, "1.5 kB"),
            (67_108_864, "67 MB"),
            (9_949_999_999, "9.9 GB"),
            (9_950_000_000, "10 GB"),
            (10_500_000_000, "10 GB"),
            (11_500_000_000, "12 GB"),
            (21_474_836_480, "22 GB"),
            (1_000_204_886_016, "1.0 TB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(pretty(bytes), text, "{bytes}");
        }
    }
}
