//! The error text of the heartbeat: what an operator of Omni must know of this provider.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

/// Machines named at most; the rest is a number.
const NAMED_MAX: usize = 5;
/// One machine's reason at most, in characters.
const REASON_MAX: usize = 200;
/// How long an outage that is over is worth telling.
pub const OUTAGE_TOLD: Duration = Duration::from_secs(10 * 60);

/// What may be wrong.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// Omni's wishes are not known for sure: since when, and why.
    pub stale: Option<(SystemTime, String)>,
    /// The last time that they were not: from, until.
    pub outage: Option<(SystemTime, SystemTime)>,
    /// Writes that wait to be sent.
    pub waiting: usize,
    /// Machines on which something does not work: id, since when, what.
    pub troubles: Vec<(String, SystemTime, String)>,
    /// What else an operator must know, a sentence each: the key expires, the disk is full.
    pub warnings: Vec<String>,
}

/// The text; empty when all is well.
#[must_use]
pub fn health_text(health: &Health, now: SystemTime) -> String {
    let mut parts = Vec::new();
    if let Some((since, reason)) = &health.stale {
        parts.push(format!(
            "Omni's wishes are not known since {}: {}; boots go on, nothing is wiped, switched off or \
             rebooted",
            at(*since),
            cut(reason),
        ));
    } else if let Some((from, until)) = &health.outage
        && now.duration_since(*until).unwrap_or_default() < OUTAGE_TOLD
    {
        parts.push(format!("Omni was out of reach from {} until {}", at(*from), at(*until)));
    }
    if health.waiting > 0 {
        parts.push(format!("{} writes wait to be sent", health.waiting));
    }
    if !health.troubles.is_empty() {
        let mut text = format!("{} machines need help: ", health.troubles.len());
        for (index, (id, since, reason)) in health.troubles.iter().take(NAMED_MAX).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            // Writing into a String does not fail.
            let _ = write!(text, "{comma}{id} (since {}: {})", at(*since), cut(reason));
        }
        if health.troubles.len() > NAMED_MAX {
            let _ = write!(text, " and {} more", health.troubles.len() - NAMED_MAX);
        }
        parts.push(text);
    }
    parts.extend(health.warnings.iter().map(|warning| cut(warning)));
    parts.join("; ")
}

/// Seconds are enough for people.
fn at(time: SystemTime) -> String {
    let mut timestamp = prost_types::Timestamp::from(time);
    timestamp.nanos = 0;
    timestamp.to_string()
}

/// One line of bounded length.
fn cut(text: &str) -> String {
    let line: String =
        text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(REASON_MAX).collect();
    if line.len() < text.len() { line + "…" } else { line }
}
