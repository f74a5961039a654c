//! System calls that no safe wrapper covers: ioctls of interfaces, disks and the BMC, packet sockets.
#![allow(unsafe_code, reason = "ioctl and AF_PACKET have no safe interface; each use says why it is sound")]

use std::fs::{File, OpenOptions};
use std::io::{Error, Result};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::unix::AsyncFd;

/// Ethernet type of IPv4.
const ETH_P_IP: u16 = 0x0800;
/// `ETHTOOL_GPERMADDR`: the address that the hardware came with.
const ETHTOOL_GPERMADDR: u32 = 0x20;
/// Room for the longest hardware address of any link type.
const MAX_ADDR_LEN: usize = 32;

/// `BLKRRPART`: read the partition table again.
const BLKRRPART: libc::c_ulong = 0x125f;
/// `BLKDISCARD`: forget a range.
const BLKDISCARD: libc::c_ulong = 0x1277;
/// `BLKZEROOUT`: zero a range, by the disk itself where it can.
const BLKZEROOUT: libc::c_ulong = 0x127f;
/// `BLKROGET`: whether writes are refused.
const BLKROGET: libc::c_ulong = 0x125e;
/// `BLKFLSBUF`: write out and forget what is cached.
const BLKFLSBUF: libc::c_ulong = 0x1261;
/// `NVME_IOCTL_ID`: the number of a block device's namespace.
const NVME_IOCTL_ID: libc::c_ulong = 0x4e40;
/// `NVME_IOCTL_ADMIN_CMD`, `_IOWR('N', 0x41, struct nvme_passthru_cmd)`.
const NVME_IOCTL_ADMIN_CMD: libc::c_ulong = 0xc048_4e41;

fn check(result: libc::c_int) -> Result<libc::c_int> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

/// Lets the kernel reap children: PID 1 inherits orphans and waits for none.
pub fn ignore_children() {
    // SAFETY: SIG_IGN installs no handler, so nothing runs in signal context.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Fills the buffer with random bytes without ever blocking. `strong`: fails while the kernel's generator
/// is not seeded yet; otherwise takes what it has.
pub fn random(buffer: &mut [u8], strong: bool) -> Result<()> {
    let flag = if strong { libc::GRND_NONBLOCK } else { libc::GRND_INSECURE };
    // SAFETY: the buffer is valid for its length and outlives the call.
    let length = unsafe { libc::getrandom(buffer.as_mut_ptr().cast(), buffer.len(), flag) };
    // Up to 256 bytes come whole or not at all.
    if usize::try_from(length) == Ok(buffer.len()) { Ok(()) } else { Err(Error::last_os_error()) }
}

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

fn block_range(device: &File, code: libc::c_ulong, offset: u64, length: u64) -> Result<()> {
    let range: [u64; 2] = [offset, length];
    // SAFETY: the codes used here read two u64, which outlive the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), code as _, range.as_ptr()) }).map(drop)
}

/// Tells a device that a range's contents are not needed.
pub fn discard(device: &File, offset: u64, length: u64) -> Result<()> {
    block_range(device, BLKDISCARD, offset, length)
}

/// Makes a range of a device zero.
pub fn zero_out(device: &File, offset: u64, length: u64) -> Result<()> {
    block_range(device, BLKZEROOUT, offset, length)
}

/// Whether a device refuses writes.
pub fn is_read_only(device: &File) -> Result<bool> {
    let mut answer: libc::c_int = 0;
    // SAFETY: BLKROGET writes an int, which outlives the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKROGET as _, &raw mut answer) })?;
    Ok(answer != 0)
}

/// Forgets what is cached of a device, so that the next read asks it.
pub fn drop_cache(device: &File) -> Result<()> {
    // SAFETY: BLKFLSBUF takes no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKFLSBUF as _, 0) }).map(drop)
}

/// An NVMe admin command; all other fields are zero.
#[derive(Clone, Copy, Debug)]
pub struct NvmeCommand {
    /// What to do.
    pub opcode: u8,
    /// To which namespace.
    pub namespace_id: u32,
    /// How.
    pub dword_10: u32,
    /// How long the kernel waits for the answer.
    pub timeout_ms: u32,
}

/// `struct nvme_passthru_cmd`.
#[repr(C)]
#[derive(Default)]
struct NvmePassthru {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace_id: u32,
    dwords_2_3: [u32; 2],
    metadata: u64,
    data: u64,
    metadata_length: u32,
    data_length: u32,
    dwords_10_15: [u32; 6],
    timeout_ms: u32,
    result: u32,
}

const _: () = assert!(size_of::<NvmePassthru>() == 0x48, "the size is part of the request's code");

/// The namespace that a block device is.
pub fn nvme_namespace(device: &File) -> Result<u32> {
    // SAFETY: NVME_IOCTL_ID takes no argument; the answer is the result.
    check(unsafe { libc::ioctl(device.as_raw_fd(), NVME_IOCTL_ID as _) })
        .and_then(|id| u32::try_from(id).map_err(Error::other))
}

/// Sends an NVMe admin command whose data, if any, comes from the disk.
pub fn nvme_admin(device: &File, command: NvmeCommand, data: &mut [u8]) -> Result<()> {
    let mut request = NvmePassthru {
        opcode: command.opcode,
        namespace_id: command.namespace_id,
        data: if data.is_empty() { 0 } else { data.as_mut_ptr() as u64 },
        data_length: u32::try_from(data.len()).map_err(Error::other)?,
        dwords_10_15: [command.dword_10, 0, 0, 0, 0, 0],
        timeout_ms: command.timeout_ms,
        ..NvmePassthru::default()
    };
    // SAFETY: the code says that a nvme_passthru_cmd is read and written; it and the data that it points to,
    // of the length that it names, outlive the call.
    match check(unsafe { libc::ioctl(device.as_raw_fd(), NVME_IOCTL_ADMIN_CMD as _, &raw mut request) })? {
        0 => Ok(()),
        status => Err(Error::other(format!("NVMe status {status:#x}"))),
    }
}

/// `IPMICTL_SEND_COMMAND`, `_IOR('i', 13, struct ipmi_req)`.
const IPMI_SEND: libc::c_ulong = 0x8028_690d;
/// `IPMICTL_RECEIVE_MSG_TRUNC`, `_IOWR('i', 11, struct ipmi_recv)`.
const IPMI_RECEIVE: libc::c_ulong = 0xc030_690b;
/// `IPMI_SYSTEM_INTERFACE_ADDR_TYPE`, and the channel of the BMC behind it.
const IPMI_SYSTEM_INTERFACE: libc::c_int = 0x0c;
const IPMI_BMC_CHANNEL: libc::c_short = 0x0f;
/// `IPMI_RESPONSE_RECV_TYPE`.
const IPMI_RESPONSE: libc::c_int = 1;
/// `IPMI_MAX_MSG_LENGTH`.
const IPMI_MAX_MESSAGE: usize = 272;

/// `struct ipmi_system_interface_addr`.
#[repr(C)]
struct IpmiAddress {
    kind: libc::c_int,
    channel: libc::c_short,
    unit: u8,
}

/// `struct ipmi_msg`.
#[repr(C)]
struct IpmiMessage {
    function: u8,
    command: u8,
    length: u16,
    data: *mut u8,
}

/// `struct ipmi_req`.
#[repr(C)]
struct IpmiSend {
    address: *mut u8,
    address_length: libc::c_uint,
    id: libc::c_long,
    message: IpmiMessage,
}

/// `struct ipmi_recv`.
#[repr(C)]
struct IpmiReceive {
    kind: libc::c_int,
    address: *mut u8,
    address_length: libc::c_uint,
    id: libc::c_long,
    message: IpmiMessage,
}

const _: () = assert!(size_of::<IpmiSend>() == 0x28 && size_of::<IpmiReceive>() == 0x30);

/// The machine's own BMC, through the kernel's driver.
#[derive(Debug)]
pub struct IpmiDevice(File);

impl IpmiDevice {
    /// Opens it.
    pub fn open(path: &Path) -> Result<Self> {
        OpenOptions::new().read(true).write(true).open(path).map(Self)
    }

    /// Sends a request.
    pub fn send(&self, id: i64, function: u8, command: u8, data: &[u8]) -> Result<()> {
        let mut address = IpmiAddress { kind: IPMI_SYSTEM_INTERFACE, channel: IPMI_BMC_CHANNEL, unit: 0 };
        let mut data = data.to_vec();
        let mut request = IpmiSend {
            address: (&raw mut address).cast(),
            address_length: size_of::<IpmiAddress>() as libc::c_uint,
            id,
            message: IpmiMessage {
                function,
                command,
                length: u16::try_from(data.len()).map_err(Error::other)?,
                data: data.as_mut_ptr(),
            },
        };
        // SAFETY: the code says that an ipmi_req is read; it, its address and its data outlive the call.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), IPMI_SEND as _, &raw mut request) }).map(drop)
    }

    /// Waits for a response: its id, completion code and data. None when none comes in time; an empty id 0
    /// for messages that are no responses.
    pub fn receive(&self, patience: Duration) -> Result<Option<(i64, Vec<u8>)>> {
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        if poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout)? == 0 {
            return Ok(None);
        }
        // Room for the longest address of any kind.
        let mut address = [0_u64; 8];
        let mut data = vec![0; IPMI_MAX_MESSAGE];
        let mut answer = IpmiReceive {
            kind: 0,
            address: address.as_mut_ptr().cast(),
            address_length: size_of_val(&address) as libc::c_uint,
            id: 0,
            message: IpmiMessage {
                function: 0,
                command: 0,
                length: IPMI_MAX_MESSAGE as u16,
                data: data.as_mut_ptr(),
            },
        };
        // SAFETY: the code says that an ipmi_recv is read and written; it, its address and its data, of the
        // lengths that it names, outlive the call.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), IPMI_RECEIVE as _, &raw mut answer) })?;
        data.truncate(usize::from(answer.message.length));
        Ok(Some(if answer.kind == IPMI_RESPONSE { (answer.id, data) } else { (0, Vec::new()) }))
    }
}

/// Makes the kernel look at a device's partition table again.
pub fn reread_partitions(device: &File) -> Result<()> {
    // SAFETY: BLKRRPART takes no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKRRPART as _) }).map(drop)
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

/// Lets the runtime wait for a descriptor.
pub fn watch(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, and stays the same descriptor until it is dropped.
    unsafe { AsyncFd::register(fd) }.map_err(|error| error.into_parts().1)
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

    #[test]
    fn random_bytes_differ() {
        let (mut one, mut two) = ([0; 16], [0; 16]);
        random(&mut one, true).unwrap();
        random(&mut two, false).unwrap();
        assert_ne!(one, two);
    }

    #[test]
    fn block_requests_on_a_plain_file_are_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(discard(&file, 0, 512).is_err());
        assert!(zero_out(&file, 0, 512).is_err());
        assert!(is_read_only(&file).is_err());
        assert!(drop_cache(&file).is_err());
        assert!(nvme_namespace(&file).is_err());
        assert!(reread_partitions(&file).is_err());
    }
}
