//! The boot journal's driver: keeps the pure [`Journal`] in memory, appends every event to a file that
//! survives a restart, and wakes those who follow.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use netboot::journal::{Event, Journal, Sink};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Events kept in memory: about 200 machines with 40 steps each.
const JOURNAL_EVENTS: usize = 8192;
/// The file is moved aside at this size; one old file is kept.
const FILE_BYTES_MAX: u64 = 4 << 20;
const FILE_NAME: &str = "journal.ndjson";
const OLD_FILE_NAME: &str = "journal.1.ndjson";
/// A longer line in the file is not ours.
const LINE_BYTES_MAX: usize = 16 << 10;

/// One event with its place in the journal; numbers count up for ever.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Its number, from 1.
    pub seq: u64,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
}

/// See the module.
pub(crate) struct Recorder {
    inner: Mutex<Inner>,
    latest: watch::Sender<u64>,
}

struct Inner {
    journal: Journal,
    /// Sequence numbers of earlier runs.
    offset: u64,
    directory: PathBuf,
    file: Option<File>,
    bytes: u64,
    failed: bool,
}

impl Recorder {
    /// Opens the journal of `directory` and reads what is there. Lines that are torn (power may fail at
    /// any instruction) are passed over.
    pub(crate) fn open(directory: &Path) -> io::Result<Arc<Self>> {
        let mut journal = Journal::new(JOURNAL_EVENTS);
        let mut first_seq = None;
        for name in [OLD_FILE_NAME, FILE_NAME] {
            for entry in read_entries(&directory.join(name))? {
                first_seq.get_or_insert(entry.seq);
                journal.record(entry.event);
            }
        }
        let path = directory.join(FILE_NAME);
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        let bytes = file.metadata()?.len();
        // A torn last line must not swallow the first one of this run.
        if bytes > 0 {
            file.write_all(b"\n")?;
        }
        let offset = first_seq.map_or(0, |first: u64| first.saturating_sub(1));
        let latest = offset + journal.last_seq();
        Ok(Arc::new(Self {
            inner: Mutex::new(Inner {
                journal,
                offset,
                directory: directory.to_path_buf(),
                file: Some(file),
                bytes,
                failed: false,
            }),
            latest: watch::Sender::new(latest),
        }))
    }

    /// Where the parts of the appliance put their events.
    pub(crate) fn sink(self: &Arc<Self>) -> Sink {
        let this = Arc::clone(self);
        Arc::new(move |event| this.record(event))
    }

    fn record(&self, event: Event) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (seq, event) = inner.journal.record(event);
        let entry = Entry { seq: inner.offset + seq, event };
        tracing::info!(
            target: "journal",
            mac = entry.event.mac.map(tracing::field::display),
            uuid = entry.event.uuid.map(tracing::field::display),
            "{}", entry.event.step
        );
        inner.append(&entry);
        self.latest.send_replace(entry.seq);
    }

    /// All entries after number `seq` that are still in memory; 0 means all.
    pub(crate) fn since(&self, seq: u64) -> Vec<Entry> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner
            .journal
            .since(seq.saturating_sub(inner.offset))
            .map(|(at, event)| Entry { seq: inner.offset + at, event: event.clone() })
            .collect()
    }

    /// The number of the last entry, as it changes.
    pub(crate) fn follow(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }
}

impl Inner {
    /// Appends without fsync: after a power cut the last seconds of the journal may be missing, never
    /// a decision. A full disk costs the file, not the boot.
    fn append(&mut self, entry: &Entry) {
        let Ok(mut line) = serde_json::to_vec(entry) else { return };
        line.push(b'\n');
        if self.bytes + line.len() as u64 > FILE_BYTES_MAX {
            self.rotate();
        }
        let Some(file) = &mut self.file else { return };
        match file.write_all(&line) {
            Ok(()) => {
                self.bytes += line.len() as u64;
                self.failed = false;
            }
            Err(error) if !self.failed => {
                self.failed = true;
                tracing::warn!(%error, directory = %self.directory.display(), "cannot write the boot journal; it goes on in memory");
            }
            Err(_) => {}
        }
    }

    fn rotate(&mut self) {
        let path = self.directory.join(FILE_NAME);
        let rotated = std::fs::rename(&path, self.directory.join(OLD_FILE_NAME))
            .and_then(|()| OpenOptions::new().create(true).append(true).open(&path));
        match rotated {
            Ok(file) => {
                self.file = Some(file);
                self.bytes = 0;
            }
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "cannot rotate the boot journal");
                // Try again after another file's worth of events.
                self.bytes = 0;
            }
        }
    }
}

fn read_entries(path: &Path) -> io::Result<Vec<Entry>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut entries = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        if line.is_empty() || line.len() > LINE_BYTES_MAX {
            continue;
        }
        match serde_json::from_slice::<Entry>(&line) {
            Ok(entry) => entries.push(entry),
            Err(error) => tracing::debug!(%error, path = %path.display(), "passing over a torn journal line"),
        }
    }
    Ok(entries)
}

/// Milliseconds since 1970, for [`Event::at_ms`].
pub(crate) fn unix_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
