//! What a load reports, for people and for programs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::stats::Phase;
use crate::table::Table;

/// What the server's CPU is counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// DHCP answers.
    Offers,
    /// Bytes of files.
    Bytes,
    /// HTTP requests.
    Requests,
    /// Started servers.
    Starts,
}

/// The result of one load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Which load.
    pub load: String,
    /// Clients at a time.
    pub clients: usize,
    /// What ended well: transfers, requests, offers, boots.
    pub done: u64,
    /// Failures by their reason.
    pub failed: BTreeMap<String, u64>,
    /// How much work was done.
    pub work: u64,
    /// In what.
    pub unit: Unit,
    /// How long it took.
    pub seconds: f64,
    /// How often clients had to repeat themselves.
    pub repeats: u64,
    /// How long the parts took.
    pub phases: Vec<Phase>,
    /// What the server paid.
    pub server: Option<Cost>,
    /// CPU seconds of the load itself.
    #[serde(default)]
    pub client_cpu_s: f64,
}

impl Report {
    /// A report without results.
    #[must_use]
    pub fn new(load: &str, clients: usize, unit: Unit) -> Self {
        Self {
            load: load.to_owned(),
            clients,
            done: 0,
            failed: BTreeMap::new(),
            work: 0,
            unit,
            seconds: 0.0,
            repeats: 0,
            phases: Vec::new(),
            server: None,
            client_cpu_s: 0.0,
        }
    }

    /// Counts a failure.
    pub fn fail(&mut self, reason: impl std::fmt::Display) {
        *self.failed.entry(reason.to_string()).or_default() += 1;
    }

    /// All failures.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Work a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        count(self.work) / self.seconds
    }

    /// How much of one processor the load took: at 1 it is the load that is measured.
    #[must_use]
    pub fn client_busy(&self) -> f64 {
        self.client_cpu_s / self.seconds
    }

    /// The server's CPU by unit of work, in the unit's usual measure: seconds per 100,000 offers, seconds per GB,
    /// microseconds per request.
    #[must_use]
    pub fn cpu(&self) -> Option<f64> {
        let (per, scale) = match self.unit {
            Unit::Offers => (100_000.0, 1.0),
            Unit::Bytes => (1e9, 1.0),
            Unit::Requests | Unit::Starts => (1.0, 1e6),
        };
        let cost = self.server.filter(|_| self.work > 0)?;
        Some(cost.cpu_s * scale * per / count(self.work))
    }

    /// As text.
    #[must_use]
    pub fn text(&self) -> String {
        let (rate, cpu_unit) = match self.unit {
            Unit::Offers => (format!("{:.0} offers/s", self.rate()), "s/100k offers"),
            Unit::Bytes => (format!("{:.1} MB/s", self.rate() / 1e6), "s/GB"),
            Unit::Requests => (format!("{:.0} requests/s", self.rate()), "µs/request"),
            Unit::Starts => (format!("{} starts", self.work), "µs/start"),
        };
        let mut out = format!(
            "{}: {} clients, {} done, {} failed, {:.2} s, {rate}, {} repeats\n",
            self.load,
            self.clients,
            self.done,
            self.failures(),
            self.seconds,
            self.repeats
        );
        if let (Some(cost), Some(cpu)) = (self.server, self.cpu()) {
            out.push_str(&format!(
                "server: {:.3} CPU s = {cpu:.2} {cpu_unit}, {:.1} MB resident, {:.1} MB at most\n",
                cost.cpu_s,
                count(cost.rss_kb) / 1e3,
                count(cost.peak_kb) / 1e3
            ));
        }
        if self.client_cpu_s > 0.0 {
            out.push_str(&format!(
                "client: {:.3} CPU s, {:.0} % of a processor\n",
                self.client_cpu_s,
                self.client_busy() * 100.0
            ));
        }
        for (reason, times) in &self.failed {
            out.push_str(&format!("failed {times} times: {reason}\n"));
        }
        let mut table = Table::new(&["phase", "count", "p50 ms", "p90 ms", "p99 ms", "max ms"]);
        for phase in &self.phases {
            let ms = |micros| format!("{:.3}", count(micros) / 1e3);
            table.row([
                phase.name.clone(),
                phase.count.to_string(),
                ms(phase.p50_us),
                ms(phase.p90_us),
                ms(phase.p99_us),
                ms(phase.max_us),
            ]);
        }
        out.push_str(&table.text());
        out
    }
}

/// A count as a number to divide.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
pub fn count(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(unit: Unit, work: u64) -> Report {
        let server = Some(Cost { cpu_s: 2.0, rss_kb: 1, peak_kb: 2 });
        Report { work, seconds: 4.0, server, ..Report::new("x", 1, unit) }
    }

    #[test]
    fn cpu_is_told_in_the_measure_of_its_kind() {
        assert_eq!(report(Unit::Offers, 200_000).cpu(), Some(1.0));
        assert_eq!(report(Unit::Bytes, 4_000_000_000).cpu(), Some(0.5));
        assert_eq!(report(Unit::Requests, 100_000).cpu(), Some(20.0));
        assert_eq!(report(Unit::Requests, 0).cpu(), None);
    }

    #[test]
    fn json_reads_back_and_text_names_failures() {
        let mut report = report(Unit::Offers, 8);
        report.fail("no answer");
        report.fail("no answer");
        report.phases.push(Phase::of("offer", vec![1500]));
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
        let text = report.text();
        assert!(text.contains("failed 2 times: no answer") && text.contains("1.500"), "{text}");
    }
}
