//! Alerts: what fires, the rules behind it, silences, and whom it is told to.

use std::collections::BTreeMap;

use farshore_domain::alert::{AlertRuleSpec, Matcher, Severity};
use farshore_domain::time::UnixMs;
use farshore_domain::word_enum;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Object;
use crate::event::Subject;

word_enum! {
    /// Whether an alert goes on.
    AlertState {
        Firing = "firing",
        Ended = "ended",
    }
}

/// One alert: a rule held for a thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    pub uid: Uuid,
    pub rule: String,
    pub severity: Severity,
    pub state: AlertState,
    pub subject: Subject,
    /// What alerts are grouped by; empty for what has no place.
    pub location: String,
    pub labels: BTreeMap<String, String>,
    pub summary: String,
    pub started_at: UnixMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<UnixMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged_at: Option<UnixMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged_by: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Names of the silences that keep it from being told.
    #[serde(default)]
    pub silenced_by: Vec<String>,
}

/// What is known of a rule besides its specification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertRuleStatus {
    /// It is there from the start: it can be changed and disabled, not deleted.
    pub built_in: bool,
    /// What the threshold counts.
    pub unit: String,
    pub least: f64,
    pub most: f64,
}

pub type AlertRule = Object<AlertRuleSpec, AlertRuleStatus>;

/// Alerts that match are not told of while it lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SilenceSpec {
    /// All must match.
    pub matchers: Vec<Matcher>,
    /// Left out: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<UnixMs>,
    pub ends_at: UnixMs,
    #[serde(default)]
    pub comment: String,
}

word_enum! {
    /// Where a silence stands.
    SilenceState {
        Pending = "pending",
        Active = "active",
        Expired = "expired",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SilenceStatus {
    pub state: SilenceState,
}

pub type Silence = Object<SilenceSpec, SilenceStatus>;

word_enum! {
    /// How alerts reach somebody.
    RouteKind {
        Webhook = "webhook",
        Email = "email",
    }
}

word_enum! {
    /// What a webhook's body looks like. Both are signed as Standard Webhooks asks.
    WebhookFormat {
        Farshore = "farshore",
        /// As Alertmanager sends it to its receivers (version 4).
        Alertmanager = "alertmanager",
    }
}

word_enum! {
    /// How the connection to a mail server is protected.
    MailTls {
        /// From the first byte, usually on port 465.
        Tls = "tls",
        /// Asked for with STARTTLS and required, usually on port 587.
        Starttls = "starttls",
        /// Not at all; for a relay on the same machine or network.
        None = "none",
    }
}

/// To whom which alerts are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AlertRouteSpec {
    #[serde(rename = "type")]
    pub kind: RouteKind,
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Only alerts that are at least this bad.
    #[serde(default = "info")]
    pub min_severity: Severity,
    /// Only alerts that match all of them; empty: all.
    #[serde(default)]
    pub matchers: Vec<Matcher>,
    /// Also tell when an alert is over.
    #[serde(default = "yes")]
    pub send_resolved: bool,
    /// Alerts of one rule in one location that come within this time go in one message.
    #[serde(default = "group_wait")]
    pub group_wait_seconds: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookTarget>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<EmailTarget>,
}

const fn yes() -> bool {
    true
}

const fn info() -> Severity {
    Severity::Info
}

const fn group_wait() -> u32 {
    10
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WebhookTarget {
    /// `https://…`, or `http://…`. Redirects are not followed.
    pub url: String,
    #[serde(default = "farshore")]
    pub format: WebhookFormat,
    /// `whsec_` and 24 to 64 bytes in base64. Write only; left out on creation one is made and shown once, left out later it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

const fn farshore() -> WebhookFormat {
    WebhookFormat::Farshore
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EmailTarget {
    pub to: Vec<String>,
    pub from: String,
    /// Name or address of the mail server.
    pub host: String,
    pub port: u16,
    #[serde(default = "starttls")]
    pub tls: MailTls,
    /// Authorities in PEM, at most 10: only certificates of theirs are taken. Those that the server's machine knows when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Write only; left out later it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

const fn starttls() -> MailTls {
    MailTls::Starttls
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertRouteStatus {
    /// A secret or password is kept, encrypted.
    pub secret_set: bool,
    /// Shown once, when it was made by the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

pub type AlertRoute = Object<AlertRouteSpec, AlertRouteStatus>;

word_enum! {
    /// Where a message stands.
    DeliveryState {
        Queued = "queued",
        Delivered = "delivered",
        /// All attempts failed: see `lastError`, and send it again with `:retry`.
        Dead = "dead",
    }
}

/// One message about alerts to one route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertDelivery {
    /// Also the `webhook-id`.
    pub uid: Uuid,
    pub route: Uuid,
    pub route_name: String,
    pub group_key: String,
    pub state: DeliveryState,
    pub attempts: i64,
    pub next_at: UnixMs,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_error: String,
    pub created_at: UnixMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<UnixMs>,
    /// How many alerts it tells of.
    pub alerts: u64,
}
