//! The types that are served, as users know them: `ResourceDefinitions.meta.cosi.dev` and the namespaces.
//!
//! Omni asks for these first and watches the types that it finds. Some have no resources here and are named
//! all the same: Omni takes "there is none" for an answer, but not "there is no such type".

use agent_wire::inventory as kinds;
use agent_wire::meta::resource_definition_spec::PrintColumn;
use agent_wire::meta::{NamespaceSpec, ResourceDefinitionSpec};

use super::Item;
use super::spec::Kind;

/// A type: its other names, and the columns that tables show of it (title, JSON path).
struct Definition {
    kind: Kind,
    aliases: &'static [&'static str],
    columns: &'static [(&'static str, &'static str)],
}

const fn of(
    kind: Kind,
    aliases: &'static [&'static str],
    columns: &'static [(&'static str, &'static str)],
) -> Definition {
    Definition { kind, aliases, columns }
}

const DEFINITIONS: &[Definition] = &[
    of(
        kinds::LINKS,
        &["link", "links"],
        &[
            ("Alias", "{.alias}"),
            ("Type", "{.type}"),
            ("Kind", "{.kind}"),
            ("Hw Addr", "{.hardwareAddr}"),
            ("Oper State", "{.operationalState}"),
            ("Link State", "{.linkState}"),
        ],
    ),
    of(kinds::ADDRESSES, &["address", "addresses"], &[("Address", "{.address}"), ("Link", "{.linkName}")]),
    of(
        kinds::ROUTES,
        &["route", "routes"],
        &[
            ("Destination", "{.dst}"),
            ("Gateway", "{.gateway}"),
            ("Link", "{.outLinkName}"),
            ("Metric", "{.priority}"),
        ],
    ),
    of(kinds::NODE_ADDRESSES, &[], &[("Addresses", "{.addresses}"), ("SortAlgorithm", "{.sortAlgorithm}")]),
    of(kinds::HOSTNAME, &["hostname"], &[("Hostname", "{.hostname}"), ("Domainname", "{.domainname}")]),
    of(
        kinds::SYSTEM_INFORMATION,
        &["systeminformation"],
        &[
            ("Manufacturer", "{.manufacturer}"),
            ("ProductName", "{.productName}"),
            ("Version", "{.version}"),
            ("SerialNumber", "{.serialnumber}"),
            ("UUID", "{.uuid}"),
            ("WakeUpType", "{.wakeUpType}"),
            ("SKUNumber", "{.skuNumber}"),
        ],
    ),
    of(
        kinds::PROCESSORS,
        &["cpus", "cpu"],
        &[
            ("Manufacturer", "{.manufacturer}"),
            ("Model", "{.productName}"),
            ("Cores", "{.coreCount}"),
            ("Threads", "{.threadCount}"),
        ],
    ),
    of(
        kinds::MEMORY_MODULES,
        &["memorymodules", "ram"],
        &[("Manufacturer", "{.manufacturer}"), ("Model", "{.productName}"), ("SizeMiB", "{.sizeMiB}")],
    ),
    of(
        kinds::DISKS,
        &[],
        &[
            ("Size", "{.pretty_size}"),
            ("Read Only", "{.readonly}"),
            ("Transport", "{.transport}"),
            ("Rotational", "{.rotational}"),
            ("WWID", "{.wwid}"),
            ("Model", "{.model}"),
            ("Serial", "{.serial}"),
        ],
    ),
    of(kinds::SYSTEM_DISK, &[], &[("Disk", "{.diskID}")]),
    of(
        kinds::PLATFORM_METADATA,
        &[],
        &[
            ("Platform", "{.platform}"),
            ("Type", "{.instanceType}"),
            ("Region", "{.region}"),
            ("Zone", "{.zone}"),
        ],
    ),
    of(
        kinds::SECURITY_STATE,
        &[],
        &[
            ("SecureBoot", "{.secureBoot}"),
            ("UKISigningKeyFingerprint", "{.ukiSigningKeyFingerprint}"),
            ("PCRSigningKeyFingerprint", "{.pcrSigningKeyFingerprint}"),
            ("SELinuxState", "{.selinuxState}"),
            ("ModuleSignatureEnforced", "{.moduleSignatureEnforced}"),
        ],
    ),
    of(kinds::KERNEL_CMDLINE, &["cmdline"], &[("Cmdline", "{.cmdline}")]),
    of(
        kinds::EXTENSIONS,
        &["extensions"],
        &[("Name", "{.metadata.name}"), ("Version", "{.metadata.version}")],
    ),
    of(kinds::MACHINE_STATUS, &[], &[("Stage", "{.stage}"), ("Ready", "{.status.ready}")]),
    of(kinds::VERSION, &[], &[("Name", "{.name}"), ("Version", "{.version}")]),
    of(kinds::META_KEYS, &["meta"], &[("Value", "{.value}")]),
    of(kinds::UNIQUE_TOKEN, &[], &[("Token", "{.token}")]),
    of(kinds::DIAGNOSTICS, &[], &[("Message", "{.message}")]),
    of(kinds::DEFINITIONS, &["api-resources"], &[("Aliases", "{.aliases[:]}")]),
    of(kinds::NAMESPACES, &["ns"], &[]),
];

const NAMESPACES: &[(&str, &str)] = &[
    ("hardware", "What the machine is made of."),
    ("meta", "The types and the namespaces."),
    ("network", "How the machine is connected."),
    ("runtime", "Disks, and how the machine was started."),
];

/// Whether there is such a type, wherever it lives.
pub(super) fn is_type(typ: &str) -> bool {
    DEFINITIONS.iter().any(|definition| definition.kind.1.eq_ignore_ascii_case(typ))
}

/// Whether there is such a namespace.
pub(super) fn is_namespace(name: &str) -> bool {
    NAMESPACES.iter().any(|(known, _)| *known == name)
}

/// The types and namespaces as resources.
pub(super) fn items() -> Vec<Item> {
    let definitions = DEFINITIONS.iter().map(|definition| {
        let spec = definition.spec();
        Item::new(&definition.kind.1.to_ascii_lowercase(), &spec)
    });
    let namespaces = NAMESPACES.iter().map(|(name, description)| {
        Item::new(name, &NamespaceSpec { description: (*description).to_owned() })
    });
    definitions.chain(namespaces).collect()
}

impl Definition {
    /// Names are made as COSI's runtime makes them.
    fn spec(&self) -> ResourceDefinitionSpec {
        let (namespace, typ) = self.kind;
        let (name, suffix) = typ.split_once('.').unwrap_or((typ, ""));
        let singular = singular(name);
        let lower = name.to_ascii_lowercase();
        let mut aliases: Vec<String> = self.aliases.iter().map(|alias| (*alias).to_owned()).collect();
        aliases.push(singular.to_ascii_lowercase());
        let mut all_aliases = vec![lower.clone()];
        let labels: Vec<&str> = suffix.split('.').collect();
        for end in 1..labels.len() {
            all_aliases.push(format!("{lower}.{}", labels[..end].join(".")));
        }
        let letters: String = name.chars().filter(char::is_ascii_uppercase).collect();
        if letters.len() > 1 {
            aliases.push(letters.to_ascii_lowercase());
            if !letters.ends_with('S') {
                aliases.push(format!("{}s", letters.to_ascii_lowercase()));
            }
        }
        all_aliases.extend(aliases.iter().cloned());
        let columns = self
            .columns
            .iter()
            .map(|(name, path)| PrintColumn { name: (*name).to_owned(), json_path: (*path).to_owned() });
        ResourceDefinitionSpec {
            resource_type: typ.to_owned(),
            display_type: singular.to_owned(),
            default_namespace: namespace.to_owned(),
            aliases,
            all_aliases,
            print_columns: columns.collect(),
            sensitivity: 0,
        }
    }
}

/// English, as far as the names here need it.
fn singular(name: &str) -> &str {
    name.strip_suffix("es")
        .filter(|stem| stem.ends_with('s'))
        .or_else(|| name.strip_suffix('s'))
        .unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_as_cosi_makes_them() {
        let routes = DEFINITIONS.iter().find(|definition| definition.kind == kinds::ROUTES).unwrap().spec();
        assert_eq!(routes.display_type, "RouteStatus");
        assert_eq!(routes.aliases, ["route", "routes", "routestatus", "rs"]);
        assert_eq!(
            routes.all_aliases,
            [
                "routestatuses",
                "routestatuses.net",
                "routestatuses.net.talos",
                "route",
                "routes",
                "routestatus",
                "rs"
            ]
        );
        assert_eq!(singular("NodeAddresses"), "NodeAddress");
        assert_eq!(singular("Namespaces"), "Namespace");
    }

    #[test]
    fn every_type_lives_in_a_namespace_that_is_told() {
        for definition in DEFINITIONS {
            assert!(is_namespace(definition.kind.0) && is_type(definition.kind.1));
        }
        assert!(!is_type("Secrets.talos.dev"));
        assert!(!is_namespace("secrets"));
    }
}
