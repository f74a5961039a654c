//! The FAT partitions of a stick: made whole in memory, and single files read and written in place.

use std::io::{Cursor, Read, Seek, SeekFrom, Write};

use anyhow::{Context as _, Result, ensure};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};

mod replace;

pub use replace::replace;

/// Clusters that a FAT16 file system has at most, near enough; at least it has 4,085.
const CLUSTERS: u64 = 1 << 15;
/// The largest file that is read: a configuration is a few kilobytes.
const MAX_FILE: u64 = 1 << 20;

/// Makes a FAT16 file system with files in it. Firmware boots removable media from FAT12, FAT16 and FAT32 alike
/// (UEFI specification 2.10, 13.3); FAT32 would need 33 MiB.
pub fn build(bytes: u64, label: &str, id: u32, files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut disk = Cursor::new(vec![0; usize::try_from(bytes)?]);
    let mut name = [b' '; 11];
    ensure!(label.len() <= name.len(), "{label:?} is too long a volume label");
    name[..label.len()].copy_from_slice(label.as_bytes());
    let cluster = u32::try_from(bytes.div_ceil(CLUSTERS).max(512).next_power_of_two())?;
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat16)
        .bytes_per_cluster(cluster)
        .volume_label(name)
        .volume_id(id);
    fatfs::format_volume(&mut disk, options).context("cannot make a FAT file system")?;
    for (path, data) in files {
        write(&mut disk, path, data)?;
    }
    Ok(disk.into_inner())
}

/// Writes a file, with its directories, in place of the one that is there.
pub fn write(mut disk: impl Read + Write + Seek, path: &str, data: &[u8]) -> Result<()> {
    let attempt = || -> std::io::Result<()> {
        disk.rewind()?;
        let volume = FileSystem::new(disk, FsOptions::new())?;
        {
            let mut directory = volume.root_dir();
            let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
            while let Some(part) = parts.next() {
                if parts.peek().is_some() {
                    directory = directory.create_dir(part)?;
                } else {
                    let mut file = directory.create_file(part)?;
                    file.truncate()?;
                    file.write_all(data)?;
                    file.flush()?;
                }
            }
        }
        volume.unmount()
    };
    attempt().with_context(|| format!("cannot write {path} to the FAT partition"))
}

/// Reads a file of the root directory; none if it is not there. Names are compared as FAT does, whatever their case.
pub fn read(mut disk: impl Read + Write + Seek, path: &str) -> Result<Option<Vec<u8>>> {
    let attempt = || -> std::io::Result<Option<Vec<u8>>> {
        disk.rewind()?;
        let volume = FileSystem::new(disk, FsOptions::new().update_accessed_date(false))?;
        let root = volume.root_dir();
        let found = root.iter().flatten().find(|entry| entry.file_name().eq_ignore_ascii_case(path));
        let Some(file) = found.filter(|entry| entry.is_file()).map(|entry| entry.to_file()) else {
            return Ok(None);
        };
        let mut data = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut data)?;
        Ok(Some(data))
    };
    attempt().with_context(|| format!("cannot read {path} of the FAT partition"))
}

/// A part of a disk, as a disk of its own. What is only read may be read-only underneath: writes say so then.
#[derive(Debug)]
pub struct Window<'a, D> {
    disk: &'a mut D,
    start: u64,
    length: u64,
    at: u64,
}

impl<'a, D: Seek> Window<'a, D> {
    /// The bytes from `start`, `length` of them.
    pub fn new(disk: &'a mut D, start: u64, length: u64) -> Self {
        Self { disk, start, length, at: 0 }
    }

    /// Moves the disk to where the window is; how many bytes there are from there.
    fn place(&mut self, wanted: usize) -> std::io::Result<usize> {
        let left = self.length.saturating_sub(self.at);
        self.disk.seek(SeekFrom::Start(self.start + self.at))?;
        Ok(wanted.min(usize::try_from(left).unwrap_or(usize::MAX)))
    }
}

impl<D: Read + Seek> Read for Window<'_, D> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.place(buffer.len())?;
        let read = self.disk.read(&mut buffer[..count])?;
        self.at += read as u64;
        Ok(read)
    }
}

impl<D: Write + Seek> Write for Window<'_, D> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let count = self.place(buffer.len())?;
        let written = self.disk.write(&buffer[..count])?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.disk.flush()
    }
}

impl<D: Seek> Seek for Window<'_, D> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
        };
        self.at = at.ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 4 << 20;

    #[test]
    fn a_file_is_written_read_and_replaced_inside_a_disk() {
        let volume = build(SIZE, "BOOTLACE", 7, &[("EFI/BOOT/BOOTX64.EFI", b"loader")]).unwrap();
        let mut disk = Cursor::new(vec![0xee; 1024]);
        disk.get_mut().extend_from_slice(&volume);
        disk.get_mut().extend_from_slice(&[0xee; 1024]);
        fn window(disk: &mut Cursor<Vec<u8>>) -> Window<'_, Cursor<Vec<u8>>> {
            Window::new(disk, 1024, SIZE)
        }
        write(window(&mut disk), "appliance.toml", &[b'x'; 5000]).unwrap();
        write(window(&mut disk), "appliance.toml", b"id = \"a\"\n").unwrap();
        assert_eq!(read(window(&mut disk), "APPLIANCE.TOML").unwrap().unwrap(), b"id = \"a\"\n");
        write(window(&mut disk), "b.txt", b"2").unwrap();
        assert_eq!(read(window(&mut disk), "b.txt").unwrap().unwrap(), b"2");
        assert_eq!(read(window(&mut disk), "other").unwrap(), None);
        let bytes = disk.into_inner();
        assert!(bytes[..1024].iter().chain(&bytes[bytes.len() - 1024..]).all(|byte| *byte == 0xee));
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let make = || build(SIZE, "X", 7, &[("a/b.txt", b"1"), ("a/a.txt", b"2")]).unwrap();
        assert!(make() == make());
    }

    #[test]
    fn no_space_and_no_file_system_are_errors() {
        let error = build(SIZE, "X", 7, &[("big", &vec![1; SIZE as usize])]).unwrap_err();
        assert!(error.to_string().contains("cannot write big"), "{error:#}");
        assert!(read(Cursor::new(vec![0; 4096]), "x").is_err());
        assert!(build(SIZE, "A LABEL THAT IS TOO LONG", 7, &[]).is_err());
    }
}
