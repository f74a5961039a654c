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
}

/// What the proxy has done since it started.
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
}
