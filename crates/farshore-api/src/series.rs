//! Series that gateways send: latest values, and ranges thinned out on the server.

use std::collections::BTreeMap;

use farshore_domain::id::DeviceId;
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which value stands for the points of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SeriesAggregate {
    #[default]
    Mean,
    Min,
    Max,
    Sum,
    Count,
    Last,
}

/// What makes one line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SeriesGroup {
    /// Each series of each device by itself.
    #[default]
    Series,
    /// What a device has of a measurement and field, together.
    Device,
    /// What a location has of them.
    Location,
    /// What all have of them.
    All,
}

/// `GET /api/series`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeriesRange {
    pub from: UnixMs,
    pub to: UnixMs,
    pub step_ms: i64,
    pub aggregate: SeriesAggregate,
    pub by: SeriesGroup,
    pub items: Vec<SeriesLine>,
    /// The answer is not whole: there was more than it may hold (select less), or something that is stored can't be read.
    pub truncated: bool,
}

/// One line. What its points do not share is left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeriesLine {
    pub measurement: String,
    pub field: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_name: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// Starts of the steps that hold points.
    pub at: Vec<i64>,
    /// A value for each; `null` where the points are no numbers.
    pub values: Vec<Option<f64>>,
}

/// The newest point of a series, in `GET /api/series/latest`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeriesLatest {
    /// `measurement{tag=value,…} field`, to be read, not parsed.
    pub name: String,
    pub measurement: String,
    pub field: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    pub device: DeviceId,
    pub device_name: Name,
    pub location: String,
    pub stream: String,
    /// `float`, `integer`, `boolean`, `text` or `json`.
    pub kind: String,
    pub at: UnixMs,
    /// A long text is cut.
    pub value: serde_json::Value,
}
