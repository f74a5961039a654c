use std::fs;
use std::path::Path;

use super::*;
use crate::medium::Medium;

mod tables;
mod tools;

fn file_disk(directory: &Path, name: &str, content: &[u8]) -> Disk {
    let path = directory.join(name);
    fs::write(&path, content).unwrap();
    Disk { name: name.into(), path, size: content.len() as u64, sector: 512, ..Disk::default() }
}

fn used_disk(directory: &Path, name: &str, size: usize) -> Disk {
    file_disk(directory, name, &vec![0xa5; size])
}

/// Zero bytes at the beginning, and bytes that are not zero.
fn used_bytes(disk: &Disk) -> (usize, usize) {
    let content = fs::read(&disk.path).unwrap();
    assert_eq!(content.len() as u64, disk.size);
    let zeroes = content.iter().take_while(|byte| **byte == 0).count();
    (zeroes, content.iter().filter(|byte| **byte != 0).count())
}

fn fast(disk: &Disk) -> Result<disk::Done, WipeError> {
    wipe(disk, How::default(), &|_| {})
}

fn zeroes(disk: &Disk) -> Result<disk::Done, WipeError> {
    wipe(disk, How { zeroes: true, secure: false }, &|_| {})
}

#[test]
fn a_fast_wipe_blanks_both_ends() {
    let directory = tempfile::tempdir().unwrap();
    let disk = used_disk(directory.path(), "sda", 5 << 20);
    let done = fast(&disk).unwrap();
    assert_eq!(used_bytes(&disk), (1 << 20, 3 << 20));
    assert!(fs::read(&disk.path).unwrap()[4 << 20..].iter().all(|byte| *byte == 0));
    assert_eq!(done.to_string(), "nothing found; 2048 KiB zeroed");
}

#[test]
fn a_wipe_with_zeroes_blanks_everything_and_reads_it_back() {
    let directory = tempfile::tempdir().unwrap();
    let disk = used_disk(directory.path(), "sda", (9 << 20) + 512);
    assert_eq!(zeroes(&disk).unwrap().samples, 256);
    assert_eq!(used_bytes(&disk).1, 0);
}

#[test]
fn disks_smaller_than_the_ends_are_blanked_whole() {
    let directory = tempfile::tempdir().unwrap();
    for size in [0, 512, 1 << 20, (1 << 20) + 512, 2 << 20] {
        let disk = used_disk(directory.path(), "sda", size);
        fast(&disk).unwrap();
        assert_eq!(used_bytes(&disk).1, 0);
    }
}

#[test]
fn a_disk_that_fails_does_not_keep_the_others_from_being_wiped() {
    let directory = tempfile::tempdir().unwrap();
    let missing = Disk { path: directory.path().join("none"), ..used_disk(directory.path(), "sdx", 512) };
    let disk = used_disk(directory.path(), "sda", 4096);
    let how = How { zeroes: true, secure: false };
    let error = wipe_disks(vec![missing, disk.clone()], &Keep::default(), how).unwrap_err();
    assert!(error.starts_with("sdx (0 MiB) failed after 0.0 s: open failed: "), "{error}");
    assert_eq!(used_bytes(&disk).1, 0);
}

#[test]
fn kept_disks_are_reported_and_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let kept = Disk { serial: "DATA".into(), ..used_disk(directory.path(), "sda", 4096) };
    let other = used_disk(directory.path(), "sdb", 4096);
    let memory = Disk { kind: Kind::NoDisk, ..used_disk(directory.path(), "ram0", 4096) };
    let keep = Keep::parse("serial:data").unwrap();
    let disks = vec![kept.clone(), other.clone(), memory.clone()];
    let reports = wipe_disks(disks, &keep, How::default()).unwrap();
    let ends: Vec<_> = reports.iter().map(|report| (report.name.as_str(), report.end)).collect();
    assert_eq!(ends, [("sda", End::Left), ("sdb", End::Blank)]);
    assert_eq!(reports[0].to_string(), "sda (DATA, 0 MiB) left alone: on the keep list: serial:data");
    assert_eq!((used_bytes(&kept).1, used_bytes(&other).1, used_bytes(&memory).1), (4096, 0, 4096));
}

#[test]
fn a_keep_list_that_cannot_be_understood_refuses_the_wipe() {
    let mut orders = Orders::default();
    orders.add_keep(Keep::parse("serial"));
    let error = wipe_machine(&orders, false).unwrap_err();
    assert!(error.starts_with("nothing is wiped: keep list entry \"serial\""), "{error}");
}

#[test]
fn the_boot_medium_is_known_by_its_partition_table() {
    let directory = tempfile::tempdir().unwrap();
    let (dev, sys) = (directory.path().join("dev"), directory.path().join("sys"));
    fs::create_dir_all(sys.join("sda")).unwrap();
    fs::create_dir(&dev).unwrap();
    let image = tables::gpt(4 << 20, &[(2048, 2048)]);
    fs::write(dev.join("sda"), &image).unwrap();
    fs::write(sys.join("sda/size"), (image.len() / 512).to_string()).unwrap();
    let places = Places { sys_block: &sys, dev: &dev, ..Places::default() };
    for (medium, is_it) in [(tables::DISK_GUID, true), (tables::PARTITION_GUID, true), ("other", false)] {
        let medium = Medium { ids: vec![medium.to_owned()], usb: false };
        let disks = disks::inspect(places, &medium);
        assert_eq!(disks[0].boot_medium, is_it, "{medium:?}");
    }
}
