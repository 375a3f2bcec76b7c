//! What every use of CEL here shares: limits that hold before the parser sees a text, and the operators.
//!
//! The grammar is the library's. What names mean, which types there are and how missing data counts differ: conditions of a fleet
//! ([`crate::condition`]), rules for conflicts ([`crate::document::resolver`]) and a gateway's pipelines each have their own checker.

use std::cmp::Ordering;

use cel::IdedExpr;
use cel::common::ast::operators;
use cel::parser::PrattParser;

/// What an expression may be at most, and how it is called in messages.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `a condition`
    pub what: &'static str,
    pub bytes: usize,
    /// Names, numbers, operators, calls.
    pub parts: usize,
    /// Levels of brackets, and of parts inside parts.
    pub depth: usize,
    /// `?` in all, and signs (`!`, `-`) in a row.
    pub choices: usize,
}

impl Limits {
    /// Parses a text that is within the limits.
    ///
    /// # Errors
    /// What is wrong, with line and column where the parser gives them.
    pub fn parse(&self, text: &str) -> Result<IdedExpr, String> {
        self.measure(text)?;
        PrattParser::new()
            .max_recursion_depth(u16::try_from(self.depth).unwrap_or(u16::MAX))
            .max_expression_node_count(self.parts * 4)
            .parse(text)
            .map_err(|errors| {
                errors.errors.first().map_or_else(
                    || "this is no CEL expression".to_owned(),
                    |error| format!("line {}, column {}: {}", error.pos.0, error.pos.1, error.msg.trim()),
                )
            })
    }

    /// A parser of nested text is recursive: what would be too deep for it never gets there.
    fn measure(&self, text: &str) -> Result<(), String> {
        if text.trim().is_empty() {
            return Err(format!("{} can't be empty", self.what));
        }
        if text.len() > self.bytes {
            return Err(format!("{} has at most {} bytes", self.what, self.bytes));
        }
        let (mut depth, mut choices, mut signs) = (0_usize, 0_usize, 0_usize);
        for byte in text.bytes() {
            match byte {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                b'?' => choices += 1,
                _ => {}
            }
            match byte {
                b'!' | b'-' => signs += 1,
                byte if byte.is_ascii_whitespace() => {}
                _ => signs = 0,
            }
            if depth > self.depth || choices > self.choices || signs > self.choices {
                return Err(self.too_deep());
            }
        }
        Ok(())
    }

    /// The message for what is nested beyond the limits.
    #[must_use]
    pub fn too_deep(&self) -> String {
        format!(
            "{} has at most {} levels and {} choices ('?'); split it into several",
            self.what, self.depth, self.choices
        )
    }

    /// The message for what has more parts than the limits say.
    #[must_use]
    pub fn too_many_parts(&self) -> String {
        format!("{} has at most {} parts", self.what, self.parts)
    }
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    /// The comparison that an operator of the parsed text stands for.
    #[must_use]
    pub fn of(operator: &str) -> Option<Self> {
        Some(match operator {
            operators::EQUALS => Self::Equal,
            operators::NOT_EQUALS => Self::NotEqual,
            operators::LESS => Self::Less,
            operators::LESS_EQUALS => Self::LessOrEqual,
            operators::GREATER => Self::Greater,
            operators::GREATER_EQUALS => Self::GreaterOrEqual,
            _ => return None,
        })
    }

    /// Whether it holds of two values that compare so.
    #[must_use]
    pub const fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::NotEqual => ordering.is_ne(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

/// A calculation with two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Least,
    Greatest,
}

impl Sum {
    /// The calculation that an operator or function of the parsed text stands for.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            operators::ADD => Self::Add,
            operators::SUBSTRACT => Self::Subtract,
            operators::MULTIPLY => Self::Multiply,
            operators::DIVIDE => Self::Divide,
            operators::MODULO => Self::Remainder,
            "min" => Self::Least,
            "max" => Self::Greatest,
            _ => return None,
        })
    }

    /// The result, which may be infinite or no number.
    #[must_use]
    pub fn calculate(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Add => a + b,
            Self::Subtract => a - b,
            Self::Multiply => a * b,
            Self::Divide => a / b,
            Self::Remainder => a % b,
            Self::Least => a.min(b),
            Self::Greatest => a.max(b),
        }
    }
}

/// Is a text part of another?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    StartsWith,
    EndsWith,
    Contains,
}

impl Search {
    /// The search that a method of the parsed text stands for.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "startsWith" => Self::StartsWith,
            "endsWith" => Self::EndsWith,
            "contains" => Self::Contains,
            _ => return None,
        })
    }

    #[must_use]
    pub fn finds(self, text: &str, part: &str) -> bool {
        match self {
            Self::StartsWith => text.starts_with(part),
            Self::EndsWith => text.ends_with(part),
            Self::Contains => text.contains(part),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { what: "a rule", bytes: 200, parts: 8, depth: 4, choices: 3 };

    #[test]
    fn what_would_be_too_much_for_the_parser_does_not_get_there() {
        for (text, part) in [
            (" ".to_owned(), "can't be empty"),
            ("a".repeat(201), "at most 200 bytes"),
            ("(".repeat(5), "at most 4 levels"),
            ("a ? b : ".repeat(4) + "c", "3 choices"),
            ("!".repeat(4) + "a", "3 choices"),
            ("- ".repeat(4) + "a", "3 choices"),
            ("a &&\n  && b".to_owned(), "line 2, column"),
        ] {
            let error = LIMITS.parse(&text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(LIMITS.parse("!(a > -1) ? (b) : c").is_ok());
    }

    #[test]
    fn operators_are_what_they_say() {
        use std::cmp::Ordering::{Equal, Greater, Less};
        for (name, order, holds) in [
            (operators::EQUALS, Order::Equal, [false, true, false]),
            (operators::NOT_EQUALS, Order::NotEqual, [true, false, true]),
            (operators::LESS, Order::Less, [true, false, false]),
            (operators::LESS_EQUALS, Order::LessOrEqual, [true, true, false]),
            (operators::GREATER, Order::Greater, [false, false, true]),
            (operators::GREATER_EQUALS, Order::GreaterOrEqual, [false, true, true]),
        ] {
            assert_eq!(Order::of(name), Some(order));
            assert_eq!([Less, Equal, Greater].map(|ordering| order.holds(ordering)), holds, "{name}");
        }
        for (name, result) in [
            (operators::ADD, 9.0),
            (operators::SUBSTRACT, 5.0),
            (operators::MULTIPLY, 14.0),
            (operators::DIVIDE, 3.5),
            (operators::MODULO, 1.0),
            ("min", 2.0),
            ("max", 7.0),
        ] {
            assert_eq!(Sum::of(name).unwrap().calculate(7.0, 2.0), result, "{name}");
        }
        for (name, part) in [("startsWith", "ab"), ("endsWith", "cd"), ("contains", "bc")] {
            let search = Search::of(name).unwrap();
            assert!(search.finds("abcd", part) && !search.finds("abcd", "bd"), "{name}");
        }
        assert!(
            Order::of("min").is_none() && Sum::of(operators::LESS).is_none() && Search::of("size").is_none()
        );
    }
}
