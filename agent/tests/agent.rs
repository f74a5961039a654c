//! The agent against a small appliance on loopback: configuration, join, tunnel, service, inventory.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "support/machine.rs"]
mod machine;
#[path = "support/tunnels.rs"]
mod tunnels;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use agent_wire::inventory::{DISKS, SYSTEM_INFORMATION, SYSTEM_INFORMATION_ID};
use agent_wire::link::provision_service_server::{ProvisionService, ProvisionServiceServer};
use agent_wire::link::{ProvisionRequest, ProvisionResponse};
use agent_wire::management::agent_service_client::AgentServiceClient;
use agent_wire::management::*;
use agent_wire::talos::block::DiskSpec;
use agent_wire::talos::hardware::SystemInformationSpec;
use agent_wire::token::NodeUniqueToken;
use agent_wire::tunnel::Opened;
use bootlace_agent::boot::{Provider, Standing, keep_tunnel, routes};
use bootlace_agent::inventory::Item;
use bootlace_agent::ipmi::{CallError, Made, SetupError, Told};
use bootlace_agent::join;
use bootlace_agent::machine::Machine;
use bootlace_agent::retry::{Backoff, REFUSED_LIMIT};
use bootlace_agent::tls::Trust;
use bootlace_agent::wipe::{End, Report};
use cosi_wire::resource::state_client::StateClient;
use cosi_wire::resource::{GetRequest, ListRequest, WatchRequest};
use machine::{UUID, identity, soon};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};
use tunnels::{every_tunnel, serve};

/// A machine that remembers what was done to it.
#[derive(Default)]
struct Remembers {
    done: Mutex<Vec<String>>,
    bmc: bool,
    broken: bool,
}

impl Machine for Remembers {
    fn wipe(&self, zeroes: bool) -> Result<Vec<Report>, String> {
        self.done.lock().unwrap().push(format!("wipe {zeroes}"));
        let report = Report {
            name: "sda".into(),
            serial: "S\u{e9}1".into(),
            size: 64 << 20,
            text: "nothing found".into(),
            took: Duration::from_millis(1500),
            end: End::Blank,
        };
        if self.broken { Err("sda: write failed".into()) } else { Ok(vec![report]) }
    }
    fn reboot(&self) {
        self.done.lock().unwrap().push("reboot".into());
    }
    fn ask_bmc(&self, user: &str) -> Result<Option<Told>, String> {
        if self.broken {
            return Err("Get User Access: BMC did not answer".into());
        }
        let address = if user == "nowhere" { [0; 4] } else { [10, 0, 0, 9] };
        let told = Told { address: address.into(), port: 623, user_exists: user == "known" };
        Ok(self.bmc.then_some(told))
    }
    fn set_bmc_user(&self, name: &str, password: &str) -> Result<Made, SetupError> {
        let refused = CallError::Refused { request: "Set User Password", code: 0xcc };
        match password {
            "weak" => return Err(SetupError::Password(refused)),
            "full" => return Err(SetupError::NoSlot(10)),
            "odd" => return Err(SetupError::Call(refused)),
            _ => {}
        }
        self.done.lock().unwrap().push(format!("user {name} {password}"));
        Ok(Made { slot: 3, channel: 1, existed: false, unverified: vec!["the password"] })
    }
}

/// Far more disks than fit into one window.
fn many_disks() -> Vec<Item> {
    let disk = |index: usize| DiskSpec { model: "m".repeat(200), size: index as u64, ..Default::default() };
    let mut items: Vec<Item> =
        (0..1000).map(|index| Item::new(&format!("sd{index}"), &disk(index))).collect();
    items.push(Item::new(SYSTEM_INFORMATION_ID, &SystemInformationSpec::default()));
    items
}

/// Opens a tunnel to an agent on this machine; the task keeps it open.
async fn tunnel_to(
    machine: Arc<Remembers>,
    test_mode: bool,
) -> (mpsc::UnboundedReceiver<Opened>, tokio::task::JoinHandle<()>) {
    let (served, opened) = every_tunnel();
    let address = serve(served).await;
    let agent = tokio::spawn(async move {
        let routes = routes(machine, Arc::new(many_disks), test_mode);
        let open = AtomicBool::new(false);
        let provider = Provider { uri: format!("http://{address}"), skip_verify: false };
        let standing = Standing { identity: identity(UUID), trust: Trust::default() };
        let (_sender, standing) = watch::channel(standing);
        keep_tunnel(&provider, standing, routes, Backoff::new(1), &open).await;
    });
    (opened, agent)
}

#[tokio::test]
async fn the_agent_says_who_it_is_and_comes_back_when_its_tunnel_is_closed() {
    let (mut tunnels, _agent) = tunnel_to(Arc::default(), false).await;
    let first = soon(tunnels.recv()).await.unwrap();
    assert_eq!(first.machine_id, identity(UUID).uuid);
    assert_eq!(first.fingerprint(), Some(identity(UUID).fingerprint.as_str()));
    first.channel.close("test");
    let second = soon(tunnels.recv()).await.unwrap();
    assert!(!second.channel.same_tunnel(&first.channel));
    soon(AgentServiceClient::new(second.channel).hello(HelloRequest {})).await.unwrap();
}

#[tokio::test]
async fn the_agent_wipes_and_reboots_when_it_is_told_to() {
    let machine = Arc::new(Remembers::default());
    let (mut tunnels, _agent) = tunnel_to(machine.clone(), true).await;
    let mut client = AgentServiceClient::new(soon(tunnels.recv()).await.unwrap().channel);
    let answer = soon(client.wipe_disks(WipeDisksRequest { zeroes: true })).await.unwrap();
    let report = answer.metadata().get(agent_wire::WIPE_REPORT_HEADER).unwrap();
    assert_eq!(report, "sda (S?1, 64 MiB) is blank: nothing found; took 1.5 s");
    soon(client.reboot(RebootRequest {})).await.unwrap();
    assert_eq!(*machine.done.lock().unwrap(), ["wipe true", "reboot"]);
}

#[tokio::test]
async fn a_wipe_that_fails_is_an_error_with_its_cause() {
    let (mut tunnels, _agent) =
        tunnel_to(Arc::new(Remembers { broken: true, ..Default::default() }), true).await;
    let mut client = AgentServiceClient::new(soon(tunnels.recv()).await.unwrap().channel);
    let status = soon(client.wipe_disks(WipeDisksRequest { zeroes: false })).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().contains("sda: write failed"));
}

fn check_user(name: &str) -> GetPowerManagementRequest {
    let ipmi = get_power_management_request::Ipmi { check_username: name.into() };
    GetPowerManagementRequest { ipmi: Some(ipmi), api: None }
}

fn set_user(password: &str) -> SetPowerManagementRequest {
    let ipmi = set_power_management_request::Ipmi { username: "u".into(), password: password.into() };
    SetPowerManagementRequest { ipmi: Some(ipmi), api: None }
}

#[tokio::test]
async fn power_management_tells_what_there_is() {
    for (bmc, test_mode) in [(false, true), (false, false), (true, false), (true, true)] {
        let (mut tunnels, _agent) =
            tunnel_to(Arc::new(Remembers { bmc, ..Default::default() }), test_mode).await;
        let mut client = AgentServiceClient::new(soon(tunnels.recv()).await.unwrap().channel);
        for user in ["known", "other"] {
            let answer = soon(client.get_power_management(check_user(user))).await.unwrap().into_inner();
            assert_eq!(answer.api.is_some(), test_mode);
            let ipmi = get_power_management_response::Ipmi {
                address: "10.0.0.9".into(),
                port: 623,
                user_exists: user == "known",
            };
            assert_eq!(answer.ipmi, (bmc && !test_mode).then_some(ipmi));
        }
    }
}

#[tokio::test]
async fn a_bmc_that_does_not_answer_is_an_error_and_no_machine_without_bmc() {
    let machine = Remembers { bmc: true, broken: true, ..Default::default() };
    let (mut tunnels, _agent) = tunnel_to(Arc::new(machine), false).await;
    let mut client = AgentServiceClient::new(soon(tunnels.recv()).await.unwrap().channel);
    let status = soon(client.get_power_management(check_user("u"))).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().contains("did not answer"));
}

#[tokio::test]
async fn a_bmc_without_an_address_is_told_as_such() {
    let (mut tunnels, _agent) =
        tunnel_to(Arc::new(Remembers { bmc: true, ..Default::default() }), false).await;
    let mut client = AgentServiceClient::new(soon(tunnels.recv()).await.unwrap().channel);
    let status = soon(client.get_power_management(check_user("nowhere"))).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn the_user_is_made_and_a_refusal_says_whether_another_password_may_help() {
    let machine = Arc::new(Remembers { bmc: true, ..Default::default() });
    let (mut tunnels, _agent) = tunnel_to(machine.clone(), false).await;
    let mut client = AgentServiceClient::new(soon(tunnels.recv()).await.unwrap().channel);
    for (password, code) in
        [("weak", Code::InvalidArgument), ("full", Code::ResourceExhausted), ("odd", Code::Internal)]
    {
        let status = soon(client.set_power_management(set_user(password))).await.unwrap_err();
        assert_eq!(status.code(), code, "{password}");
    }
    soon(client.set_power_management(set_user("strong"))).await.unwrap();
    soon(client.set_power_management(SetPowerManagementRequest::default())).await.unwrap();
    assert_eq!(*machine.done.lock().unwrap(), ["user u strong"]);
}

#[tokio::test]
async fn the_inventory_is_listed_over_the_tunnel_and_read_only() {
    let (mut tunnels, _agent) = tunnel_to(Arc::default(), true).await;
    let mut client = StateClient::new(soon(tunnels.recv()).await.unwrap().channel);
    let request = ListRequest { namespace: DISKS.0.into(), r#type: DISKS.1.into(), ..Default::default() };
    let mut list = soon(client.list(request)).await.unwrap().into_inner();
    let mut sizes = 0;
    while let Some(response) = soon(list.next()).await {
        let resource = response.unwrap().resource.unwrap();
        sizes += DiskSpec::decode(&resource.spec.unwrap().proto_spec[..]).unwrap().size;
    }
    assert_eq!(sizes, (0..1000u64).sum::<u64>());

    let get = |id: &str| GetRequest {
        namespace: SYSTEM_INFORMATION.0.into(),
        r#type: SYSTEM_INFORMATION.1.into(),
        id: id.into(),
        ..Default::default()
    };
    let found = soon(client.get(get(SYSTEM_INFORMATION_ID))).await.unwrap().into_inner();
    assert_eq!(found.resource.unwrap().metadata.unwrap().phase, "running");
    assert_eq!(soon(client.get(get("x"))).await.unwrap_err().code(), Code::NotFound);
    let request = WatchRequest { namespace: DISKS.0.into(), r#type: DISKS.1.into(), ..Default::default() };
    let mut watch = soon(client.watch(request)).await.unwrap().into_inner();
    assert!(soon(watch.next()).await.unwrap().unwrap().event.is_empty());
    let create = soon(client.create(cosi_wire::resource::CreateRequest::default())).await.unwrap_err();
    assert_eq!(create.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_list_that_nobody_reads_on_is_given_up() {
    let (mut tunnels, _agent) = tunnel_to(Arc::default(), true).await;
    let mut client = StateClient::new(soon(tunnels.recv()).await.unwrap().channel);
    let request = ListRequest { namespace: DISKS.0.into(), r#type: DISKS.1.into(), ..Default::default() };
    // More often than there are places: each must be freed.
    for _ in 0..200 {
        let mut list = soon(client.list(request.clone())).await.unwrap().into_inner();
        soon(list.next()).await.unwrap().unwrap();
    }
    let whole = soon(client.list(request)).await.unwrap().into_inner().collect::<Vec<_>>();
    assert_eq!(soon(whole).await.len(), 1000);
}

struct MachineApi(Mutex<Vec<ProvisionRequest>>);

#[tonic::async_trait]
impl ProvisionService for MachineApi {
    async fn provision(
        &self,
        request: Request<ProvisionRequest>,
    ) -> Result<Response<ProvisionResponse>, Status> {
        let mut seen = self.0.lock().unwrap();
        seen.push(request.into_inner());
        if seen.len() == 1 {
            return Err(Status::permission_denied("the token is not valid"));
        }
        Ok(Response::new(ProvisionResponse {
            node_address_prefix: "fdae::2/64".into(),
            ..Default::default()
        }))
    }
}

#[tokio::test]
async fn the_machine_joins_with_what_its_configuration_says() {
    let service = Arc::new(MachineApi(Mutex::default()));
    let api = serve(Routes::new(ProvisionServiceServer::from_arc(service.clone())).into_axum_router()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/config?u=x", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let body = format!("kind: SideroLinkConfig\napiUrl: grpc://{api}?jointoken=v2%3Aabc%3D\n");
            let _ = stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{body}").as_bytes()).await;
        }
    });
    let refused = soon(join::attempt(&url, &identity(UUID))).await.unwrap_err();
    assert!(refused.to_string().contains("the token is not valid"));
    let joined = soon(join::join(&url, &identity(UUID), Backoff::new(1), || panic!("not refused"))).await;
    assert_eq!(joined.response.node_address_prefix, "fdae::2/64");
    let seen = service.0.lock().unwrap();
    assert_eq!(seen[1].join_token.as_deref(), Some("v2:abc="));
    assert_eq!(seen[1].node_uuid, identity(UUID).uuid);
    assert_eq!(seen[1].talos_version.as_deref(), Some(join::TALOS_VERSION));
    let token = NodeUniqueToken::decode(seen[1].node_unique_token.as_deref().unwrap()).unwrap();
    assert_eq!(token, identity(UUID).token);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_is_refused_its_configuration_for_long_is_told_so_again_and_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/config?u=x", listener.local_addr().unwrap());
    let began = tokio::time::Instant::now();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.0 403 Forbidden\r\n\r\nnot vouched for\n").await;
        }
    });
    let (told, mut refused) = mpsc::unbounded_channel();
    let machine = identity(UUID);
    let join = join::join(&url, &machine, Backoff::new(1), || {
        told.send(tokio::time::Instant::now()).unwrap();
    });
    let twice = async { (refused.recv().await.unwrap(), refused.recv().await.unwrap()) };
    let (first, second) = tokio::select! {
        _ = join => panic!("it was never let in"),
        twice = twice => twice,
    };
    for took in [first - began, second - first] {
        assert!((REFUSED_LIMIT..REFUSED_LIMIT + Duration::from_secs(90)).contains(&took), "{took:?}");
    }
}
