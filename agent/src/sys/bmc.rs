//! The machine's own BMC, through the kernel's driver.

use std::fs::{File, OpenOptions};
use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::check;

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
