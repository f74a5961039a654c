//! Makes disks blank. It works on any file, which is how it is tested.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use crate::disks::Target;
use crate::sys;

/// What a fast wipe overwrites at both ends: partition tables, boot code, the backup GPT, and the
/// superblocks of file systems and of RAID that sit there.
pub const ENDS: u64 = 1 << 20;
/// Zeroes written at once.
const BLOCK: usize = 4 << 20;

/// A disk could not be wiped.
#[derive(Debug, thiserror::Error)]
#[error("{step} failed")]
pub struct WipeError {
    /// What was being done.
    pub step: &'static str,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

fn during(step: &'static str) -> impl FnOnce(io::Error) -> WipeError {
    move |source| WipeError { step, source }
}

/// Wipes all targets at the same time. The results are in the order of the targets.
pub fn wipe_all(targets: &[Target], zeroes: bool) -> Vec<Result<(), WipeError>> {
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            targets.iter().map(|target| scope.spawn(move || wipe(target, zeroes))).collect();
        workers
            .into_iter()
            .map(|worker| {
                worker.join().unwrap_or_else(|_| Err(during("wipe")(io::Error::other("thread panicked"))))
            })
            .collect()
    })
}

/// Wipes one. `zeroes`: every byte; otherwise both ends, and the rest is discarded where the disk can.
pub fn wipe(target: &Target, zeroes: bool) -> Result<(), WipeError> {
    let mut file = OpenOptions::new().write(true).read(true).open(&target.path).map_err(during("open"))?;
    if zeroes {
        fill(&mut file, target.size).map_err(during("write"))?;
    } else {
        // First, so that the ends are zero also on disks whose discarded blocks read as anything.
        // Many disks cannot; then the old data stays where nothing points at it.
        let _ = sys::discard(&file, target.size);
        let head = ENDS.min(target.size);
        zero_at(&file, 0, head).map_err(during("write of the beginning"))?;
        let tail = ENDS.min(target.size - head);
        zero_at(&file, target.size - tail, tail).map_err(during("write of the end"))?;
    }
    file.sync_all().map_err(during("flush"))?;
    // A disk without partitions, or a file, refuses; the kernel's view is then right already.
    let _ = sys::reread_partitions(&file);
    Ok(())
}

fn zero_at(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let zeroes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.write_all_at(&zeroes, offset)
}

fn fill(file: &mut File, size: u64) -> io::Result<()> {
    let zeroes = vec![0; BLOCK];
    let mut left = size;
    while left > 0 {
        let length = left.min(BLOCK as u64);
        file.write_all(&zeroes[..usize::try_from(length).map_err(io::Error::other)?])?;
        left -= length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn used_disk(directory: &Path, name: &str, size: u64) -> Target {
        let path = directory.join(name);
        fs::write(&path, vec![0xa5; usize::try_from(size).unwrap()]).unwrap();
        Target { name: name.into(), path, size }
    }

    fn used_bytes(target: &Target) -> (usize, usize) {
        let content = fs::read(&target.path).unwrap();
        assert_eq!(content.len() as u64, target.size);
        (
            content.iter().take_while(|byte| **byte == 0).count(),
            content.iter().filter(|byte| **byte != 0).count(),
        )
    }

    #[test]
    fn a_fast_wipe_blanks_both_ends() {
        let directory = tempfile::tempdir().unwrap();
        let disk = used_disk(directory.path(), "sda", 5 << 20);
        wipe(&disk, false).unwrap();
        assert_eq!(used_bytes(&disk), (1 << 20, 3 << 20));
        assert!(fs::read(&disk.path).unwrap()[4 << 20..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_wipe_with_zeroes_blanks_everything() {
        let directory = tempfile::tempdir().unwrap();
        let disk = used_disk(directory.path(), "sda", (9 << 20) + 512);
        wipe(&disk, true).unwrap();
        assert_eq!(used_bytes(&disk).1, 0);
    }

    #[test]
    fn disks_smaller_than_the_ends_are_blanked_whole() {
        let directory = tempfile::tempdir().unwrap();
        for size in [0, 512, 1 << 20, (1 << 20) + 512, 2 << 20] {
            let disk = used_disk(directory.path(), "sda", size);
            wipe(&disk, false).unwrap();
            assert_eq!(used_bytes(&disk).1, 0);
        }
    }

    #[test]
    fn a_disk_that_fails_does_not_keep_the_others_from_being_wiped() {
        let directory = tempfile::tempdir().unwrap();
        let missing = Target { name: "sdx".into(), path: directory.path().join("none"), size: 512 };
        let disk = used_disk(directory.path(), "sda", 4096);
        let results = wipe_all(&[missing, disk.clone()], true);
        assert_eq!(results[0].as_ref().unwrap_err().step, "open");
        assert!(results[1].is_ok());
        assert_eq!(used_bytes(&disk).1, 0);
    }
}
