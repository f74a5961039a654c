//! What the boot path answers: one decision for every way that a question comes by, HTTP/1.1 read by our own
//! front or anything that hyper speaks.

use std::fs::File;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use netboot::boot::BootPolicy;
use netboot::journal::{Event, Sink, Step};
use netboot::tftp::Files;
use netboot_assets::{AssetDir, AssetError, BootFiles};

use super::range::{Wanted, wanted};
use super::{HttpConfig, path, script};
use crate::clock::unix_ms;

/// The paths of the boot path, as axum writes them. Every one of them is answered by [`Boot::answer`].
pub(super) const PATHS: [&str; 6] = [
    "/ipxe/init.ipxe",
    "/ipxe/boot.ipxe",
    "/config",
    "/tftp/{*name}",
    "/assets/{*path}",
    "/image/{schematic}/{version}/{file}",
];

/// What the boot path is answered from.
pub(super) struct Boot {
    pub(super) policy: Arc<dyn BootPolicy>,
    pub(super) sink: Sink,
    init_script: Bytes,
    files: Arc<BootFiles>,
    assets: AssetDir,
}

/// A question by GET or HEAD.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    /// Only the head is wanted.
    pub(super) head: bool,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    /// The header `Range`.
    pub(super) range: Option<&'a str>,
    pub(super) peer: IpAddr,
}

/// The answer to it.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    /// Nobody may keep a copy.
    pub(super) secret: bool,
    /// It is of a file, of which parts can be had.
    pub(super) ranges: bool,
    /// The header `Content-Range`.
    pub(super) part: Option<String>,
    /// Of the body, also when only the head is wanted.
    pub(super) length: u64,
    pub(super) body: Body,
}

pub(super) enum Body {
    /// Nothing follows the head: it was asked for alone, or there is nothing.
    None,
    Bytes(Bytes),
    File(FilePart),
}

/// What is called with the number of bytes when all of them went out.
pub(super) type Done = Box<dyn FnOnce(u64) + Send>;

pub(super) struct FilePart {
    pub(super) file: File,
    pub(super) range: Range<u64>,
    pub(super) done: Done,
}

const TEXT: &str = "text/plain; charset=utf-8";
const OCTETS: &str = "application/octet-stream";

impl Answer {
    /// A text. The body stays when only the head is asked for: [`Boot::answer`] takes it off.
    pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self {
            status,
            kind: TEXT,
            secret: false,
            ranges: false,
            part: None,
            length: body.len() as u64,
            body: Body::Bytes(body),
        }
    }

    fn not_found() -> Self {
        Self::text(StatusCode::NOT_FOUND, &b"no such file\n"[..])
    }

    fn failed() -> Self {
        Self::text(StatusCode::INTERNAL_SERVER_ERROR, Bytes::new())
    }
}

impl Boot {
    pub(super) fn new(config: HttpConfig) -> Self {
        let HttpConfig { policy, files, assets, init_script, sink } = config;
        Self { policy, sink, init_script: init_script.into(), files, assets }
    }

    /// Answers, or says by `None` that the path is none of the boot path's.
    pub(super) async fn answer(&self, question: Question<'_>) -> Option<Answer> {
        let path = question.path;
        let mut answer = match path {
            "/ipxe/boot.ipxe" => script::boot(self, question),
            "/ipxe/init.ipxe" => Answer::text(StatusCode::OK, self.init_script.clone()),
            "/config" => script::config(self, question),
            _ if path.starts_with("/tftp/") => self.boot_file(question),
            _ if path.starts_with("/assets/") => self.asset(question, "/assets/").await,
            _ if is_image(path) => self.asset(question, "/").await,
            _ => return None,
        };
        if question.head {
            answer.body = Body::None;
        }
        Some(answer)
    }

    /// `/tftp/<name>`: from memory.
    fn boot_file(&self, question: Question<'_>) -> Answer {
        let Some(name) = path::plain(question.path, "/tftp/") else { return Answer::not_found() };
        let Some(bytes) = self.files.open(&name) else { return Answer::not_found() };
        part(question, bytes.len() as u64, |range| {
            let step = Step::FileServed { path: name, bytes: range.end - range.start };
            (self.sink)(Event::new(unix_ms(), step).with_address(question.peer));
            let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
            Body::Bytes(Bytes::from_owner(bytes).slice(index(range.start)..index(range.end)))
        })
    }

    /// `/assets/<path>` and `/image/<schematic>/<version>/<file>`: from the asset directory, where images have
    /// the same path as here.
    async fn asset(&self, question: Question<'_>, prefix: &str) -> Answer {
        let started = Instant::now();
        let Some(name) = path::plain(question.path, prefix) else { return Answer::not_found() };
        let (assets, path) = (self.assets.clone(), name.clone());
        let (file, length) = match tokio::task::spawn_blocking(move || assets.open(&path)).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(AssetError::NotFound)) => return Answer::not_found(),
            Ok(Err(AssetError::Io(error))) => {
                tracing::warn!(%error, path = name, "cannot open an asset");
                return Answer::failed();
            }
            Err(error) => {
                tracing::warn!(%error, "the lookup of an asset did not run");
                return Answer::failed();
            }
        };
        part(question, length, |range| {
            let (sink, peer) = (self.sink.clone(), question.peer);
            let done = Box::new(move |bytes| {
                let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                let step = Step::AssetServed { path: name, bytes, millis };
                sink(Event::new(unix_ms(), step).with_address(peer));
            });
            Body::File(FilePart { file, range, done })
        })
    }
}

/// `/image/<schematic>/<version>/<file>`.
fn is_image(path: &str) -> bool {
    path.strip_prefix("/image/").is_some_and(|rest| rest.split('/').count() == 3)
}

/// The status and headers for a whole file, a part, or a part that is not there. `body` is not called when only
/// the head is wanted: a question for the size is no download.
fn part(question: Question<'_>, length: u64, body: impl FnOnce(Range<u64>) -> Body) -> Answer {
    let (status, range) = match wanted(question.range, length) {
        Wanted::All => (StatusCode::OK, 0..length),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::Unsatisfiable => {
            let part = Some(format!("bytes */{length}"));
            return Answer { part, ..Answer::text(StatusCode::RANGE_NOT_SATISFIABLE, Bytes::new()) };
        }
    };
    let is_part = status == StatusCode::PARTIAL_CONTENT;
    Answer {
        status,
        kind: OCTETS,
        secret: false,
        ranges: true,
        part: is_part.then(|| format!("bytes {}-{}/{length}", range.start, range.end - 1)),
        length: range.end - range.start,
        body: if question.head { Body::None } else { body(range) },
    }
}
