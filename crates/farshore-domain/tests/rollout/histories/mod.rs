//! Arbitrary histories of rollouts: fleets, outages, lies, reports that come twice or late, clocks that are wrong, people. Every decision is
//! checked by the invariants that production checks too, and by an oracle that knows nothing of the engine.
//!
//! [`generator`] makes histories, [`world`] lives them with [`device`]s in it, [`fate`] is what may happen in it, [`oracle`] judges, [`coverage`] counts what they came by, [`tamper`] breaks
//! rules on purpose to see that somebody notices, [`regressions`] are histories that once went wrong.
//!
//! The short form is the same each time. `FARSHORE_TEST_LONG=1` takes twenty times as many histories of another seed each time;
//! `FARSHORE_HISTORIES` and `FARSHORE_SEED` say how many and which; `FARSHORE_SHRINK=0` leaves a history that fails as long as it is.

mod asked;
mod coverage;
mod device;
mod fate;
mod generator;
mod oracle;
mod regressions;
mod tamper;
mod world;

use std::cell::RefCell;

use farshore_domain::rollout::{Member, Phase, Progress};
use farshore_domain::time::SECOND_MS;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::fleet::{Nature, release};
use coverage::{Coverage, Seen};
use generator::{History, Step, histories};
use tamper::Tamper;
use world::{Checked, Fault, World, must};

const PEOPLE: [&str; 3] = ["ada", "grace", "barbara"];

fn apply(world: &mut World, step: &Step) -> Checked {
    match *step {
        Step::Seconds(seconds) => return world.pass(i64::from(seconds) * SECOND_MS),
        Step::ClockJumps(seconds) => world.clock_jumps(i64::from(seconds) * SECOND_MS),
        Step::SlowClock(number, seconds) => world.slow_clock(number, i64::from(seconds) * SECOND_MS),
        Step::Online(number, online) => {
            if let Some(id) = world.pick(number) {
                world.set_online(id, online);
            }
        }
        Step::Site(site, online) => world.site(site, online),
        Step::Mute(number, seconds) => world.mute(number, i64::from(seconds) * SECOND_MS),
        Step::Deaf(number, seconds) => world.deafen(number, i64::from(seconds) * SECOND_MS),
        Step::Lies(number, lie) => world.lies(number, lie),
        Step::OldReport(number, back) => world.repeat_report(number, usize::from(back)),
        Step::OldDesired(number) => world.repeat_desired(number)?,
        Step::SameReport | Step::DecideAgain => world.dirty = true,
        Step::Join(seed) => world.join(&seed),
        Step::Leave(number) => world.leave(number),
        Step::Return(number) => world.return_of(number),
        Step::Pin(number, on) => world.pin(number, on),
        Step::Cordon(number, on) => world.cordon(number, on),
        Step::Busy(number, seconds) => world.keep_down(number, i64::from(seconds) * SECOND_MS),
        Step::Label(number, site) => world.relabel(number, site),
        Step::Repair(number) => world.repair(number),
        Step::Reload => world.reload()?,
        Step::Pause => world.verb(|rollout, now| rollout.pause("ada", None, now).ok())?,
        Step::Resume => world.verb(|rollout, now| rollout.resume("ada", None, now).ok())?,
        Step::Approve(person) => world.approve(PEOPLE[usize::from(person) % PEOPLE.len()])?,
        Step::Reject => world.verb(|rollout, now| rollout.reject("ada", None, now).ok())?,
        Step::SkipWave => world.verb(|rollout, now| rollout.skip_wave("ada", None, now).ok())?,
        Step::RetryFailed => world.verb(|rollout, now| rollout.retry_failed("ada", None, now).ok())?,
        Step::Rollback => world.verb(|rollout, now| rollout.rollback("ada", None, now).ok())?,
        Step::Abort(back) => world.verb(|rollout, now| rollout.abort("ada", None, back, now).ok())?,
        Step::Supersede => {
            let number = u32::try_from(world.rollouts.len()).unwrap() + 1;
            if number < 5 {
                world.begin(number)?;
            }
        }
    }
    world.settle()
}

/// Lives a history to its end: what happens, then calm, in which everything must come to an end.
fn live(history: &History, tamper: Option<Tamper>, told: bool) -> Result<Seen, Fault> {
    let mut world = World::new(&history.spec, tamper, told);
    history.devices.iter().for_each(|seed| world.join(seed));
    world.begin(1)?;
    world.settle()?;
    for step in &history.steps {
        world.tell_of(step);
        apply(&mut world, step)?;
    }
    world.calm()?;
    end(&mut world)?;
    Ok(world.seen)
}

/// With everybody reachable and honest it ends, or asks people, who approve, let it go on once after a halt, and then end it.
fn end(world: &mut World) -> Checked {
    let members = i64::try_from(world.devices.len()).unwrap() + 1;
    let waves = i64::try_from(world.rollout().waves().len()).unwrap() + 1;
    let bound = (members * 600 + 4_000) * waves * SECOND_MS;
    let mut resumed = false;
    for _ in 0..60 {
        let until = world.now.plus_ms(bound);
        world.pass_until(until, World::rests)?;
        must(world.rests(), "a calm world comes to an end", || {
            let waits = world.rollout().waiting_for(&world.view, world.now);
            format!("after {bound} ms it is {} and waits for {waits:?}", world.rollout().phase())
        })?;
        if world.is_over() {
            break;
        }
        if world.awaits_approval() {
            for person in PEOPLE {
                world.approve(person)?;
            }
        } else if std::mem::replace(&mut resumed, true) {
            world.verb(|rollout, now| {
                let back = rollout.abort("ada", None, true, now);
                back.or_else(|_| rollout.abort("ada", None, false, now)).ok()
            })?;
        } else {
            world.verb(|rollout, now| rollout.resume("ada", None, now).ok())?;
        }
        world.settle()?;
    }
    must(world.is_over(), "a calm world comes to an end", || world.rollout().phase().to_string())?;
    world.pass(900 * SECOND_MS)?;
    everybody_has_what_the_channel_says(world)
}

fn everybody_has_what_the_channel_says(world: &World) -> Checked {
    let (phase, to) = (world.rollout().phase(), world.rollout().to().uid);
    let from = world.rollout().from().map(|from| from.uid);
    for device in world.devices.values() {
        let (runs, nature) = (device.app.active, device.nature);
        let progress = world.rollout().member(device.id).map(Member::progress);
        let stays = matches!(progress, Some(Progress::RollbackFailed { .. }));
        let good = match phase {
            // Who can't run the old release keeps the new one, and it is said.
            Phase::Failed => runs != Some(to) || nature == Nature::Stuck || from == Some(to) || stays,
            Phase::Succeeded if matches!(nature, Nature::Good | Nature::Terse) => runs == Some(to),
            _ => true,
        };
        must(good, "everybody ends with what the channel says", || {
            format!(
                "{} ({nature:?}) runs {runs:?} after {phase}: {device:?}\n{:?}",
                device.id,
                world.rollout().member(device.id)
            )
        })?;
        let refused = nature == Nature::Refuses && device.ran.iter().any(|ran| *ran != release(0).uid);
        must(!refused || world.repaired, "what is refused does not run", || format!("{device:?}"))?;
    }
    Ok(())
}

fn setting(variable: &str) -> Option<u32> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

fn is_long() -> bool {
    std::env::var("FARSHORE_TEST_LONG").is_ok_and(|value| value == "1")
}

/// A runner of so many histories, the same for the same seed.
fn runner(cases: u32, seed: u32) -> TestRunner {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: setting("FARSHORE_SHRINK").unwrap_or(4_000),
        max_shrink_time: 20_000,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// A history that breaks a rule, shrunk.
#[derive(Debug)]
struct Found {
    history: History,
    why: String,
}

impl Found {
    /// Lives it once more, telling each step, and stops the test.
    fn tell(&self) -> ! {
        println!("\n{}\n{}", self.why, self.history);
        let again = live(&self.history, None, true).err();
        panic!("{}\n{again:?}", self.why);
    }
}

/// Runs so many histories; on a fault, the shrunk one.
fn run(cases: u32, seed: u32, tamper: Option<Tamper>) -> Result<Coverage, Box<Found>> {
    let coverage = RefCell::new(Coverage::default());
    let result = runner(cases, seed).run(&histories(), |history| match live(&history, tamper, false) {
        Ok(seen) => {
            coverage.borrow_mut().add(&seen);
            Ok(())
        }
        Err(fault) => Err(TestCaseError::fail(format!("{}: {}", fault.rule, fault.what))),
    });
    match result {
        Ok(()) => Ok(coverage.into_inner()),
        Err(TestError::Fail(why, history)) => Err(Box::new(Found { history, why: why.to_string() })),
        Err(TestError::Abort(why)) => panic!("no histories: {why}"),
    }
}

/// Runs histories with a broken rule until somebody notices: in which history, and what.
fn run_once(cases: u32, seed: u32, tamper: Tamper) -> Option<(u32, String)> {
    let mut runner = runner(cases, seed);
    let histories = histories();
    (1..=cases).find_map(|number| {
        let history = histories.new_tree(&mut runner).unwrap().current();
        let fault = live(&history, Some(tamper), false).err()?;
        Some((number, format!("{}: {}", fault.rule, fault.what)))
    })
}

/// A quarter of the histories, so that they run beside each other. Each quarter comes by a quarter of what all have to come by.
fn quarter(number: u32) {
    let many = setting("FARSHORE_HISTORIES").unwrap_or(if is_long() { 200_000 } else { 10_000 });
    let fresh = || u32::from_le_bytes(*uuid::Uuid::new_v4().as_bytes().first_chunk().unwrap());
    let seed = setting("FARSHORE_SEED").unwrap_or_else(|| if is_long() { fresh() } else { 1 });
    println!("FARSHORE_SEED={seed}");
    match run(many.div_ceil(4), seed.wrapping_mul(1_000).wrapping_add(number), None) {
        Ok(coverage) => coverage.check(),
        Err(found) => found.tell(),
    }
}

#[test]
fn ten_thousand_histories_keep_every_invariant_first_quarter() {
    quarter(0);
}

#[test]
fn ten_thousand_histories_keep_every_invariant_second_quarter() {
    quarter(1);
}

#[test]
fn ten_thousand_histories_keep_every_invariant_third_quarter() {
    quarter(2);
}

#[test]
fn ten_thousand_histories_keep_every_invariant_last_quarter() {
    quarter(3);
}

#[test]
fn one_seed_is_one_history() {
    let first = run(64, 7, None).map(|coverage| format!("{coverage:?}"));
    assert_eq!(first.ok(), run(64, 7, None).map(|coverage| format!("{coverage:?}")).ok());
}
