//! A whole bed: the network, its router, the machines.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

use crate::appliance::{Appliance, ApplianceSpec};
use crate::doctor;
use crate::machine::{Machine, MachineSpec, PowerServer};
use crate::net::{Net, Role};
use crate::remains::{self, Remains};
use crate::router::Router;

/// Taps and the last byte of the MAC are numbered in a byte.
const MAX_MACHINES: usize = 200;

/// A virtual network with a router. Machines and an appliance are added to it; Drop takes everything down.
///
/// Not to be dropped inside an async task: taking down blocks.
#[derive(Debug)]
pub struct Bed {
    machines: Mutex<Vec<(Machine, PowerServer)>>,
    router: Router,
    net: Arc<Net>,
    remains: Arc<Remains>,
    swept: Vec<String>,
}

impl Bed {
    /// Takes down what crashed beds left, then brings up the network and its router.
    pub fn start() -> Result<Self> {
        doctor::check()?;
        let swept = remains::sweep();
        let remains = Remains::reserve(&Role::NAMES)?;
        let cleared_on_error = Guard(&remains);
        let net = Net::up(remains.id()).context("the virtual network does not come up")?;
        let router = Router::start(&net, &remains)?;
        std::mem::forget(cleared_on_error);
        Ok(Self { machines: Mutex::default(), router, net: Arc::new(net), remains, swept })
    }

    /// What it has to take down.
    pub(crate) fn remains(&self) -> &Remains {
        &self.remains
    }

    /// What tells this bed from others; its namespaces are called `<id>-<role>`.
    #[must_use]
    pub fn id(&self) -> &str {
        self.remains.id()
    }

    /// Its folder; gone when the bed is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.remains.dir()
    }

    /// Its network.
    #[must_use]
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// The folder with a `<machine>.config` for each power switch.
    #[must_use]
    pub fn power_dir(&self) -> PathBuf {
        self.dir().join("power")
    }

    /// The log of the router's DHCP server.
    #[must_use]
    pub fn router_log(&self) -> String {
        std::fs::read_to_string(self.router.log()).unwrap_or_default()
    }

    /// The crashed beds that were taken down before this one started.
    #[must_use]
    pub fn swept(&self) -> &[String] {
        &self.swept
    }

    /// Builds a machine and plugs it in. It is off.
    pub fn machine(&self, spec: MachineSpec) -> Result<Machine> {
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(machines.len() < MAX_MACHINES, "a bed has at most {MAX_MACHINES} machines");
        let taken = machines.iter().any(|(machine, _)| machine.name() == spec.name);
        ensure!(!taken, "there is a machine {:?} already", spec.name);
        let safe = !spec.name.is_empty() && spec.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        ensure!(safe, "{:?} is no machine name: letters, digits and hyphens", spec.name);
        let number = u8::try_from(machines.len() + 1)?;
        let name = spec.name.clone();
        // The files of the peer's format go by UUID: with two for one UUID the appliance would switch either machine.
        let twin = machines.iter().any(|(machine, _)| Some(machine.uuid()) == spec.uuid);
        let power_dir = if twin { None } else { Some(self.power_dir()) };
        let built = Machine::build(spec, number, &self.net, &self.remains, power_dir.as_deref());
        let built = built.with_context(|| format!("cannot build machine {name}"))?;
        let machine = built.0.clone();
        machines.push(built);
        Ok(machine)
    }

    /// All machines, in the order they were added.
    #[must_use]
    pub fn machines(&self) -> Vec<Machine> {
        let machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        machines.iter().map(|(machine, _)| machine.clone()).collect()
    }

    /// Starts a program of a test's own. It is gone when the bed is.
    pub fn spawn(&self, what: &str, command: Command) -> Result<Child> {
        self.remains.spawn(what, command)
    }

    /// Starts an appliance in its namespace and returns when it serves.
    pub fn appliance(&self, spec: ApplianceSpec) -> Result<Appliance> {
        Appliance::start(spec, &self.net, &self.remains, &self.power_dir())
    }
}

impl Bed {
    /// The ends of all logs, for whoever has to find out why something failed.
    #[must_use]
    pub fn report(&self) -> String {
        let log = |title: &str, text: &str| format!("--- {title}\n{text}\n");
        let machines = self.machines();
        let consoles =
            machines.iter().map(|m| log(&format!("console of {}", m.name()), &m.console().tail(25)));
        let router = log("router", &tail(&self.router_log(), 25));
        let appliance = std::fs::read_to_string(self.dir().join(crate::appliance::LOG)).unwrap_or_default();
        consoles.chain([router, log("appliance", &tail(&appliance, 60))]).collect()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.report());
        }
        self.remains.clear();
    }
}

/// Clears what a start that fails half-way has made.
struct Guard<'a>(&'a Arc<Remains>);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

pub(crate) fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
