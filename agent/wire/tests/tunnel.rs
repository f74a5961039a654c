//! The tunnel over a real connection: generated clients and servers at both ends.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "support/agent.rs"]
mod agent;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use agent::{MACHINE_ID, echo, metadata, named, routes};
use agent_wire::grpctunnel::tunnel_service_client::TunnelServiceClient;
use agent_wire::grpctunnel::{ClientToServer, ServerToClient};
use agent_wire::management::agent_service_client::AgentServiceClient;
use agent_wire::management::*;
use agent_wire::tunnel::{
    Ended, Frame, Limits, MACHINE_ID_HEADER, NEGOTIATE_HEADER, Opened, ServeError, TunnelChannel,
    TunnelHandler, TunnelService, callee::Callee, connect, serve,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status};

/// Any wait in these tests is a failure after this.
const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("this takes too long")
}

enum Told {
    Opened(Opened),
    Refused(String, String),
    Closed(String),
}

struct Handler {
    told: mpsc::UnboundedSender<Told>,
    refuse: Option<Status>,
}

#[tonic::async_trait]
impl TunnelHandler for Handler {
    async fn open(&self, opened: Opened) -> Result<(), Status> {
        if let Some(status) = &self.refuse {
            return Err(status.clone());
        }
        // Calls work from within the handler.
        AgentServiceClient::new(opened.channel.clone()).hello(HelloRequest {}).await?;
        let _ = self.told.send(Told::Opened(opened));
        Ok(())
    }

    async fn refused(&self, machine_id: &str, peer: Option<SocketAddr>, status: &Status) {
        assert!(peer.is_some_and(|peer| peer.ip().is_loopback()));
        let _ = self.told.send(Told::Refused(machine_id.to_owned(), status.message().to_owned()));
    }

    async fn closed(&self, machine_id: &str, _channel: &TunnelChannel, reason: &str) {
        assert_eq!(machine_id, MACHINE_ID);
        let _ = self.told.send(Told::Closed(reason.to_owned()));
    }
}

struct Appliance {
    address: SocketAddr,
    told: mpsc::UnboundedReceiver<Told>,
    server: JoinHandle<()>,
}

async fn appliance(refuse: Option<Status>) -> Appliance {
    appliance_with(refuse, Limits::default()).await
}

async fn appliance_with(refuse: Option<Status>, limits: Limits) -> Appliance {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, told) = mpsc::unbounded_channel();
    let handler = Arc::new(Handler { told: sender, refuse });
    let service = TunnelService::new(handler).with_limits(limits).into_server();
    let server = tokio::spawn(async move {
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    });
    Appliance { address, told, server }
}

async fn machine(address: SocketAddr) -> JoinHandle<Result<Ended, ServeError>> {
    let channel = connect(format!("http://{address}").parse().unwrap()).await.unwrap();
    tokio::spawn(serve(channel, metadata(), routes()))
}

async fn open_tunnel() -> (Appliance, JoinHandle<Result<Ended, ServeError>>, Opened) {
    let mut appliance = appliance(None).await;
    let agent = machine(appliance.address).await;
    let Some(Told::Opened(opened)) = soon(appliance.told.recv()).await else { panic!("no tunnel") };
    (appliance, agent, opened)
}

#[tokio::test]
async fn a_unary_call_is_answered_with_its_metadata() {
    let (_appliance, _agent, opened) = open_tunnel().await;
    assert_eq!(opened.machine_id, MACHINE_ID);
    assert!(opened.peer.is_some_and(|peer| peer.ip().is_loopback()));
    let mut request = Request::new(HelloRequest {});
    request.metadata_mut().insert("echo", "there".parse().unwrap());
    let response = soon(AgentServiceClient::new(opened.channel).hello(request)).await.unwrap();
    assert_eq!(response.metadata().get("echo").unwrap(), "there");
}

#[tokio::test]
async fn a_status_keeps_code_and_message() {
    let (_appliance, _agent, opened) = open_tunnel().await;
    let mut client = AgentServiceClient::new(opened.channel);
    let status = soon(client.set_power_management(SetPowerManagementRequest::default())).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no BMC: \u{b5}"));
}

#[tokio::test]
async fn a_service_that_is_not_there_is_unimplemented() {
    let (_appliance, _agent, opened) = open_tunnel().await;
    let mut client = agent_wire::link::provision_service_client::ProvisionServiceClient::new(opened.channel);
    let status = soon(client.provision(agent_wire::link::ProvisionRequest::default())).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn messages_beyond_the_window_go_through_both_ways_at_once() {
    let (_appliance, _agent, opened) = open_tunnel().await;
    let mut calls = tokio::task::JoinSet::new();
    for size in [0, 1, 16_384, 65_536, 65_537, 300_000, 3_000_000] {
        let channel = opened.channel.clone();
        calls.spawn(async move { echo(channel, size).await.unwrap() });
    }
    soon(async { while calls.join_next().await.is_some_and(|result| result.is_ok()) {} }).await;
    assert!(calls.is_empty());
}

#[tokio::test]
async fn a_message_over_the_limit_fails_only_its_call() {
    let (_appliance, _agent, opened) = open_tunnel().await;
    let mut client = AgentServiceClient::new(opened.channel);
    let status = soon(client.get_power_management(named(&"x".repeat(5 << 20)))).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    soon(client.hello(HelloRequest {})).await.unwrap();
}

#[tokio::test]
async fn a_service_that_panics_is_an_internal_error() {
    let (_appliance, _agent, opened) = open_tunnel().await;
    let status = soon(AgentServiceClient::new(opened.channel).reboot(RebootRequest {})).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
}

#[tokio::test]
async fn a_deadline_ends_a_call_and_frees_it() {
    let (_appliance, _agent, opened) = open_tunnel().await;
    for _ in 0..200 {
        let mut request = Request::new(WipeDisksRequest { zeroes: true });
        request.set_timeout(Duration::from_millis(1));
        let status = soon(AgentServiceClient::new(opened.channel.clone()).wipe_disks(request)).await;
        assert_eq!(status.unwrap_err().code(), Code::DeadlineExceeded);
    }
    soon(AgentServiceClient::new(opened.channel).hello(HelloRequest {})).await.unwrap();
}

#[tokio::test]
async fn more_calls_than_the_limit_are_refused_until_one_is_dropped() {
    let (_appliance, _agent, opened) = open_tunnel().await;
    let limit = Limits::default().max_streams;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..=limit {
        let mut client = AgentServiceClient::new(opened.channel.clone());
        waiting.spawn(async move { client.wipe_disks(WipeDisksRequest::default()).await });
    }
    let refused = soon(waiting.join_next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let mut client = AgentServiceClient::new(opened.channel);
    assert_eq!(client.hello(HelloRequest {}).await.unwrap_err().code(), Code::ResourceExhausted);
    soon(waiting.shutdown()).await;
    soon(async {
        while client.hello(HelloRequest {}).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_machine_that_dies_makes_its_calls_unavailable() {
    let (mut appliance, agent, opened) = open_tunnel().await;
    let mut client = AgentServiceClient::new(opened.channel.clone());
    let call = tokio::spawn(async move { client.wipe_disks(WipeDisksRequest::default()).await });
    let mut other = AgentServiceClient::new(opened.channel.clone());
    soon(other.hello(HelloRequest {})).await.unwrap();
    agent.abort();
    let status = soon(call).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    soon(opened.channel.closed()).await;
    assert!(opened.channel.is_closed());
    assert_eq!(soon(other.hello(HelloRequest {})).await.unwrap_err().code(), Code::Unavailable);
    assert!(matches!(soon(appliance.told.recv()).await, Some(Told::Closed(_))));
}

#[tokio::test]
async fn an_appliance_that_dies_ends_serve() {
    let (appliance, agent, opened) = open_tunnel().await;
    appliance.server.abort();
    drop(appliance);
    opened.channel.close("test is over");
    let ended = soon(agent).await.unwrap().unwrap();
    assert!(!ended.reason.is_empty());
}

#[tokio::test]
async fn a_tunnel_closed_by_the_appliance_tells_why() {
    let (mut appliance, agent, opened) = open_tunnel().await;
    opened.channel.close("superseded");
    assert_eq!(soon(opened.channel.closed()).await, "superseded");
    assert!(soon(agent).await.unwrap().unwrap().reason.contains("superseded"));
    assert!(
        matches!(soon(appliance.told.recv()).await, Some(Told::Closed(reason)) if reason == "superseded")
    );
}

#[tokio::test]
async fn a_refused_tunnel_hears_the_reason_and_is_not_told_closed() {
    let mut appliance = appliance(Some(Status::permission_denied("not one of ours"))).await;
    let ended = soon(machine(appliance.address).await).await.unwrap().unwrap();
    assert!(ended.reason.contains("not one of ours"), "{}", ended.reason);
    assert!(appliance.told.try_recv().is_err());
}

#[tokio::test]
async fn a_tunnel_that_does_not_say_whose_it_is_is_refused_and_told() {
    let mut appliance = appliance(None).await;
    for (id, reason) in [
        (None, "metadata machine-id is missing"),
        (Some(String::new()), "metadata machine-id is empty"),
        (Some("4".repeat(200)), "metadata machine-id has 200 letters, a UUID has 36"),
    ] {
        let channel = connect(format!("http://{}", appliance.address).parse().unwrap()).await.unwrap();
        let mut metadata = MetadataMap::new();
        if let Some(id) = id {
            metadata.insert(MACHINE_ID_HEADER, id.parse().unwrap());
        }
        let error = soon(serve(channel, metadata, routes())).await.unwrap_err();
        let ServeError::Refused(status) = error else { panic!("{error}") };
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, reason));
        let Some(Told::Refused(id, told)) = soon(appliance.told.recv()).await else { panic!("not told") };
        assert_eq!((id.as_str(), told.as_str()), ("", reason));
    }
}

/// Opens a tunnel as a peer that negotiates, by hand.
async fn opened_by_hand(
    address: SocketAddr,
) -> (mpsc::Sender<ServerToClient>, tonic::Streaming<ClientToServer>) {
    let channel = connect(format!("http://{address}").parse().unwrap()).await.unwrap();
    let (sender, receiver) = mpsc::channel(4);
    let mut request = Request::new(ReceiverStream::new(receiver));
    *request.metadata_mut() = metadata();
    request.metadata_mut().insert(NEGOTIATE_HEADER, "on".parse().unwrap());
    let response = TunnelServiceClient::new(channel).open_reverse_tunnel(request).await.unwrap();
    (sender, response.into_inner())
}

async fn call_begins(inbound: &mut tonic::Streaming<ClientToServer>, wanted: i64) {
    loop {
        let (id, frame) = Frame::from_caller(soon(inbound.next()).await.unwrap().unwrap());
        if id == wanted && matches!(frame, Frame::Open { .. }) {
            return;
        }
    }
}

#[tokio::test]
async fn a_machine_that_goes_before_its_tunnel_is_ready_is_told() {
    let mut appliance = appliance(None).await;
    drop(opened_by_hand(appliance.address).await);
    let Some(Told::Refused(id, reason)) = soon(appliance.told.recv()).await else { panic!("not told") };
    assert_eq!(id, MACHINE_ID);
    assert!(reason.starts_with("before it was ready: "), "{reason}");
}

#[tokio::test]
async fn a_frame_over_the_limit_ends_the_tunnel_and_a_message_over_it_only_its_call() {
    let mut appliance = appliance_with(None, Limits::APPLIANCE).await;
    let (sender, mut inbound) = opened_by_hand(appliance.address).await;
    let settings = Frame::Settings { revisions: vec![0, 1], window: 65_536 };
    sender.send(settings.into_callee(-1)).await.unwrap();
    // Hello, from within the handler.
    call_begins(&mut inbound, 1).await;
    let answer = Frame::Message { size: 0, data: Default::default() };
    sender.send(answer.into_callee(1)).await.unwrap();
    sender.send(Frame::Close(Default::default()).into_callee(1)).await.unwrap();
    let Some(Told::Opened(opened)) = soon(appliance.told.recv()).await else { panic!("no tunnel") };

    let mut client = AgentServiceClient::new(opened.channel.clone());
    let call = tokio::spawn(async move { client.hello(HelloRequest {}).await });
    call_begins(&mut inbound, 2).await;
    let answer = Frame::Message { size: 5_000, data: Default::default() };
    sender.send(answer.into_callee(2)).await.unwrap();
    let status = soon(call).await.unwrap().unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::ResourceExhausted, "message of 5000 bytes is over the limit of 4096")
    );
    assert!(!opened.channel.is_closed());

    let answer = Frame::More(vec![0; 1 << 20].into());
    sender.send(answer.into_callee(2)).await.unwrap();
    let Some(Told::Closed(reason)) = soon(appliance.told.recv()).await else { panic!("not closed") };
    assert!(reason.contains("too large"), "{reason}");
}

/// An old peer: no negotiation, no settings, no windows; it answers every call with one big message.
#[tokio::test]
async fn a_peer_of_revision_zero_is_served() {
    let mut appliance = appliance(None).await;
    let channel = connect(format!("http://{}", appliance.address).parse().unwrap()).await.unwrap();
    let (sender, receiver) = mpsc::channel(4);
    let outbound: Pin<Box<dyn Stream<Item = _> + Send>> = Box::pin(ReceiverStream::new(receiver));
    let mut request = Request::new(outbound);
    *request.metadata_mut() = metadata();
    let response = TunnelServiceClient::new(channel).open_reverse_tunnel(request).await.unwrap();
    assert_eq!(response.metadata().get(NEGOTIATE_HEADER).unwrap(), "on");
    let mut inbound = response.into_inner();
    let peer = tokio::spawn(async move {
        let mut callee = Callee::new(Limits::default(), false);
        while let Some(Ok(frame)) = inbound.next().await {
            let (id, frame) = Frame::from_caller(frame);
            if let Frame::Open { revision, window, .. } = &frame {
                assert_eq!((*revision, *window), (0, 0));
            }
            assert!(!matches!(frame, Frame::Window(_)));
            let last = frame == Frame::HalfClose;
            callee.handle_frame(id, frame).unwrap();
            if last {
                let ipmi = get_power_management_response::Ipmi {
                    address: "y".repeat(400_000),
                    ..Default::default()
                };
                let answer = GetPowerManagementResponse { ipmi: Some(ipmi), api: None };
                callee.send(id, prost::Message::encode_to_vec(&answer).into()).unwrap();
                callee.close(id, Default::default());
            }
            while let Some((id, frame)) = callee.poll_transmit() {
                sender.send(frame.into_callee(id)).await.unwrap();
            }
        }
    });
    let Some(Told::Opened(opened)) = soon(appliance.told.recv()).await else { panic!("no tunnel") };
    let mut client = AgentServiceClient::new(opened.channel);
    let answer = soon(client.get_power_management(GetPowerManagementRequest::default())).await.unwrap();
    assert_eq!(answer.into_inner().ipmi.unwrap().address.len(), 400_000);
    peer.abort();
}
