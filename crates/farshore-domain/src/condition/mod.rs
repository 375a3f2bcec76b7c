//! Conditions that people write: health conditions of a policy, gates and tripwires of a rollout.
//!
//! The text is CEL (Common Expression Language): `metric("cpu_ratio") > 0.9 && devices.reported >= 10`. The grammar is
//! the library's; types and evaluation are here, because a condition over a fleet needs what plain CEL does not give:
//!
//! - every name and type is checked against a declared [`Vocabulary`] when the condition is compiled, so that a slip is
//!   found by whoever writes it and not by the device that obeys it;
//! - missing data is [`Verdict::Unknown`] with the reason, never false. `false && unknown` is false and
//!   `true || unknown` is true; everything else that depends on unknown data is unknown;
//! - evaluation visits each part of the text once at most. There are no loops: `all`, `exists`, `map`, `filter` are
//!   refused, so what a condition costs is bounded by the length of its text.
//!
//! Also different from plain CEL: whole and fractional numbers are one type.

mod check;
pub mod device;
mod eval;
mod held;
mod vocabulary;

#[cfg(test)]
mod tests;

use std::fmt;

use crate::expression::Limits;

pub use held::Held;
pub use vocabulary::{Function, Param, Type, Value, Vocabulary};

/// At most this many bytes in one condition.
pub const MAX_TEXT: usize = 2048;
/// At most this many parts (names, numbers, operators, calls) in one condition.
pub const MAX_PARTS: usize = 256;
/// At most this many levels of brackets, and of parts inside parts.
pub const MAX_DEPTH: usize = 32;
/// At most this many `?` in one condition, and signs (`!`, `-`) in a row.
const MAX_CHOICES: usize = 16;
const LIMITS: Limits =
    Limits { what: "a condition", bytes: MAX_TEXT, parts: MAX_PARTS, depth: MAX_DEPTH, choices: MAX_CHOICES };

/// Why a text is no condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct ConditionError {
    /// What is wrong, with the name and the fix.
    pub what: String,
}

impl ConditionError {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into() }
    }
}

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    True,
    False,
    /// It can't be said, because of this.
    Unknown(String),
}

impl Verdict {
    /// Whether it is [`Verdict::True`].
    #[must_use]
    pub const fn is_true(&self) -> bool {
        matches!(self, Self::True)
    }
}

/// Why a value is not there: a phrase, like `device kiosk-7 has sent no cpu_ratio for 5 minutes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing(pub String);

/// Where an evaluation gets its data. It is asked only for names of the [`Vocabulary`] that the condition was compiled
/// against; a value of another type than declared counts as missing.
pub trait Facts {
    /// The value of a variable.
    fn variable(&self, name: &str) -> Result<Value, Missing>;

    /// What a function gives for these arguments. Optional arguments that were left out are not in `arguments`.
    fn call(&self, name: &str, arguments: &[Value]) -> Result<Value, Missing>;
}

/// A checked condition, ready to be evaluated any number of times.
#[derive(Clone)]
pub struct Condition {
    text: String,
    node: check::Node,
}

impl Condition {
    /// Checks `text` against the declared names and makes a condition of it.
    pub fn compile(text: &str, vocabulary: &Vocabulary) -> Result<Self, ConditionError> {
        let parsed = LIMITS.parse(text).map_err(ConditionError::new)?;
        let node = check::check(&parsed, vocabulary)?;
        Ok(Self { text: text.to_owned(), node })
    }

    /// The text it was made from.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Evaluates it once.
    #[must_use]
    pub fn evaluate(&self, facts: &dyn Facts) -> Verdict {
        match eval::eval(&self.node, facts) {
            Ok(Value::Bool(true)) => Verdict::True,
            Ok(Value::Bool(false)) => Verdict::False,
            Ok(_) => Verdict::Unknown("it gives no yes or no".to_owned()),
            Err(Missing(reason)) => Verdict::Unknown(reason),
        }
    }

    /// The variables it refers to, so that a driver loads no more than it needs. A name may come twice.
    #[must_use]
    pub fn variables(&self) -> Vec<&str> {
        let mut found = Vec::new();
        self.node.walk(&mut |node| {
            if let check::Node::Variable { name, .. } = node {
                found.push(name.as_str());
            }
        });
        found
    }

    /// The declared functions it calls, each with those arguments that are written out in the text.
    #[must_use]
    pub fn calls(&self) -> Vec<(&str, Vec<Option<Value>>)> {
        let mut found = Vec::new();
        self.node.walk(&mut |node| {
            if let check::Node::Call { name, arguments, .. } = node {
                let literal = |argument: &check::Node| match argument {
                    check::Node::Literal(value) => Some(value.clone()),
                    _ => None,
                };
                found.push((name.as_str(), arguments.iter().map(literal).collect()));
            }
        });
        found
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Condition({:?})", self.text)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Two conditions are the same when their texts are.
impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Condition {}
