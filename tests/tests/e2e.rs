//! Whole lives of machines: real firmware, real iPXE, real kernels, the appliance and the agent as they ship.
//!
//! They need root and what `make images` builds, or what BOOTLACE and BOOTLACE_ASSETS name. Each test has a bed of
//! its own.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testbed::{ApplianceSpec, DiskSpec, Firmware, LIMIT, Machine, MachineSpec, Site};

/// Room for the stand-in system's image.
const DISK_MIB: u64 = 256;

fn site() -> Result<Site> {
    Site::start(ApplianceSpec::built()?)
}

fn machine(site: &Site, spec: MachineSpec) -> Result<Machine> {
    site.bed.machine(spec.disk(DiskSpec::used(DISK_MIB)))
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
    let site = site()?;
    let machine = machine(&site, MachineSpec::new("bios", Firmware::Bios))?;
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
    let site = site()?;
    let pxe = machine(&site, MachineSpec::new("uefi-pxe", Firmware::UefiPxe))?;
    let http = machine(&site, MachineSpec::new("uefi-http", Firmware::UefiHttp))?;
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
    let mut site = site()?;
    let machine = machine(&site, MachineSpec::new("bios", Firmware::Bios))?;
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
fn a_machine_is_discovered_and_wiped_over_tls_by_an_authority_that_a_kill_does_not_lose() -> Result<()> {
    let mut site = Site::start(ApplianceSpec::built()?.config("\n[tls]\nenabled = true\n"))?;
    let machine = machine(&site, MachineSpec::new("tls", Firmware::Bios))?;
    discover(&site, &machine)?;
    let open = "tunnel: open to https://10.88.0.1:50043";
    machine.console().wait(LIMIT, open)?;
    // The machine knows only the authority of before, and comes back by itself.
    site.appliance.restart()?;
    let begin = Instant::now();
    testbed::wait_until(LIMIT, "the tunnel after the kill", || {
        let lines = machine.console().lines();
        (lines.iter().filter(|line| line.text.contains(open)).count() > 1).then_some(())
    })?;
    println!("{:<10} tunnel again       +{:.1} s", machine.name(), begin.elapsed().as_secs_f32());
    accept(&site, &machine)?;
    let plain = |line: &str| line.contains("tunnel:") && line.contains("http://");
    ensure!(!machine.console().lines().iter().any(|line| plain(&line.text)), "nothing in the clear");
    Ok(())
}

#[test]
fn a_second_machine_with_the_same_uuid_never_takes_the_first_ones_place() -> Result<()> {
    let site = site()?;
    let first = machine(&site, MachineSpec::new("first", Firmware::Bios))?;
    discover(&site, &first)?;
    let second = machine(&site, MachineSpec::new("second", Firmware::Bios).uuid(first.uuid()))?;
    let untouched = second.disks()[0].snapshot()?;
    second.power_on()?;
    site.journal.wait(LIMIT, "uuid conflict", |entry| entry.step == "uuid_conflict")?;

    accept(&site, &first)?;
    ensure!(untouched.first_change()?.is_none(), "the second machine is not wiped instead of the first");
    // As with Omni, it is given a UUID of its own, under which a person may decide about it.
    let other = testbed::wait_until(LIMIT, "the second one under a UUID of its own", || {
        site.list().ok()?.into_iter().find(|machine| machine.id != first.uuid())
    })?;
    ensure!(other.state == "pending" && !other.ready, "nobody accepted it: {other:?}");
    // Its tunnel has the name that it joined with, so whoever accepts it asks the right one.
    site.journal.wait(LIMIT, "tunnel of the second one", |entry| {
        entry.step == "tunnel_opened" && entry.uuid == Some(other.id)
    })?;
    ensure!(second.is_on(), "nor is it switched");
    ensure!(untouched.first_change()?.is_none(), "nor is its disk touched");
    Ok(())
}
