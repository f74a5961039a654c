//! The checksum of the Internet (RFC 1071), in its two steps: what has several parts, or is left to a card, needs them
//! one by one.

/// The sum of the words of 16 bits; an odd last byte has a zero behind it. Every part but the last has an even length.
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)])))
        .sum()
}

/// The carry added until there is none. The checksum is its complement.
#[must_use]
pub fn folded(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}
