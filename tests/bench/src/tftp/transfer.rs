//! One file that is read: the machine of `netboot`, its socket, and its time.
//!
//! A thousand of them share one processor, and what they take of it is not the server's: a window costs one call to
//! take it and one to acknowledge it.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use netboot::Time;
use netboot::tftp::{Client, Wanted};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, connect, recvmsg, setsockopt, sockopt};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::{Link, Transfer, words};

const DATAGRAM: usize = 65_536;

/// Where what comes is put: one for all clients, since each looks at it before the next one's turn.
struct Room {
    buffer: Vec<u8>,
    control: Vec<u8>,
}

thread_local! {
    static ROOM: RefCell<Room> =
        RefCell::new(Room { buffer: vec![0; DATAGRAM], control: nix::cmsg_space!(i32) });
}

/// Reads one file.
pub(crate) async fn read(
    wanted: Wanted,
    from: Ipv4Addr,
    link: &mut Link,
    epoch: Instant,
) -> Result<Transfer> {
    let socket = Arc::new(UdpSocket::bind((from, 0)).await.context("cannot bind a client's port")?);
    if link.together {
        setsockopt(&socket.as_fd(), sockopt::UdpGroSegment, &true).context("no UDP_GRO here")?;
    }
    // A new socket counts as full until the runtime has looked.
    socket.writable().await?;
    let began = Instant::now();
    let mut transfer = Running {
        client: Client::counting(time(epoch, began), wanted),
        socket,
        link,
        epoch,
        heard: began,
        known: None,
        segment: None,
    };
    let mut alarm = pin!(tokio::time::sleep_until(began.into()));
    let mut repeats = 0;
    loop {
        transfer.answer();
        match transfer.client.outcome() {
            Some(Ok(_)) => {
                let bytes = transfer.client.received() as u64;
                return Ok(Transfer { bytes, repeats, took: began.elapsed() });
            }
            Some(Err(error)) => bail!(words(error)),
            None => {}
        }
        let deadline =
            transfer.client.poll_timeout().ok_or_else(|| anyhow!("the client waits for nothing"))?;
        let wake = match transfer.link.timeout {
            Some(timeout) => transfer.heard + timeout,
            None => epoch + Duration::from_micros(deadline.as_micros()),
        };
        // A timer that rings too early is set once more, which costs less than to set it for every packet.
        if wake < alarm.deadline().into_std() {
            alarm.as_mut().reset(wake.into());
        }
        // Cancel-safe: both only wait.
        tokio::select! {
            biased;
            ready = transfer.socket.readable() => ready?,
            () = alarm.as_mut() => {
                let now = Instant::now();
                if now < wake {
                    alarm.as_mut().reset(wake.into());
                    continue;
                }
                // The machine is told its own deadline, whatever the load's own timeout is.
                transfer.client.handle_timeout(time(epoch, now).max(deadline));
                repeats += 1;
                transfer.heard = now;
                continue;
            }
        }
        ROOM.with_borrow_mut(|room| transfer.receive(room))?;
    }
}

fn time(epoch: Instant, now: Instant) -> Time {
    Time::from_micros(u64::try_from(now.duration_since(epoch).as_micros()).unwrap_or(u64::MAX))
}

/// A file that is being read.
struct Running<'a> {
    client: Client,
    socket: Arc<UdpSocket>,
    link: &'a mut Link,
    epoch: Instant,
    /// When the last block came.
    heard: Instant,
    /// The server's end of the transfer is known, and the socket hears and reaches only that.
    known: Option<SocketAddrV4>,
    /// The length of the server's datagrams, all but the last, once several came together: what is not asked for need
    /// not be told with each of them.
    segment: Option<usize>,
}

impl Running<'_> {
    /// Sends what is to be sent; whether there was anything.
    fn answer(&mut self) -> bool {
        let mut answered = false;
        while let Some((to, bytes)) = self.client.poll_transmit() {
            self.link.send(&self.socket, bytes, to, self.known.is_some());
            answered = true;
        }
        answered
    }

    /// Takes what came, until there is nothing more or a window is acknowledged.
    fn receive(&mut self, room: &mut Room) -> Result<()> {
        loop {
            let known = self.known.zip(self.segment);
            let (length, segment, peer) = match self.link.receive(&self.socket, room, known) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The server's process or port is not there yet; the next timeout asks again.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
                Err(error) => return Err(error).context("cannot receive"),
            };
            let (now, before) = (Instant::now(), self.client.received());
            let mut answered = false;
            for packet in room.buffer[..length].chunks(segment) {
                if !self.link.loses(packet) {
                    self.client.handle_packet(time(self.epoch, now), peer, packet);
                    answered |= self.answer();
                }
            }
            if self.client.received() == before {
                continue;
            }
            self.heard = now;
            self.segment = self.segment.or((segment < length).then_some(segment));
            if self.known.is_none() {
                self.known =
                    connect(self.socket.as_raw_fd(), &SockaddrIn::from(peer)).is_ok().then_some(peer);
            }
            if answered {
                // The server waits now, so there is nothing before something new comes, which wakes us: to ask
                // for it costs a call. A late copy that is there already is taken with that.
                let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                let _ = self.socket.try_io(Interest::READABLE, nothing);
                return Ok(());
            }
        }
    }
}

impl Link {
    /// One datagram, or several of one length (the last may be shorter): bytes, length of one, and from whom. What is
    /// `known` of both is not asked for.
    fn receive(
        &self,
        socket: &UdpSocket,
        room: &mut Room,
        known: Option<(SocketAddrV4, usize)>,
    ) -> io::Result<(usize, usize, SocketAddrV4)> {
        let Room { buffer, control } = room;
        if let Some((peer, segment)) = known {
            return socket.try_recv(buffer).map(|length| (length, segment, peer));
        }
        if self.together {
            return socket
                .try_io(Interest::READABLE, || receive_together(socket.as_raw_fd(), buffer, control));
        }
        match socket.try_recv_from(buffer)? {
            (length, std::net::SocketAddr::V4(peer)) => Ok((length, length.max(1), peer)),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

fn receive_together(
    fd: RawFd,
    buffer: &mut [u8],
    control: &mut [u8],
) -> io::Result<(usize, usize, SocketAddrV4)> {
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrIn>(fd, &mut parts, Some(control), flags)?;
    let segment = message.cmsgs()?.find_map(|said| match said {
        ControlMessageOwned::UdpGroSegments(bytes) => usize::try_from(bytes).ok(),
        _ => None,
    });
    let peer = message.address.ok_or(io::ErrorKind::Unsupported)?;
    Ok((message.bytes, segment.unwrap_or(message.bytes).max(1), SocketAddrV4::new(peer.ip(), peer.port())))
}
