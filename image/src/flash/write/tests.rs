use std::path::{Path, PathBuf};

use super::*;
use crate::stick::disk::record::{Recorder, after_power_cuts};
use crate::stick::image::tests::image;

/// An image, and a stick of 40 MiB full of what somebody else left there.
fn pair() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = image(directory.path(), "new.img");
    let stick = directory.path().join("stick");
    std::fs::write(&stick, vec![0xa5; 40 << 20]).unwrap();
    (directory, path, stick)
}

fn open(path: &Path) -> Disk {
    Disk::open(path, true).unwrap()
}

fn erase_quietly(path: &Path, stick: &Path) {
    erase(&mut open(path), &mut open(stick), |_, _, _| ()).unwrap();
}

#[test]
fn an_erased_stick_has_the_image_and_a_table_of_its_own_size() {
    let (_directory, path, stick) = pair();
    assert_eq!(plan(&mut open(&path), &mut open(&stick)).unwrap(), Plan::Erase);
    erase_quietly(&path, &stick);
    let (image, written) = (std::fs::read(&path).unwrap(), std::fs::read(&stick).unwrap());
    let table = open(&stick).table().unwrap();
    assert_eq!(table, open(&path).table().unwrap());
    let end = usize::try_from(body_end(&table).unwrap()).unwrap();
    assert!(written[HEAD as usize..end] == image[HEAD as usize..end]);
    assert!(written[..BOOT_CODE] == image[..BOOT_CODE], "the code that a BIOS starts");
    let backup = written.len() - SECTOR as usize;
    assert_eq!(&written[backup..backup + 8], b"EFI PART", "the second table is at the end of the stick");
}

#[test]
fn progress_is_told_to_the_end_of_both_phases() {
    let (_directory, path, stick) = pair();
    let mut told = Vec::new();
    erase(&mut open(&path), &mut open(&stick), |phase, done, all| told.push((phase, done, all))).unwrap();
    let ends: Vec<Phase> = told.iter().filter(|told| told.1 == told.2).map(|told| told.0).collect();
    assert_eq!(ends, [Phase::Write, Phase::Verify]);
    assert!(told.is_sorted_by_key(|told| (told.0 == Phase::Verify, told.1)));
}

#[test]
fn a_stick_of_ours_is_kept_and_another_shape_is_not() {
    let (directory, path, stick) = pair();
    erase_quietly(&path, &stick);
    assert_eq!(plan(&mut open(&path), &mut open(&stick)).unwrap(), Plan::Keep);
    assert!(same_loader(&mut open(&path), &mut open(&stick)).unwrap());
    // A loader of another version.
    open(&stick).write_at(HEAD + 5, b"other").unwrap();
    assert!(!same_loader(&mut open(&path), &mut open(&stick)).unwrap());
    let mut table = open(&stick).table().unwrap();
    table.partitions[2].name = "photos".to_owned();
    let mut disk = open(&stick);
    for (sector, bytes) in table.emit(disk.sectors()).unwrap() {
        disk.write_at(sector * SECTOR, &bytes).unwrap();
    }
    assert_eq!(plan(&mut open(&path), &mut open(&stick)).unwrap(), Plan::Erase);
    drop(directory);
}

/// Writes the image to a stick with `before` on it; every power cut leaves the old stick, none, or the new one.
/// How often each was the case.
fn cut_anywhere(image: &Path, before: &[u8]) -> [u32; 3] {
    let mut disk = Disk::new(Recorder::new(before.to_vec())).unwrap();
    erase(&mut open(image), &mut disk, |_, _, _| ()).unwrap();
    let new = disk.file().content().to_vec();
    let table = open(image).table().unwrap();
    let body = HEAD as usize..usize::try_from(body_end(&table).unwrap()).unwrap();
    let sectors = before.len() as u64 / SECTOR;
    let mut seen = [0; 3];
    after_power_cuts(before, disk.file(), |state, cut| {
        let read = |sector: u64, buffer: &mut [u8]| {
            let at = usize::try_from(sector * SECTOR).unwrap();
            buffer.copy_from_slice(&state[at..at + buffer.len()]);
            Ok(())
        };
        // A BIOS starts the first sector by its mark; UEFI needs a table, the first or the last.
        let starts = state[510..512] == [0x55, 0xaa] || Table::read(sectors, read).is_ok();
        let is = |other: &[u8]| state[body.clone()] == other[body.clone()];
        assert!(!starts || is(before) || is(&new), "{cut}: half an image would be started");
        seen[if !starts {
            1
        } else if is(&new) {
            2
        } else {
            0
        }] += 1;
    });
    seen
}

#[test]
fn a_power_cut_at_any_time_of_a_flash_leaves_no_half_image_that_boots() {
    let (_directory, path, stick) = pair();
    let mut foreign = std::fs::read(&stick).unwrap();
    foreign[510..512].copy_from_slice(&[0x55, 0xaa]);
    let seen = cut_anywhere(&path, &foreign);
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    // A stick of ours that is written anew: the old version starts until nothing does.
    erase_quietly(&path, &stick);
    open(&stick).write_at(2 * HEAD, b"another version").unwrap();
    let seen = cut_anywhere(&path, &std::fs::read(&stick).unwrap());
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

#[test]
fn what_an_interrupted_flash_left_is_flashed_again() {
    let (_directory, path, stick) = pair();
    for stop in [1, 9, 20] {
        let mut calls = 0;
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let stopping = |_, _, _| {
                calls += 1;
                if calls == stop {
                    std::panic::resume_unwind(Box::new("power"));
                }
            };
            erase(&mut open(&path), &mut open(&stick), stopping)
        }));
        assert!(ended.is_err());
        assert_eq!(plan(&mut open(&path), &mut open(&stick)).unwrap(), Plan::Erase, "stopped at {stop}");
    }
    erase_quietly(&path, &stick);
    assert!(open(&stick).table().is_ok());
}

#[test]
fn a_stick_that_is_too_small_is_left_as_it_is() {
    let (_directory, path, stick) = pair();
    std::fs::write(&stick, vec![0xa5; 1 << 20]).unwrap();
    let error = plan(&mut open(&path), &mut open(&stick)).unwrap_err().to_string();
    assert!(error.starts_with("no space: the image needs"), "{error}");
    assert!(std::fs::read(&stick).unwrap() == vec![0xa5; 1 << 20]);
}

#[test]
fn what_is_no_image_is_refused() {
    let (directory, _path, stick) = pair();
    let other = directory.path().join("notes.txt");
    std::fs::write(&other, vec![b'x'; 1 << 20]).unwrap();
    let error = plan(&mut open(&other), &mut open(&stick)).unwrap_err().to_string();
    assert!(error.contains("none of bootlace"), "{error}");
}
