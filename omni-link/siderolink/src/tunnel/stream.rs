//! A TCP connection in the tunnel, as tokio knows streams.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{RecvError, State};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::{Core, Shared};
use crate::stack::{Buffers, Incoming};

/// A stream. Dropped, it delivers what was written and closes.
pub struct TunnelStream {
    shared: Arc<Shared>,
    handle: SocketHandle,
    local: SocketAddrV6,
    remote: SocketAddrV6,
}

impl std::fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TunnelStream({} to {})", self.local, self.remote)
    }
}

impl TunnelStream {
    pub(super) async fn connect(
        shared: &Arc<Shared>,
        remote: SocketAddrV6,
        buffers: Buffers,
    ) -> io::Result<Self> {
        let stream = {
            let mut core = shared.lock();
            if core.ended {
                return Err(io::ErrorKind::NotConnected.into());
            }
            let handle = core.stack.connect(remote, buffers)?;
            let local = core.stack.local(handle);
            Self { shared: Arc::clone(shared), handle, local, remote }
        };
        shared.wake.notify_one();
        poll_fn(|context| stream.poll_connected(context)).await?;
        Ok(stream)
    }

    fn poll_connected(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut core = self.shared.lock();
        let ended = core.ended;
        let socket = core.stack.socket(self.handle);
        match socket.state() {
            State::SynSent | State::SynReceived if ended => {
                Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
            }
            State::SynSent | State::SynReceived => {
                socket.register_send_waker(context.waker());
                Poll::Pending
            }
            State::Closed => Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into())),
            _ => Poll::Ready(Ok(())),
        }
    }

    pub(super) fn accepted(shared: &Arc<Shared>, core: &Core, incoming: &Incoming) -> Self {
        let local = core.stack.local(incoming.handle);
        Self { shared: Arc::clone(shared), handle: incoming.handle, local, remote: incoming.remote }
    }

    /// The own end.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddrV6 {
        self.local
    }

    /// The other end. It is the peer's own address: WireGuard vouches for it.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddrV6 {
        self.remote
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut core = self.shared.lock();
        let ended = core.ended;
        let socket = core.stack.socket(self.handle);
        match socket.recv_slice(buffer.initialize_unfilled()) {
            Ok(0) if ended => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            Ok(0) => {
                socket.register_recv_waker(context.waker());
                Poll::Pending
            }
            Ok(count) => {
                buffer.advance(count);
                drop(core);
                // There is room again: the other end wants to know.
                self.shared.wake.notify_one();
                Poll::Ready(Ok(()))
            }
            Err(RecvError::Finished) => Poll::Ready(Ok(())),
            Err(RecvError::InvalidState) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut core = self.shared.lock();
        if core.ended {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        let socket = core.stack.socket(self.handle);
        match socket.send_slice(data) {
            Ok(0) => {
                socket.register_send_waker(context.waker());
                Poll::Pending
            }
            Ok(count) => {
                drop(core);
                self.shared.wake.notify_one();
                Poll::Ready(Ok(count))
            }
            Err(_) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// What is written is on its way; nothing waits for more.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.lock().stack.socket(self.handle).close();
        self.shared.wake.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        self.shared.lock().stack.release(self.handle, Instant::now());
        self.shared.wake.notify_one();
    }
}

/// So that a call's `remote_addr` is the machine's address in the tunnel.
impl Connected for TunnelStream {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo {
            local_addr: Some(SocketAddr::V6(self.local)),
            remote_addr: Some(SocketAddr::V6(self.remote)),
        }
    }
}
