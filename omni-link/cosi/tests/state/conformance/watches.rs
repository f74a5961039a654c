//! Rules of watches.

use bytes::Bytes;
use cosi::{
    Event, EventType, Kind, LabelQuery, LabelTerm, Resource, State, StateError, UpdateOptions, Version,
    WatchOptions, WatchTarget,
};

use crate::support::{Events, NAMESPACE, kind, machine, pointer};

async fn watch(state: &dyn State, options: WatchOptions) -> Events {
    Events::of(state.watch(&WatchTarget::kind(kind()), &options).await.unwrap())
}

async fn watch_one(state: &dyn State, id: &str) -> Events {
    let target = WatchTarget::resource(pointer(id));
    Events::of(state.watch(&target, &WatchOptions::default()).await.unwrap())
}

fn from(bookmark: &Event) -> WatchOptions {
    WatchOptions { start_from_bookmark: bookmark.bookmark.clone(), ..WatchOptions::default() }
}

fn told(event: &Event) -> (EventType, &str, Version) {
    (event.typ, event.resource.id(), event.resource.metadata.version)
}

async fn create(state: &dyn State, id: &str) -> Resource {
    state.create(machine(id), "").await.unwrap()
}

async fn relabel(state: &dyn State, id: &str, label: &str) -> Resource {
    let mut resource = state.get(&pointer(id)).await.unwrap();
    resource.metadata.labels.clear();
    let resource = resource.with_label(label, "");
    state.update(resource, &UpdateOptions::default()).await.unwrap()
}

pub(crate) async fn a_plain_watch_begins_with_the_next_change(state: &dyn State) {
    create(state, "before").await;
    let mut events = watch(state, WatchOptions::default()).await;
    let first = create(state, "a").await;
    let second = relabel(state, "a", "x").await;
    state.destroy(&pointer("a"), "").await.unwrap();
    let event = events.next().await;
    assert_eq!((event.typ, &event.resource, &event.old), (EventType::Created, &first, &None));
    let created_at = event.bookmark.unwrap();
    let event = events.next().await;
    assert_eq!((event.typ, &event.resource, &event.old), (EventType::Updated, &second, &Some(first)));
    let updated_at = event.bookmark.unwrap();
    let event = events.next().await;
    assert_eq!((event.typ, &event.resource, &event.old), (EventType::Destroyed, &second, &None));
    assert_eq!(event.error, None);
    let destroyed_at = event.bookmark.unwrap();
    assert_eq!(created_at.len(), 8);
    assert!(created_at < updated_at && updated_at < destroyed_at);
}

pub(crate) async fn contents_come_first_without_bookmarks_then_the_bootstrap_mark(state: &dyn State) {
    let b = create(state, "b").await;
    let a = create(state, "a").await;
    let options =
        WatchOptions { bootstrap_contents: true, bootstrap_bookmark: true, ..WatchOptions::default() };
    let mut events = watch(state, options).await;
    create(state, "c").await;
    for expected in [a, b] {
        let event = events.next().await;
        assert_eq!((event.typ, &event.resource, &event.bookmark), (EventType::Created, &expected, &None));
    }
    let mark = events.next().await;
    assert_eq!(told(&mark), (EventType::Bootstrapped, "", Version::Undefined));
    assert!(mark.bookmark.is_some());
    let noop = events.next().await;
    assert_eq!(told(&noop), (EventType::Noop, "", Version::Undefined));
    assert_eq!(noop.bookmark, mark.bookmark);
    assert_eq!(told(&events.next().await), (EventType::Created, "c", Version::Number(1)));
    let mut again = watch(state, from(&mark)).await;
    assert_eq!(told(&again.next().await), (EventType::Created, "c", Version::Number(1)));
}

pub(crate) async fn a_bootstrap_bookmark_comes_without_contents(state: &dyn State) {
    create(state, "a").await;
    let options = WatchOptions { bootstrap_bookmark: true, aggregated: true, ..WatchOptions::default() };
    let mut events = watch(state, options).await;
    let noop = events.next().await;
    assert_eq!(told(&noop), (EventType::Noop, "", Version::Undefined));
    create(state, "b").await;
    assert_eq!(told(&events.next().await), (EventType::Created, "b", Version::Number(1)));
    let mut again = watch(state, from(&noop)).await;
    assert_eq!(told(&again.next().await), (EventType::Created, "b", Version::Number(1)));
}

pub(crate) async fn an_aggregated_watch_gives_the_contents_at_once(state: &dyn State) {
    for id in ["a", "b", "c"] {
        create(state, id).await;
    }
    let contents = WatchOptions { bootstrap_contents: true, ..WatchOptions::default() };
    let mut one_by_one = watch(state, contents.clone()).await;
    assert_eq!(one_by_one.batch().await.unwrap().unwrap().len(), 1);
    let mut at_once = watch(state, WatchOptions { aggregated: true, ..contents }).await;
    let batch = at_once.batch().await.unwrap().unwrap();
    let types: Vec<EventType> = batch.iter().map(|event| event.typ).collect();
    assert_eq!(types[..3], [EventType::Created; 3]);
    assert_eq!(types[3..], [EventType::Bootstrapped]);
}

pub(crate) async fn a_watch_sees_only_its_kind(state: &dyn State) {
    let mut events = watch(state, WatchOptions::default()).await;
    let mut one = watch_one(state, "a").await;
    assert_eq!(told(&one.next().await), (EventType::Destroyed, "a", Version::Undefined));
    for other in [Kind::new(NAMESPACE, "Other"), Kind::new("other", kind().typ)] {
        let Kind { namespace, typ } = other;
        state.create(Resource::new(namespace, typ, "a", b"".as_slice()), "").await.unwrap();
    }
    create(state, "b").await;
    create(state, "a").await;
    assert_eq!(told(&events.next().await), (EventType::Created, "b", Version::Number(1)));
    assert_eq!(told(&events.next().await), (EventType::Created, "a", Version::Number(1)));
    let event = one.next().await;
    assert_eq!(told(&event), (EventType::Created, "a", Version::Number(1)));
    assert_eq!(event.resource.metadata.namespace, NAMESPACE);
}

pub(crate) async fn a_watch_of_one_begins_with_it_as_it_is(state: &dyn State) {
    create(state, "a").await;
    let now = relabel(state, "a", "x").await;
    let mut events = watch_one(state, "a").await;
    let event = events.next().await;
    assert_eq!((event.typ, &event.resource), (EventType::Created, &now));
    state.destroy(&pointer("a"), "").await.unwrap();
    assert_eq!(told(&events.next().await), (EventType::Destroyed, "a", Version::Number(2)));
}

pub(crate) async fn a_watch_of_an_absent_one_begins_with_its_absence(state: &dyn State) {
    let mut events = watch_one(state, "a").await;
    assert_eq!(told(&events.next().await), (EventType::Destroyed, "a", Version::Undefined));
    create(state, "a").await;
    assert_eq!(told(&events.next().await), (EventType::Created, "a", Version::Number(1)));
}

pub(crate) async fn a_watch_of_one_takes_no_contents_and_no_queries(state: &dyn State) {
    let target = WatchTarget::resource(pointer("a"));
    let query = LabelQuery::new([LabelTerm::exists("x")]);
    for options in [
        WatchOptions { bootstrap_contents: true, ..WatchOptions::default() },
        WatchOptions { label_queries: vec![query], ..WatchOptions::default() },
        WatchOptions { id_query: Some("a".into()), ..WatchOptions::default() },
    ] {
        let error = state.watch(&target, &options).await.err().unwrap();
        assert!(matches!(error, StateError::Unimplemented(_)), "{error:?}");
    }
}

pub(crate) async fn a_bookmark_replays_what_came_after_it(state: &dyn State) {
    let mut events = watch(state, WatchOptions::default()).await;
    create(state, "a").await;
    create(state, "b").await;
    let before = relabel(state, "a", "x").await;
    let after = relabel(state, "a", "y").await;
    state.destroy(&pointer("b"), "").await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(events.next().await);
    }
    for start in 0..5 {
        let mut again = watch(state, from(&seen[start])).await;
        for expected in &seen[start + 1..] {
            assert_eq!(&again.next().await, expected);
        }
        // Then it goes on with what is new.
        let id = format!("new-{start}");
        create(state, &id).await;
        while again.next().await.resource.id() != id {}
    }
    assert_eq!((&seen[3].resource, &seen[3].old), (&after, &Some(before)));
}

pub(crate) async fn a_bookmark_of_one_resource_replays_without_a_beginning(state: &dyn State) {
    let mut events = watch(state, WatchOptions::default()).await;
    create(state, "a").await;
    let start = events.next().await;
    create(state, "b").await;
    relabel(state, "a", "x").await;
    let target = WatchTarget::resource(pointer("a"));
    let mut again = Events::of(state.watch(&target, &from(&start)).await.unwrap());
    assert_eq!(told(&again.next().await), (EventType::Updated, "a", Version::Number(2)));
}

pub(crate) async fn a_bad_bookmark_is_refused_at_the_start(state: &dyn State) {
    create(state, "a").await;
    for bad in [&b""[..], b"short", b"much too long", &0u64.to_be_bytes(), &u64::MAX.to_be_bytes()] {
        let options = WatchOptions {
            start_from_bookmark: Some(Bytes::copy_from_slice(bad)),
            ..WatchOptions::default()
        };
        let error = state.watch(&WatchTarget::kind(kind()), &options).await.err().unwrap();
        assert!(matches!(error, StateError::InvalidBookmark(_)), "{bad:?}: {error:?}");
    }
    let both = WatchOptions {
        start_from_bookmark: Some(Bytes::from_static(&[0; 8])),
        bootstrap_contents: true,
        ..WatchOptions::default()
    };
    let error = state.watch(&WatchTarget::kind(kind()), &both).await.err().unwrap();
    assert!(matches!(error, StateError::InvalidArgument(_)), "{error:?}");
}

pub(crate) async fn a_filtered_watch_turns_updates_into_beginnings_and_ends(state: &dyn State) {
    create(state, "a-1").await;
    relabel(state, "a-1", "hot").await;
    let options = WatchOptions {
        label_queries: vec![LabelQuery::new([LabelTerm::exists("hot")])],
        id_query: Some("^a-".into()),
        bootstrap_contents: true,
        ..WatchOptions::default()
    };
    let mut events = watch(state, options).await;
    assert_eq!(told(&events.next().await), (EventType::Created, "a-1", Version::Number(2)));
    assert_eq!(events.next().await.typ, EventType::Bootstrapped);
    relabel(state, "a-1", "cold").await;
    relabel(state, "a-1", "colder").await;
    relabel(state, "a-1", "hot").await;
    relabel(state, "a-1", "hot").await;
    create(state, "b-1").await;
    relabel(state, "b-1", "hot").await;
    create(state, "a-2").await;
    state.destroy(&pointer("a-2"), "").await.unwrap();
    state.destroy(&pointer("a-1"), "").await.unwrap();
    for (typ, version, with_old) in [
        (EventType::Destroyed, 3, false),
        (EventType::Created, 5, false),
        (EventType::Updated, 6, true),
        (EventType::Destroyed, 6, false),
    ] {
        let event = events.next().await;
        assert_eq!(told(&event), (typ, "a-1", Version::Number(version)));
        assert_eq!(event.old.is_some(), with_old);
    }
}

pub(crate) async fn a_refused_write_gives_no_event(state: &dyn State) {
    let mut events = watch(state, WatchOptions::default()).await;
    let first = create(state, "a").await;
    state.create(machine("a"), "").await.unwrap_err();
    state.destroy(&pointer("a"), "somebody").await.unwrap_err();
    state.update(first.clone(), &UpdateOptions::owner("somebody")).await.unwrap_err();
    state.update(first, &UpdateOptions::default()).await.unwrap();
    assert_eq!(told(&events.next().await), (EventType::Created, "a", Version::Number(1)));
    assert_eq!(told(&events.next().await), (EventType::Updated, "a", Version::Number(2)));
}

pub(crate) async fn a_teardown_is_an_update(state: &dyn State) {
    create(state, "a").await;
    let mut events = watch(state, WatchOptions::default()).await;
    state.teardown(&pointer("a"), "").await.unwrap();
    state.teardown(&pointer("a"), "").await.unwrap();
    state.destroy(&pointer("a"), "").await.unwrap();
    let event = events.next().await;
    assert_eq!(told(&event), (EventType::Updated, "a", Version::Number(2)));
    assert!(event.resource.is_tearing_down() && !event.old.unwrap().is_tearing_down());
    assert_eq!(told(&events.next().await), (EventType::Destroyed, "a", Version::Number(2)));
}
