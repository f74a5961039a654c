//! The appliance's end: takes tunnels and hands their channels to whoever decides about machines.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::server::NamedService;
use tonic::service::LayerExt;
use tonic::{Request, Response, Status, Streaming};
use tower::util::MapRequestLayer;

use super::caller::Caller;
use super::driver::{LINK_QUEUE, Shared};
use super::frame::TUNNEL;
use super::pieces::Pieces;
use super::{
    FINGERPRINT_HEADER, Frame, Limits, MACHINE_ID_HEADER, NEGOTIATE_HEADER, NEGOTIATE_ON, Outcome,
    SETTINGS_TIMEOUT, TunnelChannel,
};
use crate::grpctunnel::tunnel_service_server::{TunnelService as Wire, TunnelServiceServer};
use crate::grpctunnel::{ClientToServer, ServerToClient};

/// Longest machine id that is looked at; a UUID has 36 characters.
const MAX_MACHINE_ID: usize = 128;

/// A machine opened a tunnel.
#[derive(Clone, Debug)]
pub struct Opened {
    /// What the machine says it is: its SMBIOS UUID, in lower case.
    pub machine_id: String,
    /// All metadata of the opening call.
    pub metadata: MetadataMap,
    /// Where the connection comes from, when the server tells.
    pub peer: Option<SocketAddr>,
    /// Calls the machine.
    pub channel: TunnelChannel,
}

impl Opened {
    /// The fingerprint that our own agent sends; others send none.
    pub fn fingerprint(&self) -> Option<&str> {
        self.metadata.get(FINGERPRINT_HEADER)?.to_str().ok()
    }
}

/// Decides about tunnels.
#[tonic::async_trait]
pub trait TunnelHandler: Send + Sync + 'static {
    /// A tunnel is ready for calls, also from in here. An error refuses it, and the machine is told.
    async fn open(&self, opened: Opened) -> Result<(), Status>;

    /// A tunnel was refused before [`open`](Self::open) was asked: it says not whose it is, or did not get
    /// ready. The id is what it says, empty when it says none.
    async fn refused(&self, machine_id: &str, peer: Option<SocketAddr>, status: &Status) {
        let _ = (machine_id, peer, status);
    }

    /// A tunnel that was not refused is over. Another of the same machine may be open by now:
    /// [`TunnelChannel::same_tunnel`] tells them apart.
    async fn closed(&self, machine_id: &str, channel: &TunnelChannel, reason: &str);
}

/// The gRPC service that machines dial.
#[derive(Clone, Debug)]
pub struct TunnelService<H> {
    handler: Arc<H>,
    limits: Limits,
}

impl<H: TunnelHandler> TunnelService<H> {
    /// A service with [`Limits::APPLIANCE`].
    pub fn new(handler: Arc<H>) -> Self {
        Self { handler, limits: Limits::APPLIANCE }
    }

    /// Other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// For `tonic::service::Routes::add_service`.
    pub fn into_server(
        self,
    ) -> impl tower::Service<
        http::Request<Body>,
        Response = http::Response<Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + NamedService
    + Clone
    + Send
    + Sync
    + 'static {
        let max_frame = self.limits.max_frame();
        let server = TunnelServiceServer::new(self).max_decoding_message_size(max_frame);
        MapRequestLayer::new(|request: http::Request<Body>| request.map(Pieces::new)).named_layer(server)
    }
}

type Outbound = Pin<Box<dyn Stream<Item = Result<ClientToServer, Status>> + Send>>;

#[tonic::async_trait]
impl<H: TunnelHandler> Wire for TunnelService<H> {
    type OpenTunnelStream = Pin<Box<dyn Stream<Item = Result<ServerToClient, Status>> + Send>>;
    type OpenReverseTunnelStream = Outbound;

    async fn open_tunnel(
        &self,
        _request: Request<Streaming<ClientToServer>>,
    ) -> Result<Response<Self::OpenTunnelStream>, Status> {
        Err(Status::unimplemented("forward tunnels are not served here"))
    }

    async fn open_reverse_tunnel(
        &self,
        request: Request<Streaming<ServerToClient>>,
    ) -> Result<Response<Outbound>, Status> {
        let metadata = request.metadata().clone();
        let negotiated = metadata.get(NEGOTIATE_HEADER).is_some_and(|value| value == NEGOTIATE_ON);
        let peer = request.remote_addr().or_else(|| {
            request.extensions().get::<axum::extract::ConnectInfo<SocketAddr>>().map(|info| info.0)
        });
        let machine_id = match machine_id(&metadata) {
            Ok(id) => id,
            Err(status) => {
                self.handler.refused("", peer, &status).await;
                return Err(status);
            }
        };

        let shared = Arc::new(Shared::new(Caller::new(self.limits, negotiated)));
        let channel = TunnelChannel::new(shared.clone(), self.limits);
        let (outbound, frames) = mpsc::channel(LINK_QUEUE);
        // Not joined: it ends with the stream that it feeds, and the handler hears of it.
        tokio::spawn(run(
            self.handler.clone(),
            shared,
            Opened { machine_id, metadata, peer, channel },
            request.into_inner(),
            outbound,
        ));
        let mut response =
            Response::new(Box::pin(ReceiverStream::new(frames).map(|frame| *frame)) as Outbound);
        response.metadata_mut().insert(NEGOTIATE_HEADER, MetadataValue::from_static(NEGOTIATE_ON));
        Ok(response)
    }
}

fn machine_id(metadata: &MetadataMap) -> Result<String, Status> {
    let refused = |what: &str| Status::invalid_argument(format!("metadata {MACHINE_ID_HEADER} {what}"));
    let id = metadata.get(MACHINE_ID_HEADER).ok_or_else(|| refused("is missing"))?;
    let id = id.to_str().map_err(|_| refused("is no text"))?;
    match id.len() {
        0 => Err(refused("is empty")),
        1..=MAX_MACHINE_ID => Ok(id.to_ascii_lowercase()),
        length => Err(refused(&format!("has {length} letters, a UUID has 36"))),
    }
}

async fn run<H: TunnelHandler>(
    handler: Arc<H>,
    shared: Arc<Shared<Caller>>,
    opened: Opened,
    inbound: Streaming<ServerToClient>,
    outbound: mpsc::Sender<Box<Result<ClientToServer, Status>>>,
) {
    let machine_id = opened.machine_id.clone();
    let channel = opened.channel.clone();
    let inbound = inbound.map(|item| item.map(Frame::from_callee));
    let drive = shared.drive(inbound, outbound.clone(), |id, frame| Ok(frame.into_caller(id)), |_| {});
    // Boxed, so that it is gone once the machine is in.
    let admit = Box::pin(async {
        let admitted = admit(&*handler, &shared, opened).await;
        if let Err(status) = &admitted {
            shared.stop(Outcome::error(tonic::Code::Unavailable, status.message()));
        }
        admitted
    });
    let (outcome, admitted) = tokio::join!(drive, admit);
    let reason = if outcome.code == 0 { "closed by the machine" } else { &outcome.message };
    let last = match admitted {
        Ok(()) => {
            tracing::debug!(machine = %machine_id, reason, "tunnel ended");
            handler.closed(&machine_id, &channel, reason).await;
            if outcome.code == 0 {
                return;
            }
            Status::unavailable(reason)
        }
        Err(status) => status,
    };
    // Nobody may be there to hear it.
    let _ = outbound.send(Box::new(Err(last))).await;
}

async fn admit<H: TunnelHandler>(handler: &H, shared: &Shared<Caller>, opened: Opened) -> Result<(), Status> {
    let ready = poll_fn(|cx| shared.poll_read(TUNNEL, cx, |caller| caller.is_ready().then_some(())));
    // Cancel-safe: each branch only waits.
    let refusal = tokio::select! {
        () = ready => None,
        outcome = shared.ended() => Some(Status::unavailable(format!("before it was ready: {}", outcome.message))),
        () = tokio::time::sleep(SETTINGS_TIMEOUT) => {
            let seconds = SETTINGS_TIMEOUT.as_secs();
            Some(Status::deadline_exceeded(format!("its agent sent no settings within {seconds} s")))
        }
    };
    match refusal {
        None => handler.open(opened).await,
        Some(status) => {
            handler.refused(&opened.machine_id, opened.peer, &status).await;
            Err(status)
        }
    }
}
