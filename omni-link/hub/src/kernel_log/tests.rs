use std::time::Duration;

use super::*;

const MACHINE: &str = "5b0e1d4a-7d7f-4c8e-9a53-0f9f2b6f2f01";

fn texts(logs: &KernelLogs, key: &str) -> Vec<String> {
    let (lines, _) = logs.after(key, 0, usize::MAX);
    lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect()
}

async fn read_all(bytes: &[u8]) -> Vec<Option<String>> {
    let mut lines = Lines::new(bytes);
    let mut all = Vec::new();
    while let Some(line) = lines.next().await.unwrap() {
        all.push(line.map(|line| String::from_utf8(line.to_vec()).unwrap()));
    }
    all
}

#[tokio::test]
async fn a_line_may_be_as_long_as_it_may_be_and_no_longer() {
    let longest = "x".repeat(MAX_LOG_LINE);
    let bytes = format!("a\n\n{longest}\n{longest}y\nb\nwithout an end");
    let expected = [Some("a".to_owned()), Some(String::new()), Some(longest), None, Some("b".to_owned())];
    assert_eq!(read_all(bytes.as_bytes()).await, expected);
}

#[test]
fn only_objects_are_lines() {
    assert!(is_object(br#"{"msg":"a","seq":1,"deep":{"er":[1]}}"#));
    for bad in [&b""[..], b"{", b"[]", b"7", b"\"text\"", b"<6>not json", b"\xff\xfe", b"{}{}"] {
        assert!(!is_object(bad), "{bad:?}");
    }
}

#[tokio::test]
async fn a_driver_that_repeats_itself_is_cut_short_and_that_is_told() {
    let logs = KernelLogs::default();
    let start = Instant::now();
    for _ in 0..LOG_BURST + 10 {
        logs.push(MACHINE, b"{\"msg\":\"again\"}", start);
    }
    assert_eq!(texts(&logs, MACHINE).len(), usize::try_from(LOG_BURST).unwrap());
    logs.push(MACHINE, b"{\"msg\":\"later\"}", start + Duration::from_secs(1));
    let all = texts(&logs, MACHINE);
    assert!(all[all.len() - 2].contains("10 lines came too fast"), "{}", all[all.len() - 2]);
    assert!(all[all.len() - 1].contains("later"));
}

#[tokio::test]
async fn the_newest_lines_of_a_machine_stay_within_the_limit() {
    let logs = KernelLogs::default();
    let line = |number: usize| format!("{{\"msg\":\"{number:0>1000}\"}}");
    let fits = MAX_MACHINE_LOG / line(0).len();
    for number in 0..2 * fits {
        logs.push(MACHINE, line(number).as_bytes(), Instant::now());
    }
    let all = texts(&logs, MACHINE);
    assert_eq!(all.len(), fits);
    assert_eq!(all[fits - 1], line(2 * fits - 1));
    assert_eq!(logs.lock().bytes, all.iter().map(String::len).sum::<usize>());
}

#[tokio::test]
async fn with_many_machines_the_silent_make_room() {
    let logs = KernelLogs::default();
    let line = vec![b'x'; MAX_LOG_LINE];
    let each = MAX_MACHINE_LOG / MAX_LOG_LINE;
    let machines = MAX_LOG_BYTES / MAX_MACHINE_LOG;
    for machine in 0..=machines {
        for _ in 0..each {
            logs.push(&machine.to_string(), &line, Instant::now());
        }
    }
    assert!(logs.lock().bytes <= MAX_LOG_BYTES);
    assert_eq!(logs.keys().len(), machines);
    assert!(texts(&logs, "0").is_empty(), "the first was silent for the longest time");
}

#[tokio::test]
async fn what_came_before_the_machine_was_known_becomes_its_own() {
    let logs = KernelLogs::default();
    logs.push(MACHINE, b"old", Instant::now());
    let (_, at) = logs.after(MACHINE, 0, usize::MAX);
    logs.push("10.0.0.7", b"early", Instant::now());
    logs.adopt(MACHINE, "10.0.0.7");
    logs.push(MACHINE, b"late", Instant::now());
    assert_eq!(texts(&logs, MACHINE), ["old", "early", "late"]);
    assert_eq!(logs.after(MACHINE, at, usize::MAX).0.len(), 2, "who follows sees both");
    assert_eq!(logs.after(MACHINE, 0, 1).0, ["late"]);
    logs.forget(MACHINE);
    assert_eq!((logs.keys().len(), logs.lock().bytes), (0, 0));
}

#[tokio::test]
async fn a_machine_that_lost_its_power_takes_the_place_of_its_old_connections() {
    let logs = KernelLogs::default();
    let peer = IpAddr::from([10, 0, 0, 7]);
    let mut held: Vec<_> = (0..=LOG_CONNECTIONS).map(|_| logs.connected(peer)).collect();
    let ended: Vec<_> = held.iter().map(|one| one.ended.is_cancelled()).collect();
    assert!(ended[0] && !ended[1..].contains(&true), "{ended:?}");
    held.clear();
    assert!(logs.lock().connections.is_empty());
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_lines_or_none(bytes in proptest::collection::vec(0u8..=255, 0..4096)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut lines = Lines::new(bytes.as_slice());
        let mut count = 0;
        runtime.block_on(async {
            while let Some(line) = lines.next().await.unwrap() {
                let _ = line.is_some_and(is_object);
                count += 1;
            }
        });
        assert_eq!(count, bytes.iter().filter(|byte| **byte == b'\n').count());
    }
}
