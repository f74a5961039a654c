//! Ethernet frames of one interface, each with its VLAN: one socket serves an interface and every tagged VLAN
//! of a trunk, without VLAN interfaces and without a kernel address.
//!
//! The kernel takes a VLAN tag off a frame before a packet socket sees it and tells it beside the bytes
//! (`PACKET_AUXDATA`); a tag to be sent is put in here. What is not wanted is thrown away by a filter in the
//! kernel ([`filter`]) before it costs a system call. Frames go in batches both ways.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use netboot_link::frames::{FrameSocket, Inbox, Outbox, Settings, filter};
//!
//! let mut socket = FrameSocket::open("eth0", &Settings::new(&filter::EVERYTHING))?.register()?;
//! let (mut inbox, mut outbox) = (Inbox::new(32, 2048), Outbox::new());
//! loop {
//!     socket.readable().await?;
//!     if inbox.receive(&socket)? == 0 {
//!         continue;
//!     }
//!     for frame in inbox.frames() {
//!         outbox.push(frame.vlan, frame.bytes);
//!     }
//!     outbox.send(&socket)?;
//! }
//! # }
//! ```

pub mod filter;

use std::fmt;
use std::io;
use std::ops::Range;

use netboot::Mac;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt};
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys::PacketSocket;
use crate::sys::batch::{BATCH, Outgoing, ReceiveBatch, send_many};

/// Bytes of an Ethernet header without a tag.
pub const HEADER: usize = 14;
/// Bytes of the two addresses, after which a tag stands.
const ADDRESSES: usize = 12;
/// The EtherType of a tag (802.1Q).
const TAGGED: u16 = 0x8100;
/// The kernel's queue of frames not yet read: a thousand machines that are switched on at once (a short frame
/// takes about 1 KiB of it).
const RECEIVE_BUFFER: usize = 1 << 20;

/// Frames on their way to the card: some ten of the longest, so that it does not run dry between two batches.
pub(crate) const SEND_BUFFER: usize = 1 << 20;

/// A VLAN, 1 to 4094.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VlanId(u16);

impl VlanId {
    /// A VLAN's number, unless it is 0 or 4095, which name none.
    #[must_use]
    pub const fn new(id: u16) -> Option<Self> {
        if id == 0 || id >= 4095 { None } else { Some(Self(id)) }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The four bytes between the addresses and the EtherType of a frame.
    #[must_use]
    pub const fn tag(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (TAGGED.to_be_bytes(), self.0.to_be_bytes());
        [a, b, c, d]
    }

    /// The VLAN of a tag as received; `None` for priority tags, which are of no VLAN.
    const fn of_tag(tag: u16) -> Option<Self> {
        Self::new(tag & 0x0fff)
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why an interface's frames cannot be had.
#[derive(Debug, Error)]
pub enum FrameError {
    /// There is no such interface, or it is no Ethernet interface.
    #[error("no Ethernet interface {0:?}; `ip link` shows those that are there")]
    NoInterface(String),
    /// The packet socket cannot be opened; it needs `CAP_NET_RAW`.
    #[error("cannot open a packet socket on {interface}, which takes root or CAP_NET_RAW")]
    Open {
        /// Which interface.
        interface: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// How a socket is opened.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// What passes; see [`filter`].
    pub filter: &'a [filter::Instruction],
    /// Frames to this address are wanted too, besides those to the interface's own.
    pub extra_mac: Option<Mac>,
    /// Frames have a header of the card in front (`struct virtio_net_hdr`, [`CARD_HEADER`] bytes): long ones
    /// that the kernel or the card cuts, and checksums left to it.
    pub card_header: bool,
}

/// Bytes of `struct virtio_net_hdr`.
pub const CARD_HEADER: usize = 10;

impl<'a> Settings<'a> {
    /// The interface's own frames that pass the filter.
    #[must_use]
    pub const fn new(filter: &'a [filter::Instruction]) -> Self {
        Self { filter, extra_mac: None, card_header: false }
    }
}

/// A packet socket on one interface.
#[derive(Debug)]
pub struct FrameSocket {
    socket: PacketSocket,
    interface: String,
    mac: Mac,
    card_header: bool,
}

impl FrameSocket {
    /// Opens it; frames are queued from now on.
    ///
    /// # Errors
    /// When there is no such Ethernet interface, or the process may not open packet sockets.
    pub fn open(interface: &str, settings: &Settings<'_>) -> Result<Self, FrameError> {
        let none = || FrameError::NoInterface(interface.to_owned());
        let failed = |source| FrameError::Open { interface: interface.to_owned(), source };
        let index = if_nametoindex(interface).map_err(|_| none())?;
        let mac = interface_mac(interface).ok_or_else(none)?;
        let socket =
            PacketSocket::open_tagged(index, settings.filter, settings.card_header).map_err(failed)?;
        if let Some(extra) = settings.extra_mac {
            socket.join(index, extra).map_err(failed)?;
        }
        // The forced size needs CAP_NET_ADMIN; the other is cut to net.core.rmem_max. Neither is fatal.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
        }
        if setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
            let _ = setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER);
        }
        Ok(Self { socket, interface: interface.to_owned(), mac, card_header: settings.card_header })
    }

    /// The interface's own address.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// The interface's name.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Hands it to the runtime, in whose context this must be called.
    ///
    /// # Errors
    /// When the runtime does not take it.
    pub fn register(self) -> io::Result<Frames> {
        let Self { socket, interface, mac, card_header } = self;
        Ok(Frames { socket: socket.register()?, interface, mac, card_header })
    }
}

pub(crate) fn interface_mac(interface: &str) -> Option<Mac> {
    let mut addresses = getifaddrs().ok()?.filter(|address| address.interface_name == interface);
    addresses
        .find_map(|address| address.address?.as_link_addr()?.addr())
        .map(Mac)
        .filter(|mac| mac.is_unicast())
}

/// A packet socket that can be waited for.
#[derive(Debug)]
pub struct Frames {
    socket: AsyncFd<PacketSocket>,
    interface: String,
    mac: Mac,
    card_header: bool,
}

impl Frames {
    /// The interface's own address.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// The interface's name.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Waits until frames are there. Cancel-safe. It may come back without any: [`Inbox::receive`] knows.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await.map(|mut ready| ready.retain_ready())
    }

    /// Sends messages of parts as they are; how many went.
    pub(crate) fn send_parts(&self, messages: &[Outgoing<'_>]) -> io::Result<usize> {
        self.socket.try_io(Interest::WRITABLE, |socket| send_many(socket, messages))
    }

    /// Waits until frames can be sent. Cancel-safe.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await.map(|mut ready| ready.retain_ready())
    }
}

/// A frame that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Of which VLAN; `None` without a tag.
    pub vlan: Option<VlanId>,
    /// What the card says of it; empty unless [`Settings::card_header`].
    pub card: &'a [u8],
    /// From the addresses on, without the tag. At least [`HEADER`] bytes.
    pub bytes: &'a [u8],
}

impl Frame<'_> {
    /// The address it is for.
    #[must_use]
    pub fn destination(&self) -> Mac {
        Mac(self.bytes.first_chunk().copied().unwrap_or_default())
    }

    /// The address it is from.
    #[must_use]
    pub fn source(&self) -> Mac {
        Mac(self.bytes.get(6..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default())
    }
}

/// Room for frames that come together; kept between calls.
#[derive(Debug)]
pub struct Inbox {
    batch: ReceiveBatch,
    card_header: bool,
    cut: u64,
}

/// Frames taken at once at most.
pub const FRAMES_MAX: usize = BATCH;

impl Inbox {
    /// Room for `frames` (at most [`FRAMES_MAX`]) of `room` bytes. A longer one is dropped and counted.
    #[must_use]
    pub fn new(frames: usize, room: usize) -> Self {
        Self { batch: ReceiveBatch::new(frames, room), card_header: false, cut: 0 }
    }

    /// Takes the frames that wait, at most as many as there is room for, without waiting; how many. Zero
    /// when there are none: wait for [`Frames::readable`].
    ///
    /// # Errors
    /// When the interface is down or gone.
    pub fn receive(&mut self, frames: &Frames) -> io::Result<usize> {
        self.card_header = frames.card_header;
        let batch = &mut self.batch;
        batch.clear();
        // A batch that is not full has emptied the queue: the runtime then waits for the next frame.
        let result = frames.socket.try_io(Interest::READABLE, |socket| match batch.receive(socket) {
            Ok(count) if count < batch.room() => Err(io::ErrorKind::WouldBlock.into()),
            result => result,
        });
        match result {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            Ok(_) | Err(_) => Ok(self.batch.len()),
        }
    }

    /// What [`Inbox::receive`] took, without what this host itself sent.
    pub fn frames(&mut self) -> impl Iterator<Item = Frame<'_>> {
        let Self { batch, card_header, cut } = self;
        let (batch, card) = (&*batch, if *card_header { CARD_HEADER } else { 0 });
        (0..batch.len()).filter_map(move |index| {
            let (bytes, was_cut) = batch.bytes(index);
            *cut += u64::from(was_cut);
            if was_cut || batch.is_own(index) || bytes.len() < card + HEADER {
                return None;
            }
            let (card, bytes) = bytes.split_at(card);
            Some(Frame { vlan: batch.tag(index).and_then(VlanId::of_tag), card, bytes })
        })
    }

    /// Frames dropped because they were longer than the room.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.cut
    }
}

/// Frames to be sent together; kept between calls.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    frames: Vec<(Option<VlanId>, Range<usize>)>,
    dropped: u64,
}

impl Outbox {
    /// Without frames.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a whole frame (without a tag), to be sent into a VLAN or untagged.
    pub fn push(&mut self, vlan: Option<VlanId>, frame: &[u8]) {
        self.push_with(vlan, |bytes| bytes.extend_from_slice(frame));
    }

    /// Adds a frame that `write` appends.
    pub fn push_with(&mut self, vlan: Option<VlanId>, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        if self.bytes.len() < start + HEADER {
            self.bytes.truncate(start);
            self.dropped += 1;
            return;
        }
        self.frames.push((vlan, start..self.bytes.len()));
    }

    /// The frames that wait, each with its VLAN.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (Option<VlanId>, &[u8])> {
        self.frames.iter().map(|(vlan, range)| (*vlan, &self.bytes[range.clone()]))
    }

    /// Frames that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Frames lost since the start: the interface's queue was full, or they were no frames. As on any wire,
    /// whoever misses one asks again.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Sends all frames without waiting; those that find no room are dropped and counted. Empty afterwards.
    ///
    /// # Errors
    /// The last error that is not a full queue; frames after it were tried too.
    pub fn send(&mut self, frames: &Frames) -> io::Result<()> {
        let result = self.send_on(frames.socket.get_ref());
        self.bytes.clear();
        self.frames.clear();
        result
    }

    fn send_on(&mut self, socket: &PacketSocket) -> io::Result<()> {
        let (mut at, mut result) = (0, Ok(()));
        while at < self.frames.len() {
            let mut tags = [[0; 4]; BATCH];
            let mut messages = [Outgoing::default(); BATCH];
            let chunk = &self.frames[at..self.frames.len().min(at + BATCH)];
            for ((vlan, range), (tag, message)) in chunk.iter().zip(tags.iter_mut().zip(&mut messages)) {
                let (addresses, rest) = self.bytes[range.clone()].split_at(ADDRESSES);
                let tag: &[u8] = match vlan {
                    Some(vlan) => {
                        *tag = vlan.tag();
                        tag
                    }
                    None => &[],
                };
                message.parts = [addresses, tag, rest, &[]];
            }
            match send_many(socket, &messages[..chunk.len()]) {
                Ok(sent) => at += sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.dropped += 1;
                    at += 1;
                    let full = error.kind() == io::ErrorKind::WouldBlock
                        || error.raw_os_error() == Some(nix::libc::ENOBUFS);
                    if !full {
                        result = Err(error);
                    }
                }
            }
        }
        result
    }
}

#[cfg(test)]
mod tests;
