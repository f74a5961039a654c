//! The raw stack: whole networks served on an interface that the host's kernel has no address on, beside other
//! servers of the same host, and on tagged VLANs of a trunk without VLAN interfaces.
//!
//! Each network has a network namespace of its own with one interface in it, which has the network's address and a
//! MAC of its own: TCP, UDP, ARP and ICMP echo are the kernel's, with its recovery from loss, and none of it shows on
//! the host (`docs/decisions/009-raw-stack-is-a-namespace.md`). How it reaches the wire ([`Wire`]):
//!
//! ```text
//!   wire ── interface ──┬── macvlan ── namespace ── HTTP, TFTP, machine API …
//!                       └ (a packet socket: DHCP)
//!
//!   wire ── interface ── packet socket ──┬── TAP (VLAN 10) ── namespace ── HTTP, TFTP, machine API …
//!                             │          └── TAP (VLAN 20) ── namespace ── HTTP, TFTP, machine API …
//!                             └ (another packet socket: DHCP, for all VLANs)
//! ```
//!
//! A macvlan costs what the kernel's own path costs; it is for a network without a tag, where the kernel has that
//! kind of interface. By TAPs, long segments are not cut on the way: the header of the card in front of each frame
//! goes from the TAP to the packet socket as it is, so a body costs a copy more each way and no system call for each
//! 1,500 bytes.
//!
//! What may not pass is dropped here and counted ([`Counters`]): bad lengths and checksums, sources that are not of
//! the network, DHCP (which has its own socket), and everything but IPv4 and ARP. On a macvlan the kernel sees to
//! that: it knows no way to a source that is not of the network.

mod check;
mod counters;
mod macvlan;
mod namespace;
mod shuttle;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::sync::Arc;

use netboot::{Mac, Subnet};
use nix::net::if_::if_nametoindex;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::frames::{FrameError, FrameSocket, Settings, VlanId};
use crate::http;
use crate::sys::interface::Interface;
use crate::tftp::{TftpError, TftpSocket};
pub use counters::Counters;
use namespace::{Namespace, Wanted};

/// An address and the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    address: Ipv4Addr,
    prefix: u8,
}

impl Network {
    /// `None` for an address that no host can have, and for a prefix that leaves no room for two hosts.
    #[must_use]
    pub fn new(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        let network = Self { address, prefix };
        let host = !address.is_loopback()
            && !address.is_multicast()
            && !address.is_unspecified()
            && address.octets()[0] < 240;
        let (whole, last) = (network.first(), network.broadcast());
        (host && (8..=30).contains(&prefix) && address != whole && address != last).then_some(network)
    }

    /// The address.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// Bits of the network's prefix.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    fn mask(self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix.clamp(1, 32)))
    }

    fn first(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() & self.mask())
    }

    fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !self.mask())
    }

    /// Whether a host of the network may have this address: no other may be heard.
    #[must_use]
    pub fn has_host(self, address: Ipv4Addr) -> bool {
        let inside = address.to_bits() & self.mask() == self.first().to_bits();
        inside && address != self.first() && address != self.broadcast()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Why a raw stack cannot be had.
#[derive(Debug, Error)]
pub enum RawError {
    /// The interface's frames cannot be had.
    #[error(transparent)]
    Frames(#[from] FrameError),
    /// The interface cannot be looked at or switched on.
    #[error("cannot use the interface {interface}")]
    Interface {
        /// Which.
        interface: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No namespace with a TAP can be made: it needs `CAP_SYS_ADMIN`, `CAP_NET_ADMIN` and `/dev/net/tun`.
    #[error(
        "cannot make a network namespace with a TAP for {network} (needs CAP_SYS_ADMIN, CAP_NET_ADMIN and /dev/net/tun)"
    )]
    Namespace {
        /// For which network.
        network: Network,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A port of the network cannot be bound.
    #[error("cannot listen on {address} of the raw stack")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The runtime does not take a socket.
    #[error("cannot use a socket of the raw stack")]
    Socket(#[source] io::Error),
}

/// How the frames of a raw stack reach the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// By a macvlan where there is one network without a tag and the kernel makes one; by a packet socket otherwise.
    Best,
    /// By a packet socket, which every kernel has.
    PacketSocket,
}

/// The raw stack of one interface; [`run`] moves its frames.
#[derive(Debug)]
pub struct Stack {
    interface: String,
    /// Absent when the kernel moves the frames.
    socket: Option<FrameSocket>,
    mac: Mac,
    mtu: u16,
    links: Vec<Link>,
    counters: Arc<Counters>,
}

/// One network of a stack.
#[derive(Debug)]
struct Link {
    vlan: Option<VlanId>,
    network: Network,
    namespace: Namespace,
}

/// Makes the raw stack of an interface: a network without a tag, or one for each VLAN. Switches the interface on when
/// it is off.
///
/// # Errors
/// When the interface is none, or what is needed is not allowed; see [`RawError`].
pub fn bind(interface: &str, networks: &[(Option<VlanId>, Network)], wire: Wire) -> Result<Stack, RawError> {
    let failed = |source| RawError::Interface { interface: interface.to_owned(), source };
    let settings = |interface: &str| -> io::Result<u16> {
        let card = Interface::named(interface)?;
        if !card.is_up()? {
            tracing::info!(interface, "switching the interface on");
            card.set_up()?;
        }
        card.mtu()
    };
    // Opened twice: the filter needs the MAC, which is known when there is a socket.
    let probe = FrameSocket::open(interface, &Settings::new(&crate::frames::filter::NOTHING))?;
    let mac = own_mac(probe.mac());
    drop(probe);
    let mtu = settings(interface).map_err(failed)?;
    let stack = |socket, links| {
        let interface = interface.to_owned();
        Stack { interface, socket, mac, mtu, links, counters: Arc::default() }
    };
    if let ([(None, network)], Wire::Best) = (networks, wire) {
        let wanted = Wanted { mac, network: *network, mtu };
        let below = if_nametoindex(interface).map_err(|error| failed(error.into()))?;
        match Namespace::with_macvlan(wanted, below) {
            Ok(namespace) => {
                tracing::info!(interface, %network, %mac, "raw stack on a macvlan");
                return Ok(stack(None, vec![Link { vlan: None, network: *network, namespace }]));
            }
            Err(error) => tracing::info!(interface, %error, "no macvlan: a packet socket moves the frames"),
        }
    }
    let filter = check::filter(mac);
    let socket =
        FrameSocket::open(interface, &Settings { filter: &filter, extra_mac: Some(mac), card_header: true })?;
    let links = networks.iter().map(|(vlan, network)| {
        let namespace = Namespace::with_tap(Wanted { mac, network: *network, mtu })
            .map_err(|source| RawError::Namespace { network: *network, source })?;
        Ok(Link { vlan: *vlan, network: *network, namespace })
    });
    let links = links.collect::<Result<Vec<_>, RawError>>()?;
    Ok(stack(Some(socket), links))
}

/// A MAC beside the interface's own: locally administered, the same at each start. With the own one, the host's
/// kernel would take the frames for its own, and a host that forwards would send them back to the wire.
fn own_mac(Mac([a, b, c, d, e, f]): Mac) -> Mac {
    Mac([(a | 0x02) & !0x01, b ^ 0xb0, c ^ 0x07, d, e, f])
}

impl Stack {
    /// The MAC that all its networks have.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Whether the kernel moves the frames, and nothing is counted here.
    #[must_use]
    pub fn is_macvlan(&self) -> bool {
        self.socket.is_none()
    }

    /// What was moved and dropped so far.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Listens on a TCP port of a network's address, by the network's place in the list given to [`bind`].
    ///
    /// # Errors
    /// When there is no such network, or the port is taken.
    pub fn listen(&self, network: usize, port: u16) -> Result<TcpListener, RawError> {
        let (link, address) = self.place(network, port)?;
        let bound = link.namespace.inside(|| http::listen(address.into()));
        bound.map_err(|source| RawError::Bind { address: address.into(), source })
    }

    /// Binds TFTP to a UDP port of a network's address.
    ///
    /// # Errors
    /// When there is no such network, or the port is taken.
    pub fn tftp(&self, network: usize, port: u16) -> Result<TftpSocket, RawError> {
        let (link, address) = self.place(network, port)?;
        let bound = link.namespace.inside(|| {
            crate::tftp::bind(address.into()).map_err(|error| match error {
                TftpError::Bind { source, .. } | TftpError::Thread(source) => source,
                TftpError::NotIpv4(_) => io::ErrorKind::Unsupported.into(),
            })
        });
        // Nothing is beyond a router here, so nothing is narrower than the interface.
        let bound = bound.map(|socket| {
            let subnet = Subnet::new(link.network.address, link.network.prefix);
            socket.with_mtu(self.mtu).only_for(subnet.into_iter().collect())
        });
        bound.map_err(|source| RawError::Bind { address: address.into(), source })
    }

    /// Runs `work` in the namespace of a network: sockets that it makes stay there.
    ///
    /// # Errors
    /// When there is no such network, and what `work` fails with.
    pub fn inside<T: Send>(
        &self,
        network: usize,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> Result<T, RawError> {
        let (link, address) = self.place(network, 0)?;
        link.namespace.inside(work).map_err(|source| RawError::Bind { address: address.into(), source })
    }

    fn place(&self, network: usize, port: u16) -> Result<(&Link, SocketAddrV4), RawError> {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let source = io::Error::from(io::ErrorKind::NotFound);
        let link = self.links.get(network).ok_or(RawError::Bind { address: nowhere, source })?;
        Ok((link, SocketAddrV4::new(link.network.address, port)))
    }
}

/// Moves frames until `shutdown`.
///
/// # Errors
/// When the runtime does not take a socket, or the interface is gone for good.
#[tracing::instrument(name = "raw", skip_all, fields(interface = stack.interface))]
pub async fn run(stack: Stack, shutdown: CancellationToken) -> Result<(), RawError> {
    let counters = stack.counters.clone();
    let result = shuttle::run(stack, shutdown).await.map_err(RawError::Socket);
    tracing::info!(?counters, "raw stack ends");
    result
}

/// For [`crate::fuzz`].
pub(crate) fn fuzz(frame: &crate::frames::Frame<'_>, network: Network) {
    let _ = check::check(frame, network);
}

#[cfg(test)]
mod tests;
