//! A file as a body: read piece by piece off the runtime's threads, one piece ahead of the wire.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;

use super::answer::Done;

/// Bytes of a piece: long enough that its system calls and the hop to a thread do not show.
const PIECE: u64 = 256 << 10;
/// Bytes of a piece while many files are being served, so that all connections together hold some 130 MiB at
/// worst (two pieces each: one in hyper's hands, one ahead).
const SMALL_PIECE: u64 = 64 << 10;
/// From how many files at once pieces are small.
const MANY: usize = 64;

/// Bodies alive in this process.
static BODIES: AtomicUsize = AtomicUsize::new(0);

/// A part of a file.
pub(super) struct FileBody {
    ahead: Option<JoinHandle<io::Result<(File, Bytes)>>>,
    length: u64,
    remaining: u64,
    done: Option<Done>,
}

impl FileBody {
    /// The bytes of `range`; `done` is called when the last of them is handed on.
    pub(super) fn new(file: File, range: Range<u64>, done: Done) -> Self {
        BODIES.fetch_add(1, Ordering::Relaxed);
        let length = range.end.saturating_sub(range.start);
        let mut body = Self { ahead: None, length, remaining: length, done: Some(done) };
        if length == 0 {
            body.finish();
        } else {
            body.ahead = Some(read(file, Some(range.start), length));
        }
        body
    }

    fn finish(&mut self) {
        if let Some(done) = self.done.take() {
            done(self.length);
        }
    }
}

impl Drop for FileBody {
    fn drop(&mut self) {
        BODIES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads the next piece on a thread that may block.
fn read(mut file: File, seek: Option<u64>, remaining: u64) -> JoinHandle<io::Result<(File, Bytes)>> {
    let piece = if BODIES.load(Ordering::Relaxed) > MANY { SMALL_PIECE } else { PIECE }.min(remaining);
    tokio::task::spawn_blocking(move || {
        if let Some(start) = seek {
            file.seek(SeekFrom::Start(start))?;
        }
        let mut bytes = Vec::with_capacity(usize::try_from(piece).unwrap_or_default());
        (&file).take(piece).read_to_end(&mut bytes)?;
        Ok((file, bytes.into()))
    })
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Some(ahead) = &mut self.ahead else { return Poll::Ready(None) };
        let result = ready!(Pin::new(ahead).poll(context));
        self.ahead = None;
        let (file, bytes) = match result.map_err(io::Error::other).flatten() {
            Ok(piece) => piece,
            Err(error) => return Poll::Ready(Some(Err(error))),
        };
        if bytes.is_empty() {
            // The file shrank. The promised length cannot be kept, so the connection must break.
            return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
        }
        self.remaining = self.remaining.saturating_sub(bytes.len() as u64);
        if self.remaining == 0 {
            self.finish();
        } else {
            let remaining = self.remaining;
            self.ahead = Some(read(file, None, remaining));
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}
