//! The InfluxDB line protocol.
//!
//! `measurement[,tag=value…] field=value[,field=value…] [time]`, one point a line. Escapes: `\,` and `\ ` in a measurement, also `\=` in
//! tags and field keys; `\"` and `\\` in a text, which may hold line breaks. Numbers: `1.5` (float), `3i` (integer), `3u` (integer as
//! well: what is beyond 63 bits is refused), `t`, `true`, `f`, `false`, and `"text"`. Lines that begin with `#` are comments.

use std::borrow::Cow;

use super::{Outcome, Precision, Sink};
use crate::limits::{MAX_FIELDS, MAX_LINE_BYTES, MAX_TAGS};
use crate::point::{Point, PointError, Value};

/// Hands each point of a body to `sink`.
pub fn decode(body: &[u8], precision: Precision, sink: &mut Sink<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    if let Ok(text) = std::str::from_utf8(body) {
        let mut number = 1;
        decode_text(text, precision, &mut number, &mut outcome, sink);
        return outcome;
    }
    // Somewhere is a byte that does not belong: find the lines that are good.
    for (index, line) in body.split(|byte| *byte == b'\n').enumerate() {
        let mut number = index + 1;
        match std::str::from_utf8(line) {
            Ok(text) => decode_text(text, precision, &mut number, &mut outcome, sink),
            Err(_) => outcome.count(number, Err(PointError::NotUtf8("the line"))),
        }
    }
    outcome
}

fn decode_text(
    text: &str,
    precision: Precision,
    number: &mut usize,
    outcome: &mut Outcome,
    sink: &mut Sink<'_>,
) {
    let mut cursor = Cursor { text, at: 0 };
    let mut point = Point::default();
    while cursor.at < text.len() {
        let start = cursor.at;
        point.clear();
        let result = cursor.line(precision, &mut point);
        match result {
            Ok(false) => {}
            Ok(true) => {
                let length = cursor.at - start;
                let result = if length > MAX_LINE_BYTES {
                    Err(PointError::TooLong { what: "the line", bytes: length, max: MAX_LINE_BYTES })
                } else {
                    point.finish().and_then(|()| sink(&point))
                };
                outcome.count(*number, result);
            }
            Err(error) => {
                outcome.count(*number, Err(error));
                // What a broken line means is unknown: go on behind its first end, also where a text in it led further.
                cursor.at = start;
                cursor.skip_line();
            }
        }
        let read = text.as_bytes().get(start..cursor.at).unwrap_or_default();
        *number += read.iter().filter(|byte| **byte == b'\n').count();
    }
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_line(&mut self) {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        self.at += rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    /// Up to an unescaped byte of `ends`, or the end of the line. Says whether there was an escape.
    fn until(&mut self, ends: &[u8]) -> (&'a str, bool) {
        let bytes = self.text.as_bytes();
        let start = self.at;
        let mut escaped = false;
        while let Some(&byte) = bytes.get(self.at) {
            if byte == b'\\' {
                escaped = true;
                // The byte behind it does not end anything; a line break does, whatever is before it.
                match bytes.get(self.at + 1) {
                    Some(b'\n') | None => self.at += 1,
                    Some(_) => self.at += 2,
                }
            } else if byte == b'\n' || ends.contains(&byte) {
                break;
            } else {
                self.at += 1;
            }
        }
        // Ends are ASCII, and what is skipped behind a backslash may begin a longer character: stop at its end.
        while !self.text.is_char_boundary(self.at) {
            self.at += 1;
        }
        (self.text.get(start..self.at).unwrap_or_default(), escaped)
    }

    fn name(&mut self, ends: &[u8], escapable: &[u8]) -> Cow<'a, str> {
        let (raw, escaped) = self.until(ends);
        if escaped { unescape(raw, escapable) } else { Cow::Borrowed(raw) }
    }

    /// One line; false when there was no point in it.
    fn line(&mut self, precision: Precision, point: &mut Point<'a>) -> Result<bool, PointError> {
        self.skip_blanks();
        match self.peek() {
            None => return Ok(false),
            Some(b'\n') => {
                self.at += 1;
                return Ok(false);
            }
            Some(b'#') => {
                self.skip_line();
                return Ok(false);
            }
            Some(_) => {}
        }
        point.measurement = self.name(b", ", b", ");
        while self.peek() == Some(b',') {
            self.at += 1;
            let key = self.name(b"=, ", b",= ");
            if self.peek() != Some(b'=') {
                return Err(PointError::malformed("tag", &key, "= is missing"));
            }
            self.at += 1;
            let value = self.name(b", =", b",= ");
            if self.peek() == Some(b'=') {
                return Err(PointError::malformed("tag", &key, "its value holds an unescaped ="));
            }
            if point.tags.len() >= MAX_TAGS {
                return Err(PointError::TooMany { what: "tags", max: MAX_TAGS });
            }
            point.tags.push((key, value));
        }
        if self.peek() != Some(b' ') {
            return Err(PointError::Missing { what: "a field" });
        }
        self.skip_blanks();
        loop {
            let key = self.name(b"=, ", b",= ");
            if self.peek() != Some(b'=') {
                return Err(PointError::malformed("field", &key, "= is missing"));
            }
            self.at += 1;
            let value = self.value(&key)?;
            if point.fields.len() >= MAX_FIELDS {
                return Err(PointError::TooMany { what: "fields", max: MAX_FIELDS });
            }
            point.fields.push((key, value));
            match self.peek() {
                Some(b',') => self.at += 1,
                None | Some(b' ' | b'\n' | b'\r' | b'\t') => break,
                Some(_) => {
                    return Err(PointError::Malformed {
                        what: "field",
                        name: point
                            .fields
                            .last()
                            .map(|(key, _)| key.chars().take(64).collect())
                            .unwrap_or_default(),
                        why: "something stands behind its text",
                    });
                }
            }
        }
        self.skip_blanks();
        let (time, _) = self.until(b" \r\t");
        if !time.is_empty() {
            let number: i64 =
                time.parse().map_err(|_| PointError::malformed("time", time, "it is no whole number"))?;
            let ns = precision.to_ns(number);
            point.time_ns =
                Some(ns.ok_or_else(|| PointError::malformed("time", time, "it is beyond the year 2262"))?);
        }
        self.skip_blanks();
        match self.peek() {
            None => {}
            Some(b'\n') => self.at += 1,
            Some(_) => return Err(PointError::malformed("time", time, "something stands behind it")),
        }
        Ok(true)
    }

    fn value(&mut self, key: &str) -> Result<Value<'a>, PointError> {
        if self.peek() == Some(b'"') {
            return self.quoted(key);
        }
        let (raw, _) = self.until(b", \r\t");
        let bad = |why| PointError::malformed("field", key, why);
        match raw {
            "" => return Err(bad("its value is missing")),
            "t" | "T" | "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
            "f" | "F" | "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
            _ => {}
        }
        match raw.as_bytes().last() {
            Some(b'i') => {
                let number = raw.get(..raw.len() - 1).and_then(|digits| digits.parse().ok());
                number.map(Value::Integer).ok_or_else(|| bad("it is no whole number of 64 bits"))
            }
            Some(b'u') => {
                let number = raw.get(..raw.len() - 1).and_then(|digits| digits.parse::<u64>().ok());
                let number = number.and_then(|number| i64::try_from(number).ok());
                number.map(Value::Integer).ok_or_else(|| bad("it is no whole number from 0 to 2^63 - 1"))
            }
            // Rust reads "inf" and "nan" as numbers.
            Some(last) if last.is_ascii_digit() || *last == b'.' => {
                let number = raw.parse::<f64>().ok().filter(|number| number.is_finite());
                number.map(Value::Float).ok_or_else(|| bad("it is no finite number"))
            }
            _ => Err(bad("it is no number, no true or false, and no \"text\"")),
        }
    }

    fn quoted(&mut self, key: &str) -> Result<Value<'a>, PointError> {
        let bytes = self.text.as_bytes();
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            match bytes.get(self.at) {
                None => return Err(PointError::malformed("field", key, "the text has no end")),
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(_) => self.at += 1,
            }
            if self.at - start > MAX_LINE_BYTES {
                return Err(PointError::TooLong {
                    what: "a field",
                    bytes: self.at - start,
                    max: MAX_LINE_BYTES,
                });
            }
        }
        let raw = self.text.get(start..self.at).unwrap_or_default();
        self.at += 1;
        Ok(Value::Text(if escaped { unescape(raw, b"\"\\") } else { Cow::Borrowed(raw) }))
    }
}

/// A backslash before one of `escapable` goes; before anything else it is itself.
fn unescape<'a>(raw: &'a str, escapable: &[u8]) -> Cow<'a, str> {
    let mut text = String::with_capacity(raw.len());
    let mut characters = raw.chars().peekable();
    while let Some(character) = characters.next() {
        let follows = characters.peek().and_then(|next| u8::try_from(*next).ok());
        if character == '\\' && follows.is_some_and(|next| escapable.contains(&next)) {
            text.extend(characters.next());
        } else {
            text.push(character);
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(body: &[u8]) -> (Vec<Point<'static>>, Outcome) {
        let mut points = Vec::new();
        let outcome = decode(body, Precision::Nanoseconds, &mut |point| {
            points.push(point.clone().into_owned());
            Ok(())
        });
        (points, outcome)
    }

    fn one(line: &str) -> Point<'static> {
        let (points, outcome) = all(line.as_bytes());
        assert_eq!(outcome.told, [], "{line}");
        points.into_iter().next().expect("a point")
    }

    fn error(line: &str) -> String {
        let (points, outcome) = all(line.as_bytes());
        assert_eq!((points.len(), outcome.rejected), (0, 1), "{line:?} was taken");
        outcome.message()
    }

    #[test]
    fn every_type_of_value() {
        let point =
            one(r#"m,b=2,a=1 f=1.5,e=-3e-2,i=-42i,u=7u,y=t,n=FALSE,s="a \\ \"b\" \x" 1700000000000000001"#);
        assert_eq!(point.measurement, "m");
        assert_eq!(point.tags, [("a".into(), "1".into()), ("b".into(), "2".into())]);
        let expected: Vec<(Cow<'_, str>, Value<'_>)> = vec![
            ("f".into(), Value::Float(1.5)),
            ("e".into(), Value::Float(-0.03)),
            ("i".into(), Value::Integer(-42)),
            ("u".into(), Value::Integer(7)),
            ("y".into(), Value::Bool(true)),
            ("n".into(), Value::Bool(false)),
            ("s".into(), Value::Text(r#"a \ "b" \x"#.into())),
        ];
        assert_eq!(point.fields, expected);
        assert_eq!(point.time_ns, Some(1_700_000_000_000_000_001));
    }

    #[test]
    fn escapes_and_line_breaks_in_texts() {
        let point = one("my\\ meas\\,ure,t\\=a\\ g=v\\,al\\\\ue f\\ ield=\"two\nlines\" 5\r\n");
        assert_eq!(point.measurement, "my meas,ure");
        assert_eq!(point.tags, [("t=a g".into(), "v,al\\\\ue".into())]);
        assert_eq!(point.fields, [("f ield".into(), Value::Text("two\nlines".into()))]);
        assert_eq!(point.time_ns, Some(5));
        assert_eq!(one("wätter,örtlich=jä tempé=1").fields[0].0, "tempé");
    }

    #[test]
    fn blank_lines_comments_and_good_neighbours() {
        let (points, outcome) = all(b"# comment\n\n  \na f=1\nbroken\nb f=2 \xff\nc f=3\r\n");
        let names: Vec<_> = points.iter().map(|point| point.measurement.as_ref()).collect();
        assert_eq!(names, ["a", "c"]);
        let places: Vec<usize> = outcome.told.iter().map(|rejection| rejection.place).collect();
        assert_eq!((outcome.accepted, outcome.rejected, places), (2, 2, vec![5, 6]));
    }

    #[test]
    fn broken_lines_say_what_is_wrong() {
        for (line, part) in [
            ("m", "a field is missing"),
            ("m ", "= is missing"),
            (",a=b f=1", "the measurement is missing"),
            ("m,a f=1", "tag \"a\""),
            ("m,a= f=1", "a tag's value is missing"),
            ("m,=b f=1", "a tag's key is missing"),
            ("m,a=b=c f=1", "unescaped ="),
            ("m,a=1,a=2 f=1", "tag \"a\" is there twice"),
            ("m f", "= is missing"),
            ("m f=", "its value is missing"),
            ("m f=1,", "= is missing"),
            ("m f=abc", "no number"),
            ("m f=NaN", "no number"),
            ("m f=inf", "no number"),
            ("m f=1e999", "no finite number"),
            ("m f=1.5i", "no whole number"),
            ("m f=9223372036854775808i", "no whole number"),
            ("m f=18446744073709551615u", "0 to 2^63"),
            ("m f=\"open", "no end"),
            ("m f=\"open\\", "no end"),
            ("m f=\"a\"b", "behind its text"),
            ("m f=1,f=2", "field \"f\" is there twice"),
            ("m f=1 later", "no whole number"),
            ("m f=1 1 2", "something stands behind"),
            ("m f=1 9223372036854775808", "no whole number"),
            ("m\\", "a field is missing"),
            ("a\u{7}b f=1", "control characters"),
        ] {
            let message = error(line);
            assert!(message.contains(part), "{line:?}: {message}");
        }
        let long = format!("m,t={} f=1", "x".repeat(600));
        assert!(error(&long).contains("at most 256"));
        let tags: String = (0..200).map(|n| format!(",t{n}=x")).collect();
        assert!(error(&format!("m{tags} f=1")).contains("more than 32 tags"));
        let fields: Vec<String> = (0..300).map(|n| format!("f{n}=1")).collect();
        assert!(error(&format!("m {}", fields.join(","))).contains("more than 256 fields"));
        for size in [70_000, 300_000] {
            let text = format!("m f=\"{}\"", "x".repeat(size));
            assert!(error(&text).contains("at most"));
        }
    }

    #[test]
    fn what_the_sink_refuses_is_told_with_its_line() {
        let outcome = decode(b"a f=1\nb f=1\n", Precision::Seconds, &mut |point| {
            if point.measurement == "b" { Err(PointError::Refused("no room".to_owned())) } else { Ok(()) }
        });
        assert_eq!(outcome.message(), "2: no room");
    }

    fn escaped(text: &str, escapable: &str) -> String {
        text.chars().flat_map(|c| escapable.contains(c).then_some('\\').into_iter().chain([c])).collect()
    }

    proptest! {
        /// What was written by the rules is read as it was meant.
        #[test]
        fn written_lines_are_read(
            measurement in "[a-z][a-zé, =]{0,7}[a-z]",
            tags in prop::collection::btree_map("[a-z,= ]{0,5}[a-z]", "[a-zß,= ]{0,5}[a-z]", 0..5),
            number in any::<f64>().prop_filter("finite", |n| n.is_finite()),
            integer in any::<i64>(),
            text in r#"[a-z"\\ ,=\n€]{0,20}"#,
            time in any::<Option<i64>>(),
        ) {
            let mut line = escaped(&measurement, ", ");
            for (key, value) in &tags {
                line.push_str(&format!(",{}={}", escaped(key, ",= "), escaped(value, ",= ")));
            }
            line.push_str(&format!(" n={number:?},i={integer}i,s=\"{}\"", escaped(&text, "\"\\")));
            if let Some(time) = time {
                line.push_str(&format!(" {time}"));
            }
            let (points, outcome) = all(line.as_bytes());
            prop_assert_eq!(&outcome.told, &vec![]);
            let point = &points[0];
            prop_assert_eq!(point.measurement.as_ref(), measurement);
            let read: Vec<_> = point.tags.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            prop_assert_eq!(read, tags.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(&point.fields[0].1, &Value::Float(number));
            prop_assert_eq!(&point.fields[1].1, &Value::Integer(integer));
            prop_assert_eq!(&point.fields[2].1, &Value::Text(text.into()));
            prop_assert_eq!(point.time_ns, time);
        }

        /// Any bytes at all: counted, never a panic, and nothing that is beyond the limits.
        #[test]
        fn any_bytes_are_read_or_refused(body in prop::collection::vec(
            prop_oneof![
                prop::sample::select(b",= \n\"\\1i#tm\r".to_vec()),
                any::<u8>(),
            ],
            0..200,
        )) {
            let (points, outcome) = all(&body);
            prop_assert_eq!(points.len(), outcome.accepted);
            for mut point in points {
                prop_assert_eq!(point.finish(), Ok(()));
            }
        }
    }
}
