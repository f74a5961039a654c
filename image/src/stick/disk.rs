//! An image file or a device: how large it is, its partitions, and what is really on it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::SECTOR;
use super::gpt::Table;

/// Bytes of one write: large enough for a stick's speed, small enough for a progress bar.
pub const CHUNK: usize = 1 << 20;

/// What is written to: a file or a device; in tests a record of what came, in which order.
pub trait Medium: Read + Write + Seek {
    /// Waits until all that was written is on the medium.
    fn sync(&mut self) -> io::Result<()>;

    /// Has the next read of these bytes come from the medium, not from memory. Advice only.
    fn forget(&mut self, at: u64, length: u64);
}

impl Medium for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn forget(&mut self, at: u64, length: u64) {
        if let (Ok(at), Ok(length)) = (i64::try_from(at), i64::try_from(length)) {
            // Where it is not taken, what is compared is what the kernel believes.
            let _ = posix_fadvise(&*self, at, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        }
    }
}

/// An opened image or device.
#[derive(Debug)]
pub struct Disk<M = File> {
    medium: M,
    sectors: u64,
}

impl Disk {
    /// Opens one that is there.
    pub fn open(path: &Path, write: bool) -> Result<Self> {
        let attempt = || Self::new(OpenOptions::new().read(true).write(write).open(path)?);
        attempt().with_context(|| format!("cannot open {}", path.display()))
    }
}

impl<M: Medium> Disk<M> {
    /// One that is open.
    pub fn new(mut medium: M) -> io::Result<Self> {
        let bytes = medium.seek(SeekFrom::End(0))?;
        Ok(Self { medium, sectors: bytes / SECTOR })
    }

    /// How many sectors it has.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Its partition table.
    pub fn table(&mut self) -> Result<Table> {
        let sectors = self.sectors;
        Table::read(sectors, |sector, buffer| {
            self.medium.seek(SeekFrom::Start(sector * SECTOR))?;
            self.medium.read_exact(buffer)
        })
    }

    /// The file, for whoever reads a part of it.
    pub fn file(&mut self) -> &mut M {
        &mut self.medium
    }

    /// Writes at a byte.
    pub fn write_at(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.medium.seek(SeekFrom::Start(at))?;
        self.medium.write_all(bytes).with_context(|| format!("cannot write at byte {at}"))
    }

    /// Waits until all that was written is on the medium.
    pub fn sync(&mut self) -> Result<()> {
        self.medium.sync().context("the medium does not take what was written")
    }

    /// Compares what is on the medium, not in the kernel's memory, with bytes.
    pub fn verify(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.sync()?;
        self.medium.forget(at, bytes.len() as u64);
        self.medium.seek(SeekFrom::Start(at))?;
        let mut buffer = vec![0; CHUNK];
        for (index, expected) in bytes.chunks(CHUNK).enumerate() {
            let buffer = &mut buffer[..expected.len()];
            let place = at + (index * CHUNK) as u64;
            self.medium.read_exact(buffer).with_context(|| format!("cannot read back at byte {place}"))?;
            ensure!(buffer == expected, "what was read back near byte {place} is not what was written");
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod record;
