//! X.509 certificates of Ed25519 keys (RFC 5280, RFC 8410): the machine's own, and those that the appliance's
//! authority signs. What is made is fixed but for names and times, so a page of DER does it.
//!
//! Pure: randomness and times are arguments.

use std::net::IpAddr;

use ring::signature::{Ed25519KeyPair, KeyPair};

mod der;
mod holder;

use der::{der, parts};
pub use holder::AnyHolder;

/// Id-Ed25519 (1.3.101.112), as an object identifier.
const ED25519: &[u8] = &[0x06, 3, 0x2b, 0x65, 0x70];
/// commonName (2.5.4.3)
const COMMON_NAME: &[u8] = &[0x06, 3, 0x55, 0x04, 0x03];
/// subjectAltName (2.5.29.17)
const ALT_NAME: &[u8] = &[0x06, 3, 0x55, 0x1d, 0x11];
/// basicConstraints (2.5.29.19) and its value: an authority, of end certificates only.
const CONSTRAINTS: &[u8] = &[0x06, 3, 0x55, 0x1d, 0x13];
const AUTHORITY: &[u8] = &[0x30, 6, 0x01, 1, 0xff, 0x02, 1, 0];
/// keyUsage (2.5.29.15) and its values: digitalSignature; keyCertSign.
const KEY_USAGE: &[u8] = &[0x06, 3, 0x55, 0x1d, 0x0f];
const DIGITAL_SIGNATURE: &[u8] = &[0x03, 2, 7, 0x80];
const CERTIFICATE_SIGN: &[u8] = &[0x03, 2, 2, 0x04];
/// extKeyUsage (2.5.29.37) and its value: serverAuth.
const EXTENDED_KEY_USAGE: &[u8] = &[0x06, 3, 0x55, 0x1d, 0x25];
const SERVER_AUTH: &[u8] = &[0x30, 10, 0x06, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1];
/// An extension that must be understood.
const CRITICAL: &[u8] = &[0x01, 1, 0xff];

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const UTF8_STRING: u8 = 0x0c;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[2]` of GeneralName: a DNS name.
const DNS_NAME: u8 = 0x82;
/// `[7]` of GeneralName: an IP address.
const IP_ADDRESS: u8 = 0x87;
/// `[0]` of TBSCertificate: the version.
const VERSION: u8 = 0xa0;
/// `[3]` of TBSCertificate: the extensions.
const EXTENSIONS: u8 = 0xa3;

/// The authority's name, and its certificates'.
const AUTHORITY_NAME: &str = "bootlace CA";
const SERVER_NAME: &str = "bootlace";
/// Bytes of a serial number.
const SERIAL: usize = 16;
/// Bytes of a private key.
const SEED: usize = 32;

/// What a certificate and its key are made of.
pub type Randomness = [u8; SEED + SERIAL];

/// From when to when, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: u64,
    /// The last one.
    pub not_after: u64,
}

impl Validity {
    /// For a machine whose clock may be anywhere.
    pub const FOREVER: Self = Self { not_before: 0, not_after: der::LAST_SECOND };

    /// Reads it in a certificate of any maker.
    pub fn of(certificate: &[u8]) -> Option<Self> {
        Some(Read::of(certificate)?.validity)
    }
}

/// A certificate and its key, DER.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    /// X.509
    pub certificate: Vec<u8>,
    /// PKCS #8
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}

impl Certificate {
    /// One that nobody else signs, for the DNS name.
    pub fn self_signed(name: &str, validity: Validity, random: &Randomness) -> Self {
        let (seed, serial) = halves(random);
        let pair = pair(seed);
        let subject = named(name);
        let alt_name = der(SEQUENCE, &[&der(DNS_NAME, &[name.as_bytes()])]);
        let extensions = server_extensions(&alt_name);
        let certificate = sign(&pair, serial, &subject, validity, &subject, &public(&pair), &extensions);
        Self { certificate, key: private(seed) }
    }
}

/// Signs the certificates of one appliance.
pub struct Authority {
    pair: Ed25519KeyPair,
    subject: Vec<u8>,
    certificate: Certificate,
    validity: Validity,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("validity", &self.validity).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new one.
    pub fn generate(validity: Validity, random: &Randomness) -> Self {
        let (seed, serial) = halves(random);
        Self::new(pair(seed), private(seed), named(AUTHORITY_NAME), validity, serial)
    }

    /// The same with other times: its certificates are those of the old one too, since name and key are the same.
    pub fn renewed(&self, validity: Validity, random: &Randomness) -> Self {
        let key = self.certificate.key.clone();
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&key).expect("it was read or made");
        Self::new(pair, key, self.subject.clone(), validity, halves(random).1)
    }

    fn new(
        pair: Ed25519KeyPair,
        key: Vec<u8>,
        subject: Vec<u8>,
        validity: Validity,
        serial: &[u8; SERIAL],
    ) -> Self {
        let extensions =
            [extension(CONSTRAINTS, true, AUTHORITY), extension(KEY_USAGE, true, CERTIFICATE_SIGN)].concat();
        let certificate = sign(&pair, serial, &subject, validity, &subject, &public(&pair), &extensions);
        Self { pair, subject, certificate: Certificate { certificate, key }, validity }
    }

    /// One that was written down; `None` when it is damaged, or certificate and key are not of one another.
    pub fn read(certificate: Certificate) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&certificate.key).ok()?;
        let read = Read::of(&certificate.certificate)?;
        let (subject, validity) = (read.subject.to_vec(), read.validity);
        (read.public_key == public(&pair)).then_some(())?;
        Some(Self { pair, subject, certificate, validity })
    }

    /// Its own certificate and key.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// How long it may be trusted.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// A new key and its certificate, for a server at these addresses.
    pub fn issue(&self, addresses: &[IpAddr], validity: Validity, random: &Randomness) -> Certificate {
        let (seed, serial) = halves(random);
        let addresses = addresses.iter().flat_map(|address| match address {
            IpAddr::V4(address) => der(IP_ADDRESS, &[&address.octets()]),
            IpAddr::V6(address) => der(IP_ADDRESS, &[&address.octets()]),
        });
        let alt_name = der(SEQUENCE, &[&addresses.collect::<Vec<u8>>()]);
        let extensions = server_extensions(&alt_name);
        let public = public(&pair(seed));
        let subject = named(SERVER_NAME);
        let certificate = sign(&self.pair, serial, &self.subject, validity, &subject, &public, &extensions);
        Certificate { certificate, key: private(seed) }
    }
}

fn halves(random: &Randomness) -> (&[u8; SEED], &[u8; SERIAL]) {
    let (seed, serial) = random.split_first_chunk().expect("it is longer");
    (seed, serial.try_into().expect("the rest is the serial number"))
}

fn pair(seed: &[u8; SEED]) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a key")
}

fn algorithm() -> Vec<u8> {
    der(SEQUENCE, &[ED25519])
}

/// SubjectPublicKeyInfo
fn public(pair: &Ed25519KeyPair) -> Vec<u8> {
    der(SEQUENCE, &[&algorithm(), &bit_string(pair.public_key().as_ref())])
}

/// PKCS #8
fn private(seed: &[u8; SEED]) -> Vec<u8> {
    let key = der(OCTET_STRING, &[&der(OCTET_STRING, &[seed])]);
    der(SEQUENCE, &[&der(INTEGER, &[&[0]]), &algorithm(), &key])
}

/// A name that is a common name only.
fn named(name: &str) -> Vec<u8> {
    let name = der(SEQUENCE, &[COMMON_NAME, &der(UTF8_STRING, &[name.as_bytes()])]);
    der(SEQUENCE, &[&der(SET, &[&name])])
}

fn extension(id: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    der(SEQUENCE, &[id, if critical { CRITICAL } else { &[] }, &der(OCTET_STRING, &[value])])
}

fn server_extensions(alt_name: &[u8]) -> Vec<u8> {
    [
        extension(KEY_USAGE, false, DIGITAL_SIGNATURE),
        extension(EXTENDED_KEY_USAGE, false, SERVER_AUTH),
        extension(ALT_NAME, false, alt_name),
    ]
    .concat()
}

fn sign(
    issuer_key: &Ed25519KeyPair,
    serial: &[u8; SERIAL],
    issuer: &[u8],
    validity: Validity,
    subject: &[u8],
    public_key: &[u8],
    extensions: &[u8],
) -> Vec<u8> {
    // Positive, and without a zero in front.
    let mut serial = *serial;
    serial[0] = serial[0] & 0x7f | 0x40;
    let algorithm = algorithm();
    let to_be_signed = der(
        SEQUENCE,
        &[
            // Version 3.
            &der(VERSION, &[&der(INTEGER, &[&[2]])]),
            &der(INTEGER, &[&serial]),
            &algorithm,
            issuer,
            &der(SEQUENCE, &[&der::time(validity.not_before), &der::time(validity.not_after)]),
            subject,
            public_key,
            &der(EXTENSIONS, &[&der(SEQUENCE, &[extensions])]),
        ],
    );
    let signature = issuer_key.sign(&to_be_signed);
    der(SEQUENCE, &[&to_be_signed, &algorithm, &bit_string(signature.as_ref())])
}

/// All bits of all bytes.
fn bit_string(bytes: &[u8]) -> Vec<u8> {
    der(BIT_STRING, &[&[0], bytes])
}

/// What is read of a certificate; names and key with their tags.
struct Read<'a> {
    validity: Validity,
    subject: &'a [u8],
    public_key: &'a [u8],
}

impl<'a> Read<'a> {
    fn of(certificate: &'a [u8]) -> Option<Self> {
        let [outer] = parts(certificate)?[..] else { return None };
        let signed = parts(outer.contents)?.first()?.contents;
        let fields = parts(signed)?;
        // The version is not there in version 1.
        let fields = if fields.first()?.tag == VERSION { &fields[1..] } else { &fields[..] };
        let [_serial, _algorithm, _issuer, validity, subject, public_key, ..] = fields else { return None };
        let [not_before, not_after] = parts(validity.contents)?[..] else { return None };
        Some(Self {
            validity: Validity { not_before: not_before.seconds()?, not_after: not_after.seconds()? },
            subject: subject.whole,
            public_key: public_key.whole,
        })
    }
}

#[cfg(test)]
mod tests;
