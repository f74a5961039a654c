//! What goes out: windows, each by one message of a call.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;

use netboot::Time;
use netboot::tftp::{Burst, Part, Server};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::direct::Direct;
use crate::sys::batch::{Outgoing, send_many};

/// Bursts sent together, before the other direction has its turn: with the largest windows their buffers are
/// 1 MiB.
pub(super) const BURSTS: usize = 16;
/// How long a full queue of the card is waited for: longer, and what is in it is too late anyhow.
const FULL_MS: u16 = 100;

/// Bursts to send, with the buffers that they are written into; nothing is allocated for a packet.
pub(super) struct Outbox {
    bursts: Vec<(Burst, Vec<u8>)>,
    /// Whether the kernel cuts bursts (`UDP_SEGMENT`). It does not for a card that computes no checksums.
    cuts: bool,
    more: bool,
    direct: Option<Direct>,
}

impl Outbox {
    pub(super) fn new(direct: Option<Direct>) -> Self {
        let nobody = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let none = (Burst { peer: nobody, segment: 0, datagrams: 0, part: Part::Other }, Vec::new());
        Self { bursts: vec![none; BURSTS], cuts: true, more: false, direct }
    }

    /// Blocks that went the short way.
    pub(super) fn direct(&self) -> u64 {
        self.direct.as_ref().map_or(0, Direct::blocks)
    }

    /// Whether the server may have more to send than one batch.
    pub(super) fn more(&self) -> bool {
        self.more
    }

    /// Sends what the server has, one batch.
    pub(super) fn send(&mut self, now: Time, socket: &UdpSocket, server: &mut Server) {
        let mut count = 0;
        for (burst, bytes) in &mut self.bursts {
            let Some(next) = server.poll_burst(bytes) else { break };
            *burst = next;
            count += 1;
        }
        self.more = count == self.bursts.len();
        if let Some(direct) = &mut self.direct {
            count = direct.send(now, socket, &mut self.bursts[..count]);
        }
        let mut at = 0;
        while at < count {
            let (mut messages, mut filled) = ([Outgoing::default(); BURSTS], 0);
            for ((burst, bytes), message) in self.bursts[at..count].iter().zip(&mut messages) {
                if burst.datagrams > 1 && !self.cuts {
                    break;
                }
                message.parts[0] = bytes;
                message.to = Some(burst.peer);
                message.segment =
                    (burst.datagrams > 1).then_some(u16::try_from(burst.segment)).and_then(Result::ok);
                filled += 1;
            }
            if filled == 0 {
                send_one_by_one(socket, &self.bursts[at]);
                at += 1;
                continue;
            }
            match send_all(socket, &messages[..filled]) {
                Ok(sent) => at += sent,
                Err(error) => {
                    let (burst, _) = &self.bursts[at];
                    let cannot_cut =
                        matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE));
                    if burst.datagrams > 1 && cannot_cut {
                        // EIO is the card's word; the others are this client's path, narrower than its blocks.
                        self.cuts &= error.raw_os_error() != Some(libc::EIO);
                        send_one_by_one(socket, &self.bursts[at]);
                    } else {
                        // The network's loss: the machine asks again.
                        tracing::debug!(%error, peer = %burst.peer, "cannot send");
                    }
                    at += 1;
                }
            }
        }
    }
}

/// Sends messages until one fails; a full send buffer is waited for. How many went, at least one.
fn send_all(socket: &UdpSocket, messages: &[Outgoing<'_>]) -> io::Result<usize> {
    loop {
        match send_many(socket, messages) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut full = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut full, PollTimeout::from(FULL_MS))? == 0 {
                    return Err(error);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn send_one_by_one(socket: &UdpSocket, (burst, bytes): &(Burst, Vec<u8>)) {
    for datagram in bytes.chunks(burst.segment.max(1)) {
        let message = Outgoing { to: Some(burst.peer), ..Outgoing::default() };
        if let Err(error) = send_all(socket, &[Outgoing { parts: [datagram, &[], &[], &[]], ..message }]) {
            tracing::debug!(%error, peer = %burst.peer, "cannot send");
            return;
        }
    }
}
