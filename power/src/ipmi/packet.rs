//! IPMI's packets: RMCP (ASF 2.0), the session wrappers of IPMI 1.5 and 2.0 (RMCP+), and messages inside.
//!
//! Section numbers are those of the IPMI specification, second generation, 2.0.

use super::crypto::{Keys, Suite};

/// The longest datagram that is looked at: the longest of a BMC, with an encrypted answer, is below 300 bytes.
pub const PACKET_MAX: usize = 1024;
/// Class IPMI, no acknowledgement wanted, version 1.0.
const RMCP: [u8; 4] = [0x06, 0x00, 0xff, 0x07];
/// Session wrapper of IPMI 1.5 without authentication.
const AUTH_NONE: u8 = 0x00;
/// Session wrapper of IPMI 2.0.
const AUTH_RMCP_PLUS: u8 = 0x06;
/// The BMC's address on its own bus, and ours as remote console.
const BMC: u8 = 0x20;
const CONSOLE: u8 = 0x81;
/// Payload bits: encrypted, authenticated.
const ENCRYPTED: u8 = 0x80;
const AUTHENTICATED: u8 = 0x40;
/// Next header of a session trailer.
const NEXT_HEADER: u8 = 0x07;
/// Bytes of a message around its data: addresses, function, sequence, command, two checksums.
const MESSAGE_AROUND: usize = 7;

/// Payload types of RMCP+ that are spoken here (13.27.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// An IPMI message.
    Message,
    /// Open Session Request.
    OpenRequest,
    /// Open Session Response.
    OpenResponse,
    /// RAKP Message 1.
    Rakp1,
    /// RAKP Message 2.
    Rakp2,
    /// RAKP Message 3.
    Rakp3,
    /// RAKP Message 4.
    Rakp4,
}

impl Payload {
    const ALL: [(Self, u8); 7] = [
        (Self::Message, 0x00),
        (Self::OpenRequest, 0x10),
        (Self::OpenResponse, 0x11),
        (Self::Rakp1, 0x12),
        (Self::Rakp2, 0x13),
        (Self::Rakp3, 0x14),
        (Self::Rakp4, 0x15),
    ];

    fn number(self) -> u8 {
        Self::ALL.iter().find(|(payload, _)| *payload == self).map_or(0, |(_, number)| *number)
    }

    fn of(number: u8) -> Option<Self> {
        Self::ALL.iter().find(|(_, other)| *other == number).map(|(payload, _)| *payload)
    }
}

/// Why a datagram is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Ends too early.
    #[error("it is cut off")]
    Short,
    /// Longer than [`PACKET_MAX`].
    #[error("it is too long")]
    Long,
    /// Not RMCP of class IPMI.
    #[error("it is not IPMI over LAN")]
    NotIpmi,
    /// A session wrapper or payload that is not spoken here.
    #[error("it has a session wrapper or payload that is not spoken here")]
    Unknown,
    /// Lengths do not agree.
    #[error("its lengths do not agree")]
    Length,
    /// A checksum of a message.
    #[error("a checksum is wrong")]
    Checksum,
    /// Inside a session, but not protected as agreed, or not by this key.
    #[error("it is not protected as agreed")]
    Unprotected,
}

/// A datagram, opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What is inside.
    pub payload: Payload,
    /// Session id; 0 outside of a session.
    pub session: u32,
    /// Session sequence number; 0 outside of a session.
    pub sequence: u32,
    /// The payload, decrypted.
    pub data: Vec<u8>,
}

/// A request or a response (13.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Network function; odd for responses.
    pub function: u8,
    /// Number of the request, six bits.
    pub number: u8,
    /// Command.
    pub command: u8,
    /// Data; a response's begins with its completion code.
    pub data: Vec<u8>,
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

impl Message {
    /// As bytes, from us to the BMC.
    pub fn emit(&self) -> Vec<u8> {
        let mut bytes = vec![BMC, self.function << 2];
        bytes.push(checksum(&bytes));
        bytes.extend([CONSOLE, self.number << 2, self.command]);
        bytes.extend(&self.data);
        bytes.push(checksum(&bytes[3..]));
        bytes
    }

    /// From bytes, whichever way.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() < MESSAGE_AROUND {
            return Err(ParseError::Short);
        }
        // A sum with its own checksum is zero.
        if checksum(&bytes[..3]) != 0 || checksum(&bytes[3..]) != 0 {
            return Err(ParseError::Checksum);
        }
        Ok(Self {
            function: bytes[1] >> 2,
            number: bytes[4] >> 2,
            command: bytes[5],
            data: bytes[6..bytes.len() - 1].to_vec(),
        })
    }
}

/// A message outside of a session, in the wrapper of IPMI 1.5: some BMCs drop it in the newer one.
pub fn emit_bare(message: &Message) -> Vec<u8> {
    let inner = message.emit();
    let mut bytes = RMCP.to_vec();
    bytes.push(AUTH_NONE);
    bytes.extend([0; 8]);
    bytes.push(u8::try_from(inner.len()).expect("messages outside of a session are short"));
    bytes.extend(inner);
    bytes
}

/// A payload of RMCP+ that begins a session.
pub fn emit_open(payload: Payload, data: &[u8]) -> Vec<u8> {
    let mut bytes = RMCP.to_vec();
    wrap(&mut bytes, payload.number(), 0, 0, data);
    bytes
}

/// A message inside a session, encrypted and signed. `iv` must be random.
pub fn emit_sealed(keys: &Keys, session: u32, sequence: u32, message: &Message, iv: [u8; 16]) -> Vec<u8> {
    let inner = keys.encrypt(&message.emit(), iv);
    let mut bytes = RMCP.to_vec();
    wrap(&mut bytes, Payload::Message.number() | ENCRYPTED | AUTHENTICATED, session, sequence, &inner);
    // The signed part, from the wrapper's first byte to the next header, is a multiple of four.
    let pad = (4 - (bytes.len() - RMCP.len() + 2) % 4) % 4;
    bytes.extend(std::iter::repeat_n(0xff, pad));
    bytes.push(u8::try_from(pad).expect("below four"));
    bytes.push(NEXT_HEADER);
    let code = keys.sign(&bytes[RMCP.len()..]);
    bytes.extend(code);
    bytes
}

fn wrap(bytes: &mut Vec<u8>, payload: u8, session: u32, sequence: u32, data: &[u8]) {
    bytes.extend([AUTH_RMCP_PLUS, payload]);
    bytes.extend(session.to_le_bytes());
    bytes.extend(sequence.to_le_bytes());
    bytes.extend(u16::try_from(data.len()).expect("payloads are short").to_le_bytes());
    bytes.extend(data);
}

/// Reads bytes from the front.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], ParseError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(ParseError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, ParseError> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, ParseError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ParseError> {
        self.take(N)?.try_into().map_err(|_| ParseError::Short)
    }
}

/// Opens a datagram. With `keys`, what claims to be in a session must be encrypted and signed with them; without,
/// nothing may be in a session. Never panics.
pub fn parse(bytes: &[u8], keys: Option<&Keys>) -> Result<Packet, ParseError> {
    if bytes.len() > PACKET_MAX {
        return Err(ParseError::Long);
    }
    let mut reader = Reader(bytes);
    let header: [u8; 4] = reader.array()?;
    // The sequence number is anybody's; the rest is fixed.
    if (header[0], header[3]) != (RMCP[0], RMCP[3]) {
        return Err(ParseError::NotIpmi);
    }
    match reader.byte()? {
        AUTH_NONE => parse_bare(reader),
        AUTH_RMCP_PLUS => parse_plus(reader, &bytes[RMCP.len()..], keys),
        _ => Err(ParseError::Unknown),
    }
}

fn parse_bare(mut reader: Reader<'_>) -> Result<Packet, ParseError> {
    let (sequence, session) = (reader.u32()?, reader.u32()?);
    let length = usize::from(reader.byte()?);
    let data = reader.take(length)?.to_vec();
    if session != 0 {
        return Err(ParseError::Unprotected);
    }
    Ok(Packet { payload: Payload::Message, session, sequence, data })
}

fn parse_plus(mut reader: Reader<'_>, signed: &[u8], keys: Option<&Keys>) -> Result<Packet, ParseError> {
    let kind = reader.byte()?;
    let payload = Payload::of(kind & !(ENCRYPTED | AUTHENTICATED)).ok_or(ParseError::Unknown)?;
    let (session, sequence) = (reader.u32()?, reader.u32()?);
    let length = usize::from(u16::from_le_bytes(reader.array()?));
    let data = reader.take(length)?;
    let protection = kind & (ENCRYPTED | AUTHENTICATED);
    if session == 0 && protection == 0 {
        return Ok(Packet { payload, session, sequence, data: data.to_vec() });
    }
    let keys = keys.filter(|_| protection == ENCRYPTED | AUTHENTICATED).ok_or(ParseError::Unprotected)?;
    let code_at = signed.len().checked_sub(keys.suite().code_length()).ok_or(ParseError::Short)?;
    let (signed, code) = signed.split_at(code_at);
    if !keys.verify(signed, code) {
        return Err(ParseError::Unprotected);
    }
    // Signed, so it is the BMC's own word from here on; it may still be wrong.
    let trailer = reader.0.len().checked_sub(code.len()).ok_or(ParseError::Length)?;
    let pad = trailer.checked_sub(2).ok_or(ParseError::Length)?;
    if usize::from(reader.0[pad]) != pad || reader.0[pad + 1] != NEXT_HEADER {
        return Err(ParseError::Length);
    }
    let data = keys.decrypt(data).ok_or(ParseError::Length)?;
    Ok(Packet { payload, session, sequence, data })
}

/// Open Session Request (13.17): asks for a suite and the highest privilege that the session may have.
pub fn open_request(tag: u8, privilege: u8, console: u32, suite: Suite) -> Vec<u8> {
    let mut data = vec![tag, privilege, 0, 0];
    data.extend(console.to_le_bytes());
    for (kind, algorithm) in
        [(0, suite.authentication()), (1, suite.integrity()), (2, suite.confidentiality())]
    {
        data.extend([kind, 0, 0, 8, algorithm, 0, 0, 0]);
    }
    data
}

/// Open Session Response (13.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenResponse {
    /// Of the request.
    pub tag: u8,
    /// Zero for yes (13.24).
    pub status: u8,
    /// Our session id.
    pub console: u32,
    /// The BMC's, when the status is zero.
    pub managed: u32,
    /// The algorithms it chose: authentication, integrity, confidentiality.
    pub algorithms: [u8; 3],
}

impl OpenResponse {
    /// A refusal may be cut after the console's session id, or even after the status.
    pub fn parse(data: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader(data);
        let (tag, status) = (reader.byte()?, reader.byte()?);
        if status != 0 {
            let _ = reader.take(2);
            let console = reader.u32().unwrap_or(0);
            return Ok(Self { tag, status, console, managed: 0, algorithms: [0; 3] });
        }
        reader.take(2)?;
        let (console, managed) = (reader.u32()?, reader.u32()?);
        let mut algorithms = [0; 3];
        for (kind, algorithm) in algorithms.iter_mut().enumerate() {
            let record: [u8; 8] = reader.array()?;
            if usize::from(record[0]) != kind {
                return Err(ParseError::Unknown);
            }
            *algorithm = record[4] & 0x3f;
        }
        Ok(Self { tag, status, console, managed, algorithms })
    }
}

/// RAKP Message 1 (13.20).
pub fn rakp1(tag: u8, managed: u32, random: &[u8; 16], role: u8, user: &[u8]) -> Vec<u8> {
    let mut data = vec![tag, 0, 0, 0];
    data.extend(managed.to_le_bytes());
    data.extend(random);
    data.extend([role, 0, 0, u8::try_from(user.len()).expect("a user's name is short")]);
    data.extend(user);
    data
}

/// RAKP Message 2 (13.21).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rakp2 {
    /// Of the request.
    pub tag: u8,
    /// Zero for yes.
    pub status: u8,
    /// Our session id.
    pub console: u32,
    /// The BMC's random number.
    pub random: [u8; 16],
    /// The BMC's GUID.
    pub guid: [u8; 16],
    /// Proof that it knows the password.
    pub code: Vec<u8>,
}

impl Rakp2 {
    /// A refusal has nothing behind the session id.
    pub fn parse(data: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader(data);
        let (tag, status) = (reader.byte()?, reader.byte()?);
        if status != 0 {
            let _ = reader.take(2);
            let console = reader.u32().unwrap_or(0);
            return Ok(Self { tag, status, console, random: [0; 16], guid: [0; 16], code: Vec::new() });
        }
        reader.take(2)?;
        let console = reader.u32()?;
        Ok(Self {
            tag,
            status,
            console,
            random: reader.array()?,
            guid: reader.array()?,
            code: reader.0.to_vec(),
        })
    }
}

/// RAKP Message 3 (13.22).
pub fn rakp3(tag: u8, managed: u32, code: &[u8]) -> Vec<u8> {
    let mut data = vec![tag, 0, 0, 0];
    data.extend(managed.to_le_bytes());
    data.extend(code);
    data
}

/// RAKP Message 4 (13.23).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rakp4 {
    /// Of the request.
    pub tag: u8,
    /// Zero for yes.
    pub status: u8,
    /// Our session id.
    pub console: u32,
    /// Proof that it has the session's key.
    pub code: Vec<u8>,
}

impl Rakp4 {
    /// A refusal has nothing behind the session id.
    pub fn parse(data: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader(data);
        let (tag, status) = (reader.byte()?, reader.byte()?);
        let _ = reader.take(2);
        let console = if status == 0 { reader.u32()? } else { reader.u32().unwrap_or(0) };
        Ok(Self { tag, status, console, code: reader.0.to_vec() })
    }
}
