//! The public half of a key: primary key, user ids, and what the key says of itself.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use ring::digest;

use super::signature::{EDDSA, Signature, ends, kind};
use super::wire::{self, Packet, Reader, put_packet, tag};
use super::{PgpError, armor, at};

/// The curve Ed25519 by its object identifier, 1.3.6.1.4.1.11591.15.1.
pub(super) const ED25519_OID: [u8; 9] = [0x2b, 6, 1, 4, 1, 0xda, 0x47, 0x0f, 1];
/// ECDH, the algorithm of subkeys.
pub(super) const ECDH: u8 = 18;
/// A point in its native form.
pub(super) const NATIVE_POINT: u8 = 0x40;
/// The key may sign data.
pub(super) const MAY_SIGN: u8 = 0x02;

/// Armored public keys that are longer are no service account's.
const MAX_ARMORED: usize = 64 * 1024;

/// The public half of a service account's key, its self-signatures verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    fingerprint: String,
    ed25519: [u8; 32],
    created: SystemTime,
    expires_at: Option<SystemTime>,
    user_id: String,
    /// The packets, public ones only.
    packets: Vec<u8>,
}

impl Certificate {
    /// Reads an armored public key.
    ///
    /// # Errors
    /// When it is malformed, of another kind than version 4 Ed25519, revoked, or not
    /// certified by itself.
    pub fn from_armored(text: &str) -> Result<Self, PgpError> {
        if text.len() > MAX_ARMORED {
            return Err(PgpError::Armor);
        }
        let bytes = armor::decode(text, armor::PUBLIC_KEY)?;
        Self::from_packets(&wire::packets(&bytes)?)
    }

    /// The fingerprint: 40 hexadecimal digits, lower case.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The public key itself.
    #[must_use]
    pub const fn ed25519(&self) -> &[u8; 32] {
        &self.ed25519
    }

    /// When the key was made.
    #[must_use]
    pub const fn created(&self) -> SystemTime {
        self.created
    }

    /// When the key ends; `None` when it never does.
    #[must_use]
    pub const fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at
    }

    /// The user id, as `name (comment) <address>`.
    #[must_use]
    pub fn user_id(&self) -> &str {
        &self.user_id
    }

    /// As armored text.
    #[must_use]
    pub fn to_armored(&self) -> String {
        armor::encode(&self.packets, armor::PUBLIC_KEY).to_string()
    }

    /// Reads a key from its packets; secret parts are left out.
    pub(super) fn from_packets(packets: &[Packet<'_>]) -> Result<Self, PgpError> {
        let Some((&(first @ (tag::PUBLIC_KEY | tag::SECRET_KEY), body), rest)) = packets.split_first() else {
            return Err(PgpError::Unexpected);
        };
        let primary = Primary::parse(body)?;
        if first == tag::PUBLIC_KEY && primary.body.len() != body.len() {
            return Err(PgpError::Malformed);
        }
        let mut out = Vec::new();
        put_packet(&mut out, tag::PUBLIC_KEY, primary.body);

        let mut best: Option<(&str, Signature<'_>)> = None;
        let mut revoked_user_ids = Vec::new();
        let mut part = Part::Primary;
        for &(tag, body) in rest {
            match tag {
                tag::USER_ID => part = Part::UserId(body),
                tag::SECRET_SUBKEY | tag::PUBLIC_SUBKEY => part = Part::subkey(body),
                tag::SIGNATURE => match (&part, primary.self_signature(&part, body)) {
                    (Part::Primary, Some(signature)) if signature.kind == kind::KEY_REVOCATION => {
                        return Err(PgpError::Revoked);
                    }
                    (Part::UserId(id), Some(signature)) => {
                        let text = std::str::from_utf8(id).map_err(|_| PgpError::Malformed)?;
                        if signature.kind == kind::CERTIFICATION_REVOCATION {
                            revoked_user_ids.push(text);
                        } else if best.as_ref().is_none_or(|(_, it)| it.created < signature.created) {
                            best = Some((text, signature));
                        }
                    }
                    _ => {}
                },
                // A second key, or something that is not of a key at all.
                tag::PUBLIC_KEY | tag::SECRET_KEY => return Err(PgpError::Unexpected),
                _ => part = Part::Other,
            }
            match (&part, tag) {
                (Part::Other, _) => {}
                (Part::Subkey(public), tag::SECRET_SUBKEY | tag::PUBLIC_SUBKEY) => {
                    put_packet(&mut out, tag::PUBLIC_SUBKEY, public);
                }
                _ => put_packet(&mut out, tag, body),
            }
        }
        let (user_id, signature) =
            best.filter(|(user_id, _)| !revoked_user_ids.contains(user_id)).ok_or(PgpError::NoUserId)?;
        if signature.key_flags.is_some_and(|flags| flags & MAY_SIGN == 0) {
            return Err(PgpError::NotForSigning);
        }
        Ok(Self {
            fingerprint: hex(&primary.fingerprint),
            ed25519: primary.ed25519,
            created: at(primary.created.into()),
            expires_at: primary.expires(&signature).map(at),
            user_id: user_id.to_owned(),
            packets: out,
        })
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("fingerprint", &self.fingerprint)
            .field("user_id", &self.user_id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// What the signatures that follow are about.
enum Part<'a> {
    Primary,
    UserId(&'a [u8]),
    /// A subkey, with its public part.
    Subkey(&'a [u8]),
    Other,
}

impl<'a> Part<'a> {
    /// Subkeys are of no use here; one that is not understood is left out.
    fn subkey(body: &'a [u8]) -> Self {
        subkey_public_part(body).map_or(Self::Other, Self::Subkey)
    }
}

fn subkey_public_part(body: &[u8]) -> Result<&[u8], PgpError> {
    let mut input = Reader::new(body);
    let version = input.u8()?;
    input.u32()?;
    let algorithm = input.u8()?;
    if version != 4 || !matches!(algorithm, EDDSA | ECDH) {
        return Err(PgpError::Algorithm);
    }
    input.short()?;
    input.mpi()?;
    if algorithm == ECDH {
        input.short()?;
    }
    Ok(&body[..body.len() - input.rest().len()])
}

/// The public part of a primary key.
pub(super) struct Primary<'a> {
    pub(super) body: &'a [u8],
    pub(super) created: u32,
    pub(super) ed25519: [u8; 32],
    pub(super) fingerprint: [u8; 20],
}

impl<'a> Primary<'a> {
    /// Reads the public part that every key packet begins with.
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, PgpError> {
        let mut input = Reader::new(body);
        if input.u8()? != 4 {
            return Err(PgpError::Algorithm);
        }
        let created = input.u32()?;
        if input.u8()? != EDDSA || input.short()? != ED25519_OID {
            return Err(PgpError::Algorithm);
        }
        let Some((&NATIVE_POINT, point)) = input.mpi()?.split_first() else {
            return Err(PgpError::Malformed);
        };
        let ed25519 = point.try_into().map_err(|_| PgpError::Malformed)?;
        let body = &body[..body.len() - input.rest().len()];
        Ok(Self { body, created, ed25519, fingerprint: fingerprint(body) })
    }

    /// A signature that this key made about a part of itself; others count for nothing.
    fn self_signature<'b>(&self, part: &Part<'_>, packet: &'b [u8]) -> Option<Signature<'b>> {
        let signature = Signature::parse(packet).ok()?;
        if !signature.issued_by(&self.fingerprint) {
            return None;
        }
        let prefix = key_prefix(self.body);
        let verified = match part {
            Part::Primary if signature.kind == kind::KEY_REVOCATION => {
                signature.verify(&[&prefix, self.body], &self.ed25519)
            }
            Part::UserId(id)
                if matches!(
                    signature.kind,
                    kind::GENERIC_CERTIFICATION
                        ..=kind::POSITIVE_CERTIFICATION | kind::CERTIFICATION_REVOCATION
                ) =>
            {
                let id_prefix = user_id_prefix(id);
                signature.verify(&[&prefix, self.body, &id_prefix, id], &self.ed25519)
            }
            _ => return None,
        };
        verified.is_ok().then_some(signature)
    }

    /// The key ends when its lifetime is over, or when what certifies it is.
    fn expires(&self, signature: &Signature<'_>) -> Option<u64> {
        let key = ends(self.created, signature.key_lifetime);
        let certification = signature.expires();
        match (key, certification) {
            (Some(key), Some(certification)) => Some(key.min(certification)),
            (key, certification) => key.or(certification),
        }
    }
}

/// What stands before a key where it is hashed (section 5.2.4).
pub(super) fn key_prefix(body: &[u8]) -> [u8; 3] {
    let [high, low] = (body.len() as u16).to_be_bytes();
    [0x99, high, low]
}

/// What stands before a user id where it is hashed.
pub(super) fn user_id_prefix(id: &[u8]) -> [u8; 5] {
    let [a, b, c, d] = (id.len() as u32).to_be_bytes();
    [0xb4, a, b, c, d]
}

/// The fingerprint of a version 4 key (section 12.2).
pub(super) fn fingerprint(body: &[u8]) -> [u8; 20] {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(&key_prefix(body));
    context.update(body);
    let mut fingerprint = [0; 20];
    fingerprint.copy_from_slice(context.finish().as_ref());
    fingerprint
}

fn hex(octets: &[u8]) -> String {
    let mut text = String::with_capacity(2 * octets.len());
    for octet in octets {
        write!(text, "{octet:02x}").expect("a string takes all text");
    }
    text
}
