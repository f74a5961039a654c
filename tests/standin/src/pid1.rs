//! PID 1 of the stand-in: it never ends, and says why when it cannot go on.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bootlace_agent::{machine, modules, sys};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::{say, system};

/// How long the last message stays on the console before the machine starts over.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Does it all. Ends with a reboot.
pub fn main() -> ! {
    std::panic::set_hook(Box::new(|panic| {
        // The process aborts after this, and a kernel without PID 1 stands still.
        say!("this should not happen: {panic}");
        std::thread::sleep(LAST_WORDS);
        machine::reboot_now();
    }));
    prepare();
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    say!("cmdline {}", cmdline.trim());
    modules::load(Path::new(modules::ORDER));
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(system::run(cmdline.trim())),
        Err(error) => say!("no runtime: {error}"),
    }
    loop {
        machine::reboot_now();
        std::thread::sleep(LAST_WORDS);
    }
}

/// The kernel's file systems.
fn prepare() {
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run")] {
        match mount(Some(kind), at, Some(kind), MsFlags::MS_NOSUID, None::<&str>) {
            // The kernel may have mounted it itself.
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => say!("{at} cannot be mounted: {error}"),
        }
    }
    sys::ignore_children();
}
