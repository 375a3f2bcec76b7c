//! Expressions of a pipeline: CEL, checked and compiled once.
//!
//! The names: `value` (the point's number; a truth value is 0 or 1), `text` (its text), `time` (Unix seconds), `measurement`, `field`, `tags.NAME`,
//! `labels.NAME` and `twin.PATH`. What is not there is neither true nor false nor a number: a step takes it for no, and counts it.
//!
//! Everything but `value`, `text` and `time` is the same for all points of a series. So an expression is made anew for each series, once, with that
//! filled in: what is left is mostly a comparison with a number, and costs as much as one.

mod check;
mod eval;

use std::fmt;
use std::sync::Arc;

use farshore_domain::expression::{Limits, Order, Search, Sum};

pub(super) use eval::{Prepared, Val};

const LIMITS: Limits = Limits { what: "an expression", bytes: 2048, parts: 256, depth: 32, choices: 16 };

/// What an expression gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Number,
    Bool,
    Text,
    /// Known when it is there: a value of the twin.
    Any,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Number => "number",
            Self::Bool => "truth value",
            Self::Text => "text",
            Self::Any => "value",
        })
    }
}

/// What is the same for all points of a series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Measurement,
    Field,
    Tag(String),
    Label(String),
    Twin(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Absolute,
    Round,
    Floor,
    Ceiling,
    Root,
    /// A text as a number.
    Number,
}

/// One part of an expression.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Number(f64),
    Bool(bool),
    Text(Arc<str>),
    /// Not there, for this series.
    Missing,
    /// The point's number.
    Value,
    /// The point's text.
    ValueText,
    /// The point's time in Unix seconds.
    Time,
    Of(Source),
    Known(Box<Node>),
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Choose(Box<Node>, Box<Node>, Box<Node>),
    Compare(Order, Box<Node>, Box<Node>),
    Calculate(Sum, Box<Node>, Box<Node>),
    Search(Search, Box<Node>, Box<Node>),
    In(Box<Node>, Vec<Node>),
    Call(Function, Box<Node>),
}

/// An expression that was checked.
#[derive(Clone)]
pub(super) struct Expression {
    text: String,
    node: Node,
    gives: Type,
}

impl Expression {
    /// Checks names, types and size.
    ///
    /// # Errors
    /// What is wrong, with the place in the text.
    pub(super) fn compile(text: &str) -> Result<Self, String> {
        let parsed = LIMITS.parse(text)?;
        let (node, gives) = check::check(&parsed)?;
        Ok(Self { text: text.to_owned(), node, gives })
    }

    pub(super) fn gives(&self) -> Type {
        self.gives
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The same for the points of one series.
    pub(super) fn prepare(&self, of: &dyn Fn(&Source) -> Option<Known>) -> Prepared {
        Prepared::new(eval::fill_in(&self.node, of))
    }
}

/// A value that is the same for all points of a series.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Known {
    Number(f64),
    Bool(bool),
    Text(Arc<str>),
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({:?})", self.text)
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: &Source) -> Option<Known> {
        Some(match source {
            Source::Measurement => Known::Text("temp-01".into()),
            Source::Field => Known::Text("value".into()),
            Source::Tag(name) if name == "room" => Known::Text("12".into()),
            Source::Label(name) if name == "site" => Known::Text("north".into()),
            Source::Twin(path) if path == "limits.high" => Known::Number(80.0),
            _ => return None,
        })
    }

    fn says(text: &str, value: f64) -> Option<bool> {
        let expression = Expression::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        expression.prepare(&of).is_true(Some(value), None, 5_000_000_000)
    }

    #[test]
    fn conditions_of_a_point() {
        for (text, expected) in [
            ("value > 100", Some(false)),
            ("100.0 > value", Some(true)),
            ("value > 50 && value <= 60", Some(true)),
            ("measurement == 'temp-01' && value > 50", Some(true)),
            ("measurement == 'other' && value > 50", Some(false)),
            ("measurement.startsWith('temp')", Some(true)),
            ("tags.room == '12' || value > 1000", Some(true)),
            ("tags['room'] in ['11', '12']", Some(true)),
            ("tags.none == '1'", None),
            ("tags.none == '1' || value > 1", Some(true)),
            ("has(tags.none)", Some(false)),
            ("has(tags.room) && !(value < 0)", Some(true)),
            ("value < twin.limits.high", Some(true)),
            ("labels.site == 'north'", Some(true)),
            ("number(tags.room) + 1 == 13", Some(true)),
            ("abs(-value) == 55.0", Some(true)),
            ("min(value, 3) == 3 && max(1, 2) == 2", Some(true)),
            ("value / 0 > 1", None),
            ("(value > 50 ? 1 : 2) == 1", Some(true)),
            ("time == 5", Some(true)),
            ("round(value / 10) == 6", Some(true)),
        ] {
            assert_eq!(says(text, 55.0), expected, "{text}");
        }
    }

    #[test]
    fn a_comparison_with_a_number_is_recognised() {
        let of = &of;
        for text in [
            "value > 100",
            "100 < value",
            "measurement == 'temp-01' && value > 100",
            "value > twin.limits.high",
        ] {
            let prepared = Expression::compile(text).expect("compiles").prepare(of);
            assert!(prepared.is_quick(), "{text}: {prepared:?}");
        }
        assert!(
            Expression::compile("measurement == 'x' && value / 3 > 1")
                .expect("compiles")
                .prepare(of)
                .is_quick()
        );
        assert!(!Expression::compile("value / 3 > 1").expect("compiles").prepare(of).is_quick());
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, part) in [
            ("", "empty"),
            ("value >", "line 1"),
            ("valeu > 1", "did you mean \"value\""),
            ("value > 'a'", "needs a number"),
            ("value && true", "truth value"),
            ("tags.room > 5", "needs a text"),
            ("tags == 'a'", "tags.NAME"),
            ("foo(1)", "unknown function"),
            ("[1,2].all(x, x > 1)", "loops"),
            ("value in []", "empty"),
            ("measurement.size() > 1", "unknown method"),
            (&"(".repeat(200), "levels"),
            (&"a".repeat(3000), "bytes"),
        ] {
            let error = Expression::compile(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
