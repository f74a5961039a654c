use dhcproto::{Decodable, Decoder, Encodable, v4};
use proptest::prelude::*;

use super::*;
use crate::dhcp::fixtures;

fn at(bytes: &[u8], offset: usize, value: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[offset] = value;
    bytes
}

/// A well-formed header with these bytes as options.
fn with_options(options: &[u8]) -> Vec<u8> {
    let mut bytes = Message::new(Op::Request).emit();
    bytes.truncate(MESSAGE_MIN);
    bytes.extend_from_slice(options);
    bytes
}

#[test]
fn the_header_is_checked_before_the_options() {
    let good = fixtures::discover_from_ovmf().emit();
    assert!(Message::parse(&good).is_ok());
    assert_eq!(Message::parse(&good[..MESSAGE_MIN - 1]), Err(ParseError::TooShort));
    assert_eq!(Message::parse(&[]), Err(ParseError::TooShort));
    assert_eq!(Message::parse(&at(&good, 0, 3)), Err(ParseError::Op(3)));
    assert_eq!(Message::parse(&at(&good, 2, 17)), Err(ParseError::AddressLength(17)));
    assert_eq!(Message::parse(&at(&good, 2, 255)), Err(ParseError::AddressLength(255)));
    assert_eq!(Message::parse(&at(&good, HEADER_LEN, 98)), Err(ParseError::Cookie));
    assert_eq!(Message::parse(&vec![0; MESSAGE_MAX + 1]), Err(ParseError::TooLong));
}

#[test]
fn options_that_go_on_after_the_end_are_refused() {
    for options in [&[53][..], &[53, 1], &[0, 0, 60, 10, b'P'], &[53, 1, 1, 97, 17, 0]] {
        assert!(matches!(Message::parse(&with_options(options)), Err(ParseError::CutOff(_))), "{options:?}");
    }
}

#[test]
fn a_missing_end_mark_is_forgiven_and_nothing_is_read_after_one() {
    let options = Message::parse(&with_options(&[53, 1, 1])).unwrap().options;
    assert_eq!(options.value(53), Some(&[1][..]));
    let options = Message::parse(&with_options(&[53, 1, 1, 255, 60, 200])).unwrap().options;
    assert_eq!(options.iter().count(), 1);
    assert_eq!(Message::parse(&with_options(&[])).unwrap().options, Options::new());
}

#[test]
fn lengths_that_the_definition_forbids_are_refused() {
    let wrong: [&[u8]; 9] = [
        &[53, 0],
        &[53, 2, 1, 1],
        &[54, 3, 1, 2, 3],
        &[50, 5, 1, 2, 3, 4, 5],
        &[57, 1, 1],
        &[93, 0],
        &[93, 1, 7],
        &[93, 3, 0, 7, 0],
        &[94, 2, 1, 2],
    ];
    for options in wrong {
        assert_eq!(
            Message::parse(&with_options(options)),
            Err(ParseError::OptionLength(options[0])),
            "{options:?}"
        );
    }
}

#[test]
fn a_repeated_option_is_one_long_option() {
    let options = Message::parse(&with_options(&[93, 2, 0, 7, 53, 1, 1, 93, 2, 0, 16, 255])).unwrap().options;
    assert_eq!(options.value(93), Some(&[0, 7, 0, 16][..]));
    let mut long = Message::new(Op::Reply);
    long.options.push(82, &[7; 600]);
    let parsed = Message::parse(&long.emit()).unwrap();
    assert_eq!(parsed.options.value(82), Some(&[7; 600][..]));
}

#[test]
fn messages_are_padded_to_the_length_of_bootp() {
    let bytes = Message::new(Op::Reply).emit();
    assert_eq!(bytes.len(), EMIT_MIN);
    assert_eq!(bytes[MESSAGE_MIN], END);
}

#[test]
fn every_fixture_is_read_back_as_it_was_written() {
    for message in fixtures::all() {
        assert_eq!(Message::parse(&message.emit()), Ok(message));
    }
}

#[test]
fn captures_are_written_back_byte_for_byte_up_to_their_padding() {
    for capture in fixtures::CAPTURES {
        let written = Message::parse(capture).unwrap().emit();
        let (common, padding) = capture.split_at(written.len());
        assert_eq!(common, written);
        assert!(padding.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn another_implementation_reads_the_same_from_what_we_write() {
    for ours in fixtures::all() {
        let theirs = v4::Message::decode(&mut Decoder::new(&ours.emit())).unwrap();
        assert_eq!(theirs.xid(), ours.xid);
        assert_eq!(theirs.chaddr(), ours.hardware_address());
        assert_eq!((theirs.ciaddr(), theirs.giaddr()), (ours.ciaddr, ours.giaddr));
        assert_eq!(theirs.opts().iter().count(), ours.options.iter().count());
        let vendor_class = theirs.opts().get(v4::OptionCode::ClassIdentifier);
        assert_eq!(
            vendor_class,
            ours.options
                .value(option::VENDOR_CLASS)
                .map(|v| v4::DhcpOption::ClassIdentifier(v.to_vec()))
                .as_ref()
        );
    }
}

#[test]
fn we_read_the_same_from_what_another_implementation_writes() {
    for ours in fixtures::all() {
        let theirs = v4::Message::decode(&mut Decoder::new(&ours.emit())).unwrap();
        let again = Message::parse(&theirs.to_vec().unwrap()).unwrap();
        for (number, value) in ours.options.iter() {
            assert_eq!(again.options.value(number), Some(value), "option {number}");
        }
        assert_eq!((again.xid, again.chaddr, again.flags), (ours.xid, ours.chaddr, ours.flags));
    }
}

fn any_options() -> impl Strategy<Value = Options> {
    let one = (1..255_u8, prop::collection::vec(any::<u8>(), 0..40));
    prop::collection::vec(one, 0..20).prop_map(|list| {
        let mut options = Options::new();
        for (number, value) in
            list.into_iter().filter(|(number, value)| length_is_right(*number, value.len()))
        {
            if options.value(number).is_none() {
                options.push(number, &value);
            }
        }
        options
    })
}

prop_compose! {
    fn any_message()(
        reply in any::<bool>(),
        numbers in any::<(u8, u8, u32, u16, u16)>(),
        hlen in 0..=16_u8,
        addresses in any::<[[u8; 4]; 4]>(),
        chaddr in any::<[u8; 16]>(),
        name in any::<u8>(),
        options in any_options(),
    ) -> Message {
        let (htype, hops, xid, secs, flags) = numbers;
        let [ciaddr, yiaddr, siaddr, giaddr] = addresses.map(Ipv4Addr::from);
        let op = if reply { Op::Reply } else { Op::Request };
        Message {
            op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr,
            sname: [name; 64], file: [name; 128], options,
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..1600)) {
        let _ = Message::parse(&bytes);
    }

    #[test]
    fn any_options_are_read_or_refused(options in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(message) = Message::parse(&with_options(&options)) {
            let total: usize = message.options.iter().map(|(_, value)| value.len()).sum();
            prop_assert!(total <= options.len());
        }
    }

    #[test]
    fn fixtures_with_a_flipped_byte_are_read_or_refused(which in 0..fixtures::all().len(), offset in 0..420_usize, value: u8) {
        let good = fixtures::all().swap_remove(which).emit();
        let offset = offset.min(good.len() - 1);
        if let Ok(message) = Message::parse(&at(&good, offset, value)) {
            prop_assert_eq!(Message::parse(&message.emit()), Ok(message));
        }
    }

    #[test]
    fn what_is_written_is_read_back(message in any_message()) {
        prop_assert_eq!(Message::parse(&message.emit()), Ok(message));
    }
}
