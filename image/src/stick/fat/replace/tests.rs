use std::io::Cursor;

use super::super::{build, read as read_file};
use super::*;
use crate::stick::disk::record::{Recorder, after_power_cuts};

const SIZE: u64 = 4 << 20;
const NAME: &str = "appliance.toml";
/// Where the volume is on the medium.
const START: u64 = 1024;

fn medium(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0xee; START as usize];
    bytes.extend_from_slice(&build(SIZE, "BOOTLACE", 7, files).unwrap());
    bytes.extend_from_slice(&[0xee; 1024]);
    bytes
}

fn content(medium: &[u8]) -> Option<Vec<u8>> {
    let mut disk = Cursor::new(medium.to_vec());
    read_file(Window::new(&mut disk, START, SIZE), NAME).unwrap()
}

fn text(byte: u8, length: usize) -> Vec<u8> {
    vec![byte; length]
}

/// Replaces the file and returns the medium before it and what was written.
fn replaced(before: &[u8], data: &[u8]) -> Recorder {
    let mut disk = Recorder::new(before.to_vec());
    replace(&mut disk, START, SIZE, NAME, data).unwrap();
    assert_eq!(content(disk.content()).unwrap(), data);
    disk
}

fn fsck(medium: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &medium[START as usize..][..SIZE as usize]).unwrap();
    let output = std::process::Command::new("fsck.vfat")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .arg("-n")
        .arg(file.path())
        .output();
    match output {
        Ok(output) if output.status.success() => String::new(),
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(_) => String::new(),
    }
}

#[test]
fn a_power_cut_at_any_time_leaves_the_old_file_or_the_new_one() {
    let (old, new) = (text(b'o', 5000), text(b'n', 7000));
    let before = medium(&[(NAME, &old), ("notes.txt", b"mine")]);
    let recorder = replaced(&before, &new);
    let mut seen = [0, 0];
    after_power_cuts(&before, &recorder, |state, cut| {
        let found = content(state).unwrap();
        assert!(found == old || found == new, "{cut}: {} bytes", found.len());
        seen[usize::from(found == new)] += 1;
    });
    assert!(seen[0] > 10 && seen[1] > 1, "{seen:?}");
    assert_eq!(fsck(recorder.content()), "");
}

#[test]
fn an_interrupted_one_does_not_harm_the_next() {
    let (old, new, newest) = (text(b'o', 5000), text(b'n', 3000), text(b'x', 9000));
    // The first 15 entries fill a sector with this: both entries are then in different ones.
    let many: Vec<String> = (0..6).map(|index| format!("F{index}.TXT")).collect();
    for count in [0, many.len()] {
        let mut files: Vec<(&str, &[u8])> = vec![(NAME, &old)];
        files.extend(many[..count].iter().map(|name| (name.as_str(), &b"filling"[..])));
        let before = medium(&files);
        let mut states = Vec::new();
        after_power_cuts(&before, &replaced(&before, &new), |state, cut| {
            states.push((state.to_vec(), cut.to_owned()));
        });
        for (state, cut) in states.into_iter().step_by(7) {
            let recorder = replaced(&state, &newest);
            let other =
                read_file(Window::new(&mut Cursor::new(recorder.content().to_vec()), START, SIZE), "F0.TXT");
            assert_eq!(other.unwrap().is_some(), count > 0, "{cut}");
            after_power_cuts(&state, &recorder, |state, again| {
                let found = content(state).unwrap();
                assert!([&old, &new, &newest].contains(&&found), "{cut}, then {again}");
            });
        }
    }
}

#[test]
fn a_file_that_is_not_there_is_made() {
    let before = medium(&[]);
    let recorder = replaced(&before, b"id = \"a\"\n");
    after_power_cuts(&before, &recorder, |state, cut| {
        // An empty one says as much as none.
        let found = content(state).unwrap_or_default();
        assert!(found.is_empty() || found == b"id = \"a\"\n", "{cut}");
    });
    assert_eq!(fsck(recorder.content()), "");
}

#[test]
fn what_is_no_fat16_is_refused() {
    for disk in [vec![0; 1 << 20], vec![0xff; 1 << 20], Vec::new()] {
        let mut disk = Recorder::new(disk);
        assert!(replace(&mut disk, 0, 1 << 20, NAME, b"x").is_err());
    }
}
