//! What a machine that asks gets. Every answer comes from memory: Omni is never asked while a machine waits.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cosi::Phase;
use netboot::boot::{BootAnswer, BootBody, BootPolicy, BootRequest, Reason, Refusal, VALID_FOR, Vouchers};
use netboot::firmware::Arch;
use netboot::ipxe::{AgentTls, BaseUrl, DiskMethod, KernelArgs};
use netboot::journal::{Event, Step};
use netboot::{Mac, Time};
use omni_link::view::{Machine, View};
use provider::machine_config::{ExtraDocuments, compose};
use provider::{BootMode, InfraMachine, MachineView};
use uuid::Uuid;

use crate::config::AgentKind;
use crate::tls::Certificates;
pub(crate) use scripts::Images;
use scripts::Scripts;

mod scripts;

/// Machines that are remembered to have asked; all are forgotten at once, and remembered when they ask again.
const ASKED_MAX: usize = 16_384;

/// What the policy needs to know besides the machines.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Where scripts point.
    pub base: BaseUrl,
    /// How machines are sent to their disks.
    pub disk_method: DiskMethod,
    /// Schematic of the Talos images in the asset directory, for machines without extensions.
    pub schematic: String,
    /// What the discovery agent is.
    pub agent: AgentKind,
    /// Documents that every machine gets after Omni's.
    pub extra_documents: ExtraDocuments,
    /// How agents open their tunnels over TLS, and whom they are to trust; `None`: without TLS.
    pub tls: Option<(AgentTls, Arc<Certificates>)>,
    /// Machines say that they are switched by the HTTP power API.
    pub agent_test_mode: bool,
    /// Arguments for the agent, after the built-in ones.
    pub agent_args: KernelArgs,
    /// Arguments for Talos, after the built-in ones.
    pub talos_args: KernelArgs,
}

/// See the module.
pub(crate) struct Policy {
    settings: Arc<Settings>,
    scripts: Scripts,
    view: Arc<View>,
    vouchers: Arc<Mutex<Vouchers>>,
    /// Machines that asked what to boot, on this network.
    asked: Mutex<HashSet<Uuid>>,
    started: Instant,
    /// The appliance's address as the hub knows it, and the one that this network's machines reach it by.
    hub_address: Option<(Ipv4Addr, Ipv4Addr)>,
}

impl Policy {
    /// Answers from `view`.
    pub(crate) fn new(settings: Settings, images: Images, view: Arc<View>) -> Self {
        let settings = Arc::new(settings);
        Self {
            scripts: Scripts::new(Arc::clone(&settings), Arc::new(images)),
            settings,
            view,
            vouchers: Arc::new(Mutex::new(Vouchers::new())),
            asked: Mutex::default(),
            started: Instant::now(),
            hub_address: None,
        }
    }

    /// The policy of a network, whose machines reach this appliance by an address of their own network. Who may have
    /// the configuration is known to the policies of all networks alike.
    pub(crate) fn for_network(&self, settings: Settings, main: Ipv4Addr, own: Ipv4Addr) -> Self {
        let settings = Arc::new(settings);
        Self {
            scripts: self.scripts.for_network(Arc::clone(&settings)),
            settings,
            view: Arc::clone(&self.view),
            vouchers: Arc::clone(&self.vouchers),
            asked: Mutex::default(),
            started: self.started,
            hub_address: (main != own).then_some((main, own)),
        }
    }

    /// Learns from an event on the boot path where a machine's address went: the system that it boots may
    /// get another lease than its firmware had.
    pub(crate) fn saw(&self, event: &Event) {
        if let (Some(mac), Some(address)) = (event.mac, event.address) {
            self.vouchers().moved(mac, address);
        }
    }

    /// Takes up the boots that were in progress when the last process ended, from its journal: a machine that
    /// got its script from that one asks this one for its configuration.
    pub(crate) fn recall<'a>(&self, events: impl IntoIterator<Item = &'a Event>, now_ms: u64) {
        let now = self.now();
        for event in events {
            let age = Duration::from_millis(now_ms.saturating_sub(event.at_ms));
            if age > VALID_FOR {
                continue;
            }
            if let (Step::ScriptServed { mode, .. }, Some(uuid), Some(peer)) =
                (&event.step, event.uuid, event.address)
                && [BootMode::Agent, BootMode::Talos].iter().any(|network| network.as_str() == mode)
            {
                self.vouchers().vouch(now - age, uuid, event.mac, peer);
            }
            self.saw(event);
        }
    }

    /// Begins at [`VALID_FOR`], so that what happened before has a time too.
    fn now(&self) -> Time {
        Time::ZERO + VALID_FOR + self.started.elapsed()
    }

    fn vouchers(&self) -> MutexGuard<'_, Vouchers> {
        self.vouchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn vouch(&self, request: &BootRequest) {
        let now = self.now();
        self.vouchers().vouch(now, request.uuid, request.mac, request.peer);
    }

    /// Has the images fetched that machines will boot: those of machines in a cluster that did not install yet, and
    /// the agent's where that is Talos. `asked_here`: only for machines that asked this network's policy, where
    /// there are several: each has schematics of its own, which name its address.
    pub(crate) fn prefetch(&self, asked_here: bool) {
        if self.scripts.images.cache.is_none() {
            return;
        }
        if let AgentKind::Talos { .. } = &self.settings.agent {
            let _ = self.scripts.agent(Arch::Amd64);
        }
        // Most machines of a cluster boot the same.
        let mut looked_at = BTreeSet::new();
        for id in self.view.ids() {
            let Some(machine) = self.view.machine(&id) else { continue };
            if machine.infra.as_ref().is_none_or(|infra| infra.spec.cluster_talos_version.is_empty()) {
                continue;
            }
            let view = decision_view(&machine);
            let Some(infra) = view.machine.as_ref().filter(|infra| !infra.tearing_down) else { continue };
            let asked = || id.parse().is_ok_and(|uuid| self.asked().contains(&uuid));
            if provider::installed(&view) || (asked_here && !asked()) {
                continue;
            }
            let (spec, arch) = (&infra.spec, arch_of(&machine));
            let (version, args) = (spec.cluster_talos_version.clone(), spec.extra_kernel_args.clone());
            if looked_at.insert((version, spec.extensions.clone(), args, arch)) {
                // Whatever it would boot from now: asking for it is what has it fetched.
                let _ = self.scripts.talos(spec, arch);
            }
        }
    }

    fn asked(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
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
        if known.is_some() {
            let mut asked = self.asked();
            if asked.len() >= ASKED_MAX {
                asked.clear();
            }
            asked.insert(request.uuid);
        }
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
        match self.scripts.body(mode, &machine, request.arch) {
            Ok(body) => answer(mode.as_str(), &reason, body),
            Err(error) => answer("none", &format!("{reason}, but {error}"), try_again()),
        }
    }

    fn join_config(&self, uuid: Option<Uuid>, peer: IpAddr) -> Result<String, Refusal> {
        let uuid = uuid.ok_or_else(|| Refusal::Forbidden("no machine is named".into()))?;
        let now = self.now();
        let vouched = self.vouchers().check(now, uuid, peer);
        match vouched {
            Ok(()) => {}
            // Talos asks again at its first boot from disk, which may come at any time.
            Err(reason)
                if reason != Reason::TooMany
                    && self.view.machine(&uuid.to_string()).as_deref().is_some_and(runs_talos) => {}
            Err(reason) => return Err(reason.into()),
        }
        let join = self.view.join_config();
        let mut join =
            join.ok_or_else(|| Refusal::Unavailable("Omni gave no join configuration yet".into()))?;
        if let Some((main, own)) = self.hub_address {
            join = readdressed(&join, main, own);
        }
        let ca = self.settings.tls.as_ref().and_then(|(_, certificates)| certificates.ca());
        if ca.is_none() && self.settings.extra_documents.is_empty() {
            return Ok(join);
        }
        compose(&join, ca.as_deref(), &self.settings.extra_documents).map_err(|error| {
            Refusal::Unavailable(format!("the configuration cannot be put together: {error}"))
        })
    }
}

fn answer(mode: &str, reason: &str, body: BootBody) -> BootAnswer {
    BootAnswer { mode: mode.to_owned(), reason: reason.to_owned(), body }
}

/// The configuration with another address of this appliance, wherever it names one with a port.
fn readdressed(join: &str, main: Ipv4Addr, own: Ipv4Addr) -> String {
    let (main, own) = (format!("{main}:"), format!("{own}:"));
    let mut parts = join.split(&main);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // `10.0.0.1:` is also the end of `110.0.0.1:`.
        let within = text.ends_with(|last: char| last.is_ascii_digit() || last == '.');
        text.push_str(if within { &main } else { &own });
        text.push_str(part);
    }
    text
}

/// iPXE's script goes round and asks again.
fn try_again() -> BootBody {
    BootBody::NotFound("not now, ask again\n".into())
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

/// As its agent told; most machines are x86.
fn arch_of(machine: &Machine) -> Arch {
    let told = machine.inventory.as_ref().map(|inventory| inventory.spec.arch.as_str());
    told.map_or(Arch::Amd64, Arch::from_buildarch)
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
