//! The network: which NICs there are, when they have a carrier, and an address for each by DHCP.

pub mod dhcp;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::{say, sys};

/// Where the kernel shows interfaces.
pub const SYS_NET: &str = "/sys/class/net";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Drivers report most link changes by event; what some forget is noticed by looking again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long a bare machine waits for its first NIC before it says that there is none.
const NIC_PATIENCE: Duration = Duration::from_secs(10);

/// A physical Ethernet interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Kernel name.
    pub name: String,
    /// Interface index.
    pub index: u32,
    /// Address in use.
    pub mac: [u8; 6],
}

/// An interface got an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Up {
    /// Which.
    pub nic: Nic,
    /// What.
    pub lease: dhcp::Lease,
}

/// The physical Ethernet interfaces, by index: hardware behind them (`device`) and hardware type 1, which
/// is what Talos calls physical (Ethernet without a link kind).
pub fn nics(sys_net: &Path) -> Vec<Nic> {
    let mut nics: Vec<Nic> = std::fs::read_dir(sys_net)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let read = |file: &str| std::fs::read_to_string(path.join(file)).ok();
            let physical = path.join("device").exists() && read("type")?.trim() == "1";
            physical.then_some(())?;
            Some(Nic {
                name: entry.file_name().into_string().ok()?,
                index: read("ifindex")?.trim().parse().ok()?,
                mac: parse_mac(read("address")?.trim())?,
            })
        })
        .collect();
    nics.sort_by_key(|nic| nic.index);
    nics
}

/// Whether there is a cable with something at its other end. A link that is down cannot tell and has none.
pub fn has_carrier(sys_net: &Path, name: &str) -> bool {
    std::fs::read_to_string(sys_net.join(name).join("carrier")).is_ok_and(|text| text.trim() == "1")
}

/// `aa:bb:cc:dd:ee:ff` as bytes.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// Bytes as `aa:bb:cc:dd:ee:ff`.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Tells when any link changed.
#[derive(Debug)]
pub struct LinkEvents(AsyncFd<OwnedFd>);

impl LinkEvents {
    /// Subscribes to the kernel's link messages.
    pub fn open() -> io::Result<Self> {
        use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        let group = u32::try_from(libc::RTMGRP_LINK).expect("a group mask");
        bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &NetlinkAddr::new(0, group))?;
        Ok(Self(sys::watch(fd)?))
    }

    /// Waits for a change, or a moment.
    pub async fn changed(&self) {
        let read = async {
            let Ok(mut ready) = self.0.readable().await else { return };
            let mut buffer = [0; 8192];
            while let Ok(Ok(_)) =
                ready.try_io(|fd| nix::unistd::read(fd.get_ref(), &mut buffer).map_err(io::Error::from))
            {
            }
        };
        let _ = tokio::time::timeout(LOOK_AGAIN, read).await;
    }
}

/// Waits for NICs, brings them up, and sends an [`Up`] for each address. Every NIC is tried, all at once;
/// returns only when nobody listens any more.
pub async fn run(found: mpsc::Sender<Up>, seed: u32) {
    let events = match LinkEvents::open() {
        Ok(events) => events,
        Err(error) => return say!("no link events: {error}"),
    };
    let mut known: Vec<Nic> = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    let started = Instant::now();
    let mut complained = false;
    while !found.is_closed() {
        for nic in nics(Path::new(SYS_NET)) {
            if known.iter().any(|other| other.index == nic.index) {
                continue;
            }
            if let Err(error) = sys::link::link_up(&nic.name) {
                say!("{}: cannot be brought up: {error}", nic.name);
            }
            say!("{}: network interface {}", nic.name, mac_text(nic.mac));
            known.push(nic.clone());
            tasks.spawn(configure(nic, found.clone(), seed));
        }
        if known.is_empty() && !complained && started.elapsed() > NIC_PATIENCE {
            complained = true;
            say!("no network interface found: is its driver in the image?");
        }
        events.changed().await;
    }
}

/// Keeps one NIC configured by DHCP. Returns never.
pub async fn configure(nic: Nic, found: mpsc::Sender<Up>, seed: u32) {
    let Ok(events) = LinkEvents::open() else { return };
    let mut told = false;
    loop {
        while !has_carrier(Path::new(SYS_NET), &nic.name) {
            if !told {
                told = true;
                say!("{}: waits for a carrier", nic.name);
            }
            events.changed().await;
        }
        say!("{}: carrier, asking for an address", nic.name);
        // Only errors end it.
        if let Err(error) = lease(&nic, &found, seed ^ nic.index).await {
            say!("{}: DHCP: {error}", nic.name);
        }
        events.changed().await;
    }
}

/// The DHCP client's driver: wait, feed, act, flush.
async fn lease(nic: &Nic, found: &mpsc::Sender<Up>, seed: u32) -> io::Result<()> {
    let socket = sys::link::watch_packets(sys::link::PacketSocket::open(nic.index)?)?;
    let start = Instant::now();
    let mut client = dhcp::Client::new(nic.mac, seed, Duration::ZERO);
    // Larger than any Ethernet frame that DHCP is sent in.
    let mut buffer = [0; 2048];
    loop {
        while let Some((source, message)) = client.poll_transmit() {
            // A lost packet is repeated like any other.
            if let Err(error) = socket.get_ref().broadcast(&dhcp::to_packet(source, &message)) {
                say!("{}: cannot send: {error}", nic.name);
            }
        }
        while let Some(event) = client.poll_event() {
            match event {
                dhcp::Event::Bound(lease) => {
                    apply(nic, &lease);
                    let _ = found.try_send(Up { nic: nic.clone(), lease });
                }
                dhcp::Event::Lost => {
                    say!("{}: address is lost", nic.name);
                    let _ = sys::link::set_address(&nic.name, Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
                }
            }
        }
        // Cancel-safe: readiness is kept, and a deadline is an instant.
        tokio::select! {
            ready = socket.readable() => {
                if let Ok(result) = ready?.try_io(|socket| socket.get_ref().receive(&mut buffer))
                    && let Some(payload) = dhcp::from_packet(&buffer[..result?])
                {
                    client.handle_packet(start.elapsed(), payload);
                }
            }
            () = tokio::time::sleep_until(start + client.poll_timeout()) => {
                client.handle_timeout(start.elapsed());
            }
        }
    }
}

fn apply(nic: &Nic, lease: &dhcp::Lease) {
    let prefix = u32::from(lease.netmask).count_ones();
    match sys::link::set_address(&nic.name, lease.address, lease.netmask) {
        Ok(()) => say!("{}: address {}/{prefix} from {}", nic.name, lease.address, lease.server),
        Err(error) => say!("{}: address {} cannot be set: {error}", nic.name, lease.address),
    }
    if let Some(router) = lease.router
        && let Err(error) = sys::link::add_default_route(router)
    {
        say!("{}: route over {router} cannot be set: {error}", nic.name);
    }
}

/// Tells the C library's resolver whom to ask; it reads the file again when it changed.
pub fn write_resolv(servers: &[Ipv4Addr]) {
    let _ = std::fs::create_dir_all("/etc");
    if let Err(error) = std::fs::write(RESOLV_CONF, resolv(servers)) {
        say!("{RESOLV_CONF}: {error}");
    }
}

fn resolv(servers: &[Ipv4Addr]) -> String {
    servers.iter().map(|server| format!("nameserver {server}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn name_servers_are_written_as_the_resolver_reads_them() {
        assert_eq!(resolv(&[]), "");
        assert_eq!(
            resolv(&[[192, 0, 2, 1].into(), [192, 0, 2, 2].into()]),
            "nameserver 192.0.2.1\nnameserver 192.0.2.2\n"
        );
    }

    #[test]
    fn only_hardware_is_a_nic() {
        let sys = tempfile::tempdir().unwrap();
        for (name, kind, device, index) in
            [("eth1", "1", true, 3), ("eth0", "1", true, 2), ("lo", "772", false, 1), ("br0", "1", false, 4)]
        {
            let link = sys.path().join(name);
            fs::create_dir_all(&link).unwrap();
            if device {
                fs::create_dir(link.join("device")).unwrap();
            }
            fs::write(link.join("type"), kind).unwrap();
            fs::write(link.join("ifindex"), format!("{index}\n")).unwrap();
            fs::write(link.join("address"), "52:54:00:00:00:0a\n").unwrap();
        }
        fs::write(sys.path().join("eth0/carrier"), "1\n").unwrap();
        let found = nics(sys.path());
        let names: Vec<&str> = found.iter().map(|nic| nic.name.as_str()).collect();
        assert_eq!(names, ["eth0", "eth1"]);
        assert_eq!(found[0].mac, [0x52, 0x54, 0, 0, 0, 10]);
        assert!(has_carrier(sys.path(), "eth0"));
        assert!(!has_carrier(sys.path(), "eth1"));
    }

    #[test]
    fn addresses_are_read_and_written() {
        assert_eq!(parse_mac("52:54:00:aB:cd:ef"), Some([0x52, 0x54, 0, 0xab, 0xcd, 0xef]));
        assert_eq!(mac_text([0x52, 0x54, 0, 0xab, 0xcd, 0xef]), "52:54:00:ab:cd:ef");
        for text in ["", "52:54:00:ab:cd", "52:54:00:ab:cd:ef:00", "5:54:00:ab:cd:ef", "zz:54:00:ab:cd:ef"] {
            assert_eq!(parse_mac(text), None, "{text}");
        }
    }
}
