//! Packets as firmware sends them.
//!
//! Those in `captures/` are the UDP payloads of one QEMU machine (7.2, user network, Debian 12) with `SeaBIOS`,
//! OVMF, the network card's iPXE ROM, `ipxe.lkrn` and `snponly.efi`. The others are built field by field from
//! what was measured in a virtual PXE network.

use std::net::Ipv4Addr;

use super::codec::{Message, Op, option};
use super::request::MessageType;

pub(crate) const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x88, 0x00, 0x01];
/// `8c9d6b1e-0d4b-4b0e-9d6f-0123456789ab` as SMBIOS stores it.
pub(crate) const SMBIOS_UUID: [u8; 16] =
    [0x1e, 0x6b, 0x9d, 0x8c, 0x4b, 0x0d, 0x0e, 0x4b, 0x9d, 0x6f, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab];

fn captured(bytes: &[u8]) -> Message {
    Message::parse(bytes).expect("a capture is well-formed")
}

/// Every capture, byte for byte.
pub(crate) const CAPTURES: [&[u8]; 7] = [
    include_bytes!("captures/qemu-rom-discover.bin"),
    include_bytes!("captures/qemu-rom-address-request.bin"),
    include_bytes!("captures/ipxe-lkrn-discover.bin"),
    include_bytes!("captures/snponly-discover.bin"),
    include_bytes!("captures/ovmf-discover.bin"),
    include_bytes!("captures/ovmf-address-request.bin"),
    include_bytes!("captures/ovmf-http-discover.bin"),
];

/// A DISCOVER of a client with the given class text and architecture numbers.
pub(crate) fn discover(class: &str, architectures: &[u16]) -> Message {
    let mut message = client(MessageType::Discover);
    message.options.push(option::VENDOR_CLASS, class.as_bytes());
    let list: Vec<u8> = architectures.iter().flat_map(|number| number.to_be_bytes()).collect();
    if !list.is_empty() {
        message.options.push(option::CLIENT_ARCH, &list);
    }
    message.options.push(option::CLIENT_NDI, &[1, 3, 0]);
    let mut uuid = vec![0];
    uuid.extend(SMBIOS_UUID);
    message.options.push(option::CLIENT_UUID, &uuid);
    message
}

/// A message of a plain client, with what all of them send.
pub(crate) fn client(kind: MessageType) -> Message {
    let mut message = Message::new(Op::Request);
    message.xid = 0x1234_5678;
    message.secs = 4;
    message.chaddr[..6].copy_from_slice(&MAC);
    message.options.push(option::MESSAGE_TYPE, &[kind.number()]);
    message.options.push(option::MAX_MESSAGE_SIZE, &1472_u16.to_be_bytes());
    // Subnet, router, name server, boot server, boot file, PXE.
    message.options.push(55, &[1, 3, 6, 43, 54, 60, 66, 67, 97]);
    message
}

/// The iPXE ROM that QEMU puts on its network cards, started by `SeaBIOS` (captured).
pub(crate) fn discover_from_qemu_rom() -> Message {
    captured(include_bytes!("captures/qemu-rom-discover.bin"))
}

/// The same ROM taking 10.0.2.15 from the DHCP server 10.0.2.2 (captured).
pub(crate) fn address_request_from_qemu_rom() -> Message {
    captured(include_bytes!("captures/qemu-rom-address-request.bin"))
}

/// Debian's `ipxe.lkrn`, with its own network drivers (captured).
pub(crate) fn discover_from_lkrn() -> Message {
    captured(include_bytes!("captures/ipxe-lkrn-discover.bin"))
}

/// Debian's `undionly.kpxe`: no suffix in option 60, answers by broadcast.
pub(crate) fn discover_from_undionly() -> Message {
    let mut message = discover("PXEClient", &[0]);
    message.flags = 0x8000;
    message.options.push(option::USER_CLASS, b"iPXE");
    message
}

/// Debian's `snponly.efi`, started by OVMF (captured).
pub(crate) fn discover_from_snponly() -> Message {
    captured(include_bytes!("captures/snponly-discover.bin"))
}

/// A BIOS PXE ROM that is no iPXE.
pub(crate) fn discover_from_bios() -> Message {
    discover("PXEClient:Arch:00000:UNDI:002001", &[0])
}

/// OVMF (EDK2), PXE over IPv4 (captured).
pub(crate) fn discover_from_ovmf() -> Message {
    captured(include_bytes!("captures/ovmf-discover.bin"))
}

/// OVMF (EDK2), HTTP boot over IPv4 (captured).
pub(crate) fn discover_from_ovmf_http() -> Message {
    captured(include_bytes!("captures/ovmf-http-discover.bin"))
}

/// OVMF asking the proxy for the boot file, after it has its address.
pub(crate) fn proxy_request_from_ovmf() -> Message {
    let mut message = discover_from_ovmf();
    message.options = message
        .options
        .iter()
        .map(|(number, value)| match number {
            option::MESSAGE_TYPE => (number, vec![MessageType::Request.number()]),
            _ => (number, value.to_vec()),
        })
        .fold(super::codec::Options::new(), |mut options, (number, value)| {
            options.push(number, &value);
            options
        });
    message.flags = 0;
    message.ciaddr = Ipv4Addr::new(10, 88, 0, 50);
    message
}

/// OVMF taking 10.0.2.15 from the DHCP server 10.0.2.2 (captured).
pub(crate) fn address_request_from_ovmf() -> Message {
    captured(include_bytes!("captures/ovmf-address-request.bin"))
}

/// A machine that runs an operating system.
pub(crate) fn discover_from_linux() -> Message {
    let mut message = client(MessageType::Discover);
    message.options.push(12, b"worker-1");
    message
}

/// The same message through a relay.
pub(crate) fn relayed(mut message: Message, relay: Ipv4Addr, information: &[u8]) -> Message {
    message.giaddr = relay;
    message.hops = 1;
    message.options.push(option::RELAY_AGENT, information);
    message
}

/// One of each.
pub(crate) fn all() -> Vec<Message> {
    vec![
        discover_from_qemu_rom(),
        address_request_from_qemu_rom(),
        discover_from_lkrn(),
        discover_from_undionly(),
        discover_from_snponly(),
        discover_from_bios(),
        discover_from_ovmf(),
        discover_from_ovmf_http(),
        proxy_request_from_ovmf(),
        address_request_from_ovmf(),
        discover_from_linux(),
        relayed(discover_from_ovmf(), Ipv4Addr::new(10, 99, 0, 1), &[1, 4, 0, 0, 0, 7]),
    ]
}
