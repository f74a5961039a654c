//! PID 1 of a stick: it makes a bare machine into the box that the appliance runs on.
//!
//! ```text
//! mounts, modules -> stick (slot, configuration, data) -> network -> appliance, started again when it ends
//!                                                           screen, time, watchdog, update beside it
//! ```
//!
//! Invariant: whatever is missing, the appliance is started with what there is: a stick without a readable data
//! partition keeps its state in memory, a configuration with mistakes counts as an empty one for the box. Only a
//! version that is being tried gives up: then the machine starts over, and GRUB falls back.
//!
//! The driver is [`main`]. Parsing and choices are plain functions of text and bytes. `unsafe` is in `sys`.

mod clock;
pub mod config;
mod log;
mod medium;
mod network;
mod screen;
mod service;
mod sys;
mod trial;
mod update;
mod watchdog;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bootlace_agent::{machine, modules, pid1, say};
use tokio::sync::watch;

use crate::config::Config;

/// How long the last words stay on the screen before the machine starts over.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// PID 1. Never returns.
pub fn main() -> ! {
    bootlace_agent::console::set_name("bootlace-box");
    std::panic::set_hook(Box::new(|panic| {
        // The process aborts after this; a kernel without PID 1 would stand still.
        say!("this should not happen: {panic}");
        start_over();
    }));
    log::start();
    pid1::mount_all();
    // Whatever comes in on the serial line, as a Ctrl-S, must not stop who writes there.
    if let Err(error) = sys::without_flow_control(&std::io::stdout()) {
        say!("serial line: {error}");
    }
    say!("version {}", env!("CARGO_PKG_VERSION"));
    modules::load(Path::new(modules::ORDER));
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run()),
        Err(error) => say!("no runtime: {error}"),
    }
    start_over()
}

fn start_over() -> ! {
    say!("starting over in {} s", LAST_WORDS.as_secs());
    loop {
        std::thread::sleep(LAST_WORDS);
        restart();
    }
}

/// Restarts the machine, with what was written on its medium.
fn restart() {
    nix::unistd::sync();
    machine::reboot_now();
}

/// Everything after the modules for the network.
async fn run() {
    // Reading the stick and taking up the network go side by side: both wait for hardware.
    let stick = match tokio::task::spawn_blocking(medium::find).await {
        Ok(stick) => stick,
        Err(error) => return say!("this should not happen: {error}"),
    };
    let config = stick.as_ref().map_or_else(Config::default, medium::Stick::config);
    if let Err(error) = std::fs::write("/proc/sys/kernel/hostname", &config.name) {
        say!("host name: {error}");
    }
    let config = Arc::new(config);
    let trial = stick.as_ref().map_or(trial::Trial::None, |stick| stick.trial());
    let state = medium::state_directory(stick.as_ref());
    log::open(&state.join("log"));

    let (serving, served) = watch::channel(false);
    let (ready, address) = watch::channel(false);
    let failed = stick.as_ref().and_then(|stick| update::failed(stick, trial, &state));
    // Each runs for ever; the first that ends ends all, and the machine starts over.
    tokio::select! {
        () = network::run(Arc::clone(&config), ready) => say!("the network ended"),
        () = service::run(&config, &state, address.clone(), serving) => say!("the appliance cannot be ended"),
        () = screen::run(&state, served.clone()) => {}
        () = clock::keep(Arc::clone(&config), address.clone()) => {}
        () = watchdog::run(config.watchdog) => {}
        () = trial::run(stick.as_ref(), trial, served) => say!("this version does not come up"),
        () = update::run(stick.as_ref(), &config, address, trial, failed) => {}
    }
}
