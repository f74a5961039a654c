//! Whole lives of machines: real firmware, real iPXE, real kernels, the appliance and the agent as they ship.
//!
//! They need root and what `make images` builds, or what BOOTLACE and BOOTLACE_ASSETS name. Each test has a bed of
//! its own.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use testbed::{
    Appliance, ApplianceSpec, Bed, DiskSpec, Firmware, Journal, LIMIT, Machine, MachineSpec, TALOS_VERSION,
};
use uuid::Uuid;

/// Room for the stand-in system's image.
const DISK_MIB: u64 = 256;
/// What an operator's disk holds.
const MARKER: &str = "somebody's data, not ours";

#[derive(Debug, Deserialize)]
struct Listed {
    id: Uuid,
    state: String,
    power: String,
    ready: bool,
    installed: bool,
    cluster: String,
}

struct Site {
    bed: Bed,
    appliance: Appliance,
    journal: Journal,
}

impl Site {
    fn start() -> Result<Self> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
        let named = |variable: &str, built: String| {
            std::env::var_os(variable).map_or_else(|| root.join(built), PathBuf::from)
        };
        let binary = named("BOOTLACE", format!("target/{}/release/bootlace", env!("TARGET")));
        let assets = named("BOOTLACE_ASSETS", "build/assets".to_owned())
            .canonicalize()
            .context("no build/assets; run `make images`")?;
        let bed = Bed::start()?;
        let appliance = bed.appliance(ApplianceSpec::new(
            binary.canonicalize().context("no release binary; run `make images`")?,
            assets,
        ))?;
        let journal = appliance.journal()?;
        Ok(Self { bed, appliance, journal })
    }

    fn machine(&self, spec: MachineSpec) -> Result<Machine> {
        self.bed.machine(spec.disk(DiskSpec::marked(DISK_MIB, MARKER)))
    }

    fn step(&self, machine: &Machine, step: &str) -> Result<()> {
        let begin = Instant::now();
        self.journal.wait_step(LIMIT, machine, step)?;
        println!("{:<10} {step:<18} +{:.1} s", machine.name(), begin.elapsed().as_secs_f32());
        Ok(())
    }

    fn machines(&self, verb: &str, machine: &Machine, rest: &[&str]) -> Result<()> {
        let id = machine.uuid().to_string();
        self.appliance.cli_ok(&[&["machines", verb, &id], rest].concat()).map(drop)
    }

    fn allocate(&self, machine: &Machine) -> Result<()> {
        self.machines("allocate", machine, &["--cluster", "edge", "--talos-version", TALOS_VERSION])
    }

    fn listed(&self, machine: &Machine) -> Result<Listed> {
        let all: Vec<Listed> = self.appliance.cli_json(&["machines", "list"])?;
        all.into_iter().find(|listed| listed.id == machine.uuid()).context("the machine is not listed")
    }
}

/// From power-on to pending.
fn discover(site: &Site, machine: &Machine) -> Result<Duration> {
    let begin = Instant::now();
    machine.power_on()?;
    site.step(machine, "pending")?;
    let took = begin.elapsed();
    println!("{:<10} power-on to pending: {:.1} s", machine.name(), took.as_secs_f32());
    site.step(machine, "tunnel_opened")?;
    site.step(machine, "inventory")?;
    Ok(took)
}

/// From accepted to wiped, ready and off.
fn accept(site: &Site, machine: &Machine) -> Result<()> {
    site.machines("accept", machine, &[])?;
    for step in ["accepted", "power_configured", "wipe_finished", "ready", "power_off"] {
        site.step(machine, step)?;
    }
    machine.wait_power(LIMIT, false)?;
    ensure!(machine.disks()[0].is_blank()?, "the disk of an accepted machine is wiped");
    Ok(())
}

/// From allocated to running from its disk.
fn install(site: &Site, machine: &Machine) -> Result<()> {
    site.allocate(machine)?;
    for step in ["allocated", "power_on", "installed"] {
        site.step(machine, step)?;
    }
    let line = machine.console().wait(LIMIT, "standin: cmdline")?;
    ensure!(line.text.contains("talos.platform=metal"), "booted as Talos is: {}", line.text);
    let begin = Instant::now();
    machine.console().wait(LIMIT, "standin: running from disk")?;
    println!("{:<10} runs from disk     +{:.1} s", machine.name(), begin.elapsed().as_secs_f32());
    Ok(())
}

#[test]
fn a_bios_machine_lives_from_discovery_to_release() -> Result<()> {
    let site = Site::start()?;
    let machine = site.machine(MachineSpec::new("bios", Firmware::Bios))?;
    let before = machine.disks()[0].snapshot()?;
    discover(&site, &machine)?;
    ensure!(before.first_change()?.is_none(), "nothing is wiped before acceptance");
    accept(&site, &machine)?;
    let listed = site.listed(&machine)?;
    ensure!(listed.state == "accepted" && listed.ready && listed.power == "off", "{listed:?}");

    install(&site, &machine)?;
    let listed = site.listed(&machine)?;
    ensure!(listed.installed && listed.cluster == "edge", "{listed:?}");

    let cycle = machine.power_cycles();
    site.machines("release", &machine, &[])?;
    site.step(&machine, "released")?;
    let entries = site.journal.entries().len();
    site.journal.wait_from(entries.saturating_sub(20), LIMIT, "second wipe", |entry| {
        entry.step == "wipe_finished" && entry.is_of(&machine)
    })?;
    machine.wait_power(LIMIT, false)?;
    ensure!(machine.power_cycles() >= cycle, "it was booted into the agent");
    ensure!(machine.disks()[0].is_blank()?, "a released machine is wiped again");
    Ok(())
}

#[test]
fn uefi_machines_boot_by_pxe_and_by_http_and_a_rejected_disk_is_never_touched() -> Result<()> {
    let site = Site::start()?;
    let pxe = site.machine(MachineSpec::new("uefi-pxe", Firmware::UefiPxe))?;
    let http = site.machine(MachineSpec::new("uefi-http", Firmware::UefiHttp))?;
    let untouched = http.disks()[0].snapshot()?;
    pxe.power_on()?;
    discover(&site, &http)?;
    site.step(&pxe, "inventory")?;

    site.machines("reject", &http, &[])?;
    site.step(&http, "rejected")?;
    http.reboot()?;
    site.journal.wait(LIMIT, "script that sends a rejected machine to its disk", |entry| {
        entry.step == "script_served" && entry.is_of(&http) && entry.detail("mode") == "talos-disk"
    })?;

    accept(&site, &pxe)?;
    install(&site, &pxe)?;
    ensure!(untouched.first_change()?.is_none(), "a rejected disk is byte for byte what it was");
    ensure!(
        http.power_calls().iter().all(|call| call.path != "/poweroff" && call.path != "/poweron"),
        "a rejected machine is not switched"
    );
    ensure!(site.listed(&http)?.state == "rejected");
    Ok(())
}

#[test]
fn killing_the_appliance_at_any_step_loses_nothing() -> Result<()> {
    let mut site = Site::start()?;
    let machine = site.machine(MachineSpec::new("bios", Firmware::Bios))?;
    machine.power_on()?;
    for step in ["dhcp_offer", "script_served", "asset_served", "joined", "pending", "inventory"] {
        site.step(&machine, step)?;
        site.appliance.restart()?;
        println!("killed after {step}");
    }
    // A tunnel comes back by itself.
    site.machines("accept", &machine, &[])?;
    for step in ["accepted", "power_configured", "wipe_started", "wipe_finished", "ready"] {
        site.step(&machine, step)?;
        site.appliance.restart()?;
        println!("killed after {step}");
    }
    machine.wait_power(LIMIT, false)?;
    ensure!(machine.disks()[0].is_blank()?, "the disk is wiped");
    site.allocate(&machine)?;
    for step in ["allocated", "power_on", "installed"] {
        site.step(&machine, step)?;
        site.appliance.restart()?;
        println!("killed after {step}");
    }
    machine.console().wait(LIMIT, "standin: running from disk")?;
    let listed = site.listed(&machine)?;
    ensure!(listed.installed && listed.cluster == "edge" && listed.state == "accepted", "{listed:?}");
    Ok(())
}

#[test]
fn a_second_machine_with_the_same_uuid_never_takes_the_first_ones_place() -> Result<()> {
    let site = Site::start()?;
    let first = site.machine(MachineSpec::new("first", Firmware::Bios))?;
    discover(&site, &first)?;
    let second = site.machine(MachineSpec::new("second", Firmware::Bios).uuid(first.uuid()))?;
    let untouched = second.disks()[0].snapshot()?;
    second.power_on()?;
    site.journal.wait(LIMIT, "uuid conflict", |entry| entry.step == "uuid_conflict")?;

    accept(&site, &first)?;
    ensure!(untouched.first_change()?.is_none(), "the second machine is not wiped instead of the first");
    // As with Omni, it is given a UUID of its own, under which a person may decide about it.
    let other = testbed::wait_until(LIMIT, "the second one under a UUID of its own", || {
        let all: Vec<Listed> = site.appliance.cli_json(&["machines", "list"]).ok()?;
        all.into_iter().find(|machine| machine.id != first.uuid())
    })?;
    ensure!(other.state == "pending" && !other.ready, "nobody accepted it: {other:?}");
    ensure!(second.is_on(), "nor is it switched");
    ensure!(untouched.first_change()?.is_none(), "nor is its disk touched");
    Ok(())
}
