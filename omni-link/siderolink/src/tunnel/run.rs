//! The driver: waits, feeds, acts.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use tokio::net::UdpSocket;

use super::{Core, Shared, Tunnel};
use crate::device::Endpoint;
use crate::limits::{BATCH, MAX_DATAGRAM};

impl Tunnel {
    /// Moves datagrams until the returned future is dropped; then all streams and listeners end. `socket` is the
    /// way by UDP, if there is one; [`Tunnel::relay`] is the other one. One driver at a time.
    pub async fn run(&self, socket: Option<&UdpSocket>) {
        self.shared.lock().ended = false;
        let _end = End(self);
        let mut buffer = vec![0; MAX_DATAGRAM + 1];
        loop {
            let (transmits, next) = self.shared.work();
            for (to, datagram) in transmits {
                self.transmit(socket, to, datagram).await;
            }
            let timer = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next.into()).await,
                    None => pending().await,
                }
            };
            // Cancel-safe: readiness is asked for anew, a datagram of the relay is taken whole or not at all, and
            // `Notify` keeps one notice.
            tokio::select! {
                result = readable(socket) => {
                    if result.is_ok() {
                        self.receive(socket, &mut buffer);
                    }
                }
                (from, datagram) = self.shared.relay.receive() => {
                    self.shared.lock().device.handle_datagram(Instant::now(), from, &datagram);
                }
                () = self.shared.wake.notified() => {}
                () = timer => {}
            }
        }
    }

    /// Takes what is there, up to a batch.
    fn receive(&self, socket: Option<&UdpSocket>, buffer: &mut [u8]) {
        let Some(socket) = socket else { return };
        let mut core = self.shared.lock();
        for _ in 0..BATCH {
            match socket.try_recv_from(buffer) {
                Ok((length, from)) => {
                    let from = Endpoint::Udp(canonical(from));
                    core.device.handle_datagram(Instant::now(), from, &buffer[..length]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // A port that was not there, told by ICMP: nothing that a datagram may not meet.
                Err(_) => {}
            }
        }
    }

    async fn transmit(&self, socket: Option<&UdpSocket>, to: Endpoint, datagram: Vec<u8>) {
        match (to, socket) {
            (Endpoint::Udp(address), Some(socket)) => {
                if let Err(error) = socket.send_to(&datagram, address).await {
                    tracing::debug!(%address, %error, "a datagram was not sent");
                }
            }
            (Endpoint::Relay(address), _) => self.shared.relay.send(address, datagram),
            (Endpoint::Udp(_), None) => {}
        }
    }
}

/// A socket for both families shows IPv4 addresses in IPv6's clothes.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

async fn readable(socket: Option<&UdpSocket>) -> io::Result<()> {
    match socket {
        Some(socket) => socket.readable().await,
        None => pending().await,
    }
}

impl Shared {
    /// Lets packets through both ways until there are none. Answers what is to be sent, and when to come back.
    fn work(&self) -> (Vec<(Endpoint, Vec<u8>)>, Option<Instant>) {
        let mut core = self.lock();
        let Core { device, stack, .. } = &mut *core;
        let now = Instant::now();
        device.handle_timeout(now);
        while let Some(packet) = device.poll_packet() {
            stack.handle_packet(packet);
        }
        stack.run(now);
        while let Some(packet) = stack.poll_packet() {
            device.send(now, &packet);
        }
        let next = [device.poll_timeout(), stack.poll_timeout(now)].into_iter().flatten().min();
        let transmits = std::iter::from_fn(|| device.poll_transmit()).collect();
        (transmits, next)
    }
}

/// When the driver goes, whoever waits is told.
struct End<'a>(&'a Tunnel);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut core = self.0.shared.lock();
        core.ended = true;
        core.stack.end();
    }
}
