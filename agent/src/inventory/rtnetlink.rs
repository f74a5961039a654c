//! Links, addresses and routes as the kernel tells them (rtnetlink, RFC 3549).
//!
//! [`Network::take_in`] is a function of the kernel's bytes and never panics; [`read`] is its driver.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;

use agent_wire::common::{NetIp, NetIpPrefix};
use agent_wire::talos::network::{AddressStatusSpec, RouteStatusSpec};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, send, setsockopt,
    socket,
};
use nix::sys::time::TimeVal;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`
const REQUEST_DUMP: u16 = 0x301;
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;

/// Attributes that libc does not name.
const IFA_RT_PRIORITY: u16 = 9;
const RTAX_MTU: u16 = 2;
/// Bytes of `struct nlmsghdr`, `ifinfomsg`, `ifaddrmsg` and `rtmsg`.
const HEADER: usize = 16;
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
/// Room for the largest message: the kernel sends up to 32 KiB at once.
const BUFFER: usize = 64 << 10;
/// Links, addresses and routes of a machine in discovery, each; a router with a full table is none.
pub const MAX_ENTRIES: usize = 1024;
/// The kernel answers at once.
const PATIENCE_SECONDS: i64 = 2;

/// What only netlink tells of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Kernel name.
    pub name: String,
    /// Kind of a virtual link: veth, bridge, bond, …
    pub kind: String,
    /// Kind of the link that this one belongs to.
    pub slave_kind: String,
    /// Index of the link below.
    pub link_index: u32,
    /// Index of the link that this one belongs to.
    pub master_index: u32,
    /// Queueing discipline.
    pub queue_disc: String,
    /// What somebody wrote to it.
    pub alias: String,
    /// Other names.
    pub alt_names: Vec<String>,
}

/// The network as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Network {
    /// By index.
    pub links: BTreeMap<u32, Link>,
    /// In the kernel's order; without the names of their links.
    pub addresses: Vec<AddressStatusSpec>,
    /// In the kernel's order; without the names of their links.
    pub routes: Vec<RouteStatusSpec>,
}

/// Whether more messages come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// The answer goes on.
    Yes,
    /// It was the last one.
    No,
    /// The kernel refuses, with this error.
    Refused(i32),
}

impl Network {
    /// Takes in what one read of the socket gave. What is malformed or unknown is left out.
    pub fn take_in(&mut self, mut bytes: &[u8]) -> More {
        while let Some((message, rest)) = split_message(bytes) {
            let kind = u16_at(message, 4);
            let body = message.get(HEADER..).unwrap_or_default();
            match kind {
                NLMSG_DONE => return More::No,
                NLMSG_ERROR => return More::Refused(u32_at(body, 0).cast_signed()),
                NEW_LINK => self.link(body),
                NEW_ADDRESS => self.address(body),
                NEW_ROUTE => self.route(body),
                _ => {}
            }
            bytes = rest;
        }
        More::Yes
    }

    fn link(&mut self, body: &[u8]) {
        if body.len() < LINK_HEADER || self.links.len() >= MAX_ENTRIES {
            return;
        }
        let mut link = Link::default();
        for (kind, value) in attributes(&body[LINK_HEADER..]) {
            match kind {
                libc::IFLA_IFNAME => link.name = text(value),
                libc::IFLA_LINK => link.link_index = u32_at(value, 0),
                libc::IFLA_QDISC => link.queue_disc = text(value),
                libc::IFLA_MASTER => link.master_index = u32_at(value, 0),
                libc::IFLA_LINKINFO => {
                    for (kind, value) in attributes(value) {
                        match kind {
                            libc::IFLA_INFO_KIND => link.kind = text(value),
                            libc::IFLA_INFO_SLAVE_KIND => link.slave_kind = text(value),
                            _ => {}
                        }
                    }
                }
                libc::IFLA_IFALIAS => link.alias = text(value),
                libc::IFLA_PROP_LIST => {
                    let names = attributes(value).filter(|(kind, _)| *kind == libc::IFLA_ALT_IFNAME);
                    link.alt_names = names.map(|(_, value)| text(value)).collect();
                }
                _ => {}
            }
        }
        self.links.insert(u32_at(body, 4), link);
    }

    fn address(&mut self, body: &[u8]) {
        if body.len() < ADDRESS_HEADER || self.addresses.len() >= MAX_ENTRIES {
            return;
        }
        let mut address = AddressStatusSpec {
            family: i32::from(body[0]),
            flags: u32::from(body[2]),
            scope: i32::from(body[3]),
            link_index: u32_at(body, 4),
            ..AddressStatusSpec::default()
        };
        for (kind, value) in attributes(&body[ADDRESS_HEADER..]) {
            match kind {
                libc::IFA_ADDRESS => address.address = prefix(value, body[1]),
                libc::IFA_LOCAL => address.local = ip(value),
                libc::IFA_BROADCAST => address.broadcast = ip(value),
                libc::IFA_ANYCAST => address.anycast = ip(value),
                libc::IFA_MULTICAST => address.multicast = ip(value),
                libc::IFA_FLAGS => address.flags = u32_at(value, 0),
                IFA_RT_PRIORITY => address.priority = u32_at(value, 0),
                _ => {}
            }
        }
        if address.address.is_some() {
            self.addresses.push(address);
        }
    }

    fn route(&mut self, body: &[u8]) {
        if body.len() < ROUTE_HEADER || self.routes.len() >= MAX_ENTRIES {
            return;
        }
        let mut route = RouteStatusSpec {
            family: i32::from(body[0]),
            table: i32::from(body[4]),
            protocol: i32::from(body[5]),
            scope: i32::from(body[6]),
            r#type: i32::from(body[7]),
            flags: u32_at(body, 8),
            ..RouteStatusSpec::default()
        };
        for (kind, value) in attributes(&body[ROUTE_HEADER..]) {
            match kind {
                libc::RTA_DST => route.destination = prefix(value, body[1]),
                libc::RTA_OIF => route.out_link_index = u32_at(value, 0),
                libc::RTA_GATEWAY => route.gateway = ip(value),
                libc::RTA_PRIORITY => route.priority = u32_at(value, 0),
                libc::RTA_PREFSRC => route.source = ip(value),
                libc::RTA_METRICS => {
                    let mtu = attributes(value).find(|(kind, _)| *kind == RTAX_MTU);
                    route.mtu = mtu.map_or(0, |(_, value)| u32_at(value, 0));
                }
                _ => {}
            }
        }
        self.routes.push(route);
    }

    /// The name of a link, empty for one that is gone.
    pub fn link_name(&self, index: u32) -> &str {
        self.links.get(&index).map_or("", |link| &link.name)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|two| two.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// The first message and what follows it.
fn split_message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)).ok()?;
    if length < HEADER || length > bytes.len() {
        return None;
    }
    let next = length.next_multiple_of(4).min(bytes.len());
    Some((&bytes[..length], &bytes[next..]))
}

/// Attributes (`struct rtattr`); flags in the type are left out.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0));
        if length < 4 || length > bytes.len() {
            return None;
        }
        let attribute = (u16_at(bytes, 2) & 0x3fff, &bytes[4..length]);
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
        Some(attribute)
    })
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

fn ip(value: &[u8]) -> Option<NetIp> {
    matches!(value.len(), 4 | 16).then(|| NetIp { ip: value.to_vec().into() })
}

fn prefix(value: &[u8], length: u8) -> Option<NetIpPrefix> {
    matches!(value.len(), 4 | 16)
        .then(|| NetIpPrefix { ip: value.to_vec().into(), prefix_length: i32::from(length) })
}

/// Asks the kernel. Blocks for a moment.
pub fn read() -> io::Result<Network> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    setsockopt(&fd, ReceiveTimeout, &TimeVal::new(PATIENCE_SECONDS, 0))?;
    let mut network = Network::default();
    let mut buffer = vec![0; BUFFER];
    for (kind, body) in [(GET_LINK, LINK_HEADER), (GET_ADDRESS, ADDRESS_HEADER), (GET_ROUTE, ROUTE_HEADER)] {
        let mut request = vec![0; HEADER + body];
        let length = u32::try_from(request.len()).map_err(io::Error::other)?;
        request[..4].copy_from_slice(&length.to_ne_bytes());
        request[4..6].copy_from_slice(&kind.to_ne_bytes());
        request[6..8].copy_from_slice(&REQUEST_DUMP.to_ne_bytes());
        send(fd.as_raw_fd(), &request, MsgFlags::empty())?;
        loop {
            let (length, from) = recvfrom::<NetlinkAddr>(fd.as_raw_fd(), &mut buffer)?;
            // Other processes can send here, too.
            if from.is_some_and(|from| from.pid() != 0) {
                continue;
            }
            match network.take_in(&buffer[..length]) {
                More::Yes => {}
                More::No => break,
                More::Refused(error) => return Err(io::Error::from_raw_os_error(-error)),
            }
        }
    }
    Ok(network)
}

#[cfg(test)]
mod tests;
