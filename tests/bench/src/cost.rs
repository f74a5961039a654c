//! What a server costs: CPU seconds and memory, its children included.
//!
//! A control group counts exactly, to the nanosecond and with children that ended. Without one `/proc` is read,
//! whose clock ticks every 10 ms and which forgets children whose parent never waits for them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

/// Ticks a second of `/proc/PID/stat`; 100 on every Linux of the last decades.
const TICKS: u64 = 100;

/// What a load cost its server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// CPU seconds while the load ran.
    pub cpu_s: f64,
    /// Resident memory afterwards, in KiB.
    pub rss_kb: u64,
    /// The most resident memory of its life, in KiB: of its processes one by one, added up.
    pub peak_kb: u64,
}

/// How a server's cost is read.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Server {
    /// Process of the server: its CPU and memory are reported, with its children
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Control group of the server, for CPU time that is exact
    #[arg(long, value_name = "DIR")]
    pub server_cgroup: Option<PathBuf>,
}

/// A server's meter, running.
#[derive(Debug)]
pub struct Meter<'a> {
    server: &'a Server,
    before: Option<Duration>,
}

impl Server {
    /// Starts to count.
    #[must_use]
    pub fn meter(&self) -> Meter<'_> {
        Meter { server: self, before: self.cpu() }
    }

    fn cpu(&self) -> Option<Duration> {
        match (&self.server_cgroup, self.server_pid) {
            (Some(group), _) => cgroup_cpu(group).ok(),
            (None, Some(pid)) => tree_cpu(pid).ok(),
            (None, None) => None,
        }
    }
}

impl Meter<'_> {
    /// What it cost since the start; nothing when no server was named, or it is gone.
    #[must_use]
    pub fn stop(self) -> Option<Cost> {
        let cpu = self.server.cpu()?.checked_sub(self.before?)?;
        let (rss_kb, peak_kb) = self.server.server_pid.map_or((0, 0), tree_memory);
        Some(Cost { cpu_s: cpu.as_secs_f64(), rss_kb, peak_kb })
    }
}

/// The CPU time of a control group, version 1 (`cpuacct`) or 2.
fn cgroup_cpu(group: &Path) -> Result<Duration> {
    if let Ok(text) = fs::read_to_string(group.join("cpuacct.usage")) {
        return Ok(Duration::from_nanos(text.trim().parse()?));
    }
    let text = fs::read_to_string(group.join("cpu.stat"))?;
    usage_of(&text).context("cpu.stat has no usage_usec")
}

fn usage_of(cpu_stat: &str) -> Option<Duration> {
    let value = cpu_stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    value.trim().parse().ok().map(Duration::from_micros)
}

/// Of `/proc/PID/stat`, what counts here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// utime and stime, and those of children that were waited for.
    ticks: u64,
}

/// The name in the second field may hold spaces and brackets, so the fields are counted from its end.
fn parse_stat(text: &str) -> Option<Stat> {
    let rest = &text[text.rfind(')')? + 1..];
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    // Fields 4 and 14 to 17 of proc(5); the state is field 3 and index 0 here.
    let ticks = (11..15).map(number).sum::<Option<u64>>()?;
    Some(Stat { parent: fields.get(1)?.parse().ok()?, ticks })
}

fn all_stats() -> BTreeMap<u32, Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let text = fs::read_to_string(entry.path().join("stat")).ok()?;
            Some((pid, parse_stat(&text)?))
        })
        .collect()
}

/// The process and everything below it.
fn tree(stats: &BTreeMap<u32, Stat>, root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(
            stats.iter().filter(|(pid, stat)| stat.parent == parent && **pid != root).map(|(pid, _)| *pid),
        );
        at += 1;
    }
    found
}

fn tree_cpu(root: u32) -> Result<Duration> {
    let stats = all_stats();
    stats.get(&root).with_context(|| format!("process {root} is gone"))?;
    let ticks: u64 = tree(&stats, root).iter().filter_map(|pid| stats.get(pid)).map(|stat| stat.ticks).sum();
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

/// Resident memory of a process and its children in KiB: now, and at most.
#[must_use]
pub fn tree_memory(root: u32) -> (u64, u64) {
    let stats = all_stats();
    let memory = tree(&stats, root).into_iter().map(|pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        (status_kb(&text, "VmRSS:"), status_kb(&text, "VmHWM:"))
    });
    memory.fold((0, 0), |(rss, peak), (more, higher)| (rss + more, peak + higher))
}

fn status_kb(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// CPU seconds of this process so far.
///
/// # Errors
/// None that happen.
pub fn own_cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: TimeVal| {
        Duration::from_micros(u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or_default())
    };
    Ok((seconds(usage.user_time()) + seconds(usage.system_time())).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str =
        "4242 (nginx: (worker) 1) S 4000 4242 4242 0 -1 4194560 120 0 0 0 250 130 7 3 20 0 1 0 99";

    #[test]
    fn cpu_is_read_past_a_name_with_brackets_and_spaces() {
        assert_eq!(parse_stat(STAT), Some(Stat { parent: 4000, ticks: 390 }));
    }

    #[test]
    fn a_cut_line_is_no_process() {
        for text in ["", "1 (a", "1 (a) S", "1 (a) S 2 3", "1 (a) S x 1 1 1 1 1 1 1 1 1 1 1 1 1 1"] {
            assert_eq!(parse_stat(text), None, "{text}");
        }
    }

    #[test]
    fn children_of_children_belong_to_the_server() {
        let stat = |parent| Stat { parent, ticks: 1 };
        let stats =
            BTreeMap::from([(1, stat(0)), (10, stat(1)), (11, stat(10)), (12, stat(11)), (20, stat(1))]);
        assert_eq!(tree(&stats, 10), [10, 11, 12]);
    }

    #[test]
    fn our_own_cost_can_be_read() {
        let server = Server { server_pid: Some(std::process::id()), server_cgroup: None };
        let cost = server.meter().stop().unwrap();
        assert!(cost.rss_kb > 100 && cost.peak_kb >= cost.rss_kb, "{cost:?}");
        assert!(Server::default().meter().stop().is_none());
    }

    #[test]
    fn memory_and_group_lines_are_found_by_name() {
        assert_eq!(status_kb("Name:\tx\nVmHWM:\t  4096 kB\nVmRSS:\t  2048 kB\n", "VmRSS:"), 2048);
        assert_eq!(status_kb("Name:\tkthread\n", "VmRSS:"), 0);
        assert_eq!(usage_of("usage_usec 1500\nuser_usec 1\n"), Some(Duration::from_micros(1500)));
    }
}
