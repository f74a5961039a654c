//! What a booting machine is told to boot, whoever gives it its address.

use std::net::Ipv4Addr;

use super::codec::{Message, Op, option};
use super::outcome::{IgnoreReason, Offered, Port, Seen};
use super::proxy::ProxyConfig;
use super::request::{self, Class, ClientUuid};
use crate::firmware::{BootFile, Firmware, boot_file};
use crate::ipxe::BaseUrl;

/// The longest relay information that is echoed: one option's worth.
const RELAY_AGENT_MAX: usize = 255;
/// `PXE_DISCOVERY_CONTROL` = 8 (use the file of this offer, ask nobody else), then the end mark. Without it EDK2
/// asks again on port 4011, and some clients show a menu.
const PXE_USE_THIS_FILE: [u8; 4] = [6, 1, 8, 255];
/// Options that tell what to boot, and who answers: never taken over from another server's answer.
pub(super) const OF_BOOTING: [u8; 6] = [
    option::VENDOR_SPECIFIC,
    option::SERVER_ID,
    option::VENDOR_CLASS,
    option::TFTP_SERVER,
    option::BOOT_FILE,
    option::CLIENT_UUID,
];

/// Who asks, as far as the message tells, and what it calls itself when it boots from the network.
pub(super) fn identify(message: &Message) -> Result<(Seen, Option<Class>), IgnoreReason> {
    if message.op != Op::Request {
        return Err(IgnoreReason::NotARequest);
    }
    let mac = request::mac(message).ok_or(IgnoreReason::NotEthernet)?;
    let message_type = request::message_type(message).ok_or(IgnoreReason::NoMessageType)?;
    let class = Class::of(message);
    let seen = Seen {
        mac,
        uuid: match request::client_uuid(message) {
            ClientUuid::Uuid(uuid) if !uuid.is_nil() && !uuid.is_max() => Some(uuid),
            _ => None,
        },
        firmware: class.and_then(|class| request::firmwares(message, class).first().copied()),
        message_type,
        requested_ip: request::wanted_address(message, message_type),
    };
    Ok((seen, class))
}

/// What one machine is told to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) firmware: Firmware,
    pub(super) file: String,
    class: Class,
    by_tftp: bool,
    /// Option 97, to be repeated.
    uuid: Option<Vec<u8>>,
    /// Option 82, to be repeated.
    relay: Option<Vec<u8>>,
}

impl Plan {
    /// What fits the machine, or why there is nothing for it.
    pub(super) fn new(config: &ProxyConfig, message: &Message, class: Class) -> Result<Self, IgnoreReason> {
        if request::client_uuid(message) == ClientUuid::Malformed {
            return Err(IgnoreReason::BadUuid);
        }
        let firmwares = request::firmwares(message, class);
        let first = firmwares.first().copied().ok_or(IgnoreReason::NoArchitecture)?;
        let fitting = firmwares
            .into_iter()
            .find_map(|firmware| boot_file(firmware, &config.binaries).map(|file| (firmware, file)));
        let (firmware, file) = fitting.ok_or(IgnoreReason::NoBinary(first))?;
        let base = BaseUrl::new(config.server, config.http_port);
        let (file, by_tftp) = match file {
            BootFile::Tftp(name) => (name.to_owned(), true),
            BootFile::Http(name) => (format!("{base}/tftp/{name}"), false),
            BootFile::Script => (format!("{base}/ipxe/init.ipxe"), false),
        };
        let value = |number| message.options.value(number).map(<[u8]>::to_vec);
        let relay = value(option::RELAY_AGENT);
        if relay.as_ref().is_some_and(|value| value.len() > RELAY_AGENT_MAX) {
            return Err(IgnoreReason::RelayInformation);
        }
        Ok(Self { firmware, file, class, by_tftp, uuid: value(option::CLIENT_UUID), relay })
    }

    /// What is told to the journal.
    pub(super) fn offered(&self, port: Port) -> Offered {
        Offered { file: self.file.clone(), firmware: self.firmware, port }
    }

    /// Adds it to an answer: the header's fields, and options behind those that are there.
    pub(super) fn add_to(&self, server: Ipv4Addr, reply: &mut Message) {
        reply.siaddr = server;
        // The last byte stays zero. Firmware reads the field, option 67, or whichever of both it finds first.
        let name = self.file.as_bytes();
        reply.file = [0; 128];
        if name.len() < reply.file.len() {
            reply.file[..name.len()].copy_from_slice(name);
        }
        let options = &mut reply.options;
        options.push(option::VENDOR_CLASS, self.class.word().as_bytes());
        if self.class == Class::Pxe {
            options.push(option::VENDOR_SPECIFIC, &PXE_USE_THIS_FILE);
        }
        if self.by_tftp {
            options.push(option::TFTP_SERVER, server.to_string().as_bytes());
        }
        options.push(option::BOOT_FILE, name);
        if let Some(uuid) = &self.uuid {
            options.push(option::CLIENT_UUID, uuid);
        }
        // RFC 3046: untouched, and after all others.
        if let Some(relay) = &self.relay {
            options.push(option::RELAY_AGENT, relay);
        }
    }
}
