use std::fs;

use super::*;

fn device(sys: &Path, name: &str, attributes: &[(&str, &str)]) {
    for (file, text) in attributes {
        let path = sys.join(name).join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

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
        device(sys.path(), name, &[("size", size), ("ro", ro)]);
    }
    fs::create_dir_all(sys.path().join("bcache0/slaves/sda")).unwrap();
    device(sys.path(), "nvme0c0n1", &[("hidden", "1\n")]);
    let (targets, skipped) = scan(sys.path(), Path::new("/dev"));
    let targets: Vec<_> = targets.iter().map(|target| (target.path.to_str().unwrap(), target.size)).collect();
    assert_eq!(targets, [("/dev/cciss/c0d0", 8192), ("/dev/nvme0n1", 2 << 20), ("/dev/sda", 1 << 20)]);
    let reason = |name: &str| skipped.iter().find(|skip| skip.name == name).unwrap().reason.clone();
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

#[test]
fn a_disk_tells_its_names_where_its_kind_keeps_them() {
    let sys = tempfile::tempdir().unwrap();
    let eui = "eui.0025385b71b0e2a1";
    device(
        sys.path(),
        "nvme0n1",
        &[("size", "8"), ("device/serial", "S3X 1  \n"), ("wwid", eui), ("queue/discard_max_bytes", "4096")],
    );
    device(sys.path(), "vda", &[("size", "8"), ("serial", "virt"), ("queue/logical_block_size", "4096")]);
    device(sys.path(), "sda", &[("size", "8"), ("device/wwid", "naa.5000c500a1b2c3d4")]);
    fs::write(sys.path().join("sda/device/vpd_pg80"), b"\0\x80\0\x0a  WD-1234 \0\0").unwrap();
    let disks = inspect(Places { sys_block: sys.path(), ..Places::default() }, &Medium::default());
    let told: Vec<_> = disks
        .iter()
        .map(|disk| (disk.serial.as_str(), disk.sector, disk.discards, disk.wwns.len()))
        .collect();
    assert_eq!(told, [("S3X 1", 512, true, 1), ("WD-1234", 512, false, 1), ("virt", 4096, false, 0)]);
}

#[test]
fn a_disk_with_a_mounted_partition_is_in_use() {
    let sys = tempfile::tempdir().unwrap();
    device(sys.path(), "sda", &[("size", "8"), ("dev", "8:0\n"), ("sda1/dev", "8:1\n")]);
    device(sys.path(), "sdb", &[("size", "8"), ("dev", "8:16\n")]);
    let mounts = sys.path().join("mounts");
    fs::write(&mounts, "22 1 0:21 / /proc rw - proc proc rw\n29 1 8:1 / /mnt rw - ext4 /dev/sda1 rw\n")
        .unwrap();
    let places = Places { sys_block: sys.path(), mounts: &mounts, ..Places::default() };
    let mounted: Vec<_> = inspect(places, &Medium::default())
        .into_iter()
        .filter(|disk| disk.mounted)
        .map(|disk| disk.name)
        .collect();
    assert_eq!(mounted, ["sda"]);
}

#[test]
fn when_the_machine_booted_from_usb_everything_there_may_be_the_medium() {
    let sys = tempfile::tempdir().unwrap();
    device(sys.path(), "sda", &[("size", "8")]);
    device(sys.path(), "sdb", &[("size", "8"), ("device/model", "stick"), ("idVendor", "46f4")]);
    for usb in [false, true] {
        let medium = Medium { ids: vec![], usb };
        let disks = inspect(Places { sys_block: sys.path(), ..Places::default() }, &medium);
        let mediums: Vec<_> = disks.iter().map(|disk| disk.boot_medium).collect();
        assert_eq!(mediums, [false, usb]);
    }
}
