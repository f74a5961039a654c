//! What a machine that asks gets. Every answer comes from memory: Omni is never asked while a machine waits.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cosi::Phase;
use netboot::boot::{
    BootAnswer, BootBody, BootPolicy, BootRequest, Reason, Refusal, VALID_FOR, Vouchers, disk_body,
};
use netboot::firmware::Arch;
use netboot::ipxe::{
    AgentTls, BaseUrl, Command, DiskMethod, KernelArgs, Script, ScriptError, Word, agent_script, talos_script,
};
use netboot::journal::{Event, Step};
use netboot::{Mac, Time};
use netboot_assets::AssetDir;
use netboot_assets::cache::ImageCache;
use netboot_assets::factory::{BootSource, Image, ImageSource};
use omni_link::view::{Machine, View};
use provider::machine_config::{ExtraDocuments, compose};
use provider::schematic::{Schematic, SchematicError};
use provider::specs::InfraMachineSpec;
use provider::{BootMode, InfraMachine, MachineView};
use uuid::Uuid;

use crate::config::AgentKind;
use crate::tls::Certificates;

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

/// Where Talos comes from.
pub(crate) struct Images {
    /// Images that the operator put here.
    pub assets: AssetDir,
    /// Images that were fetched, and those that will be.
    pub cache: Option<ImageCache>,
    /// An Image Factory for all others.
    pub factory: Arc<dyn ImageSource>,
}

/// See the module.
pub(crate) struct Policy {
    settings: Settings,
    agent_scripts: AgentScripts,
    images: Arc<Images>,
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
        Self {
            agent_scripts: AgentScripts::of(&settings),
            settings,
            images: Arc::new(images),
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
        Self {
            agent_scripts: AgentScripts::of(&settings),
            settings,
            images: Arc::clone(&self.images),
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

    fn body(&self, mode: BootMode, machine: &MachineView, arch: Arch) -> Result<BootBody, Unbootable> {
        match (mode, &machine.machine) {
            (BootMode::Disk, _) => Ok(disk_body(self.settings.disk_method)),
            (BootMode::Talos, Some(infra)) => self.talos(&infra.spec, arch).map(BootBody::Script),
            (BootMode::Agent | BootMode::Talos, _) => self.agent(arch).map(BootBody::Script),
        }
    }

    /// From the asset directory when the image is there, else from the factory, by the cache where it has it.
    fn talos(&self, spec: &InfraMachineSpec, arch: Arch) -> Result<Script, Unbootable> {
        let settings = &self.settings;
        let with_extra = |args: KernelArgs| args.and(&settings.talos_args).args(&spec.extra_kernel_args);
        let version = with_v(&spec.cluster_talos_version);
        let extensions = || spec.extensions.iter().map(String::as_str);
        let local = match spec.extensions.as_slice() {
            [] => settings.schematic.clone(),
            _ => Schematic::talos(extensions(), [])?.id(),
        };
        if self.is_in_assets(&local, &version, arch) {
            let args = with_extra(KernelArgs::talos_without_factory(settings.base, arch))?;
            return Ok(talos_script(settings.base, &local, &version, arch, &args)?);
        }
        let args = with_extra(KernelArgs::talos(settings.base, arch))?;
        let schematic = Schematic::talos(extensions(), words(&args.to_string()))?;
        self.factory_script(&schematic, &version, arch, &args)
    }

    /// Talos with its metal agent comes from where Talos comes from. In the asset directory it goes by the schematic of
    /// its extensions, without arguments.
    fn agent(&self, arch: Arch) -> Result<Script, Unbootable> {
        match &self.settings.agent {
            AgentKind::Bootlace => Ok(self.agent_scripts.of_arch(arch).clone()?),
            AgentKind::Talos { version } => {
                let args = agent_args(&self.settings, arch);
                let local = Schematic::agent([])?.id();
                if self.is_in_assets(&local, version, arch) {
                    let args = args.without_factory();
                    return Ok(talos_script(self.settings.base, &local, version, arch, &args)?);
                }
                let schematic = Schematic::agent(words(&args.to_string()))?;
                self.factory_script(&schematic, version, arch, &args)
            }
        }
    }

    fn is_in_assets(&self, schematic: &str, version: &str, arch: Arch) -> bool {
        self.images.assets.open(&format!("image/{schematic}/{version}/kernel-{arch}")).is_ok()
    }

    /// From the cache. An image that is not there is fetched from now on, and nobody waits for it.
    ///
    /// It is the image of the very schematic that the factory's own script would boot, arguments included: Talos
    /// tells Omni its schematic, and that one is installed. So the factory's arguments end with ours, but for those
    /// that take a default away (`-name`), which are left to the factory.
    fn cached(&self, schematic: &str, version: &str, arch: Arch, args: &KernelArgs) -> Option<Script> {
        let cache = self.images.cache.as_ref()?;
        let own = args.to_string();
        if words(&own).any(|word| word.starts_with('-')) {
            return None;
        }
        let image = cache.boot(schematic, version, arch)?;
        let mut defaults = image.args.iter().filter(|arg| words(&own).all(|word| word != *arg));
        let defaults = defaults.try_fold(KernelArgs::new(), |all, arg| all.arg(arg)).ok()?;
        let (id, version) = (image.id.as_str(), &image.version);
        talos_script(self.settings.base, id, version, arch, &defaults.and(args)).ok()
    }

    /// Has the images fetched that machines will boot: those of machines in a cluster that did not install yet, and
    /// the agent's where that is Talos. `asked_here`: only for machines that asked this network's policy, where
    /// there are several: each has schematics of its own, which name its address.
    pub(crate) fn prefetch(&self, asked_here: bool) {
        if self.images.cache.is_none() {
            return;
        }
        if let AgentKind::Talos { .. } = &self.settings.agent {
            let _ = self.agent(Arch::Amd64);
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
                let _ = self.talos(spec, arch);
            }
        }
    }

    fn asked(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `args`: those of the schematic.
    fn factory_script(
        &self,
        schematic: &Schematic,
        version: &str,
        arch: Arch,
        args: &KernelArgs,
    ) -> Result<Script, Unbootable> {
        let schematic = schematic.yaml();
        if let Some(script) = self.cached(&schematic, version, arch, args) {
            return Ok(script);
        }
        let image = Image { schematic: &schematic, version, arch, secure_boot: false };
        match self.images.factory.boot(&image) {
            BootSource::Chain { url } => Ok(Script::new().command(Command::Chain(Word::new(url)?))),
            BootSource::LocalFiles { kernel_url, initrd_url, args } => {
                let args = args.iter().try_fold(KernelArgs::new(), |all, arg| all.arg(arg))?;
                Ok(Script::new()
                    .command(Command::Imgfree)
                    .command(Command::Kernel { url: Word::new(kernel_url)?, args })
                    .command(Command::Initrd(Word::new(initrd_url)?))
                    .command(Command::Boot))
            }
            BootSource::NotYet { reason } => Err(Unbootable::NotYet(reason)),
        }
    }
}

/// The scripts that start our agent: the same for every machine, so a rack that boots does not have them made again
/// and again.
struct AgentScripts {
    amd64: Result<Script, ScriptError>,
    arm64: Result<Script, ScriptError>,
}

impl AgentScripts {
    fn of(settings: &Settings) -> Self {
        let script = |arch| agent_script(settings.base, arch, &agent_args(settings, arch));
        Self { amd64: script(Arch::Amd64), arm64: script(Arch::Arm64) }
    }

    fn of_arch(&self, arch: Arch) -> &Result<Script, ScriptError> {
        match arch {
            Arch::Amd64 => &self.amd64,
            Arch::Arm64 => &self.arm64,
        }
    }
}

fn agent_args(settings: &Settings, arch: Arch) -> KernelArgs {
    let (base, test_mode) = (settings.base, settings.agent_test_mode);
    let args = match settings.tls {
        None => KernelArgs::agent(base, arch, test_mode),
        Some((tls, _)) => KernelArgs::agent_with_tls(base, arch, test_mode, tls),
    };
    args.and(&settings.agent_args)
}

fn words(args: &str) -> impl Iterator<Item = &str> {
    args.split(' ').filter(|word| !word.is_empty())
}

/// Why a machine gets no script although it should boot.
#[derive(Debug, thiserror::Error)]
enum Unbootable {
    #[error("its kernel arguments are wrong: {0}")]
    Script(#[from] ScriptError),
    #[error("no image can be made for it: {0}")]
    Schematic(#[from] SchematicError),
    #[error("its image is not there yet: {0}")]
    NotYet(String),
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
        match self.body(mode, &machine, request.arch) {
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
