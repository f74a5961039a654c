//! A watchdog: hardware that restarts the machine when nothing tells it that all is well.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::time::Duration;

use bootlace_agent::say;

use crate::service::load_module;

const DEVICE: &str = "/dev/watchdog";
/// Well below the shortest default of the kernel's drivers, which is 30 s.
const INTERVAL: Duration = Duration::from_secs(5);
/// What is tried when no hardware is there: the kernel's own, which works as long as the kernel does.
const SOFT: &str = "softdog";

/// Feeds the watchdog as long as the box's own loop turns: it runs in it. Never returns.
pub(crate) async fn run(wanted: bool) {
    let Some(mut device) = wanted.then(open).flatten() else { return std::future::pending().await };
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
        Err(_) if load_module(SOFT) => open().ok(),
        Err(error) => {
            say!("no watchdog: {error}");
            None
        }
    }
}
