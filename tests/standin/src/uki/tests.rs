use super::*;

/// A PE header with one section, of the given size and address.
fn pe(size: u32, address: u32) -> Vec<u8> {
    let mut bytes = vec![0; 0x40 + 24 + 112 + 40];
    bytes[0x3c] = 0x40;
    bytes[0x40..0x44].copy_from_slice(b"PE\0\0");
    bytes[0x46] = 1;
    bytes[0x40 + 20] = 112;
    bytes[0x58..0x5a].copy_from_slice(&0x20bu16.to_le_bytes());
    bytes[0x58 + 24..0x58 + 32].copy_from_slice(&0x1_4000_0000u64.to_le_bytes());
    let section = 0x58 + 112;
    bytes[section + 8..section + 12].copy_from_slice(&size.to_le_bytes());
    bytes[section + 12..section + 16].copy_from_slice(&address.to_le_bytes());
    bytes
}

#[test]
fn sections_are_added_after_the_last_one() {
    assert_eq!(end_of_sections(&pe(0x234, 0x1000)).unwrap(), 0x1_4000_1234);
}

#[test]
fn a_cut_off_stub_is_an_error_at_every_length() {
    let whole = pe(1, 1);
    for length in 0..whole.len() - 24 {
        assert!(end_of_sections(&whole[..length]).is_err(), "{length}");
    }
}
