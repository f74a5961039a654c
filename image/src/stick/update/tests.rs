use std::path::PathBuf;

use super::*;
use crate::stick::disk::record::{Recorder, after_power_cuts};
use crate::stick::env::COPIES;
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

/// What GRUB starts: `next` counts in the first copy only.
fn started(state: &[u8], env: u64) -> (Slot, Option<Slot>) {
    let copy = |index: usize| {
        let at = usize::try_from(env + COPIES[index] * crate::stick::SECTOR).unwrap();
        Choice::parse(&state[at..])
    };
    match copy(0) {
        Ok(choice) => (choice.good, choice.next.filter(|(_, left)| *left > 0).map(|(slot, _)| slot)),
        Err(_) => (copy(1).unwrap().good, None),
    }
}

#[test]
fn a_power_cut_at_any_time_of_an_update_leaves_what_boots_and_tries_nothing_half() {
    let (_directory, path) = stick();
    install(&mut Disk::open(&path, true).unwrap(), &sample("two"), |_| ()).unwrap();
    let before = std::fs::read(&path).unwrap();
    let mut disk = Disk::new(Recorder::new(before.clone())).unwrap();
    let table = disk.table().unwrap();
    install(&mut disk, &sample("three"), |_| ()).unwrap();
    let env = table.find(ENV).unwrap().offset();
    let b = table.find(SLOT_B).unwrap();
    let b = usize::try_from(b.offset()).unwrap()..usize::try_from(b.offset() + b.length()).unwrap();
    let changing = usize::try_from(env).unwrap()..b.end;
    let whole = [sample("two"), sample("three")];
    let mut tried = [0, 0, 0];
    after_power_cuts(&before, disk.file(), |state, cut| {
        let (good, next) = started(state, env);
        assert_eq!(good, Slot::A, "{cut}");
        let a = table.find(SLOT_A).unwrap();
        let a = usize::try_from(a.offset()).unwrap()..usize::try_from(a.offset() + a.length()).unwrap();
        assert!(state[a.clone()] == before[a], "{cut}: the slot that boots is not written");
        assert!(
            state[..changing.start] == before[..changing.start]
                && state[changing.end..] == before[changing.end..],
            "{cut}: nothing else is"
        );
        let index = match next {
            None => 2,
            Some(Slot::A) => panic!("{cut}: the good slot is tried"),
            Some(Slot::B) => whole
                .iter()
                .position(|slot| state[b.start..].starts_with(slot))
                .unwrap_or_else(|| panic!("{cut}: what is half there is tried")),
        };
        tried[index] += 1;
    });
    assert!(tried.iter().all(|count| *count > 0), "{tried:?}");
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
