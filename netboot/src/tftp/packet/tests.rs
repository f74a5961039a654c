use proptest::prelude::*;

use super::*;

/// What OVMF's first request looks like: a size probe.
fn size_probe_from_edk2() -> Vec<u8> {
    b"\0\x01snp.efi\0octet\0tsize\x000\0blksize\x001468\0windowsize\x004\0".to_vec()
}

#[test]
fn a_size_probe_of_edk2_is_read() {
    let bytes = size_probe_from_edk2();
    let Packet::Read(request) = Packet::parse(&bytes).unwrap() else { panic!("no read request") };
    assert_eq!(request.name, "snp.efi");
    assert_eq!(request.mode, Mode::Octet);
    assert_eq!(request.options.transfer_size, Some(0));
    assert_eq!(request.options.block_size, Some(1468));
    assert_eq!(request.options.window_size, Some(4));
    assert_eq!(request.options.timeout_secs, None);
}

#[test]
fn names_of_options_and_modes_have_no_case() {
    let Packet::Read(request) = Packet::parse(b"\0\x01a\0OCTET\0BlkSize\x001024\0TSIZE\x000\0").unwrap()
    else {
        panic!("no read request")
    };
    assert_eq!(request.options.block_size, Some(1024));
    assert_eq!(request.options.transfer_size, Some(0));
}

#[test]
fn options_out_of_range_are_left_out() {
    for (text, what) in [
        ("blksize\x007\0", "below 8"),
        ("blksize\x0065465\0", "above 65464"),
        ("blksize\0-1\0", "negative"),
        ("blksize\0x\0", "no number"),
        ("windowsize\x000\0", "no window"),
        ("windowsize\x0065536\0", "window too large"),
        ("timeout\x000\0", "no time"),
        ("timeout\x00256\0", "too long a time"),
        ("multicast\0\0", "unknown"),
        ("tsize\0", "no value"),
        ("blksize\x001468", "no end"),
    ] {
        let bytes = [b"\0\x01a\0octet\0", text.as_bytes()].concat();
        let Packet::Read(request) = Packet::parse(&bytes).unwrap() else { panic!("no read request") };
        assert!(request.options.is_empty(), "{what}: {:?}", request.options);
    }
}

#[test]
fn bytes_that_are_no_packet_are_refused_with_a_reason() {
    for (bytes, error) in [
        (&b""[..], ParseError::Truncated),
        (b"\0", ParseError::Truncated),
        (b"\0\x01", ParseError::Truncated),
        (b"\0\x01name", ParseError::Truncated),
        (b"\0\x01name\0octet", ParseError::Truncated),
        (b"\0\x01name\0binary\0", ParseError::Mode),
        (b"\0\x01\xff\xfe\0octet\0", ParseError::Name),
        (b"\0\x03\0", ParseError::Truncated),
        (b"\0\x04\0", ParseError::Truncated),
        (b"\0\x05\0", ParseError::Truncated),
        (b"\0\0\0\0", ParseError::Opcode(0)),
        (b"\0\x07\0\0", ParseError::Opcode(7)),
    ] {
        assert_eq!(Packet::parse(bytes), Err(error), "{bytes:?}");
    }
}

#[test]
fn a_request_with_endless_options_is_refused() {
    let mut bytes = b"\0\x01a\0octet\0".to_vec();
    for _ in 0..=MAX_OPTIONS {
        bytes.extend_from_slice(b"a\0b\0");
    }
    assert_eq!(Packet::parse(&bytes), Err(ParseError::TooManyOptions));
}

#[test]
fn an_ack_padded_to_an_ethernet_frame_is_an_ack() {
    let mut bytes = vec![0, 4, 0, 9];
    bytes.resize(18, 0);
    assert_eq!(Packet::parse(&bytes), Ok(Packet::Ack { block: 9 }));
}

#[test]
fn the_words_of_an_error_end_where_they_stop_being_text() {
    for (bytes, words) in [
        (&b"\0\x05\0\x08User aborted\0"[..], "User aborted"),
        (b"\0\x05\0\x08no end", "no end"),
        (b"\0\x05\0\x08", ""),
        (b"\0\x05\0\x08good\xff\0", "good"),
    ] {
        let expected = Packet::Error { code: ErrorCode::OptionRefused, message: words };
        assert_eq!(Packet::parse(bytes), Ok(expected));
    }
}

fn any_options() -> impl Strategy<Value = Options> {
    (
        proptest::option::of(8..=65_464_u16),
        any::<Option<u64>>(),
        proptest::option::of(1..=255_u8),
        proptest::option::of(1..=u16::MAX),
    )
        .prop_map(|(block_size, transfer_size, timeout_secs, window_size)| Options {
            block_size,
            transfer_size,
            timeout_secs,
            window_size,
        })
}

proptest! {
    #[test]
    fn parse_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Packet::parse(&bytes);
    }

    #[test]
    fn parse_never_panics_on_requests(opcode in 0..8_u8, bytes in proptest::collection::vec(
        prop_oneof![Just(0_u8), Just(b'1'), any::<u8>()], 0..100)) {
        let bytes = [&[0, opcode], bytes.as_slice()].concat();
        let _ = Packet::parse(&bytes);
    }

    #[test]
    fn requests_come_back_as_they_were(
        name in "[^\0]{0,40}",
        mode in prop_oneof![Just(Mode::Octet), Just(Mode::Netascii), Just(Mode::Mail)],
        options in any_options(),
        write in any::<bool>(),
    ) {
        let request = Request { name: &name, mode, options };
        let packet = if write { Packet::Write(request) } else { Packet::Read(request) };
        let bytes = packet.emit();
        prop_assert_eq!(Packet::parse(&bytes), Ok(packet));
    }

    #[test]
    fn other_packets_come_back_as_they_were(
        block in any::<u16>(),
        payload in proptest::collection::vec(any::<u8>(), 0..600),
        code in any::<u16>(),
        message in "[^\0]{0,60}",
        options in any_options(),
    ) {
        let code = ErrorCode::from_wire(code);
        for packet in [
            Packet::Data { block, payload: &payload },
            Packet::Ack { block },
            Packet::Error { code, message: &message },
            Packet::OptionAck(options),
        ] {
            let bytes = packet.emit();
        prop_assert_eq!(Packet::parse(&bytes), Ok(packet));
        }
    }
}
