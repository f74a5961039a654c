use dhcproto::v6 as other;
use dhcproto::{Decodable, Decoder, Encodable};
use proptest::prelude::*;

use super::*;

const SOURCE: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0, 0, 1), 546, 0, 2);
const CLIENT: [u8; 10] = [0, 3, 0, 1, 0x52, 0x54, 0, 0x88, 0, 1];

fn server() -> Server {
    Server::new(Config {
        address: "fd88::1".parse().unwrap(),
        http_port: 50042,
        mac: Mac([2, 0, 0, 0, 0, 1]),
        binaries: ["amd64/snp.efi", "arm64/snp.efi", "snp.efi"].into_iter().collect(),
    })
}

fn vendor_class(text: &str) -> Vec<u8> {
    [&ENTERPRISE[..], &(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

/// What EDK2's HTTP boot asks over IPv6, field by field.
fn from_edk2(kind: Kind, architecture: u16) -> Message {
    let mut message = Message::new(kind, 0x0012_3456);
    message.push(option::CLIENT_ID, &CLIENT);
    // IA_NA, elapsed time, what it wants, its network interface.
    message.push(3, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    message.push(8, &[0, 0]);
    message.push(6, &[0, 59, 0, 60, 0, 23]);
    message.push(62, &[1, 3, 0]);
    message.push(option::CLIENT_ARCH, &architecture.to_be_bytes());
    message
        .push(option::VENDOR_CLASS, &vendor_class(&format!("HTTPClient:Arch:{architecture:05}:UNDI:003000")));
    message
}

#[test]
fn http_boot_is_told_its_url() {
    for (architecture, file) in [(16, "amd64/snp.efi"), (19, "arm64/snp.efi")] {
        for (kind, answer) in [(Kind::Solicit, Kind::Advertise), (Kind::InformationRequest, Kind::Reply)] {
            let reply = server().handle_packet(SOURCE, &from_edk2(kind, architecture).emit()).unwrap();
            assert_eq!(reply.url, format!("http://[fd88::1]:50042/tftp/{file}"));
            assert_eq!((reply.mac, reply.uuid), (Some(Mac([0x52, 0x54, 0, 0x88, 0, 1])), None));
            let message = Message::parse(&reply.payload).unwrap();
            assert_eq!((message.kind, message.xid), (answer, 0x0012_3456));
            assert_eq!(message.value(option::CLIENT_ID), Some(&CLIENT[..]));
            assert_eq!(message.value(option::SERVER_ID), Some(&[0, 3, 0, 1, 2, 0, 0, 0, 0, 1][..]));
            assert_eq!(message.value(option::BOOT_FILE_URL), Some(reply.url.as_bytes()));
            assert_eq!(message.value(option::VENDOR_CLASS), Some(&vendor_class("HTTPClient")[..]));
            assert_eq!(message.value(3), None, "no address");
        }
    }
}

/// OVMF (EDK2), HTTP boot over IPv6 (captured).
#[test]
fn firmware_is_answered_as_it_asks() {
    let captured = include_bytes!("../../tests/corpus/dhcpv6/ovmf-http-1.bin");
    let reply = server().handle_packet(SOURCE, captured).unwrap();
    assert_eq!((reply.firmware, reply.mac), (Firmware::UefiHttpX64, Some(Mac([0x52, 0x54, 0, 0x88, 0, 1]))));
    assert_eq!(Message::parse(captured).unwrap().emit(), captured);
    let message = Message::parse(&reply.payload).unwrap();
    assert_eq!((message.kind, message.xid), (Kind::Advertise, 0x00e8_a72a));
}

#[test]
fn whoever_does_not_boot_by_http_is_not_answered() {
    let without = |number| {
        let all = from_edk2(Kind::Solicit, 16);
        let mut message = Message::new(Kind::Solicit, 1);
        all.options
            .iter()
            .filter(|(known, _)| *known != number)
            .for_each(|(known, value)| message.push(*known, value));
        message
    };
    let with = |number, value: &[u8]| {
        let mut message = without(number);
        message.push(number, value);
        message
    };
    for (message, reason) in [
        (without(option::VENDOR_CLASS), IgnoreReason::NotNetboot),
        (with(option::VENDOR_CLASS, &vendor_class("PXEClient:Arch:00007")), IgnoreReason::NotNetboot),
        (with(option::USER_CLASS, b"\0\x04iPXE"), IgnoreReason::NotNetboot),
        (without(option::CLIENT_ARCH), IgnoreReason::NotNetboot),
        (with(option::CLIENT_ARCH, &[0, 15]), IgnoreReason::NoBinary(Firmware::UefiHttpIa32)),
        (with(option::CLIENT_ARCH, &[0, 7]), IgnoreReason::NoBinary(Firmware::UefiX64)),
        (without(option::CLIENT_ID), IgnoreReason::NotForUs),
        (with(option::SERVER_ID, &[0, 3, 0, 1, 9, 9, 9, 9, 9, 9]), IgnoreReason::NotForUs),
        (Message::new(Kind::Reply, 1), IgnoreReason::NotForUs),
        (Message::new(Kind::Other(3), 1), IgnoreReason::NotForUs),
    ] {
        assert_eq!(server().handle_packet(SOURCE, &message.emit()), Err(reason), "{message:?}");
    }
    let far = SocketAddrV6::new("2001:db8::9".parse().unwrap(), 546, 0, 0);
    let solicit = from_edk2(Kind::Solicit, 16).emit();
    assert_eq!(server().handle_packet(far, &solicit), Err(IgnoreReason::Source));
}

#[test]
fn a_machine_is_known_by_its_identifier() {
    let mac = Some(Mac([0x52, 0x54, 0, 0x88, 0, 1]));
    assert_eq!(who(&[0, 1, 0, 1, 9, 9, 9, 9, 0x52, 0x54, 0, 0x88, 0, 1]), (mac, None));
    let bytes: [u8; 16] = *b"\x1e\x6b\x9d\x8c\x4b\x0d\x0e\x4b\x9d\x6f\x01\x23\x45\x67\x89\xab";
    let uuid = "8c9d6b1e-0d4b-4b0e-9d6f-0123456789ab".parse().ok();
    assert_eq!(who(&[&[0, 4][..], &bytes].concat()), (None, uuid));
    assert_eq!(who(&[0, 2, 1, 2, 3]), (None, None));
}

/// The second opinion. Its own vendor class is written with a wrong length, so that one is left out.
#[test]
fn another_codec_reads_the_same() {
    let mut message = from_edk2(Kind::Solicit, 16);
    message.options.retain(|(number, _)| *number != option::VENDOR_CLASS);
    let read = other::Message::decode(&mut Decoder::new(&message.emit())).unwrap();
    assert_eq!((read.msg_type(), read.xid()), (other::MessageType::Solicit, [0x12, 0x34, 0x56]));
    assert!(matches!(read.opts().get(other::OptionCode::ClientId),
        Some(other::DhcpOption::ClientId(id)) if id == &CLIENT));
    assert_eq!(Message::parse(&read.to_vec().unwrap()).unwrap().value(option::CLIENT_ID), Some(&CLIENT[..]));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(message) = Message::parse(&bytes) {
            prop_assert_eq!(Message::parse(&message.emit()), Ok(message));
        }
        let _ = server().handle_packet(SOURCE, &bytes);
    }

    #[test]
    fn a_message_cut_off_anywhere_is_refused_or_shorter(at in 0..120_usize) {
        let whole = from_edk2(Kind::Solicit, 16).emit();
        let cut = &whole[..at.min(whole.len() - 1)];
        prop_assert!(Message::parse(cut).is_err() || Message::parse(cut).unwrap().emit() == cut);
    }
}
