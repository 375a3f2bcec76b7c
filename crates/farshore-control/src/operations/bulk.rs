//! The same to many devices: shown first, then done as it was shown or not at all.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use farshore_api::operation::{FleetVerb, OperateDevices, OperatePlan, PlannedDevice};
use farshore_api::{ErrorCode, Problem};
use farshore_domain::access::Permission;
use farshore_domain::device::{Lifecycle, Reachability};
use farshore_domain::digest::Digest;
use farshore_domain::id::DeviceId;
use farshore_domain::operation::{Kind, Refusal};
use farshore_store::TenantDb;
use farshore_store::devices::{DeviceChange, LifecycleStep};
use farshore_store::fleet::FleetDevice;
use farshore_store::operations::described;
use uuid::Uuid;

use super::ask::{self, Fleet};
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::Body;
use crate::route::{Caller, Db};

/// At most this many devices in one request.
const MAX_DEVICES: usize = 10_000;
/// At most this many named ones.
const MAX_NAMED: usize = 1_000;
const MAX_SHOWN: usize = 1_000;

fn selected<'a>(fleet: &'a Fleet, body: &OperateDevices) -> ApiResult<Vec<&'a FleetDevice>> {
    if body.selector.is_none() && body.devices.is_empty() {
        return Err(ApiError::field("selector", "or devices says which devices"));
    }
    if body.devices.len() > MAX_NAMED {
        return Err(ApiError::field("devices", format!("names at most {MAX_NAMED}; use a selector")));
    }
    let mut chosen: BTreeSet<DeviceId> = BTreeSet::new();
    for name in &body.devices {
        let is = |device: &&FleetDevice| device.name.as_str() == name || device.id.to_string() == *name;
        let found = fleet.devices.iter().find(is);
        let shown: String = name.chars().take(64).collect();
        let missing = || ApiError::new(ErrorCode::NotFound, format!("There is no device {shown:?}."));
        let found = found.ok_or_else(missing)?;
        chosen.insert(found.id);
    }
    if let Some(selector) = &body.selector {
        let matching = fleet.devices.iter().filter(|device| selector.matches(&device.labels));
        chosen.extend(matching.filter(|device| device.lifecycle.may_connect()).map(|device| device.id));
    }
    if chosen.len() > MAX_DEVICES {
        return Err(ApiError::field("selector", format!("matches more than {MAX_DEVICES} devices")));
    }
    let mut devices: Vec<_> = fleet.devices.iter().filter(|device| chosen.contains(&device.id)).collect();
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(devices)
}

fn check(body: &OperateDevices) -> ApiResult<()> {
    match (body.verb, body.verb.operation()) {
        (FleetVerb::Unknown, _) => return Err(ApiError::field("verb", "is not known")),
        (_, Some(kind)) => ask::check(kind, &body.ask)?,
        (_, None) => crate::extract::check_text("reason", &body.ask.reason, 500)?,
    }
    let sets = body.verb == FleetVerb::SetChannel;
    if sets != body.channel.is_some() {
        let what = if sets { "is needed" } else { "belongs to set-channel" };
        return Err(ApiError::field("channel", what));
    }
    if !body.dry_run && body.preview.is_none() {
        let what = "is needed: send the same with dryRun first, and the preview that it answers";
        return Err(ApiError::field("preview", what));
    }
    Ok(())
}

fn judge(fleet: &Fleet, device: &FleetDevice, body: &OperateDevices) -> ApiResult<Result<String, Refusal>> {
    let no = |message: String| Ok(Err(Refusal { code: "Lifecycle".to_owned(), message }));
    let is = device.lifecycle;
    Ok(Ok(match (body.verb, body.verb.operation()) {
        (_, Some(kind)) => {
            if let Err(refusal) = fleet.judge(device, kind, &body.ask)? {
                return Ok(Err(refusal));
            }
            let app = body.ask.app.as_ref().map(ToString::to_string).unwrap_or_default();
            match kind {
                Kind::Drain => "stops its apps and keeps them stopped until it is uncordoned".to_owned(),
                Kind::Rollback => format!("takes {app} back to its earlier release and holds it there"),
                _ => described(kind, &app, &body.ask.arguments),
            }
        }
        (FleetVerb::Cordon, _) if is == Lifecycle::Claimed => "gets no new assignments".to_owned(),
        (FleetVerb::Uncordon, _)
            if matches!(is, Lifecycle::Cordoned | Lifecycle::Draining | Lifecycle::Drained) =>
        {
            "gets assignments again, and its apps start if they were stopped".to_owned()
        }
        (FleetVerb::SetChannel, _) if is.may_connect() => match &body.channel {
            Some(channel) if *channel == device.channel => {
                return Ok(Err(Refusal {
                    code: "Nothing".to_owned(),
                    message: format!("it is in {channel} already"),
                }));
            }
            Some(channel) => format!("leaves {} for {channel}", device.channel),
            None => return no("no channel".to_owned()),
        },
        _ => return no(format!("the device is {is}")),
    }))
}

/// A fingerprint of what was shown: who, what, and who is refused why.
fn token(
    db: &TenantDb,
    body: &OperateDevices,
    judged: &[(&FleetDevice, Result<String, Refusal>)],
) -> ApiResult<String> {
    let devices: Vec<_> = judged
        .iter()
        .map(|(device, judged)| (device.id, judged.as_ref().err().map(|refusal| refusal.code.as_str())))
        .collect();
    let shown = (db.tenant(), body.verb, &body.ask, &body.channel, devices);
    let bytes = serde_json::to_vec(&shown).map_err(ApiError::internal)?;
    Ok(Digest::of(&bytes).to_string())
}

fn pace(body: &OperateDevices, accepted: u32) -> String {
    let Some(kind) = body.verb.operation() else { return "all at once".to_owned() };
    let most = body.ask.budget.concurrent(kind, accepted).min(accepted.max(1));
    let groups = body.ask.budget.groups(kind);
    let kept: Vec<String> =
        groups.iter().map(|group| format!("{} of each {}", group.max_unavailable, group.label)).collect();
    match kept.as_slice() {
        [] => format!("at most {most} at once"),
        kept => format!("at most {most} at once, and at most {} down", kept.join(", ")),
    }
}

/// Asks something of many devices. With `dryRun` it only says which, what each would do, and which are refused and why; without, the `preview` of
/// that answer is needed, and when the devices have changed since, nothing is done.
#[utoipa::path(post, path = "/api/devices:operate", tag = "operations", request_body = OperateDevices,
    responses((status = 200, body = OperatePlan), (status = 202, body = OperatePlan), (status = "4XX", body = Problem)))]
pub(super) async fn operate(
    State(app): State<App>,
    Db(db): Db,
    Caller(caller): Caller,
    Body(body): Body<OperateDevices>,
) -> ApiResult<Response> {
    check(&body)?;
    if body.verb.operation().is_none() {
        app.store().authorize(&caller, Permission::DeviceWrite)?;
    }
    let mut tx = db.read().await?;
    let fleet = Fleet::load(&db, &mut tx).await?;
    drop(tx);
    let mut judged = Vec::new();
    for device in selected(&fleet, &body)? {
        judged.push((device, judge(&fleet, device, &body)?));
    }
    let count = |yes: bool| judged.iter().filter(|(_, judged)| judged.is_ok() == yes).count();
    let (accepted, refused) = (count(true), count(false));
    let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let preview = token(&db, &body, &judged)?;
    let at = now();
    let mut plan = OperatePlan {
        verb: body.verb,
        dry_run: body.dry_run,
        total: small(judged.len()),
        accepted: small(accepted),
        refused: small(refused),
        pace: pace(&body, small(accepted)),
        devices: judged
            .iter()
            .take(MAX_SHOWN)
            .map(|(device, judged)| PlannedDevice {
                uid: device.id,
                name: device.name.clone(),
                reachability: reachability(&app, &db, device, at),
                does: judged.clone().unwrap_or_default(),
                refused: judged.clone().err(),
                operation: None,
            })
            .collect(),
        request: None,
        preview,
    };
    if body.dry_run {
        return Ok(Json(plan).into_response());
    }
    if body.preview.as_deref() != Some(plan.preview.as_str()) {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!(
                "The devices are not those of the preview any more: now {} get it and {} are refused. Look at a new preview.",
                plan.accepted, plan.refused
            ),
        ));
    }
    let devices: Vec<&FleetDevice> =
        judged.iter().filter(|(_, judged)| judged.is_ok()).map(|(device, _)| *device).collect();
    match body.verb.operation() {
        Some(kind) => queue(&db, &fleet, kind, &body, &devices, &mut plan).await?,
        None => change(&db, &body, &devices).await?,
    }
    for device in &devices {
        app.standings().forget(db.tenant(), device.id);
        app.hub().changed(db.tenant(), device.id);
        app.fleet().reported(db.tenant(), device.id);
    }
    app.events_written();
    Ok((StatusCode::ACCEPTED, Json(plan)).into_response())
}

fn reachability(
    app: &App,
    db: &TenantDb,
    device: &FleetDevice,
    now: farshore_domain::time::UnixMs,
) -> Reachability {
    let connected = app.hub().is_connected(db.tenant(), device.id);
    farshore_domain::device::reachability(connected, device.last_seen, app.hub().heartbeat_ms(), now)
}

async fn queue(
    db: &TenantDb,
    fleet: &Fleet,
    kind: Kind,
    body: &OperateDevices,
    devices: &[&FleetDevice],
    plan: &mut OperatePlan,
) -> ApiResult<()> {
    let at = now();
    let request = Uuid::now_v7();
    let size = u32::try_from(devices.len()).unwrap_or(u32::MAX);
    let mut new = Vec::with_capacity(devices.len());
    for device in devices {
        let rules = fleet.rules(device)?;
        let operation = ask::operation(kind, &body.ask, &rules, Some((request, size)), at);
        if let Some(shown) = plan.devices.iter_mut().find(|shown| shown.uid == device.id) {
            shown.operation = Some(operation.uid);
        }
        new.push((device.id, device.name.clone(), operation));
    }
    if kind == Kind::Drain {
        for device in devices.iter().filter(|device| device.lifecycle == Lifecycle::Claimed) {
            db.step_device(&device.id.to_string(), LifecycleStep::Cordon, &body.ask.reason, at).await?;
        }
    }
    let mut tx = db.begin().await?;
    db.create_operations(&mut tx, &new, at).await?;
    tx.commit().await?;
    plan.request = Some(request);
    Ok(())
}

async fn change(db: &TenantDb, body: &OperateDevices, devices: &[&FleetDevice]) -> ApiResult<()> {
    for device in devices {
        let id = device.id.to_string();
        let step = match body.verb {
            FleetVerb::Cordon => LifecycleStep::Cordon,
            FleetVerb::Uncordon => LifecycleStep::Uncordon,
            _ => {
                let row = db.device(&id).await?;
                let change = DeviceChange {
                    name: row.metadata.name,
                    labels: row.metadata.labels,
                    managed_by: row.metadata.managed_by,
                    channel: body.channel.clone().unwrap_or(row.channel),
                    location: row.location,
                };
                db.change_device(&id, &change, Some(row.metadata.resource_version), now()).await?;
                continue;
            }
        };
        db.step_device(&id, step, &body.ask.reason, now()).await?;
    }
    Ok(())
}
