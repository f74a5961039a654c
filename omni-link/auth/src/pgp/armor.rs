//! ASCII armor (RFC 4880, section 6).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::PgpError;

pub(super) const PRIVATE_KEY: &str = "PGP PRIVATE KEY BLOCK";
pub(super) const PUBLIC_KEY: &str = "PGP PUBLIC KEY BLOCK";

/// Characters of base64 in a line.
const LINE: usize = 64;

/// What is in the armor of this kind. Text before and after it is passed over; a
/// checksum is not needed but must be right.
pub(super) fn decode(text: &str, kind: &str) -> Result<Zeroizing<Vec<u8>>, PgpError> {
    let mut lines = text.lines().map(str::trim);
    let begin = |line: &str| marks(line, "BEGIN", kind);
    lines.find(|line| begin(line)).ok_or(PgpError::Armor)?;
    // Its capacity is that of the whole text: it never moves and so leaves no copy behind.
    let mut base64 = Zeroizing::new(String::with_capacity(text.len()));
    let mut checksum = None;
    let mut in_headers = true;
    for line in lines {
        if marks(line, "END", kind) {
            let data = STANDARD.decode(base64.as_bytes()).map_err(|_| PgpError::Armor)?;
            let data = Zeroizing::new(data);
            return match checksum {
                Some(checksum) if checksum != crc24(&data).to_be_bytes()[1..] => Err(PgpError::Armor),
                _ => Ok(data),
            };
        }
        // Headers, as `Version: x`, end with an empty line; base64 has no colon.
        if line.is_empty() || (in_headers && line.contains(':')) {
            continue;
        }
        in_headers = false;
        match line.strip_prefix('=') {
            Some(sum) if checksum.is_none() => {
                checksum = Some(STANDARD.decode(sum).map_err(|_| PgpError::Armor)?);
            }
            None if checksum.is_none() => base64.push_str(line),
            // After the checksum comes only the end.
            _ => return Err(PgpError::Armor),
        }
    }
    Err(PgpError::Armor)
}

/// Whether this line is `-----BEGIN kind-----` (or `END`).
fn marks(line: &str, which: &str, kind: &str) -> bool {
    line.strip_prefix("-----")
        .and_then(|line| line.strip_suffix("-----"))
        .and_then(|line| line.strip_prefix(which))
        .and_then(|line| line.strip_prefix(' '))
        == Some(kind)
}

/// `data` in armor of this kind.
pub(super) fn encode(data: &[u8], kind: &str) -> Zeroizing<String> {
    let base64 = Zeroizing::new(STANDARD.encode(data));
    let lines = base64.len() / LINE + 8;
    let mut text = Zeroizing::new(String::with_capacity(base64.len() + lines + 4 * kind.len() + 64));
    for part in ["-----BEGIN ", kind, "-----\n\n"] {
        text.push_str(part);
    }
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push('=');
    text.push_str(&STANDARD.encode(&crc24(data).to_be_bytes()[1..]));
    for part in ["\n-----END ", kind, "-----\n"] {
        text.push_str(part);
    }
    text
}

/// The checksum of armor (RFC 4880, section 6.1).
fn crc24(data: &[u8]) -> u32 {
    let mut crc: u32 = 0xb7_04ce;
    for octet in data {
        crc ^= u32::from(*octet) << 16;
        for _ in 0..8 {
            crc <<= 1;
            if crc & 0x100_0000 != 0 {
                crc ^= 0x186_4cfb;
            }
        }
    }
    crc & 0xff_ffff
}
