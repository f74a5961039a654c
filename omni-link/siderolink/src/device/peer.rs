//! One peer: boringtun's tunnel, and what it leaves to its user.

use std::collections::VecDeque;
use std::time::Instant;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Tunn, TunnResult};

use super::{Endpoint, PeerConfig, PeerStatus};
use crate::key::PublicKey;
use crate::limits::{MAX_WAITING, REKEY_AFTER, TICK};

/// WireGuard's message type of packets, and of a handshake's answer; the rest proves no session.
const RESPONSE: u8 = 2;
const DATA: u8 = 4;

/// What came of a peer's work.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) transmits: Vec<(Endpoint, Vec<u8>)>,
    pub(super) packets: Vec<Vec<u8>>,
    pub(super) bad_datagrams: u64,
    pub(super) foreign_packets: u64,
    pub(super) no_route: u64,
    pub(super) overflow: u64,
}

pub(super) struct Peer {
    key: PublicKey,
    tunn: Tunn,
    config: PeerConfig,
    /// Packets that wait for a session. boringtun would keep 256.
    waiting: VecDeque<Vec<u8>>,
    awake: bool,
    ticked: Instant,
    last_handshake: Option<Instant>,
    /// When something was sent last that a keepalive would only repeat.
    last_sent: Instant,
    received: u64,
    sent: u64,
}

impl Peer {
    pub(super) fn new(key: PublicKey, tunn: Tunn, config: PeerConfig, now: Instant) -> Self {
        Self {
            key,
            tunn,
            config,
            waiting: VecDeque::new(),
            awake: false,
            ticked: now,
            last_handshake: None,
            last_sent: now,
            received: 0,
            sent: 0,
        }
    }

    pub(super) fn key(&self) -> PublicKey {
        self.key
    }

    pub(super) fn config(&self) -> &PeerConfig {
        &self.config
    }

    pub(super) fn awake(&self) -> bool {
        self.awake
    }

    pub(super) fn status(&self) -> PeerStatus {
        PeerStatus {
            address: self.config.address,
            endpoint: self.config.endpoint,
            last_handshake: self.last_handshake,
            received: self.received,
            sent: self.sent,
        }
    }

    /// An endpoint that the peer showed itself is better than one that somebody knows.
    pub(super) fn reconfigure(&mut self, config: PeerConfig) {
        let endpoint = match (self.config.endpoint, config.endpoint) {
            (Some(Endpoint::Udp(shown)), Some(Endpoint::Udp(_))) if self.last_handshake.is_some() => {
                Some(Endpoint::Udp(shown))
            }
            (shown, told) => told.or(shown),
        };
        self.config = PeerConfig { endpoint, ..config };
    }

    pub(super) fn initiate(&mut self, now: Instant, buffer: &mut [u8], out: &mut Outcome) {
        self.wake(now, buffer, out);
        self.start_handshake(now, buffer, out);
    }

    pub(super) fn send(&mut self, now: Instant, packet: &[u8], buffer: &mut [u8], out: &mut Outcome) {
        if self.config.endpoint.is_none() {
            out.no_route += 1;
            return;
        }
        self.wake(now, buffer, out);
        if self.tunn.time_since_last_handshake().is_some() {
            self.encapsulate(now, packet, buffer, out);
            return;
        }
        if self.waiting.len() == MAX_WAITING {
            // The newest counts: TCP has given the oldest up already.
            self.waiting.pop_front();
            out.overflow += 1;
        }
        self.waiting.push_back(packet.to_vec());
        self.start_handshake(now, buffer, out);
    }

    fn encapsulate(&mut self, now: Instant, packet: &[u8], buffer: &mut [u8], out: &mut Outcome) {
        match (self.tunn.encapsulate(packet, buffer), self.config.endpoint) {
            (TunnResult::WriteToNetwork(datagram), Some(endpoint)) => {
                out.transmits.push((endpoint, datagram.to_vec()));
                self.sent += packet.len() as u64;
                self.last_sent = now;
            }
            (TunnResult::Err(_), _) | (TunnResult::WriteToNetwork(_), None) => out.no_route += 1,
            (TunnResult::Done | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..), _) => {}
        }
    }

    /// Does nothing while a handshake is under way.
    fn start_handshake(&mut self, now: Instant, buffer: &mut [u8], out: &mut Outcome) {
        let Some(endpoint) = self.config.endpoint else { return };
        if let TunnResult::WriteToNetwork(datagram) = self.tunn.format_handshake_initiation(buffer, false) {
            out.transmits.push((endpoint, datagram.to_vec()));
            self.last_sent = now;
        }
    }

    #[cfg(test)]
    pub(super) fn resend(&mut self, buffer: &mut [u8], out: &mut Outcome) {
        let endpoint = self.config.endpoint.expect("the test says where");
        if let TunnResult::WriteToNetwork(datagram) = self.tunn.format_handshake_initiation(buffer, true) {
            out.transmits.push((endpoint, datagram.to_vec()));
        }
    }

    pub(super) fn handle_datagram(
        &mut self,
        now: Instant,
        from: Endpoint,
        datagram: &[u8],
        buffer: &mut [u8],
        out: &mut Outcome,
    ) {
        self.wake(now, buffer, out);
        let proves = matches!(datagram.first(), Some(&(RESPONSE | DATA)));
        let mut answer_to = Some(from);
        let mut input = datagram;
        loop {
            let result = self.tunn.decapsulate(Some(from.ip()), input, buffer);
            let proven = proves && !matches!(result, TunnResult::Err(_)) && !input.is_empty();
            if proven {
                self.config.endpoint = Some(from);
            }
            match result {
                TunnResult::WriteToNetwork(datagram) => {
                    let to = answer_to.take().or(self.config.endpoint);
                    out.transmits.extend(to.map(|to| (to, datagram.to_vec())));
                    self.last_sent = now;
                    // boringtun has more to say, until it says that it is done.
                    input = &[];
                    continue;
                }
                TunnResult::WriteToTunnelV6(packet, source) if source == self.config.address => {
                    self.received += packet.len() as u64;
                    out.packets.push(packet.to_vec());
                }
                TunnResult::WriteToTunnelV6(..) | TunnResult::WriteToTunnelV4(..) => out.foreign_packets += 1,
                TunnResult::Err(_) => out.bad_datagrams += 1,
                TunnResult::Done => {}
            }
            break;
        }
        if let Some(since) = self.tunn.time_since_last_handshake() {
            self.last_handshake = self.last_handshake.max(now.checked_sub(since));
            while let Some(packet) = self.waiting.pop_front() {
                self.encapsulate(now, &packet, buffer, out);
            }
        }
    }

    pub(super) fn tick(&mut self, now: Instant, buffer: &mut [u8], out: &mut Outcome) {
        self.ticked = now;
        match (self.tunn.update_timers(buffer), self.config.endpoint) {
            (TunnResult::WriteToNetwork(datagram), Some(endpoint)) => {
                out.transmits.push((endpoint, datagram.to_vec()));
                self.last_sent = now;
            }
            (TunnResult::Err(WireGuardError::ConnectionExpired), _) => {
                self.waiting.clear();
                self.awake = self.config.keepalive.is_some();
            }
            _ => {}
        }
        self.keep_alive(now, buffer, out);
    }

    /// boringtun's own keepalive queues empty packets without end while there is no session.
    fn keep_alive(&mut self, now: Instant, buffer: &mut [u8], out: &mut Outcome) {
        let Some(keepalive) = self.config.keepalive else { return };
        let quiet = now.saturating_duration_since(self.last_sent) >= keepalive;
        let old = self.last_handshake.is_none_or(|at| now.saturating_duration_since(at) >= REKEY_AFTER);
        if self.tunn.time_since_last_handshake().is_none() {
            if quiet {
                self.start_handshake(now, buffer, out);
            }
        } else if old {
            self.start_handshake(now, buffer, out);
        } else if quiet {
            self.encapsulate(now, &[], buffer, out);
        }
    }

    /// boringtun stamps with the time of its last look at the timers: a peer that rested must look first.
    fn wake(&mut self, now: Instant, buffer: &mut [u8], out: &mut Outcome) {
        if !self.awake || now.saturating_duration_since(self.ticked) >= TICK {
            self.tick(now, buffer, out);
        }
        self.awake = true;
    }
}
