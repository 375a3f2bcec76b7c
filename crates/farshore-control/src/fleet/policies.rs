//! Policies: their versions, and what one device obeys.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::Path;
use axum::http::Method;
use farshore_api::policy::{DevicePolicy, PolicyChange, PolicyPreview, PolicyStatus, PolicyVersion};
use farshore_api::{List, ListMetadata, NewObject, Problem};
use farshore_domain::access::Permission;
use farshore_domain::id::DeviceId;
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::policy::{Bound, Changed, DeviceHours, Effective, PolicyError, PolicySpec, effective};
use farshore_domain::schedule::{MOVES_TO_REFUSE, Shut, WindowKind, Zone};
use farshore_store::fleet::FleetDevice;
use farshore_store::objects::{self, ObjectKind, Stored};
use farshore_store::{StoreError, StoreResult, TenantDb};
use serde::Deserialize;

use super::objects::Kind;
use super::snapshot::zone_of;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Query};
use crate::route::{Access, Db, Route, route};

impl Kind for PolicySpec {
    const KIND: ObjectKind = ObjectKind::Policy;
    type Status = PolicyStatus;

    fn check(&self) -> ApiResult<()> {
        let wrong = |error: PolicyError| ApiError::field(error.field, error.what);
        Self::check(self).map_err(wrong)?;
        self.check_openings(now()).map_err(wrong)
    }

    async fn check_among(&self, db: &TenantDb, name: &Name) -> ApiResult<()> {
        if self.rules.schedule.is_empty() {
            return Ok(());
        }
        Supposed::load(db, name, self).await?.check_openings()
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
    let effective = merged(&policies, &device.labels)?;
    let needed = effective.rules.capability();
    Ok(Json(DevicePolicy {
        device: device.name,
        understood: device.capabilities.iter().any(|capability| capability == needed),
        effective,
    }))
}

/// Names and versions of the policies that apply to a device, and whether the new one does.
type Applying = (Vec<(Name, i64)>, bool);

/// The tenant's policies as they are, and as they would be with one that is new or changed.
struct Supposed<'a> {
    name: &'a Name,
    spec: &'a PolicySpec,
    devices: Vec<FleetDevice>,
    policies: Vec<Stored<PolicySpec>>,
}

impl<'a> Supposed<'a> {
    async fn load(db: &TenantDb, name: &'a Name, spec: &'a PolicySpec) -> StoreResult<Self> {
        let mut tx = db.read().await?;
        let devices = db.fleet_devices(&mut tx).await?;
        let policies = objects::all_in::<PolicySpec>(&mut tx, db.tenant().0, ObjectKind::Policy).await?;
        Ok(Self { name, spec, devices, policies })
    }

    fn applying(&self, device: &FleetDevice) -> Applying {
        let matching = self.policies.iter().filter(|policy| policy.spec.selector.matches(&device.labels));
        let mark =
            |policy: &Stored<PolicySpec>| (policy.metadata.name.clone(), policy.metadata.resource_version);
        (matching.map(mark).collect(), self.spec.selector.matches(&device.labels))
    }

    /// What a device with these labels obeys.
    fn now(&self, labels: &Labels) -> StoreResult<Effective> {
        merged(&self.policies, labels)
    }

    /// What it would obey.
    fn then(&self, labels: &Labels) -> StoreResult<Effective> {
        let old = |policy: &&Stored<PolicySpec>| policy.metadata.name == *self.name;
        let version = self.policies.iter().find(old).map_or(1, |old| old.metadata.resource_version + 1);
        let others = self.policies.iter().filter(|policy| !old(policy)).map(|policy| Bound {
            name: &policy.metadata.name,
            version: policy.metadata.resource_version,
            spec: &policy.spec,
        });
        effective(others.chain([Bound { name: self.name, version, spec: self.spec }]), labels)
            .map_err(|error| StoreError::Corrupt(format!("policies can't be merged: {error}")))
    }

    /// Refuses windows and blackouts that, with those of other policies, would leave devices no time to install anything within a year.
    fn check_openings(&self) -> ApiResult<()> {
        if self.spec.rules.schedule.is_empty() {
            return Ok(());
        }
        let (now, mut moves) = (now(), MOVES_TO_REFUSE);
        let mut known: BTreeMap<(Applying, Option<String>), Option<DeviceHours>> = BTreeMap::new();
        let mut held: Vec<(&Name, DeviceHours)> = Vec::new();
        let matching: Vec<_> =
            self.devices.iter().filter(|device| self.spec.selector.matches(&device.labels)).collect();
        for device in &matching {
            let place = (self.applying(device), zone_of(device));
            if !known.contains_key(&place) {
                let zone = Zone::of_device(place.1.as_deref());
                let mut never = |effective: &Effective| {
                    DeviceHours::of(effective).filter(|hours| hours.never_opens(&zone, now, &mut moves))
                };
                let shut = never(&self.then(&device.labels)?);
                // What never opened before is not this policy's doing.
                let shut = match shut {
                    Some(hours) if never(&self.now(&device.labels)?).is_none() => Some(hours),
                    _ => None,
                };
                known.insert(place.clone(), shut);
            }
            if let Some(Some(hours)) = known.get(&place) {
                held.push((&device.name, hours.clone()));
            }
        }
        let Some((_, hours)) = held.first() else { return Ok(()) };
        let (windows, blackouts) =
            (hours.whose(Shut::Window(WindowKind::Maintenance)), hours.whose(Shut::Blackout));
        let (field, other) = match windows {
            Some(windows) if windows == self.name => ("windows", blackouts),
            _ => ("blackouts", windows),
        };
        let other = other.filter(|other| *other != self.name);
        let with = other.map(|other| format!(", together with policy {other}")).unwrap_or_default();
        let names: Vec<&str> = held.iter().take(3).map(|(name, _)| name.as_str()).collect();
        let more = if held.len() > names.len() { ", …" } else { "" };
        let text = format!(
            "leave {} of {} devices ({}{more}) no time to install anything within the next 366 days{with}",
            held.len(),
            matching.len(),
            names.join(", "),
        );
        Err(ApiError::field(format!("spec.rules.schedule.{field}"), text))
    }
}

/// At most this many devices are named in a preview.
const MAX_NAMED_DEVICES: usize = 200;

/// Says which devices would obey something else if a policy were as the request says. Stores nothing; a policy that is not good is refused as it would be
/// when it is stored.
#[utoipa::path(post, path = "/api/policies:preview", tag = "fleet", request_body = NewObject<PolicySpec>,
    responses((status = 200, body = PolicyPreview), (status = "4XX", body = Problem)))]
pub(super) async fn preview(
    Db(db): Db,
    Body(NewObject { metadata, spec, .. }): Body<NewObject<PolicySpec>>,
) -> ApiResult<Json<PolicyPreview>> {
    Kind::check(&spec)?;
    let supposed = Supposed::load(&db, &metadata.name, &spec).await?;
    supposed.check_openings()?;
    // Devices to which the same policies apply change alike.
    let mut known: BTreeMap<Applying, Vec<Changed>> = BTreeMap::new();
    let mut counted: BTreeMap<Changed, u64> = BTreeMap::new();
    let mut answer = PolicyPreview { matching: 0, changed: 0, changes: Vec::new(), devices: Vec::new() };
    for device in &supposed.devices {
        let mixture = supposed.applying(device);
        answer.matching += u64::from(mixture.1);
        if !known.contains_key(&mixture) {
            let (now, then) = (supposed.now(&device.labels)?, supposed.then(&device.labels)?);
            let changes = now
                .changes_to(&then)
                .map_err(|error| StoreError::Corrupt(format!("policies can't be compared: {error}")))?;
            known.insert(mixture.clone(), changes);
        }
        let changes = known.get(&mixture).map(Vec::as_slice).unwrap_or_default();
        for change in changes {
            *counted.entry(change.clone()).or_default() += 1;
        }
        if !changes.is_empty() {
            answer.changed += 1;
            answer.devices.push(device.name.clone());
        }
    }
    answer.devices.sort_unstable();
    answer.devices.truncate(MAX_NAMED_DEVICES);
    let change = |(change, devices): (Changed, u64)| PolicyChange {
        path: change.path,
        from: change.from,
        to: change.to,
        policy: change.policy,
        devices,
    };
    answer.changes = counted.into_iter().map(change).collect();
    answer.changes.sort_by(|a, b| b.devices.cmp(&a.devices).then_with(|| a.path.cmp(&b.path)));
    Ok(Json(answer))
}

/// The rows that are not the same for each kind.
pub(super) fn rows() -> [Route; 3] {
    [
        route(Method::POST, "/api/policies/~preview", Access::Needs(Permission::PolicyRead), preview)
            .unhurried(),
        route(Method::GET, "/api/policies/{id}/versions", Access::Needs(Permission::PolicyRead), versions),
        route(Method::GET, "/api/devices/{id}/policy", Access::Needs(Permission::PolicyRead), of_device),
    ]
}
