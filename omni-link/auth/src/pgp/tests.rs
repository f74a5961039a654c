use std::sync::LazyLock;

use proptest::prelude::*;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::secret::{SecretKey, Seeds};
use super::signature::{Signature, kind, make, sub, verify_detached};
use super::wire::{put_mpi, put_packet, put_subpacket, tag};
use super::*;

const GO_OLD: &str = include_str!("../../tests/vectors/go-api-signature-v0.3.12.json");
const CREATED: u32 = 1_790_000_000;
const LIFETIME: u32 = 1_000_000;

fn secret() -> &'static (SecretKey, String) {
    static SECRET: LazyLock<(SecretKey, String)> = LazyLock::new(|| {
        let mut seeds = Seeds::default();
        seeds.ed25519.fill(3);
        seeds.x25519.fill(4);
        let (secret, armored) = SecretKey::generate(&seeds, "a <a@b.c>", CREATED, LIFETIME);
        (secret, armored.to_string())
    });
    &SECRET
}

fn pair() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap()
}

/// The octets within the armor of a private key.
fn secret_octets(armored: &str) -> Vec<u8> {
    armor::decode(armored, armor::PRIVATE_KEY).unwrap().to_vec()
}

/// The armored private key that Go made.
fn go_armored() -> String {
    use base64::Engine as _;
    let vector: serde_json::Value = serde_json::from_str(GO_OLD).unwrap();
    let env = vector["env"].as_str().unwrap();
    let json = base64::engine::general_purpose::STANDARD.decode(env).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    json["pgp_key"].as_str().unwrap().to_owned()
}

fn certificate_of(octets: &[u8]) -> Result<Certificate, PgpError> {
    Certificate::from_packets(&wire::packets(octets)?)
}

/// The packets of [`secret`], by tag and body.
fn parts() -> Vec<(u8, Vec<u8>)> {
    let octets = secret_octets(&secret().1);
    let packets = wire::packets(&octets).unwrap();
    packets.iter().map(|(tag, body)| (*tag, body.to_vec())).collect()
}

fn joined(parts: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, body) in parts {
        put_packet(&mut out, *tag, body);
    }
    out
}

fn public_body() -> Vec<u8> {
    let octets = secret_octets(&secret().1);
    let packets = wire::packets(&octets).unwrap();
    certificate::Primary::parse(packets[0].1).unwrap().body.to_vec()
}

/// A signature of the key about itself: over its user id when there is one.
fn self_signature(kind: u8, user_id: Option<&[u8]>, created: u32, more: &[(u8, &[u8])]) -> Vec<u8> {
    let public = public_body();
    let prefix = certificate::key_prefix(&public);
    let id_prefix = certificate::user_id_prefix(user_id.unwrap_or_default());
    let mut signed: Vec<&[u8]> = vec![&prefix, &public];
    if let Some(id) = user_id {
        signed.extend([&id_prefix[..], id]);
    }
    let fingerprint = certificate::fingerprint(&public);
    let packet = make(kind, &signed, &pair(), &fingerprint, created, more);
    wire::packets(&packet).unwrap()[0].1.to_vec()
}

const USER_ID: &[u8] = b"a <a@b.c>";

/// The key with its certification replaced by one with these subpackets.
fn certified(created: u32, more: &[(u8, &[u8])]) -> Result<Certificate, PgpError> {
    let mut parts = parts();
    parts[2].1 = self_signature(kind::POSITIVE_CERTIFICATION, Some(USER_ID), created, more);
    certificate_of(&joined(&parts))
}

#[test]
fn a_key_ends_with_its_own_lifetime_or_that_of_its_certification() {
    let seconds = |n: u32| n.to_be_bytes();
    let end = |n: u32| Some(super::at(u64::from(CREATED) + u64::from(n)));
    let (key, signature) = (sub::KEY_LIFETIME, sub::SIGNATURE_LIFETIME);
    for (subpackets, expected) in [
        (vec![], None),
        (vec![(key, seconds(0))], None),
        (vec![(key, seconds(9))], end(9)),
        (vec![(signature, seconds(9))], end(9)),
        (vec![(key, seconds(7)), (signature, seconds(9))], end(7)),
        (vec![(key, seconds(9)), (signature, seconds(7))], end(7)),
        (vec![(key, seconds(u32::MAX))], end(u32::MAX)),
    ] {
        let subpackets: Vec<(u8, &[u8])> = subpackets.iter().map(|(kind, body)| (*kind, &body[..])).collect();
        let certificate = certified(CREATED, &subpackets).unwrap();
        assert_eq!(certificate.expires_at(), expected, "{subpackets:?}");
    }
}

#[test]
fn the_latest_certification_counts() {
    let mut parts = parts();
    let later = |by: u32, lifetime: u32| {
        let body = [(sub::KEY_LIFETIME, &lifetime.to_be_bytes()[..])];
        let kind = kind::POSITIVE_CERTIFICATION;
        (tag::SIGNATURE, self_signature(kind, Some(USER_ID), CREATED + by, &body))
    };
    parts.splice(3..3, [later(20, 500), later(10, 700)]);
    let certificate = certificate_of(&joined(&parts)).unwrap();
    assert_eq!(certificate.expires_at(), Some(super::at(u64::from(CREATED) + 500)));
}

#[test]
fn keys_that_are_revoked_or_not_for_signing_are_refused() {
    let flags = |flags: u8| certified(CREATED, &[(sub::KEY_FLAGS, &[flags])]).map(drop);
    assert_eq!(flags(0x03), Ok(()));
    assert_eq!(flags(0x01), Err(PgpError::NotForSigning));
    let empty = certified(CREATED, &[(sub::KEY_FLAGS, &[])]).map(drop);
    assert_eq!(empty, Err(PgpError::NotForSigning));

    let mut revoked = parts();
    let revocation = self_signature(kind::KEY_REVOCATION, None, CREATED, &[]);
    revoked.insert(1, (tag::SIGNATURE, revocation));
    assert_eq!(certificate_of(&joined(&revoked)), Err(PgpError::Revoked));

    let mut revoked = parts();
    let id = Some(USER_ID);
    let revocation = self_signature(kind::CERTIFICATION_REVOCATION, id, CREATED, &[]);
    revoked.insert(3, (tag::SIGNATURE, revocation));
    assert_eq!(certificate_of(&joined(&revoked)), Err(PgpError::NoUserId));
}

#[test]
fn a_certification_counts_only_where_it_stands_and_whole() {
    let whole = parts();
    assert!(certificate_of(&joined(&whole)).is_ok());
    // Without it, before the user id, over another user id, made for a subkey.
    let (signature, binding) = (whole[2].clone(), whole[4].clone());
    let other_id = (tag::USER_ID, b"b <b@b.c>".to_vec());
    for changed in [
        vec![whole[0].clone(), whole[1].clone()],
        vec![whole[0].clone(), signature.clone(), whole[1].clone()],
        vec![whole[0].clone(), other_id, signature.clone()],
        vec![whole[0].clone(), whole[1].clone(), (17, vec![1]), signature.clone()],
        vec![whole[0].clone(), whole[1].clone(), binding],
    ] {
        let refused = certificate_of(&joined(&changed));
        assert_eq!(refused, Err(PgpError::NoUserId), "{changed:?}");
    }
    let critical = certified(CREATED, &[(99 | sub::CRITICAL, b"x")]);
    assert_eq!(critical, Err(PgpError::NoUserId));
    assert!(certified(CREATED, &[(99, b"x")]).is_ok());
    // Two keys in one are none.
    let twice = [whole.clone(), whole].concat();
    assert_eq!(certificate_of(&joined(&twice)), Err(PgpError::Unexpected));
}

#[test]
fn no_secret_is_in_a_certificate_made_from_a_private_key() {
    for (armored, secrets) in [(secret().1.clone(), 1), (go_armored(), 0)] {
        let octets = secret_octets(&armored);
        let certificate = certificate_of(&octets).unwrap();
        let public = armor::decode(&certificate.to_armored(), armor::PUBLIC_KEY).unwrap();
        let tags: Vec<u8> = wire::packets(&public).unwrap().iter().map(|p| p.0).collect();
        assert_eq!(tags, [tag::PUBLIC_KEY, tag::USER_ID, tag::SIGNATURE, tag::PUBLIC_SUBKEY, tag::SIGNATURE]);
        // Protection, length, secret, checksum of two keys.
        assert!(octets.len() - public.len() >= 2 * (1 + 2 + 30 + 2));
        assert!(secrets == 0 || !public.windows(32).any(|window| window == [3; 32]));
    }
}

#[test]
fn packets_are_read_in_both_formats_and_refused_when_cut() {
    let body = vec![7; 300];
    let mut new = Vec::new();
    put_packet(&mut new, tag::USER_ID, &body);
    let old = [&[0x80 | 13 << 2 | 1, 1, 44][..], &body].concat();
    let long = [&[0x80 | 13 << 2 | 2, 0, 0, 1, 44][..], &body].concat();
    let five = [&[0xc0 | 13, 255, 0, 0, 1, 44][..], &body].concat();
    for octets in [new, old, long, five] {
        assert_eq!(wire::packets(&octets), Ok(vec![(tag::USER_ID, &body[..])]));
        for cut in 1..octets.len() {
            assert_eq!(wire::packets(&octets[..cut]), Err(PgpError::Malformed));
        }
    }
    for malformed in [&[0x0d, 0][..], &[0xcd, 224, 0], &[0x80 | 13 << 2 | 3, 0]] {
        assert_eq!(wire::packets(malformed), Err(PgpError::Malformed));
    }
    assert_eq!(wire::packets(&[0xcd, 0].repeat(65)), Err(PgpError::Malformed));
    assert_eq!(wire::packets(&[0xca, 3, b'P', b'G', b'P']), Ok(vec![]));
}

#[test]
fn armor_is_read_with_headers_and_without_a_checksum_but_not_with_a_wrong_one() {
    let text = armor::encode(b"123456789", armor::PUBLIC_KEY).to_string();
    // The check value of CRC-24 for this text is 21cf02.
    assert!(text.contains("\n=Ic8C\n"), "{text}");
    let decode = |text: &str| armor::decode(text, armor::PUBLIC_KEY).map(|it| it.to_vec());
    let good = Ok(b"123456789".to_vec());
    assert_eq!(decode(&text), good);
    assert_eq!(decode(&text.replace('\n', "\r\n")), good);
    assert_eq!(decode(&text.replacen("\n\n", "\nVersion: 1\nComment: x\n\n", 1)), good);
    assert_eq!(decode(&format!("before\n{text}after")), good);
    assert_eq!(decode(&text.replace("=Ic8C\n", "")), good);
    for broken in [
        text.replace("=Ic8C", "=Ic8D"),
        text.replace("=Ic8C", "=Ic8C\n=Ic8C"),
        text.replace("=Ic8C", "=Ic8C\nAAAA"),
        text.replace("END", "DNE"),
        text.replace("PUBLIC", "PRIVATE"),
        String::new(),
    ] {
        assert_eq!(decode(&broken), Err(PgpError::Armor), "{broken}");
    }
}

fn detached(created: u32, more: &[(u8, &[u8])]) -> Vec<u8> {
    let fingerprint = certificate::fingerprint(&public_body());
    make(kind::BINARY, &[b"text"], &pair(), &fingerprint, created, more)
}

fn judge(packet: &[u8], now: u64) -> Result<(), PgpError> {
    let (secret, _) = secret();
    let certificate = secret.certificate();
    let (key, fingerprint) = (certificate.ed25519(), certificate.fingerprint());
    verify_detached(packet, b"text", key, fingerprint, super::at(now))
}

#[test]
fn a_detached_signature_has_its_time() {
    let now = u64::from(CREATED);
    let lifetime: (u8, &[u8]) = (sub::SIGNATURE_LIFETIME, &[0, 0, 0, 60]);
    for (now, more, expected) in [
        (now, vec![], Ok(())),
        (now + 1_000_000, vec![], Ok(())),
        (now - 300, vec![], Ok(())),
        (now - 301, vec![], Err(PgpError::Time)),
        (now + 59, vec![lifetime], Ok(())),
        (now + 60, vec![lifetime], Err(PgpError::Time)),
    ] {
        assert_eq!(judge(&detached(CREATED, &more), now), expected, "{now} {more:?}");
    }
}

#[test]
fn a_signature_of_another_kind_or_with_more_around_it_is_refused() {
    let now = u64::from(CREATED);
    let good = detached(CREATED, &[]);
    let fingerprint = certificate::fingerprint(&public_body());
    let of_kind = |kind| make(kind, &[b"text"], &pair(), &fingerprint, CREATED, &[]);
    let by = |fingerprint: [u8; 20]| make(0, &[b"text"], &pair(), &fingerprint, CREATED, &[]);
    let octet = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        packet
    };
    for (packet, expected) in [
        (good.clone(), Ok(())),
        ([good.clone(), good.clone()].concat(), Err(PgpError::Unexpected)),
        (vec![], Err(PgpError::Unexpected)),
        (of_kind(1), Err(PgpError::Unexpected)),
        (of_kind(kind::POSITIVE_CERTIFICATION), Err(PgpError::Unexpected)),
        (by([1; 20]), Err(PgpError::Issuer)),
        (octet(0, 0xc0 | tag::USER_ID), Err(PgpError::Unexpected)),
        (octet(2, 3), Err(PgpError::Algorithm)),
        (octet(4, 1), Err(PgpError::Algorithm)),
        // SHA-1, and SHA-512 where SHA-256 was taken.
        (octet(5, 2), Err(PgpError::Algorithm)),
        (octet(5, 10), Err(PgpError::Signature)),
        (detached(CREATED, &[(99 | sub::CRITICAL, &[])]), Err(PgpError::Critical)),
        (detached(CREATED, &[(99, &[])]), Ok(())),
    ] {
        assert_eq!(judge(&packet, now), expected, "{packet:x?}");
    }
}

/// Omni takes a signature that names its maker in the unhashed part only, or by
/// fingerprint only; one that names nobody it cannot look up.
#[test]
fn the_issuer_may_be_named_in_either_way_and_must_be_named() {
    let fingerprint = certificate::fingerprint(&public_body());
    let v4_fingerprint = [&[4][..], &fingerprint].concat();
    let v6_fingerprint = [&[6][..], &[1; 32]].concat();
    let key_id: &[u8] = &fingerprint[12..];
    let (by_id, by_fingerprint) = (sub::ISSUER_KEY_ID, sub::ISSUER_FINGERPRINT);
    for (unhashed, expected) in [
        (vec![], Err(PgpError::Issuer)),
        (vec![(by_id, key_id)], Ok(())),
        (vec![(by_id | sub::CRITICAL, key_id)], Ok(())),
        (vec![(by_fingerprint, &v4_fingerprint[..])], Ok(())),
        (vec![(by_id, key_id), (by_fingerprint, &v4_fingerprint[..])], Ok(())),
        (vec![(by_id, &[0; 8][..])], Err(PgpError::Issuer)),
        (vec![(by_id, &[0; 8][..]), (by_fingerprint, &v4_fingerprint[..])], Err(PgpError::Issuer)),
        (vec![(by_id, &[0; 7][..])], Err(PgpError::Malformed)),
        (vec![(by_fingerprint, &v6_fingerprint[..])], Err(PgpError::Issuer)),
    ] {
        let packet = bare_signature(&unhashed);
        assert_eq!(judge(&packet, CREATED.into()), expected, "{unhashed:?}");
    }
}

/// A signature over "text" with nothing but its time hashed.
fn bare_signature(unhashed: &[(u8, &[u8])]) -> Vec<u8> {
    let mut body = vec![4, 0, 22, 8, 0, 6];
    put_subpacket(&mut body, sub::CREATED, &CREATED.to_be_bytes());
    let trailer = [&body[..], &[4, 0xff, 0, 0, 0, 12]].concat();
    let digest = ring::digest::digest(&ring::digest::SHA256, &[b"text", &trailer[..]].concat());
    let value = pair().sign(digest.as_ref());
    let mut subpackets = Vec::new();
    for (kind, value) in unhashed {
        put_subpacket(&mut subpackets, *kind, value);
    }
    body.extend_from_slice(&(subpackets.len() as u16).to_be_bytes());
    body.extend_from_slice(&subpackets);
    body.extend_from_slice(&digest.as_ref()[..2]);
    for half in value.as_ref().chunks(32) {
        put_mpi(&mut body, half);
    }
    let mut packet = Vec::new();
    put_packet(&mut packet, tag::SIGNATURE, &body);
    packet
}

#[test]
fn a_number_may_lose_its_leading_zeros_on_the_wire() {
    let (secret, _) = secret();
    let certificate = secret.certificate();
    let (key, by) = (certificate.ed25519(), certificate.fingerprint());
    let fingerprint = certificate::fingerprint(&public_body());
    let sign = |text: &[u8]| make(0, &[text], &pair(), &fingerprint, CREATED, &[]);
    let whole = sign(b"").len().max(sign(b"x").len());
    let (text, packet) = (0_u32..500)
        .map(|salt| (salt.to_be_bytes(), sign(&salt.to_be_bytes())))
        .find(|(_, packet)| packet.len() < whole)
        .expect("one in 15 signatures is shorter");
    let now = super::at(CREATED.into());
    assert_eq!(verify_detached(&packet, &text, key, by, now), Ok(()));
}

proptest! {
    #[test]
    fn no_octets_make_a_reader_panic(octets in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = certificate_of(&octets);
        let _ = Signature::parse(&octets);
        let _ = judge(&octets, CREATED.into());
        for kind in [armor::PRIVATE_KEY, armor::PUBLIC_KEY] {
            let armored = armor::encode(&octets, kind);
            let _ = Certificate::from_armored(&armored);
            let _ = SecretKey::from_armored(&armored);
            prop_assert_eq!(&**armor::decode(&armored, kind).unwrap(), &octets[..]);
        }
    }

    #[test]
    fn no_packet_bodies_make_a_reader_panic(
        bodies in prop::collection::vec((0_u8..64, prop::collection::vec(any::<u8>(), 0..120)), 0..6),
    ) {
        let _ = certificate_of(&joined(&bodies));
        let _ = judge(&joined(&bodies), CREATED.into());
    }

    #[test]
    fn no_text_makes_a_reader_panic(text in "(-----BEGIN PGP (PUBLIC|PRIVATE) KEY BLOCK-----\n)?[A-Za-z0-9+/=:\r\n -]{0,300}(\n-----END PGP (PUBLIC|PRIVATE) KEY BLOCK-----)?") {
        let _ = Certificate::from_armored(&text);
        let _ = SecretKey::from_armored(&text);
        let _ = crate::ServiceAccountKey::from_env_value(&text);
    }

    /// Whatever is done to a key: it does not panic, and what can still be read is the
    /// same key with the same end, since the key's own signature covers both.
    #[test]
    fn a_damaged_key_is_refused_or_still_the_same(
        of_go in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..4), 1..4),
    ) {
        let armored = if of_go { go_armored() } else { secret().1.clone() };
        let original = secret_octets(&armored);
        let expected = certificate_of(&original).unwrap();
        let mut octets = original;
        for (index, value, change) in changes {
            let at = index.index(octets.len());
            match change {
                0 => octets[at] = value,
                1 => octets[at] ^= 1 << (value % 8),
                2 => octets.insert(at, value),
                _ if octets.len() > 1 => drop(octets.remove(at)),
                _ => {}
            }
        }
        let _ = SecretKey::from_armored(&armor::encode(&octets, armor::PRIVATE_KEY));
        if let Ok(read) = certificate_of(&octets) {
            prop_assert_eq!(read.fingerprint(), expected.fingerprint());
            prop_assert_eq!(read.ed25519(), expected.ed25519());
            prop_assert_eq!(read.user_id(), expected.user_id());
            prop_assert_eq!(read.expires_at(), expected.expires_at());
        }
    }

    #[test]
    fn what_is_signed_verifies_and_nothing_else_does(
        seed in any::<[u8; 32]>(),
        data in prop::collection::vec(any::<u8>(), 1..200),
        created in 400_u32..u32::MAX,
        flip in (any::<prop::sample::Index>(), 0_u8..8),
    ) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let key: [u8; 32] = pair.public_key().as_ref().try_into().unwrap();
        let packet = make(kind::BINARY, &[&data], &pair, &[0xab; 20], created, &[]);
        let now = super::at(created.into());
        let by = "ab".repeat(20);
        prop_assert_eq!(verify_detached(&packet, &data, &key, &by, now), Ok(()));
        let mut other = data.clone();
        other[flip.0.index(data.len())] ^= 1 << flip.1;
        prop_assert_eq!(
            verify_detached(&packet, &other, &key, &by, now),
            Err(PgpError::Signature)
        );
        let mut damaged = packet.clone();
        damaged[flip.0.index(packet.len())] ^= 1 << flip.1;
        // A few bits mean nothing: whether one must understand the issuer in the unhashed
        // part, and a number's length in bits where it is the same length in octets.
        if let Ok(()) = verify_detached(&damaged, &data, &key, &by, now) {
            let (a, b) = (Signature::parse(&packet[2..]), Signature::parse(&damaged[2..]));
            prop_assert_eq!(a.unwrap().created, b.unwrap().created);
        }
    }
}
