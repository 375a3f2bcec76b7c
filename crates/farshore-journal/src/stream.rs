//! Names of streams.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Name of a stream: 1 to 64 of `a-z`, `0-9`, `-`, `_`, `.`, `/`, beginning with a letter or digit; no empty part between slashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName(Arc<str>);

/// Text that names no stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is no name of a stream: 1 to 64 of a-z, 0-9, '-', '_', '.', '/', beginning with a letter or digit"
)]
pub struct StreamNameError {
    /// The text.
    pub name: String,
}

impl StreamName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as that of a folder.
    pub(crate) fn folder(&self) -> String {
        self.0.replace('/', "+")
    }

    pub(crate) fn of_folder(folder: &str) -> Option<Self> {
        folder.replace('+', "/").parse().ok()
    }
}

impl FromStr for StreamName {
    type Err = StreamNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let good = (1..=64).contains(&name.len())
            && name
                .split('/')
                .all(|part| part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()))
            && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/'));
        if good {
            Ok(Self(name.into()))
        } else {
            Err(StreamNameError { name: name.chars().take(100).collect() })
        }
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_their_folder_are_refused() {
        for bad in ["", "..", "a/..", "/a", "a//b", "a/", "A", "a b", "a+b", "ü", &"x".repeat(65)] {
            assert!(bad.parse::<StreamName>().is_err(), "{bad}");
        }
        let name: StreamName = "data/line-1.raw".parse().unwrap();
        assert_eq!(name.folder(), "data+line-1.raw");
        assert_eq!(StreamName::of_folder(&name.folder()), Some(name));
    }
}
