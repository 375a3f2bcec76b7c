//! What a message means as readings.
//!
//! A JSON object or array that names a sensor (or measurement) is read as over HTTP. Any other JSON object is a reading of its topic, its members
//! the fields (`time`, `timestamp` or `ts`: the time). A bare number, `true`, `false` or JSON text is the field `value` of the topic. Anything else
//! is line protocol with nanoseconds.

use std::borrow::Cow;

use farshore_journal::{Producer, StreamName};

use crate::decode::{Precision, json};
use crate::ingest::{Form, Ingest, Taken};
use crate::point::{Point, PointError};

/// Hands a message's points to the journal.
///
/// # Errors
/// When it is no reading at all. A message with some good points gives those.
pub(super) fn take(
    ingest: &Ingest,
    from: Option<Producer>,
    stream: &StreamName,
    topic: &str,
    payload: &[u8],
) -> Result<Taken, PointError> {
    let (form, text) = match read(topic, payload).map_err(|error| ingest.unreadable(error))? {
        Message::Point(mut point) => return ingest.point(from, stream, &mut point),
        Message::Points(form, text) => (form, text),
    };
    let taken = ingest.body(from, stream, form, text.as_bytes())?;
    match taken.outcome.told.first() {
        // These are counted.
        Some(first) if taken.outcome.accepted == 0 => Err(first.error.clone()),
        None if taken.outcome.accepted == 0 => {
            Err(ingest.unreadable(PointError::Missing { what: "a reading" }))
        }
        _ => Ok(taken),
    }
}

/// What a message looks like.
enum Message<'a> {
    Point(Point<'a>),
    Points(Form, &'a str),
}

fn read<'a>(topic: &'a str, payload: &'a [u8]) -> Result<Message<'a>, PointError> {
    let text = std::str::from_utf8(payload).map_err(|_| PointError::NotUtf8("the message"))?.trim();
    Ok(match text.as_bytes().first() {
        None => return Err(PointError::Missing { what: "a reading" }),
        Some(b'{') if !json::names_a_sensor(text) => Message::Point(json::fields_of(topic, text)?),
        Some(b'{' | b'[') => Message::Points(Form::Json, text),
        Some(b'"') => Message::Point(bare(topic, text)?),
        Some(_) if !text.contains(['=', '\n']) => Message::Point(bare(topic, text)?),
        Some(_) => Message::Points(Form::Lines(Precision::Nanoseconds), text),
    })
}

fn bare<'a>(topic: &'a str, text: &'a str) -> Result<Point<'a>, PointError> {
    let unknown =
        || PointError::malformed("the message", text, "it is no number, no JSON and no line protocol");
    // A number may look like nothing else.
    let plain = matches!(text, "true" | "false") || text.starts_with('"') || text.parse::<f64>().is_ok();
    if !plain {
        return Err(unknown());
    }
    let value = json::value(text)?.ok_or_else(unknown)?;
    Ok(Point {
        measurement: Cow::Borrowed(topic),
        fields: vec![(Cow::Borrowed("value"), value)],
        ..Point::default()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use farshore_journal::{Config, Journal};

    use super::*;

    #[tokio::test]
    async fn messages_of_every_form() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = Journal::open(folder.path(), Config::default()).expect("a journal");
        let counters: Arc<crate::counters::Counters> = Arc::default();
        let ingest = Ingest::new(journal, Arc::clone(&counters), 100, None);
        let stream = "data/mqtt".parse().expect("a name");
        for (topic, payload) in [
            ("plain/number", "21.5"),
            ("plain/flag", " true\n"),
            ("plain/text", "\"open\""),
            ("object", "{\"temperature\": 20, \"nested\": {\"a\": 1}, \"ts\": 1700000000000}"),
            ("named", "{\"sensor_id\": \"s1\", \"value\": 1}"),
            ("array", "[{\"sensor_id\": \"s2\", \"value\": 1}]"),
            ("line", "weather,site=a wind=3 1700000000000000000"),
        ] {
            let taken = take(&ingest, None, &stream, topic, payload.as_bytes()).expect(payload);
            ingest.durable(taken).await.expect("durable");
        }
        let latest = ingest.latest();
        let names: Vec<&str> = latest.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "object nested",
                "object temperature",
                "plain/flag value",
                "plain/number value",
                "plain/text value",
                "s1 value",
                "s2 value",
                "weather{site=a} wind"
            ]
        );
        assert_eq!(
            latest.get("object temperature").map(|latest| latest.at_ns),
            Some(1_700_000_000_000_000_000)
        );
        let mut rejected = 0;
        let nameless = "{\"sensor_id\":\"x\"}";
        for payload in
            ["", "hello", "nan", "inf", "{", "{}", "[]", "null", "a=b", "{\"ts\":1}", nameless, "1e999"]
        {
            assert!(take(&ingest, None, &stream, "t", payload.as_bytes()).is_err(), "{payload}");
            rejected += 1;
            assert_eq!(counters.rejected.get(), rejected, "{payload}");
        }
        assert!(take(&ingest, None, &stream, "t", b"\xff").is_err());
        assert!(take(&ingest, None, &stream, "", b"1").is_err());
        assert_eq!(counters.rejected.get(), rejected + 2);
        // Each of an array is one.
        let two = format!("[{nameless},{nameless}]");
        assert!(take(&ingest, None, &stream, "t", two.as_bytes()).is_err());
        assert_eq!(counters.rejected.get(), rejected + 4);
    }
}
