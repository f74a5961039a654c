//! A server before any client came: how soon it answers after its start, and what it holds.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cost::tree_memory;
use crate::dhcp::{self, until_first_offer};
use crate::report::{Report, Unit};
use crate::stats::Phase;

/// A server that has not offered anything by then does not start.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How to start it, and how to ask.
#[derive(Clone, Debug, clap::Args)]
pub struct Load {
    /// The question
    #[command(flatten)]
    pub dhcp: dhcp::Load,
    /// How often it is started
    #[arg(long, default_value_t = 5)]
    pub starts: u32,
    /// How long the last one is left alone before its memory is read, in seconds
    #[arg(long, default_value_t = 3.0)]
    pub rest: f64,
    /// The server's command
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Load {
    /// Runs it. The phase `resident` has KiB where others have microseconds.
    ///
    /// # Errors
    /// When the server does not start.
    pub fn run(&self) -> Result<Report> {
        let mut report = Report::new("idle", 1, Unit::Starts);
        let (mut offers, mut resident) = (Vec::new(), Vec::new());
        let began = Instant::now();
        for start in 1..=self.starts {
            let [program, arguments @ ..] = self.command.as_slice() else { bail!("no command") };
            let started = Instant::now();
            let child = Command::new(program)
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .with_context(|| format!("cannot start {program}"))?;
            let server = Running(child);
            let first = until_first_offer(&self.dhcp, started, START_LIMIT)?;
            offers.push(u64::try_from(first.as_micros())?);
            report.done += 1;
            if start == self.starts {
                std::thread::sleep(Duration::from_secs_f64(self.rest));
                resident.push(tree_memory(server.0.id()).0);
            }
        }
        report.work = report.done;
        report.seconds = began.elapsed().as_secs_f64();
        report.phases = vec![Phase::of("first offer", offers), Phase::of("resident", resident)];
        Ok(report)
    }
}
