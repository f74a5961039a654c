//! A network namespace with one interface in it, held by open files: it has no name, and nothing of it is left when
//! the process ends, however it ends.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::thread;

use netboot::Mac;
use nix::sched::{CloneFlags, setns, unshare};

use super::Network;
use super::macvlan::{Macvlan, Route};
use crate::sys::interface::{Interface, tap};

/// The interface's name in its namespace.
const NAME: &str = "boot0";
/// Frames that may wait to be moved to the wire, of up to 64 KiB: a frame for each of some hundred machines, or for
/// a few of them what a window of TCP is.
const QUEUE: u16 = 512;
const IPV6: &str = "/proc/sys/net/ipv6/conf";
const IPV4: &str = "/proc/sys/net/ipv4/conf";

/// What the interface of a namespace is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) mac: Mac,
    pub(super) network: Network,
    pub(super) mtu: u16,
}

#[derive(Debug)]
pub(super) struct Namespace {
    handle: File,
    /// Absent when the interface is on the wire by itself.
    tap: Option<File>,
    /// Keep "port unreachable" away from DHCP, which is answered beside this kernel; never read.
    _silencers: Vec<UdpSocket>,
}

impl Namespace {
    /// With a TAP, whose frames are to be moved.
    pub(super) fn with_tap(wanted: Wanted) -> io::Result<Self> {
        // A thread of its own: the calling one stays where it is.
        on_a_thread(|| {
            let handle = own()?;
            // The packet socket lets no IPv6 pass. Where /proc cannot be written, its packets go nowhere.
            let _ = no_ipv6();
            let tap = tap(NAME)?;
            let interface = Interface::named(NAME)?;
            interface.set_mac(wanted.mac)?;
            interface.set_mtu(wanted.mtu)?;
            interface.set_queue(QUEUE)?;
            start(&interface, wanted.network)?;
            Ok(Self { handle, tap: Some(tap), _silencers: Vec::new() })
        })
    }

    /// With a macvlan on the interface of this index: the kernel moves its frames.
    pub(super) fn with_macvlan(wanted: Wanted, below: u32) -> io::Result<Self> {
        let Wanted { mac, network, mtu } = wanted;
        on_a_thread(|| {
            // The interface below is here, its child there.
            let here = Route::open()?;
            let handle = own()?;
            // What this kernel says is heard on the wire.
            no_ipv6()?;
            // A source that is not of the network is not heard, be the rest of it right.
            let _ = std::fs::write(format!("{IPV4}/all/rp_filter"), "1");
            let _ = std::fs::write("/proc/sys/net/ipv4/ip_forward", "0");
            here.add(&Macvlan { name: NAME, below, mac, mtu, queue: QUEUE }, &handle)?;
            let silencers = [67, 4011].map(|port| crate::dhcp::silence(NAME, port));
            start(&Interface::named(NAME)?, network)?;
            Ok(Self { handle, tap: None, _silencers: silencers.into_iter().collect::<io::Result<_>>()? })
        })
    }

    /// Runs `work` in it.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        on_a_thread(|| {
            setns(&self.handle, CloneFlags::CLONE_NEWNET)?;
            work()
        })
    }

    /// The TAP; sockets that are open keep the rest.
    pub(super) fn take_tap(&mut self) -> Option<File> {
        self.tap.take()
    }
}

/// Takes the calling thread to a namespace of its own.
fn own() -> io::Result<File> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    File::open("/proc/thread-self/ns/net")
}

fn no_ipv6() -> io::Result<()> {
    if !Path::new(IPV6).exists() {
        return Ok(());
    }
    std::fs::write(format!("{IPV6}/all/disable_ipv6"), "1")?;
    std::fs::write(format!("{IPV6}/default/disable_ipv6"), "1")
}

fn start(interface: &Interface<'_>, network: Network) -> io::Result<()> {
    interface.set_address(network.address(), Ipv4Addr::from_bits(network.mask()))?;
    // Whoever knew the address at another station hears of this one at once.
    let _ = std::fs::write(format!("{IPV4}/{NAME}/arp_notify"), "1");
    interface.set_up()?;
    // Local answers to the own address.
    Interface::named("lo")?.set_up()
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("namespace".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
