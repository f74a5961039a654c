//! An answer's head as HTTP/1 writes it.

use std::cell::RefCell;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::answer::Answer;

/// Bytes of a date: `Sun, 06 Nov 1994 08:49:37 GMT`.
const DATE: usize = 29;

/// Writes the head behind what `out` holds.
pub(super) fn head(answer: &Answer, keep: bool, old: bool, out: &mut Vec<u8>) {
    let reason = answer.status.canonical_reason().unwrap_or("Answer");
    let status = answer.status.as_str();
    // Writing to memory does not fail.
    let _ = write!(
        out,
        "HTTP/1.1 {status} {reason}\r\ncontent-type: {}\r\ncontent-length: {}\r\n",
        answer.kind, answer.length
    );
    if answer.ranges {
        out.extend_from_slice(b"accept-ranges: bytes\r\n");
    }
    if answer.secret {
        out.extend_from_slice(b"cache-control: no-store\r\n");
    }
    if let Some(part) = &answer.part {
        let _ = write!(out, "content-range: {part}\r\n");
    }
    if !keep {
        out.extend_from_slice(b"connection: close\r\n");
    } else if old {
        out.extend_from_slice(b"connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"date: ");
    out.extend_from_slice(&date());
    out.extend_from_slice(b"\r\n\r\n");
}

/// Now; written once a second.
fn date() -> [u8; DATE] {
    thread_local! {
        static LAST: RefCell<(u64, [u8; DATE])> = const { RefCell::new((0, [b' '; DATE])) };
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    LAST.with_borrow_mut(|(second, text)| {
        if *second != now {
            let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(now));
            if let Some(new) = date.as_bytes().first_chunk() {
                (*second, *text) = (now, *new);
            }
        }
        *text
    })
}
