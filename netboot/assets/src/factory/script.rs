//! The script by which a factory boots a machine, read for its kernel, arguments and initial file system.

/// Bytes of a script. Its longest part is a command line, of which a kernel reads 2,047.
pub const SCRIPT_MAX: usize = 64 * 1024;
/// Lines of a script; a factory writes six.
const LINES_MAX: usize = 64;

/// Why a script is not one of a factory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootScriptError {
    /// More than any factory writes.
    #[error("a boot script of more than {SCRIPT_MAX} bytes or {LINES_MAX} lines")]
    TooLong,
    /// A page of a proxy, for example.
    #[error("no iPXE script")]
    NoScript,
    /// A command that a factory does not use. What it would do is lost when only kernel and initramfs are read.
    #[error("line {0}: an unexpected command")]
    Command(usize),
    /// A command without its URL, or with more than that, or with one that is no plain `http` or `https` URL.
    #[error("line {0}: no plain URL")]
    Url(usize),
    /// The same file twice.
    #[error("line {0}: a second kernel or initrd")]
    Twice(usize),
    /// Nothing to boot.
    #[error("it boots no kernel")]
    NoKernel,
}

/// What a factory boots a machine with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootScript {
    /// Where the kernel is; with secure boot the unified image, which has its initial file system inside.
    pub kernel_url: String,
    /// What it is told.
    pub args: Vec<String>,
    /// Where its initial file system is.
    pub initrd_url: Option<String>,
}

impl BootScript {
    /// Reads a script of `imgfree`, `kernel`, `initrd`, `boot`, which is all that factories write. Any bytes do.
    ///
    /// # Errors
    /// For whatever else it is.
    pub fn parse(text: &[u8]) -> Result<Self, BootScriptError> {
        if text.len() > SCRIPT_MAX {
            return Err(BootScriptError::TooLong);
        }
        // Beyond ASCII there is nothing that a machine's firmware would take.
        let text = std::str::from_utf8(text).ok().filter(|text| text.is_ascii());
        let lines = text.ok_or(BootScriptError::NoScript)?.lines();
        let mut lines = lines.map(str::trim).enumerate().map(|(at, line)| (at + 1, line));
        if lines.next().is_none_or(|(_, line)| line != "#!ipxe") {
            return Err(BootScriptError::NoScript);
        }
        let (mut kernel, mut initrd, mut boots) = (None, None, false);
        for (number, line) in lines {
            if number > LINES_MAX {
                return Err(BootScriptError::TooLong);
            }
            let mut words = line.split_ascii_whitespace();
            let twice = match words.next() {
                None => false,
                Some(comment) if comment.starts_with('#') => false,
                // After it nothing runs, and before there is nothing to boot.
                Some("imgfree") if !boots && words.next().is_none() => false,
                Some("boot") if !boots && words.next().is_none() => {
                    boots = true;
                    false
                }
                Some("kernel") if !boots => {
                    let url = plain_url(words.next(), number)?;
                    kernel.replace((url, words.map(str::to_owned).collect())).is_some()
                }
                Some("initrd") if !boots => {
                    let url = plain_url(words.next(), number)?;
                    if words.next().is_some() {
                        return Err(BootScriptError::Url(number));
                    }
                    initrd.replace(url).is_some()
                }
                Some(_) => return Err(BootScriptError::Command(number)),
            };
            if twice {
                return Err(BootScriptError::Twice(number));
            }
        }
        match kernel {
            Some((kernel_url, args)) if boots => Ok(Self { kernel_url, args, initrd_url: initrd }),
            Some(_) | None => Err(BootScriptError::NoKernel),
        }
    }
}

/// A URL of printable ASCII that names a host and holds no settings of iPXE.
fn plain_url(word: Option<&str>, line: usize) -> Result<String, BootScriptError> {
    let plain = |url: &&str| {
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
            && url.bytes().all(|byte| byte.is_ascii_graphic())
            && !url.contains("${")
            && url.parse::<http::Uri>().is_ok()
    };
    word.filter(plain).map(str::to_owned).ok_or(BootScriptError::Url(line))
}

#[cfg(test)]
mod tests;
