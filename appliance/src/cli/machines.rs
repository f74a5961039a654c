//! `bootlace machines`: what Omni's console does for a person, against the hub.

use std::path::Path;

use clap::{Subcommand, ValueEnum};
use cosi::client::GrpcState;
use cosi::{Kind, Missing, Resource, State, modify};
use provider::resources::{
    LABEL_CLUSTER, LABEL_MACHINE_SET, LABEL_ROLE_CONTROLPLANE, LABEL_ROLE_WORKER, ResourceSpec,
};
use provider::specs::infra_machine_config_spec::AcceptanceStatus;
use provider::specs::{ClusterSpec, InfraMachineConfigSpec, MachineSetNodeSpec};

use super::CliError;
use super::output::{Format, print, write_out};
use listing::{decode, find, overview};

mod listing;

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
    /// Show one machine with its hardware, and what the last wipe did to its disks
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

pub(super) async fn run(socket: &Path, command: Command) -> Result<(), CliError> {
    let state = super::connect(socket).await?;
    match command {
        Command::List { output } => {
            let machines = listing::list(&state).await?;
            print(output, &machines, || overview(&machines))
        }
        Command::Show { machine, output } => {
            let machines = listing::list(&state).await?;
            let machine = find(&machines, &machine)?;
            print(output, machine, || overview(std::slice::from_ref(machine)))
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
    let machines = listing::list(state).await?;
    let targets: Vec<_> = names.iter().map(|name| find(&machines, name)).collect::<Result<_, _>>()?;
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
