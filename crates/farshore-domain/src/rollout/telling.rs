//! What a rollout tells each of its devices to have.

use super::member::{Member, Progress, Told};
use super::state::{Phase, Rollout, RolloutAssignment};
use crate::desired::Permit;
use crate::id::{DeviceId, PermitId, ReleaseId};
use crate::time::UnixMs;

impl Rollout {
    /// What this device should have of the app because of this rollout; none when the rollout does not decide (not started,
    /// over, or not this device). `active` is the release that the device last reported as active.
    ///
    /// An aborted rollout whose devices keep what they have goes on to decide for those devices, until the channel's pointer moves: ask the
    /// newest rollout of the app and channel, also when it is over.
    #[must_use]
    pub fn assignment(&self, device: DeviceId, active: Option<ReleaseId>) -> Option<RolloutAssignment> {
        let member = self.members.get(&device)?;
        let may_stage = self.may_tell_any_time() || member.told == Told::New;
        let (told, permit) = self.tells(member, active, may_stage);
        let (release, forward) = match told {
            Told::Old => (self.from.clone(), false),
            Told::New => (Some(self.to.clone()), true),
            Told::Released => return None,
        };
        let permit = permit.map(|(uid, expires_at)| Permit { uid, expires_at, rollout: Some(self.id) });
        Some(RolloutAssignment { release, forward, wave: member.wave.saturating_add(1), permit })
    }

    /// What a member is told, and the permit that goes with it. `may_stage` says whether a download may begin now; one that has begun goes on.
    pub(super) fn tells(
        &self,
        member: &Member,
        active: Option<ReleaseId>,
        may_stage: bool,
    ) -> (Told, Option<(PermitId, UnixMs)>) {
        let has_new = active == Some(self.to.uid);
        let stays = self.wave_back.is_some_and(|wave| member.wave != wave);
        match self.phase {
            Phase::RollingBack if stays => self.tells_forward(member, active, may_stage),
            Phase::Running | Phase::Paused => self.tells_forward(member, active, may_stage),
            Phase::RollingBack => match &member.progress {
                Progress::Excluded { .. } => (Told::Released, None),
                // Without an old release the app is removed, which needs no permit on the device: tell it only when it is its turn.
                Progress::RollbackDue { .. } if self.from.is_none() && has_new => (Told::New, None),
                Progress::RollingBack { permit, expires_at, revoked: false, .. } => {
                    (Told::Old, Some((*permit, *expires_at)))
                }
                _ => (Told::Old, None),
            },
            Phase::Aborted if has_new || matches!(member.progress, Progress::Updated { .. }) => {
                match member.progress {
                    Progress::RolledBack { .. }
                    | Progress::RollbackFailed { .. }
                    | Progress::Excluded { .. } => (Told::Released, None),
                    _ if self.ends_as.is_some() => (Told::Released, None),
                    _ => (Told::New, None),
                }
            }
            _ => (Told::Released, None),
        }
    }

    fn tells_forward(
        &self,
        member: &Member,
        active: Option<ReleaseId>,
        may_stage: bool,
    ) -> (Told, Option<(PermitId, UnixMs)>) {
        let has_new = active == Some(self.to.uid);
        match &member.progress {
            Progress::Updating { permit, expires_at, revoked, .. } => {
                (Told::New, permit.filter(|_| !revoked).map(|permit| (permit, *expires_at)))
            }
            progress if progress.keeps_the_new() => (Told::New, None),
            Progress::Excluded { .. } if has_new => (Told::New, None),
            Progress::Excluded { .. } => (Told::Released, None),
            Progress::RollbackDue { .. }
            | Progress::RollingBack { .. }
            | Progress::RolledBack { .. }
            | Progress::RollbackFailed { .. } => (Told::Old, None),
            _ => {
                // A device that runs nothing yet gets the old release first: staging alone would leave it empty.
                let empty = active.is_none() && self.from.is_some();
                let may_stage = may_stage || member.told == Told::New;
                let soon = may_stage && member.wave <= self.current.saturating_add(1) && !empty;
                (if has_new || soon { Told::New } else { Told::Old }, None)
            }
        }
    }
}
