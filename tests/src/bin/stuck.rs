//! Takes the appliance's place on a stick, and hangs: itself, or with `id = "box"` the box. For the stick's tests.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};

/// Where the box puts the configuration.
const CONFIG: &str = "/run/appliance.toml";
/// A group of processes that the kernel stops.
const GROUP: &str = "/run/group/stopped";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let state = words.iter().skip_while(|word| *word != "--state-dir").nth(1);
    let (Some("run"), Some(state)) = (words.first().map(String::as_str), state) else { return wait() };
    let state = Path::new(state);
    fs::create_dir_all(state)?;
    let the_box = fs::read_to_string(CONFIG)?.contains("id = \"box\"");
    let marker = state.join("hung");
    let hung = marker.exists() && !the_box;
    fs::write(&marker, "")?;
    let socket = state.join("bootlace.sock");
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(socket)?;
    if hung {
        eprintln!("stuck: this time it goes on answering");
    }
    for stream in listener.incoming().take(if hung { usize::MAX } else { 1 }) {
        let mut stream = stream?;
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    }
    if the_box {
        stop_the_box().context("the box cannot be stopped")?;
    }
    // The kernel takes connections; nobody answers.
    wait()
}

fn wait() -> Result<()> {
    loop {
        std::thread::park();
    }
}

/// No signal stops PID 1; this does.
fn stop_the_box() -> Result<()> {
    let root = Path::new(GROUP).parent().context("it has a parent")?;
    fs::create_dir_all(root)?;
    mount(Some("cgroup2"), root, Some("cgroup2"), MsFlags::empty(), None::<&str>)?;
    fs::create_dir(GROUP)?;
    fs::write(Path::new(GROUP).join("cgroup.procs"), "1")?;
    eprintln!("stuck: stopping the box");
    // It takes this line first.
    while fs::read_to_string("/proc/1/wchan").is_ok_and(|at| !at.contains("poll")) {
        std::thread::yield_now();
    }
    fs::write(Path::new(GROUP).join("cgroup.freeze"), "1")?;
    Ok(())
}
