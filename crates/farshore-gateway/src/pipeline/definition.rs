//! A pipeline as it is written: YAML, checked as a whole before anything of it runs.
//!
//! Checks are made where a part is read, so that an error carries its line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use farshore_domain::digest::Digest;
use farshore_journal::StreamName;
use serde::Deserialize;

use super::expr::{Expression, Type};
use super::output::{ALERTS, PROCESSED};
use super::time::Span;

/// Bytes of a file of pipelines.
pub(super) const MAX_FILE_BYTES: usize = 256 * 1024;
const MAX_PIPELINES: usize = 32;
const MAX_STEPS: usize = 32;
const MAX_ACTIONS: usize = 8;
/// Windows of a series that may be open at once.
const MAX_OPEN: i64 = 256;
const MAX_COUNT: u32 = 1_000_000;

/// Why a text is no definition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DefinitionError(String);

/// All pipelines of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a file of pipelines")]
pub struct Definition {
    pub(super) pipelines: Vec<Pipeline>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a pipeline with name and steps")]
pub(super) struct Pipeline {
    pub(super) name: Name,
    #[serde(default)]
    pub(super) from: From,
    pub(super) steps: Vec<Step>,
}

/// Which points come in. What is not said takes all.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of streams, measurements and fields")]
pub(super) struct From {
    #[serde(default)]
    pub(super) streams: Vec<Pattern>,
    #[serde(default)]
    pub(super) measurements: Vec<Pattern>,
    #[serde(default)]
    pub(super) fields: Vec<Pattern>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "RawStep")]
pub(super) enum Step {
    Filter(Condition),
    Map(Map),
    Enrich(Enrich),
    Dedup(Dedup),
    Deadband(Deadband),
    Window(Window),
    Rule(Box<Rule>),
    Emit(Emit),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a step, such as `filter: value > 5`")]
struct RawStep {
    filter: Option<Condition>,
    map: Option<Map>,
    enrich: Option<Enrich>,
    dedup: Option<Dedup>,
    deadband: Option<Deadband>,
    window: Option<Window>,
    rule: Option<Box<Rule>>,
    emit: Option<Emit>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map such as {value: value * 2}")]
pub(super) struct Map {
    pub(super) value: Option<Number>,
    pub(super) measurement: Option<Name>,
    pub(super) field: Option<Name>,
    /// A tag without a value goes.
    #[serde(default)]
    pub(super) tags: BTreeMap<Name, Option<Name>>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of labels and twin")]
pub(super) struct Enrich {
    /// Labels of the device that become tags of the same name.
    #[serde(default)]
    pub(super) labels: Vec<Name>,
    /// A tag's name, and which value of the twin it holds.
    #[serde(default)]
    pub(super) twin: BTreeMap<Name, Name>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map such as {within: 10m}")]
pub(super) struct Dedup {
    pub(super) within: Span,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "RawDeadband")]
pub(super) struct Deadband {
    pub(super) change: Change,
    pub(super) at_least_every: Option<Span>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Change {
    By(f64),
    Percent(f64),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map such as {change: 0.5}")]
struct RawDeadband {
    change: Option<f64>,
    percent: Option<f64>,
    at_least_every: Option<Span>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "RawWindow")]
pub(super) struct Window {
    pub(super) kind: WindowKind,
    pub(super) lateness_ns: i64,
    pub(super) aggregates: Vec<Aggregate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WindowKind {
    /// Of this length; one begins so often. Tumbling: the two are the same.
    Time {
        size_ns: i64,
        every_ns: i64,
    },
    Count(u32),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map such as {tumbling: 10s, aggregates: [mean]}")]
struct RawWindow {
    tumbling: Option<Span>,
    hopping: Option<Span>,
    every: Option<Span>,
    count: Option<u32>,
    lateness: Option<Span>,
    aggregates: Vec<Aggregate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub(super) enum Aggregate {
    Min,
    Max,
    Mean,
    Sum,
    Count,
    Rate,
    /// 0 to 100.
    Percentile(f64),
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map with name and raise")]
pub(super) struct Rule {
    pub(super) name: Name,
    pub(super) raise: Condition,
    /// What ends it; when nothing is said, that `raise` is false.
    pub(super) clear: Option<Condition>,
    /// How long `raise` must have been true.
    #[serde(default, rename = "for")]
    pub(super) hold: Option<Span>,
    #[serde(default)]
    pub(super) clear_for: Option<Span>,
    #[serde(default)]
    pub(super) severity: Severity,
    #[serde(default)]
    pub(super) message: Option<Text>,
    #[serde(default)]
    pub(super) on_raise: Actions,
    #[serde(default)]
    pub(super) on_clear: Actions,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Info,
    #[default]
    Warning,
    Critical,
}

impl Severity {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "Vec<RawAction>")]
pub(super) struct Actions(pub(super) Vec<Action>);

/// What is done, besides the alert, when a rule changes its mind.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Publish { topic: String, payload: Option<String> },
    Webhook { url: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an action: publish or webhook")]
struct RawAction {
    publish: Option<RawPublish>,
    webhook: Option<RawWebhook>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map with topic and payload")]
struct RawPublish {
    topic: Text,
    payload: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map with url")]
struct RawWebhook {
    url: Text,
}

/// Where points that come this far are kept: a stream of the journal.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "RawEmit")]
pub(super) struct Emit {
    pub(super) stream: StreamName,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map such as {stream: data/climate}")]
struct RawEmit {
    stream: String,
}

/// A name: of a pipeline, a rule, a tag, a measurement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Name(pub(super) String);

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Text(pub(super) String);

/// A name, or the beginning of names: `temp-*`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Pattern(String);

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Condition(pub(super) Expression);

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Number(pub(super) Expression);

impl Definition {
    /// Reads and checks a file's text.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line where it has one.
    pub fn parse(text: &str) -> Result<Self, DefinitionError> {
        if text.len() > MAX_FILE_BYTES {
            return Err(DefinitionError(format!(
                "it has {} bytes, at most {MAX_FILE_BYTES} are taken",
                text.len()
            )));
        }
        let definition: Self =
            serde_norway::from_str(text).map_err(|error| DefinitionError(error.to_string()))?;
        definition.check().map_err(DefinitionError)?;
        Ok(definition)
    }

    /// What `ENABLE_LOCAL_ANALYTICS` does without a file: minimum, maximum, mean and count of each series and window.
    #[must_use]
    pub fn local_analytics(window: std::time::Duration) -> Self {
        let size_ns = i64::try_from(window.as_nanos()).unwrap_or(i64::MAX).max(1);
        let window = Window {
            kind: WindowKind::Time { size_ns, every_ns: size_ns },
            lateness_ns: (size_ns / 10).clamp(0, 60_000_000_000),
            aggregates: vec![Aggregate::Min, Aggregate::Max, Aggregate::Mean, Aggregate::Count],
        };
        let stream = "data/analytics".parse();
        let emit = stream.map(|stream| Step::Emit(Emit { stream }));
        let steps = std::iter::once(Step::Window(window)).chain(emit.ok()).collect();
        let pipeline = Pipeline { name: Name("local-analytics".to_owned()), from: From::default(), steps };
        Self { pipelines: vec![pipeline] }
    }

    /// Streams that are written: by emits, by rules, by processors.
    #[must_use]
    pub fn outputs(&self) -> Vec<StreamName> {
        let steps = self.pipelines.iter().flat_map(|pipeline| &pipeline.steps);
        let mut outputs: Vec<StreamName> = steps
            .filter_map(|step| match step {
                Step::Emit(emit) => Some(emit.stream.clone()),
                _ => None,
            })
            .chain([ALERTS, PROCESSED].into_iter().filter_map(|name| name.parse().ok()))
            .collect();
        outputs.sort();
        outputs.dedup();
        outputs
    }

    fn check(&self) -> Result<(), String> {
        if self.pipelines.len() > MAX_PIPELINES {
            return Err(format!("pipelines: at most {MAX_PIPELINES} are taken"));
        }
        let mut names = BTreeSet::new();
        let mut rules = BTreeSet::new();
        for (index, pipeline) in self.pipelines.iter().enumerate() {
            if !names.insert(&pipeline.name) {
                return Err(format!("pipelines[{index}].name: {} is there twice", pipeline.name.0));
            }
            if pipeline.steps.is_empty() || pipeline.steps.len() > MAX_STEPS {
                return Err(format!("pipelines[{index}].steps: a pipeline has 1 to {MAX_STEPS} steps"));
            }
            let mut acts = false;
            for (at, step) in pipeline.steps.iter().enumerate() {
                acts |= matches!(step, Step::Rule(_) | Step::Emit(_));
                if let Step::Rule(rule) = step
                    && !rules.insert((&pipeline.name, &rule.name))
                {
                    return Err(format!(
                        "pipelines[{index}].steps[{at}].rule.name: {} is there twice",
                        rule.name.0
                    ));
                }
            }
            if !acts {
                return Err(format!(
                    "pipelines[{index}].steps: it has neither a rule nor an emit, so nothing would come of it"
                ));
            }
        }
        Ok(())
    }
}

impl Step {
    /// What the step is called.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Filter(_) => "filter",
            Self::Map(_) => "map",
            Self::Enrich(_) => "enrich",
            Self::Dedup(_) => "dedup",
            Self::Deadband(_) => "deadband",
            Self::Window(_) => "window",
            Self::Rule(_) => "rule",
            Self::Emit(_) => "emit",
        }
    }

    /// Tells steps apart that mean different things: what a step remembers is taken over by a step with the same.
    pub(super) fn fingerprint(&self) -> String {
        let meaning = match self {
            // What a rule says and does when it changes its mind may change while it is raised.
            Self::Rule(rule) => format!(
                "rule {} {} {:?} {:?} {:?}",
                rule.name.0,
                rule.raise.0.text(),
                rule.clear.as_ref().map(|clear| clear.0.text()),
                rule.hold,
                rule.clear_for
            ),
            other => format!("{other:?}"),
        };
        Digest::of(meaning.as_bytes())
            .to_string()
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(24)
            .collect()
    }
}

impl Pattern {
    pub(super) fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == self.0,
        }
    }
}

impl Aggregate {
    /// What is put behind the field's name.
    pub(super) fn suffix(self) -> String {
        match self {
            Self::Min => "min".to_owned(),
            Self::Max => "max".to_owned(),
            Self::Mean => "mean".to_owned(),
            Self::Sum => "sum".to_owned(),
            Self::Count => "count".to_owned(),
            Self::Rate => "rate".to_owned(),
            Self::Percentile(percent) => format!("p{percent}"),
        }
    }
}

impl TryFrom<RawStep> for Step {
    type Error = String;

    fn try_from(raw: RawStep) -> Result<Self, String> {
        let mut found: Vec<Self> = Vec::new();
        found.extend(raw.filter.map(Self::Filter));
        found.extend(raw.map.map(Self::Map));
        found.extend(raw.enrich.map(Self::Enrich));
        found.extend(raw.dedup.map(Self::Dedup));
        found.extend(raw.deadband.map(Self::Deadband));
        found.extend(raw.window.map(Self::Window));
        found.extend(raw.rule.map(Self::Rule));
        found.extend(raw.emit.map(Self::Emit));
        let one = found.pop();
        match (one, found.is_empty()) {
            (Some(Self::Map(map)), true)
                if map.value.is_none() && map.measurement.is_none() && map.field.is_none() && map.tags.is_empty() =>
            {
                Err("a map changes something: value, measurement, field or tags".to_owned())
            }
            (Some(Self::Enrich(enrich)), true) if enrich.labels.is_empty() && enrich.twin.is_empty() => {
                Err("an enrich adds something: labels or twin".to_owned())
            }
            (Some(step), true) => Ok(step),
            _ => Err(
                "a step is exactly one of filter, map, enrich, dedup, deadband, window, rule and emit; begin a new one with '-'"
                    .to_owned(),
            ),
        }
    }
}

impl TryFrom<RawDeadband> for Deadband {
    type Error = String;

    fn try_from(raw: RawDeadband) -> Result<Self, String> {
        let change = match (raw.change, raw.percent) {
            (Some(change), None) if change.is_finite() && change >= 0.0 => Change::By(change),
            (None, Some(percent)) if percent.is_finite() && percent > 0.0 => Change::Percent(percent),
            (Some(_), Some(_)) | (None, None) => {
                return Err("a deadband has either change or percent".to_owned());
            }
            _ => return Err("the change of a deadband is a number that is not negative".to_owned()),
        };
        Ok(Self { change, at_least_every: raw.at_least_every })
    }
}

impl TryFrom<RawWindow> for Window {
    type Error = String;

    fn try_from(raw: RawWindow) -> Result<Self, String> {
        let lateness_ns = raw.lateness.map_or(0, |lateness| lateness.ns);
        let kind = match (raw.tumbling, raw.hopping, raw.count) {
            (Some(size), None, None) if raw.every.is_none() => {
                WindowKind::Time { size_ns: size.ns, every_ns: size.ns }
            }
            (None, Some(size), None) => {
                let every = raw.every.ok_or("a hopping window needs every: how often one begins")?;
                if every.ns > size.ns {
                    return Err("impossible window: it begins less often than it is long, points between would be in none".to_owned());
                }
                WindowKind::Time { size_ns: size.ns, every_ns: every.ns }
            }
            (None, None, Some(count)) if raw.every.is_none() => {
                if count == 0 || count > MAX_COUNT {
                    return Err(format!("impossible window: a count is 1 to {MAX_COUNT}"));
                }
                if lateness_ns > 0 {
                    return Err("a window over a count has no lateness".to_owned());
                }
                WindowKind::Count(count)
            }
            _ => {
                return Err(
                    "a window is one of tumbling: LENGTH, hopping: LENGTH with every: LENGTH, and count: NUMBER".to_owned()
                );
            }
        };
        if let WindowKind::Time { size_ns, every_ns } = kind {
            if size_ns == 0 || every_ns == 0 {
                return Err("impossible window: its length is zero".to_owned());
            }
            let open = (size_ns.saturating_add(lateness_ns)) / every_ns + 1;
            if open > MAX_OPEN {
                return Err(format!(
                    "impossible window: {open} would be open at once for each series, at most {MAX_OPEN} are; make it shorter, less late or less often"
                ));
            }
        }
        if raw.aggregates.is_empty() {
            return Err(
                "aggregates: name at least one of min, max, mean, sum, count, rate and pNN".to_owned()
            );
        }
        let mut aggregates = Vec::new();
        for aggregate in raw.aggregates {
            if aggregates.contains(&aggregate) {
                return Err(format!("aggregates: {} is there twice", aggregate.suffix()));
            }
            aggregates.push(aggregate);
        }
        Ok(Self { kind, lateness_ns, aggregates })
    }
}

impl TryFrom<String> for Aggregate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Ok(match text.as_str() {
            "min" => Self::Min,
            "max" => Self::Max,
            "mean" => Self::Mean,
            "sum" => Self::Sum,
            "count" => Self::Count,
            "rate" => Self::Rate,
            other => {
                let percent = other.strip_prefix('p').and_then(|text| text.parse::<f64>().ok());
                match percent.filter(|percent| (0.0..=100.0).contains(percent)) {
                    Some(percent) => Self::Percentile(percent),
                    None => {
                        return Err(format!(
                            "unknown aggregate {other:?}: there are min, max, mean, sum, count, rate and percentiles such as p95"
                        ));
                    }
                }
            }
        })
    }
}

impl TryFrom<Vec<RawAction>> for Actions {
    type Error = String;

    fn try_from(raw: Vec<RawAction>) -> Result<Self, String> {
        if raw.len() > MAX_ACTIONS {
            return Err(format!("at most {MAX_ACTIONS} actions are taken"));
        }
        raw.into_iter().map(Action::try_from).collect::<Result<_, _>>().map(Self)
    }
}

impl TryFrom<RawAction> for Action {
    type Error = String;

    fn try_from(raw: RawAction) -> Result<Self, String> {
        match (raw.publish, raw.webhook) {
            (Some(publish), None) => {
                let topic = publish.topic.0;
                if topic.is_empty() || topic.contains(['+', '#']) {
                    return Err(format!("{topic:?} is no topic to publish to: it has text and no wildcard"));
                }
                if topic.starts_with('$') {
                    return Err(format!(
                        "{topic:?} is no topic to publish to: those with a dollar are the gateway's own"
                    ));
                }
                Ok(Self::Publish { topic, payload: publish.payload.map(|payload| payload.0) })
            }
            (None, Some(webhook)) => {
                let url = webhook.url.0;
                super::webhook::target(&url)?;
                Ok(Self::Webhook { url })
            }
            _ => Err("an action is either publish or webhook".to_owned()),
        }
    }
}

impl TryFrom<RawEmit> for Emit {
    type Error = String;

    fn try_from(raw: RawEmit) -> Result<Self, String> {
        if !raw.stream.starts_with("data/") {
            return Err(format!("stream {:?}: points are kept in data/NAME", raw.stream));
        }
        let stream =
            raw.stream.parse().map_err(|error: farshore_journal::StreamNameError| error.to_string())?;
        Ok(Self { stream })
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() || text.len() > 128 || text.chars().any(char::is_control) {
            return Err(format!("{:?} is no name: it has 1 to 128 bytes", short(&text)));
        }
        Ok(Self(text))
    }
}

impl TryFrom<String> for Text {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.len() > 4096 {
            return Err("a text has at most 4096 bytes".to_owned());
        }
        Ok(Self(text))
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let Name(text) = Name::try_from(text)?;
        if text.strip_suffix('*').unwrap_or(&text).contains('*') {
            return Err(format!("{:?}: a star stands at the end only", short(&text)));
        }
        Ok(Self(text))
    }
}

impl TryFrom<String> for Condition {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let expression =
            Expression::compile(&text).map_err(|error| format!("{:?}: {error}", short(&text)))?;
        match expression.gives() {
            Type::Bool | Type::Any => Ok(Self(expression)),
            other => {
                Err(format!("{:?}: a condition gives true or false, this gives a {other}", short(&text)))
            }
        }
    }
}

impl TryFrom<String> for Number {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let expression =
            Expression::compile(&text).map_err(|error| format!("{:?}: {error}", short(&text)))?;
        match expression.gives() {
            Type::Number | Type::Any => Ok(Self(expression)),
            other => Err(format!("{:?}: a value is a number, this gives a {other}", short(&text))),
        }
    }
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

impl fmt::Display for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.pipelines.iter().map(|pipeline| pipeline.name.0.as_str()).collect();
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
pipelines:
  - name: cold-room
    from: {streams: [data/default], measurements: ["temp-*"]}
    steps:
      - filter: value > -50.0 && value < 200.0
      - map: {value: value / 100, field: normalized, tags: {unit: null}}
      - enrich: {labels: [site], twin: {limit: limits.high}}
      - dedup: {within: 1m}
      - deadband: {change: 0.5, at_least_every: 30s}
      - window: {hopping: 1m, every: 10s, lateness: 5s, aggregates: [mean, p95]}
      - rule:
          name: too-warm
          raise: value > 1.0
          clear: value < 0.9
          for: 30s
          severity: critical
          message: "{measurement} at {value}"
          on_raise: [{publish: {topic: fan/set, payload: "on"}}, {webhook: {url: "http://127.0.0.1:9000/hook"}}]
          on_clear: [{publish: {topic: fan/set, payload: "off"}}]
      - emit: {stream: data/climate}
"#;

    #[test]
    fn a_good_file_is_taken() {
        let definition = Definition::parse(GOOD).expect("good");
        let kinds: Vec<_> =
            definition.pipelines.iter().flat_map(|p| p.steps.iter().map(Step::kind)).collect();
        assert_eq!(kinds, ["filter", "map", "enrich", "dedup", "deadband", "window", "rule", "emit"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let with = |from: &str, to: &str| {
            assert!(GOOD.contains(from), "{from}");
            Definition::parse(&GOOD.replacen(from, to, 1)).expect_err(to).to_string()
        };
        for (from, to, part) in [
            ("from:", "form:", "unknown field `form`"),
            ("deadband:", "deadbnd:", "unknown field `deadbnd`"),
            ("value / 100", "value / 'a'", "needs a number"),
            ("value > -50.0 && value < 200.0", "value > ", "line 6"),
            ("value > -50.0 && value < 200.0", "valeu > 1", "did you mean"),
            ("value > -50.0 && value < 200.0", "value + 1", "true or false"),
            ("{within: 1m}", "{within: soon}", "line 9"),
            ("{within: 1m}", "{within: [1]}", "invalid type"),
            ("{within: 1m}", "1m", "expected a map such as {within: 10m}"),
            ("{streams: [data/default], measurements: [\"temp-*\"]}", "temp-*", "expected a map of streams"),
            ("change: 0.5", "change: big", "invalid type"),
            ("change: 0.5", "change: 0.5, percent: 1", "either change or percent"),
            ("hopping: 1m, every: 10s", "hopping: 10s, every: 1m", "impossible window"),
            ("hopping: 1m, every: 10s", "hopping: 1d, every: 1s", "impossible window"),
            ("hopping: 1m, every: 10s", "tumbling: 0s", "impossible window"),
            ("hopping: 1m, every: 10s, lateness: 5s", "count: 0", "impossible window"),
            ("hopping: 1m, every: 10s", "tumbling: 1m, count: 5", "one of tumbling"),
            ("[mean, p95]", "[mean, median]", "unknown aggregate"),
            ("[mean, p95]", "[p101]", "unknown aggregate"),
            ("[mean, p95]", "[mean, mean]", "twice"),
            ("topic: fan/set", "topic: fan/#", "wildcard"),
            ("topic: fan/set", "topic: $documents/fan/set", "gateway's own"),
            ("http://127.0.0.1:9000/hook", "http://example.com/hook", "local"),
            ("http://127.0.0.1:9000/hook", "ftp://127.0.0.1/", "http://"),
            ("severity: critical", "severity: loud", "unknown variant"),
            ("stream: data/climate", "stream: alerts", "data/NAME"),
            ("name: cold-room", "name: ''", "no name"),
            ("pipelines:", "pipelines: 5 #", "expected"),
        ] {
            let error = with(from, to);
            assert!(error.contains(part), "{to}: {error}");
            assert!(error.contains("line"), "{to}: {error}");
        }
        let idle = "pipelines: [{name: a, steps: [{filter: value > 1}]}]";
        assert!(
            Definition::parse(idle).expect_err("idle").to_string().contains("neither a rule nor an emit")
        );
        let long = " ".repeat(MAX_FILE_BYTES + 1);
        assert!(Definition::parse(&long).expect_err("long").to_string().contains("bytes"));
    }

    #[test]
    fn what_a_rule_does_may_change_without_losing_what_it_remembers() {
        let of = |text: &str| Definition::parse(text).expect("good").pipelines[0].steps[6].fingerprint();
        assert_eq!(of(GOOD), of(&GOOD.replace("payload: \"on\"", "payload: \"1\"")));
        assert_ne!(of(GOOD), of(&GOOD.replace("value < 0.9", "value < 0.8")));
    }
}
