//! What a flash writes, and in which order.

use std::io::SeekFrom;

use anyhow::{Context as _, Result, ensure};

use crate::stick::SECTOR;
use crate::stick::disk::{CHUNK, Disk, Medium};
use crate::stick::gpt::{TAIL, Table};
use crate::stick::grub::BOOT_CODE;
use crate::stick::image::DATA_NAME;

/// Bytes between two waits for the medium: so that progress is what is on the stick and not in memory, and a
/// stop takes a second.
const SYNC_EVERY: u64 = 8 << 20;
/// What is before the first partition: code and table. Written last.
const HEAD: u64 = 1 << 20;

/// How a stick is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Everything is new; what is there is lost.
    Erase,
    /// It is a stick of bootlace with the same partitions: the new version goes beside the one that boots.
    /// Configuration and data stay.
    Keep,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Bytes of the image written.
    Write,
    /// Bytes of the image read back and compared.
    Verify,
}

/// What can be done with this stick without losing anything.
///
/// # Errors
/// The image is none, or the stick is too small for it.
pub fn plan<M: Medium>(image: &mut Disk, stick: &mut Disk<M>) -> Result<Plan> {
    let new = image.table().context("the image is damaged, or none of bootlace")?;
    let needs = body_end(&new)? + TAIL * SECTOR;
    let has = stick.sectors() * SECTOR;
    ensure!(has >= needs, "no space: the image needs {needs} bytes, and there are {has}");
    let Ok(old) = stick.table() else { return Ok(Plan::Erase) };
    let shape = |table: &Table| -> Vec<(String, u64, Option<u64>)> {
        let partitions = table.partitions.iter();
        // The data partition grows to the end of the stick.
        let one = |p: &crate::stick::gpt::Partition| {
            (p.name.clone(), p.start, (p.name != DATA_NAME).then_some(p.sectors))
        };
        partitions.map(one).collect()
    };
    Ok(if shape(&old) == shape(&new) { Plan::Keep } else { Plan::Erase })
}

/// Writes the whole image and reads it back. `progress` gets bytes done and bytes in all.
///
/// # Errors
/// The medium does not take it, or does not give back what was written. It has no partition table then.
pub fn erase<M: Medium>(
    image: &mut Disk,
    stick: &mut Disk<M>,
    mut progress: impl FnMut(Phase, u64, u64),
) -> Result<()> {
    let table = image.table()?;
    let end = body_end(&table)?;
    let all = end - HEAD;
    let sectors = stick.sectors();
    // From here on it is no stick of anybody, until everything is there.
    let zeroes = vec![0; CHUNK];
    stick.write_at(0, &zeroes[..HEAD as usize])?;
    stick.write_at((sectors - TAIL) * SECTOR, &zeroes[..(TAIL * SECTOR) as usize])?;
    stick.sync()?;
    let mut waited = 0;
    for_each(image, end, |at, bytes| {
        write_chunk(stick, at, bytes)?;
        if at - waited >= SYNC_EVERY {
            stick.sync()?;
            waited = at;
        }
        progress(Phase::Write, at + bytes.len() as u64 - HEAD, all);
        Ok(())
    })?;
    stick.sync()?;
    for_each(image, end, |at, bytes| {
        stick.verify(at, bytes)?;
        progress(Phase::Verify, at + bytes.len() as u64 - HEAD, all);
        Ok(())
    })?;
    for (sector, bytes) in table.emit(sectors)? {
        stick.write_at(sector * SECTOR, &bytes)?;
        stick.verify(sector * SECTOR, &bytes)?;
    }
    let mut first = read(image, 0, SECTOR as usize)?;
    first[BOOT_CODE..].copy_from_slice(&Table::protective(sectors));
    stick.write_at(0, &first)?;
    stick.verify(0, &first)
}

/// Whether the loader on the stick is the image's: [`Plan::Keep`] leaves it alone, because a power cut while it
/// is written would leave a stick that does not boot.
///
/// # Errors
/// One of the two cannot be read.
pub fn same_loader(image: &mut Disk, stick: &mut Disk) -> Result<bool> {
    let table = image.table()?;
    for partition in table.partitions.iter().take_while(|p| p.name != crate::stick::image::CONFIG_NAME) {
        let length = usize::try_from(partition.length())?;
        if read(image, partition.offset(), length)? != read(stick, partition.offset(), length)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn body_end(table: &Table) -> Result<u64> {
    let last = table.partitions.last().context("the image has no partitions")?;
    Ok(last.end() * SECTOR)
}

/// The image from behind its table, in pieces.
fn for_each(image: &mut Disk, end: u64, mut take: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
    let mut at = HEAD;
    while at < end {
        let length = (end - at).min(CHUNK as u64);
        let bytes = read(image, at, usize::try_from(length)?).context("the image is cut off")?;
        take(at, &bytes)?;
        at += length;
    }
    Ok(())
}

/// What is empty in the image is not written where it is empty on the stick already: reading is faster, and does
/// not wear the stick out.
fn write_chunk<M: Medium>(stick: &mut Disk<M>, at: u64, bytes: &[u8]) -> Result<()> {
    if bytes.iter().all(|byte| *byte == 0) && read(stick, at, bytes.len())? == bytes {
        return Ok(());
    }
    stick.write_at(at, bytes)
}

fn read<M: Medium>(disk: &mut Disk<M>, at: u64, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    disk.file().seek(SeekFrom::Start(at))?;
    disk.file().read_exact(&mut bytes).with_context(|| format!("cannot read at byte {at}"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
