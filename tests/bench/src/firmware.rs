//! The DHCP packets of real firmware, as captured, for any number of machines.

use std::net::Ipv4Addr;
use std::time::Duration;

use netboot::Mac;
use netboot::dhcp::codec::{Message, Op, Options, option};
use netboot::tftp;
use uuid::Uuid;

const OVMF_DISCOVER: &[u8] = include_bytes!("../../../netboot/src/dhcp/captures/ovmf-discover.bin");
const OVMF_HTTP_DISCOVER: &[u8] = include_bytes!("../../../netboot/src/dhcp/captures/ovmf-http-discover.bin");
const SNPONLY_DISCOVER: &[u8] = include_bytes!("../../../netboot/src/dhcp/captures/snponly-discover.bin");
const ROM_DISCOVER: &[u8] = include_bytes!("../../../netboot/src/dhcp/captures/qemu-rom-discover.bin");

const BROADCAST: u16 = 0x8000;
const DISCOVER: u8 = 1;
const REQUEST: u8 = 3;
/// `PXE_DISCOVERY_CONTROL`: bit 3 says that the file of the offer is to be used.
const DISCOVERY_CONTROL: u8 = 6;
const USE_THIS_FILE: u8 = 8;

/// What a machine boots with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Firmware {
    /// OVMF by PXE: asks the size by one TFTP request, reads by a second with blocks of 1468 and windows of 4
    Ovmf,
    /// OVMF by HTTP boot
    OvmfHttp,
    /// A BIOS whose PXE ROM is no iPXE: blocks of 1456, one by one
    Bios,
    /// A network card with iPXE in its ROM: asks for the script at once
    IpxeRom,
}

impl Firmware {
    /// The loader's DISCOVER; iPXE follows with [`Firmware::ipxe_discover`].
    #[must_use]
    pub fn discover(self) -> Message {
        match self {
            Self::Ovmf => captured(OVMF_DISCOVER),
            Self::OvmfHttp => captured(OVMF_HTTP_DISCOVER),
            Self::Bios => bios_discover(),
            Self::IpxeRom => captured(ROM_DISCOVER),
        }
    }

    /// What the loaded iPXE sends; none when the firmware was iPXE.
    #[must_use]
    pub fn ipxe_discover(self) -> Option<Message> {
        match self {
            Self::Ovmf | Self::OvmfHttp => Some(captured(SNPONLY_DISCOVER)),
            Self::Bios => Some(undionly_discover()),
            Self::IpxeRom => None,
        }
    }

    /// How long it waits for a block; iPXE's doubling from 250 ms when it is not known.
    #[must_use]
    pub fn tftp_timeout(self) -> Option<Duration> {
        match self {
            Self::Ovmf | Self::OvmfHttp => Some(EDK2_TFTP_TIMEOUT),
            Self::Bios | Self::IpxeRom => None,
        }
    }

    /// The TFTP requests for the loader, in order; all but the last only ask for the size.
    #[must_use]
    pub fn tftp_requests(self) -> Vec<tftp::Options> {
        let sized = tftp::Options { transfer_size: Some(0), ..tftp::Options::default() };
        match self {
            Self::Ovmf => {
                let read = tftp::Options {
                    block_size: Some(1468),
                    window_size: Some(4),
                    ..tftp::Options::default()
                };
                vec![tftp::Options { transfer_size: Some(0), ..read }, read]
            }
            Self::Bios => {
                vec![sized, tftp::Options { block_size: Some(1456), ..tftp::Options::default() }]
            }
            Self::OvmfHttp | Self::IpxeRom => Vec::new(),
        }
    }
}

/// EDK2's PXE driver waits so long for a block (`PXEBC_MTFTP_TIMEOUT`).
const EDK2_TFTP_TIMEOUT: Duration = Duration::from_secs(4);

fn captured(bytes: &[u8]) -> Message {
    Message::parse(bytes).expect("a capture is well-formed")
}

/// The options that a plain PXE ROM sends, in the frame of a captured one.
fn bios_discover() -> Message {
    let mut message = captured(OVMF_DISCOVER);
    message.flags = 0;
    replace(&mut message, option::VENDOR_CLASS, b"PXEClient:Arch:00000:UNDI:002001");
    replace(&mut message, option::CLIENT_ARCH, &[0, 0]);
    replace(&mut message, option::CLIENT_NDI, &[1, 2, 1]);
    message
}

/// Debian's `undionly.kpxe`: no suffix in option 60, user class iPXE.
fn undionly_discover() -> Message {
    let mut message = captured(ROM_DISCOVER);
    replace(&mut message, option::VENDOR_CLASS, b"PXEClient");
    message
}

/// The same option with another value, in its place.
fn replace(message: &mut Message, number: u8, value: &[u8]) {
    let mut options = Options::new();
    for (known, old) in message.options.iter() {
        options.push(known, if known == number { value } else { old });
    }
    if message.options.value(number).is_none() {
        options.push(number, value);
    }
    message.options = options;
}

/// One machine of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its number from 0.
    pub number: u32,
    /// Its MAC address, locally administered.
    pub mac: Mac,
    /// Its UUID.
    pub uuid: Uuid,
}

impl Identity {
    /// The machine with a number. `run` tells machines of one run from those of another.
    #[must_use]
    pub fn new(run: u16, number: u32) -> Self {
        let [_, b, c, d] = number.to_be_bytes();
        let [high, low] = run.to_be_bytes();
        let mac = Mac([0x02, high, low, b, c, d]);
        let uuid = Uuid::from_u128(
            0x8c9d_6b1e_0d4b_4b0e_9d6f_0000_0000_0000 | u128::from(run) << 32 | u128::from(number),
        );
        Self { number, mac, uuid }
    }

    /// Writes itself into a message of some firmware. Answers are asked by broadcast: the many machines of a
    /// simulator have one network card, which takes only that.
    pub fn sign(self, message: &mut Message, xid: u32) {
        message.xid = xid;
        message.flags |= BROADCAST;
        message.chaddr = [0; 16];
        message.chaddr[..6].copy_from_slice(&self.mac.0);
        let mut id = vec![0];
        id.extend(self.uuid.to_bytes_le());
        replace(message, option::CLIENT_UUID, &id);
    }
}

/// A DISCOVER as the REQUEST that firmware sends to port 4011 when it has its address.
#[must_use]
pub fn proxy_request(mut discover: Message, address: Ipv4Addr) -> Message {
    replace(&mut discover, option::MESSAGE_TYPE, &[REQUEST]);
    discover.flags = 0;
    discover.ciaddr = address;
    discover
}

/// A message with places to write another machine's identity into: no encoding for each packet of a load.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    uuid_at: Option<usize>,
}

impl Template {
    /// From a message that an [`Identity`] signed.
    #[must_use]
    pub fn new(message: &Message, identity: Identity) -> Self {
        let bytes = message.emit();
        let needle = identity.uuid.to_bytes_le();
        let uuid_at = bytes.windows(needle.len()).position(|window| window == needle);
        Self { bytes, uuid_at }
    }

    /// The packet of a machine.
    pub fn packet(&mut self, identity: Identity, xid: u32) -> &[u8] {
        self.bytes[4..8].copy_from_slice(&xid.to_be_bytes());
        self.bytes[28..34].copy_from_slice(&identity.mac.0);
        if let Some(at) = self.uuid_at {
            self.bytes[at..at + 16].copy_from_slice(&identity.uuid.to_bytes_le());
        }
        &self.bytes
    }
}

/// What an answer tells to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The server to ask; unspecified when none is named.
    pub server: Ipv4Addr,
    /// The file or URL; empty when port 4011 is to be asked.
    pub file: String,
    /// Whether the file is to be used without asking port 4011.
    pub use_this_file: bool,
}

impl Offer {
    /// Reads an answer; `None` for one that firmware would ignore because it names no boot class.
    #[must_use]
    pub fn of(message: &Message) -> Option<Self> {
        let class = message.options.value(option::VENDOR_CLASS)?;
        if message.op != Op::Reply || !(class.starts_with(b"PXEClient") || class.starts_with(b"HTTPClient")) {
            return None;
        }
        let file = netboot::dhcp::codec::text(&message.file);
        let file = match (file.is_empty(), message.options.value(option::BOOT_FILE)) {
            (true, Some(name)) => String::from_utf8_lossy(name).trim_end_matches('\0').to_owned(),
            _ => file,
        };
        let control = message.options.value(option::VENDOR_SPECIFIC).and_then(discovery_control);
        Some(Self {
            server: message.siaddr,
            file,
            use_this_file: control.is_some_and(|control| control & USE_THIS_FILE != 0)
                || class.starts_with(b"HTTPClient"),
        })
    }
}

fn discovery_control(mut options: &[u8]) -> Option<u8> {
    while let [number, length, rest @ ..] = options {
        let value = rest.get(..usize::from(*length))?;
        if *number == DISCOVERY_CONTROL {
            return value.first().copied();
        }
        options = &rest[value.len()..];
    }
    None
}

/// Whether a message is a DISCOVER.
#[must_use]
pub fn is_discover(message: &Message) -> bool {
    message.options.value(option::MESSAGE_TYPE) == Some(&[DISCOVER])
}

#[cfg(test)]
mod tests {
    use super::*;
    use netboot::dhcp::{Outcome, Port, Proxy, ProxyConfig};
    use netboot::firmware::BinarySet;
    use std::net::SocketAddrV4;

    const ALL: [Firmware; 4] = [Firmware::Ovmf, Firmware::OvmfHttp, Firmware::Bios, Firmware::IpxeRom];

    fn ask(message: &Message, port: Port) -> Option<Offer> {
        let binaries: BinarySet = ["undionly.kpxe", "snp.efi", "amd64/snp.efi"].into_iter().collect();
        let server = Ipv4Addr::new(10, 77, 0, 1);
        let mut proxy = Proxy::new(ProxyConfig { server, http_port: 50042, binaries });
        let from = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 2), 68);
        match proxy.handle_packet(port, from, &message.emit()) {
            Outcome::Reply(reply) => Offer::of(&Message::parse(&reply.payload).unwrap()),
            Outcome::Ignore { .. } => None,
        }
    }

    #[test]
    fn every_firmware_is_offered_its_loader_and_then_the_script() {
        for firmware in ALL {
            let mut first = firmware.discover();
            assert!(is_discover(&first), "{firmware:?}");
            Identity::new(1, 7).sign(&mut first, 9);
            let offer = ask(&first, Port::Server67).unwrap_or_else(|| panic!("{firmware:?} gets no offer"));
            assert!(offer.use_this_file, "{firmware:?}");
            let over_tftp = !firmware.tftp_requests().is_empty();
            assert_eq!(over_tftp, !offer.file.starts_with("http://"), "{firmware:?}: {}", offer.file);
            let second = firmware.ipxe_discover().unwrap_or(first);
            assert!(ask(&second, Port::Server67).unwrap().file.ends_with("/ipxe/init.ipxe"), "{firmware:?}");
        }
    }

    #[test]
    fn port_4011_is_asked_by_a_request_with_an_address() {
        let address = Ipv4Addr::new(10, 77, 0, 2);
        let request = proxy_request(Firmware::Ovmf.discover(), address);
        assert!(!is_discover(&request) && request.ciaddr == address);
        assert!(ask(&request, Port::Proxy4011).is_some());
        assert!(ask(&request, Port::Server67).is_none());
    }

    #[test]
    fn ovmf_asks_for_the_size_first_and_reads_in_windows() {
        let requests = Firmware::Ovmf.tftp_requests();
        assert_eq!(requests.len(), 2);
        assert_eq!((requests[0].transfer_size, requests[0].window_size), (Some(0), Some(4)));
        assert_eq!((requests[1].transfer_size, requests[1].block_size), (None, Some(1468)));
    }

    #[test]
    fn a_template_gives_the_packet_that_the_codec_would() {
        let (one, other) = (Identity::new(1, 1), Identity::new(1, 70_000));
        let mut message = Firmware::Ovmf.discover();
        one.sign(&mut message, 5);
        let mut template = Template::new(&message, one);
        other.sign(&mut message, 6);
        assert_eq!(template.packet(other, 6), message.emit());
        assert_ne!(one.uuid, other.uuid);
        assert!(other.mac.is_unicast());
    }

    #[test]
    fn an_answer_without_a_boot_class_is_no_offer() {
        let mut message = Message::new(Op::Reply);
        assert_eq!(Offer::of(&message), None);
        message.options.push(option::VENDOR_CLASS, b"PXEClient");
        message.options.push(option::VENDOR_SPECIFIC, &[6, 1, 8, 255]);
        message.options.push(option::BOOT_FILE, b"a.efi\0");
        let offer = Offer::of(&message).unwrap();
        assert_eq!((offer.file.as_str(), offer.use_this_file), ("a.efi", true));
        assert_eq!(discovery_control(&[6, 9, 1]), None);
    }
}
