//! The machine's end.

use std::net::SocketAddrV6;
use std::sync::Arc;

use tokio_stream::StreamExt as _;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, Bytes, StdError};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use super::{PEER_ADDRESS_HEADER, Relay, RelayError};
use crate::limits::MAX_DATAGRAM;
use crate::proto::PeerPacket;
use crate::proto::wire_guard_over_grpc_service_client::WireGuardOverGrpcServiceClient;

/// Room for a message around a datagram.
const MAX_MESSAGE: usize = 2 * MAX_DATAGRAM;

impl Relay {
    /// Opens a stream and moves datagrams until it ends, and says why it did. `own` is the virtual address that
    /// the control plane gave, `server` the one under which it is the peer's endpoint.
    pub async fn keep_stream<C>(&self, channel: C, own: SocketAddrV6, server: SocketAddrV6) -> RelayError
    where
        C: tonic::client::GrpcService<Body>,
        C::Error: Into<StdError>,
        C::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
        <C::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
    {
        let attached = self.attach(server);
        let outgoing = Arc::clone(&attached.outgoing);
        let packets = futures_util::stream::unfold(outgoing, |outgoing| async move {
            let data = outgoing.next().await.into();
            Some((PeerPacket { data }, outgoing))
        });
        let mut request = Request::new(packets);
        let Ok(name) = MetadataValue::try_from(own.to_string()) else { return RelayError::NotAllowed };
        request.metadata_mut().insert(PEER_ADDRESS_HEADER, name);
        let mut client = WireGuardOverGrpcServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let mut incoming = match client.create_stream(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return error(&status),
        };
        loop {
            match incoming.next().await {
                Some(Ok(packet)) => attached.deliver(packet.data).await,
                Some(Err(status)) => return error(&status),
                None => return RelayError::Broken("the control plane closed the stream".to_owned()),
            }
        }
    }
}

fn error(status: &Status) -> RelayError {
    match status.code() {
        Code::PermissionDenied => RelayError::NotAllowed,
        Code::Aborted => RelayError::Replaced,
        code => RelayError::Broken(format!("{code:?}: {}", status.message())),
    }
}
