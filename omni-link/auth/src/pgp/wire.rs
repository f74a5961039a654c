//! Octets, numbers and packets (RFC 4880, sections 3, 4 and 5.2.3.1).

use super::PgpError;

/// A secret key of ours has six packets. One with more than these is no service account's.
const MAX_PACKETS: usize = 64;

/// Packet tags.
pub(super) mod tag {
    pub(in crate::pgp) const SIGNATURE: u8 = 2;
    pub(in crate::pgp) const SECRET_KEY: u8 = 5;
    pub(in crate::pgp) const PUBLIC_KEY: u8 = 6;
    pub(in crate::pgp) const SECRET_SUBKEY: u8 = 7;
    pub(in crate::pgp) const MARKER: u8 = 10;
    pub(in crate::pgp) const USER_ID: u8 = 13;
    pub(in crate::pgp) const PUBLIC_SUBKEY: u8 = 14;
}

/// Takes octets from the front of what is left.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub(super) const fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], PgpError> {
        let (front, rest) = self.0.split_at_checked(count).ok_or(PgpError::Malformed)?;
        self.0 = rest;
        Ok(front)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], PgpError> {
        let (front, rest) = self.0.split_first_chunk().ok_or(PgpError::Malformed)?;
        self.0 = rest;
        Ok(*front)
    }

    pub(super) fn u8(&mut self) -> Result<u8, PgpError> {
        self.array().map(|[octet]| octet)
    }

    pub(super) fn u16(&mut self) -> Result<u16, PgpError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, PgpError> {
        self.array().map(u32::from_be_bytes)
    }

    /// What a length of one octet stands before.
    pub(super) fn short(&mut self) -> Result<&'a [u8], PgpError> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    /// The octets of a number: its length in bits stands before it.
    pub(super) fn mpi(&mut self) -> Result<&'a [u8], PgpError> {
        let bits = self.u16()?;
        self.take(usize::from(bits).div_ceil(8))
    }

    /// A number that is really 32 octets, which lost its leading zeros on the wire.
    pub(super) fn mpi32(&mut self) -> Result<&'a [u8], PgpError> {
        let number = self.mpi()?;
        if number.len() > 32 {
            return Err(PgpError::Malformed);
        }
        Ok(number)
    }

    /// A length of new-format packets and of subpackets, but for the partial ones.
    pub(super) fn length(&mut self, subpacket: bool) -> Result<usize, PgpError> {
        let first = self.u8()?;
        Ok(match first {
            0..192 => usize::from(first),
            255 => self.u32()? as usize,
            224..255 if !subpacket => return Err(PgpError::Malformed),
            _ => ((usize::from(first) - 192) << 8) + usize::from(self.u8()?) + 192,
        })
    }
}

/// `number` with leading zeros, as 32 octets.
pub(super) fn pad32(number: &[u8], into: &mut [u8; 32]) {
    into.fill(0);
    let start = into.len().saturating_sub(number.len());
    for (to, from) in into[start..].iter_mut().zip(number) {
        *to = *from;
    }
}

/// A packet: what it is and what is in it.
pub(super) type Packet<'a> = (u8, &'a [u8]);

/// All packets of a message.
pub(super) fn packets(bytes: &[u8]) -> Result<Vec<Packet<'_>>, PgpError> {
    let mut input = Reader::new(bytes);
    let mut found = Vec::new();
    while !input.is_empty() {
        if found.len() == MAX_PACKETS {
            return Err(PgpError::Malformed);
        }
        let packet = packet(&mut input)?;
        if packet.0 != tag::MARKER {
            found.push(packet);
        }
    }
    Ok(found)
}

fn packet<'a>(input: &mut Reader<'a>) -> Result<Packet<'a>, PgpError> {
    let head = input.u8()?;
    if head & 0x80 == 0 {
        return Err(PgpError::Malformed);
    }
    let (tag, length) = if head & 0x40 != 0 {
        (head & 0x3f, input.length(false)?)
    } else {
        let length = match head & 3 {
            0 => usize::from(input.u8()?),
            1 => usize::from(input.u16()?),
            2 => input.u32()? as usize,
            // Of unknown length: only for data that is streamed.
            _ => return Err(PgpError::Malformed),
        };
        ((head >> 2) & 0x0f, length)
    };
    Ok((tag, input.take(length)?))
}

/// Appends a packet in the new format.
pub(super) fn put_packet(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    out.push(0xc0 | tag);
    put_length(out, body.len());
    out.extend_from_slice(body);
}

/// Appends a subpacket. Its kind has bit 7 set when who reads it must understand it.
pub(super) fn put_subpacket(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    put_length(out, body.len() + 1);
    out.push(kind);
    out.extend_from_slice(body);
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    match length {
        0..192 => out.push(length as u8),
        192..8384 => {
            let beyond = length - 192;
            out.push((beyond >> 8) as u8 + 192);
            out.push(beyond as u8);
        }
        _ => {
            out.push(255);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
}

/// Appends a number without its leading zeros, its length in bits before it.
pub(super) fn put_mpi(out: &mut Vec<u8>, number: &[u8]) {
    let zeros = number.iter().take_while(|octet| **octet == 0).count();
    let number = &number[zeros..];
    let bits = number.first().map_or(0, |top| number.len() * 8 - top.leading_zeros() as usize);
    out.extend_from_slice(&(bits as u16).to_be_bytes());
    out.extend_from_slice(number);
}
