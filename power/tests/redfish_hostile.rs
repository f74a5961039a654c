//! The Redfish driver against servers that misbehave, over loopback.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use power::redfish::{RedfishBmc, RedfishOptions};
use power::{Bmc, PowerError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

const SECRET: &str = "Abcdefgh12345678";

/// What a server does to its callers.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// Answers one request well, and closes without a word.
    ClosesSilently,
    /// The same, and the session has ended every time.
    ForgetsSessions,
    /// Resets connections.
    Resets,
    /// Takes the request and says nothing.
    Stalls,
    /// Begins an answer, and says no more.
    Drips,
    /// Speaks another protocol.
    Garbage,
    /// A body without an end.
    Floods,
    /// A body that is shorter than it says, by far.
    Announces,
    /// Headers without an end.
    ManyHeaders,
    /// A page for people.
    Html,
    /// JSON that is deeper than anybody reads.
    Deep,
}

#[derive(Default)]
struct Seen {
    requests: AtomicUsize,
    logins: AtomicUsize,
}

async fn request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut text = Vec::new();
    loop {
        let head = String::from_utf8_lossy(&text).into_owned();
        if let Some(end) = head.find("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if text.len() >= end + 4 + length.unwrap_or(0) {
                let line = head.lines().next().unwrap_or_default();
                let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
                return Some((path, head));
            }
        }
        if stream.read_buf(&mut text).await.ok()? == 0 {
            return None;
        }
    }
}

async fn endless(stream: &mut TcpStream, what: &[u8]) {
    while stream.write_all(what).await.is_ok() {}
}

async fn answer(stream: &mut TcpStream, manner: Manner, seen: &Seen) {
    let Some((path, head)) = request(stream).await else { return };
    let count = seen.requests.fetch_add(1, Ordering::SeqCst);
    let text: &[u8] = match manner {
        Manner::ClosesSilently | Manner::ForgetsSessions => {
            let forgets = matches!(manner, Manner::ForgetsSessions);
            let (status, headers, body) = match path.as_str() {
                "/redfish/v1/" => {
                    ("200 OK", String::new(), r#"{"Systems":{"@odata.id":"/redfish/v1/Systems"}}"#)
                }
                "/redfish/v1/SessionService/Sessions" => {
                    let token = seen.logins.fetch_add(1, Ordering::SeqCst);
                    ("201 Created", format!("x-auth-token: token-{token}\r\n"), "{}")
                }
                _ if forgets && head.contains("token-0") && count > 4 => {
                    ("401 Unauthorized", String::new(), "{}")
                }
                "/redfish/v1/Systems" => {
                    ("200 OK", String::new(), r#"{"Members":[{"@odata.id":"/redfish/v1/Systems/1"}]}"#)
                }
                _ => ("200 OK", String::new(), r#"{"PowerState":"On"}"#),
            };
            let length = body.len();
            let text = format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}");
            let _ = stream.write_all(text.as_bytes()).await;
            return;
        }
        Manner::Resets => {
            let _ = socket_reset(stream);
            return;
        }
        Manner::Stalls => {
            let _ = stream.read(&mut [0]).await;
            return;
        }
        Manner::Drips => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{").await;
            let _ = stream.read(&mut [0]).await;
            return;
        }
        Manner::Garbage => b"SSH-2.0-OpenSSH_9.2\r\n",
        Manner::Floods => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            return endless(stream, b"10\r\n[[[[[[[[[[[[[[[[\r\n").await;
        }
        Manner::Announces => b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n{",
        Manner::ManyHeaders => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
            return endless(stream, b"x-more: and more and more and more\r\n").await;
        }
        Manner::Html => b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n<html>Welcome</html>",
        Manner::Deep => {
            let deep = "[".repeat(100_000);
            let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{deep}", deep.len());
            let _ = stream.write_all(text.as_bytes()).await;
            return;
        }
    };
    let _ = stream.write_all(text).await;
}

/// What is unread when a socket is closed with no time to linger is answered by a reset.
fn socket_reset(stream: &TcpStream) -> std::io::Result<()> {
    #[allow(deprecated, reason = "it is zero, which does not block")]
    stream.set_linger(Some(std::time::Duration::ZERO))
}

async fn server(manner: Manner) -> (SocketAddr, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Seen::default());
    let counted = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = Arc::clone(&counted);
            tokio::spawn(async move { answer(&mut stream, manner, &seen).await });
        }
    });
    (address, seen)
}

fn bmc(address: SocketAddr) -> RedfishBmc {
    let options = RedfishOptions { tls: None, port: address.port(), set_boot_source_override_mode: true };
    RedfishBmc::new(address.ip(), "admin", SECRET, None, &options)
}

/// What becomes of a look at such a server; the secret is in none of it.
async fn met(manner: Manner) -> PowerError {
    let (address, seen) = server(manner).await;
    let error = bmc(address).is_powered_on().await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
    assert!(seen.requests.load(Ordering::SeqCst) <= 2, "{manner:?} is not asked over and over");
    error
}

#[tokio::test]
async fn a_server_that_closes_after_each_answer_is_asked_on_other_connections() {
    let (address, seen) = server(Manner::ClosesSilently).await;
    let bmc = bmc(address);
    for _ in 0..20 {
        assert!(bmc.is_powered_on().await.unwrap());
        bmc.power_off().await.unwrap();
        bmc.power_on().await.unwrap();
    }
    assert_eq!(seen.logins.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_session_that_ended_is_opened_anew_once() {
    let (address, seen) = server(Manner::ForgetsSessions).await;
    let bmc = bmc(address);
    for _ in 0..5 {
        assert!(bmc.is_powered_on().await.unwrap());
    }
    assert_eq!(seen.logins.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn connections_that_break_are_told_as_no_answer() {
    for manner in [Manner::Resets, Manner::Garbage, Manner::Announces, Manner::ManyHeaders] {
        let error = met(manner).await;
        assert!(matches!(error, PowerError::Unreachable { .. }), "{manner:?}: {error:?}");
    }
}

#[tokio::test]
async fn answers_that_no_controller_gives_are_told_as_such() {
    for (manner, reason) in
        [(Manner::Floods, "more than 262144 bytes"), (Manner::Html, "no JSON"), (Manner::Deep, "no JSON")]
    {
        let error = met(manner).await;
        assert!(matches!(error, PowerError::Protocol { .. }), "{manner:?}: {error:?}");
        assert!(error.to_string().contains(reason), "{manner:?}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stalls_takes_ten_seconds_and_no_more() {
    for manner in [Manner::Stalls, Manner::Drips] {
        let begin = Instant::now();
        let error = met(manner).await;
        assert!(matches!(error, PowerError::Unreachable { .. }), "{manner:?}: {error:?}");
        assert!(begin.elapsed() <= power::redfish::EXCHANGE_LIMIT * 2, "{manner:?}: {:?}", begin.elapsed());
    }
}
