//! Licence expressions as Cargo.toml has them: SPDX (Annex D of the specification: `AND` binds tighter than `OR`), and
//! the older form with a slash for OR.

/// Whether an expression can be satisfied with the allowed licences alone. What cannot be understood is not allowed.
pub(crate) fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words, at: 0, allowed };
    let outcome = parser.either();
    parser.at == words.len() && outcome == Some(true)
}

struct Parser<'a> {
    words: &'a [&'a str],
    at: usize,
    allowed: &'a [String],
}

impl Parser<'_> {
    fn take(&mut self, word: &str) -> bool {
        let found = self.words.get(self.at) == Some(&word);
        self.at += usize::from(found);
        found
    }

    fn either(&mut self) -> Option<bool> {
        let mut outcome = self.both()?;
        while self.take("OR") {
            outcome |= self.both()?;
        }
        Some(outcome)
    }

    fn both(&mut self) -> Option<bool> {
        let mut outcome = self.one()?;
        while self.take("AND") {
            outcome &= self.one()?;
        }
        Some(outcome)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let outcome = self.either()?;
            return self.take(")").then_some(outcome);
        }
        let name = self.words.get(self.at).filter(|word| !["OR", "AND", "WITH", ")"].contains(word))?;
        self.at += 1;
        let whole = if self.take("WITH") {
            let exception = self.words.get(self.at)?;
            self.at += 1;
            format!("{name} WITH {exception}")
        } else {
            (*name).to_owned()
        };
        Some(self.allowed.contains(&whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_allowed_when_one_choice_is() {
        let allowed =
            ["MIT", "Apache-2.0", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
        let check = |expression: &str, expect: bool| {
            assert_eq!(is_allowed(expression, &allowed), expect, "{expression}");
        };
        check("MIT", true);
        check("GPL-3.0-only", false);
        check("MIT OR GPL-3.0-only", true);
        check("MIT/Apache-2.0", true);
        check("GPL-2.0/LGPL-2.1", false);
        check("(MIT OR Apache-2.0) AND Unicode-3.0", true);
        check("(MIT OR Apache-2.0) AND GPL-3.0-only", false);
        check("MIT OR Apache-2.0 AND GPL-3.0-only", true);
        check("Apache-2.0 WITH LLVM-exception OR GPL-3.0-only", true);
        check("GPL-2.0 WITH LLVM-exception", false);
        check("Apache-2.0 WITH Other-exception", false);
    }

    #[test]
    fn what_cannot_be_understood_is_not_allowed() {
        let allowed = ["MIT".to_owned()];
        for expression in ["", "MIT OR", "(MIT", "MIT)", "OR MIT", "MIT MIT", "MIT WITH", "()"] {
            assert!(!is_allowed(expression, &allowed), "{expression:?}");
        }
    }
}
