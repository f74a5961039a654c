//! What a stranger or a peer may send, how much of it is kept, and the times that both ends agree on.

use std::time::Duration;

/// Peers of one device: what one hub keeps of machines and of machines in limbo.
pub const MAX_PEERS: usize = 11_000;
/// Longest packet inside the tunnel: IPv6's least MTU, which Talos sets on its end too.
pub const MTU: usize = 1280;
/// Longest datagram: a packet of Ethernet's MTU with WireGuard's 32 bytes around it. Peers with a greater MTU
/// are not met: both ends set [`MTU`].
pub(crate) const MAX_DATAGRAM: usize = 1536;
/// Handshakes a second before a cookie is asked for. Each costs 0.1 to 0.2 ms; 2,000 machines that come back at
/// once are through in 2 s, and a flood takes a fifth of one processor at most. boringtun counts each twice.
pub(crate) const HANDSHAKES_PER_SECOND: u64 = 2 * 1000;
/// Packets that wait for a handshake, for each peer: a connection's first ones. TCP repeats the rest.
pub(crate) const MAX_WAITING: usize = 8;
/// Datagrams and packets that wait for the driver, in all: some milliseconds of a busy hub.
pub(crate) const MAX_QUEUED: usize = 4096;
/// How often each peer's timers are looked at; WireGuard's are in seconds.
pub(crate) const TICK: Duration = Duration::from_secs(1);
/// A session's keys are renewed by its initiator after this time (WireGuard, section 6.1), also when only
/// keepalives are sent: boringtun by itself waits for data, and would let an idle session die.
pub(crate) const REKEY_AFTER: Duration = Duration::from_secs(120);
/// Between keepalives, which keep the way through NAT open and the control plane knowing. Talos' value.
pub const KEEPALIVE: Duration = Duration::from_secs(25);
/// Without a handshake for this long a peer is down: 180 s that a session lives, 90 s of attempts at a new one
/// and 5 s for the last of them. SideroLink's value on both ends.
pub const PEER_DOWN: Duration = Duration::from_secs(275);

/// A stream that nobody answers is given up after this time.
pub(crate) const STREAM_TIMEOUT: Duration = Duration::from_secs(60);
/// A silent stream is asked after this time, so that one whose other end lost power ends.
pub(crate) const STREAM_KEEPALIVE: Duration = Duration::from_secs(30);
/// A stream that was dropped gets this long to deliver what was written.
pub(crate) const STREAM_LINGER: Duration = Duration::from_secs(15);
/// Connections to one port that are not accepted yet.
pub(crate) const MAX_BACKLOG: usize = 256;
/// Connections from one address at once: a machine has an event stream and a log stream; the control plane
/// opens some calls at once to a machine.
pub(crate) const MAX_STREAMS_PER_ADDRESS: usize = 32;
/// First port for outgoing connections (RFC 6335).
pub(crate) const FIRST_EPHEMERAL_PORT: u16 = 49152;

/// Datagrams taken from the socket before the stack is run.
pub(crate) const BATCH: usize = 64;
/// Datagrams that wait for one gRPC stream: as in Omni; the oldest go first.
pub(crate) const RELAY_QUEUE: usize = 100;
/// Datagrams that wait for a stream to be opened: a handshake and the first packets.
pub(crate) const RELAY_EXPECTED: usize = 4;
/// Datagrams of all gRPC streams that wait for the driver; a stream waits when it is full.
pub(crate) const RELAY_RECEIVE_QUEUE: usize = 256;
