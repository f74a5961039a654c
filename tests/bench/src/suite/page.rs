//! The results as a page.

use std::fs;

use anyhow::{Context, Result};

use super::Measured;
use super::servers::Peers;
use crate::report::{Report, Unit, count};
use crate::stats::{Phase, Spread};
use crate::table::Table;

const BEGIN: &str = "<!-- results of `make bench`: begin -->";
const END: &str = "<!-- results of `make bench`: end -->";

/// The page with other results between the markers.
pub(super) fn replace(page: &str, results: &str) -> Result<String> {
    let (before, rest) = page.split_once(BEGIN).with_context(|| format!("the page has no {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("the page has no {END}"))?;
    Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", results.trim()))
}

/// All measures as Markdown.
pub(super) fn results(all: &[Measured], peers: &Peers) -> String {
    let mut out = format!("Measured on {}.\n", machine());
    if !peers.versions.is_empty() {
        out.push_str(&format!("Peers: {}.\n", peers.versions.join("; ")));
    }
    for missing in &peers.missing {
        out.push_str(&format!("Left out: {missing}.\n"));
    }
    let mut names: Vec<&str> = all.iter().map(|found| found.measure).collect();
    names.dedup();
    for name in names {
        let rows: Vec<&Measured> = all.iter().filter(|found| found.measure == name).collect();
        out.push_str(&format!("\n### {name}\n\n{}", table(&rows).markdown()));
    }
    out
}

fn machine() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let load: Vec<&str> = load.split(' ').take(3).collect();
    format!("{processors} processors, Linux {}, load average at the end {}", kernel.trim(), load.join(" "))
}

fn table(rows: &[&Measured]) -> Table {
    let unit = rows.first().and_then(|found| found.reports.first()).map_or(Unit::Bytes, |report| report.unit);
    if unit == Unit::Starts {
        return starts(rows);
    }
    let (rate, cpu) = match unit {
        Unit::Offers => ("offers/s", "CPU s per 100k"),
        Unit::Bytes => ("MB/s", "CPU s per GB"),
        Unit::Requests | Unit::Starts => ("requests/s", "CPU µs each"),
    };
    let best = rows.iter().filter(|found| !found.server.is_ours() && !found.server.is_limit());
    let best =
        best.filter_map(|found| spread(found, Report::cpu)).map(|cpu| cpu.median).min_by(f64::total_cmp);
    let limit = rows.iter().filter(|found| found.server.is_limit());
    let limit =
        limit.filter_map(|found| spread(found, Report::cpu)).map(|cpu| cpu.median).min_by(f64::total_cmp);
    let head = [
        "server",
        cpu,
        "to best peer",
        "to limit",
        rate,
        "p50 ms",
        "p99 ms",
        "longest ms",
        "done",
        "failed",
        "most MB",
        "client's CPU",
    ];
    let mut table = Table::new(&head);
    for found in rows {
        let cpu = spread(found, Report::cpu);
        let ratio = |to: Option<f64>| match (cpu, to) {
            (Some(cpu), Some(to)) if to > 0.0 => format!("{:.2}", cpu.median / to),
            _ => "–".into(),
        };
        let scale = if unit == Unit::Bytes { 1e6 } else { 1.0 };
        let speed = spread(found, |report| Some(report.rate() / scale));
        let phase = |read| or_none(millis(found, |report| report.phases.last(), read), |times| times.median);
        let sum = |read: fn(&Report) -> u64| found.reports.iter().map(read).sum::<u64>().to_string();
        let busy = spread(found, |report| Some(report.client_busy()).filter(|busy| *busy > 0.0));
        let memory = spread(found, |report| report.server.map(|cost| count(cost.peak_kb) / 1e3));
        table.row([
            found.server.title().to_owned(),
            cpu.map_or("–".into(), with_range),
            if found.server.is_ours() { ratio(best) } else { "–".into() },
            if found.server.is_limit() { "–".into() } else { ratio(limit) },
            or_none(speed, |speed| speed.median),
            phase(|phase| phase.p50_us),
            phase(|phase| phase.p99_us),
            phase(|phase| phase.max_us),
            sum(|report| report.done),
            sum(Report::failures),
            or_none(memory, |memory| memory.max),
            busy.map_or("–".into(), |busy| format!("{:.0} %", busy.median * 100.0)),
        ]);
    }
    table
}

/// Of starts, the offers and the memory are the point.
fn starts(rows: &[&Measured]) -> Table {
    let mut table =
        Table::new(&["server", "first offer after ms, median", "longest", "resident MB", "starts"]);
    for found in rows {
        let phase = |number, read| millis(found, move |report| report.phases.get(number), read);
        table.row([
            found.server.title().to_owned(),
            or_none(phase(0, |phase| phase.p50_us), |offer| offer.median),
            or_none(phase(0, |phase| phase.max_us), |longest| longest.max),
            or_none(phase(1, |phase| phase.p50_us), |resident| resident.median),
            found.reports.iter().map(|report| report.done).sum::<u64>().to_string(),
        ]);
    }
    table
}

fn spread(found: &Measured, value: impl Fn(&Report) -> Option<f64>) -> Option<Spread> {
    Spread::of(&found.reports.iter().filter_map(value).collect::<Vec<_>>())
}

/// What is told of a phase in microseconds, in thousands.
fn millis(
    found: &Measured,
    phase: impl Fn(&Report) -> Option<&Phase>,
    read: fn(&Phase) -> u64,
) -> Option<Spread> {
    spread(found, |report| phase(report).map(|phase| count(read(phase)) / 1e3))
}

fn or_none(spread: Option<Spread>, read: fn(&Spread) -> f64) -> String {
    spread.map_or("–".into(), |spread| number(read(&spread)))
}

fn with_range(spread: Spread) -> String {
    format!("**{}** [{}–{}]", number(spread.median), number(spread.min), number(spread.max))
}

/// Three digits that mean something.
fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::servers::Name;
    use super::*;
    use crate::cost::Cost;

    fn measured(server: Name, cpu: &[f64]) -> Measured {
        let report = |cpu: &f64| Report {
            work: 100_000,
            done: 100_000,
            seconds: 1.0,
            server: Some(Cost { cpu_s: *cpu, rss_kb: 1, peak_kb: 2000 }),
            phases: vec![Phase::of("offer", vec![100])],
            ..Report::new("dhcp 67", 64, Unit::Offers)
        };
        Measured { measure: "DHCP", server, reports: cpu.iter().map(report).collect() }
    }

    #[test]
    fn we_are_compared_with_the_best_peer_and_the_limit() {
        let all = [
            measured(Name::Ours, &[1.0, 3.0, 2.0]),
            measured(Name::Dnsmasq, &[4.0]),
            measured(Name::Echo, &[0.5]),
        ];
        let text = results(&all, &Peers::default());
        assert!(text.contains("| bootlace | **2.00** [1.00–3.00] | 0.50 | 4.00 | 100000 |"), "{text}");
        assert!(text.contains("| dnsmasq | **4.00** [4.00–4.00] | – | 8.00 |"), "{text}");
        assert!(text.contains("| limit: an echo | **0.50** [0.50–0.50] | – | – |"), "{text}");
    }

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = replace(&page, "new\n").unwrap();
        assert_eq!(new, format!("before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"));
        assert_eq!(replace(&new, "new").unwrap(), new);
        assert!(replace("no markers", "new").is_err());
    }
}
