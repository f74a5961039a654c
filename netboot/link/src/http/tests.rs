use std::net::SocketAddr;
use std::sync::Mutex;

use axum::body::Body;
use axum::extract::ConnectInfo;
use http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use netboot::boot::{BootAnswer, BootBody, BootRequest, Refusal};
use netboot::firmware::Arch;
use netboot::ipxe::{DiskMethod, disk_script};
use netboot::journal::{Event, Step};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use uuid::Uuid;

use super::*;

const MACHINE: &str = "8c9d6b1e-0d4b-4b0e-9d6f-0123456789ab";
const TOKEN: &str = "v2:secret";

/// Answers by the UUID it is asked for, and remembers the questions.
#[derive(Default)]
struct Policy {
    asked: Mutex<Vec<BootRequest>>,
}

impl BootPolicy for Policy {
    fn boot(&self, request: &BootRequest) -> BootAnswer {
        self.asked.lock().unwrap().push(request.clone());
        let body = if request.uuid.is_nil() {
            BootBody::NotFound("machine is cordoned\n".into())
        } else {
            BootBody::Script(disk_script(DiskMethod::IpxeExit).unwrap())
        };
        BootAnswer { mode: "disk".into(), reason: "installed".into(), body }
    }

    fn join_config(&self, uuid: Option<Uuid>, _peer: IpAddr) -> Result<String, Refusal> {
        match uuid.map(|uuid| uuid.as_u128()) {
            None => Err(Refusal::Forbidden("no boot in progress".into())),
            Some(1) => Err(Refusal::TooMany),
            Some(2) => Err(Refusal::Unavailable("no link to Omni yet".into())),
            Some(_) => Ok(format!("apiUrl: grpc://10.0.0.1:8090?jointoken={TOKEN}\n")),
        }
    }
}

struct Bench {
    service: Service,
    policy: Arc<Policy>,
    told: Arc<Mutex<Vec<Event>>>,
    _directory: tempfile::TempDir,
}

/// More than two pieces, so that reading ahead is tried.
fn kernel() -> Vec<u8> {
    (0..700_001_u32).map(|index| (index % 253) as u8).collect()
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("secret"), "outside").unwrap();
        let root = directory.path().join("assets");
        std::fs::create_dir_all(root.join("image/abc/v1.13.0")).unwrap();
        std::fs::write(root.join("kernel-amd64"), kernel()).unwrap();
        std::fs::write(root.join("empty"), "").unwrap();
        std::fs::write(root.join("image/abc/v1.13.0/kernel-amd64"), "talos").unwrap();
        let (policy, told) = (Arc::new(Policy::default()), Arc::new(Mutex::new(Vec::new())));
        let files = vec![("snp.efi".into(), b"0123456789".to_vec()), ("amd64/snp.efi".into(), b"x".to_vec())];
        let config = HttpConfig {
            policy: policy.clone(),
            files: Arc::new(BootFiles::from_memory(files)),
            assets: AssetDir::new(root).unwrap(),
            init_script: "#!ipxe\n".into(),
            sink: {
                let told = told.clone();
                Arc::new(move |event| told.lock().unwrap().push(event))
            },
        };
        Self { service: Service::new(config), policy, told, _directory: directory }
    }

    async fn ask(&self, method: Method, path: &str, range: Option<&str>) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        let mut request = request.body(Body::empty()).unwrap();
        let peer: SocketAddr = "[::ffff:10.0.0.9]:5000".parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(peer));
        self.service.router.clone().oneshot(request).await.unwrap()
    }

    async fn read(&self, path: &str) -> (StatusCode, String) {
        let response = self.ask(Method::GET, path, None).await;
        (response.status(), String::from_utf8(body(response).await).unwrap())
    }

    fn steps(&self) -> Vec<Step> {
        self.told.lock().unwrap().drain(..).map(|event| event.step).collect()
    }
}

async fn body(response: Response<Body>) -> Vec<u8> {
    response.into_body().collect().await.unwrap().to_bytes().to_vec()
}

fn header<'a>(response: &'a Response<Body>, name: &http::HeaderName) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn the_first_script_is_plain_text() {
    let bench = Bench::new();
    let response = bench.ask(Method::GET, "/ipxe/init.ipxe", None).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(header(&response, &CONTENT_TYPE).starts_with("text/plain"));
    assert_eq!(body(response).await, b"#!ipxe\n");
    let response = bench.ask(Method::HEAD, "/ipxe/init.ipxe", None).await;
    assert_eq!(header(&response, &CONTENT_LENGTH), "7");
    assert!(body(response).await.is_empty());
}

#[tokio::test]
async fn the_policy_hears_all_that_ipxe_says() {
    let bench = Bench::new();
    let query = "mac=52-54-00-88-00-01&domain=&hostname=a%20b&serial=S%0a1&arch=arm64";
    let (status, text) = bench.read(&format!("/ipxe/boot.ipxe?uuid={MACHINE}&{query}")).await;
    assert_eq!((status, text.starts_with("#!ipxe")), (StatusCode::OK, true));
    let request = bench.policy.asked.lock().unwrap().pop().unwrap();
    let expected = BootRequest {
        uuid: MACHINE.parse().unwrap(),
        mac: Some("52:54:00:88:00:01".parse().unwrap()),
        hostname: Some("a b".into()),
        serial: Some("S1".into()),
        domain: None,
        arch: Arch::Arm64,
        peer: "10.0.0.9".parse().unwrap(),
    };
    assert_eq!(request, expected);
    let event = bench.told.lock().unwrap().pop().unwrap();
    assert_eq!(event.step, Step::ScriptServed { mode: "disk".into(), reason: "installed".into() });
    assert_eq!((event.mac, event.uuid, event.address), (request.mac, Some(request.uuid), Some(request.peer)));
}

#[tokio::test]
async fn a_boot_question_without_a_uuid_is_refused_in_words() {
    let bench = Bench::new();
    for query in ["", "?uuid=", "?uuid=${uuid}", "?uuid=none", "?mac=52:54:00:88:00:01"] {
        let path = format!("/ipxe/boot.ipxe{query}").replace(['{', '}'], "%7B");
        let (status, text) = bench.read(&path).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
        assert!(text.contains("uuid"), "{text}");
    }
    assert!(bench.policy.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_script_that_is_not_found_says_why() {
    let bench = Bench::new();
    let (status, text) = bench.read(&format!("/ipxe/boot.ipxe?uuid={}", Uuid::nil())).await;
    assert_eq!((status, text.as_str()), (StatusCode::NOT_FOUND, "machine is cordoned\n"));
}

#[tokio::test]
async fn the_configuration_goes_out_or_is_refused_by_its_reason() {
    let bench = Bench::new();
    let response = bench.ask(Method::GET, &format!("/config?u={MACHINE}"), None).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, &CONTENT_TYPE), "text/yaml");
    assert_eq!(header(&response, &CACHE_CONTROL), "no-store");
    assert!(String::from_utf8(body(response).await).unwrap().contains(TOKEN));
    assert_eq!(bench.steps(), [Step::ConfigServed]);
    for (query, status, reason) in [
        ("", StatusCode::FORBIDDEN, "no boot in progress"),
        ("?u=junk", StatusCode::FORBIDDEN, "no boot in progress"),
        (&format!("?u={}", Uuid::from_u128(1)), StatusCode::TOO_MANY_REQUESTS, "asked too often"),
        (&format!("?u={}", Uuid::from_u128(2)), StatusCode::SERVICE_UNAVAILABLE, "no link to Omni yet"),
    ] {
        let (got, text) = bench.read(&format!("/config{query}")).await;
        assert_eq!((got, text), (status, format!("{reason}\n")));
        assert_eq!(bench.steps(), [Step::ConfigRefused { reason: reason.into() }]);
    }
}

#[tokio::test]
async fn boot_files_are_served_whole_in_part_and_by_head() {
    let bench = Bench::new();
    let response = bench.ask(Method::GET, "/tftp/snp.efi", None).await;
    assert_eq!(header(&response, &CONTENT_TYPE), "application/octet-stream");
    assert_eq!(header(&response, &CONTENT_LENGTH), "10");
    assert_eq!(header(&response, &ACCEPT_RANGES), "bytes");
    assert_eq!(body(response).await, b"0123456789");
    assert_eq!(bench.steps(), [Step::FileServed { path: "snp.efi".into(), bytes: 10 }]);

    let response = bench.ask(Method::HEAD, "/tftp/snp.efi", None).await;
    assert_eq!((response.status(), header(&response, &CONTENT_LENGTH)), (StatusCode::OK, "10"));
    assert!(body(response).await.is_empty());
    assert!(bench.steps().is_empty(), "a question for the size is no download");

    let response = bench.ask(Method::GET, "/tftp/snp.efi", Some("bytes=2-4")).await;
    assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(header(&response, &CONTENT_RANGE), "bytes 2-4/10");
    assert_eq!(header(&response, &CONTENT_LENGTH), "3");
    assert_eq!(body(response).await, b"234");

    let response = bench.ask(Method::GET, "/tftp/snp.efi", Some("bytes=10-")).await;
    assert_eq!(response.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(header(&response, &CONTENT_RANGE), "bytes */10");

    assert_eq!(bench.read("/tftp/amd64/snp.efi").await, (StatusCode::OK, "x".into()));
    assert_eq!(bench.read("/tftp/none").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn assets_are_streamed_whole_and_in_part() {
    let bench = Bench::new();
    let response = bench.ask(Method::GET, "/assets/kernel-amd64", None).await;
    assert_eq!(header(&response, &CONTENT_LENGTH), "700001");
    assert!(bench.steps().is_empty(), "told when the last byte went out");
    assert!(body(response).await == kernel());
    let steps = bench.steps();
    let [Step::AssetServed { path, bytes, .. }] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!((path.as_str(), *bytes), ("kernel-amd64", 700_001));

    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=699990-", 699_990, 700_001),
        ("bytes=-5", 699_996, 700_001),
        ("bytes=100-599999", 100, 600_000),
    ] {
        let response = bench.ask(Method::GET, "/assets/kernel-amd64", Some(range)).await;
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(header(&response, &CONTENT_RANGE), format!("bytes {from}-{}/700001", to - 1));
        assert!(body(response).await == kernel()[from..to], "{range}");
    }

    let response = bench.ask(Method::HEAD, "/assets/kernel-amd64", None).await;
    assert_eq!(header(&response, &CONTENT_LENGTH), "700001");
    assert!(body(response).await.is_empty());
    assert_eq!(bench.read("/assets/empty").await, (StatusCode::OK, String::new()));
    let response = bench.ask(Method::GET, "/assets/empty", Some("bytes=0-")).await;
    assert_eq!(response.status(), StatusCode::RANGE_NOT_SATISFIABLE);
}

#[tokio::test]
async fn images_have_their_path_of_the_directory() {
    let bench = Bench::new();
    assert_eq!(bench.read("/image/abc/v1.13.0/kernel-amd64").await, (StatusCode::OK, "talos".into()));
    let steps = bench.steps();
    let [Step::AssetServed { path, .. }] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!(path, "image/abc/v1.13.0/kernel-amd64");
    for path in ["/image/abc/v1.13.0/none", "/image/abc/v1.13.0", "/image/abc/v1.13.0/kernel-amd64/x"] {
        assert_eq!(bench.read(path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_read_to_its_end_is_not_told_as_served() {
    let bench = Bench::new();
    let mut response = bench.ask(Method::GET, "/assets/kernel-amd64", None).await;
    response.body_mut().frame().await.unwrap().unwrap();
    drop(response);
    assert!(bench.steps().is_empty());
}

#[tokio::test]
async fn no_path_leads_out_of_the_served_files() {
    let bench = Bench::new();
    for path in [
        "/assets/../secret",
        "/assets/%2e%2e/secret",
        "/assets/%2E%2E%2Fsecret",
        "/assets/..%2fsecret",
        "/assets/image/../../secret",
        "/assets/..%5csecret",
        "/assets/kernel-amd64%00",
        "/assets//etc/passwd",
        "/assets/%2fetc/passwd",
        "/assets/image",
        "/assets/",
        "/assets",
        "/image/../../../secret",
        "/image/%2e%2e/%2e%2e/secret",
        "/image/abc/v1.13.0/%2e%2e",
        "/tftp/../snp.efi",
        "/tftp/%2e%2e/snp.efi",
        "/tftp/amd64%2fsnp.efi",
        "/tftp//snp.efi",
        "/tftp/",
        "/other",
        "/",
    ] {
        for method in [Method::GET, Method::HEAD] {
            let response = bench.ask(method, path, None).await;
            assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        }
    }
    assert!(bench.steps().is_empty());
}

#[tokio::test]
async fn nothing_can_be_written() {
    let bench = Bench::new();
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
        for path in ["/ipxe/init.ipxe", "/ipxe/boot.ipxe", "/config", "/tftp/snp.efi", "/assets/kernel-amd64"]
        {
            let response = bench.ask(method.clone(), path, None).await;
            assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        }
    }
}

/// A server on a real socket, and what stops it.
async fn serving(bench: &Bench) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(serve(listener, bench.service.clone(), shutdown.clone()));
    (address, shutdown, server)
}

#[tokio::test]
async fn http_1_requests_follow_one_another_on_a_connection() {
    let bench = Bench::new();
    let (address, shutdown, server) = serving(&bench).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = b"HEAD /assets/kernel-amd64 HTTP/1.1\r\nHost: a\r\nUser-Agent: UefiHttpBoot/1.0\r\n\r\n";
    let get = b"GET /assets/kernel-amd64 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(&[&head[..], get].concat()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let text = String::from_utf8_lossy(&answer);
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2);
    assert_eq!(text.matches("content-length: 700001").count(), 2);
    assert!(answer.ends_with(&kernel()));
    shutdown.cancel();
    server.await.unwrap();
    assert_eq!(bench.told.lock().unwrap().pop().unwrap().address, Some("127.0.0.1".parse().unwrap()));
}

#[tokio::test]
async fn http_2_without_tls_is_served_on_the_same_port() {
    let bench = Bench::new();
    let (address, shutdown, server) = serving(&bench).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut client, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get(format!("http://{address}/assets/kernel-amd64")).body(Body::empty()).unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
    assert!(response.into_body().collect().await.unwrap().to_bytes() == kernel());
    drop(client);
    connection.await.unwrap().unwrap();
    shutdown.cancel();
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_is_closed() {
    let bench = Bench::new();
    let (address, shutdown, server) = serving(&bench).await;
    for opening in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\nHost"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(opening).await.unwrap();
        let mut answer = Vec::new();
        // Time stands still but for timers, so this waits for no clock.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{opening:?}");
    }
    shutdown.cancel();
    server.await.unwrap();
}

#[tokio::test]
async fn the_end_waits_for_idle_connections_no_longer_than_it_must() {
    let bench = Bench::new();
    let (address, shutdown, server) = serving(&bench).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /ipxe/init.ipxe HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = [0; 17];
    stream.read_exact(&mut answer).await.unwrap();
    shutdown.cancel();
    server.await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_byte_by_byte_has_no_more_time_than_one_that_does_not_come() {
    let bench = Bench::new();
    let (address, shutdown, server) = serving(&bench).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let begin = tokio::time::Instant::now();
    let slow = b"GET /ipxe/init.ipxe HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'a'));
    for byte in slow {
        // Paused time moves on only while everybody waits.
        tokio::time::advance(std::time::Duration::from_millis(500)).await;
        if stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        assert!(begin.elapsed() < FIRST_REQUEST * 2, "it is cut off");
    }
    shutdown.cancel();
    server.await.unwrap();
}

#[tokio::test]
async fn a_head_without_an_end_is_refused() {
    let bench = Bench::new();
    let (address, shutdown, server) = serving(&bench).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /ipxe/init.ipxe HTTP/1.1\r\n").await.unwrap();
    let line = [b"X: ".as_slice(), &[b'a'; 1000], b"\r\n"].concat();
    // It may be cut off before all was sent.
    for _ in 0..20 {
        let _ = stream.write_all(&line).await;
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer));
    shutdown.cancel();
    server.await.unwrap();
}

#[tokio::test]
async fn requests_go_on_with_hyper_where_the_front_ends() {
    let bench = Bench::new();
    let (address, shutdown, server) = serving(&bench).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let ours = b"GET /tftp/snp.efi HTTP/1.1\r\nHost: a\r\nRange: bytes=2-4\r\n\r\n";
    let theirs = b"POST /config HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nxx";
    let last = b"GET /elsewhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(&[&ours[..], theirs, last].concat()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let text = String::from_utf8_lossy(&answer);
    let statuses: Vec<_> = text.split("HTTP/1.1 ").skip(1).map(|part| &part[..3]).collect();
    assert_eq!(statuses, ["206", "405", "404"], "{text}");
    assert!(text.contains("content-range: bytes 2-4/10") && text.contains("\r\n\r\n234"), "{text}");
    shutdown.cancel();
    server.await.unwrap();
}
