//! `POST /api/assignments:preview`: which devices would get other releases if objects were as the request says. Stores nothing.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::Method;
use farshore_api::fleet::{AssignmentChange, AssignmentChanges, AssignmentPreview};
use farshore_api::{NewObject, Problem};
use farshore_domain::access::Permission;
use farshore_domain::id::ReleaseId;
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use farshore_store::fleet::FleetDevice;

use super::snapshot::Snapshot;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::Body;
use crate::route::{Access, Db, Route, route};

/// At most this many objects in one request.
const MAX_OBJECTS: usize = 1_000;
/// At most this many changes in one answer.
const MAX_ITEMS: usize = 1_000;

/// The address's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(preview))]
pub struct PreviewDocs;

/// The address's row. It only reads.
pub(super) fn row() -> Route {
    route(Method::POST, "/api/assignments/~preview", Access::Needs(Permission::FleetRead), preview)
        .unhurried()
}

/// Says which devices would get other releases, by the same decision that the driver makes.
#[utoipa::path(post, path = "/api/assignments:preview", tag = "fleet", request_body = AssignmentChanges,
    responses((status = 200, body = AssignmentPreview), (status = "4XX", body = Problem)))]
async fn preview(Db(db): Db, Body(changes): Body<AssignmentChanges>) -> ApiResult<Json<AssignmentPreview>> {
    let count =
        changes.placements.len() + changes.pins.len() + changes.devices.len() + changes.rollouts.len();
    if count == 0 {
        let why = "holds nothing to look ahead at: name placements, pins, devices or rollouts";
        return Err(ApiError::field("body", why));
    }
    if count > MAX_OBJECTS {
        return Err(ApiError::field("body", format!("has at most {MAX_OBJECTS} objects")));
    }
    let at = now();
    let mut read = db.read().await?;
    let before = Snapshot::load(&db, &mut read, at).await?;
    let mut after = Snapshot::load(&db, &mut read, at).await?;
    drop(read);
    suppose(&mut after, changes)?;
    let mut answer =
        AssignmentPreview { devices: before.devices.len() as u64, changed: 0, items: Vec::new() };
    for (id, device) in &before.devices {
        let Some(then) = after.devices.get(id) else { continue };
        let (old, new) = (releases(&before, device, at), releases(&after, then, at));
        if old == new {
            continue;
        }
        answer.changed += 1;
        let version = |release: Option<&ReleaseId>| {
            release.and_then(|release| before.known(*release)).map(|known| known.version.to_string())
        };
        let mut apps: Vec<&Name> = old.keys().chain(new.keys()).collect();
        apps.sort_unstable();
        apps.dedup();
        for app in apps {
            let (from, to) = (old.get(app), new.get(app));
            if from != to && answer.items.len() < MAX_ITEMS {
                answer.items.push(AssignmentChange {
                    device: id.0,
                    name: device.name.clone(),
                    location: device.location.clone(),
                    app: app.clone(),
                    from: version(from),
                    to: version(to),
                });
            }
        }
    }
    answer.items.sort_by(|a, b| (&a.name, &a.app).cmp(&(&b.name, &b.app)));
    Ok(Json(answer))
}

fn releases(snapshot: &Snapshot, device: &FleetDevice, at: UnixMs) -> BTreeMap<Name, ReleaseId> {
    snapshot.assign(device, at).apps.into_iter().map(|app| (app.app, app.release)).collect()
}

fn suppose(snapshot: &mut Snapshot, changes: AssignmentChanges) -> ApiResult<()> {
    for NewObject { metadata, spec, .. } in changes.placements {
        snapshot.suppose_placement(metadata.name, spec);
    }
    for NewObject { metadata, spec, .. } in changes.pins {
        snapshot.suppose_pin(metadata.name, spec);
    }
    for NewObject { metadata, spec, .. } in changes.devices {
        let known = snapshot.devices.values_mut().find(|device| device.name == metadata.name);
        let device = known.ok_or_else(|| {
            let why = format!("names no device: there is no {}", metadata.name);
            ApiError::field("devices.metadata.name", why)
        })?;
        device.channel = spec.channel;
        device.labels = metadata.labels;
    }
    for (index, NewObject { spec, .. }) in changes.rollouts.into_iter().enumerate() {
        let release = crate::rollouts::resolve(snapshot, &spec).map_err(|_| {
            ApiError::field(format!("rollouts[{index}].spec.release"), "is no release of the app")
        })?;
        snapshot.suppose_current(&spec.channel, &spec.app, release.uid);
    }
    Ok(())
}
