//! Members that can't be reached: what a gate does about them (`offline`). They are never failures and never successes.

use super::decide::Step;
use super::judge::Tally;
use super::member::{Member, Progress};
use super::spec::OfflinePolicy;
use super::state::{Rollout, count};
use crate::time::{SECOND_MS, UnixMs};

impl Rollout {
    fn offline_deadline(&self, since: UnixMs) -> UnixMs {
        let begun = self.waves.get(self.current as usize).and_then(|wave| wave.started_at);
        since.max(begun.unwrap_or(since)).plus_ms(i64::from(self.spec.offline.deadline_seconds) * SECOND_MS)
    }

    /// Until when the gate of the wave that runs waits for members that can't be reached; none when it does not wait.
    pub(super) fn waits_for_away_until(&self) -> Option<UnixMs> {
        let begun = self.waves.get(self.current as usize)?.started_at?;
        (self.spec.offline.policy == OfflinePolicy::Wait).then(|| self.offline_deadline(begun))
    }

    /// When this member is left out for good unless it returns; none when it isn't. What may run the new release already is never given up.
    pub(super) fn skips_at(&self, member: &Member) -> Option<UnixMs> {
        let Progress::Unreachable { since } = member.progress else { return None };
        let skips = self.spec.offline.policy == OfflinePolicy::Skip;
        (skips && !member.touched && member.wave == self.current).then(|| self.offline_deadline(since))
    }
}

impl Step<'_> {
    /// While the gate waits for members that can't be reached, they count as open, and the time without news counts from the end of that wait.
    pub(super) fn wait_for_away(&mut self, tallies: &mut [Tally]) {
        let Some(until) = self.next.waits_for_away_until().filter(|until| *until > self.now) else { return };
        let Some(tally) = tallies.get_mut(self.next.current as usize) else { return };
        // Stragglers of earlier waves have been waited for already.
        let of_this_wave = |member: &&Member| {
            matches!(member.progress, Progress::Unreachable { .. })
                && member.wave == self.next.current
                && self.next.wave_of(member.rank) == self.next.current
        };
        let away = count(self.next.members.values().filter(of_this_wave));
        if away == 0 {
            return;
        }
        if tally.awaited() == 0
            && let Some(wave) = self.next.current_mut()
        {
            wave.news_at = wave.news_at.max(Some(until));
        }
        tally.open += away;
        tally.unreachable = tally.unreachable.saturating_sub(away);
    }
}
