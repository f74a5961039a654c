//! The firmware's SMBIOS table (DMTF DSP0134): processors and memory modules.

use agent_wire::talos::hardware::{MemoryModuleSpec, ProcessorSpec};

/// Where the kernel shows the raw table.
pub const TABLE: &str = "/sys/firmware/dmi/tables/DMI";

const PROCESSOR: u8 = 4;
const MEMORY_DEVICE: u8 = 17;
const IPMI_DEVICE: u8 = 38;
const END_OF_TABLE: u8 = 127;
/// Type, length, handle.
const HEADER: usize = 4;
/// "The real count is in the wider field."
const SEE_WIDE_COUNT: u8 = 0xff;

/// One structure: its formatted part and its strings.
#[derive(Clone, Copy, Debug)]
struct Structure<'a> {
    data: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Structure<'a> {
    fn byte(&self, at: usize) -> u8 {
        self.data.get(at).copied().unwrap_or(0)
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.byte(at), self.byte(at + 1)])
    }

    fn double(&self, at: usize) -> u32 {
        u32::from(self.word(at)) | u32::from(self.word(at + 2)) << 16
    }

    /// The string whose number is at this offset; numbers begin at one.
    fn text(&self, at: usize) -> String {
        let Some(index) = usize::from(self.byte(at)).checked_sub(1) else { return String::new() };
        let bytes = self.strings.split(|byte| *byte == 0).nth(index).unwrap_or_default();
        String::from_utf8_lossy(bytes).trim().to_owned()
    }
}

/// The structures of a table. What is cut off or malformed ends it.
fn structures(mut table: &[u8]) -> Vec<(u8, Structure<'_>)> {
    let mut found = Vec::new();
    while let [kind, length, ..] = *table {
        let length = usize::from(length);
        if kind == END_OF_TABLE || length < HEADER {
            break;
        }
        let Some((data, rest)) = table.split_at_checked(length) else { break };
        // Strings end with an empty one; without any there are two zeroes.
        let Some(end) = rest.windows(2).position(|pair| pair == [0, 0]) else { break };
        found.push((kind, Structure { data, strings: &rest[..end] }));
        table = &rest[end + 2..];
    }
    found
}

/// The processors that are there.
pub fn processors(table: &[u8]) -> Vec<ProcessorSpec> {
    let wide = |structure: &Structure<'_>, narrow: usize, wide: usize| match structure.byte(narrow) {
        SEE_WIDE_COUNT => u32::from(structure.word(wide)),
        count => u32::from(count),
    };
    structures(table)
        .into_iter()
        // Bit 6 of the status: the socket is populated.
        .filter(|(kind, structure)| *kind == PROCESSOR && structure.byte(0x18) & 0x40 != 0)
        .map(|(_, structure)| ProcessorSpec {
            socket: structure.text(0x04),
            manufacturer: structure.text(0x07),
            product_name: structure.text(0x10),
            max_speed: u32::from(structure.word(0x14)),
            boot_speed: u32::from(structure.word(0x16)),
            status: u32::from(structure.byte(0x18)),
            serial_number: structure.text(0x20),
            asset_tag: structure.text(0x21),
            part_number: structure.text(0x22),
            core_count: wide(&structure, 0x23, 0x2a),
            core_enabled: wide(&structure, 0x24, 0x2c),
            thread_count: wide(&structure, 0x25, 0x2e),
        })
        .collect()
}

/// The memory modules that are there.
pub fn memory_modules(table: &[u8]) -> Vec<MemoryModuleSpec> {
    structures(table)
        .into_iter()
        .filter(|(kind, _)| *kind == MEMORY_DEVICE)
        .filter_map(|(_, structure)| {
            let size = match structure.word(0x0c) {
                // Empty slot; unknown.
                0 | 0xffff => return None,
                0x7fff => structure.double(0x1c) & 0x7fff_ffff,
                // Bit 15: in KiB.
                size if size & 0x8000 != 0 => u32::from(size & 0x7fff) / 1024,
                size => u32::from(size),
            };
            Some(MemoryModuleSpec {
                size,
                device_locator: structure.text(0x10),
                bank_locator: structure.text(0x11),
                speed: u32::from(structure.word(0x15)),
                manufacturer: structure.text(0x17),
                serial_number: structure.text(0x18),
                asset_tag: structure.text(0x19),
                product_name: structure.text(0x1a),
            })
        })
        .collect()
}

/// Whether the firmware tells of an IPMI interface.
pub fn has_bmc(table: &[u8]) -> bool {
    structures(table).iter().any(|(kind, _)| *kind == IPMI_DEVICE)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A structure with its strings, as firmware lays it out.
    fn structure(kind: u8, length: usize, fields: &[(usize, &[u8])], strings: &[&str]) -> Vec<u8> {
        let mut data = vec![0; length];
        data[0] = kind;
        data[1] = u8::try_from(length).unwrap();
        for (at, bytes) in fields {
            data[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        for text in strings {
            data.extend_from_slice(text.as_bytes());
            data.push(0);
        }
        data.extend_from_slice(if strings.is_empty() { &[0, 0] } else { &[0] });
        data
    }

    /// What QEMU tells of one processor and two slots.
    pub(crate) fn table_of_qemu() -> Vec<u8> {
        [
            structure(1, 0x1b, &[(4, &[1])], &["QEMU"]),
            structure(
                4,
                0x30,
                &[
                    (0x04, &[1]),
                    (0x07, &[2]),
                    (0x10, &[3]),
                    (0x14, &2000u16.to_le_bytes()),
                    (0x16, &1800u16.to_le_bytes()),
                    (0x18, &[0x41]),
                    (0x23, &[4, 0xff, 8]),
                    (0x2c, &300u16.to_le_bytes()),
                ],
                &["CPU 0", "QEMU", "pc-q35-7.2"],
            ),
            structure(4, 0x30, &[(0x04, &[1])], &["CPU 1 (empty)"]),
            structure(
                17,
                0x28,
                &[(0x0c, &2048u16.to_le_bytes()), (0x10, &[1]), (0x15, &3200u16.to_le_bytes()), (0x17, &[2])],
                &["DIMM 0", "QEMU"],
            ),
            structure(17, 0x28, &[(0x10, &[1])], &["DIMM 1"]),
            structure(
                17,
                0x28,
                &[(0x0c, &[0xff, 0x7f]), (0x1c, &65536u32.to_le_bytes()), (0x10, &[1])],
                &["DIMM 2"],
            ),
            structure(127, 4, &[], &[]),
            structure(17, 0x28, &[(0x0c, &1u16.to_le_bytes())], &[]),
        ]
        .concat()
    }

    #[test]
    fn populated_processors_are_told() {
        let processors = processors(&table_of_qemu());
        assert_eq!(processors.len(), 1);
        let one = &processors[0];
        assert_eq!((one.socket.as_str(), one.manufacturer.as_str()), ("CPU 0", "QEMU"));
        assert_eq!((one.max_speed, one.core_count, one.core_enabled, one.thread_count), (2000, 4, 300, 8));
    }

    #[test]
    fn filled_slots_are_told_up_to_the_end_of_the_table() {
        let modules = memory_modules(&table_of_qemu());
        let sizes: Vec<_> = modules.iter().map(|one| (one.device_locator.as_str(), one.size)).collect();
        assert_eq!(sizes, [("DIMM 0", 2048), ("DIMM 2", 65536)]);
        assert_eq!((modules[0].speed, modules[0].manufacturer.as_str()), (3200, "QEMU"));
    }

    proptest! {
        #[test]
        fn no_table_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..400) {
            let table = table_of_qemu();
            for table in [&bytes[..], &table[..cut.min(table.len())]] {
                let _ = (processors(table), memory_modules(table));
            }
        }
    }
}
