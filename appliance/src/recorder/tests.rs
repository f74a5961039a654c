use netboot::journal::Step;

use super::*;

fn event(at_ms: u64) -> Event {
    Event::new(at_ms, Step::Pending)
}

/// Until entry `seq` is written.
async fn written(recorder: &Recorder, seq: u64) {
    recorder.follow().wait_for(|latest| *latest >= seq).await.unwrap();
}

fn numbers_in_the_file(directory: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(directory.join(FILE_NAME)).unwrap();
    // What has no end yet is on its way.
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines.map(|line| serde_json::from_str::<Entry>(line).unwrap().seq).collect()
}

#[tokio::test]
async fn events_survive_a_restart_and_sequence_numbers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(dir.path()).unwrap();
    (recorder.sink())(event(1));
    (recorder.sink())(event(2));
    drop(recorder);

    let recorder = Recorder::open(dir.path()).unwrap();
    (recorder.sink())(event(3));
    written(&recorder, 3).await;
    let entries = recorder.since(0);
    assert_eq!(entries.iter().map(|e| e.event.at_ms).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(entries.iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(*recorder.follow().borrow(), 3);
}

#[tokio::test]
async fn what_is_told_before_earlier_runs_are_read_comes_behind_them() {
    let dir = tempfile::tempdir().unwrap();
    // A pipe gives its lines when the test writes them.
    let path = dir.path().join(OLD_FILE_NAME);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let old = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let recorder = Recorder::open(dir.path()).unwrap();
    (recorder.sink())(event(2));
    assert!(recorder.shared.inner().early.is_some(), "nobody waits for a file to be read");
    let line = serde_json::to_string(&Entry { seq: 7, event: event(1) }).unwrap();
    writeln!(&old, "{line}").unwrap();
    drop(old);
    recorder.wait_until_read().await;
    written(&recorder, 8).await;
    let entries = recorder.since(0);
    assert_eq!(
        entries.iter().map(|entry| (entry.seq, entry.event.at_ms)).collect::<Vec<_>>(),
        [(7, 1), (8, 2)]
    );
    assert_eq!(*recorder.follow().borrow(), 8);
}

#[test]
fn a_torn_line_costs_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(dir.path()).unwrap();
    (recorder.sink())(event(1));
    drop(recorder);
    let path = dir.path().join(FILE_NAME);
    let mut text = std::fs::read(&path).unwrap();
    text.extend_from_slice(b"{\"seq\":2,\"at_");
    std::fs::write(&path, text).unwrap();

    let recorder = Recorder::open(dir.path()).unwrap();
    (recorder.sink())(event(2));
    drop(recorder);
    let recorder = Recorder::open(dir.path()).unwrap();
    assert_eq!(recorder.since(0).iter().map(|e| e.event.at_ms).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn nobody_reads_what_a_sigkill_could_still_take_away() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(dir.path()).unwrap();
    let sink = recorder.sink();
    let mut seen = 0;
    // More than the writer copies at a time.
    for at_ms in 0..1000 {
        sink(event(at_ms));
        let Some(last) = recorder.since(seen).last().map(|entry| entry.seq) else { continue };
        assert_eq!(numbers_in_the_file(dir.path()).get(last as usize - 1), Some(&last));
        seen = last;
    }
    written(&recorder, 1000).await;
    assert_eq!((recorder.since(0).len(), *recorder.follow().borrow()), (1000, 1000));
    drop((sink, recorder));
    assert_eq!(numbers_in_the_file(dir.path()), (1..=1000).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_number_is_never_given_twice_even_where_lines_are_missing() {
    let dir = tempfile::tempdir().unwrap();
    let lines = [4, 9].map(|seq| serde_json::to_string(&Entry { seq, event: event(seq) }).unwrap());
    std::fs::write(dir.path().join(FILE_NAME), lines.join("\n")).unwrap();
    let recorder = Recorder::open(dir.path()).unwrap();
    (recorder.sink())(event(10));
    written(&recorder, 10).await;
    let entries = recorder.since(0);
    assert_eq!(
        entries.iter().map(|entry| (entry.seq, entry.event.at_ms)).collect::<Vec<_>>(),
        [(8, 4), (9, 9), (10, 10)]
    );
}

#[test]
fn the_file_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(dir.path()).unwrap();
    let sink = recorder.sink();
    let long = "x".repeat(4000);
    for at_ms in 0..2500 {
        sink(Event { step: Step::DhcpIgnored { reason: long.clone() }, ..event(at_ms) });
    }
    drop(sink);
    drop(recorder);
    let size: u64 =
        std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(size <= 2 * FILE_BYTES_MAX, "{size}");
}
