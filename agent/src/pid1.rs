//! The duties of PID 1: a tree to look at, a console, no zombies, and never to leave.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use crate::console::chain;
use crate::{boot, machine, modules, say, sys};

/// How long a message stays on the screen before the machine starts over.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// The agent as PID 1. Ends with a reboot.
pub fn main() -> ! {
    // It waits for the drivers by itself, where it needs them.
    work_on(false, boot::run())
}

/// Anything as PID 1: prepares the machine, loads the modules and runs `work`. Ends with a reboot.
pub fn run<E: std::error::Error>(work: impl Future<Output = Result<(), E>>) -> ! {
    work_on(true, work)
}

fn work_on<E: std::error::Error>(settle: bool, work: impl Future<Output = Result<(), E>>) -> ! {
    std::panic::set_hook(Box::new(|panic| {
        // The process aborts after this; a kernel without PID 1 would stand still.
        say!("this should not happen: {panic}");
        start_over();
    }));
    prepare();
    say!("version {} on Linux {}", env!("CARGO_PKG_VERSION"), kernel_release());
    modules::load(Path::new(modules::ORDER));
    if settle {
        modules::settle();
    }
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => match runtime.block_on(work) {
            Ok(()) => say!("nothing is left to do"),
            Err(error) => say!("cannot boot: {}", chain(&error)),
        },
        Err(error) => say!("no runtime: {error}"),
    }
    start_over()
}

/// Leaves the last words on the screen for a while, then reboots.
pub fn start_over() -> ! {
    say!("starting over in {} s", LAST_WORDS.as_secs());
    loop {
        std::thread::sleep(LAST_WORDS);
        machine::reboot_now();
    }
}

/// Mounts the kernel's file systems and takes the console. PID 1 gets no signal that it does not handle,
/// so SIGTERM and the like are ignored already. Children are reaped by the kernel.
pub fn prepare() {
    mount_all();
    sys::ignore_children();
}

/// The same for a PID 1 that waits for its children itself.
pub fn mount_all() {
    let mut failed = Vec::new();
    for (kind, at, flags) in [
        ("proc", "/proc", MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC),
        ("sysfs", "/sys", MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC),
        ("devtmpfs", "/dev", MsFlags::MS_NOSUID),
        ("tmpfs", "/run", MsFlags::MS_NOSUID | MsFlags::MS_NODEV),
    ] {
        let _ = fs::create_dir_all(at);
        match mount(Some(kind), at, Some(kind), flags, None::<&str>) {
            // The kernel may have mounted it itself.
            Ok(()) | Err(nix::errno::Errno::EBUSY) => {}
            Err(error) => failed.push((at, error)),
        }
    }
    // Without a /dev in the initramfs the kernel could not open it for us.
    if let Ok(console) = fs::OpenOptions::new().read(true).write(true).open("/dev/console") {
        let _ = nix::unistd::dup2_stdin(&console);
        let _ = nix::unistd::dup2_stdout(&console);
        let _ = nix::unistd::dup2_stderr(&console);
    }
    for (at, error) in failed {
        say!("{at} cannot be mounted: {error}");
    }
}

fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}
