use super::*;
use crate::status::{Machines, Omni};

fn status() -> Status {
    Status {
        version: "1.2.3".into(),
        id: "bare-metal".into(),
        address: [192, 0, 2, 10].into(),
        port: 50042,
        started_ms: 1_795_000_000_000,
        omni: Omni { endpoint: None, in_sync: true, trouble: String::new() },
        machines: Machines { pending: 1, accepted: 3, rejected: 0, allocated: 2 },
    }
}

fn entry(seq: u64) -> Entry {
    let text = format!(r#"{{"seq":{seq},"at_ms":0,"mac":"52:54:00:88:00:01","step":"pending"}}"#);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_screen_says_who_and_where_and_what_to_do_next() {
    let text = Screen::default().whole(&status());
    assert!(text.starts_with("\x1b[H\x1b[Jbootlace 1.2.3 - bare-metal\n"), "{text:?}");
    for part in [
        "192.0.2.10, http://192.0.2.10:50042/",
        "embedded hub, in sync",
        "4: 1 pending, 3 accepted (2 in clusters), 0 rejected",
        "bootlace machines accept <id>",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= COLUMNS));
}

#[test]
fn a_screen_without_news_is_not_drawn_again() {
    let mut screen = Screen::default();
    assert!(!screen.whole(&status()).is_empty());
    assert_eq!(screen.whole(&status()), "");
    screen.take(&entry(7));
    assert!(screen.whole(&status()).contains("52:54:00:88:00:01"));
    assert_eq!(screen.seen, 7);
}

#[test]
fn a_screen_keeps_the_last_lines_only() {
    let mut screen = Screen::default();
    for seq in 1..=100 {
        screen.take(&entry(seq));
    }
    assert_eq!((screen.lines.len(), screen.fresh.len()), (LINES, LINES));
    assert!(screen.whole(&status()).lines().count() <= 24);
}

#[test]
fn plain_lines_have_no_escapes_and_come_once() {
    let mut screen = Screen::default();
    screen.take(&entry(1));
    let text = screen.plain(&status());
    assert!(text.contains("Omni: embedded hub, in sync\n") && text.contains("52:54:00:88:00:01"), "{text}");
    assert!(!text.contains('\x1b'));
    assert_eq!(screen.plain(&status()), "");
}

#[test]
fn trouble_with_omni_is_on_the_screen() {
    let omni = Omni {
        endpoint: Some("https://omni.example.org".into()),
        in_sync: false,
        trouble: "Omni's wishes are not known".into(),
    };
    let text = Screen::default().whole(&Status { omni, ..status() });
    assert!(text.contains("https://omni.example.org: Omni's wishes are not known"), "{text}");
}
