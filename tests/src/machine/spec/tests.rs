use super::*;

fn disk(spec: &DiskSpec) -> (tempfile::TempDir, Disk) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::create(dir.path().join("disk"), spec, "serial-0").unwrap();
    (dir, disk)
}

#[test]
fn a_used_disk_holds_data_at_both_ends_and_a_blank_one_nothing() {
    let (_dir, used) = disk(&DiskSpec::used(4));
    let bytes = std::fs::read(used.path()).unwrap();
    assert_eq!(bytes.len(), 4 << 20);
    assert_eq!(&bytes[..DATA.len() + 4], b"somebody's data, not ours; some");
    assert_eq!(&bytes[(3 << 20)..(3 << 20) + DATA.len()], DATA);
    assert!(bytes[(1 << 20)..(3 << 20)].iter().all(|&byte| byte == 0));
    assert!(!used.is_blank().unwrap());
    assert!(disk(&DiskSpec::blank(4)).1.is_blank().unwrap());
}

#[test]
fn a_snapshot_finds_the_first_byte_that_changed() {
    let (_dir, disk) = disk(&DiskSpec::used(4));
    let snapshot = disk.snapshot().unwrap();
    assert_eq!(snapshot.first_change().unwrap(), None);
    let file = File::options().write(true).open(disk.path()).unwrap();
    file.write_all_at(b"x", (2 << 20) + 5).unwrap();
    assert_eq!(snapshot.first_change().unwrap(), Some((2 << 20) + 5));
    file.set_len(1 << 20).unwrap();
    assert_eq!(snapshot.first_change().unwrap(), Some(1 << 20));
}
