//! Bytes to [`Message`] and back (RFC 2131 section 2, options by RFC 2132 and 3396).
//!
//! This is a codec of our own: the one crate that knows the PXE options panics on some lengths from the wire,
//! keeps only the first entry of option 93 and sorts the options of a reply by number, so that option 53 would
//! come after 43. The tests use that crate as a second opinion on every well-formed message.
//!
//! What is deliberately not read: options hidden in `sname` and `file` (option 52). No boot firmware sends them.
//!
//! [`Message::parse`] never panics; [`Message::emit`] is its inverse for every message it returned.

use std::fmt;
use std::net::Ipv4Addr;

/// The largest message that is looked at: what fits one Ethernet frame. Firmware sends 300 to 600 bytes.
pub const MESSAGE_MAX: usize = 1500;
/// The fixed header with the magic cookie.
pub const MESSAGE_MIN: usize = HEADER_LEN + COOKIE.len();
/// Shorter replies are padded: RFC 951 gave BOOTP messages 300 bytes, and some relays and ROMs insist.
pub const EMIT_MIN: usize = 300;
/// Hardware type Ethernet.
pub const ETHERNET: u8 = 1;

const HEADER_LEN: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const PAD: u8 = 0;
const END: u8 = 255;

/// Option numbers that booting needs.
pub mod option {
    /// The mask of the client's network (RFC 2132).
    pub const SUBNET_MASK: u8 = 1;
    /// The way out of the network.
    pub const ROUTER: u8 = 3;
    /// Name servers.
    pub const DNS: u8 = 6;
    /// The client's name.
    pub const HOST_NAME: u8 = 12;
    /// The client's domain.
    pub const DOMAIN: u8 = 15;
    /// The broadcast address.
    pub const BROADCAST: u8 = 28;
    /// Time servers.
    pub const NTP: u8 = 42;
    /// Seconds that an address is given for.
    pub const LEASE_TIME: u8 = 51;
    /// That `file` or `sname` hold options.
    pub const OVERLOAD: u8 = 52;
    /// The options a client wants.
    pub const PARAMETERS: u8 = 55;
    /// Why, in words.
    pub const MESSAGE: u8 = 56;
    /// When a client asks its server to go on.
    pub const RENEWAL: u8 = 58;
    /// When it asks any server.
    pub const REBINDING: u8 = 59;
    /// What a client calls itself.
    pub const CLIENT_ID: u8 = 61;
    /// Domains to look names up in (RFC 3397).
    pub const SEARCH: u8 = 119;
    /// The address a client asks for (RFC 2132).
    pub const REQUESTED_IP: u8 = 50;
    /// What kind of message it is.
    pub const MESSAGE_TYPE: u8 = 53;
    /// Which server the message is from or for.
    pub const SERVER_ID: u8 = 54;
    /// The largest message a client takes.
    pub const MAX_MESSAGE_SIZE: u8 = 57;
    /// What a client is: `PXEClient…`, `HTTPClient…`.
    pub const VENDOR_CLASS: u8 = 60;
    /// What the vendor class defines: PXE sub-options.
    pub const VENDOR_SPECIFIC: u8 = 43;
    /// Where the boot file is.
    pub const TFTP_SERVER: u8 = 66;
    /// The boot file.
    pub const BOOT_FILE: u8 = 67;
    /// `iPXE`, raw or as RFC 3004 has it.
    pub const USER_CLASS: u8 = 77;
    /// What a relay added; to be returned untouched (RFC 3046).
    pub const RELAY_AGENT: u8 = 82;
    /// The processor architectures of a client (RFC 4578).
    pub const CLIENT_ARCH: u8 = 93;
    /// The version of the client's network interface (RFC 4578).
    pub const CLIENT_NDI: u8 = 94;
    /// The client's UUID (RFC 4578).
    pub const CLIENT_UUID: u8 = 97;
    /// iPXE's own sub-options.
    pub const IPXE: u8 = 175;
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A client.
    Request,
    /// A server.
    Reply,
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Shorter than the fixed header.
    #[error("shorter than a DHCP header")]
    TooShort,
    /// Longer than [`MESSAGE_MAX`].
    #[error("longer than {MESSAGE_MAX} bytes")]
    TooLong,
    /// Neither request nor reply.
    #[error("unknown operation {0}")]
    Op(u8),
    /// A hardware address longer than its field.
    #[error("hardware address of {0} bytes")]
    AddressLength(u8),
    /// BOOTP of another kind.
    #[error("no DHCP cookie")]
    Cookie,
    /// An option that goes on after the end.
    #[error("option {0} is cut off")]
    CutOff(u8),
    /// An option with a length that its definition forbids.
    #[error("option {0} has a wrong length")]
    OptionLength(u8),
}

/// A DHCP message.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub op: Op,
    /// The kind of hardware address.
    pub htype: u8,
    /// How many bytes of [`Self::chaddr`] count; at most 16.
    pub hlen: u8,
    /// How many relays it went through.
    pub hops: u8,
    /// Chosen by the client, repeated in answers.
    pub xid: u32,
    /// How long the client has been trying.
    pub secs: u16,
    /// The highest bit asks for broadcast answers.
    pub flags: u16,
    /// The client's address, when it has one.
    pub ciaddr: Ipv4Addr,
    /// The address it is given.
    pub yiaddr: Ipv4Addr,
    /// The server to boot from.
    pub siaddr: Ipv4Addr,
    /// The relay.
    pub giaddr: Ipv4Addr,
    /// The hardware address.
    pub chaddr: [u8; 16],
    /// The server's name, zero-terminated when shorter.
    pub sname: [u8; 64],
    /// The boot file, zero-terminated when shorter.
    pub file: [u8; 128],
    /// The options.
    pub options: Options,
}

impl Message {
    /// An empty message.
    #[must_use]
    pub const fn new(op: Op) -> Self {
        Self {
            op,
            htype: ETHERNET,
            hlen: 6,
            hops: 0,
            xid: 0,
            secs: 0,
            flags: 0,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            chaddr: [0; 16],
            sname: [0; 64],
            file: [0; 128],
            options: Options::new(),
        }
    }

    /// Reads a message.
    ///
    /// # Errors
    ///
    /// The first [`ParseError`] found; the header is checked before any option is looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() > MESSAGE_MAX {
            return Err(ParseError::TooLong);
        }
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(ParseError::TooShort)?;
        let (cookie, options) = rest.split_first_chunk::<4>().ok_or(ParseError::TooShort)?;
        let op = match header[0] {
            1 => Op::Request,
            2 => Op::Reply,
            other => return Err(ParseError::Op(other)),
        };
        if header[2] > 16 {
            return Err(ParseError::AddressLength(header[2]));
        }
        if *cookie != COOKIE {
            return Err(ParseError::Cookie);
        }
        Ok(Self {
            op,
            htype: header[1],
            hlen: header[2],
            hops: header[3],
            xid: u32::from_be_bytes(field(header, 4)),
            secs: u16::from_be_bytes(field(header, 8)),
            flags: u16::from_be_bytes(field(header, 10)),
            ciaddr: field::<4>(header, 12).into(),
            yiaddr: field::<4>(header, 16).into(),
            siaddr: field::<4>(header, 20).into(),
            giaddr: field::<4>(header, 24).into(),
            chaddr: field(header, 28),
            sname: field(header, 44),
            file: field(header, 108),
            options: Options::parse(options)?,
        })
    }

    /// Writes the message, at least [`EMIT_MIN`] bytes, options in the order they were added.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(576);
        out.push(match self.op {
            Op::Request => 1,
            Op::Reply => 2,
        });
        out.extend([self.htype, self.hlen.min(16), self.hops]);
        out.extend(self.xid.to_be_bytes());
        out.extend(self.secs.to_be_bytes());
        out.extend(self.flags.to_be_bytes());
        for address in [self.ciaddr, self.yiaddr, self.siaddr, self.giaddr] {
            out.extend(address.octets());
        }
        out.extend(self.chaddr);
        out.extend(self.sname);
        out.extend(self.file);
        out.extend(COOKIE);
        self.options.emit(&mut out);
        out.push(END);
        if out.len() < EMIT_MIN {
            out.resize(EMIT_MIN, PAD);
        }
        out
    }

    /// The start of an answer: what every answer repeats of its question, and no options.
    #[must_use]
    pub(super) fn reply(&self) -> Self {
        Self {
            htype: self.htype,
            hlen: self.hlen,
            xid: self.xid,
            flags: self.flags,
            giaddr: self.giaddr,
            chaddr: self.chaddr,
            ..Self::new(Op::Reply)
        }
    }

    /// The bytes of the hardware address that count.
    #[must_use]
    pub fn hardware_address(&self) -> &[u8] {
        &self.chaddr[..usize::from(self.hlen.min(16))]
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("op", &self.op)
            .field("hardware_address", &self.hardware_address())
            .field("xid", &self.xid)
            .field("flags", &self.flags)
            .field("addresses", &[self.ciaddr, self.yiaddr, self.siaddr, self.giaddr])
            .field("file", &text(&self.file))
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// The text of a zero-terminated field.
#[must_use]
pub fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

fn field<const N: usize>(header: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    *header[at..].first_chunk().expect("fields lie inside the header")
}

/// Options in the order of their first appearance, each number once.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Options(Vec<(u8, Vec<u8>)>);

impl Options {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds to the end, or continues the option when it is there already (RFC 3396). Numbers 0 and 255 are
    /// padding and end, no options: they are left out.
    pub fn push(&mut self, number: u8, value: &[u8]) {
        if number == PAD || number == END {
            return;
        }
        match self.0.iter_mut().find(|(known, _)| *known == number) {
            Some((_, known)) => known.extend_from_slice(value),
            None => self.0.push((number, value.to_vec())),
        }
    }

    /// The value of an option.
    #[must_use]
    pub fn value(&self, number: u8) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| *known == number).map(|(_, value)| value.as_slice())
    }

    /// Takes an option out.
    pub fn remove(&mut self, number: u8) {
        self.0.retain(|(known, _)| *known != number);
    }

    /// Sets an option, in its place when it is there.
    pub fn set(&mut self, number: u8, value: &[u8]) {
        match self.0.iter_mut().find(|(known, _)| *known == number) {
            Some((_, known)) => value.clone_into(known),
            None => self.push(number, value),
        }
    }

    /// All options in order.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.0.iter().map(|(number, value)| (*number, value.as_slice()))
    }

    pub(super) fn parse(mut rest: &[u8]) -> Result<Self, ParseError> {
        let mut options = Self::new();
        // Each turn consumes at least one byte. A missing end mark is forgiven: some relays cut it off.
        while let Some((&number, after)) = rest.split_first() {
            rest = after;
            match number {
                PAD => {}
                END => break,
                _ => {
                    let (&len, after) = rest.split_first().ok_or(ParseError::CutOff(number))?;
                    let (value, after) =
                        after.split_at_checked(usize::from(len)).ok_or(ParseError::CutOff(number))?;
                    options.push(number, value);
                    rest = after;
                }
            }
        }
        let wrong = options.iter().find(|(number, value)| !length_is_right(*number, value.len()));
        if let Some((number, _)) = wrong {
            return Err(ParseError::OptionLength(number));
        }
        Ok(options)
    }

    fn emit(&self, out: &mut Vec<u8>) {
        for (number, value) in &self.0 {
            let mut rest = value.as_slice();
            loop {
                let (part, after) = rest.split_at(rest.len().min(255));
                let len = u8::try_from(part.len()).expect("a part has at most 255 bytes");
                out.extend([*number, len]);
                out.extend_from_slice(part);
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The lengths that the definitions of the options we act on allow. All others are just bytes to us.
fn length_is_right(number: u8, len: usize) -> bool {
    match number {
        option::MESSAGE_TYPE => len == 1,
        option::REQUESTED_IP | option::SERVER_ID => len == 4,
        option::MAX_MESSAGE_SIZE => len == 2,
        option::CLIENT_ARCH => len >= 2 && len.is_multiple_of(2),
        option::CLIENT_NDI => len == 3,
        _ => true,
    }
}

#[cfg(test)]
mod tests;
