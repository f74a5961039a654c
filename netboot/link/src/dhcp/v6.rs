//! IPv6 of a network: DHCPv6 on a kernel socket for machines that boot by HTTP, router advertisements on raw frames.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::os::fd::{AsFd, AsRawFd};

use netboot::dhcpv6::{Advertiser, Advertising, Config, Reply, Server, is_solicitation};
use netboot::firmware::BinarySet;
use netboot::journal::{Event, Sink, Step};
use nix::libc::{BPF_ABS, BPF_B, BPF_H, BPF_JEQ, BPF_K, BPF_LD, BPF_RET};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn6, bind as bind_socket, setsockopt, socket, sockopt,
};
use thiserror::Error;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use super::wait_until;
use crate::clock::{Clock, unix_ms};
use crate::frames::filter::{EVERYTHING, IP, Instruction, NOTHING, jump, statement};
use crate::frames::{FrameError, FrameSocket, HEADER, Inbox, Outbox, Settings as FrameSettings};

/// Where servers listen.
const PORT: u16 = 547;
/// Where everybody asks for one (RFC 8415, 7.1).
const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// Room for one message.
const MESSAGE: usize = 2_048;
/// Frames taken at once; solicitations are rare.
const BATCH: usize = 8;
/// Answers told to the journal in a minute; a site has fewer machines that boot over IPv6 in one.
const TOLD_MAX: u32 = 1_000;
/// Router solicitations over IPv6.
const SOLICITATIONS: [Instruction; 8] = [
    statement(BPF_LD | BPF_H | BPF_ABS, 12),
    jump(BPF_JEQ, 0x86dd, 0, 5),
    statement(BPF_LD | BPF_B | BPF_ABS, IP + 6),
    jump(BPF_JEQ, 58, 0, 3),
    statement(BPF_LD | BPF_B | BPF_ABS, IP + 40),
    jump(BPF_JEQ, 133, 0, 1),
    EVERYTHING[0],
    statement(BPF_RET | BPF_K, 0),
];

/// What is served over IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// This host's address, where HTTP is served as well: machines that boot by HTTP are told of it.
    pub address: Option<Ipv6Addr>,
    /// The port of HTTP.
    pub http_port: u16,
    /// Router advertisements are sent.
    pub advertise: bool,
    /// The /64 in them.
    pub prefix: Option<Ipv6Addr>,
}

/// Why IPv6 cannot be served.
#[derive(Debug, Error)]
pub enum Error {
    /// The interface's frames cannot be had.
    #[error(transparent)]
    Frames(#[from] FrameError),
    /// Port 547 cannot be bound.
    #[error("cannot listen on udp 547 of {interface} for DHCPv6")]
    Bind {
        /// Which interface.
        interface: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The runtime does not take a socket.
    #[error("cannot use a socket for IPv6")]
    Socket(#[source] io::Error),
}

/// The sockets of a network.
#[derive(Debug)]
pub struct Sockets {
    udp: Option<StdUdpSocket>,
    frames: FrameSocket,
    settings: Settings,
}

/// Opens the sockets of an interface.
///
/// # Errors
/// When there is no such Ethernet interface, port 547 is taken, or packet sockets are not allowed.
pub fn bind(interface: &str, settings: Settings) -> Result<Sockets, Error> {
    let filter = if settings.advertise { &SOLICITATIONS[..] } else { &NOTHING[..] };
    let frames = FrameSocket::open(interface, &FrameSettings::new(filter))?;
    let failed = |source| Error::Bind { interface: interface.to_owned(), source };
    let udp = settings.address.map(|_| listen(interface).map_err(failed)).transpose()?;
    Ok(Sockets { udp, frames, settings })
}

fn listen(interface: &str) -> io::Result<StdUdpSocket> {
    let kind = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = StdUdpSocket::from(socket(AddressFamily::Inet6, SockType::Datagram, kind, None)?);
    setsockopt(&socket.as_fd(), sockopt::Ipv6V6Only, &true)?;
    // Other interfaces may have other servers.
    setsockopt(&socket.as_fd(), sockopt::BindToDevice, &interface.into())?;
    let everywhere = std::net::SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, PORT, 0, 0);
    bind_socket(socket.as_raw_fd(), &SockaddrIn6::from(everywhere))?;
    socket.join_multicast_v6(&ALL_SERVERS, if_nametoindex(interface)?)?;
    Ok(socket)
}

/// Serves until `shutdown`.
///
/// # Errors
/// When the runtime does not take a socket.
#[tracing::instrument(name = "ipv6", skip_all, fields(interface = sockets.frames.interface()))]
pub async fn run(
    sockets: Sockets,
    binaries: BinarySet,
    sink: Sink,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let Sockets { udp, frames, settings } = sockets;
    let frames = frames.register().map_err(Error::Socket)?;
    let udp = udp.map(UdpSocket::from_std).transpose().map_err(Error::Socket)?;
    let (mac, clock) = (frames.mac(), Clock::start());
    let advertising = Advertising { mac, prefix: settings.prefix, dhcpv6: settings.address.is_some() };
    let mut advertiser = settings.advertise.then(|| Advertiser::new(clock.now(), &advertising));
    let mut server = settings
        .address
        .map(|address| Server::new(Config { address, http_port: settings.http_port, mac, binaries }));
    let (mut inbox, mut outbox) = (Inbox::new(BATCH, MESSAGE), Outbox::new());
    let mut buffer = [0; MESSAGE];
    let mut told = Told { sink, minute: 0, count: 0 };
    loop {
        let deadline = advertiser.as_ref().map(|advertiser| clock.instant(advertiser.poll_timeout()));
        // Cancel-safe: all branches only wait, and a datagram that is received is handled.
        tokio::select! {
            () = shutdown.cancelled() => break,
            received = receive(udp.as_ref(), &mut buffer) => {
                if let (Ok((length, SocketAddr::V6(from))), Some(server), Some(udp)) = (received, &mut server, &udp) {
                    match server.handle_packet(from, &buffer[..length]) {
                        Ok(reply) => {
                            // A full queue: the machine asks again.
                            if let Err(error) = udp.try_send_to(&reply.payload, from.into()) {
                                tracing::debug!(%error, "cannot send");
                            }
                            told.tell(reply, *from.ip());
                        }
                        Err(reason) => tracing::debug!(%from, %reason, "not answered"),
                    }
                }
            }
            ready = frames.readable() => ready.map_err(Error::Socket)?,
            () = wait_until(deadline) => {}
        }
        let Some(advertiser) = &mut advertiser else { continue };
        if inbox.receive(&frames).is_ok_and(|count| count > 0)
            && inbox.frames().any(|frame| frame.vlan.is_none() && is_solicitation(&frame.bytes[HEADER..]))
        {
            advertiser.handle_solicitation(clock.now());
        }
        if let Some(packet) = advertiser.poll_transmit(clock.now()) {
            outbox.push_with(None, |out| {
                out.extend([0x33, 0x33, 0, 0, 0, 1]);
                out.extend(mac.0);
                out.extend([0x86, 0xdd]);
                out.extend_from_slice(packet);
            });
            if let Err(error) = outbox.send(&frames) {
                tracing::debug!(%error, "cannot advertise");
            }
        }
    }
    if let Some(server) = server {
        tracing::info!(counters = ?server.counters(), "DHCPv6 ends");
    }
    Ok(())
}

async fn receive(udp: Option<&UdpSocket>, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    match udp {
        Some(udp) => udp.recv_from(buffer).await,
        None => std::future::pending().await,
    }
}

/// The journal, which a flood does not fill.
struct Told {
    sink: Sink,
    minute: u64,
    count: u32,
}

impl Told {
    fn tell(&mut self, reply: Reply, from: Ipv6Addr) {
        let minute = unix_ms() / 60_000;
        if self.minute != minute {
            (self.minute, self.count) = (minute, 0);
        }
        self.count += 1;
        if self.count > TOLD_MAX {
            return;
        }
        let steps = [
            Step::DhcpDiscover { firmware: reply.firmware },
            Step::DhcpOffer { file: reply.url, port: PORT },
        ];
        for step in steps {
            let event = Event::new(unix_ms(), step).with_uuid(reply.uuid).with_address(Some(from.into()));
            (self.sink)(match reply.mac {
                Some(mac) => event.with_mac(mac),
                None => event,
            });
        }
    }
}
