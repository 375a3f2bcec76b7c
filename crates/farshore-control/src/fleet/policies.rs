//! Policies: their versions, and what one device obeys.

use axum::Json;
use axum::extract::Path;
use axum::http::Method;
use farshore_api::policy::{DevicePolicy, PolicyStatus, PolicyVersion};
use farshore_api::{List, ListMetadata, Problem};
use farshore_domain::access::Permission;
use farshore_domain::id::DeviceId;
use farshore_domain::label::Labels;
use farshore_domain::policy::{Bound, Effective, POLICY_CAPABILITY, PolicySpec, effective};
use farshore_store::objects::{self, ObjectKind, Stored};
use farshore_store::{StoreError, StoreResult, TenantDb};
use serde::Deserialize;

use super::objects::Kind;
use crate::error::{ApiError, ApiResult};
use crate::extract::Query;
use crate::route::{Access, Db, Route, route};

impl Kind for PolicySpec {
    const KIND: ObjectKind = ObjectKind::Policy;
    type Status = PolicyStatus;

    fn check(&self) -> ApiResult<()> {
        Self::check(self).map_err(|error| ApiError::field(error.field, error.what))
    }

    async fn statuses(db: &TenantDb, page: &[Stored<Self>]) -> ApiResult<Vec<PolicyStatus>> {
        let mut tx = db.read().await?;
        let devices = db.fleet_devices(&mut tx).await?;
        let status = |policy: &Stored<Self>| {
            let matching = devices.iter().filter(|device| policy.spec.selector.matches(&device.labels));
            PolicyStatus { devices: matching.count() as u64 }
        };
        Ok(page.iter().map(status).collect())
    }
}

/// What these policies say together to a device with these labels.
pub(crate) fn merged(policies: &[Stored<PolicySpec>], labels: &Labels) -> StoreResult<Effective> {
    let bound = policies.iter().map(|policy| Bound {
        name: &policy.metadata.name,
        version: policy.metadata.resource_version,
        spec: &policy.spec,
    });
    effective(bound, labels)
        .map_err(|error| StoreError::Corrupt(format!("policies can't be merged: {error}")))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// At most this many; 100 when left out, 1,000 at most.
    limit: Option<u32>,
    /// Versions older than this one.
    #[serde(rename = "continue")]
    continue_from: Option<i64>,
}

/// Lists the versions of a policy, the newest first.
#[utoipa::path(get, path = "/api/policies/{id}/versions", tag = "fleet", params(("id" = String, Path), Page),
    responses((status = 200, body = List<PolicyVersion>), (status = "4XX", body = Problem)))]
pub(super) async fn versions(
    Db(db): Db,
    Path(id): Path<String>,
    Query(page): Query<Page>,
) -> ApiResult<Json<List<PolicyVersion>>> {
    let limit = crate::extract::limit(page.limit)?;
    let rows = db.policy_versions(&id, page.continue_from, limit).await?;
    let full = rows.len() == limit as usize;
    let continue_from = rows.last().filter(|_| full).map(|last| last.version.to_string());
    let items = rows
        .into_iter()
        .map(|row| PolicyVersion { version: row.version, at: row.at, actor: row.actor, spec: row.spec })
        .collect();
    Ok(Json(List { items, metadata: ListMetadata { continue_from, total: None } }))
}

/// Shows what a device obeys, and which policy each value comes from.
#[utoipa::path(get, path = "/api/devices/{id}/policy", tag = "devices", params(("id" = String, Path)),
    responses((status = 200, body = DevicePolicy), (status = "4XX", body = Problem)))]
pub(super) async fn of_device(Db(db): Db, Path(id): Path<String>) -> ApiResult<Json<DevicePolicy>> {
    let row = db.device(&id).await?;
    let mut tx = db.read().await?;
    let device = db.fleet_device(&mut tx, DeviceId(row.metadata.uid)).await?;
    let device = device.ok_or(StoreError::NotFound("device"))?;
    let policies = objects::all_in::<PolicySpec>(&mut tx, db.tenant().0, ObjectKind::Policy).await?;
    Ok(Json(DevicePolicy {
        device: device.name,
        understood: device.capabilities.iter().any(|capability| capability == POLICY_CAPABILITY),
        effective: merged(&policies, &device.labels)?,
    }))
}

/// The rows that are not the same for each kind.
pub(super) fn rows() -> [Route; 2] {
    [
        route(Method::GET, "/api/policies/{id}/versions", Access::Needs(Permission::PolicyRead), versions),
        route(Method::GET, "/api/devices/{id}/policy", Access::Needs(Permission::PolicyRead), of_device),
    ]
}
