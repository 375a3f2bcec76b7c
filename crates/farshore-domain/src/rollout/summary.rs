//! What the page and the command line show of a rollout, from the stored state alone.

use serde::{Deserialize, Serialize};

use super::judge;
use super::member::{Progress, is_false, is_zero};
use super::sequential::Rates;
use super::state::{KnownRelease, Pause, Phase, Rollout, WaveState};
use super::wave::Approved;
use crate::id::{DeviceId, RolloutId};
use crate::name::Name;
use crate::object::Reason;
use crate::release::slot::Activation;
use crate::time::UnixMs;
use crate::word_enum;

word_enum! {
    /// Where a device stands, in the words that people count by.
    Bucket {
        Waiting = "waiting",
        /// In flight.
        Updating = "updating",
        Ok = "ok",
        Failed = "failed",
        /// Neither success nor failure.
        Unreachable = "unreachable",
        /// Going back, or waiting for its turn to.
        RollingBack = "rolling-back",
        RolledBack = "rolled-back",
        /// Pinned, cordoned, held or gone: left out of the judgement.
        Excluded = "excluded",
    }
}

/// Devices by [`Bucket`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    pub waiting: u32,
    pub updating: u32,
    pub ok: u32,
    pub failed: u32,
    pub unreachable: u32,
    pub rolling_back: u32,
    pub rolled_back: u32,
    pub excluded: u32,
}

/// The sequential test of one wave: where the evidence stands between its two lines (see [`super::sequential`]).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = WaveEvidence))]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// The logarithm of how much better "fails at the threshold" explains the reports than "fails at the acceptable rate". Devices in flight count as
    /// successes until they report.
    pub value: f64,
    /// At or above: the wave halts.
    pub halt_at: f64,
    /// At or below: good enough.
    pub pass_at: f64,
    /// How likely a release at the acceptable rate is halted in this wave, at most, 0 to 1.
    pub false_halt: f64,
}

/// One wave. `from` and `to` are cumulative percentages of the population at start, rounded up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct WaveSummary {
    /// From 1.
    pub number: u32,
    /// Devices judged with this wave, stragglers of earlier waves and late joiners included.
    pub size: u32,
    pub from_percent: u32,
    pub to_percent: u32,
    pub soak_seconds: u32,
    pub state: WaveState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<UnixMs>,
    /// When its gate opened or it halted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<UnixMs>,
    /// When its soak ends, while it soaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak_until: Option<UnixMs>,
    /// Failed and all reports that were judged; frozen when the gate opened or the wave halted.
    pub failed: u32,
    pub reported: u32,
    /// `failed / reported`, 0 to 1; none without reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_ratio: Option<f64>,
    /// The test inside the wave; none in a wave that is too small for one, and before the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// Arithmetic alone would halt a good release here more often than was promised; `onSmallWave` says what a halt means.
    #[serde(default, skip_serializing_if = "is_false")]
    pub small: bool,
    /// How many different people have to approve before the gate opens.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub approvals_needed: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Approved>,
    pub counts: Counts,
}

/// One device of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = RolloutDeviceSummary))]
#[serde(rename_all = "camelCase")]
pub struct DeviceSummary {
    pub device: DeviceId,
    /// From 1.
    pub wave: u32,
    pub late: bool,
    pub bucket: Bucket,
    pub since: UnixMs,
    /// Why it failed or is left out; also for a device that has gone back since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permit_expires_at: Option<UnixMs>,
}

/// A rollout for a list or a page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct RolloutSummary {
    pub uid: RolloutId,
    pub name: Name,
    pub app: Name,
    pub channel: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<KnownRelease>,
    pub to: KnownRelease,
    pub phase: Phase,
    pub phase_since: UnixMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    pub created_at: UnixMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<UnixMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<UnixMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<RolloutId>,
    /// Given where devices start the new release beside the old one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// At start; late joiners come on top.
    pub population: u32,
    /// The number of the wave that runs, from 1; 0 before the start.
    pub wave: u32,
    pub waves: Vec<WaveSummary>,
    pub counts: Counts,
    /// Of the wave that runs or halted, 0 to 1; none without reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_ratio: Option<f64>,
    /// 0 to 1.
    pub threshold: f64,
    pub in_flight: u32,
    pub budget: u32,
    /// How many may be in flight now: the budget, or less by slow start.
    pub allowed_now: u32,
    pub reasons: Vec<Reason>,
    /// When the rollout decides by itself next, at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<UnixMs>,
}

impl Bucket {
    /// The bucket of a member.
    #[must_use]
    pub const fn of(progress: &Progress) -> Self {
        match progress {
            Progress::Waiting { .. } => Self::Waiting,
            Progress::Updating { .. } => Self::Updating,
            Progress::Updated { .. } => Self::Ok,
            Progress::Failed { .. } | Progress::RollbackFailed { .. } => Self::Failed,
            Progress::Unreachable { .. } => Self::Unreachable,
            Progress::Excluded { .. } => Self::Excluded,
            Progress::RollbackDue { .. } | Progress::RollingBack { .. } => Self::RollingBack,
            Progress::RolledBack { .. } => Self::RolledBack,
        }
    }
}

impl Counts {
    fn add(&mut self, bucket: Bucket) {
        let place = match bucket {
            Bucket::Waiting | Bucket::Unknown => &mut self.waiting,
            Bucket::Updating => &mut self.updating,
            Bucket::Ok => &mut self.ok,
            Bucket::Failed => &mut self.failed,
            Bucket::Unreachable => &mut self.unreachable,
            Bucket::RollingBack => &mut self.rolling_back,
            Bucket::RolledBack => &mut self.rolled_back,
            Bucket::Excluded => &mut self.excluded,
        };
        *place += 1;
    }
}

impl Rollout {
    /// Every member, by device id.
    pub fn devices(&self) -> impl Iterator<Item = DeviceSummary> {
        self.members.iter().map(|(device, member)| {
            let excluded = match &member.progress {
                Progress::Excluded { why, .. } => Some(why.sentence().to_owned()),
                Progress::RollbackFailed { reason, .. } => Some(reason.clone()),
                _ => None,
            };
            let permit_expires_at = match member.progress {
                Progress::Updating { expires_at, permit: Some(_), .. }
                | Progress::RollingBack { expires_at, .. } => Some(expires_at),
                _ => None,
            };
            DeviceSummary {
                device: *device,
                wave: member.wave.saturating_add(1),
                late: member.late,
                bucket: Bucket::of(&member.progress),
                since: member.progress.since(),
                reason: excluded.or_else(|| member.failure.as_ref().map(|failure| failure.reason.clone())),
                permit_expires_at,
            }
        })
    }

    /// The whole rollout in numbers.
    #[must_use]
    pub fn summary(&self, now: UnixMs) -> RolloutSummary {
        let tallies = judge::tallies(self);
        let mut counts = Counts::default();
        let mut of_waves = vec![Counts::default(); self.waves.len()];
        for member in self.members.values() {
            let bucket = Bucket::of(&member.progress);
            counts.add(bucket);
            if let Some(of_wave) = of_waves.get_mut(member.wave as usize) {
                of_wave.add(bucket);
            }
        }
        let mut from_percent = 0;
        let mut waves = Vec::with_capacity(self.waves.len());
        let rates = Rates::of(&self.spec);
        for ((number, wave), (tally, counts)) in (1_u32..).zip(&self.waves).zip(tallies.iter().zip(of_waves))
        {
            let to_percent = match self.population {
                0 => 100,
                population => (u64::from(wave.upto) * 100).div_ceil(u64::from(population)),
            };
            let to_percent = u32::try_from(to_percent).unwrap_or(100).min(100);
            let (failed, reported) = match wave.verdict {
                Some(verdict) => (verdict.failed, verdict.failed + verdict.succeeded),
                None => (tally.failed, tally.judged()),
            };
            waves.push(WaveSummary {
                number,
                size: tally.members,
                from_percent,
                to_percent,
                soak_seconds: wave.soak_seconds,
                state: wave.state,
                started_at: wave.started_at,
                finished_at: wave.verdict.map(|verdict| verdict.at),
                soak_until: (wave.state == WaveState::Soaking)
                    .then(|| judge::soak_end(wave, tally))
                    .flatten(),
                failed,
                reported,
                failure_ratio: (reported > 0).then(|| f64::from(failed) / f64::from(reported)),
                evidence: wave.test.zip(rates).and_then(|(test, rates)| {
                    Some(Evidence {
                        value: tally.evidence(&rates),
                        halt_at: test.halt_line()?,
                        pass_at: test.clear_line(&self.spec),
                        false_halt: test.share(),
                    })
                }),
                small: wave.test.is_some_and(|test| test.halt_line().is_none()) && tally.members > 0,
                approvals_needed: u32::try_from(self.spec.approval_of(number as usize - 1).people())
                    .unwrap_or(0),
                approvals: wave.approvals.clone(),
                counts,
            });
            from_percent = to_percent;
        }
        let judged = waves.iter().find(|wave| wave.state == WaveState::Halted);
        let judged = judged.or_else(|| waves.get(self.current as usize));
        let failure_ratio = judged.and_then(|wave| wave.failure_ratio);
        RolloutSummary {
            uid: self.id,
            name: self.name.clone(),
            app: self.spec.app.clone(),
            channel: self.spec.channel.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            phase: self.phase,
            phase_since: self.phase_since,
            pause: self.pause.clone(),
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: self.phase.is_final().then_some(self.phase_since),
            superseded_by: self.superseded_by,
            activation: Some(self.activation()).filter(|how| *how == Activation::BlueGreen),
            population: self.population,
            wave: if self.waves.is_empty() { 0 } else { self.current.saturating_add(1) },
            waves,
            counts,
            failure_ratio,
            threshold: f64::from(self.spec.failure_threshold) / 100.0,
            in_flight: self.in_flight(),
            budget: self.budget(),
            allowed_now: self.in_flight_limit(&tallies),
            reasons: self.reasons.clone(),
            deadline: self.deadline(now),
        }
    }
}
