//! The boot journal as an operator reads it: `bootlace journal -f -o json`, line by line.

use std::collections::HashSet;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::machine::Machine;
use crate::wait::{TimedOut, Watched};

/// How soon the follower is started again after the appliance was killed.
const AGAIN: Duration = Duration::from_millis(50);

/// One event of the journal.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Entry {
    /// Unix time in milliseconds.
    pub at_ms: u64,
    /// The machine's MAC address, when known.
    #[serde(default)]
    pub mac: Option<String>,
    /// The machine's UUID, when known.
    #[serde(default)]
    pub uuid: Option<Uuid>,
    /// The machine's address, when known.
    #[serde(default)]
    pub address: Option<String>,
    /// What happened: `dhcp_discover`, `pending`, ..
    pub step: String,
    /// What the step says beyond that.
    #[serde(flatten)]
    pub details: Map<String, Value>,
    /// What the journal itself would print, when it is an event this version knows.
    #[serde(skip)]
    text: Option<String>,
}

impl Entry {
    fn parse(line: &str) -> serde_json::Result<Self> {
        let mut entry: Self = serde_json::from_str(line)?;
        let event = serde_json::from_str::<netboot::journal::Event>(line);
        entry.text = event.ok().map(|event| event.step.to_string());
        Ok(entry)
    }

    /// Its place in the journal, which outlives restarts of the appliance.
    #[must_use]
    pub fn seq(&self) -> Option<u64> {
        self.details.get("seq")?.as_u64()
    }

    /// True when it is about that machine.
    #[must_use]
    pub fn is_of(&self, machine: &Machine) -> bool {
        self.uuid == Some(machine.uuid()) || self.mac.as_deref() == Some(machine.mac())
    }

    /// A detail as text, empty when there is none of that name.
    #[must_use]
    pub fn detail(&self, name: &str) -> String {
        match self.details.get(name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.text {
            return f.write_str(text);
        }
        write!(f, "{}", self.step.replace('_', " "))?;
        let told = self.details.keys().filter(|name| *name != "seq");
        told.map(|name| (name, self.detail(name)))
            .filter(|(_, value)| !value.is_empty())
            .try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

/// Follows the journal on a thread. Drop ends it.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    entries: Watched<Vec<Entry>>,
    /// The running child, and whether nobody wants to hear more.
    follower: Watched<(Option<Child>, bool)>,
}

impl Journal {
    pub(crate) fn follow(start: impl Fn() -> Result<Child> + Send + 'static) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let journal = Self { shared: Arc::clone(&shared) };
        let output = journal.shared.adopt(start()?)?;
        let run = move || {
            // After a restart the journal may tell again what it told before.
            let mut told = HashSet::new();
            shared.read(output, &mut told);
            loop {
                let closed = shared.follower.wait(AGAIN, "", |(_, closed)| closed.then_some(()));
                if closed.is_ok() {
                    break;
                }
                // While the appliance is down the command ends at once; it is simply tried again.
                match start().and_then(|child| shared.adopt(child)) {
                    Ok(output) => shared.read(output, &mut told),
                    Err(_) => break,
                }
            }
        };
        thread::Builder::new().name("journal".into()).spawn(run)?;
        Ok(journal)
    }

    /// All entries so far.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.shared.entries.lock().clone()
    }

    /// Waits for an entry that `wanted` takes, including those before.
    pub fn wait(
        &self,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&Entry) -> bool,
    ) -> Result<Entry, TimedOut> {
        self.wait_from(0, limit, what, wanted).map(|(_, entry)| entry)
    }

    /// Waits for a step of one machine, including those before.
    pub fn wait_step(&self, limit: Duration, machine: &Machine, step: &str) -> Result<Entry, TimedOut> {
        let what = format!("{step} of {}", machine.name());
        self.wait(limit, &what, |entry| entry.step == step && entry.is_of(machine))
    }

    /// Waits for an entry at or behind position `from`; gives its position too.
    pub fn wait_from(
        &self,
        from: usize,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&Entry) -> bool,
    ) -> Result<(usize, Entry), TimedOut> {
        self.shared.entries.wait(limit, &format!("the journal's {what}"), |entries| {
            let found = entries.iter().enumerate().skip(from).find(|(_, entry)| wanted(entry));
            found.map(|(position, entry)| (position, entry.clone()))
        })
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.follower.change(|(child, closed)| {
            *closed = true;
            if let Some(child) = child {
                let _ = child.kill();
            }
        });
    }
}

impl Shared {
    fn adopt(&self, mut child: Child) -> Result<ChildStdout> {
        let output = child.stdout.take().context("stdout is piped")?;
        self.follower.change(|(running, closed)| {
            if *closed {
                let _ = child.kill();
            }
            *running = Some(child);
        });
        Ok(output)
    }

    /// Reads until the follower ends, and reaps it.
    fn read(&self, output: ChildStdout, told: &mut HashSet<String>) {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            match Entry::parse(&line) {
                Ok(entry) => {
                    let name = entry.seq().map_or_else(|| line.clone(), |seq| seq.to_string());
                    if told.insert(name) {
                        self.entries.change(|entries| entries.push(entry));
                    }
                }
                Err(error) => eprintln!("testbed: not a journal entry ({error}): {line}"),
            }
        }
        let child = self.follower.change(|(child, _)| child.take());
        if let Some(mut child) = child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests;
