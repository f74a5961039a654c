//! Runs the appliance, and runs it again when it ends.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bootlace_agent::modules::LOADS;
use bootlace_agent::retry::Backoff;
use bootlace_agent::say;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::Config;
use crate::log::Ring;
use crate::medium::APPLIANCE_CONFIG;

const BINARY: &str = "/bootlace";
/// An appliance that ran this long ran well: the next start comes soon.
const GOOD_RUN: Duration = Duration::from_secs(60);
/// How often a starting appliance is asked whether it serves.
const POLL: Duration = Duration::from_millis(100);

/// Runs it for ever.
pub(crate) async fn run(
    config: &Config,
    state: &Path,
    mut address: watch::Receiver<bool>,
    serving: watch::Sender<bool>,
    log: &Ring,
) {
    if address.wait_for(|up| *up).await.is_err() {
        return;
    }
    let mut backoff = Backoff::new(std::process::id());
    loop {
        let begun = Instant::now();
        say!("appliance: {}", once(config, state, &serving, log).await);
        serving.send_replace(false);
        if begun.elapsed() > GOOD_RUN {
            backoff.reset();
        }
        let wait = backoff.next_wait();
        say!("appliance: again in {} s", wait.as_secs());
        tokio::time::sleep(wait).await;
    }
}

/// One run, to its end; what that was.
async fn once(config: &Config, state: &Path, serving: &watch::Sender<bool>, log: &Ring) -> String {
    let directory = state.join("bootlace");
    let mut command = Command::new(BINARY);
    command.args(["run", "--config", APPLIANCE_CONFIG, "--boot-assets-path", "/assets", "--state-dir"]);
    command.arg(&directory).env_clear().env("PATH", "/").env("HOME", "/");
    command.env("SSL_CERT_FILE", bootlace_image::parts::CA_FILE);
    if let Some(key) = &config.key {
        command.env("OMNI_SERVICE_ACCOUNT_KEY", key);
    }
    command.stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return format!("cannot be started: {error}"),
    };
    let lines = child.stderr.take().map(|stderr| BufReader::new(stderr).lines());
    let tell = async {
        let Some(mut lines) = lines else { return };
        while let Ok(Some(line)) = lines.next_line().await {
            bootlace_agent::console::line(format_args!("{line}"));
            log.line(&line);
        }
    };
    let watch = async {
        let socket: PathBuf = directory.join("bootlace.sock");
        while UnixStream::connect(&socket).await.is_err() {
            tokio::time::sleep(POLL).await;
        }
        say!("serving");
        serving.send_replace(true);
        std::future::pending::<()>().await;
    };
    // Cancel-safe: the log is of no use after the process, and the watcher never ends.
    let status = tokio::select! {
        status = async { tokio::join!(child.wait(), tell).0 } => status,
        () = watch => return String::new(),
    };
    match status {
        Ok(status) => format!("ended with {status}"),
        Err(error) => format!("ended: {error}"),
    }
}

/// Loads a module of the image by its name, with what it needs.
pub(crate) fn load_module(name: &str) -> bool {
    let table = fs::read_to_string(LOADS).unwrap_or_default();
    let Some(paths) = paths_of(&table, name) else { return false };
    for path in paths {
        let loaded = fs::File::open(path).map_err(|error| error.to_string()).and_then(|file| {
            match nix::kmod::finit_module(file.as_fd(), c"", nix::kmod::ModuleInitFlags::empty()) {
                Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        });
        if let Err(error) = loaded {
            say!("module {path}: {error}");
            return false;
        }
    }
    true
}

/// The files to load for a module, of the table that the image builder writes.
fn paths_of<'a>(table: &'a str, name: &str) -> Option<Vec<&'a str>> {
    table.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()?.trim_end_matches('!') == name).then(|| words.collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_found_by_its_name() {
        let table = "ext4 /lib/a.ko /lib/ext4.ko\n8021q! /lib/8021q.ko\n";
        assert_eq!(paths_of(table, "8021q"), Some(vec!["/lib/8021q.ko"]));
        assert_eq!(paths_of(table, "ext4").map(|paths| paths.len()), Some(2));
        assert_eq!(paths_of(table, "ext"), None);
    }
}
