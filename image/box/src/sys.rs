//! System calls that no safe wrapper covers: VLAN interfaces, a partition and a file system that grow, consoles.
#![allow(unsafe_code, reason = "these ioctls have no safe interface; each use says why it is sound")]

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

/// `SIOCSIFVLAN`
const SIOCSIFVLAN: libc::c_ulong = 0x8983;
/// `ADD_VLAN_CMD`
const ADD_VLAN: libc::c_int = 0;
/// Errno of what is there already.
const EXISTS: i32 = libc::EEXIST;
/// `BLKPG` and `BLKPG_RESIZE_PARTITION`
const BLKPG: libc::c_ulong = 0x1269;
const RESIZE_PARTITION: libc::c_int = 3;
/// `EXT4_IOC_RESIZE_FS`, `_IOW('f', 16, __u64)`
const EXT4_RESIZE: libc::c_ulong = 0x4008_6610;
/// `TIOCLINUX` and `TIOCL_SETKMSGREDIRECT`
const TIOCLINUX: libc::c_ulong = 0x541c;
const KERNEL_MESSAGES: u8 = 11;

/// `struct vlan_ioctl_args`
#[repr(C)]
struct Vlan {
    command: libc::c_int,
    device: [u8; 24],
    id: libc::c_int,
    rest: [u8; 20],
    quality: libc::c_short,
}

/// `struct blkpg_partition`
#[repr(C)]
struct BlockPartition {
    start: i64,
    length: i64,
    number: libc::c_int,
    names: [u8; 128],
}

/// `struct blkpg_ioctl_arg`
#[repr(C)]
struct BlockOrder {
    order: libc::c_int,
    flags: libc::c_int,
    length: libc::c_int,
    data: *mut BlockPartition,
}

fn check(result: libc::c_int) -> Result<()> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Makes the interface `<name>.<id>`. It may be there.
pub(crate) fn add_vlan(name: &str, id: u16) -> Result<()> {
    let mut request = Vlan { command: ADD_VLAN, device: [0; 24], id: id.into(), rest: [0; 20], quality: 0 };
    if name.is_empty() || name.len() >= request.device.len() {
        return Err(Error::from_raw_os_error(libc::ENODEV));
    }
    request.device[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: no pointers; the result is checked before it is owned.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(socket)?;
    // SAFETY: a fresh descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: SIOCSIFVLAN takes a pointer to a vlan_ioctl_args, which outlives the call.
    match check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCSIFVLAN as _, &raw mut request) }) {
        Err(error) if error.raw_os_error() != Some(EXISTS) => Err(error),
        _ => Ok(()),
    }
}

/// Tells the kernel that a partition is longer now, although others of the disk are in use.
pub(crate) fn resize_partition(disk: &File, number: u32, start: u64, length: u64) -> Result<()> {
    let number = libc::c_int::try_from(number).map_err(Error::other)?;
    let (start, length) =
        (i64::try_from(start).map_err(Error::other)?, i64::try_from(length).map_err(Error::other)?);
    let mut partition = BlockPartition { start, length, number, names: [0; 128] };
    let mut order = BlockOrder {
        order: RESIZE_PARTITION,
        flags: 0,
        length: size_of::<BlockPartition>() as libc::c_int,
        data: &raw mut partition,
    };
    // SAFETY: BLKPG takes a pointer to a blkpg_ioctl_arg; it and the partition that it points to outlive the call.
    check(unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG as _, &raw mut order) })
}

/// Makes a mounted ext4 file system so many blocks long. `root` is any file or directory of it.
pub(crate) fn resize_ext4(root: &File, blocks: u64) -> Result<()> {
    // SAFETY: EXT4_IOC_RESIZE_FS reads a u64, which outlives the call.
    check(unsafe { libc::ioctl(root.as_raw_fd(), EXT4_RESIZE as _, &raw const blocks) })
}

/// Has the kernel's messages written on another of the screen's consoles than the one in front. `console` is any.
pub(crate) fn kernel_messages_to(console: &File, number: u8) -> Result<()> {
    let mut order = [KERNEL_MESSAGES, number];
    // SAFETY: this order of TIOCLINUX reads two bytes, which outlive the call.
    check(unsafe { libc::ioctl(console.as_raw_fd(), TIOCLINUX as _, order.as_mut_ptr()) })
}

/// Has a terminal ignore the characters that stop it. What is no terminal has none.
pub(crate) fn without_flow_control(terminal: &impl AsFd) -> Result<()> {
    let terminal = terminal.as_fd().as_raw_fd();
    // SAFETY: all zeroes are a termios, which is filled or not used.
    let mut settings: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: tcgetattr writes a termios, which outlives the call.
    if let Err(error) = check(unsafe { libc::tcgetattr(terminal, &raw mut settings) }) {
        return if error.raw_os_error() == Some(libc::ENOTTY) { Ok(()) } else { Err(error) };
    }
    settings.c_iflag &= !(libc::IXON | libc::IXOFF);
    // SAFETY: tcsetattr reads a termios, which outlives the call.
    check(unsafe { libc::tcsetattr(terminal, libc::TCSANOW, &raw const settings) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_disk_and_no_interface_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        assert!(resize_partition(&file, 1, 0, 512).is_err());
        assert!(resize_ext4(&file, 1).is_err());
        assert!(add_vlan("no-such-link", 5).is_err());
        assert!(add_vlan("", 5).is_err());
        assert!(kernel_messages_to(&file, 2).is_err());
        assert!(without_flow_control(&file).is_ok());
    }
}
