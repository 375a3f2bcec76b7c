//! Points as JSON: one object, an array of them, or one object a line (NDJSON).
//!
//! ```json
//! {"sensor_id": "temp-01", "value": 23.5, "unit": "celsius", "tags": {"location": "warehouse-A"}, "timestamp": "2025-10-09T10:30:00Z"}
//! {"measurement": "climate", "tags": {"room": "a"}, "fields": {"temperature": 21.5, "window": true}, "time": 1760005800}
//! ```
//!
//! The sensor is the measurement, its value the field `value`, its unit the tag `unit`. A number of JSON is a float, except a whole one
//! beyond 2^53, which a float could not hold. Values that are arrays or objects are kept as JSON; null is no value. A time is RFC 3339
//! (without an offset: UTC) or a Unix time whose unit is told by its size.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::quick::Quick;
use super::time::{by_magnitude, parse_rfc3339, whole_by_magnitude};
use super::{Outcome, Sink};
use crate::limits::{MAX_FIELDS, MAX_LINE_BYTES, MAX_NAME_BYTES, MAX_TAGS};
use crate::point::{Field, Point, PointError, Tag, Value};

/// The largest whole number up to which every one has a float of its own.
const EXACT: u64 = 1 << 53;

/// Hands each point of a body to `sink`: an array's elements, or the objects that stand one after another.
pub fn decode(body: &[u8], sink: &mut Sink<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    let Ok(text) = std::str::from_utf8(body) else {
        outcome.count(1, Err(PointError::NotUtf8("the body")));
        return outcome;
    };
    let text = text.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    if text.starts_with('[') {
        if let Err(error) = elements(text, &mut outcome, sink) {
            let place = outcome.accepted + outcome.rejected + 1;
            outcome.count(place, Err(error));
        }
        return outcome;
    }
    // A single object may be written over several lines; a line that does not end its object is tried as the whole.
    let mut point = Point::default();
    if let Some(result) = whole(text, &mut point) {
        outcome.count(1, result.and_then(|()| sink(&point)));
        return outcome;
    }
    for (index, line) in text.split('\n').enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        point.clear();
        let result = if line.len() > MAX_LINE_BYTES {
            Err(PointError::TooLong { what: "the line", bytes: line.len(), max: MAX_LINE_BYTES })
        } else {
            whole(line, &mut point).unwrap_or_else(|| read(line, &mut point)).and_then(|()| sink(&point))
        };
        outcome.count(index + 1, result);
    }
    if outcome.accepted + outcome.rejected == 0 {
        outcome.count(1, Err(PointError::Missing { what: "a point" }));
    }
    outcome
}

/// The text as one value; nothing when it is not one.
fn whole<'a>(text: &'a str, point: &mut Point<'a>) -> Option<Result<(), PointError>> {
    let mut quick = Quick::new(text, 0);
    if quick.object(point).is_some() {
        quick.skip_blanks();
        if quick.at == text.len() {
            return Some(Ok(()));
        }
        // More stands behind it.
        point.clear();
        return None;
    }
    point.clear();
    let raw = serde_json::from_str::<&RawValue>(text).ok()?;
    Some(read(raw.get(), point))
}

/// An array's elements, one after another, never all at once.
///
/// # Errors
/// Where the array itself is broken: what comes behind is not looked at.
fn elements(text: &str, outcome: &mut Outcome, sink: &mut Sink<'_>) -> Result<(), PointError> {
    let mut reader = Quick::new(text, 1);
    let mut point = Point::default();
    let broken_at = |what: &str, at: usize| PointError::Json(format!("{what} at byte {at}"));
    reader.skip_blanks();
    let mut first = true;
    loop {
        match reader.peek() {
            None => return Err(broken_at("EOF while parsing an array", reader.at)),
            Some(b']') if first => break,
            Some(_) => {}
        }
        first = false;
        let start = reader.at;
        point.clear();
        let result = if reader.object(&mut point).is_some() {
            Ok(())
        } else {
            point.clear();
            let mut slow = serde_json::Deserializer::from_str(text.get(start..).unwrap_or_default())
                .into_iter::<&RawValue>();
            let raw = match slow.next() {
                Some(Ok(raw)) => raw.get(),
                Some(Err(error)) => return Err(broken(&error)),
                None => return Err(broken_at("EOF while parsing an array", start)),
            };
            reader.at = start + slow.byte_offset();
            read(raw, &mut point)
        };
        let place = outcome.accepted + outcome.rejected + 1;
        outcome.count(place, result.and_then(|()| sink(&point)));
        reader.skip_blanks();
        match reader.peek() {
            Some(b',') => reader.at += 1,
            Some(b']') => break,
            None => return Err(broken_at("EOF while parsing an array", reader.at)),
            Some(_) => return Err(broken_at("expected `,` or `]`", reader.at)),
        }
        reader.skip_blanks();
    }
    reader.at += 1;
    reader.skip_blanks();
    if reader.at < text.len() { Err(broken_at("trailing characters", reader.at)) } else { Ok(()) }
}

fn broken(error: &serde_json::Error) -> PointError {
    PointError::Json(error.to_string().chars().take(200).collect())
}

/// The object as it is written. `tags` and `fields` are read in place, without a map in between.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow, default)]
    sensor_id: Option<Borrowed<'a>>,
    #[serde(borrow, default)]
    measurement: Option<Borrowed<'a>>,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    unit: Option<Borrowed<'a>>,
    #[serde(borrow, default)]
    tags: Option<Tags<'a>>,
    #[serde(borrow, default)]
    fields: Option<Fields<'a>>,
    #[serde(borrow, default)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow, default)]
    time: Option<&'a RawValue>,
}

struct Tags<'a>(Vec<Tag<'a>>);
struct Fields<'a>(Vec<Field<'a>>);

/// Text that is borrowed where it has no escapes. (A `Cow` within anything else is always copied by serde.)
#[derive(Deserialize)]
struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Tags<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Tags<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tags")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tags<'de>, A::Error> {
                let mut tags = Vec::new();
                while let Some(Borrowed(key)) = map.next_key::<Borrowed<'de>>()? {
                    let raw = map.next_value::<&'de RawValue>()?.get();
                    // One more than allowed is kept, so that the point is refused; more is only read over.
                    if tags.len() <= MAX_TAGS {
                        tags.push((key, tag_value::<A::Error>(raw)?));
                    }
                }
                Ok(Tags(tags))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// A tag is text; numbers, true and false are taken as written.
fn tag_value<'a, E: serde::de::Error>(raw: &'a str) -> Result<Cow<'a, str>, E> {
    match raw.as_bytes().first() {
        Some(b'"') => serde_json::from_str::<Borrowed<'a>>(raw).map(|text| text.0).map_err(E::custom),
        Some(b'{' | b'[' | b'n') => Err(E::custom("a tag's value must be a text, a number, true or false")),
        _ => Ok(Cow::Borrowed(raw)),
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of fields")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(Borrowed(key)) = map.next_key::<Borrowed<'de>>()? {
                    if fields.len() > MAX_FIELDS {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let raw = map.next_value::<&'de RawValue>()?.get();
                    if let Some(value) = value(raw).map_err(serde::de::Error::custom)? {
                        fields.push((key, value));
                    }
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// One object. Keys that are not known are read over: producers send more than is asked for.
fn read<'a>(text: &'a str, point: &mut Point<'a>) -> Result<(), PointError> {
    if !text.starts_with('{') {
        return Err(PointError::Json("a point is an object".to_owned()));
    }
    let written: Written<'a> = serde_json::from_str(text).map_err(|error| broken(&error))?;
    point.measurement = match (written.sensor_id, written.measurement) {
        (Some(Borrowed(name)), None) | (None, Some(Borrowed(name))) => name,
        (Some(_), Some(_)) => {
            return Err(PointError::Refused("give sensor_id or measurement, not both".to_owned()));
        }
        (None, None) => return Err(PointError::Missing { what: "sensor_id or measurement" }),
    };
    point.tags = written.tags.map(|tags| tags.0).unwrap_or_default();
    if let Some(Borrowed(unit)) = written.unit.filter(|unit| !unit.0.is_empty()) {
        point.tags.push((Cow::Borrowed("unit"), unit));
    }
    point.fields = written.fields.map(|fields| fields.0).unwrap_or_default();
    if let Some(raw) = written.value
        && let Some(value) = value(raw.get())?
    {
        point.fields.push((Cow::Borrowed("value"), value));
    }
    if point.fields.is_empty() {
        return Err(PointError::Missing { what: "value" });
    }
    if let Some(raw) = written.timestamp.or(written.time) {
        point.time_ns = time(raw.get())?;
    }
    point.finish()
}

/// Whether an object is a point by itself.
pub(crate) fn names_a_sensor(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Names {
        #[serde(default)]
        sensor_id: Option<IgnoredAny>,
        #[serde(default)]
        measurement: Option<IgnoredAny>,
    }
    serde_json::from_str::<Names>(text)
        .is_ok_and(|names| names.sensor_id.is_some() || names.measurement.is_some())
}

/// An object as a reading of `measurement`: its members are the fields, but for one that says the time.
///
/// # Errors
/// When it is no object or holds nothing.
pub(crate) fn fields_of<'a>(measurement: &'a str, text: &'a str) -> Result<Point<'a>, PointError> {
    let Fields(mut fields) = serde_json::from_str(text).map_err(|error| broken(&error))?;
    let mut time_ns = None;
    if let Some(at) = fields.iter().position(|(key, _)| matches!(key.as_ref(), "time" | "timestamp" | "ts")) {
        let (key, value) = fields.remove(at);
        time_ns = match &value {
            Value::Integer(number) => whole_by_magnitude(*number),
            Value::Float(number) => by_magnitude(*number),
            Value::Text(text) => parse_rfc3339(text),
            _ => None,
        };
        if time_ns.is_none() {
            return Err(PointError::malformed("the time", &key, "write RFC 3339 or a Unix time"));
        }
    }
    Ok(Point { measurement: Cow::Borrowed(measurement), tags: Vec::new(), fields, time_ns })
}

/// A JSON value as a field; nothing for null.
pub(crate) fn value(raw: &str) -> Result<Option<Value<'_>>, PointError> {
    Ok(Some(match raw.as_bytes().first() {
        Some(b'"') => {
            let Borrowed(text) = serde_json::from_str(raw).map_err(|error| broken(&error))?;
            Value::Text(text)
        }
        Some(b't') => Value::Bool(true),
        Some(b'f') => Value::Bool(false),
        Some(b'n') => return Ok(None),
        Some(b'{' | b'[') => Value::Json(Cow::Borrowed(raw)),
        _ => number(raw)?,
    }))
}

pub(super) fn number(raw: &str) -> Result<Value<'static>, PointError> {
    if let Ok(whole) = raw.parse::<i64>()
        && whole.unsigned_abs() > EXACT
    {
        return Ok(Value::Integer(whole));
    }
    let float = raw.parse::<f64>().ok().filter(|number| number.is_finite());
    float.map(Value::Float).ok_or_else(|| PointError::malformed("the number", raw, "it is too large"))
}

pub(super) fn time(raw: &str) -> Result<Option<i64>, PointError> {
    let bad = |text: &str| {
        PointError::malformed("the timestamp", text, "write RFC 3339, or a Unix time between 1677 and 2262")
    };
    match raw.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"') => {
            let Borrowed(text) = serde_json::from_str(raw).map_err(|error| broken(&error))?;
            if text.len() > MAX_NAME_BYTES {
                return Err(bad("a long text"));
            }
            parse_rfc3339(&text).map(Some).ok_or_else(|| bad(&text))
        }
        _ => {
            let ns = match raw.parse::<i64>() {
                Ok(whole) => whole_by_magnitude(whole),
                Err(_) => raw.parse::<f64>().ok().and_then(by_magnitude),
            };
            ns.map(Some).ok_or_else(|| bad(raw))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(body: &[u8]) -> (Vec<Point<'static>>, Outcome) {
        let mut points = Vec::new();
        let outcome = decode(body, &mut |point| {
            points.push(point.clone().into_owned());
            Ok(())
        });
        (points, outcome)
    }

    const DOCUMENTED: &str = r#"{"sensor_id": "temp-01", "value": 23.5, "unit": "celsius",
        "tags": {"location": "warehouse-A", "floor": 2}, "timestamp": "2025-10-09T10:30:00Z"}"#;

    #[test]
    fn the_documented_shape() {
        let (points, outcome) = all(DOCUMENTED.as_bytes());
        assert_eq!(outcome.told, []);
        let point = &points[0];
        assert_eq!(point.measurement, "temp-01");
        let tags = [("floor", "2"), ("location", "warehouse-A"), ("unit", "celsius")];
        assert_eq!(point.tags, tags.map(|(key, value)| (Cow::from(key), Cow::from(value))));
        assert_eq!(point.fields, [("value".into(), Value::Float(23.5))]);
        assert_eq!(point.time_ns, Some(1_760_005_800_000_000_000));
    }

    #[test]
    fn arrays_lines_and_fields() {
        let body = format!(
            "[{DOCUMENTED}, {{\"measurement\":\"m\",\"fields\":{{\"a\":1,\"b\":\"x\\u0041\",\"c\":{{\"d\":[1]}},\"e\":null,\"f\":9007199254740993}},\"time\":5.5}}]"
        );
        let (points, outcome) = all(body.as_bytes());
        assert_eq!((outcome.accepted, outcome.told), (2, vec![]));
        let expected: Vec<Field<'_>> = vec![
            ("a".into(), Value::Float(1.0)),
            ("b".into(), Value::Text("xA".into())),
            ("c".into(), Value::Json("{\"d\":[1]}".into())),
            ("f".into(), Value::Integer(9_007_199_254_740_993)),
        ];
        assert_eq!(points[1].fields, expected);
        assert_eq!(points[1].time_ns, Some(5_500_000_000));
        let lines = "{\"sensor_id\":\"a\",\"value\":1}\n\n{\"sensor_id\":\"b\",\"value\":true,\"more\":[{}]}\r\n{broken\n";
        let (points, outcome) = all(lines.as_bytes());
        assert_eq!((points.len(), outcome.rejected, outcome.told[0].place), (2, 1, 4));
    }

    #[test]
    fn broken_json_says_what_is_wrong() {
        for (body, part) in [
            ("", "a point is missing"),
            ("[", "EOF"),
            ("[]]", "trailing"),
            ("[1,", "an object"),
            ("7", "an object"),
            ("{}", "sensor_id or measurement is missing"),
            (r#"{"sensor_id":"a"}"#, "value is missing"),
            (r#"{"sensor_id":"a","value":null}"#, "value is missing"),
            (r#"{"sensor_id":"","value":1}"#, "measurement is missing"),
            (r#"{"sensor_id":7,"value":1}"#, "string"),
            (r#"{"sensor_id":"a","measurement":"b","value":1}"#, "not both"),
            (r#"{"sensor_id":"a","value":1e999}"#, "too large"),
            (r#"{"sensor_id":"a","value":1,"tags":{"t":{}}}"#, "tag's value"),
            (r#"{"sensor_id":"a","value":1,"tags":{"t":"1","t":"2"}}"#, "twice"),
            (r#"{"sensor_id":"a","value":1,"tags":{"unit":"1"},"unit":"2"}"#, "twice"),
            (r#"{"sensor_id":"a","value":1,"tags":[]}"#, "object of tags"),
            (r#"{"sensor_id":"a","value":1,"fields":{"value":2}}"#, "twice"),
            (r#"{"sensor_id":"a","value":1,"timestamp":"soon"}"#, "RFC 3339"),
            (r#"{"sensor_id":"a","value":1,"timestamp":1e300}"#, "RFC 3339"),
            (r#"{"sensor_id":"a","value":1,"timestamp":{}}"#, "RFC 3339"),
            (r#"{"sensor_id":"\ud800","value":1}"#, "JSON is broken"),
            (r#"{"sensor_id":"a\u0000","value":1}"#, "control"),
        ] {
            let (points, outcome) = all(body.as_bytes());
            let message = outcome.message();
            assert!(points.is_empty() && message.contains(part), "{body:?}: {message}");
        }
        assert!(all(b"{\"sensor_id\":\"\xff\"}").1.message().contains("UTF-8"));
        let deep =
            format!("{{\"sensor_id\":\"a\",\"value\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let (points, outcome) = all(deep.as_bytes());
        assert!(points.is_empty() && outcome.rejected > 0);
        let tags: Vec<String> = (0..1000).map(|n| format!("\"t{n}\":1")).collect();
        let many = format!("{{\"sensor_id\":\"a\",\"value\":1,\"tags\":{{{}}}}}", tags.join(","));
        assert!(all(many.as_bytes()).1.message().contains("more than 32 tags"));
    }

    #[test]
    fn one_broken_element_leaves_its_neighbours() {
        let (points, outcome) =
            all(br#"[{"sensor_id":"a","value":1},{"sensor_id":"b"},{"sensor_id":"c","value":2}]"#);
        assert_eq!((points.len(), outcome.rejected, outcome.told[0].place), (2, 1, 2));
    }

    /// What both readers make of an object.
    fn both(text: &str) -> Option<(Point<'_>, Result<Point<'_>, PointError>)> {
        let (mut quick, mut slow) = (Point::default(), Point::default());
        let mut reader = Quick::new(text, 0);
        reader.object(&mut quick)?;
        reader.skip_blanks();
        if reader.at < text.len() {
            return None;
        }
        Some((quick, read(text, &mut slow).map(|()| slow)))
    }

    #[test]
    fn the_usual_object_is_read_in_one_pass() {
        for usual in [
            DOCUMENTED,
            r#"{"sensor_id":"a","value":1}"#,
            r#"{ "measurement" : "m" , "fields" : { "a" : 1.5 , "b" : "x", "c" : true } , "time" : 1700000000.25 }"#,
            r#"{"sensor_id":"a","value":-0.0,"tags":{},"unit":""}"#,
        ] {
            let (quick, slow) = both(usual).expect(usual);
            assert_eq!(Ok(quick), slow, "{usual}");
        }
        for unusual in [
            r#"{"sensor_id":"a\u0041","value":1}"#,
            r#"{"sensor_id":"a","value":null}"#,
            r#"{"sensor_id":"a","value":1,"value":2}"#,
            r#"{"sensor_id":"a","value":01}"#,
            r#"{"sensor_id":"a","value":1,}"#,
            r#"{"sensor_id":"a","value":{"b":1}}"#,
        ] {
            assert!(both(unusual).is_none(), "{unusual}");
        }
    }

    proptest! {
        /// Whatever the quick reader takes, the general one takes for the same.
        #[test]
        fn both_readers_agree(text in prop_oneof![
            (0..DOCUMENTED.len(), "[ -~]").prop_map(|(at, byte)| {
                let mut text = DOCUMENTED.to_owned();
                text.replace_range(at..=at, &byte);
                text
            }),
            prop::collection::vec(("(sensor_id|measurement|value|unit|tags|fields|time|timestamp|x)", prop_oneof![
                "-?[0-9]{1,4}(\\.[0-9]{0,3})?(e[0-9]{1,2})?", "\"[a-z0-9 ]{0,4}\"", "(true|false|null|\\{\\}|\\[\\])",
                "\\{\"[a-c]\":(1|\"b\"|true)(,\"[a-c]\":2)?\\}",
            ]), 0..6).prop_map(|members| {
                let members: Vec<String> = members.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]) {
            if let Some((quick, slow)) = both(&text) {
                prop_assert_eq!(Ok(quick), slow);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "[\\[\\]{}\":,0-9a-z\\\\ue. \n-]{0,200}".prop_map(String::into_bytes),
        ]) {
            let (points, outcome) = all(&body);
            prop_assert_eq!(points.len(), outcome.accepted);
        }

        /// A good body with some bytes changed or cut.
        #[test]
        fn damaged_bodies_are_read_or_refused(at in 0..DOCUMENTED.len(), byte in any::<u8>(), cut in any::<bool>()) {
            let mut body = DOCUMENTED.as_bytes().to_vec();
            if cut { body.truncate(at) } else { body[at] = byte }
            let (points, outcome) = all(&body);
            prop_assert_eq!(points.len(), outcome.accepted);
            prop_assert!(outcome.accepted + outcome.rejected > 0);
        }

        #[test]
        fn numbers_come_back_exactly(number in any::<f64>().prop_filter("finite", |n| n.is_finite())) {
            let body = format!("{{\"sensor_id\":\"a\",\"value\":{number:?}}}");
            let (points, _) = all(body.as_bytes());
            match points[0].fields[0].1 {
                Value::Float(read) => prop_assert_eq!(read.to_bits(), number.to_bits()),
                ref other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
