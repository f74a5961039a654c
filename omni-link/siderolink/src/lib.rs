//! The tunnel between a machine and the control plane: WireGuard in user space, TCP on top, no kernel
//! interface and no privilege.
//!
//! ```text
//! TunnelStream, Listener          tokio's AsyncRead and AsyncWrite
//!   Stack                         smoltcp: IPv6 and TCP, packets in and out
//!     Device                      WireGuard (boringtun's noise): packets in, datagrams out, and back
//!       UDP socket | Relay        Relay: WireGuard over gRPC, both ends
//! ```
//!
//! Invariants: [`Device`] and the stack have no socket, task or channel; time is an argument of theirs (but
//! boringtun reads the monotonic clock for its own timers). A packet from a peer is taken only if it comes
//! from that peer's one address. An endpoint moves only with a datagram that proves the session's keys. Peers,
//! streams, buffers and queues have named limits; what exceeds them is dropped and counted, nothing panics.
//! It does not know what is said through the tunnel, nor who may join.
//!
//! Its driver is [`Tunnel::run`]; whoever makes a [`Tunnel`] runs it.

mod device;
mod key;
mod limits;
mod relay;
mod stack;
mod tunnel;

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated; the protobuf file carries the documentation"
)]
mod proto {
    tonic::include_proto!("sidero.link");
}

pub use device::{Counters, Device, Endpoint, PeerConfig, PeerError, PeerStatus};
pub use key::{KeyError, PrivateKey, PublicKey};
pub use limits::{KEEPALIVE, MAX_PEERS, MTU, PEER_DOWN};
pub use relay::{PEER_ADDRESS_HEADER, Relay, RelayError, RelayServer};
pub use stack::{Buffers, StackCounters};
pub use tunnel::{ListenError, Listener, Tunnel, TunnelConfig, TunnelStream};
