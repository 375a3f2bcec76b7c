//! Names of objects: DNS-1123 labels, unique per tenant and kind.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A DNS-1123 label: 1 to 63 of `a-z0-9-`, starting and ending with a letter or digit. Dots are allowed between
/// labels (a DNS-1123 subdomain, up to 253 characters), because versions appear in names: `edge-web-1.1`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Why a text is no [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name can't be empty")]
    Empty,
    #[error("a name has at most 253 characters, and at most 63 between two dots")]
    TooLong,
    #[error("a name holds only a-z, 0-9, '-' and '.', and each part starts and ends with a letter or digit")]
    BadCharacter,
}

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks `text` and makes a name of it.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        check(&text)?;
        Ok(Self(text))
    }
}

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > 253 {
        return Err(NameError::TooLong);
    }
    for part in text.split('.') {
        if part.len() > 63 {
            return Err(NameError::TooLong);
        }
        let bytes = part.as_bytes();
        let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let inner = bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
        if !edge(bytes.first()) || !edge(bytes.last()) || !inner {
            return Err(NameError::BadCharacter);
        }
    }
    Ok(())
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({:?})", self.0)
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_1123() {
        for good in ["a", "kiosk-7", "edge-web-1.1", "0", &"a".repeat(63)] {
            assert!(Name::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a..b", ".a", "a_b", "ä", "a/b", &"a".repeat(64), &"a.".repeat(127)]
        {
            assert!(Name::new(bad).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Name>("\"../etc\"").is_err());
    }
}
