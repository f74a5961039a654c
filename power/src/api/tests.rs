use std::future::pending;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tempfile::TempDir;
use tokio::net::TcpListener;
use uuid::{Uuid, uuid};

use super::*;

const MACHINE: Uuid = uuid!("fa11beef-0000-4000-8000-00000000000a");

/// What the fake answers to everything.
#[derive(Clone, Copy)]
enum Mood {
    PoweredOn(bool),
    Status(u16, &'static str),
    Text(&'static str),
    Flood,
    Hang,
}

struct Fake {
    mood: Mood,
    seen: Mutex<Vec<String>>,
}

async fn answer(State(fake): State<Arc<Fake>>, method: Method, uri: Uri) -> Response {
    fake.seen.lock().unwrap().push(format!("{method} {uri}"));
    match fake.mood {
        Mood::PoweredOn(on) => format!("{{\"PoweredOn\":{on}}}").into_response(),
        Mood::Status(code, text) => (StatusCode::from_u16(code).unwrap(), text).into_response(),
        Mood::Text(text) => text.into_response(),
        Mood::Flood => vec![b' '; ANSWER_LIMIT + 1].into_response(),
        Mood::Hang => pending().await,
    }
}

/// A controller that answers as ordered, and the client of it.
async fn controller(mood: Mood) -> (ApiBmc, Arc<Fake>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let fake = Arc::new(Fake { mood, seen: Mutex::default() });
    let router = Router::new().fallback(answer).with_state(fake.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (ApiBmc::new(address), fake)
}

#[tokio::test]
async fn each_call_is_one_request_of_the_peers_api() {
    let (bmc, fake) = controller(Mood::PoweredOn(true)).await;
    let bmc: Box<dyn Bmc> = Box::new(bmc);

    bmc.power_on().await.unwrap();
    bmc.power_off().await.unwrap();
    bmc.reboot().await.unwrap();
    bmc.set_pxe_boot_once(PxeMode::Uefi).await.unwrap();
    bmc.reset_boot_device().await.unwrap();
    assert!(bmc.is_powered_on().await.unwrap());

    assert_eq!(
        *fake.seen.lock().unwrap(),
        ["POST /poweron", "POST /poweroff", "POST /reboot", "POST /pxeboot", "GET /status"]
    );
}

#[tokio::test]
async fn a_machine_that_is_off_is_reported_off() {
    let (bmc, _fake) = controller(Mood::PoweredOn(false)).await;
    assert!(!bmc.is_powered_on().await.unwrap());
}

#[tokio::test]
async fn any_status_but_200_is_a_refusal_with_the_controllers_words() {
    for code in [202, 204, 302, 404, 500] {
        let text = if code == 204 { "" } else { "no\nsuch machine\u{7}" };
        let (bmc, _fake) = controller(Mood::Status(code, text)).await;
        for error in [bmc.power_on().await.unwrap_err(), bmc.is_powered_on().await.unwrap_err()] {
            let PowerError::Refused { status, detail, .. } = &error else { panic!("{error:?}") };
            assert_eq!(*status, code);
            assert_eq!(detail, if code == 204 { "no explanation" } else { "no such machine" });
            assert!(error.to_string().contains(&bmc.address().to_string()), "{error}");
        }
    }
}

#[tokio::test]
async fn garbage_instead_of_a_status_is_a_protocol_error() {
    for text in ["", "<html>", "{}", "{\"PoweredOn\":\"yes\"}", "[1", "null"] {
        let (bmc, _fake) = controller(Mood::Text(text)).await;
        let error = bmc.is_powered_on().await.unwrap_err();
        assert!(matches!(error, PowerError::Protocol { .. }), "{text}: {error:?}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let (bmc, _fake) = controller(Mood::Flood).await;
    let error = bmc.is_powered_on().await.unwrap_err();
    assert!(matches!(error, PowerError::Protocol { .. }), "{error:?}");
}

/// The clock is paused, so the limit passes as soon as nothing else can happen.
#[tokio::test(start_paused = true)]
async fn a_controller_that_hangs_is_given_up_on_after_the_limit() {
    let (bmc, _fake) = controller(Mood::Hang).await;
    let start = tokio::time::Instant::now();
    let error = bmc.power_on().await.unwrap_err();
    assert!(matches!(error, PowerError::Unreachable { .. }), "{error:?}");
    assert!(start.elapsed() >= CALL_LIMIT);
    assert!(error.to_string().contains("POST /poweron"), "{error}");
}

#[tokio::test]
async fn a_closed_port_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = ApiBmc::new(address).is_powered_on().await.unwrap_err();
    assert!(matches!(error, PowerError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_peer_that_closes_without_a_word_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let closer = tokio::spawn(async move { drop(listener.accept().await.unwrap()) });
    let error = ApiBmc::new(address).power_on().await.unwrap_err();
    assert!(matches!(error, PowerError::Unreachable { .. }), "{error:?}");
    closer.await.unwrap();
}

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
}

fn state_dir(files: &[(&str, &str)]) -> (AddressBook, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        write(dir.path(), name, text);
    }
    (AddressBook::new(dir.path()), dir)
}

#[test]
fn both_spellings_of_a_machine_configuration_are_understood() {
    let old =
        r#"{"NodeUUID":"fa11beef-0000-4000-8000-00000000000a","GatewayAddrs":["10.5.0.1"],"APIPort":4001}"#;
    let new = r#"{"NodeUUID":"fa11beef-0000-4000-8000-00000000000a","GatewayAddrs":["10.9.9.9"],
        "Network":{"GatewayAddrs":["10.6.0.1","fd00::1"]},"APIPort":1,"APIBindAddress":{"IP":"","Port":4002,"Zone":""}}"#;
    let nulls = r#"{"NodeUUID":"FA11BEEF-0000-4000-8000-00000000000A","GatewayAddrs":["fd00::1"],
        "Network":{"GatewayAddrs":null},"APIPort":4003,"APIBindAddress":null}"#;
    for (text, want) in [(old, "10.5.0.1:4001"), (new, "10.6.0.1:4002"), (nulls, "[fd00::1]:4003")] {
        let (book, _dir) = state_dir(&[("a.config", text)]);
        assert_eq!(book.find(MACHINE).unwrap(), want.parse().unwrap());
    }
}

#[test]
fn the_first_complete_file_wins_and_broken_ones_are_skipped() {
    let (book, dir) = state_dir(&[
        ("a.config", "{"),
        ("b.config", r#"{"NodeUUID":null}"#),
        (
            "c.config",
            r#"{"NodeUUID":"11111111-0000-4000-8000-000000000000","GatewayAddrs":["10.0.0.1"],"APIPort":1}"#,
        ),
        ("d.config", r#"{"NodeUUID":"fa11beef-0000-4000-8000-00000000000a","APIPort":2}"#),
        (
            "e.config",
            r#"{"NodeUUID":"fa11beef-0000-4000-8000-00000000000a","GatewayAddrs":["10.0.0.1"],"APIPort":0}"#,
        ),
        (
            "f.config",
            r#"{"NodeUUID":"fa11beef-0000-4000-8000-00000000000a","GatewayAddrs":["10.0.0.1"],"APIPort":3}"#,
        ),
        (
            "g.config",
            r#"{"NodeUUID":"fa11beef-0000-4000-8000-00000000000a","GatewayAddrs":["10.0.0.1"],"APIPort":4}"#,
        ),
        (
            "a.json",
            r#"{"NodeUUID":"fa11beef-0000-4000-8000-00000000000a","GatewayAddrs":["10.0.0.1"],"APIPort":5}"#,
        ),
    ]);
    std::fs::create_dir(dir.path().join("0.config")).unwrap();
    write(dir.path(), "00.config", &" ".repeat(1024 * 1024 + 1));
    assert_eq!(book.find(MACHINE).unwrap(), "10.0.0.1:3".parse().unwrap());
}

#[test]
fn an_unknown_machine_or_directory_is_an_error_that_says_where_was_looked() {
    let (book, dir) = state_dir(&[("a.config", "{}")]);
    let error = book.find(MACHINE).unwrap_err();
    assert!(matches!(error, AddressError::NotFound { files: 1, .. }), "{error:?}");
    assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");

    let error = AddressBook::new(dir.path().join("none")).find(MACHINE).unwrap_err();
    assert!(matches!(error, AddressError::Directory { .. }), "{error:?}");
}
