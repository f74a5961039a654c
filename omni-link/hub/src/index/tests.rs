//! Hints.

use super::*;

fn link(address: &str) -> SiderolinkSpec {
    SiderolinkSpec { remote_addr: address.to_owned(), ..SiderolinkSpec::default() }
}

fn at(index: &Index, address: &str) -> Vec<String> {
    index.at(address).into_iter().map(|hint| hint.machine).collect()
}

#[test]
fn machines_are_found_by_their_address() {
    let index = Index::default();
    index.seen("a", &link("10.0.0.1"));
    index.seen("b", &link("10.0.0.1"));
    index.seen("c", &link(""));
    assert_eq!(at(&index, "10.0.0.1"), ["a", "b"]);
    assert!(at(&index, "").is_empty());
    assert_eq!(index.machines(), 3);
}

#[test]
fn a_wrong_hint_goes_but_not_one_that_was_given_anew() {
    let index = Index::default();
    index.seen("a", &link("10.0.0.1"));
    let old = index.at("10.0.0.1");
    index.seen("a", &link("10.0.0.1"));
    index.wrong("10.0.0.1", &old[0]);
    assert_eq!(at(&index, "10.0.0.1"), ["a"]);
    let new = index.at("10.0.0.1");
    index.wrong("10.0.0.1", &new[0]);
    index.wrong("10.0.0.1", &new[0]);
    assert!(at(&index, "10.0.0.1").is_empty());
    assert!(index.lock().by_address.is_empty(), "no memory stays behind");
}
