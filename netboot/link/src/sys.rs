//! The system calls that no safe crate offers: packet sockets with a filter.
#![allow(unsafe_code, reason = "AF_PACKET addresses and classic BPF filters have no safe wrapper in nix")]

pub(crate) mod batch;
pub(crate) mod interface;

use std::fs::File;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use netboot::Mac;
use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One instruction of a classic BPF program.
pub type Instruction = libc::sock_filter;

/// `linux/if_packet.h`: frames that this host sends are not shown to the socket (Linux 4.20).
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// A packet socket on one interface that shows whole Ethernet frames.
#[derive(Debug)]
pub(crate) struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens a non-blocking socket that sees the interface's frames of every protocol which pass the filter, each
    /// with the VLAN tag that the kernel took off. Frames are seen only once the filter stands.
    /// With `card_header` each frame has a `virtio_net_hdr` in front, both ways.
    pub(crate) fn open_tagged(interface: u32, filter: &[Instruction], card_header: bool) -> io::Result<Self> {
        let socket = Self::new(filter)?;
        set_option(&socket.0, libc::SOL_PACKET, libc::PACKET_AUXDATA, &1_i32)?;
        if card_header {
            set_option(&socket.0, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1_i32)?;
        }
        socket.bind(interface, libc::ETH_P_ALL as u16)?;
        Ok(socket)
    }

    /// Opens a non-blocking socket that sees nothing and only sends, frames with a `virtio_net_hdr` in front.
    pub(crate) fn open_sending(interface: u32) -> io::Result<Self> {
        let socket = Self::new(&[])?;
        set_option(&socket.0, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1_i32)?;
        socket.bind(interface, 0)?;
        Ok(socket)
    }

    fn new(filter: &[Instruction]) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers; the result is checked. Protocol 0 receives nothing until bind.
        let fd = checked(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: the descriptor is new and owned by nothing else.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        if !filter.is_empty() {
            attach_filter(&socket.0, filter)?;
        }
        // Old kernels do not know it; a batch tells such frames apart as well.
        let _ = set_option(&socket.0, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1_i32);
        Ok(socket)
    }

    fn bind(&self, interface: u32, protocol: u16) -> io::Result<()> {
        // SAFETY: all zero is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = i32::try_from(interface).map_err(io::Error::other)?;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: `address` is a sockaddr_ll of `length` bytes that outlives the call.
        checked(unsafe { libc::bind(self.0.as_raw_fd(), (&raw const address).cast(), length) })?;
        Ok(())
    }

    /// Has the card take frames to one more address; a card that cannot takes all.
    pub(crate) fn join(&self, interface: u32, mac: Mac) -> io::Result<()> {
        let mut address = [0; 8];
        address[..6].copy_from_slice(&mac.0);
        let wanted = libc::packet_mreq {
            mr_ifindex: i32::try_from(interface).map_err(io::Error::other)?,
            mr_type: libc::PACKET_MR_UNICAST as u16,
            mr_alen: 6,
            mr_address: address,
        };
        set_option(&self.0, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &wanted)
    }

    /// Lets the runtime tell when frames wait.
    pub(crate) fn register(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: `as_raw_fd` names the same descriptor for the whole life of the value, which owns it.
        unsafe { AsyncFd::register_with_interest(self, Interest::READABLE | Interest::WRITABLE) }
            .map_err(io::Error::from)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Puts a classic BPF program before a socket's queue.
pub(crate) fn attach_filter(socket: &impl AsRawFd, filter: &[Instruction]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        // The kernel only reads; the field is not const in its header.
        filter: filter.as_ptr().cast_mut(),
    };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Datagrams of a socket are never cut, whatever the kernel knows of the way: it does not ask.
pub(crate) fn never_fragment(socket: &impl AsRawFd) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &libc::IP_PMTUDISC_PROBE)
}

/// Lets the runtime tell when a file (a TAP) can be read.
pub(crate) fn watch(file: File) -> io::Result<AsyncFd<File>> {
    // SAFETY: `as_raw_fd` names the same descriptor for the whole life of the value, which owns it.
    unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }.map_err(io::Error::from)
}

/// Whether the byte of a file at this place can be read without a disk. Where the kernel cannot tell, it can.
pub(crate) fn is_cached(file: &impl AsRawFd, at: u64) -> bool {
    let Ok(at) = libc::off_t::try_from(at) else { return true };
    let mut byte = 0_u8;
    let part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: `part` points to one byte that outlives the call.
    let read = unsafe { libc::preadv2(file.as_raw_fd(), &raw const part, 1, at, libc::RWF_NOWAIT) };
    read >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock
}

fn set_option<T>(socket: &impl AsRawFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is valid for reads of `length` bytes; the kernel copies what it keeps before it
    // returns, the program that a sock_fprog points to as well (it outlives the call in `attach_filter`).
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length)
    };
    checked(result).map(|_| ())
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
