//! What events tell of the past: how apps changed on devices, and when devices were away.

use farshore_domain::device::AppPhase;
use farshore_domain::id::DeviceId;
use farshore_domain::time::UnixMs;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::TenantDb;
use crate::error::StoreResult;
use crate::on;

/// At most so many of the newest events of a tenant are looked through.
const EVENTS: i64 = 300_000;

/// An app entered another phase on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppChanged {
    pub device: DeviceId,
    pub at: UnixMs,
    pub phase: AppPhase,
    pub active_release: Option<Uuid>,
}

/// A device came back after it was offline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Absence {
    pub device: DeviceId,
    /// When it was heard from last.
    pub from: UnixMs,
    /// When it was back.
    pub to: UnixMs,
}

impl TenantDb {
    /// The newest changes of one app since a moment, on all devices, oldest first.
    pub async fn past_app_changes(
        &self,
        app: &str,
        since: UnixMs,
        limit: u32,
    ) -> StoreResult<Vec<AppChanged>> {
        let rows = self.past_events("device.app-changed", since, limit).await?;
        Ok(rows
            .into_iter()
            .filter(|(_, _, payload)| payload["app"].as_str() == Some(app))
            .map(|(device, at, payload)| AppChanged {
                device,
                at,
                phase: AppPhase::from_word(payload["to"].as_str().unwrap_or_default()),
                active_release: payload["activeRelease"].as_str().and_then(|uid| uid.parse().ok()),
            })
            .collect())
    }

    /// The newest absences that have ended since a moment, of all devices, oldest first.
    pub async fn past_absences(&self, since: UnixMs, limit: u32) -> StoreResult<Vec<Absence>> {
        let rows = self.past_events("device.online", since, limit).await?;
        Ok(rows
            .into_iter()
            .filter_map(|(device, to, payload)| {
                let from = UnixMs(payload["lastSeenAt"].as_i64()?);
                (from < to).then_some(Absence { device, from, to })
            })
            .collect())
    }

    async fn past_events(
        &self,
        kind: &str,
        since: UnixMs,
        limit: u32,
    ) -> StoreResult<Vec<(DeviceId, UnixMs, serde_json::Value)>> {
        let mut tx = self.read().await?;
        let mut rows: Vec<(Uuid, i64, Json<serde_json::Value>)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT subject, at, payload FROM events
             WHERE tenant = $1 AND kind = $2 AND subject_kind = 'Device' AND at >= $3
               AND sequence > (SELECT COALESCE(MAX(last), 0) - $4 FROM event_sequences WHERE tenant = $1)
             ORDER BY sequence DESC LIMIT $5")
            .bind(self.tenant.0).bind(kind).bind(since.0).bind(EVENTS).bind(i64::from(limit)).fetch_all(c).await)?;
        rows.reverse();
        Ok(rows.into_iter().map(|(device, at, payload)| (DeviceId(device), UnixMs(at), payload.0)).collect())
    }
}
