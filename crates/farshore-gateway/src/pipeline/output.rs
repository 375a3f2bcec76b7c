//! What comes out of a pipeline.

use farshore_domain::digest::Digest;
use farshore_journal::{KeyError, SeriesKey, StreamName, Value};
use serde::Serialize;
use serde::de::IgnoredAny;

use super::definition::Severity;

/// The stream in which local alerts travel; it goes before all others.
pub const ALERTS: &str = "alerts";
/// The stream of what a processor makes.
pub(crate) const PROCESSED: &str = "data/processed";
/// What an alert's series are called.
pub const ALERT_MEASUREMENT: &str = "local_alert";
/// A series has at most so many tags.
const MAX_TAGS: usize = 32;

/// What comes out of a pipeline, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// A point to be kept.
    Point { stream: StreamName, series: SeriesKey, at_ns: i64, value: Value },
    /// A rule has changed its mind.
    Alert(Box<Alert>),
    /// A message for those who subscribed to its topic.
    Publish { topic: String, payload: String },
    /// A call of a local address.
    Webhook { url: String, body: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertState {
    Raised,
    Cleared,
}

/// A local alert, raised or over.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alert {
    /// The same for raising and ending; the same again when it is told again after a crash.
    pub id: String,
    pub state: AlertState,
    pub pipeline: String,
    pub rule: String,
    pub severity: Severity,
    pub message: String,
    /// The series that the rule judged, as text.
    pub series: String,
    /// The value by which it was raised or ended.
    pub value: Option<f64>,
    /// The time of the point by which it was raised or ended.
    pub at_ns: i64,
    #[serde(skip)]
    pub key: SeriesKey,
}

impl Alert {
    pub(super) fn id(pipeline: &str, rule: &str, key: &SeriesKey, raised_ns: i64) -> String {
        let mut text = format!("{pipeline}\n{rule}\n{raised_ns}\n").into_bytes();
        text.extend_from_slice(key.as_bytes());
        Digest::of(&text).to_string().chars().filter(char::is_ascii_alphanumeric).rev().take(20).collect()
    }

    /// The series in which it is kept: `active`, `message` and `value`, with the tags of the series that was judged.
    ///
    /// # Errors
    /// When the names are too long for a series.
    pub fn kept_as(&self, field: &str) -> Result<SeriesKey, KeyError> {
        let own = [
            ("field", self.key.field()),
            ("pipeline", self.pipeline.as_str()),
            ("rule", self.rule.as_str()),
            ("sensor", self.key.measurement()),
            ("severity", self.severity.as_str()),
        ];
        let foreign = self.key.tags().filter(|(name, _)| own.iter().all(|(taken, _)| taken != name));
        let tags = own.iter().copied().filter(|(_, value)| !value.is_empty()).chain(foreign).take(MAX_TAGS);
        SeriesKey::new(ALERT_MEASUREMENT, field, tags)
    }

    /// The alert as points.
    ///
    /// # Errors
    /// When the names are too long for series.
    pub fn points(&self) -> Result<Vec<(SeriesKey, Value)>, KeyError> {
        let mut points = vec![
            (self.kept_as("active")?, Value::Boolean(self.state == AlertState::Raised)),
            (self.kept_as("message")?, Value::Text(self.message.clone())),
        ];
        if let Some(value) = self.value {
            points.push((self.kept_as("value")?, Value::Float(value)));
        }
        Ok(points)
    }
}

/// Puts what is known into a text: `{value}`, `{tags.room}`. What is not known stays as it is written, so that JSON needs no escaping.
pub(super) fn render(template: &str, known: &dyn Fn(&str) -> Option<String>) -> String {
    fill(template, known, &|_, value| value)
}

/// The same for a topic. Tags come from producers: which level of the topic they fill is for the template alone to say.
pub(super) fn render_topic(template: &str, known: &dyn Fn(&str) -> Option<String>) -> String {
    fill(template, known, &|_, value| value.replace(['/', '+', '#', '$', '\0'], "_"))
}

/// The same for what is published. In JSON a value is one value, whatever is in it: producers add no members.
pub(super) fn render_payload(template: &str, known: &dyn Fn(&str) -> Option<String>) -> String {
    if !is_json(template) {
        return render(template, known);
    }
    fill(template, known, &|before, value| {
        // Always has a form in JSON.
        let quoted = serde_json::to_string(&value).unwrap_or_default();
        if is_in_string(before) {
            let inside = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            inside.unwrap_or_default().to_owned()
        } else if serde_json::from_str::<IgnoredAny>(&value).is_ok() {
            value
        } else {
            quoted
        }
    })
}

/// Whether a template begins as JSON does, and not with the name of a value.
fn is_json(template: &str) -> bool {
    let template = template.trim_start();
    let Some(rest) = template.strip_prefix('{') else { return template.starts_with('[') };
    let name = rest.split('}').next().unwrap_or_default();
    let is_value = matches!(name, "value" | "measurement" | "field" | "rule" | "severity" | "state" | "time")
        || ["tags.", "labels.", "twin."].iter().any(|of| name.starts_with(of));
    !is_value
}

/// Whether a string of JSON has begun and not ended.
fn is_in_string(json: &str) -> bool {
    let (mut inside, mut escaped) = (false, false);
    for character in json.chars() {
        match character {
            _ if escaped => escaped = false,
            '\\' if inside => escaped = true,
            '"' => inside = !inside,
            _ => {}
        }
    }
    inside
}

/// `form` gets what is there already, and a value, and says how that is put in.
fn fill(
    template: &str,
    known: &dyn Fn(&str) -> Option<String>,
    form: &dyn Fn(&str, String) -> String,
) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(begin) = rest.find('{') {
        let (before, after) = rest.split_at(begin);
        text.push_str(before);
        let found = after.find('}').and_then(|end| {
            let name = after.get(1..end)?;
            Some((known(name)?, after.get(end + 1..)?))
        });
        match found {
            Some((value, behind)) => {
                let value = form(&text, value);
                text.push_str(&value);
                rest = behind;
            }
            None => {
                text.push('{');
                rest = after.get(1..).unwrap_or_default();
            }
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_with_values() {
        let known = |name: &str| match name {
            "value" => Some("21.5".to_owned()),
            "tags.room" => Some("12".to_owned()),
            _ => None,
        };
        for (template, expected) in [
            ("{value} in {tags.room}", "21.5 in 12"),
            ("{\"on\": {value}}", "{\"on\": 21.5}"),
            ("{none} {", "{none} {"),
            ("", ""),
        ] {
            assert_eq!(render(template, &known), expected);
        }
    }

    #[test]
    fn values_choose_no_level_of_a_topic() {
        let known = |name: &str| match name {
            "tags.room" => Some("12/door/unlock".to_owned()),
            "tags.any" => Some("$+#\0".to_owned()),
            _ => None,
        };
        for (template, expected) in [
            ("room/{tags.room}/fan", "room/12_door_unlock/fan"),
            ("{tags.any}/x", "____/x"),
            ("a/{none}", "a/{none}"),
        ] {
            assert_eq!(render_topic(template, &known), expected);
        }
    }

    #[test]
    fn a_value_in_json_stays_one_value() {
        let known = |name: &str| match name {
            "value" => Some("21.5".to_owned()),
            "tags.room" => Some(r#"12", "unlock": true, "x": "\"#.to_owned()),
            "tags.open" => Some("1, 2]".to_owned()),
            "twin.limits" => Some(r#"{"high":5}"#.to_owned()),
            _ => None,
        };
        for (template, expected) in [
            (r#"{"on": {value}}"#, r#"{"on": 21.5}"#),
            (r#"{"on": "{value}", "limits": {twin.limits}}"#, r#"{"on": "21.5", "limits": {"high":5}}"#),
            (
                r#" {"room": "{tags.room}", "on": {value}}"#,
                r#" {"room": "12\", \"unlock\": true, \"x\": \"\\", "on": 21.5}"#,
            ),
            (r#"[{tags.open}, "\"{tags.room}"]"#, r#"["1, 2]", "\"12\", \"unlock\": true, \"x\": \"\\"]"#),
            (r#"{"none": "{tags.none}"}"#, r#"{"none": "{tags.none}"}"#),
            (r#"{value} in "{tags.open}""#, r#"21.5 in "1, 2]""#),
            ("{tags.open}", "1, 2]"),
        ] {
            assert_eq!(render_payload(template, &known), expected);
        }
    }

    #[test]
    fn an_alert_keeps_the_tags_of_what_it_is_about() {
        let key = SeriesKey::new("temp-01", "value", [("room", "12"), ("rule", "x")]).expect("a key");
        let alert = Alert {
            id: Alert::id("p", "hot", &key, 5),
            state: AlertState::Raised,
            pipeline: "p".to_owned(),
            rule: "hot".to_owned(),
            severity: Severity::Warning,
            message: "m".to_owned(),
            series: key.to_string(),
            value: Some(101.0),
            at_ns: 5,
            key,
        };
        let series = alert.kept_as("active").expect("a key");
        assert_eq!(
            (series.tag("room"), series.tag("rule"), series.tag("sensor")),
            (Some("12"), Some("hot"), Some("temp-01"))
        );
        assert_eq!(alert.points().expect("points").len(), 3);
        assert_eq!(alert.id.len(), 20);
    }
}
