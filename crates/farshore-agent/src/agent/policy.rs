//! The device's effective policy, as it came with the desired state: obeyed with or without a network.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use farshore_domain::condition::{Condition, Facts, Held, Missing, Value, Verdict, device};
use farshore_domain::name::Name;
use farshore_domain::policy::{
    Bounds, DesiredPolicy, DeviceHours, HealthCondition, OperationRules, RetentionRules, Rules,
};
use farshore_domain::reconcile::{
    Action, Checks, Closed, HealingPolicy, Installed, LocalHours, MonoMs, Observed,
};
use farshore_domain::release::isolation::Isolation;
use farshore_domain::schedule::{Look, Purpose, Shut, WindowKind, Zone};
use farshore_domain::time::{MINUTE_MS, UnixMs};

use crate::eyes;

/// At most this many events are remembered for counting.
const MAX_EVENTS: usize = 2_000;
/// A measurement that is older than so many intervals says nothing about now.
const STALE_AFTER: i64 = 3;

struct Watched {
    rule: HealthCondition,
    condition: Condition,
    held: Held,
    broken: bool,
}

struct Heard {
    at: MonoMs,
    kind: &'static str,
    app: Option<Name>,
    times: u64,
}

/// What the policy says, and how its conditions stand.
#[derive(Default)]
pub(super) struct Policy {
    rules: Rules,
    healing: HealingPolicy,
    watched: Vec<Watched>,
    events: VecDeque<Heard>,
    measured: Option<(MonoMs, BTreeMap<&'static str, f64>)>,
    /// How long a measurement counts.
    fresh_ms: i64,
    short: bool,
    hours: Option<DeviceHours>,
    zone: Option<String>,
    /// What the windows said last, and from when to when that holds.
    looked: Option<(UnixMs, UnixMs, LocalHours)>,
}

/// How long what the windows say is held to be true without asking them again.
const LOOK_AGAIN_MS: i64 = MINUTE_MS;

impl Policy {
    /// Takes the policy of an accepted desired state. What a condition that stays the same has seen so far is kept.
    pub(super) fn adopt(&mut self, policy: Option<&DesiredPolicy>, safe: BTreeMap<Name, Installed>) {
        self.rules = policy.map(|policy| policy.rules.clone()).unwrap_or_default();
        self.healing = HealingPolicy {
            restart: self.rules.restart,
            rollback: self.rules.rollback.clone(),
            safe,
            releases: self.rules.retention.releases,
        };
        self.short &= self.rules.retention.disk_free_percent.is_some();
        self.hours = DeviceHours::new(self.rules.schedule.clone());
        self.zone = policy.and_then(|policy| policy.time_zone.clone());
        self.looked = None;
        let mut before = std::mem::take(&mut self.watched);
        for rule in self.rules.health.conditions.iter().flatten() {
            if let Some(at) = before.iter().position(|watched| watched.rule == *rule) {
                self.watched.push(before.swap_remove(at));
                continue;
            }
            match Condition::compile(&rule.when, &device::vocabulary(rule.app.is_some())) {
                Ok(condition) => self.watched.push(Watched {
                    rule: rule.clone(),
                    condition,
                    held: Held::default(),
                    broken: false,
                }),
                // Checked by the control plane; only another version's words get here.
                Err(error) => {
                    tracing::warn!(condition = %rule.name, %error, "a condition of the policy is not understood");
                }
            }
        }
    }

    /// What the reconciler is told about healing.
    pub(super) fn healing(&self) -> &HealingPolicy {
        &self.healing
    }

    /// What is kept.
    pub(super) fn retention(&self) -> RetentionRules {
        self.rules.retention
    }

    /// Whether less of the disk is free than the policy asks for. Once short, it stays short until a tenth more is free; no data says nothing.
    pub(super) fn disk_short(&mut self) -> bool {
        let Some(wanted) = self.rules.retention.disk_free_percent.map(f64::from) else { return false };
        let figure = |name| self.measured.as_ref().and_then(|(_, values)| values.get(name).copied());
        if let (Some(used), Some(total)) = (figure("disk_used"), figure("disk_total"))
            && total > 0.0
        {
            let free = (total - used) / total * 100.0;
            self.short = free < if self.short { wanted * 1.1 } else { wanted };
        }
        self.short
    }

    /// What the windows say at this moment. What can't be read is shut.
    pub(super) fn hours(&mut self, at: UnixMs) -> LocalHours {
        let Some(hours) = &self.hours else { return LocalHours::default() };
        if let Some((from, until, looked)) = &self.looked
            && (*from..*until).contains(&at)
        {
            return looked.clone();
        }
        let zone = Zone::of_device(self.zone.as_deref());
        let horizon = at.plus_ms(LOOK_AGAIN_MS);
        let mut until = horizon;
        let mut closed = |purpose, unreadable| {
            let Some(calendar) = hours.calendar() else {
                return Some(Closed { by: Shut::Window(unreadable), next: None });
            };
            match calendar.look(purpose, &zone, at, horizon) {
                Look::Open { until: end } => {
                    until = until.min(end);
                    None
                }
                Look::Shut { next, by } => {
                    until = next.map_or(until, |next| until.min(next));
                    Some(Closed { by, next })
                }
            }
        };
        let looked = LocalHours {
            download: closed(Purpose::Download, WindowKind::Download),
            install: closed(Purpose::Install, WindowKind::Maintenance),
            going_back: BTreeSet::new(),
        };
        self.looked = Some((at, until, looked.clone()));
        looked
    }

    /// What whoever starts apps is told.
    pub(super) fn bounds(&self) -> Bounds {
        self.rules.bounds()
    }

    /// What apps have to be kept apart from.
    pub(super) fn isolation(&self) -> &Isolation {
        &self.rules.isolation
    }

    /// What may be done here from afar.
    pub(super) fn operations(&self) -> &OperationRules {
        &self.rules.operations
    }

    /// The time between two measurements; `otherwise` where the policy says nothing.
    pub(super) fn sample_ms(&mut self, otherwise: i64) -> i64 {
        let every =
            self.rules.reporting.sample_seconds.map_or(otherwise, |seconds| i64::from(seconds) * 1000);
        self.fresh_ms = every.saturating_mul(STALE_AFTER);
        every
    }

    /// The time between two batches.
    pub(super) fn batch_ms(&self, otherwise: i64) -> i64 {
        self.rules.reporting.batch_seconds.map_or(otherwise, |seconds| i64::from(seconds) * 1000)
    }

    /// Takes a measurement of the host.
    pub(super) fn measured(&mut self, values: &[(&'static str, f64)], now: MonoMs) {
        self.measured = Some((now, values.iter().copied().collect()));
    }

    /// Takes the events of a decision.
    pub(super) fn hear(&mut self, actions: &[Action], now: MonoMs) {
        for action in actions {
            if let Action::Emit(event) = action {
                let app = Some(event.app.clone());
                self.events.push_back(Heard { at: now, kind: event.kind, app, times: 1 });
            }
        }
        self.forget(now);
    }

    fn forget(&mut self, now: MonoMs) {
        let old = |heard: &Heard| now.since_ms(heard.at) > device::MAX_EVENT_SPAN_MS;
        while self.events.len() > MAX_EVENTS || self.events.front().is_some_and(old) {
            self.events.pop_front();
        }
    }

    /// Takes what the kernel told.
    pub(super) fn sighted(&mut self, kind: &'static str, app: Option<&Name>, times: u64, now: MonoMs) {
        self.events.push_back(Heard { at: now, kind, app: app.cloned(), times });
        self.forget(now);
    }

    /// How closely the kernel is to be watched.
    pub(super) fn look(&self) -> eyes::Look {
        let rules = &self.rules.reporting;
        let given = eyes::Look::default();
        eyes::Look {
            ebpf: rules.ebpf.unwrap_or(given.ebpf),
            exec: rules.exec_events.unwrap_or(given.exec),
            connect: rules.connect_events.unwrap_or(given.connect),
        }
    }

    /// Evaluates every condition. Returns what to tell: conditions that have just begun to be broken.
    pub(super) fn judge(&mut self, observed: Option<&BTreeMap<Name, Observed>>, now: MonoMs) -> Vec<String> {
        let mut told = Vec::new();
        let mut watched = std::mem::take(&mut self.watched);
        for one in &mut watched {
            let world = World { policy: self, app: one.rule.app.as_ref(), observed, now };
            let verdict = one.condition.evaluate(&world);
            if let Verdict::Unknown(reason) = &verdict {
                tracing::trace!(condition = %one.rule.name, %reason, "not known");
            }
            let needed = i64::from(one.rule.for_seconds) * 1000;
            // What is unknown stays as it was: no data neither breaks nor heals.
            let broken = match verdict {
                Verdict::Unknown(_) => {
                    one.held.observe(&verdict, now, needed);
                    one.broken
                }
                verdict => one.held.observe(&verdict, now, needed),
            };
            if broken && !one.broken {
                told.push(message(&one.rule));
            }
            one.broken = broken;
        }
        self.watched = watched;
        told
    }

    /// Adds broken conditions to what the checks of their apps say. A check that failed says more, and stays.
    pub(super) fn add_to(&self, mut checks: BTreeMap<Name, Checks>) -> BTreeMap<Name, Checks> {
        for one in self.watched.iter().filter(|one| one.broken) {
            let Some(app) = &one.rule.app else { continue };
            let said = checks.entry(app.clone()).or_default();
            if !matches!(said, Checks::Failed { .. }) {
                *said = Checks::Breached { message: message(&one.rule) };
            }
        }
        checks
    }
}

fn message(rule: &HealthCondition) -> String {
    match rule.for_seconds {
        0 => format!("condition {} of the policy: {}", rule.name, rule.when),
        seconds => format!("condition {} of the policy for {seconds} s: {}", rule.name, rule.when),
    }
}

struct World<'a> {
    policy: &'a Policy,
    app: Option<&'a Name>,
    observed: Option<&'a BTreeMap<Name, Observed>>,
    now: MonoMs,
}

impl Facts for World<'_> {
    fn variable(&self, name: &str) -> Result<Value, Missing> {
        let missing = |what: &str| Missing(what.to_owned());
        let app = self.app.ok_or_else(|| missing("the condition names no app"))?;
        let observed = self.observed.ok_or_else(|| missing("the runner does not answer"))?;
        // What the app is to the outside: what has the traffic, where it has slots.
        let running = observed.get(app).and_then(|observed| observed.running.as_ref());
        match name {
            "app.up" => Ok(Value::Bool(running.is_some_and(|running| running.up))),
            "app.restarts" => Ok(running.ok_or_else(|| missing("the app does not run"))?.restarts.into()),
            other => Err(Missing(format!("{other} is not known here"))),
        }
    }

    fn call(&self, name: &str, arguments: &[Value]) -> Result<Value, Missing> {
        match (name, arguments) {
            ("metric", [Value::Text(metric)]) => {
                let missing = || Missing(format!("{metric} was not measured"));
                let (at, values) = self.policy.measured.as_ref().ok_or_else(missing)?;
                if self.now.since_ms(*at) > self.policy.fresh_ms {
                    return Err(Missing(format!("the newest {metric} is too old")));
                }
                values.get(metric.as_str()).copied().map(Value::Number).ok_or_else(missing)
            }
            ("events", [Value::Text(kind), Value::Duration(span)]) => {
                let span = (*span).min(device::MAX_EVENT_SPAN_MS);
                let count = self
                    .policy
                    .events
                    .iter()
                    .filter(|heard| {
                        heard.kind == kind && self.app.is_none_or(|app| heard.app.as_ref() == Some(app))
                    })
                    .filter(|heard| self.now.since_ms(heard.at) <= span)
                    .fold(0u64, |sum, heard| sum.saturating_add(heard.times));
                Ok(u32::try_from(count).unwrap_or(u32::MAX).into())
            }
            (other, _) => Err(Missing(format!("{other} is not known here"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(conditions: serde_json::Value) -> Policy {
        let desired = serde_json::json!({"rules": {"health": {"conditions": conditions}}});
        let mut policy = Policy::default();
        policy.adopt(Some(&serde_json::from_value(desired).unwrap()), BTreeMap::new());
        assert_eq!(policy.sample_ms(10_000), 10_000);
        policy
    }

    #[test]
    fn a_condition_breaks_after_its_time_and_heals_with_it() {
        let mut policy = policy(serde_json::json!([
            {"name": "full", "when": "metric(\"mem_used\") / metric(\"mem_total\") > 0.9", "forSeconds": 20, "app": "web"}
        ]));
        let web = Name::new("web").unwrap();
        let mut at = |seconds: i64, used: Option<f64>| {
            let now = MonoMs(seconds * 1000);
            if let Some(used) = used {
                policy.measured(&[("mem_used", used), ("mem_total", 100.0)], now);
            }
            let told = policy.judge(None, now);
            (told.len(), matches!(policy.add_to(BTreeMap::new()).get(&web), Some(Checks::Breached { .. })))
        };
        assert_eq!(at(0, None), (0, false), "nothing was measured");
        assert_eq!(at(10, Some(95.0)), (0, false));
        assert_eq!(at(20, Some(95.0)), (0, false));
        assert_eq!(at(30, Some(95.0)), (1, true));
        assert_eq!(at(40, Some(95.0)), (0, true), "told once");
        assert_eq!(at(100, None), (0, true), "no data does not heal");
        assert_eq!(at(110, Some(10.0)), (0, false));
    }

    #[test]
    fn a_disk_is_short_until_a_tenth_more_is_free() {
        let mut policy = Policy::default();
        let at = |policy: &mut Policy, used: f64| {
            policy.measured(&[("disk_used", used), ("disk_total", 100.0)], MonoMs(0));
            policy.disk_short()
        };
        assert!(!at(&mut policy, 99.0), "no policy says how much");
        let desired = serde_json::json!({"rules": {"retention": {"diskFreePercent": 10}}});
        policy.adopt(Some(&serde_json::from_value(desired).unwrap()), BTreeMap::new());
        assert_eq!(
            [85.0, 91.0, 89.5, 88.0, 89.5].map(|used| at(&mut policy, used)),
            [false, true, true, false, false]
        );
    }

    #[test]
    fn windows_are_followed_on_the_clock_of_the_devices_zone() {
        let mut policy = Policy::default();
        assert_eq!(policy.hours(UnixMs(0)), LocalHours::default());
        let desired = serde_json::json!({
            "rules": {"schedule": {"windows": [
                {"kind": "maintenance", "cron": "0 3 * * *", "durationSeconds": 600},
                {"kind": "download", "cron": "0 2 * * *", "durationSeconds": 600},
            ]}},
            "timeZone": "Europe/Moscow",
        });
        policy.adopt(Some(&serde_json::from_value(desired).unwrap()), BTreeMap::new());
        // Moscow was three hours ahead.
        let open = |policy: &mut Policy, minute: i64| {
            let hours = policy.hours(UnixMs(minute * MINUTE_MS));
            (hours.download.is_none(), hours.install.is_none())
        };
        assert_eq!(open(&mut policy, 0), (false, true));
        assert_eq!(open(&mut policy, 9), (false, true));
        assert_eq!(open(&mut policy, 10), (false, false));
        let next = policy.hours(UnixMs(10 * MINUTE_MS)).download.and_then(|closed| closed.next);
        assert_eq!(next, Some(UnixMs(23 * 60 * MINUTE_MS)));
        assert_eq!(open(&mut policy, 23 * 60), (true, false));
        // A clock that is set back is followed.
        assert_eq!(open(&mut policy, 5), (false, true));
    }

    #[test]
    fn events_are_counted_for_the_app_and_the_span() {
        let mut policy = policy(serde_json::json!([
            {"name": "loop", "when": "events(\"app.exited\", duration(\"1m\")) >= 2", "app": "web"}
        ]));
        let exited = |app: &str| {
            Action::Emit(farshore_domain::reconcile::Event {
                kind: "app.exited",
                app: Name::new(app).unwrap(),
                message: String::new(),
                release: None,
                version: None,
                code: None,
                healing: None,
            })
        };
        policy.hear(&[exited("web"), exited("db")], MonoMs(0));
        assert!(policy.judge(None, MonoMs(1)).is_empty());
        policy.hear(&[exited("web")], MonoMs(30_000));
        assert_eq!(policy.judge(None, MonoMs(30_000)).len(), 1);
        assert!(policy.judge(None, MonoMs(80_000)).is_empty());
        assert!(policy.add_to(BTreeMap::new()).is_empty(), "the first one is too long ago");
    }
}
