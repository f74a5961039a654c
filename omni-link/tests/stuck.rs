//! A thousand tunnels that are all stuck within an answer: what the appliance's memory grows by, with and without TLS.
//!
//! Appliance and machines run in processes of their own, so that only one end of one kind is measured.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::print_stdout, reason = "the figure is what the test is for")]

#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/site.rs"]
mod site;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agent_wire::certificate::{Certificate, Validity};
use agent_wire::grpctunnel::tunnel_service_client::TunnelServiceClient;
use agent_wire::management::agent_service_client::AgentServiceClient;
use agent_wire::management::{HelloRequest, WipeDisksRequest};
use agent_wire::tunnel::frame::TUNNEL;
use agent_wire::tunnel::{
    Frame, Limits, MACHINE_ID_HEADER, NEGOTIATE_HEADER, Opened, Outcome, TunnelChannel, TunnelHandler,
    TunnelService, connect, limited,
};
use bootlace_agent::tls::Taken;
use netboot_link::http::{self, Service};
use omni_link::tunnels::Tunnels;
use omni_link::view::{View, ViewOptions};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use site::Site;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

const TUNNELS: u32 = 1_000;
/// What the memory may grow by, with TLS as without, in any build.
const GROWTH_MAX: u64 = 64_000_000;
/// Calls of a tunnel that never end: a machine is asked one thing at a time, and for a sign of life.
const STUCK_CALLS: usize = 1;
/// Where the other process finds the appliance.
const DIAL: &str = "STUCK_TUNNELS_DIAL";
/// With or without TLS.
const SCHEME: &str = "STUCK_TUNNELS_SCHEME";
/// An emulated thousand on two cores.
const PATIENCE: Duration = Duration::from_secs(120);

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Lets machines in as the appliance does, and calls each: once in vain, then for a sign of life.
struct Handler {
    tunnels: Arc<Tunnels>,
    stuck: Mutex<JoinSet<()>>,
    answered: mpsc::UnboundedSender<()>,
    failed: AtomicU32,
}

#[tonic::async_trait]
impl TunnelHandler for Handler {
    async fn open(&self, opened: Opened) -> Result<(), Status> {
        let channel = opened.channel.clone();
        self.tunnels.open(opened).await?;
        let mut stuck = self.stuck.lock().await;
        let mut client = AgentServiceClient::new(channel.clone());
        stuck.spawn(async move {
            let _ = client.wipe_disks(WipeDisksRequest::default()).await;
        });
        let answered = self.answered.clone();
        tokio::spawn(async move {
            AgentServiceClient::new(channel).hello(HelloRequest {}).await.unwrap();
            answered.send(()).unwrap();
        });
        Ok(())
    }

    async fn closed(&self, machine_id: &str, channel: &TunnelChannel, reason: &str) {
        self.failed.fetch_add(1, Ordering::SeqCst);
        self.tunnels.closed(machine_id, channel, reason).await;
    }
}

/// One machine: an almost whole answer to each call but the sign of life, which follows them.
async fn machine(address: SocketAddr, encrypted: bool, number: u32, turn: OwnedSemaphorePermit) {
    let channel = match encrypted {
        false => connect(format!("http://{address}").parse().unwrap()).await.unwrap(),
        true => {
            let uri = format!("https://{address}");
            bootlace_agent::tls::connect(&uri, &Taken::Anybodys, limited).await.unwrap()
        }
    };
    drop(turn);
    let (sender, receiver) = mpsc::channel(4);
    let mut request = Request::new(ReceiverStream::new(receiver));
    let id = format!("00000000-0000-0000-0000-{number:012}");
    request.metadata_mut().insert(MACHINE_ID_HEADER, id.parse().unwrap());
    request.metadata_mut().insert(NEGOTIATE_HEADER, "on".parse().unwrap());
    let response = TunnelServiceClient::new(channel).open_reverse_tunnel(request).await.unwrap();
    let mut inbound = response.into_inner();
    let say = |id, frame: Frame| sender.send(frame.into_callee(id));
    say(TUNNEL, Frame::Settings { revisions: vec![0, 1], window: 65_536 }).await.unwrap();
    let (mut stuck, mut hello) = (0, None);
    while stuck < STUCK_CALLS || hello.is_none() {
        let (id, frame) = Frame::from_caller(inbound.next().await.unwrap().unwrap());
        let Frame::Open { method, .. } = frame else { continue };
        if method.ends_with("/Hello") {
            hello = Some(id);
            continue;
        }
        let size = Limits::APPLIANCE.max_message;
        let half = vec![stuck as u8; size / 2];
        let headers = vec![("k".to_owned(), "v".repeat(Limits::APPLIANCE.max_metadata - 1))];
        say(id, Frame::Headers(headers)).await.unwrap();
        let first = Frame::Message { size: size as u32, data: half.clone().into() };
        say(id, first).await.unwrap();
        say(id, Frame::More(half[1..].to_vec().into())).await.unwrap();
        stuck += 1;
    }
    let hello = hello.unwrap();
    say(hello, Frame::Message { size: 0, data: Default::default() }).await.unwrap();
    say(hello, Frame::Close(Outcome::default())).await.unwrap();
    // Neither reads nor writes any more, and stays.
    std::future::pending().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the third process of the test below"]
async fn machines() {
    let Ok(address) = std::env::var(DIAL) else { return };
    let (scheme, address) = address.split_once("://").unwrap();
    let (encrypted, address): (_, SocketAddr) = (scheme == "https", address.parse().unwrap());
    // As many at once as one address may shake hands.
    let turns = Arc::new(Semaphore::new(32));
    let mut machines = JoinSet::new();
    for number in 0..TUNNELS {
        let turn = Arc::clone(&turns).acquire_owned().await.unwrap();
        machines.spawn(machine(address, encrypted, number, turn));
    }
    // Until this process is killed.
    machines.join_next().await.unwrap().unwrap();
}

/// The same test in a process of its own, with this in its environment.
async fn in_a_process(test: &str, variable: &str, value: &str) -> std::process::Output {
    let mut other = tokio::process::Command::new(std::env::current_exe().unwrap());
    other.args([test, "--exact", "--ignored", "--nocapture"]).env(variable, value).kill_on_drop(true);
    other.output().await.unwrap()
}

#[tokio::test]
async fn a_thousand_stuck_tunnels_cost_less_than_64_mb() {
    for scheme in ["http", "https"] {
        let output = in_a_process("appliance", SCHEME, scheme).await;
        let (text, errors) = (output.stdout, String::from_utf8_lossy(&output.stderr));
        print!("{}", String::from_utf8_lossy(&text));
        assert!(output.status.success(), "{scheme}: {errors}");
    }
}

/// The appliance's certificate, which nobody checks here.
fn certificate() -> Arc<SingleCertAndKey> {
    let made = Certificate::self_signed("appliance", Validity::FOREVER, &[1; 48]);
    let key = PrivatePkcs8KeyDer::from(made.key).into();
    let provider = rustls::crypto::ring::default_provider();
    let shown = CertifiedKey::from_der(vec![made.certificate.into()], key, &provider).unwrap();
    Arc::new(SingleCertAndKey::from(shown))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the other process of the test above"]
async fn appliance() {
    let Ok(scheme) = std::env::var(SCHEME) else { return };
    let site = Site::new().await;
    let observer: omni_link::Observer = Arc::new(|_, _| {});
    let options = ViewOptions { disk: Arc::clone(&site.disk), origin: "omni".into(), grace: site.grace };
    let view = View::open("bare-metal", observer.clone(), options).unwrap();
    let (answered, mut signs) = mpsc::unbounded_channel();
    let handler = Arc::new(Handler {
        tunnels: Tunnels::new(view, observer),
        stuck: Mutex::default(),
        answered,
        failed: AtomicU32::new(0),
    });
    let service = TunnelService::new(Arc::clone(&handler)).into_server();
    let router = tonic::service::Routes::new(service).into_axum_router();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = if scheme == "https" { Service::encrypted(router, certificate()) } else { router.into() };
    tokio::spawn(http::serve(listener, service, CancellationToken::new()));

    let before = resident();
    let mut other = tokio::process::Command::new(std::env::current_exe().unwrap());
    other
        .args(["machines", "--exact", "--ignored"])
        .env(DIAL, format!("{scheme}://{address}"))
        .kill_on_drop(true);
    let mut other = other.stdout(std::process::Stdio::null()).spawn().unwrap();
    let all = async {
        for _ in 0..TUNNELS {
            signs.recv().await.unwrap();
        }
    };
    tokio::select! {
        () = all => {}
        status = other.wait() => panic!("the machines ended: {status:?}"),
        () = tokio::time::sleep(PATIENCE) => panic!("takes too long"),
    }
    let growth = resident() - before;
    let each = growth / u64::from(TUNNELS);
    println!("{TUNNELS} stuck tunnels over {scheme}: {:.1} MB, {each} bytes each", growth as f64 / 1e6);
    assert_eq!(handler.failed.load(Ordering::SeqCst), 0, "all of them are open");
    assert!(each > Limits::APPLIANCE.max_message as u64, "{each}: nothing is stuck");
    assert!(growth <= GROWTH_MAX, "{growth}");
    other.kill().await.unwrap();
}
