//! The query of device lists: filters, sorting, cursors.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use farshore_domain::device::{Conformance, Health, Lifecycle, Reachability};
use farshore_domain::name::Name;
use farshore_store::device_list::{DeviceCursor, DeviceFilter, DeviceQuery, DeviceSort, Direction, SortKey};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::ApiError;

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1_000;
const MAX_TEXT: usize = 253;

/// Which devices.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Kubernetes' grammar: `env=prod,site in (a,b),!canary`.
    label_selector: Option<String>,
    /// Words that must all occur in name, location or labels.
    q: Option<String>,
    /// `online`, `stale`, `offline`; several with commas.
    reachability: Option<String>,
    /// `healthy`, `degraded`, `failing`, `unknown`; several with commas.
    health: Option<String>,
    /// `conforming`, `converging`, `diverged`, `held`, `unsupported`, `unknown`; several with commas.
    conformance: Option<String>,
    /// `pending`, `claimed`, `cordoned`, …; several with commas. All but `decommissioned` when left out.
    lifecycle: Option<String>,
    location: Option<String>,
    channel: Option<String>,
    /// Devices that have this app.
    app: Option<String>,
    /// Devices on which this version is active.
    version: Option<String>,
    /// `name`, `lastSeen`, `location`, `channel`, `health`, `conformance`, `lifecycle`, `agentVersion`, `createdAt`; `-` in front for the other direction.
    sort: Option<String>,
    /// `cpu`: with the last hour's CPU use.
    sparkline: Option<String>,
    /// At most this many; 100 when left out, 1,000 at most.
    limit: Option<u32>,
    /// The `continue` of the page before.
    #[serde(rename = "continue")]
    #[param(rename = "continue")]
    continue_from: Option<String>,
}

/// A cursor on the wire. Clients need not understand it.
#[derive(Serialize, Deserialize)]
struct Cursor {
    /// The sorting it belongs to.
    s: String,
    /// The sort key of the last row: text or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    t: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<i64>,
    u: Uuid,
}

fn text(field: &str, value: Option<String>) -> Result<Option<String>, ApiError> {
    match value {
        Some(value) if value.len() > MAX_TEXT || value.contains('\0') => {
            Err(ApiError::field(field, format!("has at most {MAX_TEXT} characters")))
        }
        other => Ok(other),
    }
}

fn name(field: &str, value: Option<String>) -> Result<Option<Name>, ApiError> {
    value.map(Name::new).transpose().map_err(|error| ApiError::field(field, error.to_string()))
}

/// Words with commas, each one of `all`.
fn words<T: Copy + PartialEq>(
    field: &str,
    value: Option<&str>,
    all: &[T],
    word: impl Fn(T) -> &'static str,
) -> Result<Vec<T>, ApiError> {
    let mut found = Vec::new();
    for part in value.unwrap_or("").split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let Some(one) = all.iter().copied().find(|one| word(*one) == part) else {
            let known: Vec<&str> = all.iter().map(|one| word(*one)).collect();
            return Err(ApiError::field(field, format!("is one of {}", known.join(", "))));
        };
        if !found.contains(&one) {
            found.push(one);
        }
    }
    Ok(found)
}

impl ListQuery {
    /// Whether the page shows CPU use.
    pub(super) fn sparkline(&self) -> Result<bool, ApiError> {
        match self.sparkline.as_deref() {
            None | Some("") => Ok(false),
            Some("cpu") => Ok(true),
            Some(_) => Err(ApiError::field("sparkline", "is cpu")),
        }
    }

    /// Checks it all.
    pub(super) fn read(self) -> Result<DeviceQuery, ApiError> {
        let selector = self
            .label_selector
            .as_deref()
            .unwrap_or("")
            .parse()
            .map_err(|error| ApiError::field("labelSelector", format!("{error}")))?;
        let health = [Health::ALL, &[Health::Unknown]].concat();
        let conformance = [Conformance::ALL, &[Conformance::Unknown]].concat();
        let filter = DeviceFilter {
            selector,
            text: text("q", self.q)?.unwrap_or_default(),
            reachability: words(
                "reachability",
                self.reachability.as_deref(),
                Reachability::ALL,
                Reachability::word,
            )?,
            health: words("health", self.health.as_deref(), &health, Health::word)?,
            conformance: words("conformance", self.conformance.as_deref(), &conformance, Conformance::word)?,
            lifecycle: words("lifecycle", self.lifecycle.as_deref(), Lifecycle::ALL, Lifecycle::word)?,
            location: text("location", self.location)?,
            channel: name("channel", self.channel)?,
            app: name("app", self.app)?,
            version: text("version", self.version)?,
        };
        let sorting = self.sort.unwrap_or_else(|| "name".to_owned());
        let (word, direction) = match sorting.strip_prefix('-') {
            Some(word) => (word, Direction::Descending),
            None => (sorting.as_str(), Direction::Ascending),
        };
        let Some((_, sort)) = DeviceSort::ALL.into_iter().find(|(known, _)| *known == word) else {
            let known: Vec<&str> = DeviceSort::ALL.iter().map(|(word, _)| *word).collect();
            return Err(ApiError::field(
                "sort",
                format!("is one of {}, with - in front to turn it round", known.join(", ")),
            ));
        };
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(ApiError::field("limit", format!("is a number from 1 to {MAX_LIMIT}")));
        }
        let after = self.continue_from.map(|text| read_cursor(&text, &sorting)).transpose()?;
        Ok(DeviceQuery { filter, sort, direction, after, limit })
    }
}

fn sorting(query: &DeviceQuery) -> String {
    let word =
        DeviceSort::ALL.into_iter().find(|(_, sort)| *sort == query.sort).map_or("name", |(word, _)| word);
    match query.direction {
        Direction::Ascending => word.to_owned(),
        Direction::Descending => format!("-{word}"),
    }
}

fn read_cursor(text: &str, sorting: &str) -> Result<DeviceCursor, ApiError> {
    let wrong = || ApiError::field("continue", "is not from a page of this list; begin again without it");
    if text.len() > 2_048 {
        return Err(wrong());
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
    let cursor: Cursor = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
    if cursor.s != sorting {
        return Err(wrong());
    }
    let key = match (cursor.t, cursor.n) {
        (Some(text), None) if !text.contains('\0') => SortKey::Text(text),
        (None, Some(number)) => SortKey::Number(number),
        _ => return Err(wrong()),
    };
    Ok(DeviceCursor { key, uid: cursor.u })
}

/// Writes a cursor for `?continue=`.
pub(super) fn write_cursor(query: &DeviceQuery, cursor: DeviceCursor) -> Result<String, ApiError> {
    let (t, n) = match cursor.key {
        SortKey::Text(text) => (Some(text), None),
        SortKey::Number(number) => (None, Some(number)),
    };
    let json =
        serde_json::to_vec(&Cursor { s: sorting(query), t, n, u: cursor.uid }).map_err(ApiError::internal)?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<DeviceQuery, String> {
        let query: ListQuery = serde_urlencoded::from_str(text).map_err(|error| error.to_string())?;
        query
            .read()
            .map_err(|error| error.problem().errors.first().map_or(String::new(), |e| e.field.clone()))
    }

    #[test]
    fn the_field_that_is_wrong_is_named() {
        for (text, field) in [
            ("labelSelector=a%20b", "labelSelector"),
            ("health=glowing", "health"),
            ("reachability=online,nowhere", "reachability"),
            ("sort=colour", "sort"),
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("continue=e30", "continue"),
            ("channel=No+Name", "channel"),
            ("q=%00", "q"),
        ] {
            assert_eq!(read(text).unwrap_err(), field, "{text}");
        }
        assert!(read("colour=red").unwrap_err().contains("colour"));
    }

    #[test]
    fn a_cursor_leads_back_and_fits_only_its_own_list() {
        let query = read("sort=-location").unwrap();
        let cursor = DeviceCursor { key: SortKey::Text("Ríga/1".to_owned()), uid: Uuid::from_u128(7) };
        let text = write_cursor(&query, cursor.clone()).unwrap();
        assert_eq!(read(&format!("sort=-location&continue={text}")).unwrap().after, Some(cursor));
        assert_eq!(read(&format!("sort=location&continue={text}")).unwrap_err(), "continue");
    }
}
