//! One line of printable ASCII as Go's YAML writer (go.yaml.in/yaml v4, as v3 before it) writes it.
//!
//! A text is written plain unless a reader would see something else in it: a number, a truth value, a date
//! get double quotes; YAML's own marks get single quotes.

use std::borrow::Cow;

/// What stands in the YAML for `text`, which is printable ASCII without line breaks.
pub(super) fn written(text: &str) -> Cow<'_, str> {
    debug_assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "callers checked it");
    if seems_no_text(text) {
        let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
        Cow::Owned(format!("\"{escaped}\""))
    } else if has_marks(text) {
        Cow::Owned(format!("'{}'", text.replace('\'', "''")))
    } else {
        Cow::Borrowed(text)
    }
}

/// Whether YAML's syntax would read `text` as more than itself.
fn has_marks(text: &str) -> bool {
    const FIRST: &[u8] = b"#,[]{}&*!|>'\"%@`";
    let bytes = text.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    let indicator_alone = matches!(first, b'?' | b':' | b'-') && matches!(bytes.get(1), None | Some(b' '));
    FIRST.contains(&first)
        || indicator_alone
        || first == b' '
        || last == b' '
        || last == b':'
        || text.contains(": ")
        || text.contains(" #")
        || text.starts_with("---")
        || text.starts_with("...")
}

/// Whether a YAML reader, of version 1.1 or 1.2, would take the bare `text` for something other than text.
fn seems_no_text(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "", "~", "null", "Null", "NULL", "true", "True", "TRUE", "false", "False", "FALSE", "y", "Y", "yes",
        "Yes", "YES", "on", "On", "ON", "n", "N", "no", "No", "NO", "off", "Off", "OFF", ".nan", ".NaN",
        ".NAN", ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF", "<<",
    ];
    if WORDS.contains(&text) {
        return true;
    }
    match text.as_bytes().first() {
        // Here underscores count only between digits, elsewhere anywhere.
        Some(b'.') => underscores_between_digits(text) && is_decimal(&text.replace('_', "")),
        Some(b'0'..=b'9' | b'+' | b'-') => {
            let digits = text.replace('_', "");
            is_integer(&digits) || is_decimal(&digits) || is_base_60(text) || is_timestamp(text)
        }
        _ => false,
    }
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['+', '-']).unwrap_or(text)
}

/// An integer of 64 bits, signed or not, in the bases that Go reads from prefixes.
fn is_integer(text: &str) -> bool {
    let digits = unsigned(text);
    let prefixed = digits.get(..2).map(str::to_ascii_lowercase);
    let (digits, base) = match prefixed.as_deref() {
        Some("0x") => (&digits[2..], 16),
        Some("0b") => (&digits[2..], 2),
        Some("0o") => (&digits[2..], 8),
        // Only a lone zero is not an octal prefix.
        Some(_) if digits.starts_with('0') => (&digits[1..], 8),
        _ => (digits, 10),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(base)) {
        return false;
    }
    let Ok(value) = u64::from_str_radix(digits, base) else { return false };
    match text.as_bytes()[0] {
        b'-' => value <= 1 << 63,
        b'+' => i64::try_from(value).is_ok(),
        _ => true,
    }
}

/// A decimal fraction that fits a double.
fn is_decimal(text: &str) -> bool {
    let shape = unsigned(text);
    let (mantissa, exponent) = match shape.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(unsigned(exponent))),
        None => (shape, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let some_digit = !whole.is_empty() || fraction.is_some_and(|fraction| !fraction.is_empty());
    some_digit
        && digits(whole)
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|exponent| !exponent.is_empty() && digits(exponent))
        && text.parse::<f64>().is_ok_and(f64::is_finite)
}

fn underscores_between_digits(text: &str) -> bool {
    let mut parts = text.split('_').peekable();
    let mut before = true;
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        if !before && !part.starts_with(is_digit) || !last && !part.ends_with(is_digit) {
            return false;
        }
        before = false;
    }
    true
}

/// `1:30`, which YAML 1.1 read as ninety.
fn is_base_60(text: &str) -> bool {
    let number = unsigned(text);
    let (number, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut parts = number.split(':');
    let first = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    let loose = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    let below_60 = |part: &&str| matches!(part.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9']);
    first.starts_with(|digit: char| digit.is_ascii_digit())
        && loose(first)
        && !rest.is_empty()
        && rest.iter().all(below_60)
        && loose(fraction)
}

/// A date, or a date with a time: `2026-1-2`, `2026-01-02 3:04:05.5`, `2026-01-02T03:04:05Z`.
fn is_timestamp(text: &str) -> bool {
    let Some((year, rest)) = text.split_at_checked(4) else { return false };
    if !year.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let mut reader = Reader(rest);
    let (Some(month), Some(day)) = (reader.after("-"), reader.after("-")) else { return false };
    let year = year.parse().unwrap_or(0);
    if !(1..=12).contains(&month) || day == 0 || day > days(year, month) {
        return false;
    }
    let with_zone = match reader.0.as_bytes().first() {
        None => return true,
        Some(b'T' | b't') => true,
        Some(b' ') => false,
        Some(_) => return false,
    };
    reader.0 = if with_zone { &reader.0[1..] } else { reader.0.trim_start_matches(' ') };
    let time = (reader.number(), reader.after(":"), reader.after(":"));
    let (Some(0..24), Some(0..60), Some(0..60)) = time else { return false };
    reader.skip_fraction();
    if with_zone { is_zone(reader.0) } else { reader.0.is_empty() }
}

/// What is left to read.
struct Reader<'a>(&'a str);

impl Reader<'_> {
    /// One or two digits.
    fn number(&mut self) -> Option<u32> {
        let digits = self.0.bytes().take(2).take_while(u8::is_ascii_digit).count();
        let (number, rest) = self.0.split_at(digits);
        self.0 = rest;
        number.parse().ok()
    }

    fn after(&mut self, mark: &str) -> Option<u32> {
        self.0 = self.0.strip_prefix(mark)?;
        self.number()
    }

    fn skip_fraction(&mut self) {
        if let Some(rest) = self.0.strip_prefix(['.', ',']).filter(|rest| rest.starts_with(is_digit)) {
            self.0 = rest.trim_start_matches(is_digit);
        }
    }
}

fn is_digit(character: char) -> bool {
    character.is_ascii_digit()
}

/// `Z` or hours and minutes, both always of two digits.
fn is_zone(text: &str) -> bool {
    match text.as_bytes() {
        b"Z" => true,
        [b'+' | b'-', h1, h2, b':', m1, m2] => {
            let two = |tens: &u8, ones: &u8| {
                let both = tens.is_ascii_digit() && ones.is_ascii_digit();
                both.then(|| (tens - b'0') * 10 + (ones - b'0'))
            };
            two(h1, h2).is_some_and(|hours| hours <= 24) && two(m1, m2).is_some_and(|minutes| minutes <= 60)
        }
        _ => false,
    }
}

fn days(year: u32, month: u32) -> u32 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}
