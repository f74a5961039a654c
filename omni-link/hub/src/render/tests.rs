//! What is rendered and what stays as it was sent.

use super::*;

fn resource(typ: &str, proto: &[u8], yaml: &str) -> Resource {
    Resource::new("infra-provider", typ, "x", proto.to_vec()).with_yaml(yaml)
}

#[test]
fn known_types_are_rendered_whatever_was_sent() {
    let spec = specs::InfraProviderStatusSpec { name: "Bare Metal".to_owned(), ..Default::default() };
    let mut sent = resource(specs::InfraProviderStatusSpec::TYPE, &spec.encode_to_vec(), "made: up\n");
    fill(&mut sent).unwrap();
    assert_eq!(sent.spec.yaml, "schema: ''\nname: Bare Metal\ndescription: ''\nicon: ''\nversion: ''\n");
}

#[test]
fn an_empty_message_is_an_empty_map() {
    let mut sent = resource(specs::InfraProviderSpec::TYPE, &[], "");
    fill(&mut sent).unwrap();
    assert_eq!(sent.spec.yaml, "{}\n");
}

#[test]
fn unknown_types_and_private_records_stay_as_they_were_sent() {
    for mut sent in [
        resource("os/path", b"\xff\xff", "a: b\n"),
        Resource::new("infra-provider:x", specs::InfraMachineSpec::TYPE, "x", b"\xff\xff".to_vec())
            .with_yaml("a: b\n"),
    ] {
        let before = sent.clone();
        fill(&mut sent).unwrap();
        assert_eq!(sent, before);
    }
}

#[test]
fn garbage_as_the_spec_of_a_known_type_is_refused() {
    let mut sent = resource(specs::InfraMachineStatusSpec::TYPE, b"\xff\xff\xff", "");
    assert!(matches!(fill(&mut sent), Err(StateError::InvalidArgument(_))));
}

#[test]
fn fields_and_values_that_are_not_known_are_kept() {
    // Field 2 (ready) as known, field 1 with an unknown value, field 99 unknown.
    let proto = [0x08, 0x63, 0x10, 0x01, 0x98, 0x06, 0x07];
    let mut sent = resource(specs::InfraMachineStatusSpec::TYPE, &proto, "");
    fill(&mut sent).unwrap();
    assert_eq!(&sent.spec.proto[..], &proto);
    assert!(sent.spec.yaml.contains("powerstate: 99\n"), "{}", sent.spec.yaml);
    assert!(sent.spec.yaml.contains("readytouse: true\n"), "{}", sent.spec.yaml);
}

#[test]
fn a_cluster_keeps_the_yaml_with_the_fields_that_are_not_ours() {
    let spec = specs::ClusterSpec { talos_version: "1.13.8".to_owned(), ..Default::default() };
    let mut sent = resource(specs::ClusterSpec::TYPE, &spec.encode_to_vec(), "features: {}\n");
    fill(&mut sent).unwrap();
    assert_eq!(sent.spec.yaml, "features: {}\n");
}
