use super::*;

/// As Omni gives it.
const JOIN: &str = "apiVersion: v1alpha1\nkind: SideroLinkConfig\napiUrl: grpc://10.0.0.1:8090?jointoken=v2%3Aabc\n---\n\
    apiVersion: v1alpha1\nkind: EventSinkConfig\nendpoint: '[fdae:41e4:649b:9303::1]:8091'\n---\n\
    apiVersion: v1alpha1\nkind: KmsgLogConfig\nname: omni-kmsg\nurl: tcp://[fdae:41e4:649b:9303::1]:8092\n";

fn document(kind: &str, name: &str) -> String {
    format!("apiVersion: v1alpha1\nkind: {kind}\nname: {name}\n")
}

fn ids(text: &str) -> Vec<String> {
    ExtraDocuments::parse(text).unwrap().ids().map(ToString::to_string).collect()
}

#[test]
fn documents_of_the_operator_are_taken() {
    let text = format!(
        "{}---\n{}---\n{}",
        document("KmsgLogConfig", "remote"),
        document("TrustedRootsConfig", "corporate"),
        "apiVersion: v1alpha1\nkind: WatchdogTimerConfig\ndevice: /dev/watchdog0\n"
    );
    assert_eq!(
        ids(&text),
        ["KmsgLogConfig \"remote\"", "TrustedRootsConfig \"corporate\"", "WatchdogTimerConfig"]
    );
}

#[test]
fn no_text_and_comments_alone_are_no_documents() {
    for text in ["", "\n\n", "# nothing yet\n", "---\n", "---\n---\n", "\u{feff}", "---\n# nothing\n"] {
        let extra = ExtraDocuments::parse(text).unwrap();
        assert!(extra.is_empty(), "{text:?}");
        let composed = compose(JOIN, None, &extra).unwrap();
        assert_eq!(identify(&composed).unwrap().len(), 3, "{text:?}");
    }
}

/// Each of these was given to Talos' own loader (machinery v1.13.7), alone and composed: it takes them.
#[test]
fn documents_in_every_dress_are_taken() {
    let (one, two) = (document("KmsgLogConfig", "1"), document("KmsgLogConfig", "2"));
    for text in [
        format!("{one}---\n{two}"),
        format!("---\n{one}---\n{two}---\n"),
        format!("--- # the first\n{one}--- # the second\n{two}\n\n"),
        format!("  \n\n{one}---\n{two}").replace('\n', "\r\n"),
        format!("!!map\n{one}---\n{two}").replace("kind: K", "kind: &kind K"),
        "{apiVersion: v1alpha1, kind: KmsgLogConfig, name: a}\n---\n{\"apiVersion\": \"v1alpha1\", \"kind\": \"X\"}"
            .to_owned(),
    ] {
        let extra = ExtraDocuments::parse(&text).unwrap();
        assert_eq!(extra.ids().count(), 2, "{text:?}");
        let composed = compose(JOIN, Some("PEM"), &extra).unwrap();
        assert_eq!(identify(&composed).unwrap().len(), 6, "{composed}");
    }
}

#[test]
fn what_is_not_the_operators_is_refused_by_its_number() {
    let kept = document("KmsgLogConfig", "remote");
    for (text, what) in [
        ("version: v1alpha1\nmachine: {}\n", "the machine's main document (v1alpha1)"),
        ("machine:\n  type: worker\n", "the machine's main document (v1alpha1)"),
        ("apiVersion: v1alpha1\nkind: SideroLinkConfig\n", "a SideroLinkConfig document"),
        ("apiVersion: v1alpha1\nkind: EventSinkConfig\n", "a EventSinkConfig document"),
        (
            "apiVersion: v1alpha1\nkind: KmsgLogConfig\nname: siderolink-agent-kmsg-log\n",
            "KmsgLogConfig \"siderolink-agent-kmsg-log\"",
        ),
        (
            "apiVersion: v1alpha1\nkind: TrustedRootsConfig\nname: 'infra-provider-ca'\n",
            "TrustedRootsConfig \"infra-provider-ca\"",
        ),
    ] {
        let refused = ExtraDocuments::parse(&format!("{kept}---\n{text}"));
        assert_eq!(refused, Err(ConfigError::Reserved { index: 2, what: what.into() }));
    }
}

#[test]
fn what_talos_would_refuse_is_refused() {
    use ConfigError::*;
    let twice = format!("{0}---\n{0}", document("KmsgLogConfig", "remote"));
    let id = DocumentId { kind: "KmsgLogConfig".into(), name: "remote".into() };
    for (text, expected) in [
        ("- a\n- b\n", NoMapping(1)),
        ("just text\n", NoMapping(1)),
        ("apiVersion: v1alpha1\nname: x\n", Missing { index: 1, field: "kind" }),
        ("kind: KmsgLogConfig\n", Missing { index: 1, field: "apiVersion" }),
        ("kind: [a]\napiVersion: v1alpha1\n", Missing { index: 1, field: "kind" }),
        ("apiVersion: v1alpha1\nkind: X\n$patch: delete\n", Patch(1)),
        (&twice, Duplicate(id)),
        ("%YAML 1.2\n---\nkind: X\napiVersion: v1alpha1\n", Directive(1)),
        ("kind: X\napiVersion: v1alpha1\n...\n", Directive(3)),
    ] {
        assert_eq!(ExtraDocuments::parse(text), Err(expected), "{text:?}");
    }
    for text in ["kind: [", "kind: X\nkind: Y\n", "\tkind: X", "a: *b\n", "{{ template }}"] {
        assert!(ExtraDocuments::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn hostile_sizes_are_refused() {
    assert_eq!(ExtraDocuments::parse(&"#".repeat(CONFIG_MAX + 1)), Err(ConfigError::TooLarge));
    let many: String =
        (0..=DOCUMENTS_MAX).map(|n| format!("---\n{}", document("X", &n.to_string()))).collect();
    assert_eq!(ExtraDocuments::parse(&many), Err(ConfigError::TooLarge));
    for deep in ["[", "{a: ", "- ", "? ", "a:\n "] {
        let text = deep.repeat(CONFIG_MAX / deep.len());
        assert!(ExtraDocuments::parse(&text).is_err(), "{deep:?} ends");
    }
    // Each level doubles what the aliases stand for.
    let bomb: String = (1..40).map(|n| format!("a{n}: &a{n} [*a{0}, *a{0}]\n", n - 1)).collect();
    assert!(ExtraDocuments::parse(&format!("a0: &a0 [x, x]\n{bomb}")).is_err());
}

#[test]
fn the_whole_configuration_is_omnis_then_the_authority_then_the_operators() {
    let extra =
        ExtraDocuments::parse(&format!("\n---\n{}\n\n", document("KmsgLogConfig", "remote"))).unwrap();
    let pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    let composed = compose(JOIN, Some(pem), &extra).unwrap();
    let expected = format!(
        "{JOIN}---\napiVersion: v1alpha1\nkind: TrustedRootsConfig\nname: infra-provider-ca\ncertificates: |\n    \
         -----BEGIN CERTIFICATE-----\n    MIIB\n    -----END CERTIFICATE-----\n---\n\
         apiVersion: v1alpha1\nkind: KmsgLogConfig\nname: remote\n"
    );
    assert_eq!(composed, expected);
    assert_eq!(identify(&composed).unwrap().len(), 5);
}

#[test]
fn omnis_documents_alone_stay_as_they_are() {
    assert_eq!(compose(JOIN, None, &ExtraDocuments::default()).unwrap(), JOIN);
    assert_eq!(compose(JOIN.trim_end(), None, &ExtraDocuments::default()).unwrap(), JOIN);
    assert_eq!(compose(&format!("---\n{JOIN}"), None, &ExtraDocuments::default()).unwrap(), JOIN);
}

#[test]
fn a_document_that_omni_has_too_is_an_error() {
    let extra = ExtraDocuments::parse(&document("KmsgLogConfig", "omni-kmsg")).unwrap();
    let id = DocumentId { kind: "KmsgLogConfig".into(), name: "omni-kmsg".into() };
    assert_eq!(compose(JOIN, None, &extra), Err(ConfigError::Duplicate(id)));
    assert!(matches!(compose("{", None, &extra), Err(ConfigError::Yaml(_))), "a hostile Omni");
}

#[test]
fn block_texts_keep_their_dashes() {
    let text = "apiVersion: v1alpha1\nkind: ExtensionServiceConfig\nname: x\nconfigFiles:\n  - content: |\n      ---\n      a: b\n      %c\n    mountPath: /a\n";
    let extra = ExtraDocuments::parse(text).unwrap();
    let composed = compose(JOIN, None, &extra).unwrap();
    assert!(composed.ends_with(text));
    assert_eq!(identify(&composed).unwrap().len(), 4);
}
