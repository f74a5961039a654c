use std::process::Stdio;

use super::*;
use crate::stick::disk::Disk;
use crate::stick::slot::Reader;
use crate::stick::slot::tests::sample;

/// An image with a little slot, and where it is.
pub(crate) fn image(directory: &Path, name: &str) -> std::path::PathBuf {
    let path = directory.join(name);
    let grub = Grub { boot_code: [0xeb; BOOT_CODE], core: vec![1; 1024], efi: b"MZ grub".to_vec() };
    let slot = sample("one");
    let contents = Contents { grub: &grub, slot: &slot, slot_size: 2 * MIB, config: b"id = \"x\"\n" };
    write(&contents, &path).unwrap();
    path
}

#[test]
fn everything_is_where_the_table_says() {
    let directory = tempfile::tempdir().unwrap();
    let mut disk = Disk::open(&image(directory.path(), "stick.img"), false).unwrap();
    let table = disk.table().unwrap();
    let names: Vec<&str> = table.partitions.iter().map(|partition| partition.name.as_str()).collect();
    assert_eq!(names[3..], [ENV, SLOT_A, SLOT_B, DATA_NAME]);
    assert_eq!(table.partitions[0].start, BIOS_START);
    assert_eq!(Choice::read(disk.file(), table.find(ENV).unwrap().offset()).unwrap(), Choice::NEW);
    let a = table.find(SLOT_A).unwrap();
    assert_eq!(Reader::open(disk.file(), a.offset(), a.length()).unwrap().check().unwrap(), "one");
    let b = table.find(SLOT_B).unwrap();
    assert!(Reader::open(disk.file(), b.offset(), b.length()).is_err(), "the other slot is empty");
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let read = |name: &str| std::fs::read(image(directory.path(), name)).unwrap();
    assert!(read("one.img") == read("other.img"));
}

#[test]
fn fsck_likes_the_data_partition() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("data");
    std::fs::write(&file, ext4(DATA_IN_IMAGE, &[9; 16]).unwrap()).unwrap();
    let checked = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&file).stdout(Stdio::null()).status();
    assert!(checked.unwrap().success());
}

#[test]
fn a_slot_that_does_not_fit_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let grub = Grub { boot_code: [0; BOOT_CODE], core: vec![1; 1024], efi: Vec::new() };
    let contents = Contents { grub: &grub, slot: &vec![1; 3 << 20], slot_size: 2 * MIB, config: b"" };
    let error = write(&contents, &directory.path().join("x.img")).unwrap_err().to_string();
    assert!(error.contains("--slot-size"), "{error}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_stick_s_image_is_smaller_than_any_stick() {
    let table = table(ESP, SLOT, DATA_IN_IMAGE, b"");
    let sectors = table.partitions.last().unwrap().end() + crate::stick::gpt::TAIL;
    assert!(sectors * SECTOR <= 128_000_000, "{} bytes", sectors * SECTOR);
}
