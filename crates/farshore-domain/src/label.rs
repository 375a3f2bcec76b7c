//! Labels: what selectors match. Kubernetes' grammar for keys and values.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// At most this many labels on one object.
pub const MAX_LABELS: usize = 64;

/// A set of `key=value` pairs. A key is an optional DNS prefix (up to 253 characters) and `/`, then a name of 1 to 63
/// of `A-Za-z0-9_.-`; a value is 0 to 63 of the same. Source: Kubernetes, "Labels and Selectors".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Labels(BTreeMap<String, String>);

/// Why a pair is no label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    #[error(
        "{0:?} is no label key: use letters, digits, '-', '_', '.', at most 63, with an optional DNS prefix and '/'"
    )]
    Key(String),
    #[error(
        "{0:?} is no label value: use at most 63 letters, digits, '-', '_', '.', starting and ending with a letter or digit"
    )]
    Value(String),
    #[error("an object has at most {MAX_LABELS} labels")]
    TooMany,
}

fn is_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    text.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Whether `key` may be a label's key.
#[must_use]
pub fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        None => is_word(key),
        Some((prefix, name)) => crate::name::Name::new(prefix).is_ok() && is_word(name),
    }
}

/// Whether `value` may be a label's value.
#[must_use]
pub fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_word(value)
}

impl Labels {
    /// Checks every pair.
    pub fn new(pairs: BTreeMap<String, String>) -> Result<Self, LabelError> {
        if pairs.len() > MAX_LABELS {
            return Err(LabelError::TooMany);
        }
        for (key, value) in &pairs {
            if !is_label_key(key) {
                return Err(LabelError::Key(key.clone()));
            }
            if !is_label_value(value) {
                return Err(LabelError::Value(value.clone()));
            }
        }
        Ok(Self(pairs))
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All pairs, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = LabelError;
    fn try_from(pairs: BTreeMap<String, String>) -> Result<Self, LabelError> {
        Self::new(pairs)
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

impl<K: Into<String>, V: Into<String>, const N: usize> TryFrom<[(K, V); N]> for Labels {
    type Error = LabelError;
    fn try_from(pairs: [(K, V); N]) -> Result<Self, LabelError> {
        Self::new(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}
