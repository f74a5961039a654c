//! DER (X.690), as much as certificates need.

const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// 9999-12-31T23:59:59Z: RFC 5280's "no end".
pub(super) const LAST_SECOND: u64 = 253_402_300_799;
/// From here on times are written with four digits of the year.
const YEAR_2050: u64 = 2_524_608_000;
const DAY: u64 = 24 * 60 * 60;
/// Days from 0000-03-01 to 1970-01-01, and of 400 years.
const EPOCH: u64 = 719_468;
const ERA: u64 = 146_097;

/// A value with its tag and length.
pub(super) fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let contents = parts.concat();
    let mut bytes = vec![tag];
    let length = contents.len().to_be_bytes();
    let significant = &length[length.iter().position(|byte| *byte != 0).unwrap_or(length.len() - 1)..];
    match significant {
        [short] if *short < 0x80 => bytes.push(*short),
        // A length of lengths has at most eight bytes.
        long => {
            bytes.push(0x80 | u8::try_from(long.len()).expect("eight at most"));
            bytes.extend(long);
        }
    }
    bytes.extend(contents);
    bytes
}

/// A value that is read.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) tag: u8,
    pub(super) contents: &'a [u8],
    /// With tag and length.
    pub(super) whole: &'a [u8],
}

/// The values that stand one after another in these bytes; `None` when they are no DER.
pub(super) fn parts(mut bytes: &[u8]) -> Option<Vec<Part<'_>>> {
    let mut found = Vec::new();
    while let [tag, first, rest @ ..] = bytes {
        let (length, rest) = match *first {
            short @ ..0x80 => (usize::from(short), rest),
            long => {
                let (length, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
                // Nothing here has more than 64 KiB.
                let length = match *length {
                    [one] => usize::from(one),
                    [high, low] => usize::from(u16::from_be_bytes([high, low])),
                    _ => return None,
                };
                (length, rest)
            }
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        found.push(Part { tag: *tag, contents, whole: &bytes[..bytes.len() - rest.len()] });
        bytes = rest;
    }
    bytes.is_empty().then_some(found)
}

/// A time as RFC 5280 wants it: UTCTime until 2049, then GeneralizedTime.
pub(super) fn time(seconds: u64) -> Vec<u8> {
    let seconds = seconds.min(LAST_SECOND);
    let (year, month, day) = civil(seconds / DAY);
    let (hour, minute, second) = (seconds % DAY / 3600, seconds % 3600 / 60, seconds % 60);
    let rest = format!("{month:02}{day:02}{hour:02}{minute:02}{second:02}Z");
    if seconds < YEAR_2050 {
        der(UTC_TIME, &[format!("{:02}{rest}", year % 100).as_bytes()])
    } else {
        der(GENERALIZED_TIME, &[format!("{year:04}{rest}").as_bytes()])
    }
}

impl Part<'_> {
    /// A time in seconds since 1970; earlier ones are that.
    pub(super) fn seconds(&self) -> Option<u64> {
        let digits = self.contents.strip_suffix(b"Z")?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let number = |digits: &[u8]| digits.iter().fold(0, |all, digit| all * 10 + u64::from(digit - b'0'));
        let (year, rest) = match (self.tag, digits.len()) {
            (UTC_TIME, 12) => match number(&digits[..2]) {
                early @ ..50 => (2000 + early, &digits[2..]),
                late => (1900 + late, &digits[2..]),
            },
            (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
            _ => return None,
        };
        let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| number(&rest[at..at + 2]));
        let valid = (1..=12).contains(&month) && (1..=31).contains(&day);
        let days = if valid { days(year, month, day) } else { return None };
        Some(days * DAY + hour * 3600 + minute * 60 + second)
    }
}

/// Year, month and day of a day since 1970 (years are counted from March, whose leap day is their last).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + EPOCH;
    let (era, of_era) = (days / ERA, days % ERA);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year, if month < 10 { month + 3 } else { month - 9 });
    (year + u64::from(month <= 2), month, day)
}

/// The inverse of [`civil`].
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2 && year > 0);
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    (era * ERA + of_era * 365 + of_era / 4 - of_era / 100 + of_year).saturating_sub(EPOCH)
}
