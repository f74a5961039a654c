//! `bootlace-image configure`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use bootlace_image::stick::disk::Disk;
use bootlace_image::stick::fat::{self, Window};
use bootlace_image::stick::image::{CONFIG_FILE, CONFIG_NAME};
use clap::Args;

/// What a stick has when nothing else was given.
pub(crate) const EXAMPLE: &str = "\
# Edit this file on any computer; it is read when the box starts.
# All keys: docs/configure.md, and docs/usb-stick.md for [box].

# [box]
# name = \"bootlace\"
# address = \"192.0.2.10/24\"       # without it: DHCP
# gateway = \"192.0.2.1\"
# omni_service_account_key = \"...\"  # whoever has the stick has the key

# [omni]
# api_endpoint = \"https://example.omni.siderolabs.io\"
";

#[derive(Debug, Args)]
pub(crate) struct ConfigureArgs {
    /// The stick: an image, or a device
    #[arg(value_name = "IMAGE|DEVICE")]
    stick: PathBuf,
    /// The configuration to put on it; without it, what is there is printed
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The appliance, which checks the configuration
    #[arg(long, value_name = "FILE", default_value = "bootlace")]
    bootlace: PathBuf,
    /// The box's PID 1, which checks the table [box]
    #[arg(long = "box", value_name = "FILE", default_value = "bootlace-box")]
    pid1: PathBuf,
}

pub(crate) fn run(args: &ConfigureArgs) -> Result<()> {
    let config = args.config.as_ref().map(|path| checked(path, &args.bootlace, &args.pid1)).transpose()?;
    let mut disk = Disk::open(&args.stick, config.is_some())?;
    let table = disk.table().with_context(|| format!("{} is no stick", args.stick.display()))?;
    let partition = table.find(CONFIG_NAME)?.clone();
    let (start, length) = (partition.offset(), partition.length());
    let Some(config) = config else {
        let window = Window::new(disk.file(), start, length);
        let text = fat::read(window, CONFIG_FILE)?.with_context(|| format!("it has no {CONFIG_FILE}"))?;
        print!("{}", String::from_utf8_lossy(&text));
        return Ok(());
    };
    fat::replace(disk.file(), start, length, CONFIG_FILE, &config)
        .with_context(|| format!("{} is not configured", args.stick.display()))?;
    println!("{}: configured; it counts from the next start", args.stick.display());
    Ok(())
}

/// Reads a configuration that both of its readers accept. They say line and key of what is wrong.
pub(crate) fn checked(path: &Path, bootlace: &Path, pid1: &Path) -> Result<Vec<u8>> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut appliance = Command::new(bootlace);
    appliance.args(["run", "--check", "-c"]).arg(path);
    // What is set here is not set on the stick.
    appliance.env_remove("OMNI_ENDPOINT");
    let mut pid1_check = Command::new(pid1);
    pid1_check.arg("--check").arg(path);
    for (mut command, program) in [(appliance, bootlace), (pid1_check, pid1)] {
        let output = command
            .output()
            .with_context(|| format!("cannot run {} to check the configuration", program.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("the configuration is refused: {}", said.trim());
        }
    }
    Ok(text)
}
