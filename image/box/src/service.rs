//! Runs the appliance, and runs it again when it ends or hangs.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bootlace_agent::retry::Backoff;
use bootlace_agent::say;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::config::Config;
use crate::medium::APPLIANCE_CONFIG;

/// The appliance, and its commands.
pub(crate) const BINARY: &str = "/bootlace";
/// An appliance that ran this long ran well: the next start comes soon.
const GOOD_RUN: Duration = Duration::from_secs(60);
/// How often a starting appliance is asked whether it serves.
const POLL: Duration = Duration::from_millis(100);
/// How often one that serves is asked.
const PULSE: Duration = Duration::from_secs(5);
/// One that does not answer after this does not start. It takes seconds; a slow medium some more.
const STARTS: Duration = Duration::from_secs(300);
/// One that answers nothing for so long hangs. An answer takes milliseconds.
const HANGS: Duration = Duration::from_secs(60);
/// A killed process that is still there after this sits in the kernel for good: only a start of the machine helps.
const DIES: Duration = Duration::from_secs(30);

/// Where the appliance keeps its state.
fn directory(state: &Path) -> PathBuf {
    state.join("bootlace")
}

/// Where it answers.
pub(crate) fn socket(state: &Path) -> PathBuf {
    directory(state).join("bootlace.sock")
}

/// Runs it. Returns only when it can neither run nor be ended.
pub(crate) async fn run(
    config: &Config,
    state: &Path,
    mut address: watch::Receiver<bool>,
    serving: watch::Sender<bool>,
) {
    if address.wait_for(|up| *up).await.is_err() {
        return;
    }
    let mut backoff = Backoff::new(std::process::id());
    loop {
        let begun = Instant::now();
        let Some(end) = once(config, state, &serving).await else { return };
        say!("appliance: {end}");
        serving.send_replace(false);
        if begun.elapsed() > GOOD_RUN {
            backoff.reset();
        }
        let wait = backoff.next_wait();
        say!("appliance: again in {} s", wait.as_secs());
        sleep(wait).await;
    }
}

/// One run, to its end; what that was. None: it cannot be ended.
async fn once(config: &Config, state: &Path, serving: &watch::Sender<bool>) -> Option<String> {
    let mut command = Command::new(BINARY);
    command.args(["run", "--config", APPLIANCE_CONFIG, "--boot-assets-path", "/assets", "--state-dir"]);
    command.arg(directory(state)).env_clear().env("PATH", "/").env("HOME", "/");
    command.env("SSL_CERT_FILE", bootlace_image::parts::CA_FILE);
    if let Some(key) = &config.key {
        command.env("OMNI_SERVICE_ACCOUNT_KEY", key);
    }
    command.stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Some(format!("cannot be started: {error}")),
    };
    let lines = child.stderr.take().map(|stderr| BufReader::new(stderr).lines());
    let tell = async {
        let Some(mut lines) = lines else { return };
        while let Ok(Some(line)) = lines.next_line().await {
            bootlace_agent::console::line(format_args!("{line}"));
        }
    };
    let socket = socket(state);
    let watch = async {
        if timeout(STARTS, starts(&socket)).await.is_err() {
            return STARTS;
        }
        say!("serving");
        serving.send_replace(true);
        hangs(&socket).await;
        HANGS
    };
    // Cancel-safe: the log is of no use after the process, and what watches keeps nothing.
    let silent = tokio::select! {
        status = async { tokio::join!(child.wait(), tell).0 } => return Some(ended(status)),
        silent = watch => silent,
    };
    say!("appliance: no answer for {} s", silent.as_secs());
    end(&mut child).await
}

fn ended(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("ended with {status}"),
        Err(error) => format!("ended: {error}"),
    }
}

/// Kills it.
async fn end(child: &mut Child) -> Option<String> {
    let _ = child.start_kill();
    timeout(DIES, child.wait()).await.ok().map(ended)
}

/// Returns when the appliance answers. What it takes connections for before that, it has not begun to serve.
async fn starts(socket: &Path) {
    while !answers(socket).await.unwrap_or(false) {
        sleep(POLL).await;
    }
}

/// Returns when the appliance has not answered for long.
async fn hangs(socket: &Path) {
    let mut answered = Instant::now();
    while answered.elapsed() < HANGS {
        sleep(PULSE).await;
        let left = HANGS.saturating_sub(answered.elapsed());
        if let Ok(Ok(true)) = timeout(left, answers(socket)).await {
            answered = Instant::now();
        }
    }
}

/// Whether it says what it is doing.
async fn answers(socket: &Path) -> std::io::Result<bool> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(b"GET /status HTTP/1.1\r\nHost: bootlace\r\nConnection: close\r\n\r\n").await?;
    let mut begin = [0; 12];
    stream.read_exact(&mut begin).await?;
    Ok(begin.starts_with(b"HTTP/1.1 200"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An appliance that gives so many answers, and then none, with its socket open.
    fn appliance(socket: &Path, answers: usize) -> tokio::task::JoinHandle<()> {
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                if open.len() < answers {
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{}").await.unwrap();
                }
                open.push(stream);
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_answer_any_more_hangs() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("bootlace.sock");
        let appliance = appliance(&socket, 10);
        let begun = Instant::now();
        hangs(&socket).await;
        assert_eq!(begun.elapsed(), 10 * PULSE + HANGS);
        appliance.abort();
    }

    #[tokio::test]
    async fn one_that_answers_has_started() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("bootlace.sock");
        let late = async {
            tokio::task::yield_now().await;
            appliance(&socket, 1).abort_handle()
        };
        tokio::join!(starts(&socket), late).1.abort();
    }

    #[tokio::test]
    async fn one_that_hangs_is_ended() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        assert_eq!(end(&mut child).await.unwrap(), "ended with signal: 9 (SIGKILL)");
    }
}
