//! A machine whose BMC speaks Redfish, behind a certificate of its own making, with the settings of the peer.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/site.rs"]
mod site;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use omni_link::Happening;
use omni_link::controller::{Redfish, RedfishUse};
use omni_link::endpoint::bmc_config;
use power::redfish::RedfishOptions;
use serde_json::{Value, json};
use site::{Agent, FINGERPRINT, Manner, Site};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The BMC's user as the agent made it: name and password.
type User = Arc<Mutex<Option<(String, String)>>>;

const SESSION: &str = "/redfish/v1/SessionService/Sessions/1";

#[derive(Clone, Default)]
struct Bmc {
    on: Arc<AtomicBool>,
    user: User,
    sessions: Arc<AtomicI32>,
    seen: Arc<Mutex<Vec<String>>>,
}

struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, peer) = self.listener.accept().await.unwrap();
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Bmc {
    /// Serves TLS 1.2 with a certificate for another name; gives the port.
    async fn start(&self) -> u16 {
        let certified = rcgen::generate_simple_self_signed(["bmc.invalid".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tls = Tls { listener, acceptor: TlsAcceptor::from(Arc::new(config)) };
        let router = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(tls, router).await.unwrap() });
        port
    }

    fn act(&self, path: &str, body: &Value) {
        self.seen.lock().unwrap().push(format!("{path} {body}"));
    }
}

async fn answer(
    State(bmc): State<Bmc>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let link = |path: &str| json!({ "@odata.id": path });
    let path = uri.path();
    if path == "/redfish/v1/" {
        return axum::Json(json!({
            "Vendor": "Acme", "Product": "Acme BMC", "RedfishVersion": "1.9.0",
            "Systems": link("/redfish/v1/Systems"),
            "Links": { "Sessions": link("/redfish/v1/SessionService/Sessions") },
        }))
        .into_response();
    }
    if path == SESSION {
        assert_eq!(method, Method::DELETE);
        bmc.sessions.fetch_sub(1, Ordering::SeqCst);
        return StatusCode::NO_CONTENT.into_response();
    }
    if path == "/redfish/v1/SessionService/Sessions" {
        let told =
            (body["UserName"].as_str().unwrap().to_owned(), body["Password"].as_str().unwrap().to_owned());
        let known = bmc.user.lock().unwrap().clone();
        return if known == Some(told) {
            bmc.sessions.fetch_add(1, Ordering::SeqCst);
            (StatusCode::CREATED, [("x-auth-token", "t0ken"), ("location", SESSION)], "{}").into_response()
        } else {
            StatusCode::UNAUTHORIZED.into_response()
        };
    }
    if headers.get("x-auth-token").is_none_or(|token| token != "t0ken") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    match (method, path) {
        (Method::GET, "/redfish/v1/Systems") => {
            axum::Json(json!({ "Members": [link("/redfish/v1/Systems/1")] })).into_response()
        }
        (Method::GET, "/redfish/v1/Systems/1") => {
            let on = if bmc.on.load(Ordering::SeqCst) { "On" } else { "Off" };
            let boot = json!({ "BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": "Pxe" });
            axum::Json(json!({ "PowerState": on, "Boot": boot })).into_response()
        }
        (Method::PATCH, "/redfish/v1/Systems/1") => {
            bmc.act("boot", &body["Boot"]["BootSourceOverrideMode"]);
            StatusCode::NO_CONTENT.into_response()
        }
        (Method::POST, "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset") => {
            bmc.on.store(body["ResetType"] != "ForceOff", Ordering::SeqCst);
            bmc.act("reset", &body["ResetType"]);
            StatusCode::NO_CONTENT.into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bmc_that_its_agent_set_up_is_driven_by_redfish_and_says_so() {
    let agent = Agent { manner: Manner::Bmc(9), ..Agent::default() };
    let bmc = Bmc { user: Arc::clone(&agent.bmc_user), ..Bmc::default() };
    bmc.on.store(true, Ordering::SeqCst);
    let mut site = Site::new().await;
    site.agent = agent;
    let tls = Some(Arc::new(bmc_config(true, None).unwrap()));
    let options = RedfishOptions { tls, port: bmc.start().await, set_boot_source_override_mode: true };
    site.redfish = Redfish { usage: RedfishUse::WhenAvailable, options };
    let link = site.link().await;
    site.accept().await;
    link.dial(&site.agent, FINGERPRINT);

    let reason = "Acme BMC, Redfish 1.9.0".to_owned();
    let configured = Happening::PowerConfigured { driver: "redfish", reason: reason.clone() };
    site.until_news(&configured).await;
    link.until("recorded", |machine| {
        let spec = machine.bmc.as_ref().map(|bmc| &bmc.spec);
        spec.is_some_and(|spec| (&*spec.driver, &spec.driver_reason) == ("redfish", &reason))
    })
    .await;
    link.until_status("ready", |status| status.ready_to_use).await;
    site.until_news(&Happening::PowerOff).await;
    site.update(|spec| spec.cluster_talos_version = "1.13.9".into()).await;
    site.until_news(&Happening::PowerOn { pxe: true }).await;
    assert_eq!(
        *bmc.seen.lock().unwrap(),
        [r#"reset "ForceOff""#, r#"boot "UEFI""#, r#"reset "On""#].map(str::to_owned)
    );
    assert_eq!(site.happened(&configured), 1, "once, whatever else is recorded");
    let (_, password) = site.agent.bmc_user.lock().unwrap().clone().unwrap();
    assert!(!format!("{:?}", site.news()).contains(&password), "no password in the journal");
    assert_eq!(bmc.sessions.load(Ordering::SeqCst), 1, "a session lasts over calls");
    link.stop().await;
    assert_eq!(bmc.sessions.load(Ordering::SeqCst), 0, "a BMC has room for a few");

    // The driver is known, and is no news.
    let link = site.link().await;
    site.update(|spec| spec.power_off_request_id = "off".into()).await;
    link.until("a whole step", |machine| {
        machine.power.as_ref().is_some_and(|power| power.spec.last_power_off_id == "off")
    })
    .await;
    assert_eq!(site.happened(&configured), 1);
    link.stop().await;
}
