//! Either end of the agent's tunnel as a plain process, for tests with other ends.
//!
//! `tunnel agent ADDRESS:PORT` dials and serves a machine to which nothing is done. `tunnel appliance ADDRESS:PORT`
//! listens, calls the agent that comes, and prints what it answers. Ends with its standard input.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use agent_wire::management::agent_service_client::AgentServiceClient;
use agent_wire::management::*;
use agent_wire::token::NodeUniqueToken;
use agent_wire::tunnel::{Opened, TunnelChannel, TunnelHandler, TunnelService};
use bootlace_agent::boot::{keep_tunnel, routes};
use bootlace_agent::identity::Identity;
use bootlace_agent::ipmi::{CallError, Made, SetupError, Told};
use bootlace_agent::machine::Machine;
use bootlace_agent::retry::Backoff;
use bootlace_agent::wipe::{End, Report};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
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

async fn agent(address: &str) {
    let identity = Identity {
        uuid: "4c4c4544-0031-3010-8034-c2c04f4e5131".into(),
        fingerprint: "ab".repeat(32),
        token: NodeUniqueToken { fingerprint: "ab".repeat(32), token: "t".into() },
        wireguard: siderolink::PrivateKey::from_bytes([1; 32]),
    };
    let routes = routes(Arc::new(Unharmed), Arc::new(Vec::new), false);
    keep_tunnel(&format!("http://{address}"), &identity, routes, Backoff::new(1), &AtomicBool::new(false))
        .await;
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

async fn appliance(address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind(address.parse::<SocketAddr>()?).await?;
    println!("listening on {}", listener.local_addr()?);
    let (sender, mut opened) = mpsc::unbounded_channel();
    let service = TunnelService::new(Arc::new(Handler(sender))).into_server();
    let incoming = TcpListenerStream::new(listener);
    let serving = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
    let conversing = async {
        while let Some(channel) = opened.recv().await {
            converse(channel).await;
        }
    };
    tokio::select! {
        result = serving => result?,
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
            ["agent", address] => agent(address).await,
            ["appliance", address] => appliance(address).await?,
            _ => return Err("usage: tunnel agent|appliance ADDRESS:PORT".into()),
        }
        Ok(())
    };
    tokio::select! {
        result = work => result,
        _ = over => Ok(()),
    }
}
