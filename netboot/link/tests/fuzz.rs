//! Mutated frames and requests against the parsers of the drivers: see `netboot/tests/fuzz.rs`.

#[path = "../../tests/fuzz_support/mod.rs"]
#[allow(dead_code, reason = "netboot's fuzz tests use the rest")]
mod fuzz_support;

use fuzz_support::{Budget, Random, corpus, mutated};
use netboot_link::fuzz;

#[test]
fn frames_are_read_or_refused() {
    let corpus = corpus("frames");
    let mut random = Random::new(11);
    let mut budget = Budget::of("frames");
    while budget.next() {
        fuzz::frame(&mutated(&mut random, &corpus));
    }
}

#[test]
fn request_heads_are_read_or_refused() {
    let corpus = corpus("http");
    let mut random = Random::new(12);
    let mut budget = Budget::of("http");
    while budget.next() {
        let bytes = mutated(&mut random, &corpus);
        let at = random.below(bytes.len() + 1);
        fuzz::request(&bytes, at);
    }
}
