//! The control plane's end.

use std::net::SocketAddrV6;
use std::pin::Pin;

use futures_util::stream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::{Attached, PEER_ADDRESS_HEADER, Relay};
use crate::limits::MAX_DATAGRAM;
use crate::proto::PeerPacket;
use crate::proto::wire_guard_over_grpc_service_server::{
    WireGuardOverGrpcService, WireGuardOverGrpcServiceServer,
};

/// Room for a message around a datagram.
const MAX_MESSAGE: usize = 2 * MAX_DATAGRAM;

/// `sidero.link.WireGuardOverGRPCService` of a tunnel.
pub struct RelayServer {
    relay: Relay,
}

impl RelayServer {
    /// The service, to be added to a server's routes.
    #[must_use]
    pub fn service(relay: &Relay) -> WireGuardOverGrpcServiceServer<Self> {
        WireGuardOverGrpcServiceServer::new(Self { relay: relay.clone() })
            .max_decoding_message_size(MAX_MESSAGE)
    }
}

type Packets = Pin<Box<dyn Stream<Item = Result<PeerPacket, Status>> + Send>>;

#[tonic::async_trait]
impl WireGuardOverGrpcService for RelayServer {
    type CreateStreamStream = Packets;

    async fn create_stream(
        &self,
        request: Request<Streaming<PeerPacket>>,
    ) -> Result<Response<Packets>, Status> {
        let header = request.metadata().get(PEER_ADDRESS_HEADER).and_then(|value| value.to_str().ok());
        let address: SocketAddrV6 = header
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Status::invalid_argument(format!("{PEER_ADDRESS_HEADER} names no address")))?;
        if !self.relay.allowed(address) {
            return Err(Status::permission_denied("peer not allowed"));
        }
        let stream = OpenStream { attached: self.relay.attach(address), incoming: request.into_inner() };
        let packets = stream::unfold(Some(stream), |stream| async move {
            let mut stream = stream?;
            match stream.step().await {
                Step::Send(data) => Some((Ok(PeerPacket { data: data.into() }), Some(stream))),
                Step::End(Some(status)) => Some((Err(status), None)),
                Step::End(None) => None,
            }
        });
        Ok(Response::new(Box::pin(packets)))
    }
}

struct OpenStream {
    attached: Attached,
    incoming: Streaming<PeerPacket>,
}

enum Step {
    Send(Vec<u8>),
    End(Option<Status>),
}

impl OpenStream {
    /// Takes datagrams in until there is one to send, or the end.
    async fn step(&mut self) -> Step {
        loop {
            // Cancel-safe: a message is taken whole or not at all, and so is a datagram that waits.
            tokio::select! {
                biased;
                () = self.attached.outgoing.replaced.notified() => {
                    return Step::End(Some(Status::aborted("peer replaced")));
                }
                datagram = self.attached.outgoing.next() => return Step::Send(datagram),
                message = self.incoming.next() => match message {
                    Some(Ok(packet)) => self.attached.deliver(packet.data).await,
                    Some(Err(_)) | None => return Step::End(None),
                },
            }
        }
    }
}
