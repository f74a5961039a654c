//! A macvlan: an interface with a MAC of its own on another one, made in a namespace (rtnetlink(7)).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use netboot::Mac;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

const NEW_LINK: u16 = 16;
/// Request, acknowledge, create, fail when it exists.
const FLAGS: u16 = 0x1 | 0x4 | 0x400 | 0x200;
const ERROR: u16 = 2;
/// `nlmsghdr` and `ifinfomsg`.
const HEADERS: usize = 16 + 16;

// Attributes of a link, and of what kind it is.
const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const LINK: u16 = 5;
const QUEUE: u16 = 13;
const LINK_INFO: u16 = 18;
const NAMESPACE: u16 = 28;
const KIND: u16 = 1;
const DATA: u16 = 2;
const MODE: u16 = 1;
/// Machines on other macvlans of the interface (virtual ones of this host) are reached too.
const BRIDGE: u32 = 4;

/// The kernel's ear for orders about the interfaces of one namespace.
pub(super) struct Route(OwnedFd);

/// What is to be made.
pub(super) struct Macvlan<'a> {
    pub(super) name: &'a str,
    /// The index of the interface below.
    pub(super) below: u32,
    pub(super) mac: Mac,
    pub(super) mtu: u16,
    pub(super) queue: u16,
}

impl Route {
    /// Of the calling thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self(fd))
    }

    /// Makes one in another namespace.
    pub(super) fn add(&self, wanted: &Macvlan<'_>, namespace: &File) -> io::Result<()> {
        send(self.0.as_raw_fd(), &request(wanted, namespace.as_raw_fd()), MsgFlags::empty())?;
        let mut answer = [0; 4096];
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        match outcome(&answer[..length]) {
            Some(0) => Ok(()),
            Some(error) => Err(io::Error::from_raw_os_error(-error)),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn request(wanted: &Macvlan<'_>, namespace: i32) -> Vec<u8> {
    let mut out = vec![0; HEADERS];
    out[4..6].copy_from_slice(&NEW_LINK.to_ne_bytes());
    out[6..8].copy_from_slice(&FLAGS.to_ne_bytes());
    let name = [wanted.name.as_bytes(), &[0]].concat();
    put(&mut out, NAME, &name);
    put(&mut out, ADDRESS, &wanted.mac.0);
    put(&mut out, MTU, &u32::from(wanted.mtu).to_ne_bytes());
    put(&mut out, QUEUE, &u32::from(wanted.queue).to_ne_bytes());
    put(&mut out, LINK, &wanted.below.to_ne_bytes());
    put(&mut out, NAMESPACE, &namespace.to_ne_bytes());
    let (mut info, mut data) = (Vec::new(), Vec::new());
    put(&mut data, MODE, &BRIDGE.to_ne_bytes());
    put(&mut info, KIND, b"macvlan\0");
    put(&mut info, DATA, &data);
    put(&mut out, LINK_INFO, &info);
    let length = (out.len() as u32).to_ne_bytes();
    out[..4].copy_from_slice(&length);
    out
}

/// An attribute, to a multiple of four bytes.
fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // All values above are short.
    out.extend(((4 + value.len()) as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// The error's number, negative, or 0 when there is none; `None` when the answer is none.
fn outcome(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    let number = i32::from_ne_bytes(*answer.get(16..)?.first_chunk()?);
    (kind == ERROR && number <= 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_say_their_length_without_it() {
        let mut out = Vec::new();
        put(&mut out, NAME, b"boot0\0");
        assert_eq!(out, [10, 0, 3, 0, b'b', b'o', b'o', b't', b'0', 0, 0, 0]);
        let wanted = Macvlan { name: "boot0", below: 7, mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500, queue: 1 };
        let request = request(&wanted, 9);
        assert_eq!(request.len() % 4, 0);
        assert_eq!(u32::from_ne_bytes(*request.first_chunk().unwrap()) as usize, request.len());
    }

    #[test]
    fn an_answer_is_an_error_or_none() {
        let mut answer = [0; 36];
        answer[4..6].copy_from_slice(&ERROR.to_ne_bytes());
        assert_eq!(outcome(&answer), Some(0));
        answer[16..20].copy_from_slice(&(-16_i32).to_ne_bytes());
        assert_eq!(outcome(&answer), Some(-16));
        for length in 0..20 {
            assert_eq!(outcome(&answer[..length]), None);
        }
        answer[4] = 3;
        assert_eq!(outcome(&answer), None);
    }
}
