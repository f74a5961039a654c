//! An appliance that takes every tunnel.

use std::net::SocketAddr;
use std::sync::Arc;

use agent_wire::tunnel::{Opened, TunnelChannel, TunnelHandler, TunnelService};
use axum::Router;
use netboot_link::http::{self, Service};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;

/// Hands on what was opened.
struct Tunnels(mpsc::UnboundedSender<Opened>);

#[tonic::async_trait]
impl TunnelHandler for Tunnels {
    async fn open(&self, opened: Opened) -> Result<(), Status> {
        self.0.send(opened).map_err(|_| Status::unavailable("over"))
    }
    async fn closed(&self, _machine_id: &str, _channel: &TunnelChannel, _reason: &str) {}
}

/// What it serves, and what was opened.
pub(crate) fn every_tunnel() -> (Router, mpsc::UnboundedReceiver<Opened>) {
    let (sender, opened) = mpsc::unbounded_channel();
    let service = TunnelService::new(Arc::new(Tunnels(sender))).into_server();
    (Routes::new(service).into_axum_router(), opened)
}

/// The appliance's own server on a port of loopback.
pub(crate) async fn serve(service: impl Into<Service> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(http::serve(listener, service, CancellationToken::new()));
    address
}
