//! `bootlace machines`: what Omni's console does for a person, against the hub.

use std::collections::BTreeMap;
use std::path::Path;

use clap::{Subcommand, ValueEnum};
use cosi::client::GrpcState;
use cosi::{Kind, ListOptions, Missing, Resource, State, modify};
use prost::Message;
use provider::private::{BmcConfigurationSpec, InventorySpec};
use provider::resources::{
    LABEL_CLUSTER, LABEL_MACHINE_SET, LABEL_ROLE_CONTROLPLANE, LABEL_ROLE_WORKER, PrivateSpec, ResourceSpec,
};
use provider::specs::infra_machine_config_spec::AcceptanceStatus;
use provider::specs::infra_machine_status_spec::MachinePowerState;
use provider::specs::{
    ClusterSpec, InfraMachineConfigSpec, InfraMachineSpec, InfraMachineStatusSpec, MachineSetNodeSpec,
};
use serde::Serialize;

use super::CliError;
use super::output::{Format, print, table, write_out};

#[derive(Subcommand)]
pub(super) enum Command {
    /// List all machines
    #[command(after_help = "Examples:
  bootlace machines list
  bootlace machines list -o json")]
    List {
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Show one machine with its hardware
    #[command(after_help = "Example:
  bootlace machines show 4c4c4544 -o yaml")]
    Show {
        /// UUID, or the beginning of one, or a MAC address
        machine: String,
        /// Output format
        #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
        output: Format,
    },
    /// Accept machines: their disks are WIPED, then they may be allocated
    #[command(after_help = "Accepting is final; a rejected machine may still be accepted.

Examples:
  bootlace machines accept 4c4c4544
  bootlace machines accept 52:54:00:88:00:01 52:54:00:88:00:02")]
    Accept {
        /// UUIDs, or beginnings of them, or MAC addresses
        #[arg(required = true)]
        machines: Vec<String>,
    },
    /// Reject machines: they boot from their disks, which are never touched
    #[command(after_help = "Example:
  bootlace machines reject 4c4c4544")]
    Reject {
        /// UUIDs, or beginnings of them, or MAC addresses
        #[arg(required = true)]
        machines: Vec<String>,
    },
    /// Allocate machines to a cluster: they are switched on and boot its Talos
    #[command(after_help = "Example:
  bootlace machines allocate 4c4c4544 --cluster edge --talos-version v1.13.9")]
    Allocate {
        /// UUIDs, or beginnings of them, or MAC addresses
        #[arg(required = true)]
        machines: Vec<String>,
        /// Cluster; made when it does not exist
        #[arg(long)]
        cluster: String,
        /// Talos version of a new cluster
        #[arg(long, value_name = "VERSION")]
        talos_version: Option<String>,
        /// Role in the cluster
        #[arg(long, value_enum, default_value_t = Role::Controlplane)]
        role: Role,
    },
    /// Release machines from their cluster: they are wiped again and switched off
    #[command(after_help = "Example:
  bootlace machines release 4c4c4544")]
    Release {
        /// UUIDs, or beginnings of them, or MAC addresses
        #[arg(required = true)]
        machines: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Role {
    /// Runs the control plane
    Controlplane,
    /// Runs workloads
    Worker,
}

/// One machine as it is printed. JSON and YAML keep these names.
#[derive(Debug, Serialize)]
struct Machine {
    id: String,
    /// pending, accepted, rejected or removing
    state: &'static str,
    /// on, off or unknown
    power: &'static str,
    /// What it is switched by: api, redfish or ipmi; empty while that is not known
    driver: String,
    ready: bool,
    installed: bool,
    cordoned: bool,
    cluster: String,
    talos_version: String,
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inventory: Option<InventorySpec>,
}

impl Machine {
    fn macs(&self) -> impl Iterator<Item = &str> {
        self.inventory.iter().flat_map(|inventory| inventory.nics.iter().map(|nic| nic.mac.as_str()))
    }
}

pub(super) async fn run(socket: &Path, command: Command) -> Result<(), CliError> {
    let state = super::connect(socket).await?;
    match command {
        Command::List { output } => {
            let machines = machines(&state).await?;
            print(output, &machines, || overview(&machines))
        }
        Command::Show { machine, output } => {
            let machine = find(machines(&state).await?, &machine)?;
            print(output, &machine, || overview(std::slice::from_ref(&machine)))
        }
        Command::Accept { machines } => {
            each(&state, &machines, Act::Decide(AcceptanceStatus::Accepted)).await
        }
        Command::Reject { machines } => {
            each(&state, &machines, Act::Decide(AcceptanceStatus::Rejected)).await
        }
        Command::Allocate { machines, cluster, talos_version, role } => {
            ensure_cluster(&state, &cluster, talos_version.as_deref()).await?;
            each(&state, &machines, Act::Allocate { cluster, role }).await
        }
        Command::Release { machines } => each(&state, &machines, Act::Release).await,
    }
}

enum Act {
    Decide(AcceptanceStatus),
    Allocate { cluster: String, role: Role },
    Release,
}

/// Resolves all names before the first write: a typing error changes nothing.
async fn each(state: &GrpcState, names: &[String], act: Act) -> Result<(), CliError> {
    let mut targets = Vec::new();
    for name in names {
        targets.push(find(machines(state).await?, name)?);
    }
    for machine in targets {
        let id = &machine.id;
        let done = match &act {
            Act::Decide(status) => {
                decide(state, id, *status).await?;
                match status {
                    AcceptanceStatus::Accepted => "accepted",
                    AcceptanceStatus::Rejected => "rejected",
                    AcceptanceStatus::Pending => "pending",
                }
            }
            Act::Allocate { cluster, role } => {
                let labels = [
                    (LABEL_CLUSTER, cluster.clone()),
                    (LABEL_MACHINE_SET, format!("{cluster}-{}", role.machine_set())),
                    (role.label(), String::new()),
                ];
                let node =
                    Resource::new(MachineSetNodeSpec::NAMESPACE, MachineSetNodeSpec::TYPE, id, Vec::new())
                        .with_spec(&MachineSetNodeSpec::default());
                let node = labels.into_iter().fold(node, |node, (key, value)| node.with_label(key, value));
                match state.create(node, "").await {
                    Err(cosi::StateError::AlreadyExists(_)) => {
                        return Err(CliError::Failed(format!(
                            "{id} is allocated to cluster {} already; release it first",
                            machine.cluster
                        )));
                    }
                    result => drop(result?),
                }
                "allocated"
            }
            Act::Release => {
                let kind = Kind::new(MachineSetNodeSpec::NAMESPACE, MachineSetNodeSpec::TYPE);
                match state.destroy(&kind.pointer(id), "").await {
                    Err(error) if error.is_not_found() => {
                        return Err(CliError::Failed(format!("{id} is not allocated to a cluster")));
                    }
                    result => result?,
                }
                "released"
            }
        };
        write_out(&format!("{id} {done}\n"))?;
    }
    Ok(())
}

impl Role {
    fn label(self) -> &'static str {
        match self {
            Self::Controlplane => LABEL_ROLE_CONTROLPLANE,
            Self::Worker => LABEL_ROLE_WORKER,
        }
    }

    /// Omni names the sets of a cluster like this.
    fn machine_set(self) -> &'static str {
        match self {
            Self::Controlplane => "control-planes",
            Self::Worker => "workers",
        }
    }
}

async fn decide(state: &GrpcState, id: &str, status: AcceptanceStatus) -> Result<(), CliError> {
    let pointer = Kind::new(InfraMachineConfigSpec::NAMESPACE, InfraMachineConfigSpec::TYPE).pointer(id);
    modify(state, &pointer, "", Missing::Create, |resource| {
        let mut spec: InfraMachineConfigSpec =
            resource.decode().map_err(|error| cosi::StateError::Unknown(error.to_string()))?;
        spec.acceptance_status = status as i32;
        resource.encode(&spec);
        Ok(())
    })
    .await?;
    Ok(())
}

async fn ensure_cluster(state: &GrpcState, name: &str, version: Option<&str>) -> Result<(), CliError> {
    let pointer = Kind::new(ClusterSpec::NAMESPACE, ClusterSpec::TYPE).pointer(name);
    match state.get(&pointer).await {
        Ok(cluster) => {
            let spec: ClusterSpec = decode(&cluster)?;
            match version.map(without_v) {
                Some(version) if version != spec.talos_version => Err(CliError::Failed(format!(
                    "cluster {name} runs Talos {}, not {version}; leave --talos-version out",
                    spec.talos_version
                ))),
                _ => Ok(()),
            }
        }
        Err(error) if error.is_not_found() => {
            let version = version.ok_or_else(|| {
                CliError::Failed(format!(
                    "there is no cluster {name} yet; name its version by --talos-version"
                ))
            })?;
            let spec = ClusterSpec { talos_version: without_v(version).to_owned(), ..ClusterSpec::default() };
            state
                .create(
                    Resource::new(ClusterSpec::NAMESPACE, ClusterSpec::TYPE, name, Vec::new())
                        .with_spec(&spec),
                    "",
                )
                .await?;
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Omni stores versions without the `v`.
fn without_v(version: &str) -> &str {
    version.strip_prefix('v').unwrap_or(version)
}

async fn machines(state: &GrpcState) -> Result<Vec<Machine>, CliError> {
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
    infra
        .iter()
        .map(|resource| {
            let inventory = inventories.remove(resource.id());
            let driver = bmcs.get(resource.id()).map(driver).unwrap_or_default();
            machine(resource, statuses.get(resource.id()), driver, inventory)
        })
        .collect()
}

/// A BMC's driver is known once it has answered.
fn driver(bmc: &BmcConfigurationSpec) -> String {
    if bmc.api.is_some() { "api".to_owned() } else { bmc.driver.clone() }
}

fn machine(
    resource: &Resource,
    status: Option<&InfraMachineStatusSpec>,
    driver: String,
    inventory: Option<InventorySpec>,
) -> Result<Machine, CliError> {
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
        driver,
        ready: status.is_some_and(|status| status.ready_to_use),
        installed: status.is_some_and(|status| status.installed),
        cordoned: spec.cordoned,
        cluster: resource.label(LABEL_CLUSTER).unwrap_or_default().to_owned(),
        talos_version: spec.cluster_talos_version,
        labels: resource.metadata.labels.clone(),
        inventory,
    })
}

fn decode<T: Message + Default>(resource: &Resource) -> Result<T, CliError> {
    resource
        .decode()
        .map_err(|error| CliError::Failed(format!("{} cannot be read: {error}", resource.pointer())))
}

fn by_id<T: Message + Default>(resources: &[Resource]) -> Result<BTreeMap<String, T>, CliError> {
    resources.iter().map(|resource| Ok((resource.id().to_owned(), decode(resource)?))).collect()
}

/// A UUID, the beginning of exactly one, or a MAC address.
fn find(machines: Vec<Machine>, name: &str) -> Result<Machine, CliError> {
    let name = name.to_ascii_lowercase();
    let mut found: Vec<Machine> = machines
        .into_iter()
        .filter(|machine| machine.id.starts_with(&name) || machine.macs().any(|mac| mac == name))
        .collect();
    if let Some(exact) = found.iter().position(|machine| machine.id == name) {
        return Ok(found.swap_remove(exact));
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(CliError::Failed(format!("no machine `{name}`; see `bootlace machines list`"))),
        _ => {
            let ids: Vec<&str> = found.iter().map(|machine| machine.id.as_str()).collect();
            Err(CliError::Failed(format!(
                "`{name}` is the beginning of several machines: {}",
                ids.join(", ")
            )))
        }
    }
}

fn overview(machines: &[Machine]) -> comfy_table::Table {
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
