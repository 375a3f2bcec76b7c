//! The usual object, read in one pass.
//!
//! Most producers send the documented shape, without escapes. Such an object is read here without looking at any byte twice; whatever is
//! unusual (escapes, null, nested values, unknown or doubled keys, any fault) is left to the general reader in [`super::json`], which also
//! finds the words for what is wrong. The test there holds both to the same points.

use std::borrow::Cow;

use super::json::{number, time};
use crate::limits::{MAX_FIELDS, MAX_TAGS};
use crate::point::{Point, Value};

pub(super) struct Quick<'a> {
    text: &'a str,
    pub(super) at: usize,
}

impl<'a> Quick<'a> {
    pub(super) fn new(text: &'a str, at: usize) -> Self {
        Self { text, at }
    }

    pub(super) fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Goes past a byte and the blanks around it.
    pub(super) fn eat(&mut self, byte: u8) -> Option<()> {
        self.skip_blanks();
        if self.peek() != Some(byte) {
            return None;
        }
        self.at += 1;
        self.skip_blanks();
        Some(())
    }

    /// A text without escapes.
    fn plain(&mut self) -> Option<&'a str> {
        if self.peek() != Some(b'"') {
            return None;
        }
        let rest = self.text.as_bytes().get(self.at + 1..)?;
        let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
        if rest.get(end) != Some(&b'"') {
            return None;
        }
        let text = self.text.get(self.at + 1..self.at + 1 + end)?;
        self.at += end + 2;
        Some(text)
    }

    /// A number, `true` or `false`, as written.
    fn bare(&mut self) -> Option<&'a str> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let end = rest
            .iter()
            .position(|byte| !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E' | b'a'..=b'z'))
            .unwrap_or(rest.len());
        let word = self.text.get(self.at..self.at + end)?;
        if !matches!(word, "true" | "false") && !is_number(word.as_bytes()) {
            return None;
        }
        self.at += end;
        Some(word)
    }

    fn value(&mut self) -> Option<Value<'a>> {
        if self.peek() == Some(b'"') {
            return Some(Value::Text(Cow::Borrowed(self.plain()?)));
        }
        match self.bare()? {
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            word => number(word).ok(),
        }
    }

    /// `{"key":…,…}`; each value is read by `member`.
    fn members(&mut self, mut member: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.eat(b'{')?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Some(());
        }
        loop {
            let key = self.plain()?;
            self.eat(b':')?;
            member(self, key)?;
            self.skip_blanks();
            match self.peek()? {
                b',' => self.eat(b',')?,
                b'}' => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    /// A whole object, and leaves off right behind it. Nothing, when it is not usual: what `point` then holds is of no use.
    pub(super) fn object(&mut self, point: &mut Point<'a>) -> Option<()> {
        let (mut name, mut value, mut unit, mut at) = (None, None, None, None);
        let (mut tags, mut fields) = (false, false);
        self.members(|reader, key| {
            let new = match key {
                "sensor_id" | "measurement" => name.replace(reader.plain()?).is_none(),
                "value" => value.replace(reader.value()?).is_none(),
                "unit" => unit.replace(reader.plain()?).is_none(),
                "timestamp" | "time" => {
                    let start = reader.at;
                    if reader.peek() == Some(b'"') {
                        reader.plain()?
                    } else {
                        reader.bare()?
                    };
                    at.replace(time(reader.text.get(start..reader.at)?).ok()??).is_none()
                }
                "tags" => {
                    reader.members(|reader, key| {
                        let value =
                            if reader.peek() == Some(b'"') { reader.plain()? } else { reader.bare()? };
                        point.tags.push((Cow::Borrowed(key), Cow::Borrowed(value)));
                        (point.tags.len() <= MAX_TAGS).then_some(())
                    })?;
                    !std::mem::replace(&mut tags, true)
                }
                "fields" => {
                    reader.members(|reader, key| {
                        point.fields.push((Cow::Borrowed(key), reader.value()?));
                        (point.fields.len() <= MAX_FIELDS).then_some(())
                    })?;
                    !std::mem::replace(&mut fields, true)
                }
                _ => false,
            };
            new.then_some(())
        })?;
        point.measurement = Cow::Borrowed(name?);
        if let Some(unit) = unit.filter(|unit| !unit.is_empty()) {
            point.tags.push((Cow::Borrowed("unit"), Cow::Borrowed(unit)));
        }
        if let Some(value) = value {
            point.fields.push((Cow::Borrowed("value"), value));
        }
        point.time_ns = at;
        point.finish().ok()
    }
}

/// As JSON has it: no leading zeros, digits on both sides of the point.
fn is_number(word: &[u8]) -> bool {
    let digits = |rest: &[u8]| rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut rest = word.strip_prefix(b"-").unwrap_or(word);
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest.first() == Some(&b'0')) {
        return false;
    }
    rest = rest.get(whole..).unwrap_or_default();
    if let Some(behind) = rest.strip_prefix(b".") {
        let part = digits(behind);
        if part == 0 {
            return false;
        }
        rest = behind.get(part..).unwrap_or_default();
    }
    if let Some(behind) = rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        let behind = behind.strip_prefix(b"+").or_else(|| behind.strip_prefix(b"-")).unwrap_or(behind);
        let part = digits(behind);
        return part > 0 && part == behind.len();
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_json() {
        for good in ["0", "-0", "10", "1.5", "-1.25e3", "1E+9", "1e-9", "0.1"] {
            assert!(is_number(good.as_bytes()), "{good}");
        }
        for bad in ["", "-", "01", "1.", ".5", "+1", "1e", "1e+", "1.e3", "0x1", "1a", "--1", "nan", "1.5.5"]
        {
            assert!(!is_number(bad.as_bytes()), "{bad}");
        }
    }
}
