//! The certificate that the machine API shows: self-signed, Ed25519 (RFC 8410), made anew at each start.
//!
//! Nobody can know it before, so nobody verifies it: whom one talks to is settled by the WireGuard tunnel that
//! the API is reached through. It is valid for ever, since a bare machine's clock may be anywhere.

use std::io;

use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::sys;

/// Id-Ed25519 (1.3.101.112), as an object identifier.
const ED25519: &[u8] = &[0x06, 3, 0x2b, 0x65, 0x70];
/// commonName (2.5.4.3)
const COMMON_NAME: &[u8] = &[0x06, 3, 0x55, 0x04, 0x03];
/// subjectAltName (2.5.29.17)
const ALT_NAME: &[u8] = &[0x06, 3, 0x55, 0x1d, 0x11];
/// keyUsage (2.5.29.15) and its value: digitalSignature.
const KEY_USAGE: &[u8] = &[0x06, 3, 0x55, 0x1d, 0x0f];
const DIGITAL_SIGNATURE: &[u8] = &[0x03, 2, 7, 0x80];
/// extKeyUsage (2.5.29.37) and its value: serverAuth.
const EXTENDED_KEY_USAGE: &[u8] = &[0x06, 3, 0x55, 0x1d, 0x25];
const SERVER_AUTH: &[u8] = &[0x30, 10, 0x06, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1];

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const UTF8_STRING: u8 = 0x0c;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[2]` of GeneralName: a DNS name.
const DNS_NAME: u8 = 0x82;
/// `[0]` of TBSCertificate: the version.
const VERSION: u8 = 0xa0;
/// `[3]` of TBSCertificate: the extensions.
const EXTENSIONS: u8 = 0xa3;

/// Whose certificate it is.
const NAME: &str = "bootlace-agent";
/// Bytes of a serial number.
const SERIAL: usize = 16;
/// Bytes of a private key.
const SEED: usize = 32;

/// A certificate and its key, DER.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Certificate {
    /// X.509
    pub(super) certificate: Vec<u8>,
    /// PKCS #8
    pub(super) key: Vec<u8>,
}

impl Certificate {
    /// Makes one of the kernel's randomness. Fails while the generator is not seeded.
    pub(super) fn generate() -> io::Result<Self> {
        let mut random = [0; SEED + SERIAL];
        sys::random(&mut random, true)?;
        let (seed, serial) = random.split_first_chunk::<SEED>().expect("it is longer");
        Ok(Self::from_seed(seed, serial))
    }

    fn from_seed(seed: &[u8; SEED], serial: &[u8]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a key");
        let algorithm = der(SEQUENCE, &[ED25519]);
        let to_be_signed = to_be_signed(pair.public_key().as_ref(), serial, &algorithm);
        let signature = pair.sign(&to_be_signed);
        let certificate = der(SEQUENCE, &[&to_be_signed, &algorithm, &bit_string(signature.as_ref())]);
        let key = der(OCTET_STRING, &[&der(OCTET_STRING, &[seed])]);
        let key = der(SEQUENCE, &[&der(INTEGER, &[&[0]]), &algorithm, &key]);
        Self { certificate, key }
    }
}

fn to_be_signed(public_key: &[u8], serial: &[u8], algorithm: &[u8]) -> Vec<u8> {
    // Positive, and without a zero in front.
    let mut serial = serial.to_vec();
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    let name = der(SEQUENCE, &[COMMON_NAME, &der(UTF8_STRING, &[NAME.as_bytes()])]);
    let name = der(SEQUENCE, &[&der(SET, &[&name])]);
    let validity =
        der(SEQUENCE, &[&der(UTC_TIME, &[b"700101000000Z"]), &der(GENERALIZED_TIME, &[b"99991231235959Z"])]);
    let alt_name = der(SEQUENCE, &[&der(DNS_NAME, &[NAME.as_bytes()])]);
    let extension = |id: &[u8], value: &[u8]| der(SEQUENCE, &[id, &der(OCTET_STRING, &[value])]);
    let extensions = der(
        SEQUENCE,
        &[
            &extension(KEY_USAGE, DIGITAL_SIGNATURE),
            &extension(EXTENDED_KEY_USAGE, SERVER_AUTH),
            &extension(ALT_NAME, &alt_name),
        ],
    );
    der(
        SEQUENCE,
        &[
            // Version 3.
            &der(VERSION, &[&der(INTEGER, &[&[2]])]),
            &der(INTEGER, &[&serial]),
            algorithm,
            &name,
            &validity,
            &name,
            &der(SEQUENCE, &[algorithm, &bit_string(public_key)]),
            &der(EXTENSIONS, &[&extensions]),
        ],
    )
}

/// All bits of all bytes.
fn bit_string(bytes: &[u8]) -> Vec<u8> {
    der(BIT_STRING, &[&[0], bytes])
}

/// A value with its tag and length.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let contents = parts.concat();
    let mut bytes = vec![tag];
    let length = contents.len().to_be_bytes();
    let significant = &length[length.iter().position(|byte| *byte != 0).unwrap_or(length.len() - 1)..];
    match significant {
        [short] if *short < 0x80 => bytes.push(*short),
        // A length of lengths has at most eight bytes.
        long => {
            bytes.push(0x80 | u8::try_from(long.len()).expect("eight at most"));
            bytes.extend(long);
        }
    }
    bytes.extend(contents);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_as_short_as_they_can_be() {
        assert_eq!(der(4, &[]), [4, 0]);
        assert_eq!(der(4, &[&[7; 127]])[..2], [4, 127]);
        assert_eq!(der(4, &[&[7; 128]])[..3], [4, 0x81, 128]);
        assert_eq!(der(4, &[&[7; 256]])[..4], [4, 0x82, 1, 0]);
    }

    #[test]
    fn the_key_is_the_certificates_and_each_start_has_its_own() {
        let one = Certificate::generate().unwrap();
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&one.key).unwrap();
        let public = pair.public_key().as_ref();
        assert!(one.certificate.windows(public.len()).any(|bytes| bytes == public));
        let parsed = rustls::sign::CertifiedKey::from_der(
            vec![one.certificate.clone().into()],
            rustls::pki_types::PrivatePkcs8KeyDer::from(one.key.clone()).into(),
            &rustls::crypto::ring::default_provider(),
        );
        parsed.unwrap().keys_match().unwrap();
        assert!(one != Certificate::generate().unwrap());
        assert!(Certificate::from_seed(&[1; 32], &[0; 16]) == Certificate::from_seed(&[1; 32], &[0; 16]));
    }

    #[test]
    fn a_serial_number_is_positive_whatever_the_randomness() {
        for byte in [0, 0x7f, 0x80, 0xff] {
            let algorithm = der(SEQUENCE, &[ED25519]);
            let signed = to_be_signed(&[0; 32], &[byte; SERIAL], &algorithm);
            let at = signed.windows(2).position(|pair| pair == [INTEGER, 16]).unwrap();
            assert!((0x40..0x80).contains(&signed[at + 2]));
        }
    }
}
