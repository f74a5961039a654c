//! The packets of RFC 1350 and 2347, as types that hold only what we can act on.

use std::fmt;

use thiserror::Error;

use super::MIN_BLOCK_SIZE;

const READ: u16 = 1;
const WRITE: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OPTION_ACK: u16 = 6;

/// The largest block size of RFC 2348.
const MAX_BLOCK_SIZE_ON_WIRE: u64 = 65_464;
/// Options read from one packet; four are known and RFC 2347 forbids repeating one.
const MAX_OPTIONS: usize = 16;
/// Bytes of an error's text that we keep: enough for every firmware's words, and one log line.
const MAX_MESSAGE: usize = 255;

/// A packet, borrowed from the bytes it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// RRQ, opcode 1.
    Read(Request<'a>),
    /// WRQ, opcode 2.
    Write(Request<'a>),
    /// DATA, opcode 3.
    Data {
        /// The block's number; 0 comes after 65535.
        block: u16,
        /// The block's bytes; fewer than the block size ends the transfer.
        payload: &'a [u8],
    },
    /// ACK, opcode 4.
    Ack {
        /// The last block that arrived in order.
        block: u16,
    },
    /// ERROR, opcode 5.
    Error {
        /// What kind of error.
        code: ErrorCode,
        /// The sender's words; bytes that are no UTF-8 end it.
        message: &'a str,
    },
    /// OACK, opcode 6 (RFC 2347).
    OptionAck(Options),
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The file's name as sent, not yet cleaned.
    pub name: &'a str,
    /// The transfer mode.
    pub mode: Mode,
    /// The options that we know and whose values are in range; others are not answered (RFC 2347).
    pub options: Options,
}

/// The transfer modes of RFC 1350.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bytes as they are.
    Octet,
    /// Text with translated line ends; refused.
    Netascii,
    /// Obsolete; refused.
    Mail,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Octet => "octet",
            Self::Netascii => "netascii",
            Self::Mail => "mail",
        }
    }

    fn from_name(name: &[u8]) -> Option<Self> {
        [Self::Octet, Self::Netascii, Self::Mail]
            .into_iter()
            .find(|mode| mode.name().as_bytes().eq_ignore_ascii_case(name))
    }
}

/// The options of RFC 2348, 2349 and 7440.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `blksize`, 8 to 65464 bytes.
    pub block_size: Option<u16>,
    /// `tsize`: 0 in a request, the file's length in an answer.
    pub transfer_size: Option<u64>,
    /// `timeout` in seconds, 1 to 255.
    pub timeout_secs: Option<u8>,
    /// `windowsize` in blocks, 1 to 65535.
    pub window_size: Option<u16>,
}

impl Options {
    /// Whether nothing was asked or agreed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes in one option; the first of a repeated name counts. An unknown name or a value out of range is
    /// left out, which is how RFC 2347 says no.
    fn read(&mut self, name: &[u8], value: &[u8]) {
        let Some(number) = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok()) else {
            return;
        };
        let is = |known: &str| known.as_bytes().eq_ignore_ascii_case(name);
        if is("blksize") {
            if (u64::from(MIN_BLOCK_SIZE)..=MAX_BLOCK_SIZE_ON_WIRE).contains(&number) {
                self.block_size = self.block_size.or(u16::try_from(number).ok());
            }
        } else if is("tsize") {
            self.transfer_size = self.transfer_size.or(Some(number));
        } else if is("timeout") {
            self.timeout_secs = self.timeout_secs.or(u8::try_from(number).ok().filter(|secs| *secs > 0));
        } else if is("windowsize") {
            self.window_size = self.window_size.or(u16::try_from(number).ok().filter(|blocks| *blocks > 0));
        }
    }

    fn emit(&self, out: &mut Vec<u8>) {
        let mut put = |name: &str, value: Option<u64>| {
            if let Some(value) = value {
                put_text(out, name);
                put_text(out, &value.to_string());
            }
        };
        put("tsize", self.transfer_size);
        put("blksize", self.block_size.map(u64::from));
        put("timeout", self.timeout_secs.map(u64::from));
        put("windowsize", self.window_size.map(u64::from));
    }
}

/// The error codes of RFC 1350 and 2347.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// 0: see the message.
    Undefined,
    /// 1: no such file.
    NotFound,
    /// 2: access violation.
    AccessViolation,
    /// 3: disk full.
    DiskFull,
    /// 4: illegal operation.
    IllegalOperation,
    /// 5: unknown transfer id.
    UnknownTransfer,
    /// 6: file already exists.
    FileExists,
    /// 7: no such user.
    NoSuchUser,
    /// 8: the options do not suit (RFC 2347); EDK2 sends it to end its size probe.
    OptionRefused,
    /// Any other number.
    Unknown(u16),
}

impl ErrorCode {
    const fn from_wire(code: u16) -> Self {
        match code {
            0 => Self::Undefined,
            1 => Self::NotFound,
            2 => Self::AccessViolation,
            3 => Self::DiskFull,
            4 => Self::IllegalOperation,
            5 => Self::UnknownTransfer,
            6 => Self::FileExists,
            7 => Self::NoSuchUser,
            8 => Self::OptionRefused,
            other => Self::Unknown(other),
        }
    }

    const fn to_wire(self) -> u16 {
        match self {
            Self::Undefined => 0,
            Self::NotFound => 1,
            Self::AccessViolation => 2,
            Self::DiskFull => 3,
            Self::IllegalOperation => 4,
            Self::UnknownTransfer => 5,
            Self::FileExists => 6,
            Self::NoSuchUser => 7,
            Self::OptionRefused => 8,
            Self::Unknown(other) => other,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_wire())
    }
}

/// Why bytes are no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ParseError {
    /// No room for the fields of its opcode.
    #[error("packet ends early")]
    Truncated,
    /// An opcode that no RFC above defines.
    #[error("unknown opcode {0}")]
    Opcode(u16),
    /// A mode other than octet, netascii and mail.
    #[error("unknown transfer mode")]
    Mode,
    /// The file's name is no UTF-8.
    #[error("file name is not UTF-8")]
    Name,
    /// More options than any client sends.
    #[error("too many options")]
    TooManyOptions,
}

impl<'a> Packet<'a> {
    /// Reads one datagram. Never panics.
    ///
    /// # Errors
    /// Whatever a packet of that opcode must not be.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let (opcode, rest) = split_u16(bytes)?;
        match opcode {
            READ => Ok(Self::Read(Request::parse(rest)?)),
            WRITE => Ok(Self::Write(Request::parse(rest)?)),
            DATA => split_u16(rest).map(|(block, payload)| Self::Data { block, payload }),
            // Some ROMs pad an ACK to the least Ethernet payload: what follows is not looked at.
            ACK => split_u16(rest).map(|(block, _)| Self::Ack { block }),
            ERROR => {
                let (code, text) = split_u16(rest)?;
                Ok(Self::Error { code: ErrorCode::from_wire(code), message: message(text) })
            }
            OPTION_ACK => parse_options(rest).map(Self::OptionAck),
            other => Err(ParseError::Opcode(other)),
        }
    }

    /// Writes the packet: what [`Packet::parse`] reads back as the same value.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        self.emit_into(&mut out);
        out
    }

    /// Writes the packet into `out`, replacing what it holds.
    pub fn emit_into(&self, out: &mut Vec<u8>) {
        out.clear();
        self.append_to(out);
    }

    /// Writes the packet behind what `out` holds.
    pub(super) fn append_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Read(request) => request.emit(READ, out),
            Self::Write(request) => request.emit(WRITE, out),
            Self::Data { block, payload } => {
                put_u16(out, DATA);
                put_u16(out, *block);
                out.extend_from_slice(payload);
            }
            Self::Ack { block } => {
                put_u16(out, ACK);
                put_u16(out, *block);
            }
            Self::Error { code, message } => {
                put_u16(out, ERROR);
                put_u16(out, code.to_wire());
                put_text(out, message);
            }
            Self::OptionAck(options) => {
                put_u16(out, OPTION_ACK);
                options.emit(out);
            }
        }
    }
}

impl<'a> Request<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let (name, rest) = split_text(bytes)?;
        let (mode, rest) = split_text(rest)?;
        Ok(Self {
            name: std::str::from_utf8(name).map_err(|_| ParseError::Name)?,
            mode: Mode::from_name(mode).ok_or(ParseError::Mode)?,
            options: parse_options(rest)?,
        })
    }

    fn emit(&self, opcode: u16, out: &mut Vec<u8>) {
        put_u16(out, opcode);
        put_text(out, self.name);
        put_text(out, self.mode.name());
        self.options.emit(out);
    }
}

/// Reads name and value pairs. A tail without its NUL is padding of a ROM and is left out.
fn parse_options(mut bytes: &[u8]) -> Result<Options, ParseError> {
    let mut options = Options::default();
    for _ in 0..MAX_OPTIONS {
        let Ok((name, rest)) = split_text(bytes) else { return Ok(options) };
        let Ok((value, rest)) = split_text(rest) else { return Ok(options) };
        options.read(name, value);
        bytes = rest;
    }
    if bytes.is_empty() { Ok(options) } else { Err(ParseError::TooManyOptions) }
}

/// The words of an error, as far as they are text.
fn message(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()).min(MAX_MESSAGE);
    match std::str::from_utf8(&bytes[..end]) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}

fn split_u16(bytes: &[u8]) -> Result<(u16, &[u8]), ParseError> {
    let (number, rest) = bytes.split_first_chunk::<2>().ok_or(ParseError::Truncated)?;
    Ok((u16::from_be_bytes(*number), rest))
}

/// Splits at the first NUL, which belongs to neither side.
fn split_text(bytes: &[u8]) -> Result<(&[u8], &[u8]), ParseError> {
    let end = bytes.iter().position(|byte| *byte == 0).ok_or(ParseError::Truncated)?;
    Ok((&bytes[..end], &bytes[end + 1..]))
}

fn put_u16(out: &mut Vec<u8>, number: u16) {
    out.extend_from_slice(&number.to_be_bytes());
}

/// A NUL ends a text on the wire, so one inside `text` would end it early.
fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().filter(|byte| *byte != 0));
    out.push(0);
}

#[cfg(test)]
mod tests;
