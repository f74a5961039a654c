//! The types as users know them: `ResourceDefinitions.meta.cosi.dev`.

use cosi::{Missing, Resource, StateError};
use futures_util::future::try_join_all;
use provider::resources::{EPHEMERAL_NAMESPACE, PENDING_MACHINE_TYPE, ResourceSpec};
use provider::specs;
use provider::specs::ResourceDefinitionSpec;
use provider::specs::resource_definition_spec::{PrintColumn, Sensitivity};
use serde::Serialize;

use crate::render::yaml;
use crate::store::{Store, pointer};

/// A type: its name, where it lives, and what tables show of it.
struct Definition {
    typ: &'static str,
    namespace: &'static str,
    columns: &'static [(&'static str, &'static str)],
    secret: bool,
}

const fn of<T: ResourceSpec>(columns: &'static [(&'static str, &'static str)]) -> Definition {
    Definition { typ: T::TYPE, namespace: T::NAMESPACE, columns, secret: false }
}

const fn secret<T: ResourceSpec>() -> Definition {
    Definition { typ: T::TYPE, namespace: T::NAMESPACE, columns: &[], secret: true }
}

const DEFINITIONS: &[Definition] = &[
    of::<specs::BmcConfigSpec>(&[]),
    of::<specs::ClusterSpec>(&[
        ("Talos Version", "{.talosversion}"),
        ("Kubernetes Version", "{.kubernetesversion}"),
    ]),
    of::<specs::ConnectionParamsSpec>(&[("API", "{.apiendpoint}"), ("Wireguard", "{.wireguardendpoint}")]),
    of::<specs::FeaturesConfigSpec>(&[]),
    of::<specs::IdentitySpec>(&[]),
    of::<specs::InfraMachineBmcConfigSpec>(&[
        ("IPMI Address", "{.ipmi.address}"),
        ("IPMI Username", "{.ipmi.username}"),
    ]),
    of::<specs::InfraMachineConfigSpec>(&[
        ("Power State", "{.powerstate}"),
        ("Acceptance", "{.acceptancestatus}"),
        ("Extra Kernel Args", "{.extrakernelargs}"),
        ("Requested Reboot ID", "{.requestedrebootid}"),
        ("Cordoned", "{.cordoned}"),
    ]),
    of::<specs::InfraMachineSpec>(&[
        ("Preferred Power State", "{.preferredpowerstate}"),
        ("Acceptance Status", "{.acceptancestatus}"),
        ("Cluster Talos Version", "{.clustertalosversion}"),
        ("Wipe ID", "{.wipeid}"),
        ("Requested Reboot ID", "{.requestedrebootid}"),
        ("Cordoned", "{.cordoned}"),
    ]),
    of::<specs::InfraMachineStatusSpec>(&[
        ("Power State", "{.powerstate}"),
        ("Ready", "{.readytouse}"),
        ("Last Reboot ID", "{.lastrebootid}"),
        ("Installed", "{.installed}"),
    ]),
    of::<specs::InfraProviderCombinedStatusSpec>(&[
        ("Name", "{.name}"),
        ("Description", "{.description}"),
        ("Version", "{.version}"),
        ("Connected", "{.health.connected}"),
    ]),
    of::<specs::InfraProviderHealthStatusSpec>(&[
        ("Last Heartbeat Timestamp", "{.lastheartbeattimestamp}"),
        ("Error", "{.error}"),
    ]),
    of::<specs::InfraProviderSpec>(&[]),
    of::<specs::InfraProviderStatusSpec>(&[
        ("Name", "{.name}"),
        ("Description", "{.description}"),
        ("Version", "{.version}"),
    ]),
    of::<specs::LinkStatusSpec>(&[]),
    of::<specs::MachineClassSpec>(&[]),
    of::<specs::MachineRegistrationSpec>(&[]),
    of::<specs::MachineRequestSetSpec>(&[
        ("ProviderID", "{.providerid}"),
        ("MachineCount", "{.machinecount}"),
    ]),
    of::<specs::MachineRequestSetStatusSpec>(&[]),
    of::<specs::MachineRequestSpec>(&[("Talos Version", "{.talosversion}")]),
    of::<specs::MachineRequestStatusSpec>(&[]),
    of::<specs::MachineSetNodeSpec>(&[]),
    of::<specs::MachineStatusSpec>(&[
        ("Cluster", "{.cluster}"),
        ("Connected", "{.connected}"),
        ("Talos Version", "{.talosversion}"),
        ("Hostname", "{.network.hostname}"),
    ]),
    secret::<specs::NodeUniqueTokenSpec>(),
    secret::<specs::PendingMachineStatusSpec>(),
    of::<specs::ProviderJoinConfigSpec>(&[]),
    of::<specs::PublicKeySpec>(&[]),
    of::<ResourceDefinitionSpec>(&[("Aliases", "{.aliases[:]}")]),
    of::<specs::SiderolinkApiConfigSpec>(&[]),
    secret::<specs::SiderolinkConfigSpec>(),
    of::<specs::SiderolinkSpec>(&[("Connected", "{.connected}"), ("LastEndpoint", "{.lastendpoint}")]),
    of::<specs::SysVersionSpec>(&[]),
    of::<specs::UserSpec>(&[]),
    Definition { typ: PENDING_MACHINE_TYPE, namespace: EPHEMERAL_NAMESPACE, columns: &[], secret: false },
];

/// As COSI's runtime writes it out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    #[serde(rename = "type")]
    typ: &'a str,
    display_type: &'a str,
    default_namespace: &'a str,
    aliases: &'a [String],
    all_aliases: &'a [String],
    print_columns: Vec<ShownColumn<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sensitivity: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownColumn<'a> {
    name: &'a str,
    json_path: &'a str,
}

/// Writes all definitions that are missing or different.
pub(crate) async fn prepare(store: &Store) -> Result<(), StateError> {
    try_join_all(DEFINITIONS.iter().map(|definition| put(store, definition))).await.map(drop)
}

async fn put(store: &Store, definition: &Definition) -> Result<(), StateError> {
    let spec = definition.spec();
    let pointer = pointer::<ResourceDefinitionSpec>(&definition.typ.to_lowercase());
    let change = |resource: &mut Resource| {
        resource.encode(&spec);
        resource.spec.yaml = shown(&spec);
        Ok(())
    };
    cosi::modify(&*store.state(), &pointer, "", Missing::Create, change).await.map(drop)
}

impl Definition {
    fn spec(&self) -> ResourceDefinitionSpec {
        let (name, suffix) = self.typ.split_once('.').unwrap_or((self.typ, ""));
        let singular = singular(name);
        let mut aliases = vec![singular.to_lowercase()];
        let letters: String = name.chars().filter(char::is_ascii_uppercase).collect();
        if letters.len() > 1 {
            aliases.push(letters.to_lowercase());
            if !letters.ends_with('S') {
                aliases.push(format!("{}s", letters.to_lowercase()));
            }
        }
        if self.typ == ResourceDefinitionSpec::TYPE {
            aliases.insert(0, "api-resources".to_owned());
        }
        let mut all_aliases = vec![name.to_lowercase()];
        let parts: Vec<&str> = suffix.split('.').collect();
        for end in 1..parts.len() {
            all_aliases.push(format!("{}.{}", name.to_lowercase(), parts[..end].join(".")));
        }
        all_aliases.extend(aliases.iter().cloned());
        let column =
            |&(name, path): &(&str, &str)| PrintColumn { name: name.to_owned(), json_path: path.to_owned() };
        let sensitivity = if self.secret { Sensitivity::Sensitive } else { Sensitivity::NonSensitive };
        ResourceDefinitionSpec {
            resource_type: self.typ.to_owned(),
            display_type: singular,
            default_namespace: self.namespace.to_owned(),
            aliases,
            all_aliases,
            print_columns: self.columns.iter().map(column).collect(),
            sensitivity: sensitivity as i32,
        }
    }
}

fn shown(spec: &ResourceDefinitionSpec) -> String {
    yaml(&Shown {
        typ: &spec.resource_type,
        display_type: &spec.display_type,
        default_namespace: &spec.default_namespace,
        aliases: &spec.aliases,
        all_aliases: &spec.all_aliases,
        print_columns: spec
            .print_columns
            .iter()
            .map(|PrintColumn { name, json_path }| ShownColumn { name, json_path })
            .collect(),
        sensitivity: (spec.sensitivity() == Sensitivity::Sensitive).then_some("sensitive"),
    })
}

/// Of the plurals that Omni's types have.
fn singular(plural: &str) -> String {
    for (ending, singular) in [("Statuses", "Status"), ("sses", "ss"), ("ies", "y"), ("s", "")] {
        if let Some(stem) = plural.strip_suffix(ending) {
            return format!("{stem}{singular}");
        }
    }
    plural.to_owned()
}

#[cfg(test)]
mod tests;
