//! Connections that come through the tunnel.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddrV6;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use thiserror::Error;
use tokio_stream::Stream;

use super::{Shared, TunnelStream};
use crate::stack::Buffers;

/// The port is taken.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("port {0} of the tunnel is in use")]
pub struct ListenError(pub u16);

/// A listening port. As a [`Stream`] it gives connections for a server of tonic.
pub struct Listener {
    shared: Arc<Shared>,
    port: u16,
    id: u64,
}

impl Listener {
    pub(super) fn new(shared: &Arc<Shared>, port: u16, buffers: Buffers) -> Result<Self, ListenError> {
        let id = shared.lock().stack.listen(port, buffers).map_err(|_| ListenError(port))?;
        Ok(Self { shared: Arc::clone(shared), port, id })
    }

    /// The next connection, and where it comes from.
    ///
    /// # Errors
    /// When the tunnel ended.
    pub async fn accept(&mut self) -> io::Result<(TunnelStream, SocketAddrV6)> {
        let stream = poll_fn(|context| self.poll_accept(context)).await?;
        let remote = stream.peer_addr();
        Ok((stream, remote))
    }

    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<TunnelStream>> {
        let mut core = self.shared.lock();
        match core.stack.accept(self.port, self.id, context.waker()) {
            Some(incoming) => Poll::Ready(Ok(TunnelStream::accepted(&self.shared, &core, &incoming))),
            None if core.ended => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            None => Poll::Pending,
        }
    }
}

impl Stream for Listener {
    type Item = io::Result<TunnelStream>;

    /// Ends with the tunnel.
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_accept(context).map(|result| result.ok().map(Ok))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.lock().stack.unlisten(self.port, self.id, Instant::now());
        self.shared.wake.notify_one();
    }
}
