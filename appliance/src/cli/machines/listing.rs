//! The machines as a person is shown them: what Omni's resources and the provider's records tell, put together.

use std::collections::BTreeMap;

use cosi::client::GrpcState;
use cosi::{Kind, ListOptions, Resource, State};
use prost::Message;
use provider::private::{BmcConfigurationSpec, InventorySpec, WipeStatusSpec};
use provider::resources::{LABEL_CLUSTER, PrivateSpec, ResourceSpec};
use provider::specs::infra_machine_config_spec::AcceptanceStatus;
use provider::specs::infra_machine_status_spec::MachinePowerState;
use provider::specs::{InfraMachineSpec, InfraMachineStatusSpec};
use serde::Serialize;

use super::CliError;
use crate::cli::output::table;

/// One machine as it is printed. JSON and YAML keep these names.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    pub(super) id: String,
    /// pending, accepted, rejected or removing
    state: &'static str,
    /// on, off or unknown
    power: &'static str,
    /// What it is switched by: api, redfish or ipmi; empty while that is not known
    driver: String,
    ready: bool,
    installed: bool,
    cordoned: bool,
    pub(super) cluster: String,
    talos_version: String,
    labels: BTreeMap<String, String>,
    /// What the last wipe did to each disk, and how long that took
    #[serde(skip_serializing_if = "Option::is_none")]
    last_wipe: Option<LastWipe>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inventory: Option<InventorySpec>,
}

#[derive(Debug, Serialize)]
struct LastWipe {
    /// When it ended
    at: String,
    /// A line each
    disks: Vec<String>,
}

impl Machine {
    fn macs(&self) -> impl Iterator<Item = &str> {
        self.inventory.iter().flat_map(|inventory| inventory.nics.iter().map(|nic| nic.mac.as_str()))
    }
}

/// All machines.
pub(super) async fn list(state: &GrpcState) -> Result<Vec<Machine>, CliError> {
    let infra = Kind::new(InfraMachineSpec::NAMESPACE, InfraMachineSpec::TYPE);
    let infra = state.list(&infra, &ListOptions::default()).await?;
    let status = Kind::new(InfraMachineStatusSpec::NAMESPACE, InfraMachineStatusSpec::TYPE);
    let statuses = by_id::<InfraMachineStatusSpec>(&state.list(&status, &ListOptions::default()).await?)?;
    // The provider's id is part of the type; every machine carries it as a label.
    let provider_id = infra
        .iter()
        .find_map(|machine| machine.label(provider::resources::LABEL_INFRA_PROVIDER_ID))
        .unwrap_or("bare-metal");
    let private = |typ| Kind::new(provider::resources::private_namespace(provider_id), typ);
    let kind = private(InventorySpec::resource_type(provider_id));
    let mut inventories = by_id::<InventorySpec>(&state.list(&kind, &ListOptions::default()).await?)?;
    let kind = private(BmcConfigurationSpec::resource_type(provider_id));
    let bmcs = by_id::<BmcConfigurationSpec>(&state.list(&kind, &ListOptions::default()).await?)?;
    let kind = private(WipeStatusSpec::resource_type(provider_id));
    let mut wipes = by_id::<WipeStatusSpec>(&state.list(&kind, &ListOptions::default()).await?)?;
    infra
        .iter()
        .map(|resource| {
            let mut machine = machine(resource, statuses.get(resource.id()))?;
            machine.driver = bmcs.get(resource.id()).map(driver).unwrap_or_default();
            machine.last_wipe = wipes.remove(resource.id()).and_then(last_wipe);
            machine.inventory = inventories.remove(resource.id());
            Ok(machine)
        })
        .collect()
}

/// `None` before the first one, and where the agent does not tell (Talos' metal agent does not).
fn last_wipe(record: WipeStatusSpec) -> Option<LastWipe> {
    let at = record.wiped_at.filter(|_| !record.disk_reports.is_empty())?;
    Some(LastWipe { at: at.to_string(), disks: record.disk_reports })
}

/// A BMC's driver is known once it has answered.
fn driver(bmc: &BmcConfigurationSpec) -> String {
    if bmc.api.is_some() { "api".to_owned() } else { bmc.driver.clone() }
}

/// What Omni's own resources tell of it; the provider's records are filled in by the caller.
fn machine(resource: &Resource, status: Option<&InfraMachineStatusSpec>) -> Result<Machine, CliError> {
    let spec: InfraMachineSpec = decode(resource)?;
    let state = match spec.acceptance_status() {
        _ if resource.is_tearing_down() => "removing",
        AcceptanceStatus::Pending => "pending",
        AcceptanceStatus::Accepted => "accepted",
        AcceptanceStatus::Rejected => "rejected",
    };
    let power = match status.map(InfraMachineStatusSpec::power_state) {
        Some(MachinePowerState::PowerStateOn) => "on",
        Some(MachinePowerState::PowerStateOff) => "off",
        Some(MachinePowerState::PowerStateUnknown) | None => "unknown",
    };
    Ok(Machine {
        id: resource.id().to_owned(),
        state,
        power,
        driver: String::new(),
        ready: status.is_some_and(|status| status.ready_to_use),
        installed: status.is_some_and(|status| status.installed),
        cordoned: spec.cordoned,
        cluster: resource.label(LABEL_CLUSTER).unwrap_or_default().to_owned(),
        talos_version: spec.cluster_talos_version,
        labels: resource.metadata.labels.clone(),
        last_wipe: None,
        inventory: None,
    })
}

pub(super) fn decode<T: Message + Default>(resource: &Resource) -> Result<T, CliError> {
    resource
        .decode()
        .map_err(|error| CliError::Failed(format!("{} cannot be read: {error}", resource.pointer())))
}

fn by_id<T: Message + Default>(resources: &[Resource]) -> Result<BTreeMap<String, T>, CliError> {
    resources.iter().map(|resource| Ok((resource.id().to_owned(), decode(resource)?))).collect()
}

/// A UUID, the beginning of exactly one, or a MAC address.
pub(super) fn find<'a>(machines: &'a [Machine], name: &str) -> Result<&'a Machine, CliError> {
    let name = name.to_ascii_lowercase();
    if let Some(exact) = machines.iter().find(|machine| machine.id == name) {
        return Ok(exact);
    }
    let is_meant =
        |machine: &&Machine| machine.id.starts_with(&name) || machine.macs().any(|mac| mac == name);
    let found: Vec<&Machine> = machines.iter().filter(is_meant).collect();
    match found[..] {
        [one] => Ok(one),
        [] => Err(CliError::Failed(format!("no machine `{name}`; see `bootlace machines list`"))),
        _ => {
            let ids: Vec<&str> = found.iter().map(|machine| machine.id.as_str()).collect();
            Err(CliError::Failed(format!(
                "`{name}` is the beginning of several machines: {}",
                ids.join(", ")
            )))
        }
    }
}

/// A line a machine.
pub(super) fn overview(machines: &[Machine]) -> comfy_table::Table {
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    table(
        &["ID", "STATE", "POWER", "BY", "READY", "INSTALLED", "CLUSTER", "TALOS", "MAC"],
        machines.iter().map(|machine| {
            vec![
                machine.id.clone(),
                machine.state.to_owned(),
                machine.power.to_owned(),
                or_dash(&machine.driver),
                yes(machine.ready),
                yes(machine.installed),
                or_dash(&machine.cluster),
                or_dash(&machine.talos_version),
                or_dash(machine.macs().next().unwrap_or_default()),
            ]
        }),
    )
}

#[cfg(test)]
mod tests;
