//! Operations: one imperative request to one device, done once.
//!
//! `queued → delivered → running → succeeded | failed | expired | cancelled | unsupported`. Each state that is not final has a deadline. What the
//! device says wins: an operation that was given up here and was done there after all is shown as done.

mod admit;

use serde::{Deserialize, Serialize};

pub use admit::{Candidate, Turn, Waiting, admit};

use crate::label::Labels;
use crate::name::Name;
use crate::policy::{OperationRules, RemoteOperation, RunbookError};
use crate::rollout::Amount;
use crate::word_enum;

/// What an agent that keeps results until they are acknowledged says in `hello`.
pub const OPERATIONS_CAPABILITY: &str = "operations/v2";
/// What a device says whose runner runs runbooks.
pub const EXEC_CAPABILITY: &str = "exec/v1";
/// What a device says whose runner runs them inside an app's container, too.
pub const EXEC_INSIDE_CAPABILITY: &str = "exec-inside/v1";
/// The same, where a free command inside needs a permission of its own ([`OperationRules::exec_inside`]): without this, [`OperationRules::exec`] would be enough
/// for it, so it is not asked for there.
pub const EXEC_INSIDE_CAPABILITY_2: &str = "exec-inside/v2";
/// What an agent says that understands [`crate::desired::DesiredState::stopped`].
pub const DRAIN_CAPABILITY: &str = "drain/v1";
/// What a device says whose runner has a program that reboots it.
pub const REBOOT_CAPABILITY: &str = "reboot/v1";
/// So many bytes of a command's output are kept; the rest is counted.
pub const EXEC_OUTPUT_BYTES: usize = 100 * 1024;
/// So many bytes of any operation's output are kept.
pub const OUTPUT_BYTES: usize = 512 * 1024;
/// A command that says nothing of its time is ended after this long.
pub const DEFAULT_TIMEOUT_SECONDS: u32 = 60;
/// No command may take longer.
pub const MAX_TIMEOUT_SECONDS: u32 = 3_600;
/// An operation that is not taken by its device for this long is over, where nobody says.
pub const DEFAULT_EXPIRY_SECONDS: u32 = 24 * 3_600;
pub const MAX_EXPIRY_SECONDS: u32 = 30 * 24 * 3_600;
/// Logs are followed for at most this long.
pub const MAX_FOLLOW_SECONDS: u32 = 600;
pub const MAX_ARGUMENTS: usize = 32;
pub const MAX_ARGUMENT_BYTES: usize = 1_024;
pub const MAX_COMMAND_BYTES: usize = 8 * 1_024;
pub const MAX_REASON: usize = 500;

word_enum! {
    /// What is asked of a device.
    Kind {
        RestartApp = "restart-app",
        Logs = "logs",
        /// How the device is: host, agent, link, disks, what happened last.
        Diagnostics = "diagnostics",
        /// What the device has: hardware, system, packages, apps.
        Inventory = "inventory",
        /// A runbook, or a command where the policy allows it.
        Exec = "exec",
        /// One app goes back to the release before, and keeps it.
        Rollback = "rollback",
        /// Apps are stopped and stay stopped until the device is uncordoned.
        Drain = "drain",
        Reboot = "reboot",
        /// The gateway sends what waits, now, also over a link that costs. It hears of it with its exchanges, and needs no channel.
        ForceSync = "force-sync",
    }
}

word_enum! {
    /// How an operation stands.
    State {
        Queued = "queued",
        /// The device has it, and has not begun.
        Delivered = "delivered",
        Running = "running",
        Succeeded = "succeeded",
        Failed = "failed",
        Expired = "expired",
        Cancelled = "cancelled",
        /// The device does not know how.
        Unsupported = "unsupported",
    }
}

impl State {
    /// Whether it stays so.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Delivered | Self::Running | Self::Unknown)
    }
}

impl Kind {
    /// Whether the device does less while it is done, so that budgets of groups count.
    #[must_use]
    pub const fn is_disruptive(self) -> bool {
        matches!(self, Self::Rollback | Self::Drain | Self::Reboot | Self::RestartApp)
    }

    /// Whether it names an app.
    #[must_use]
    pub const fn needs_app(self) -> bool {
        matches!(self, Self::RestartApp | Self::Logs | Self::Rollback)
    }
}

/// What an operation is told besides its kind and app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = OperationArguments))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Arguments {
    /// `exec`: the runbook of the device's policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runbook: Option<Name>,
    /// `exec`: what is given to the runbook.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<String>,
    /// `exec` without a runbook: a line for `/bin/sh`, where the policy allows any command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// `exec` of a command inside an app of kind `compose`: in which of its services. Left out where it has only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Name>,
    /// `exec`: the command is ended after this long; the runbook's own time when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// `logs`: so many bytes of the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u32>,
    /// `logs`: what comes is told for so long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follow_seconds: Option<u32>,
}

/// Why a request makes no operation: which field, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {what}")]
pub struct BadOperation {
    pub field: &'static str,
    pub what: String,
}

fn bad<T>(field: &'static str, what: impl Into<String>) -> Result<T, BadOperation> {
    Err(BadOperation { field, what: what.into() })
}

fn is_text(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() && c != '\t' && c != '\n')
}

impl Arguments {
    /// Checks what does not depend on the device.
    ///
    /// # Errors
    /// With the field that is wrong.
    pub fn check(&self, kind: Kind, app: Option<&Name>) -> Result<(), BadOperation> {
        if kind.needs_app() && app.is_none() {
            return bad("app", format!("is needed: {kind} is about one app"));
        }
        let exec = kind == Kind::Exec;
        if exec && app.is_some() && self.runbook.is_some() {
            return bad("app", "is nothing that a runbook takes: the policy says which app it runs in");
        }
        if !exec && !kind.needs_app() && app.is_some() {
            return bad("app", format!("is nothing that {kind} takes"));
        }
        if self.service.is_some() && (!exec || app.is_none()) {
            return bad("service", "belongs to a command inside an app");
        }
        if exec && self.runbook.is_some() == self.command.is_some() {
            return bad("runbook", "or command is needed: exactly one of them");
        }
        for (given, field) in [
            (self.runbook.is_some(), "runbook"),
            (self.command.is_some(), "command"),
            (!self.arguments.is_empty(), "arguments"),
            (self.timeout_seconds.is_some(), "timeoutSeconds"),
        ] {
            if given && !exec {
                return bad(field, format!("is nothing that {kind} takes"));
            }
        }
        for (given, field) in
            [(self.bytes.is_some(), "bytes"), (self.follow_seconds.is_some(), "followSeconds")]
        {
            if given && kind != Kind::Logs {
                return bad(field, format!("is nothing that {kind} takes"));
            }
        }
        if self.command.is_some() && !self.arguments.is_empty() {
            return bad("arguments", "belong to a runbook; write them into the command");
        }
        if let Some(command) = &self.command
            && (command.trim().is_empty() || command.len() > MAX_COMMAND_BYTES || !is_text(command))
        {
            return bad("command", format!("has 1 to {MAX_COMMAND_BYTES} bytes and no control characters"));
        }
        if self.arguments.len() > MAX_ARGUMENTS {
            return bad("arguments", format!("are at most {MAX_ARGUMENTS}"));
        }
        if self.arguments.iter().any(|argument| argument.len() > MAX_ARGUMENT_BYTES || !is_text(argument)) {
            return bad(
                "arguments",
                format!("have at most {MAX_ARGUMENT_BYTES} bytes each and no control characters"),
            );
        }
        if self.timeout_seconds.is_some_and(|seconds| !(1..=MAX_TIMEOUT_SECONDS).contains(&seconds)) {
            return bad("timeoutSeconds", format!("is 1 to {MAX_TIMEOUT_SECONDS}"));
        }
        if self.bytes.is_some_and(|bytes| !(1..=OUTPUT_BYTES).contains(&(bytes as usize))) {
            return bad("bytes", format!("is 1 to {OUTPUT_BYTES}"));
        }
        if self.follow_seconds.is_some_and(|seconds| !(1..=MAX_FOLLOW_SECONDS).contains(&seconds)) {
            return bad("followSeconds", format!("is 1 to {MAX_FOLLOW_SECONDS}"));
        }
        Ok(())
    }

    /// How long the device may take once it has begun.
    #[must_use]
    pub fn time_limit_seconds(&self, kind: Kind, rules: &OperationRules) -> u32 {
        match kind {
            Kind::Exec => {
                let own = self.runbook.as_ref().and_then(|name| rules.runbook(name.as_str()));
                let own = own.map_or(DEFAULT_TIMEOUT_SECONDS, |runbook| runbook.timeout_seconds);
                self.timeout_seconds.unwrap_or(own)
            }
            Kind::Logs => 60 + self.follow_seconds.unwrap_or(0),
            Kind::Rollback | Kind::Drain | Kind::Reboot => 15 * 60,
            // A backlog of days.
            Kind::ForceSync => 6 * 3_600,
            _ => 120,
        }
    }
}

/// Why a device does not get an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = OperationRefusal))]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// `PolicyForbids`, `ReasonRequired`, `BadArguments`, `Unsupported`, `Lifecycle`, `NoApp`, `NoGateway`, `NothingToGoBackTo`.
    pub code: String,
    pub message: String,
}

fn refuse<T>(code: &str, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code: code.to_owned(), message: message.into() })
}

/// Whether the policy allows it. The same on the control plane, in `run` and in the runner. `app`: whose container a command is to run in, or what it is about.
///
/// # Errors
/// With the reason.
pub fn permitted(
    kind: Kind,
    app: Option<&Name>,
    arguments: &Arguments,
    reason: &str,
    rules: &OperationRules,
) -> Result<(), Refusal> {
    if rules.reason_required == Some(true) && reason.trim().is_empty() {
        return refuse("ReasonRequired", "the device's policy asks for a reason");
    }
    let asked = match kind {
        Kind::RestartApp => RemoteOperation::Restart,
        Kind::Logs => RemoteOperation::Logs,
        Kind::Diagnostics | Kind::Inventory => RemoteOperation::Diagnostics,
        Kind::Reboot => RemoteOperation::Reboot,
        Kind::Exec => match &arguments.runbook {
            None if app.is_some() => RemoteOperation::ExecInside,
            None => RemoteOperation::Exec,
            Some(name) => {
                let Some(runbook) = rules.runbook(name.as_str()) else {
                    return refuse("PolicyForbids", format!("the device's policy has no runbook {name}"));
                };
                if arguments.timeout_seconds.is_some_and(|asked| asked > runbook.timeout_seconds) {
                    let most = runbook.timeout_seconds;
                    return refuse("BadArguments", format!("runbook {name} may take at most {most} s"));
                }
                return runbook.command_with(&arguments.arguments).map(drop).or_else(
                    |error: RunbookError| refuse("BadArguments", format!("runbook {name}: {error}")),
                );
            }
        },
        // Rights of whoever changes the fleet, not of whoever reaches into a device.
        Kind::Rollback | Kind::Drain | Kind::ForceSync => return Ok(()),
        Kind::Unknown => return refuse("Unsupported", "no such operation is known"),
    };
    if rules.allow(asked) {
        return Ok(());
    }
    let what = match asked {
        RemoteOperation::Exec => "a free command".to_owned(),
        RemoteOperation::ExecInside => "a free command inside a container (operations.execInside)".to_owned(),
        _ => kind.to_string(),
    };
    refuse("PolicyForbids", format!("the device's policy does not allow {what}"))
}

/// How many may be disturbed at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = OperationBudget))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Budget {
    /// So many of one request at once: 50 where nobody says, a tenth of the request where it disturbs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u32>,
    /// For operations that disturb: in each group of devices with the same value of this label. `location` at 1 where nobody says; an empty list for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_by: Option<Vec<GroupBudget>>,
}

/// How many of one group may be down at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = OperationGroupBudget))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GroupBudget {
    /// A label, or `location`.
    pub label: String,
    pub max_unavailable: Amount,
}

pub const DEFAULT_CONCURRENT: u32 = 50;
const MAX_GROUPS: usize = 8;

impl Budget {
    /// Checks it.
    ///
    /// # Errors
    /// With the field that is wrong.
    pub fn check(&self) -> Result<(), BadOperation> {
        if self.max_concurrent.is_some_and(|most| !(1..=10_000).contains(&most)) {
            return bad("budget.maxConcurrent", "is 1 to 10000");
        }
        let groups = self.group_by.as_deref().unwrap_or_default();
        if groups.len() > MAX_GROUPS {
            return bad("budget.groupBy", format!("has at most {MAX_GROUPS} labels"));
        }
        if groups.iter().any(|group| group.label.is_empty() || group.label.len() > 317) {
            return bad("budget.groupBy", "names a label, or location");
        }
        if groups.iter().any(|group| group.max_unavailable.of(100) == 0) {
            return bad("budget.groupBy", "lets nobody go: maxUnavailable is at least 1");
        }
        Ok(())
    }

    /// How many of `size` operations of one request may be under way at once.
    #[must_use]
    pub fn concurrent(&self, kind: Kind, size: u32) -> u32 {
        let otherwise = if kind.is_disruptive() { size.div_ceil(10).max(1) } else { DEFAULT_CONCURRENT };
        self.max_concurrent.unwrap_or(otherwise)
    }

    /// The budgets of groups that count for `kind`.
    #[must_use]
    pub fn groups(&self, kind: Kind) -> Vec<GroupBudget> {
        if !kind.is_disruptive() {
            return Vec::new();
        }
        self.group_by.clone().unwrap_or_else(|| {
            vec![GroupBudget { label: "location".to_owned(), max_unavailable: Amount::Count(1) }]
        })
    }
}

/// The value of a group's label on a device; `location` is also the device's own place.
#[must_use]
pub fn group_of<'a>(label: &str, labels: &'a Labels, location: &'a str) -> Option<&'a str> {
    labels.get(label).or((label == "location" && !location.is_empty()).then_some(location))
}
