//! A medium that keeps what is written in its order, and every state that a power cut could have left.
//!
//! Between two waits for the medium nothing is promised: any of the sectors written since the last one may be on it,
//! whatever their order. A sector itself is written or not.

use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};

use super::Medium;
use crate::stick::SECTOR;

/// Random selections of sectors that are tried between two waits.
const SELECTIONS: u32 = 12;
/// Of a large write so many beginnings are tried.
const BEGINNINGS: usize = 4;

#[derive(Debug)]
enum Event {
    Write { at: usize, bytes: Vec<u8> },
    Sync,
}

/// The medium.
#[derive(Debug)]
pub(crate) struct Recorder {
    disk: Cursor<Vec<u8>>,
    events: Vec<Event>,
}

impl Recorder {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { disk: Cursor::new(bytes), events: Vec::new() }
    }

    /// What is on it now.
    pub(crate) fn content(&self) -> &[u8] {
        self.disk.get_ref()
    }
}

impl Read for Recorder {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.read(buffer)
    }
}

impl Seek for Recorder {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.disk.seek(to)
    }
}

impl Write for Recorder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let at = usize::try_from(self.disk.position()).expect("it is in memory");
        let left = self.disk.get_ref().len().saturating_sub(at);
        if left == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let bytes = &bytes[..bytes.len().min(left)];
        self.events.push(Event::Write { at, bytes: bytes.to_vec() });
        self.disk.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Medium for Recorder {
    fn sync(&mut self) -> io::Result<()> {
        self.events.push(Event::Sync);
        Ok(())
    }

    fn forget(&mut self, _at: u64, _length: u64) {}
}

/// Calls `check` with what was on the medium before, and with what each power cut could have made of it.
pub(crate) fn after_power_cuts(before: &[u8], recorder: &Recorder, mut check: impl FnMut(&[u8], &str)) {
    let mut state = before.to_vec();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    check(&state, "before everything");
    for (epoch, events) in recorder.events.split(|event| matches!(event, Event::Sync)).enumerate() {
        let writes: Vec<(usize, &[u8])> = events
            .iter()
            .filter_map(|event| match event {
                Event::Write { at, bytes } => Some((*at, &bytes[..])),
                Event::Sync => None,
            })
            .collect();
        if writes.is_empty() {
            continue;
        }
        for selection in 0..SELECTIONS {
            let mut undo = Vec::new();
            for (at, bytes) in &writes {
                for (at, piece) in sectors(*at, bytes) {
                    // xorshift64
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    // From rarely to nearly always.
                    if random % u64::from(SELECTIONS + 1) > u64::from(selection) {
                        continue;
                    }
                    undo.push((at, state[at..at + piece.len()].to_vec()));
                    state[at..at + piece.len()].copy_from_slice(piece);
                }
            }
            check(&state, &format!("wait {epoch}, selection {selection}"));
            for (at, bytes) in undo.into_iter().rev() {
                state[at..at + bytes.len()].copy_from_slice(&bytes);
            }
        }
        for (number, (at, bytes)) in writes.iter().enumerate() {
            let pieces: Vec<_> = sectors(*at, bytes).collect();
            for (index, (at, piece)) in pieces.iter().enumerate() {
                state[*at..at + piece.len()].copy_from_slice(piece);
                if (index + 1) % pieces.len().div_ceil(BEGINNINGS) == 0 || index + 1 == pieces.len() {
                    check(&state, &format!("wait {epoch}, write {number}, sector {index}"));
                }
            }
        }
    }
    assert!(state == recorder.content(), "what was recorded is what was written");
}

/// A write in pieces of one sector each.
fn sectors(at: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let size = usize::try_from(SECTOR).expect("it is small");
    let head = (size - at % size).min(bytes.len());
    let (first, rest) = bytes.split_at(head);
    let rest = rest.chunks(size).enumerate().map(move |(index, piece)| (at + head + index * size, piece));
    std::iter::once((at, first)).chain(rest)
}
