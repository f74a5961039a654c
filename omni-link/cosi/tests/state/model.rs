//! Any sequence of calls gives what a simple model of the rules gives, and so does a watch of it.

use std::collections::BTreeMap;

use cosi::{
    EventType, Phase, Pointer, Resource, State, StateError, UpdateOptions, Version, WatchOptions, WatchTarget,
};
use proptest::prelude::*;

use crate::support::{Events, embedded, kind, machine, pointer};

const IDS: [&str; 3] = ["a", "b", "c"];
const OWNERS: [&str; 2] = ["", "owner"];

#[derive(Debug, Clone)]
enum Call {
    Get,
    Create { finalizer: bool },
    Update { stale: bool, finalizer: bool, phase: Option<Phase>, expected: Option<Phase> },
    Destroy,
    Teardown,
}

fn call() -> impl Strategy<Value = (usize, usize, Call)> {
    let phase = || prop_oneof![Just(None), Just(Some(Phase::Running)), Just(Some(Phase::TearingDown))];
    let call = prop_oneof![
        1 => Just(Call::Get),
        3 => any::<bool>().prop_map(|finalizer| Call::Create { finalizer }),
        4 => (prop::bool::weighted(0.2), any::<bool>(), phase(), phase())
            .prop_map(|(stale, finalizer, phase, expected)| Call::Update { stale, finalizer, phase, expected }),
        2 => Just(Call::Destroy),
        2 => Just(Call::Teardown),
    ];
    // Mostly one owner, so that calls come through.
    (0..IDS.len(), prop_oneof![1 => Just(0_usize), 4 => Just(1)], call)
}

/// What a call answers, without the words.
#[derive(Debug, PartialEq)]
enum Answer {
    Stored { version: Version, phase: Phase, finalizers: usize, owner: String },
    Ready(bool),
    Done,
    Refused(std::mem::Discriminant<StateError>),
}

fn stored(resource: &Resource) -> Answer {
    Answer::Stored {
        version: resource.metadata.version,
        phase: resource.metadata.phase,
        finalizers: resource.metadata.finalizers.len(),
        owner: resource.metadata.owner.clone(),
    }
}

fn refused(error: &StateError) -> Answer {
    Answer::Refused(std::mem::discriminant(error))
}

type Told = (EventType, String, Version);

#[derive(Default)]
struct Model {
    resources: BTreeMap<Pointer, Resource>,
    events: Vec<Told>,
}

impl Model {
    fn tell(&mut self, typ: EventType, resource: &Resource) {
        self.events.push((typ, resource.id().to_owned(), resource.metadata.version));
    }

    fn put(&mut self, typ: EventType, resource: Resource) -> Answer {
        self.tell(typ, &resource);
        let answer = stored(&resource);
        self.resources.insert(resource.pointer(), resource);
        answer
    }

    fn apply(&mut self, id: &str, owner: &str, call: &Call) -> Answer {
        let text = String::new;
        let current = self.resources.get(&pointer(id)).cloned();
        let Some(mut current) = current else {
            let Call::Create { finalizer } = call else { return refused(&StateError::NotFound(text())) };
            let mut new = new_resource(id, *finalizer);
            new.metadata.owner = owner.to_owned();
            new.metadata.version = Version::Number(1);
            return self.put(EventType::Created, new);
        };
        match call {
            Call::Get => return stored(&current),
            Call::Create { .. } => return refused(&StateError::AlreadyExists(text())),
            _ if current.metadata.owner != owner => return refused(&StateError::OwnerConflict(text())),
            Call::Update { stale, finalizer, phase, expected } => {
                if *stale {
                    return refused(&StateError::VersionConflict(text()));
                }
                if expected.is_some_and(|expected| expected != current.metadata.phase) {
                    return refused(&StateError::PhaseConflict(text()));
                }
                change(&mut current, *finalizer, *phase);
            }
            Call::Destroy if !current.metadata.finalizers.is_empty() => {
                return refused(&StateError::PendingFinalizers(text()));
            }
            Call::Destroy => {
                self.resources.remove(&pointer(id));
                self.tell(EventType::Destroyed, &current);
                return Answer::Done;
            }
            Call::Teardown => {
                let ready = current.metadata.finalizers.is_empty();
                if !current.is_tearing_down() {
                    current.metadata.phase = Phase::TearingDown;
                    current.metadata.version = current.metadata.version.next();
                    self.put(EventType::Updated, current);
                }
                return Answer::Ready(ready);
            }
        }
        current.metadata.version = current.metadata.version.next();
        self.put(EventType::Updated, current)
    }
}

fn new_resource(id: &str, finalizer: bool) -> Resource {
    let mut new = machine(id);
    if finalizer {
        new.insert_finalizer("held");
    }
    new
}

fn change(resource: &mut Resource, finalizer: bool, phase: Option<Phase>) {
    if finalizer {
        resource.insert_finalizer("held");
    } else {
        resource.drop_finalizer("held");
    }
    if let Some(phase) = phase {
        resource.metadata.phase = phase;
    }
}

async fn apply(state: &dyn State, id: &str, owner: &str, call: &Call) -> Answer {
    let pointer = pointer(id);
    let result = match call {
        Call::Get => state.get(&pointer).await.map(|resource| stored(&resource)),
        Call::Create { finalizer } => {
            state.create(new_resource(id, *finalizer), owner).await.map(|resource| stored(&resource))
        }
        Call::Update { stale, finalizer, phase, expected } => {
            let mut resource = state.get(&pointer).await.unwrap_or_else(|_| machine(id));
            change(&mut resource, *finalizer, *phase);
            if *stale {
                resource.metadata.version = Version::Number(1000);
            }
            let options = UpdateOptions { owner: owner.to_owned(), expected_phase: *expected };
            state.update(resource, &options).await.map(|resource| stored(&resource))
        }
        Call::Destroy => state.destroy(&pointer, owner).await.map(|()| Answer::Done),
        Call::Teardown => state.teardown(&pointer, owner).await.map(Answer::Ready),
    };
    result.unwrap_or_else(|error| refused(&error))
}

async fn compare(state: &dyn State, calls: &[(usize, usize, Call)]) {
    let watch = state.watch(&WatchTarget::kind(kind()), &WatchOptions::default()).await.unwrap();
    let mut watch = Events::of(watch);
    let mut model = Model::default();
    for (id, owner, call) in calls {
        let (id, owner) = (IDS[*id], OWNERS[*owner]);
        assert_eq!(
            apply(state, id, owner, call).await,
            model.apply(id, owner, call),
            "{id} {owner} {call:?}"
        );
    }
    let listed = state.list(&kind(), &cosi::ListOptions::default()).await.unwrap();
    let listed: Vec<Answer> = listed.iter().map(stored).collect();
    assert_eq!(listed, model.resources.values().map(stored).collect::<Vec<_>>());
    for expected in model.events {
        let event = watch.next().await;
        assert_eq!((event.typ, event.resource.id().to_owned(), event.resource.metadata.version), expected);
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_embedded_store_does_what_the_model_does(calls in prop::collection::vec(call(), 1..60)) {
        run(async { compare(&embedded(), &calls).await });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_behind_grpc_does_what_the_model_does(calls in prop::collection::vec(call(), 1..60)) {
        run(async {
            let remote = crate::support::remote(embedded()).await;
            compare(&remote.state, &calls).await;
        });
    }
}
