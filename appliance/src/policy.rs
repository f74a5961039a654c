//! What a machine that asks gets. Every answer comes from memory: Omni is never asked while a machine waits.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use cosi::Phase;
use netboot::boot::{BootAnswer, BootBody, BootPolicy, BootRequest, Refusal, Vouchers, disk_body};
use netboot::firmware::Arch;
use netboot::ipxe::{BaseUrl, DiskMethod, KernelArgs, Script, ScriptError, agent_script, talos_script};
use netboot::journal::Event;
use netboot::{Mac, Time};
use omni_link::view::{Machine, View};
use provider::{BootMode, InfraMachine, MachineView};
use uuid::Uuid;

/// What the policy needs to know besides the machines.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Where scripts point.
    pub base: BaseUrl,
    /// How machines are sent to their disks.
    pub disk_method: DiskMethod,
    /// Schematic of the Talos images.
    pub schematic: String,
    /// Machines say that they are switched by the HTTP power API.
    pub agent_test_mode: bool,
    /// Arguments for the agent, after the built-in ones.
    pub agent_args: KernelArgs,
    /// Arguments for Talos, after the built-in ones.
    pub talos_args: KernelArgs,
}

/// See the module.
pub(crate) struct Policy {
    settings: Settings,
    view: Arc<View>,
    vouchers: Mutex<Vouchers>,
    started: Instant,
}

impl Policy {
    /// Answers from `view`.
    pub(crate) fn new(settings: Settings, view: Arc<View>) -> Self {
        Self { settings, view, vouchers: Mutex::new(Vouchers::new()), started: Instant::now() }
    }

    /// Learns from an event on the boot path where a machine's address went: the system that it boots may
    /// get another lease than its firmware had.
    pub(crate) fn saw(&self, event: &Event) {
        if let (Some(mac), Some(address)) = (event.mac, event.address) {
            self.vouchers.lock().unwrap_or_else(PoisonError::into_inner).moved(mac, address);
        }
    }

    fn now(&self) -> Time {
        Time::from_micros(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn vouch(&self, request: &BootRequest) {
        let now = self.now();
        self.vouchers.lock().unwrap_or_else(PoisonError::into_inner).vouch(
            now,
            request.uuid,
            request.mac,
            request.peer,
        );
    }

    fn body(&self, mode: BootMode, machine: &MachineView, arch: Arch) -> Result<BootBody, ScriptError> {
        let settings = &self.settings;
        let script: Script = match (mode, &machine.machine) {
            (BootMode::Disk, _) => return Ok(disk_body(settings.disk_method)),
            (BootMode::Talos, Some(infra)) => {
                let args = KernelArgs::talos(settings.base, arch)
                    .and(&settings.talos_args)
                    .args(&infra.spec.extra_kernel_args)?;
                let version = with_v(&infra.spec.cluster_talos_version);
                talos_script(settings.base, &settings.schematic, &version, arch, &args)?
            }
            (BootMode::Agent | BootMode::Talos, _) => {
                let args = KernelArgs::agent(settings.base, arch, settings.agent_test_mode)
                    .and(&settings.agent_args);
                agent_script(settings.base, arch, &args)?
            }
        };
        Ok(BootBody::Script(script))
    }
}

impl BootPolicy for Policy {
    fn boot(&self, request: &BootRequest) -> BootAnswer {
        if request.uuid.is_nil() || request.uuid.is_max() {
            // Boards without a UUID all say the same one: they cannot be told apart.
            return answer(
                "none",
                "its firmware gives it no UUID: set one with the vendor's tool",
                try_again(),
            );
        }
        let known = self.view.machine(&request.uuid.to_string());
        if known.is_none() && !self.view.fresh() {
            // Machines that are not in the view may be rejected ones: an unknown disk is left alone.
            return answer("wait", "the list of machines is still being read", try_again());
        }
        let stranger = known.as_deref().and_then(|machine| stranger(machine, request.mac));
        let machine = known.as_deref().map_or_else(MachineView::unknown, decision_view);
        let (mode, reason) = provider::boot_mode(&machine);
        let rejected = reason == provider::BootReason::Rejected;
        let (mode, reason) = match stranger {
            // Whoever has a rejected machine's UUID is not touched either.
            Some(reason) if !rejected => (BootMode::Agent, reason),
            Some(_) | None => (mode, reason.to_string()),
        };
        if !rejected {
            self.vouch(request);
        }
        match self.body(mode, &machine, request.arch) {
            Ok(body) => answer(mode.as_str(), &reason, body),
            Err(error) => {
                answer("none", &format!("{reason}, but its kernel arguments are wrong: {error}"), try_again())
            }
        }
    }

    fn join_config(&self, uuid: Option<Uuid>, peer: IpAddr) -> Result<String, Refusal> {
        let uuid = uuid.ok_or_else(|| Refusal::Forbidden("no machine is named".into()))?;
        let now = self.now();
        let vouched = self.vouchers.lock().unwrap_or_else(PoisonError::into_inner).check(now, uuid, peer);
        match vouched {
            Ok(()) => {}
            Err(netboot::boot::Reason::TooMany) => return Err(Refusal::TooMany),
            // Talos asks again at its first boot from disk, which may come at any time.
            Err(_) if self.view.machine(&uuid.to_string()).as_deref().is_some_and(runs_talos) => {}
            Err(reason) => return Err(Refusal::Forbidden(reason.to_string())),
        }
        self.view
            .join_config()
            .ok_or_else(|| Refusal::Unavailable("Omni gave no join configuration yet".into()))
    }
}

fn answer(mode: &str, reason: &str, body: BootBody) -> BootAnswer {
    BootAnswer { mode: mode.to_owned(), reason: reason.to_owned(), body }
}

/// iPXE's script goes round and asks again.
fn try_again() -> BootBody {
    BootBody::NotFound("not now, ask again\n".into())
}

/// Omni gives versions without the `v` that Image Factory's paths have.
fn with_v(version: &str) -> String {
    if version.starts_with('v') { version.to_owned() } else { format!("v{version}") }
}

/// What the boot decision needs of what is known.
fn decision_view(machine: &Machine) -> MachineView {
    MachineView {
        fresh: true,
        machine: machine.infra.as_ref().map(|infra| InfraMachine {
            tearing_down: infra.metadata.phase == Phase::TearingDown,
            labels: BTreeMap::new(),
            spec: infra.spec.clone(),
        }),
        bmc: machine.bmc.as_ref().map(|entry| entry.spec.clone()),
        wipe: machine.wipe.as_ref().map(|entry| entry.spec.clone()),
        ..MachineView::unknown()
    }
}

fn runs_talos(machine: &Machine) -> bool {
    let view = decision_view(machine);
    let allocated = view.machine.as_ref().is_some_and(|infra| infra.allocated() && !infra.tearing_down);
    allocated && provider::installed(&view)
}

/// Another machine with the same UUID: it boots from a link that the known one does not have.
fn stranger(machine: &Machine, mac: Option<Mac>) -> Option<String> {
    let (inventory, mac) = (machine.inventory.as_ref()?, mac?);
    let known: Vec<Mac> = inventory.spec.nics.iter().filter_map(|nic| nic.mac.parse().ok()).collect();
    (!known.is_empty() && !known.contains(&mac)).then(|| {
        format!("{mac} is no link of the machine that has this uuid: a second machine, or a new link")
    })
}

#[cfg(test)]
mod tests;
