use super::*;

/// What Go makes of the text in `agent.yaml`.
const AGENT_ID: &str = "5aa129fe263e8e7cc91735325e0fcc3b5c851ba04befb158ff93a8a5b2804c55";
/// Texts and what Go's writer (go.yaml.in/yaml v4.0.0-rc.4, which Image Factory v1.4.0 uses) makes of them.
const SCALARS: &str = include_str!("scalars.tsv");

#[test]
fn every_text_is_written_as_go_writes_it() {
    let mut lines = 0;
    for line in SCALARS.lines() {
        let (text, expected) = line.split_once('\t').unwrap();
        assert_eq!(scalar::written(text), expected, "{text:?}");
        lines += 1;
    }
    assert!(lines > 400);
}

/// Measured with the factory's own package, v1.4.0.
#[test]
fn ids_are_the_ones_that_the_factory_gives() {
    let ids = [
        (Schematic::new(), EMPTY_ID),
        (
            Schematic::new().kernel_arg("vga=791").unwrap(),
            "eea1f9534c46d95c4715a2f13d17eacb927c13a42ef087c79b22c3bd0c49d073",
        ),
        (
            Schematic::new().meta(10, "{}").unwrap(),
            "de3de71abf5a50551986885ddf49ce25e86459a502da360255704ecffdec2e35",
        ),
    ];
    for (schematic, id) in ids {
        assert_eq!(schematic.id(), id, "{}", schematic.yaml());
    }
}

#[test]
fn every_field_stands_where_the_factory_puts_it() {
    let schematic = Schematic::new()
        .extension("siderolabs/amd-ucode")
        .and_then(|it| it.meta(10, "a: b"))
        .and_then(|it| it.meta(255, ""))
        .and_then(|it| it.kernel_arg("talos.config=http://10.0.0.1:50042/config?u=${uuid}"))
        .and_then(|it| it.kernel_arg("-console"))
        .and_then(|it| it.kernel_arg("1"))
        .unwrap();
    let expected = "customization:\n    extraKernelArgs:\n        \
                    - talos.config=http://10.0.0.1:50042/config?u=${uuid}\n        - -console\n        - \"1\"\n    \
                    meta:\n        - key: 10\n          value: 'a: b'\n        - key: 255\n          value: \"\"\n    \
                    systemExtensions:\n        officialExtensions:\n            - siderolabs/amd-ucode\n";
    assert_eq!(schematic.yaml(), expected);
}

#[test]
fn the_agent_is_the_one_of_the_go_provider() {
    let agent = Schematic::agent(["console=tty0"]).unwrap();
    assert_eq!(agent.yaml(), include_str!("agent.yaml"));
    assert_eq!(agent.id(), AGENT_ID);
}

#[test]
fn the_order_of_extensions_makes_no_other_schematic_and_that_of_arguments_does() {
    let one = Schematic::talos(["b", "a", "b"], ["x", "y"]).unwrap();
    assert_eq!(one, Schematic::talos(["a", "b"], ["x", "y"]).unwrap());
    assert_ne!(one.id(), Schematic::talos(["a", "b"], ["y", "x"]).unwrap().id());
}

#[test]
fn what_no_kernel_reads_is_refused() {
    for text in ["", "a b", "a\nb", "a\tb", "é", "\u{7f}", "\0"] {
        assert!(matches!(Schematic::new().kernel_arg(text), Err(SchematicError::Text { .. })), "{text:?}");
        assert!(matches!(Schematic::new().extension(text), Err(SchematicError::Text { .. })), "{text:?}");
    }
    assert!(Schematic::new().meta(1, "a b").is_ok());
    assert!(matches!(Schematic::new().meta(1, "a\nb"), Err(SchematicError::Text { .. })));
    let long = "x".repeat(TEXT_MAX + 1);
    let too_long = |what| Err(SchematicError::TooLong { what, bytes: TEXT_MAX + 1 });
    assert_eq!(Schematic::new().kernel_arg(&long), too_long("a kernel argument"));
    assert_eq!(Schematic::new().meta(1, &long), too_long("a META value"));
    let many = vec!["x"; ENTRIES_MAX + 1];
    assert_eq!(Schematic::talos([], many), Err(SchematicError::TooMany("kernel arguments")));
}

proptest::proptest! {
    /// A YAML reader finds the same text again.
    #[test]
    fn what_is_written_is_read_as_the_same_text(text in "[ -~]{0,24}") {
        let read: String = serde_yaml_ng::from_str(&scalar::written(&text)).unwrap();
        proptest::prop_assert_eq!(read, text);
    }
}
