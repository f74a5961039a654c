//! The address that identifies a machine before anything else does.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An Ethernet address.
///
/// Reads `aa:bb:cc:dd:ee:ff` and `aa-bb-cc-dd-ee-ff` in either case, writes the first form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether it can be the address of one interface: neither a group address nor all zero.
    #[must_use]
    pub const fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Text that is no Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a MAC address: six hexadecimal pairs between colons or hyphens are expected")]
pub struct ParseMacError;

impl FromStr for Mac {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut pairs = text.split(separator);
        let mut bytes = [0; 6];
        for byte in &mut bytes {
            let pair = pairs.next().ok_or(ParseMacError)?;
            // from_str_radix alone would accept "+a".
            if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(ParseMacError);
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| ParseMacError)?;
        }
        if pairs.next().is_some() {
            return Err(ParseMacError);
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0x00, 0xab, 0xcd, 0xef]);

    #[test]
    fn colons_hyphens_and_capitals_are_read() {
        for text in ["52:54:00:ab:cd:ef", "52-54-00-ab-cd-ef", "52:54:00:AB:CD:EF"] {
            assert_eq!(text.parse(), Ok(MAC), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "52:54:00:ab:cd", "52:54:00:ab:cd:ef:00", "52:54-00:ab:cd:ef", "+2:54:00:ab:cd:ef"] {
            assert_eq!(text.parse::<Mac>(), Err(ParseMacError), "{text}");
        }
    }

    #[test]
    fn it_is_a_string_in_json() {
        let json = serde_json::to_string(&MAC).unwrap();
        assert_eq!(json, "\"52:54:00:ab:cd:ef\"");
        assert_eq!(serde_json::from_str::<Mac>(&json).unwrap(), MAC);
    }

    #[test]
    fn group_addresses_and_zero_belong_to_no_machine() {
        assert!(MAC.is_unicast());
        assert!(!Mac([0xff; 6]).is_unicast());
        assert!(!Mac([0; 6]).is_unicast());
    }
}
