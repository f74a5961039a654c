//! Partition tables and signatures of crafted bytes.

use super::*;
use crate::wipe::partitions::{Region, Table, read};
use crate::wipe::signatures::find;

pub(super) const DISK_GUID: &str = "04030201-0605-0807-090a-0b0c0d0e0f10";
pub(super) const PARTITION_GUID: &str = "14131211-1615-1817-191a-1b1c1d1e1f00";

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A disk with a GPT and its backup; partitions as (first sector, sectors).
pub(super) fn gpt(size: usize, partitions: &[(u64, u64)]) -> Vec<u8> {
    let mut image = vec![0; size];
    let last = size / 512 - 1;
    put(&mut image, 510, &[0x55, 0xaa]);
    put(&mut image, 446 + 4, &[0xee]);
    for (header, entries) in [(1, 2), (last, last - 32)] {
        let at = header * 512;
        put(&mut image, at, b"EFI PART");
        put(&mut image, at + 56, &(1..=16).collect::<Vec<u8>>());
        put(&mut image, at + 72, &(entries as u64).to_le_bytes());
        put(&mut image, at + 80, &128u32.to_le_bytes());
        put(&mut image, at + 84, &128u32.to_le_bytes());
        for (index, (first, count)) in partitions.iter().enumerate() {
            let at = entries * 512 + index * 128;
            put(&mut image, at, &[7; 16]);
            let mut guid: Vec<u8> = (0x11..=0x1f).collect();
            guid.push(u8::try_from(index).unwrap());
            put(&mut image, at + 16, &guid);
            put(&mut image, at + 32, &first.to_le_bytes());
            put(&mut image, at + 40, &(first + count - 1).to_le_bytes());
        }
    }
    image
}

fn mbr_entry(image: &mut [u8], record: usize, slot: usize, kind: u8, first: u32, count: u32) {
    let at = record * 512 + 446 + slot * 16;
    put(image, at + 4, &[kind]);
    put(image, at + 8, &first.to_le_bytes());
    put(image, at + 12, &count.to_le_bytes());
    put(image, record * 512 + 510, &[0x55, 0xaa]);
}

fn region(first: u64, count: u64) -> Region {
    Region { start: first * 512, length: count * 512 }
}

fn table(image: &[u8]) -> Table {
    read(image, image.len() as u64, 512)
}

#[test]
fn a_gpt_is_read_and_its_backup_when_it_is_gone() {
    let mut image = gpt(4 << 20, &[(2048, 1000), (4096, 1 << 40)]);
    let partitions = [region(2048, 1000), region(4096, 4096)];
    let whole = table(&image);
    assert_eq!(whole.kinds, ["gpt", "gpt backup", "mbr"]);
    assert_eq!(whole.partitions, partitions);
    assert!(whole.ids.contains(&DISK_GUID.to_owned()) && whole.ids.contains(&PARTITION_GUID.to_owned()));
    image[..34 * 512].fill(0);
    let backup = table(&image);
    assert_eq!((backup.kinds, backup.partitions.as_slice()), (vec!["gpt backup"], partitions.as_slice()));
}

#[test]
fn logical_partitions_are_followed_and_a_circle_ends() {
    let mut image = vec![0; 4 << 20];
    put(&mut image, 440, &0x1234_abcdu32.to_le_bytes());
    mbr_entry(&mut image, 0, 0, 0x83, 64, 100);
    mbr_entry(&mut image, 0, 1, 0x0f, 1000, 4000);
    mbr_entry(&mut image, 1000, 0, 0x83, 8, 100);
    mbr_entry(&mut image, 1000, 1, 0x05, 500, 500);
    mbr_entry(&mut image, 1500, 0, 0x82, 8, 200);
    let found = table(&image);
    assert_eq!(found.kinds, ["mbr"]);
    assert_eq!(found.ids, ["1234abcd"]);
    let logical = [region(64, 100), region(1000, 4000), region(1008, 100), region(1508, 200)];
    for part in logical {
        assert!(found.partitions.contains(&part), "{part:?}");
    }
    mbr_entry(&mut image, 1500, 1, 0x05, 500, 500);
    assert!(logical.iter().all(|part| table(&image).partitions.contains(part)));
}

#[test]
fn a_boot_sector_of_a_file_system_is_no_table() {
    let mut image = vec![0; 1 << 20];
    put(&mut image, 510, &[0x55, 0xaa]);
    assert_eq!(table(&image), Table::default());
    image[446..510].fill(b'x');
    assert_eq!(table(&image), Table::default());
}

proptest::proptest! {
    #[test]
    fn broken_tables_only_mean_less(
        changes in proptest::collection::vec((0usize..(34 * 512), proptest::prelude::any::<u8>()), 0..64),
        cut in 0usize..(1 << 20),
    ) {
        let mut image = gpt(1 << 20, &[(40, 100), (1000, 100)]);
        for (at, byte) in changes {
            image[at] = byte;
        }
        for image in [&image[..], &image[..cut]] {
            let found = table(image);
            for part in &found.partitions {
                assert!(part.length > 0 && part.start + part.length <= image.len() as u64);
            }
            find(image, Region { start: 0, length: image.len() as u64 });
        }
    }
}

/// One mark, where its maker puts it in 8 MiB (rounded as said), and the name that it goes by.
const MARKS: &[(&str, usize, &[u8])] = &[
    ("gpt", 4096, b"EFI PART"),
    ("ext", 1080, &[0x53, 0xef]),
    ("xfs", 0, b"XFSB"),
    ("btrfs", 65_600, b"_BHRfS_M"),
    ("f2fs", 1024, &[0x10, 0x20, 0xf5, 0xf2]),
    ("jfs", 32_768, b"JFS1"),
    ("reiserfs", 65_588, b"ReIsEr2Fs"),
    ("ntfs", 3, b"NTFS    "),
    ("exfat", 3, b"EXFAT   "),
    ("iso9660", 32_769, b"CD001"),
    ("swap", 4086, b"SWAPSPACE2"),
    ("luks", 0, b"LUKS\xba\xbe\x00\x02"),
    // The second LUKS 2 header may lie outside of the ends.
    ("luks", 4 << 20, b"SKUL\xba\xbe\x00\x02"),
    ("lvm", 512, b"LABELONE"),
    ("md raid", 0, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("md raid", 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("md raid", (8 << 20) - 8192, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("md raid", (8 << 20) - 65_536, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("intel raid", (8 << 20) - 1024, b"Intel Raid ISM Cfg Sig. 1.3.00"),
    ("ddf raid", (8 << 20) - 512, &[0xde, 0x11, 0xde, 0x11]),
    ("zfs", (128 << 10) + 5 * 1024, &[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0]),
    ("zfs", (384 << 10), &[0, 0, 0, 0, 0, 0xba, 0xb1, 0x0c]),
    ("zfs", (8 << 20) - (128 << 10), &[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0]),
    ("ceph bluestore", 0, b"bluestore block device\n"),
    ("bcache", 4096 + 24, &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a]),
    ("drbd", (8 << 20) - 4096 + 60, &[0x83, 0x74, 0x02, 0x6b]),
    ("stratis", 516, b"!Stra0tis"),
    ("vmfs", 1 << 20, &[0x0d, 0xd0, 0x01, 0xc0]),
    ("vmfs", 2 << 20, &[0x5e, 0xf1, 0xab, 0x2f]),
];

#[test]
fn every_mark_is_found_named_and_gone_on_a_disk_and_in_a_partition() {
    let directory = tempfile::tempdir().unwrap();
    let partition = 2 << 20;
    for (name, at, magic) in MARKS {
        let mut whole = vec![0; 8 << 20];
        put(&mut whole, *at, magic);
        let mut parted = gpt(16 << 20, &[(partition as u64 / 512, (8 << 20) / 512)]);
        put(&mut parted, partition + at, magic);
        for image in [whole, parted] {
            let disk = file_disk(directory.path(), "sda", &image);
            let done = fast(&disk).unwrap();
            assert!(done.found.contains_key(name), "{name} at {at} in {:?}", done.found);
            assert!(fs::read(&disk.path).unwrap() == vec![0; image.len()], "{name} at {at}");
        }
    }
}

#[test]
fn marks_far_inside_are_found_without_reading_what_lies_between() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk { size: 300 << 30, ..file_disk(directory.path(), "sda", &[]) };
    let file = fs::OpenOptions::new().write(true).open(&disk.path).unwrap();
    file.set_len(disk.size).unwrap();
    use std::os::unix::fs::FileExt as _;
    for (at, magic) in
        [((256 << 30) + 64, b"_BHRfS_M".as_slice()), (100 << 30, b"bluestore block device".as_slice())]
    {
        file.write_all_at(magic, at).unwrap();
    }
    let done = fast(&disk).unwrap();
    assert_eq!(done.found.keys().copied().collect::<Vec<_>>(), ["btrfs", "ceph bluestore"]);
    assert!(fast(&disk).unwrap().found.is_empty());
}
