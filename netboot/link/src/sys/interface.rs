//! Interfaces: a TAP of our own, and what an interface is set to. Everything acts on the network namespace of the
//! calling thread.

use std::fs::File;
use std::io;
use std::mem::zeroed;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

use netboot::Mac;
use nix::libc;

use super::checked;

/// `linux/if_tun.h`: datagrams of one kind may come as one (Linux 6.2).
const TUN_F_USO: libc::c_uint = 0x20 | 0x40;
const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_TSO4: libc::c_uint = 0x02;

/// `linux/if_arp.h`: the station is known.
const ATF_COM: libc::c_int = 0x02;

/// Makes a TAP whose frames have a `virtio_net_hdr` in front: long ones that were not cut yet, and checksums left to
/// whoever sends them on. It is gone when the file is closed.
pub(crate) fn tap(name: &str) -> io::Result<File> {
    let tap = File::options().read(true).write(true).open("/dev/net/tun")?;
    let mut request = request(name)?;
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL) as libc::c_short;
    // SAFETY: `request` is an ifreq that outlives the call.
    checked(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    // Older kernels cut datagrams themselves.
    for offload in [TUN_F_CSUM | TUN_F_TSO4 | TUN_F_USO, TUN_F_CSUM | TUN_F_TSO4] {
        // SAFETY: the argument is a number.
        let set = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offload)) };
        if set >= 0 {
            break;
        }
    }
    // SAFETY: `tap` owns the descriptor; the flag is a number.
    checked(unsafe { libc::fcntl(tap.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
    Ok(tap)
}

/// An interface of the calling thread's namespace.
pub(crate) struct Interface<'a> {
    name: &'a str,
    socket: UdpSocket,
}

impl<'a> Interface<'a> {
    pub(crate) fn named(name: &'a str) -> io::Result<Self> {
        Ok(Self { name, socket: UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))? })
    }

    pub(crate) fn mtu(&self) -> io::Result<u16> {
        let mut request = request(self.name)?;
        self.ioctl(libc::SIOCGIFMTU, &mut request)?;
        // SAFETY: the kernel has written this member.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        u16::try_from(mtu).map_err(io::Error::other)
    }

    pub(crate) fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        let mut request = request(self.name)?;
        request.ifr_ifru.ifru_mtu = mtu.into();
        self.ioctl(libc::SIOCSIFMTU, &mut request)
    }

    /// How many frames may wait for whoever reads them.
    pub(crate) fn set_queue(&self, frames: u16) -> io::Result<()> {
        let mut request = request(self.name)?;
        request.ifr_ifru.ifru_metric = frames.into();
        self.ioctl(libc::SIOCSIFTXQLEN, &mut request)
    }

    pub(crate) fn set_mac(&self, mac: Mac) -> io::Result<()> {
        let mut request = request(self.name)?;
        // SAFETY: all zero is a valid sockaddr.
        let mut address: libc::sockaddr = unsafe { zeroed() };
        address.sa_family = libc::ARPHRD_ETHER;
        for (to, from) in address.sa_data.iter_mut().zip(mac.0) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        request.ifr_ifru.ifru_hwaddr = address;
        self.ioctl(libc::SIOCSIFHWADDR, &mut request)
    }

    /// Gives it an address with the mask of its network.
    pub(crate) fn set_address(&self, address: Ipv4Addr, mask: Ipv4Addr) -> io::Result<()> {
        for (order, value) in [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, mask)] {
            let mut request = request(self.name)?;
            request.ifr_ifru.ifru_addr = place(value);
            self.ioctl(order, &mut request)?;
        }
        Ok(())
    }

    pub(crate) fn is_up(&self) -> io::Result<bool> {
        Ok(self.flags()? & libc::IFF_UP as libc::c_short != 0)
    }

    pub(crate) fn set_up(&self) -> io::Result<()> {
        let mut request = request(self.name)?;
        request.ifr_ifru.ifru_flags = self.flags()? | libc::IFF_UP as libc::c_short;
        self.ioctl(libc::SIOCSIFFLAGS, &mut request)
    }

    fn flags(&self) -> io::Result<libc::c_short> {
        let mut request = request(self.name)?;
        self.ioctl(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: the kernel has written this member.
        Ok(unsafe { request.ifr_ifru.ifru_flags })
    }

    fn ioctl(&self, order: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: `request` is an ifreq that outlives the call; all orders above take one.
        checked(unsafe { libc::ioctl(self.socket.as_raw_fd(), order, std::ptr::from_mut(request)) })
            .map(|_| ())
    }
}

/// The station of an address, when the kernel knows it: on an interface of the network namespace of this socket.
pub(crate) fn neighbour(socket: &UdpSocket, interface: &str, address: Ipv4Addr) -> Option<Mac> {
    // SAFETY: all zero is a valid arpreq.
    let mut request: libc::arpreq = unsafe { zeroed() };
    if interface.len() >= request.arp_dev.len() {
        return None;
    }
    for (to, from) in request.arp_dev.iter_mut().zip(interface.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.arp_pa = place(address);
    // SAFETY: `request` is an arpreq that outlives the call.
    let asked = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGARP, &raw mut request) };
    let known =
        asked >= 0 && request.arp_flags & ATF_COM != 0 && request.arp_ha.sa_family == libc::ARPHRD_ETHER;
    let mac = Mac(std::array::from_fn(|at| request.arp_ha.sa_data[at].to_ne_bytes()[0]));
    Some(mac).filter(|mac| known && mac.is_unicast())
}

/// As a `sockaddr_in`: the port, then the address.
fn place(address: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: all zero is a valid sockaddr.
    let mut place: libc::sockaddr = unsafe { zeroed() };
    place.sa_family = libc::AF_INET as u16;
    for (to, from) in place.sa_data.iter_mut().skip(2).zip(address.octets()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    place
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(request)
}
