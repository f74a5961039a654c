use super::*;
use proptest::prelude::*;

const YEAR: Validity = Validity { not_before: 1_795_000_000, not_after: 1_826_536_000 };

#[test]
fn lengths_are_written_as_short_as_they_can_be() {
    assert_eq!(der(4, &[]), [4, 0]);
    assert_eq!(der(4, &[&[7; 127]])[..2], [4, 127]);
    assert_eq!(der(4, &[&[7; 128]])[..3], [4, 0x81, 128]);
    assert_eq!(der(4, &[&[7; 256]])[..4], [4, 0x82, 1, 0]);
}

#[test]
fn times_are_written_as_rfc_5280_wants_them() {
    assert_eq!(der::time(0)[2..], *b"700101000000Z");
    assert_eq!(der::time(951_782_400)[2..], *b"000229000000Z");
    assert_eq!(der::time(2_524_607_999)[2..], *b"491231235959Z");
    assert_eq!(der::time(2_524_608_000)[2..], *b"20500101000000Z");
    assert_eq!(der::time(u64::MAX)[2..], *b"99991231235959Z");
}

#[test]
fn a_serial_number_is_positive_whatever_the_randomness() {
    for byte in [0, 0x7f, 0x80, 0xff] {
        let made = Certificate::self_signed("x", Validity::FOREVER, &[byte; 48]).certificate;
        let at = made.windows(2).position(|pair| pair == [INTEGER, 16]).unwrap();
        assert!((0x40..0x80).contains(&made[at + 2]));
    }
}

#[test]
fn an_authority_is_read_as_it_was_written_and_renewed_with_the_same_key() {
    let authority = Authority::generate(YEAR, &[7; 48]);
    let read = Authority::read(authority.certificate().clone()).unwrap();
    assert_eq!((read.validity(), read.certificate()), (YEAR, authority.certificate()));
    let later = Validity { not_after: YEAR.not_after + 1, ..YEAR };
    let renewed = read.renewed(later, &[9; 48]);
    assert_eq!(renewed.validity(), later);
    assert_eq!(renewed.certificate().key, authority.certificate().key);
    assert_ne!(renewed.certificate().certificate, authority.certificate().certificate);
    // What either signs is the same but for the serial number and the signature, so it is the other's too.
    let issued = |authority: &Authority| authority.issue(&[[10, 0, 0, 1].into()], YEAR, &[1; 48]);
    assert_eq!(issued(&renewed), issued(&authority));
}

#[test]
fn a_damaged_authority_is_none() {
    let whole = Authority::generate(YEAR, &[7; 48]).certificate().clone();
    let other = Authority::generate(YEAR, &[8; 48]).certificate().key.clone();
    assert!(Authority::read(Certificate { key: other, ..whole.clone() }).is_none());
    assert!(Authority::read(Certificate { certificate: Vec::new(), ..whole.clone() }).is_none());
    let cut = whole.certificate[..whole.certificate.len() - 1].to_vec();
    assert!(Authority::read(Certificate { certificate: cut, ..whole }).is_none());
}

proptest! {
    #[test]
    fn times_are_read_as_they_were_written(seconds in 0..=der::LAST_SECOND) {
        let written = der::time(seconds);
        prop_assert_eq!(parts(&written).unwrap()[0].seconds(), Some(seconds));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0..400_usize, byte: u8) {
        let _ = Validity::of(&bytes);
        let mut whole = Authority::generate(YEAR, &[7; 48]).certificate().certificate.clone();
        let at = at % whole.len();
        whole[at] = byte;
        let _ = Validity::of(&whole);
        let _ = Validity::of(&whole[..at]);
    }
}
