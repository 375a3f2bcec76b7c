//! Processing written in Rust, for programs that have the gateway within them.

use farshore_journal::{PointBatch, SeriesKey, StreamName, Value};

use super::definition::Severity;
use super::output::{Alert, AlertState, Output, PROCESSED};
use crate::status::DataPoint;

/// Looks at every point that the gateway has made durable, once and in their order; after a crash, those again whose outcome was not kept yet.
///
/// ```
/// use farshore_gateway::pipeline::{DataProcessor, Processed, Processing, Severity};
/// use farshore_gateway::{DataPoint, Value};
///
/// #[derive(Debug)]
/// struct CustomProcessor;
///
/// impl DataProcessor for CustomProcessor {
///     fn process(&self, point: &DataPoint, processing: &mut Processing<'_>) -> Option<Processed> {
///         let Value::Float(value) = point.value else { return None };
///         if value > 100.0 {
///             processing.trigger_alert(Severity::Warning, &format!("High value detected: {value}"));
///         }
///         Some(Processed::new().field("original", value).field("normalized", value / 100.0))
///     }
/// }
/// ```
pub trait DataProcessor: std::fmt::Debug + Send + Sync {
    /// What becomes of a point: further fields of its sensor, kept with its time and tags in the stream `data/processed`; nothing for nothing.
    ///
    /// Called on the thread of the pipelines: while it runs, later points wait.
    fn process(&self, point: &DataPoint, processing: &mut Processing<'_>) -> Option<Processed>;
}

/// Fields that were made of a point.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Processed(Vec<(String, f64)>);

impl Processed {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn field(mut self, name: impl Into<String>, value: f64) -> Self {
        self.0.push((name.into(), value));
        self
    }
}

/// What a processor may do besides.
#[derive(Debug)]
pub struct Processing<'p> {
    key: &'p SeriesKey,
    at_ns: i64,
    number: Option<f64>,
    out: &'p mut Vec<Output>,
}

impl Processing<'_> {
    /// Tells the people on site, and the cloud when it can be reached, at the time of the point. It has no end: each is an alert of its own.
    pub fn trigger_alert(&mut self, severity: Severity, message: &str) {
        let rule = "processor";
        self.out.push(Output::Alert(Box::new(Alert {
            id: Alert::id("rust", rule, self.key, self.at_ns),
            state: AlertState::Raised,
            pipeline: "rust".to_owned(),
            rule: rule.to_owned(),
            severity,
            message: message.chars().take(1024).collect(),
            series: self.key.to_string(),
            value: self.number,
            at_ns: self.at_ns,
            key: self.key.clone(),
        })));
    }

    /// Publishes a message to those who subscribed to its topic at the gateway's MQTT endpoint.
    pub fn publish(&mut self, topic: &str, payload: &str) {
        self.out.push(Output::Publish { topic: topic.to_owned(), payload: payload.to_owned() });
    }

    pub(super) fn run(processor: &dyn DataProcessor, batch: &PointBatch, skip: usize, out: &mut Vec<Output>) {
        let Ok(processed): Result<StreamName, _> = PROCESSED.parse() else { return };
        for (key, at_ns, value) in batch.points().skip(skip) {
            let point = data_point(key, at_ns, value);
            let mut processing = Processing { key, at_ns, number: value.number(), out };
            let Some(Processed(fields)) = processor.process(&point, &mut processing) else { continue };
            for (field, number) in fields {
                let field = if key.field() == "value" { field } else { format!("{}_{field}", key.field()) };
                match key.with_field(&field) {
                    Ok(series) if number.is_finite() => {
                        let value = Value::Float(number);
                        out.push(Output::Point { stream: processed.clone(), series, at_ns, value });
                    }
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "a field of a processor can't be kept"),
                }
            }
        }
    }
}

/// The point as a producer would have handed it over.
fn data_point(key: &SeriesKey, at_ns: i64, value: &Value) -> DataPoint {
    use crate::point::Value as Given;
    let value = match value {
        Value::Float(number) => Given::Float(*number),
        Value::Integer(number) => Given::Integer(*number),
        Value::Boolean(flag) => Given::Bool(*flag),
        Value::Text(text) => Given::Text(text.clone().into()),
        Value::Json(text) => Given::Json(text.clone().into()),
    };
    let mut tags: std::collections::BTreeMap<String, String> =
        key.tags().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let unit = tags.remove("unit");
    DataPoint { sensor_id: key.measurement().to_owned(), value, unit, tags, timestamp_ns: Some(at_ns) }
}
