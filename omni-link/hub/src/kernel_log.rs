//! The kernel logs that machines send: Talos' `KmsgLogConfig`, a JSON object a line.
//!
//! ```text
//! machine --TCP--> receive --lines--> the machine's ring --> readers, who follow it
//! ```
//!
//! They are kept in memory only, the newest lines of each machine. Lines of a caller that no machine is known at yet
//! are kept by its address, and become the machine's when it joins from there: the log of a machine that never
//! joins is there too.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Hub;
use crate::limits::{
    LOG_BURST, LOG_CONNECTIONS, LOG_LINES_PER_SECOND, MAX_LOG_BYTES, MAX_LOG_CONNECTIONS, MAX_LOG_LINE,
    MAX_MACHINE_LOG, RETRY_PAUSE,
};

/// All logs. Clones are the same.
#[derive(Clone)]
pub(crate) struct KernelLogs {
    inner: Arc<Mutex<Inner>>,
    latest: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    /// By machine, or by address as long as the machine is not known.
    logs: HashMap<String, Log>,
    /// Bytes of all lines.
    bytes: usize,
    /// Number of the last line, of any machine.
    last: u64,
    /// The connections of each address, eldest first.
    connections: HashMap<IpAddr, VecDeque<(u64, CancellationToken)>>,
    connected: u64,
}

struct Log {
    lines: VecDeque<(u64, Bytes)>,
    bytes: usize,
    bucket: Bucket,
    /// Lines that came too fast, since the last that did not.
    dropped: u64,
}

/// How many lines may come now.
struct Bucket {
    left: u32,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let whole =
            now.saturating_duration_since(self.at).as_millis() * u128::from(LOG_LINES_PER_SECOND) / 1000;
        if whole > 0 {
            self.left = u32::try_from(whole).unwrap_or(u32::MAX).saturating_add(self.left).min(LOG_BURST);
            self.at = now;
        }
        self.left.checked_sub(1).map(|left| self.left = left).is_some()
    }
}

impl Default for KernelLogs {
    fn default() -> Self {
        Self { inner: Arc::default(), latest: watch::Sender::new(0) }
    }
}

impl KernelLogs {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a line. One that comes too fast is counted, and so is told of in the next that is kept.
    fn push(&self, key: &str, line: &[u8], now: Instant) {
        let mut inner = self.lock();
        let log = inner.logs.entry(key.to_owned()).or_insert_with(|| Log::new(now));
        if !log.bucket.take(now) {
            log.dropped += 1;
            return;
        }
        let dropped = std::mem::take(&mut log.dropped);
        if dropped > 0 {
            let note = format!(
                "{{\"msg\":\"{dropped} lines came too fast and were dropped\",\"talos-level\":\"warn\"}}"
            );
            inner.append(key, Bytes::from(note));
        }
        inner.append(key, Bytes::copy_from_slice(line));
        let last = inner.last;
        drop(inner);
        self.latest.send_replace(last);
    }

    /// What was kept by address is the machine's.
    fn adopt(&self, machine: &str, address: &str) {
        let mut inner = self.lock();
        let Some(found) = inner.logs.remove(address) else { return };
        inner.bytes -= found.bytes;
        // Numbered anew: who follows the machine sees them, too.
        for (_, line) in found.lines {
            inner.append(machine, line);
        }
        let last = inner.last;
        drop(inner);
        self.latest.send_replace(last);
    }

    /// The lines of a machine after a number, at most the last `limit` of them, and the number to go on from.
    pub(crate) fn after(&self, key: &str, number: u64, limit: usize) -> (Vec<Bytes>, u64) {
        let inner = self.lock();
        let Some(log) = inner.logs.get(key) else { return (Vec::new(), number) };
        let from = log.lines.partition_point(|(at, _)| *at <= number);
        let from = from.max(log.lines.len().saturating_sub(limit));
        let lines = log.lines.range(from..).map(|(_, line)| line.clone()).collect();
        (lines, log.lines.back().map_or(number, |(at, _)| number.max(*at)))
    }

    /// Whose logs there are: machines, and addresses of unknown ones.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.lock().logs.keys().cloned().collect()
    }

    /// Changes with each line of any machine.
    pub(crate) fn latest(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    /// The machine is gone, and so is its log.
    pub(crate) fn forget(&self, machine: &str) {
        let mut inner = self.lock();
        if let Some(log) = inner.logs.remove(machine) {
            inner.bytes -= log.bytes;
        }
    }

    /// Takes in a connection; the eldest of the same address ends when there are too many: a machine that lost its
    /// power says no goodbye.
    fn connected(&self, peer: IpAddr) -> Connection {
        let mut inner = self.lock();
        inner.connected += 1;
        let number = inner.connected;
        let ended = CancellationToken::new();
        let connections = inner.connections.entry(peer).or_default();
        connections.push_back((number, ended.clone()));
        if connections.len() > LOG_CONNECTIONS
            && let Some((_, eldest)) = connections.pop_front()
        {
            eldest.cancel();
        }
        drop(inner);
        Connection { logs: self.clone(), peer, number, ended }
    }
}

impl Inner {
    fn append(&mut self, key: &str, line: Bytes) {
        self.last += 1;
        let number = self.last;
        let log = self.logs.entry(key.to_owned()).or_insert_with(|| Log::new(Instant::now()));
        log.bytes += line.len();
        self.bytes += line.len();
        log.lines.push_back((number, line));
        while log.bytes > MAX_MACHINE_LOG {
            self.bytes -= log.drop_eldest();
        }
        while self.bytes > MAX_LOG_BYTES {
            // Whoever was silent for the longest time makes room; with it goes what it is told by.
            let silent = self.logs.iter().filter(|(other, _)| *other != key);
            let silent = silent.min_by_key(|(_, log)| log.lines.back().map(|(at, _)| *at));
            let Some(silent) = silent.map(|(other, _)| other.clone()) else { return };
            self.bytes -= self.logs.remove(&silent).map_or(0, |log| log.bytes);
        }
    }
}

impl Log {
    fn new(now: Instant) -> Self {
        let bucket = Bucket { left: LOG_BURST, at: now };
        Self { lines: VecDeque::new(), bytes: 0, bucket, dropped: 0 }
    }

    fn drop_eldest(&mut self) -> usize {
        let bytes = self.lines.pop_front().map_or(0, |(_, line)| line.len());
        self.bytes -= bytes;
        bytes
    }
}

/// A connection as long as it is read.
struct Connection {
    logs: KernelLogs,
    peer: IpAddr,
    number: u64,
    ended: CancellationToken,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut inner = self.logs.lock();
        if let Some(connections) = inner.connections.get_mut(&self.peer) {
            connections.retain(|(number, _)| *number != self.number);
            if connections.is_empty() {
                inner.connections.remove(&self.peer);
            }
        }
    }
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Received {
    /// Lines that were taken.
    pub lines: u64,
    /// Lines that were longer than a line may be, or no JSON object.
    pub dropped: u64,
}

impl Hub {
    /// [`Hub::receive_kernel_log`] of every connection, until `shutdown`. With too many at once new ones wait.
    pub async fn serve_kernel_logs<R: AsyncRead + Send + Unpin + 'static>(
        &self,
        connections: impl Stream<Item = io::Result<(R, IpAddr)>>,
        shutdown: CancellationToken,
    ) {
        let mut connections = pin!(connections);
        let mut received = JoinSet::new();
        loop {
            // Cancel-safe: a connection that is not taken now is taken by the next round.
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(_) = received.join_next() => {}
                connection = connections.next(), if received.len() < MAX_LOG_CONNECTIONS => match connection {
                    Some(Ok((connection, peer))) => {
                        let hub = self.clone();
                        received.spawn(async move { hub.log_of(connection, peer).await });
                    }
                    Some(Err(error)) => {
                        tracing::warn!(%error, "a machine that sends its kernel log is not heard");
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                    None => return,
                },
            }
        }
    }

    async fn log_of(&self, connection: impl AsyncRead + Unpin, peer: IpAddr) {
        match self.receive_kernel_log(connection, peer).await {
            Ok(Received { lines, dropped }) => {
                tracing::debug!(%peer, lines, dropped, "a machine's kernel log ended");
            }
            Err(error) => tracing::debug!(%peer, %error, "a machine's kernel log broke"),
        }
    }

    /// Takes the kernel log that the machine at `peer` sends, until it ends: by the machine, by a newer connection
    /// of the same machine, or when the machine is none.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn receive_kernel_log(
        &self,
        connection: impl AsyncRead + Unpin,
        peer: IpAddr,
    ) -> io::Result<Received> {
        let peer = peer.to_canonical();
        let address = peer.to_string();
        let held = self.logs.connected(peer);
        let mut lines = Lines::new(connection);
        let mut received = Received::default();
        let mut machine = None;
        loop {
            // Cancel-safe: what is read of a line that is given up is of a connection that ends.
            let line = tokio::select! {
                () = held.ended.cancelled() => return Ok(received),
                line = lines.next() => line?,
            };
            let Some(line) = line else { return Ok(received) };
            if !line.is_some_and(is_object) {
                received.dropped += 1;
                continue;
            }
            let Some(line) = line else { continue };
            if machine.is_none() {
                machine = self.linked_at(&address).await.ok().flatten();
                if let Some(machine) = &machine {
                    self.logs.adopt(machine, &address);
                }
            }
            received.lines += 1;
            let key = machine.as_deref().unwrap_or(&address);
            tracing::debug!(target: "kernel_log", machine = key, line = %String::from_utf8_lossy(line));
            self.logs.push(key, line, Instant::now());
        }
    }
}

/// Whether it is what Talos sends; read no further than that.
fn is_object(line: &[u8]) -> bool {
    serde_json::from_slice::<BTreeMap<String, serde::de::IgnoredAny>>(line).is_ok()
}

/// Lines of bounded length.
struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(reader: R) -> Self {
        Self { reader: BufReader::with_capacity(MAX_LOG_LINE, reader), line: Vec::new() }
    }

    /// The next line without its end: `None` at the end, `Some(None)` for one that is too long.
    async fn next(&mut self) -> io::Result<Option<Option<&[u8]>>> {
        self.line.clear();
        let mut too_long = false;
        loop {
            let piece = self.reader.fill_buf().await?;
            if piece.is_empty() {
                // A line without an end was cut off.
                return Ok(None);
            }
            let end = piece.iter().position(|byte| *byte == b'\n');
            let text = &piece[..end.unwrap_or(piece.len())];
            too_long |= self.line.len() + text.len() > MAX_LOG_LINE;
            if !too_long {
                self.line.extend_from_slice(text);
            }
            let used = text.len() + usize::from(end.is_some());
            self.reader.consume(used);
            if end.is_some() {
                return Ok(Some((!too_long).then_some(self.line.as_slice())));
            }
        }
    }
}

#[cfg(test)]
mod tests;
