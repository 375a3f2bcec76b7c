//! Runbooks: commands that a policy names, so that they can be run from afar without handing out a shell.
//!
//! What is run is a list of words, never a line for a shell. Whoever asks gives arguments only where the runbook has a place for one, and only
//! what the place's pattern lets through. A word that begins with `-` is an option, which a pattern allows only by beginning with `-` itself.

use serde::{Deserialize, Serialize};

use super::check::{PolicyError, wrong};
use crate::name::Name;

const MAX_WORDS: usize = 64;
const MAX_WORD_BYTES: usize = 4_096;
const MAX_PLACES: usize = 16;
const MAX_PATTERN: usize = 256;

const fn default_timeout() -> u32 {
    crate::operation::DEFAULT_TIMEOUT_SECONDS
}

/// A named command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Runbook {
    pub name: Name,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The program, as an absolute path, and its fixed arguments.
    pub command: Vec<String>,
    /// What may be given after them, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<RunbookArgument>,
    /// It runs inside this app's container instead of beside the apps: an app of kind `container` or `compose`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<Name>,
    /// In which service of an app of kind `compose`. Left out where it has only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Name>,
    /// It is ended after this long: 1 to 3600.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u32,
}

/// A place for an argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunbookArgument {
    pub name: Name,
    /// What may be given: `?` is one character and `*` any number of them (letters, digits, `.`, `_`, `:`, `@`, `%`, `+`, `=`, `,`, `-`), `|` separates
    /// alternatives, everything else is itself: `eth*|wlan?`.
    pub pattern: String,
    /// May be left out, with everything after it.
    #[serde(default)]
    pub optional: bool,
}

/// Why arguments do not fit a runbook.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunbookError {
    #[error("it takes at most {0} arguments")]
    TooMany(usize),
    #[error("argument {0} is missing")]
    Missing(Name),
    #[error("argument {name} does not fit {pattern:?}")]
    NoMatch { name: Name, pattern: String },
}

impl Runbook {
    /// The whole command with these arguments.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn command_with(&self, given: &[String]) -> Result<Vec<String>, RunbookError> {
        if given.len() > self.arguments.len() {
            return Err(RunbookError::TooMany(self.arguments.len()));
        }
        for (place, argument) in self.arguments.iter().zip(given) {
            if !matches(&place.pattern, argument) {
                let pattern = place.pattern.clone();
                return Err(RunbookError::NoMatch { name: place.name.clone(), pattern });
            }
        }
        match self.arguments.get(given.len()) {
            Some(next) if !next.optional => Err(RunbookError::Missing(next.name.clone())),
            _ => Ok(self.command.iter().chain(given).cloned().collect()),
        }
    }

    pub(super) fn check(&self, field: &str) -> Result<(), PolicyError> {
        let Some(program) = self.command.first() else {
            return wrong(format!("{field}.command"), "names a program");
        };
        if !program.starts_with('/') {
            return wrong(format!("{field}.command"), "begins with the absolute path of a program");
        }
        if self.command.len() > MAX_WORDS {
            return wrong(format!("{field}.command"), format!("has at most {MAX_WORDS} words"));
        }
        if self.command.iter().any(|word| word.len() > MAX_WORD_BYTES || word.contains('\0')) {
            return wrong(format!("{field}.command"), format!("has words of at most {MAX_WORD_BYTES} bytes"));
        }
        if self.service.is_some() && self.app.is_none() {
            return wrong(format!("{field}.service"), "belongs to an app; say which");
        }
        if self.description.len() > 1_000 {
            return wrong(format!("{field}.description"), "has at most 1000 characters");
        }
        if !(1..=crate::operation::MAX_TIMEOUT_SECONDS).contains(&self.timeout_seconds) {
            let most = crate::operation::MAX_TIMEOUT_SECONDS;
            return wrong(format!("{field}.timeoutSeconds"), format!("is 1 to {most}"));
        }
        if self.arguments.len() > MAX_PLACES {
            return wrong(format!("{field}.arguments"), format!("has at most {MAX_PLACES} places"));
        }
        let mut optional = false;
        for (at, place) in self.arguments.iter().enumerate() {
            let length = place.pattern.len();
            if length == 0 || length > MAX_PATTERN || place.pattern.chars().any(char::is_control) {
                return wrong(
                    format!("{field}.arguments[{at}].pattern"),
                    format!("has 1 to {MAX_PATTERN} characters"),
                );
            }
            if optional && !place.optional {
                return wrong(
                    format!("{field}.arguments[{at}].optional"),
                    "is true: an argument before it may be left out",
                );
            }
            optional = place.optional;
        }
        Ok(())
    }
}

/// What `*` and `?` stand for: nothing that means something to a shell, a path or a terminal.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._:@%+=,-".contains(&byte)
}

fn matches(pattern: &str, text: &str) -> bool {
    pattern.split('|').any(|one| {
        let option = text.starts_with('-') && !one.starts_with('-');
        !option && glob(one.as_bytes(), text.as_bytes())
    })
}

/// Iterative, with one place to come back to: linear but for the product of both lengths.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        let here = text.get(t).copied().unwrap_or(0);
        match pattern.get(p) {
            Some(b'*') => {
                back = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'?') if is_plain(here) => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            Some(byte) if *byte != b'?' && *byte == here => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            _ => {}
        }
        // The last star takes one more, if it may.
        match back {
            Some((after, from)) if text.get(from).copied().is_some_and(is_plain) => {
                back = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            _ => return false,
        }
    }
    pattern.get(p..).is_none_or(|rest| rest.iter().all(|byte| *byte == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_let_through_what_they_say_and_nothing_that_means_something() {
        for (pattern, text, fits) in [
            ("eth0", "eth0", true),
            ("eth0", "eth00", false),
            ("eth*", "eth", true),
            ("eth*", "eth0.12", true),
            ("eth*|wlan?", "wlan1", true),
            ("eth*|wlan?", "wlan12", false),
            ("*", "", true),
            ("*", "a b", false),
            ("*", "a;rm", false),
            ("*", "../x", false),
            ("*", "$(id)", false),
            ("*", "a\nb", false),
            ("*", "-rf", false),
            ("-*", "-rf", true),
            ("/var/log/*.log", "/var/log/a.log", true),
            ("/var/log/*.log", "/var/log/../a.log", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("?", "?", false),
            ("?", "ä", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn arguments_have_their_places() {
        let runbook: Runbook = serde_json::from_value(serde_json::json!({
            "name": "ping", "command": ["/bin/ping", "-c", "1"],
            "arguments": [{"name": "host", "pattern": "*"}, {"name": "size", "pattern": "?|??", "optional": true}],
        }))
        .expect("a runbook");
        let words = |given: &[&str]| {
            runbook.command_with(&given.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(words(&["till-1"]).expect("fits"), ["/bin/ping", "-c", "1", "till-1"]);
        assert_eq!(words(&["till-1", "9"]).expect("fits").len(), 5);
        assert!(matches!(words(&[]), Err(RunbookError::Missing(name)) if name.as_str() == "host"));
        assert!(matches!(words(&["a", "100"]), Err(RunbookError::NoMatch { .. })));
        assert_eq!(words(&["a", "1", "b"]), Err(RunbookError::TooMany(2)));
    }
}
