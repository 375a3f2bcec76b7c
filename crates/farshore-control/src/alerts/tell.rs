//! Which alerts are told to whom: pure, from alerts, silences and routes.

use std::collections::BTreeMap;

use farshore_api::alert::{Alert, AlertRouteSpec, AlertState};
use farshore_api::event::Subject;
use farshore_domain::alert::Severity;
use farshore_store::alerts::AlertRow;
use uuid::Uuid;

/// A stored alert as the API shows it.
pub(super) fn show(row: AlertRow, silenced_by: Vec<String>) -> Alert {
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    Alert {
        uid: row.uid,
        rule: row.rule,
        severity: row.severity,
        state: if row.ended_at.is_some() { AlertState::Ended } else { AlertState::Firing },
        subject: Subject { kind: row.subject_kind, uid: row.subject, name: row.subject_name },
        location: row.location,
        labels: row.labels,
        summary: row.summary,
        started_at: row.started_at,
        ended_at: row.ended_at,
        acknowledged_at: row.acknowledged_at,
        acknowledged_by: some(row.acknowledged_by),
        comment: row.comment,
        silenced_by,
    }
}

fn rank(severity: Severity) -> u8 {
    match severity {
        Severity::Critical => 2,
        Severity::Warning => 1,
        Severity::Info | Severity::Unknown => 0,
    }
}

/// Whether a route wants an alert.
fn wants(route: &AlertRouteSpec, alert: &Alert) -> bool {
    route.enabled
        && rank(alert.severity) >= rank(route.min_severity)
        && (alert.state == AlertState::Firing || route.send_resolved)
        && route.matchers.iter().all(|matcher| matcher.matches(&alert.labels))
}

/// Alerts of one rule in one location go together.
pub(super) fn group_key(alert: &Alert) -> String {
    format!("{}/{}", alert.rule, alert.location)
}

/// The messages for each route, by its uid and group.
pub(super) fn messages<'a>(
    routes: &'a [(Uuid, String, AlertRouteSpec)],
    alerts: &'a [Alert],
) -> BTreeMap<(Uuid, String), (&'a str, &'a AlertRouteSpec, Vec<&'a Alert>)> {
    let mut messages: BTreeMap<(Uuid, String), (&str, &AlertRouteSpec, Vec<&Alert>)> = BTreeMap::new();
    for (uid, name, spec) in routes {
        for alert in alerts.iter().filter(|alert| wants(spec, alert)) {
            let entry = messages.entry((*uid, group_key(alert))).or_insert_with(|| (name, spec, Vec::new()));
            entry.2.push(alert);
        }
    }
    messages
}
