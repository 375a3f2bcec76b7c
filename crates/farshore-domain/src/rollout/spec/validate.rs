//! What is refused before a rollout starts.

use super::{
    DAY_SECONDS, FieldError, MAX_DEPENDENCIES, MAX_TRIPWIRES, MAX_WAVES, ReleaseRef, RolloutSpec, SpecErrors,
    WaveSpec, placing,
};
use crate::condition::Condition;
use crate::release::Manifest;
use crate::release::kind::Kind;
use crate::release::slot::Activation;
use crate::rollout::context::vocabulary;

impl RolloutSpec {
    /// Refuses what can't be meant, can never progress or could never end. Says everything at once.
    pub fn validate(&self) -> Result<(), SpecErrors> {
        let mut errors = Vec::new();
        let mut refuse = |field: String, message: String| errors.push(FieldError { field, message });
        if let ReleaseRef::Version { app, .. } = &self.release
            && *app != self.app
        {
            refuse(
                "release".into(),
                format!(
                    "is a release of {app}, but the rollout is of {}; write {}@<version>",
                    self.app, self.app
                ),
            );
        }
        for (field, message) in check_waves(&self.waves) {
            refuse(field, message);
        }
        if !(1..=100).contains(&self.failure_threshold) {
            refuse(
                "failureThreshold".into(),
                "is a percentage from 1 to 100; with 1 the first failure halts".into(),
            );
        }
        for (field, message) in check_judging(self) {
            refuse(field, message);
        }
        if self.min_reports == Some(0) {
            refuse("minReports".into(), "is at least 1; leave it out to ask for one report".into());
        }
        for (field, message) in placing::check_placing(self) {
            refuse(field, message);
        }
        if !(1..=DAY_SECONDS).contains(&self.permit_seconds) {
            refuse("permitSeconds".into(), format!("is 1 to {DAY_SECONDS}"));
        }
        if self.device_timeout_seconds < self.permit_seconds || self.device_timeout_seconds > 7 * DAY_SECONDS
        {
            refuse(
                "deviceTimeoutSeconds".into(),
                format!(
                    "is at least permitSeconds ({}) and at most {}",
                    self.permit_seconds,
                    7 * DAY_SECONDS
                ),
            );
        }
        if self.gate_timeout_seconds < self.device_timeout_seconds
            || self.gate_timeout_seconds > 30 * DAY_SECONDS
        {
            refuse(
                "gateTimeoutSeconds".into(),
                format!(
                    "is at least deviceTimeoutSeconds ({}), so that every device can answer first, and at most {}",
                    self.device_timeout_seconds,
                    30 * DAY_SECONDS
                ),
            );
        }
        if !(60..=365 * DAY_SECONDS).contains(&self.operator_timeout_seconds) {
            refuse("operatorTimeoutSeconds".into(), format!("is 60 to {}", 365 * DAY_SECONDS));
        }
        if errors.is_empty() { Ok(()) } else { Err(SpecErrors(errors)) }
    }
}

impl RolloutSpec {
    /// Refuses times in which this release can't get done on any device.
    pub fn check_release(&self, manifest: &Manifest) -> Result<(), FieldError> {
        let (start, soak) = (manifest.start_timeout_seconds, manifest.soak_seconds);
        let needed = start.saturating_add(soak);
        if self.device_timeout_seconds >= needed {
            return Ok(());
        }
        let message = format!(
            "of {} s calls devices stuck that are about to be done: {} {} may take {start} s to start and then soaks for {soak} s; write at least {needed}",
            self.device_timeout_seconds, manifest.app, manifest.version
        );
        Err(FieldError { field: "deviceTimeoutSeconds".to_owned(), message })
    }
}

impl RolloutSpec {
    /// Refuses a way to go to this release that it can't be gone.
    pub fn check_activation(&self, manifest: &Manifest) -> Result<(), FieldError> {
        let Manifest { app, version, run, .. } = manifest;
        if run.slots.is_none() && self.activation == Some(Activation::BlueGreen) {
            let why = if run.kind == Kind::Process {
                "its manifest has no run.slots, the two ports that it takes".to_owned()
            } else {
                format!("it is of kind {}, and only apps of kind process can run twice", run.kind)
            };
            let message =
                format!("of {app} {version} can't be blue-green: {why}; write replace, or leave it out");
            return Err(FieldError { field: "activation".to_owned(), message });
        }
        Ok(())
    }
}

fn check_judging(spec: &RolloutSpec) -> Vec<(String, String)> {
    let mut errors = Vec::new();
    let mut refuse = |field: &str, message: String| errors.push((field.to_owned(), message));
    let (acceptable, threshold) = (spec.acceptable_percent(), spec.failure_threshold);
    if acceptable >= threshold && threshold > 0 {
        refuse(
            "acceptableFailureRate",
            format!("is below failureThreshold ({threshold}): between the two, the test tells good from bad"),
        );
    }
    for (field, value) in
        [("falseHaltPercent", spec.false_halt_percent), ("missedPercent", spec.missed_percent)]
    {
        if !(1..=50).contains(&value) {
            refuse(field, "is a percentage from 1 to 50".into());
        }
    }
    if spec.tripwires.len() > MAX_TRIPWIRES {
        refuse("tripwires", format!("has at most {MAX_TRIPWIRES} entries"));
    }
    for (index, tripwire) in spec.tripwires.iter().enumerate() {
        if spec.tripwires.iter().take(index).any(|other| other.name == tripwire.name) {
            refuse(&format!("tripwires[{index}].name"), "is the name of another tripwire already".into());
        }
    }
    let of_waves =
        spec.waves.iter().enumerate().map(|(i, wave)| (format!("waves[{i}].gate"), wave.gate.as_ref()));
    let of_wires =
        spec.tripwires.iter().enumerate().map(|(i, wire)| (format!("tripwires[{i}].when"), Some(&wire.when)));
    let conditions = std::iter::once(("gate".to_owned(), spec.gate.as_ref())).chain(of_waves).chain(of_wires);
    let vocabulary = vocabulary();
    for (field, condition) in conditions {
        let Some(text) = condition else { continue };
        if let Err(error) = Condition::compile(text, &vocabulary) {
            refuse(&field, error.to_string());
        }
    }
    if spec.depends_on.len() > MAX_DEPENDENCIES {
        refuse("dependsOn", format!("has at most {MAX_DEPENDENCIES} entries"));
    }
    if let Some(promotion) = &spec.promotion {
        if promotion.to == spec.channel {
            refuse("promotion.to", "is the rollout's own channel; name the next one".into());
        }
        if promotion.after_soak_seconds > 30 * DAY_SECONDS {
            refuse("promotion.afterSoakSeconds", format!("is at most {}", 30 * DAY_SECONDS));
        }
    }
    errors
}

fn check_waves(waves: &[WaveSpec]) -> Vec<(String, String)> {
    let mut errors = Vec::new();
    if waves.is_empty() || waves.len() > MAX_WAVES {
        errors.push((
            "waves".into(),
            format!("has 1 to {MAX_WAVES} waves; for all at once write one wave of percent 100"),
        ));
    }
    let (mut percent_before, mut count_before) = (0, 0);
    for (index, wave) in waves.iter().enumerate() {
        let at = |field: &str| format!("waves[{index}].{field}");
        match (wave.percent, wave.count, &wave.selector) {
            (Some(percent), None, None) => {
                if !(1..=100).contains(&percent) {
                    errors.push((at("percent"), "is 1 to 100".into()));
                } else if percent <= percent_before {
                    errors.push((
                        at("percent"),
                        format!(
                            "is cumulative: write more than {percent_before}, the percent of an earlier wave"
                        ),
                    ));
                }
                percent_before = percent_before.max(percent);
            }
            (None, Some(count), None) => {
                if count == 0 {
                    errors.push((at("count"), "of 0 makes an empty wave; write at least 1".into()));
                } else if count <= count_before {
                    errors.push((
                        at("count"),
                        format!(
                            "is cumulative: write more than {count_before}, the count of an earlier wave"
                        ),
                    ));
                }
                count_before = count_before.max(count);
            }
            (None, None, Some(selector)) => {
                if selector.requirements().is_empty() {
                    errors.push((at("selector"), "selects every device; write percent 100 instead".into()));
                }
            }
            _ => errors
                .push((format!("waves[{index}]"), "has exactly one of percent, count and selector".into())),
        }
        if wave.soak_seconds > 30 * DAY_SECONDS {
            errors.push((at("soakSeconds"), format!("is at most {}", 30 * DAY_SECONDS)));
        }
    }
    if let Some((index, last)) = waves.iter().enumerate().next_back()
        && last.percent != Some(100)
    {
        errors.push((
            format!("waves[{index}].percent"),
            "the last wave must reach every device: write percent 100".into(),
        ));
    }
    errors
}
