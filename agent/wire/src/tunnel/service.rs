//! The appliance's end: takes tunnels and hands their channels to whoever decides about machines.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status, Streaming};

use super::caller::Caller;
use super::driver::{LINK_QUEUE, Shared};
use super::frame::TUNNEL;
use super::{
    FINGERPRINT_HEADER, Frame, Limits, MACHINE_ID_HEADER, MAX_FRAME, NEGOTIATE_HEADER, NEGOTIATE_ON, Outcome,
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
    /// A service with the default limits.
    pub fn new(handler: Arc<H>) -> Self {
        Self { handler, limits: Limits::default() }
    }

    /// Other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// For `tonic::service::Routes::add_service`.
    pub fn into_server(self) -> TunnelServiceServer<Self> {
        TunnelServiceServer::new(self).max_decoding_message_size(MAX_FRAME)
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
        let machine_id = metadata
            .get(MACHINE_ID_HEADER)
            .and_then(|id| id.to_str().ok())
            .filter(|id| !id.is_empty() && id.len() <= MAX_MACHINE_ID)
            .ok_or_else(|| Status::invalid_argument("metadata machine-id is missing"))?
            .to_ascii_lowercase();
        let negotiated = metadata.get(NEGOTIATE_HEADER).is_some_and(|value| value == NEGOTIATE_ON);
        let peer = request.remote_addr().or_else(|| {
            request.extensions().get::<axum::extract::ConnectInfo<SocketAddr>>().map(|info| info.0)
        });

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
        let mut response = Response::new(Box::pin(ReceiverStream::new(frames)) as Outbound);
        response.metadata_mut().insert(NEGOTIATE_HEADER, MetadataValue::from_static(NEGOTIATE_ON));
        Ok(response)
    }
}

async fn run<H: TunnelHandler>(
    handler: Arc<H>,
    shared: Arc<Shared<Caller>>,
    opened: Opened,
    inbound: Streaming<ServerToClient>,
    outbound: mpsc::Sender<Result<ClientToServer, Status>>,
) {
    let machine_id = opened.machine_id.clone();
    let channel = opened.channel.clone();
    let inbound = inbound.map(|item| item.map(Frame::from_callee));
    let drive = shared.drive(inbound, outbound.clone(), |id, frame| Ok(frame.into_caller(id)), |_| {});
    let admit = async {
        let admitted = admit(&*handler, &shared, opened).await;
        if let Err(status) = &admitted {
            shared.stop(Outcome::error(tonic::Code::Unavailable, status.message()));
        }
        admitted
    };
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
    let _ = outbound.send(Err(last)).await;
}

async fn admit<H: TunnelHandler>(handler: &H, shared: &Shared<Caller>, opened: Opened) -> Result<(), Status> {
    let ready = poll_fn(|cx| shared.poll_read(TUNNEL, cx, |caller| caller.is_ready().then_some(())));
    tokio::select! {
        () = ready => {}
        outcome = shared.ended() => return Err(Status::unavailable(outcome.message)),
        () = tokio::time::sleep(SETTINGS_TIMEOUT) => {
            return Err(Status::deadline_exceeded("no settings came"));
        }
    }
    handler.open(opened).await
}
