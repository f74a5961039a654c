//! A bed with its appliance, and a person who decides about machines.

use std::time::Instant;

use anyhow::{Context, Result};
use serde::Deserialize;
use uuid::Uuid;

use crate::appliance::{Appliance, ApplianceSpec};
use crate::bed::Bed;
use crate::journal::{Entry, Journal};
use crate::machine::Machine;
use crate::{LIMIT, TALOS_VERSION};

/// A bed with a running appliance.
#[derive(Debug)]
pub struct Site {
    /// Followed from its beginning, over restarts of the appliance.
    pub journal: Journal,
    /// The appliance.
    pub appliance: Appliance,
    /// The network and the machines.
    pub bed: Bed,
}

/// A machine as `bootlace machines list` shows it.
#[derive(Debug, Deserialize)]
pub struct Listed {
    /// Its UUID.
    pub id: Uuid,
    /// `pending`, `accepted`, `rejected`.
    pub state: String,
    /// `on`, `off`, `unknown`.
    pub power: String,
    /// It may be allocated.
    pub ready: bool,
    /// It runs from its disk.
    pub installed: bool,
    /// Whom it belongs to; empty when it is free.
    pub cluster: String,
}

impl Site {
    /// Starts a bed, and an appliance in it.
    pub fn start(spec: ApplianceSpec) -> Result<Self> {
        let bed = Bed::start()?;
        let appliance = bed.appliance(spec)?;
        let journal = appliance.journal()?;
        Ok(Self { journal, appliance, bed })
    }

    /// Waits for a step of a machine, and prints how long.
    pub fn step(&self, machine: &Machine, step: &str) -> Result<Entry> {
        let begin = Instant::now();
        let waited = self.journal.wait_step(LIMIT, machine, step);
        let entry = waited.inspect_err(|_| eprintln!("{}", self.bed.report()))?;
        println!("{:<10} {step:<18} +{:.1} s", machine.name(), begin.elapsed().as_secs_f32());
        Ok(entry)
    }

    /// `bootlace machines <verb> <machine> <rest>`.
    pub fn machines(&self, verb: &str, machine: &Machine, rest: &[&str]) -> Result<()> {
        let id = machine.uuid().to_string();
        self.appliance.cli_ok(&[&["machines", verb, &id], rest].concat()).map(drop)
    }

    /// Gives a machine to the cluster `edge`.
    pub fn allocate(&self, machine: &Machine) -> Result<()> {
        self.machines("allocate", machine, &["--cluster", "edge", "--talos-version", TALOS_VERSION])
    }

    /// All machines as the operator sees them.
    pub fn list(&self) -> Result<Vec<Listed>> {
        self.appliance.cli_json(&["machines", "list"])
    }

    /// A machine as the operator sees it.
    pub fn listed(&self, machine: &Machine) -> Result<Listed> {
        let found = self.list()?.into_iter().find(|listed| listed.id == machine.uuid());
        found.context("the machine is not listed")
    }
}
