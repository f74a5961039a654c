//! `bootlace-image usb`

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use bootlace_image::binary::{self, Arch};
use bootlace_image::initramfs::{Contents, ExtraFile, build_initramfs};
use bootlace_image::modules::Tree;
use bootlace_image::rootfs::{Node, Rootfs};
use bootlace_image::stick::{grub, image, slot};
use bootlace_image::{output, parts, uki};
use clap::{Args, ValueEnum};

use super::{Parts, report};

/// What the box needs beside what every machine needs: its data's file system, VLANs, a watchdog.
const DRIVERS: [&str; 2] = ["metal", "box"];
const MIB: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(crate) struct UsbArgs {
    /// What runs on the stick: Debian's kernel with bootlace alone
    #[arg(long, value_enum, default_value = "standalone")]
    base: Base,
    /// The architecture of the box
    #[arg(long, value_enum, default_value = "amd64")]
    arch: Arch,
    /// The kernel, of the same package as the modules
    #[arg(long, value_name = "VMLINUZ")]
    kernel: PathBuf,
    /// The kernel's module directory, with its modules.dep
    #[arg(long, value_name = "DIR")]
    modules: PathBuf,
    /// What to take from it
    #[arg(long, value_delimiter = ',', default_values = DRIVERS, value_name = "NAME,..")]
    drivers: Vec<String>,
    /// Where firmware is that drivers ask for
    #[arg(long, value_name = "DIR", default_value = "/lib/firmware")]
    firmware: PathBuf,
    /// The box's PID 1, a static binary
    #[arg(long = "box", value_name = "FILE")]
    pid1: PathBuf,
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
    /// MiB of each of the two slots; an update has to fit in it
    #[arg(long, value_name = "MIB", default_value_t = image::SLOT / MIB)]
    slot_size: u64,
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
}

pub(crate) fn run(args: &UsbArgs) -> Result<()> {
    let Base::Standalone = args.base;
    ensure!(
        args.arch == Arch::Amd64,
        "sticks are for amd64: GRUB and the stub of other architectures are not used"
    );
    let config = match &args.config {
        Some(path) => super::configure::checked(path, &args.bootlace, &args.pid1)?,
        None => super::configure::EXAMPLE.as_bytes().to_vec(),
    };
    let sign = |program: Vec<u8>| match (&args.key, &args.certificate) {
        (Some(key), Some(certificate)) => uki::sign(&program, key, certificate),
        _ => Ok(program),
    };
    let slot = build_slot(args, sign)?;
    let grub = grub::build(&args.grub, image::BIOS_START)?;
    let efi = sign(grub.efi.clone())?;
    let contents = image::Contents {
        grub: &grub,
        efi: &efi,
        slot: &slot,
        slot_size: args.slot_size.checked_mul(MIB).context("--slot-size is too large")?,
        config: &config,
    };
    let bytes = image::write(&contents, &args.output)?;
    if let Some(path) = &args.slot {
        output::write(path, &slot)?;
        report(path, "slot", slot.len());
    }
    report(&args.output, "stick", usize::try_from(bytes)?);
    println!("  slot: {} of {} MiB", output::size(slot.len()), args.slot_size);
    Ok(())
}

fn build_slot(args: &UsbArgs, sign: impl Fn(Vec<u8>) -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    let tree = Tree::open(&args.modules)?;
    let read = |path: &Path, hint: &str| {
        fs::read(path).with_context(|| format!("cannot read {}: {hint}", path.display()))
    };
    let kernel = read(&args.kernel, "apt-get install linux-image-amd64")?;
    binary::check_kernel(&kernel, args.arch, tree.version())
        .with_context(|| format!("{} cannot be used", args.kernel.display()))?;
    let stub = read(&args.stub, "apt-get install systemd-boot-efi")?;
    let init = read(&args.pid1, "cargo build --release -p bootlace-box")?;
    let mut inside = parts::binary(&args.bootlace, args.arch)?;
    inside.graft("", parts::authorities(&args.ca)?)?;
    let mut served = Rootfs::new();
    for (_, part) in args.parts.read()? {
        served.graft("", part)?;
    }
    let version = format!("bootlace {} on Linux {}", env!("CARGO_PKG_VERSION"), tree.version());
    let contents = slot::Contents { stub: &stub, kernel: &kernel, served: &served, version: &version };
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
