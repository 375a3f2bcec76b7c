//! Pipelines over points that were recorded: what they would emit and raise.

use std::fmt::Write as _;

use farshore_journal::{PointBatch, SeriesKey, StreamName, Value};
use serde::Serialize;
use serde_json::json;

use super::definition::Definition;
use super::engine::{Engine, EngineCounts, PipelineStatus};
use super::output::{AlertState, Output};
use super::series::Context;
use super::step::Now;
use crate::clock;
use crate::decode::{Outcome, Precision, Sink, json as json_form, line};
use crate::point::{Point, PointError, Value as Given};

/// Series that a trial knows.
const MAX_SERIES: usize = 1_000_000;
/// Outputs that a trial keeps to be shown; the others are counted.
const MAX_OUTPUTS: usize = 100_000;

/// What came of a trial.
#[derive(Debug, Default)]
pub struct Trial {
    engine: Option<Engine>,
    outputs: Vec<Output>,
    more: u64,
}

/// How much it was.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrialSummary {
    #[serde(flatten)]
    pub counts: EngineCounts,
    pub emitted: u64,
    pub raised: u64,
    pub cleared: u64,
    pub published: u64,
    pub calls: u64,
    /// Outputs that are not shown.
    pub not_shown: u64,
    pub pipelines: Vec<PipelineStatus>,
}

/// A series as another place has recorded it.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedSeries {
    pub stream: String,
    pub measurement: String,
    pub field: String,
    pub tags: std::collections::BTreeMap<String, String>,
    /// Unix milliseconds, and the values.
    pub points: Vec<(i64, f64)>,
}

/// Why recorded points can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordingError {
    #[error("{0}")]
    Line(String),
    #[error("there is no point in it")]
    Empty,
}

/// Reads recorded points: JSON as the gateway takes it (one object a line, or an array), or line protocol.
///
/// # Errors
/// When a line is no point, with its number.
pub fn read_recording(text: &str, precision: Precision) -> Result<PointBatch, RecordingError> {
    let mut batch = PointBatch::new();
    let mut take = |point: &Point<'_>| collect(&mut batch, point);
    let sink: &mut Sink<'_> = &mut take;
    let outcome: Outcome = match text.trim_start().as_bytes().first() {
        None => return Err(RecordingError::Empty),
        Some(b'{' | b'[') => json_form::decode(text.as_bytes(), sink),
        Some(_) => line::decode(text.as_bytes(), precision, sink),
    };
    if outcome.rejected > 0 {
        return Err(RecordingError::Line(outcome.message()));
    }
    if batch.is_empty() { Err(RecordingError::Empty) } else { Ok(batch) }
}

fn collect(batch: &mut PointBatch, point: &Point<'_>) -> Result<(), PointError> {
    let told = |error: farshore_journal::PointError| PointError::Refused(error.to_string());
    let at_ns = point.time_ns.ok_or(PointError::Missing { what: "the time of a recorded point" })?;
    for (field, value) in &point.fields {
        let tags = point.tags.iter().map(|(key, value)| (key.as_ref(), value.as_ref()));
        let series = batch.series(&point.measurement, field, tags).map_err(told)?;
        let value = match value {
            Given::Float(number) => Value::Float(*number),
            Given::Integer(number) => Value::Integer(*number),
            Given::Bool(flag) => Value::Boolean(*flag),
            Given::Text(text) => Value::Text(text.clone().into_owned()),
            Given::Json(text) => Value::Json(text.clone().into_owned()),
        };
        batch.push(series, at_ns, value).map_err(told)?;
    }
    Ok(())
}

impl Trial {
    #[must_use]
    pub fn new(definition: &Definition, context: Context) -> Self {
        Self { engine: Some(Engine::new(definition, context, MAX_SERIES)), ..Self::default() }
    }

    /// Takes points, as if they came now.
    pub fn feed(&mut self, stream: &StreamName, points: &PointBatch) {
        // At no time at all: nothing is ahead of it, and nobody is silent.
        let now = Now { wall_ns: 0, mono_ns: 0 };
        if let Some(engine) = &mut self.engine {
            let mut out = Vec::new();
            engine.feed(stream, points, now, &mut out);
            self.keep(out);
        }
    }

    /// Takes what was recorded elsewhere, in the order of its times.
    ///
    /// # Errors
    /// When a series or a stream can't be named so.
    pub fn feed_recorded(&mut self, recorded: &[RecordedSeries]) -> Result<(), RecordingError> {
        let wrong = |error: &dyn std::fmt::Display| RecordingError::Line(error.to_string());
        let mut points: Vec<(i64, StreamName, SeriesKey, f64)> = Vec::new();
        for series in recorded {
            let tags = series.tags.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let key =
                SeriesKey::new(&series.measurement, &series.field, tags).map_err(|error| wrong(&error))?;
            let stream: StreamName =
                series.stream.parse().map_err(|error: farshore_journal::StreamNameError| wrong(&error))?;
            let values = series
                .points
                .iter()
                .map(|(at_ms, value)| (at_ms.saturating_mul(1_000_000), stream.clone(), key.clone(), *value));
            points.extend(values);
        }
        if points.is_empty() {
            return Err(RecordingError::Empty);
        }
        points.sort_by_key(|(at_ns, ..)| *at_ns);
        let of_one_stream = |a: &(i64, StreamName, _, _), b: &(i64, StreamName, _, _)| a.1 == b.1;
        for run in points.chunk_by(of_one_stream) {
            let mut batch = PointBatch::new();
            for (at_ns, _, key, value) in run {
                let put = batch.series_of(key).and_then(|id| batch.push(id, *at_ns, Value::Float(*value)));
                put.map_err(|error| wrong(&error))?;
            }
            if let Some((_, stream, ..)) = run.first() {
                self.feed(stream, &batch);
            }
        }
        Ok(())
    }

    /// No more points come: open windows end.
    pub fn finish(&mut self) {
        if let Some(engine) = &mut self.engine {
            let mut out = Vec::new();
            engine.finish(Now { wall_ns: 0, mono_ns: 0 }, &mut out);
            self.keep(out);
        }
    }

    fn keep(&mut self, out: Vec<Output>) {
        let room = MAX_OUTPUTS.saturating_sub(self.outputs.len());
        self.more += out.len().saturating_sub(room) as u64;
        self.outputs.extend(out.into_iter().take(room));
    }

    #[must_use]
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    #[must_use]
    pub fn summary(&self) -> TrialSummary {
        let count =
            |of: &dyn Fn(&Output) -> bool| self.outputs.iter().filter(|output| of(output)).count() as u64;
        let alerts = |state: AlertState| {
            count(&move |output| matches!(output, Output::Alert(alert) if alert.state == state))
        };
        TrialSummary {
            counts: self.engine.as_ref().map(Engine::counts).unwrap_or_default(),
            emitted: count(&|output| matches!(output, Output::Point { .. })),
            raised: alerts(AlertState::Raised),
            cleared: alerts(AlertState::Cleared),
            published: count(&|output| matches!(output, Output::Publish { .. })),
            calls: count(&|output| matches!(output, Output::Webhook { .. })),
            not_shown: self.more,
            pipelines: self.engine.as_ref().map(Engine::status).unwrap_or_default(),
        }
    }
}

impl Output {
    /// In one line, for people.
    #[must_use]
    pub fn line(&self) -> String {
        match self {
            Self::Point { stream, series, at_ns, value } => {
                format!("{}  emit     {series} = {} → {stream}", clock::rfc3339(*at_ns), shown(value))
            }
            Self::Alert(alert) => {
                let state = if alert.state == AlertState::Raised { "raise  " } else { "clear  " };
                let at = clock::rfc3339(alert.at_ns);
                format!("{at}  {state}  {} ({}): {}", alert.rule, alert.severity.as_str(), alert.message)
            }
            Self::Publish { topic, payload } => format!("{:20}  publish  {topic}: {payload}", ""),
            Self::Webhook { url, .. } => format!("{:20}  call     {url}", ""),
        }
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        match self {
            Self::Point { stream, series, at_ns, value } => json!({
                "output": "point", "stream": stream.as_str(), "measurement": series.measurement(), "field": series.field(),
                "tags": series.tags().collect::<std::collections::BTreeMap<_, _>>(), "atNs": at_ns,
                "value": value.number().map_or_else(|| json!(shown(value)), |number| json!(number)),
            }),
            Self::Alert(alert) => {
                let mut object = json!(alert);
                if let Some(object) = object.as_object_mut() {
                    object.insert("output".to_owned(), json!("alert"));
                }
                object
            }
            Self::Publish { topic, payload } => {
                json!({"output": "publish", "topic": topic, "payload": payload})
            }
            Self::Webhook { url, body } => json!({"output": "webhook", "url": url, "body": body}),
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Float(number) => number.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        Value::Text(text) | Value::Json(text) => text.clone(),
    }
}

impl TrialSummary {
    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!(
            "{} points: {} emitted, {} alerts raised and {} over, {} messages, {} calls\n",
            self.counts.points, self.emitted, self.raised, self.cleared, self.published, self.calls
        );
        if self.not_shown > 0 {
            let _ = writeln!(text, "and {} outputs that are not shown", self.not_shown);
        }
        for pipeline in &self.pipelines {
            let _ = writeln!(text, "{}", pipeline.name);
            for (index, step) in pipeline.steps.iter().enumerate() {
                let counts = step.counts;
                let _ = write!(
                    text,
                    "  {:>2} {:<9} {:>9} in {:>9} out",
                    index + 1,
                    step.kind,
                    counts.taken,
                    counts.passed
                );
                for (count, what) in [
                    (counts.late, "late"),
                    (counts.unknown, "without a meaning"),
                    (counts.no_room, "without room"),
                ] {
                    if count > 0 {
                        let _ = write!(text, ", {count} {what}");
                    }
                }
                text.push('\n');
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPELINES: &str = r#"
pipelines:
  - name: hall
    steps:
      - rule: {name: hot, raise: value > 100, message: "{measurement} at {value}", on_raise: [{publish: {topic: fan, payload: "on"}}]}
      - window: {tumbling: 10s, aggregates: [max]}
      - emit: {stream: data/max}
"#;

    #[test]
    fn recorded_points_show_what_would_come() {
        let definition = Definition::parse(PIPELINES).expect("good");
        let stream = "data/default".parse().expect("a name");
        let lines = "t value=50 1000000000\nt value=101 2000000000\nt value=3 12000000000\n";
        let json = "{\"sensor_id\":\"t\",\"value\":50,\"timestamp\":\"1970-01-01T00:00:01Z\"}\n{\"sensor_id\":\"t\",\"value\":101,\"timestamp\":\"1970-01-01T00:00:02Z\"}\n{\"sensor_id\":\"t\",\"value\":3,\"timestamp\":\"1970-01-01T00:00:12Z\"}";
        for recording in [lines, json] {
            let points = read_recording(recording, Precision::Nanoseconds).expect("points");
            let mut trial = Trial::new(&definition, Context::default());
            trial.feed(&stream, &points);
            trial.finish();
            let shown: Vec<String> = trial.outputs().iter().map(Output::line).collect();
            assert_eq!(
                shown,
                [
                    "                      publish  fan: on",
                    "1970-01-01T00:00:02Z  raise    hot (warning): t at 101",
                    "1970-01-01T00:00:12Z  clear    hot (warning): t at 3",
                    "1970-01-01T00:00:00Z  emit     t value_max = 101 → data/max",
                    "1970-01-01T00:00:10Z  emit     t value_max = 3 → data/max",
                ]
            );
            let summary = trial.summary();
            assert_eq!(
                (summary.counts.points, summary.emitted, summary.raised, summary.published),
                (3, 2, 1, 1)
            );
            assert!(summary.text().contains("window            3 in         2 out"), "{}", summary.text());
        }
    }

    #[test]
    fn what_another_place_recorded_comes_in_the_order_of_its_times() {
        let definition = Definition::parse(PIPELINES).expect("good");
        let series = |tag: &str, points: &[(i64, f64)]| RecordedSeries {
            stream: "data/default".to_owned(),
            measurement: "t".to_owned(),
            field: "value".to_owned(),
            tags: [("n".to_owned(), tag.to_owned())].into(),
            points: points.to_vec(),
        };
        let mut trial = Trial::new(&definition, Context::default());
        let recorded = [series("a", &[(1_000, 101.0), (4_000, 1.0)]), series("b", &[(2_000, 102.0)])];
        trial.feed_recorded(&recorded).expect("names");
        let alerts: Vec<i64> = trial
            .outputs()
            .iter()
            .filter_map(|output| match output {
                Output::Alert(alert) => Some(alert.at_ns / 1_000_000_000),
                _ => None,
            })
            .collect();
        assert_eq!(alerts, [1, 2, 4]);
        assert_eq!(trial.feed_recorded(&[]), Err(RecordingError::Empty));
    }

    #[test]
    fn what_is_no_recording_is_told() {
        for (text, part) in
            [("", "no point"), ("t value=x 1", "1:"), ("t value=1", "time"), ("{\"a\":", "1:")]
        {
            let error = read_recording(text, Precision::Nanoseconds).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
