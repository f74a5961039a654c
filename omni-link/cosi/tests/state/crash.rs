//! An answered write is on the disk, whatever becomes of the process.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use cosi::embedded::EmbeddedState;
use cosi::{ListOptions, Missing, State, Version, modify};

use crate::support::{kind, pointer};

/// Tells the child where to write.
const STORE: &str = "COSI_CRASH_STORE";
const WRITERS: usize = 4;
const ROUNDS: usize = 5;
/// Answers that the parent waits for before it kills.
const ANSWERS: usize = 60;

/// Not a test of its own: what the child does. Prints each answered write, forever.
#[test]
#[ignore = "run as a child by the test below"]
fn child_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(STORE) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let state = EmbeddedState::open(path).unwrap();
        let writers = (0..WRITERS).map(|number| {
            let state = state.clone();
            tokio::spawn(async move {
                let id = format!("writer-{number}");
                for count in 0_u64.. {
                    let write = |resource: &mut cosi::Resource| {
                        resource.metadata.labels.insert("count".into(), count.to_string());
                        resource.spec.proto = vec![0; 700].into();
                        Ok(())
                    };
                    let stored = modify(&state, &pointer(&id), "", Missing::Create, write).await.unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "answered {id} {}", stored.metadata.version).unwrap();
                    out.flush().unwrap();
                }
            })
        });
        futures_util::future::join_all(writers).await;
    });
}

/// The last version that each writer was told of, when it was killed.
fn write_and_be_killed(path: &Path) -> BTreeMap<String, u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_writes_until_it_is_killed", "--ignored", "--nocapture"])
        .env(STORE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answered = BTreeMap::new();
    let mut answers = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        // A line may be cut by the kill; a version cut short is a smaller one.
        let ["answered", id, version] = words[..] else { continue };
        let Ok(version) = version.parse::<u64>() else { continue };
        let last = answered.entry(id.to_owned()).or_insert(0);
        *last = version.max(*last);
        answers += 1;
        if answers == ANSWERS {
            // SIGKILL: nothing is closed, flushed or unwound.
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(answers >= ANSWERS, "the child wrote only {answers} times");
    answered
}

#[tokio::test]
async fn answered_writes_survive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    for round in 0..ROUNDS {
        let answered = write_and_be_killed(&path);
        let state = EmbeddedState::open(&path).unwrap();
        for (id, version) in &answered {
            let stored = state.get(&pointer(id)).await.unwrap();
            assert!(stored.metadata.version >= Version::Number(*version), "round {round}, {id}");
            assert_eq!(stored.spec.proto.len(), 700);
        }
        let listed = state.list(&kind(), &ListOptions::default()).await.unwrap();
        assert!(listed.len() <= WRITERS);
    }
}

#[tokio::test]
async fn a_copy_of_the_open_file_has_every_answered_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let copy = folder.path().join("copy.redb");
    let state = EmbeddedState::open(&path).unwrap();
    for count in 1_u64..=30 {
        let write = |resource: &mut cosi::Resource| {
            resource.metadata.labels.insert("count".into(), count.to_string());
            Ok(())
        };
        modify(&state, &pointer("a"), "", Missing::Create, write).await.unwrap();
        std::fs::copy(&path, &copy).unwrap();
        let copied = EmbeddedState::open(&copy).unwrap();
        assert_eq!(copied.get(&pointer("a")).await.unwrap(), state.get(&pointer("a")).await.unwrap());
    }
}
