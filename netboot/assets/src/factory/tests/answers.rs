//! What a factory answers, and what becomes of it.

use super::*;

/// What asking for the empty schematic gives when the factory does this.
async fn asked(reply: Reply) -> Result<SchematicId, FactoryError> {
    let fake = Fake::new([reply]).await;
    let factory = factory(&fake);
    let result = factory.ensure_schematic(EMPTY_YAML).await;
    assert_eq!(fake.requests().len(), 1, "one request, whatever was answered");
    assert_eq!(factory.known(EMPTY_YAML).as_ref(), result.as_ref().ok(), "only what is right is remembered");
    result
}

#[tokio::test]
async fn a_schematic_is_told_once() {
    let fake = Fake::new([created(EMPTY)]).await;
    let factory = factory(&fake);
    assert_eq!(factory.known(EMPTY_YAML), None);
    for _ in 0..3 {
        assert_eq!(factory.ensure_schematic(EMPTY_YAML).await.unwrap(), empty());
    }
    let [request] = fake.requests().try_into().unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /schematics HTTP/1.1\r\n"), "{head}");
    let head = head.to_lowercase();
    assert!(head.contains("\r\ncontent-type: application/yaml\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nhost: {}\r\n", fake.address)), "{head}");
    assert!(!head.contains("authorization"), "{head}");
    assert_eq!(body, EMPTY_YAML);
}

#[tokio::test]
async fn credentials_go_with_every_request_and_the_prefix_before_every_path() {
    let fake = Fake::new([created(EMPTY)]).await;
    let factory = Factory::new(&config(format!("http://user:p%40ss@{}/mirror/", fake.address))).unwrap();
    factory.ensure_schematic(EMPTY_YAML).await.unwrap();
    let [request] = fake.requests().try_into().unwrap();
    assert!(request.starts_with("POST /mirror/schematics HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("uthorization: Basic dXNlcjpwQHNz\r\n"), "{request}");
}

#[tokio::test]
async fn the_factory_has_the_last_word_on_the_id() {
    let other = EMPTY.replace('3', "4");
    assert_eq!(asked(created(&other)).await.unwrap().as_str(), other);
    // Older ones answer 200, and without the schematic.
    assert_eq!(asked(answer("200 OK", &format!(r#"{{"id":"{EMPTY}"}}"#))).await.unwrap(), empty());
}

#[tokio::test]
async fn an_answer_without_a_right_id_is_an_error() {
    let evil = format!("{}/../..", &EMPTY[..57]);
    for body in ["", "{}", "null", "<html>", r#"{"id":1}"#, r#"{"id":""}"#, &format!(r#"{{"id":"{evil}"}}"#)]
    {
        let result = asked(answer("201 Created", body)).await;
        assert!(matches!(result, Err(FactoryError::NoId)), "{body:?}: {result:?}");
    }
}

#[tokio::test]
async fn what_the_factory_says_reaches_the_operator_in_one_plain_line() {
    let body = format!("\n  extension \u{1b}[31m\"x\" is not there {}\nmore", "é".repeat(500));
    let error = asked(answer("400 Bad Request", &body)).await.unwrap_err();
    assert!(error.is_final());
    let text = error.to_string();
    assert!(
        text.starts_with("image factory refuses the schematic: extension [31m\"x\" is not there éé"),
        "{text}"
    );
    assert!(text.chars().count() < DETAILS_MAX + 50);
    let error = asked(answer("500 Internal Server Error", "out of order\n")).await.unwrap_err();
    assert_eq!(error.to_string(), "image factory answers 500 Internal Server Error: out of order");
    assert!(!error.is_final());
    let error = asked(answer("401 Unauthorized", "")).await.unwrap_err();
    assert_eq!(error.to_string(), "image factory wants other credentials (401 Unauthorized)");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let fake = Fake::new([created(EMPTY)]).await;
    let redirect = format!("HTTP/1.1 302 Found\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", fake.url());
    let error = asked(Reply::Bytes(redirect.into_bytes())).await.unwrap_err();
    assert!(error.to_string().contains(&fake.url()), "{error}");
    assert!(fake.requests().is_empty());
}

#[tokio::test]
async fn an_answer_has_an_end() {
    for endless in [
        Reply::Endless(b"HTTP/1.1 201 Created\r\nContent-Length: 10000000000\r\n\r\n", &[b'x'; 4096]),
        Reply::Endless(b"HTTP/1.1 201 Created\r\n\r\n", &[b'x'; 4096]),
        Reply::Endless(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n", b"4\r\nxxxx\r\n"),
        Reply::Endless(b"HTTP/1.1 500 Broken\r\n\r\n", &[b'x'; 4096]),
    ] {
        let result = asked(endless).await;
        let too_large = ExchangeError::TooLarge(SCHEMATIC_MAX).to_string();
        assert!(
            matches!(&result, Err(FactoryError::Exchange(error)) if error.to_string() == too_large),
            "{result:?}"
        );
    }
    let headers = Reply::Endless(b"HTTP/1.1 201 Created\r\n", b"x-more: and more\r\n");
    assert!(matches!(asked(headers).await, Err(FactoryError::Exchange(ExchangeError::Http(_)))));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_none() {
    let whole = format!(r#"{{"id":"{EMPTY}"}}"#);
    let cut = format!("HTTP/1.1 201 Created\r\nContent-Length: {}\r\n\r\n{whole}", whole.len() + 1);
    let result = asked(Reply::Bytes(cut.into_bytes())).await;
    assert!(matches!(result, Err(FactoryError::Exchange(ExchangeError::Body(_)))), "{result:?}");
    for bytes in
        ["", "HTTP/1.1 201", "SSH-2.0-OpenSSH\r\n", "HTTP/1.1 201 Created\r\nContent-Length: x\r\n\r\n"]
    {
        let result = asked(Reply::Bytes(bytes.into())).await;
        assert!(matches!(result, Err(FactoryError::Exchange(ExchangeError::Http(_)))), "{result:?}");
    }
}

#[tokio::test]
async fn nobody_is_waited_for_without_end() {
    let part = b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{".to_vec();
    for reply in [Reply::Hang(Vec::new()), Reply::Hang(b"HTTP/1.1".to_vec()), Reply::Hang(part)] {
        let fake = Fake::new([reply]).await;
        let timeout = Duration::from_millis(50);
        let factory = Factory::new(&FactoryConfig { timeout, ..config(fake.url()) }).unwrap();
        let result = factory.ensure_schematic(EMPTY_YAML).await;
        assert!(
            matches!(result, Err(FactoryError::Exchange(ExchangeError::TimedOut(limit))) if limit == timeout),
            "{result:?}"
        );
    }
}

#[tokio::test]
async fn nobody_there_is_an_error_that_says_where() {
    let address = Fake::new([]).await.address;
    // The fake is gone, but its port may be closed only when its task has ended.
    tokio::task::yield_now().await;
    let factory = Factory::new(&config(format!("http://{address}"))).unwrap();
    let error = factory.ensure_schematic(EMPTY_YAML).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, format!("cannot connect to {address}"));
}

#[tokio::test]
async fn a_boot_script_is_fetched_and_read() {
    let script = "#!ipxe\n\nimgfree\nkernel http://h/kernel-amd64 a=b c\ninitrd http://h/initramfs\nboot\n";
    let fake =
        Fake::new([answer("200 OK", script), answer("404 Not Found", "no"), answer("200 OK", "<html>")]);
    let fake = fake.await;
    let factory = factory(&fake);
    let read = factory.boot_script(&empty(), "1.13.7", Arch::Amd64, true).await.unwrap();
    assert_eq!(read.args, ["a=b", "c"]);
    let path = format!("GET /pxe/{EMPTY}/v1.13.7/metal-amd64-secureboot HTTP/1.1\r\n");
    assert!(fake.requests()[0].starts_with(&path));
    let missing = factory.boot_script(&empty(), "1.13.7", Arch::Amd64, false).await;
    assert!(matches!(missing, Err(FactoryError::Status { status: StatusCode::NOT_FOUND, .. })));
    let page = factory.boot_script(&empty(), "1.13.7", Arch::Amd64, false).await;
    assert!(matches!(page, Err(FactoryError::Script(BootScriptError::NoScript))));
    let nonsense = factory.boot_script(&empty(), "../x", Arch::Amd64, false).await;
    assert!(matches!(nonsense, Err(FactoryError::Version(_))));
    assert_eq!(fake.requests().len(), 3);
}
