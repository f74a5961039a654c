//! What a person sees who stands before the box: `bootlace console` on the first console of the screen, and in
//! plain lines on the serial line. Both are started again when they end.
//!
//! Nothing else writes on that screen: the kernel's messages, and the box's own, go to the second console (Alt+F2).
//! On the serial line everything is in turn: lines do not disturb each other. The appliance's log goes there, and
//! the boot journal with it.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bootlace_agent::retry::Backoff;
use bootlace_agent::say;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::{service, sys};

/// The console that is in front after the start.
const FIRST: &str = "/dev/tty1";
/// The one that the kernel's messages go to.
const KERNEL: u8 = 2;
/// White on black, no cursor, nothing there.
const CALM: &[u8] = b"\x1b[0m\x1b[?25l\x1b[H\x1b[J";
/// How long the appliance has the processor for itself at most.
const HEAD_START: Duration = Duration::from_secs(10);
/// A console that ran this long ran well.
const GOOD_RUN: Duration = Duration::from_secs(60);

/// Keeps both up. Never returns.
pub(crate) async fn run(state: &Path, mut serving: watch::Receiver<bool>) {
    // The machines come first; a box that has no network shows that it has none.
    let _ = tokio::time::timeout(HEAD_START, serving.wait_for(|up| *up)).await;
    let socket = service::socket(state);
    let plain = keep("serial console", || {
        let mut command = console(&socket);
        command.args(["--plain", "--no-journal"]).stdout(Stdio::inherit());
        Ok(command)
    });
    let whole = keep("screen", || {
        let mut screen = OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY).open(FIRST)?;
        sys::kernel_messages_to(&screen, KERNEL)?;
        screen.write_all(CALM)?;
        let mut command = console(&socket);
        command.stdout(screen);
        Ok(command)
    });
    tokio::join!(plain, whole);
}

fn console(socket: &Path) -> Command {
    let mut command = Command::new(service::BINARY);
    command.arg("--socket").arg(socket).arg("console");
    command.env_clear().stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command
}

/// Starts it again and again.
async fn keep(name: &str, mut command: impl FnMut() -> std::io::Result<Command>) -> Infallible {
    let mut backoff = Backoff::new(std::process::id());
    loop {
        let begun = Instant::now();
        let end = match command().and_then(|mut command| command.spawn()) {
            Ok(mut child) => child.wait().await.map(|status| format!("ended with {status}")),
            Err(error) => Err(error),
        };
        match end {
            Ok(end) => say!("{name}: {end}"),
            Err(error) => say!("{name}: {error}"),
        }
        if begun.elapsed() > GOOD_RUN {
            backoff.reset();
        }
        sleep(backoff.next_wait()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_console_that_ends_is_started_again_and_later_each_time() {
        let begun = Instant::now();
        let mut starts = Vec::new();
        let again = keep("test", || {
            starts.push(begun.elapsed());
            Err(std::io::ErrorKind::NotFound.into())
        });
        assert!(tokio::time::timeout(Duration::from_secs(600), again).await.is_err());
        assert!((15..40).contains(&starts.len()), "{}", starts.len());
        assert!(starts[2] - starts[1] < starts[3] - starts[2], "{starts:?}");
    }
}
