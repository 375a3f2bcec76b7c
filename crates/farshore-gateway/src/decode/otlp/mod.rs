//! OTLP/HTTP metrics (opentelemetry-proto 1.x), as protobuf and as JSON.
//!
//! The metric's name is the measurement, its unit (unless `1`) the tag `unit`. The attributes of resource and data point are tags; a data
//! point's wins, and `telemetry.sdk.*` is left out, since it says nothing of what was measured. Gauges and sums have the field `value`; histograms
//! `count`, `sum`, `min`, `max` and for each bound `le_<bound>`, the count up to it (`le_inf`: the last bucket included); exponential
//! histograms the first four; summaries `count`, `sum` and `q_<quantile>`. Delta and cumulative values are kept as they came.

mod attribute;
mod json;
mod protobuf;
mod wire;

use std::borrow::Cow;

use prost::Message;

use super::{Outcome, Sink};
use crate::limits::{MAX_OTLP_POINTS, MAX_TAGS};
use crate::point::{Point, PointError, Tag, Value};

/// Hands each data point of an `ExportMetricsServiceRequest` to `sink`.
///
/// # Errors
/// When the message as a whole can't be read. Points that were handed on before that stay handed on.
pub fn decode_protobuf(body: &[u8], sink: &mut Sink<'_>) -> Result<Outcome, PointError> {
    let mut taker = Taker { outcome: Outcome::default(), sink };
    protobuf::request(body, &mut taker)?;
    Ok(taker.outcome)
}

/// The same of the JSON form.
///
/// # Errors
/// When the document as a whole can't be read. Points that were handed on before that stay handed on.
pub fn decode_json(body: &[u8], sink: &mut Sink<'_>) -> Result<Outcome, PointError> {
    let mut taker = Taker { outcome: Outcome::default(), sink };
    json::request(body, &mut taker)?;
    Ok(taker.outcome)
}

/// What is told of a metric beside its data points.
#[derive(Clone, Copy, Debug, Default)]
struct Head<'a> {
    name: &'a str,
    unit: &'a str,
}

/// A data point that was read, whatever its form.
#[derive(Debug, Default)]
struct Reading<'a> {
    attributes: Vec<Tag<'a>>,
    time_ns: u64,
    /// Says that there is no value: a gap, not a reading.
    nothing: bool,
    value: Option<Value<'a>>,
    count: Option<u64>,
    sum: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    counts: Vec<u64>,
    bounds: Vec<f64>,
    quantiles: Vec<(f64, f64)>,
}

struct Taker<'o, 's> {
    outcome: Outcome,
    sink: &'o mut Sink<'s>,
}

impl Taker<'_, '_> {
    /// # Errors
    /// When there are more data points than are taken at once.
    fn take(
        &mut self,
        resource: &[Tag<'_>],
        head: Head<'_>,
        reading: Result<Reading<'_>, PointError>,
    ) -> Result<(), PointError> {
        let place = self.outcome.accepted + self.outcome.rejected + 1;
        if place > MAX_OTLP_POINTS {
            return Err(PointError::TooMuch { what: "data points", max: MAX_OTLP_POINTS });
        }
        let result = match reading {
            Ok(reading) if reading.nothing => return Ok(()),
            Ok(reading) => point(resource, head, reading).and_then(|point| (self.sink)(&point)),
            Err(error) => Err(error),
        };
        self.outcome.count(place, result);
        Ok(())
    }
}

fn point<'a>(resource: &'a [Tag<'a>], head: Head<'a>, reading: Reading<'a>) -> Result<Point<'a>, PointError> {
    let mut point = Point { measurement: Cow::Borrowed(head.name), ..Point::default() };
    point.tags = reading.attributes;
    let own = point.tags.len();
    for (key, value) in resource {
        if point.tags.iter().take(own).all(|(other, _)| other != key) {
            point.tags.push((Cow::Borrowed(key), Cow::Borrowed(value)));
        }
    }
    if !head.unit.is_empty() && head.unit != "1" && point.tags.iter().all(|(key, _)| key != "unit") {
        point.tags.push((Cow::Borrowed("unit"), Cow::Borrowed(head.unit)));
    }
    let mut field = |key: Cow<'static, str>, value: Value<'a>| point.fields.push((key, value));
    if let Some(value) = reading.value {
        field("value".into(), value);
    }
    if let Some(count) = reading.count {
        field("count".into(), whole(count));
    }
    for (key, value) in [("sum", reading.sum), ("min", reading.min), ("max", reading.max)] {
        if let Some(value) = value {
            field(key.into(), Value::Float(value));
        }
    }
    if !reading.counts.is_empty() {
        if reading.counts.len() != reading.bounds.len() + 1 {
            return Err(PointError::Refused("a histogram has one bucket more than bounds".to_owned()));
        }
        let mut total = 0_u64;
        let bounds = reading.bounds.iter().map(|bound| Cow::Owned(format!("le_{bound}")));
        for (count, key) in reading.counts.iter().zip(bounds.chain([Cow::Borrowed("le_inf")])) {
            total = total.saturating_add(*count);
            field(key, whole(total));
        }
    }
    for (quantile, value) in reading.quantiles {
        field(format!("q_{quantile}").into(), Value::Float(value));
    }
    point.time_ns =
        match reading.time_ns {
            0 => None,
            ns => Some(i64::try_from(ns).map_err(|_| {
                PointError::malformed("the time", &ns.to_string(), "it is beyond the year 2262")
            })?),
        };
    point.finish()?;
    Ok(point)
}

fn whole(count: u64) -> Value<'static> {
    Value::Integer(i64::try_from(count).unwrap_or(i64::MAX))
}

/// Adds an attribute, unless it is one of those that are left out.
fn attribute<'a>(tags: &mut Vec<Tag<'a>>, key: Cow<'a, str>, value: Cow<'a, str>) -> Result<(), PointError> {
    // Empty attributes are legal there and no tag here.
    if key.starts_with("telemetry.sdk.") || value.is_empty() {
        return Ok(());
    }
    if tags.len() >= MAX_TAGS {
        return Err(PointError::TooMany { what: "tags", max: MAX_TAGS });
    }
    tags.push((key, value));
    Ok(())
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_data_points: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

#[derive(Clone, PartialEq, Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// The answer to a request that was read: an `ExportMetricsServiceResponse`.
#[must_use]
pub fn response(outcome: &Outcome, json: bool) -> Vec<u8> {
    let rejected = i64::try_from(outcome.rejected).unwrap_or(i64::MAX);
    let partial = (rejected > 0)
        .then(|| PartialSuccess { rejected_data_points: rejected, error_message: outcome.message() });
    if !json {
        return ExportResponse { partial_success: partial }.encode_to_vec();
    }
    let body = match partial {
        None => serde_json::json!({}),
        Some(partial) => serde_json::json!({"partialSuccess": {
            "rejectedDataPoints": partial.rejected_data_points.to_string(),
            "errorMessage": partial.error_message,
        }}),
    };
    body.to_string().into_bytes()
}

/// The body of an answer to a request that failed: a `google.rpc.Status`.
#[must_use]
pub fn failure(message: &str, json: bool) -> Vec<u8> {
    if json {
        serde_json::json!({"message": message}).to_string().into_bytes()
    } else {
        RpcStatus { code: 0, message: message.to_owned() }.encode_to_vec()
    }
}

#[cfg(test)]
mod tests;
