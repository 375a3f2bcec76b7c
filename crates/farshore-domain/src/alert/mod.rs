//! Alerts: which rules hold for which things right now, and what that changes.
//!
//! [`evaluate`] looks at facts, [`step`] compares what it found with the alerts there are. A rule can hold, not hold, or not be known:
//! missing data neither fires an alert nor ends one.

mod evaluate;
mod growth;
mod rule;
mod silence;

pub use evaluate::{
    Active, Change, DeviceFacts, Disk, Facts, Firing, Found, IncidentFacts, RolloutFacts, evaluate, step,
};
pub use growth::growth_per_hour;
pub use rule::{AlertRuleSpec, BUILT_IN, BuiltIn, RuleError, RuleKind, Severity};
pub use silence::{MatchError, Matcher, silenced_by};
