//! What UEFI firmware tells of the medium that the machine booted from: the device path of its current boot
//! option (UEFI 2.10, sections 3.1.3, 3.3 and 10.3). BIOS tells nothing of the kind; there the operator names the
//! medium with `bootlace.medium`, or keeps it by serial number or size.

use std::path::Path;

use nix::mount::{MsFlags, mount};

use crate::wipe::partitions;
use crate::{modules, say};

/// Where the kernel shows firmware's variables once its file system is mounted there.
const VARIABLES: &str = "/sys/firmware/efi/efivars";
/// The vendor of the specification's own variables.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// A variable's attributes, before its value.
const ATTRIBUTES: usize = 4;
/// A load option's attributes and the length of its path, before its description.
const OPTION_HEADER: usize = 6;

/// Kinds of nodes in a device path: type and subtype.
const USB: [u8; 2] = [3, 5];
const USB_WWID: [u8; 2] = [3, 16];
const HARD_DRIVE: [u8; 2] = [4, 1];
const END: u8 = 0x7f;
/// Of a hard drive's node.
const HARD_DRIVE_LENGTH: usize = 42;

/// What is known of the medium.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Medium {
    /// Identifiers as in [`partitions::Table`]: a GPT partition's, or an MBR's.
    pub ids: Vec<String>,
    /// It is on USB, and nothing more is told: it may be any of those there.
    pub usb: bool,
}

/// Asks the firmware. Nothing when the machine booted from the network, or does not tell.
pub fn by_firmware() -> Medium {
    // Without UEFI there is no such place.
    if !Path::new(VARIABLES).exists() {
        return Medium::default();
    }
    // Cannot be there, or is: then reading says so.
    let _ = modules::load_named("efivarfs");
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let _ = mount(Some("efivarfs"), VARIABLES, Some("efivarfs"), flags, None::<&str>);
    match current(Path::new(VARIABLES)) {
        Some(medium) => medium,
        None => {
            say!("wipe: UEFI does not tell what the machine booted from");
            Medium::default()
        }
    }
}

fn current(variables: &Path) -> Option<Medium> {
    let value = |name: &str| -> Option<Vec<u8>> {
        let bytes = std::fs::read(variables.join(format!("{name}-{GLOBAL}"))).ok()?;
        Some(bytes.get(ATTRIBUTES..)?.to_vec())
    };
    let number = value("BootCurrent")?;
    let number = u16::from_le_bytes([*number.first()?, *number.get(1)?]);
    of_option(&value(&format!("Boot{number:04X}"))?)
}

/// The medium of a load option.
fn of_option(option: &[u8]) -> Option<Medium> {
    let length = usize::from(u16::from_le_bytes([*option.get(4)?, *option.get(5)?]));
    let description = option.get(OPTION_HEADER..)?;
    let end = description.chunks_exact(2).position(|letter| letter == [0, 0])?;
    let path = description.get(2 * (end + 1)..)?;
    let mut path = path.get(..length)?;
    let mut medium = Medium::default();
    // A list may have more paths; the first is the medium's.
    while let [kind, subtype, low, high, ..] = *path {
        let node = path.get(..usize::from(u16::from_le_bytes([low, high])).max(4))?;
        match [kind, subtype] {
            HARD_DRIVE if node.len() >= HARD_DRIVE_LENGTH => {
                let signature = &node[24..40];
                match node[41] {
                    1 => medium.ids.push(partitions::mbr_id(signature)),
                    2 => medium.ids.push(partitions::guid(signature)),
                    _ => {}
                }
            }
            USB | USB_WWID => medium.usb = true,
            [END, _] => break,
            _ => {}
        }
        path = &path[node.len()..];
    }
    medium.usb &= medium.ids.is_empty();
    Some(medium)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(kind: [u8; 2], data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + data.len()).unwrap().to_le_bytes();
        [&kind, &length, data].concat()
    }

    fn drive(signature: [u8; 16], signature_type: u8) -> Vec<u8> {
        let mut data = [0; HARD_DRIVE_LENGTH - 4];
        data[20..36].copy_from_slice(&signature);
        data[36..].copy_from_slice(&[2, signature_type]);
        node(HARD_DRIVE, &data)
    }

    fn option(nodes: &[Vec<u8>]) -> Vec<u8> {
        let path = [nodes.concat(), node([END, 0xff], &[])].concat();
        let length = u16::try_from(path.len()).unwrap().to_le_bytes();
        [&[1, 0, 0, 0][..], &length, b"U\0S\0B\0\0\0", &path].concat()
    }

    fn root() -> Vec<u8> {
        node([2, 1], &[0; 8])
    }

    #[test]
    fn a_partition_is_named_by_its_guid_and_an_mbr_by_its_number() {
        let guid: [u8; 16] = std::array::from_fn(|index| index as u8 + 1);
        let medium = of_option(&option(&[root(), drive(guid, 2)])).unwrap();
        assert_eq!(medium.ids, ["04030201-0605-0807-090a-0b0c0d0e0f10"]);
        let mut mbr = [0; 16];
        mbr[..4].copy_from_slice(&[0x55, 0x48, 0x81, 0x5d]);
        let medium = of_option(&option(&[node(USB, &[0, 0]), drive(mbr, 1)])).unwrap();
        assert_eq!(medium, Medium { ids: vec!["5d814855".into()], usb: false });
    }

    #[test]
    fn a_whole_stick_is_one_of_those_on_usb_and_a_network_card_is_no_medium() {
        let stick = of_option(&option(&[root(), node(USB, &[1, 0])])).unwrap();
        assert_eq!(stick, Medium { ids: vec![], usb: true });
        let card = of_option(&option(&[root(), node([3, 11], &[0; 33])])).unwrap();
        assert_eq!(card, Medium::default());
    }

    #[test]
    fn no_bytes_panic() {
        let whole = option(&[root(), drive([7; 16], 2)]);
        for end in 0..whole.len() {
            let _ = of_option(&whole[..end]);
            for value in [0, 1, 4, 0x7f, 0xff] {
                let mut broken = whole.clone();
                broken[end] = value;
                let _ = of_option(&broken);
            }
        }
    }

    #[test]
    fn the_current_option_is_looked_up_among_the_variables() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, value: &[u8]| {
            let bytes = [&[7, 0, 0, 0], value].concat();
            std::fs::write(directory.path().join(format!("{name}-{GLOBAL}")), bytes).unwrap();
        };
        assert_eq!(current(directory.path()), None);
        write("BootCurrent", &[0x0a, 0]);
        assert_eq!(current(directory.path()), None);
        write("Boot000A", &option(&[node(USB, &[1, 0])]));
        assert!(current(directory.path()).unwrap().usb);
    }
}
