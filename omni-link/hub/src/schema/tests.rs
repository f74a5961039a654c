use super::*;

const VM: &str = r##"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "additionalProperties": false,
  "required": ["cores"],
  "properties": {
    "cores": {"type": "integer", "minimum": 1, "maximum": 64},
    "memory": {"type": "integer", "multipleOf": 512},
    "size": {"enum": ["t2.small", "t2.large"]},
    "name": {"type": "string", "minLength": 1, "maxLength": 8, "pattern": "^[a-z]\\w*$"},
    "disks": {"type": "array", "minItems": 1, "maxItems": 2, "uniqueItems": true, "items": {"$ref": "#/$defs/disk"}},
    "labels": {"type": "object", "patternProperties": {"^x-": {"type": "string"}}, "additionalProperties": {"type": "integer"}}
  },
  "$defs": {"disk": {"type": "object", "required": ["gib"], "properties": {"gib": {"type": "number", "exclusiveMinimum": 0}}}}
}"##;

fn violations(schema: &str, yaml: &str) -> Vec<String> {
    match check(schema, yaml) {
        Ok(()) => Vec::new(),
        Err(SchemaError::Violated(Violations(violations))) => violations,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn data_that_is_as_the_schema_says_is_accepted() {
    for yaml in [
        "cores: 2",
        "cores: 2.0",
        "{cores: 64, memory: 1024, size: t2.small, name: web_1}",
        "cores: 1\ndisks: [{gib: 0.5}, {gib: 2}]\nlabels: {x-a: text, b: 3}\n",
    ] {
        assert_eq!(violations(VM, yaml), Vec::<String>::new(), "{yaml}");
    }
}

#[test]
fn each_violation_names_its_place_in_omnis_words() {
    for (yaml, expected) in [
        ("cores: 0", "config value \".cores\": must be at least 1"),
        ("cores: 65", "config value \".cores\": must be at most 64"),
        ("", "config value \".cores\": is required"),
        ("cores: many", "config value \".cores\": must be of type integer, but got string"),
        ("cores: 1.5", "config value \".cores\": must be of type integer, but got number"),
        ("cores: null", "config value \".cores\": is required but was not set"),
        ("cores: .nan", "config value \".cores\": is required but was not set"),
        ("{cores: 1, memory: 100}", "config value \".memory\": must be a multiple of 512"),
        ("{cores: 1, size: big}", "config value \".size\": must be one of 't2.small', 't2.large'"),
        ("{cores: 1, name: ''}", "config value \".name\": must not be empty"),
        ("{cores: 1, name: abcdefghi}", "config value \".name\": must have at most 8 characters"),
        ("{cores: 1, name: 7up, x: 1}", "config value \".\": has unknown properties: x"),
        ("{cores: 1, disks: []}", "config value \".disks\": must have at least 1 items"),
        ("{cores: 1, disks: [{gib: 0}]}", "config value \".disks.0.gib\": must be greater than 0"),
        ("{cores: 1, disks: [{gib: 1}, {gib: 1}]}", "config value \".disks.1\": is there twice"),
        (
            "{cores: 1, labels: {x-a: 1}}",
            "config value \".labels.x-a\": must be of type string, but got integer",
        ),
        ("{cores: 1, labels: {b: y}}", "config value \".labels.b\": must be of type integer, but got string"),
        ("- 1", "config value \".\": must be of type object, but got array"),
    ] {
        let found = violations(VM, yaml);
        assert!(found.iter().any(|found| found == expected), "{yaml}: {found:?}");
    }
    let both = check(VM, "{cores: 0, memory: 1}").unwrap_err().to_string();
    assert_eq!(both.lines().count(), 2, "{both}");
    assert!(both.lines().all(|line| line.starts_with("- config value")), "{both}");
}

#[test]
fn schemas_are_combined() {
    for (schema, good, bad) in [
        (r#"{"allOf": [{"required": ["a"]}, {"required": ["b"]}]}"#, "{a: 1, b: 1}", "a: 1"),
        (r#"{"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}"#, "b: 1", "c: 1"),
        (r#"{"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}"#, "b: 1", "{a: 1, b: 1}"),
        (r#"{"not": {"required": ["a"]}}"#, "b: 1", "a: 1"),
        (
            r#"{"if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": {"required": ["c"]}}"#,
            "c: 1",
            "a: 1",
        ),
        (r#"{"dependentRequired": {"a": ["b"]}}"#, "b: 1", "a: 1"),
        (r#"{"dependentSchemas": {"a": {"required": ["b"]}}}"#, "b: 1", "a: 1"),
        (r#"{"propertyNames": {"maxLength": 1}}"#, "a: 1", "ab: 1"),
        (r#"{"minProperties": 1, "maxProperties": 1}"#, "a: 1", "{a: 1, b: 1}"),
        (r#"{"properties": {"a": {"const": 1}}}"#, "a: 1.0", "a: 2"),
        (r#"{"properties": {"a": false}}"#, "b: 1", "a: 1"),
        (r#"{"properties": {"a": {"contains": {"const": 1}}}}"#, "a: [0, 1]", "a: [0]"),
        (
            r#"{"properties": {"a": {"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}}}"#,
            "a: [x, 1]",
            "a: [x, y]",
        ),
        (
            r#"{"properties": {"a": {"items": [{"type": "string"}], "additionalItems": false}}}"#,
            "a: [x]",
            "a: [x, y]",
        ),
        (r#"{"properties": {"a": {"type": ["string", "null"]}}}"#, "a: null", "a: 1"),
    ] {
        assert_eq!(violations(schema, good), Vec::<String>::new(), "{schema} {good}");
        assert!(!violations(schema, bad).is_empty(), "{schema} {bad}");
    }
}

#[test]
fn words_that_are_not_known_are_passed_over() {
    let schema = r#"{"x-cli-flag": 7, "properties": {"mail": {"format": "email", "title": "Mail"}}, "unevaluatedProperties": false}"#;
    assert_eq!(violations(schema, "{mail: nobody, other: 1}"), Vec::<String>::new());
}

#[test]
fn a_schema_that_is_none_is_told_of_and_nothing_is_fetched() {
    for schema in [
        "",
        "{",
        "7",
        r#"{"properties": {"a": 1}}"#,
        r#"{"properties": {"a": {"minLength": -1}}}"#,
        r#"{"properties": {"a": {"pattern": "(?=x)"}}}"#,
        r#"{"properties": {"a": {"pattern": "(((a{1000}){1000}){1000})"}}}"#,
        r#"{"required": "a"}"#,
        r#"{"enum": 1}"#,
        r#"{"$ref": "https://example.org/schema.json"}"#,
        r##"{"$ref": "#/nowhere"}"##,
    ] {
        let error = check(schema, "a: text").unwrap_err();
        assert!(matches!(error, SchemaError::Schema(_)), "{schema}: {error}");
    }
    let huge = format!("{{\"title\": \"{}\"}}", "x".repeat(MAX_SCHEMA));
    assert!(matches!(check(&huge, ""), Err(SchemaError::Schema(_))));
    assert!(matches!(check("{}", "a: [1"), Err(SchemaError::Data(_))));
}

#[test]
fn a_schema_that_would_take_for_ever_ends() {
    let endless = r##"{"$ref": "#"}"##;
    assert!(matches!(check(endless, "a: 1"), Err(SchemaError::TooMuch)));
    let doubling = r##"{"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}, {"$ref": "#/$defs/b"}]},
        "b": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}}"##;
    assert!(matches!(check(doubling, "a: 1"), Err(SchemaError::TooMuch)));
    let deep = format!("{}{}", "{\"not\":".repeat(100), "true".to_owned() + &"}".repeat(100));
    assert!(check(&deep, "a: 1").is_err());
}

proptest::proptest! {
    #[test]
    fn any_schema_and_data_end(schema in "[\\[\\]{}\":,a-z0-9#$/ ]{0,64}", yaml in "[a-z:\\-\\[\\]{}, \n&*!|>0-9]{0,64}") {
        let _ = check(&schema, &yaml);
        let _ = check(VM, &yaml);
    }
}
