//! What was asked for, read from the specification's JSON: the oracle's own reading, not the engine's.

use farshore_domain::rollout::RolloutSpec;
use farshore_domain::time::SECOND_MS;
use serde_json::Value;

#[derive(Clone, Debug)]
pub(super) struct Asked {
    spec: Value,
    pub(super) threshold: u8,
    /// No halt below this share of failures, in percent.
    pub(super) halts_above: u8,
    pub(super) min_reports: Option<usize>,
    pub(super) permit_ms: i64,
    pub(super) device_timeout_ms: i64,
}

fn number(value: &Value) -> Option<usize> {
    value.as_u64().map(|number| usize::try_from(number).unwrap())
}

/// `3` or `"25%"` of so many, rounded down.
fn amount(value: &Value, of: usize) -> usize {
    match value.as_str().and_then(|text| text.strip_suffix('%')) {
        Some(percent) => of * percent.parse::<usize>().unwrap() / 100,
        None => number(value).unwrap(),
    }
}

/// How many of so many may be down: at most `maxUnavailable`, at least one; or all but `minAvailable`, where what is down anyway may be
/// repaired one by one.
fn places(limits: &Value, of: usize) -> usize {
    match &limits["minAvailable"] {
        Value::Null => amount(&limits["maxUnavailable"], of).max(1),
        least => {
            let percent = least.as_str().and_then(|text| text.strip_suffix('%'));
            let least = percent.map_or_else(
                || number(least).unwrap(),
                |percent| (of * percent.parse::<usize>().unwrap()).div_ceil(100),
            );
            of.saturating_sub(least).max(1)
        }
    }
}

/// A budget for each value of a label.
#[derive(Clone, Debug)]
pub(super) struct AskedGroup {
    pub(super) label: String,
    group: Value,
}

impl AskedGroup {
    pub(super) fn places(&self, of: usize) -> usize {
        places(&self.group, of)
    }
}

impl Asked {
    pub(super) fn new(spec: &RolloutSpec) -> Self {
        let spec = serde_json::to_value(spec).unwrap();
        let seconds = |field: &str| spec[field].as_i64().unwrap() * SECOND_MS;
        let percent = |field: &str| spec[field].as_u64().map(|number| u8::try_from(number).unwrap());
        let threshold = percent("failureThreshold").unwrap();
        Self {
            threshold,
            halts_above: percent("acceptableFailureRate").unwrap_or(if threshold > 5 {
                5
            } else {
                threshold / 2
            }),
            min_reports: number(&spec["minReports"]),
            permit_ms: seconds("permitSeconds"),
            device_timeout_ms: seconds("deviceTimeoutSeconds"),
            spec,
        }
    }

    /// How many devices of so many may be down at once.
    pub(super) fn budget(&self, of: usize) -> usize {
        places(&self.spec, of)
    }

    pub(super) fn groups(&self) -> Vec<AskedGroup> {
        let groups = self.spec["groupBy"].as_array().cloned().unwrap_or_default();
        groups
            .into_iter()
            .map(|group| AskedGroup { label: group["label"].as_str().unwrap().to_owned(), group })
            .collect()
    }

    /// How many devices of so many each wave and those before it reach; none where the plan does not say.
    pub(super) fn reaches(&self, of: usize) -> Vec<Option<usize>> {
        let mut before = 0;
        let waves = self.spec["waves"].as_array().unwrap();
        waves
            .iter()
            .map(|wave| {
                let percent = number(&wave["percent"]).map(|percent| (of * percent).div_ceil(100));
                let reach = percent.or(number(&wave["count"]))?.max(1).min(of).max(before);
                before = reach;
                Some(reach)
            })
            .collect()
    }

    /// How many different people have to open the gate of this wave: only gates between waves, or that of a single wave.
    pub(super) fn people(&self, wave: usize) -> usize {
        let waves = self.spec["waves"].as_array().unwrap();
        let between = wave + 1 < waves.len() || waves.len() == 1;
        let word = waves[wave]["approval"].as_str().or(self.spec["approval"].as_str().filter(|_| between));
        match word {
            Some("one-person") => 1,
            Some("two-people") => 2,
            _ => 0,
        }
    }

    pub(super) fn goes_on_without_evidence(&self) -> bool {
        self.spec["onInconclusive"] == "continue"
    }

    pub(super) fn goes_back_by_wave(&self) -> bool {
        self.spec["onFailure"] == "rollback-wave"
    }

    pub(super) fn starts_slowly(&self) -> bool {
        self.spec["slowStart"].as_bool().unwrap()
    }

    pub(super) fn soak_ms(&self, wave: usize) -> i64 {
        self.spec["waves"][wave]["soakSeconds"].as_i64().unwrap_or_default() * SECOND_MS
    }
}
