//! Either end of the agent's tunnel as a plain process, for tests with other ends.
//!
//! `tunnel agent ADDRESS:PORT` dials and serves a machine to which nothing is done. `tunnel appliance ADDRESS:PORT`
//! listens, calls the agent that comes, and prints what it answers. Ends with its standard input.
//!
//! With the name of a PEM file behind it, both by TLS: the agent trusts what is in it, the appliance makes an authority
//! and puts it there.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use agent_wire::certificate::{Authority, Validity};
use agent_wire::management::agent_service_client::AgentServiceClient;
use agent_wire::management::*;
use agent_wire::token::NodeUniqueToken;
use agent_wire::tunnel::{Opened, TunnelChannel, TunnelHandler, TunnelService};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bootlace_agent::boot::{Provider, Standing, keep_tunnel, routes};
use bootlace_agent::identity::Identity;
use bootlace_agent::ipmi::{CallError, Made, SetupError, Told};
use bootlace_agent::machine::Machine;
use bootlace_agent::retry::Backoff;
use bootlace_agent::tls::Trust;
use bootlace_agent::wipe::{End, Report};
use netboot_link::http::{self, Service};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// Longer than a call on loopback takes.
const SHORT: Duration = Duration::from_secs(2);

struct Unharmed;

impl Machine for Unharmed {
    fn wipe(&self, zeroes: bool) -> Result<Vec<Report>, String> {
        let report = Report {
            name: "sda".into(),
            serial: "A1".into(),
            size: 64 << 20,
            text: "nothing found".into(),
            took: Duration::ZERO,
            end: End::Blank,
        };
        if zeroes { Ok(vec![report]) } else { Err("sdb: input/output error".into()) }
    }

    fn reboot(&self) {}

    fn ask_bmc(&self, user: &str) -> Result<Option<Told>, String> {
        Ok(Some(Told { address: [10, 0, 0, 9].into(), port: 623, user_exists: user == "known" }))
    }

    fn set_bmc_user(&self, _name: &str, password: &str) -> Result<Made, SetupError> {
        match password {
            "weak" => {
                Err(SetupError::Password(CallError::Refused { request: "Set User Password", code: 0xcc }))
            }
            _ => Ok(Made { slot: 3, channel: 1, existed: false, unverified: Vec::new() }),
        }
    }
}

struct Handler(mpsc::UnboundedSender<TunnelChannel>);

#[tonic::async_trait]
impl TunnelHandler for Handler {
    async fn open(&self, opened: Opened) -> Result<(), Status> {
        println!("opened {}", opened.machine_id);
        self.0.send(opened.channel).map_err(|_| Status::unavailable("over"))
    }

    async fn closed(&self, _machine_id: &str, _channel: &TunnelChannel, reason: &str) {
        println!("closed: {reason}");
    }
}

async fn agent(address: &str, ca: Option<&str>) -> Result<(), Box<dyn std::error::Error>> {
    let identity = Identity {
        uuid: "4c4c4544-0031-3010-8034-c2c04f4e5131".into(),
        fingerprint: "ab".repeat(32),
        token: NodeUniqueToken { fingerprint: "ab".repeat(32), token: "t".into() },
        wireguard: siderolink::PrivateKey::from_bytes([1; 32]),
    };
    let routes = routes(Arc::new(Unharmed), Arc::new(Vec::new), false);
    let scheme = if ca.is_some() { "https" } else { "http" };
    let provider = Provider { uri: format!("{scheme}://{address}"), skip_verify: false };
    let mut trust = Trust::default();
    if let Some(ca) = ca {
        trust.add(&std::fs::read_to_string(ca)?);
    }
    let (_sender, standing) = watch::channel(Standing { identity, trust });
    keep_tunnel(&provider, standing, routes, Backoff::new(1), &AtomicBool::new(false)).await;
    Ok(())
}

fn told<T>(what: &str, answer: Result<Response<T>, Status>, text: impl FnOnce(T) -> String) {
    match answer {
        Ok(answer) => println!("{what}: {}", text(answer.into_inner())),
        Err(status)
            if matches!(status.code(), tonic::Code::Unimplemented | tonic::Code::DeadlineExceeded) =>
        {
            println!("{what}: {:?}", status.code());
        }
        Err(status) => println!("{what}: {:?} {}", status.code(), status.message()),
    }
}

/// Calls the agent each way, then ends its tunnel.
async fn converse(channel: TunnelChannel) {
    let mut client = AgentServiceClient::new(channel.clone());
    let ok = || "ok".to_owned();
    told("hello", client.hello(HelloRequest {}).await, |_| ok());
    let ipmi = Some(get_power_management_request::Ipmi { check_username: "talos-agent".into() });
    let power = client.get_power_management(GetPowerManagementRequest { ipmi, api: None }).await;
    told("power", power, |answer| {
        let ipmi = answer.ipmi.unwrap_or_default();
        format!("{} {} {}", ipmi.address, ipmi.port, ipmi.user_exists)
    });
    let ipmi = Some(set_power_management_request::Ipmi {
        username: "talos-agent".into(),
        password: "secret".into(),
    });
    let set = client.set_power_management(SetPowerManagementRequest { ipmi, api: None }).await;
    told("user", set, |_| ok());
    told("wipe", client.wipe_disks(WipeDisksRequest { zeroes: false }).await, |_| ok());
    let mut request = Request::new(WipeDisksRequest { zeroes: true });
    request.set_timeout(SHORT);
    told("wipe with zeroes", client.wipe_disks(request).await, |_| ok());
    told("reboot", client.reboot(RebootRequest {}).await, |_| ok());
    told("hello", client.hello(HelloRequest {}).await, |_| ok());
    channel.close("the test is over");
}

/// The appliance's own server, with or without TLS.
fn service(
    router: axum::Router,
    ip: IpAddr,
    ca: Option<&str>,
) -> Result<Service, Box<dyn std::error::Error>> {
    let Some(ca) = ca else { return Ok(router.into()) };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let validity = Validity { not_before: now - 60, not_after: now + 3600 };
    let authority = Authority::generate(validity, &[1; 48]);
    let issued = authority.issue(&[ip], validity, &[2; 48]);
    let pem = BASE64_STANDARD.encode(&authority.certificate().certificate);
    std::fs::write(ca, format!("-----BEGIN CERTIFICATE-----\n{pem}\n-----END CERTIFICATE-----\n"))?;
    let key = PrivatePkcs8KeyDer::from(issued.key).into();
    let provider = rustls::crypto::ring::default_provider();
    let shown = CertifiedKey::from_der(vec![issued.certificate.into()], key, &provider)?;
    Ok(Service::encrypted(router, Arc::new(SingleCertAndKey::from(shown))))
}

async fn appliance(address: &str, ca: Option<&str>) -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind(address.parse::<SocketAddr>()?).await?;
    let address = listener.local_addr()?;
    let (sender, mut opened) = mpsc::unbounded_channel();
    let tunnels = TunnelService::new(Arc::new(Handler(sender))).into_server();
    let router = tonic::service::Routes::new(tunnels).into_axum_router();
    let serving = http::serve(listener, service(router, address.ip(), ca)?, CancellationToken::new());
    println!("listening on {address}");
    let conversing = async {
        while let Some(channel) = opened.recv().await {
            converse(channel).await;
        }
    };
    tokio::select! {
        () = serving => {}
        () = conversing => {}
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let over = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let work = async {
        match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["agent", address] => agent(address, None).await?,
            ["agent", address, ca] => agent(address, Some(ca)).await?,
            ["appliance", address] => appliance(address, None).await?,
            ["appliance", address, ca] => appliance(address, Some(ca)).await?,
            _ => return Err("usage: tunnel agent|appliance ADDRESS:PORT [CA.pem]".into()),
        }
        Ok(())
    };
    tokio::select! {
        result = work => result,
        _ = over => Ok(()),
    }
}
