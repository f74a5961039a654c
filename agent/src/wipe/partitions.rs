//! Reads the partition tables of a disk that is about to lose them: GPT (UEFI 2.10, section 5.3), its
//! backup, and MBR with logical partitions. Lenient: a broken table only means that less is known.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Partitions that are looked at. GPT's usual table has 128; a machine's image has a dozen.
pub const MAX_PARTITIONS: usize = 256;
/// Bytes of the longest GPT entry table that is read.
const MAX_TABLE: u64 = 1 << 20;
/// Logical partitions that are followed, so that a circle ends.
const MAX_LOGICAL: usize = 64;

/// Something with bytes at offsets.
pub trait Medium {
    /// Fills the buffer from there on.
    fn fill_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl Medium for File {
    fn fill_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

impl Medium for [u8] {
    fn fill_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.checked_add(buffer.len());
        let from = end.and_then(|end| self.get(start..end)).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(from);
        Ok(())
    }
}

/// A stretch of a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Region {
    /// Where it begins.
    pub start: u64,
    /// How long it is.
    pub length: u64,
}

/// What the tables say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Which tables there are: `gpt`, `gpt backup`, `mbr`.
    pub kinds: Vec<&'static str>,
    /// Identifiers of the disk and of its partitions, lower case.
    pub ids: Vec<String>,
    /// The partitions, sorted, each within the disk.
    pub partitions: Vec<Region>,
}

/// Reads all tables. `sector`: the disk's logical sector; GPTs of 512 and 4096 are looked for as well, since
/// disks move between controllers.
pub fn read(medium: &(impl Medium + ?Sized), size: u64, sector: u64) -> Table {
    let mut table = Table::default();
    let mut sectors = vec![sector.clamp(512, 4096), 512, 4096];
    sectors.sort_unstable();
    sectors.dedup();
    for sector in sectors {
        for (kind, at) in [("gpt", sector), ("gpt backup", size.saturating_sub(sector))] {
            if gpt(medium, size, sector, at, &mut table).is_some() && !table.kinds.contains(&kind) {
                table.kinds.push(kind);
            }
        }
    }
    mbr(medium, size, sector.max(512), &mut table);
    table.partitions.sort_unstable();
    table.partitions.dedup();
    table.partitions.truncate(MAX_PARTITIONS);
    table.ids.sort_unstable();
    table.ids.dedup();
    table
}

impl Table {
    fn add(&mut self, first: u64, count: u64, sector: u64, size: u64) {
        let Some(start) = first.checked_mul(sector).filter(|start| *start < size) else { return };
        let length = count.saturating_mul(sector).min(size - start);
        if length > 0 && start > 0 && self.partitions.len() < 4 * MAX_PARTITIONS {
            self.partitions.push(Region { start, length });
        }
    }
}

fn gpt(medium: &(impl Medium + ?Sized), size: u64, sector: u64, at: u64, table: &mut Table) -> Option<()> {
    let mut header = [0; 92];
    medium.fill_at(&mut header, at).ok()?;
    if !header.starts_with(b"EFI PART") {
        return None;
    }
    table.ids.push(guid(&header[56..72]));
    let entries = u64_at(&header, 72).checked_mul(sector).filter(|entries| *entries < size)?;
    let (count, length) = (u64::from(u32_at(&header, 80)), u64::from(u32_at(&header, 84)));
    let total = count.checked_mul(length).filter(|total| (1..=MAX_TABLE).contains(total) && length >= 128)?;
    let mut bytes = vec![0; usize::try_from(total.min(size - entries)).ok()?];
    medium.fill_at(&mut bytes, entries).ok()?;
    for entry in bytes.chunks_exact(usize::try_from(length).ok()?) {
        let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
        if entry[..16] != [0; 16] && last >= first {
            table.ids.push(guid(&entry[16..32]));
            table.add(first, (last - first).saturating_add(1), sector, size);
        }
    }
    Some(())
}

/// The four primary partitions, and the chain of logical ones.
fn mbr(medium: &(impl Medium + ?Sized), size: u64, sector: u64, table: &mut Table) -> Option<()> {
    let first = boot_record(medium, 0)?;
    let entries = entries(&first);
    // File systems have the same two bytes at the end of their first block; a table has entries.
    if entries.iter().all(|entry| entry.kind == 0) || !entries.iter().all(|entry| entry.sane) {
        return None;
    }
    if !table.kinds.contains(&"mbr") {
        table.kinds.push("mbr");
    }
    table.ids.push(mbr_id(&first[440..]));
    for entry in entries.into_iter().filter(|entry| entry.kind != 0 && entry.kind != 0xee) {
        table.add(entry.first, entry.count, sector, size);
        if matches!(entry.kind, 0x05 | 0x0f | 0x85) {
            logical(medium, size, sector, entry.first, table);
        }
    }
    Some(())
}

fn logical(
    medium: &(impl Medium + ?Sized),
    size: u64,
    sector: u64,
    extended: u64,
    table: &mut Table,
) -> Option<()> {
    let mut at = extended;
    for _ in 0..MAX_LOGICAL {
        let record = boot_record(medium, at.checked_mul(sector).filter(|at| *at < size)?)?;
        let [part, next, ..] = entries(&record);
        if part.kind != 0 {
            table.add(at.checked_add(part.first)?, part.count, sector, size);
        }
        if next.kind == 0 || next.first == 0 {
            return Some(());
        }
        at = extended.checked_add(next.first)?;
    }
    Some(())
}

struct Entry {
    kind: u8,
    first: u64,
    count: u64,
    /// The first byte is 0 or 0x80 in any real entry.
    sane: bool,
}

fn boot_record(medium: &(impl Medium + ?Sized), at: u64) -> Option<[u8; 512]> {
    let mut record = [0; 512];
    medium.fill_at(&mut record, at).ok()?;
    record.ends_with(&[0x55, 0xaa]).then_some(record)
}

fn entries(record: &[u8; 512]) -> [Entry; 4] {
    [446, 462, 478, 494].map(|at| Entry {
        kind: record[at + 4],
        first: u64::from(u32_at(record, at + 8)),
        count: u64::from(u32_at(record, at + 12)),
        sane: record[at] & 0x7f == 0,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The text of an MBR's number, which is its first four bytes.
pub(crate) fn mbr_id(bytes: &[u8]) -> String {
    format!("{:08x}", u32_at(bytes, 0))
}

/// The text of a GUID: its first three groups are little-endian.
pub(crate) fn guid(bytes: &[u8]) -> String {
    bytes.try_into().map(|bytes| uuid::Uuid::from_bytes_le(bytes).to_string()).unwrap_or_default()
}
