//! Loads the kernel modules of the image: those that the machine's devices ask for, or all of them.
//!
//! Each device on a bus tells a modalias; [`alias`] finds the modules that want it. A loaded driver finds
//! more devices, so the buses are looked at until nothing new is asked for, and from then on the kernel's
//! events are listened to: USB and SCSI devices appear late. An image without the tables of aliases, or a
//! machine in which they find no network card, gets everything that the image has, in its order.

pub mod alias;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};

use crate::console::chain;
use crate::say;
use alias::Aliases;

/// Where the image builder writes the list: one path per line, NIC drivers first.
pub const ORDER: &str = "/etc/modules.order";
/// Where it writes which device wants which module.
pub const ALIASES: &str = "/etc/modules.alias";
/// Where it writes what to load for a module.
pub const LOADS: &str = "/etc/modules.load";
/// Where the kernel shows buses and their devices.
const SYS_BUS: &str = "/sys/bus";
/// How often the buses are looked at; a chain of bridges is not longer.
const MAX_ROUNDS: usize = 8;
/// Bytes of the longest event: the kernel's own buffer for one.
const MAX_EVENT: usize = 4096;
/// Group of the kernel's own events; the other one is udev's.
const KERNEL_EVENTS: u32 = 1;

/// The list's lines; comments and blank lines are skipped, relative paths are below `/`.
pub fn parse_order(text: &str) -> Vec<PathBuf> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| Path::new("/").join(line))
        .collect()
}

/// Loads what this machine needs. A module that is missing or has no hardware is told, not fatal.
pub fn load(order: &Path) {
    let mut loader = Loader::default();
    let events = listen();
    if let Some(aliases) = Aliases::read(Path::new(ALIASES), Path::new(LOADS)) {
        loader.aliases = aliases;
        loader.load_for_devices(Path::new(SYS_BUS));
        say!("loaded {} kernel modules for the devices of this machine", loader.loaded);
        if has_network_card(Path::new(crate::net::SYS_NET)) {
            match events {
                Ok(socket) => drop(std::thread::spawn(move || loader.follow(&socket))),
                Err(error) => say!("devices that appear later get no driver: {error}"),
            }
            return;
        }
        say!("no network card: trying all kernel modules");
    }
    let text = match std::fs::read_to_string(order) {
        Ok(text) => text,
        Err(error) => return say!("no kernel modules to load: {}: {error}", order.display()),
    };
    for path in parse_order(&text) {
        loader.load_once(&path);
    }
    say!("loaded {} kernel modules", loader.loaded);
}

/// What is loaded already.
#[derive(Debug, Default)]
struct Loader {
    aliases: Aliases,
    /// Devices that were seen.
    seen: BTreeSet<String>,
    tried: BTreeSet<PathBuf>,
    loaded: usize,
}

impl Loader {
    fn load_for_devices(&mut self, sys_bus: &Path) {
        for path in self.aliases.always() {
            self.load_once(&path);
        }
        for _ in 0..MAX_ROUNDS {
            let before = self.tried.len();
            for device in devices(sys_bus) {
                self.load_for(device);
            }
            if self.tried.len() == before {
                break;
            }
        }
    }

    fn load_for(&mut self, device: String) {
        if !self.seen.contains(&device) {
            for path in self.aliases.wanted_by(&device) {
                self.load_once(&path);
            }
            self.seen.insert(device);
        }
    }

    fn load_once(&mut self, path: &Path) {
        if !self.tried.insert(path.to_owned()) {
            return;
        }
        match load_one(path) {
            Ok(()) => self.loaded += 1,
            // Built in, or loaded by an earlier line; and the usual word of a driver without its hardware.
            Err(LoadError::Kernel(Errno::EEXIST | Errno::ENODEV)) => {}
            Err(error) => say!("module {}: {}", path.display(), chain(&error)),
        }
    }

    /// Serves devices that appear. Never returns, unless the kernel closes the socket.
    fn follow(mut self, socket: &OwnedFd) {
        let mut buffer = [0; MAX_EVENT];
        loop {
            match recv(socket.as_raw_fd(), &mut buffer, nix::sys::socket::MsgFlags::empty()) {
                Ok(length) => {
                    if let Some(device) = modalias_of_event(&buffer[..length]) {
                        self.load_for(device);
                    }
                }
                // Too many at once: some were lost, so all devices are looked at.
                Err(Errno::ENOBUFS) => self.load_for_devices(Path::new(SYS_BUS)),
                Err(Errno::EINTR) => {}
                Err(error) => return say!("devices that appear later get no driver: {error}"),
            }
        }
    }
}

/// The kernel's events from now on.
fn listen() -> nix::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkKObjectUEvent,
    )?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_EVENTS))?;
    Ok(fd)
}

/// The device of an event that says that one was added: `add@/path`, then `KEY=value`, each with a zero.
fn modalias_of_event(event: &[u8]) -> Option<String> {
    let mut words = event.split(|byte| *byte == 0).filter_map(|word| std::str::from_utf8(word).ok());
    words.next().filter(|word| word.starts_with("add@"))?;
    words.find_map(|word| word.strip_prefix("MODALIAS=")).map(str::to_owned)
}

/// The modalias of every device on every bus.
fn devices(sys_bus: &Path) -> BTreeSet<String> {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    entries(sys_bus)
        .flat_map(|bus| entries(&bus.path().join("devices")))
        .filter_map(|device| std::fs::read_to_string(device.path().join("modalias")).ok())
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
        .collect()
}

/// Whether there is an interface with a device behind it.
fn has_network_card(sys_net: &Path) -> bool {
    std::fs::read_dir(sys_net).into_iter().flatten().flatten().any(|link| link.path().join("device").exists())
}

#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("cannot be opened")]
    Open(#[source] std::io::Error),
    #[error("refused by the kernel: {0}")]
    Kernel(Errno),
}

fn load_one(path: &Path) -> Result<(), LoadError> {
    let file = File::open(path).map_err(LoadError::Open)?;
    nix::kmod::finit_module(&file, c"", nix::kmod::ModuleInitFlags::empty()).map_err(LoadError::Kernel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_list_is_read_in_order() {
        let order = parse_order("# NICs\n/lib/modules/6.1/e1000.ko\n\n lib/modules/6.1/ahci.ko \n");
        assert_eq!(order, [Path::new("/lib/modules/6.1/e1000.ko"), Path::new("/lib/modules/6.1/ahci.ko")]);
    }

    #[test]
    fn the_devices_of_all_buses_are_seen() {
        let sys = tempfile::tempdir().unwrap();
        for (device, modalias) in [
            ("pci/devices/0000:00:02.0", "pci:v00008086d0000100Esv\n"),
            ("pci/devices/0000:00:03.0", "pci:v00008086d0000100Esv\n"),
            ("usb/devices/1-1", "usb:v1\n"),
            ("cpu/devices/cpu0", ""),
        ] {
            let device = sys.path().join(device);
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("modalias"), modalias).unwrap();
        }
        fs::create_dir_all(sys.path().join("usb/devices/1-1:1.0")).unwrap();
        let found: Vec<_> = devices(sys.path()).into_iter().collect();
        assert_eq!(found, ["pci:v00008086d0000100Esv", "usb:v1"]);
        assert!(devices(&sys.path().join("none")).is_empty());
    }

    #[test]
    fn a_card_is_an_interface_with_a_device() {
        let sys = tempfile::tempdir().unwrap();
        fs::create_dir_all(sys.path().join("lo")).unwrap();
        assert!(!has_network_card(sys.path()));
        fs::create_dir_all(sys.path().join("eth0/device")).unwrap();
        assert!(has_network_card(sys.path()));
    }

    #[test]
    fn an_event_tells_the_device_that_was_added() {
        let event = b"add@/devices/pci/usb1\0ACTION=add\0SUBSYSTEM=usb\0MODALIAS=usb:v1d6Bp0002\0SEQNUM=7\0";
        assert_eq!(modalias_of_event(event).as_deref(), Some("usb:v1d6Bp0002"));
        for other in [
            b"remove@/devices/x\0MODALIAS=usb:v1\0".as_slice(),
            b"add@/devices/x\0ACTION=add\0",
            b"libudev\0\xfe\xed\xca\xfe",
            b"",
        ] {
            assert_eq!(modalias_of_event(other), None);
        }
    }
}
