//! Leases on disk: a file that is only ever appended to, a checksummed line for each change, and from time to time
//! written anew. A crash can cut off the last line, which no client was told of; a SIGKILL loses nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use netboot::dhcp::server::{Lease, lease::LINE_MAX};

/// What a file of ours can have at most: the lines of all addresses of a /16 between two compactions.
const FILE_MAX: u64 = (LINE_MAX * (3 * 65_536 + SLACK)) as u64;
/// Lines that are superseded before a small file is written anew.
const SLACK: usize = 4_096;

/// The open file.
#[derive(Debug)]
pub(super) struct LeaseLog {
    path: PathBuf,
    file: File,
    lines: usize,
    /// Lines it had when it was opened or written anew.
    base: usize,
    /// The last write may have ended within a line.
    torn: bool,
}

impl LeaseLog {
    /// Opens the file, or makes it, and reads what it has. What is no whole line is left out and counted.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Vec<Lease>)> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut text = Vec::new();
        match File::open(path) {
            Ok(file) => {
                if file.metadata()?.len() > FILE_MAX {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "too large for a lease file"));
                }
                file.take(FILE_MAX).read_to_end(&mut text)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let whole = text.ends_with(b"\n") || text.is_empty();
        let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
        let parse = |line: &&[u8]| std::str::from_utf8(line).ok().and_then(Lease::parse);
        let leases: Vec<Lease> = lines.iter().filter_map(parse).collect();
        let bad = lines.len() - leases.len();
        if bad > 0 || !whole {
            tracing::warn!(path = %path.display(), bad, "lease file has lines that are not whole; left out");
        }
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let (lines, base) = (lines.len(), leases.len());
        Ok((Self { path: path.to_owned(), file, lines, base, torn: !whole }, leases))
    }

    /// Writes changes down for good.
    pub(super) fn append(&mut self, leases: &[Lease]) -> io::Result<()> {
        let mut text = String::with_capacity(leases.len() * LINE_MAX + 1);
        if self.torn {
            text.push('\n');
        }
        leases.iter().for_each(|lease| lease.write_to(&mut text));
        self.torn = true;
        self.file.write_all(text.as_bytes())?;
        self.torn = false;
        self.lines += leases.len();
        self.file.sync_data()
    }

    /// Whether it has grown so much that it is worth to be written anew.
    pub(super) const fn is_long(&self) -> bool {
        self.lines > 2 * self.base + SLACK
    }

    /// Writes the file anew, with these leases only.
    pub(super) fn rewrite(&mut self, leases: &[Lease]) -> io::Result<()> {
        let mut text = String::with_capacity(leases.len() * LINE_MAX);
        leases.iter().for_each(|lease| lease.write_to(&mut text));
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        (self.lines, self.base, self.torn) = (leases.len(), leases.len(), false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use netboot::Mac;
    use netboot::dhcp::server::LeaseState;

    use super::*;

    fn lease(number: u8) -> Lease {
        Lease {
            state: LeaseState::Bound,
            until: 1_800_000_000,
            mac: Mac([2, 0, 0, 0, 0, number]),
            address: [192, 0, 2, number].into(),
        }
    }

    #[test]
    fn what_was_appended_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dhcp/eth0.leases");
        let (mut log, known) = LeaseLog::open(&path).unwrap();
        assert!(known.is_empty());
        log.append(&[lease(1), lease(2)]).unwrap();
        log.append(&[lease(3)]).unwrap();
        assert_eq!(LeaseLog::open(&path).unwrap().1, [lease(1), lease(2), lease(3)]);
    }

    #[test]
    fn a_file_cut_off_anywhere_keeps_every_whole_line_and_can_be_appended_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases");
        let (mut log, _) = LeaseLog::open(&path).unwrap();
        log.append(&[lease(1), lease(2)]).unwrap();
        let text = fs::read(&path).unwrap();
        let first = text.iter().position(|byte| *byte == b'\n').unwrap();
        for length in 0..text.len() {
            fs::write(&path, &text[..length]).unwrap();
            let (mut log, known) = LeaseLog::open(&path).unwrap();
            // A line that lacks only its end is whole.
            let whole = usize::from(length >= first) + usize::from(length + 1 >= text.len());
            assert_eq!(known, [lease(1), lease(2)][..whole], "cut at {length}");
            log.append(&[lease(9)]).unwrap();
            assert_eq!(LeaseLog::open(&path).unwrap().1.last(), Some(&lease(9)), "cut at {length}");
        }
    }

    #[test]
    fn a_rewritten_file_has_the_leases_and_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases");
        let (mut log, _) = LeaseLog::open(&path).unwrap();
        let many: Vec<Lease> = (0..=SLACK).map(|_| lease(1)).collect();
        log.append(&many[1..]).unwrap();
        assert!(!log.is_long());
        log.append(&[lease(1)]).unwrap();
        assert!(log.is_long());
        log.rewrite(&[lease(1)]).unwrap();
        log.append(&[lease(2)]).unwrap();
        assert_eq!(LeaseLog::open(&path).unwrap().1, [lease(1), lease(2)]);
    }

    #[test]
    fn what_is_no_lease_file_is_not_taken_into_memory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases");
        File::create(&path).unwrap().set_len(FILE_MAX + 1).unwrap();
        assert!(LeaseLog::open(&path).is_err());
    }
}
