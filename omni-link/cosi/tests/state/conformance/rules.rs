//! Rules of reads and writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cosi::{
    Kind, LabelOp, LabelQuery, LabelTerm, ListOptions, Missing, Phase, Resource, State, StateError,
    UpdateOptions, Version, modify,
};

use crate::support::{NAMESPACE, OWNER, START, TYPE, kind, machine, pointer};

fn as_owner() -> UpdateOptions {
    UpdateOptions::owner(OWNER)
}

fn ids(resources: &[Resource]) -> Vec<&str> {
    resources.iter().map(Resource::id).collect()
}

async fn with_finalizer(state: &dyn State, id: &str) -> Resource {
    let mut resource = machine(id);
    resource.insert_finalizer("agent");
    state.create(resource, OWNER).await.unwrap()
}

pub(crate) async fn what_is_created_is_stored_as_sent_with_version_owner_and_time(state: &dyn State) {
    let mut new = machine("a").with_label("rack", "7");
    new.metadata.annotations.insert("note".into(), "left door".into());
    new.metadata.version = Version::Number(33);
    new.metadata.created.seconds = 1;
    new.metadata.updated.seconds = 2;
    let stored = state.create(new.clone(), OWNER).await.unwrap();
    assert_eq!(stored.metadata.version, Version::Number(1));
    assert_eq!(stored.metadata.owner, OWNER);
    assert_eq!(stored.metadata.phase, Phase::Running);
    assert!(stored.metadata.created.seconds >= START);
    assert_eq!(stored.metadata.updated.seconds, 2);
    assert_eq!(stored.metadata.labels, new.metadata.labels);
    assert_eq!(stored.metadata.annotations, new.metadata.annotations);
    assert_eq!(stored.spec, new.spec);
    assert_eq!(state.get(&pointer("a")).await.unwrap(), stored);
}

pub(crate) async fn an_absent_resource_is_not_found(state: &dyn State) {
    let error = state.get(&pointer("a")).await.unwrap_err();
    assert!(matches!(&error, StateError::NotFound(text) if text.contains("/a")), "{error:?}");
    assert_eq!(state.list(&kind(), &ListOptions::default()).await.unwrap(), []);
}

pub(crate) async fn a_second_create_finds_it_existing(state: &dyn State) {
    state.create(machine("a"), OWNER).await.unwrap();
    for owner in [OWNER, "somebody"] {
        let error = state.create(machine("a"), owner).await.unwrap_err();
        assert!(matches!(error, StateError::AlreadyExists(_)), "{error:?}");
    }
}

pub(crate) async fn a_create_must_not_name_another_owner(state: &dyn State) {
    let mut new = machine("a");
    new.metadata.owner = "somebody".into();
    for owner in [OWNER, ""] {
        let error = state.create(new.clone(), owner).await.unwrap_err();
        assert!(matches!(error, StateError::OwnerConflict(_)), "{error:?}");
    }
    state.create(new, "somebody").await.unwrap();
}

pub(crate) async fn names_must_not_be_empty(state: &dyn State) {
    let new = |namespace, typ, id| Resource::new(namespace, typ, id, b"".as_slice());
    for bad in [new("", TYPE, "a"), new(NAMESPACE, "", "a"), new(NAMESPACE, TYPE, ""), new("n", "t\0", "a")] {
        let error = state.create(bad, "").await.unwrap_err();
        assert!(matches!(error, StateError::InvalidArgument(_)), "{error:?}");
    }
}

pub(crate) async fn a_too_large_resource_is_refused(state: &dyn State) {
    let sized = |bytes: usize| Resource::new(NAMESPACE, TYPE, "a", vec![7; bytes]);
    let error = state.create(sized(cosi::embedded::MAX_RESOURCE_BYTES), "").await.unwrap_err();
    assert!(matches!(error, StateError::InvalidArgument(_)), "{error:?}");
    let mut stored = state.create(sized(cosi::embedded::MAX_RESOURCE_BYTES - 1024), "").await.unwrap();
    stored.spec.proto = vec![7; cosi::embedded::MAX_RESOURCE_BYTES].into();
    let error = state.update(stored, &UpdateOptions::default()).await.unwrap_err();
    assert!(matches!(error, StateError::InvalidArgument(_)), "{error:?}");
}

pub(crate) async fn an_update_brings_the_next_version_and_keeps_owner_and_creation_time(state: &dyn State) {
    let first = state.create(machine("a"), OWNER).await.unwrap();
    let mut changed = first.clone().with_label("x", "y");
    changed.metadata.owner = "somebody".into();
    changed.metadata.created.seconds = 1;
    changed.metadata.updated.seconds = 2;
    let second = state.update(changed, &as_owner()).await.unwrap();
    assert_eq!(second.metadata.version, Version::Number(2));
    assert_eq!(second.metadata.owner, OWNER);
    assert_eq!(second.metadata.created, first.metadata.created);
    assert!(second.metadata.updated.seconds > first.metadata.created.seconds);
    assert_eq!(second.label("x"), Some("y"));
    assert_eq!(state.get(&pointer("a")).await.unwrap(), second);
}

pub(crate) async fn an_update_of_an_old_or_undefined_version_conflicts(state: &dyn State) {
    let first = state.create(machine("a"), OWNER).await.unwrap();
    state.update(first.clone(), &as_owner()).await.unwrap();
    for version in [Version::Number(1), Version::Undefined, Version::Number(3), Version::Number(u64::MAX)] {
        let mut stale = first.clone();
        stale.metadata.version = version;
        let error = state.update(stale, &as_owner()).await.unwrap_err();
        assert!(matches!(error, StateError::VersionConflict(_)), "{version}: {error:?}");
    }
}

pub(crate) async fn an_update_of_an_absent_resource_is_not_found(state: &dyn State) {
    let error = state.update(machine("a"), &as_owner()).await.unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
}

pub(crate) async fn an_update_by_another_owner_is_an_owner_conflict_before_all_else(state: &dyn State) {
    state.create(machine("a"), OWNER).await.unwrap();
    for owner in ["", "somebody"] {
        let error = state.update(machine("a"), &UpdateOptions::owner(owner)).await.unwrap_err();
        assert!(matches!(error, StateError::OwnerConflict(_)), "{error:?}");
    }
}

pub(crate) async fn an_update_expects_the_running_phase_unless_told_otherwise(state: &dyn State) {
    with_finalizer(state, "a").await;
    state.teardown(&pointer("a"), OWNER).await.unwrap();
    let torn = state.get(&pointer("a")).await.unwrap();
    let error = state.update(torn.clone(), &as_owner()).await.unwrap_err();
    assert!(matches!(error, StateError::PhaseConflict(_)), "{error:?}");
    let expecting = UpdateOptions { owner: OWNER.into(), expected_phase: Some(Phase::TearingDown) };
    let torn = state.update(torn, &expecting).await.unwrap();
    state.update(torn, &as_owner().any_phase()).await.unwrap();
    let running = state.create(machine("b"), OWNER).await.unwrap();
    let error = state.update(running, &expecting).await.unwrap_err();
    assert!(matches!(error, StateError::PhaseConflict(_)), "{error:?}");
}

pub(crate) async fn bytes_and_yaml_of_a_spec_survive(state: &dyn State) {
    // Field 1000 of no message that anybody knows, and bytes that are no message at all.
    for (id, bytes) in [("a", b"\xc2\x3e\x02hi".as_slice()), ("b", b"\xff\xff\x00".as_slice())] {
        let new = Resource::new(NAMESPACE, TYPE, id, bytes).with_yaml("ü: [1, 2]\n");
        let stored = state.create(new.clone(), "").await.unwrap();
        assert_eq!(stored.spec, new.spec);
        let stored = state.update(stored, &UpdateOptions::default()).await.unwrap();
        assert_eq!(stored.spec, new.spec);
    }
    let empty = Resource::new(NAMESPACE, TYPE, "c", b"".as_slice());
    assert_eq!(state.create(empty.clone(), "").await.unwrap().spec, empty.spec);
}

pub(crate) async fn a_resource_with_finalizers_is_not_destroyed(state: &dyn State) {
    let mut held = with_finalizer(state, "a").await;
    let error = state.destroy(&pointer("a"), OWNER).await.unwrap_err();
    assert!(matches!(&error, StateError::PendingFinalizers(text) if text.contains("agent")), "{error:?}");
    held.drop_finalizer("agent");
    state.update(held, &as_owner()).await.unwrap();
    state.destroy(&pointer("a"), OWNER).await.unwrap();
    assert!(state.get(&pointer("a")).await.unwrap_err().is_not_found());
}

pub(crate) async fn a_destroy_minds_owner_and_absence(state: &dyn State) {
    with_finalizer(state, "a").await;
    let error = state.destroy(&pointer("a"), "somebody").await.unwrap_err();
    assert!(matches!(error, StateError::OwnerConflict(_)), "{error:?}");
    let error = state.destroy(&pointer("b"), OWNER).await.unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
}

pub(crate) async fn a_resource_created_anew_begins_at_version_one(state: &dyn State) {
    let first = state.create(machine("a"), OWNER).await.unwrap();
    let first = state.update(first, &as_owner()).await.unwrap();
    state.destroy(&pointer("a"), OWNER).await.unwrap();
    let again = state.create(first, OWNER).await.unwrap();
    assert_eq!(again.metadata.version, Version::Number(1));
}

pub(crate) async fn a_teardown_marks_once_and_tells_whether_it_is_free(state: &dyn State) {
    state.create(machine("a"), OWNER).await.unwrap();
    assert!(state.teardown(&pointer("a"), OWNER).await.unwrap());
    let torn = state.get(&pointer("a")).await.unwrap();
    assert!(torn.is_tearing_down());
    assert_eq!(torn.metadata.version, Version::Number(2));
    assert!(state.teardown(&pointer("a"), OWNER).await.unwrap());
    assert_eq!(state.get(&pointer("a")).await.unwrap(), torn);
    with_finalizer(state, "b").await;
    assert!(!state.teardown(&pointer("b"), OWNER).await.unwrap());
    assert!(!state.teardown(&pointer("b"), OWNER).await.unwrap());
}

pub(crate) async fn a_teardown_minds_owner_and_absence(state: &dyn State) {
    state.create(machine("a"), OWNER).await.unwrap();
    for _ in 0..2 {
        let error = state.teardown(&pointer("a"), "somebody").await.unwrap_err();
        assert!(matches!(error, StateError::OwnerConflict(_)), "{error:?}");
        state.teardown(&pointer("a"), OWNER).await.unwrap();
    }
    assert!(state.teardown(&pointer("b"), OWNER).await.unwrap_err().is_not_found());
}

pub(crate) async fn a_list_is_of_one_kind_and_sorted(state: &dyn State) {
    for id in ["b", "a/b", "a", "c", "ä"] {
        state.create(machine(id), "").await.unwrap();
    }
    // Kinds whose keys lie beside.
    for (namespace, typ) in [
        (NAMESPACE.to_owned(), format!("{TYPE}x")),
        (NAMESPACE.to_owned(), TYPE[..TYPE.len() - 1].to_owned()),
        (format!("{NAMESPACE}:x"), TYPE.to_owned()),
    ] {
        state.create(Resource::new(namespace, typ, "z", b"".as_slice()), "").await.unwrap();
    }
    let listed = state.list(&kind(), &ListOptions::default()).await.unwrap();
    assert_eq!(ids(&listed), ["a", "a/b", "b", "c", "ä"]);
    let other = state.list(&Kind::new(NAMESPACE, format!("{TYPE}x")), &ListOptions::default()).await.unwrap();
    assert_eq!(ids(&other), ["z"]);
}

pub(crate) async fn a_list_takes_label_queries(state: &dyn State) {
    state.create(machine("plain"), "").await.unwrap();
    state.create(machine("seven").with_label("rack", "7"), "").await.unwrap();
    state.create(machine("eight").with_label("rack", "8").with_label("hot", ""), "").await.unwrap();
    let term = |op, values: &[&str], invert| LabelTerm {
        key: "rack".into(),
        op,
        values: values.iter().map(ToString::to_string).collect(),
        invert,
    };
    let query = |terms: &[LabelTerm]| LabelQuery::new(terms.iter().cloned());
    let cases: &[(&[LabelQuery], &[&str])] = &[
        (&[], &["eight", "plain", "seven"]),
        (&[query(&[])], &["eight", "plain", "seven"]),
        (&[query(&[LabelTerm::exists("rack")])], &["eight", "seven"]),
        (&[query(&[LabelTerm::exists("rack").inverted()])], &["plain"]),
        (&[query(&[LabelTerm::equal("rack", "7")])], &["seven"]),
        (&[query(&[LabelTerm::equal("rack", "7").inverted()])], &["eight", "plain"]),
        (&[query(&[term(LabelOp::In, &["6", "8"], false)])], &["eight"]),
        (&[query(&[term(LabelOp::Less, &["8"], false)])], &["seven"]),
        (&[query(&[term(LabelOp::LessOrEqual, &["8"], false)])], &["eight", "seven"]),
        (&[query(&[term(LabelOp::LessNumeric, &["10"], false)])], &["eight", "seven"]),
        (&[query(&[term(LabelOp::LessOrEqualNumeric, &["7"], true)])], &["eight"]),
        (&[query(&[LabelTerm::exists("rack"), LabelTerm::exists("hot")])], &["eight"]),
        (
            &[query(&[LabelTerm::exists("hot")]), query(&[LabelTerm::exists("rack").inverted()])],
            &["eight", "plain"],
        ),
    ];
    for (queries, expected) in cases {
        let options = ListOptions { label_queries: queries.to_vec(), id_query: None };
        let listed = state.list(&kind(), &options).await.unwrap();
        assert_eq!(ids(&listed), *expected, "{queries:?}");
    }
}

pub(crate) async fn a_list_takes_id_queries(state: &dyn State) {
    for id in ["node-1", "node-22", "other"] {
        state.create(machine(id).with_label(id, ""), "").await.unwrap();
    }
    for (pattern, expected) in [
        ("^node-", &["node-1", "node-22"][..]),
        (r"\d\d$", &["node-22"]),
        ("o", &["node-1", "node-22", "other"]),
        ("", &["node-1", "node-22", "other"]),
        ("(?i)OTHER|-1$", &["node-1", "other"]),
        ("nobody", &[]),
    ] {
        let options = ListOptions { id_query: Some(pattern.into()), ..ListOptions::default() };
        assert_eq!(ids(&state.list(&kind(), &options).await.unwrap()), expected, "{pattern}");
    }
    let both = ListOptions {
        id_query: Some("^node".into()),
        ..ListOptions::labels(LabelQuery::new([LabelTerm::exists("node-1").inverted()]))
    };
    assert_eq!(ids(&state.list(&kind(), &both).await.unwrap()), ["node-22"]);
}

pub(crate) async fn a_bad_id_query_is_refused(state: &dyn State) {
    for pattern in ["(".to_owned(), "a".repeat(5000), "((((x{999}){999}){999}){999})".to_owned()] {
        let options = ListOptions { id_query: Some(pattern), ..ListOptions::default() };
        let error = state.list(&kind(), &options).await.unwrap_err();
        assert!(matches!(error, StateError::InvalidArgument(_)), "{error:?}");
    }
}

pub(crate) async fn modify_creates_changes_and_leaves_alone(state: &dyn State) {
    let label = |value: &'static str| {
        move |resource: &mut Resource| {
            resource.metadata.labels.insert("x".into(), value.into());
            Ok(())
        }
    };
    let error = modify(state, &pointer("a"), OWNER, Missing::Fail, label("1")).await.unwrap_err();
    assert!(error.is_not_found());
    for (value, version) in [("1", 1), ("1", 1), ("2", 2)] {
        let stored = modify(state, &pointer("a"), OWNER, Missing::Create, label(value)).await.unwrap();
        assert_eq!(stored.metadata.version, Version::Number(version));
        assert_eq!(stored.label("x"), Some(value));
        assert_eq!(stored.metadata.owner, OWNER);
    }
    let refuse = |_: &mut Resource| Err(StateError::InvalidArgument("not now".into()));
    let error = modify(state, &pointer("a"), OWNER, Missing::Fail, refuse).await.unwrap_err();
    assert_eq!(error, StateError::InvalidArgument("not now".into()));
    let error = modify(state, &pointer("a"), "somebody", Missing::Create, label("3")).await.unwrap_err();
    assert!(matches!(error, StateError::OwnerConflict(_)), "{error:?}");
}

pub(crate) async fn finalizers_go_on_and_off_as_the_owner(state: &dyn State) {
    state.create(machine("a"), OWNER).await.unwrap();
    for _ in 0..2 {
        let held = cosi::add_finalizer(state, &pointer("a"), "agent").await.unwrap();
        assert_eq!(held.metadata.finalizers, ["agent"]);
        assert_eq!(held.metadata.version, Version::Number(2));
    }
    assert!(!state.teardown(&pointer("a"), OWNER).await.unwrap());
    let error = cosi::add_finalizer(state, &pointer("a"), "late").await.unwrap_err();
    assert!(matches!(error, StateError::PhaseConflict(_)), "{error:?}");
    for _ in 0..2 {
        cosi::remove_finalizer(state, &pointer("a"), "agent").await.unwrap();
    }
    state.destroy(&pointer("a"), OWNER).await.unwrap();
    cosi::remove_finalizer(state, &pointer("a"), "agent").await.unwrap();
}

pub(crate) async fn two_writers_of_one_counter_lose_nothing(state: &dyn State) {
    let tries = Arc::new(AtomicU32::new(0));
    let writer = || async {
        for _ in 0..20 {
            let add_one = |resource: &mut Resource| {
                tries.fetch_add(1, Ordering::Relaxed);
                let count: u32 = resource.label("count").unwrap_or("0").parse().unwrap();
                resource.metadata.labels.insert("count".into(), (count + 1).to_string());
                Ok(())
            };
            modify(state, &pointer("counter"), OWNER, Missing::Create, add_one).await.unwrap();
        }
    };
    tokio::join!(writer(), writer());
    let counter = state.get(&pointer("counter")).await.unwrap();
    assert_eq!(counter.label("count"), Some("40"));
    assert_eq!(counter.metadata.version, Version::Number(40));
    assert!(tries.load(Ordering::Relaxed) >= 40);
}

pub(crate) async fn teardown_and_destroy_waits_for_the_last_finalizer(state: &dyn State) {
    let target = pointer("a");
    with_finalizer(state, "a").await;
    cosi::add_finalizer(state, &target, "power").await.unwrap();
    let release = async {
        // Torn down before anything is released.
        while !state.get(&target).await.unwrap().is_tearing_down() {
            tokio::task::yield_now().await;
        }
        cosi::remove_finalizer(state, &target, "agent").await.unwrap();
        assert!(state.get(&target).await.is_ok());
        cosi::remove_finalizer(state, &target, "power").await.unwrap();
    };
    let (done, ()) = tokio::join!(cosi::teardown_and_destroy(state, &target, OWNER), release);
    done.unwrap();
    assert!(state.get(&target).await.unwrap_err().is_not_found());
    let error = cosi::teardown_and_destroy(state, &target, OWNER).await.unwrap_err();
    assert!(error.is_not_found());
    state.create(machine("b"), OWNER).await.unwrap();
    cosi::teardown_and_destroy(state, &pointer("b"), OWNER).await.unwrap();
    assert!(state.get(&pointer("b")).await.unwrap_err().is_not_found());
}

pub(crate) async fn teardown_and_destroy_is_content_when_another_destroyed_it(state: &dyn State) {
    let target = pointer("a");
    with_finalizer(state, "a").await;
    let other = async {
        while !state.get(&target).await.unwrap().is_tearing_down() {
            tokio::task::yield_now().await;
        }
        cosi::remove_finalizer(state, &target, "agent").await.unwrap();
        // One of the two is first.
        let _ = state.destroy(&target, OWNER).await;
    };
    let (done, ()) = tokio::join!(cosi::teardown_and_destroy(state, &target, OWNER), other);
    done.unwrap();
}
