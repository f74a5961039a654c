//! What was said, kept in a ring: two files of a fixed size, the older of which makes room.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Bytes of one file. Small enough to be read over a console, large enough for days.
const LIMIT: u64 = 1 << 20;

/// The ring.
#[derive(Debug)]
pub(crate) struct Ring {
    directory: PathBuf,
    open: Mutex<Option<(File, u64)>>,
}

impl Ring {
    /// Goes on where the last start ended. Where nothing can be written, nothing is kept.
    pub(crate) fn open(directory: &Path) -> Self {
        let _ = fs::create_dir_all(directory);
        let file = OpenOptions::new().create(true).append(true).open(directory.join("box.log")).ok();
        let open = file.map(|file| {
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            (file, length)
        });
        Self { directory: directory.to_owned(), open: Mutex::new(open) }
    }

    /// Keeps a line.
    pub(crate) fn line(&self, text: &str) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((file, length)) = &mut *open else { return };
        if writeln!(file, "{text}").is_ok() {
            *length += text.len() as u64 + 1;
        }
        if *length >= LIMIT {
            let path = self.directory.join("box.log");
            let _ = fs::rename(&path, self.directory.join("box.log.old"));
            *open = File::create(&path).ok().map(|file| (file, 0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_last_lines_in_two_files() {
        let directory = tempfile::tempdir().unwrap();
        let line = "x".repeat(1023);
        for _ in 0..3 {
            let ring = Ring::open(directory.path());
            for _ in 0..1000 {
                ring.line(&line);
            }
        }
        let size = |name: &str| fs::metadata(directory.path().join(name)).unwrap().len();
        assert_eq!(size("box.log.old"), LIMIT);
        assert_eq!(size("box.log") + 2 * LIMIT, 3000 << 10);
    }

    #[test]
    fn without_a_place_nothing_is_kept_and_nothing_fails() {
        let file = tempfile::NamedTempFile::new().unwrap();
        Ring::open(file.path()).line("hello");
    }
}
