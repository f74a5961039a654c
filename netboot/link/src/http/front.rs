//! HTTP/1 of the boot path on the bare socket: heads read and written here, bodies of files moved by the kernel
//! (`sendfile`). Everything else goes to hyper with the bytes that were read.
//!
//! ```text
//!            head complete, a path of ours          file: sendfile
//!   Reading ──────────────────────────────► Answering ────────────► Reading …
//!     │ another path, method, HTTP/2            │ "close"
//!     ▼                                         ▼
//!   hyper                                     closed
//! ```

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use nix::libc;
use nix::sys::sendfile::sendfile;
use nix::sys::socket::{MsgFlags, send};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, Body, Boot, FilePart, Question};
use super::head::{HEAD_MAX, Head, read};
use super::server::{FIRST_REQUEST, MAX_CONNECTIONS};
use super::wire;
use crate::sys::is_cached;

/// As [`FIRST_REQUEST`] when more than half of all connections are taken: whoever holds them open without a
/// request makes room for those that boot, whose request comes with their first packets.
const CROWDED: Duration = Duration::from_secs(2);
/// How often it is looked whether a wait has become too long.
const TICK: Duration = Duration::from_secs(1);
/// A client that takes nothing for so long while it keeps the connection alive is cut off.
const STALL: Duration = Duration::from_secs(60);
/// Bytes read at once: a request fits.
const READ: usize = 1024;
/// Bytes of a file that are looked after together, so that no thread of the runtime waits for a disk: long
/// enough that the look (two system calls) does not show.
const CHUNK: u64 = 1 << 20;
/// Bytes of one call that sends: more than a send buffer gets free at a time, so that it is the client who ends a
/// call, not we. Each end costs a short packet.
const CALL: u64 = 2 << 20;
/// Bytes of one read that fetches a chunk from disk.
const FETCH: usize = 128 << 10;

/// How a connection ended here.
pub(super) enum End {
    /// It is closed.
    Over,
    /// It goes on with hyper, which has these bytes to read first.
    HandOver(TcpStream, Vec<u8>),
}

/// Serves requests until the connection ends or something for hyper comes.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    boot: &Boot,
    slots: &Semaphore,
    shutdown: &CancellationToken,
) -> End {
    let now = Instant::now();
    let tick = Box::pin(tokio::time::sleep_until(now + TICK));
    let mut link = Link { stream, tick, since: now, slots, shutdown };
    let (mut buffer, mut out) = (Vec::new(), Vec::new());
    match requests(&mut link, peer, boot, &mut buffer, &mut out).await {
        Ok(true) => return End::HandOver(link.stream, buffer),
        Ok(false) => {}
        Err(error) => tracing::debug!(%peer, %error, "connection broke"),
    }
    End::Over
}

/// Whether the connection goes to hyper.
async fn requests(
    link: &mut Link<'_>,
    peer: SocketAddr,
    boot: &Boot,
    buffer: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> io::Result<bool> {
    let peer = peer.ip().to_canonical();
    let mut searched = 0;
    loop {
        let request = match read(buffer, &mut searched) {
            Head::Request(request) => request,
            Head::Other => return Ok(true),
            Head::Partial if buffer.len() >= HEAD_MAX => {
                let answer = Answer::text(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "");
                wire::head(&answer, false, false, out);
                link.write(out, false).await?;
                return Ok(false);
            }
            Head::Partial => {
                if !link.read(buffer).await? {
                    return Ok(false);
                }
                continue;
            }
        };
        let question = Question {
            head: request.head,
            path: request.path,
            query: request.query,
            range: request.range,
            peer,
        };
        let Some(answer) = boot.answer(question).await else { return Ok(true) };
        let (keep, old, length) =
            (request.keep && !link.shutdown.is_cancelled(), request.old, request.length);
        out.clear();
        wire::head(&answer, keep, old, out);
        link.answer(answer.body, out).await?;
        if !keep {
            link.stream.shutdown().await?;
            return Ok(false);
        }
        buffer.drain(..length);
        link.since = Instant::now();
    }
}

/// A connection and how long it has waited.
struct Link<'a> {
    stream: TcpStream,
    tick: Pin<Box<Sleep>>,
    /// When the present wait began: for a whole request, or for the client to take what is sent.
    since: Instant,
    slots: &'a Semaphore,
    shutdown: &'a CancellationToken,
}

impl Link<'_> {
    /// Reads more of a request; whether there is any. A request that comes byte by byte has no more time than
    /// one that does not come.
    async fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<bool> {
        buffer.reserve(READ);
        let mut ending = std::pin::pin!(self.shutdown.cancelled());
        loop {
            // Cancel-safe: a read that loses has read nothing, the others only wait.
            tokio::select! {
                biased;
                count = self.stream.read_buf(buffer) => return Ok(count? > 0),
                () = &mut ending => return Ok(false),
                () = self.tick.as_mut() => {
                    self.tick.as_mut().reset(Instant::now() + TICK);
                    let crowded = self.slots.available_permits() < MAX_CONNECTIONS / 2;
                    if self.since.elapsed() >= if crowded { CROWDED } else { FIRST_REQUEST } {
                        return Ok(false);
                    }
                }
            }
        }
    }

    async fn answer(&mut self, body: Body, out: &mut Vec<u8>) -> io::Result<()> {
        match body {
            Body::None => self.write(out, false).await,
            Body::Bytes(bytes) if bytes.len() <= READ * 4 => {
                out.extend_from_slice(&bytes);
                self.write(out, false).await
            }
            Body::Bytes(bytes) => {
                self.write(out, true).await?;
                self.write(&bytes, false).await
            }
            Body::File(part) => {
                self.write(out, !part.range.is_empty()).await?;
                self.send_file(part).await
            }
        }
    }

    /// Sends all bytes; with `more` the kernel may keep them for what comes next.
    async fn write(&mut self, mut bytes: &[u8], more: bool) -> io::Result<()> {
        let more = if more { libc::MSG_MORE } else { 0 };
        let flags = MsgFlags::from_bits_retain(more | libc::MSG_NOSIGNAL);
        while !bytes.is_empty() {
            let send = || Ok(send(self.stream.as_raw_fd(), bytes, flags)?);
            match self.stream.try_io(Interest::WRITABLE, send) {
                Ok(sent) => {
                    self.since = Instant::now();
                    bytes = &bytes[sent..];
                }
                Err(error) => drop(self.wait(error).await?),
            }
        }
        Ok(())
    }

    async fn send_file(&mut self, part: FilePart) -> io::Result<()> {
        let FilePart { file, range, done } = part;
        let file = Arc::new(file);
        let (mut at, mut cached, mut woken) = (range.start, range.start, Woken::Ready);
        while at < range.end {
            let end = range.end.min(at + CALL);
            while cached < end {
                let (from, to) = (cached, range.end.min(cached + CHUNK));
                if !(is_cached(&*file, from) && is_cached(&*file, to - 1)) {
                    let file = file.clone();
                    tokio::task::spawn_blocking(move || fetch(&file, from, to))
                        .await
                        .map_err(io::Error::other)??;
                }
                cached = to;
            }
            (at, woken) = self.send_some(&file, at..end, woken).await?;
        }
        done(range.end - range.start);
        Ok(())
    }

    /// Sends what the client takes of a part of a file, which is in the kernel's cache. Up to where, and, when that is
    /// not all, what ended the wait for more room.
    async fn send_some(&mut self, file: &File, part: Range<u64>, woken: Woken) -> io::Result<(u64, Woken)> {
        let mut offset = i64::try_from(part.start).map_err(io::Error::other)?;
        let wanted = usize::try_from(part.end - part.start).unwrap_or(usize::MAX);
        let mut partly = 0;
        let mut send = || match sendfile(&self.stream, file, Some(&mut offset), wanted)? {
            // It is full: the client's next ACK wakes us, and to try again before costs a call each time.
            sent if 0 < sent && sent < wanted => {
                partly = sent;
                Err(io::ErrorKind::WouldBlock.into())
            }
            sent => Ok(sent),
        };
        // Who is late tries without having been woken: what ended a call early may have been something else.
        let result = match woken {
            Woken::Late => send(),
            Woken::Ready => self.stream.try_io(Interest::WRITABLE, send),
        };
        if partly > 0 || matches!(result, Ok(1..)) {
            self.since = Instant::now();
        }
        match result {
            // The file shrank. The promised length cannot be kept, so the connection must break.
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(sent) => Ok((part.start + sent as u64, Woken::Ready)),
            Err(error) => Ok((part.start + partly as u64, self.wait(error).await?)),
        }
    }

    /// Waits until the client takes more, unless the error is another.
    async fn wait(&mut self, error: io::Error) -> io::Result<Woken> {
        match error.kind() {
            io::ErrorKind::WouldBlock => {}
            io::ErrorKind::Interrupted => return Ok(Woken::Ready),
            _ => return Err(error),
        }
        // Cancel-safe: both only wait.
        tokio::select! {
            biased;
            ready = self.stream.writable() => ready.map(|()| Woken::Ready),
            () = self.tick.as_mut() => {
                self.tick.as_mut().reset(Instant::now() + TICK);
                if self.since.elapsed() >= STALL {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Ok(Woken::Late)
            }
        }
    }
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    /// The socket takes more.
    Ready,
    /// Nothing within [`TICK`].
    Late,
}

/// Has the kernel read a part of a file into its cache.
fn fetch(file: &File, mut at: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; FETCH];
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(FETCH).min(FETCH);
        match file.read_at(&mut buffer[..wanted], at)? {
            0 => break,
            count => at += count as u64,
        }
    }
    Ok(())
}
