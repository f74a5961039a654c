//! The script that a machine boots with, and where its files come from: the asset directory, the image cache, or
//! Image Factory.

use std::sync::Arc;

use netboot::boot::{BootBody, disk_body};
use netboot::firmware::Arch;
use netboot::ipxe::{Command, KernelArgs, Script, ScriptError, Word, agent_script, talos_script};
use netboot_assets::AssetDir;
use netboot_assets::cache::ImageCache;
use netboot_assets::factory::{BootSource, Image, ImageSource};
use provider::schematic::{Schematic, SchematicError};
use provider::specs::InfraMachineSpec;
use provider::{BootMode, MachineView};

use super::Settings;
use crate::config::AgentKind;

/// Where Talos comes from.
pub(crate) struct Images {
    /// Images that the operator put here.
    pub assets: AssetDir,
    /// Images that were fetched, and those that will be.
    pub cache: Option<ImageCache>,
    /// An Image Factory for all others.
    pub factory: Arc<dyn ImageSource>,
}

/// See the module. One for each network: scripts name the address that its machines reach.
pub(super) struct Scripts {
    settings: Arc<Settings>,
    agent: AgentScripts,
    pub(super) images: Arc<Images>,
}

impl Scripts {
    pub(super) fn new(settings: Arc<Settings>, images: Arc<Images>) -> Self {
        Self { agent: AgentScripts::of(&settings), settings, images }
    }

    /// Those of another network, from the same images.
    pub(super) fn for_network(&self, settings: Arc<Settings>) -> Self {
        Self::new(settings, Arc::clone(&self.images))
    }

    /// What the machine gets in that mode.
    pub(super) fn body(
        &self,
        mode: BootMode,
        machine: &MachineView,
        arch: Arch,
    ) -> Result<BootBody, Unbootable> {
        match (mode, &machine.machine) {
            (BootMode::Disk, _) => Ok(disk_body(self.settings.disk_method)),
            (BootMode::Talos, Some(infra)) => self.talos(&infra.spec, arch).map(BootBody::Script),
            (BootMode::Agent | BootMode::Talos, _) => self.agent(arch).map(BootBody::Script),
        }
    }

    /// From the asset directory when the image is there, else from the factory, by the cache where it has it.
    pub(super) fn talos(&self, spec: &InfraMachineSpec, arch: Arch) -> Result<Script, Unbootable> {
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
    pub(super) fn agent(&self, arch: Arch) -> Result<Script, Unbootable> {
        match &self.settings.agent {
            AgentKind::Bootlace => Ok(self.agent.of_arch(arch).clone()?),
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

/// The arguments one by one.
pub(super) fn words(args: &str) -> impl Iterator<Item = &str> {
    args.split(' ').filter(|word| !word.is_empty())
}

/// Why a machine gets no script although it should boot.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unbootable {
    #[error("its kernel arguments are wrong: {0}")]
    Script(#[from] ScriptError),
    #[error("no image can be made for it: {0}")]
    Schematic(#[from] SchematicError),
    #[error("its image is not there yet: {0}")]
    NotYet(String),
}

/// Omni gives versions without the `v` that Image Factory's paths have.
fn with_v(version: &str) -> String {
    if version.starts_with('v') { version.to_owned() } else { format!("v{version}") }
}
