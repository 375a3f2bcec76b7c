//! The virtual machine under the agent's reconciler: what would be a runner, a disk and processes is here a table with
//! times at which things will have happened. Pure: time and randomness are arguments.

use std::collections::{BTreeMap, BTreeSet};

use farshore_domain::device::AppPhase;
use farshore_domain::digest::Digest;
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::reconcile::{
    self, Action, Busy, Checks, DeviceState, DeviceView, Event, Inputs, Installed, MonoMs, Now, Observed,
    Offer, Outcome, Running,
};
use farshore_domain::time::UnixMs;
use serde::{Deserialize, Serialize};

use crate::dice::Dice;
use crate::options::{Behaviours, DICE_DEVICE, FaultKind};

/// While something is on its way the reconciler looks this often, as an agent does.
const TICK_MS: i64 = 1_000;
/// A crashing app lives this long.
const CRASH_AFTER_MS: i64 = 600;
/// Failing checks reach their threshold after this long.
const THRESHOLD_MS: i64 = 3_000;

/// Who the machine is and how it behaves; the same for its whole life.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    pub seed: u64,
    /// The device's key in seeded choices.
    pub device: u64,
    pub labels: &'a Labels,
    pub behaviours: &'a Behaviours,
}

/// What is under way in an app's table row.
#[derive(Clone, Debug)]
enum Acting {
    Start { release: Box<Installed>, instance: u64, config: Digest },
    Stop,
    Discard { keep: Vec<Digest> },
    Remove,
}

/// One app on the virtual machine.
#[derive(Clone, Debug, Default)]
struct VirtualApp {
    staged: BTreeSet<Digest>,
    running: Option<Running>,
    staging: Option<(MonoMs, Digest)>,
    acting: Option<(MonoMs, Acting)>,
    fault: Option<FaultKind>,
    /// Since when the process of the instance is there, and when its checks are good for the first time.
    up_since: MonoMs,
    good_at: MonoMs,
    /// When a crashing process ends, or is there again.
    turns_at: Option<MonoMs>,
    /// The values the desired state gives it.
    config: BTreeMap<String, String>,
}

impl VirtualApp {
    fn observed(&self) -> Observed {
        Observed { staged: self.staged.clone(), running: self.running.clone(), ..Observed::default() }
    }

    fn busy(&self) -> Busy {
        Busy { staging: self.staging.is_some(), acting: self.acting.is_some() }
    }

    fn checks(&self, now: MonoMs) -> Checks {
        let Some(running) = &self.running else { return Checks::Unknown };
        if !running.up || now < self.good_at {
            return Checks::Unknown;
        }
        let failing = |since: MonoMs| {
            let message = "GET http://127.0.0.1/healthz answered 500".to_owned();
            if now.since_ms(since) >= THRESHOLD_MS {
                Checks::Failed { message }
            } else {
                Checks::Wavering { message }
            }
        };
        match self.fault {
            Some(FaultKind::NeverHealthy) => failing(self.good_at),
            Some(FaultKind::FailsAfterMs(after)) => {
                let since = self.up_since.plus_ms(after.into());
                if now < since { Checks::Good } else { failing(since) }
            }
            // Dies before its checks have been good.
            Some(FaultKind::Crashes) => Checks::Unknown,
            None => Checks::Good,
        }
    }

    /// When the row changes by itself.
    fn due(&self, now: MonoMs) -> Option<MonoMs> {
        let checks = self.running.as_ref().and_then(|_| {
            let turning = match self.fault {
                Some(FaultKind::FailsAfterMs(after)) => Some(self.up_since.plus_ms(after.into())),
                Some(FaultKind::NeverHealthy) => Some(self.good_at),
                _ => None,
            };
            let failed = turning.map(|at| at.plus_ms(THRESHOLD_MS));
            [Some(self.good_at), turning, failed].into_iter().flatten().filter(|at| *at > now).min()
        });
        let staging = self.staging.as_ref().map(|(at, _)| *at);
        let acting = self.acting.as_ref().map(|(at, _)| *at);
        [staging, acting, self.turns_at, checks].into_iter().flatten().min()
    }
}

/// What a machine remembers while its fleet is stopped: the reconciler's state and what lies on the disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    pub state: DeviceState,
    pub apps: BTreeMap<Name, Observed>,
}

/// The reconciler with its virtual machine.
#[derive(Debug)]
pub struct Machine {
    state: DeviceState,
    inputs: Inputs,
    apps: BTreeMap<Name, VirtualApp>,
    dice: Dice,
    slow: bool,
    /// When the reconciler last decided; `None`: something changed since.
    decided: Option<MonoMs>,
}

impl Machine {
    /// A new machine, or one that has just booted with what it remembers: nothing runs yet, everything on its disk is there.
    #[must_use]
    pub fn new(at: Surroundings<'_>, memory: Option<Memory>) -> Self {
        let memory = memory.unwrap_or_default();
        let mut state = memory.state;
        state.rebooted();
        let apps = memory
            .apps
            .into_iter()
            .map(|(name, observed)| (name, VirtualApp { staged: observed.staged, ..VirtualApp::default() }))
            .collect();
        Self {
            state,
            inputs: Inputs::default(),
            apps,
            dice: Dice::new(at.seed, &[DICE_DEVICE, at.device]),
            slow: at.behaviours.is_slow(at.seed, at.device),
            decided: None,
        }
    }

    /// What to keep while the fleet is stopped.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let apps = self.apps.iter().map(|(name, app)| (name.clone(), app.observed())).collect();
        Memory { state: self.state.clone(), apps }
    }

    /// A desired state was accepted: its offers, with each app's config.
    pub fn desire(&mut self, offers: Vec<(Offer, BTreeMap<String, String>)>) {
        let mut desired = Vec::with_capacity(offers.len());
        for (offer, config) in offers {
            self.apps.entry(offer.app.clone()).or_default().config = config;
            desired.push(offer);
        }
        self.inputs.desired = Some(desired);
        self.decided = None;
    }

    /// The offers in force.
    #[must_use]
    pub fn desired(&self) -> Option<&[Offer]> {
        self.inputs.desired.as_deref()
    }

    /// An operation asks for a restart. `false` when nothing of this app is there.
    pub fn restart(&mut self, app: &Name) -> bool {
        let there = self.apps.get(app).is_some_and(|app| app.running.is_some());
        if there {
            self.inputs.restart.insert(app.clone());
            self.decided = None;
        }
        there
    }

    /// When [`Machine::step`] is to be called next; `None`: not before something comes from outside.
    #[must_use]
    pub fn due(&self, now: MonoMs) -> Option<MonoMs> {
        let Some(decided) = self.decided else { return Some(now) };
        let unsettled = self.state.apps.values().any(|app| {
            app.trial.is_some()
                || app.returning
                || app.staging.retry_at.is_some()
                || app.healing.retry_at.is_some()
        });
        let tick = unsettled.then(|| decided.plus_ms(TICK_MS));
        self.apps.values().filter_map(|app| app.due(now)).chain(tick).min()
    }

    /// Lets everything happen that is due, and decides. Gives what is to be reported as events.
    pub fn step(&mut self, at: Surroundings<'_>, now: Now) -> Vec<Event> {
        let mut outcomes = std::mem::take(&mut self.inputs.outcomes);
        for (name, app) in &mut self.apps {
            happen(name, app, at, now.mono, self.slow, &mut self.dice, &mut outcomes);
        }
        self.inputs.outcomes = outcomes;
        self.show(now.mono);
        let (state, actions) = reconcile::decide(std::mem::take(&mut self.state), &self.inputs, now);
        self.state = state;
        self.inputs.outcomes.clear();
        self.inputs.restart.clear();
        self.decided = Some(now.mono);
        let mut events = Vec::new();
        for action in actions {
            self.begin(action, at.behaviours, now.mono, &mut events);
        }
        // What is busy now must be seen as such in the view.
        self.show(now.mono);
        self.apps.retain(|name, app| {
            app.running.is_some()
                || app.acting.is_some()
                || app.staging.is_some()
                || !app.staged.is_empty()
                || self.inputs.desired.iter().flatten().any(|offer| offer.app == *name)
        });
        events
    }

    /// What the device says of itself.
    #[must_use]
    pub fn view(&self, since: UnixMs) -> DeviceView {
        reconcile::view(&self.state, &self.inputs, since)
    }

    /// The phase of an app.
    #[must_use]
    pub fn phase(&self, app: &Name) -> AppPhase {
        self.state.apps.get(app).map_or(AppPhase::Absent, |app| app.phase)
    }

    fn show(&mut self, now: MonoMs) {
        self.inputs.observed =
            Some(self.apps.iter().map(|(name, app)| (name.clone(), app.observed())).collect());
        self.inputs.checks = self.apps.iter().map(|(name, app)| (name.clone(), app.checks(now))).collect();
        self.inputs.busy = self.apps.iter().map(|(name, app)| (name.clone(), app.busy())).collect();
    }

    fn takes(&mut self, range: (u32, u32), now: MonoMs) -> MonoMs {
        now.plus_ms(self.dice.ms(range) * if self.slow { 10 } else { 1 })
    }

    fn begin(&mut self, action: Action, behaviours: &Behaviours, now: MonoMs, events: &mut Vec<Event>) {
        let short = (behaviours.start_ms.0 / 2, behaviours.start_ms.1 / 2);
        match action {
            Action::Stage { app, manifest } => {
                let done = self.takes(behaviours.stage_ms, now);
                self.apps.entry(app).or_default().staging = Some((done, manifest));
            }
            Action::Start { app, release, instance, config, .. } => {
                let done = self.takes(behaviours.start_ms, now);
                self.act(app, done, Acting::Start { release: Box::new(release), instance, config });
            }
            // Nothing ever runs beside another one here.
            Action::StopOne { .. } | Action::Switch { .. } => {}
            Action::Stop { app } => {
                let done = self.takes(short, now);
                self.act(app, done, Acting::Stop);
            }
            Action::Discard { app, keep } => self.act(app, now.plus_ms(50), Acting::Discard { keep }),
            Action::Remove { app } => {
                let done = self.takes(short, now);
                self.act(app, done, Acting::Remove);
            }
            // The runner would raise its own floor; the reconciler's is enough here.
            Action::Commit { .. } => {}
            // A virtual device has no disk and no kernel.
            Action::CutLogs { .. } | Action::Reboot { .. } => {}
            Action::Emit(event) => events.push(event),
        }
    }

    fn act(&mut self, app: Name, done: MonoMs, acting: Acting) {
        self.apps.entry(app).or_default().acting = Some((done, acting));
    }
}

fn happen(
    name: &Name,
    app: &mut VirtualApp,
    at: Surroundings<'_>,
    now: MonoMs,
    slow: bool,
    dice: &mut Dice,
    outcomes: &mut Vec<Outcome>,
) {
    if let Some((_, manifest)) = app.staging.take_if(|(due, _)| *due <= now) {
        app.staged.insert(manifest);
        outcomes.push(Outcome::Staged { app: name.clone(), manifest });
    }
    if let Some((_, acting)) = app.acting.take_if(|(due, _)| *due <= now) {
        match acting {
            Acting::Start { release, instance, config } => {
                if app.running.is_some() || !app.staged.contains(&release.manifest) {
                    let message = "the release does not lie there, or something still runs".to_owned();
                    outcomes.push(Outcome::StartFailed { app: name.clone(), instance, message });
                    return;
                }
                let values = &app.config;
                let config_is = |key: &str, value: &str| values.get(key).is_some_and(|is| is == value);
                app.fault =
                    at.behaviours.fault(at.seed, at.device, at.labels, name, &release.version, &config_is);
                app.up_since = now;
                app.good_at = now.plus_ms(dice.ms(at.behaviours.healthy_ms) * if slow { 10 } else { 1 });
                app.turns_at = (app.fault == Some(FaultKind::Crashes)).then(|| now.plus_ms(CRASH_AFTER_MS));
                app.running = Some(Running {
                    manifest: release.manifest,
                    release: release.release,
                    version: release.version,
                    instance,
                    config,
                    up: true,
                    restarts: 0,
                    last_exit: None,
                    slot: None,
                    isolation: None,
                });
            }
            Acting::Stop => end(app),
            Acting::Discard { keep } => app.staged.retain(|staged| keep.contains(staged)),
            Acting::Remove => {
                end(app);
                app.staged.clear();
            }
        }
    }
    if let Some(running) = &mut app.running
        && app.turns_at.is_some_and(|due| due <= now)
    {
        if running.up {
            running.up = false;
            running.last_exit = Some("exit status 1".to_owned());
            let pause = 500i64.saturating_mul(1 << running.restarts.min(6));
            app.turns_at = Some(now.plus_ms(pause));
        } else {
            running.up = true;
            running.restarts = running.restarts.saturating_add(1);
            app.turns_at = Some(now.plus_ms(CRASH_AFTER_MS));
        }
    }
}

fn end(app: &mut VirtualApp) {
    app.running = None;
    app.turns_at = None;
    app.fault = None;
}

#[cfg(test)]
mod tests {
    use farshore_domain::desired::DesiredRelease;
    use farshore_domain::device::{Conformance, Health};
    use farshore_domain::id::{PermitId, ReleaseId};
    use farshore_domain::reconcile::{LivePermit, Offered, Terms};
    use uuid::Uuid;

    use super::*;
    use crate::options::Fault;

    fn web() -> Name {
        Name::new("web").unwrap()
    }

    fn offer(version: &str, permit: bool) -> (Offer, BTreeMap<String, String>) {
        let terms = Terms {
            floor: None,
            soak_ms: 2_000,
            start_timeout_ms: 8_000,
            max_restarts: 2,
            backoff_ms: 100,
            max_backoff_ms: 1_000,
        };
        let offer = Offer {
            app: web(),
            release: DesiredRelease {
                uid: ReleaseId(Uuid::from_u128(version.as_bytes().iter().map(|b| u128::from(*b)).sum())),
                version: version.parse().unwrap(),
                manifest: Digest::of(version.as_bytes()),
            },
            manifest: Offered::Verified(terms),
            permit: permit.then(|| LivePermit { uid: PermitId(Uuid::from_u128(9)), until: MonoMs(i64::MAX) }),
            resumed: 0,
            config: Digest::of(b"config"),
            needs: Vec::new(),
            beside: false,
        };
        (offer, BTreeMap::new())
    }

    struct Bench {
        behaviours: Behaviours,
        labels: Labels,
        device: u64,
        machine: Machine,
        now: i64,
        told: Vec<String>,
    }

    impl Bench {
        fn new(device: u64, behaviours: Behaviours) -> Self {
            let labels = Labels::default();
            let at = Surroundings { seed: 1, device, labels: &labels, behaviours: &behaviours };
            let machine = Machine::new(at, None);
            Self { behaviours, labels, device, machine, now: 1_000, told: Vec::new() }
        }

        /// Runs until nothing is left to happen, at most ten virtual minutes. Gives the milliseconds it took.
        fn settle(&mut self) -> i64 {
            let start = self.now;
            while let Some(due) = self.machine.due(MonoMs(self.now)) {
                self.now = self.now.max(due.0);
                if self.now - start > 600_000 {
                    break;
                }
                let at = Surroundings {
                    seed: 1,
                    device: self.device,
                    labels: &self.labels,
                    behaviours: &self.behaviours,
                };
                let now = Now { mono: MonoMs(self.now), wall: UnixMs(self.now) };
                let events = self.machine.step(at, now);
                self.told.extend(events.into_iter().map(|event| event.kind.to_owned()));
            }
            self.now - start
        }
    }

    #[test]
    fn a_release_is_staged_without_a_permit_and_runs_with_one() {
        let mut bench = Bench::new(1, Behaviours::default());
        bench.machine.desire(vec![offer("1.0", false)]);
        bench.settle();
        assert_eq!(bench.machine.phase(&web()), AppPhase::Staged);
        bench.machine.desire(vec![offer("1.0", true)]);
        bench.settle();
        let view = bench.machine.view(UnixMs(0));
        assert_eq!((view.health, view.conformance), (Health::Healthy, Conformance::Conforming));
        assert!(view.apps[0].committed);
        let told: Vec<&str> =
            bench.told.iter().map(String::as_str).filter(|kind| kind.starts_with("release.")).collect();
        assert_eq!(told, ["release.staged", "release.activating", "release.activated", "release.committed"]);
    }

    #[test]
    fn each_kind_of_fault_is_rolled_back_and_held_and_the_old_release_runs_again() {
        for kind in [FaultKind::Crashes, FaultKind::NeverHealthy, FaultKind::FailsAfterMs(1_500)] {
            let faults = vec![Fault::of(web(), "1.1".parse().unwrap(), kind)];
            let mut bench = Bench::new(2, Behaviours { faults, ..Behaviours::default() });
            bench.machine.desire(vec![offer("1.0", true)]);
            bench.settle();
            bench.machine.desire(vec![offer("1.1", true)]);
            bench.settle();
            let view = bench.machine.view(UnixMs(0));
            let app = &view.apps[0];
            assert_eq!(app.phase, AppPhase::Held, "{kind:?}");
            assert_eq!((view.health, view.conformance), (Health::Healthy, Conformance::Held), "{kind:?}");
            assert_eq!(app.active.as_ref().map(|(_, version)| version.as_str()), Some("1.0"));
            assert!(bench.told.iter().any(|kind| kind == "release.rolled-back"), "{:?}", bench.told);
        }
    }

    #[test]
    fn the_same_device_takes_the_same_time_again_and_a_slow_one_longer() {
        let took = |device, slow_percent| {
            let mut bench = Bench::new(device, Behaviours { slow_percent, ..Behaviours::default() });
            bench.machine.desire(vec![offer("1.0", true)]);
            bench.settle()
        };
        assert_eq!(took(3, 0), took(3, 0));
        assert!((1..20).any(|device| took(device, 0) != took(3, 0)));
        assert!(took(3, 100) > took(3, 0));
    }

    #[test]
    fn a_machine_that_boots_again_remembers_and_starts_what_it_had() {
        let mut bench = Bench::new(4, Behaviours::default());
        bench.machine.desire(vec![offer("1.0", true)]);
        bench.settle();
        let text = serde_json::to_string(&bench.machine.memory()).unwrap();
        let memory: Memory = serde_json::from_str(&text).unwrap();
        let at = Surroundings { seed: 1, device: 4, labels: &bench.labels, behaviours: &bench.behaviours };
        bench.machine = Machine::new(at, Some(memory));
        bench.settle();
        let view = bench.machine.view(UnixMs(0));
        assert_eq!(view.apps[0].active.as_ref().map(|(_, version)| version.as_str()), Some("1.0"));
        bench.machine.desire(vec![offer("1.0", false)]);
        bench.settle();
        let view = bench.machine.view(UnixMs(0));
        assert_eq!((view.health, view.conformance), (Health::Healthy, Conformance::Conforming));
    }

    #[test]
    fn an_app_that_is_not_placed_any_more_leaves_nothing_behind() {
        let mut bench = Bench::new(5, Behaviours::default());
        bench.machine.desire(vec![offer("1.0", true)]);
        bench.settle();
        bench.machine.desire(Vec::new());
        bench.settle();
        assert!(bench.machine.view(UnixMs(0)).apps.is_empty());
        assert!(bench.machine.apps.is_empty());
    }
}
