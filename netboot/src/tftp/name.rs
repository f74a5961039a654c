//! Which names a client may say at all.

use thiserror::Error;

/// Bytes of a file name. The longest we serve has 20; PXE's own field holds 128; twice that leaves room for
/// directories and stays one log line.
pub const MAX_NAME: usize = 256;

/// Why a name is refused before any file is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing is left of it.
    #[error("empty file name")]
    Empty,
    /// Longer than [`MAX_NAME`].
    #[error("file name too long")]
    TooLong,
    /// It has a `..` in it.
    #[error("file name leads out of the directory")]
    Traversal,
    /// A backslash, a NUL or another control character.
    #[error("file name has a forbidden character")]
    Character,
}

/// The name to look up: without the slashes in front that some firmware puts there.
///
/// # Errors
/// For every name that could mean something outside the served files, or spoil a log line.
pub fn clean_name(name: &str) -> Result<&str, NameError> {
    if name.len() > MAX_NAME {
        return Err(NameError::TooLong);
    }
    if name.chars().any(|character| character == '\\' || character.is_control()) {
        return Err(NameError::Character);
    }
    if name.split('/').any(|part| part == "..") {
        return Err(NameError::Traversal);
    }
    let name = name.trim_start_matches('/');
    if name.is_empty() { Err(NameError::Empty) } else { Ok(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_in_front_are_stripped() {
        for name in ["snp.efi", "/snp.efi", "//snp.efi"] {
            assert_eq!(clean_name(name), Ok("snp.efi"));
        }
        assert_eq!(clean_name("/amd64/snp.efi"), Ok("amd64/snp.efi"));
        assert_eq!(clean_name("a..b"), Ok("a..b"));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = "x".repeat(MAX_NAME + 1);
        for (name, error) in [
            ("", NameError::Empty),
            ("///", NameError::Empty),
            ("..", NameError::Traversal),
            ("../etc/passwd", NameError::Traversal),
            ("/../etc/passwd", NameError::Traversal),
            ("amd64/../../x", NameError::Traversal),
            ("..\\x", NameError::Character),
            ("a\0b", NameError::Character),
            ("a\nb", NameError::Character),
            (&long, NameError::TooLong),
        ] {
            assert_eq!(clean_name(name), Err(error), "{name:?}");
        }
    }
}
