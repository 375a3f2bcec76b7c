//! The query parameters of series.

use farshore_api::series::{SeriesAggregate, SeriesGroup};
use farshore_domain::selector::Selector;
use farshore_domain::time::{DAY_MS, HOUR_MS, UnixMs};
use serde::Deserialize;

use super::fold::Wanted;
use crate::error::{ApiError, ApiResult};
use crate::extract::check_text;

const MAX_SPAN_MS: i64 = 400 * DAY_MS;
/// Steps of a line when nobody says how long one is.
const DEFAULT_STEPS: i64 = 300;
const MAX_STEPS: i64 = 5_000;
const MAX_TAGS: usize = 16;
const MAX_NAME: usize = 256;

/// Which series, of which devices.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct SelectQuery {
    /// A device's name or uid.
    device: Option<String>,
    /// Devices at this location.
    location: Option<String>,
    /// Devices whose labels match, in Kubernetes' grammar.
    label_selector: Option<String>,
    /// `data/default`, …
    stream: Option<String>,
    measurement: Option<String>,
    field: Option<String>,
    /// `room=12,hall!=b`; a `\` goes before a comma, `=` or `\` that belongs to a name or value.
    tags: Option<String>,
    /// At most this many; 100 when left out, 1,000 at most.
    limit: Option<u32>,
    /// Where the page before ended.
    #[serde(rename = "continue")]
    #[param(rename = "continue")]
    continue_from: Option<String>,
}

/// Which points, and how they are put together.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct RangeQuery {
    /// A device's name or uid.
    device: Option<String>,
    /// Devices at this location.
    location: Option<String>,
    /// Devices whose labels match, in Kubernetes' grammar.
    label_selector: Option<String>,
    /// `data/default`, …
    stream: Option<String>,
    measurement: Option<String>,
    field: Option<String>,
    /// `room=12,hall!=b`; a `\` goes before a comma, `=` or `\` that belongs to a name or value.
    tags: Option<String>,
    /// Unix milliseconds; an hour before `to` when left out.
    from: Option<i64>,
    /// Unix milliseconds; now when left out.
    to: Option<i64>,
    /// Length of a step in milliseconds; when left out, what gives 300 steps, rounded up to whole hours where they are longer than one
    /// or the range begins before the points that are kept. Steps begin at multiples of it.
    step: Option<i64>,
    /// What stands for the points of a step: `mean` (when left out), `min`, `max`, `sum`, `count` or `last`.
    #[param(inline)]
    aggregate: Option<SeriesAggregate>,
    /// What makes a line: `series` (when left out), `device`, `location` or `all`.
    #[param(inline)]
    by: Option<SeriesGroup>,
}

/// Which devices.
#[derive(Debug, Default)]
pub(super) struct Devices {
    pub(super) device: Option<String>,
    pub(super) location: Option<String>,
    pub(super) selector: Selector,
}

#[derive(Debug)]
pub(super) struct Select {
    pub(super) devices: Devices,
    pub(super) wanted: Wanted,
    pub(super) limit: u32,
    pub(super) continue_from: Option<String>,
}

#[derive(Debug)]
pub(super) struct RangeSelect {
    pub(super) devices: Devices,
    pub(super) wanted: Wanted,
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) step: i64,
    pub(super) aggregate: SeriesAggregate,
    pub(super) by: SeriesGroup,
}

fn devices(
    device: Option<String>,
    location: Option<String>,
    label_selector: Option<&str>,
) -> ApiResult<Devices> {
    check_text("device", device.as_deref().unwrap_or_default(), MAX_NAME)?;
    check_text("location", location.as_deref().unwrap_or_default(), MAX_NAME)?;
    let selector = label_selector
        .unwrap_or_default()
        .parse()
        .map_err(|error| ApiError::field("labelSelector", format!("{error}")))?;
    Ok(Devices { device, location, selector })
}

fn wanted(
    stream: Option<String>,
    measurement: Option<String>,
    field: Option<String>,
    tags: Option<&str>,
) -> ApiResult<Wanted> {
    for (name, text) in [("stream", &stream), ("measurement", &measurement), ("field", &field)] {
        check_text(name, text.as_deref().unwrap_or_default(), MAX_NAME)?;
    }
    Ok(Wanted { stream, measurement, field, tags: read_tags(tags.unwrap_or_default())? })
}

/// Reads `a=b,c!=d`.
fn read_tags(text: &str) -> ApiResult<Vec<(String, String, bool)>> {
    let wrong =
        || ApiError::field("tags", format!("is name=value or name!=value, at most {MAX_TAGS} with commas"));
    let mut tags: Vec<(String, String, bool)> = Vec::new();
    let (mut name, mut part, mut escaped) = (None::<String>, String::new(), false);
    let mut finish = |name: Option<String>, part: String| {
        let Some(mut name) = name else { return part.is_empty() };
        let equal = !name.ends_with('!');
        if !equal {
            name.pop();
        }
        let fits =
            !name.is_empty() && name.len() <= MAX_NAME && part.len() <= MAX_NAME && tags.len() < MAX_TAGS;
        tags.push((name, part, equal));
        fits
    };
    for c in text.chars() {
        match c {
            _ if escaped => {
                part.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '=' if name.is_none() => name = Some(std::mem::take(&mut part)),
            ',' => {
                if !finish(name.take(), std::mem::take(&mut part)) {
                    return Err(wrong());
                }
            }
            _ => part.push(c),
        }
    }
    if escaped || !finish(name, part) { Err(wrong()) } else { Ok(tags) }
}

impl SelectQuery {
    pub(super) fn read(self) -> ApiResult<Select> {
        Ok(Select {
            devices: devices(self.device, self.location, self.label_selector.as_deref())?,
            wanted: wanted(self.stream, self.measurement, self.field, self.tags.as_deref())?,
            limit: crate::extract::limit(self.limit)?,
            continue_from: self.continue_from,
        })
    }
}

impl RangeQuery {
    /// Points are kept from `points_from` on; before, only hours are.
    pub(super) fn read(self, now: UnixMs, points_from: UnixMs) -> ApiResult<RangeSelect> {
        let to = self.to.unwrap_or(now.0);
        let from = self.from.unwrap_or(to.saturating_sub(HOUR_MS));
        let span = to.saturating_sub(from);
        if from > to || span > MAX_SPAN_MS {
            return Err(ApiError::field("from", "lies before to, and not more than 400 days"));
        }
        let step = self.step.unwrap_or_else(|| match (span / DEFAULT_STEPS).max(1_000) {
            step if step > HOUR_MS || from < points_from.0 => (step + HOUR_MS - 1) / HOUR_MS * HOUR_MS,
            step => step,
        });
        if step < 1 || span / step > MAX_STEPS {
            return Err(ApiError::field(
                "step",
                format!("is at least a millisecond, and at most {MAX_STEPS} of them fit into the range"),
            ));
        }
        Ok(RangeSelect {
            devices: devices(self.device, self.location, self.label_selector.as_deref())?,
            wanted: wanted(self.stream, self.measurement, self.field, self.tags.as_deref())?,
            from,
            to,
            step,
            aggregate: self.aggregate.unwrap_or_default(),
            by: self.by.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_with_what_is_escaped_in_them() {
        let tags = |text: &str| read_tags(text).map_err(|_| ());
        let tag = |name: &str, value: &str, equal| (name.to_owned(), value.to_owned(), equal);
        assert_eq!(tags(""), Ok(Vec::new()));
        assert_eq!(tags("a=b,c!=d"), Ok(vec![tag("a", "b", true), tag("c", "d", false)]));
        assert_eq!(tags(r"a\=b=c\,d=e"), Ok(vec![tag("a=b", "c,d=e", true)]));
        assert_eq!(tags("a="), Ok(vec![tag("a", "", true)]));
        for bad in ["a", "=b", "!=b", "a=b\\", "a=b,c", &"a=b,".repeat(17)] {
            assert_eq!(tags(bad), Err(()), "{bad}");
        }
    }

    #[test]
    fn the_field_that_is_wrong_is_named() {
        let read = |text: &str| {
            let query: RangeQuery = serde_urlencoded::from_str(text).map_err(|error| error.to_string())?;
            query.read(UnixMs(10 * HOUR_MS), UnixMs(0)).map_err(|error| {
                error.problem().errors.first().map_or(String::new(), |error| error.field.clone())
            })
        };
        for (text, field) in [
            ("from=2&to=1", "from"),
            ("from=-9223372036854775808&to=9223372036854775807", "from"),
            ("step=0", "step"),
            ("step=1", "step"),
            ("tags=x", "tags"),
            ("labelSelector=a%20b", "labelSelector"),
            ("measurement=%00", "measurement"),
        ] {
            assert_eq!(read(text).unwrap_err(), field, "{text}");
        }
        assert!(read("aggregate=median").unwrap_err().contains("median"));
        let plain = read("").unwrap();
        assert_eq!((plain.from, plain.to, plain.step), (9 * HOUR_MS, 10 * HOUR_MS, 12_000));
        // Where only hours are kept, and where steps are longer than one, they are whole hours.
        assert_eq!(read("from=-1&to=0").unwrap().step, HOUR_MS);
        assert_eq!(read(&format!("from=0&to={}", 450 * HOUR_MS)).unwrap().step, 2 * HOUR_MS);
    }
}
