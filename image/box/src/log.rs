//! What was said: on the serial line, on the screen's second console, and kept in a ring: two files of a fixed
//! size, the older of which makes room.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Bytes of one file. Small enough to be read over a console, large enough for days.
const LIMIT: u64 = 1 << 20;
/// Lines that wait for the medium; a start has some dozens before.
const EARLY: usize = 200;
/// The console beside the one that a person sees: Alt+F2.
const SECOND: &str = "/dev/tty2";

/// Lines that nobody could keep yet, then the ring.
#[derive(Debug)]
enum Kept {
    Early(VecDeque<String>),
    Ring(Ring),
}

static KEPT: Mutex<Kept> = Mutex::new(Kept::Early(VecDeque::new()));

/// Keeps every line that is said from here on.
pub(crate) fn start() {
    bootlace_agent::console::set_keeper(line);
}

/// Says where lines are kept; those before go there, too.
pub(crate) fn open(directory: &Path) {
    let mut ring = Ring::open(directory);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Kept::Early(lines) = &*kept {
        lines.iter().for_each(|line| ring.line(line));
    }
    *kept = Kept::Ring(ring);
}

fn line(text: &str) {
    show(text);
    match &mut *KEPT.lock().unwrap_or_else(PoisonError::into_inner) {
        Kept::Ring(ring) => ring.line(text),
        Kept::Early(lines) => {
            if lines.len() == EARLY {
                lines.pop_front();
            }
            lines.push_back(text.to_owned());
        }
    }
}

/// On the second console. It does not wait for one that somebody has stopped.
fn show(text: &str) {
    static CONSOLE: OnceLock<Option<File>> = OnceLock::new();
    let open = || OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(SECOND);
    if let Some(mut console) = CONSOLE.get_or_init(|| open().ok()).as_ref() {
        let _ = writeln!(console, "{text}");
    }
}

/// The ring.
#[derive(Debug)]
struct Ring {
    directory: PathBuf,
    open: Option<(File, u64)>,
}

impl Ring {
    /// Goes on where the last start ended. Where nothing can be written, nothing is kept.
    fn open(directory: &Path) -> Self {
        let _ = fs::create_dir_all(directory);
        let file = OpenOptions::new().create(true).append(true).open(directory.join("box.log")).ok();
        let open = file.map(|file| {
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            (file, length)
        });
        Self { directory: directory.to_owned(), open }
    }

    /// Keeps a line.
    fn line(&mut self, text: &str) {
        let Some((file, length)) = &mut self.open else { return };
        if writeln!(file, "{text}").is_ok() {
            *length += text.len() as u64 + 1;
        }
        if *length >= LIMIT {
            let path = self.directory.join("box.log");
            let _ = fs::rename(&path, self.directory.join("box.log.old"));
            self.open = File::create(&path).ok().map(|file| (file, 0));
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
            let mut ring = Ring::open(directory.path());
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
