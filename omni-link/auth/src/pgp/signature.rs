//! Signature packets of version 4 (RFC 4880, section 5.2): made and verified with Ed25519.

use std::time::SystemTime;

use ring::digest;
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};

use super::wire::{self, Reader, pad32, put_mpi, put_packet, put_subpacket, tag};
use super::{PgpError, at};
use crate::verify::ALLOWED_SKEW;

pub(super) const EDDSA: u8 = 22;
const SHA256: u8 = 8;
const SHA384: u8 = 9;
const SHA512: u8 = 10;

/// Signature types.
pub(super) mod kind {
    pub(in crate::pgp) const BINARY: u8 = 0x00;
    pub(in crate::pgp) const GENERIC_CERTIFICATION: u8 = 0x10;
    pub(in crate::pgp) const POSITIVE_CERTIFICATION: u8 = 0x13;
    pub(in crate::pgp) const SUBKEY_BINDING: u8 = 0x18;
    pub(in crate::pgp) const KEY_REVOCATION: u8 = 0x20;
    pub(in crate::pgp) const CERTIFICATION_REVOCATION: u8 = 0x30;
}

/// Subpacket types.
pub(super) mod sub {
    pub(in crate::pgp) const CREATED: u8 = 2;
    pub(in crate::pgp) const SIGNATURE_LIFETIME: u8 = 3;
    pub(in crate::pgp) const KEY_LIFETIME: u8 = 9;
    pub(in crate::pgp) const PREFERRED_CIPHERS: u8 = 11;
    pub(in crate::pgp) const ISSUER_KEY_ID: u8 = 16;
    pub(in crate::pgp) const PREFERRED_HASHES: u8 = 21;
    pub(in crate::pgp) const PREFERRED_COMPRESSION: u8 = 22;
    pub(in crate::pgp) const PRIMARY_USER_ID: u8 = 25;
    pub(in crate::pgp) const KEY_FLAGS: u8 = 27;
    pub(in crate::pgp) const FEATURES: u8 = 30;
    pub(in crate::pgp) const ISSUER_FINGERPRINT: u8 = 33;
    /// Who reads it must understand it.
    pub(in crate::pgp) const CRITICAL: u8 = 0x80;
}

/// A parsed signature that is not verified yet.
pub(super) struct Signature<'a> {
    pub(super) kind: u8,
    hash: u8,
    /// From the version up to the end of the hashed subpackets.
    hashed: &'a [u8],
    left16: [u8; 2],
    value: [u8; 64],
    pub(super) created: u32,
    pub(super) lifetime: Option<u32>,
    pub(super) key_lifetime: Option<u32>,
    pub(super) key_flags: Option<u8>,
    issuer_fingerprint: Option<[u8; 20]>,
    issuer_key_id: Option<[u8; 8]>,
}

impl<'a> Signature<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, PgpError> {
        let mut input = Reader::new(body);
        let [version, kind, algorithm, hash] = input.array()?;
        if version != 4 || algorithm != EDDSA {
            return Err(PgpError::Algorithm);
        }
        let hashed_length = usize::from(input.u16()?);
        let hashed = Reader::new(input.take(hashed_length)?);
        let unhashed_length = usize::from(input.u16()?);
        let unhashed = Reader::new(input.take(unhashed_length)?);
        let left16 = input.array()?;
        let mut value = [0; 64];
        for half in value.as_chunks_mut().0 {
            pad32(input.mpi32()?, half);
        }
        if !input.is_empty() {
            return Err(PgpError::Malformed);
        }
        let mut signature = Self {
            kind,
            hash,
            // Six octets stand before the hashed subpackets.
            hashed: &body[..6 + hashed_length],
            left16,
            value,
            created: 0,
            lifetime: None,
            key_lifetime: None,
            key_flags: None,
            issuer_fingerprint: None,
            issuer_key_id: None,
        };
        signature.read_hashed(hashed)?;
        signature.read_unhashed(unhashed)?;
        Ok(signature)
    }

    fn read_hashed(&mut self, mut input: Reader<'_>) -> Result<(), PgpError> {
        let mut created = None;
        while !input.is_empty() {
            let (kind, mut body) = subpacket(&mut input)?;
            match kind & !sub::CRITICAL {
                sub::CREATED => created = Some(body.u32()?),
                sub::SIGNATURE_LIFETIME => self.lifetime = Some(body.u32()?),
                sub::KEY_LIFETIME => self.key_lifetime = Some(body.u32()?),
                // More octets of flags may follow; none of theirs matters here.
                sub::KEY_FLAGS => self.key_flags = Some(body.rest().first().copied().unwrap_or(0)),
                sub::ISSUER_KEY_ID | sub::ISSUER_FINGERPRINT => self.read_issuer(kind, body)?,
                // What one may do with the key beyond what is done here.
                sub::PREFERRED_CIPHERS
                | sub::PREFERRED_HASHES
                | sub::PREFERRED_COMPRESSION
                | sub::PRIMARY_USER_ID
                | sub::FEATURES => {}
                _ if kind & sub::CRITICAL != 0 => return Err(PgpError::Critical),
                _ => {}
            }
        }
        self.created = created.ok_or(PgpError::Time)?;
        Ok(())
    }

    /// Not covered by the signature, so only good to say whose key to look at.
    fn read_unhashed(&mut self, mut input: Reader<'_>) -> Result<(), PgpError> {
        while !input.is_empty() {
            let (kind, body) = subpacket(&mut input)?;
            self.read_issuer(kind, body)?;
        }
        Ok(())
    }

    fn read_issuer(&mut self, kind: u8, mut body: Reader<'_>) -> Result<(), PgpError> {
        match kind & !sub::CRITICAL {
            sub::ISSUER_KEY_ID => self.issuer_key_id = Some(body.array()?),
            sub::ISSUER_FINGERPRINT => {
                if body.u8()? != 4 {
                    return Err(PgpError::Issuer);
                }
                self.issuer_fingerprint = Some(body.array()?);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether it names this key, and no other one, as its maker.
    pub(super) fn issued_by(&self, fingerprint: &[u8; 20]) -> bool {
        let by_fingerprint = self.issuer_fingerprint.map(|it| it == *fingerprint);
        let by_key_id = self.issuer_key_id.map(|it| it == fingerprint[12..]);
        match (by_fingerprint, by_key_id) {
            (None, None) => false,
            (fingerprint, key_id) => fingerprint.unwrap_or(true) && key_id.unwrap_or(true),
        }
    }

    /// When it ends, in seconds since 1970.
    pub(super) fn expires(&self) -> Option<u64> {
        ends(self.created, self.lifetime)
    }

    /// Verifies that the key signed these parts, one after the other.
    pub(super) fn verify(&self, parts: &[&[u8]], key: &[u8; 32]) -> Result<(), PgpError> {
        let digest = hash(self.hash, parts, self.hashed).ok_or(PgpError::Algorithm)?;
        let digest = digest.as_ref();
        if digest[..2] != self.left16 {
            return Err(PgpError::Signature);
        }
        UnparsedPublicKey::new(&ED25519, key).verify(digest, &self.value).map_err(|_| PgpError::Signature)
    }
}

/// When something made then and lasting so long ends; a lifetime of zero is for ever.
pub(super) fn ends(created: u32, lifetime: Option<u32>) -> Option<u64> {
    lifetime.filter(|seconds| *seconds != 0).map(|seconds| u64::from(created) + u64::from(seconds))
}

fn subpacket<'a>(input: &mut Reader<'a>) -> Result<(u8, Reader<'a>), PgpError> {
    let length = input.length(true)?;
    let mut body = Reader::new(input.take(length)?);
    Ok((body.u8()?, body))
}

/// The digest that is signed (section 5.2.4).
fn hash(algorithm: u8, parts: &[&[u8]], hashed: &[u8]) -> Option<digest::Digest> {
    let mut context = digest::Context::new(match algorithm {
        SHA256 => &digest::SHA256,
        SHA384 => &digest::SHA384,
        SHA512 => &digest::SHA512,
        _ => return None,
    });
    for part in parts {
        context.update(part);
    }
    context.update(hashed);
    context.update(&[4, 0xff]);
    context.update(&(hashed.len() as u32).to_be_bytes());
    Some(context.finish())
}

/// Makes a signature packet over these parts. `more` are subpackets beside the creation
/// time and the issuer.
pub(super) fn make(
    kind: u8,
    parts: &[&[u8]],
    key: &Ed25519KeyPair,
    fingerprint: &[u8; 20],
    created: u32,
    more: &[(u8, &[u8])],
) -> Vec<u8> {
    let mut subpackets = Vec::new();
    put_subpacket(&mut subpackets, sub::CREATED | sub::CRITICAL, &created.to_be_bytes());
    let mut issuer = vec![4];
    issuer.extend_from_slice(fingerprint);
    put_subpacket(&mut subpackets, sub::ISSUER_FINGERPRINT, &issuer);
    for (kind, value) in more {
        put_subpacket(&mut subpackets, *kind, value);
    }
    let mut body = vec![4, kind, EDDSA, SHA256];
    body.extend_from_slice(&(subpackets.len() as u16).to_be_bytes());
    body.extend_from_slice(&subpackets);

    let digest = hash(SHA256, parts, &body).expect("SHA-256 is one of ours");
    let value = key.sign(digest.as_ref());

    let mut unhashed = Vec::new();
    put_subpacket(&mut unhashed, sub::ISSUER_KEY_ID, &fingerprint[12..]);
    body.extend_from_slice(&(unhashed.len() as u16).to_be_bytes());
    body.extend_from_slice(&unhashed);
    body.extend_from_slice(&digest.as_ref()[..2]);
    for half in value.as_ref().chunks(32) {
        put_mpi(&mut body, half);
    }
    let mut packet = Vec::with_capacity(body.len() + 3);
    put_packet(&mut packet, tag::SIGNATURE, &body);
    packet
}

/// Verifies a detached signature over `data` by the key with this fingerprint (in
/// hexadecimal).
pub(crate) fn verify_detached(
    packet: &[u8],
    data: &[u8],
    key: &[u8; 32],
    fingerprint: &str,
    now: SystemTime,
) -> Result<(), PgpError> {
    let packets = wire::packets(packet)?;
    let [(tag::SIGNATURE, body)] = packets[..] else {
        return Err(PgpError::Unexpected);
    };
    let signature = Signature::parse(body)?;
    if signature.kind != kind::BINARY {
        return Err(PgpError::Unexpected);
    }
    let fingerprint = parse_fingerprint(fingerprint).ok_or(PgpError::Issuer)?;
    if !signature.issued_by(&fingerprint) {
        return Err(PgpError::Issuer);
    }
    if at(signature.created.into()) > now + ALLOWED_SKEW
        || signature.expires().is_some_and(|end| at(end) <= now)
    {
        return Err(PgpError::Time);
    }
    signature.verify(&[data], key)
}

/// Reads 40 hexadecimal digits in lower case.
fn parse_fingerprint(text: &str) -> Option<[u8; 20]> {
    let digit = |octet: u8| match octet {
        b'0'..=b'9' => Some(octet - b'0'),
        b'a'..=b'f' => Some(octet - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != 20 || !rest.is_empty() {
        return None;
    }
    let mut fingerprint = [0; 20];
    for (octet, [high, low]) in fingerprint.iter_mut().zip(pairs) {
        *octet = digit(*high)? << 4 | digit(*low)?;
    }
    Some(fingerprint)
}
