//! What comes of a packet.

use std::net::{Ipv4Addr, SocketAddrV4};

use uuid::Uuid;

use super::codec::ParseError;
use super::request::MessageType;
use crate::Mac;
use crate::firmware::Firmware;

/// The client's port, for broadcasts.
const CLIENT_PORT: u16 = 68;

/// The port a message came in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    /// 67, where all DHCP servers listen.
    Server67,
    /// 4011, where boot servers listen.
    Proxy4011,
}

impl Port {
    /// The number.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Server67 => 67,
            Self::Proxy4011 => 4011,
        }
    }
}

/// What a message told about its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The interface.
    pub mac: Mac,
    /// The SMBIOS UUID (option 97).
    pub uuid: Option<Uuid>,
    /// The firmware, for those that boot from the network.
    pub firmware: Option<Firmware>,
    /// What it wanted.
    pub message_type: MessageType,
    /// The address it asks the DHCP server for, or has.
    pub requested_ip: Option<Ipv4Addr>,
}

/// What was offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// A file name for TFTP, or a URL.
    pub file: String,
    /// The firmware it is for.
    pub firmware: Firmware,
    /// The port it was asked on.
    pub port: Port,
}

/// Where a reply goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyTo {
    /// To everybody: 255.255.255.255, port 68.
    Broadcast,
    /// To the client, which has an address.
    Client {
        /// Its address.
        addr: Ipv4Addr,
        /// Its port.
        port: u16,
    },
    /// To the relay, port 67.
    Relay(Ipv4Addr),
}

impl ReplyTo {
    /// The address and port.
    #[must_use]
    pub const fn socket(self) -> SocketAddrV4 {
        match self {
            Self::Broadcast => SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT),
            Self::Client { addr, port } => SocketAddrV4::new(addr, port),
            Self::Relay(relay) => SocketAddrV4::new(relay, Port::Server67.number()),
        }
    }
}

/// A reply to send, from the port that the request came in on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The DHCP message.
    pub payload: Vec<u8>,
    /// Where it goes.
    pub to: ReplyTo,
    /// Who asked.
    pub seen: Seen,
    /// What it is offered.
    pub offered: Offered,
}

/// What came of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is answered.
    Reply(Reply),
    /// It is not.
    Ignore {
        /// Why.
        reason: IgnoreReason,
        /// Who asked, when that could be read.
        seen: Option<Seen>,
    },
}

/// Why a packet is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreReason {
    /// Its bytes are no DHCP message.
    #[error("malformed: {0}")]
    Malformed(ParseError),
    /// It is from a server.
    #[error("not from a client")]
    NotARequest,
    /// It is not about an Ethernet interface.
    #[error("not from an Ethernet interface")]
    NotEthernet,
    /// It is BOOTP without DHCP.
    #[error("no message type")]
    NoMessageType,
    /// Its sender does not boot from the network.
    #[error("not a network boot")]
    NotNetboot,
    /// A kind of message that is not for a boot server on this port.
    #[error("not a question for a boot server")]
    NotForBootServer,
    /// It names another server.
    #[error("meant for another boot server")]
    OtherServer,
    /// Its UUID is neither absent nor 17 bytes of type 0.
    #[error("malformed UUID (option 97)")]
    BadUuid,
    /// It does not say which firmware it is.
    #[error("does not say its architecture (option 93)")]
    NoArchitecture,
    /// There is no boot file for it.
    #[error("no boot file for {0} firmware")]
    NoBinary(Firmware),
    /// Its relay or its own address cannot be answered.
    #[error("no address to answer to")]
    BadAddress,
    /// Its relay information is longer than can be echoed.
    #[error("relay information too long")]
    RelayInformation,
    /// Its source address is none of this network's.
    #[error("source address outside of this network")]
    Spoofed,
    /// This client, or all of them together, ask more often than is answered.
    #[error("asks too often")]
    TooOften,
    /// There is no address for it.
    #[error("no free address")]
    NoAddress,
    /// It asks to keep an address that we know nothing of.
    #[error("asks for an address of another server")]
    UnknownAddress,
    /// The server does not serve yet: it makes sure that it is the only one.
    #[error("not serving yet")]
    NotServing,
    /// More machines wait for the site's server than are kept in mind.
    #[error("too many machines wait for the DHCP server")]
    Busy,
    /// It came through too many relays.
    #[error("too many relays")]
    Hops,
}

impl Counters {
    /// All zero.
    pub(super) const NONE: Self = Self {
        received: 0,
        offers: 0,
        acks: 0,
        malformed: 0,
        not_for_us: 0,
        no_binary: 0,
        spoofed: 0,
        limited: 0,
        no_room: 0,
    };

    /// Counts one packet that is not answered.
    pub(super) const fn count_ignored(&mut self, reason: IgnoreReason) {
        let counter = match reason {
            IgnoreReason::Malformed(_)
            | IgnoreReason::BadUuid
            | IgnoreReason::NoArchitecture
            | IgnoreReason::BadAddress
            | IgnoreReason::RelayInformation
            | IgnoreReason::Hops => &mut self.malformed,
            IgnoreReason::NotARequest
            | IgnoreReason::NotEthernet
            | IgnoreReason::NoMessageType
            | IgnoreReason::NotNetboot
            | IgnoreReason::NotForBootServer
            | IgnoreReason::UnknownAddress
            | IgnoreReason::NotServing
            | IgnoreReason::OtherServer => &mut self.not_for_us,
            IgnoreReason::NoBinary(_) => &mut self.no_binary,
            IgnoreReason::Spoofed => &mut self.spoofed,
            IgnoreReason::TooOften => &mut self.limited,
            IgnoreReason::NoAddress | IgnoreReason::Busy => &mut self.no_room,
        };
        *counter += 1;
    }
}

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets looked at.
    pub received: u64,
    /// OFFERs sent.
    pub offers: u64,
    /// ACKs sent.
    pub acks: u64,
    /// Packets that are no DHCP message, or break the rules of an option.
    pub malformed: u64,
    /// Messages that are not for a boot server.
    pub not_for_us: u64,
    /// Network boots without a boot file for their firmware.
    pub no_binary: u64,
    /// Packets from addresses outside of the network.
    pub spoofed: u64,
    /// Packets above the limits in time.
    pub limited: u64,
    /// Clients that got nothing because there was no address, or no place in a table, for them.
    pub no_room: u64,
}
