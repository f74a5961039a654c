//! One plain HTTP GET. The address is an IP literal: a static binary on a bare machine resolves no names.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A join configuration has less than 2 KiB.
const MAX_RESPONSE: u64 = 256 << 10;
/// For the whole exchange.
const PATIENCE: Duration = Duration::from_secs(10);

/// The document did not come.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not `http://` and an address.
    #[error("{0:?} is not http:// with an IP address")]
    Url(String),
    /// The connection failed.
    #[error("connection failed")]
    Io(#[from] std::io::Error),
    /// Too slow.
    #[error("no answer in time")]
    TimedOut,
    /// Not HTTP.
    #[error("answer is not HTTP")]
    Malformed,
    /// The server said no; its first words tell why.
    #[error("answered with status {0}: {1}")]
    Status(u16, String),
    /// Longer than anything expected here.
    #[error("answer is too long")]
    TooLong,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// It.
    pub text: String,
    /// The server's time.
    pub date: Option<SystemTime>,
}

/// A URL in the parts that a request needs.
#[derive(Debug, PartialEq, Eq)]
struct Url<'a> {
    address: SocketAddr,
    authority: &'a str,
    path: &'a str,
}

fn parse_url(url: &str) -> Option<Url<'_>> {
    let rest = url.strip_prefix("http://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let address = authority.parse().ok().or_else(|| {
        let host = authority.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(authority);
        host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 80))
    })?;
    let path = path.split('#').next().unwrap_or_default();
    // It goes into a request line as it is.
    path.bytes().all(|byte| byte.is_ascii_graphic()).then_some(Url { address, authority, path })
}

/// Fetches a small text.
pub async fn get(url: &str) -> Result<String, FetchError> {
    Ok(document(url).await?.text)
}

/// Fetches a small text, with its date.
pub async fn document(url: &str) -> Result<Document, FetchError> {
    let parsed = parse_url(url).ok_or_else(|| FetchError::Url(url.to_owned()))?;
    tokio::time::timeout(PATIENCE, exchange(&parsed)).await.map_err(|_| FetchError::TimedOut)?
}

async fn exchange(url: &Url<'_>) -> Result<Document, FetchError> {
    let mut stream = TcpStream::connect(url.address).await?;
    let slash = if url.path.starts_with('/') { "" } else { "/" };
    // Version 1.0 and close: the body ends with the connection, never in chunks.
    let request = format!(
        "GET {slash}{} HTTP/1.0\r\nHost: {}\r\nUser-Agent: bootlace-agent\r\nConnection: close\r\n\r\n",
        url.path, url.authority
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_RESPONSE + 1).read_to_end(&mut answer).await?;
    if answer.len() as u64 > MAX_RESPONSE {
        return Err(FetchError::TooLong);
    }
    parse_answer(&answer)
}

fn parse_answer(answer: &[u8]) -> Result<Document, FetchError> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or(FetchError::Malformed)?;
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| FetchError::Malformed)?;
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    if !words.next().is_some_and(|version| version.starts_with("HTTP/1.")) {
        return Err(FetchError::Malformed);
    }
    let status: u16 = words.next().and_then(|code| code.parse().ok()).ok_or(FetchError::Malformed)?;
    let body = String::from_utf8_lossy(&answer[end + 4..]);
    if status != 200 {
        return Err(FetchError::Status(
            status,
            body.lines().next().unwrap_or_default().chars().take(200).collect(),
        ));
    }
    let date = head.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        let is_date = name.eq_ignore_ascii_case("date");
        is_date.then(|| httpdate::parse_http_date(value.trim()).ok()).flatten()
    });
    Ok(Document { text: body.into_owned(), date })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_with_addresses_are_read_and_names_are_not() {
        let url = parse_url("http://10.0.0.1:50042/config?u=1#x").unwrap();
        assert_eq!((url.address, url.path), ("10.0.0.1:50042".parse().unwrap(), "/config?u=1"));
        assert_eq!(parse_url("http://10.0.0.1?u=1").unwrap().address.port(), 80);
        assert_eq!(parse_url("http://[fd00::1]/").unwrap().address, "[fd00::1]:80".parse().unwrap());
        for url in ["http://name/x", "https://10.0.0.1/", "http://10.0.0.1/a b", "http://10.0.0.1/\u{e9}", ""]
        {
            assert_eq!(parse_url(url), None, "{url}");
        }
    }

    #[test]
    fn answers_are_read() {
        let document = parse_answer(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\nbody").unwrap();
        assert_eq!((&*document.text, document.date), ("body", None));
        let dated = b"HTTP/1.0 200 OK\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n";
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(parse_answer(dated).unwrap().date, Some(date));
        assert_eq!(parse_answer(b"HTTP/1.0 200 OK\r\ndate: soon\r\n\r\n").unwrap().date, None);
        let error = parse_answer(b"HTTP/1.1 403 Forbidden\r\n\r\nnot vouched for\n").unwrap_err();
        assert_eq!(error.to_string(), "answered with status 403: not vouched for");
        assert!(parse_answer(b"").is_err());
        assert!(parse_answer(b"SSH-2.0\r\n\r\n").is_err());
    }

    #[tokio::test]
    async fn a_document_comes_over_a_real_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/config?u=x", listener.local_addr().unwrap());
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(b"GET /config?u=x HTTP/1.0\r\nHost: 127.0.0.1:"));
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nkind: X\n").await.unwrap();
        };
        let (body, ()) = tokio::join!(get(&url), server);
        assert_eq!(body.unwrap(), "kind: X\n");
    }

    proptest! {
        #[test]
        fn no_answer_and_no_url_panics(answer in prop::collection::vec(any::<u8>(), 0..200), url in ".*") {
            let _ = parse_answer(&answer);
            let _ = parse_url(&url);
        }
    }
}
