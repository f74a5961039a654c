//! Asks the machines in the tunnel what they are made of, as Omni does: `MachineStatuses.omni.sidero.dev`.
//!
//! ```text
//! Link connected, machine accepted --tunnel--> [machine]:50000  lists --> MachineStatus
//! not connected                                                       --> MachineStatus.connected = false
//! no Link                                                             --> no MachineStatus
//! ```
//!
//! Machines are asked again every few minutes; nothing depends on the answers. A machine with Talos installed asks
//! for a certificate that the hub does not have: what was known of it stays.

mod facts;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use agent_wire::inventory as kinds;
use agent_wire::machine::machine_service_client::MachineServiceClient;
use agent_wire::storage::storage_service_client::StorageServiceClient;
use cosi::{Missing, Resource, StateError};
use cosi_wire::resource::ListRequest;
use cosi_wire::resource::state_client::StateClient;
use futures_util::{StreamExt, stream};
use prost::Message;
use provider::resources::{LABEL_CLUSTER, LABEL_MACHINE_REQUEST, LABEL_ROLE_CONTROLPLANE, LABEL_ROLE_WORKER};
use provider::specs::infra_machine_config_spec::AcceptanceStatus;
use provider::specs::machine_status_spec::Role;
use provider::specs::{InfraMachineSpec, MachineStatusSpec, SiderolinkSpec};
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;

use crate::store::{Typed, kind};
use crate::{Hub, machine_api};
use facts::Facts;

/// How often the links are looked at, as they themselves are.
const ROUND: Duration = Duration::from_secs(30);
/// After this time a machine is asked again; also the longest pause after failures.
const REFRESH: Duration = Duration::from_secs(300);
/// Machines that are asked at once: each costs two streams in the tunnel and some 100 KB.
const VISITS_AT_ONCE: usize = 16;
/// A machine with slow disks answers in a few seconds.
const VISIT_LIMIT: Duration = Duration::from_secs(20);
/// Resources of one type, and bytes of one of them and of all together: far more than any machine tells.
const MAX_LISTED: usize = 1024;
const MAX_RESOURCE: usize = 64 * 1024;
const MAX_VISIT: usize = 4 * 1024 * 1024;
/// Who owns the statuses.
const OWNER: &str = "MachineStatusController";

/// When a machine is asked next.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Instant,
    failures: u32,
}

/// What became of a visit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Visit {
    /// The machine said what it is.
    Told,
    /// It did not.
    Failed,
    /// It was not asked: nobody accepted it.
    LeftAlone,
}

impl Due {
    fn after(self, now: Instant, visit: Visit) -> Self {
        match visit {
            Visit::Told => Self { at: now + REFRESH, failures: 0 },
            Visit::LeftAlone => Self { at: now, failures: 0 },
            Visit::Failed => {
                let failures = self.failures.saturating_add(1);
                // At once in the next round, then ever less often.
                let pause = ROUND * 2u32.saturating_pow(failures.min(8)) / 4;
                Self { at: now + pause.min(REFRESH), failures }
            }
        }
    }
}

/// Asks everybody, for ever. Without WireGuard there is no way to them.
pub(crate) async fn run(hub: &Hub) {
    if hub.wireguard.is_none() {
        return std::future::pending().await;
    }
    let mut due = HashMap::new();
    loop {
        if let Err(error) = round(hub, &mut due).await {
            tracing::warn!(%error, "machines are not asked in this round");
        }
        tokio::time::sleep(ROUND).await;
    }
}

async fn round(hub: &Hub, due: &mut HashMap<String, Due>) -> Result<(), StateError> {
    let links = hub.store.list(&kind::<SiderolinkSpec>()).await?;
    let ids: HashSet<&str> = links.iter().map(Resource::id).collect();
    for status in hub.store.list(&kind::<MachineStatusSpec>()).await? {
        if !ids.contains(status.id()) {
            hub.store.remove(&status.pointer()).await?;
        }
    }
    due.retain(|id, _| ids.contains(id.as_str()));
    let now = Instant::now();
    let mut visits = Vec::new();
    for link in links {
        let link = Typed::<SiderolinkSpec>::read(link)?;
        let id = link.metadata.id.clone();
        if !link.spec.connected || link.tearing_down() {
            due.remove(&id);
            disconnected(hub, &id).await?;
        } else {
            let last = *due.entry(id.clone()).or_insert(Due { at: now, failures: 0 });
            if last.at <= now {
                visits.push((id, link, last));
            }
        }
    }
    let visited: Vec<(String, Due)> = stream::iter(visits)
        .map(|(id, link, last)| async move {
            let visited = visit(hub, &id, &link).await.unwrap_or_else(|error| {
                tracing::warn!(id, %error, "what a machine told cannot be kept");
                Visit::Failed
            });
            (id, last.after(Instant::now(), visited))
        })
        .buffer_unordered(VISITS_AT_ONCE)
        .collect()
        .await;
    due.extend(visited);
    Ok(())
}

async fn disconnected(hub: &Hub, id: &str) -> Result<(), StateError> {
    let Some(status) = hub.store.find::<MachineStatusSpec>(id).await? else { return Ok(()) };
    if status.spec.connected {
        let change = |_: &mut cosi::Metadata, spec: &mut MachineStatusSpec| {
            spec.connected = false;
            Ok(())
        };
        hub.store.put::<MachineStatusSpec, _>(id, OWNER, Missing::Create, change).await?;
    }
    Ok(())
}

/// Asks one machine and writes down what it says.
pub(crate) async fn visit(hub: &Hub, id: &str, link: &Typed<SiderolinkSpec>) -> Result<Visit, StateError> {
    let machine = hub.store.find::<InfraMachineSpec>(id).await?;
    let accepted = match &machine {
        Some(machine) => machine.spec.acceptance_status() == AcceptanceStatus::Accepted,
        // A machine that somebody requested is as good as accepted.
        None => link.label(LABEL_MACHINE_REQUEST).is_some(),
    };
    if !accepted {
        return Ok(Visit::LeftAlone);
    }
    let address = link.spec.node_subnet.split('/').next().unwrap_or_default().to_owned();
    let collected = tokio::time::timeout(VISIT_LIMIT, ask(hub, &address)).await;
    let collected = collected.unwrap_or(Err(CollectError::TooLong));
    let change = |_: &mut cosi::Metadata, spec: &mut MachineStatusSpec| {
        spec.connected = true;
        spec.management_address.clone_from(&address);
        allocation(machine.as_ref(), spec);
        match &collected {
            Ok(facts) => {
                facts.write(spec);
                spec.maintenance = true;
            }
            Err(error) => spec.last_error = error.to_string(),
        }
        Ok(())
    };
    hub.store.put::<MachineStatusSpec, _>(id, OWNER, Missing::Create, change).await?;
    if let Err(error) = &collected {
        tracing::debug!(id, %error, "a machine does not say what it is");
    }
    Ok(if collected.is_ok() { Visit::Told } else { Visit::Failed })
}

fn allocation(machine: Option<&Typed<InfraMachineSpec>>, spec: &mut MachineStatusSpec) {
    let label = |key| machine.and_then(|machine| machine.label(key));
    spec.cluster = label(LABEL_CLUSTER).unwrap_or_default().to_owned();
    let role = match (label(LABEL_ROLE_CONTROLPLANE), label(LABEL_ROLE_WORKER)) {
        (Some(_), _) => Role::ControlPlane,
        (None, Some(_)) => Role::Worker,
        (None, None) => Role::None,
    };
    spec.set_role(role);
}

/// Why a machine could not be asked.
#[derive(Debug, thiserror::Error)]
enum CollectError {
    #[error("the hub has no tunnel to it")]
    NoTunnel,
    #[error("the machine does not answer, or not without a certificate")]
    Connect(#[from] tonic::transport::Error),
    #[error("the machine refuses: {}", .0.message())]
    Refused(#[from] Status),
    #[error("the machine tells too much")]
    TooMuch,
    #[error("the machine tells something that cannot be read")]
    Unreadable(#[from] prost::DecodeError),
    #[error("the machine takes too long")]
    TooLong,
}

async fn ask(hub: &Hub, address: &str) -> Result<Facts, CollectError> {
    let wireguard = hub.wireguard.as_ref().ok_or(CollectError::NoTunnel)?;
    let address = address.parse().map_err(|_| CollectError::NoTunnel)?;
    collect(machine_api::reach(wireguard, address).await?).await
}

/// Lists everything that Omni shows.
async fn collect(channel: Channel) -> Result<Facts, CollectError> {
    let mut machine = MachineServiceClient::new(channel.clone()).max_decoding_message_size(MAX_RESOURCE);
    let version = machine.version(()).await?.into_inner().messages.into_iter().next().unwrap_or_default();
    let version = version.version.unwrap_or_default();
    let mut storage = StorageServiceClient::new(channel.clone()).max_decoding_message_size(MAX_VISIT);
    let disks = storage.disks(()).await?.into_inner().messages.into_iter().flat_map(|one| one.disks);
    let system_disk = disks.filter(|disk| disk.system_disk).map(|disk| disk.device_name).next();
    let mut list =
        List { client: StateClient::new(channel).max_decoding_message_size(MAX_RESOURCE), left: MAX_VISIT };
    let addresses = list.all(kinds::NODE_ADDRESSES).await?;
    let current = addresses.into_iter().find(|(id, _)| id == kinds::NODE_ADDRESS_CURRENT_ID);
    Ok(Facts {
        talos_version: version.tag,
        arch: version.arch,
        version: list.first(kinds::VERSION).await?,
        processors: list.specs(kinds::PROCESSORS).await?,
        memory_modules: list.specs(kinds::MEMORY_MODULES).await?,
        disks: list.all(kinds::DISKS).await?,
        system_disk: system_disk.map(|name| name.trim_start_matches("/dev/").to_owned()),
        links: list.all(kinds::LINKS).await?,
        addresses: current.map(|(_, addresses)| addresses),
        routes: list.specs(kinds::ROUTES).await?,
        hostname: list.first(kinds::HOSTNAME).await?,
        platform: list.first(kinds::PLATFORM_METADATA).await?,
        security: list.first(kinds::SECURITY_STATE).await?,
        cmdline: list.first(kinds::KERNEL_CMDLINE).await?,
        extensions: list.specs(kinds::EXTENSIONS).await?,
    })
}

/// Lists types, up to the limits.
struct List {
    client: StateClient<Channel>,
    left: usize,
}

impl List {
    async fn all<T: Message + Default>(
        &mut self,
        (namespace, typ): (&str, &str),
    ) -> Result<Vec<(String, T)>, CollectError> {
        let request = ListRequest { namespace: namespace.to_owned(), r#type: typ.to_owned(), options: None };
        let mut answers = match self.client.list(request).await {
            Ok(answers) => answers.into_inner(),
            // Talos' word for a type that it does not know.
            Err(status) if status.code() == tonic::Code::PermissionDenied => return Ok(Vec::new()),
            Err(status) => return Err(status.into()),
        };
        let mut found = Vec::new();
        while let Some(answer) = answers.message().await? {
            let size = answer.encoded_len();
            self.left = self.left.checked_sub(size).ok_or(CollectError::TooMuch)?;
            if found.len() >= MAX_LISTED {
                return Err(CollectError::TooMuch);
            }
            let Some(resource) = answer.resource else { continue };
            let id = resource.metadata.unwrap_or_default().id;
            found.push((id, T::decode(resource.spec.unwrap_or_default().proto_spec)?));
        }
        Ok(found)
    }

    async fn specs<T: Message + Default>(&mut self, kind: (&str, &str)) -> Result<Vec<T>, CollectError> {
        Ok(self.all(kind).await?.into_iter().map(|(_, spec)| spec).collect())
    }

    async fn first<T: Message + Default>(&mut self, kind: (&str, &str)) -> Result<Option<T>, CollectError> {
        Ok(self.specs(kind).await?.into_iter().next())
    }
}

#[cfg(test)]
mod tests;
