//! Points as OTLP metrics in their JSON form (opentelemetry-proto 1.x, protobuf JSON mapping): gauges, a resource for the device.

use farshore_series::Value;
use serde_json::{Value as Json, json};

use super::points::{Run, Source};

fn text(key: &str, value: &str) -> Json {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// 64-bit integers are texts in this form, and what is no number has words.
fn number(value: &Value) -> Option<(&'static str, Json)> {
    match value {
        Value::Float(value) if value.is_finite() => Some(("asDouble", (*value).into())),
        Value::Float(value) if value.is_nan() => Some(("asDouble", "NaN".into())),
        Value::Float(value) => Some(("asDouble", if *value > 0.0 { "Infinity" } else { "-Infinity" }.into())),
        Value::Integer(value) => Some(("asInt", value.to_string().into())),
        Value::Boolean(value) => Some(("asInt", i64::from(*value).to_string().into())),
        // Metrics have no place for texts.
        Value::Text(_) | Value::Json(_) => None,
    }
}

/// The request; `None` when no point is a number.
pub(super) fn request(from: &Source<'_>, piece: &[Run]) -> Option<Json> {
    let metrics: Vec<Json> = piece
        .iter()
        .filter_map(|run| {
            let tags: Vec<Json> = run.key.tags().map(|(name, value)| text(name, value)).collect();
            let points: Vec<Json> = run
                .points
                .iter()
                .filter_map(|(at, value)| {
                    let (kind, value) = number(value)?;
                    // Times before 1970 have no form.
                    let at = u64::try_from(*at).unwrap_or(0);
                    Some(json!({ "timeUnixNano": at.to_string(), kind: value, "attributes": tags }))
                })
                .collect();
            let name = match run.key.field() {
                "" | "value" => run.key.measurement().to_owned(),
                field => format!("{}.{field}", run.key.measurement()),
            };
            (!points.is_empty()).then(|| json!({ "name": name, "gauge": { "dataPoints": points } }))
        })
        .collect();
    if metrics.is_empty() {
        return None;
    }
    let mut resource = vec![
        text("service.name", "farshore-gateway"),
        text("host.id", &from.device.to_string()),
        text("host.name", from.device_name),
        text("farshore.stream", from.stream),
    ];
    if !from.location.is_empty() {
        resource.push(text("farshore.location", from.location));
    }
    Some(json!({ "resourceMetrics": [{
        "resource": { "attributes": resource },
        "scopeMetrics": [{ "scope": { "name": "farshore", "version": env!("CARGO_PKG_VERSION") }, "metrics": metrics }],
    }] }))
}

/// Where metrics are taken: an address without a path is a collector's.
pub(super) fn address(url: &str) -> String {
    match url.parse::<reqwest::Url>() {
        Ok(mut parsed) if matches!(parsed.path(), "" | "/") => {
            parsed.set_path("/v1/metrics");
            parsed.to_string()
        }
        _ => url.to_owned(),
    }
}

/// How many points the collector says it did not take, and why. An empty or foreign answer says nothing of it.
pub(super) fn rejected(answer: &[u8]) -> Option<(u64, String)> {
    let answer: Json = serde_json::from_slice(answer).ok()?;
    let partial = answer.get("partialSuccess")?;
    let count = partial.get("rejectedDataPoints")?;
    let count = count.as_u64().or_else(|| count.as_str()?.parse().ok())?;
    let why = partial.get("errorMessage").and_then(Json::as_str).unwrap_or_default();
    (count > 0).then(|| (count, why.chars().filter(|c| !c.is_control()).take(300).collect()))
}

#[cfg(test)]
mod tests {
    use farshore_series::SeriesKey;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn kinds_have_the_form_that_the_protocol_asks_for() {
        let from =
            Source { sink: "s", device: Uuid::nil(), device_name: "gw", location: "", stream: "data/a" };
        let run = |field: &str, value: Value| Run {
            key: SeriesKey::new("t", field, [("room", "12")]).unwrap(),
            points: vec![(1_700_000_000_123_456_789, value)],
        };
        let piece = [
            run("value", Value::Float(21.5)),
            run("n", Value::Integer(i64::MAX)),
            run("odd", Value::Float(f64::NEG_INFINITY)),
            run("on", Value::Boolean(true)),
            run("text", Value::Text("x".into())),
        ];
        let request = request(&from, &piece).unwrap();
        let metrics =
            request.pointer("/resourceMetrics/0/scopeMetrics/0/metrics").unwrap().as_array().unwrap();
        let of = |n: usize, path: &str| {
            metrics[n].pointer(&format!("/gauge/dataPoints/0/{path}")).unwrap().clone()
        };
        assert_eq!(metrics.len(), 4, "texts have no place");
        assert_eq!((&metrics[0]["name"], of(0, "asDouble")), (&json!("t"), json!(21.5)));
        assert_eq!((&metrics[1]["name"], of(1, "asInt")), (&json!("t.n"), json!("9223372036854775807")));
        assert_eq!((of(2, "asDouble"), of(3, "asInt")), (json!("-Infinity"), json!("1")));
        assert_eq!(of(0, "timeUnixNano"), json!("1700000000123456789"));
        assert_eq!(of(0, "attributes"), json!([{"key": "room", "value": {"stringValue": "12"}}]));
        assert!(super::request(&from, &piece[4..]).is_none());
    }

    #[test]
    fn an_address_without_a_path_is_a_collectors() {
        assert_eq!(address("http://c:4318"), "http://c:4318/v1/metrics");
        assert_eq!(address("https://c/otlp/v1/metrics?x=1"), "https://c/otlp/v1/metrics?x=1");
        assert_eq!(rejected(b""), None);
        assert_eq!(rejected(br#"{"partialSuccess":{}}"#), None);
        let some = br#"{"partialSuccess":{"rejectedDataPoints":"3","errorMessage":"old"}}"#;
        assert_eq!(rejected(some), Some((3, "old".to_owned())));
    }
}
