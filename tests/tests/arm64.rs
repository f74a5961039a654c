//! An arm64 machine: its firmware boots iPXE, the kernel and the agent from the appliance, over PXE and over HTTP.
//!
//! It needs root and what `make arm64` builds, or what `BOOTLACE_ARM64` names; without that it is skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::{ApplianceSpec, Bus, DiskSpec, Firmware, LIMIT, Machine, MachineSpec, Site, built};

const MIB: u64 = 1 << 20;
/// The agent, stripped.
const AGENT_LIMIT: u64 = 6 * MIB;
/// Kernel and initramfs with the drivers of servers.
const METAL_LIMIT: u64 = 40 * MIB;
/// What a machine of the test bed has.
const MEMORY_MIB: u64 = 256;
const DISK_MIB: u64 = 64;

/// What `make arm64` builds, if it did.
fn arm64() -> Option<PathBuf> {
    let files = built("BOOTLACE_ARM64", "build/arm64").ok().filter(|files| files.join("assets").is_dir());
    if files.is_none() {
        eprintln!("skipped: there is no agent image for arm64 (make arm64)");
    }
    files
}

fn site(files: &Path) -> Result<Site> {
    let appliance = built("BOOTLACE", &format!("target/{}/release/bootlace", env!("TARGET")))?;
    Site::start(ApplianceSpec::new(appliance, files.join("assets")).ipxe(files.join("ipxe")))
}

/// From power-on to a machine that is pending and has answered.
fn discover(site: &Site, machine: &Machine, file: &str) -> Result<()> {
    let begin = Instant::now();
    machine.power_on()?;
    let offer = site.step(machine, "dhcp_offer")?;
    ensure!(offer.detail("file").ends_with(file), "{offer}");
    for step in ["script_served", "asset_served", "joined", "pending"] {
        site.step(machine, step)?;
    }
    println!("{:<10} FIGURES power-on to pending {:.1} s", machine.name(), begin.elapsed().as_secs_f32());
    for step in ["tunnel_opened", "inventory"] {
        site.step(machine, step)?;
    }
    let listed = site.listed(machine)?;
    ensure!(listed.state == "pending", "{listed:?}");
    // What its board tells: SMBIOS tables that the firmware hands on, PCI, the device files of its kernel.
    let shown: Value = site.appliance.cli_json(&["machines", "show", &machine.uuid().to_string()])?;
    let inventory = &shown["inventory"];
    ensure!(inventory["serial"] == format!("BL-{}", machine.name()), "{inventory}");
    ensure!(inventory["cpucores"] == 1 && inventory["memorybytes"] == MEMORY_MIB * MIB, "{inventory}");
    ensure!(inventory["nics"][0]["mac"] == machine.mac(), "{inventory}");
    let disks = inventory["disks"].as_array().context("disks")?;
    ensure!(disks.len() == machine.disks().len(), "{inventory}");
    Ok(())
}

#[test]
fn the_agent_and_its_image_for_arm64_are_small() -> Result<()> {
    let Some(files) = arm64() else { return Ok(()) };
    let bytes = |name: &str| fs::metadata(files.join(name)).map(|file| file.len()).context(name.to_owned());
    let agent = bytes("bootlace-agent")?;
    let (kernel, initramfs) = (bytes("assets/kernel-arm64")?, bytes("assets/initramfs-metal-arm64.xz")?);
    println!("agent {agent} bytes, kernel {kernel}, initramfs {initramfs}, both {}", kernel + initramfs);
    ensure!(agent <= AGENT_LIMIT, "the agent has {agent} bytes");
    ensure!(kernel + initramfs <= METAL_LIMIT, "kernel and initramfs have {}", kernel + initramfs);
    Ok(())
}

#[test]
fn an_arm64_machine_boots_over_pxe_is_listed_and_loses_its_disks_when_it_is_accepted() -> Result<()> {
    let Some(files) = arm64() else { return Ok(()) };
    let site = site(&files)?;
    let spec = MachineSpec::new("arm64", Firmware::Arm64Pxe).disk(DiskSpec::used(DISK_MIB));
    let machine = site.bed.machine(spec.disk(DiskSpec::used(DISK_MIB).bus(Bus::Nvme)))?;
    let before = machine.disks().iter().map(testbed::Disk::snapshot).collect::<Result<Vec<_>>>()?;
    discover(&site, &machine, "ipxe-arm64.efi")?;
    for disk in &before {
        ensure!(disk.first_change()?.is_none(), "a pending machine's disk was touched");
    }

    site.machines("accept", &machine, &[])?;
    for step in ["wipe_finished", "ready", "power_off"] {
        site.step(&machine, step)?;
    }
    machine.wait_power(LIMIT, false)?;
    for disk in machine.disks() {
        ensure!(disk.is_blank()?, "{} is not wiped", disk.serial());
    }
    Ok(())
}

#[test]
fn an_arm64_machine_boots_over_uefi_http() -> Result<()> {
    let Some(files) = arm64() else { return Ok(()) };
    let site = site(&files)?;
    let machine = site.bed.machine(MachineSpec::new("arm64-http", Firmware::Arm64Http))?;
    discover(&site, &machine, "arm64/ipxe.efi")
}
