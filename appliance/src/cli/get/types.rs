//! The names of resource types that `omnictl` understands too: full, singular, plural, in any case.

use provider::resources::{PENDING_MACHINE_TYPE, ResourceSpec};
use provider::specs;
use serde::Deserialize;

/// A type that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) namespace: &'static str,
    pub(super) typ: &'static str,
    /// A short name of ours.
    short: Option<&'static str>,
}

fn of<T: ResourceSpec>(short: Option<&'static str>) -> Known {
    Known { namespace: T::NAMESPACE, typ: T::TYPE, short }
}

fn all() -> [Known; 16] {
    [
        of::<specs::InfraMachineSpec>(Some("machines")),
        of::<specs::InfraMachineConfigSpec>(None),
        of::<specs::InfraMachineStatusSpec>(None),
        of::<specs::InfraProviderSpec>(Some("providers")),
        of::<specs::InfraProviderStatusSpec>(None),
        of::<specs::InfraProviderHealthStatusSpec>(None),
        of::<specs::BmcConfigSpec>(None),
        of::<specs::ProviderJoinConfigSpec>(None),
        of::<specs::InfraMachineBmcConfigSpec>(None),
        of::<specs::ClusterSpec>(None),
        of::<specs::MachineSetNodeSpec>(None),
        of::<specs::SiderolinkSpec>(None),
        of::<specs::SiderolinkConfigSpec>(Some("siderolinkconfigs")),
        of::<specs::SiderolinkApiConfigSpec>(None),
        of::<specs::NodeUniqueTokenSpec>(None),
        Known { namespace: "ephemeral", typ: PENDING_MACHINE_TYPE, short: None },
    ]
}

/// Finds a type by any of its names.
pub(super) fn known(name: &str) -> Option<Known> {
    let name = name.to_ascii_lowercase();
    all().into_iter().find(|known| {
        let full = known.typ.to_ascii_lowercase();
        let plural = full.split('.').next().unwrap_or_default();
        let singular = singular(plural);
        name == full
            || name == plural
            || name == singular
            || known.short.is_some_and(|short| same(short, &name))
    })
}

/// The short names, for the error.
pub(super) fn names() -> Vec<String> {
    all().iter().map(|known| known.typ.split('.').next().unwrap_or_default().to_owned()).collect()
}

fn same(short: &str, name: &str) -> bool {
    name == short || name == singular(short)
}

fn singular(plural: &str) -> String {
    match plural.strip_suffix("ses") {
        Some(stem) => format!("{stem}s"),
        None => plural.strip_suffix('s').unwrap_or(plural).to_owned(),
    }
}

/// What a `ResourceDefinition` says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Definition {
    r#type: String,
    #[serde(default)]
    display_type: String,
    #[serde(default)]
    default_namespace: String,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    all_aliases: Vec<String>,
}

/// Namespace and type, when the definition in `yaml` is of the type called `name`.
pub(super) fn defined(name: &str, yaml: &str) -> Option<(String, String)> {
    let definition: Definition = serde_yaml_ng::from_str(yaml).ok()?;
    let is = |candidate: &String| candidate.eq_ignore_ascii_case(name);
    let found = is(&definition.r#type)
        || is(&definition.display_type)
        || definition.aliases.iter().any(is)
        || definition.all_aliases.iter().any(is);
    found.then_some((definition.default_namespace, definition.r#type))
}
