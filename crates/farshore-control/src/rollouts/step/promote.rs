//! The release of a rollout that has succeeded, offered to the next channel.

use farshore_domain::id::RolloutId;
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::object::Metadata;
use farshore_domain::rollout::{FleetView, KnownRelease, PromotionMode, ReleaseRef, Rollout, RolloutSpec};
use farshore_domain::time::UnixMs;
use farshore_store::db::Tx;
use farshore_store::rollouts::RolloutRow;
use farshore_store::{StoreError, StoreResult, TenantDb};
use uuid::Uuid;

use super::{carry_out, event, state};
use crate::fleet::snapshot::Snapshot;

/// What is offered, and where.
pub(super) struct Offer<'a> {
    pub(super) source: &'a Rollout,
    pub(super) channel: Name,
    pub(super) mode: PromotionMode,
    /// What the next channel points to now.
    pub(super) from: Option<KnownRelease>,
}

/// Makes the rollout of the next channel. It starts only when nothing else moves the app there, and nothing holds the release
/// back; otherwise it stays a draft, and the event says why.
pub(super) async fn offer(
    db: &TenantDb,
    tx: &mut Tx,
    snapshot: &Snapshot,
    offer: Offer<'_>,
    view: &(dyn Fn(&Rollout) -> FleetView + Sync),
    now: UnixMs,
) -> StoreResult<()> {
    let Offer { source, channel, mode, from } = offer;
    let (app, to) = (&source.spec().app, source.to());
    if from.as_ref().is_some_and(|from| from.uid == to.uid) {
        return Ok(());
    }
    let id = RolloutId(Uuid::now_v7());
    let name = free_name(db, tx, source.name(), &channel, id).await?;
    let spec = plan(db, tx, source, &channel).await?;
    let by = format!("rollout {}", source.name());
    let mut rollout = Rollout::new(id, name.clone(), spec.clone(), from.clone(), to.clone(), &by, now)
        .map_err(|error| StoreError::Corrupt(format!("promotion of {}: {error}", source.name())))?
        .with_slots(source.needs_slots());
    let other = snapshot.rollouts.iter().map(|read| &read.rollout).find(|other| {
        !other.phase().is_final() && other.spec().app == *app && other.spec().channel == channel
    });
    let held = db.hold(tx, app, &channel, to.uid).await?;
    let mut actions = Vec::new();
    let how = if mode == PromotionMode::Draft {
        "as a draft; start it when you want it there".to_owned()
    } else if let Some(other) = other {
        format!("as a draft, because rollout {} moves {app} there", other.name())
    } else if let Some(hold) = held {
        format!("as a draft, because the release is held back there: {}", hold.reason)
    } else {
        match rollout.start(from, &view(&rollout), &by, None, now) {
            Ok(started) => {
                actions = started;
                "and started".to_owned()
            }
            Err(error) => format!("as a draft, because {error}"),
        }
    };
    let message = format!("offered by rollout {}, {how}", source.name());
    let detail = serde_json::json!({"by": by, "from": source.id()});
    let created = event(db, id, &name, "RolloutCreated", &message, &detail, now);
    let row = RolloutRow {
        metadata: Metadata {
            uid: id.0,
            name,
            labels: Labels::default(),
            resource_version: 1,
            managed_by: "promotion".to_owned(),
            created_at: now,
        },
        app: app.clone(),
        channel,
        phase: rollout.phase().word().to_owned(),
        spec: serde_json::to_value(&spec)
            .map_err(|error| StoreError::Corrupt(format!("rollout can't be written: {error}")))?,
        state: state(&rollout)?,
    };
    db.insert_rollout(tx, &row).await?;
    db.append_event(tx, &created).await?;
    carry_out(db, tx, &rollout, &actions, now).await?;
    Ok(())
}

/// What the new rollout asks for: as the newest rollout of the next channel did, with its waves, gates and its own promotion; without one, as
/// this rollout does.
async fn plan(db: &TenantDb, tx: &mut Tx, source: &Rollout, channel: &Name) -> StoreResult<RolloutSpec> {
    let own = source.spec();
    let spec = match db.newest_rollout_spec(tx, &own.app, channel).await? {
        Some(spec) => serde_json::from_value(spec)
            .map_err(|error| StoreError::Corrupt(format!("rollout of {channel}: {error}")))?,
        None => RolloutSpec { promotion: None, ..own.clone() },
    };
    Ok(RolloutSpec {
        channel: channel.clone(),
        release: ReleaseRef::Uid(source.to().uid),
        depends_on: Vec::new(),
        // It belongs to the release, not to the channel.
        activation: own.activation,
        ..spec
    })
}

/// `web-1-1-prod`, or with the end of its id when that name is taken or too long.
async fn free_name(
    db: &TenantDb,
    tx: &mut Tx,
    source: &Name,
    channel: &Name,
    id: RolloutId,
) -> StoreResult<Name> {
    if let Ok(name) = Name::new(format!("{source}-{channel}"))
        && db.rollout_phases(tx, std::slice::from_ref(&name)).await?.is_empty()
    {
        return Ok(name);
    }
    let id = id.0.simple().to_string();
    let end = id.get(20..).unwrap_or("next");
    Name::new(format!("promoted-{end}"))
        .map_err(|error| StoreError::Corrupt(format!("rollout name: {error}")))
}
