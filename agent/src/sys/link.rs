//! Network interfaces: up, addresses and routes, and packets where there is no address yet.

use std::io::{Error, Result};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use tokio::io::unix::AsyncFd;

use super::check;

/// Ethernet type of IPv4.
const ETH_P_IP: u16 = 0x0800;
/// `ETHTOOL_GPERMADDR`: the address that the hardware came with.
const ETHTOOL_GPERMADDR: u32 = 0x20;
/// Room for the longest hardware address of any link type.
const MAX_ADDR_LEN: usize = 32;

fn control_socket() -> Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked before it is owned.
    let fd = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn request(name: &str) -> Result<libc::ifreq> {
    // SAFETY: ifreq is plain data for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn interface_ioctl(code: libc::c_ulong, request: &mut libc::ifreq) -> Result<()> {
    let socket = control_socket()?;
    // SAFETY: every code used here takes a pointer to an ifreq, which outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), code as _, std::ptr::from_mut(request)) }).map(drop)
}

/// Brings an interface up.
pub fn link_up(name: &str) -> Result<()> {
    let mut request = request(name)?;
    interface_ioctl(libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: SIOCGIFFLAGS has just filled this member of the union.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    interface_ioctl(libc::SIOCSIFFLAGS, &mut request)
}

fn ipv4(address: Ipv4Addr) -> libc::sockaddr {
    let ip = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: both are 16 bytes of plain data, and the family tells the kernel which one it is.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(ip) }
}

/// Gives an interface its address; the kernel adds the route to the subnet.
pub fn set_address(name: &str, address: Ipv4Addr, netmask: Ipv4Addr) -> Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_addr = ipv4(address);
    interface_ioctl(libc::SIOCSIFADDR, &mut request)?;
    request.ifr_ifru.ifru_netmask = ipv4(netmask);
    interface_ioctl(libc::SIOCSIFNETMASK, &mut request)
}

/// Adds the default route. One that exists is kept.
pub fn add_default_route(gateway: Ipv4Addr) -> Result<()> {
    // SAFETY: rtentry is plain data for which all zeroes is valid.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = ipv4(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = ipv4(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = ipv4(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    let socket = control_socket()?;
    // SAFETY: SIOCADDRT takes a pointer to an rtentry, which outlives the call.
    match check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT as _, &raw const route) }) {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(error),
        _ => Ok(()),
    }
}

#[repr(C)]
struct PermanentAddress {
    cmd: u32,
    size: u32,
    data: [u8; MAX_ADDR_LEN],
}

/// The address that a NIC came with, when the driver knows it.
pub fn permanent_address(name: &str) -> Option<[u8; 6]> {
    let mut answer = PermanentAddress { cmd: ETHTOOL_GPERMADDR, size: MAX_ADDR_LEN as u32, data: [0; 32] };
    let mut request = request(name).ok()?;
    request.ifr_ifru.ifru_data = (&raw mut answer).cast();
    interface_ioctl(libc::SIOCETHTOOL, &mut request).ok()?;
    let address = *answer.data.first_chunk::<6>()?;
    (answer.size == 6 && address != [0; 6]).then_some(address)
}

/// Sends and receives IPv4 packets on one interface, with or without an address on it.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    interface: libc::c_int,
}

impl PacketSocket {
    /// Opens one, non-blocking.
    pub fn open(interface: u32) -> Result<Self> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = check(unsafe { libc::socket(libc::AF_PACKET, kind, libc::c_int::from(ETH_P_IP.to_be())) })?;
        // SAFETY: a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let interface =
            libc::c_int::try_from(interface).map_err(|_| Error::from_raw_os_error(libc::ENODEV))?;
        let socket = Self { fd, interface };
        let (address, length) = socket.address([0; 6]);
        // SAFETY: the address is a sockaddr_ll of that length and outlives the call.
        check(unsafe { libc::bind(socket.fd.as_raw_fd(), (&raw const address).cast(), length) })?;
        Ok(socket)
    }

    fn address(&self, mac: [u8; 6]) -> (libc::sockaddr_ll, libc::socklen_t) {
        // SAFETY: sockaddr_ll is plain data for which all zeroes is valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = ETH_P_IP.to_be();
        address.sll_ifindex = self.interface;
        address.sll_halen = 6;
        address.sll_addr[..6].copy_from_slice(&mac);
        (address, size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    }

    /// Sends an IPv4 packet to everybody on the link.
    pub fn broadcast(&self, packet: &[u8]) -> Result<()> {
        let (address, length) = self.address([0xff; 6]);
        // SAFETY: packet and address are valid for their lengths and outlive the call.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const address).cast(),
                length,
            )
        };
        if sent < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }

    /// Receives an IPv4 packet.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<usize> {
        // SAFETY: the buffer is valid for its length and outlives the call.
        let length = unsafe { libc::recv(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        usize::try_from(length).map_err(|_| Error::last_os_error())
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Lets the runtime wait for packets.
pub fn watch_packets(socket: PacketSocket) -> Result<AsyncFd<PacketSocket>> {
    // SAFETY: the socket's descriptor is an OwnedFd that is never replaced.
    unsafe { AsyncFd::register(socket) }.map_err(|error| error.into_parts().1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        for name in ["", "no-such-link", "a-name-that-is-far-too-long-for-linux"] {
            assert!(link_up(name).is_err());
            assert_eq!(permanent_address(name), None);
        }
    }
}
