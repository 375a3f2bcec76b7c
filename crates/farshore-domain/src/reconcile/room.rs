//! A full disk: nothing that could not be started again is stopped, nothing is held against a release, and it goes on by itself once there is room.
//!
//! But a release on trial that has filled the disk itself has not proven itself: it has the time of a start to make room again, and then what ran
//! before, which lies on the device, is gone back to.

use super::decide::Decision;
use super::state::{AppState, Observed, Offer};
use crate::object::Reason;

/// The code of whatever could not be done because the disk was full.
pub const NO_ROOM: &str = "NoRoom";
/// A start that found no room is tried again after this long.
pub(super) const ROOM_AGAIN_MS: i64 = 10_000;

impl AppState {
    pub(super) fn found_no_room(&self) -> bool {
        self.healing.last.as_ref().is_some_and(|last| last.code == NO_ROOM)
    }
}

impl Decision<'_> {
    /// Whether nothing could be started now for want of room.
    pub(super) fn is_full(&self) -> bool {
        self.observed.is_some_and(|observed| observed.full)
    }

    /// Whether that is what the release on trial has done.
    pub(super) fn has_filled(&self) -> bool {
        self.observed.is_some_and(|observed| observed.full && observed.filled)
    }

    /// What runs makes way for what should run, unless that could then not be started. What has filled the disk makes way in any case.
    pub(super) fn make_way(&mut self, observed: &Observed) {
        if observed.filled || !(observed.full && observed.all().any(|running| running.up)) {
            self.stop();
        }
    }

    /// Whether another release may take the place of what runs: not where that could then not be started, nor where what has filled the disk is about to be
    /// gone back from.
    pub(super) fn may_leave(&self, observed: &Observed) -> bool {
        let up = observed.all().any(|running| running.up);
        !observed.full || !observed.filled && (self.app.trial.is_some() || !up)
    }

    /// That it waits for room is told once.
    pub(super) fn tell_room(&mut self) {
        let waits = waits_for_room(self.app, self.observed, self.offer);
        if let Some(reason) = waits.as_ref().filter(|_| !self.app.told_no_room) {
            self.emit("app.waiting", None, Some(NO_ROOM), reason.message.clone());
        }
        // Not known is not over.
        if self.observed.is_some() {
            self.app.told_no_room = waits.is_some();
        }
    }
}

/// What an app waits for while the disk is full.
pub(super) fn waits_for_room(
    app: &AppState,
    observed: Option<&Observed>,
    offer: Option<&Offer>,
) -> Option<Reason> {
    let observed = observed?;
    let up = observed.all().any(|running| app.is_target(running) && running.up);
    let failed = app.found_no_room() && !up;
    if !observed.full && !failed {
        return None;
    }
    let wanted = offer.filter(|offer| {
        app.staged.as_ref().is_some_and(|staged| staged.manifest == offer.release.manifest)
            && !app.is_held(offer.release.manifest)
    });
    let text = match (wanted, &app.active) {
        (None, Some(active)) if app.trial.is_some() && observed.filled => {
            format!(
                "version {} has filled the disk, and is gone back from unless it makes room",
                active.version
            )
        }
        (Some(offer), _) => {
            format!("version {} is ready and waits for room on the disk", offer.release.version)
        }
        (None, Some(active)) if !up => {
            format!("version {} is started as soon as there is room on the disk", active.version)
        }
        (None, Some(active)) if app.trial.is_some() => {
            format!("the disk is full: version {} is not judged until there is room", active.version)
        }
        _ => return None,
    };
    let last = app.healing.last.as_ref().filter(|_| failed).map(|last| &last.message);
    let text = last.map_or_else(|| text.clone(), |last| format!("{text}: {last}"));
    Some(Reason::new("WaitingForRoom", text, app.phase_since))
}
