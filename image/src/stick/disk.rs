//! An image file or a device: how large it is, its partitions, and what is really on it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::SECTOR;
use super::gpt::Table;

/// Bytes of one write: large enough for a stick's speed, small enough for a progress bar.
pub const CHUNK: usize = 1 << 20;

/// An opened image or device.
#[derive(Debug)]
pub struct Disk {
    file: File,
    sectors: u64,
}

impl Disk {
    /// Opens one that is there.
    pub fn open(path: &Path, write: bool) -> Result<Self> {
        let attempt = || -> std::io::Result<Self> {
            let mut file = OpenOptions::new().read(true).write(write).open(path)?;
            let bytes = file.seek(SeekFrom::End(0))?;
            Ok(Self { file, sectors: bytes / SECTOR })
        };
        attempt().with_context(|| format!("cannot open {}", path.display()))
    }

    /// How many sectors it has.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Its partition table.
    pub fn table(&mut self) -> Result<Table> {
        let sectors = self.sectors;
        Table::read(sectors, |sector, buffer| {
            self.file.seek(SeekFrom::Start(sector * SECTOR))?;
            self.file.read_exact(buffer)
        })
    }

    /// The file, for whoever reads a part of it.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Writes at a byte.
    pub fn write_at(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file.seek(SeekFrom::Start(at))?;
        self.file.write_all(bytes).with_context(|| format!("cannot write at byte {at}"))
    }

    /// Waits until all that was written is on the medium.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().context("the medium does not take what was written")
    }

    /// Compares what is on the medium, not in the kernel's memory, with bytes.
    pub fn verify(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.sync()?;
        let length = i64::try_from(bytes.len())?;
        // Advice only: where it is not taken, what is compared is what the kernel believes.
        let _ =
            posix_fadvise(&self.file, i64::try_from(at)?, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        self.file.seek(SeekFrom::Start(at))?;
        let mut buffer = vec![0; CHUNK];
        for (index, expected) in bytes.chunks(CHUNK).enumerate() {
            let buffer = &mut buffer[..expected.len()];
            let place = at + (index * CHUNK) as u64;
            self.file.read_exact(buffer).with_context(|| format!("cannot read back at byte {place}"))?;
            ensure!(buffer == expected, "what was read back near byte {place} is not what was written");
        }
        Ok(())
    }
}
