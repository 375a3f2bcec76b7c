//! When to ask which health check, and what the answers say together.

use std::collections::BTreeMap;
use std::sync::Arc;

use farshore_domain::name::Name;
use farshore_domain::reconcile::{Checks, MonoMs, Running};
use farshore_domain::release::{HealthCheck, Manifest, slot};

use crate::executor::ProbeAnswer;

/// Until all checks have been good once, they are asked this often.
const EAGER_MS: i64 = 1_000;

/// The checks of one instance of an app.
#[derive(Debug)]
pub(crate) struct Health {
    /// Manifest, instance and restarts: checks begin anew when any of them changes.
    of: (farshore_domain::digest::Digest, u64, u32),
    up: bool,
    /// It was started in a slot, so that another instance may run beside it.
    slotted: bool,
    since: MonoMs,
    start_timeout_ms: i64,
    was_good: bool,
    env: Arc<BTreeMap<String, String>>,
    checks: Vec<Tracked>,
}

#[derive(Debug)]
struct Tracked {
    check: HealthCheck,
    failures: u32,
    answered: bool,
    message: String,
    next: MonoMs,
    asked: bool,
}

/// A check to ask now.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    pub(crate) check: HealthCheck,
    pub(crate) env: Arc<BTreeMap<String, String>>,
    pub(crate) of: (farshore_domain::digest::Digest, u64, u32),
    /// Whom to ask, where that has to be said.
    pub(crate) instance: Option<u64>,
}

impl Health {
    /// Follows what runs; `None` when its manifest is not known.
    pub(crate) fn follow(
        before: Option<Self>,
        running: &Running,
        manifest: Option<&Manifest>,
        config: &BTreeMap<String, String>,
        now: MonoMs,
    ) -> Option<Self> {
        let of = (running.manifest, running.instance, running.restarts);
        if let Some(mut before) = before.filter(|before| before.of == of) {
            before.up = running.up;
            return Some(before);
        }
        let manifest = manifest?;
        let mut env = manifest.run.env.clone();
        env.extend(config.iter().map(|(key, value)| (key.clone(), value.clone())));
        if let (Some(slot), Some(slots)) = (running.slot, &manifest.run.slots) {
            env.insert(slot::PORT.to_owned(), slots.port(slot).to_string());
        }
        let tracked = |check: &HealthCheck| Tracked {
            check: check.clone(),
            failures: 0,
            answered: false,
            message: String::new(),
            next: now,
            asked: false,
        };
        Some(Self {
            of,
            up: running.up,
            slotted: running.slot.is_some(),
            since: now,
            start_timeout_ms: i64::from(manifest.start_timeout_seconds) * 1000,
            was_good: false,
            env: Arc::new(env),
            checks: manifest.health.iter().map(tracked).collect(),
        })
    }

    /// Whether these are the checks of this instance of a release.
    pub(crate) fn is_of(&self, manifest: farshore_domain::digest::Digest, instance: u64) -> bool {
        (self.of.0, self.of.1) == (manifest, instance)
    }

    /// The checks to ask now.
    pub(crate) fn due(&mut self, now: MonoMs) -> Vec<Due> {
        if !self.up {
            return Vec::new();
        }
        let mut due = Vec::new();
        for tracked in &mut self.checks {
            if !tracked.asked && now >= tracked.next {
                tracked.asked = true;
                let instance = self.slotted.then_some(self.of.1);
                let (check, env) = (tracked.check.clone(), Arc::clone(&self.env));
                due.push(Due { check, env, of: self.of, instance });
            }
        }
        due
    }

    /// When the next check is to be asked.
    pub(crate) fn next(&self) -> Option<MonoMs> {
        self.checks.iter().filter(|tracked| self.up && !tracked.asked).map(|tracked| tracked.next).min()
    }

    /// Takes an answer; one about an earlier instance counts for nothing.
    pub(crate) fn answer(&mut self, due: &Due, answer: ProbeAnswer, now: MonoMs) {
        if due.of != self.of {
            return;
        }
        let eager = !self.was_good;
        let Some(tracked) = self.checks.iter_mut().find(|tracked| tracked.check.name == due.check.name)
        else {
            return;
        };
        tracked.asked = false;
        let interval = i64::from(tracked.check.interval_seconds) * 1000;
        match answer {
            ProbeAnswer::Unknown(why) => {
                tracing::debug!(check = %tracked.check.name, %why, "a check could not be asked");
                tracked.next = now.plus_ms(interval.min(EAGER_MS));
            }
            ProbeAnswer::Good => {
                tracked.answered = true;
                tracked.failures = 0;
                tracked.next = now.plus_ms(interval);
            }
            ProbeAnswer::Bad(message) => {
                tracked.answered = true;
                tracked.failures = tracked.failures.saturating_add(1);
                tracked.message = message.chars().take(300).collect();
                tracked.next = now.plus_ms(if eager { interval.min(EAGER_MS) } else { interval });
            }
        }
        self.was_good |= self.checks.iter().all(|tracked| tracked.answered && tracked.failures == 0);
    }

    /// What all checks say together. Before they were good once, nothing counts as failed until the start has taken too long.
    pub(crate) fn verdict(&self, now: MonoMs) -> Checks {
        if !self.up {
            return Checks::Unknown;
        }
        let starting = !self.was_good && now.since_ms(self.since) < self.start_timeout_ms;
        let worst = self
            .checks
            .iter()
            .max_by_key(|tracked| (tracked.failures >= tracked.check.failure_threshold, tracked.failures));
        match worst {
            Some(worst) if worst.failures > 0 => {
                let message = format!("check {}: {}", worst.check.name, worst.message);
                if worst.failures >= worst.check.failure_threshold && !starting {
                    Checks::Failed { message }
                } else {
                    Checks::Wavering { message }
                }
            }
            _ if self.checks.iter().any(|tracked| !tracked.answered) => Checks::Unknown,
            _ => Checks::Good,
        }
    }
}

/// The checks of all apps.
pub(crate) type AllHealth = BTreeMap<Name, Health>;
