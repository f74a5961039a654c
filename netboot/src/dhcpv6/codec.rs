//! Bytes to [`Message`] and back (RFC 8415, sections 8 and 21). Messages of relays are not read: what boots asks on
//! its own link.
//!
//! [`Message::parse`] never panics; [`Message::emit`] is its inverse.

/// The largest message looked at: what fits one Ethernet frame.
pub const MESSAGE_MAX: usize = 1_452;
/// Options read from one message; firmware sends about ten.
pub const OPTIONS_MAX: usize = 64;

/// Option numbers that booting needs.
pub mod option {
    /// Who asks (RFC 8415).
    pub const CLIENT_ID: u16 = 1;
    /// Who answers.
    pub const SERVER_ID: u16 = 2;
    /// What a client says it is.
    pub const USER_CLASS: u16 = 15;
    /// What a client is: `HTTPClient…`.
    pub const VENDOR_CLASS: u16 = 16;
    /// The boot file (RFC 5970).
    pub const BOOT_FILE_URL: u16 = 59;
    /// The processor architectures of a client (RFC 5970).
    pub const CLIENT_ARCH: u16 = 61;
}

/// The kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who can give an address?
    Solicit,
    /// I can.
    Advertise,
    /// The answer to everything else.
    Reply,
    /// Everything but an address, please.
    InformationRequest,
    /// Any other but those of relays.
    Other(u8),
}

impl Kind {
    const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Solicit,
            2 => Self::Advertise,
            7 => Self::Reply,
            11 => Self::InformationRequest,
            other => Self::Other(other),
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Solicit => 1,
            Self::Advertise => 2,
            Self::Reply => 7,
            Self::InformationRequest => 11,
            Self::Other(number) => number,
        }
    }
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Shorter than the fixed header.
    #[error("shorter than a DHCPv6 header")]
    TooShort,
    /// Longer than [`MESSAGE_MAX`].
    #[error("longer than {MESSAGE_MAX} bytes")]
    TooLong,
    /// From or to a relay.
    #[error("a relay's message")]
    Relay,
    /// An option that goes on after the end.
    #[error("option {0} is cut off")]
    CutOff(u16),
    /// Bytes after the last option that are none.
    #[error("bytes after the last option")]
    Trailing,
    /// More options than any client sends.
    #[error("more than {OPTIONS_MAX} options")]
    TooMany,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Chosen by the client, repeated in answers; 24 bits.
    pub xid: u32,
    pub(super) options: Vec<(u16, Vec<u8>)>,
}

impl Message {
    /// A message without options.
    #[must_use]
    pub const fn new(kind: Kind, xid: u32) -> Self {
        Self { kind, xid: xid & 0x00ff_ffff, options: Vec::new() }
    }

    /// Adds an option behind the others.
    ///
    /// # Panics
    /// When the value is longer than the length field can say.
    pub fn push(&mut self, number: u16, value: &[u8]) {
        assert!(u16::try_from(value.len()).is_ok(), "options have at most 65535 bytes");
        self.options.push((number, value.to_vec()));
    }

    /// The value of the first option with this number.
    #[must_use]
    pub fn value(&self, number: u16) -> Option<&[u8]> {
        self.options.iter().find(|(known, _)| *known == number).map(|(_, value)| value.as_slice())
    }

    /// Reads a message.
    ///
    /// # Errors
    /// The first thing wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() > MESSAGE_MAX {
            return Err(ParseError::TooLong);
        }
        let (&[kind, a, b, c], mut rest) = bytes.split_first_chunk::<4>().ok_or(ParseError::TooShort)?;
        if kind == 12 || kind == 13 {
            return Err(ParseError::Relay);
        }
        let mut message = Self::new(Kind::from_number(kind), u32::from_be_bytes([0, a, b, c]));
        while !rest.is_empty() {
            let (&[a, b, c, d], after) = rest.split_first_chunk::<4>().ok_or(ParseError::Trailing)?;
            let number = u16::from_be_bytes([a, b]);
            let length = usize::from(u16::from_be_bytes([c, d]));
            let (value, after) = after.split_at_checked(length).ok_or(ParseError::CutOff(number))?;
            if message.options.len() >= OPTIONS_MAX {
                return Err(ParseError::TooMany);
            }
            message.push(number, value);
            rest = after;
        }
        Ok(message)
    }

    /// Writes the message, options in the order they were added.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let [_, a, b, c] = self.xid.to_be_bytes();
        let mut out = vec![self.kind.number(), a, b, c];
        for (number, value) in &self.options {
            out.extend(number.to_be_bytes());
            out.extend((value.len() as u16).to_be_bytes());
            out.extend_from_slice(value);
        }
        out
    }
}
