//! All loads against the appliance and every peer that is installed, and the table for the documentation.
//!
//! Each server lives in a network namespace of its own with a client's namespace at the other end of one veth pair;
//! the addresses are the same everywhere. Servers are pinned to the first processor, loads to the second. Rounds are
//! interleaved: every server has its turn in each, so that what else the machine does hits all alike. The figure to
//! trust is CPU by unit of work, not the time.

mod bed;
mod measures;
mod page;
mod servers;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use self::bed::{Bed, Files};
use self::measures::{Kind, Measure};
use self::servers::{Name, Peers, Running};
use crate::report::Report;

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Suite {
    /// The appliance's binary
    #[arg(long, value_name = "FILE")]
    pub bootlace: PathBuf,
    /// Where peers were put that are not installed: nginx, in.tftpd, tftpd
    #[arg(long, value_name = "DIR", default_value = "build/peers")]
    pub peers: PathBuf,
    /// Only these kinds [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Kind>,
    /// No more rounds than this [default: what each needs: times and their tails more than CPU, slow ones fewer]
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,
    /// Appended to the appliance's configuration, to measure another one
    #[arg(long, value_name = "TOML", default_value = "")]
    pub config: String,
    /// A page whose text between the markers is replaced by the results
    #[arg(long, value_name = "FILE.md")]
    pub write: Option<PathBuf>,
    /// Every report, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The storm as a plot
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

/// One measurement of one server: a report for each round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) measure: &'static str,
    pub(crate) server: Name,
    pub(crate) reports: Vec<Report>,
}

impl Suite {
    /// Runs it.
    ///
    /// # Errors
    /// When not root, when the appliance does not run, or the page cannot be written. A peer that cannot be had is
    /// left out and said so.
    pub fn run(&self) -> Result<()> {
        if !nix::unistd::geteuid().is_root() {
            bail!("network namespaces need root");
        }
        // Before minutes are spent on what goes there.
        if let Some(path) = &self.write {
            page_with(path, "")?;
        }
        bed::sweep();
        let files = Files::make()?;
        let peers = Peers::find(&self.peers);
        for missing in &peers.missing {
            println!("skipped: {missing}");
        }
        let wanted = |kind: Kind| self.only.is_empty() || self.only.contains(&kind);
        let mut results = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| wanted(*kind)) {
            let began = Instant::now();
            results.extend(self.kind(kind, &files, &peers).with_context(|| format!("{kind:?}"))?);
            println!("-- {kind:?}: {:.0} s", began.elapsed().as_secs_f64());
        }
        let text = page::results(&results, &peers);
        println!("\n{text}");
        if let Some(path) = &self.json {
            fs::write(path, serde_json::to_string_pretty(&results)?)?;
        }
        if let Some(path) = &self.plot {
            plot(&results, path)?;
        }
        if let Some(path) = &self.write {
            fs::write(path, page_with(path, &text)?)?;
        }
        Ok(())
    }

    /// All measurements of a kind, round by round.
    fn kind(&self, kind: Kind, files: &Files, peers: &Peers) -> Result<Vec<Measured>> {
        let measures: Vec<Measure> =
            Measure::all().into_iter().filter(|measure| measure.kind == kind).collect();
        let mut running: BTreeMap<Name, Running> = BTreeMap::new();
        for name in measures.iter().flat_map(|measure| measure.servers.iter().copied()) {
            if running.contains_key(&name) || !peers.has(name) {
                continue;
            }
            let bed = Bed::new(name.word())?;
            match servers::start(name, kind, bed, files, peers, self) {
                Ok(server) => drop(running.insert(name, server)),
                Err(error) if name == Name::Ours => return Err(error.context("the appliance does not start")),
                Err(error) => println!("skipped: {}: {error:#}", name.title()),
            }
        }
        let mut found: Vec<Measured> = Vec::new();
        let rounds = measures.iter().map(|measure| measure.rounds).max().unwrap_or(0);
        for round in 0..rounds.min(self.rounds.unwrap_or(usize::MAX)) {
            for measure in measures.iter().filter(|measure| round < measure.rounds) {
                for name in &measure.servers {
                    let Some(server) = running.get(name) else { continue };
                    let report = measure.run(server, files, round)?;
                    println!("{} / {}: {}", measure.name, name.title(), brief(&report));
                    match found
                        .iter_mut()
                        .find(|known| known.measure == measure.name && known.server == *name)
                    {
                        Some(known) => known.reports.push(report),
                        None => found.push(Measured {
                            measure: measure.name,
                            server: *name,
                            reports: vec![report],
                        }),
                    }
                }
            }
        }
        Ok(found)
    }
}

fn brief(report: &Report) -> String {
    report.text().lines().take(3 + report.failed.len()).collect::<Vec<_>>().join("; ")
}

/// The page with these results.
fn page_with(path: &Path, results: &str) -> Result<String> {
    let old = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    page::replace(&old, results).with_context(|| path.display().to_string())
}

fn plot(results: &[Measured], path: &PathBuf) -> Result<()> {
    let ours = results.iter().find(|found| found.measure == measures::STORM && found.server == Name::Ours);
    if let Some(report) = ours.and_then(|found| found.reports.last()) {
        fs::write(path, crate::svg::plot(report))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
