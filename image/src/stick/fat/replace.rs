//! A file of the root directory in place of another, so that a power cut leaves the one or the other.
//!
//! ```text
//! 1. the new bytes are written beside it, as NEW.TMP; the medium has them
//! 2. both entries' first cluster and length change places: in one sector, or the file's sector first
//! 3. NEW.TMP, which has the old bytes now, is removed
//! ```
//!
//! What an interrupted one left behind is removed by the next, without the clusters that it names: they may be the
//! file's by now. At most they are lost until the volume is checked.

use std::io::{Read, Seek, SeekFrom, Write};

use anyhow::{Context as _, Result, ensure};
use fatfs::{FileSystem, FsOptions};

use super::{Window, write};
use crate::stick::SECTOR;
use crate::stick::disk::Medium;

/// The name of what is being written, in 8.3 form.
const TEMPORARY: &str = "NEW.TMP";
/// Bytes of a directory's entry.
const ENTRY: u64 = 32;
/// In an entry: attributes, and the bits that say that it is no file: a volume label, or a part of a long name.
const ATTRIBUTES: usize = 11;
const NO_FILE: u8 = 0x08;
/// In an entry: first cluster, time of change, length.
const PLACE: std::ops::Range<usize> = 20..32;
/// More than any volume of ours has.
const MAX_ENTRIES: u64 = 4096;

/// Replaces a file of the root directory of a FAT16 volume, or makes it.
///
/// # Errors
/// The medium does not take it, or the volume is another than [`super::build`] makes.
pub fn replace<M: Medium>(disk: &mut M, start: u64, length: u64, name: &str, data: &[u8]) -> Result<()> {
    let root = root_directory(disk, start).context("the FAT partition is not as it was made")?;
    if let Some(left) = find(disk, start, length, root, TEMPORARY)? {
        forget_clusters(disk, left)?;
        remove(disk, start, length)?;
    }
    if find(disk, start, length, root, name)?.is_none() {
        write(Window::new(disk, start, length), name, b"")?;
    }
    write(Window::new(disk, start, length), TEMPORARY, data)?;
    disk.sync()?;
    let missing = "what was written to the FAT partition is not there";
    let new = find(disk, start, length, root, TEMPORARY)?.context(missing)?;
    let old = find(disk, start, length, root, name)?.context(missing)?;
    swap(disk, old, new)?;
    remove(disk, start, length)
}

/// The root directory: its first byte on the medium, and its entries.
fn root_directory(disk: &mut (impl Read + Seek), start: u64) -> Result<(u64, u64)> {
    let mut boot = [0; SECTOR as usize];
    disk.seek(SeekFrom::Start(start))?;
    disk.read_exact(&mut boot)?;
    let number = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
    let (sector, reserved, tables) = (number(11), number(14), u64::from(boot[16]));
    let (entries, table) = (number(17), number(22));
    ensure!(sector == SECTOR && (1..=MAX_ENTRIES).contains(&entries) && table > 0, "it is no FAT16");
    Ok((start + (reserved + tables * table) * SECTOR, entries))
}

/// Where the entry of a file is.
fn find<M: Medium>(
    disk: &mut M,
    start: u64,
    length: u64,
    (root, entries): (u64, u64),
    name: &str,
) -> Result<Option<u64>> {
    let Some(short) = short_name(Window::new(disk, start, length), name)? else { return Ok(None) };
    for at in (0..entries).map(|index| root + index * ENTRY) {
        let entry = read(disk, at)?;
        if entry[..ATTRIBUTES] == short && entry[ATTRIBUTES] & NO_FILE == 0 {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// A file's name as it is in its entry: eight characters and three, filled up with spaces.
fn short_name(disk: impl Read + Write + Seek, name: &str) -> Result<Option<[u8; ATTRIBUTES]>> {
    let volume = FileSystem::new(disk, FsOptions::new().update_accessed_date(false))?;
    let root = volume.root_dir();
    let found = root.iter().flatten().find(|entry| entry.file_name().eq_ignore_ascii_case(name));
    let Some(found) = found else { return Ok(None) };
    ensure!(found.is_file(), "{name} is a directory");
    let mut short = [b' '; ATTRIBUTES];
    let mut parts = found.short_file_name_as_bytes().splitn(2, |byte| *byte == b'.');
    for (part, place) in parts.by_ref().zip([0..8, 8..11]) {
        let room = &mut short[place];
        let count = part.len().min(room.len());
        room[..count].copy_from_slice(&part[..count]);
    }
    Ok(Some(short))
}

fn read(disk: &mut (impl Read + Seek), at: u64) -> Result<[u8; ENTRY as usize]> {
    let mut entry = [0; ENTRY as usize];
    disk.seek(SeekFrom::Start(at))?;
    disk.read_exact(&mut entry)?;
    Ok(entry)
}

/// Changes the sector of an entry.
fn change<M: Medium>(
    disk: &mut M,
    at: u64,
    edit: impl FnOnce(&mut [u8; SECTOR as usize], usize),
) -> Result<()> {
    let begin = at / SECTOR * SECTOR;
    let mut sector = [0; SECTOR as usize];
    disk.seek(SeekFrom::Start(begin))?;
    disk.read_exact(&mut sector)?;
    edit(&mut sector, usize::try_from(at - begin)?);
    disk.seek(SeekFrom::Start(begin))?;
    disk.write_all(&sector)?;
    Ok(disk.sync()?)
}

fn swap<M: Medium>(disk: &mut M, old: u64, new: u64) -> Result<()> {
    let (was, will) = (read(disk, old)?, read(disk, new)?);
    let put = |sector: &mut [u8; SECTOR as usize], at: usize, entry: &[u8; ENTRY as usize]| {
        sector[at + PLACE.start..at + PLACE.end].copy_from_slice(&entry[PLACE]);
    };
    let together = old / SECTOR == new / SECTOR;
    change(disk, old, |sector, at| {
        put(sector, at, &will);
        if together {
            put(sector, usize::try_from(new % SECTOR).expect("below a sector's length"), &was);
        }
    })?;
    if together { Ok(()) } else { change(disk, new, |sector, at| put(sector, at, &was)) }
}

fn forget_clusters<M: Medium>(disk: &mut M, at: u64) -> Result<()> {
    change(disk, at, |sector, at| sector[at + PLACE.start..at + PLACE.end].fill(0))
}

fn remove<M: Medium>(disk: &mut M, start: u64, length: u64) -> Result<()> {
    {
        let window = Window::new(disk, start, length);
        let volume = FileSystem::new(window, FsOptions::new())?;
        volume.root_dir().remove(TEMPORARY)?;
        volume.unmount()?;
    }
    Ok(disk.sync()?)
}

#[cfg(test)]
mod tests;
