//! DHCPv6 as far as booting needs it: whoever boots by HTTP over IPv6 is told the URL (RFC 5970, option 59), and
//! nobody an address. The site's router, or [`Advertiser`], tells hosts how to make theirs.
//!
//! ```text
//! INFORMATION-REQUEST ─ "HTTPClient", its architecture ─ file for it ─► REPLY      with the URL
//! SOLICIT             ─ the same ──────────────────────────────────────► ADVERTISE  with the URL, no address
//! everything else     ───────────────────────────────────────────────────► nothing
//! ```
//! The machine keeps nothing about clients. iPXE is not answered: it goes on over IPv4, as its script does.
//!
//! **Driver.** `netboot_link::dhcp::v6`.

mod advertise;
pub mod codec;

use std::net::{Ipv6Addr, SocketAddrV6};

use uuid::Uuid;

pub use advertise::{Advertiser, Advertising, is_solicitation};
use codec::{Kind, Message, ParseError, option};

use crate::Mac;
use crate::firmware::{BinarySet, BootFile, Firmware, boot_file};

/// The word that UEFI HTTP boot calls itself by, here and in answers.
const HTTP_CLIENT: &[u8] = b"HTTPClient";
/// The enterprise number in front of the vendor class, as EDK2 sends and wants it (Intel's).
const ENTERPRISE: [u8; 4] = 343_u32.to_be_bytes();
/// Architectures looked at in one message.
const ARCHITECTURES_MAX: usize = 16;
/// The longest client identifier (RFC 8415, 11.1): 128 bytes and its type.
const DUID_MAX: usize = 130;

/// What is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// This host's address, as machines reach HTTP. Not a link-local one: a URL cannot say of which link.
    pub address: Ipv6Addr,
    /// The port of HTTP.
    pub http_port: u16,
    /// This host's interface, of which its identifier is made.
    pub mac: Mac,
    /// The boot files that exist.
    pub binaries: BinarySet,
}

/// An answer, to the address and port that the question came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The message.
    pub payload: Vec<u8>,
    /// The URL in it.
    pub url: String,
    /// For which firmware.
    pub firmware: Firmware,
    /// The machine's interface, when its identifier is made of it.
    pub mac: Option<Mac>,
    /// The machine's UUID, when its identifier is that (RFC 6355).
    pub uuid: Option<Uuid>,
}

/// Why a message is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreReason {
    /// Its bytes are no DHCPv6 message.
    #[error("malformed: {0}")]
    Malformed(ParseError),
    /// It is no question for us.
    #[error("not a question for a boot server")]
    NotForUs,
    /// Its sender does not boot by HTTP.
    #[error("not a network boot by HTTP")]
    NotNetboot,
    /// It does not come from its own link.
    #[error("source address is not link-local")]
    Source,
    /// There is no boot file for it.
    #[error("no boot file for {0} firmware")]
    NoBinary(Firmware),
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages looked at.
    pub received: u64,
    /// Answers.
    pub replies: u64,
}

/// The server.
#[derive(Clone, Debug)]
pub struct Server {
    config: Config,
    counters: Counters,
}

impl Server {
    /// A server that tells what the configuration has.
    #[must_use]
    pub const fn new(config: Config) -> Self {
        Self { config, counters: Counters { received: 0, replies: 0 } }
    }

    /// Counts since the start.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Looks at a message to port 547 and answers it or says why not.
    ///
    /// # Errors
    /// Why it is not answered.
    pub fn handle_packet(&mut self, source: SocketAddrV6, payload: &[u8]) -> Result<Reply, IgnoreReason> {
        self.counters.received += 1;
        let reply = self.answer(source, payload)?;
        self.counters.replies += 1;
        Ok(reply)
    }

    fn answer(&self, source: SocketAddrV6, payload: &[u8]) -> Result<Reply, IgnoreReason> {
        let message = Message::parse(payload).map_err(IgnoreReason::Malformed)?;
        let kind = match message.kind {
            Kind::Solicit => Kind::Advertise,
            Kind::InformationRequest => Kind::Reply,
            _ => return Err(IgnoreReason::NotForUs),
        };
        if !source.ip().is_unicast_link_local() || source.port() == 0 {
            return Err(IgnoreReason::Source);
        }
        let own = self.duid();
        if message.value(option::SERVER_ID).is_some_and(|server| server != own) {
            return Err(IgnoreReason::NotForUs);
        }
        // A SOLICIT without an identifier is against the standard; an INFORMATION-REQUEST may lack it.
        let client = message.value(option::CLIENT_ID).filter(|id| (3..=DUID_MAX).contains(&id.len()));
        if client.is_none() && kind == Kind::Advertise {
            return Err(IgnoreReason::NotForUs);
        }
        let (firmware, file) = self.file(&message)?;
        let url = format!("http://[{}]:{}/tftp/{file}", self.config.address, self.config.http_port);
        let mut reply = Message::new(kind, message.xid);
        if let Some(client) = client {
            reply.push(option::CLIENT_ID, client);
        }
        reply.push(option::SERVER_ID, &own);
        let class_length = (HTTP_CLIENT.len() as u16).to_be_bytes();
        reply.push(option::VENDOR_CLASS, &[&ENTERPRISE[..], &class_length, HTTP_CLIENT].concat());
        reply.push(option::BOOT_FILE_URL, url.as_bytes());
        let (mac, uuid) = client.map_or((None, None), who);
        Ok(Reply { payload: reply.emit(), url, firmware, mac, uuid })
    }

    fn file(&self, message: &Message) -> Result<(Firmware, &'static str), IgnoreReason> {
        let class = message.value(option::VENDOR_CLASS).and_then(|value| value.get(4..)).unwrap_or_default();
        let boots = items(class).any(|item| item.starts_with(HTTP_CLIENT));
        let user_class = message.value(option::USER_CLASS).unwrap_or_default();
        if !boots || items(user_class).any(|item| item == b"iPXE") {
            return Err(IgnoreReason::NotNetboot);
        }
        let list = message.value(option::CLIENT_ARCH).unwrap_or_default();
        let firmwares = list
            .chunks_exact(2)
            .take(ARCHITECTURES_MAX)
            .map(|pair| Firmware::from_number(u16::from_be_bytes([pair[0], pair[1]])));
        let mut first = None;
        for firmware in firmwares {
            first = first.or(Some(firmware));
            if let Some(BootFile::Http(name)) = boot_file(firmware, &self.config.binaries) {
                return Ok((firmware, name));
            }
        }
        Err(first.map_or(IgnoreReason::NotNetboot, IgnoreReason::NoBinary))
    }

    /// DUID-LL: hardware type Ethernet and the interface.
    fn duid(&self) -> [u8; 10] {
        let [a, b, c, d, e, f] = self.config.mac.0;
        [0, 3, 0, 1, a, b, c, d, e, f]
    }
}

/// What a client identifier tells of the machine.
fn who(duid: &[u8]) -> (Option<Mac>, Option<Uuid>) {
    match duid {
        [0, 1, 0, 1, _, _, _, _, mac @ ..] | [0, 3, 0, 1, mac @ ..] => {
            (mac.try_into().ok().map(Mac).filter(|mac| mac.is_unicast()), None)
        }
        // As SMBIOS stores it, as in option 97 of DHCPv4.
        [0, 4, uuid @ ..] => (None, uuid.try_into().ok().map(Uuid::from_bytes_le)),
        _ => (None, None),
    }
}

/// The items of a class option, each with its length before it; a cut-off one ends them.
fn items(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (item, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        rest = after;
        Some(item)
    })
}

#[cfg(test)]
mod tests;
