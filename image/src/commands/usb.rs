//! `bootlace-image usb`

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use bootlace_image::binary::{self, Arch};
use bootlace_image::initramfs::{Contents, ExtraFile, build_initramfs};
use bootlace_image::modules::Tree;
use bootlace_image::rootfs::{Node, Rootfs};
use bootlace_image::stick::{grub, image, signature, slot};
use bootlace_image::{extension, output, parts, talos, uki};
use clap::{Args, ValueEnum};

use super::{Parts, report};

/// What the box needs beside what every machine needs: its data's file system, VLANs, a watchdog.
const DRIVERS: [&str; 2] = ["metal", "box"];
const MIB: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(crate) struct UsbArgs {
    /// What runs on the stick: Debian's kernel with bootlace alone, or Talos with bootlace as an extension
    #[arg(long, value_enum, default_value = "standalone")]
    base: Base,
    /// The architecture of the box
    #[arg(long, value_enum, default_value = "amd64")]
    arch: Arch,
    /// The kernel: of the same package as the modules, or of the same version as Talos' initramfs
    #[arg(long, value_name = "VMLINUZ")]
    kernel: PathBuf,
    /// Standalone: the kernel's module directory, with its modules.dep
    #[arg(long, value_name = "DIR", required_if_eq("base", "standalone"))]
    modules: Option<PathBuf>,
    /// Talos: its initramfs, of a schematic without extensions
    #[arg(long, value_name = "FILE", required_if_eq("base", "talos"))]
    initramfs: Option<PathBuf>,
    /// Talos: the machine configuration to embed
    #[arg(long, value_name = "FILE")]
    machine_config: Option<PathBuf>,
    /// Talos: its kernel command line, without quotes
    #[arg(long, value_name = "TEXT", default_value = talos::CMDLINE)]
    cmdline: String,
    /// What to take from it
    #[arg(long, value_delimiter = ',', default_values = DRIVERS, value_name = "NAME,..")]
    drivers: Vec<String>,
    /// Where firmware is that drivers ask for
    #[arg(long, value_name = "DIR", default_value = "/lib/firmware")]
    firmware: PathBuf,
    /// Standalone: the box's PID 1, a static binary
    #[arg(long = "box", value_name = "FILE", required_if_eq("base", "standalone"))]
    pid1: Option<PathBuf>,
    /// The appliance, a static binary
    #[arg(long, value_name = "FILE")]
    bootlace: PathBuf,
    #[command(flatten)]
    parts: Parts,
    /// Certificate authorities, in one PEM file
    #[arg(long, value_name = "FILE", default_value = parts::CA_FILE)]
    ca: PathBuf,
    /// The configuration; checked, and refused with line and key when it is wrong [default: an empty one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// systemd's EFI stub
    #[arg(long, value_name = "FILE", default_value = uki::STUB)]
    stub: PathBuf,
    /// Where GRUB's parts are
    #[arg(long, value_name = "DIR", default_value = grub::DIRECTORY)]
    grub: PathBuf,
    /// Secure Boot: the key that the firmware will trust, in PEM
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Secure Boot: the key's certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// MiB of each of the two slots; an update has to fit in it [default: 44, for Talos what it needs]
    #[arg(long, value_name = "MIB")]
    slot_size: Option<u64>,
    /// Also write the slot alone, which is what an update needs
    #[arg(long, value_name = "FILE")]
    slot: Option<PathBuf>,
    /// The image to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Base {
    Standalone,
    Talos,
}

pub(crate) fn run(args: &UsbArgs) -> Result<()> {
    ensure!(
        args.arch == Arch::Amd64,
        "sticks are for amd64 only. An arm64 board boots the appliance as a Talos extension (`bootlace-image extension \
         --arch arm64`) or as a container; a stick needs GRUB, systemd's stub and bootlace-box for arm64, and this build \
         packs those of amd64"
    );
    let config = match (&args.config, &args.pid1) {
        (Some(path), Some(pid1)) => super::configure::checked(path, &args.bootlace, pid1)?,
        (Some(_), None) => bail!("--config is for --base standalone; Talos takes --machine-config"),
        (None, _) => super::configure::EXAMPLE.as_bytes().to_vec(),
    };
    let time = super::epoch()?;
    let signer = args.key.as_deref().zip(args.certificate.as_deref());
    let sign = |program: Vec<u8>| match signer {
        Some((key, certificate)) => {
            let image = uki::sign(&program, key, certificate, time)?;
            let signature = Some(signature::sign(key, &image)?);
            Ok(slot::Signed { image, signature })
        }
        None => Ok(program.into()),
    };
    let slot = match args.base {
        Base::Standalone => build_slot(args, sign)?,
        Base::Talos => build_talos_slot(args, sign)?,
    };
    let slot_size = match (args.slot_size, args.base) {
        (Some(mib), _) => mib.checked_mul(MIB).context("--slot-size is too large")?,
        (None, Base::Standalone) => image::SLOT,
        (None, Base::Talos) => (slot.len() as u64).next_multiple_of(MIB),
    };
    let trusted = signer.map(|(key, _)| signature::public_key(key)).transpose()?;
    let mut grub = grub::build(&args.grub, image::BIOS_START, trusted.as_deref())?;
    if let Some((key, certificate)) = signer {
        grub.efi = uki::sign(&grub.efi, key, certificate, time)?;
    }
    let contents = image::Contents { grub: &grub, slot: &slot, slot_size, config: &config };
    let bytes = image::write(&contents, &args.output)?;
    if let Some(path) = &args.slot {
        output::write(path, &slot)?;
        report(path, "slot", slot.len());
    }
    report(&args.output, "stick", usize::try_from(bytes)?);
    println!("  slot: {} of {} MiB", output::size(slot.len()), slot_size / MIB);
    Ok(())
}

fn build_slot(args: &UsbArgs, sign: impl Fn(Vec<u8>) -> Result<slot::Signed>) -> Result<Vec<u8>> {
    let (Some(modules), Some(pid1)) = (&args.modules, &args.pid1) else {
        bail!("--modules and --box are missing")
    };
    let tree = Tree::open(modules)?;
    let kernel = read(&args.kernel, "apt-get install linux-image-amd64")?;
    binary::check_kernel(&kernel, args.arch, tree.version())
        .with_context(|| format!("{} cannot be used", args.kernel.display()))?;
    let stub = read(&args.stub, "apt-get install systemd-boot-efi")?;
    let init = read(pid1, "cargo build --release -p bootlace-box")?;
    let mut inside = parts::binary(&args.bootlace, args.arch)?;
    inside.graft("", parts::authorities(&args.ca)?)?;
    let mut served = Rootfs::new();
    for (_, part) in args.parts.read()? {
        served.graft("", part)?;
    }
    let version = format!("bootlace {} on Linux {}", env!("CARGO_PKG_VERSION"), tree.version());
    let contents = slot::Contents {
        stub: &stub,
        kernel: &kernel,
        cmdline: slot::CMDLINE,
        served: &served,
        version: &version,
    };
    let initramfs = |manifest: ExtraFile| {
        let mut files = vec![manifest];
        for (path, node) in inside.nodes() {
            match node {
                Node::File { mode, data } => {
                    files.push(ExtraFile { path: format!("/{path}"), mode: *mode, data: data.clone() })
                }
                Node::Directory => {}
                Node::Link(_) => bail!("/{path} is a link"),
            }
        }
        let built = build_initramfs(Contents {
            arch: args.arch,
            init: &init,
            tree: &tree,
            drivers: &args.drivers,
            firmware: Some(&args.firmware),
            files,
        })?;
        println!("initramfs: {} modules, {}", built.modules.len(), output::size(built.bytes.len()));
        Ok(built.bytes)
    };
    slot::build(&contents, initramfs, sign)
}

fn read(path: &Path, hint: &str) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}: {hint}", path.display()))
}

/// Talos with the extension, and with a configuration. Talos updates itself, on its own disk: the other slot stays
/// empty until a person writes it.
fn build_talos_slot(args: &UsbArgs, sign: impl Fn(Vec<u8>) -> Result<slot::Signed>) -> Result<Vec<u8>> {
    let initramfs = args.initramfs.as_ref().context("--initramfs is missing")?;
    let stock = read(initramfs, "take initramfs-amd64.xz of Image Factory")?;
    let kernel = read(&args.kernel, "take kernel-amd64 of Image Factory")?;
    binary::check_image(&kernel, args.arch)
        .with_context(|| format!("{} cannot be used", args.kernel.display()))?;
    let stub = read(&args.stub, "apt-get install systemd-boot-efi")?;
    let settings = extension::Settings {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        talos: "v1.9.0".to_owned(),
        state: extension::VOLATILE_STATE.to_owned(),
    };
    let binary = parts::binary(&args.bootlace, args.arch)?;
    let parts = args.parts.read()?.map(|(_, tree)| tree);
    let mut layers = vec![extension::build(&settings, std::iter::once(binary).chain(parts))?];
    if let Some(path) = &args.machine_config {
        layers.push(talos::embedded_config(&read(path, "it is the machine configuration")?)?);
    }
    let whole =
        talos::append(&stock, &layers).with_context(|| format!("{} cannot be used", initramfs.display()))?;
    let version = format!("Talos with bootlace {}", env!("CARGO_PKG_VERSION"));
    let served = Rootfs::new();
    let contents = slot::Contents {
        stub: &stub,
        kernel: &kernel,
        cmdline: &args.cmdline,
        served: &served,
        version: &version,
    };
    slot::build(&contents, |_| Ok(whole), sign)
}
