//! The Image Factory as the hub needs it: a seam, so that whoever runs the hub brings the client.

use std::fmt;

use async_trait::async_trait;
use thiserror::Error;

/// The factory that the hub asks for its providers.
#[async_trait]
pub trait ImageFactory: fmt::Debug + Send + Sync {
    /// Where it makes images, with the credentials that it wants, if any.
    fn base_url(&self) -> &str;

    /// Where machines boot from, with the credentials that it wants, if any.
    fn pxe_base_url(&self) -> &str;

    /// Has it make a schematic, YAML, and answers the schematic's id.
    async fn ensure_schematic(&self, yaml: &str) -> Result<String, SchematicError>;
}

/// Why there is no schematic.
#[derive(Debug, Error)]
pub enum SchematicError {
    /// The factory does not take it, and will not.
    #[error("{0}")]
    Refused(String),
    /// The factory does not answer as it should; later it may.
    #[error("{0}")]
    Unavailable(String),
}

/// A URL in parts, as far as the credentials in it matter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct FactoryUrl<'a> {
    scheme: &'a str,
    /// `user:password`, empty when there is none.
    credentials: &'a str,
    /// Host, port and path, without a slash at the end.
    pub(crate) place: &'a str,
}

impl<'a> FactoryUrl<'a> {
    /// Takes an absolute URL apart, `None` for anything else.
    pub(crate) fn parse(url: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let authority = rest.find('/').unwrap_or(rest.len());
        let (credentials, start) = match rest[..authority].rfind('@') {
            Some(at) => (&rest[..at], at + 1),
            None => ("", 0),
        };
        let place = rest[start..].trim_end_matches('/');
        let host = place.split('/').next().unwrap_or_default();
        (!scheme.is_empty() && !host.is_empty()).then_some(Self { scheme, credentials, place })
    }

    pub(crate) fn host(&self) -> &'a str {
        self.place.split('/').next().unwrap_or_default()
    }

    /// As anybody may see it.
    pub(crate) fn public(&self) -> String {
        format!("{}://{}", self.scheme, self.place)
    }

    /// With what it takes to get in.
    pub(crate) fn standalone(&self) -> String {
        if self.credentials.is_empty() {
            return self.public();
        }
        format!("{}://{}@{}", self.scheme, self.credentials, self.place)
    }

    /// `user:password` as a header has it, `None` when there is none.
    pub(crate) fn credentials(&self) -> Option<String> {
        (!self.credentials.is_empty()).then(|| percent_decoded(self.credentials))
    }
}

/// `%40` is an `@`; what is no such pair stays.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let pair = if byte == b'%' { text.get(at + 1..at + 3) } else { None };
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests;
