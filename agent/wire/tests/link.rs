//! Both ends of a tunnel over a link that stalls, cuts what it carries into pieces, and dies at any byte.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "support/agent.rs"]
mod agent;

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agent::{echo, metadata, routes};
use agent_wire::tunnel::{
    KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, Limits, Opened, TunnelChannel, TunnelHandler, TunnelService,
    limited, serve,
};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

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
async fn comes_back(channel: TunnelChannel, size: usize) -> bool {
    let result = echo(channel, size).await;
    if let Err(status) = &result {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    result.is_ok()
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
        serve(channel, metadata(), routes()).await.ok()
    });
    // None: it died before the tunnel was open, and the handler is dropped with the server.
    let opened = tokio::time::timeout(Duration::from_secs(60), told.recv()).await.ok().flatten();
    let answered = match opened {
        Some(Told::Opened(channel)) => {
            let wanted = calls.len();
            let all = calls.into_iter().map(|size| comes_back(channel.clone(), size));
            let answered = futures_util::future::join_all(all).await;
            let answered = answered.into_iter().filter(|came| *came).count();
            if answered == wanted {
                // Else it died, and finds out by itself.
                channel.close("the test is over");
            }
            channel.closed().await;
            assert!(matches!(told.recv().await, Some(Told::Closed)), "its end is told once");
            assert!(!comes_back(channel, 1).await, "nothing is called through a tunnel that ended");
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
