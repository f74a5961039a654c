//! Where log lines go: standard error, line by line, or many by one call when a thread says so.

use std::cell::RefCell;
use std::io::{self, Write};

/// A batch is written when it has so many bytes, ended or not.
const BATCH_BYTES: usize = 64 << 10;

thread_local! {
    static BATCH: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// For the subscriber.
pub(crate) fn writer() -> Lines {
    Lines
}

/// Gathers the log lines of `work`, on this thread, and writes them at its end.
pub(crate) fn batch(work: impl FnOnce()) {
    BATCH.with_borrow_mut(|batch| *batch = Some(Vec::new()));
    work();
    let lines = BATCH.with_borrow_mut(Option::take).unwrap_or_default();
    // Nobody can be told that nobody can be told.
    let _ = io::stderr().write_all(&lines);
}

/// See [`writer`].
pub(crate) struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        BATCH.with_borrow_mut(|batch| {
            let Some(lines) = batch else { return io::stderr().write_all(line) };
            lines.extend_from_slice(line);
            if lines.len() < BATCH_BYTES {
                return Ok(());
            }
            io::stderr().write_all(&std::mem::take(lines))
        })?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_gather_only_within_a_batch() {
        batch(|| {
            writer().write_all(b"").unwrap();
            BATCH.with_borrow(|batch| assert_eq!(batch.as_deref(), Some(&b""[..])));
        });
        BATCH.with_borrow(|batch| assert!(batch.is_none()));
    }
}
