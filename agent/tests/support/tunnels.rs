//! An appliance that takes every tunnel.

use agent_wire::tunnel::{Opened, TunnelChannel, TunnelHandler};
use tokio::sync::mpsc;
use tonic::Status;

/// Hands on what was opened.
pub(crate) struct Tunnels(pub(crate) mpsc::UnboundedSender<Opened>);

#[tonic::async_trait]
impl TunnelHandler for Tunnels {
    async fn open(&self, opened: Opened) -> Result<(), Status> {
        self.0.send(opened).map_err(|_| Status::unavailable("over"))
    }
    async fn closed(&self, _machine_id: &str, _channel: &TunnelChannel, _reason: &str) {}
}
