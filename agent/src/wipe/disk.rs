//! Makes one disk blank.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use super::partitions::{self, Region};
use super::{How, nvme, signatures};
use crate::disks::Disk;
use crate::sys;

/// What a fast wipe zeroes at both ends of the disk and of each partition: tables, boot code, and nearly
/// every mark of [`signatures`].
pub const ENDS: u64 = 1 << 20;
/// Marks further inside go with the block that they are in.
const MARK_BLOCK: u64 = 4096;
/// Zeroed by one call: a step of the progress, and a bound on how long a call takes.
const STEP: u64 = 64 << 20;
/// Forgotten by one call. Disks take about the same time for any length.
const DISCARD_STEP: u64 = 32 << 30;
/// Zeroes that are written at once when the kernel cannot do it by itself.
const BUFFER: usize = 4 << 20;
/// Samples that are read back after a wipe with zeroes, evenly spread, the first and the last among them.
const SAMPLES: u64 = 256;
/// Bytes of each.
const SAMPLE: u64 = 4096;
/// The console hears of the progress this often.
const PROGRESS: u64 = 10;

/// A disk could not be wiped.
#[derive(Debug, thiserror::Error)]
pub enum WipeError {
    /// A request failed.
    #[error("{step} failed")]
    Io {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Writing zeroes ended early.
    #[error("write failed at {percent} %")]
    Fill {
        /// How far it came.
        percent: u64,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// It says that it can be written to no more.
    #[error("the disk is read-only")]
    ReadOnly,
    /// Another disk has its name now, or it shrank.
    #[error("the disk has {0} bytes now: it is not the one that was looked at")]
    Changed(u64),
    /// A mark survived.
    #[error("after the wipe {name} is still at byte {offset}: the disk does not keep what is written")]
    Left {
        /// Whose mark.
        name: &'static str,
        /// Where.
        offset: u64,
    },
    /// A sample has something in it.
    #[error("after the wipe the sample at byte {0} is not zero: the disk does not keep what is written")]
    NotZero(u64),
}

fn during(step: &'static str) -> impl FnOnce(io::Error) -> WipeError {
    move |source| WipeError::Io { step, source }
}

/// What was found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Tables and marks that were there, and how many of each.
    pub found: BTreeMap<&'static str, usize>,
    /// Partitions that the tables named.
    pub partitions: usize,
    /// Formatted, and how.
    pub formatted: Option<&'static str>,
    /// Why it was not formatted although that was asked for.
    pub not_formatted: Option<String>,
    /// Told to forget everything.
    pub discarded: bool,
    /// Bytes that were zeroed.
    pub zeroed: u64,
    /// Samples that were read back.
    pub samples: u64,
}

impl fmt::Display for Done {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.found.is_empty() {
            out.write_str("nothing found")?;
        }
        for (index, (name, count)) in self.found.iter().enumerate() {
            let comma = if index == 0 { "had " } else { ", " };
            match count {
                1 => write!(out, "{comma}{name}")?,
                _ => write!(out, "{comma}{count} {name}")?,
            }
        }
        if self.partitions > 0 {
            write!(out, " in {} partitions", self.partitions)?;
        }
        if let Some(how) = self.formatted {
            write!(out, "; {how}")?;
        }
        if let Some(why) = &self.not_formatted {
            write!(out, "; not formatted: {why}")?;
        }
        if self.discarded {
            out.write_str("; discarded")?;
        }
        write!(out, "; {} KiB zeroed", self.zeroed >> 10)?;
        if self.samples > 0 {
            write!(out, "; {} samples read back as zero", self.samples)?;
        }
        Ok(())
    }
}

/// Wipes a disk. `told` hears every ten per cent of what takes long.
pub fn wipe(disk: &Disk, how: How, told: &dyn Fn(u64)) -> Result<Done, WipeError> {
    // Without O_CREAT, O_EXCL is a block device's own: it fails while somebody has mounted it.
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_EXCL)
        .open(&disk.path)
        .map_err(during("open"))?;
    // The plan may be older than the answer of a disk that wore out.
    if sys::disk::is_read_only(&file).unwrap_or(false) {
        return Err(WipeError::ReadOnly);
    }
    let size = file.seek(io::SeekFrom::End(0)).map_err(during("seek"))?;
    if size != disk.size {
        return Err(WipeError::Changed(size));
    }
    let table = partitions::read(&file, disk.size, disk.sector);
    let regions = regions(disk.size, &table.partitions);
    let mut done = Done { partitions: table.partitions.len(), ..Done::default() };
    for kind in table.kinds {
        done.found.insert(kind, 1);
    }
    let marks: Vec<_> = regions.iter().flat_map(|region| signatures::find(&file, *region)).collect();
    // A GPT is told as a table, except for one that cannot be read.
    let told_gpt = !done.found.is_empty();
    for mark in marks.iter().filter(|mark| mark.name != "gpt" || !told_gpt) {
        *done.found.entry(mark.name).or_default() += 1;
    }

    if how.secure && disk.name.starts_with("nvme") {
        match nvme::format(&file) {
            Ok(how) => done.formatted = Some(how),
            Err(why) => done.not_formatted = Some(why),
        }
    }
    if how.zeroes {
        done.zeroed = fill(&file, disk.size, told)?;
    } else {
        // First, so that the ends are zero also on disks whose discarded blocks read as anything.
        done.discarded = disk.discards && discard(&file, disk.size);
        done.zeroed = zero_ends(&file, &regions).map_err(during("write"))?;
        for mark in &marks {
            done.zeroed += zero_mark(&file, mark, disk.size).map_err(during("write"))?;
        }
    }
    file.sync_all().map_err(during("flush"))?;
    // From here on reads must come from the medium. A plain file has no such request; then the cache will do.
    let _ = sys::disk::drop_cache(&file);
    if let Some(mark) = regions.iter().find_map(|region| signatures::find(&file, *region).into_iter().next())
    {
        return Err(WipeError::Left { name: mark.name, offset: mark.offset });
    }
    if how.zeroes {
        done.samples = verify(&file, disk.size)?;
    }
    // A disk without partitions, or a file, refuses; the kernel's view is then right already.
    let _ = sys::disk::reread_partitions(&file);
    Ok(done)
}

/// The whole disk, then its partitions.
fn regions(size: u64, partitions: &[Region]) -> Vec<Region> {
    let mut regions = vec![Region { start: 0, length: size }];
    regions.extend(partitions);
    regions
}

/// Whether the disk forgot all of it. It may refuse at any point; the zeroes that follow do not depend on it.
fn discard(file: &File, size: u64) -> bool {
    let mut at = 0;
    while at < size {
        let length = DISCARD_STEP.min(size - at);
        if sys::disk::discard(file, at, length).is_err() {
            return false;
        }
        at += length;
    }
    true
}

fn zero_ends(file: &File, regions: &[Region]) -> io::Result<u64> {
    let mut zeroed = 0;
    for region in regions {
        let head = ENDS.min(region.length);
        zero_at(file, region.start, head)?;
        let tail = ENDS.min(region.length - head);
        zero_at(file, region.start + region.length - tail, tail)?;
        zeroed += head + tail;
    }
    Ok(zeroed)
}

/// Zeroes the blocks that a mark is in. Those at the ends are zero already; to write them again is cheaper
/// than to tell them apart.
fn zero_mark(file: &File, mark: &signatures::Found, size: u64) -> io::Result<u64> {
    let start = mark.offset / MARK_BLOCK * MARK_BLOCK;
    let end = (mark.offset + mark.length).next_multiple_of(MARK_BLOCK).min(size);
    zero_at(file, start, end - start)?;
    Ok(end - start)
}

fn zero_at(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let zeroes = vec![0; usize::try_from(length.min(BUFFER as u64)).map_err(io::Error::other)?];
    let mut at = offset;
    while at < offset + length {
        let part = (offset + length - at).min(BUFFER as u64);
        file.write_all_at(&zeroes[..usize::try_from(part).map_err(io::Error::other)?], at)?;
        at += part;
    }
    Ok(())
}

/// Zeroes every byte.
fn fill(file: &File, size: u64, told: &dyn Fn(u64)) -> Result<u64, WipeError> {
    let mut at = 0;
    let mut next = PROGRESS;
    let mut offload = true;
    while at < size {
        let length = STEP.min(size - at);
        offload = offload && sys::disk::zero_out(file, at, length).is_ok();
        if !offload {
            zero_at(file, at, length)
                .map_err(|source| WipeError::Fill { percent: percent(at, size), source })?;
        }
        at += length;
        let now = percent(at, size);
        // The end is told with the result.
        if now >= next && at < size {
            told(now);
            next = now / PROGRESS * PROGRESS + PROGRESS;
        }
    }
    Ok(size)
}

fn percent(at: u64, size: u64) -> u64 {
    u64::try_from(u128::from(at) * 100 / u128::from(size.max(1))).unwrap_or(100)
}

/// Reads samples back.
fn verify(file: &File, size: u64) -> Result<u64, WipeError> {
    let mut buffer = [0; SAMPLE as usize];
    let places = size / SAMPLE;
    let count = SAMPLES.min(places);
    for index in 0..count {
        // The first block for index 0, the last for the last.
        let place =
            if count == 1 { 0 } else { u128::from(index) * u128::from(places - 1) / u128::from(count - 1) };
        let offset = u64::try_from(place).unwrap_or(0) * SAMPLE;
        file.read_exact_at(&mut buffer, offset).map_err(during("read of a sample"))?;
        if buffer.iter().any(|byte| *byte != 0) {
            return Err(WipeError::NotZero(offset));
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_that_is_not_zero_is_told_with_its_place() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 << 20).unwrap();
        assert_eq!(verify(&file, 8 << 20).unwrap(), SAMPLES);
        file.write_all_at(&[1], (8 << 20) - 1).unwrap();
        assert!(matches!(verify(&file, 8 << 20), Err(WipeError::NotZero(at)) if at == (8 << 20) - SAMPLE));
        assert_eq!(verify(&file, 4096).unwrap(), 1);
        assert_eq!(verify(&file, 512).unwrap(), 0);
    }

    #[test]
    fn a_disk_of_another_size_is_another_disk() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sda");
        std::fs::write(&path, [1; 4096]).unwrap();
        let disk = Disk { path: path.clone(), size: 8192, ..Disk::default() };
        assert!(matches!(wipe(&disk, How::default(), &|_| {}), Err(WipeError::Changed(4096))));
        assert_eq!(std::fs::read(path).unwrap(), [1; 4096]);
    }

    #[test]
    fn progress_is_told_in_steps() {
        let file = tempfile::tempfile().unwrap();
        let size = 11 * STEP;
        file.set_len(size).unwrap();
        let told = std::cell::RefCell::new(Vec::new());
        fill(&file, size, &|percent| told.borrow_mut().push(percent)).unwrap();
        assert_eq!(*told.borrow(), [18, 27, 36, 45, 54, 63, 72, 81, 90]);
    }
}
