//! The private half of a key.

use ring::signature::{Ed25519KeyPair, KeyPair as _};
use x25519_dalek::{PublicKey as X25519Public, StaticSecret};
use zeroize::Zeroizing;

use super::certificate::{
    Certificate, ECDH, ED25519_OID, MAY_SIGN, NATIVE_POINT, Primary, fingerprint, key_prefix, user_id_prefix,
};
use super::signature::{EDDSA, kind, make, sub};
use super::wire::{self, Reader, pad32, put_mpi, put_packet, tag};
use super::{PgpError, armor};

/// Curve25519 by its object identifier, 1.3.6.1.4.1.3029.1.5.1.
const CURVE25519_OID: [u8; 10] = [0x2b, 6, 1, 4, 1, 0x97, 0x55, 1, 5, 1];
/// How a message key is derived: reserved octet, SHA-256, AES-128.
const ECDH_KDF: [u8; 3] = [1, 8, 7];
/// The key may certify.
const MAY_CERTIFY: u8 = 0x01;
/// The key may encrypt messages and storage.
const MAY_ENCRYPT: u8 = 0x0c;
/// Enough for a whole secret key, so that what is written never moves.
const SECRET_CAPACITY: usize = 4096;

/// What a key is made from.
#[derive(Default)]
pub(crate) struct Seeds {
    pub(crate) ed25519: Zeroizing<[u8; 32]>,
    pub(crate) x25519: Zeroizing<[u8; 32]>,
}

/// A private key that can sign.
pub(crate) struct SecretKey {
    seed: Zeroizing<[u8; 32]>,
    fingerprint: [u8; 20],
    certificate: Certificate,
}

impl SecretKey {
    /// Reads an armored private key.
    pub(crate) fn from_armored(text: &str) -> Result<Self, PgpError> {
        let bytes = armor::decode(text, armor::PRIVATE_KEY)?;
        let packets = wire::packets(&bytes)?;
        let Some(&(tag::SECRET_KEY, body)) = packets.first() else {
            return Err(PgpError::Unexpected);
        };
        let primary = Primary::parse(body)?;
        let seed = secret_part(&body[primary.body.len()..])?;
        // Whether the two halves belong together is what ring looks at.
        Ed25519KeyPair::from_seed_and_public_key(seed.as_slice(), &primary.ed25519)
            .map_err(|_| PgpError::Mismatch)?;
        Ok(Self { seed, fingerprint: primary.fingerprint, certificate: Certificate::from_packets(&packets)? })
    }

    /// Makes a key as Omni's tools do (an Ed25519 key with one user id and a Curve25519
    /// subkey that nobody uses) and its armored text.
    pub(crate) fn generate(
        seeds: &Seeds,
        user_id: &str,
        created: u32,
        lifetime: u32,
    ) -> (Self, Zeroizing<String>) {
        let pair = key_pair(&seeds.ed25519);
        let public = ed25519_public(created, &pair);
        let fingerprint = fingerprint(&public);
        let (subkey, subkey_secret) = x25519_subkey(created, &seeds.x25519);
        let lifetime = lifetime.to_be_bytes();
        let prefix = key_prefix(&public);
        let id = user_id.as_bytes();
        let certification = make(
            kind::POSITIVE_CERTIFICATION,
            &[&prefix, &public, &user_id_prefix(id), id],
            &pair,
            &fingerprint,
            created,
            &[
                (sub::KEY_LIFETIME | sub::CRITICAL, &lifetime),
                (sub::KEY_FLAGS | sub::CRITICAL, &[MAY_CERTIFY | MAY_SIGN]),
                (sub::PRIMARY_USER_ID, &[1]),
                // AES-256, AES-128.
                (sub::PREFERRED_CIPHERS, &[9, 7]),
                // SHA-256, SHA-512.
                (sub::PREFERRED_HASHES, &[8, 10]),
                // None, ZLIB.
                (sub::PREFERRED_COMPRESSION, &[0, 2]),
                // Integrity protected messages.
                (sub::FEATURES, &[1]),
            ],
        );
        let binding = make(
            kind::SUBKEY_BINDING,
            &[&prefix, &public, &key_prefix(&subkey), &subkey],
            &pair,
            &fingerprint,
            created,
            &[
                (sub::KEY_LIFETIME | sub::CRITICAL, &lifetime),
                (sub::KEY_FLAGS | sub::CRITICAL, &[MAY_ENCRYPT]),
            ],
        );

        let mut out = Zeroizing::new(Vec::with_capacity(SECRET_CAPACITY));
        put_packet(&mut out, tag::SECRET_KEY, &with_secret(&public, seeds.ed25519.as_slice()));
        put_packet(&mut out, tag::USER_ID, id);
        out.extend_from_slice(&certification);
        put_packet(&mut out, tag::SECRET_SUBKEY, &with_secret(&subkey, subkey_secret.as_slice()));
        out.extend_from_slice(&binding);

        let packets = wire::packets(&out).expect("what was just written can be read");
        let certificate = Certificate::from_packets(&packets).expect("what was just signed verifies");
        let secret = Self { seed: seeds.ed25519.clone(), fingerprint, certificate };
        (secret, armor::encode(&out, armor::PRIVATE_KEY))
    }

    pub(crate) const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Makes a detached signature packet over `data`.
    pub(crate) fn sign_detached(&self, data: &[u8], created: u32) -> Vec<u8> {
        make(kind::BINARY, &[data], &key_pair(&self.seed), &self.fingerprint, created, &[])
    }
}

/// The pair is made for each use and not kept, since ring does not wipe it.
fn key_pair(seed: &[u8; 32]) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(seed).expect("every 32 octets are a seed")
}

/// What follows the public part of a secret key: its protection, the number, a checksum
/// against damage (section 5.5.3).
fn secret_part(bytes: &[u8]) -> Result<Zeroizing<[u8; 32]>, PgpError> {
    let mut input = Reader::new(bytes);
    if input.u8()? != 0 {
        return Err(PgpError::Locked);
    }
    let numbers = input.rest();
    let mut seed = Zeroizing::new([0; 32]);
    pad32(input.mpi32()?, &mut seed);
    let covered = &numbers[..numbers.len() - input.rest().len()];
    if input.u16()? != checksum(covered) || !input.is_empty() {
        return Err(PgpError::Malformed);
    }
    Ok(seed)
}

/// A secret key packet's body, without protection.
fn with_secret(public: &[u8], secret: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut body = Zeroizing::new(Vec::with_capacity(SECRET_CAPACITY));
    body.extend_from_slice(public);
    body.push(0);
    let start = body.len();
    put_mpi(&mut body, secret);
    let sum = checksum(&body[start..]);
    body.extend_from_slice(&sum.to_be_bytes());
    body
}

fn checksum(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |sum: u16, octet| sum.wrapping_add(u16::from(*octet)))
}

/// The public part of an Ed25519 key.
fn ed25519_public(created: u32, pair: &Ed25519KeyPair) -> Vec<u8> {
    let point = pair.public_key().as_ref();
    public_part(created, EDDSA, &ED25519_OID, point)
}

/// A Curve25519 subkey: its public part and its secret number, highest octet first.
fn x25519_subkey(created: u32, seed: &[u8; 32]) -> (Vec<u8>, Zeroizing<[u8; 32]>) {
    let mut scalar = Zeroizing::new(*seed);
    // As RFC 7748 wants it; some readers refuse a number that is not so.
    scalar[0] &= 0xf8;
    scalar[31] = scalar[31] & 0x7f | 0x40;
    let point = X25519Public::from(&StaticSecret::from(*scalar));
    let mut public = public_part(created, ECDH, &CURVE25519_OID, point.as_bytes());
    public.push(ECDH_KDF.len() as u8);
    public.extend_from_slice(&ECDH_KDF);
    scalar.reverse();
    (public, scalar)
}

fn public_part(created: u32, algorithm: u8, curve: &[u8], point: &[u8]) -> Vec<u8> {
    let mut body = vec![4];
    body.extend_from_slice(&created.to_be_bytes());
    body.push(algorithm);
    body.push(curve.len() as u8);
    body.extend_from_slice(curve);
    let mut native = vec![NATIVE_POINT];
    native.extend_from_slice(point);
    put_mpi(&mut body, &native);
    body
}
