//! System calls that no safe wrapper covers: ioctls of disks ([`disk`]), of the BMC ([`bmc`]) and of interfaces, packet
//! sockets ([`link`]), and what PID 1 needs.
#![allow(unsafe_code, reason = "ioctl and AF_PACKET have no safe interface; each use says why it is sound")]

use std::io::{Error, Result};
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

pub mod bmc;
pub mod disk;
pub mod link;

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

/// Lets the runtime wait for a descriptor.
pub fn watch(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, and stays the same descriptor until it is dropped.
    unsafe { AsyncFd::register(fd) }.map_err(|error| error.into_parts().1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_differ() {
        let (mut one, mut two) = ([0; 16], [0; 16]);
        random(&mut one, true).unwrap();
        random(&mut two, false).unwrap();
        assert_ne!(one, two);
    }
}
