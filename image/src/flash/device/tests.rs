use std::os::unix::fs::symlink;

use super::*;

/// sda: a disk with an encrypted root; sdb: a stick on USB with a mounted partition; sdc: an idle stick; loop0.
fn host() -> (tempfile::TempDir, Host) {
    let directory = tempfile::tempdir().unwrap();
    let sys = directory.path().to_path_buf();
    let put = |path: &str, text: &str| {
        let path = sys.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    for (name, dev, size, removable, bus) in [
        ("sda", "8:0", "1953525168", "0", "devices/pci0000:00/ata1/host0/0:0:0:0"),
        ("sdb", "8:16", "60062500", "0", "devices/pci0000:00/usb2/2-1/host6/6:0:0:0"),
        ("sdc", "8:32", "15728640", "1", "devices/pci0000:00/xhci/host7/7:0:0:0"),
    ] {
        put(&format!("{bus}/model"), "Ultra Fit       \n");
        put(&format!("{bus}/vendor"), "SanDisk \n");
        put(&format!("block/{name}/dev"), dev);
        put(&format!("block/{name}/size"), size);
        put(&format!("block/{name}/removable"), removable);
        put(&format!("block/{name}/ro"), "0\n");
        symlink(sys.join(bus), sys.join(format!("block/{name}/device"))).unwrap();
    }
    put("block/sda/sda1/partition", "1");
    put("block/sda/sda1/dev", "8:1\n");
    put("block/sda/sda2/partition", "2");
    put("block/sda/sda2/dev", "8:2\n");
    put("block/sda/sda1/holders/dm-0/dev", "");
    put("block/dm-0/dev", "253:0\n");
    put("block/sdb/sdb1/partition", "1");
    put("block/sdb/sdb1/dev", "8:17\n");
    put("block/loop0/dev", "7:0\n");
    let mounts = "22 1 253:0 / / rw,relatime shared:1 - ext4 /dev/mapper/root rw\n\
        30 22 0:51 / /media/my\\040stick rw - btrfs /dev/sdb1 rw\nbroken line\n";
    let swaps = "Filename Type Size Used Priority\n/dev/sda2 partition 8388604 0 -2\n";
    (directory, Host { sys, mounts: mounts.to_owned(), swaps: swaps.to_owned() })
}

fn device(name: &str) -> Device {
    let (_directory, host) = host();
    host.devices().unwrap().into_iter().find(|device| device.name == name).unwrap()
}

#[test]
fn only_disks_are_listed() {
    let (_directory, host) = host();
    let names: Vec<String> = host.devices().unwrap().into_iter().map(|device| device.name).collect();
    assert_eq!(names, ["sda", "sdb", "sdc"]);
}

#[test]
fn the_disk_under_an_encrypted_root_is_the_systems() {
    let sda = device("sda");
    let uses: Vec<String> = sda.uses.iter().map(ToString::to_string).collect();
    assert_eq!(uses, ["this system runs from it (/)", "swap space (sda2)", "part of dm-0"]);
    assert!(sda.impossible().unwrap().contains("this system"));
    assert_eq!(sda.doubts()[0], "it is not removable");
}

#[test]
fn a_mounted_stick_raises_a_doubt_and_an_idle_one_does_not() {
    let sdb = device("sdb");
    assert!(sdb.removable, "it is on USB");
    assert_eq!((sdb.impossible(), sdb.doubts()), (None, vec!["mounted at /media/my stick".to_owned()]));
    let sdc = device("sdc");
    assert_eq!((sdc.impossible(), sdc.doubts()), (None, Vec::new()));
    assert_eq!((sdc.model.as_str(), sdc.bytes), ("SanDisk Ultra Fit", 15_728_640 * 512));
}

#[test]
fn a_drive_without_a_medium_and_a_locked_card_cannot_be_written() {
    let empty = Device { bytes: 0, ..device("sdc") };
    assert_eq!(empty.impossible().unwrap(), "there is no medium in it");
    let locked = Device { read_only: true, ..device("sdc") };
    assert_eq!(locked.impossible().unwrap(), "it is read-only");
}

#[test]
fn a_path_that_is_not_there_is_named() {
    let (_directory, host) = host();
    let error = host.find(Path::new("/dev/there-is-no-such-disk")).unwrap_err().to_string();
    assert!(error.contains("no such device: /dev/there-is-no-such-disk"), "{error}");
    assert_eq!(host.find(Path::new("/dev/null")).unwrap(), None);
}

#[test]
fn this_host_can_be_looked_at() {
    Host::here().unwrap().devices().unwrap();
}
