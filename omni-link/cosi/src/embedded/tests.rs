use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};

use futures_util::StreamExt;
use tempfile::TempDir;

use super::*;
use crate::{Event, EventType};

fn options() -> Options {
    let seconds = AtomicI64::new(1_800_000_000);
    let clock = move || Timestamp { seconds: seconds.fetch_add(1, Ordering::Relaxed), nanos: 0 };
    Options { clock: Arc::new(clock), ..Options::default() }
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    (folder, path)
}

fn resource(id: &str) -> Resource {
    Resource::new("n", "t", id, b"spec".as_slice())
}

fn pointer(id: &str) -> Pointer {
    Pointer::new("n", "t", id)
}

fn all() -> WatchTarget {
    WatchTarget::kind(Kind::new("n", "t"))
}

fn from(event: &Event) -> WatchOptions {
    WatchOptions { start_from_bookmark: event.bookmark.clone(), ..WatchOptions::default() }
}

async fn bookmark(state: &EmbeddedState) -> Event {
    let options = WatchOptions { bootstrap_bookmark: true, ..WatchOptions::default() };
    let mut events = state.watch(&all(), &options).await.unwrap();
    events.next().await.unwrap().unwrap().remove(0)
}

async fn refusal(state: &EmbeddedState, options: &WatchOptions) -> StateError {
    state.watch(&all(), options).await.err().expect("the bookmark is refused")
}

#[tokio::test]
async fn a_store_has_what_it_had_when_it_is_opened_again() {
    let (_folder, path) = folder();
    let state = EmbeddedState::open(&path).unwrap();
    let stored = state.create(resource("a"), "owner").await.unwrap();
    assert_eq!(state.read(&pointer("a")).unwrap(), stored);
    drop(state);
    let state = EmbeddedState::open(&path).unwrap();
    assert_eq!(state.get(&pointer("a")).await.unwrap(), stored);
    let next = state.update(stored, &UpdateOptions::owner("owner")).await.unwrap();
    assert_eq!(next.metadata.version, crate::Version::Number(2));
}

#[tokio::test]
async fn only_its_owner_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, path) = folder();
    let _state = EmbeddedState::open(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn an_open_store_is_in_use() {
    let (_folder, path) = folder();
    let state = EmbeddedState::open(&path).unwrap();
    let error = EmbeddedState::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains("in use"));
    let clone = state.clone();
    drop(state);
    assert!(matches!(EmbeddedState::open(&path).unwrap_err(), OpenError::InUse { .. }));
    drop(clone);
    EmbeddedState::open(&path).unwrap();
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_an_io_error() {
    let (_folder, path) = folder();
    let error = EmbeddedState::open(path.join("below")).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_no_store_is_named_so_and_left_alone() {
    let (_folder, path) = folder();
    let text = "this is somebody's letter\n".repeat(1000);
    std::fs::write(&path, &text).unwrap();
    let error = EmbeddedState::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn a_damaged_store_is_an_error_wherever_the_damage_is() {
    let (_folder, path) = folder();
    let state = EmbeddedState::open(&path).unwrap();
    for number in 0..200 {
        state.create(resource(&format!("{number}")), "").await.unwrap();
    }
    drop(state);
    let sound = std::fs::read(&path).unwrap();
    for length in [10, 4096, sound.len() / 2] {
        std::fs::write(&path, &sound[..length]).unwrap();
        let error = EmbeddedState::open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{length}: {error:?}");
    }
    let mut refused = 0;
    for page in 0..sound.len() / 4096 {
        let mut damaged = sound.clone();
        damaged[page * 4096 + 100] ^= 0xff;
        damaged[page * 4096 + 2000] ^= 0xff;
        std::fs::write(&path, &damaged).unwrap();
        match EmbeddedState::open(&path) {
            // In a page that holds nothing.
            Ok(state) => {
                let listed = state.list(&Kind::new("n", "t"), &ListOptions::default()).await.unwrap();
                assert_eq!(listed.len(), 200, "page {page}");
            }
            Err(OpenError::Corrupt { .. }) => refused += 1,
            Err(error) => panic!("page {page}: {error:?}"),
        }
    }
    assert!(refused > 0);
}

#[tokio::test]
async fn another_format_is_not_touched() {
    let (_folder, path) = folder();
    drop(EmbeddedState::open(&path).unwrap());
    let database = redb::Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(store::NUMBERS).unwrap().insert("format", 2).unwrap();
    write.commit().unwrap();
    drop(database);
    let error = EmbeddedState::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Format { found: 2, expected: 1, .. }), "{error:?}");
}

#[tokio::test]
async fn a_bookmark_outlives_a_restart_that_missed_nothing() {
    let (_folder, path) = folder();
    let state = EmbeddedState::open(&path).unwrap();
    state.create(resource("a"), "").await.unwrap();
    let old = bookmark(&state).await;
    state.create(resource("b"), "").await.unwrap();
    let last = bookmark(&state).await;
    drop(state);
    let state = EmbeddedState::open(&path).unwrap();
    let error = refusal(&state, &from(&old)).await;
    assert!(matches!(error, StateError::InvalidBookmark(_)), "{error:?}");
    let mut events = state.watch(&all(), &from(&last)).await.unwrap();
    let c = state.create(resource("c"), "").await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap()[0].resource, c);
}

#[tokio::test]
async fn a_bookmark_of_a_deleted_store_is_refused_by_its_successor() {
    let options = options();
    let first = EmbeddedState::in_memory(options.clone()).unwrap();
    for id in ["a", "b", "c"] {
        first.create(resource(id), "").await.unwrap();
    }
    let old = bookmark(&first).await;
    // Its clock is the same, a few seconds on.
    let second = EmbeddedState::in_memory(options).unwrap();
    second.create(resource("a"), "").await.unwrap();
    assert!(matches!(refusal(&second, &from(&old)).await, StateError::InvalidBookmark(_)));
    let new = bookmark(&second).await;
    assert!(matches!(refusal(&first, &from(&new)).await, StateError::InvalidBookmark(_)));
}

#[tokio::test]
async fn a_bookmark_older_than_the_history_is_refused() {
    let state = EmbeddedState::in_memory(Options { history_changes: 4, ..options() }).unwrap();
    let old = bookmark(&state).await;
    for number in 0..4 {
        state.create(resource(&format!("{number}")), "").await.unwrap();
    }
    assert!(state.watch(&all(), &from(&old)).await.is_ok());
    state.create(resource("one too many"), "").await.unwrap();
    assert!(matches!(refusal(&state, &from(&old)).await, StateError::InvalidBookmark(_)));
}

#[tokio::test]
async fn a_watcher_that_falls_behind_is_told_and_ends_while_writers_go_on() {
    let state = EmbeddedState::in_memory(Options { history_changes: 4, ..options() }).unwrap();
    let mut slow = state.watch(&all(), &WatchOptions::default()).await.unwrap();
    let mut behind_in_contents = {
        state.create(resource("first"), "").await.unwrap();
        let options = WatchOptions { bootstrap_contents: true, ..WatchOptions::default() };
        state.watch(&all(), &options).await.unwrap()
    };
    for number in 0..100 {
        state.create(resource(&format!("{number}")), "").await.unwrap();
    }
    let event = slow.next().await.unwrap().unwrap().remove(0);
    assert_eq!(event.typ, EventType::Errored);
    assert!(event.error.unwrap().contains("fell behind"));
    assert!(slow.next().await.is_none());
    for expected in [EventType::Created, EventType::Bootstrapped, EventType::Errored] {
        assert_eq!(behind_in_contents.next().await.unwrap().unwrap()[0].typ, expected);
    }
    assert!(behind_in_contents.next().await.is_none());
}

#[tokio::test]
async fn a_watch_ends_with_the_store() {
    let state = EmbeddedState::in_memory(options()).unwrap();
    let mut events = state.watch(&all(), &WatchOptions::default()).await.unwrap();
    state.create(resource("a"), "").await.unwrap();
    drop(state);
    assert_eq!(events.next().await.unwrap().unwrap()[0].typ, EventType::Created);
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_watch_that_is_cut_off_between_two_events_misses_none() {
    let state = EmbeddedState::in_memory(options()).unwrap();
    let mut events = state.watch(&all(), &WatchOptions::default()).await.unwrap();
    for number in 0..50 {
        let id = format!("{number}");
        // Polled and dropped before anything comes.
        assert!(futures_util::FutureExt::now_or_never(events.next()).is_none());
        state.create(resource(&id), "").await.unwrap();
        assert_eq!(events.next().await.unwrap().unwrap()[0].resource.id(), id);
    }
}

#[tokio::test]
async fn writes_that_wait_together_are_decided_one_after_the_other() {
    let state = EmbeddedState::in_memory(options()).unwrap();
    let first = state.create(resource("a"), "").await.unwrap();
    let mut events = state.watch(&all(), &WatchOptions::default()).await.unwrap();
    let update = UpdateOptions::default();
    let updates = (0..30).map(|_| state.update(first.clone(), &update));
    let creates = (0..30).map(|_| state.create(resource("b"), ""));
    let (updated, created) =
        tokio::join!(futures_util::future::join_all(updates), futures_util::future::join_all(creates));
    assert_eq!(updated.iter().filter(|result| result.is_ok()).count(), 1);
    assert_eq!(created.iter().filter(|result| result.is_ok()).count(), 1);
    for error in updated.into_iter().chain(created).filter_map(Result::err) {
        assert!(error.is_conflict(), "{error:?}");
    }
    for _ in 0..2 {
        assert_eq!(events.next().await.unwrap().unwrap().len(), 1);
    }
    assert!(futures_util::FutureExt::now_or_never(events.next()).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_watch_begun_amid_writes_sees_each_resource_once() {
    let state = EmbeddedState::in_memory(options()).unwrap();
    let writer = tokio::spawn({
        let state = state.clone();
        async move {
            for number in 0..400 {
                state.create(resource(&format!("{number}")), "").await.unwrap();
            }
        }
    });
    let mut watches = Vec::new();
    while !writer.is_finished() {
        let options = WatchOptions { bootstrap_contents: true, aggregated: true, ..WatchOptions::default() };
        watches.push(state.watch(&all(), &options).await.unwrap());
    }
    writer.await.unwrap();
    for mut events in watches {
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 400 {
            for event in events.next().await.unwrap().unwrap() {
                let id = event.resource.id().to_owned();
                if event.typ == EventType::Created {
                    assert!(seen.insert(id), "{:?} came twice", event.resource.id());
                } else {
                    assert_eq!(event.typ, EventType::Bootstrapped);
                }
            }
        }
    }
}
