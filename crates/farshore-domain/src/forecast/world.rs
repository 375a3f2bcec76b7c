//! Virtual devices: they hear what the rollout tells them, take their time, go away and come back, and report.
//!
//! Nothing here looks at the clock of the machine: the world jumps from one event to the next. Events lie on a grid, so that many
//! reports meet in one decision.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::history::Habits;
use super::random::Random;
use crate::device::{AppPhase, OFFLINE_AFTER_MS, Reachability};
use crate::id::{DeviceId, ReleaseId};
use crate::rollout::{Action, AppReport, FleetView, Progress, Rollout};
use crate::time::UnixMs;

/// Which devices fail with the new release.
#[derive(Clone, Debug, PartialEq)]
pub struct Failures {
    /// The share of the devices that fail, 0 to 1.
    pub share: f64,
    /// Only devices with this label and value fail.
    pub only: Option<(String, String)>,
}

impl Failures {
    /// Any device fails with this chance, independently of the others.
    #[must_use]
    pub const fn independent(share: f64) -> Self {
        Self { share, only: None }
    }
}

/// What happens to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// It comes or goes.
    Flip,
    /// Silent for so long that nobody waits for it.
    Away,
    Staged,
    /// The new or the old release is active and good, or it has failed.
    Done,
    /// It says that it is still there.
    Heard,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Job {
    #[default]
    Idle,
    Staging,
    /// Between a permit and its outcome.
    Moving {
        forward: bool,
        /// The outcome is there, and could not be told yet.
        done: bool,
    },
}

#[derive(Clone, Debug)]
struct Machine {
    id: DeviceId,
    random: Random,
    online: bool,
    silent_since: UnixMs,
    job: Job,
    /// When its job ends: an event of an earlier job says nothing.
    ends: UnixMs,
    /// Told to stage while it was away.
    to_stage: bool,
    /// A permit that has not reached it yet.
    permit: Option<(bool, UnixMs)>,
    fails: bool,
    dirty: bool,
    done_at: Option<UnixMs>,
}

/// One label's values and how many devices of each are down.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) label: String,
    pub(super) values: Vec<String>,
    /// The value's index of each device; none for devices without the label.
    of: Vec<Option<u32>>,
    pub(super) sizes: Vec<u32>,
    down: Vec<u32>,
    pub(super) most: Vec<u32>,
}

/// The devices of one forecast. One run after the other is played with the same world.
#[derive(Clone, Debug)]
pub struct World {
    view: FleetView,
    original: Vec<(Reachability, AppReport)>,
    index: BTreeMap<DeviceId, u32>,
    machines: Vec<Machine>,
    failing: Vec<bool>,
    urgent: BinaryHeap<Reverse<(UnixMs, u32, Event)>>,
    casual: BinaryHeap<Reverse<(UnixMs, u32, Event)>>,
    pub(super) groups: Vec<Group>,
    down: u32,
    pub(super) most_down: u32,
    /// The grid: events lie on multiples of this, counted from `begin`.
    quantum_ms: i64,
    begin: UnixMs,
}

impl World {
    /// The devices of `view` as they stand, counted by these labels. Only devices that `failures` allows to fail can fail.
    #[must_use]
    pub fn new(view: FleetView, labels: &[String], failures: &Failures) -> Self {
        let original = view.iter().map(|device| (device.reachability, device.app.clone())).collect();
        let index = (0_u32..).zip(view.iter()).map(|(number, device)| (device.id, number)).collect();
        let failing = view
            .iter()
            .map(|device| {
                failures.only.as_ref().is_none_or(|(key, value)| device.labels.get(key) == Some(value))
            })
            .collect();
        let groups = labels.iter().map(|label| Group::new(label, &view)).collect();
        let machines = view.iter().map(|device| Machine::new(device.id)).collect();
        Self {
            view,
            original,
            index,
            machines,
            failing,
            urgent: BinaryHeap::new(),
            casual: BinaryHeap::new(),
            groups,
            down: 0,
            most_down: 0,
            quantum_ms: 1,
            begin: UnixMs(0),
        }
    }

    pub(super) const fn view(&self) -> &FleetView {
        &self.view
    }

    /// When each device reported the new release as good, in the order of the view.
    pub(super) fn done_at(&self) -> impl Iterator<Item = Option<UnixMs>> {
        self.machines.iter().map(|machine| machine.done_at)
    }

    /// Everything as it was, for a run from `seed`.
    pub(super) fn reset(
        &mut self,
        (seed, share): (u64, f64),
        habits: &Habits,
        rollout: &Rollout,
        (now, quantum_ms): (UnixMs, i64),
    ) {
        self.urgent.clear();
        self.casual.clear();
        (self.quantum_ms, self.begin) = (quantum_ms.max(1), now);
        (self.down, self.most_down) = (0, 0);
        for group in &mut self.groups {
            group.down.fill(0);
            group.most.fill(0);
        }
        for (number, (reachability, app)) in (0_u32..).zip(&self.original) {
            let place = number as usize;
            let Some(machine) = self.machines.get_mut(place) else { continue };
            if machine.dirty
                && let Some(known) = self.view.get_mut(machine.id)
            {
                known.reachability = *reachability;
                known.app.clone_from(app);
            }
            let mut random = Random::of(seed, machine.id.0.as_u128(), 1);
            let draws = random.unit();
            let may_fail = self.failing.get(place).copied().unwrap_or(false);
            *machine = Machine {
                random,
                online: *reachability == Reachability::Online,
                silent_since: now,
                fails: may_fail && draws < share,
                ..Machine::new(machine.id)
            };
            let flip = habits.next_flip(place, machine.online, now, &mut machine.random);
            if let Some(at) = flip {
                self.casual.push(Reverse((at, number, Event::Flip)));
            }
        }
        self.take_up(habits, rollout, now);
    }

    /// Devices of a rollout that runs already are in the middle of something.
    fn take_up(&mut self, habits: &Habits, rollout: &Rollout, now: UnixMs) {
        for (id, member) in rollout.members() {
            let Some(number) = self.index.get(&id).copied() else { continue };
            let active = self.view.get(id).and_then(|device| device.app.active);
            let (forward, since) = match member.progress() {
                Progress::Updating { since, .. } => (true, *since),
                Progress::RollingBack { since, .. } => (false, *since),
                _ => {
                    if active != Some(rollout.to().uid)
                        && rollout.assignment(id, active).is_some_and(|told| told.forward)
                    {
                        self.stage(number, habits, now);
                    }
                    continue;
                }
            };
            let Some(machine) = self.machines.get_mut(number as usize) else { continue };
            let takes = habits.install_ms(number as usize, &mut machine.random);
            let gone = now.since_ms(since).clamp(0, takes);
            machine.job = Job::Moving { forward, done: false };
            self.ends_in(number, takes - gone, now);
            self.goes_down(number, true);
        }
    }

    fn ends_in(&mut self, number: u32, ms: i64, now: UnixMs) {
        let at = self.on_grid(now, ms);
        if let Some(machine) = self.machines.get_mut(number as usize) {
            machine.ends = at;
        }
        self.urgent.push(Reverse((at, number, Event::Done)));
    }

    /// The nearest point of the grid, at least one after `now`.
    fn on_grid(&self, now: UnixMs, in_ms: i64) -> UnixMs {
        let exact = now.plus_ms(in_ms).since_ms(self.begin);
        let nearest = exact.saturating_add(self.quantum_ms / 2).div_euclid(self.quantum_ms);
        let least = now.since_ms(self.begin).div_euclid(self.quantum_ms) + 1;
        self.begin.plus_ms(nearest.max(least).saturating_mul(self.quantum_ms))
    }

    /// The first point of the grid that is not before `moment`, and after `now`.
    pub(super) fn not_before(&self, moment: UnixMs, now: UnixMs) -> UnixMs {
        let points = |at: UnixMs| {
            let ms = at.since_ms(self.begin);
            ms.div_euclid(self.quantum_ms) + i64::from(ms.rem_euclid(self.quantum_ms) > 0)
        };
        let least = now.since_ms(self.begin).div_euclid(self.quantum_ms) + 1;
        self.begin.plus_ms(points(moment).max(least).saturating_mul(self.quantum_ms))
    }

    /// When something happens that the rollout waits for, and when something else does.
    pub(super) fn next_events(&self) -> (Option<UnixMs>, Option<UnixMs>) {
        (self.urgent.peek().map(|next| next.0.0), self.casual.peek().map(|next| next.0.0))
    }

    /// Lets everything happen that is due. Returns how many things did.
    pub(super) fn pass(&mut self, habits: &Habits, rollout: &Rollout, now: UnixMs) -> u32 {
        let mut happened = 0_u32;
        while let Some(Reverse((at, number, event))) = self.due(now) {
            happened = happened.saturating_add(1);
            match event {
                Event::Flip => self.flip(number, habits, rollout, at, now),
                Event::Away => self.forget(number, now),
                Event::Staged => self.staged(number, rollout),
                Event::Done => self.outcome(number, rollout, now),
                Event::Heard => self.hear(number, now),
            }
        }
        happened
    }

    fn due(&mut self, now: UnixMs) -> Option<Reverse<(UnixMs, u32, Event)>> {
        let first = |heap: &BinaryHeap<Reverse<(UnixMs, u32, Event)>>| heap.peek().map(|next| next.0);
        let (urgent, casual) = (first(&self.urgent), first(&self.casual));
        let take_casual = match (urgent, casual) {
            (None, None) => return None,
            (Some(urgent), Some(casual)) => casual < urgent,
            (urgent, _) => urgent.is_none(),
        };
        let heap = if take_casual { &mut self.casual } else { &mut self.urgent };
        heap.peek().is_some_and(|next| next.0.0 <= now).then(|| heap.pop())?
    }

    /// Hears what was decided.
    pub(super) fn carry_out(&mut self, actions: &[Action], habits: &Habits, rollout: &Rollout, now: UnixMs) {
        for action in actions {
            match action {
                Action::Assign { device, forward: true, .. } => {
                    if let Some(number) = self.index.get(device).copied() {
                        self.stage(number, habits, now);
                    }
                }
                Action::Permit { device, expires_at, forward, .. } => {
                    let Some(number) = self.index.get(device).copied() else { continue };
                    let Some(machine) = self.machines.get_mut(number as usize) else { continue };
                    machine.dirty = true;
                    if machine.online {
                        self.begin_move(number, *forward, habits, rollout, now);
                    } else {
                        machine.permit = Some((*forward, *expires_at));
                    }
                }
                Action::RevokePermit { device, .. } => {
                    let number = self.index.get(device).copied();
                    if let Some(machine) = number.and_then(|number| self.machines.get_mut(number as usize)) {
                        machine.permit = None;
                    }
                }
                _ => {}
            }
        }
    }

    fn stage(&mut self, number: u32, habits: &Habits, now: UnixMs) {
        let Some(machine) = self.machines.get_mut(number as usize) else { return };
        if machine.job != Job::Idle {
            return;
        }
        if !machine.online {
            machine.to_stage = true;
            return;
        }
        let Some(known) = self.view.get_mut(machine.id) else { return };
        if known.app.phase == AppPhase::Staged {
            return;
        }
        machine.dirty = true;
        machine.to_stage = false;
        match habits.stage_ms(number as usize, &mut machine.random) {
            None => known.app.phase = AppPhase::Staged,
            Some(ms) => {
                known.app.phase = AppPhase::Downloading;
                machine.job = Job::Staging;
                let at = self.on_grid(now, ms);
                self.casual.push(Reverse((at, number, Event::Staged)));
            }
        }
    }

    fn staged(&mut self, number: u32, rollout: &Rollout) {
        let Some(machine) = self.machines.get_mut(number as usize) else { return };
        if machine.job != Job::Staging {
            return;
        }
        machine.job = Job::Idle;
        if let Some(known) = self.view.get_mut(machine.id)
            && known.app.active != Some(rollout.to().uid)
        {
            known.app.phase = AppPhase::Staged;
        }
    }

    fn begin_move(&mut self, number: u32, forward: bool, habits: &Habits, rollout: &Rollout, now: UnixMs) {
        let Some(machine) = self.machines.get_mut(number as usize) else { return };
        let before = machine.job;
        // A renewed permit changes nothing for a device that is at it.
        if before == (Job::Moving { forward, done: false }) {
            return;
        }
        machine.permit = None;
        machine.dirty = true;
        machine.job = Job::Moving { forward, done: false };
        let takes = habits.install_ms(number as usize, &mut machine.random);
        // The old release is still there, and has no soak.
        let takes = if forward { takes } else { (takes / 3).max(1) };
        if forward && let Some(known) = self.view.get_mut(machine.id) {
            known.app.active = Some(rollout.to().uid);
            known.app.committed = false;
            known.app.phase = AppPhase::Soaking;
            known.last_seen = Some(now);
        }
        self.ends_in(number, takes, now);
        let limit_ms = i64::from(rollout.spec().device_timeout_seconds) * crate::time::SECOND_MS;
        if takes >= limit_ms {
            self.urgent.push(Reverse((self.not_before(now.plus_ms(limit_ms), now), number, Event::Heard)));
        }
        if !matches!(before, Job::Moving { .. }) {
            self.goes_down(number, true);
        }
    }

    fn outcome(&mut self, number: u32, rollout: &Rollout, now: UnixMs) {
        let Some(machine) = self.machines.get_mut(number as usize) else { return };
        let Job::Moving { forward, .. } = machine.job else { return };
        if now < machine.ends {
            return;
        }
        if !machine.online {
            machine.job = Job::Moving { forward, done: true };
            return;
        }
        machine.job = Job::Idle;
        machine.dirty = true;
        let (to, from) = (rollout.to().uid, rollout.from().map(|from| from.uid));
        let failed = forward && machine.fails;
        if forward && !failed {
            machine.done_at = Some(now);
        }
        if let Some(known) = self.view.get_mut(machine.id) {
            known.last_seen = Some(now);
            known.app.reported_at = Some(now);
            report(&mut known.app, (forward, failed), to, from);
        }
        self.goes_down(number, false);
    }

    fn hear(&mut self, number: u32, now: UnixMs) {
        let Some(machine) = self.machines.get(number as usize) else { return };
        if machine.online
            && let Some(known) = self.view.get_mut(machine.id)
        {
            known.last_seen = Some(now);
        }
    }

    fn flip(&mut self, number: u32, habits: &Habits, rollout: &Rollout, at: UnixMs, now: UnixMs) {
        let Some(machine) = self.machines.get_mut(number as usize) else { return };
        machine.online = !machine.online;
        machine.dirty = true;
        let online = machine.online;
        let next = habits.next_flip(number as usize, online, at, &mut machine.random);
        if let Some(at) = next {
            self.casual.push(Reverse((at, number, Event::Flip)));
        }
        let Some(known) = self.view.get_mut(machine.id) else { return };
        if !online {
            machine.silent_since = at;
            known.reachability = Reachability::Stale;
            known.last_seen = Some(at);
            self.casual.push(Reverse((at.plus_ms(OFFLINE_AFTER_MS), number, Event::Away)));
            return;
        }
        known.reachability = Reachability::Online;
        known.last_seen = Some(now);
        let permit = machine.permit.take().filter(|(_, expires_at)| *expires_at > now);
        let (done, to_stage) = (matches!(machine.job, Job::Moving { done: true, .. }), machine.to_stage);
        if done {
            self.outcome(number, rollout, now);
        } else if let Some((forward, _)) = permit {
            self.begin_move(number, forward, habits, rollout, now);
        } else if to_stage {
            self.stage(number, habits, now);
        }
    }

    fn forget(&mut self, number: u32, now: UnixMs) {
        let Some(machine) = self.machines.get(number as usize) else { return };
        if !machine.online
            && now.since_ms(machine.silent_since) >= OFFLINE_AFTER_MS
            && let Some(known) = self.view.get_mut(machine.id)
        {
            known.reachability = Reachability::Offline;
        }
    }

    fn goes_down(&mut self, number: u32, down: bool) {
        let change = |count: &mut u32, most: &mut u32| {
            *count = if down { count.saturating_add(1) } else { count.saturating_sub(1) };
            *most = (*most).max(*count);
        };
        change(&mut self.down, &mut self.most_down);
        for group in &mut self.groups {
            let Some(value) = group.of.get(number as usize).copied().flatten() else { continue };
            if let (Some(count), Some(most)) =
                (group.down.get_mut(value as usize), group.most.get_mut(value as usize))
            {
                change(count, most);
            }
        }
    }
}

fn report(app: &mut AppReport, (forward, failed): (bool, bool), to: ReleaseId, from: Option<ReleaseId>) {
    match (forward, failed) {
        (true, false) => {
            app.active = Some(to);
            app.committed = true;
            app.phase = AppPhase::Running;
        }
        (true, true) => {
            app.active = from;
            app.committed = from.is_some();
            app.failed_release = Some(to);
            app.phase = AppPhase::Held;
        }
        (false, _) => {
            app.active = from;
            app.committed = from.is_some();
            app.phase = if from.is_some() { AppPhase::Running } else { AppPhase::Absent };
        }
    }
}

impl Machine {
    const fn new(id: DeviceId) -> Self {
        Self {
            id,
            random: Random::new(0),
            online: true,
            silent_since: UnixMs(0),
            job: Job::Idle,
            ends: UnixMs(0),
            to_stage: false,
            permit: None,
            fails: false,
            dirty: false,
            done_at: None,
        }
    }
}

impl Group {
    fn new(label: &str, view: &FleetView) -> Self {
        let mut numbers: BTreeMap<String, u32> = BTreeMap::new();
        let mut sizes: Vec<u32> = Vec::new();
        let of = view
            .iter()
            .map(|device| {
                let value = device.labels.get(label)?;
                let next = u32::try_from(numbers.len()).ok()?;
                let number = *numbers.entry(value.to_owned()).or_insert(next);
                if number == next {
                    sizes.push(0);
                }
                if let Some(size) = sizes.get_mut(number as usize) {
                    *size += 1;
                }
                Some(number)
            })
            .collect();
        let mut values = vec![String::new(); numbers.len()];
        for (value, number) in numbers {
            if let Some(place) = values.get_mut(number as usize) {
                *place = value;
            }
        }
        let zeros = vec![0; sizes.len()];
        Self { label: label.to_owned(), values, of, sizes, down: zeros.clone(), most: zeros }
    }
}
