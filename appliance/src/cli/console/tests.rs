use super::*;
use crate::status::{Machines, Omni};

fn status() -> Status {
    Status {
        images: None,
        version: "1.2.3".into(),
        id: "bare-metal".into(),
        address: [192, 0, 2, 10].into(),
        port: 50042,
        started_ms: 1_795_000_000_000,
        omni: Omni { endpoint: None, in_sync: true, trouble: String::new() },
        machines: Machines { pending: 1, accepted: 3, rejected: 0, allocated: 2 },
    }
}

fn shown(status: &Status) -> Shown {
    Shown::new(host(&["eth0 192.0.2.10"]), Ok(status))
}

fn host(addresses: &[&str]) -> Host {
    Host { name: "edge-1".into(), addresses: addresses.iter().map(|one| (*one).to_owned()).collect() }
}

fn entry(seq: u64) -> Entry {
    let text = format!(r#"{{"seq":{seq},"at_ms":0,"mac":"52:54:00:88:00:01","step":"pending"}}"#);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_screen_says_who_and_where_and_what_to_do_next() {
    let text = Screen::default().whole(&shown(&status()));
    assert!(text.starts_with("\x1b[H\x1b[Jbootlace 1.2.3 - edge-1 - bare-metal\n"), "{text:?}");
    for part in [
        "Addresses   eth0 192.0.2.10\n",
        "http://192.0.2.10:50042/",
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
    assert!(!screen.whole(&shown(&status())).is_empty());
    assert_eq!(screen.whole(&shown(&status())), "");
    screen.take(&entry(7));
    assert!(screen.whole(&shown(&status())).contains("\n00:00:00  52:54:00:88:00:01  "));
    assert_eq!(screen.seen, 7);
}

#[test]
fn a_screen_keeps_the_last_lines_only() {
    let mut screen = Screen::default();
    for seq in 1..=100 {
        screen.take(&entry(seq));
    }
    assert_eq!((screen.lines.len(), screen.fresh.len()), (LINES, LINES));
    assert!(screen.whole(&shown(&status())).lines().count() <= 24);
}

#[test]
fn plain_lines_have_no_escapes_and_come_once() {
    let mut screen = Screen::default();
    screen.take(&entry(1));
    let text = screen.plain(&shown(&status()));
    assert!(text.contains("Omni: embedded hub, in sync\n") && text.contains("52:54:00:88:00:01"), "{text}");
    assert!(!text.contains('\x1b'));
    assert_eq!(screen.plain(&shown(&status())), "");
}

#[test]
fn trouble_with_omni_is_on_the_screen() {
    let omni = Omni {
        endpoint: Some("https://omni.example.org".into()),
        in_sync: false,
        trouble: "Omni's wishes are not known".into(),
    };
    let text = Screen::default().whole(&shown(&Status { omni, ..status() }));
    assert!(text.contains("https://omni.example.org: Omni's wishes are not known"), "{text}");
}

#[test]
fn the_image_cache_is_a_line() {
    let images = |count, bytes, coming, failures| {
        let images = crate::status::CachedImages { count, bytes, coming, failures };
        Screen::default().whole(&shown(&Status { images: Some(images), ..status() }))
    };
    assert!(images(0, 0, 0, 0).contains("Images      0 in the cache, 0 MB"));
    assert!(
        images(2, 201_000_000, 1, 3).contains("2 in the cache, 201 MB, 1 being fetched, 3 fetches failed")
    );
    assert!(!Screen::default().whole(&shown(&status())).contains("Images"));
}

#[test]
fn before_the_appliance_answers_the_screen_says_what_is_missing() {
    let error = CliError::Unavailable {
        socket: "/data/bootlace/bootlace.sock".into(),
        source: std::io::ErrorKind::NotFound.into(),
    };
    let text = Screen::default().whole(&Shown::new(host(&[]), Err(&error)));
    assert!(text.contains("- edge-1\n") && text.contains("none yet: is a cable plugged in"), "{text}");
    assert!(text.contains("starting: it does not answer yet") && !text.contains("/data"), "{text}");
}

#[test]
fn with_omni_machines_are_accepted_there() {
    let endpoint = Some("https://omni.example.org".to_owned());
    let omni = Omni { endpoint, in_sync: true, trouble: String::new() };
    let text = Screen::default().whole(&shown(&Status { omni, ..status() }));
    assert!(text.contains("machines wait to be accepted in https://omni.example.org\n"), "{text}");
}

#[test]
fn this_machine_has_a_name() {
    assert!(!Host::now().name.is_empty());
}
