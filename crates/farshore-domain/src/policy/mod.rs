//! Policies: how devices heal, what they may use and keep, what may be done to them from afar.
//!
//! A [`PolicySpec`] is bound by its selector. Several may apply to one device; for each single value the policy with the
//! highest priority wins, then the one with the more specific selector, then the one whose name sorts last
//! ([`effective`]). What no policy says stays as the release or the agent has it. The device gets the outcome, the
//! [`Rules`], with its desired state and applies them with or without a network.

mod check;
mod effective;
mod hours;
mod runbook;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use check::PolicyError;
pub use effective::{Bound, Changed, Effective, Provenance, effective};
pub use hours::DeviceHours;
pub use runbook::{Runbook, RunbookArgument, RunbookError};

use crate::desired::DesiredRelease;
use crate::name::Name;
use crate::operation::{EXEC_INSIDE_CAPABILITY, EXEC_INSIDE_CAPABILITY_2};
use crate::release::Limits;
use crate::release::isolation::Isolation;
use crate::schedule::{Blackout, Energy, WindowSpec};
use crate::selector::Selector;
use crate::version::Version;
use crate::word_enum;

/// The capability that an agent names when it understands [`DesiredPolicy`]. A field that is added to [`Rules`] later needs
/// a new one: an agent refuses a desired state with fields it does not know.
pub const POLICY_CAPABILITY: &str = "policy/v1";
/// The same for what came later: windows, retention beyond log files, recreation and reboots, how closely the kernel is watched. An agent without it gets the rest ([`Rules::without_v2`]).
pub const POLICY_CAPABILITY_2: &str = "policy/v2";
/// The same for isolation ([`Rules::without_v3`]).
pub const POLICY_CAPABILITY_3: &str = "policy/v3";

/// At most this many health conditions in one policy.
pub const MAX_CONDITIONS: usize = 32;
/// At most this many safe-mode releases, and named runbooks, in one policy.
pub const MAX_NAMED: usize = 64;

/// What a policy says and where it applies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PolicySpec {
    pub description: String,
    /// Empty: every device.
    pub selector: Selector,
    /// The higher one wins; -1000 to 1000.
    pub priority: i32,
    pub rules: Rules,
}

/// Every value is optional: what is left out, another policy says, or nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = PolicyRules))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rules {
    pub health: HealthRules,
    pub restart: RestartRules,
    pub rollback: RollbackRules,
    /// For each app; the lower one of this and the release's own counts.
    pub resources: Limits,
    /// What each app of kind `process` is kept apart from at least; the stricter one of this and the release's own counts.
    #[serde(skip_serializing_if = "Isolation::is_empty")]
    pub isolation: Isolation,
    pub retention: RetentionRules,
    pub operations: OperationRules,
    pub reporting: ReportingRules,
    #[serde(skip_serializing_if = "ScheduleRules::is_empty")]
    pub schedule: ScheduleRules,
}

/// When releases are fetched and installed, on the wall clock of the device's zone. A rollout obeys these and its own: both have to be
/// open. `energy` goes with the `windows` of the same policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ScheduleRules {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows: Option<Vec<WindowSpec>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy: Option<Energy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blackouts: Option<Vec<Blackout>>,
}

impl ScheduleRules {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// When something is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HealthRules {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<HealthCondition>>,
}

/// A condition that must not be true. With an app it counts like a failed check of that app and heals it; without one
/// the device tells an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCondition {
    pub name: Name,
    /// CEL over the device's metrics and events: `metric("mem_used") / metric("mem_total") > 0.95`.
    pub when: String,
    /// How long it has to be true before it counts.
    #[serde(default)]
    pub for_seconds: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<Name>,
}

/// How an app is restarted. What is left out is as the release has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RestartRules {
    /// The first pause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_backoff_ms: Option<u32>,
    /// Each pause is so many times the one before: 1 to 10, 2 where nobody says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_factor: Option<u32>,
    /// With more restarts than this within the window, the device stops trying and goes one step down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_restarts: Option<u32>,
    /// Over how long restarts are counted; 600 where nobody says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_seconds: Option<u32>,
    /// After this many restarts within the window, everything of the app is stopped and it is set up anew, once. Left out: not by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recreate_after: Option<u32>,
}

word_enum! {
    /// Which release a device goes back to by itself.
    RollbackTo {
        /// The last one that was good; the safe-mode release where there is none.
        Previous = "previous",
        /// Straight to the safe-mode release.
        SafeMode = "safe-mode",
    }
}

/// When a release that was good once is given up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RollbackRules {
    /// After this many restarts within `restart.windowSeconds`. Left out: never by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_restarts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<RollbackTo>,
    /// Releases that are kept on the device to go back to when nothing else is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safe_mode: Option<Vec<SafeMode>>,
    /// Whether the device is rebooted, at most once a day, before an app is held because nothing else is left. Left out: no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reboot: Option<bool>,
}

/// The safe-mode release of one app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SafeMode {
    pub app: Name,
    pub version: Version,
}

/// What is kept: of an app's output, of releases and measurements on the device, of measurements on the control plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RetentionRules {
    /// A log file of an app is rotated at this size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_bytes: Option<u64>,
    /// So many files are kept of each app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_files: Option<u32>,
    /// Log files that were last written longer ago are deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_seconds: Option<u32>,
    /// So many releases from before the one that runs stay on the device; 1 where nobody says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub releases: Option<u32>,
    /// Measurements that could not be sent are dropped on the device when they are older.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsent_seconds: Option<u32>,
    /// At most so many bytes of measurements wait on the device to be sent; the oldest go first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsent_bytes: Option<u64>,
    /// The control plane keeps the device's measurements for so many days, but never longer than its own setting says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measurement_days: Option<u32>,
    /// With less than this of the disk free, old releases are deleted, then old log files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_free_percent: Option<u32>,
}

/// What may be done from afar. Left out: logs, diagnostics and restarts yes; a shell, a reboot and runbooks no.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OperationRules {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logs: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diagnostics: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<bool>,
    /// Any command beside the apps, not only a named runbook.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<bool>,
    /// Any command inside an app's container, as the app: it reads what the app does. `exec` does not allow it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec_inside: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reboot: Option<bool>,
    /// Whoever asks for an operation has to say why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason_required: Option<bool>,
    /// The commands that may be run, each with its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runbooks: Option<Vec<Runbook>>,
}

/// A kind of operation, as far as a policy tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteOperation<'a> {
    Logs,
    Diagnostics,
    Restart,
    Exec,
    ExecInside,
    Reboot,
    Runbook(&'a str),
}

impl OperationRules {
    /// Whether an operation may be done.
    #[must_use]
    pub fn allow(&self, operation: RemoteOperation<'_>) -> bool {
        match operation {
            RemoteOperation::Logs => self.logs.unwrap_or(true),
            RemoteOperation::Diagnostics => self.diagnostics.unwrap_or(true),
            RemoteOperation::Restart => self.restart.unwrap_or(true),
            RemoteOperation::Exec => self.exec.unwrap_or(false),
            RemoteOperation::ExecInside => self.exec_inside.unwrap_or(false),
            RemoteOperation::Reboot => self.reboot.unwrap_or(false),
            RemoteOperation::Runbook(name) => self.runbook(name).is_some(),
        }
    }

    /// The runbook of this name.
    #[must_use]
    pub fn runbook(&self, name: &str) -> Option<&Runbook> {
        self.runbooks.iter().flatten().find(|runbook| runbook.name.as_str() == name)
    }

    /// What an agent of these abilities understands of commands inside containers.
    #[must_use]
    pub fn inside_for(mut self, can: impl Fn(&str) -> bool) -> Self {
        if !can(EXEC_INSIDE_CAPABILITY_2) {
            self.exec_inside = None;
        }
        if !can(EXEC_INSIDE_CAPABILITY) {
            let beside = |runbook: &Runbook| runbook.app.is_none();
            self.runbooks = self.runbooks.map(|all| all.into_iter().filter(beside).collect());
        }
        self
    }

    /// What an agent without [`crate::operation::OPERATIONS_CAPABILITY`] understands.
    #[must_use]
    pub fn without_runbooks(self) -> Self {
        Self { runbooks: None, reason_required: None, ..self }
    }
}

/// How often the device tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ReportingRules {
    /// Between two measurements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_seconds: Option<u32>,
    /// Between two batches of measurements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_seconds: Option<u32>,
    /// Whether eBPF programs may be loaded into the device's kernel; yes when nothing is said. Without them less is seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ebpf: Option<bool>,
    /// Tell of programs that are executed; needs eBPF.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec_events: Option<bool>,
    /// Tell of TCP connections that are begun; needs eBPF.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_events: Option<bool>,
}

/// What a policy says about running an app, for whoever starts it. It counts from the next start on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bounds {
    pub restart: RestartRules,
    pub resources: Limits,
    pub retention: RetentionRules,
    #[serde(skip_serializing_if = "Isolation::is_empty")]
    pub isolation: Isolation,
}

impl Bounds {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The lower one of the release's limits and the policy's.
    #[must_use]
    pub fn limits(&self, own: &Limits) -> Limits {
        fn lower<T: Ord + Copy>(a: Option<T>, b: Option<T>) -> Option<T> {
            a.into_iter().chain(b).min()
        }
        Limits {
            memory_bytes: lower(own.memory_bytes, self.resources.memory_bytes),
            cpu_millis: lower(own.cpu_millis, self.resources.cpu_millis),
            processes: lower(own.processes, self.resources.processes),
        }
    }
}

impl Rules {
    /// What whoever starts apps needs of the rules.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        let RetentionRules { log_bytes, log_files, log_seconds, .. } = self.retention;
        Bounds {
            restart: RestartRules { recreate_after: None, ..self.restart },
            resources: self.resources.clone(),
            isolation: self.isolation.clone(),
            retention: RetentionRules { log_bytes, log_files, log_seconds, ..RetentionRules::default() },
        }
    }

    /// The capability that an agent needs to understand all of it.
    #[must_use]
    pub fn capability(&self) -> &'static str {
        if *self != self.without_v3() {
            POLICY_CAPABILITY_3
        } else if *self != self.without_v2() {
            POLICY_CAPABILITY_2
        } else {
            POLICY_CAPABILITY
        }
    }

    /// Without what only agents with [`POLICY_CAPABILITY_3`] understand.
    #[must_use]
    pub fn without_v3(&self) -> Self {
        Self { isolation: Isolation::default(), ..self.clone() }
    }

    /// Without what only agents with [`POLICY_CAPABILITY_2`], or a later one, understand.
    #[must_use]
    pub fn without_v2(&self) -> Self {
        let RetentionRules { log_bytes, log_files, .. } = self.retention;
        Self {
            restart: RestartRules { recreate_after: None, ..self.restart },
            rollback: RollbackRules { reboot: None, ..self.rollback.clone() },
            retention: RetentionRules { log_bytes, log_files, ..RetentionRules::default() },
            schedule: ScheduleRules::default(),
            isolation: Isolation::default(),
            reporting: ReportingRules {
                ebpf: None,
                exec_events: None,
                connect_events: None,
                ..self.reporting
            },
            ..self.clone()
        }
    }
}

/// What a device is told of its policy, in its desired state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DesiredPolicy {
    pub rules: Rules,
    /// The safe-mode releases that exist, by app.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub safe_mode: Vec<SafeRelease>,
    /// The IANA zone whose wall clock the windows follow; only where there are windows or blackouts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

/// A safe-mode release that the device keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SafeRelease {
    pub app: Name,
    pub release: DesiredRelease,
}
