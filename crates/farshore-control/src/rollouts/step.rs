//! The driver's part of a step: each open rollout decides, and what it decided is stored in one transaction.

mod promote;
pub(super) mod signals;

use std::collections::BTreeSet;

use farshore_domain::id::{DeviceId, PermitId, ReleaseId, RolloutId};
use farshore_domain::name::Name;
use farshore_domain::rollout::{Action, PromotionMode, Rollout, decide};
use farshore_domain::time::UnixMs;
use farshore_store::db::Tx;
use farshore_store::events::NewEvent;
use farshore_store::fleet::PermitRow;
use farshore_store::holds::Hold;
use farshore_store::{StoreError, StoreResult, TenantDb};
use uuid::Uuid;

use self::promote::Offer;
use crate::app::App;
use crate::fleet::snapshot::Snapshot;

/// What a step of the rollouts touched.
#[derive(Debug)]
pub struct Outcome {
    /// Everything has to be assigned again: a pointer moved, or a rollout is over.
    pub all: bool,
    pub devices: BTreeSet<DeviceId>,
    /// When a rollout decides by itself next, at the latest.
    pub deadline: UnixMs,
    /// Something was written, events among it.
    pub wrote: bool,
}

/// Lets each open rollout of the tenant decide on what is known now, and stores what it decided.
pub async fn step(app: &App, db: &TenantDb, snapshot: &mut Snapshot, now: UnixMs) -> StoreResult<Outcome> {
    let mut outcome =
        Outcome { all: false, devices: BTreeSet::new(), deadline: UnixMs(i64::MAX), wrote: false };
    let presence =
        |device: DeviceId, stored: Option<UnixMs>| app.hub().presence(db.tenant(), device, stored, now);
    let mut decided = Vec::new();
    for index in 0..snapshot.rollouts.len() {
        let Some(read) = snapshot.rollouts.get(index).filter(|read| !read.rollout.is_done()) else {
            continue;
        };
        let mut view = snapshot.view(&read.rollout, &presence, now);
        signals::fill(db, &mut view, &read.rollout).await?;
        // When a place that is taken elsewhere gets free, nobody reports it.
        if let Some(free) = view.iter().filter_map(|device| device.busy_until).min() {
            outcome.deadline = outcome.deadline.min(free);
        }
        let mut ids = || PermitId(Uuid::now_v7());
        let decision = decide(&read.rollout, &view, now, &mut ids);
        if let Some(deadline) = decision.next.deadline(now) {
            outcome.deadline = outcome.deadline.min(deadline);
        }
        if decision.next != read.rollout || !decision.actions.is_empty() {
            let read_at = read.resource_version;
            // The next rollout counts the places that this one takes.
            let taken: Vec<_> =
                decision.actions.iter().filter_map(|action| permit(&decision.next, action, now)).collect();
            taken.into_iter().for_each(|permit| snapshot.add_permit(permit));
            decided.push((index, read_at, decision));
        }
    }
    if decided.is_empty() {
        return Ok(outcome);
    }
    let mut tx = db.begin().await?;
    for (index, read_at, decision) in decided {
        let Some(read) = snapshot.rollouts.get(index) else { continue };
        let change =
            Change { before: &read.rollout, next: &decision.next, read_at, actions: &decision.actions };
        let done = store(db, &mut tx, &change, now).await?;
        outcome.all |= done.all;
        outcome.devices.extend(done.devices);
        for (channel, app, release) in done.pointers {
            snapshot.set_pointer(channel, app, release);
        }
        for (channel, mode) in done.promotions {
            let view = |rollout: &Rollout| snapshot.view(rollout, &presence, now);
            let from = snapshot.pointer(&channel, &decision.next.spec().app);
            let offer = Offer { source: &decision.next, channel, mode, from };
            promote::offer(db, &mut tx, snapshot, offer, &view, now).await?;
            // The new rollout decides in the next step, at once.
            outcome.deadline = now;
        }
        snapshot.replace_rollout(index, decision.next);
    }
    tx.commit().await?;
    outcome.wrote = true;
    Ok(outcome)
}

/// A rollout before and after a decision or a verb.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change<'a> {
    pub(super) before: &'a Rollout,
    pub(super) next: &'a Rollout,
    /// The version under which `before` was read.
    pub(super) read_at: i64,
    pub(super) actions: &'a [Action],
}

/// Stores a rollout's next state, if nobody changed it since it was read, and carries its actions out in the same transaction.
pub(super) async fn store(db: &TenantDb, tx: &mut Tx, change: &Change<'_>, now: UnixMs) -> StoreResult<Done> {
    let next = change.next;
    db.update_rollout(tx, next.id(), change.read_at, next.phase().word(), &state(next)?).await?;
    if !change.before.phase().is_final()
        && let Some(reason) = next.holds_back()
    {
        let hold = Hold {
            app: next.spec().app.clone(),
            channel: next.spec().channel.clone(),
            release: next.to().uid,
            rollout: next.id(),
            rollout_name: next.name().clone(),
            reason: format!("rollout {}: {}", next.name(), reason.message),
            held_at: now,
        };
        db.add_hold(tx, &hold).await?;
    }
    carry_out(db, tx, next, change.actions, now).await
}

pub(super) fn state(rollout: &Rollout) -> StoreResult<serde_json::Value> {
    serde_json::to_value(rollout)
        .map_err(|error| StoreError::Corrupt(format!("rollout can't be written: {error}")))
}

/// What the actions of one rollout touched.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) all: bool,
    pub(super) devices: BTreeSet<DeviceId>,
    pub(super) pointers: Vec<(Name, Name, ReleaseId)>,
    /// Channels that the release is to be offered to.
    pub(super) promotions: Vec<(Name, PromotionMode)>,
}

/// Carries the actions out, in the transaction that stores the state they come from.
pub(super) async fn carry_out(
    db: &TenantDb,
    tx: &mut Tx,
    rollout: &Rollout,
    actions: &[Action],
    now: UnixMs,
) -> StoreResult<Done> {
    let mut done = Done::default();
    for action in actions {
        match action {
            Action::Assign { device, .. } | Action::RevokePermit { device, .. } => {
                done.devices.insert(*device);
            }
            Action::Permit { device, .. } => {
                done.devices.insert(*device);
                if let Some(row) = permit(rollout, action, now) {
                    db.add_permit(tx, &row).await?;
                }
            }
            Action::MovePointer { channel, app, release } => {
                db.move_pointer(tx, channel, app, *release, now).await?;
                done.pointers.push((channel.clone(), app.clone(), *release));
                done.all = true;
            }
            Action::Promote { channel, mode } => done.promotions.push((channel.clone(), *mode)),
            Action::Resume { device } => {
                // A device that left in the meantime has nothing to resume.
                if db.resume_app(tx, *device, &rollout.spec().app).await? {
                    done.devices.insert(*device);
                }
            }
            Action::Event { kind, message, detail } => {
                let event = event(db, rollout.id(), rollout.name(), kind, message, detail, now);
                db.append_event(tx, &event).await?;
            }
            Action::Done { .. } => done.all = true,
        }
    }
    Ok(done)
}

/// The permit of an action, as it is kept. A permit to remove the app disrupts nothing that a release id could name.
fn permit(rollout: &Rollout, action: &Action, now: UnixMs) -> Option<PermitRow> {
    let Action::Permit { device, release, permit, expires_at, .. } = action else { return None };
    Some(PermitRow {
        uid: *permit,
        device: *device,
        app: rollout.spec().app.clone(),
        release: (*release)?,
        rollout: Some(rollout.id()),
        issued_at: now,
        expires_at: *expires_at,
    })
}

/// `RolloutHalted` is the event `rollout.halted`.
fn event_kind(kind: &str) -> String {
    let word = kind.strip_prefix("Rollout").unwrap_or(kind);
    let mut text = String::from("rollout.");
    for (index, letter) in word.chars().enumerate() {
        if letter.is_ascii_uppercase() && index > 0 {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

pub(super) fn event(
    db: &TenantDb,
    id: RolloutId,
    name: &Name,
    kind: &str,
    message: &str,
    detail: &serde_json::Value,
    now: UnixMs,
) -> NewEvent {
    NewEvent {
        uid: Uuid::now_v7(),
        at: now,
        kind: event_kind(kind),
        subject_kind: "Rollout".to_owned(),
        subject: id.0,
        subject_name: name.to_string(),
        actor: db.actor().0.clone(),
        message: format!("{name}: {message}"),
        payload: detail.clone(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_engines_words_become_event_kinds() {
        assert_eq!(super::event_kind("RolloutHalted"), "rollout.halted");
        assert_eq!(super::event_kind("RolloutRollingBack"), "rollout.rolling-back");
        assert_eq!(super::event_kind("WaveOpened"), "rollout.wave-opened");
    }
}
