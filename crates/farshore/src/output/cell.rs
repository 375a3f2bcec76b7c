//! One value in a table. A state is shape, word and colour together; where nobody looks only the word is left.

use farshore_domain::time::UnixMs;
use serde_json::Value;

use crate::output::time;

/// What the place where it is shown can do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) marks: bool,
    pub(crate) colour: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colour {
    Green,
    Yellow,
    Red,
    Blue,
    Grey,
}

impl Colour {
    const fn code(self) -> &'static str {
        match self {
            Self::Green => "\x1b[32m",
            Self::Yellow => "\x1b[33m",
            Self::Red => "\x1b[31m",
            Self::Blue => "\x1b[34m",
            Self::Grey => "\x1b[90m",
        }
    }
}

/// A cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Text(String),
    State(String),
}

impl Cell {
    pub(crate) fn render(&self, look: Look) -> String {
        match self {
            Self::Text(text) => clean(text),
            Self::State(word) => state(word, look),
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// What comes from devices must not move the cursor or colour the terminal.
pub(crate) fn clean(text: &str) -> String {
    if text.chars().any(char::is_control) {
        text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
    } else {
        text.to_owned()
    }
}

/// The same marks everywhere, on the page and here.
const fn mark(word: &str) -> Option<(&'static str, Colour)> {
    Some(match word.as_bytes() {
        b"online" => ("●", Colour::Green),
        b"stale" => ("◐", Colour::Yellow),
        b"offline" => ("○", Colour::Grey),
        b"healthy" => ("✓", Colour::Green),
        b"degraded" => ("!", Colour::Yellow),
        b"failing" => ("✕", Colour::Red),
        b"conforming" => ("=", Colour::Green),
        b"converging" => ("→", Colour::Blue),
        b"diverged" => ("≠", Colour::Red),
        b"held" => ("❚❚", Colour::Yellow),
        b"unsupported" => ("∅", Colour::Red),
        b"unknown" => ("?", Colour::Grey),
        b"succeeded" | b"ok" | b"passed" => ("✓", Colour::Green),
        b"running" | b"updating" => ("→", Colour::Blue),
        b"paused" => ("❚❚", Colour::Yellow),
        b"rolling-back" | b"rolled-back" => ("↩", Colour::Yellow),
        b"failed" | b"halted" => ("✕", Colour::Red),
        b"aborted" | b"superseded" => ("■", Colour::Grey),
        b"soaking" => ("◔", Colour::Blue),
        _ => return None,
    })
}

/// A state's word, with its mark and colour where they can be shown.
pub(crate) fn state(word: &str, look: Look) -> String {
    let word = clean(word);
    match mark(&word).filter(|_| look.marks) {
        Some((mark, colour)) if look.colour => format!("{}{mark} {word}\x1b[0m", colour.code()),
        Some((mark, _)) => format!("{mark} {word}"),
        None => word,
    }
}

/// A value at a JSON pointer, as plain text.
pub(crate) fn text_at(object: &Value, pointer: &str) -> String {
    match object.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

pub(crate) fn text(object: &Value, pointer: &str) -> Cell {
    let text = text_at(object, pointer);
    Cell::Text(if text.is_empty() { "-".to_owned() } else { text })
}

pub(crate) fn state_at(object: &Value, pointer: &str) -> Cell {
    Cell::State(text_at(object, pointer))
}

pub(crate) fn time_at(object: &Value, pointer: &str) -> Option<UnixMs> {
    object.pointer(pointer).and_then(Value::as_i64).map(UnixMs)
}

pub(crate) fn age(object: &Value, pointer: &str, now: UnixMs) -> Cell {
    Cell::Text(time_at(object, pointer).map_or_else(|| "-".to_owned(), |at| time::age(at, now)))
}

/// `expired`, or how long it still holds.
pub(crate) fn left(object: &Value, pointer: &str, now: UnixMs) -> Cell {
    Cell::Text(match time_at(object, pointer) {
        None => "-".to_owned(),
        Some(at) if at <= now => "expired".to_owned(),
        Some(at) => time::span(at.since_ms(now)),
    })
}

/// `a=1,b=2`.
pub(crate) fn pairs(object: &Value, pointer: &str) -> Cell {
    let pairs: Vec<_> = object
        .pointer(pointer)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| {
            format!("{key}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        })
        .collect();
    Cell::Text(if pairs.is_empty() { "-".to_owned() } else { pairs.join(",") })
}

/// Bytes with a unit of 1024.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: &[&str] = &["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let (mut tenths, mut unit) = (u128::from(count) * 10 / 1024, 0);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS.get(unit).unwrap_or(&""))
}

/// A share of 0 to 1 as whole percent.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_a_word_alone_where_nobody_looks() {
        assert_eq!(state("online", Look { marks: false, colour: false }), "online");
        assert_eq!(state("online", Look { marks: true, colour: false }), "● online");
        assert_eq!(state("held", Look { marks: true, colour: true }), "\x1b[33m❚❚ held\x1b[0m");
        assert_eq!(state("brand-new", Look { marks: true, colour: true }), "brand-new");
    }

    #[test]
    fn what_a_device_says_can_not_steer_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }

    #[test]
    fn bytes_are_short() {
        assert_eq!(
            [0, 1023, 1024, 1536, 5 << 20, 3 << 40].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 MiB", "3.0 TiB"]
        );
    }
}
