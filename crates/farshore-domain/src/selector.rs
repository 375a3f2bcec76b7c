//! Label selectors in Kubernetes' grammar: `env=prod,site in (a,b),!canary`.
//!
//! One grammar for the page, the command line (`-l`) and the API (`?labelSelector=`).
//! Source: Kubernetes, "Labels and Selectors", set-based and equality-based requirements.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::label::{Labels, is_label_key, is_label_value};

/// At most this many characters in a selector's text.
pub const MAX_SELECTOR_LEN: usize = 4096;

/// All requirements must hold. The empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "openapi", schema(value_type = String, example = "env=prod,site in (a,b),!canary"))]
pub struct Selector(Vec<Requirement>);

/// One condition on one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Requirement {
    Exists(String),
    Absent(String),
    /// `key=value` is `key in (value)`.
    In(String, Vec<String>),
    /// Also true where the key is absent, as in Kubernetes.
    NotIn(String, Vec<String>),
}

/// Why a text is no selector, and at which character (counted from 0).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad selector at character {at}: {what}")]
pub struct SelectorError {
    pub at: usize,
    pub what: &'static str,
}

impl Selector {
    /// The requirements, all of which must hold.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.0
    }

    /// Whether `labels` fulfil every requirement.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::Exists(key) => labels.get(key).is_some(),
            Requirement::Absent(key) => labels.get(key).is_none(),
            Requirement::In(key, values) => labels.get(key).is_some_and(|v| values.iter().any(|w| w == v)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|v| values.iter().all(|w| w != v)),
        })
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn skip_spaces(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn eat(&mut self, token: &str) -> bool {
        self.skip_spaces();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn word(&mut self) -> &'a str {
        self.skip_spaces();
        let rest = self.rest();
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/')))
            .unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or("")
    }

    fn error(&self, what: &'static str) -> SelectorError {
        SelectorError { at: self.at, what }
    }

    fn key(&mut self) -> Result<String, SelectorError> {
        let start = self.at;
        let word = self.word();
        if is_label_key(word) {
            Ok(word.to_owned())
        } else {
            Err(SelectorError { at: start, what: "expected a label key" })
        }
    }

    fn value(&mut self) -> Result<String, SelectorError> {
        let start = self.at;
        let word = self.word();
        if is_label_value(word) {
            Ok(word.to_owned())
        } else {
            Err(SelectorError { at: start, what: "expected a label value" })
        }
    }

    fn set(&mut self) -> Result<Vec<String>, SelectorError> {
        if !self.eat("(") {
            return Err(self.error("expected '(' after in or notin"));
        }
        let mut values = vec![self.value()?];
        while self.eat(",") {
            values.push(self.value()?);
        }
        if !self.eat(")") {
            return Err(self.error("expected ',' or ')'"));
        }
        Ok(values)
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        if self.eat("!") {
            return Ok(Requirement::Absent(self.key()?));
        }
        let key = self.key()?;
        if self.eat("==") || self.eat("=") {
            return Ok(Requirement::In(key, vec![self.value()?]));
        }
        if self.eat("!=") {
            return Ok(Requirement::NotIn(key, vec![self.value()?]));
        }
        self.skip_spaces();
        let before = self.at;
        match self.word() {
            "" => Ok(Requirement::Exists(key)),
            "in" => Ok(Requirement::In(key, self.set()?)),
            "notin" => Ok(Requirement::NotIn(key, self.set()?)),
            _ => Err(SelectorError { at: before, what: "expected '=', '!=', in, notin or ','" }),
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.len() > MAX_SELECTOR_LEN {
            return Err(SelectorError {
                at: MAX_SELECTOR_LEN,
                what: "the selector is longer than 4096 characters",
            });
        }
        let mut parser = Parser { text, at: 0 };
        let mut requirements = Vec::new();
        parser.skip_spaces();
        if parser.rest().is_empty() {
            return Ok(Self::default());
        }
        loop {
            requirements.push(parser.requirement()?);
            parser.skip_spaces();
            if parser.rest().is_empty() {
                return Ok(Self(requirements));
            }
            if !parser.eat(",") {
                return Err(parser.error("expected ','"));
            }
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match requirement {
                Requirement::Exists(key) => write!(f, "{key}")?,
                Requirement::Absent(key) => write!(f, "!{key}")?,
                Requirement::In(key, values) => match values.as_slice() {
                    [one] => write!(f, "{key}={one}")?,
                    many => write!(f, "{key} in ({})", many.join(","))?,
                },
                Requirement::NotIn(key, values) => match values.as_slice() {
                    [one] => write!(f, "{key}!={one}")?,
                    many => write!(f, "{key} notin ({})", many.join(","))?,
                },
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for Selector {
    type Error = SelectorError;
    fn try_from(text: String) -> Result<Self, SelectorError> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> String {
        selector.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(selector: &str, labels: &[(&str, &str)], expect: bool) {
        let labels = Labels::new(labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()).unwrap();
        assert_eq!(selector.parse::<Selector>().unwrap().matches(&labels), expect, "{selector}");
    }

    #[test]
    fn kubernetes_grammar_is_understood() {
        let labels = [("env", "prod"), ("site", "a"), ("farshore.dev/model", "pi4")];
        check("", &labels, true);
        check("env=prod, site in (a, b),!canary", &labels, true);
        check("env==prod", &labels, true);
        check("env!=prod", &labels, false);
        check("absent!=x", &labels, true);
        check("absent notin (x)", &labels, true);
        check("site notin (a)", &labels, false);
        check("farshore.dev/model", &labels, true);
        check("farshore.dev/model=pi5", &labels, false);
        check("empty=", &[("empty", "")], true);
        check("index", &[("index", "1")], true);
    }

    #[test]
    fn bad_selectors_say_where() {
        for (text, at) in [("env=prod,", 9), ("=x", 0), ("a in b", 5), ("a in (b", 7), ("a b", 2), ("!", 1)] {
            assert_eq!(text.parse::<Selector>().unwrap_err().at, at, "{text}");
        }
        assert!("a=".repeat(5000).parse::<Selector>().is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_and_what_parses_prints_and_parses_again(text in "[a-z!=(), ]{0,40}|\\PC{0,60}") {
            if let Ok(selector) = text.parse::<Selector>() {
                prop_assert_eq!(selector.to_string().parse::<Selector>().unwrap(), selector);
            }
        }
    }
}
