//! The answers of `ProxyDHCP`.
//!
//! ```text
//! port 67    DISCOVER ─ PXEClient/HTTPClient ─ file for its firmware ─► OFFER   (no address in it)
//!            REQUEST, INFORM, …                                      ─► nothing; REQUEST tells the address
//! port 4011  REQUEST, INFORM ─ same checks                           ─► ACK
//!            DISCOVER        ─ same checks                           ─► OFFER
//! ```
//!
//! A REQUEST on port 67 is never answered, not even when it names us as its server: it then means the DHCP
//! server that runs at our address, and an ACK without an address would take the client's lease away.
//!
//! The proxy keeps nothing about clients. So a flood costs its own packets and nothing afterwards, each request
//! has at most one reply, and how many requests are taken in a second is the driver's choice.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::boot::{self, Plan};
use super::codec::{Message, option};
use super::outcome::{Counters, IgnoreReason, Outcome, Port, Reply, ReplyTo, Seen};
use super::request::{self, Class, MessageType, is_host};
use crate::firmware::BinarySet;

/// No reply is longer: a header, our options, and what is echoed (options 82 and 97) at their longest, so it
/// always fits a frame.
pub const REPLY_MAX: usize = 640;
/// What the proxy offers.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// The address of TFTP and HTTP, as machines reach it.
    pub server: Ipv4Addr,
    /// The port of HTTP.
    pub http_port: u16,
    /// The boot files that exist.
    pub binaries: BinarySet,
}

/// The `ProxyDHCP` server.
#[derive(Clone, Debug)]
pub struct Proxy {
    config: ProxyConfig,
    counters: Counters,
}

impl Proxy {
    /// A server that offers what the configuration has.
    #[must_use]
    pub const fn new(config: ProxyConfig) -> Self {
        Self { config, counters: Counters::NONE }
    }

    /// What it has done.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// What it offers.
    #[must_use]
    pub const fn config(&self) -> &ProxyConfig {
        &self.config
    }

    /// Looks at the payload of a UDP packet that came in on `port`, and answers it or says why not.
    pub fn handle_packet(&mut self, port: Port, source: SocketAddrV4, payload: &[u8]) -> Outcome {
        let outcome = self.answer(port, source, payload);
        self.count(&outcome);
        outcome
    }

    fn answer(&self, port: Port, source: SocketAddrV4, payload: &[u8]) -> Outcome {
        match Message::parse(payload) {
            Ok(message) => self.handle_message(port, source, &message),
            Err(error) => Outcome::Ignore { reason: IgnoreReason::Malformed(error), seen: None },
        }
    }

    /// As [`Proxy::handle_packet`], for a message that was read already, and uncounted.
    pub(super) fn handle_message(&self, port: Port, source: SocketAddrV4, message: &Message) -> Outcome {
        let (mut seen, class) = match boot::identify(message) {
            Ok(known) => known,
            Err(reason) => return Outcome::Ignore { reason, seen: None },
        };
        match self.decide(port, source, message, class, &mut seen) {
            Ok((kind, plan, to)) => {
                let payload = self.reply(kind, message, &plan).emit();
                Outcome::Reply(Reply { payload, to, seen, offered: plan.offered(port) })
            }
            Err(reason) => Outcome::Ignore { reason, seen: Some(seen) },
        }
    }

    fn decide(
        &self,
        port: Port,
        source: SocketAddrV4,
        message: &Message,
        class: Option<Class>,
        seen: &mut Seen,
    ) -> Result<(MessageType, Plan, ReplyTo), IgnoreReason> {
        let class = class.ok_or(IgnoreReason::NotNetboot)?;
        let kind = self.reply_kind(port, seen.message_type, message)?;
        let plan = Plan::new(&self.config, message, class)?;
        seen.firmware = Some(plan.firmware);
        Ok((kind, plan, destination(port, source, message)?))
    }

    fn reply_kind(
        &self,
        port: Port,
        message_type: MessageType,
        message: &Message,
    ) -> Result<MessageType, IgnoreReason> {
        let kind = match (port, message_type) {
            (_, MessageType::Discover) => MessageType::Offer,
            (Port::Proxy4011, MessageType::Request | MessageType::Inform) => MessageType::Ack,
            _ => return Err(IgnoreReason::NotForBootServer),
        };
        match request::address(message, option::SERVER_ID) {
            Some(server) if server != self.config.server => Err(IgnoreReason::OtherServer),
            _ => Ok(kind),
        }
    }

    fn reply(&self, kind: MessageType, request: &Message, plan: &Plan) -> Message {
        let mut reply = request.reply();
        // RFC 2131, table 3: an ACK repeats the client's address, an OFFER has none.
        reply.ciaddr = if kind == MessageType::Ack { request.ciaddr } else { Ipv4Addr::UNSPECIFIED };
        reply.options.push(option::MESSAGE_TYPE, &[kind.number()]);
        reply.options.push(option::SERVER_ID, &self.config.server.octets());
        plan.add_to(self.config.server, &mut reply);
        reply
    }

    const fn count(&mut self, outcome: &Outcome) {
        self.counters.received += 1;
        match outcome {
            Outcome::Reply(reply) => match reply.seen.message_type {
                MessageType::Discover => self.counters.offers += 1,
                _ => self.counters.acks += 1,
            },
            Outcome::Ignore { reason, .. } => self.counters.count_ignored(*reason),
        }
    }
}

/// Where the reply goes: to the relay; to the client when it has an address; else to everybody, since a client
/// without an address cannot be found otherwise.
pub(super) fn destination(
    port: Port,
    source: SocketAddrV4,
    message: &Message,
) -> Result<ReplyTo, IgnoreReason> {
    if !message.giaddr.is_unspecified() {
        return if is_host(message.giaddr) {
            Ok(ReplyTo::Relay(message.giaddr))
        } else {
            Err(IgnoreReason::BadAddress)
        };
    }
    let has_address = !message.ciaddr.is_unspecified() || port == Port::Proxy4011;
    if has_address && !source.ip().is_unspecified() {
        return if is_host(*source.ip()) && source.port() != 0 {
            Ok(ReplyTo::Client { addr: *source.ip(), port: source.port() })
        } else {
            Err(IgnoreReason::BadAddress)
        };
    }
    Ok(ReplyTo::Broadcast)
}

#[cfg(test)]
mod tests;
