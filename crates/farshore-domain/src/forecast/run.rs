//! One run: the engine over one virtual world, from now until the rollout ends or waits for a person.

use uuid::Uuid;

use super::history::Habits;
use super::world::World;
use crate::device::OFFLINE_AFTER_MS;
use crate::id::PermitId;
use crate::rollout::{Phase, Rollout, WaveState, decide_on};
use crate::time::{MINUTE_MS, SECOND_MS, UnixMs};

/// Nothing that is not awaited is looked at more seldom than this.
const SELDOM_MS: i64 = 15 * MINUTE_MS;

/// So many short waits are looked at.
const LOOKS: u32 = 64;

/// How a run is played.
#[derive(Clone, Debug)]
pub struct Play {
    pub seed: u64,
    /// The share of the devices that fail, of those that may: 0 to 1.
    pub failure_share: f64,
    pub begin: UnixMs,
    /// Not beyond this.
    pub horizon: UnixMs,
    /// Reports meet on a grid of this width.
    pub quantum_ms: i64,
    /// At most this many decisions.
    pub most_steps: u32,
    /// Ends as soon as it halts, instead of bringing the devices back.
    pub until_halt: bool,
}

/// What became of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Where it stood at the end. Not final: it waits for a person, or the horizon came first.
    pub phase: Phase,
    pub ended: UnixMs,
    /// Decisions.
    pub steps: u32,
    /// Whether too many failures were the reason for its end.
    pub halted: bool,
    /// It halted by counting in a wave too small to tell noise from a bad release.
    pub halted_small: bool,
    /// Devices that ever had a permit or the new release.
    pub touched: u32,
    /// When each wave started and when its gate opened.
    pub waves: Vec<(Option<UnixMs>, Option<UnixMs>)>,
}

/// What was seen of a run that stands still, with what it waits for.
pub(super) type Watch<'a> = &'a mut dyn FnMut(&Rollout, &World, UnixMs);

/// Plays one run of `rollout`, which must have been started. The world is reset first.
pub fn play(rollout: Rollout, world: &mut World, habits: &Habits, how: &Play) -> Outcome {
    watched(rollout, world, habits, how, &mut |_, _, _| {})
}

pub(super) fn watched(
    rollout: Rollout,
    world: &mut World,
    habits: &Habits,
    how: &Play,
    watch: Watch<'_>,
) -> Outcome {
    world.reset((how.seed, how.failure_share), habits, &rollout, (how.begin, how.quantum_ms));
    let mut numbers = 0_u128;
    let mut permits = || {
        numbers += 1;
        PermitId(Uuid::from_u128(numbers))
    };
    let mut rollout = rollout;
    let mut now = how.begin;
    let mut steps = 0;
    let mut pause_ms = how.quantum_ms;
    let mut halted = false;
    let mut looks = 0_u32;
    loop {
        let before = (rollout.phase(), rollout.current_wave());
        let decision = decide_on(rollout, world.view(), now, &mut permits);
        rollout = decision.next;
        steps += 1;
        halted |= rollout.waves().iter().any(|wave| wave.state() == WaveState::Halted);
        let over = match rollout.phase() {
            Phase::Running => false,
            Phase::RollingBack => how.until_halt,
            _ => true,
        };
        if over {
            break;
        }
        world.carry_out(&decision.actions, habits, &rollout, now);
        if waits_for_people(&rollout) && steps < how.most_steps {
            watch(&rollout, world, now);
            looks += 1;
            if approve(&mut rollout, now) {
                continue;
            }
        }
        let moved = !decision.actions.is_empty() || before != (rollout.phase(), rollout.current_wave());
        pause_ms = if moved {
            how.quantum_ms
        } else {
            pause_ms.saturating_mul(2).min(SELDOM_MS.max(how.quantum_ms))
        };
        let next = next_moment(&rollout, world, now, pause_ms);
        let idle = next.since_ms(now);
        // Looking is as much work as deciding: many short waits are not all looked at.
        if idle >= SELDOM_MS || (looks < LOOKS && idle >= MINUTE_MS.min(how.quantum_ms.saturating_mul(2))) {
            watch(&rollout, world, now);
            looks += 1;
        }
        if next > how.horizon || steps >= how.most_steps {
            break;
        }
        now = next;
        if world.pass(habits, &rollout, now) > 0 {
            pause_ms = pause_ms.min(how.quantum_ms.saturating_mul(8));
        }
    }
    let touched = rollout.members().filter(|(_, member)| member.was_touched()).count();
    Outcome {
        phase: rollout.phase(),
        ended: now,
        steps,
        halted,
        halted_small: rollout.waves().iter().any(|wave| {
            wave.state() == WaveState::Halted && wave.verdict().is_some_and(|verdict| verdict.small)
        }),
        touched: u32::try_from(touched).unwrap_or(u32::MAX),
        waves: rollout
            .waves()
            .iter()
            .map(|wave| {
                let passed = wave.state() == WaveState::Passed;
                (wave.started_at(), wave.verdict().filter(|_| passed).map(|verdict| verdict.at))
            })
            .collect(),
    }
}

fn waits_for_people(rollout: &Rollout) -> bool {
    let wave = rollout.waves().get(rollout.current_wave() as usize);
    wave.is_some_and(|wave| wave.state() == WaveState::AwaitingApproval)
}

/// As many different people as the gate needs say yes at once.
fn approve(rollout: &mut Rollout, now: UnixMs) -> bool {
    ["forecast", "forecast-too"].into_iter().any(|by| rollout.approve(by, None, now).is_ok())
}

/// When to decide again: at the next report or deadline, and at what else happens in the fleet not more often than `pause_ms`.
fn next_moment(rollout: &Rollout, world: &World, now: UnixMs, pause_ms: i64) -> UnixMs {
    let (urgent, casual) = world.next_events();
    // The engine looks again after this time because silence grows without a report; here it grows with an event.
    let deadline = rollout.deadline(now).filter(|end| *end != now.plus_ms(OFFLINE_AFTER_MS));
    let casual = casual.map(|at| at.max(now.plus_ms(pause_ms)));
    let next = [urgent, casual, deadline].into_iter().flatten().min();
    world.not_before(next.unwrap_or_else(|| now.plus_ms(SELDOM_MS)), now)
}

/// The width of the grid: fine beside an install, coarse beside the whole.
#[must_use]
pub(super) fn quantum_ms(rollout: &Rollout, habits: &Habits) -> i64 {
    let install = habits.usual_install_ms();
    let budget = i64::from(rollout.budget()).max(1);
    let mut before = 0;
    let mut whole = 0_i64;
    for wave in rollout.waves() {
        let size = i64::from(wave.upto().saturating_sub(before));
        before = wave.upto();
        let rounds = size.div_euclid(budget) + 1 + i64::from(u64::try_from(size).unwrap_or(0).max(1).ilog2());
        whole = whole
            .saturating_add(rounds.saturating_mul(install))
            .saturating_add(i64::from(wave.soak_seconds()) * SECOND_MS);
    }
    // Each decision looks at every device: larger fleets take larger steps.
    let part = match rollout.population() {
        0..=2_000 => 8,
        2_001..=5_000 => 4,
        _ => 2,
    };
    let fine = (install / part).max(SECOND_MS);
    let coarse = whole / 400;
    let widest = (install / 2).max(SECOND_MS);
    fine.max(coarse).min(widest)
}
