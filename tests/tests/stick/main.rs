//! A stick in a machine: it boots under both firmwares, serves, shows itself, does what its configuration says,
//! updates, falls back, and comes out of a hang.
//!
//! They need root and what `make image` builds: build/bootlace.img and build/bootlace.slot, build/secure.img and its
//! key, build/metal. BOOTLACE_IMAGES names another folder than build, BOOTLACE_BIN another than the release's.

mod data;
mod hang;
mod monitor;
mod screen;
mod settings;
mod update;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bootlace_image::stick::disk::Disk;
use bootlace_image::stick::fat::{self, Window};
use bootlace_image::stick::image::{CONFIG_FILE, CONFIG_NAME};
use testbed::{Bed, Firmware, LIMIT, Line, Machine, MachineSpec};

/// The box's: kernel, initramfs and what it serves are in memory.
const MEMORY_MIB: u32 = 768;
/// From power-on to serving without KVM, on a machine with nothing else to do.
const QUICK: Duration = Duration::from_secs(20);
/// The box, when its appliance answers.
const SERVING: &str = "bootlace-box: serving";

/// A file that `make image` builds.
fn built(name: &str) -> Result<PathBuf> {
    found("BOOTLACE_IMAGES", "build", name)
}

/// A program of the release.
fn program(name: &str) -> Result<PathBuf> {
    found("BOOTLACE_BIN", &format!("target/{}/release", env!("TARGET")), name)
}

fn found(variable: &str, folder: &str, name: &str) -> Result<PathBuf> {
    let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let path = std::env::var_os(variable).map_or_else(usual, PathBuf::from).join(name);
    path.canonicalize().with_context(|| format!("no {}; run `make image`", path.display()))
}

/// A copy of a built stick, larger than its image, as real ones are.
fn stick(bed: &Bed, image: &str, name: &str) -> Result<PathBuf> {
    let path = bed.dir().join(name);
    fs::copy(built(image)?, &path)?;
    fs::OpenOptions::new().write(true).open(&path)?.set_len(256 << 20)?;
    Ok(path)
}

/// Writes a stick's configuration, as a laptop does.
fn configure(stick: &Path, text: &str) -> Result<()> {
    let mut disk = Disk::open(stick, true)?;
    let partition = disk.table()?.find(CONFIG_NAME)?.clone();
    let window = Window::new(disk.file(), partition.offset(), partition.length());
    fat::write(window, CONFIG_FILE, text.as_bytes())
}

fn box_of(bed: &Bed, name: &str, firmware: Firmware, stick: &Path) -> Result<Machine> {
    bed.machine(MachineSpec::new(name, firmware).memory_mib(MEMORY_MIB).stick(stick))
}

/// Waits for a line of the power-on that is now.
fn wait(machine: &Machine, text: &str) -> Result<Line> {
    let cycle = machine.power_cycles();
    Ok(machine.console().wait_for(LIMIT, text, |line| line.cycle == cycle && line.text.contains(text))?)
}

fn serves(machine: &Machine) -> Result<()> {
    machine.power_on()?;
    let line = wait(machine, SERVING)?;
    let note = if line.at > QUICK { " (slow: is this machine busy?)" } else { "" };
    println!("{:<10} power-on to serving: {:.1} s{note}", machine.name(), line.at.as_secs_f32());
    Ok(())
}

#[test]
fn a_machine_boots_through_a_stick_that_booted_by_bios() -> Result<()> {
    let bed = Bed::start()?;
    let stick = stick(&bed, "bootlace.img", "stick.img")?;
    let edge = box_of(&bed, "box", Firmware::Bios, &stick)?;
    serves(&edge)?;
    let machine = bed.machine(MachineSpec::new("served", Firmware::Bios).memory_mib(512))?;
    machine.power_on()?;
    let line = machine.console().wait(LIMIT, "tunnel: open")?;
    println!("{:<10} power-on to discovered: {:.1} s", machine.name(), line.at.as_secs_f32());
    // It wrote nothing that keeps it from booting again: the plug is pulled, and what it kept is there.
    edge.power_off()?;
    serves(&edge)
}

#[test]
fn a_stick_boots_by_uefi() -> Result<()> {
    let bed = Bed::start()?;
    let stick = stick(&bed, "bootlace.img", "stick.img")?;
    serves(&box_of(&bed, "box", Firmware::UefiPxe, &stick)?)
}
