//! What a policy may say; each error names the field and the fix.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::{MAX_CONDITIONS, MAX_NAMED, PolicySpec, RollbackTo, Rules};
use crate::condition::{Condition, device};
use crate::name::Name;
use crate::schedule;
use crate::time::UnixMs;

/// How much of logs and measurements an incident takes as evidence.
const EVIDENCE_SECONDS: u32 = 600;

/// Why a policy is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {what}")]
pub struct PolicyError {
    /// From the object's root: `spec.rules.restart.maxRestarts`.
    pub field: String,
    pub what: String,
}

pub(super) fn wrong<T>(field: impl Into<String>, what: impl Into<String>) -> Result<T, PolicyError> {
    Err(PolicyError { field: field.into(), what: what.into() })
}

fn within<T: PartialOrd + std::fmt::Display>(
    field: &str,
    value: Option<T>,
    range: RangeInclusive<T>,
) -> Result<(), PolicyError> {
    match value {
        Some(value) if !range.contains(&value) => {
            wrong(format!("spec.rules.{field}"), format!("is {} to {}", range.start(), range.end()))
        }
        _ => Ok(()),
    }
}

impl PolicySpec {
    /// Checks what the types alone can't say.
    pub fn check(&self) -> Result<(), PolicyError> {
        if self.description.len() > 4096 {
            return wrong("spec.description", "has at most 4096 characters");
        }
        if !(-1000..=1000).contains(&self.priority) {
            return wrong("spec.priority", "is -1000 to 1000");
        }
        if self.rules == Rules::default() {
            return wrong("spec.rules", "says nothing: set at least one value");
        }
        self.rules.check()
    }

    /// Checks that its windows are open at some time from now on, whatever other policies say.
    pub fn check_openings(&self, now: UnixMs) -> Result<(), PolicyError> {
        let schedule = &self.rules.schedule;
        let (windows, blackouts) = (schedule.windows.as_deref(), schedule.blackouts.as_deref());
        let found = schedule::check_openings(
            windows.unwrap_or_default(),
            blackouts.unwrap_or_default(),
            schedule.energy.unwrap_or_default(),
            now,
        );
        found.map_or(Ok(()), |(field, what)| wrong(format!("spec.rules.schedule.{field}"), what))
    }
}

impl Rules {
    fn check(&self) -> Result<(), PolicyError> {
        self.check_conditions()?;
        let restart = &self.restart;
        within("restart.backoffMs", restart.backoff_ms, 10..=3_600_000)?;
        within("restart.maxBackoffMs", restart.max_backoff_ms, 10..=86_400_000)?;
        within("restart.backoffFactor", restart.backoff_factor, 1..=10)?;
        within("restart.maxRestarts", restart.max_restarts, 0..=60)?;
        within("restart.windowSeconds", restart.window_seconds, 10..=86_400)?;
        if let (Some(first), Some(most)) = (restart.backoff_ms, restart.max_backoff_ms)
            && first > most
        {
            return wrong("spec.rules.restart.maxBackoffMs", format!("is at least backoffMs, {first}"));
        }
        let rollback = &self.rollback;
        within("rollback.afterRestarts", rollback.after_restarts, 1..=60)?;
        within("restart.recreateAfter", restart.recreate_after, 1..=60)?;
        for (field, most) in [
            ("rollback.afterRestarts", rollback.after_restarts),
            ("restart.maxRestarts", restart.max_restarts),
        ] {
            if let (Some(recreate), Some(most)) = (restart.recreate_after, most)
                && recreate >= most
            {
                let text = format!("can never be reached: {field} comes after {most} restarts");
                return wrong("spec.rules.restart.recreateAfter", text);
            }
        }
        if let (Some(after), Some(most)) = (rollback.after_restarts, restart.max_restarts)
            && after > most
        {
            return wrong(
                "spec.rules.rollback.afterRestarts",
                format!("can never be reached: restart.maxRestarts ends restarts after {most}"),
            );
        }
        if rollback.to == Some(RollbackTo::Unknown) {
            return wrong("spec.rules.rollback.to", "is previous or safe-mode");
        }
        if rollback.to == Some(RollbackTo::SafeMode) && rollback.safe_mode.as_ref().is_some_and(Vec::is_empty)
        {
            return wrong("spec.rules.rollback.safeMode", "names no release to go back to");
        }
        if let Some(safe) = &rollback.safe_mode {
            unique("rollback.safeMode", safe.iter().map(|safe| &safe.app))?;
        }
        let limits = &self.resources;
        within("resources.memoryBytes", limits.memory_bytes, (1 << 20)..=(1 << 50))?;
        within("resources.cpuMillis", limits.cpu_millis, 1..=1_000_000)?;
        within("resources.processes", limits.processes, 1..=1_000_000)?;
        if let Err((field, what)) = self.isolation.check() {
            return wrong(format!("spec.rules.isolation.{field}"), what);
        }
        self.check_retention()?;
        self.check_schedule()?;
        within("reporting.sampleSeconds", self.reporting.sample_seconds, 1..=3_600)?;
        within("reporting.batchSeconds", self.reporting.batch_seconds, 1..=3_600)?;
        if let (Some(sample), Some(batch)) = (self.reporting.sample_seconds, self.reporting.batch_seconds)
            && batch < sample
        {
            return wrong(
                "spec.rules.reporting.batchSeconds",
                format!("is at least sampleSeconds, {sample}"),
            );
        }
        if let Some(runbooks) = &self.operations.runbooks {
            unique("operations.runbooks", runbooks.iter().map(|runbook| &runbook.name))?;
            for (at, runbook) in runbooks.iter().enumerate() {
                runbook.check(&format!("spec.rules.operations.runbooks[{at}]"))?;
            }
        }
        Ok(())
    }

    /// What healing and incidents need is kept: the release before, and ten minutes of logs and measurements.
    fn check_retention(&self) -> Result<(), PolicyError> {
        let keeps = &self.retention;
        within("retention.logBytes", keeps.log_bytes, (16 << 10)..=(1 << 30))?;
        within("retention.logFiles", keeps.log_files, 1..=100)?;
        within("retention.unsentBytes", keeps.unsent_bytes, (64 << 10)..=(1 << 40))?;
        within("retention.measurementDays", keeps.measurement_days, 1..=3_650)?;
        within("retention.diskFreePercent", keeps.disk_free_percent, 1..=50)?;
        if keeps.releases == Some(0) {
            return wrong(
                "spec.rules.retention.releases",
                "is 1 to 10: going back to the release before needs that release",
            );
        }
        within("retention.releases", keeps.releases, 1..=10)?;
        for (field, seconds) in
            [("retention.logSeconds", keeps.log_seconds), ("retention.unsentSeconds", keeps.unsent_seconds)]
        {
            if seconds.is_some_and(|seconds| seconds < EVIDENCE_SECONDS) {
                let text = format!("is at least {EVIDENCE_SECONDS}: incidents take that much as evidence");
                return wrong(format!("spec.rules.{field}"), text);
            }
            within(field, seconds, EVIDENCE_SECONDS..=315_360_000)?;
        }
        if let (Some(unsent), Some(batch)) = (keeps.unsent_seconds, self.reporting.batch_seconds)
            && unsent <= batch
        {
            return wrong(
                "spec.rules.retention.unsentSeconds",
                format!("is more than reporting.batchSeconds, {batch}, or nothing would ever be sent"),
            );
        }
        Ok(())
    }

    fn check_schedule(&self) -> Result<(), PolicyError> {
        let windows = self.schedule.windows.as_deref();
        if windows.is_none() && self.schedule.energy.is_some() {
            return wrong(
                "spec.rules.schedule.energy",
                "goes with windows of the same policy: add one of kind energy",
            );
        }
        let blackouts = self.schedule.blackouts.as_deref().unwrap_or_default();
        let energy = self.schedule.energy.unwrap_or_default();
        match schedule::check(windows.unwrap_or_default(), blackouts, energy).into_iter().next() {
            Some((field, what)) => wrong(format!("spec.rules.schedule.{field}"), what),
            None => Ok(()),
        }
    }

    fn check_conditions(&self) -> Result<(), PolicyError> {
        let conditions = self.health.conditions.as_deref().unwrap_or_default();
        if conditions.len() > MAX_CONDITIONS {
            return wrong("spec.rules.health.conditions", format!("has at most {MAX_CONDITIONS} conditions"));
        }
        let mut names = BTreeSet::new();
        for (at, condition) in conditions.iter().enumerate() {
            let field = format!("spec.rules.health.conditions[{at}]");
            if !names.insert(&condition.name) {
                return wrong(format!("{field}.name"), format!("{} is there twice", condition.name));
            }
            if condition.for_seconds > 86_400 {
                return wrong(format!("{field}.forSeconds"), "is 0 to 86400");
            }
            Condition::compile(&condition.when, &device::vocabulary(condition.app.is_some())).map_err(
                |error| PolicyError {
                    field: format!("{field}.when"),
                    what: format!("can't be used: {error}"),
                },
            )?;
        }
        Ok(())
    }
}

fn unique<'a>(field: &str, names: impl Iterator<Item = &'a Name>) -> Result<(), PolicyError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return wrong(format!("spec.rules.{field}"), format!("names {name} twice"));
        }
        if seen.len() > MAX_NAMED {
            return wrong(format!("spec.rules.{field}"), format!("has at most {MAX_NAMED} entries"));
        }
    }
    Ok(())
}
