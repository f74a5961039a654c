//! A machine that a person gives the appliance a BMC for, and whose BMC serves Redfish.
//!
//! It needs root, sushy-tools (`make setup`) and what `make images` builds, or what BOOTLACE and `BOOTLACE_ASSETS`
//! name.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use cosi::client::GrpcState;
use cosi::{Kind, Resource, State};
use provider::resources::ResourceSpec;
use provider::specs::InfraMachineBmcConfigSpec;
use provider::specs::infra_machine_bmc_config_spec::Ipmi;
use testbed::{ApplianceSpec, Firmware, LIMIT, Machine, MachineSpec, Site};

/// What a person does in Omni: address, user and password.
fn configure(socket: &Path, machine: &Machine) -> Result<()> {
    let address = machine.redfish_address().context("a BMC")?.ip().to_string();
    let ipmi = Ipmi { address, port: 623, username: "root".to_owned(), password: "calvin-1".to_owned() };
    let spec = InfraMachineBmcConfigSpec { ipmi: Some(ipmi), api: None };
    let kind = Kind::new(InfraMachineBmcConfigSpec::NAMESPACE, InfraMachineBmcConfigSpec::TYPE);
    let mut resource = Resource::empty(&kind.pointer(machine.uuid().to_string()));
    resource.encode(&spec);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let state = GrpcState::connect_unix(socket).await?;
        state.create(resource, "").await.context("the hub does not take it").map(drop)
    })
}

#[test]
fn a_machine_is_wiped_and_booted_by_the_redfish_that_a_person_named() -> Result<()> {
    let redfish = "\n[redfish]\nuse_https = false\nport = 8000\n";
    let site = Site::start(ApplianceSpec::built()?.bmcs().config(redfish))?;
    let spec = MachineSpec::new("redfish", Firmware::Bios).redfish().memory_mib(256);
    let machine = site.bed.machine(spec)?;
    ensure!(machine.redfish_address().is_some_and(|address| address.port() == 8000));

    machine.power_on()?;
    site.step(&machine, "pending")?;
    configure(&site.appliance.state_dir().join("bootlace.sock"), &machine)?;
    ensure!(machine.power_calls().is_empty(), "nobody switches or asks about a pending machine");
    site.machines("accept", &machine, &[])?;
    let configured = site.step(&machine, "power_configured")?;
    println!("{configured}");
    ensure!(configured.detail("driver") == "redfish", "{configured}");
    ensure!(configured.detail("reason") == "Redfish 1.5.0", "{configured}");
    for step in ["wipe_finished", "ready", "power_off"] {
        site.step(&machine, step)?;
    }
    machine.wait_power(LIMIT, false)?;
    let shown = site.appliance.cli_ok(&["machines", "list"])?;
    ensure!(shown.contains(" redfish "), "{shown}");

    site.allocate(&machine)?;
    let on = site.step(&machine, "power_on")?;
    ensure!(on.detail("pxe") == "true", "{on}");
    machine.wait_power(LIMIT, true)?;
    let orders = machine.power_orders();
    ensure!(orders == ["/poweroff", "/pxeboot", "/poweron"], "{orders:?}");
    ensure!(!site.appliance.log().contains("calvin-1"), "no password in the log");
    Ok(())
}
