//! Makes disks blank: which ones is [`plan`]'s answer, how is [`disk`]'s. It works on any file, which is how
//! it is tested.
//!
//! A fast wipe reads the partition tables, tells the disk to forget everything where it can, zeroes both
//! ends of the disk and of every partition, and every mark of [`signatures`] that lies further inside; then
//! it looks again and fails if a mark is left. A wipe with zeroes writes every byte (the kernel offloads it
//! to disks that can), and reads samples back from the medium.
//!
//! `bootlace.wipe=secure` on the kernel command line formats NVMe disks first ([`nvme`]), where the
//! controller offers it and no other namespace suffers. ATA secure erase is not used: a machine that loses
//! power during it leaves a disk that is locked with a password.

pub mod disk;
pub mod nvme;
pub mod partitions;
pub mod plan;
pub mod signatures;

use std::fmt;
use std::time::{Duration, Instant};

use crate::console::chain;
use crate::disks::{self, Disk, Kind, Places};
use crate::{medium, say};
use agent_wire::keep::{Keep, KeepError};

pub use disk::{WipeError, wipe};

/// What the operator told on the kernel command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orders {
    /// `bootlace.keep`: an error keeps everything.
    pub keep: Result<Keep, KeepError>,
    /// `bootlace.medium`: identifiers of the boot medium.
    pub medium: Vec<String>,
    /// `bootlace.wipe=secure`.
    pub secure: bool,
}

impl Default for Orders {
    fn default() -> Self {
        Self { keep: Ok(Keep::default()), medium: Vec::new(), secure: false }
    }
}

impl Orders {
    /// Adds another list; one error is enough to keep everything.
    pub fn add_keep(&mut self, more: Result<Keep, KeepError>) {
        match (&mut self.keep, more) {
            (Ok(keep), Ok(more)) => keep.extend(more),
            (Ok(_), Err(error)) => self.keep = Err(error),
            (Err(_), _) => {}
        }
    }
}

/// How thoroughly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct How {
    /// Every byte.
    pub zeroes: bool,
    /// Format what can be formatted, first.
    pub secure: bool,
}

/// What became of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Kernel name.
    pub name: String,
    /// Serial number, if any.
    pub serial: String,
    /// Bytes.
    pub size: u64,
    /// What was done and found, or why nothing was.
    pub text: String,
    /// How long it took; zero for a disk that was left alone.
    pub took: Duration,
    /// How it ended.
    pub end: End,
}

/// How a disk's part ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is blank.
    Blank,
    /// It was left alone.
    Left,
    /// It could not be wiped.
    Failed,
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, serial, size, text, took, end } = self;
        write!(out, "{name} (")?;
        if !serial.is_empty() {
            write!(out, "{serial}, ")?;
        }
        write!(out, "{} MiB)", size >> 20)?;
        match end {
            End::Blank => write!(out, " is blank: {text}; took {:.1} s", took.as_secs_f64()),
            End::Left => write!(out, " left alone: {text}"),
            End::Failed => write!(out, " failed after {:.1} s: {text}", took.as_secs_f64()),
        }
    }
}

/// Looks at the machine's disks and wipes those that the orders do not protect. The error is for the
/// operator: it names every disk that failed.
pub fn wipe_machine(orders: &Orders, zeroes: bool) -> Result<Vec<Report>, String> {
    let keep = orders.keep.as_ref().map_err(|error| {
        say!("wipe: refused: {error}");
        format!("nothing is wiped: {error}")
    })?;
    let mut medium = medium::by_firmware();
    medium.ids.extend(orders.medium.iter().cloned());
    let disks = disks::inspect(Places::default(), &medium);
    wipe_disks(disks, keep, How { zeroes, secure: orders.secure })
}

/// Wipes the disks that the plan means, all at the same time, and tells the console of each.
pub fn wipe_disks(disks: Vec<Disk>, keep: &Keep, how: How) -> Result<Vec<Report>, String> {
    let plan = plan::plan(disks, keep);
    let mut reports = Vec::new();
    let mut wanted = Vec::new();
    for (disk, action, reason) in plan {
        match action {
            plan::Action::Wipe => wanted.push(disk),
            // Nobody asks what became of ram0.
            plan::Action::Leave if disk.kind == Kind::NoDisk => {}
            plan::Action::Leave => {
                let report = report(&disk, reason.to_string(), Duration::ZERO, End::Left);
                say!("wipe: {report}");
                reports.push(report);
            }
        }
    }
    say!("wipe: {} disks, {}", wanted.len(), if how.zeroes { "every byte" } else { "tables and signatures" });
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            wanted.iter().map(|disk| (disk, scope.spawn(move || wipe_one(disk, how)))).collect();
        for (disk, worker) in workers {
            let lost = || report(disk, "the thread panicked".into(), Duration::ZERO, End::Failed);
            reports.push(worker.join().unwrap_or_else(|_| lost()));
        }
    });
    let failed: Vec<String> =
        reports.iter().filter(|report| report.end == End::Failed).map(Report::to_string).collect();
    if failed.is_empty() { Ok(reports) } else { Err(failed.join("; ")) }
}

fn report(disk: &Disk, text: String, took: Duration, end: End) -> Report {
    Report { name: disk.name.clone(), serial: disk.serial.clone(), size: disk.size, text, took, end }
}

fn wipe_one(disk: &Disk, how: How) -> Report {
    let begun = Instant::now();
    let told = |percent: u64| say!("wipe: {}: {percent} %", disk.name);
    let report = match wipe(disk, how, &told) {
        Ok(done) => report(disk, done.to_string(), begun.elapsed(), End::Blank),
        Err(error) => report(disk, chain(&error), begun.elapsed(), End::Failed),
    };
    say!("wipe: {report}");
    report
}

#[cfg(test)]
mod tests;
