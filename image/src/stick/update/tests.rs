use std::path::PathBuf;

use super::*;
use crate::stick::image::tests::image;
use crate::stick::slot::tests::sample;

fn stick() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = image(directory.path(), "stick.img");
    (directory, path)
}

fn choice(path: &Path) -> Choice {
    let mut disk = Disk::open(path, false).unwrap();
    let env = disk.table().unwrap().find(ENV).unwrap().offset();
    Choice::read(disk.file(), env).unwrap()
}

fn version_in(path: &Path, slot: Slot) -> Result<String> {
    let mut disk = Disk::open(path, false).unwrap();
    let partition = slot_partition(&disk.table().unwrap(), slot).unwrap().clone();
    Reader::open(disk.file(), partition.offset(), partition.length())?.check()
}

#[test]
fn the_idle_slot_is_written_and_tried() {
    let (_directory, path) = stick();
    let mut disk = Disk::open(&path, true).unwrap();
    let updated = install(&mut disk, &sample("two"), |_| ()).unwrap();
    assert_eq!(updated, Updated { slot: Slot::B, version: "two".into() });
    assert_eq!(choice(&path), Choice { good: Slot::A, next: Some((Slot::B, 3)) });
    assert_eq!(version_in(&path, Slot::A).unwrap(), "one");
    assert_eq!(version_in(&path, Slot::B).unwrap(), "two");
    // Before it has come up, another update goes to the same slot.
    assert_eq!(install(&mut disk, &sample("three"), |_| ()).unwrap().slot, Slot::B);
}

#[test]
fn an_update_that_ends_anywhere_leaves_what_boots() {
    let (_directory, path) = stick();
    install(&mut Disk::open(&path, true).unwrap(), &sample("two"), |_| ()).unwrap();
    // The power goes while a third version is written: the second is half gone, and is not tried any more.
    let ended = std::panic::catch_unwind(|| {
        let mut disk = Disk::open(&path, true).unwrap();
        install(&mut disk, &sample("three"), |_| std::panic::resume_unwind(Box::new("power"))).unwrap();
    });
    assert!(ended.is_err());
    assert_eq!(choice(&path), Choice::NEW);
    assert_eq!(version_in(&path, Slot::A).unwrap(), "one");
}

#[test]
fn what_is_no_slot_or_too_large_changes_nothing() {
    let (_directory, path) = stick();
    let before = std::fs::read(&path).unwrap();
    let mut disk = Disk::open(&path, true).unwrap();
    assert!(install(&mut disk, b"#!/bin/sh", |_| ()).is_err());
    let mut large = sample("two");
    large.resize(3 << 20, 0);
    assert!(install(&mut disk, &large, |_| ()).unwrap_err().to_string().contains("no space"));
    assert!(std::fs::read(&path).unwrap() == before);
    let other = path.with_extension("other");
    std::fs::write(&other, vec![0; 1 << 20]).unwrap();
    assert!(install(&mut Disk::open(&other, true).unwrap(), &sample("two"), |_| ()).is_err());
    assert!(read_slot(&other).unwrap_err().to_string().contains("neither a stick nor a slot"));
}

#[test]
fn a_version_comes_out_of_a_file_or_of_another_stick() {
    let (directory, path) = stick();
    assert!(read_slot(&path).unwrap() == sample("one"));
    let file = directory.path().join("two.slot");
    std::fs::write(&file, sample("two")).unwrap();
    assert!(read_slot(&file).unwrap() == sample("two"));
}

#[test]
fn a_stick_for_secure_boot_is_not_updated() {
    let (_directory, path) = stick();
    let mut disk = Disk::open(&path, true).unwrap();
    let mut table = disk.table().unwrap();
    table.partitions[1].name = SIGNED_ESP.into();
    for (sector, bytes) in table.emit(disk.sectors()).unwrap() {
        disk.write_at(sector * 512, &bytes).unwrap();
    }
    assert!(install(&mut disk, &sample("two"), |_| ()).unwrap_err().to_string().contains("flashed anew"));
}
