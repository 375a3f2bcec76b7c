//! From an opened batch to what is stored of it. Pure: bytes in, rows out.

use std::collections::BTreeMap;

use farshore_domain::digest::Digest;
use farshore_domain::time::UnixMs;
use farshore_series::{Columns, DecodeError, Kind, SeriesColumn, SeriesKey, Value, Values, decode_columns};
use farshore_store::sync::{MAX_LOSSES, NewLatest, NewLoss};

/// The stream and the measurement by which a journal tells its losses.
const LOSSES: (&str, &str) = ("journal/losses", "journal_loss");
/// A latest value is cut to so many characters.
const MAX_SHOWN: usize = 1_000;

/// Most points that one loss is taken to have; nobody has lost more.
const MAX_LOST: i64 = 1_000_000_000_000;

/// A batch, read once.
#[derive(Debug, PartialEq)]
pub(super) struct ReadBatch {
    pub(super) block: Vec<u8>,
    pub(super) points: u32,
    pub(super) from: UnixMs,
    pub(super) to: UnixMs,
    pub(super) latest: Vec<NewLatest>,
    pub(super) losses: Vec<NewLoss>,
}

pub(super) fn read(stream: &str, block: Vec<u8>) -> Result<ReadBatch, DecodeError> {
    let columns = decode_columns(&block)?;
    let (from, to) = columns.span_ns().unwrap_or((0, 0));
    Ok(ReadBatch {
        points: u32::try_from(columns.len()).unwrap_or(u32::MAX),
        from: ms(from),
        to: ms(to),
        latest: columns.columns.iter().filter_map(latest).collect(),
        losses: if stream == LOSSES.0 { losses(&columns) } else { Vec::new() },
        block,
    })
}

fn ms(ns: i64) -> UnixMs {
    UnixMs(ns.div_euclid(1_000_000))
}

/// PostgreSQL takes no NUL in a text.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// What a series' row is found by.
pub(crate) fn series_id(key: &SeriesKey) -> [u8; 16] {
    Digest::of(key.as_bytes()).as_bytes().first_chunk().copied().unwrap_or_default()
}

fn latest(column: &SeriesColumn) -> Option<NewLatest> {
    let (index, at_ns) =
        column.times_ns.iter().copied().enumerate().max_by_key(|(index, at)| (*at, *index))?;
    let key = &column.key;
    Some(NewLatest {
        series: series_id(key),
        measurement: storable(key.measurement()),
        field: storable(key.field()),
        tags: key.tags().map(|(name, value)| (storable(name), storable(value))).collect(),
        kind: match column.values.kind() {
            Kind::Float => "float",
            Kind::Integer => "integer",
            Kind::Boolean => "boolean",
            Kind::Text => "text",
            Kind::Json => "json",
        },
        at_ns,
        value: shown(column.values.get(index)?).to_string(),
    })
}

fn shown(value: Value) -> serde_json::Value {
    let cut = |text: &str| serde_json::Value::from(text.chars().take(MAX_SHOWN).collect::<String>());
    match value {
        // JSON has no word for what is no number.
        Value::Float(value) if !value.is_finite() => value.to_string().into(),
        Value::Float(value) => value.into(),
        Value::Integer(value) => value.into(),
        Value::Boolean(value) => value.into(),
        Value::Text(text) => cut(&text),
        Value::Json(text) if text.len() <= MAX_SHOWN => {
            serde_json::from_str(&text).unwrap_or_else(|_| cut(&text))
        }
        Value::Json(text) => cut(&text),
    }
}

/// Times and values of the fields of losses.
type Fields<'c> = BTreeMap<&'c str, (&'c [i64], &'c [i64])>;

/// Each loss is four points of one time, one for each field.
fn losses(columns: &Columns) -> Vec<NewLoss> {
    let mut told: BTreeMap<(String, String), Fields<'_>> = BTreeMap::new();
    for column in columns.columns.iter().filter(|column| column.key.measurement() == LOSSES.1) {
        let (Some(stream), Some(reason)) = (column.key.tag("stream"), column.key.tag("reason")) else {
            continue;
        };
        if let Values::Integer(values) = &column.values {
            let fields = told.entry((storable(stream), storable(reason))).or_default();
            fields.insert(column.key.field(), (&column.times_ns, values));
        }
    }
    let mut losses = Vec::new();
    for ((stream, reason), fields) in told {
        let Some((times, points)) = fields.get("points") else { continue };
        let at = |field: &str, index: usize| {
            fields.get(field).and_then(|(_, values)| values.get(index).copied()).unwrap_or_default()
        };
        for (index, (told_at, points)) in times.iter().zip(points.iter()).enumerate() {
            if losses.len() == MAX_LOSSES {
                return losses;
            }
            losses.push(NewLoss {
                stream: stream.clone(),
                reason: reason.clone(),
                points: (*points).clamp(0, MAX_LOST),
                from: ms(at("earliest_ns", index)),
                to: ms(at("latest_ns", index)),
                at: ms(*told_at),
            });
        }
    }
    losses
}

#[cfg(test)]
mod tests {
    use farshore_series::{DEFAULT_LEVEL, PointBatch, encode_columns};

    use super::*;

    fn block(fill: impl FnOnce(&mut PointBatch)) -> Vec<u8> {
        let mut batch = PointBatch::new();
        fill(&mut batch);
        encode_columns(&Columns::of(&batch), DEFAULT_LEVEL).unwrap()
    }

    #[test]
    fn the_newest_point_counts_whatever_the_order_and_odd_values_can_be_stored() {
        let block = block(|batch| {
            let t = batch.series("t\0", "v", [("room", "a\0b")]).unwrap();
            for (at, value) in [(3_000_000, 3.0), (9_000_000, 9.5), (5_000_000, 5.0)] {
                batch.push(t, at, Value::Float(value)).unwrap();
            }
            let odd = batch.series("odd", "", []).unwrap();
            batch.push(odd, -1, Value::Float(f64::NAN)).unwrap();
            let text = batch.series("text", "", []).unwrap();
            batch.push(text, 1, Value::Text("x\0".repeat(2_000))).unwrap();
        });
        let read = read("data/a", block.clone()).unwrap();
        assert_eq!((read.points, read.from, read.to), (5, UnixMs(-1), UnixMs(9)));
        assert_eq!(read.block, block);
        let by_name = |name: &str| read.latest.iter().find(|latest| latest.measurement == name).unwrap();
        assert_eq!((by_name("t\u{fffd}").at_ns, by_name("t\u{fffd}").value.as_str()), (9_000_000, "9.5"));
        assert_eq!(by_name("t\u{fffd}").tags["room"], "a\u{fffd}b");
        assert_eq!(by_name("odd").value, "\"NaN\"");
        assert!(!by_name("text").value.contains('\0') && by_name("text").value.len() < 10_000);
    }

    #[test]
    fn losses_are_read_from_their_own_stream_only() {
        let block = block(|batch| {
            for (at, points) in [(1_000_000_000, 7), (2_000_000_000, 9)] {
                for (field, value) in [
                    ("points", points),
                    ("sequence", 3),
                    ("earliest_ns", at - 500_000_000),
                    ("latest_ns", at),
                ] {
                    let tags = [("reason", "expired"), ("stream", "data/a")];
                    let series = batch.series("journal_loss", field, tags).unwrap();
                    batch.push(series, at, Value::Integer(value)).unwrap();
                }
            }
        });
        assert_eq!(read("data/a", block.clone()).unwrap().losses, []);
        let losses = read("journal/losses", block).unwrap().losses;
        let loss = |points, at| NewLoss {
            stream: "data/a".to_owned(),
            reason: "expired".to_owned(),
            points,
            from: UnixMs(at - 500),
            to: UnixMs(at),
            at: UnixMs(at),
        };
        assert_eq!(losses, [loss(7, 1_000), loss(9, 2_000)]);
    }

    #[test]
    fn a_loss_of_more_points_than_there_can_be_is_cut() {
        let block = block(|batch| {
            for (at, points) in [(1, i64::MAX), (2, i64::MIN)] {
                let tags = [("reason", "expired"), ("stream", "data/a")];
                let series = batch.series("journal_loss", "points", tags).unwrap();
                batch.push(series, at, Value::Integer(points)).unwrap();
            }
        });
        let points: Vec<i64> =
            read("journal/losses", block).unwrap().losses.iter().map(|loss| loss.points).collect();
        assert_eq!(points, [MAX_LOST, 0]);
    }

    #[test]
    fn what_is_no_block_is_an_error() {
        assert!(read("data/a", Vec::new()).is_err());
        assert!(read("data/a", vec![1, 2, 3]).is_err());
    }
}
