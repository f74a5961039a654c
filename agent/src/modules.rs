//! Loads the kernel modules of the image: those that the machine's devices ask for, or all of them.
//!
//! Each device on a bus tells a modalias; [`alias`] finds the modules that want it. A loaded driver finds
//! more devices, so the buses are looked at until nothing new is asked for, and from then on the kernel's
//! events are listened to: USB and SCSI devices appear late. Drivers of network cards come first; the others
//! are loaded while the network is coming up, and who needs them waits with [`settle`]. An image without the
//! tables of aliases, or a machine in which they find no network card, gets everything that the image has, in
//! its order.

pub mod alias;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::kmod::{DeleteModuleFlags, delete_module};
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
/// What the name of a compressed module ends with.
const COMPRESSED: &str = "z";
/// Bytes of the largest module: the largest of Debian's has 12 MB, with its debugger's tables.
const MAX_MODULE: u64 = 64 << 20;
/// Where the kernel shows buses and their devices.
const SYS_BUS: &str = "/sys/bus";
/// How long somebody who needs all drivers waits for them.
const SETTLE_PATIENCE: Duration = Duration::from_secs(60);
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

/// Loads what this machine needs; what the network does not need, in the background. A module that is missing
/// or has no hardware is told, not fatal.
pub fn load(order: &Path) {
    let mut loader = Loader::default();
    let events = listen();
    let (sys_bus, sys_net) = (Path::new(SYS_BUS), Path::new(crate::net::SYS_NET));
    if let Some(aliases) = Aliases::read(Path::new(ALIASES), Path::new(LOADS)) {
        loader.aliases = aliases;
        loader.load_for_devices(sys_bus, is_for_network);
        if !has_network_card(sys_net) {
            // It may be behind USB.
            loader.load_for_devices(sys_bus, |_| true);
        }
        if has_network_card(sys_net) {
            std::thread::spawn(move || loader.load_rest_and_follow(events));
            return;
        }
        say!("no network card: trying all kernel modules");
    }
    match std::fs::read_to_string(order) {
        Ok(text) => {
            for path in parse_order(&text) {
                loader.load_once(&path);
            }
            say!("loaded {} kernel modules", loader.loaded);
        }
        Err(error) => say!("no kernel modules to load: {}: {error}", order.display()),
    }
    SETTLED.set();
}

/// Waits until every device that was there at the beginning has its driver, and says since when. Where nothing is
/// loaded, as in a test, it waits in vain for a while; so only the real machine asks.
pub fn settle() -> Instant {
    SETTLED.wait(SETTLE_PATIENCE).unwrap_or_else(|| {
        say!("kernel modules are still loading after {} s", SETTLE_PATIENCE.as_secs());
        Instant::now()
    })
}

/// Network cards, and the buses of virtual machines that they are on.
fn is_for_network(paths: &[PathBuf]) -> bool {
    let under = |path: &PathBuf, part: &str| path.to_string_lossy().contains(part);
    paths.iter().any(|path| {
        ["/kernel/drivers/net/", "/kernel/drivers/virtio/", "/kernel/drivers/hv/"]
            .iter()
            .any(|part| under(path, part))
    })
}

static SETTLED: Flag = Flag { up: Mutex::new(None), changed: Condvar::new() };

/// Something that happens once.
#[derive(Debug)]
struct Flag {
    up: Mutex<Option<Instant>>,
    changed: Condvar,
}

impl Flag {
    fn set(&self) {
        *self.up.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.changed.notify_all();
    }

    /// When it happened; `None` when it does not within `patience`.
    fn wait(&self, patience: Duration) -> Option<Instant> {
        let up = self.up.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(up, patience, |up| up.is_none());
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// What is loaded already.
#[derive(Debug, Default)]
struct Loader {
    aliases: Aliases,
    /// Devices that were seen, and what each wants.
    wanted: BTreeMap<String, Vec<Vec<PathBuf>>>,
    tried: BTreeSet<PathBuf>,
    loaded: usize,
}

impl Loader {
    /// Looks at all devices until nothing new is wanted, and loads the modules whose paths pass.
    fn load_for_devices(&mut self, sys_bus: &Path, pass: fn(&[PathBuf]) -> bool) {
        for _ in 0..MAX_ROUNDS {
            let before = self.tried.len();
            for device in devices(sys_bus) {
                self.load_for(&device, pass);
            }
            if self.tried.len() == before {
                break;
            }
        }
    }

    fn load_for(&mut self, device: &str, pass: fn(&[PathBuf]) -> bool) {
        let wanted = match self.wanted.get(device) {
            Some(wanted) => wanted.clone(),
            None => {
                let wanted = self.aliases.wanted_by(device);
                self.wanted.insert(device.to_owned(), wanted.clone());
                wanted
            }
        };
        for path in wanted.iter().filter(|paths| pass(paths)).flatten() {
            self.load_once(path);
        }
    }

    fn load_once(&mut self, path: &Path) {
        if !self.tried.insert(path.to_owned()) {
            return;
        }
        match load_file(path) {
            Ok(()) => self.loaded += 1,
            // Built in, or loaded by an earlier line; and the usual word of a driver without its hardware.
            Err(LoadError::Kernel(Errno::EEXIST | Errno::ENODEV)) => {}
            Err(error) => say!("module {}: {}", path.display(), chain(&error)),
        }
    }

    fn load_rest_and_follow(mut self, events: nix::Result<OwnedFd>) {
        for path in self.aliases.always() {
            self.load_once(&path);
        }
        self.load_for_devices(Path::new(SYS_BUS), |_| true);
        say!("loaded {} kernel modules for the devices of this machine", self.loaded);
        SETTLED.set();
        match events {
            Ok(socket) => self.follow(&socket),
            Err(error) => say!("devices that appear later get no driver: {error}"),
        }
    }

    /// Serves devices that appear. Never returns, unless the kernel closes the socket.
    fn follow(&mut self, socket: &OwnedFd) {
        let mut buffer = [0; MAX_EVENT];
        loop {
            match recv(socket.as_raw_fd(), &mut buffer, nix::sys::socket::MsgFlags::empty()) {
                Ok(length) => {
                    if let Some(device) = modalias_of_event(&buffer[..length]) {
                        self.load_for(&device, |_| true);
                    }
                }
                // Too many at once: some were lost, so all devices are looked at.
                Err(Errno::ENOBUFS) => self.load_for_devices(Path::new(SYS_BUS), |_| true),
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

/// A module is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No such file, or one that is broken.
    #[error("cannot be read")]
    Read(#[source] std::io::Error),
    /// A driver without its hardware, or one that is loaded already, among others.
    #[error("refused by the kernel: {0}")]
    Kernel(Errno),
}

/// Loads the module in a file of the image, which is compressed when its name ends with `.z`: all drivers together
/// would take more memory than a small machine has, and it needs few of them.
pub fn load_file(path: &Path) -> Result<(), LoadError> {
    let file = File::open(path).map_err(LoadError::Read)?;
    if path.extension().is_some_and(|end| end == COMPRESSED) {
        let module = inflate(file).map_err(LoadError::Read)?;
        return nix::kmod::init_module(&module, c"").map_err(LoadError::Kernel);
    }
    nix::kmod::finit_module(&file, c"", nix::kmod::ModuleInitFlags::empty()).map_err(LoadError::Kernel)
}

/// Loads a module of the image by its name, with what it needs; true when it is there afterwards.
pub fn load_named(name: &str) -> bool {
    let table = std::fs::read_to_string(LOADS).unwrap_or_default();
    let Some(paths) = paths_of(&table, name) else { return false };
    paths.into_iter().all(|path| match load_file(Path::new(path)) {
        Ok(()) | Err(LoadError::Kernel(Errno::EEXIST)) => true,
        Err(error) => {
            say!("module {path}: {}", chain(&error));
            false
        }
    })
}

/// Has a driver look for its hardware again: takes it out, where nobody uses it, and loads it.
pub fn load_anew(name: &str) -> bool {
    let taken_out = CString::new(name).is_ok_and(|name| {
        matches!(delete_module(&name, DeleteModuleFlags::O_NONBLOCK), Ok(()) | Err(Errno::ENOENT))
    });
    taken_out && load_named(name)
}

/// The files to load for a module, of the table that the image builder writes.
fn paths_of<'a>(table: &'a str, name: &str) -> Option<Vec<&'a str>> {
    table.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()?.trim_end_matches('!') == name).then(|| words.collect())
    })
}

/// The module as it was, with the signature at its end.
fn inflate(file: impl std::io::Read) -> std::io::Result<Vec<u8>> {
    let mut module = Vec::new();
    flate2::read::ZlibDecoder::new(file).take(MAX_MODULE).read_to_end(&mut module)?;
    Ok(module)
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
    fn a_compressed_module_is_what_it_was_and_a_broken_one_is_told() {
        let module = [b"ELF".repeat(1000).as_slice(), b"~Module signature appended~\n"].concat();
        let packed = bootlace_image::initramfs::compress_module(&module).unwrap();
        assert!(packed.len() < 100);
        assert_eq!(inflate(packed.as_slice()).unwrap(), module);
        assert!(inflate(&packed[..packed.len() / 2]).is_err());
        let path = tempfile::tempdir().unwrap().path().join("x.ko.z");
        assert!(matches!(load_file(&path), Err(LoadError::Read(_))));
    }

    #[test]
    fn a_module_is_found_by_its_name_with_what_it_needs() {
        let table = "efivarfs! /a/efivarfs.ko.z\nipmi_si /a/ipmi_msghandler.ko.z /a/ipmi_si.ko.z\n";
        assert_eq!(paths_of(table, "efivarfs"), Some(vec!["/a/efivarfs.ko.z"]));
        assert_eq!(paths_of(table, "ipmi_si").map(|paths| paths.len()), Some(2));
        assert_eq!(paths_of(table, "ipmi"), None);
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
    fn who_waits_for_the_drivers_is_woken_and_does_not_wait_for_ever() {
        let flag = Flag { up: Mutex::new(None), changed: Condvar::new() };
        assert!(flag.wait(Duration::ZERO).is_none());
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| flag.wait(Duration::from_secs(60)));
            flag.set();
            assert!(waiter.join().unwrap().is_some());
        });
        assert!(flag.wait(Duration::ZERO).is_some());
    }

    #[test]
    fn network_cards_and_their_buses_come_first() {
        let of = |path: &str| is_for_network(&[PathBuf::from(path)]);
        assert!(of("/lib/modules/6.1/kernel/drivers/net/ethernet/intel/e1000e/e1000e.ko"));
        assert!(of("/lib/modules/6.1/kernel/drivers/virtio/virtio_pci.ko"));
        assert!(!of("/lib/modules/6.1/kernel/drivers/nvme/host/nvme.ko"));
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
