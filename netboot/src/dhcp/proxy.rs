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

use super::codec::{Message, Op, option};
use super::outcome::{Counters, IgnoreReason, Offered, Outcome, Port, Reply, ReplyTo, Seen};
use super::request::{self, Class, ClientUuid, MessageType};
use crate::firmware::{BinarySet, BootFile, boot_file};
use crate::ipxe::BaseUrl;

/// No reply is longer: a header, our options, and what is echoed (options 82 and 97) at their longest, so it
/// always fits a frame.
pub const REPLY_MAX: usize = 640;
/// The longest relay information that is echoed: one option's worth.
const RELAY_AGENT_MAX: usize = 255;
/// `PXE_DISCOVERY_CONTROL` = 8 (use the file of this offer, ask nobody else), then the end mark. Without it EDK2
/// asks again on port 4011, and some clients show a menu.
const PXE_USE_THIS_FILE: [u8; 4] = [6, 1, 8, 255];

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
    base: BaseUrl,
    counters: Counters,
}

impl Proxy {
    /// A server that offers what the configuration has.
    #[must_use]
    pub const fn new(config: ProxyConfig) -> Self {
        let base = BaseUrl::new(config.server, config.http_port);
        let counters =
            Counters { received: 0, offers: 0, acks: 0, malformed: 0, not_for_us: 0, no_binary: 0 };
        Self { config, base, counters }
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
        let nobody = |reason| Outcome::Ignore { reason, seen: None };
        let message = match Message::parse(payload) {
            Ok(message) => message,
            Err(error) => return nobody(IgnoreReason::Malformed(error)),
        };
        if message.op != Op::Request {
            return nobody(IgnoreReason::NotARequest);
        }
        let Some(mac) = request::mac(&message) else { return nobody(IgnoreReason::NotEthernet) };
        let Some(message_type) = request::message_type(&message) else {
            return nobody(IgnoreReason::NoMessageType);
        };
        let client_uuid = request::client_uuid(&message);
        let class = Class::of(&message);
        let firmwares = class.map_or_else(Vec::new, |class| request::firmwares(&message, class));
        let mut seen = Seen {
            mac,
            uuid: match client_uuid {
                ClientUuid::Uuid(uuid) if !uuid.is_nil() && !uuid.is_max() => Some(uuid),
                _ => None,
            },
            firmware: firmwares.first().copied(),
            message_type,
            requested_ip: wanted_address(&message, message_type),
        };
        let ignore = |reason, seen| Outcome::Ignore { reason, seen: Some(seen) };

        let Some(class) = class else { return ignore(IgnoreReason::NotNetboot, seen) };
        let kind = match self.reply_kind(port, message_type, &message) {
            Ok(kind) => kind,
            Err(reason) => return ignore(reason, seen),
        };
        if client_uuid == ClientUuid::Malformed {
            return ignore(IgnoreReason::BadUuid, seen);
        }
        let Some(first) = firmwares.first().copied() else {
            return ignore(IgnoreReason::NoArchitecture, seen);
        };
        let fitting = firmwares
            .into_iter()
            .find_map(|firmware| boot_file(firmware, &self.config.binaries).map(|file| (firmware, file)));
        let Some((firmware, file)) = fitting else { return ignore(IgnoreReason::NoBinary(first), seen) };
        seen.firmware = Some(firmware);
        let to = match destination(port, source, &message) {
            Ok(to) => to,
            Err(reason) => return ignore(reason, seen),
        };
        if message.options.value(option::RELAY_AGENT).is_some_and(|value| value.len() > RELAY_AGENT_MAX) {
            return ignore(IgnoreReason::RelayInformation, seen);
        }
        let file = self.file_name(file);
        let payload = self.reply(kind, class, &message, &file).emit();
        Outcome::Reply(Reply { payload, to, seen, offered: Offered { file: file.text, firmware, port } })
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

    fn file_name(&self, file: BootFile) -> FileName {
        match file {
            BootFile::Tftp(name) => FileName { text: name.to_owned(), by_tftp: true },
            BootFile::Http(name) => FileName { text: format!("{}/tftp/{name}", self.base), by_tftp: false },
            BootFile::Script => FileName { text: format!("{}/ipxe/init.ipxe", self.base), by_tftp: false },
        }
    }

    fn reply(&self, kind: MessageType, class: Class, request: &Message, file: &FileName) -> Message {
        let mut reply = Message {
            htype: request.htype,
            hlen: request.hlen,
            xid: request.xid,
            flags: request.flags,
            // RFC 2131, table 3: an ACK repeats the client's address, an OFFER has none.
            ciaddr: if kind == MessageType::Ack { request.ciaddr } else { Ipv4Addr::UNSPECIFIED },
            siaddr: self.config.server,
            giaddr: request.giaddr,
            chaddr: request.chaddr,
            ..Message::new(Op::Reply)
        };
        // The last byte stays zero. Firmware reads the field, option 67, or whichever of both it finds first.
        let name = file.text.as_bytes();
        if name.len() < reply.file.len() {
            reply.file[..name.len()].copy_from_slice(name);
        }
        let options = &mut reply.options;
        options.push(option::MESSAGE_TYPE, &[kind.number()]);
        options.push(option::SERVER_ID, &self.config.server.octets());
        options.push(option::VENDOR_CLASS, class.word().as_bytes());
        if class == Class::Pxe {
            options.push(option::VENDOR_SPECIFIC, &PXE_USE_THIS_FILE);
        }
        if file.by_tftp {
            options.push(option::TFTP_SERVER, self.config.server.to_string().as_bytes());
        }
        options.push(option::BOOT_FILE, name);
        if let Some(uuid) = request.options.value(option::CLIENT_UUID) {
            options.push(option::CLIENT_UUID, uuid);
        }
        // RFC 3046: untouched, and after all others.
        if let Some(relay) = request.options.value(option::RELAY_AGENT) {
            options.push(option::RELAY_AGENT, relay);
        }
        reply
    }

    const fn count(&mut self, outcome: &Outcome) {
        let counters = &mut self.counters;
        counters.received += 1;
        let counter = match outcome {
            Outcome::Reply(reply) => match reply.seen.message_type {
                MessageType::Discover => &mut counters.offers,
                _ => &mut counters.acks,
            },
            Outcome::Ignore { reason, .. } => match reason {
                IgnoreReason::Malformed(_)
                | IgnoreReason::BadUuid
                | IgnoreReason::NoArchitecture
                | IgnoreReason::BadAddress
                | IgnoreReason::RelayInformation => &mut counters.malformed,
                IgnoreReason::NotARequest
                | IgnoreReason::NotEthernet
                | IgnoreReason::NoMessageType
                | IgnoreReason::NotNetboot
                | IgnoreReason::NotForBootServer
                | IgnoreReason::OtherServer => &mut counters.not_for_us,
                IgnoreReason::NoBinary(_) => &mut counters.no_binary,
            },
        };
        *counter += 1;
    }
}

struct FileName {
    text: String,
    by_tftp: bool,
}

/// The address that a client asks for, or says it has.
fn wanted_address(message: &Message, message_type: MessageType) -> Option<Ipv4Addr> {
    if message_type != MessageType::Request && message_type != MessageType::Inform {
        return None;
    }
    request::address(message, option::REQUESTED_IP).or(Some(message.ciaddr)).filter(|addr| is_host(*addr))
}

/// Where the reply goes: to the relay; to the client when it has an address; else to everybody, since a client
/// without an address cannot be found otherwise.
fn destination(port: Port, source: SocketAddrV4, message: &Message) -> Result<ReplyTo, IgnoreReason> {
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

/// Whether it can be the address of one host.
fn is_host(address: Ipv4Addr) -> bool {
    // 0.0.0.0/8 and 240.0.0.0/4 (with 255.255.255.255) name no host either.
    !matches!(address.octets()[0], 0 | 240..) && !address.is_multicast() && !address.is_loopback()
}

#[cfg(test)]
mod tests;
