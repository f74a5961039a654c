use std::time::{Duration, SystemTime};

use crate::{Health, health_text};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 400)
}

#[test]
fn all_well_is_no_text() {
    assert_eq!(health_text(&Health::default(), at(0)), "");
}

#[test]
fn a_stale_view_says_since_when_and_what_is_held_back() {
    let health =
        Health { stale: Some((at(60), "connection refused".to_owned())), waiting: 3, ..Health::default() };
    assert_eq!(
        health_text(&health, at(90)),
        "Omni's wishes are not known since 1970-01-01T00:01:00Z: connection refused; boots go on, nothing \
         is wiped, switched off or rebooted; 3 writes wait to be sent"
    );
}

#[test]
fn an_outage_is_told_for_a_while() {
    let health = Health { outage: Some((at(60), at(120))), ..Health::default() };
    assert_eq!(
        health_text(&health, at(130)),
        "Omni was out of reach from 1970-01-01T00:01:00Z until 1970-01-01T00:02:00Z"
    );
    assert_eq!(health_text(&health, at(120 + 600)), "");
}

#[test]
fn many_troubles_are_counted_and_few_are_named() {
    let trouble = |index: usize| (format!("m{index}"), at(0), "line\none ".repeat(100));
    let health = Health { troubles: (0..9).map(trouble).collect(), ..Health::default() };
    let text = health_text(&health, at(0));
    assert!(text.starts_with("9 machines need help: m0 (since 1970-01-01T00:00:00Z: line one "), "{text}");
    assert!(text.ends_with(" and 4 more"), "{text}");
    assert!(text.len() < 2000 && !text.contains('\n'));
}
