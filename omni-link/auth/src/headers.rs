//! The three metadata values of a signed call and the text that is signed.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};

/// When the call was signed, in seconds since 1970.
pub const TIMESTAMP_HEADER: &str = "x-sidero-timestamp";
/// The signed text.
pub const PAYLOAD_HEADER: &str = "x-sidero-payload";
/// Version, identity, fingerprint and signature.
pub const SIGNATURE_HEADER: &str = "x-sidero-signature";
/// The one version of signatures there is.
pub(crate) const SIGNATURE_VERSION: &str = "siderov1";

/// The headers that the signed text repeats: what it says and what the request carries
/// must be the same, so that nobody adds or changes one on the way.
///
/// `fieldSelectors` is spelt as on Omni's side. No request can carry a name with a
/// capital letter, so it can only ever be absent.
pub const SIGNED_HEADERS: [&str; 10] = [
    TIMESTAMP_HEADER,
    "nodes",
    "selectors",
    "fieldSelectors",
    "runtime",
    "context",
    "cluster",
    "namespace",
    "uid",
    "authorization",
];

/// The signed text. `null` and an absent name mean the same: no such header.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Payload {
    #[serde(default)]
    pub(crate) headers: Option<BTreeMap<String, Option<Vec<String>>>>,
    #[serde(default)]
    pub(crate) method: String,
}

impl Payload {
    /// The text for a call of `method` at `timestamp` whose other metadata is `headers`.
    pub(crate) fn of(method: &str, timestamp: &str, headers: &HeaderMap) -> Self {
        let mut signed = BTreeMap::new();
        signed.insert(TIMESTAMP_HEADER.to_owned(), Some(vec![timestamp.to_owned()]));
        for name in &SIGNED_HEADERS[1..] {
            let values: Vec<String> = values_of(headers, name)
                .filter_map(|value| std::str::from_utf8(value).ok())
                .map(str::to_owned)
                .collect();
            if !values.is_empty() {
                signed.insert((*name).to_owned(), Some(values));
            }
        }
        Self { headers: Some(signed), method: method.to_owned() }
    }

    /// The values that the text gives for a header; `None` when it says there are none.
    pub(crate) fn values(&self, name: &str) -> Option<&[String]> {
        self.headers.as_ref()?.get(name)?.as_deref()
    }

    /// As JSON in ASCII only, since it travels in a header.
    pub(crate) fn to_ascii(&self) -> String {
        let json = serde_json::to_string(self).expect("strings and lists always serialize");
        let mut ascii = String::with_capacity(json.len());
        for c in json.chars() {
            if c.is_ascii() && c != '\u{7f}' {
                ascii.push(c);
            } else {
                // Only within a string can JSON hold such a character.
                for unit in c.encode_utf16(&mut [0; 2]) {
                    ascii.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
        ascii
    }
}

/// All values that a request carries for one of [`SIGNED_HEADERS`].
pub(crate) fn values_of<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    // A name with a capital letter is on no wire, but `HeaderMap` would fold its case.
    let on_wire = !name.bytes().any(|b| b.is_ascii_uppercase());
    let values = on_wire.then(|| headers.get_all(name));
    values.into_iter().flat_map(|all| all.into_iter().map(HeaderValue::as_bytes))
}

/// The metadata that signs one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHeaders {
    /// For [`TIMESTAMP_HEADER`].
    pub timestamp: String,
    /// For [`PAYLOAD_HEADER`].
    pub payload: String,
    /// For [`SIGNATURE_HEADER`].
    pub signature: String,
}

impl SignedHeaders {
    /// Puts the three values into a request's metadata, in place of any that are there.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, text) in [
            (TIMESTAMP_HEADER, &self.timestamp),
            (PAYLOAD_HEADER, &self.payload),
            (SIGNATURE_HEADER, &self.signature),
        ] {
            // A value changed by hand into what no header can hold is left out; the
            // server then refuses the call.
            match HeaderValue::from_str(text) {
                Ok(value) => drop(headers.insert(name, value)),
                Err(_) => drop(headers.remove(name)),
            }
        }
    }
}
