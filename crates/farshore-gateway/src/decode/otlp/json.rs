//! The JSON form. Each level is read by itself from the raw text of the one above, element by element, so that nothing is built of the whole document:
//! an array of a million elements costs no more memory than one of a single one.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Head, Reading, Taker};
use crate::limits::{MAX_BUCKETS, MAX_FIELDS, MAX_TAGS};
use crate::point::{PointError, Tag, Value};

/// An array as it is written; nothing where it is not there.
type Raws<'a> = Option<&'a RawValue>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    #[serde(borrow, default)]
    resource_metrics: Raws<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceMetrics<'a> {
    #[serde(borrow, default)]
    resource: Option<Resource<'a>>,
    #[serde(borrow, default)]
    scope_metrics: Raws<'a>,
}

#[derive(Deserialize)]
struct Resource<'a> {
    #[serde(borrow, default)]
    attributes: Raws<'a>,
}

#[derive(Deserialize)]
struct ScopeMetrics<'a> {
    #[serde(borrow, default)]
    metrics: Raws<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metric<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    unit: Cow<'a, str>,
    #[serde(borrow, default)]
    gauge: Option<Data<'a>>,
    #[serde(borrow, default)]
    sum: Option<Data<'a>>,
    #[serde(borrow, default)]
    histogram: Option<Data<'a>>,
    #[serde(borrow, default)]
    exponential_histogram: Option<Data<'a>>,
    #[serde(borrow, default)]
    summary: Option<Data<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    #[serde(borrow, default)]
    data_points: Raws<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DataPoint<'a> {
    #[serde(borrow, default)]
    attributes: Raws<'a>,
    #[serde(default)]
    time_unix_nano: Option<Whole<u64>>,
    #[serde(default)]
    as_double: Option<Real>,
    #[serde(default)]
    as_int: Option<Whole<i64>>,
    #[serde(default)]
    count: Option<Whole<u64>>,
    #[serde(default)]
    sum: Option<Real>,
    #[serde(default)]
    min: Option<Real>,
    #[serde(default)]
    max: Option<Real>,
    #[serde(borrow, default)]
    bucket_counts: Raws<'a>,
    #[serde(borrow, default)]
    explicit_bounds: Raws<'a>,
    #[serde(borrow, default)]
    quantile_values: Raws<'a>,
    #[serde(default)]
    flags: u32,
}

#[derive(Deserialize)]
struct Quantile {
    #[serde(default)]
    quantile: Option<Real>,
    #[serde(default)]
    value: Option<Real>,
}

#[derive(Deserialize)]
struct KeyValue<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow, default)]
    value: Option<AnyValue<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyValue<'a> {
    #[serde(borrow, default)]
    string_value: Option<Text<'a>>,
    #[serde(default)]
    bool_value: Option<bool>,
    #[serde(default)]
    int_value: Option<Whole<i64>>,
    #[serde(default)]
    double_value: Option<Real>,
    #[serde(borrow, default)]
    array_value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    kvlist_value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    bytes_value: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A whole number of 64 bits: in protobuf's JSON a text, and a number is taken as well.
#[derive(Clone, Copy)]
struct Whole<T>(T);

/// A double: in protobuf's JSON a number, or one of the texts `NaN`, `Infinity`, `-Infinity`.
#[derive(Clone, Copy)]
struct Real(f64);

impl<'de, T: TryFrom<i64> + TryFrom<u64> + std::str::FromStr> Deserialize<'de> for Whole<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<T>(std::marker::PhantomData<T>);
        impl<T: TryFrom<i64> + TryFrom<u64> + std::str::FromStr> Visitor<'_> for Reader<T> {
            type Value = Whole<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number of 64 bits")
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Whole<T>, E> {
                T::try_from(value).map(Whole).map_err(|_| E::custom("the number is too large"))
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Whole<T>, E> {
                T::try_from(value).map(Whole).map_err(|_| E::custom("the number is too small"))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Whole<T>, E> {
                text.parse().map(Whole).map_err(|_| E::custom("it is no whole number of 64 bits"))
            }
        }
        deserializer.deserialize_any(Reader(std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Real {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Real;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }
            fn visit_f64<E>(self, value: f64) -> Result<Real, E> {
                Ok(Real(value))
            }
            #[expect(clippy::cast_precision_loss, reason = "a number of JSON that is asked for as a double")]
            fn visit_u64<E>(self, value: u64) -> Result<Real, E> {
                Ok(Real(value as f64))
            }
            #[expect(clippy::cast_precision_loss, reason = "a number of JSON that is asked for as a double")]
            fn visit_i64<E>(self, value: i64) -> Result<Real, E> {
                Ok(Real(value as f64))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Real, E> {
                text.parse().map(Real).map_err(|_| E::custom("it is no number"))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

fn broken(error: &serde_json::Error) -> PointError {
    PointError::Json(error.to_string().chars().take(200).collect())
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, PointError> {
    serde_json::from_str(text).map_err(|error| broken(&error))
}

pub(super) fn request(body: &[u8], taker: &mut Taker<'_, '_>) -> Result<(), PointError> {
    let text = std::str::from_utf8(body).map_err(|_| PointError::NotUtf8("the body"))?;
    // An array would be read as the object's fields in order.
    if !text.trim_start().starts_with('{') {
        return Err(PointError::Json("the request is an object".to_owned()));
    }
    each(parse::<Request<'_>>(text)?.resource_metrics, |metrics: ResourceMetrics<'_>| {
        let mut resource = Vec::new();
        let attributes = metrics.resource.and_then(|resource| resource.attributes);
        each(attributes, |pair| key_value(pair, &mut resource))?;
        each(metrics.scope_metrics, |scope: ScopeMetrics<'_>| {
            each(scope.metrics, |metric| self::metric(metric, &resource, taker))
        })
    })
}

/// Reads an array's elements one after another, and hands each on.
fn each<'a, T: Deserialize<'a>>(
    list: Raws<'a>,
    work: impl FnMut(T) -> Result<(), PointError>,
) -> Result<(), PointError> {
    struct Reader<'f, T, F> {
        work: F,
        failed: &'f mut Option<PointError>,
        of: std::marker::PhantomData<T>,
    }
    impl<'de, T: Deserialize<'de>, F: FnMut(T) -> Result<(), PointError>> Visitor<'de> for Reader<'_, T, F> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }
        fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
            while let Some(element) = list.next_element()? {
                if let Err(error) = (self.work)(element) {
                    *self.failed = Some(error);
                    return Err(A::Error::custom("an element is not taken"));
                }
            }
            Ok(())
        }
    }
    let Some(list) = list else { return Ok(()) };
    let mut failed = None;
    let reader = Reader { work, failed: &mut failed, of: std::marker::PhantomData };
    let result = serde_json::Deserializer::from_str(list.get()).deserialize_seq(reader);
    match failed {
        Some(error) => Err(error),
        None => result.map_err(|error| broken(&error)),
    }
}

fn metric(metric: Metric<'_>, resource: &[Tag<'_>], taker: &mut Taker<'_, '_>) -> Result<(), PointError> {
    let head = Head { name: &metric.name, unit: &metric.unit };
    let numbers = [metric.gauge, metric.sum].into_iter().map(|data| (data, false));
    let counts =
        [metric.histogram, metric.exponential_histogram, metric.summary].into_iter().map(|data| (data, true));
    for (data, counted) in numbers.chain(counts) {
        // One that can't be read is left out; those behind it are looked at all the same.
        each(data.and_then(|data| data.data_points), |raw: &RawValue| {
            taker.take(resource, head, reading(raw.get(), counted))
        })?;
    }
    Ok(())
}

fn reading(text: &str, counted: bool) -> Result<Reading<'_>, PointError> {
    let point: DataPoint<'_> = parse(text)?;
    let mut reading = Reading {
        time_ns: point.time_unix_nano.map_or(0, |time| time.0),
        nothing: point.flags & 1 != 0,
        sum: point.sum.map(|real| real.0),
        min: point.min.map(|real| real.0),
        max: point.max.map(|real| real.0),
        ..Reading::default()
    };
    each(point.attributes, |pair| key_value(pair, &mut reading.attributes))?;
    if !counted {
        let integer = point.as_int.map(|integer| Value::Integer(integer.0));
        reading.value = integer.or(point.as_double.map(|real| Value::Float(real.0)));
        return Ok(reading);
    }
    reading.count = Some(point.count.map_or(0, |count| count.0));
    each(point.bucket_counts, |count: Whole<u64>| add(&mut reading.counts, count.0, "buckets", MAX_BUCKETS))?;
    each(point.explicit_bounds, |bound: Real| add(&mut reading.bounds, bound.0, "buckets", MAX_BUCKETS))?;
    each(point.quantile_values, |pair: Quantile| {
        let pair = (pair.quantile.map_or(0.0, |real| real.0), pair.value.map_or(0.0, |real| real.0));
        add(&mut reading.quantiles, pair, "fields", MAX_FIELDS)
    })?;
    Ok(reading)
}

fn add<T>(list: &mut Vec<T>, element: T, what: &'static str, max: usize) -> Result<(), PointError> {
    if list.len() >= max {
        return Err(PointError::TooMany { what, max });
    }
    list.push(element);
    Ok(())
}

fn key_value<'a>(pair: KeyValue<'a>, tags: &mut Vec<Tag<'a>>) -> Result<(), PointError> {
    let KeyValue { key, value } = pair;
    let value = match value {
        Some(value) => any_value(value)?,
        None => Cow::Borrowed(""),
    };
    super::attribute(tags, key, value)
}

fn any_value(value: AnyValue<'_>) -> Result<Cow<'_, str>, PointError> {
    if value.kvlist_value.is_some() || value.bytes_value.is_some() {
        return Err(PointError::Refused("an attribute that is a map or bytes is not taken".to_owned()));
    }
    if let Some(raw) = value.array_value {
        #[derive(Deserialize)]
        struct List<'a> {
            #[serde(borrow, default)]
            values: Raws<'a>,
        }
        let list: List<'_> = parse(raw.get())?;
        let mut joined = String::new();
        let mut count = 0;
        each(list.values, |inner: AnyValue<'_>| {
            count += 1;
            if count > MAX_TAGS {
                return Err(PointError::TooMany { what: "values in an attribute", max: MAX_TAGS });
            }
            if inner.array_value.is_some() {
                let why = "an attribute that is a list of lists is not taken";
                return Err(PointError::Refused(why.to_owned()));
            }
            if !joined.is_empty() {
                joined.push(',');
            }
            joined.push_str(&any_value(inner)?);
            Ok(())
        })?;
        return Ok(Cow::Owned(joined));
    }
    Ok(match value {
        AnyValue { string_value: Some(Text(text)), .. } => text,
        AnyValue { bool_value: Some(flag), .. } => Cow::Borrowed(if flag { "true" } else { "false" }),
        AnyValue { int_value: Some(integer), .. } => Cow::Owned(integer.0.to_string()),
        AnyValue { double_value: Some(real), .. } => Cow::Owned(real.0.to_string()),
        _ => Cow::Borrowed(""),
    })
}
