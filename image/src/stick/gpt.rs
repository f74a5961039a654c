//! The partition table (UEFI specification 2.10, chapter 5): written for an image, read and moved on a device.

use anyhow::{Context as _, Result, ensure};

use super::SECTOR;

/// Entries of a table, and their size, as every tool makes them.
const ENTRIES: usize = 128;
const ENTRY: usize = 128;
/// Sectors of a table's entries.
const ENTRY_SECTORS: u64 = (ENTRIES * ENTRY) as u64 / SECTOR;
const HEADER: usize = 92;
const SIGNATURE: &[u8; 8] = b"EFI PART";
/// Characters of a name.
const MAX_NAME: usize = 36;

/// The first sector that a partition may have, and the number of sectors kept free at the end.
pub const FIRST: u64 = 2 + ENTRY_SECTORS;
/// See [`FIRST`].
pub const TAIL: u64 = 1 + ENTRY_SECTORS;

/// A GUID as it is on disk.
pub type Guid = [u8; 16];

/// Reads a GUID's text form; for constants.
pub const fn guid(text: &str) -> Guid {
    // Where the bytes of the text go: the first three groups are little-endian.
    const PLACES: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let bytes = text.as_bytes();
    let mut out = [0; 16];
    let (mut at, mut index) = (0, 0);
    while index < 16 {
        if bytes[at] == b'-' {
            at += 1;
        }
        out[PLACES[index]] = digit(bytes[at]) << 4 | digit(bytes[at + 1]);
        at += 2;
        index += 1;
    }
    out
}

const fn digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        b'A'..=b'F' => byte - b'A' + 10,
        _ => panic!("no upper-case hexadecimal digit"),
    }
}

/// BIOS boot partition, where GRUB expects itself.
pub const BIOS_BOOT: Guid = guid("21686148-6449-6E6F-744E-656564454649");
/// EFI system partition.
pub const EFI_SYSTEM: Guid = guid("C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
/// What Windows and macOS show as a drive.
pub const BASIC_DATA: Guid = guid("EBD0A0A2-B9E5-4433-87C0-68B6B72699C7");
/// Linux file system.
pub const LINUX: Guid = guid("0FC63DAF-8483-4772-8E79-3D69D8477DE4");
/// Our own: environment and slots. No system offers to format what it does not know.
pub const BOOTLACE: Guid = guid("B0071ACE-5107-4D0F-A5B0-0F2A6C1D9E37");

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// What it is for.
    pub kind: Guid,
    /// Which one it is, of all in the world.
    pub id: Guid,
    /// Its first sector.
    pub start: u64,
    /// How many sectors it has.
    pub sectors: u64,
    /// Its name.
    pub name: String,
}

impl Partition {
    /// Where it begins, in bytes.
    pub fn offset(&self) -> u64 {
        self.start * SECTOR
    }

    /// How long it is, in bytes.
    pub fn length(&self) -> u64 {
        self.sectors * SECTOR
    }

    /// The sector behind it.
    pub fn end(&self) -> u64 {
        self.start + self.sectors
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Which disk it is, of all in the world.
    pub disk: Guid,
    /// The partitions; the first has number 1.
    pub partitions: Vec<Partition>,
}

impl Table {
    /// The partition of a name.
    pub fn find(&self, name: &str) -> Result<&Partition> {
        let found = self.partitions.iter().find(|partition| partition.name == name);
        found.with_context(|| format!("there is no partition {name:?}; this is no stick of bootlace"))
    }

    /// The same, if it is there.
    pub fn get(&self, name: &str) -> Option<&Partition> {
        self.find(name).ok()
    }

    /// What to write for a disk of so many sectors, as sector and bytes: the protective MBR without its code, the
    /// first table, the last table.
    pub fn emit(&self, sectors: u64) -> Result<Vec<(u64, Vec<u8>)>> {
        let last = sectors.checked_sub(TAIL).filter(|last| *last > FIRST).context("the disk is too small")?;
        ensure!(self.partitions.len() <= ENTRIES, "a table has {ENTRIES} entries");
        let mut entries = vec![0; ENTRIES * ENTRY];
        let mut behind = FIRST;
        for (partition, entry) in self.partitions.iter().zip(entries.chunks_exact_mut(ENTRY)) {
            ensure!(
                partition.start >= behind && partition.sectors > 0 && partition.end() <= last,
                "partition {:?} does not fit",
                partition.name
            );
            behind = partition.end();
            entry[..16].copy_from_slice(&partition.kind);
            entry[16..32].copy_from_slice(&partition.id);
            entry[32..40].copy_from_slice(&partition.start.to_le_bytes());
            entry[40..48].copy_from_slice(&(partition.end() - 1).to_le_bytes());
            let name: Vec<u16> = partition.name.encode_utf16().collect();
            ensure!(name.len() <= MAX_NAME, "{:?} is too long a name", partition.name);
            for (place, unit) in entry[56..].chunks_exact_mut(2).zip(name) {
                place.copy_from_slice(&unit.to_le_bytes());
            }
        }
        let header = |own: u64, other: u64, table: u64| {
            let mut header = vec![0; SECTOR as usize];
            let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
            put(0, SIGNATURE);
            put(8, &[0, 0, 1, 0, HEADER as u8, 0, 0, 0]);
            put(24, &own.to_le_bytes());
            put(32, &other.to_le_bytes());
            put(40, &FIRST.to_le_bytes());
            put(48, &(last - 1).to_le_bytes());
            put(56, &self.disk);
            put(72, &table.to_le_bytes());
            put(80, &(ENTRIES as u32).to_le_bytes());
            put(84, &(ENTRY as u32).to_le_bytes());
            put(88, &crc32fast::hash(&entries).to_le_bytes());
            let sum = crc32fast::hash(&header[..HEADER]);
            header[16..20].copy_from_slice(&sum.to_le_bytes());
            header
        };
        let mut first = header(1, sectors - 1, 2);
        first.extend_from_slice(&entries);
        let mut tail = entries.clone();
        tail.extend_from_slice(&header(sectors - 1, 1, last));
        // The last one first: while the first is being written, the last one is whole.
        Ok(vec![(last, tail), (1, first)])
    }

    /// The partition entry of the protective MBR, which follows the code in sector 0, with its signature.
    pub fn protective(sectors: u64) -> [u8; 72] {
        let mut out = [0; 72];
        let size = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
        // Some BIOSes boot only what has an active partition.
        out[6..14].copy_from_slice(&[0x80, 0, 2, 0, 0xee, 0xff, 0xff, 0xff]);
        out[14..18].copy_from_slice(&1_u32.to_le_bytes());
        out[18..22].copy_from_slice(&size.to_le_bytes());
        out[70..72].copy_from_slice(&[0x55, 0xaa]);
        out
    }

    /// Reads the first table, or the last where the first is damaged. `read` gives bytes at a sector.
    pub fn read(sectors: u64, mut read: impl FnMut(u64, &mut [u8]) -> std::io::Result<()>) -> Result<Self> {
        let first = Self::read_at(1, sectors, &mut read);
        match first {
            Err(_) if sectors > 1 => Self::read_at(sectors - 1, sectors, &mut read).or(first),
            first => first,
        }
        .context("there is no partition table")
    }

    fn read_at(
        at: u64,
        sectors: u64,
        read: &mut impl FnMut(u64, &mut [u8]) -> std::io::Result<()>,
    ) -> Result<Self> {
        let mut header = [0; SECTOR as usize];
        read(at, &mut header)?;
        ensure!(&header[..8] == SIGNATURE, "no GPT");
        let mut plain = header[..HEADER].to_vec();
        plain[16..20].fill(0);
        ensure!(crc32fast::hash(&plain).to_le_bytes() == header[16..20], "its header is damaged");
        let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        ensure!(
            (u32_at(80), u32_at(84)) == (ENTRIES as u32, ENTRY as u32),
            "its table has another shape than ours"
        );
        let table = u64::from_le_bytes(header[72..80].try_into().expect("eight bytes"));
        ensure!(table < sectors, "its table is elsewhere");
        let mut entries = vec![0; ENTRIES * ENTRY];
        read(table, &mut entries)?;
        ensure!(crc32fast::hash(&entries).to_le_bytes() == header[88..92], "its table is damaged");
        let mut partitions = Vec::new();
        for entry in entries.chunks_exact(ENTRY).take_while(|entry| entry[..16] != [0; 16]) {
            let u64_at = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
            let (start, end) = (u64_at(32), u64_at(40));
            ensure!(start >= FIRST && start <= end && end < sectors, "a partition is outside the disk");
            let units: Vec<u16> = entry[56..]
                .chunks_exact(2)
                .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
                .take_while(|unit| *unit != 0)
                .collect();
            partitions.push(Partition {
                kind: entry[..16].try_into().expect("sixteen bytes"),
                id: entry[16..32].try_into().expect("sixteen bytes"),
                start,
                sectors: end - start + 1,
                name: String::from_utf16_lossy(&units),
            });
        }
        Ok(Self { disk: header[56..72].try_into().expect("sixteen bytes"), partitions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTORS: u64 = 4096;

    fn table() -> Table {
        let partition = |name: &str, start, sectors| Partition {
            kind: BOOTLACE,
            id: [start as u8; 16],
            start,
            sectors,
            name: name.into(),
        };
        Table { disk: [7; 16], partitions: vec![partition("one", 64, 10), partition("zwölf", 2048, 2015)] }
    }

    fn disk(table: &Table) -> Vec<u8> {
        let mut disk = vec![0; (SECTORS * SECTOR) as usize];
        for (sector, bytes) in table.emit(SECTORS).unwrap() {
            let at = (sector * SECTOR) as usize;
            disk[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        disk[440..512].copy_from_slice(&Table::protective(SECTORS));
        disk
    }

    fn read(disk: &[u8]) -> Result<Table> {
        Table::read(disk.len() as u64 / SECTOR, |sector, buffer| {
            let at = (sector * SECTOR) as usize;
            let end = at + buffer.len();
            buffer.copy_from_slice(disk.get(at..end).ok_or(std::io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    #[test]
    fn what_is_written_is_read_from_either_copy() {
        let mut disk = disk(&table());
        assert_eq!(read(&disk).unwrap(), table());
        disk[520] ^= 1;
        assert_eq!(read(&disk).unwrap(), table());
        let last = disk.len() - 512;
        disk[last..].fill(0);
        assert!(read(&disk).is_err());
    }

    #[test]
    fn a_guid_is_on_disk_as_the_specification_says() {
        assert_eq!(EFI_SYSTEM[..8], [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11]);
        assert_eq!(EFI_SYSTEM[8..], [0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b]);
    }

    #[test]
    fn partitions_that_overlap_or_stick_out_are_refused() {
        for (start, sectors) in [(70, 10), (2048, 3000), (10, 1), (3000, 0)] {
            let mut table = table();
            table.partitions[1].start = start;
            table.partitions[1].sectors = sectors;
            assert!(table.emit(SECTORS).is_err(), "{start} {sectors}");
        }
        assert!(table().emit(40).is_err());
    }

    #[test]
    fn damage_never_panics_and_never_reads_outside() {
        let good = disk(&table());
        for at in 512..512 + 92 + 1024 {
            let mut disk = good.clone();
            disk[at] ^= 0x80;
            let end = disk.len();
            disk[end - 512..].fill(0);
            let _ = read(&disk);
        }
        assert!(read(&[0; 512]).is_err());
        assert!(read(&[]).is_err());
    }

    #[test]
    fn other_tools_accept_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("disk");
        std::fs::write(&file, disk(&table())).unwrap();
        let Ok(output) = std::process::Command::new("sfdisk").arg("--verify").arg(&file).output() else {
            return eprintln!("skipped: no sfdisk");
        };
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("No errors detected"), "{said}");
    }
}
