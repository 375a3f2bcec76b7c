//! What conditions of rollouts read of devices: their latest measurements, and what was told of them since a moment.

use std::collections::BTreeMap;

use farshore_domain::id::DeviceId;
use farshore_domain::time::UnixMs;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::TenantDb;
use crate::db::Tx;
use crate::error::StoreResult;
use crate::on;

/// At most this many incidents, and events of one kind, are read; a condition that counts so many has been decided long ago.
const MAX_SIGNS: i64 = 100_000;

/// The latest measurements of one device.
#[derive(Clone, Debug, PartialEq)]
pub struct LatestReadings {
    pub at: UnixMs,
    /// By metric.
    pub values: BTreeMap<String, f64>,
}

/// A device, when it was measured, and each metric's value.
type LatestRow = (Uuid, i64, Json<BTreeMap<String, f64>>);

impl TenantDb {
    /// The latest measurements of every device.
    pub async fn latest_readings(&self, tx: &mut Tx) -> StoreResult<BTreeMap<DeviceId, LatestReadings>> {
        let rows: Vec<LatestRow> = on!(tx, c => sqlx::query_as(
            "SELECT device, at, latest FROM metric_latest WHERE tenant = $1 AND stream = 'host'")
            .bind(self.tenant.0).fetch_all(c).await)?;
        let read = |(device, at, values): (Uuid, i64, Json<BTreeMap<String, f64>>)| {
            (DeviceId(device), LatestReadings { at: UnixMs(at), values: values.0 })
        };
        Ok(rows.into_iter().map(read).collect())
    }

    /// When incidents of devices began, from a moment on.
    pub async fn incidents_since(
        &self,
        tx: &mut Tx,
        since: UnixMs,
    ) -> StoreResult<BTreeMap<DeviceId, Vec<UnixMs>>> {
        let rows: Vec<(Uuid, i64)> = on!(tx, c => sqlx::query_as(
            "SELECT device, started_at FROM incidents WHERE tenant = $1 AND started_at >= $2 LIMIT $3")
            .bind(self.tenant.0).bind(since.0).bind(MAX_SIGNS).fetch_all(c).await)?;
        Ok(by_device(rows))
    }

    /// When events of one kind were told of devices, from a moment on.
    pub async fn device_events_since(
        &self,
        tx: &mut Tx,
        kind: &str,
        since: UnixMs,
    ) -> StoreResult<BTreeMap<DeviceId, Vec<UnixMs>>> {
        let rows: Vec<(Uuid, i64)> = on!(tx, c => sqlx::query_as(
            "SELECT subject, at FROM events
             WHERE tenant = $1 AND kind = $2 AND at >= $3 AND subject_kind = 'Device' LIMIT $4")
            .bind(self.tenant.0).bind(kind).bind(since.0).bind(MAX_SIGNS).fetch_all(c).await)?;
        Ok(by_device(rows))
    }
}

fn by_device(rows: Vec<(Uuid, i64)>) -> BTreeMap<DeviceId, Vec<UnixMs>> {
    let mut signs: BTreeMap<DeviceId, Vec<UnixMs>> = BTreeMap::new();
    for (device, at) in rows {
        signs.entry(DeviceId(device)).or_default().push(UnixMs(at));
    }
    signs
}
