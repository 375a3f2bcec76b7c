//! `rollout`: the engine over virtual fleets: devices touched before a bad release halts, false halts of a good one, and what a decision costs.
//!
//! Nothing is connected: the same pure engine that the control plane runs decides over virtual time (`farshore_domain::forecast`).

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use farshore_domain::device::{AppPhase, Reachability};
use farshore_domain::forecast::{
    DeviceHistory, Failures, Habits, History, Options, Outcome, Play, World, play, simulate,
};
use farshore_domain::id::{DeviceId, PermitId, ReleaseId, RolloutId};
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::rollout::{
    AppReport, DeviceView, FleetView, KnownRelease, Phase, ReleaseRef, Rollout, RolloutSpec, WaveSpec, decide,
};
use farshore_domain::time::{DAY_MS, MINUTE_MS, UnixMs};
use uuid::Uuid;

use super::converge;
use super::figures::{Figures, Times};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Runs for each failure rate
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// A hundred runs for each failure rate, for a first look
    #[arg(long)]
    quick: bool,
    /// Fleets of these sizes
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1_000, 10_000])]
    sizes: Vec<u32>,
    /// Virtual devices behind a real control plane that take a release; 0 leaves this part out
    #[arg(long, default_value_t = LARGE)]
    converge: u32,
}

const NOW: UnixMs = UnixMs(1_760_000_000_000);
/// The fleet whose figures have no suffix.
const LARGE: u32 = 10_000;
/// Percent of the devices that fail.
const RATES: [u8; 5] = [5, 10, 20, 30, 50];
const NOISE: [u8; 2] = [1, 5];
/// Past install times that are drawn from, in seconds: from the permit to the commit.
const INSTALLS: [u32; 7] = [30, 40, 50, 60, 70, 80, 90];

/// What the failing devices have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Independent,
    /// All devices with one value of this label fail, and no others; they are as many as the failure rate says.
    One(&'static str),
}

impl Kind {
    const ALL: [Self; 3] = [Self::Independent, Self::One("model"), Self::One("location")];

    fn suffix(self, size: u32) -> String {
        let kind = match self {
            Self::Independent => String::new(),
            Self::One(label) => format!("_{label}"),
        };
        if size == LARGE { kind } else { format!("{kind}_{size}") }
    }
}

fn uuid(kind: u128, number: u64) -> Uuid {
    Uuid::from_u128(kind << 64 | u128::from(number))
}

fn release(number: u64) -> Result<KnownRelease> {
    let version = format!("1.{number}").parse().context("no version")?;
    Ok(KnownRelease { uid: ReleaseId(uuid(0xE, number)), version })
}

fn spec() -> Result<RolloutSpec> {
    let (app, channel) = (Name::new("bench").context("no name")?, Name::new("prod").context("no name")?);
    let waves = [1, 5, 25, 100].map(WaveSpec::percent).to_vec();
    Ok(RolloutSpec { waves, ..RolloutSpec::new(app, channel, ReleaseRef::Uid(release(1)?.uid)) })
}

/// A fleet in which `share` percent of the devices, at least one, have `bad` as the value of `label`.
fn fleet(size: u32, bad: Option<(&str, u8)>) -> Result<FleetView> {
    let mut devices = Vec::new();
    for number in 0..size {
        let value = |label: &str, others: u32| match bad {
            Some((key, share)) if key == label && number < (size * u32::from(share)).div_ceil(100) => {
                "bad".to_owned()
            }
            _ => format!("{label}-{}", number % others),
        };
        let (model, location) = (value("model", 4), value("location", 20));
        let name = Name::new(format!("kiosk-{number}")).context("no name")?;
        let mut device = DeviceView::new(DeviceId(uuid(0xD, u64::from(number))), name);
        device.labels = Labels::try_from([("model", model.as_str()), ("location", location.as_str())])
            .context("no labels")?;
        device.last_seen = Some(NOW);
        device.app = AppReport {
            active: Some(release(0)?.uid),
            committed: true,
            phase: AppPhase::Running,
            ..AppReport::default()
        };
        devices.push(device);
    }
    Ok(FleetView::new(devices))
}

fn past(view: &FleetView, online_percent: u8) -> History {
    let device = DeviceHistory {
        install_seconds: INSTALLS.to_vec(),
        online_percent: Some(online_percent),
        absence_seconds: Some(3_600),
        ..DeviceHistory::default()
    };
    History { devices: view.iter().map(|known| (known.id, device.clone())).collect() }
}

fn started(spec: &RolloutSpec, view: &FleetView, seed: u64) -> Result<Rollout> {
    let name = Name::new("bench-1.1").context("no name")?;
    let (old, new) = (release(0)?, release(1)?);
    let mut rollout =
        Rollout::new(RolloutId(uuid(0xF, seed)), name, spec.clone(), Some(old.clone()), new, "bench", NOW)?;
    rollout.start(Some(old), view, "bench", None, NOW)?;
    Ok(rollout)
}

fn how(seed: u64, size: u32, percent: u8) -> Play {
    // A release that halts is over after few decisions; one that does not is decided on for ten thousand devices many times.
    let seconds = if size >= LARGE && percent < 20 { 15 } else { 5 };
    Play {
        seed,
        failure_share: f64::from(percent) / 100.0,
        begin: NOW,
        horizon: NOW.plus_ms(30 * DAY_MS),
        quantum_ms: seconds * 1_000,
        most_steps: 100_000,
        until_halt: true,
    }
}

/// Calls `run` for each seed, on all cores. What it returns comes in no order.
fn each_seed<T: Send, W>(
    seeds: u64,
    prepare: impl Fn() -> W + Sync,
    run: impl Fn(&mut W, u64) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicU64::new(0);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let work = || -> Result<Vec<T>> {
        let mut world = prepare();
        let mut done = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return Ok(done);
            }
            done.push(run(&mut world, seed)?);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for thread in threads {
            match thread.join() {
                Ok(done) => all.extend(done?),
                Err(_) => bail!("a run broke"),
            }
        }
        Ok(all)
    })
}

/// What all seeds of one failure rate gave.
#[derive(Default)]
struct Rate {
    touched: Times,
    halted: u32,
    /// Of those, by counting in a wave too small for the promise.
    small: u32,
    runs: u32,
}

impl Rate {
    fn add(&mut self, outcome: &Outcome) -> Result<()> {
        if !outcome.halted && outcome.phase != Phase::Succeeded {
            bail!("a run neither halted nor succeeded: {outcome:?}");
        }
        self.touched.add_ms(f64::from(outcome.touched));
        self.halted += u32::from(outcome.halted);
        self.small += u32::from(outcome.halted_small);
        self.runs += 1;
        Ok(())
    }

    fn ratio(&self) -> f64 {
        f64::from(self.halted) / f64::from(self.runs.max(1))
    }

    /// Halts that the promised error is about.
    fn promised(&self) -> f64 {
        f64::from(self.halted - self.small) / f64::from(self.runs.max(1))
    }
}

/// Devices touched and halts, for one size and kind.
fn rates(figures: &mut Figures, size: u32, kind: Kind, seeds: u64) -> Result<()> {
    let spec = spec()?;
    let suffix = kind.suffix(size);
    let mut found: BTreeMap<u8, Rate> = BTreeMap::new();
    let mut gather = |all: Vec<Vec<(u8, Outcome)>>| -> Result<()> {
        for (percent, outcome) in all.into_iter().flatten() {
            found.entry(percent).or_default().add(&outcome)?;
        }
        Ok(())
    };
    match kind {
        Kind::Independent => {
            let percents: std::collections::BTreeSet<u8> = RATES.into_iter().chain(NOISE).collect();
            let view = fleet(size, None)?;
            let habits = Habits::new(&past(&view, 100), &view);
            let world = World::new(view.clone(), &[], &Failures::independent(1.0));
            gather(each_seed(
                seeds,
                || world.clone(),
                |world, seed| {
                    let rollout = started(&spec, &view, seed)?;
                    let run = |percent: &u8| {
                        (*percent, play(rollout.clone(), world, &habits, &how(seed, size, *percent)))
                    };
                    Ok(percents.iter().map(run).collect())
                },
            )?)?;
        }
        Kind::One(label) => {
            for percent in RATES {
                let view = fleet(size, Some((label, percent)))?;
                let habits = Habits::new(&past(&view, 100), &view);
                let failures = Failures { share: 1.0, only: Some((label.to_owned(), "bad".to_owned())) };
                let world = World::new(view.clone(), &[], &failures);
                gather(each_seed(
                    seeds,
                    || world.clone(),
                    |world, seed| {
                        let rollout = started(&spec, &view, seed)?;
                        let play_as = Play { failure_share: 1.0, ..how(seed, size, percent) };
                        Ok(vec![(percent, play(rollout, world, &habits, &play_as))])
                    },
                )?)?;
            }
        }
    }
    for (percent, rate) in &mut found {
        if RATES.contains(percent) {
            figures.put(&format!("touched_median_fail{percent:02}{suffix}"), rate.touched.percentile(50.0));
            figures.put(&format!("touched_worst_fail{percent:02}{suffix}"), rate.touched.percentile(100.0));
            figures.put(&format!("halted_ratio_fail{percent:02}{suffix}"), rate.ratio());
        }
        if kind == Kind::Independent && NOISE.contains(percent) {
            figures.put(&format!("false_halt_ratio_noise{percent:02}{suffix}"), rate.ratio());
            figures.put(&format!("false_halt_ratio_judged_noise{percent:02}{suffix}"), rate.promised());
        }
    }
    Ok(())
}

/// How much longer a good release takes with slow start.
fn finish(figures: &mut Figures, seeds: u64) -> Result<()> {
    let view = fleet(LARGE, None)?;
    let habits = Habits::new(&past(&view, 100), &view);
    let world = World::new(view.clone(), &[], &Failures::independent(0.0));
    let mut medians = Vec::new();
    for slow_start in [true, false] {
        let spec = RolloutSpec { slow_start, ..spec()? };
        let mut times = Times::default();
        let ends = each_seed(
            seeds,
            || world.clone(),
            |world, seed| {
                let outcome = play(started(&spec, &view, seed)?, world, &habits, &how(seed, LARGE, 0));
                Ok(outcome.ended.since_ms(NOW))
            },
        )?;
        for ms in ends {
            #[expect(clippy::cast_precision_loss, reason = "days in milliseconds are far below 2^52")]
            times.add_ms(ms as f64 / 1_000.0);
        }
        medians.push(times.percentile(50.0));
    }
    if let [slow, fast] = medians[..] {
        figures.put("finish_seconds_slow_start", slow);
        figures.put("finish_seconds_at_once", fast);
        figures.put("finish_time_ratio", (slow / fast * 1_000.0).round() / 1_000.0);
    }
    Ok(())
}

/// What one decision costs in the middle of the last wave, alone and with reading and writing the state as the driver does.
fn costs(figures: &mut Figures) -> Result<()> {
    const ROUNDS: u32 = 50;
    let mut view = fleet(LARGE, None)?;
    let mut rollout = started(&spec()?, &view, 1)?;
    let new = release(1)?.uid;
    let mut numbers = 0;
    let mut permits = || {
        numbers += 1;
        PermitId(uuid(0xA, numbers))
    };
    let mut now = NOW;
    let done = |rollout: &Rollout, now: UnixMs| rollout.summary(now).counts.ok;
    // Every device reports a while after its permit, until half of the fleet has.
    for _ in 0..10_000 {
        let decision = decide(&rollout, &view, now, &mut permits);
        rollout = decision.next;
        if done(&rollout, now) >= LARGE / 2 {
            break;
        }
        let flying: Vec<DeviceId> = rollout.held_permits(now).map(|held| held.device).collect();
        for device in flying {
            if let Some(known) = view.get_mut(device) {
                known.app.active = Some(new);
                known.app.committed = true;
            }
        }
        now = now.plus_ms(MINUTE_MS);
    }
    if done(&rollout, now) < LARGE / 2 || rollout.phase() != Phase::Running {
        bail!("the rollout did not get to the middle of its last wave: {:?}", rollout.summary(now).counts);
    }
    let begin = Instant::now();
    for _ in 0..ROUNDS {
        black_box(decide(&rollout, &view, now, &mut permits));
    }
    let each = begin.elapsed() / ROUNDS;
    figures.put("decide_us_per_device", each.as_secs_f64() * 1e6 / f64::from(LARGE));
    let text = rollout.to_json()?;
    figures.put("state_bytes_per_device", f64::from(u32::try_from(text.len())?) / f64::from(LARGE));
    let begin = Instant::now();
    for _ in 0..ROUNDS {
        let read = Rollout::from_json(&text)?;
        black_box(decide(&read, &view, now, &mut permits).next.to_json()?);
    }
    figures.put(
        "read_decide_write_us_per_device",
        (begin.elapsed() / ROUNDS).as_secs_f64() * 1e6 / f64::from(LARGE),
    );
    Ok(())
}

/// A forecast for ten thousand devices of which a tenth is away.
fn forecast(figures: &mut Figures) -> Result<()> {
    let mut view = fleet(LARGE, None)?;
    let away: Vec<DeviceId> = view.iter().map(|device| device.id).step_by(10).collect();
    for device in away {
        if let Some(known) = view.get_mut(device) {
            known.reachability = Reachability::Offline;
        }
    }
    let name = Name::new("bench-1.1").context("no name")?;
    let (old, new) = (release(0)?, release(1)?);
    let rollout = Rollout::new(RolloutId(uuid(0xF, 1)), name, spec()?, Some(old.clone()), new, "bench", NOW)?;
    let options = Options { from: Some(old), ..Options::default() };
    let history = past(&view, 90);
    let mut times = Times::default();
    for _ in 0..3 {
        let begin = Instant::now();
        let answer = simulate(&rollout, &view, &history, &options, NOW)?;
        times.add(begin.elapsed());
        figures.put("simulate_10k_runs", answer.runs);
        figures.put("simulate_10k_finishes", answer.finishes);
    }
    figures.put_ms("simulate_10k_ms", times.percentile(50.0));
    Ok(())
}

pub(crate) async fn run(arguments: &Arguments) -> Result<Figures> {
    let seeds = if arguments.quick { 100 } else { arguments.seeds.clamp(1, 100_000) };
    let begin = Instant::now();
    let mut figures = Figures::default();
    figures.put("seeds", seeds);
    if arguments.converge > 0 {
        converge::measure(&mut figures, arguments.converge).await?;
    }
    // Alone, before the cores are busy.
    costs(&mut figures)?;
    forecast(&mut figures)?;
    finish(&mut figures, seeds.min(50))?;
    for size in &arguments.sizes {
        for kind in Kind::ALL {
            rates(&mut figures, *size, kind, seeds)?;
            eprintln!("{size} devices, {kind:?}: {:.0} s", begin.elapsed().as_secs_f64());
        }
    }
    figures.put_seconds("bench_seconds", begin.elapsed());
    Ok(figures)
}
