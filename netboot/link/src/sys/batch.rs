//! Many frames or datagrams with one system call, each way.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::null_mut;

use nix::libc;

/// Messages of one call. More gains nothing: the call is some 5 % of what eight messages cost.
pub(crate) const BATCH: usize = 64;
/// Messages of a call when there is not much to do, which is most of the time.
pub(crate) const FEW: usize = 8;
/// Room for what the kernel says beside a message: one `tpacket_auxdata` (20 bytes) or one number.
const CONTROL: usize = 64;
/// Parts of a message that is sent: a header of the card, the addresses, a VLAN tag, the rest.
pub(crate) const PARTS: usize = 4;

/// A peer's address as the kernel writes it: `sockaddr_in` (16 bytes) or `sockaddr_ll` (20).
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Name([u8; 32]);

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// What came of one message.
#[derive(Clone, Copy, Default)]
struct Got {
    length: usize,
    cut: bool,
    control: usize,
}

/// Buffers for messages that are received together; kept between calls.
pub(crate) struct ReceiveBatch {
    room: usize,
    bytes: Box<[u8]>,
    names: Box<[Name]>,
    controls: Box<[Control]>,
    got: Box<[Got]>,
    count: usize,
}

impl ReceiveBatch {
    /// Room for `messages` (at most [`BATCH`]) of `room` bytes.
    pub(crate) fn new(messages: usize, room: usize) -> Self {
        let messages = messages.clamp(1, BATCH);
        Self {
            room,
            bytes: vec![0; messages * room].into_boxed_slice(),
            names: vec![Name([0; 32]); messages].into_boxed_slice(),
            controls: vec![Control([0; CONTROL]); messages].into_boxed_slice(),
            got: vec![Got::default(); messages].into_boxed_slice(),
            count: 0,
        }
    }

    /// Takes what waits, without waiting; how many.
    pub(crate) fn receive(&mut self, socket: &impl AsRawFd) -> io::Result<usize> {
        self.receive_some(socket, self.got.len(), libc::MSG_DONTWAIT)
    }

    /// Takes at most `most` of those that wait; waits for the first as long as the socket does (`SO_RCVTIMEO`).
    /// Each message that is asked for costs a little, also when it does not come.
    pub(crate) fn wait(&mut self, socket: &impl AsRawFd, most: usize) -> io::Result<usize> {
        self.receive_some(socket, most, libc::MSG_WAITFORONE)
    }

    fn receive_some(&mut self, socket: &impl AsRawFd, most: usize, flags: libc::c_int) -> io::Result<usize> {
        match most.min(self.got.len()) {
            most @ 0..=FEW => self.receive_of::<FEW>(socket, most, flags),
            most => self.receive_of::<BATCH>(socket, most, flags),
        }
    }

    /// `ROOM` messages at most: what is made ready for a call is no longer than it must be.
    fn receive_of<const ROOM: usize>(
        &mut self,
        socket: &impl AsRawFd,
        most: usize,
        flags: libc::c_int,
    ) -> io::Result<usize> {
        self.count = 0;
        let most = most.min(ROOM);
        // SAFETY: all zero is a valid mmsghdr and iovec (null pointers with lengths of zero).
        let (mut headers, mut parts): ([libc::mmsghdr; ROOM], [libc::iovec; ROOM]) = unsafe { zeroed() };
        let buffers = self.bytes.chunks_exact_mut(self.room);
        let kept = self.names.iter_mut().zip(self.controls.iter_mut());
        for (((header, part), buffer), (name, control)) in
            headers.iter_mut().zip(parts.iter_mut()).zip(buffers).zip(kept).take(most)
        {
            part.iov_base = buffer.as_mut_ptr().cast();
            part.iov_len = buffer.len();
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = name.0.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = size_of::<Name>() as libc::socklen_t;
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL;
        }
        // SAFETY: the first `most` headers point to live buffers of the lengths given, which nothing
        // else touches during the call.
        let count = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), most as u32, flags, null_mut())
        };
        self.count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (got, header) in self.got.iter_mut().zip(&headers).take(self.count) {
            *got = Got {
                length: (header.msg_len as usize).min(self.room),
                cut: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
                control: header.msg_hdr.msg_controllen.min(CONTROL),
            };
        }
        Ok(self.count)
    }

    /// Forgets what the last call took.
    pub(crate) fn clear(&mut self) {
        self.count = 0;
    }

    /// How many there is room for.
    pub(crate) fn room(&self) -> usize {
        self.got.len()
    }

    /// How many the last call took.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Its bytes, and whether some of them did not fit.
    pub(crate) fn bytes(&self, index: usize) -> (&[u8], bool) {
        let got = self.got[index];
        let start = index * self.room;
        (&self.bytes[start..start + got.length], got.cut)
    }

    /// Where a datagram came from; `None` when that is no IPv4 address.
    pub(crate) fn peer(&self, index: usize) -> Option<SocketAddrV4> {
        let name = &self.names[index].0;
        let family = u16::from_ne_bytes([name[0], name[1]]);
        (i32::from(family) == libc::AF_INET).then(|| {
            let address = Ipv4Addr::new(name[4], name[5], name[6], name[7]);
            SocketAddrV4::new(address, u16::from_be_bytes([name[2], name[3]]))
        })
    }

    /// Whether this host itself sent a frame (`sockaddr_ll.sll_pkttype`).
    pub(crate) fn is_own(&self, index: usize) -> bool {
        self.names[index].0[10] == libc::PACKET_OUTGOING
    }

    /// The VLAN tag that the kernel took off a frame.
    pub(crate) fn tag(&self, index: usize) -> Option<u16> {
        const HEADER: usize = size_of::<libc::cmsghdr>();
        let control = self.controls[index].0.get(..self.got[index].control)?;
        let number = |at: usize| Some(i32::from_ne_bytes(*control.get(at..)?.first_chunk()?));
        // One message only is asked for, so it is the first: length, level, kind, then tpacket_auxdata.
        if (number(8)?, number(12)?) != (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
            return None;
        }
        let status = u32::from_ne_bytes(*control.get(HEADER..)?.first_chunk()?);
        let tag = u16::from_ne_bytes(*control.get(HEADER + 16..)?.first_chunk()?);
        (status & libc::TP_STATUS_VLAN_VALID != 0).then_some(tag)
    }
}

impl std::fmt::Debug for ReceiveBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceiveBatch").field("room", &self.room).field("count", &self.count).finish()
    }
}

/// A message to send: its parts one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outgoing<'a> {
    pub(crate) parts: [&'a [u8]; PARTS],
    /// Where to, on a socket that is not bound to one place.
    pub(crate) to: Option<SocketAddrV4>,
    /// The kernel cuts it into datagrams of so many bytes (`UDP_SEGMENT`).
    pub(crate) segment: Option<u16>,
}

/// Sends at most [`BATCH`] messages without waiting; how many went. The error is that of the first message:
/// one that failed later is met again as the first of the next call.
pub(crate) fn send_many(socket: &impl AsRawFd, messages: &[Outgoing<'_>]) -> io::Result<usize> {
    match messages.len() {
        0..=FEW => send_of::<FEW>(socket, messages),
        _ => send_of::<BATCH>(socket, messages),
    }
}

/// `ROOM` messages at most, as in [`ReceiveBatch::receive_of`].
fn send_of<const ROOM: usize>(socket: &impl AsRawFd, messages: &[Outgoing<'_>]) -> io::Result<usize> {
    let messages = &messages[..messages.len().min(ROOM)];
    // SAFETY: all zero is valid for all four (null pointers with lengths of zero, numbers).
    let (mut headers, mut parts, mut names, mut controls): (
        [libc::mmsghdr; ROOM],
        [[libc::iovec; PARTS]; ROOM],
        [libc::sockaddr_in; ROOM],
        [Control; ROOM],
    ) = unsafe { zeroed() };
    let room = headers.iter_mut().zip(&mut parts).zip(names.iter_mut().zip(&mut controls));
    for (message, ((header, parts), (name, control))) in messages.iter().zip(room) {
        let mut filled = 0;
        for (part, bytes) in parts.iter_mut().zip(message.parts.iter().filter(|bytes| !bytes.is_empty())) {
            // The kernel only reads; the field is not const in its header.
            part.iov_base = bytes.as_ptr().cast_mut().cast();
            part.iov_len = bytes.len();
            filled += 1;
        }
        header.msg_hdr.msg_iov = parts.as_mut_ptr();
        header.msg_hdr.msg_iovlen = filled;
        if let Some(to) = message.to {
            name.sin_family = libc::AF_INET as u16;
            name.sin_port = to.port().to_be();
            name.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
            header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        }
        if let Some(segment) = message.segment {
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = put_control(control, libc::SOL_UDP, libc::UDP_SEGMENT, segment);
        }
    }
    send_headers(socket.as_raw_fd(), &mut headers[..messages.len()])
}

/// `cmsghdr` with one number of 16 bits; the bytes it takes with its padding.
fn put_control(control: &mut Control, level: i32, kind: i32, value: u16) -> usize {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    control.0[..8].copy_from_slice(&(HEADER + 2).to_ne_bytes());
    control.0[8..12].copy_from_slice(&level.to_ne_bytes());
    control.0[12..16].copy_from_slice(&kind.to_ne_bytes());
    control.0[HEADER..HEADER + 2].copy_from_slice(&value.to_ne_bytes());
    HEADER + 8
}

fn send_headers(fd: RawFd, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the headers point to parts, names and controls that the caller keeps alive for the call.
    let sent = unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), headers.len() as u32, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}
