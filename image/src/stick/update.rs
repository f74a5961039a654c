//! Puts another version into the slot that does not boot, and has it tried.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::disk::{CHUNK, Disk, Medium};
use super::env::{Choice, Slot};
use super::gpt::{Partition, Table};
use super::slot::Reader;

/// The largest slot that is read into memory.
const MAX_SLOT: u64 = 1 << 30;

/// The partitions' names.
pub const ENV: &str = "bootlace-env";
/// See [`ENV`].
pub const SLOT_A: &str = "bootlace-a";
/// See [`ENV`].
pub const SLOT_B: &str = "bootlace-b";

/// The partition of a slot.
pub fn slot_partition(table: &Table, slot: Slot) -> Result<&Partition> {
    table.find(match slot {
        Slot::A => SLOT_A,
        Slot::B => SLOT_B,
    })
}

/// What an update did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updated {
    /// Where the new version is.
    pub slot: Slot,
    /// What it says that it is.
    pub version: String,
}

/// The bytes of a slot, out of a slot file or out of the slot that boots on an image or a device.
pub fn read_slot(path: &Path) -> Result<Vec<u8>> {
    let mut disk = Disk::open(path, false)?;
    let (start, limit) = match disk.table() {
        Ok(table) => {
            let choice = Choice::read(disk.file(), table.find(ENV)?.offset())?;
            let partition = slot_partition(&table, choice.good)?;
            (partition.offset(), partition.length())
        }
        Err(_) => (0, disk.file().metadata()?.len()),
    };
    let what = || format!("{} is neither a stick nor a slot", path.display());
    let mut reader = Reader::open(disk.file(), start, limit).with_context(what)?;
    reader.check().with_context(what)?;
    let length = reader.length();
    ensure!(length <= MAX_SLOT, "{} is too large", path.display());
    let mut bytes = Vec::new();
    std::io::Seek::seek(disk.file(), std::io::SeekFrom::Start(start))?;
    disk.file().take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a slot and has it tried at the next start. The power may go at any time: until the last write the stick
/// boots what it booted before, and after it GRUB falls back by itself. `progress` gets the bytes written.
pub fn install<M: Medium>(disk: &mut Disk<M>, slot: &[u8], mut progress: impl FnMut(u64)) -> Result<Updated> {
    let version = Reader::open(&mut std::io::Cursor::new(slot), 0, slot.len() as u64)?.check()?;
    let table = disk.table()?;
    let env = table.find(ENV)?.offset();
    let choice = Choice::read(disk.file(), env)?;
    let idle = choice.good.other();
    let partition = slot_partition(&table, idle)?.clone();
    ensure!(
        slot.len() as u64 <= partition.length(),
        "no space: the slot has {} bytes, and the new version {}",
        partition.length(),
        slot.len()
    );
    // A version that is half there must not be tried.
    let idle_off = Choice { good: choice.good, next: None };
    idle_off.write(disk.file(), env, Medium::sync)?;
    let mut done = 0;
    for (index, chunk) in slot.chunks(CHUNK).enumerate() {
        disk.write_at(partition.offset() + (index * CHUNK) as u64, chunk)?;
        done += chunk.len() as u64;
        progress(done);
    }
    disk.verify(partition.offset(), slot)?;
    idle_off.with_next(idle)?.write(disk.file(), env, Medium::sync)?;
    Ok(Updated { slot: idle, version })
}

#[cfg(test)]
mod tests;
