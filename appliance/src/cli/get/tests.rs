use super::*;

#[test]
fn a_type_has_many_names() {
    for name in [
        "InfraMachines.omni.sidero.dev",
        "inframachines",
        "InfraMachine",
        "infraMachine",
        "machines",
        "machine",
    ] {
        assert_eq!(types::known(name).unwrap().typ, "InfraMachines.omni.sidero.dev", "{name}");
    }
    for name in ["infraMachineStatus", "inframachinestatuses"] {
        assert_eq!(types::known(name).unwrap().typ, "InfraMachineStatuses.omni.sidero.dev", "{name}");
    }
    assert_eq!(types::known("dragons"), None);
}

#[test]
fn a_type_that_only_the_server_knows_is_found_by_its_definition() {
    let yaml = "type: Dragons.omni.sidero.dev\ndisplayType: Dragon\ndefaultNamespace: lair\naliases: [dr]\n";
    for name in ["dragons.omni.sidero.dev", "dragon", "DR"] {
        let found = types::defined(name, yaml).unwrap();
        assert_eq!(found, ("lair".to_owned(), "Dragons.omni.sidero.dev".to_owned()), "{name}");
    }
    assert_eq!(types::defined("dra", yaml), None);
    assert_eq!(types::defined("dragon", "no: definition"), None);
}

#[test]
fn a_selector_is_made_of_terms() {
    let query = selector("rack=r12,!spare,gpu").unwrap();
    let labels = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    assert!(query.matches(&labels(&[("rack", "r12"), ("gpu", "")])));
    assert!(!query.matches(&labels(&[("rack", "r12"), ("gpu", ""), ("spare", "")])));
    assert!(!query.matches(&labels(&[("rack", "r13"), ("gpu", "")])));
    assert!(selector("a,,b").is_err());
}

#[test]
fn a_resource_is_printed_with_its_metadata_and_what_its_yaml_says() {
    let resource = Resource::new("default", "Clusters.omni.sidero.dev", "edge", Vec::new())
        .with_yaml("talosversion: 1.13.9\n")
        .with_label("a", "b");
    let text = serde_yaml_ng::to_string(&printed(&resource)).unwrap();
    assert!(text.contains("id: edge") && text.contains("  talosversion: 1.13.9"), "{text}");
    assert!(!text.contains("finalizers"), "{text}");
}
