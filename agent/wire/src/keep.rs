//! The operator's keep list: disks that no wipe may touch.
//!
//! It reaches the agent as the kernel argument `bootlace.keep`, entries separated by commas; the appliance reads
//! it with the same parser when it starts, and writes the argument with [`Keep`]'s `Display`:
//!
//! ```text
//! keep  = entry *( "," entry )
//! entry = "serial:" text | "wwn:" text | "size:" cmp number [ unit ]
//! cmp   = ">=" | "<=" | ">" | "<" | "="
//! number= digits [ "." digits ]
//! unit  = ( "K" | "M" | "G" | "T" | "P" ) [ "i" ] [ "B" ]     ; powers of 1000, with "i" of 1024
//! text  = 1*( any byte but "," and space, or "%" and two hex digits )
//! ```
//!
//! `serial` ignores case and spaces around; `wwn` also ignores the prefixes `0x`, `naa.`, `eui.`, `uuid.`,
//! `nvme.`, `wwn-` and punctuation, and 16 digits or more match a longer name that begins with them. What
//! can be misread is read so that more is kept, and a list that cannot be understood keeps everything.

use std::fmt;

/// More entries than any machine has disks; a longer list does not fit the kernel's command line anyway.
pub const MAX_ENTRIES: usize = 256;
/// Bytes from which on the kernel cuts its command line off (`COMMAND_LINE_SIZE` of x86 and arm64, less
/// the final zero): a line of this length may lack entries.
pub const CMDLINE_LIMIT: usize = 2047;
/// Hex digits of the shortest world wide name (NAA 5, EUI-64).
const SHORT_WWN: usize = 16;

/// What the list is compared with.
#[derive(Clone, Copy, Debug)]
pub struct DiskNames<'a> {
    /// Serial number, empty when there is none.
    pub serial: &'a str,
    /// World wide names as the kernel tells them.
    pub wwns: &'a [String],
    /// Bytes.
    pub size: u64,
}

/// Disks to leave alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    rules: Vec<Rule>,
}

/// An entry of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The disk with this serial number.
    Serial(String),
    /// The disk with this world wide name, NGUID, EUI or UUID.
    Wwn(String),
    /// Every disk of such a size.
    Size(Compare, u64),
}

/// How a size is compared with the rule's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// At least.
    AtLeast,
    /// At most.
    AtMost,
    /// More.
    Above,
    /// Less.
    Below,
    /// The same.
    Equal,
}

/// The list cannot be understood; nothing may be wiped then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    /// An entry that is none.
    #[error("keep list entry {entry:?}: {why}")]
    Entry {
        /// As it was written.
        entry: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More than [`MAX_ENTRIES`].
    #[error("keep list has more than {MAX_ENTRIES} entries")]
    TooLong,
    /// The kernel may have cut it off.
    #[error("kernel command line is full, so the keep list may be cut off")]
    CutOff,
}

impl Keep {
    /// Reads a list as above; an empty one keeps nothing.
    pub fn parse(text: &str) -> Result<Self, KeepError> {
        let rules: Vec<Rule> = text
            .split(',')
            .filter(|entry| !entry.is_empty())
            .map(|entry| {
                rule(entry).map_err(|why| KeepError::Entry { entry: entry.chars().take(80).collect(), why })
            })
            .collect::<Result<_, _>>()?;
        if rules.len() > MAX_ENTRIES { Err(KeepError::TooLong) } else { Ok(Self { rules }) }
    }

    /// Adds the entries of another list.
    pub fn extend(&mut self, other: Self) {
        self.rules.extend(other.rules);
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The first entry that means this disk.
    pub fn matching(&self, disk: DiskNames<'_>) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.matches(disk))
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, rule) in self.rules.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(out, "{comma}{rule}")?;
        }
        Ok(())
    }
}

impl Rule {
    /// Whether the entry means this disk.
    pub fn matches(&self, disk: DiskNames<'_>) -> bool {
        match self {
            Self::Serial(serial) => disk.serial.trim().eq_ignore_ascii_case(serial),
            Self::Wwn(wanted) => {
                disk.wwns.iter().map(|wwn| normal_wwn(wwn)).any(|wwn| {
                    wwn == *wanted || (wanted.len() >= SHORT_WWN && wwn.starts_with(wanted.as_str()))
                })
            }
            Self::Size(compare, size) => match compare {
                Compare::AtLeast => disk.size >= *size,
                Compare::AtMost => disk.size <= *size,
                Compare::Above => disk.size > *size,
                Compare::Below => disk.size < *size,
                Compare::Equal => disk.size == *size,
            },
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial(serial) => {
                out.write_str("serial:")?;
                serial.bytes().try_for_each(|byte| match byte {
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                        write!(out, "{}", char::from(byte))
                    }
                    // Neither the boot loader nor the kernel may take it for something of their own.
                    byte => write!(out, "%{byte:02X}"),
                })
            }
            Self::Wwn(wwn) => write!(out, "wwn:{wwn}"),
            Self::Size(compare, size) => {
                let sign = match compare {
                    Compare::AtLeast => ">=",
                    Compare::AtMost => "<=",
                    Compare::Above => ">",
                    Compare::Below => "<",
                    Compare::Equal => "=",
                };
                write!(out, "size:{sign}{size}")
            }
        }
    }
}

/// A world wide name without what its writers add to it.
pub fn normal_wwn(text: &str) -> String {
    let lower = text.trim().to_ascii_lowercase();
    let mut rest = lower.as_str();
    while let Some(shorter) =
        ["wwn-", "0x", "naa.", "eui.", "uuid.", "nvme."].iter().find_map(|prefix| rest.strip_prefix(prefix))
    {
        rest = shorter;
    }
    rest.chars().filter(char::is_ascii_alphanumeric).collect()
}

fn rule(entry: &str) -> Result<Rule, &'static str> {
    let (kind, value) = entry.split_once(':').ok_or("write serial:…, wwn:… or size:…")?;
    let value = decode(value)?;
    let value = value.trim();
    match kind {
        "serial" if value.is_empty() => Err("there is no serial number"),
        "serial" => Ok(Rule::Serial(value.to_owned())),
        "wwn" => match normal_wwn(value) {
            name if name.is_empty() => Err("there is no name"),
            name => Ok(Rule::Wwn(name)),
        },
        "size" => size_rule(value),
        _ => Err("write serial:…, wwn:… or size:…"),
    }
}

fn size_rule(text: &str) -> Result<Rule, &'static str> {
    let signs = [
        (">=", Compare::AtLeast),
        ("<=", Compare::AtMost),
        (">", Compare::Above),
        ("<", Compare::Below),
        ("=", Compare::Equal),
    ];
    let (compare, rest) = signs
        .iter()
        .find_map(|(sign, compare)| Some((*compare, text.strip_prefix(sign)?)))
        .ok_or("a size begins with >=, <=, >, < or =")?;
    let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
    let (number, unit) = rest.split_at(digits);
    let unit = unit.strip_suffix(['B', 'b']).unwrap_or(unit).to_ascii_uppercase();
    let factor: u128 = match unit.as_str() {
        "" => 1,
        "K" => 1000,
        "M" => 1000_u128.pow(2),
        "G" => 1000_u128.pow(3),
        "T" => 1000_u128.pow(4),
        "P" => 1000_u128.pow(5),
        "KI" => 1 << 10,
        "MI" => 1 << 20,
        "GI" => 1 << 30,
        "TI" => 1 << 40,
        "PI" => 1 << 50,
        _ => return Err("the unit is none of K M G T P Ki Mi Gi Ti Pi"),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    // Twelve digits behind the point are single bytes of a terabyte.
    if whole.is_empty() || whole.len() > 20 || part.len() > 12 || part.contains('.') {
        return Err("there is no number that a size can be");
    }
    let whole: u128 = whole.parse().map_err(|_| "there is no number that a size can be")?;
    let mut bytes = whole * factor;
    if !part.is_empty() {
        let fraction: u128 = part.parse().map_err(|_| "there is no number that a size can be")?;
        bytes += fraction * factor / 10_u128.pow(u32::try_from(part.len()).unwrap_or(12));
    }
    u64::try_from(bytes).map(|bytes| Rule::Size(compare, bytes)).map_err(|_| "the size is too large")
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
            let value = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
            bytes.push(u8::from_str_radix(value.ok_or("% without two hex digits")?, 16).unwrap_or(b'%'));
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| "it is no UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(list: &str, serial: &str, wwn: &str, size: u64) -> bool {
        let wwns: Vec<String> = [wwn.to_owned()].into_iter().filter(|wwn| !wwn.is_empty()).collect();
        Keep::parse(list).unwrap().matching(DiskNames { serial, wwns: &wwns, size }).is_some()
    }

    #[test]
    fn a_disk_is_kept_by_serial_name_or_size() {
        let two_tb = 2_000_398_934_016;
        let wwn = "naa.5000c500a1b2c3d4";
        for (list, kept) in [
            ("", false),
            ("serial:XYZ", true),
            ("serial:xyz", true),
            ("serial:XYZ0", false),
            ("serial:other,serial:XYZ", true),
            ("wwn:0x5000C500A1B2C3D4", true),
            ("wwn:wwn-0x5000c500a1b2c3d4", true),
            ("wwn:naa.5000c500a1b2c3d4", true),
            ("wwn:50:00:c5:00:a1:b2:c3:d4", true),
            ("wwn:5000c500", false),
            ("wwn:5000c500a1b2c3d40001", false),
            ("size:>=2T", true),
            ("size:>2TiB", false),
            ("size:>=1.8Ti", true),
            ("size:<2T", false),
            ("size:<=2000398934016", true),
            ("size:=2000398934016B", true),
            ("size:=2T", false),
            ("size:>3T,serial:%58YZ", true),
        ] {
            assert_eq!(self::kept(list, "XYZ", wwn, two_tb), kept, "{list}");
        }
        assert!(self::kept("wwn:0x600508b1001c5e7a", "", "naa.600508b1001c5e7a0123456789abcdef", 1));
    }

    #[test]
    fn a_disk_that_tells_nothing_matches_no_name() {
        assert!(!kept("serial:a,wwn:b", "", "", 5));
    }

    #[test]
    fn a_list_is_written_so_that_it_is_read_again() {
        let keep = Keep::parse("serial:A%20b%2Cc#d/,wwn:0x5000c500a1b2c3d4,size:>=2T").unwrap();
        let text = keep.to_string();
        assert_eq!(text, "serial:A%20b%2Cc%23d%2F,wwn:5000c500a1b2c3d4,size:>=2000000000000");
        assert_eq!(Keep::parse(&text).unwrap(), keep);
    }

    proptest::proptest! {
        #[test]
        fn no_list_panics_and_what_is_understood_survives_writing(text in ".{0,80}") {
            if let Ok(keep) = Keep::parse(&text) {
                assert_eq!(Keep::parse(&keep.to_string()).unwrap(), keep);
            }
        }
    }

    #[test]
    fn a_list_that_cannot_be_understood_is_an_error() {
        for list in [
            "XYZ",
            "serial",
            "serial:",
            "serial:%20",
            "serial:%4",
            "serial:%zz",
            "serial:%ff",
            "wwn:0x",
            "size:2T",
            "size:>=",
            "size:>=T",
            "size:>=.5T",
            "size:>=1.2.3T",
            "size:>=2X",
            "size:>=2TT",
            "size:>=99999999999P",
            "model:x",
        ] {
            assert!(Keep::parse(list).is_err(), "{list}");
        }
        assert_eq!(Keep::parse(&"serial:a,".repeat(MAX_ENTRIES + 1)), Err(KeepError::TooLong));
    }

    #[test]
    fn rules_are_shown_as_they_are_written() {
        for text in ["serial:A", "wwn:5000c500a1b2c3d4", "size:>=2000", "size:<1", "size:=7"] {
            assert_eq!(rule(text).unwrap().to_string(), text);
        }
    }
}
