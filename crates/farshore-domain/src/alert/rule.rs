//! Rules: what is looked at, from which threshold on, and how bad it is.

use serde::{Deserialize, Serialize};

use crate::selector::Selector;
use crate::word_enum;

word_enum! {
    /// How bad it is.
    Severity {
        Info = "info",
        Warning = "warning",
        Critical = "critical",
    }
}

word_enum! {
    /// What a rule looks at.
    RuleKind {
        /// Nothing was heard of a device for `threshold` seconds.
        DeviceOffline = "device-offline",
        /// A device missed `threshold` heartbeats in a row, and is not offline yet.
        HeartbeatGap = "heartbeat-gap",
        /// An app's process ended `threshold` times within one incident.
        CrashLoop = "crash-loop",
        /// An incident with at least `threshold` signs is open.
        Incident = "incident",
        /// A rollout was halted or paused, or has failed in the last `threshold` hours.
        RolloutHalted = "rollout-halted",
        /// At the pace of the last hours the disk is full in `threshold` hours.
        DiskFullSoon = "disk-full-soon",
        /// A device's certificate ends in `threshold` hours, and was not renewed.
        CertificateExpiring = "certificate-expiring",
        /// A gateway has more than `threshold` points to send.
        GatewayBacklog = "gateway-backlog",
    }
}

/// What a threshold of each kind counts and which are sensible.
#[derive(Clone, Copy, Debug)]
pub struct BuiltIn {
    /// Also the name of the rule that is there from the start.
    pub kind: RuleKind,
    pub severity: Severity,
    pub threshold: f64,
    pub least: f64,
    pub most: f64,
    pub unit: &'static str,
    pub says: &'static str,
}

const fn row(
    kind: RuleKind,
    severity: Severity,
    (threshold, least, most, unit): (f64, f64, f64, &'static str),
    says: &'static str,
) -> BuiltIn {
    BuiltIn { kind, severity, threshold, least, most, unit, says }
}

/// The rules that every tenant has.
pub const BUILT_IN: &[BuiltIn] = &[
    row(
        RuleKind::DeviceOffline,
        Severity::Warning,
        (300.0, 30.0, 2_592_000.0, "seconds"),
        "Nothing was heard of a device for some time.",
    ),
    row(
        RuleKind::HeartbeatGap,
        Severity::Info,
        (3.0, 2.0, 1_000.0, "heartbeats"),
        "A device missed heartbeats.",
    ),
    row(
        RuleKind::CrashLoop,
        Severity::Critical,
        (3.0, 1.0, 10_000.0, "exits"),
        "An app ends again and again.",
    ),
    row(RuleKind::Incident, Severity::Warning, (1.0, 1.0, 10_000.0, "signs"), "An incident is open."),
    row(
        RuleKind::RolloutHalted,
        Severity::Critical,
        (1.0, 0.0, 720.0, "hours"),
        "A rollout was halted, paused, or has failed.",
    ),
    row(
        RuleKind::DiskFullSoon,
        Severity::Warning,
        (24.0, 0.1, 8_760.0, "hours"),
        "The disk is full soon at the pace of the last hours.",
    ),
    row(
        RuleKind::CertificateExpiring,
        Severity::Warning,
        (4.0, 0.1, 8_760.0, "hours"),
        "A device's certificate ends soon and was not renewed.",
    ),
    row(
        RuleKind::GatewayBacklog,
        Severity::Warning,
        (10_000.0, 1.0, 1e12, "points"),
        "A gateway can't send as fast as it receives.",
    ),
];

/// A rule as people write it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AlertRuleSpec {
    #[serde(rename = "type")]
    pub kind: RuleKind,
    #[serde(default = "yes")]
    pub enabled: bool,
    pub severity: Severity,
    /// What it counts depends on the type; see `unit` in the status.
    pub threshold: f64,
    /// Only devices with these labels; empty: all. Rollouts have no labels of devices.
    #[serde(default)]
    pub selector: Selector,
    #[serde(default)]
    pub description: String,
}

const fn yes() -> bool {
    true
}

/// Which field of a rule is wrong, and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct RuleError {
    pub field: &'static str,
    pub message: String,
}

impl BuiltIn {
    /// The table's row of a kind.
    #[must_use]
    pub fn of(kind: RuleKind) -> Option<&'static Self> {
        BUILT_IN.iter().find(|row| row.kind == kind)
    }

    /// The rule that is there from the start.
    #[must_use]
    pub fn spec(&self) -> AlertRuleSpec {
        AlertRuleSpec {
            kind: self.kind,
            enabled: true,
            severity: self.severity,
            threshold: self.threshold,
            selector: Selector::default(),
            description: self.says.to_owned(),
        }
    }
}

impl AlertRuleSpec {
    /// # Errors
    /// When a word is unknown or the threshold is not sensible.
    pub fn check(&self) -> Result<(), RuleError> {
        let wrong = |field, message: String| Err(RuleError { field, message });
        let Some(row) = BuiltIn::of(self.kind) else {
            let words: Vec<_> = RuleKind::ALL.iter().map(|kind| kind.word()).collect();
            return wrong("type", format!("is one of {}", words.join(", ")));
        };
        if self.severity == Severity::Unknown {
            return wrong("severity", "is info, warning or critical".to_owned());
        }
        if !(row.least..=row.most).contains(&self.threshold) {
            return wrong("threshold", format!("is {} to {} {}", row.least, row.most, row.unit));
        }
        if self.description.chars().count() > 1_000 {
            return wrong("description", "has at most 1000 characters".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_one_sensible_rule_from_the_start() {
        assert_eq!(BUILT_IN.len(), RuleKind::ALL.len());
        for kind in RuleKind::ALL {
            BuiltIn::of(*kind).unwrap().spec().check().unwrap();
        }
    }

    #[test]
    fn a_rule_that_makes_no_sense_is_refused() {
        let spec = BuiltIn::of(RuleKind::DeviceOffline).unwrap().spec();
        let field = |spec: AlertRuleSpec| spec.check().unwrap_err().field;
        assert_eq!(field(AlertRuleSpec { threshold: 1.0, ..spec.clone() }), "threshold");
        assert_eq!(field(AlertRuleSpec { threshold: f64::NAN, ..spec.clone() }), "threshold");
        assert_eq!(field(AlertRuleSpec { kind: RuleKind::Unknown, ..spec.clone() }), "type");
        assert_eq!(field(AlertRuleSpec { severity: Severity::Unknown, ..spec }), "severity");
    }
}
