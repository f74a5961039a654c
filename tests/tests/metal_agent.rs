//! `agent.kind = "talos"`: machines that Talos' own metal agent looks after, a program of somebody else's in Go. The
//! appliance, the network and the machines are those of the other end-to-end tests; what runs the program stands in
//! for Talos.
//!
//! Go is needed to build it, so `tests/conformance/metal-agent/run.sh` builds it and names the images.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use testbed::{
    APPLIANCE_ADDRESS, ApplianceSpec, Disk, DiskSpec, Firmware, LIMIT, Machine, MachineSpec, Site, wait_until,
};

/// Room for the stand-in system's image.
const DISK_MIB: u64 = 256;
/// What the program says when it begins, and when it is told to wipe.
const STARTED: &str = "\"msg\":\"connected to Talos\"";
const WIPES: &str = "\"msg\":\"wipe disks\"";

/// An appliance that has no agent of ours to give.
fn site(change: impl FnOnce(ApplianceSpec) -> ApplianceSpec) -> Result<Site> {
    let assets = std::env::var_os("METAL_AGENT_ASSETS").map(PathBuf::from);
    let assets = assets.context("run tests/conformance/metal-agent/run.sh")?;
    ensure!(!assets.join("initramfs-metal-amd64.xz").exists(), "our own agent is there");
    Site::start(change(ApplianceSpec::built()?.assets(assets).config("kind = \"talos\"\n")))
}

fn said(machine: &Machine, words: &str) -> usize {
    machine.console().lines().iter().filter(|line| line.text.contains(words)).count()
}

/// How often a step of the machine is in the journal.
fn steps(site: &Site, machine: &Machine, step: &str) -> usize {
    site.journal.entries().iter().filter(|entry| entry.step == step && entry.is_of(machine)).count()
}

/// A GPT with an ext4, made by the usual tools.
fn partition(disk: &Disk) -> Result<()> {
    let layout = "printf 'label: gpt\\nstart=2048,size=32768\\n' | sfdisk -q \"$0\" && \
                  mkfs.ext4 -q -F -E offset=1048576 \"$0\" 16M";
    let output = Command::new("sh").args(["-c", layout]).arg(disk.path()).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

#[test]
#[ignore = "needs Go: tests/conformance/metal-agent/run.sh"]
fn a_machine_lives_from_discovery_to_release_with_talos_own_metal_agent() -> Result<()> {
    let mut site = site(|spec| spec)?;
    let spec = MachineSpec::new("talos", Firmware::Bios).memory_mib(512);
    let machine = site.bed.machine(
        spec.disk(DiskSpec::used(DISK_MIB))
            .disk(DiskSpec::blank(DISK_MIB))
            .disk(DiskSpec::used(DISK_MIB / 2).read_only()),
    )?;
    let [system, data, read_only] = machine.disks() else { unreachable!("three disks") };
    partition(data)?;
    ensure!(data.signatures()?.iter().any(|kind| kind == "gpt"), "{:?}", data.signatures()?);
    let before = [system.snapshot()?, data.snapshot()?, read_only.snapshot()?];

    machine.power_on()?;
    for step in ["pending", "tunnel_opened"] {
        site.step(&machine, step)?;
    }
    println!("{}", machine.console().wait(LIMIT, STARTED)?.text);
    // A tunnel that dies and comes back is one machine.
    site.appliance.restart()?;
    wait_until(LIMIT, "the tunnel again", || (steps(&site, &machine, "tunnel_opened") > 1).then_some(()))?;
    ensure!(site.list()?.len() == 1, "{:?}", site.list()?);
    ensure!(site.listed(&machine)?.state == "pending");
    for disk in &before {
        ensure!(disk.first_change()?.is_none(), "nothing is wiped before acceptance");
    }

    site.machines("accept", &machine, &[])?;
    for step in ["accepted", "power_configured", "wipe_finished", "ready", "power_off"] {
        site.step(&machine, step)?;
    }
    machine.wait_power(LIMIT, false)?;
    let wipes = said(&machine, WIPES);
    ensure!(wipes > 0, "it was not the agent that wiped");
    ensure!(system.is_blank()?, "the first disk is blank");
    ensure!(data.signatures()?.is_empty(), "{:?}", data.signatures()?);
    ensure!(before[2].first_change()?.is_none(), "a disk that cannot be written to is left alone");
    let listed = site.listed(&machine)?;
    ensure!(listed.state == "accepted" && listed.ready && listed.power == "off", "{listed:?}");

    site.allocate(&machine)?;
    for step in ["allocated", "power_on", "installed"] {
        site.step(&machine, step)?;
    }
    machine.console().wait(LIMIT, "standin: running from disk")?;
    ensure!(site.listed(&machine)?.installed, "{:?}", site.listed(&machine)?);

    site.machines("release", &machine, &[])?;
    site.step(&machine, "released")?;
    wait_until(LIMIT, "the wipe of the released machine", || {
        (steps(&site, &machine, "wipe_finished") > 1).then_some(())
    })?;
    machine.wait_power(LIMIT, false)?;
    ensure!(said(&machine, WIPES) > wipes, "it was not the agent that wiped");
    ensure!(system.is_blank()?, "a released machine is wiped again");
    Ok(())
}

#[test]
#[ignore = "needs Go: tests/conformance/metal-agent/run.sh"]
fn talos_own_metal_agent_takes_a_bmc_over_for_the_appliance_through_a_tunnel_with_tls() -> Result<()> {
    // Whom it trusts is what Talos trusts, which only Talos is told.
    let tls = "\n[tls]\nenabled = true\nagent_skip_verify = true\n";
    let site = site(|spec| spec.bmcs().config(tls))?;
    let spec = MachineSpec::new("bmc", Firmware::Bios).bmc().memory_mib(512);
    let machine = site.bed.machine(spec.disk(DiskSpec::used(DISK_MIB)))?;
    machine.power_on()?;
    for step in ["pending", "tunnel_opened"] {
        site.step(&machine, step)?;
    }
    machine.console().wait(LIMIT, &format!("\"provider_address\":\"https://{APPLIANCE_ADDRESS}:50043\""))?;
    ensure!(machine.power_calls().is_empty(), "nobody switches a pending machine");

    site.machines("accept", &machine, &[])?;
    let configured = site.step(&machine, "power_configured")?;
    ensure!(configured.detail("driver") == "ipmi", "{configured}");
    for step in ["wipe_finished", "ready", "power_off"] {
        site.step(&machine, step)?;
    }
    // With the password that the agent gave the BMC.
    machine.wait_power_call(LIMIT, "/poweroff")?;
    machine.wait_power(LIMIT, false)?;
    ensure!(machine.disks()[0].is_blank()?, "the disk of an accepted machine is wiped");
    Ok(())
}
