//! The boot journal's driver: keeps the pure [`Journal`] in memory, appends every event to a file that
//! survives a restart, and wakes those who follow.
//!
//! Whoever has something to tell is not kept waiting for a disk or a log: the event goes into memory, and a thread
//! writes what came in the meantime, a batch by one call. A SIGKILL costs the file the events of the last
//! [`WRITE_PAUSE`], never their order. Nobody reads an event before it is in the file: the next run would give its
//! number to another one, which who follows would take for known.
//!
//! The same thread first reads what earlier runs wrote, which may be 8 MB, while machines are answered already: what is
//! told until then comes behind it.

mod repeats;

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use netboot::journal::{Event, Journal, Sink};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use self::repeats::Repeats;
use crate::log;

/// Events kept in memory: about 200 machines with 40 steps each.
const JOURNAL_EVENTS: usize = 8192;
/// The file is moved aside at this size; one old file is kept.
const FILE_BYTES_MAX: u64 = 4 << 20;
const FILE_NAME: &str = "journal.ndjson";
const OLD_FILE_NAME: &str = "journal.1.ndjson";
/// A longer line in the file is not ours.
const LINE_BYTES_MAX: usize = 16 << 10;
/// How long events gather before they are written: a busy second of a thousand machines becomes a few dozen writes,
/// and what a SIGKILL can lose is shorter than the pause between two steps of any machine.
const WRITE_PAUSE: Duration = Duration::from_millis(20);
/// Events copied out of the memory at a time, so that nobody waits long for it.
const BATCH: usize = 256;
/// Events written before whoever waits for the processor has it: the kernel lets a thread that has just begun run on
/// for milliseconds, and a machine's question would wait behind a whole batch. These are some 50 µs.
const TURN: usize = 8;

/// One event with its place in the journal; numbers count up for ever.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Its number, from 1.
    pub seq: u64,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
}

/// See the module. Its end waits until all is written.
pub(crate) struct Recorder {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    inner: Mutex<Inner>,
    /// The writer waits here for events.
    events: Condvar,
    /// Who asks for events waits here for those of earlier runs.
    read: Condvar,
    /// The number of the last entry that may be read.
    latest: watch::Sender<u64>,
}

struct Inner {
    journal: Journal,
    repeats: Repeats,
    /// Sequence numbers of earlier runs.
    offset: u64,
    /// What was told before the files of earlier runs were read; absent after that.
    early: Option<Vec<Event>>,
    /// The writer has nothing to do.
    waiting: bool,
    ending: bool,
}

impl Recorder {
    /// Opens the journal of `directory`; what is there is read meanwhile. Lines that are torn (power may fail at
    /// any instruction) are passed over.
    pub(crate) fn open(directory: &Path) -> io::Result<Arc<Self>> {
        // A file that cannot be read is told of now.
        let old = [OLD_FILE_NAME, FILE_NAME].map(|name| open_for_reading(&directory.join(name)));
        let [older, newer] = old;
        let old: Vec<File> = [older?, newer?].into_iter().flatten().collect();
        let path = directory.join(FILE_NAME);
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        let bytes = file.metadata()?.len();
        // A torn last line must not swallow the first one of this run.
        if bytes > 0 {
            file.write_all(b"\n")?;
        }
        let inner = Inner {
            journal: Journal::new(JOURNAL_EVENTS),
            repeats: Repeats::default(),
            offset: 0,
            early: Some(Vec::new()),
            waiting: false,
            ending: false,
        };
        let shared = Arc::new(Shared {
            inner: Mutex::new(inner),
            events: Condvar::new(),
            read: Condvar::new(),
            latest: watch::Sender::new(0),
        });
        let disk = Disk { directory: directory.to_path_buf(), file: Some(file), bytes, failed: false };
        let writer = {
            let shared = Arc::clone(&shared);
            let write = move || {
                let written = shared.replay(old);
                shared.write(disk, written);
            };
            thread::Builder::new().name("journal".into()).spawn(write)?
        };
        Ok(Arc::new(Self { shared, writer: Some(writer) }))
    }

    /// Until what earlier runs wrote is there.
    pub(crate) async fn wait_until_read(&self) {
        let mut latest = self.shared.latest.subscribe();
        // It changes when all is read, and lives as long as we do.
        while self.shared.inner().early.is_some() && latest.changed().await.is_ok() {}
    }

    /// Where the parts of the appliance put their events.
    pub(crate) fn sink(self: &Arc<Self>) -> Sink {
        let this = Arc::clone(self);
        Arc::new(move |event| this.record(event))
    }

    fn record(&self, event: Event) {
        let mut inner = self.shared.inner();
        if inner.repeats.has(&event) {
            return;
        }
        if let Some(early) = &mut inner.early {
            // More than the journal holds would be forgotten again.
            if early.len() < JOURNAL_EVENTS {
                early.push(event);
            }
            return;
        }
        inner.journal.record(event);
        if std::mem::take(&mut inner.waiting) {
            self.shared.events.notify_one();
        }
    }

    /// All written entries after number `seq` that are still in memory; 0 means all. Waits until those of earlier
    /// runs are read ([`Recorder::wait_until_read`]).
    pub(crate) fn since(&self, seq: u64) -> Vec<Entry> {
        let inner = self.shared.inner();
        let inner = self.shared.read.wait_while(inner, |inner| inner.early.is_some());
        let inner = inner.unwrap_or_else(PoisonError::into_inner);
        let latest = *self.shared.latest.borrow();
        let entries = inner.since(seq.saturating_sub(inner.offset));
        entries.take_while(|entry| entry.seq <= latest).collect()
    }

    /// The number of the last entry that is written, as it changes.
    pub(crate) fn follow(&self) -> watch::Receiver<u64> {
        self.shared.latest.subscribe()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.shared.inner().ending = true;
        self.shared.events.notify_one();
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has said so.
            let _ = writer.join();
        }
    }
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what earlier runs wrote, then what was told meanwhile; the number of the last one that is on disk.
    fn replay(&self, files: Vec<File>) -> u64 {
        let mut journal = Journal::new(JOURNAL_EVENTS);
        let mut last_seq = 0;
        for file in files {
            let read = read_entries(file, |entry| {
                last_seq = entry.seq;
                journal.record(entry.event);
            });
            if let Err(error) = read {
                tracing::warn!(%error, "a part of the boot journal cannot be read");
            }
        }
        let written = journal.last_seq();
        // Where lines are missing the older ones move up: no number is given twice.
        let offset = last_seq.saturating_sub(written);
        let mut inner = self.inner();
        for event in inner.early.take().unwrap_or_default() {
            journal.record(event);
        }
        (inner.journal, inner.offset) = (journal, offset);
        self.latest.send_replace(offset + written);
        drop(inner);
        self.read.notify_all();
        written
    }

    /// The writer's thread: everything after `written`, until the end.
    fn write(&self, mut disk: Disk, mut written: u64) {
        loop {
            let mut inner = self.inner();
            while inner.journal.last_seq() == written && !inner.ending {
                inner.waiting = true;
                inner = self.events.wait(inner).unwrap_or_else(PoisonError::into_inner);
            }
            let (ending, last) = (inner.ending, inner.journal.last_seq());
            drop(inner);
            log::batch(|| {
                while written < last {
                    written = self.write_batch(&mut disk, written);
                }
            });
            if ending {
                return;
            }
            thread::sleep(WRITE_PAUSE);
        }
    }

    /// Writes some entries after `written`; the number of the last of them.
    fn write_batch(&self, disk: &mut Disk, written: u64) -> u64 {
        let inner = self.inner();
        let (offset, last) = (inner.offset, inner.journal.last_seq());
        let entries: Vec<Entry> = inner.since(written).take(BATCH).collect();
        drop(inner);
        let lost = entries.first().map_or(0, |entry| entry.seq - offset - written - 1);
        if lost > 0 {
            tracing::warn!(lost, "events came faster than they can be written; the journal has a gap");
        }
        for (at, entry) in entries.iter().enumerate() {
            let_others_run(at);
            tracing::info!(
                target: "journal",
                mac = entry.event.mac.map(tracing::field::display),
                uuid = entry.event.uuid.map(tracing::field::display),
                "{}", entry.event.step
            );
        }
        disk.append(&entries);
        let written = entries.last().map_or(last, |entry| entry.seq - offset);
        self.latest.send_replace(offset + written);
        written
    }
}

impl Inner {
    fn since(&self, seq: u64) -> impl Iterator<Item = Entry> {
        self.journal.since(seq).map(|(at, event)| Entry { seq: self.offset + at, event: event.clone() })
    }
}

/// The journal's files.
struct Disk {
    directory: PathBuf,
    file: Option<File>,
    bytes: u64,
    failed: bool,
}

impl Disk {
    /// Appends without fsync: after a power cut the last seconds of the journal may be missing, never
    /// a decision. A full disk costs the file, not the boot.
    fn append(&mut self, entries: &[Entry]) {
        let mut lines = Vec::with_capacity(entries.len() * 256);
        for (at, entry) in entries.iter().enumerate() {
            let_others_run(at);
            let start = lines.len();
            if serde_json::to_writer(&mut lines, entry).is_err() {
                lines.truncate(start);
                continue;
            }
            lines.push(b'\n');
            if self.bytes + lines.len() as u64 > FILE_BYTES_MAX {
                let line = lines.split_off(start);
                self.put(&lines);
                self.rotate();
                lines = line;
            }
        }
        self.put(&lines);
    }

    fn put(&mut self, lines: &[u8]) {
        let Some(file) = &mut self.file else { return };
        match file.write_all(lines) {
            Ok(()) => {
                self.bytes += lines.len() as u64;
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
            Ok(file) => self.file = Some(file),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "cannot rotate the boot journal");
            }
        }
        // When it failed: try again after another file's worth of events.
        self.bytes = 0;
    }
}

/// See [`TURN`].
fn let_others_run(at: usize) {
    if at % TURN == TURN - 1 {
        thread::yield_now();
    }
}

/// `None` when it is not there.
fn open_for_reading(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_entries(file: File, mut take: impl FnMut(Entry)) -> io::Result<()> {
    for (at, line) in BufReader::new(file).split(b'\n').enumerate() {
        let_others_run(at);
        let line = line?;
        if line.is_empty() || line.len() > LINE_BYTES_MAX {
            continue;
        }
        match serde_json::from_slice::<Entry>(&line) {
            Ok(entry) => take(entry),
            Err(error) => tracing::debug!(%error, "passing over a torn journal line"),
        }
    }
    Ok(())
}

/// Milliseconds since 1970, for [`Event::at_ms`].
pub(crate) fn unix_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
