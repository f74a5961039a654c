//! NVMe Format (NVM Express base specification 2.0, sections 5.14 and 5.17): the disk erases itself, spare
//! and worn blocks included. Only when asked for, since it may take longer than a fast wipe is given; only
//! when the controller offers it and has a single namespace, since it may format all of them.

use std::fs::File;

use crate::sys::disk::{NvmeCommand, nvme_admin, nvme_namespace};

const IDENTIFY: u8 = 0x06;
const FORMAT: u8 = 0x80;
/// What Identify is asked for.
const NAMESPACE: u32 = 0;
const CONTROLLER: u32 = 1;
const ACTIVE_NAMESPACES: u32 = 2;
/// Optional admin command support, bit 1: Format.
const OACS: usize = 256;
/// Format NVM attributes, bit 2: cryptographic erase.
const FNA: usize = 524;
/// Formatted LBA size of a namespace, and its protection.
const FLBAS: usize = 26;
const DPS: usize = 29;
/// Secure erase settings: user data, and cryptographic.
const USER_DATA: u32 = 1;
const CRYPTOGRAPHIC: u32 = 2;
/// A disk that overwrites everything needs hours; the caller has a limit of its own.
const FORMAT_TIMEOUT_MS: u32 = 24 * 3600 * 1000;
const IDENTIFY_TIMEOUT_MS: u32 = 10_000;

/// How a namespace is to be formatted: dword 10 of the command, and its name for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Command dword 10: the present block format and protection, and how to erase.
    pub dword_10: u32,
    /// What the operator reads.
    pub text: &'static str,
}

/// Whether and how to format, from what the disk says: the Identify data of its controller, of the
/// namespace, and the list of active namespaces.
pub fn choose(controller: &[u8], namespace: &[u8], active: &[u8]) -> Result<Format, &'static str> {
    let byte = |bytes: &[u8], at: usize| bytes.get(at).copied().ok_or("its answer is too short");
    if byte(controller, OACS)? & 0b10 == 0 {
        return Err("the controller does not offer it");
    }
    if active.chunks_exact(4).filter(|id| **id != [0; 4]).count() != 1 {
        return Err("the controller has other namespaces, which it might format too");
    }
    let (flbas, dps) = (u32::from(byte(namespace, FLBAS)?), u32::from(byte(namespace, DPS)?));
    let (erase, text) = if byte(controller, FNA)? & 0b100 == 0 {
        (USER_DATA, "formatted with erase of user data")
    } else {
        (CRYPTOGRAPHIC, "formatted with cryptographic erase")
    };
    // Format: index of the block format (low 4 bits, upper 2 in bits 5 and 6), metadata setting (bit 4),
    // protection type (3 bits) and place (1 bit) as they are now.
    let same = (flbas & 0xf) | ((flbas >> 4) & 1) << 4 | (dps & 0xf) << 5 | ((flbas >> 5) & 0b11) << 12;
    Ok(Format { dword_10: same | erase << 9, text })
}

/// Formats the namespace that a block device is. The error says why not.
pub fn format(device: &File) -> Result<&'static str, String> {
    let refused = |error: std::io::Error| format!("the disk refused: {error}");
    let namespace_id = nvme_namespace(device).map_err(refused)?;
    let identify = |what: u32, namespace_id: u32| -> Result<Vec<u8>, String> {
        let mut data = vec![0; 4096];
        let command =
            NvmeCommand { opcode: IDENTIFY, namespace_id, dword_10: what, timeout_ms: IDENTIFY_TIMEOUT_MS };
        nvme_admin(device, command, &mut data).map_err(refused)?;
        Ok(data)
    };
    let controller = identify(CONTROLLER, 0)?;
    let namespace = identify(NAMESPACE, namespace_id)?;
    let active = identify(ACTIVE_NAMESPACES, 0)?;
    let format = choose(&controller, &namespace, &active)?;
    let command = NvmeCommand {
        opcode: FORMAT,
        namespace_id,
        dword_10: format.dword_10,
        timeout_ms: FORMAT_TIMEOUT_MS,
    };
    nvme_admin(device, command, &mut []).map_err(refused)?;
    Ok(format.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(bytes: &[(usize, u8)]) -> Vec<u8> {
        let mut data = vec![0; 4096];
        for (at, byte) in bytes {
            data[*at] = *byte;
        }
        data
    }

    #[test]
    fn a_namespace_is_formatted_only_where_it_is_offered_and_alone() {
        let offered = data(&[(OACS, 0b10)]);
        let crypto = data(&[(OACS, 0b10), (FNA, 0b100)]);
        let alone = data(&[(0, 1)]);
        let namespace = data(&[(FLBAS, 0x11), (DPS, 0b1001)]);
        let kept = 1 | 1 << 4 | 0b1001 << 5;
        for (controller, active, want) in [
            (&offered, &alone, Ok(kept | 1 << 9)),
            (&crypto, &alone, Ok(kept | 2 << 9)),
            (&data(&[]), &alone, Err("does not offer")),
            (&offered, &data(&[(0, 1), (4, 2)]), Err("other namespaces")),
            (&offered, &data(&[]), Err("other namespaces")),
            (&vec![0; 9], &alone, Err("too short")),
        ] {
            match (choose(controller, &namespace, active), want) {
                (Ok(format), Ok(want)) => assert_eq!(format.dword_10, want),
                (Err(why), Err(want)) => assert!(why.contains(want), "{why}"),
                (got, want) => panic!("{got:?} is not {want:?}"),
            }
        }
    }

    #[test]
    fn a_plain_file_is_not_formatted() {
        assert!(format(&tempfile::tempfile().unwrap()).unwrap_err().contains("refused"));
    }
}
