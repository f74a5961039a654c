//! Names and aliases.

use super::*;

fn definition(typ: &str) -> ResourceDefinitionSpec {
    DEFINITIONS.iter().find(|definition| definition.typ == typ).expect("it is defined").spec()
}

#[test]
fn aliases_are_those_of_cosi() {
    // As COSI's runtime computes them.
    let spec = definition("InfraMachineStatuses.omni.sidero.dev");
    assert_eq!(spec.display_type, "InfraMachineStatus");
    assert_eq!(spec.aliases, ["inframachinestatus", "ims"]);
    assert_eq!(
        spec.all_aliases,
        [
            "inframachinestatuses",
            "inframachinestatuses.omni",
            "inframachinestatuses.omni.sidero",
            "inframachinestatus",
            "ims"
        ]
    );
    let spec = definition("BMCConfigs.omni.sidero.dev");
    assert_eq!(spec.aliases, ["bmcconfig", "bmcc", "bmccs"]);
    assert_eq!(definition("Identities.omni.sidero.dev").display_type, "Identity");
    assert_eq!(definition("Links.omni.sidero.dev").aliases, ["link"]);
}

#[test]
fn the_yaml_has_the_names_of_cosi() {
    let yaml = shown(&definition("ProviderJoinConfigs.omni.sidero.dev"));
    assert!(yaml.starts_with("type: ProviderJoinConfigs.omni.sidero.dev\ndisplayType: ProviderJoinConfig\n"));
    assert!(yaml.contains("defaultNamespace: infra-provider\n"));
    assert!(yaml.ends_with("printColumns: []\n"), "{yaml}");
    assert!(shown(&definition("NodeUniqueTokens.omni.sidero.dev")).ends_with("sensitivity: sensitive\n"));
}

#[test]
fn no_type_is_defined_twice() {
    let names: std::collections::BTreeSet<_> = DEFINITIONS.iter().map(|definition| definition.typ).collect();
    assert_eq!(names.len(), DEFINITIONS.len());
}
