//! Silences: alerts that match are kept and shown, and nobody is told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// At most this many matchers in a silence, and characters in each.
const MAX_MATCHERS: usize = 20;
const MAX_TEXT: usize = 253;

/// What one label of an alert must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Matcher {
    /// `alertname`, `severity`, `location`, `device`, `app`, `rollout`, or `label_<key>` for a label of the device.
    pub name: String,
    pub value: String,
    /// `false`: the label must be something else.
    #[serde(default = "yes")]
    pub is_equal: bool,
}

const fn yes() -> bool {
    true
}

/// Which matcher is wrong, and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct MatchError {
    pub field: String,
    pub message: &'static str,
}

impl Matcher {
    /// # Errors
    /// When there are none, too many, or one has no name.
    pub fn check(all: &[Self]) -> Result<(), MatchError> {
        let wrong = |field: String, message| Err(MatchError { field, message });
        if all.is_empty() || all.len() > MAX_MATCHERS {
            return wrong("matchers".to_owned(), "has 1 to 20 matchers");
        }
        for (at, one) in all.iter().enumerate() {
            if one.name.is_empty() || one.name.len() > MAX_TEXT {
                return wrong(format!("matchers[{at}].name"), "is a label of an alert, such as location");
            }
            if one.value.len() > MAX_TEXT {
                return wrong(format!("matchers[{at}].value"), "has at most 253 bytes");
            }
        }
        if all.iter().all(|one| !one.is_equal) {
            return wrong("matchers".to_owned(), "needs one with isEqual, or it silences almost everything");
        }
        Ok(())
    }

    /// A label that is missing is the empty text.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.name).map_or("", String::as_str);
        (value == self.value) == self.is_equal
    }
}

/// The names of the silences whose matchers all match.
pub fn silenced_by<'a>(
    silences: impl IntoIterator<Item = (&'a str, &'a [Matcher])>,
    labels: &BTreeMap<String, String>,
) -> Vec<String> {
    silences
        .into_iter()
        .filter(|(_, matchers)| {
            !matchers.is_empty() && matchers.iter().all(|matcher| matcher.matches(labels))
        })
        .map(|(name, _)| name.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(name: &str, value: &str, is_equal: bool) -> Matcher {
        Matcher { name: name.to_owned(), value: value.to_owned(), is_equal }
    }

    #[test]
    fn all_matchers_must_match_and_a_missing_label_is_empty() {
        let labels = BTreeMap::from([("location".to_owned(), "Riga".to_owned())]);
        let riga = [matcher("location", "Riga", true)];
        let both = [matcher("location", "Riga", true), matcher("app", "web", false)];
        let other = [matcher("location", "Riga", true), matcher("app", "web", true)];
        let all = [("riga", &riga[..]), ("both", &both[..]), ("other", &other[..]), ("none", &[][..])];
        assert_eq!(silenced_by(all, &labels), ["riga", "both"]);
    }

    #[test]
    fn a_silence_of_everything_is_refused() {
        assert!(Matcher::check(&[]).is_err());
        assert!(Matcher::check(&[matcher("app", "web", false)]).is_err());
        assert!(Matcher::check(&[matcher("", "web", true)]).is_err());
        assert!(Matcher::check(&vec![matcher("app", "web", true); 21]).is_err());
        assert!(Matcher::check(&[matcher("app", "web", true)]).is_ok());
    }
}
