//! Which resources a list or a watch is about: labels and ids.

use std::collections::BTreeMap;

use regex::bytes::{Regex, RegexBuilder};

use crate::{Resource, StateError};

/// Longest id expression; ids are names, so a longer one is a mistake or an attack.
const MAX_PATTERN_BYTES: usize = 1024;
/// Memory that one compiled expression may take.
const MAX_PATTERN_PROGRAM_BYTES: usize = 1 << 20;

/// How a label is looked at. A label that is absent matches nothing, and the opposite of equality only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LabelOp {
    /// The label is there.
    Exists,
    /// Its value is the first of the term.
    Equal,
    /// Its value is one of the term's.
    In,
    /// Its value sorts before the first of the term, as text.
    Less,
    /// Its value sorts before or equals the first of the term, as text.
    LessOrEqual,
    /// Its value is a number below the first of the term. Matches never when either is no number.
    LessNumeric,
    /// Its value is a number not above the first of the term. Matches never when either is no number.
    LessOrEqualNumeric,
}

impl LabelOp {
    /// It says which value is the lesser. An absent value is neither less nor not less.
    fn orders(self) -> bool {
        match self {
            Self::Exists | Self::Equal | Self::In => false,
            Self::Less | Self::LessOrEqual | Self::LessNumeric | Self::LessOrEqualNumeric => true,
        }
    }
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelTerm {
    /// The label.
    pub key: String,
    /// How it is looked at.
    pub op: LabelOp,
    /// What it is compared with.
    pub values: Vec<String>,
    /// The opposite of it.
    pub invert: bool,
}

/// Holds when all its terms hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelQuery {
    /// The terms.
    pub terms: Vec<LabelTerm>,
}

/// What a list leaves out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListOptions {
    /// Only resources that one of these matches; empty means all.
    pub label_queries: Vec<LabelQuery>,
    /// Only ids that this regular expression matches somewhere.
    pub id_query: Option<String>,
}

impl LabelTerm {
    /// The label is there.
    pub fn exists(key: impl Into<String>) -> Self {
        Self { key: key.into(), op: LabelOp::Exists, values: Vec::new(), invert: false }
    }

    /// The label has that value.
    pub fn equal(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), op: LabelOp::Equal, values: vec![value.into()], invert: false }
    }

    /// The opposite.
    #[must_use]
    pub fn inverted(mut self) -> Self {
        self.invert = !self.invert;
        self
    }

    /// Whether the labels fulfil it.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let plain = match labels.get(&self.key) {
            None if self.op.orders() => None,
            None => Some(false),
            Some(value) => self.compare(value),
        };
        plain.is_some_and(|plain| plain != self.invert)
    }

    /// `None` when the values cannot be compared, which inverting does not change.
    fn compare(&self, value: &str) -> Option<bool> {
        let first = self.values.first().map(String::as_str);
        match self.op {
            LabelOp::Exists => Some(true),
            LabelOp::Equal => Some(first == Some(value)),
            LabelOp::In => Some(self.values.iter().any(|one| one == value)),
            LabelOp::Less => Some(first.is_some_and(|first| value < first)),
            LabelOp::LessOrEqual => Some(first.is_some_and(|first| value <= first)),
            LabelOp::LessNumeric => compare_numbers(value, first, |a, b| a < b),
            LabelOp::LessOrEqualNumeric => compare_numbers(value, first, |a, b| a <= b),
        }
    }
}

fn compare_numbers(value: &str, bound: Option<&str>, holds: fn(i128, i128) -> bool) -> Option<bool> {
    let Some(bound) = bound else { return Some(false) };
    Some(holds(number(value)?, number(bound)?))
}

/// A whole number with an optional unit: `k`, `M`, `G`, `T`, `P` in powers of 1000, with an `i` in powers of
/// 1024, in any case and with anything behind (`16GiB`).
fn number(text: &str) -> Option<i128> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let unit = unit.trim().to_ascii_lowercase();
    let mut letters = unit.chars();
    let power = match letters.next() {
        None => 0,
        Some(letter) => u32::try_from("kmgtp".find(letter)?).ok()? + 1,
    };
    let base: i128 = if letters.next() == Some('i') { 1024 } else { 1000 };
    Some(i128::from(digits.parse::<i64>().ok()?) * base.pow(power))
}

impl LabelQuery {
    /// A query of these terms.
    pub fn new(terms: impl IntoIterator<Item = LabelTerm>) -> Self {
        Self { terms: terms.into_iter().collect() }
    }

    /// Whether the labels fulfil all terms.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.terms.iter().all(|term| term.matches(labels))
    }
}

impl ListOptions {
    /// Only resources that this query matches.
    #[must_use]
    pub fn labels(query: LabelQuery) -> Self {
        Self { label_queries: vec![query], id_query: None }
    }
}

/// Queries made ready to be asked often.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    labels: Vec<LabelQuery>,
    id: Option<Regex>,
}

impl Filter {
    pub(crate) fn new(labels: &[LabelQuery], id: Option<&str>) -> Result<Self, StateError> {
        let id = match id {
            None | Some("") => None,
            Some(pattern) => Some(compile(pattern)?),
        };
        Ok(Self { labels: labels.to_vec(), id })
    }

    /// Everything matches.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.id.is_none()
    }

    pub(crate) fn matches(&self, resource: &Resource) -> bool {
        let labels = &resource.metadata.labels;
        self.id.as_ref().is_none_or(|id| id.is_match(resource.metadata.id.as_bytes()))
            && (self.labels.is_empty() || self.labels.iter().any(|query| query.matches(labels)))
    }
}

/// Byte expressions without Unicode tables: `\d` and `\w` are ASCII, as they are in Go.
fn compile(pattern: &str) -> Result<Regex, StateError> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(StateError::InvalidArgument(format!(
            "id query is longer than {MAX_PATTERN_BYTES} bytes"
        )));
    }
    RegexBuilder::new(pattern)
        .unicode(false)
        .size_limit(MAX_PATTERN_PROGRAM_BYTES)
        .build()
        .map_err(|error| StateError::InvalidArgument(format!("id query: {error}")))
}

#[cfg(test)]
mod tests;
