//! `bootlace-image`: the command line.

mod commands;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use bootlace_image::binary::Arch;
use bootlace_image::initramfs::{Contents, ExtraFile, Initramfs, build_initramfs};
use bootlace_image::modules::Tree;
use bootlace_image::{agent, output};
use clap::{Args, Parser, Subcommand};

/// Build bootlace's images.
#[derive(Debug, Parser)]
#[command(name = "bootlace-image", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the agent image: kernel-<arch> and initramfs-metal-<arch>.xz
    #[command(after_help = "Example:
  bootlace-image agent --kernel /boot/vmlinuz-6.1.0-56-amd64 --modules /lib/modules/6.1.0-56-amd64 \\
      --drivers metal --agent target/x86_64-unknown-linux-gnu/release/bootlace-agent -o /assets")]
    Agent(AgentArgs),
    /// Write an initial RAM file system around any static binary
    #[command(after_help = "Example:
  bootlace-image initramfs --init ./hello --modules /lib/modules/6.1.0-56-cloud-amd64 \\
      --drivers virtio,efivarfs --file /etc/motd=motd.txt -o hello.initramfs")]
    Initramfs(InitramfsArgs),
    /// Write the container image: an OCI layout for one or more architectures
    #[command(after_help = "Examples:
  bootlace-image oci --bootlace amd64=target/x86_64-unknown-linux-gnu/release/bootlace --assets build/assets \\
      -o bootlace-oci.tar
  skopeo copy --all oci-archive:bootlace-oci.tar:v0.1.0 docker://registry.example.org/bootlace:v0.1.0")]
    Oci(commands::oci::OciArgs),
    /// Write the Talos system extension
    #[command(after_help = "Example:
  bootlace-image extension --arch amd64 --bootlace target/x86_64-unknown-linux-gnu/release/bootlace \\
      --assets build/assets --format oci -o bootlace-extension")]
    Extension(commands::extension::ExtensionArgs),
    /// Write the image of a USB stick that boots under BIOS and UEFI
    #[command(after_help = "Example:
  bootlace-image usb --kernel /boot/vmlinuz-6.1.0-56-amd64 --modules /lib/modules/6.1.0-56-amd64 \\
      --box target/x86_64-unknown-linux-gnu/release/bootlace-box \\
      --bootlace target/x86_64-unknown-linux-gnu/release/bootlace --assets build/assets \\
      --config appliance.toml -o bootlace.img")]
    Usb(Box<commands::usb::UsbArgs>),
    /// Put a configuration on a stick, or print the one that is there
    #[command(after_help = "Examples:
  bootlace-image configure bootlace.img --config appliance.toml
  bootlace-image configure /dev/sdx")]
    Configure(commands::configure::ConfigureArgs),
    /// Put another version on a stick, beside the one that boots
    #[command(after_help = "Example:
  bootlace-image update /dev/sdx --from bootlace-new.img")]
    Update(commands::update::UpdateArgs),
    /// Put an image on a USB stick, and check that it is there
    #[command(after_help = "Examples:
  bootlace-image flash bootlace.img            lists the disks that are there
  bootlace-image flash bootlace.img /dev/sdx   asks, writes, reads back")]
    Flash(commands::flash::FlashArgs),
}

#[derive(Debug, Args)]
struct Common {
    /// The kernel's module directory, with its modules.dep
    #[arg(long, value_name = "DIR")]
    modules: PathBuf,
    /// What to take from it: driver sets (virtio, metal) and names of modules, in order
    #[arg(long, value_delimiter = ',', default_value = "virtio", value_name = "NAME,..")]
    drivers: Vec<String>,
    /// The architecture of the machines
    #[arg(long, value_enum, default_value = "amd64")]
    arch: Arch,
    /// Where firmware is that drivers ask for; what is not there is left out and named
    #[arg(long, value_name = "DIR", default_value = "/lib/firmware")]
    firmware: PathBuf,
}

#[derive(Debug, Args)]
struct AgentArgs {
    #[command(flatten)]
    common: Common,
    /// The kernel, of the same package as the modules
    #[arg(long, value_name = "VMLINUZ")]
    kernel: PathBuf,
    /// The agent, a static binary
    #[arg(long, value_name = "BINARY")]
    agent: PathBuf,
    /// The directory to write to
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

#[derive(Debug, Args)]
struct InitramfsArgs {
    #[command(flatten)]
    common: Common,
    /// The binary that becomes /init, static
    #[arg(long, value_name = "BINARY")]
    init: PathBuf,
    /// Another file: where it goes, and where it comes from
    #[arg(long = "file", value_name = "PATH=SOURCE", value_parser = parse_file)]
    files: Vec<(String, PathBuf)>,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Agent(args) => run_agent(&args),
        Command::Initramfs(args) => run_initramfs(&args),
        Command::Oci(args) => commands::oci::run(&args),
        Command::Extension(args) => commands::extension::run(&args),
        Command::Usb(args) => commands::usb::run(&args),
        Command::Configure(args) => commands::configure::run(&args),
        Command::Update(args) => commands::update::run(&args),
        Command::Flash(args) => commands::flash::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line with all causes; a backtrace would say nothing about the files that are wrong.
            eprintln!("bootlace-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_agent(args: &AgentArgs) -> Result<()> {
    let Common { modules, drivers, arch, firmware } = &args.common;
    let tree = Tree::open(modules)?;
    let image = agent::build(*arch, &args.kernel, &tree, drivers, Some(firmware), &args.agent, &args.output)?;
    println!("{}: kernel {}, {}", image.kernel.display(), tree.version(), output::size(image.kernel_bytes));
    report(&image.initramfs, &image.contents);
    Ok(())
}

fn run_initramfs(args: &InitramfsArgs) -> Result<()> {
    let Common { modules, drivers, arch, firmware } = &args.common;
    let tree = Tree::open(modules)?;
    let init = read(&args.init)?;
    let files = args.files.iter().map(extra_file).collect::<Result<_>>()?;
    let image = build_initramfs(Contents {
        arch: *arch,
        init: &init,
        tree: &tree,
        drivers,
        firmware: Some(firmware),
        files,
    })
    .with_context(|| format!("no image of {}", args.init.display()))?;
    output::write(&args.output, &image.bytes)?;
    report(&args.output, &image);
    Ok(())
}

fn report(path: &Path, image: &Initramfs) {
    println!(
        "{}: {} modules, {} ({} unpacked)",
        path.display(),
        image.modules.len(),
        output::size(image.bytes.len()),
        output::size(image.unpacked)
    );
    if !image.missing.is_empty() {
        println!("not in this kernel, left out: {}", image.missing.join(" "));
    }
    let firmware = &image.firmware;
    if !firmware.files.is_empty() {
        let total = firmware.files.iter().map(|(_, size)| size).sum();
        println!("firmware: {} files, {}", firmware.files.len(), output::size(total));
    }
    if !firmware.missing.is_empty() {
        let missing: Vec<String> =
            firmware.missing.iter().map(|(driver, count)| format!("{driver} ({count})")).collect();
        println!("firmware files that are not here, left out: {}", missing.join(", "));
    }
}

fn extra_file((path, source): &(String, PathBuf)) -> Result<ExtraFile> {
    let data = read(source)?;
    let executable = source.metadata()?.permissions().mode() & 0o111 != 0;
    Ok(ExtraFile { path: path.clone(), mode: if executable { 0o755 } else { 0o644 }, data })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn parse_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((path, source)) if path.starts_with('/') && !source.is_empty() => {
            Ok((path.to_owned(), PathBuf::from(source)))
        }
        _ => Err("write it as /path/in/the/image=source".to_owned()),
    }
}
