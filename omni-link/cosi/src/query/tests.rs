use super::*;

#[test]
fn numbers_take_units_of_both_families() {
    for (text, value) in [
        ("7", Some(7)),
        (" -3 ", Some(-3)),
        ("16GiB", Some(16 << 30)),
        ("16 gi", Some(16 << 30)),
        ("2k", Some(2000)),
        ("2Ki", Some(2048)),
        ("3M", Some(3_000_000)),
        ("1TB", Some(1_000_000_000_000)),
        ("9223372036854775807Pi", Some(i128::from(i64::MAX) << 50)),
        ("", None),
        ("GiB", None),
        ("--1", None),
        ("5 apples", None),
        ("99999999999999999999", None),
    ] {
        assert_eq!(number(text), value, "{text:?}");
    }
}

#[test]
fn what_is_no_number_matches_neither_way() {
    let labels = BTreeMap::from([("cores".to_owned(), "many".to_owned())]);
    let term =
        LabelTerm { key: "cores".into(), op: LabelOp::LessNumeric, values: vec!["8".into()], invert: false };
    assert!(!term.matches(&labels));
    assert!(!term.inverted().matches(&labels));
}

#[test]
fn a_term_without_values_matches_only_inverted() {
    let labels = BTreeMap::from([("rack".to_owned(), "7".to_owned())]);
    for op in [LabelOp::Equal, LabelOp::In, LabelOp::Less, LabelOp::LessOrEqualNumeric] {
        let term = LabelTerm { key: "rack".into(), op, values: Vec::new(), invert: false };
        assert!(!term.matches(&labels), "{op:?}");
        assert!(term.inverted().matches(&labels), "{op:?}");
    }
}

#[test]
fn an_absent_label_is_not_less_nor_the_opposite_but_it_is_unequal() {
    let labels = BTreeMap::new();
    for (op, inverted) in [
        (LabelOp::Exists, true),
        (LabelOp::Equal, true),
        (LabelOp::In, true),
        (LabelOp::Less, false),
        (LabelOp::LessOrEqual, false),
        (LabelOp::LessNumeric, false),
        (LabelOp::LessOrEqualNumeric, false),
    ] {
        let term = LabelTerm { key: "rack".into(), op, values: vec!["8".into()], invert: false };
        assert!(!term.matches(&labels), "{op:?}");
        assert_eq!(term.inverted().matches(&labels), inverted, "{op:?}");
    }
}
