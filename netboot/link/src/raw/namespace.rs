//! A network namespace with one TAP in it, held by open files: it has no name, and nothing of it is left when the
//! process ends, however it ends.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::thread;

use netboot::Mac;
use nix::sched::{CloneFlags, setns, unshare};

use super::Network;
use crate::sys::interface::{Interface, tap};

/// The TAP's name in its namespace.
const NAME: &str = "boot0";
/// Frames that may wait to be moved to the wire, of up to 64 KiB: a frame for each of some hundred machines, or for
/// a few of them what a window of TCP is.
const QUEUE: u16 = 512;

#[derive(Debug)]
pub(super) struct Namespace {
    handle: File,
    tap: File,
}

impl Namespace {
    /// Makes a namespace with an address and a MAC.
    pub(super) fn new(mac: Mac, network: Network, mtu: u16) -> io::Result<Self> {
        // A thread of its own: the calling one stays where it is.
        on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            // The packet socket lets no IPv6 pass. Where /proc cannot be written, its packets go nowhere.
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            let tap = tap(NAME)?;
            let interface = Interface::named(NAME)?;
            interface.set_mac(mac)?;
            interface.set_mtu(mtu)?;
            interface.set_queue(QUEUE)?;
            interface.set_address(network.address(), Ipv4Addr::from_bits(network.mask()))?;
            // Whoever knew the address at another station hears of this one at once.
            let _ = std::fs::write(format!("/proc/sys/net/ipv4/conf/{NAME}/arp_notify"), "1");
            interface.set_up()?;
            // Local answers to the own address.
            Interface::named("lo")?.set_up()?;
            Ok(Self { handle: File::open("/proc/thread-self/ns/net")?, tap })
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
    pub(super) fn into_tap(self) -> File {
        self.tap
    }
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("namespace".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
