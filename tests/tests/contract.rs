//! What DHCP offers is there: every file name, for every kind of firmware, by TFTP and by HTTP.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, StatusCode};
use netboot::boot::{BootAnswer, BootBody, BootPolicy, BootRequest, Refusal};
use netboot::dhcp::codec::{Message, Op};
use netboot::dhcp::{Outcome, Port, Proxy, ProxyConfig};
use netboot::ipxe::{BaseUrl, init_script};
use netboot::tftp::Files;
use netboot_assets::{AssetDir, BootFiles};
use netboot_link::http::{HttpConfig, router};
use tower::ServiceExt;
use uuid::Uuid;

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PORT: u16 = 50042;
const IPXE_DIR: &str = "/usr/lib/ipxe";

struct Nobody;

impl BootPolicy for Nobody {
    fn boot(&self, _: &BootRequest) -> BootAnswer {
        BootAnswer { mode: "none".into(), reason: String::new(), body: BootBody::NotFound(String::new()) }
    }

    fn join_config(&self, _: Option<Uuid>, _: IpAddr) -> Result<String, Refusal> {
        Err(Refusal::TooMany)
    }
}

/// A question of a machine with this architecture (option 93) and vendor class.
fn question(message_type: u8, arch: u16, class: &str, ipxe: bool) -> Vec<u8> {
    let mut message = Message::new(Op::Request);
    message.chaddr[..6].copy_from_slice(&[0x52, 0x54, 0, 0x88, 0, 1]);
    message.options.push(53, &[message_type]);
    message.options.push(60, format!("{class}:Arch:{arch:05}:UNDI:003000").as_bytes());
    message.options.push(93, &arch.to_be_bytes());
    if ipxe {
        message.options.push(77, b"iPXE");
    }
    message.emit()
}

/// Every file that is offered to anything from arch 0 to 64, as PXE and HTTP client, with and without iPXE.
fn offers(files: &BootFiles) -> BTreeSet<String> {
    let config = ProxyConfig { server: SERVER, http_port: PORT, binaries: files.binaries() };
    let mut proxy = Proxy::new(config);
    let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
    let mut offered = BTreeSet::new();
    for arch in 0..64 {
        for class in ["PXEClient", "HTTPClient"] {
            for ipxe in [false, true] {
                for (port, message_type) in [(Port::Server67, 1), (Port::Proxy4011, 3)] {
                    let packet = question(message_type, arch, class, ipxe);
                    if let Outcome::Reply(reply) = proxy.handle_packet(port, from, &packet) {
                        offered.insert(reply.offered.file);
                    }
                }
            }
        }
    }
    offered
}

async fn get(router: &axum::Router, path: &str) -> StatusCode {
    let mut request = Request::get(path).body(Body::empty()).unwrap();
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 9], 1234))));
    router.clone().oneshot(request).await.unwrap().status()
}

#[tokio::test]
async fn every_offered_file_is_served_by_tftp_and_by_http() {
    let init = init_script(BaseUrl::new(SERVER, PORT)).text();
    let extra = vec![("autoexec.ipxe".to_owned(), init.clone().into_bytes())];
    let files = Arc::new(BootFiles::load(Path::new(IPXE_DIR), extra).expect("Debian's ipxe is installed"));
    let assets = tempfile::tempdir().unwrap();
    let router = router(HttpConfig {
        policy: Arc::new(Nobody),
        files: Arc::clone(&files),
        assets: AssetDir::new(assets.path()).unwrap(),
        init_script: init,
        sink: Arc::new(|_| ()),
    });

    let offered = offers(&files);
    println!("offered: {offered:?}");
    for name in ["undionly.kpxe", "snp.efi"] {
        assert!(offered.contains(name), "{name} is not offered to anybody: {offered:?}");
    }
    for file in &offered {
        let base = format!("http://{SERVER}:{PORT}");
        match file.strip_prefix(&base) {
            Some(path) => assert_eq!(get(&router, path).await, StatusCode::OK, "{file}"),
            None => {
                assert!(!file.contains("://"), "{file} points elsewhere");
                assert!(files.open(file).is_some_and(|bytes| !bytes.is_empty()), "{file} by TFTP");
                assert_eq!(get(&router, &format!("/tftp/{file}")).await, StatusCode::OK, "{file} by HTTP");
            }
        }
    }
    for name in files.binaries().iter() {
        assert_eq!(get(&router, &format!("/tftp/{name}")).await, StatusCode::OK, "{name}");
    }
    assert!(files.open("autoexec.ipxe").is_some(), "signed iPXE asks for it");
}
