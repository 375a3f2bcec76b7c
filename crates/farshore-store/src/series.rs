//! Series that came from gateways: latest values, and blocks for ranges.

use std::collections::BTreeMap;

use farshore_domain::id::DeviceId;
use farshore_domain::time::UnixMs;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::TenantDb;
use crate::condition::{Conditions, bind_all};
use crate::error::StoreResult;
use crate::on;

/// The latest value of a series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatestRow {
    pub device: DeviceId,
    pub stream: String,
    pub series: Vec<u8>,
    pub measurement: String,
    pub field: String,
    pub tags: BTreeMap<String, String>,
    pub kind: String,
    pub at_ns: i64,
    /// JSON.
    pub value: String,
}

/// Where the page before ended.
pub type LatestCursor = (DeviceId, String, Vec<u8>);

/// A block of points in columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesBlock {
    pub sequence: i64,
    pub block: Vec<u8>,
}

impl TenantDb {
    /// Latest values of the series of these devices, by device, stream and series.
    pub async fn latest_series(
        &self,
        devices: &[DeviceId],
        measurement: Option<&str>,
        field: Option<&str>,
        after: Option<&LatestCursor>,
        limit: u32,
    ) -> StoreResult<Vec<LatestRow>> {
        type Row =
            (Uuid, String, Vec<u8>, String, String, Json<BTreeMap<String, String>>, String, i64, String);
        if devices.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.read().await?;
        let mut conditions = Conditions::default();
        let tenant = conditions.uuid(self.tenant.0);
        let devices = conditions.uuids(devices.iter().map(|device| device.0));
        conditions.and(&format!("tenant = {tenant} AND device IN ({devices})"));
        if let Some(measurement) = measurement {
            let measurement = conditions.text(measurement);
            conditions.and(&format!("measurement = {measurement}"));
        }
        if let Some(field) = field {
            let field = conditions.text(field);
            conditions.and(&format!("field = {field}"));
        }
        if let Some((device, stream, series)) = after {
            let device = conditions.uuid(device.0);
            let stream = conditions.text(stream);
            let series = conditions.bytes(series);
            conditions.and(&format!("(device, stream, series) > ({device}, {stream}, {series})"));
        }
        let limit = conditions.integer(i64::from(limit));
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT device, stream, series, measurement, field, tags, kind, at_ns, value FROM series_latest
             WHERE {} ORDER BY device, stream, series LIMIT {limit}",
            conditions.sql()
        ));
        let arguments = &conditions.arguments;
        let rows: Vec<Row> = on!(&mut tx, c => bind_all!(sqlx::query_as(sql).persistent(false), arguments).fetch_all(c).await)?;
        Ok(rows
            .into_iter()
            .map(|(device, stream, series, measurement, field, tags, kind, at_ns, value)| LatestRow {
                device: DeviceId(device),
                stream,
                series,
                measurement,
                field,
                tags: tags.0,
                kind,
                at_ns,
                value,
            })
            .collect())
    }

    /// Blocks of one stream of a gateway, as [`block_stream`](crate::sync::block_stream) names it, that hold anything from `from` to `to`; by number,
    /// after the number `after`, at most `limit`.
    pub async fn series_blocks(
        &self,
        device: DeviceId,
        stream: &str,
        (from, to): (UnixMs, UnixMs),
        after: i64,
        limit: u32,
    ) -> StoreResult<Vec<SeriesBlock>> {
        let mut tx = self.read().await?;
        let rows: Vec<(i64, Vec<u8>)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT sequence, block FROM metric_blocks
             WHERE tenant = $1 AND device = $2 AND stream = $3 AND to_ms >= $4 AND from_ms <= $5 AND sequence > $6
             ORDER BY sequence LIMIT $7")
            .bind(self.tenant.0).bind(device.0).bind(stream).bind(from.0).bind(to.0).bind(after)
            .bind(i64::from(limit)).fetch_all(c).await)?;
        Ok(rows.into_iter().map(|(sequence, block)| SeriesBlock { sequence, block }).collect())
    }
}
