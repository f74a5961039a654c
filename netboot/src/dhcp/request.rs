//! What a booting machine says in a DHCP message.

use std::net::Ipv4Addr;

use uuid::Uuid;

use super::codec::{ETHERNET, Message, option};
use crate::Mac;
use crate::firmware::Firmware;

/// How many entries of option 93 are looked at. Firmware sends one; the standard allows a list.
pub const ARCHITECTURES_MAX: usize = 16;

/// The kind of a DHCP message (option 53).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// Who is there?
    Discover,
    /// This is what you could have.
    Offer,
    /// I take it.
    Request,
    /// I do not want it.
    Decline,
    /// It is yours.
    Ack,
    /// You cannot have it.
    Nak,
    /// I need it no longer.
    Release,
    /// I have an address; tell me the rest.
    Inform,
    /// Anything newer.
    Unknown(u8),
}

impl MessageType {
    /// Reads option 53.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Discover,
            2 => Self::Offer,
            3 => Self::Request,
            4 => Self::Decline,
            5 => Self::Ack,
            6 => Self::Nak,
            7 => Self::Release,
            8 => Self::Inform,
            other => Self::Unknown(other),
        }
    }

    /// The number for option 53.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Discover => 1,
            Self::Offer => 2,
            Self::Request => 3,
            Self::Decline => 4,
            Self::Ack => 5,
            Self::Nak => 6,
            Self::Release => 7,
            Self::Inform => 8,
            Self::Unknown(other) => other,
        }
    }
}

/// What a client calls itself at the start of option 60.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// It fetches boot files by TFTP.
    Pxe,
    /// It fetches boot files by HTTP.
    Http,
}

impl Class {
    /// The word that starts option 60, and is the whole of it in answers.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pxe => "PXEClient",
            Self::Http => "HTTPClient",
        }
    }

    /// Reads option 60.
    #[must_use]
    pub fn of(message: &Message) -> Option<Self> {
        let value = message.options.value(option::VENDOR_CLASS)?;
        [Self::Pxe, Self::Http].into_iter().find(|class| value.starts_with(class.word().as_bytes()))
    }
}

/// The interface a message is about, when it is Ethernet.
#[must_use]
pub fn mac(message: &Message) -> Option<Mac> {
    if message.htype != ETHERNET {
        return None;
    }
    message.hardware_address().try_into().ok().map(Mac).filter(|mac| mac.is_unicast())
}

/// Option 53.
#[must_use]
pub fn message_type(message: &Message) -> Option<MessageType> {
    message.options.value(option::MESSAGE_TYPE)?.first().copied().map(MessageType::from_number)
}

/// An option that holds one address.
#[must_use]
pub fn address(message: &Message, number: u8) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(message.options.value(number)?).ok().map(Ipv4Addr::from)
}

/// An option that holds one number of two bytes.
pub(super) fn number(message: &Message, number: u8) -> Option<u16> {
    <[u8; 2]>::try_from(message.options.value(number)?).ok().map(u16::from_be_bytes)
}

/// The address that a client asks for, or says it has.
pub(super) fn wanted_address(message: &Message, message_type: MessageType) -> Option<Ipv4Addr> {
    if message_type != MessageType::Request && message_type != MessageType::Inform {
        return None;
    }
    address(message, option::REQUESTED_IP).or(Some(message.ciaddr)).filter(|address| is_host(*address))
}

/// Whether it can be the address of one host.
pub(super) fn is_host(address: Ipv4Addr) -> bool {
    // 0.0.0.0/8 and 240.0.0.0/4 (with 255.255.255.255) name no host either.
    !matches!(address.octets()[0], 0 | 240..) && !address.is_multicast() && !address.is_loopback()
}

/// What option 97 holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientUuid {
    /// It is not there.
    Absent,
    /// A UUID. Firmware and iPXE send it as SMBIOS stores it, the first three fields with their low byte first.
    Uuid(Uuid),
    /// Neither 17 bytes nor type 0.
    Malformed,
}

/// Option 97.
#[must_use]
pub fn client_uuid(message: &Message) -> ClientUuid {
    match message.options.value(option::CLIENT_UUID) {
        None => ClientUuid::Absent,
        Some([0, uuid @ ..]) => match <[u8; 16]>::try_from(uuid) {
            Ok(bytes) => ClientUuid::Uuid(Uuid::from_bytes_le(bytes)),
            Err(_) => ClientUuid::Malformed,
        },
        Some(_) => ClientUuid::Malformed,
    }
}

/// The firmwares that a booting machine says it is, best first; empty when it does not say.
///
/// Option 93 has them as a list. A client that leaves it out is known by the text of option 60
/// (`PXEClient:Arch:00007:…`).
#[must_use]
pub fn firmwares(message: &Message, class: Class) -> Vec<Firmware> {
    let ipxe = runs_ipxe(message);
    let resolve = |number: u16| {
        let firmware = in_class(Firmware::from_number(number), class);
        if ipxe { firmware.running_ipxe() } else { firmware }
    };
    match message.options.value(option::CLIENT_ARCH) {
        Some(list) => list
            .chunks_exact(2)
            .take(ARCHITECTURES_MAX)
            .map(|pair| resolve(u16::from_be_bytes([pair[0], pair[1]])))
            .collect(),
        None => arch_in_class_text(message).into_iter().map(resolve).collect(),
    }
}

/// A client gets what its class can fetch, whatever the number says: a PXE client that names an HTTP
/// architecture cannot fetch URLs, and the other way round.
const fn in_class(firmware: Firmware, class: Class) -> Firmware {
    match (class, firmware) {
        (Class::Pxe, Firmware::UefiHttpIa32) => Firmware::UefiIa32,
        (Class::Pxe, Firmware::UefiHttpX64) => Firmware::UefiX64,
        (Class::Pxe, Firmware::UefiHttpArm32) => Firmware::UefiArm32,
        (Class::Pxe, Firmware::UefiHttpArm64) => Firmware::UefiArm64,
        (Class::Pxe, Firmware::UBootHttpArm32) => Firmware::UBootArm32,
        (Class::Pxe, Firmware::UBootHttpArm64) => Firmware::UBootArm64,
        (Class::Http, Firmware::UefiIa32) => Firmware::UefiHttpIa32,
        (Class::Http, Firmware::UefiX64) => Firmware::UefiHttpX64,
        (Class::Http, Firmware::UefiArm32) => Firmware::UefiHttpArm32,
        (Class::Http, Firmware::UefiArm64) => Firmware::UefiHttpArm64,
        (Class::Http, Firmware::UBootArm32) => Firmware::UBootHttpArm32,
        (Class::Http, Firmware::UBootArm64) => Firmware::UBootHttpArm64,
        // Neither knows HTTP boot: nothing for it to fetch.
        (Class::Http, Firmware::Bios) => Firmware::Unknown(0),
        (Class::Http, Firmware::RaspberryPi) => Firmware::Unknown(41),
        (_, other) => other,
    }
}

fn arch_in_class_text(message: &Message) -> Option<u16> {
    let value = std::str::from_utf8(message.options.value(option::VENDOR_CLASS)?).ok()?;
    let mut words = value.split(':');
    words.find(|word| *word == "Arch")?;
    words.next()?.parse().ok()
}

/// Whether the client is iPXE and can fetch our script.
///
/// iPXE names itself in option 77 (as it is, or as RFC 3004 has it, with lengths) or sends option 175. That
/// lists its features too: one without HTTP, as some vendors put into their ROMs, is treated as the bare
/// firmware and chain-loads an iPXE that has it. gPXE, its ancestor, sends 175 too but cannot run iPXE scripts.
#[must_use]
pub fn runs_ipxe(message: &Message) -> bool {
    let named = |name: &[u8]| {
        message.options.value(option::USER_CLASS).is_some_and(|value| has_user_class(value, name))
    };
    let features = message.options.value(option::IPXE);
    let ipxe = named(b"iPXE") || (features.is_some() && !named(b"gPXE"));
    ipxe && features.is_none_or(speaks_http)
}

fn has_user_class(value: &[u8], name: &[u8]) -> bool {
    if value == name {
        return true;
    }
    let mut rest = value;
    while let Some((&len, after)) = rest.split_first() {
        let Some((class, after)) = after.split_at_checked(usize::from(len)) else { return false };
        if class == name {
            return true;
        }
        rest = after;
    }
    false
}

/// Walks option 175. Only a well-formed list with features but without HTTP (19) says that HTTP is missing.
fn speaks_http(features: &[u8]) -> bool {
    const FEATURES: std::ops::RangeInclusive<u8> = 0x10..=0x4f;
    const HTTP: u8 = 0x13;
    let (mut rest, mut any) = (features, false);
    while let Some((&number, after)) = rest.split_first() {
        rest = match number {
            0 => after,
            255 => break,
            _ => {
                let Some((&len, after)) = after.split_first() else { return true };
                let Some(after) = after.get(usize::from(len)..) else { return true };
                if number == HTTP {
                    return true;
                }
                any |= FEATURES.contains(&number);
                after
            }
        };
    }
    !any
}
