//! The configuration that machines fetch: Omni's join documents, and what the operator adds to them.
//!
//! Talos takes all documents or none: one that it does not know, or that is there twice, keeps every machine
//! from joining. So the operator's documents are checked when they are read, and again when they are put
//! beside Omni's. Documents stay the text that they were; only what stands between them is written anew.

use std::collections::BTreeSet;

use serde::Deserialize as _;
use serde_yaml_ng::{Deserializer, Mapping, Value};

/// Bytes of a configuration. Talos itself takes some megabytes; extra documents are a few certificates.
pub const CONFIG_MAX: usize = 1024 * 1024;
/// Documents of a configuration.
pub const DOCUMENTS_MAX: usize = 256;
/// Brackets that are open at once. The YAML reader takes a time that grows with their square.
const BRACKETS_MAX: usize = 256;

/// The name of the document that carries the appliance's own certificate authority.
pub const CA_NAME: &str = "infra-provider-ca";
/// The name of the kernel log document that Omni's older join configurations had.
const KERNEL_LOG_NAME: &str = "siderolink-agent-kmsg-log";

/// Why documents are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Too much of it.
    #[error("more than {CONFIG_MAX} bytes, {DOCUMENTS_MAX} documents or {BRACKETS_MAX} open brackets")]
    TooLarge,
    /// No YAML. The text tells where.
    #[error("not valid YAML: {0}")]
    Yaml(String),
    /// Marks that only make sense for a file as a whole.
    #[error("line {0}: YAML directives and `...` cannot be part of a composed configuration")]
    Directive(usize),
    /// A list or a lone value.
    #[error("document {0} is no mapping")]
    NoMapping(usize),
    /// Patches are for documents that are there, and Talos takes none in a configuration that it fetches.
    #[error("document {0} is a patch ($patch)")]
    Patch(usize),
    /// What Talos wants of every document.
    #[error("document {index} has no {field}")]
    Missing {
        /// Its number, from 1.
        index: usize,
        /// What it lacks.
        field: &'static str,
    },
    /// The document is Omni's or the appliance's to write.
    #[error("document {index}: extra machine config must not contain {what}")]
    Reserved {
        /// Its number, from 1.
        index: usize,
        /// What it is.
        what: String,
    },
    /// Two documents of one kind and name.
    #[error("{0} is there twice")]
    Duplicate(DocumentId),
}

/// What tells documents of a configuration apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentId {
    /// Its kind; `v1alpha1` for the one that has none.
    pub kind: String,
    /// Its name, empty for kinds of which there is one.
    pub name: String,
}

impl std::fmt::Display for DocumentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, name } = self;
        if name.is_empty() { write!(f, "{kind}") } else { write!(f, "{kind} {name:?}") }
    }
}

/// The kind that stands for the machine's main document, which has none.
const MAIN: &str = "v1alpha1";

/// Documents that an operator adds to the join configuration, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtraDocuments {
    text: String,
    ids: BTreeSet<DocumentId>,
}

impl ExtraDocuments {
    /// Reads and checks them. No text is no documents.
    ///
    /// # Errors
    /// When Talos would refuse the documents for their form, when one is there twice, or when one is not the
    /// operator's to write: the machine's main document, the link to Omni, the event sink, Omni's kernel log,
    /// the appliance's certificate authority.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let text = content(text)?;
        let documents = identify(text)?;
        for (index, id) in &documents {
            if let Some(what) = reserved(id) {
                return Err(ConfigError::Reserved { index: *index, what });
            }
        }
        Ok(Self { text: text.to_owned(), ids: distinct(documents)? })
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// What they are.
    pub fn ids(&self) -> impl Iterator<Item = &DocumentId> {
        self.ids.iter()
    }
}

/// The whole configuration: Omni's documents, the appliance's certificate authority (PEM) when its services
/// use TLS, and the operator's documents.
///
/// # Errors
/// When Omni's text is no configuration, or a document would be there twice: Talos would take none of it.
pub fn compose(join: &str, ca: Option<&str>, extra: &ExtraDocuments) -> Result<String, ConfigError> {
    let join = content(join)?;
    let mut ids = distinct(identify(join)?)?;
    let ca = ca.map(ca_document);
    let ca_id = ca.as_ref().map(|_| DocumentId { kind: "TrustedRootsConfig".into(), name: CA_NAME.into() });
    for id in extra.ids.iter().chain(&ca_id) {
        if !ids.insert(id.clone()) {
            return Err(ConfigError::Duplicate(id.clone()));
        }
    }
    let parts = [join, ca.as_deref().unwrap_or_default(), &extra.text];
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    let text = parts.map(|part| format!("{part}\n")).collect::<Vec<_>>().join("---\n");
    if text.len() > CONFIG_MAX { Err(ConfigError::TooLarge) } else { Ok(text) }
}

fn ca_document(pem: &str) -> String {
    let mut document =
        format!("apiVersion: v1alpha1\nkind: TrustedRootsConfig\nname: {CA_NAME}\ncertificates: |");
    for line in pem.trim().lines() {
        document.push_str("\n    ");
        document.push_str(line.trim_end());
    }
    document
}

/// The text without the marks at its ends, so that it can stand after another.
fn content(text: &str) -> Result<&str, ConfigError> {
    if text.len() > CONFIG_MAX {
        return Err(ConfigError::TooLarge);
    }
    let open = text.bytes().scan(0_usize, |open, byte| {
        *open = match byte {
            b'[' | b'{' => *open + 1,
            b']' | b'}' => open.saturating_sub(1),
            _ => *open,
        };
        Some(*open)
    });
    if open.max().is_some_and(|open| open > BRACKETS_MAX) {
        return Err(ConfigError::TooLarge);
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut begun = false;
    for (number, line) in text.lines().enumerate() {
        let whole_file = line == "..." || line.starts_with("... ") || (!begun && line.starts_with('%'));
        if whole_file {
            return Err(ConfigError::Directive(number + 1));
        }
        begun |= !line.trim_start().is_empty() && !line.starts_with('#');
    }
    let text = text.trim_end();
    let first = text.find(|character: char| !character.is_whitespace()).unwrap_or(0);
    // Blanks before the first word of a line are part of the YAML.
    let first = text[..first].rfind('\n').map_or(0, |newline| newline + 1);
    let text = &text[first..];
    Ok(text.strip_prefix("---\n").or_else(|| text.strip_prefix("---\r\n")).unwrap_or(text))
}

/// The documents by their number; empty ones count and are left out, as Talos does.
fn identify(text: &str) -> Result<Vec<(usize, DocumentId)>, ConfigError> {
    let mut found = Vec::new();
    if text.is_empty() {
        return Ok(found);
    }
    for (index, document) in Deserializer::from_str(text).enumerate() {
        let index = index + 1;
        if index > DOCUMENTS_MAX {
            return Err(ConfigError::TooLarge);
        }
        match Value::deserialize(document).map_err(|error| ConfigError::Yaml(error.to_string()))? {
            Value::Null => {}
            Value::Mapping(mapping) => found.push((index, document_id(index, &mapping)?)),
            _ => return Err(ConfigError::NoMapping(index)),
        }
    }
    Ok(found)
}

fn document_id(index: usize, mapping: &Mapping) -> Result<DocumentId, ConfigError> {
    // A name may look like a number, and is none to Talos.
    let field = |name: &str| match mapping.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Bool(value)) => value.to_string(),
        Some(_) | None => String::new(),
    };
    if mapping.contains_key("$patch") {
        return Err(ConfigError::Patch(index));
    }
    let kind = field("kind");
    if kind.is_empty() && (mapping.contains_key("version") || mapping.contains_key("machine")) {
        return Ok(DocumentId { kind: MAIN.to_owned(), name: String::new() });
    }
    for required in ["kind", "apiVersion"] {
        if field(required).is_empty() {
            return Err(ConfigError::Missing { index, field: required });
        }
    }
    Ok(DocumentId { kind, name: field("name") })
}

fn distinct(documents: Vec<(usize, DocumentId)>) -> Result<BTreeSet<DocumentId>, ConfigError> {
    let mut ids = BTreeSet::new();
    for (_, id) in documents {
        if ids.contains(&id) {
            return Err(ConfigError::Duplicate(id));
        }
        ids.insert(id);
    }
    Ok(ids)
}

/// What is not the operator's to write.
fn reserved(id: &DocumentId) -> Option<String> {
    match (id.kind.as_str(), id.name.as_str()) {
        (MAIN, _) => Some("the machine's main document (v1alpha1)".to_owned()),
        (kind @ ("SideroLinkConfig" | "EventSinkConfig"), _) => Some(format!("a {kind} document")),
        ("KmsgLogConfig", KERNEL_LOG_NAME) | ("TrustedRootsConfig", CA_NAME) => Some(id.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
