//! The driver: one task that moves frames from the wire to the TAPs, and one for each TAP that moves them to the
//! wire.

use std::fs::File;
use std::io::{self, IoSlice, Read};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::uio::writev;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::check::{Refused, check};
use super::counters::{Counters, count};
use super::{Network, Stack};
use crate::frames::{CARD_HEADER, Frames, HEADER, Inbox, VlanId};
use crate::sys::batch::Outgoing;
use crate::sys::watch;

/// The longest frame, of the kernel's uncut segments, with its headers.
const LONGEST: usize = 68 << 10;
/// Frames from the wire taken at once. They are short but for the first part of an upload, so only a little of the
/// room is ever touched.
const FROM_WIRE: usize = 16;
/// Frames to the wire sent at once: short ones.
const TO_WIRE: usize = 16;
/// Bytes to the wire sent at once: what was read is still in the processor's cache when it is sent.
const BYTES_TO_WIRE: usize = 64 << 10;
/// Pause after an error of a socket that is not over by itself (the interface went down).
const ERROR_PAUSE: Duration = Duration::from_millis(200);

/// Where the frames of a VLAN go.
struct Port {
    vlan: Option<VlanId>,
    network: Network,
    tap: AsyncFd<File>,
}

pub(super) async fn run(stack: Stack, shutdown: CancellationToken) -> io::Result<()> {
    let Stack { socket, mut links, counters, .. } = stack;
    let Some(socket) = socket else {
        // The kernel moves the frames; what `links` hold is held until the end.
        shutdown.cancelled().await;
        return Ok(());
    };
    let frames = Arc::new(socket.register()?);
    let mut ports = Vec::new();
    for link in &mut links {
        let Some(tap) = link.namespace.take_tap() else { continue };
        ports.push(Arc::new(Port { vlan: link.vlan, network: link.network, tap: watch(tap)? }));
    }
    let mut tasks = JoinSet::new();
    for port in &ports {
        tasks.spawn(to_wire(port.clone(), frames.clone(), counters.clone()));
    }
    tasks.spawn(from_wire(frames, ports, counters));
    // Cancel-safe: both only wait. The tasks are dropped, frames in them are lost as on any wire.
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        Some(ended) = tasks.join_next() => ended.map_err(io::Error::other)?,
    }
}

async fn from_wire(frames: Arc<Frames>, ports: Vec<Arc<Port>>, counters: Arc<Counters>) -> io::Result<()> {
    let mut inbox = Inbox::new(FROM_WIRE, LONGEST);
    loop {
        frames.readable().await?;
        if let Err(error) = inbox.receive(&frames) {
            tracing::warn!(%error, "cannot receive");
            tokio::time::sleep(ERROR_PAUSE).await;
            continue;
        }
        for frame in inbox.frames() {
            let Some(port) = ports.iter().find(|port| port.vlan == frame.vlan) else {
                count(&counters.other_vlan);
                continue;
            };
            match check(&frame, port.network) {
                Ok(()) => {}
                Err(refused) => {
                    count(match refused {
                        Refused::Malformed => &counters.malformed,
                        Refused::Checksum => &counters.checksum,
                        Refused::Foreign => &counters.foreign,
                        Refused::Elsewhere => &counters.elsewhere,
                    });
                    continue;
                }
            }
            // The kernel takes a frame at once or not at all: it never makes a writer of a TAP wait.
            match writev(port.tap.get_ref(), &[IoSlice::new(frame.card), IoSlice::new(frame.bytes)]) {
                Ok(_) => count(&counters.received),
                Err(_) => count(&counters.malformed),
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn to_wire(port: Arc<Port>, frames: Arc<Frames>, counters: Arc<Counters>) -> io::Result<()> {
    let tag = port.vlan.map(VlanId::tag);
    let mut buffers = vec![(vec![0; LONGEST].into_boxed_slice(), 0); TO_WIRE];
    loop {
        let taken = take(&port.tap, &mut buffers, tag.is_some()).await?;
        let messages: [Outgoing<'_>; TO_WIRE] = std::array::from_fn(|index| {
            let (bytes, length) = &buffers[index];
            let (card, frame) = bytes[..*length.max(&(CARD_HEADER + HEADER))].split_at(CARD_HEADER);
            let (addresses, rest) = frame.split_at(12);
            Outgoing {
                parts: [card, addresses, tag.as_ref().map_or(&[], |tag| &tag[..]), rest],
                ..Outgoing::default()
            }
        });
        let mut at = 0;
        while at < taken {
            match frames.send_parts(&messages[at..taken]) {
                Ok(sent) => {
                    at += sent;
                    (0..sent).for_each(|_| count(&counters.sent));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => frames.writable().await?,
                Err(error) => {
                    // Lost as on any wire: the interface's queue is full, or it went down.
                    tracing::trace!(%error, "cannot send");
                    count(&counters.full);
                    at += 1;
                }
            }
        }
    }
}

/// Waits for frames and takes those that are there; how many.
async fn take(tap: &AsyncFd<File>, buffers: &mut [(Box<[u8]>, usize)], tagged: bool) -> io::Result<usize> {
    loop {
        let (mut taken, mut total) = (0, 0);
        while total < BYTES_TO_WIRE
            && let Some((bytes, length)) = buffers.get_mut(taken)
        {
            match tap.try_io(Interest::READABLE, |mut tap| tap.read(bytes)) {
                Ok(read) if read < CARD_HEADER + HEADER => {}
                Ok(read) => {
                    *length = read;
                    total += read;
                    if tagged {
                        make_room_for_tag(&mut bytes[..CARD_HEADER]);
                    }
                    taken += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if taken > 0 {
            return Ok(taken);
        }
        tap.readable().await?.retain_ready();
    }
}

/// Moves on what the header of the card says of places in the frame. `struct virtio_net_hdr`: flags, kind of cutting,
/// then in 16 bits each: bytes of the headers, of a segment, where the checksum begins, where in there it is put.
fn make_room_for_tag(card: &mut [u8]) {
    const TAG: u16 = 4;
    let [checksum_is_left, is_cut] = [card[0] & 1 != 0, card[1] != 0];
    let mut move_on = |at: usize| {
        let value = u16::from_ne_bytes([card[at], card[at + 1]]).saturating_add(TAG);
        card[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    };
    if is_cut {
        move_on(2);
    }
    if checksum_is_left {
        move_on(6);
    }
}
