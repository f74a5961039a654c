//! A watchdog: hardware that restarts the machine when nothing tells it that all is well.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::time::Duration;

use bootlace_agent::{modules, say};

const DEVICE: &str = "/dev/watchdog";
/// What it says that it is.
const IDENTITY: &str = "/sys/class/watchdog/watchdog0/identity";
/// Well below the shortest default of the kernel's drivers, which is 30 s.
const INTERVAL: Duration = Duration::from_secs(5);
/// What is tried when no hardware is there: the kernel's own, which works as long as the kernel does.
const SOFT: &str = "softdog";

/// Feeds the watchdog as long as the box's own loop turns: it runs in it. Never returns.
pub(crate) async fn run(wanted: bool) {
    // Before every driver had its turn, the kernel's own would be taken beside a real one.
    if !wanted || tokio::task::spawn_blocking(modules::settle).await.is_err() {
        return std::future::pending().await;
    }
    let Some(mut device) = open() else { return std::future::pending().await };
    let name = std::fs::read_to_string(IDENTITY).unwrap_or_default();
    say!("watchdog: {}", if name.is_empty() { DEVICE } else { name.trim() });
    loop {
        if let Err(error) = device.write_all(b".") {
            say!("watchdog: {error}");
            return std::future::pending().await;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn open() -> Option<File> {
    let open = || OpenOptions::new().write(true).open(DEVICE);
    match open() {
        Ok(device) => Some(device),
        Err(_) if modules::load_named(SOFT) => open().ok(),
        Err(error) => {
            say!("no watchdog: {error}");
            None
        }
    }
}
