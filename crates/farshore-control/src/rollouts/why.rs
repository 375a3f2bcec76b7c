//! The chain of reasons of a rollout or a device, from the live state.

use axum::Json;
use axum::extract::{Path, State};
use farshore_api::Problem;
use farshore_api::why::{Cause, ExplainedObject, Explanation};
use farshore_domain::desired::Because;
use farshore_domain::device::{Lifecycle, Reachability};
use farshore_domain::id::DeviceId;
use farshore_domain::name::Name;
use farshore_domain::rollout::{Bucket, DeviceSummary, Phase, Rollout, RolloutSummary};
use farshore_domain::time::UnixMs;
use farshore_store::fleet::FleetDevice;

use super::show::{engine, view};
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::fleet::snapshot::Snapshot;
use crate::route::Db;

/// At most this many devices are named in a rollout's chain.
const NAMED_DEVICES: usize = 5;

/// Says why a rollout is where it is.
#[utoipa::path(get, path = "/api/rollouts/{id}/why", tag = "rollouts", params(("id" = String, Path)),
    responses((status = 200, body = Explanation), (status = "4XX", body = Problem)))]
pub(crate) async fn of_rollout(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
) -> ApiResult<Json<Explanation>> {
    let now = now();
    let mut read = db.read().await?;
    let row = db.rollout_in(&mut read, &id).await?;
    let rollout = engine(&row)?;
    let snapshot = Snapshot::load(&db, &mut read, now).await?;
    let summary = rollout.summary(now);
    let mut chain = vec![headline(&summary)];
    chain.extend(summary.reasons.iter().cloned().map(Cause::from));
    if !rollout.phase().is_final() {
        let waiting = rollout.waiting_for(&view(&app, &db, &snapshot, &rollout, now), now);
        chain.extend(waiting.into_iter().map(Cause::from));
    }
    let mut failed: Vec<DeviceSummary> = rollout.devices().filter(|device| device.reason.is_some()).collect();
    failed.sort_by_key(|device| device.since);
    let named = |name: &str| {
        let mut told = summary.reasons.iter();
        told.any(|reason| reason.message.strip_prefix(name).is_some_and(|rest| rest.starts_with(": ")))
    };
    let unnamed = failed.iter().filter_map(|device| {
        let known = snapshot.devices.get(&device.device)?;
        (!named(known.name.as_str())).then_some((device, known))
    });
    for (device, known) in unnamed.take(NAMED_DEVICES) {
        let reason = device.reason.as_deref().unwrap_or_default();
        let text = format!("{} in wave {} is {}: {reason}", known.name, device.wave, device.bucket);
        chain.push(
            Cause::new(bucket_code(device.bucket), text, Some(device.since)).about("device", &known.name),
        );
    }
    if let Some(held) = super::holds::held_back(&db, &mut read, &rollout).await? {
        let what = format!("{} {} is held back in {}", summary.app, summary.to.version, summary.channel);
        let text = if held.rollout == row.metadata.name {
            format!("{what} until somebody releases the hold")
        } else {
            format!("{what}: {}", held.reason)
        };
        chain.push(Cause::new("HeldBack", text, Some(held.since)).about("rollout", &held.rollout));
    }
    let subject =
        ExplainedObject { kind: "Rollout".to_owned(), uid: row.metadata.uid, name: row.metadata.name };
    Ok(Json(Explanation { subject, chain }))
}

/// What the rollout is and where it stands.
fn headline(summary: &RolloutSummary) -> Cause {
    let from = summary.from.as_ref().map_or_else(|| "nothing".to_owned(), |from| from.version.to_string());
    let moves = format!("{} in {} from {from} to {}", summary.app, summary.channel, summary.to.version);
    let place = match summary.phase {
        Phase::Pending => "is not started".to_owned(),
        Phase::Running | Phase::Paused => {
            format!("is {} in wave {} of {}", summary.phase, summary.wave, summary.waves.len())
        }
        phase => format!("is {phase}"),
    };
    let text = format!("it moves {moves}, and {place}");
    let mut cause = Cause::new(&code(summary.phase.word()), text, Some(summary.phase_since));
    cause.deadline = summary.deadline;
    cause
}

/// `rolling-back` is `RollingBack`.
fn code(word: &str) -> String {
    word.split('-')
        .flat_map(|part| {
            let mut letters = part.chars();
            letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters)
        })
        .collect()
}

fn bucket_code(bucket: Bucket) -> &'static str {
    match bucket {
        Bucket::Excluded => "DeviceLeftOut",
        Bucket::Waiting | Bucket::Updating | Bucket::Ok | Bucket::Unreachable | Bucket::Unknown => "Device",
        Bucket::Failed | Bucket::RollingBack | Bucket::RolledBack => "DeviceFailed",
    }
}

/// Says why a device is as it is.
#[utoipa::path(get, path = "/api/devices/{id}/why", tag = "devices", params(("id" = String, Path)),
    responses((status = 200, body = Explanation), (status = "4XX", body = Problem)))]
pub(crate) async fn of_device(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
) -> ApiResult<Json<Explanation>> {
    let now = now();
    let row = db.device(&id).await?;
    let mut read = db.read().await?;
    let snapshot = Snapshot::load(&db, &mut read, now).await?;
    drop(read);
    let uid = DeviceId(row.metadata.uid);
    let known =
        snapshot.devices.get(&uid).ok_or_else(|| ApiError::internal("a device is not in its fleet"))?;
    let mut chain = Vec::new();
    if known.lifecycle != Lifecycle::Claimed {
        let text = format!("it is {}, and gets nothing new", known.lifecycle);
        chain.push(Cause::new(&code(known.lifecycle.word()), text, None));
    }
    let (reachability, seen) = app.hub().presence(db.tenant(), uid, known.last_seen, now);
    if reachability != Reachability::Online {
        let text = match seen {
            Some(_) => format!("it is {reachability}: what follows is what it said last"),
            None => "it has never been heard of since it was claimed".to_owned(),
        };
        chain.push(Cause::new(&code(reachability.word()), text, seen));
    }
    chain.extend(row.reasons.into_iter().map(Cause::from));
    explain_apps(&snapshot, known, now, &mut chain, |rollout| {
        rollout
            .waiting_for(&view(&app, &db, &snapshot, rollout, now), now)
            .into_iter()
            .map(Cause::from)
            .collect()
    });
    for app in &row.apps {
        for reason in &app.reasons {
            let mut cause = Cause::from(reason.clone());
            cause.message = format!("{}: {}", app.app, cause.message);
            chain.push(cause);
        }
    }
    if chain.is_empty() {
        chain.push(Cause::new("NothingPlaced", "no placement names an app for it", None));
    }
    let subject =
        ExplainedObject { kind: "Device".to_owned(), uid: row.metadata.uid, name: row.metadata.name };
    Ok(Json(Explanation { subject, chain }))
}

/// For each app: what it should have and because of what, and what its rollout waits for.
fn explain_apps(
    snapshot: &Snapshot,
    device: &FleetDevice,
    now: UnixMs,
    chain: &mut Vec<Cause>,
    waits: impl Fn(&Rollout) -> Vec<Cause>,
) {
    let assignments = snapshot.assign(device, now);
    for assignment in &assignments.apps {
        let app = &assignment.app;
        let version = snapshot.known(assignment.release).map(|release| release.version.to_string());
        let version = version.unwrap_or_else(|| assignment.release.to_string());
        let active = snapshot.report(device.id, app).and_then(|report| report.active);
        let has = match active.map(|active| (active == assignment.release, snapshot.known(active))) {
            Some((true, _)) => "and has it".to_owned(),
            Some((false, Some(other))) => format!("and still has {}", other.version),
            Some((false, None)) => "and still has another one".to_owned(),
            None => "and has none yet".to_owned(),
        };
        let head = Cause::new("Assigned", format!("{app}: it should have {version}, {has}"), None);
        chain.push(match &assignment.because {
            Because::Pin { pin } => head.about("pin", pin),
            Because::Channel { channel } => head.about("channel", channel),
            Because::Rollout { name, .. } => head.about("rollout", name),
            Because::Unknown => head,
        });
        for reason in &assignment.reasons {
            chain.push(Cause::from(reason.clone()));
        }
        if active != Some(assignment.release) && assignment.needs_permit.is_some() {
            let text = format!("{app}: it waits for its turn; a tenth of the fleet changes at the same time");
            chain.push(Cause::new("WaitsForPermit", text, None));
        }
        if let Because::Rollout { rollout, .. } = &assignment.because
            && let Some(read) = snapshot.rollouts.iter().find(|read| read.rollout.id() == *rollout)
        {
            explain_membership(&read.rollout, device.id, chain, &waits);
        }
    }
    for (app, reason) in &assignments.without {
        let mut cause = Cause::from(reason.clone());
        cause.message = format!("{app}: {}", cause.message);
        chain.push(cause);
    }
}

/// Where the device stands in a rollout, and what the rollout waits for while the device does.
fn explain_membership(
    rollout: &Rollout,
    device: DeviceId,
    chain: &mut Vec<Cause>,
    waits: &impl Fn(&Rollout) -> Vec<Cause>,
) {
    let name: &Name = rollout.name();
    let Some(member) = rollout.devices().find(|summary| summary.device == device) else { return };
    let mut text = format!("rollout {name}: it is {} in wave {}", member.bucket, member.wave);
    let current = rollout.current_wave().saturating_add(1);
    if member.bucket == Bucket::Waiting && member.wave > current {
        text = format!("{text}, and wave {current} is not over");
    }
    if let Some(reason) = &member.reason {
        text = format!("{text}: {reason}");
    }
    let mut cause = Cause::new(&format!("Rollout{}", code(member.bucket.word())), text, Some(member.since));
    cause.deadline = member.permit_expires_at;
    chain.push(cause.about("rollout", name));
    if matches!(member.bucket, Bucket::Waiting | Bucket::Updating | Bucket::RollingBack) {
        chain.extend(waits(rollout).into_iter().map(|wait| wait.about("rollout", name)));
    }
}
