use cosi::{Phase, Version};

use super::*;

fn machine(id: &str) -> Resource {
    let mut resource = Resource::new("infra-provider", "InfraMachines.omni.sidero.dev", id, vec![1, 2, 3])
        .with_label("a", "b")
        .with_yaml("x: y");
    resource.metadata.version = Version::Number(7);
    resource.metadata.phase = Phase::TearingDown;
    resource.metadata.finalizers = vec!["one".into()];
    resource.metadata.created = Timestamp { seconds: 5, nanos: 6 };
    resource
}

#[test]
fn a_view_comes_back_whole_and_only_for_its_own_omni() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("view.redb");
    let disk = Disk::open(&path).unwrap();
    assert!(disk.load_view("https://one").unwrap().is_empty());
    let all = ["a", "b", "c"].map(|id| (Part::Infra, id.to_owned(), Some(machine(id))));
    disk.save_view(&all).unwrap();
    disk.save_view(&[(Part::Infra, "b".into(), None)]).unwrap();
    drop(disk);
    let disk = Disk::open(&path).unwrap();
    let expected = [(Part::Infra, machine("a")), (Part::Infra, machine("c"))];
    assert_eq!(disk.load_view("https://one").unwrap(), expected);
    assert!(disk.load_view("https://two").unwrap().is_empty());
    assert!(disk.load_view("https://one").unwrap().is_empty(), "the other one is forgotten");
}

#[test]
fn rows_that_cannot_be_read_are_passed_over() {
    let disk = Disk::in_memory().unwrap();
    assert!(disk.load_view("x").unwrap().is_empty());
    disk.save_view(&[(Part::Infra, "a".into(), Some(machine("a")))]).unwrap();
    let write = disk.database.begin_write().unwrap();
    {
        let mut view = write.open_table(VIEW).unwrap();
        view.insert(("infra", "b"), &[0xff_u8; 5][..]).unwrap();
        view.insert(("of-a-later-version", "a"), &[][..]).unwrap();
        let mut outbox = write.open_table(OUTBOX).unwrap();
        outbox.insert(("wipe", "b"), &[0xff_u8; 5][..]).unwrap();
    }
    write.commit().unwrap();
    assert_eq!(disk.load_view("x").unwrap().len(), 1);
    assert!(disk.load_outbox().unwrap().is_empty());
}

#[test]
fn what_is_no_view_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("view.redb");
    std::fs::write(&path, b"something else entirely, and long enough to look at").unwrap();
    assert!(matches!(Disk::open(&path), Err(OpenError::Corrupt { .. })));
    assert!(std::fs::read(&path).unwrap().starts_with(b"something"));
    let missing = dir.path().join("no/such/folder/view.redb");
    assert!(matches!(Disk::open(missing), Err(OpenError::Io { .. })));
}

#[test]
fn only_its_owner_may_read_it_and_only_one_may_open_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("view.redb");
    let _disk = Disk::open(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(Disk::open(&path), Err(OpenError::InUse { .. })));
}
