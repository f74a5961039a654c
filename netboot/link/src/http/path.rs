//! Which paths mean a plain name.

/// The decoded path beneath `prefix`; `None` for one that could mean something else to whoever reads it next:
/// an encoded slash, a backslash, control characters, `.` and `..`, empty parts, bytes that are no UTF-8.
pub(super) fn plain(path: &str, prefix: &str) -> Option<String> {
    let decoded = decode(path.strip_prefix(prefix)?)?;
    let name = |part: &str| !part.is_empty() && part != "." && part != "..";
    decoded.split('/').all(name).then_some(decoded)
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let literal = if byte == b'%' {
            let value = hex(bytes.next()?)? << 4 | hex(bytes.next()?)?;
            if value == b'/' {
                return None;
            }
            value
        } else {
            byte
        };
        if literal == b'\\' || literal.is_ascii_control() {
            return None;
        }
        decoded.push(literal);
    }
    String::from_utf8(decoded).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_are_decoded() {
        assert_eq!(plain("/assets/kernel-amd64", "/assets/").as_deref(), Some("kernel-amd64"));
        assert_eq!(plain("/image/a/b%2B1/c", "/").as_deref(), Some("image/a/b+1/c"));
        assert_eq!(plain("/assets/a%20b", "/assets/").as_deref(), Some("a b"));
    }

    #[test]
    fn anything_else_is_no_name() {
        for path in [
            "/other/x",
            "/assets/",
            "/assets/..",
            "/assets/../x",
            "/assets/a/../x",
            "/assets/./x",
            "/assets//x",
            "/assets/x/",
            "/assets/%2e%2e/x",
            "/assets/%2E%2e",
            "/assets/a%2fb",
            "/assets/a%2Fb",
            "/assets/a%5cb",
            "/assets/a\\b",
            "/assets/a%00",
            "/assets/a%0a",
            "/assets/%",
            "/assets/%1",
            "/assets/%zz",
            "/assets/%ff",
        ] {
            assert_eq!(plain(path, "/assets/"), None, "{path}");
        }
    }
}
