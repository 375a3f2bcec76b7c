//! Many runs to one answer.

use std::collections::{BTreeMap, BTreeSet};

use super::answer::{Blocked, Ending, Forecast, PeakDown, Turn, WaveForecast};
use super::history::{Habits, History};
use super::run::{self, Outcome, Play};
use super::world::{Failures, World};
use crate::name::Name;
use crate::rollout::characteristic::{Characteristic, characteristic};
use crate::rollout::{FleetView, KnownRelease, Phase, Rollout, TransitionError, Waiting, Wave};
use crate::time::{DAY_MS, SECOND_MS, UnixMs};

/// How much is played: decisions times devices, over all runs. About a second on one core.
const WORK: u64 = 8_000_000;
/// Between these many runs.
const RUNS: std::ops::RangeInclusive<u32> = 3..=200;
const MOST_CORES: u32 = 4;
/// A run that takes more decisions than this is cut off.
const MOST_STEPS: u32 = 20_000;
const HORIZON_MS: i64 = 60 * DAY_MS;
/// At most this many groups are shown, those with the most devices down first.
const MOST_GROUPS: usize = 100;

/// What may be chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub seed: u64,
    /// Virtual rollouts; none lets the size of the fleet decide.
    pub runs: Option<u32>,
    /// Percent of the devices that fail with a release that is good otherwise.
    pub noise_percent: f64,
    /// What the channel points to: where a rollout that has not started would come from.
    pub from: Option<KnownRelease>,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 1, runs: None, noise_percent: 1.0, from: None }
    }
}

/// There is nothing to foresee.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForecastError {
    #[error("the rollout is {0}: nothing more will happen")]
    Over(Phase),
    #[error("it could not go on")]
    Refused(#[from] TransitionError),
}

/// Plays `rollout` over the devices of `view`, from `now`. Nothing is changed.
///
/// # Errors
/// When the rollout is over.
pub fn simulate(
    rollout: &Rollout,
    view: &FleetView,
    history: &History,
    options: &Options,
    now: UnixMs,
) -> Result<Forecast, ForecastError> {
    let mut assumptions = Vec::new();
    let mut view = view.clone();
    let begun = begin(rollout, &mut view, options, now, &mut assumptions)?;
    let view = &view;
    let habits = Habits::new(history, view);
    let noise = (options.noise_percent / 100.0).clamp(0.0, 1.0);
    assumptions.push(format!(
        "a good release: each device fails with a chance of {} %, independently of the others",
        options.noise_percent
    ));
    let mut world = World::new(view.clone(), &labels(&begun), &Failures::independent(noise));
    let mut gathered = Gathered::new(&begun, view);
    let quantum_ms = run::quantum_ms(&begun, &habits);
    let play = |number: u32| Play {
        seed: options.seed.wrapping_add(u64::from(number)),
        failure_share: noise,
        begin: now,
        horizon: now.plus_ms(HORIZON_MS),
        quantum_ms,
        most_steps: MOST_STEPS,
        until_halt: false,
    };
    let mut blocks = Blocks::default();
    let first = run::watched(begun.clone(), &mut world, &habits, &play(0), &mut |rollout, world, at| {
        blocks.look(&rollout.waiting_for(world.view(), at), at);
    });
    let runs = options.runs.unwrap_or_else(|| affordable(WORK, &first, view)).clamp(1, *RUNS.end());
    gathered.add(&first, &world, now);
    // Each run has its seed, whoever plays it, and what they add up to knows no order: the answer is the same on any number of cores.
    let others = std::thread::scope(|scope| {
        let workers = cores().min(runs.saturating_sub(1));
        let players: Vec<_> = (1..workers)
            .map(|worker| {
                let mut world = world.clone();
                let mut gathered = Gathered::new(&begun, view);
                let (begun, habits, play) = (&begun, &habits, &play);
                scope.spawn(move || {
                    for number in (1..runs).skip(worker as usize).step_by(workers as usize) {
                        let outcome = run::play(begun.clone(), &mut world, habits, &play(number));
                        gathered.add(&outcome, &world, now);
                    }
                    gathered
                })
            })
            .collect();
        for number in (1..runs).step_by(workers.max(1) as usize) {
            let outcome = run::play(begun.clone(), &mut world, &habits, &play(number));
            gathered.add(&outcome, &world, now);
        }
        players.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    for other in others {
        gathered.join(other.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
    }
    let sizes: Vec<u32> = sizes(&begun).collect();
    let promised = characteristic(begun.spec(), &sizes, begun.budget());
    Ok(Forecast {
        at: now,
        devices: u32::try_from(begun.members().count()).unwrap_or(u32::MAX),
        seed: options.seed,
        runs,
        quantum_seconds: seconds_f(quantum_ms),
        assumptions,
        basis: habits.basis,
        waves: gathered.waves(&begun, &promised),
        finish_p50_seconds: percentile(&mut gathered.finished, 50),
        finish_p90_seconds: percentile(&mut gathered.finished, 90),
        finishes: share(gathered.finished.len(), runs),
        endings: gathered
            .endings
            .iter()
            .map(|(how, count)| Ending { how: (*how).to_owned(), share: share(*count, runs) })
            .collect(),
        blocked: blocks.list(),
        peak_down: gathered.peak_down(&world, view),
        operating_characteristic: promised.points,
        assignments: gathered.turns(&begun, view),
    })
}

/// The rollout as it would be if it went on now, over a view that lets it.
fn begin(
    rollout: &Rollout,
    view: &mut FleetView,
    options: &Options,
    now: UnixMs,
    assumptions: &mut Vec<String>,
) -> Result<Rollout, ForecastError> {
    const WHO: &str = "forecast";
    let (mut begun, conditions) = rollout.clone().without_conditions();
    match rollout.phase() {
        Phase::Pending => {
            assumptions.push("it is started now".to_owned());
            let from = options.from.clone().or_else(|| rollout.from().cloned());
            begun.start(from, view, WHO, None, now)?;
        }
        Phase::Paused => {
            assumptions.push("it is resumed now".to_owned());
            begun.resume(WHO, None, now)?;
        }
        Phase::Running | Phase::RollingBack => {}
        over => return Err(ForecastError::Over(over)),
    }
    let spec = begun.spec();
    let missing: Vec<&Name> = spec
        .depends_on
        .iter()
        .filter(|name| view.dependencies.get(*name) != Some(&Phase::Succeeded))
        .collect();
    if !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
        assumptions.push(format!("what it depends on has succeeded now: {}", names.join(", ")));
        let met: Vec<Name> = missing.into_iter().cloned().collect();
        view.dependencies.extend(met.into_iter().map(|name| (name, Phase::Succeeded)));
    }
    if conditions {
        assumptions.push("the conditions of gates are true, and no tripwire is".to_owned());
    }
    if (0..spec.waves.len()).any(|wave| spec.approval_of(wave).people() > 0) {
        assumptions.push("each gate is approved as soon as it waits for people".to_owned());
    }
    Ok(begun)
}

/// The labels whose groups are counted: those with a budget, and those that the first waves are spread over.
fn labels(rollout: &Rollout) -> Vec<String> {
    let spec = rollout.spec();
    let mut labels: Vec<String> = spec.group_by.iter().map(|group| group.label.clone()).collect();
    labels.extend(spec.stratify_by.iter().cloned());
    let mut seen = BTreeSet::new();
    labels.retain(|label| seen.insert(label.clone()));
    labels
}

/// How many devices each wave takes beyond those of earlier waves.
fn sizes(rollout: &Rollout) -> impl Iterator<Item = u32> {
    let before = std::iter::once(0).chain(rollout.waves().iter().map(Wave::upto));
    rollout.waves().iter().zip(before).map(|(wave, before)| wave.upto().saturating_sub(before))
}

fn affordable(work: u64, first: &Outcome, view: &FleetView) -> u32 {
    let one = u64::from(first.steps).saturating_mul(view.len() as u64).max(1);
    u32::try_from(work / one).unwrap_or(u32::MAX).clamp(*RUNS.start(), *RUNS.end())
}

/// How many runs are played beside each other: not on more cores than a control plane can spare.
fn cores() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cores).unwrap_or(1).min(MOST_CORES)
}

fn share(count: usize, of: u32) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / f64::from(of.max(1))
}

fn seconds(ms: i64) -> u32 {
    u32::try_from(ms.max(0) / SECOND_MS).unwrap_or(u32::MAX)
}

fn seconds_f(ms: i64) -> f64 {
    f64::from(u32::try_from(ms.max(0)).unwrap_or(u32::MAX)) / 1_000.0
}

/// The value that `percent` of them do not exceed (nearest rank).
fn percentile(values: &mut [u32], percent: usize) -> Option<u32> {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values.get(rank - 1).copied()
}

/// What stood in the way.
#[derive(Debug, Default)]
struct Blocks {
    by_code: BTreeMap<String, Blocked>,
    /// What it waited for at the last look, and when that was.
    open: Vec<String>,
    looked: Option<UnixMs>,
}

impl Blocks {
    /// Reasons that are the rollout's own work block nothing.
    fn is_work(code: &str) -> bool {
        matches!(
            code,
            "Updating"
                | "Soaking"
                | "SlowStart"
                | "Staging"
                | "Downloading"
                | "Gate"
                | "RollingBack"
                | "Ending"
        )
    }

    fn look(&mut self, waiting: &[Waiting], now: UnixMs) {
        if let Some(before) = self.looked {
            for code in std::mem::take(&mut self.open) {
                if let Some(block) = self.by_code.get_mut(&code) {
                    block.seconds = block.seconds.saturating_add(seconds(now.since_ms(before)));
                }
            }
        }
        self.looked = Some(now);
        for wait in waiting.iter().filter(|wait| !Self::is_work(&wait.reason.code)) {
            let devices = leading_number(&wait.reason.message);
            let block = self.by_code.entry(wait.reason.code.clone()).or_insert_with(|| Blocked {
                code: wait.reason.code.clone(),
                why: wait.reason.message.clone(),
                devices,
                first_at: now,
                seconds: 0,
            });
            if devices > block.devices {
                block.devices = devices;
                block.why.clone_from(&wait.reason.message);
            }
            self.open.push(wait.reason.code.clone());
        }
    }

    fn list(self) -> Vec<Blocked> {
        let mut list: Vec<Blocked> = self.by_code.into_values().collect();
        list.sort_by_key(|block| block.first_at);
        list
    }
}

fn leading_number(text: &str) -> u32 {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

/// What the runs have given so far.
#[derive(Debug)]
struct Gathered {
    starts: Vec<Vec<u32>>,
    ends: Vec<Vec<u32>>,
    finished: Vec<u32>,
    endings: BTreeMap<&'static str, usize>,
    most_down: u32,
    groups: Vec<Vec<u32>>,
    /// For each device of the view, when it had the release.
    done: Vec<Vec<u32>>,
    runs: usize,
}

impl Gathered {
    fn new(rollout: &Rollout, view: &FleetView) -> Self {
        Self {
            starts: vec![Vec::new(); rollout.waves().len()],
            ends: vec![Vec::new(); rollout.waves().len()],
            finished: Vec::new(),
            endings: BTreeMap::new(),
            most_down: 0,
            groups: Vec::new(),
            done: vec![Vec::new(); view.len()],
            runs: 0,
        }
    }

    fn add(&mut self, outcome: &Outcome, world: &World, now: UnixMs) {
        let from_now = |at: UnixMs| seconds(at.since_ms(now));
        self.runs += 1;
        for (wave, (start, end)) in outcome.waves.iter().enumerate() {
            if let (Some(starts), Some(start)) = (self.starts.get_mut(wave), start) {
                starts.push(from_now(*start));
            }
            if let (Some(ends), Some(end)) = (self.ends.get_mut(wave), end) {
                ends.push(from_now(*end));
            }
        }
        let how = match outcome.phase {
            Phase::Succeeded => {
                self.finished.push(from_now(outcome.ended));
                None
            }
            _ if outcome.halted => Some("halted"),
            Phase::Paused => Some("paused without enough reports"),
            Phase::Running | Phase::RollingBack => Some("not over in the time that was looked at"),
            _ => Some("ended otherwise"),
        };
        if let Some(how) = how {
            *self.endings.entry(how).or_default() += 1;
        }
        self.most_down = self.most_down.max(world.most_down);
        self.groups.resize(world.groups.len(), Vec::new());
        for (most, group) in self.groups.iter_mut().zip(&world.groups) {
            most.resize(group.most.len(), 0);
            for (most, now) in most.iter_mut().zip(&group.most) {
                *most = (*most).max(*now);
            }
        }
        for (done, at) in self.done.iter_mut().zip(world.done_at()) {
            done.extend(at.map(from_now));
        }
    }

    /// What another one has gathered.
    fn join(&mut self, other: Self) {
        self.runs += other.runs;
        for (mine, others) in
            [(&mut self.starts, other.starts), (&mut self.ends, other.ends), (&mut self.done, other.done)]
        {
            for (mine, others) in mine.iter_mut().zip(others) {
                mine.extend(others);
            }
        }
        self.finished.extend(other.finished);
        for (how, count) in other.endings {
            *self.endings.entry(how).or_default() += count;
        }
        self.most_down = self.most_down.max(other.most_down);
        self.groups.resize(self.groups.len().max(other.groups.len()), Vec::new());
        for (mine, others) in self.groups.iter_mut().zip(other.groups) {
            mine.resize(mine.len().max(others.len()), 0);
            for (most, other) in mine.iter_mut().zip(others) {
                *most = (*most).max(other);
            }
        }
    }

    fn waves(&mut self, rollout: &Rollout, promised: &Characteristic) -> Vec<WaveForecast> {
        let times = self.starts.iter_mut().zip(&mut self.ends);
        (1..)
            .zip(sizes(rollout).zip(times))
            .map(|(wave, (devices, (starts, ends)))| WaveForecast {
                wave,
                devices,
                starts_p50: percentile(starts, 50),
                starts_p90: percentile(starts, 90),
                ends_p50: percentile(ends, 50),
                ends_p90: percentile(ends, 90),
                real_error: promised.waves.get(wave as usize - 1).copied(),
            })
            .collect()
    }

    fn peak_down(&self, world: &World, view: &FleetView) -> Vec<PeakDown> {
        let mut groups: Vec<PeakDown> = Vec::new();
        for (most, group) in self.groups.iter().zip(&world.groups) {
            for ((devices, of), value) in most.iter().zip(&group.sizes).zip(&group.values) {
                groups.push(PeakDown {
                    group: value.clone(),
                    label: group.label.clone(),
                    devices: *devices,
                    of: *of,
                });
            }
        }
        groups.sort_by(|a, b| {
            b.devices.cmp(&a.devices).then_with(|| (&a.label, &a.group).cmp(&(&b.label, &b.group)))
        });
        groups.truncate(MOST_GROUPS);
        let of = u32::try_from(view.len()).unwrap_or(u32::MAX);
        let fleet = PeakDown { group: "fleet".to_owned(), label: String::new(), devices: self.most_down, of };
        groups.insert(0, fleet);
        groups
    }

    fn turns(&mut self, rollout: &Rollout, view: &FleetView) -> Vec<Turn> {
        let half = self.runs.div_ceil(2);
        let mut turns: Vec<(u32, u32, Turn)> = Vec::new();
        for (device, done) in view.iter().zip(&mut self.done) {
            let Some(member) = rollout.member(device.id) else { continue };
            let about_seconds = if done.len() >= half { percentile(done, 50) } else { None };
            let wave = member.wave().saturating_add(1);
            let turn = Turn { device: device.id, name: device.name.clone(), wave, about_seconds };
            turns.push((about_seconds.unwrap_or(u32::MAX), member.rank(), turn));
        }
        turns.sort_by_key(|(about, rank, _)| (*about, *rank));
        turns.into_iter().map(|(_, _, turn)| turn).collect()
    }
}
