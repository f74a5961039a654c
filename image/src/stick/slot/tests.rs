use std::io::Cursor;

use super::*;

/// The smallest slot: a stub of one section, and one served file.
pub(crate) fn sample(version: &str) -> Vec<u8> {
    let stub = crate::uki::tests::stub();
    let mut served = Rootfs::new();
    served.file("/assets/kernel-amd64", 0o644, *b"the kernel").unwrap();
    served.file("/usr/lib/ipxe/ipxe.efi", 0o644, *b"ipxe").unwrap();
    let contents =
        Contents { stub: &stub, kernel: b"the kernel", cmdline: CMDLINE, served: &served, version };
    build(&contents, |manifest| Ok(manifest.data), |image| Ok(image.into())).unwrap()
}

/// The manifest, which the sample has for an initramfs.
fn manifest(slot: &[u8]) -> Vec<Entry> {
    let mut cursor = Cursor::new(slot);
    let image = Reader::open(&mut cursor, 0, slot.len() as u64).unwrap().read(UKI, 0, None).unwrap();
    let section = find(&image, ".initrd").unwrap();
    let text = std::str::from_utf8(&image[section.offset..][..section.length]).unwrap();
    parse_manifest(text).unwrap()
}

#[test]
fn what_is_served_is_read_back_and_the_kernel_is_there_once() {
    let slot = sample("v1");
    let entries = manifest(&slot);
    assert_eq!(entries[0].path, "/assets/kernel-amd64");
    assert_eq!(entries[0].file, UKI, "it is in the kernel image already");
    let mut cursor = Cursor::new(&slot);
    let mut reader = Reader::open(&mut cursor, 0, slot.len() as u64).unwrap();
    assert_eq!(reader.length(), slot.len() as u64);
    assert_eq!(reader.check().unwrap(), "v1");
    assert_eq!(reader.read_entry(&entries[0]).unwrap(), b"the kernel");
    assert_eq!(reader.read_entry(&entries[1]).unwrap(), b"ipxe");
    let config = String::from_utf8(reader.read(BIOS_CONFIG, 0, None).unwrap()).unwrap();
    assert!(config.contains("console=ttyS0"), "{config}");
    let place = config.strip_prefix("set linux=").and_then(|rest| rest.split_once('+')).unwrap().0;
    let at = place.parse::<usize>().unwrap() * 512;
    assert_eq!(&slot[at..][..10], b"the kernel", "GRUB finds it at a sector of the slot");
}

#[test]
fn another_version_s_files_are_not_served() {
    let slot = sample("v1");
    let mut entries = manifest(&slot);
    entries[1].hash = "0".repeat(64);
    let mut cursor = Cursor::new(&slot);
    let mut reader = Reader::open(&mut cursor, 0, slot.len() as u64).unwrap();
    assert!(reader.read_entry(&entries[1]).unwrap_err().to_string().contains("another version"));
    entries[1].length = 1 << 40;
    assert!(reader.read_entry(&entries[1]).is_err());
}

#[test]
fn a_broken_archive_is_an_error_wherever_it_is_broken() {
    let slot = sample("v1");
    for length in [0, 5, 109, 200, slot.len() / 2] {
        let cut = &slot[..length];
        assert!(Reader::open(&mut Cursor::new(cut), 0, length as u64).is_err(), "{length}");
    }
    for at in 0..300 {
        let mut damaged = slot.clone();
        damaged[at] ^= 0x55;
        let _ = Reader::open(&mut Cursor::new(&damaged), 0, damaged.len() as u64).map(|mut r| r.check());
    }
    assert!(Reader::open(&mut Cursor::new(vec![0; 4096]), 0, 4096).is_err());
}

#[test]
fn a_manifest_is_read_strictly() {
    let hash = "a".repeat(64);
    assert_eq!(parse_manifest(&format!("{hash} /a b 0 1\n")).unwrap().len(), 1);
    for line in
        ["x /a b 0 1", &format!("{hash} /../a b 0 1"), &format!("{hash} /a b 0"), &format!("{hash} a b 0 1")]
    {
        assert!(parse_manifest(line).is_err(), "{line}");
    }
}
