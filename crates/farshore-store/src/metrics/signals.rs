//! What the conditions of a rollout read of devices: newest values, incidents and events since a moment.

use std::collections::BTreeMap;

use farshore_domain::id::DeviceId;
use farshore_domain::time::UnixMs;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::TenantDb;
use crate::condition::{Conditions, bind_all};
use crate::error::StoreResult;
use crate::on;

/// Devices in one statement.
const DEVICES_PER_STATEMENT: usize = 500;
/// At most this many incidents, and as many events, are read for one statement: enough for any condition to be true.
const MOST_ROWS: i64 = 10_000;

/// The newest values of a device's own measurements, by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Newest {
    pub device: DeviceId,
    pub at: UnixMs,
    pub values: BTreeMap<String, f64>,
}

impl TenantDb {
    /// The newest values of these devices; those that have sent none are missing.
    pub async fn newest_values(&self, devices: &[DeviceId]) -> StoreResult<Vec<Newest>> {
        let mut tx = self.read().await?;
        let mut found = Vec::new();
        for chunk in devices.chunks(DEVICES_PER_STATEMENT) {
            let mut conditions = Conditions::default();
            let tenant = conditions.uuid(self.tenant.0);
            let list = conditions.uuids(chunk.iter().map(|device| device.0));
            let sql = sqlx::AssertSqlSafe(format!(
                "SELECT device, at, latest FROM metric_latest WHERE tenant = {tenant} AND device IN ({list}) AND stream = 'host'"
            ));
            let arguments = &conditions.arguments;
            let rows: Vec<(Uuid, i64, Json<BTreeMap<String, f64>>)> = on!(&mut tx, c => bind_all!(sqlx::query_as(sql).persistent(false), arguments).fetch_all(c).await)?;
            found.extend(rows.into_iter().map(|(device, at, values)| Newest {
                device: DeviceId(device),
                at: UnixMs(at),
                values: values.0,
            }));
        }
        Ok(found)
    }

    /// When incidents of these devices began, from `since` on.
    pub async fn incidents_begun(
        &self,
        devices: &[DeviceId],
        since: UnixMs,
    ) -> StoreResult<Vec<(DeviceId, UnixMs)>> {
        let mut tx = self.read().await?;
        let mut found = Vec::new();
        for chunk in devices.chunks(DEVICES_PER_STATEMENT) {
            let mut conditions = Conditions::default();
            let tenant = conditions.uuid(self.tenant.0);
            let list = conditions.uuids(chunk.iter().map(|device| device.0));
            let since = conditions.integer(since.0);
            let sql = sqlx::AssertSqlSafe(format!(
                "SELECT device, started_at FROM incidents
                 WHERE tenant = {tenant} AND device IN ({list}) AND started_at >= {since} LIMIT {MOST_ROWS}"
            ));
            let arguments = &conditions.arguments;
            let rows: Vec<(Uuid, i64)> = on!(&mut tx, c => bind_all!(sqlx::query_as(sql).persistent(false), arguments).fetch_all(c).await)?;
            found.extend(rows.into_iter().map(|(device, at)| (DeviceId(device), UnixMs(at))));
        }
        Ok(found)
    }

    /// What these devices told from `since` on, of these kinds of events.
    pub async fn events_told(
        &self,
        devices: &[DeviceId],
        kinds: &[&str],
        since: UnixMs,
    ) -> StoreResult<Vec<(DeviceId, String, UnixMs)>> {
        let mut tx = self.read().await?;
        let mut found = Vec::new();
        for chunk in devices.chunks(DEVICES_PER_STATEMENT) {
            let mut conditions = Conditions::default();
            let tenant = conditions.uuid(self.tenant.0);
            let list = conditions.uuids(chunk.iter().map(|device| device.0));
            let kinds = conditions.texts(kinds.iter().copied());
            let since = conditions.integer(since.0);
            let sql = sqlx::AssertSqlSafe(format!(
                "SELECT subject, kind, at FROM events
                 WHERE tenant = {tenant} AND subject IN ({list}) AND kind IN ({kinds}) AND at >= {since} LIMIT {MOST_ROWS}"
            ));
            let arguments = &conditions.arguments;
            let rows: Vec<(Uuid, String, i64)> = on!(&mut tx, c => bind_all!(sqlx::query_as(sql).persistent(false), arguments).fetch_all(c).await)?;
            found.extend(rows.into_iter().map(|(device, kind, at)| (DeviceId(device), kind, UnixMs(at))));
        }
        Ok(found)
    }
}
