//! Both ends of a tunnel over a link that stalls, cuts what it carries into pieces, and dies at any byte.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agent_wire::management::agent_service_client::AgentServiceClient;
use agent_wire::management::agent_service_server::{AgentService, AgentServiceServer};
use agent_wire::management::*;
use agent_wire::tunnel::{
    KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, Limits, MACHINE_ID_HEADER, Opened, TunnelChannel, TunnelHandler,
    TunnelService, limited, serve,
};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tonic::metadata::MetadataMap;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Response, Status};

/// In the runtime's own time, which passes only while nothing else happens.
const PATIENCE: Duration = Duration::from_secs(600);
/// What the link holds for a direction: less than a frame, so that both ends wait for it.
const HELD: usize = 4 << 10;

/// Bytes between two waits.
const STRETCH: usize = 1 << 10;

/// How the link behaves.
#[derive(Clone, Debug)]
struct Weather {
    /// Sizes of the pieces, in turn.
    pieces: Vec<usize>,
    /// Waits after each [`STRETCH`], in turn. Ten KiB a second at least: a ping is answered in time.
    stalls: Vec<u64>,
    /// It dies after so many bytes, both directions together.
    dies_at: Option<usize>,
    /// Its end is told to neither side: packets go nowhere.
    silent: bool,
}

fn weather() -> impl Strategy<Value = Weather> {
    let pieces = prop::collection::vec(prop_oneof![1usize..40, 1usize..5000], 1..12);
    let stalls = prop::collection::vec(prop_oneof![9 => Just(0u64), 2 => 1u64..100], 1..12);
    let dies_at = prop_oneof![1 => Just(None), 4 => (0usize..400_000).prop_map(Some), 2 => (0usize..3_000).prop_map(Some)];
    (pieces, stalls, dies_at, any::<bool>()).prop_map(|(pieces, stalls, dies_at, silent)| Weather {
        pieces,
        stalls,
        dies_at,
        silent,
    })
}

/// Carries one direction until its source ends or the link has died.
async fn carry(
    from: &mut ReadHalf<DuplexStream>,
    to: &mut WriteHalf<DuplexStream>,
    weather: &Weather,
    carried: &AtomicUsize,
) {
    let (mut turn, mut passed) = (0, 0);
    let mut bytes = vec![0; 5000];
    loop {
        let piece = weather.pieces[turn % weather.pieces.len()];
        turn += 1;
        let Ok(count @ 1..) = from.read(&mut bytes[..piece]).await else { return };
        let stretch = passed / STRETCH;
        passed += count;
        let stall = weather.stalls[stretch % weather.stalls.len()];
        if passed / STRETCH > stretch && stall > 0 {
            sleep(Duration::from_millis(stall)).await;
        }
        let before = carried.fetch_add(count, Ordering::Relaxed);
        let alive = weather.dies_at.map_or(count, |end| end.saturating_sub(before).min(count));
        if to.write_all(&bytes[..alive]).await.is_err() || alive < count {
            return;
        }
    }
}

/// The link between two ends: over when either direction is.
async fn link(machine: DuplexStream, appliance: DuplexStream, weather: Weather) {
    let (mut from_machine, mut to_machine) = split(machine);
    let (mut from_appliance, mut to_appliance) = split(appliance);
    let carried = AtomicUsize::new(0);
    tokio::select! {
        () = carry(&mut from_machine, &mut to_appliance, &weather, &carried) => {}
        () = carry(&mut from_appliance, &mut to_machine, &weather, &carried) => {}
    }
    if weather.silent && weather.dies_at.is_some_and(|end| carried.load(Ordering::Relaxed) > end) {
        // Both ends stay open: only their own pings tell them.
        pending::<()>().await;
    }
}

struct Echo;

#[tonic::async_trait]
impl AgentService for Echo {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Ok(Response::new(HelloResponse {}))
    }
    async fn get_power_management(
        &self,
        request: Request<GetPowerManagementRequest>,
    ) -> Result<Response<GetPowerManagementResponse>, Status> {
        let name = request.into_inner().ipmi.unwrap_or_default().check_username;
        let ipmi = get_power_management_response::Ipmi { address: name, port: 623, user_exists: true };
        Ok(Response::new(GetPowerManagementResponse { ipmi: Some(ipmi), api: None }))
    }
    async fn set_power_management(
        &self,
        _: Request<SetPowerManagementRequest>,
    ) -> Result<Response<SetPowerManagementResponse>, Status> {
        Err(Status::not_found("no BMC"))
    }
    async fn reboot(&self, _: Request<RebootRequest>) -> Result<Response<RebootResponse>, Status> {
        Ok(Response::new(RebootResponse {}))
    }
    async fn wipe_disks(&self, _: Request<WipeDisksRequest>) -> Result<Response<WipeDisksResponse>, Status> {
        pending().await
    }
}

#[derive(Debug)]
enum Told {
    Opened(TunnelChannel),
    Closed,
}

struct Handler(mpsc::UnboundedSender<Told>);

#[tonic::async_trait]
impl TunnelHandler for Handler {
    async fn open(&self, opened: Opened) -> Result<(), Status> {
        self.0.send(Told::Opened(opened.channel)).map_err(|_| Status::unavailable("over"))
    }
    async fn closed(&self, _machine_id: &str, _channel: &TunnelChannel, _reason: &str) {
        let _ = self.0.send(Told::Closed);
    }
}

/// One echo; whether the answer came.
async fn echo(channel: TunnelChannel, size: usize) -> bool {
    let name: String = ('a'..='z').cycle().take(size).collect();
    let ipmi = Some(get_power_management_request::Ipmi { check_username: name.clone() });
    let request = GetPowerManagementRequest { ipmi, api: None };
    match AgentServiceClient::new(channel).get_power_management(request).await {
        Ok(answer) => {
            assert!(answer.into_inner().ipmi.unwrap().address == name, "an answer was damaged");
            true
        }
        Err(status) => {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            false
        }
    }
}

/// How many calls were answered, if the tunnel opened at all.
async fn conversation(weather: Weather, calls: Vec<usize>) -> Option<usize> {
    let (machine, machine_far) = duplex(HELD);
    let (appliance, appliance_far) = duplex(HELD);
    let (sender, mut told) = mpsc::unbounded_channel();
    let handler = Arc::new(Handler(sender));
    let service = TunnelService::new(handler).with_limits(Limits::default()).into_server();
    let server = tokio::spawn(
        tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .add_service(service)
            .serve_with_incoming(tokio_stream::once(Ok::<_, std::io::Error>(appliance))),
    );
    let link = tokio::spawn(link(machine_far, appliance_far, weather));

    let agent = tokio::spawn(async move {
        let mut end = Some(TokioIo::new(machine));
        let connector = tower::service_fn(move |_: http::Uri| {
            std::future::ready(end.take().ok_or_else(|| std::io::Error::other("the link is used up")))
        });
        let uri = http::Uri::from_static("http://appliance.test");
        let channel = limited(Endpoint::from(uri)).connect_with_connector(connector).await.ok()?;
        let mut metadata = MetadataMap::new();
        metadata.insert(MACHINE_ID_HEADER, "4c4c4544-0000".parse().unwrap());
        let routes = tonic::service::Routes::new(AgentServiceServer::new(Echo));
        serve(channel, metadata, routes).await.ok()
    });
    // None: it died before the tunnel was open, and the handler is dropped with the server.
    let opened = tokio::time::timeout(Duration::from_secs(60), told.recv()).await.ok().flatten();
    let answered = match opened {
        Some(Told::Opened(channel)) => {
            let wanted = calls.len();
            let all = calls.into_iter().map(|size| echo(channel.clone(), size));
            let answered = futures_util::future::join_all(all).await;
            let answered = answered.into_iter().filter(|came| *came).count();
            if answered == wanted {
                // Else it died, and finds out by itself.
                channel.close("the test is over");
            }
            channel.closed().await;
            assert!(matches!(told.recv().await, Some(Told::Closed)), "its end is told once");
            assert!(!echo(channel, 1).await, "nothing is called through a tunnel that ended");
            Some(answered)
        }
        Some(Told::Closed) => panic!("closed before it was open"),
        None => None,
    };
    // Both ends come to rest by themselves.
    agent.await.unwrap();
    drop(tokio::time::timeout(Duration::from_secs(60), server).await);
    assert!(told.try_recv().is_err(), "nothing is told after the end");
    link.abort();
    answered
}

fn run(weather: Weather, calls: Vec<usize>) -> Option<usize> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, conversation(weather, calls)).await.expect("everything ends")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_call_ends_over_a_link_that_stalls_splits_and_dies(
        weather in weather(),
        calls in prop::collection::vec(prop_oneof![0usize..100, 0usize..120_000], 0..6),
    ) {
        let lasts = weather.dies_at.is_none();
        let wanted = calls.len();
        let answered = run(weather, calls);
        prop_assert!(!lasts || answered == Some(wanted), "{answered:?} of {wanted} were answered");
    }
}

/// Every byte of a short conversation is the last one of some link, told or not.
#[test]
fn a_link_may_die_at_every_byte_of_a_conversation() {
    let weather = |dies_at, silent| Weather { pieces: vec![977], stalls: vec![0], dies_at, silent };
    assert_eq!(run(weather(None, false), vec![40]), Some(1));
    let mut outcomes = std::collections::BTreeSet::new();
    for end in 0..1_500 {
        outcomes.insert(run(weather(Some(end), end % 2 == 0), vec![40]));
    }
    // It died before the tunnel was open, during the call, and after it.
    assert!(outcomes.contains(&None) && outcomes.contains(&Some(0)), "{outcomes:?}");
}
