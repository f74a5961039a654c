//! How long a boot decision takes while a machine waits for it.

use criterion::{Criterion, criterion_group, criterion_main};

#[path = "../tests/scale/decision.rs"]
mod decision;

use decision::{Site, id};

fn decide(criterion: &mut Criterion) {
    let site = Site::new(2000);
    for (name, index) in [("pending, agent", 0), ("free, agent", 1), ("allocated, Talos", 2)] {
        let id = id(999 + index);
        criterion.bench_function(&format!("decision/{name}"), |bencher| bencher.iter(|| site.decide(&id)));
    }
    criterion
        .bench_function("decision/unknown, agent", |bencher| bencher.iter(|| site.decide("not in the view")));
}

criterion_group!(benches, decide);
criterion_main!(benches);
