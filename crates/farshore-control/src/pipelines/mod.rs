//! Pipelines of gateways as config: checked when they are set, given to gateways with their sync, and how they stand there.

mod report;
mod routes;
mod wanted;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use farshore_api::pipeline::{ConfigSeen, DeviceConfig, GivenPipelines};
use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use farshore_store::TenantDb;

pub(crate) use report::fit;
pub use routes::{PipelineDocs, routes};
pub(crate) use wanted::Held;

use crate::error::ApiResult;

/// How long configs are remembered. Gateways ask by the thousand, and what changed on this replica is looked at again at once.
const REMEMBERED_MS: i64 = 2_000;
/// Tenants whose configs are remembered.
const MAX_REMEMBERED: usize = 1_000;

/// When configs were read, and those with pipelines among them.
type Remembered = (UnixMs, Arc<[Held]>);

/// The configs that hold pipelines, as they were a moment ago.
#[derive(Debug, Default)]
pub struct Pipelines {
    known: Mutex<HashMap<TenantId, Remembered>>,
    /// One reads them at a time; those who waited find what it has read.
    reading: tokio::sync::Mutex<()>,
}

impl Pipelines {
    /// Some config of the tenant changed: look again.
    pub(crate) fn changed(&self, tenant: TenantId) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&tenant);
    }

    fn remembered(&self, tenant: TenantId, now: UnixMs) -> Option<Arc<[Held]>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, held) = known.get(&tenant)?;
        (now.since_ms(*at).abs() < REMEMBERED_MS).then(|| Arc::clone(held))
    }

    async fn held(&self, db: &TenantDb, now: UnixMs) -> ApiResult<Arc<[Held]>> {
        let tenant = db.tenant();
        if let Some(held) = self.remembered(tenant, now) {
            return Ok(held);
        }
        let _one = self.reading.lock().await;
        if let Some(held) = self.remembered(tenant, now) {
            return Ok(held);
        }
        let held: Arc<[Held]> = wanted::load(db).await?.into();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(tenant, (now, Arc::clone(&held)));
        Ok(held)
    }

    /// What a gateway is given that has seen this before.
    pub(crate) async fn given(
        &self,
        db: &TenantDb,
        device: (DeviceId, &Name),
        seen: &ConfigSeen,
        now: UnixMs,
    ) -> ApiResult<DeviceConfig> {
        let held = self.held(db, now).await?;
        let labels = db.device_labels(device.0).await?;
        let pipelines = wanted::of(&held, device.1, &labels).map(|held| GivenPipelines {
            digest: held.digest,
            from: held.config.clone(),
            text: (seen.pipelines != Some(held.digest)).then(|| held.text.clone()),
        });
        Ok(DeviceConfig { labels, pipelines })
    }
}
