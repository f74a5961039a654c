use super::*;

fn disk(spec: &DiskSpec) -> (tempfile::TempDir, Disk) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::create(dir.path().join("disk"), spec, "serial-0").unwrap();
    (dir, disk)
}

#[test]
fn a_marked_disk_holds_the_marker_at_both_ends_and_a_blank_one_nothing() {
    let (_dir, marked) = disk(&DiskSpec::marked(4, *b"keep me"));
    let bytes = std::fs::read(marked.path()).unwrap();
    assert_eq!(bytes.len(), 4 << 20);
    assert_eq!(&bytes[..9], b"keep meke");
    assert_eq!(&bytes[(3 << 20)..(3 << 20) + 7], b"keep me");
    assert!(bytes[(1 << 20)..(3 << 20)].iter().all(|&byte| byte == 0));
    assert!(!marked.is_blank().unwrap());
    assert!(disk(&DiskSpec::blank(4)).1.is_blank().unwrap());
}

#[test]
fn a_snapshot_finds_the_first_byte_that_changed() {
    let (_dir, disk) = disk(&DiskSpec::marked(4, *b"keep me"));
    let snapshot = disk.snapshot().unwrap();
    assert_eq!(snapshot.first_change().unwrap(), None);
    let file = File::options().write(true).open(disk.path()).unwrap();
    file.write_all_at(b"x", (2 << 20) + 5).unwrap();
    assert_eq!(snapshot.first_change().unwrap(), Some((2 << 20) + 5));
    file.set_len(1 << 20).unwrap();
    assert_eq!(snapshot.first_change().unwrap(), Some(1 << 20));
}
