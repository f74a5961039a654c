//! Where a factory is.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;

/// Bytes of a base URL. Longer ones are no addresses of a factory.
const URL_MAX: usize = 1024;

/// Why a text is no base URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// No absolute URL at all.
    #[error("not a URL like https://factory.talos.dev")]
    Form,
    /// Neither of the schemes that a factory speaks.
    #[error("neither http nor https")]
    Scheme,
    /// What comes after the path would be lost.
    #[error("a base URL has no query")]
    Query,
    /// Characters that an iPXE script cannot hold.
    #[error("not plain: blanks, `${{` and characters beyond ASCII are not allowed")]
    NotPlain,
}

/// `http(s)://[user:password@]host[:port][/prefix]`. Its credentials are not shown by [`fmt::Debug`].
#[derive(Clone, PartialEq, Eq)]
pub(super) struct BaseUrl {
    pub(super) tls: bool,
    /// Name or address, an IPv6 one without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// `host[:port]` as it was given.
    pub(super) authority: String,
    /// `user:password`, percent-encoded as it was given.
    user: Option<String>,
    /// Without a slash at its end.
    prefix: String,
}

impl BaseUrl {
    pub(super) fn parse(text: &str) -> Result<Self, UrlError> {
        if text.len() > URL_MAX || text.contains("${") || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UrlError::NotPlain);
        }
        let uri: Uri = text.parse().map_err(|_| UrlError::Form)?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) => return Err(UrlError::Scheme),
            None => return Err(UrlError::Form),
        };
        if uri.query().is_some() || text.contains('#') {
            return Err(UrlError::Query);
        }
        let whole = uri.authority().ok_or(UrlError::Form)?;
        let (user, authority) = match whole.as_str().rsplit_once('@') {
            Some((user, authority)) => (Some(user.to_owned()), authority.to_owned()),
            None => (None, whole.as_str().to_owned()),
        };
        let host = whole.host();
        // What `http` cannot read as a port is to it no port at all.
        let port = match authority.strip_prefix(host) {
            Some("") if tls => 443,
            Some("") => 80,
            Some(port) => port.strip_prefix(':').and_then(|port| port.parse().ok()).ok_or(UrlError::Form)?,
            None => return Err(UrlError::Form),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(UrlError::Form);
        }
        Ok(Self { tls, host, port, authority, user, prefix: uri.path().trim_end_matches('/').to_owned() })
    }

    /// The path of `path` (which begins with a slash) at this factory.
    pub(super) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// The whole URL of `path`, credentials included, for machines.
    pub(super) fn join(&self, path: &str) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let (user, at) = self.user.as_deref().map_or(("", ""), |user| (user, "@"));
        format!("{scheme}://{user}{at}{}{}{path}", self.authority, self.prefix)
    }

    /// What says who asks, for `Authorization`.
    pub(super) fn basic(&self) -> Option<String> {
        let user = percent_decoded(self.user.as_deref()?);
        Some(format!("Basic {}", STANDARD.encode(user)))
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let user = if self.user.is_some() { "…@" } else { "" };
        write!(f, "{scheme}://{user}{}{}", self.authority, self.prefix)
    }
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let value = digits.filter(|_| *byte == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(value.unwrap_or(*byte));
        rest = if value.is_some() { &after[2..] } else { after };
    }
    decoded
}

#[cfg(test)]
mod tests;
