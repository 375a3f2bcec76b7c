//! From stored blocks to what is handed over: the points that a sink wants, in pieces that a receiver can take. Pure.

use farshore_api::sink::SinkSpec;
use farshore_domain::digest::Digest;
use farshore_series::{Columns, SeriesKey, Value};
use farshore_store::sinks::{SinkCursor, StreamPattern};
use serde_json::{Map, json};
use uuid::Uuid;

/// Most points of one piece.
pub(super) const MOST_POINTS: usize = 2_000;
/// Most bytes of one piece, about.
const MOST_BYTES: usize = 512 * 1024;

/// The streams that a sink takes.
pub(super) fn takes(spec: &SinkSpec) -> Vec<StreamPattern> {
    if spec.streams.is_empty() {
        return vec![StreamPattern::Begins("data/".to_owned())];
    }
    let pattern = |wanted: &String| match wanted.strip_suffix('*') {
        Some(start) => StreamPattern::Begins(start.to_owned()),
        None => StreamPattern::Is(wanted.clone()),
    };
    spec.streams.iter().map(pattern).collect()
}

/// Some points of one series, in their order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Run {
    pub(super) key: SeriesKey,
    pub(super) points: Vec<(i64, Value)>,
}

fn size(value: &Value) -> usize {
    match value {
        Value::Text(text) | Value::Json(text) => 40 + text.len(),
        _ => 40,
    }
}

/// The points that a sink wants, in pieces.
pub(super) fn pieces(spec: &SinkSpec, all: &[Columns]) -> Vec<Vec<Run>> {
    let mut pieces = Vec::new();
    let mut piece: Vec<Run> = Vec::new();
    let (mut points, mut bytes) = (0, 0);
    for column in all.iter().flat_map(|columns| &columns.columns) {
        let measurement = column.key.measurement();
        if !spec.measurements.is_empty() && !spec.measurements.iter().any(|wanted| wanted == measurement) {
            continue;
        }
        let mut run = Run { key: column.key.clone(), points: Vec::new() };
        for (index, at) in column.times_ns.iter().enumerate() {
            let Some(value) = column.values.get(index) else { continue };
            let more = size(&value);
            if points > 0 && (points + 1 > MOST_POINTS || bytes + more > MOST_BYTES) {
                let full = std::mem::replace(&mut run, Run { key: column.key.clone(), points: Vec::new() });
                if !full.points.is_empty() {
                    piece.push(full);
                }
                pieces.push(std::mem::take(&mut piece));
                (points, bytes) = (0, 0);
            }
            points += 1;
            bytes += more;
            run.points.push((*at, value));
        }
        if !run.points.is_empty() {
            bytes += column.key.as_bytes().len();
            piece.push(run);
        }
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

/// The same for the same piece, however often it is handed over.
pub(super) fn id(sink: Uuid, cursor: &SinkCursor, to: i64, part: usize) -> Uuid {
    let SinkCursor { device, epoch, stream, arrived, .. } = cursor;
    let digest =
        Digest::of(format!("{sink}/{device}/{epoch:016x}/{stream}/{arrived}/{to}/{part}").as_bytes());
    Uuid::from_bytes(digest.as_bytes().first_chunk().copied().unwrap_or_default())
}

/// JSON has no word for what is no number.
fn json_value(value: &Value) -> serde_json::Value {
    match value {
        Value::Float(value) if value.is_finite() => (*value).into(),
        Value::Float(value) => value.to_string().into(),
        Value::Integer(value) => (*value).into(),
        Value::Boolean(value) => (*value).into(),
        Value::Text(text) => text.as_str().into(),
        Value::Json(text) => serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into()),
    }
}

/// Where points come from, as a message names it.
#[derive(Clone, Debug)]
pub(super) struct Source<'a> {
    pub(super) sink: &'a str,
    pub(super) device: Uuid,
    pub(super) device_name: &'a str,
    pub(super) location: &'a str,
    pub(super) stream: &'a str,
}

/// What a webhook gets.
pub(super) fn message(
    from: &Source<'_>,
    cursor: &SinkCursor,
    to: i64,
    part: (usize, usize),
    piece: &[Run],
) -> serde_json::Value {
    let series: Vec<serde_json::Value> = piece
        .iter()
        .map(|run| {
            let tags: Map<String, serde_json::Value> =
                run.key.tags().map(|(name, value)| (name.to_owned(), value.into())).collect();
            let at: Vec<i64> = run.points.iter().map(|(at, _)| *at).collect();
            let values: Vec<serde_json::Value> = run.points.iter().map(|(_, value)| json_value(value)).collect();
            json!({
                "measurement": run.key.measurement(), "field": run.key.field(), "tags": tags, "atNs": at, "values": values,
            })
        })
        .collect();
    json!({
        "type": "points",
        "data": {
            "sink": from.sink, "device": from.device, "deviceName": from.device_name, "location": from.location,
            "stream": from.stream, "epoch": format!("{:016x}", cursor.epoch),
            "batches": [cursor.arrived + 1, to], "part": part.0 + 1, "parts": part.1, "series": series,
        },
    })
}

#[cfg(test)]
mod tests {
    use farshore_api::sink::{SinkKind, SinkStart};
    use farshore_series::PointBatch;

    use super::*;

    fn spec(streams: &[&str], measurements: &[&str]) -> SinkSpec {
        SinkSpec {
            kind: SinkKind::Webhook,
            enabled: true,
            streams: streams.iter().map(|text| (*text).to_owned()).collect(),
            measurements: measurements.iter().map(|text| (*text).to_owned()).collect(),
            selector: None,
            start: SinkStart::Now,
            webhook: None,
            otlp: None,
            parquet: None,
        }
    }

    #[test]
    fn a_sink_takes_data_unless_it_names_streams() {
        let begins = |start: &str| StreamPattern::Begins(start.to_owned());
        assert_eq!(takes(&spec(&[], &[])), [begins("data/")]);
        let some = takes(&spec(&["data/b", "alert/*"], &[]));
        assert_eq!(some, [StreamPattern::Is("data/b".to_owned()), begins("alert/")]);
    }

    #[test]
    fn pieces_hold_every_point_once_in_order_and_are_never_too_large() {
        let mut batch = PointBatch::new();
        for n in 0..5_003 {
            let series = batch.series(if n % 2 == 0 { "a" } else { "b" }, "v", []).unwrap();
            batch.push(series, n, Value::Integer(n)).unwrap();
        }
        let text = batch.series("c", "v", []).unwrap();
        for n in 0..20 {
            batch.push(text, n, Value::Text("x".repeat(200_000))).unwrap();
        }
        let all = [Columns::of(&batch)];
        let cut = pieces(&spec(&[], &[]), &all);
        let count = |piece: &Vec<Run>| piece.iter().map(|run| run.points.len()).sum::<usize>();
        assert_eq!(cut.iter().map(count).sum::<usize>(), 5_023);
        assert!(cut.iter().all(|piece| {
            let bytes: usize = piece.iter().flat_map(|run| &run.points).map(|(_, value)| size(value)).sum();
            count(piece) <= MOST_POINTS && bytes <= MOST_BYTES && count(piece) > 0
        }));
        let of_a: Vec<i64> = cut
            .iter()
            .flatten()
            .filter(|run| run.key.measurement() == "a")
            .flat_map(|run| run.points.iter().map(|(at, _)| *at))
            .collect();
        assert!(of_a.is_sorted() && of_a.len() == 2_502);
        assert_eq!(pieces(&spec(&[], &["b"]), &all).iter().map(count).sum::<usize>(), 2_501);
        assert!(pieces(&spec(&[], &["none"]), &all).is_empty());
    }
}
