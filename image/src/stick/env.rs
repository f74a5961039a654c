//! Which slot boots: GRUB's environment block, so that GRUB can count the tries of a new slot down.
//!
//! ```text
//! good=a                         a boots
//! good=a next=b left=3           b is tried; GRUB counts `left` down before each try
//! good=a next=b left=0           a boots: b did not come up in three tries
//! good=b                         b came up, and said so
//! ```
//!
//! The block is two sectors, and everything that is said is in the first: writing it is one write of one sector,
//! which is done or not done. There is a second copy for the case that the sector itself cannot be read.

use std::fmt;
use std::io::{Read, Seek, SeekFrom, Write};

use anyhow::{Context as _, Result, bail, ensure};

use super::SECTOR;
use crate::cpio::Archive;

/// GRUB's size of a block.
const BLOCK: usize = 1024;
/// How a block begins.
const SIGNATURE: &str = "# GRUB Environment Block\n";
/// Sectors of the partition where the copies begin. 4 KiB apart, so that no flash page holds both.
pub const COPIES: [u64; 2] = [1, 9];
/// What GRUB calls them: it writes to files only, so that the partition is an archive with the copies in it.
pub const FILES: [&str; 2] = ["b1", "d3"];
/// Lengths of the files before the copies, which put these where they are: a header with such a name has 116 bytes.
const FILL: [(&str, usize); 2] = [("a0", 280), ("c2", 2840)];
/// How often a new slot is tried.
pub const TRIES: u8 = 3;

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Reads its name.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "a" => Some(Self::A),
            "b" => Some(Self::B),
            _ => None,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "a",
            Self::B => "b",
        })
    }
}

/// What the block says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The slot that is known to come up.
    pub good: Slot,
    /// A slot that is being tried, and how many tries are left.
    pub next: Option<(Slot, u8)>,
}

impl Choice {
    /// A stick as it is built.
    pub const NEW: Self = Self { good: Slot::A, next: None };

    /// Reads a block.
    pub fn parse(block: &[u8]) -> Result<Self> {
        let text = block.get(..BLOCK).and_then(|block| std::str::from_utf8(block).ok());
        let text =
            text.and_then(|text| text.strip_prefix(SIGNATURE)).context("it is no environment block")?;
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let good = value("good").and_then(Slot::parse).context("it does not say which slot is good")?;
        let next = value("next").and_then(Slot::parse);
        let left =
            value("left").and_then(|left| left.parse().ok()).filter(|left| *left <= TRIES).unwrap_or(0);
        Ok(Self { good, next: next.filter(|next| *next != good).map(|next| (next, left)) })
    }

    /// Writes a block.
    pub fn emit(&self) -> [u8; BLOCK] {
        let (next, left) = match self.next {
            Some((slot, left)) => (slot.to_string(), left.to_string()),
            None => (String::new(), String::new()),
        };
        let text = format!("{SIGNATURE}good={}\nnext={next}\nleft={left}\n", self.good);
        let mut block = [b'#'; BLOCK];
        block[..text.len()].copy_from_slice(text.as_bytes());
        block
    }

    /// The partition's beginning as it is built: an archive that GRUB reads, with both copies in it.
    pub fn partition(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::new();
        for ((fill, length), copy) in FILL.into_iter().zip(FILES) {
            archive.file(fill, 0o644, vec![0; length])?;
            archive.file(copy, 0o644, self.emit().to_vec())?;
        }
        Ok(archive.emit())
    }

    /// Reads the block of a partition that begins at `start` bytes; the second copy where the first is damaged.
    pub fn read(file: &mut (impl Read + Seek), start: u64) -> Result<Self> {
        let mut errors = Vec::new();
        for copy in COPIES {
            let mut block = [0; BLOCK];
            let read = file
                .seek(SeekFrom::Start(start + copy * SECTOR))
                .and_then(|_| file.read_exact(&mut block))
                .map_err(anyhow::Error::from)
                .and_then(|()| Self::parse(&block));
            match read {
                Ok(choice) => return Ok(choice),
                Err(error) => errors.push(error),
            }
        }
        match errors.into_iter().next() {
            Some(error) => Err(error.context("cannot read which slot boots")),
            None => bail!("there are no copies"),
        }
    }

    /// Writes both copies, the second one first: GRUB reads it only when the first is damaged, so that until the
    /// first is written nothing has changed. `sync` is called after each.
    pub fn write<F: Write + Seek>(
        &self,
        file: &mut F,
        start: u64,
        mut sync: impl FnMut(&mut F) -> std::io::Result<()>,
    ) -> Result<()> {
        for copy in COPIES.into_iter().rev() {
            let attempt = |file: &mut F| {
                file.seek(SeekFrom::Start(start + copy * SECTOR))?;
                file.write_all(&self.emit())?;
                file.flush()
            };
            attempt(file).and_then(|()| sync(file)).context("cannot write which slot boots")?;
        }
        Ok(())
    }

    /// A new slot is to be tried. It must be the one that does not boot.
    pub fn with_next(self, slot: Slot) -> Result<Self> {
        ensure!(slot != self.good, "slot {slot} is the one that boots");
        Ok(Self { good: self.good, next: Some((slot, TRIES)) })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for choice in [
            Choice::NEW,
            Choice { good: Slot::B, next: None },
            Choice { good: Slot::A, next: Some((Slot::B, 3)) },
            Choice { good: Slot::B, next: Some((Slot::A, 0)) },
        ] {
            assert_eq!(Choice::parse(&choice.emit()).unwrap(), choice);
        }
    }

    #[test]
    fn the_copies_are_files_of_the_archive_and_begin_at_their_sectors() {
        let mut disk = Cursor::new(Choice::NEW.partition().unwrap());
        let length = disk.get_ref().len() as u64;
        let reader = crate::stick::slot::Reader::open(&mut disk, 0, length).unwrap();
        for (file, copy) in FILES.into_iter().zip(COPIES) {
            assert_eq!(reader.place(file).unwrap(), copy * SECTOR);
        }
        drop(reader);
        assert_eq!(Choice::read(&mut disk, 0).unwrap(), Choice::NEW);
    }

    #[test]
    fn everything_said_is_in_the_first_sector() {
        let block = Choice { good: Slot::A, next: Some((Slot::B, 3)) }.emit();
        assert!(block[SECTOR as usize..].iter().all(|byte| *byte == b'#'));
    }

    #[test]
    fn what_grub_saved_is_read() {
        let mut block = [b'#'; BLOCK];
        let text = format!("{SIGNATURE}left=2\ngood=a\nnext=b\n");
        block[..text.len()].copy_from_slice(text.as_bytes());
        assert_eq!(Choice::parse(&block).unwrap().next, Some((Slot::B, 2)));
    }

    #[test]
    fn nonsense_is_an_error_or_harmless() {
        assert!(Choice::parse(b"").is_err());
        assert!(Choice::parse(&[0; BLOCK]).is_err());
        let with = |text: &str| {
            let mut block = [b'#'; BLOCK];
            let text = format!("{SIGNATURE}{text}");
            block[..text.len()].copy_from_slice(text.as_bytes());
            Choice::parse(&block)
        };
        assert!(with("next=b\n").is_err());
        assert_eq!(with("good=a\nnext=a\nleft=3\n").unwrap().next, None);
        assert_eq!(with("good=a\nnext=b\nleft=99\n").unwrap().next, Some((Slot::B, 0)));
    }

    #[test]
    fn an_interrupted_write_leaves_the_old_or_the_new_choice() {
        let (old, new) = (Choice::NEW, Choice::NEW.with_next(Slot::B).unwrap());
        let mut disk = Cursor::new(vec![0; 16_384]);
        old.write(&mut disk, 512, |_| Ok(())).unwrap();
        // The power goes after the second copy is written and before the first is.
        let error = new.write(&mut disk, 512, |_| Err(std::io::ErrorKind::BrokenPipe.into()));
        assert!(error.is_err());
        assert_eq!(Choice::read(&mut disk, 512).unwrap(), old);
        // The first sector tears: the second copy counts.
        disk.get_mut()[1024..1536].fill(0xff);
        assert_eq!(Choice::read(&mut disk, 512).unwrap(), new);
        disk.get_mut()[512 + 9 * 512..][..512].fill(0xff);
        assert!(Choice::read(&mut disk, 512).is_err());
    }

    #[test]
    fn the_slot_that_boots_is_never_tried_as_new() {
        assert!(Choice::NEW.with_next(Slot::A).is_err());
        assert_eq!(Slot::A.other(), Slot::B);
    }
}
