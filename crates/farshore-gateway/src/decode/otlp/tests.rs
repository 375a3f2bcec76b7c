use proptest::prelude::*;
use prost::Message;

use super::*;

/// The messages as their definition has them, to write what is then read in place.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_metrics: Vec<ResourceMetrics>,
}
#[derive(Clone, PartialEq, Message)]
struct ResourceMetrics {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_metrics: Vec<ScopeMetrics>,
}
#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}
#[derive(Clone, PartialEq, Message)]
struct ScopeMetrics {
    #[prost(message, repeated, tag = "2")]
    metrics: Vec<Metric>,
}
#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}
#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
    #[prost(bool, optional, tag = "2")]
    flag: Option<bool>,
    #[prost(int64, optional, tag = "3")]
    integer: Option<i64>,
    #[prost(message, optional, boxed, tag = "5")]
    array: Option<Box<ArrayValue>>,
}
#[derive(Clone, PartialEq, Message)]
struct ArrayValue {
    #[prost(message, repeated, tag = "1")]
    values: Vec<AnyValue>,
}
#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, optional, tag = "5")]
    gauge: Option<Numbers>,
    #[prost(message, optional, tag = "7")]
    sum: Option<Numbers>,
    #[prost(message, optional, tag = "9")]
    histogram: Option<Histogram>,
    // Written last, although their numbers are lower: readers must not depend on the order.
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    unit: String,
}
#[derive(Clone, PartialEq, Message)]
struct Numbers {
    #[prost(message, repeated, tag = "1")]
    data_points: Vec<Number>,
}
#[derive(Clone, PartialEq, Message)]
struct Number {
    #[prost(fixed64, tag = "3")]
    time_unix_nano: u64,
    #[prost(double, optional, tag = "4")]
    as_double: Option<f64>,
    #[prost(sfixed64, optional, tag = "6")]
    as_int: Option<i64>,
    #[prost(message, repeated, tag = "7")]
    attributes: Vec<KeyValue>,
    #[prost(uint32, tag = "8")]
    flags: u32,
}
#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(message, repeated, tag = "1")]
    data_points: Vec<HistogramPoint>,
}
#[derive(Clone, PartialEq, Message)]
struct HistogramPoint {
    #[prost(fixed64, tag = "3")]
    time_unix_nano: u64,
    #[prost(fixed64, tag = "4")]
    count: u64,
    #[prost(double, optional, tag = "5")]
    sum: Option<f64>,
    #[prost(fixed64, repeated, tag = "6")]
    bucket_counts: Vec<u64>,
    #[prost(double, repeated, tag = "7")]
    explicit_bounds: Vec<f64>,
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { text: Some(value.to_owned()), ..AnyValue::default() };
    KeyValue { key: key.to_owned(), value: Some(value) }
}

fn sample() -> Request {
    let gauge = Metric {
        name: "room.temperature".to_owned(),
        unit: "Cel".to_owned(),
        gauge: Some(Numbers {
            data_points: vec![
                Number {
                    time_unix_nano: 5,
                    as_double: Some(21.5),
                    attributes: vec![text("room", "a"), text("host", "own")],
                    ..Number::default()
                },
                Number { flags: 1, ..Number::default() },
                Number { as_double: Some(f64::NAN), ..Number::default() },
            ],
        }),
        ..Metric::default()
    };
    let sum = Metric {
        name: "doors".to_owned(),
        unit: "1".to_owned(),
        sum: Some(Numbers { data_points: vec![Number { as_int: Some(-3), ..Number::default() }] }),
        ..Metric::default()
    };
    let histogram = Metric {
        name: "wait".to_owned(),
        histogram: Some(Histogram {
            data_points: vec![HistogramPoint {
                time_unix_nano: 7,
                count: 6,
                sum: Some(9.5),
                bucket_counts: vec![1, 2, 3],
                explicit_bounds: vec![0.5, 10.0],
            }],
        }),
        ..Metric::default()
    };
    let ips = ArrayValue {
        values: ["10.0.0.1", "10.0.0.2"]
            .map(|ip| AnyValue { text: Some(ip.to_owned()), ..AnyValue::default() })
            .into(),
    };
    let ips = AnyValue { array: Some(Box::new(ips)), ..AnyValue::default() };
    let attributes = vec![
        text("host", "edge"),
        text("telemetry.sdk.name", "opentelemetry"),
        KeyValue { key: "ip".to_owned(), value: Some(ips) },
    ];
    Request {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource { attributes }),
            scope_metrics: vec![ScopeMetrics { metrics: vec![gauge, sum, histogram] }],
        }],
    }
}

type Decoder = fn(&[u8], &mut Sink<'_>) -> Result<Outcome, PointError>;

fn all(decode: Decoder, body: &[u8]) -> (Vec<Point<'static>>, Result<Outcome, PointError>) {
    let mut points = Vec::new();
    let outcome = decode(body, &mut |point| {
        points.push(point.clone().into_owned());
        Ok(())
    });
    (points, outcome)
}

fn tags(point: &Point<'_>) -> String {
    point.tags.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

fn check_sample(points: &[Point<'_>], outcome: &Outcome) {
    assert_eq!((outcome.accepted, outcome.rejected), (3, 1));
    assert!(outcome.message().contains("not finite"), "{}", outcome.message());
    assert_eq!(points[0].measurement, "room.temperature");
    assert_eq!(tags(&points[0]), "host=own ip=10.0.0.1,10.0.0.2 room=a unit=Cel");
    assert_eq!(points[0].fields, [("value".into(), Value::Float(21.5))]);
    assert_eq!(points[0].time_ns, Some(5));
    assert_eq!(points[1].fields, [("value".into(), Value::Integer(-3))]);
    assert_eq!((tags(&points[1]).as_str(), points[1].time_ns), ("host=edge ip=10.0.0.1,10.0.0.2", None));
    let fields: Vec<_> = points[2].fields.iter().map(|(key, value)| format!("{key} {value:?}")).collect();
    assert_eq!(
        fields,
        ["count Integer(6)", "sum Float(9.5)", "le_0.5 Integer(1)", "le_10 Integer(3)", "le_inf Integer(6)"]
    );
}

#[test]
fn gauges_sums_and_histograms_of_protobuf() {
    let (points, outcome) = all(decode_protobuf, &sample().encode_to_vec());
    check_sample(&points, &outcome.expect("readable"));
}

#[test]
fn the_same_as_json() {
    let body = r#"{"resourceMetrics":[{"scopeMetrics":[{"scope":{"name":"x"},"metrics":[
        {"name":"room.temperature","unit":"Cel","gauge":{"dataPoints":[
            {"timeUnixNano":"5","asDouble":21.5,"attributes":[{"key":"room","value":{"stringValue":"a"}},{"key":"host","value":{"stringValue":"own"}}]},
            {"flags":1},
            {"asDouble":"NaN"}]}},
        {"name":"doors","unit":"1","sum":{"aggregationTemporality":2,"isMonotonic":true,"dataPoints":[{"asInt":"-3"}]}},
        {"name":"wait","histogram":{"dataPoints":[{"timeUnixNano":7,"count":"6","sum":9.5,"bucketCounts":["1","2",3],"explicitBounds":[0.5,10]}]}}]}],
        "resource":{"attributes":[{"key":"host","value":{"stringValue":"edge"}},{"key":"telemetry.sdk.name","value":{"stringValue":"o"}},
            {"key":"ip","value":{"arrayValue":{"values":[{"stringValue":"10.0.0.1"},{"stringValue":"10.0.0.2"}]}}}]}}]}"#;
    let (points, outcome) = all(decode_json, body.as_bytes());
    check_sample(&points, &outcome.expect("readable"));
}

#[test]
fn broken_requests_are_errors() {
    let good = sample().encode_to_vec();
    assert!(all(decode_protobuf, &good[..good.len() - 1]).1.is_err());
    assert!(all(decode_protobuf, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f").1.is_err());
    assert!(all(decode_protobuf, b"{}").1.is_err());
    for body in ["", "[]", "{\"resourceMetrics\":{}}", "{\"resourceMetrics\":[{\"scopeMetrics\":[7]}]}"] {
        assert!(all(decode_json, body.as_bytes()).1.is_err(), "{body}");
    }
    assert!(all(decode_json, b"\xff").1.is_err());
    // Lists in lists would be a way to fill the stack.
    let mut value = AnyValue { text: Some("x".to_owned()), ..AnyValue::default() };
    for _ in 0..50 {
        value = AnyValue { array: Some(Box::new(ArrayValue { values: vec![value] })), ..AnyValue::default() };
    }
    let mut request = sample();
    request.resource_metrics[0].scope_metrics[0].metrics[0].gauge.as_mut().expect("a gauge").data_points[0]
        .attributes
        .push(KeyValue { key: "deep".to_owned(), value: Some(value) });
    let (points, outcome) = all(decode_protobuf, &request.encode_to_vec());
    assert_eq!(points.len(), 2);
    assert!(outcome.expect("readable").message().contains("list of lists"));
}

#[test]
fn more_points_than_are_taken_stop_the_request() {
    let number = Number { as_int: Some(1), ..Number::default() };
    let metric = Metric {
        name: "m".to_owned(),
        sum: Some(Numbers { data_points: vec![number; MAX_OTLP_POINTS + 1] }),
        ..Metric::default()
    };
    let request = Request {
        resource_metrics: vec![ResourceMetrics {
            resource: None,
            scope_metrics: vec![ScopeMetrics { metrics: vec![metric] }],
        }],
    };
    let mut count = 0;
    let result = decode_protobuf(&request.encode_to_vec(), &mut |_| {
        count += 1;
        Ok(())
    });
    assert!(matches!(result, Err(PointError::TooMuch { .. })));
    assert_eq!(count, MAX_OTLP_POINTS);
}

#[test]
fn answers_are_what_exporters_read() {
    let mut outcome = Outcome { accepted: 2, ..Outcome::default() };
    assert_eq!(response(&outcome, false), b"");
    assert_eq!(response(&outcome, true), b"{}");
    outcome.count(3, Err(PointError::Missing { what: "a field" }));
    let read = ExportResponse::decode(response(&outcome, false).as_slice()).expect("protobuf");
    assert_eq!(read.partial_success.expect("partial").rejected_data_points, 1);
    assert!(
        String::from_utf8(response(&outcome, true)).expect("text").contains("\"rejectedDataPoints\":\"1\"")
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let (points, outcome) = all(decode_protobuf, &body);
        if let Ok(outcome) = outcome {
            prop_assert_eq!(points.len(), outcome.accepted);
        }
        prop_assert!(all(decode_json, &body).1.is_err());
    }

    #[test]
    fn damaged_requests_are_read_or_refused(at in 0_usize..200, byte in any::<u8>()) {
        let mut body = sample().encode_to_vec();
        let at = at % body.len();
        body[at] = byte;
        let (points, _) = all(decode_protobuf, &body);
        for mut point in points {
            prop_assert_eq!(point.finish(), Ok(()));
        }
    }
}
