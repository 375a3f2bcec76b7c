//! What messages say: one text for each kind of receiver, made of the alerts as they were when they were queued.

use std::collections::BTreeMap;

use farshore_api::alert::{Alert, AlertState};
use farshore_domain::digest::Digest;
use farshore_domain::time::UnixMs;
use serde_json::{Value, json};

/// One message, ready to be written out.
#[derive(Clone, Debug)]
pub(super) struct Message<'a> {
    pub(super) route: &'a str,
    pub(super) group_key: &'a str,
    pub(super) alerts: &'a [Alert],
    /// Address of the page.
    pub(super) page: &'a str,
    pub(super) made_at: UnixMs,
}

pub(super) fn time(at: UnixMs) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| at.0.to_string(), |time| time.to_string())
}

impl Message<'_> {
    fn firing(&self) -> impl Iterator<Item = &Alert> {
        self.alerts.iter().filter(|alert| alert.state == AlertState::Firing)
    }

    fn status(&self) -> &'static str {
        if self.firing().next().is_some() { "firing" } else { "resolved" }
    }

    /// As Farshore itself says it.
    pub(super) fn farshore(&self) -> Value {
        let first = self.alerts.first();
        json!({
            "type": "alerts",
            "timestamp": time(self.made_at),
            "data": {
                "route": self.route, "groupKey": self.group_key, "status": self.status(),
                "rule": first.map(|alert| &alert.rule), "location": first.map(|alert| &alert.location),
                "alerts": self.alerts, "page": format!("{}/alerts", self.page),
            },
        })
    }

    /// As Alertmanager says it to its webhook receivers, version 4.
    pub(super) fn alertmanager(&self) -> Value {
        let labels = |name: &str| {
            let mut values = self.alerts.iter().filter_map(|alert| alert.labels.get(name));
            values.next().filter(|first| values.all(|other| other == *first)).cloned()
        };
        let names = self.alerts.iter().flat_map(|alert| alert.labels.keys());
        let count = |name: &str| self.alerts.iter().filter(|alert| alert.labels.contains_key(name)).count();
        let common: BTreeMap<&String, String> = names
            .filter(|name| count(name) == self.alerts.len())
            .filter_map(|name| Some((name, labels(name)?)))
            .collect();
        let group: BTreeMap<&str, String> =
            ["alertname", "location"].into_iter().filter_map(|name| Some((name, labels(name)?))).collect();
        let alerts: Vec<Value> = self.alerts.iter().map(|alert| self.one(alert)).collect();
        json!({
            "version": "4", "groupKey": self.group_key, "truncatedAlerts": 0, "status": self.status(), "receiver": self.route,
            "groupLabels": group, "commonLabels": common, "commonAnnotations": {}, "externalURL": self.page, "alerts": alerts,
        })
    }

    fn one(&self, alert: &Alert) -> Value {
        let fingerprint = Digest::of(format!("{}/{}", alert.rule, alert.subject.uid).as_bytes()).to_string();
        let short = fingerprint.strip_prefix("sha256:").and_then(|hex| hex.get(..16)).unwrap_or_default();
        let ended = alert.ended_at.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), time);
        json!({
            "status": if alert.state == AlertState::Firing { "firing" } else { "resolved" },
            "labels": alert.labels,
            "annotations": { "summary": alert.summary },
            "startsAt": time(alert.started_at), "endsAt": ended,
            "generatorURL": format!("{}/alerts", self.page), "fingerprint": short,
        })
    }

    /// Subject and text of an e-mail.
    pub(super) fn mail(&self) -> (String, String) {
        let first = self.alerts.first();
        let rule = first.map_or("alerts", |alert| alert.rule.as_str());
        let place = first.map(|alert| alert.location.as_str()).filter(|location| !location.is_empty());
        let firing = self.firing().count();
        let head = match firing {
            0 => "resolved".to_owned(),
            1 => "firing".to_owned(),
            many => format!("{many} firing"),
        };
        let place = place.map_or_else(String::new, |place| format!(" at {place}"));
        let subject: String =
            format!("[{head}] {rule}{place}").chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let mut text = String::new();
        for alert in self.alerts {
            let word = if alert.state == AlertState::Firing { "FIRING" } else { "OVER" };
            text.push_str(&format!(
                "{word} ({}): {}\r\n  since {}",
                alert.severity,
                alert.summary,
                time(alert.started_at)
            ));
            if let Some(ended) = alert.ended_at {
                text.push_str(&format!(", until {}", time(ended)));
            }
            text.push_str("\r\n\r\n");
        }
        text.push_str(&format!("{}/alerts\r\n", self.page));
        (subject, text)
    }
}

#[cfg(test)]
mod tests {
    use farshore_api::event::Subject;
    use farshore_domain::alert::Severity;
    use uuid::Uuid;

    use super::*;

    fn alert(device: &str, state: AlertState) -> Alert {
        let label = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Alert {
            uid: Uuid::from_u128(1),
            rule: "device-offline".to_owned(),
            severity: Severity::Warning,
            state,
            subject: Subject { kind: "Device".to_owned(), uid: Uuid::from_u128(2), name: device.to_owned() },
            location: "Riga".to_owned(),
            labels: [("alertname", "device-offline"), ("location", "Riga"), ("device", device)]
                .map(label)
                .into(),
            summary: format!("nothing was heard of {device}"),
            started_at: UnixMs(1_700_000_000_000),
            ended_at: (state == AlertState::Ended).then_some(UnixMs(1_700_000_060_000)),
            acknowledged_at: None,
            acknowledged_by: None,
            comment: String::new(),
            silenced_by: Vec::new(),
        }
    }

    #[test]
    fn the_alertmanager_form_has_what_receivers_read() {
        let alerts = [alert("a", AlertState::Firing), alert("b", AlertState::Ended)];
        let message = Message {
            route: "ops",
            group_key: "device-offline/Riga",
            alerts: &alerts,
            page: "https://f",
            made_at: UnixMs(0),
        };
        let body = message.alertmanager();
        assert_eq!(
            (body["version"].as_str(), body["status"].as_str(), body["receiver"].as_str()),
            (Some("4"), Some("firing"), Some("ops"))
        );
        assert_eq!(body["groupLabels"], json!({"alertname": "device-offline", "location": "Riga"}));
        assert_eq!(body["commonLabels"], body["groupLabels"], "the devices differ");
        assert_eq!(body["alerts"][0]["endsAt"], "0001-01-01T00:00:00Z");
        assert_eq!(body["alerts"][1]["status"], "resolved");
        assert_eq!(body["alerts"][0]["startsAt"], "2023-11-14T22:13:20Z");
        assert_eq!(body["alerts"][0]["fingerprint"].as_str().map(str::len), Some(16));
    }

    #[test]
    fn a_mail_says_in_its_subject_what_it_is_about() {
        let alerts = [alert("a", AlertState::Firing), alert("b", AlertState::Firing)];
        let message =
            Message { route: "ops", group_key: "x", alerts: &alerts, page: "https://f", made_at: UnixMs(0) };
        let (subject, text) = message.mail();
        assert_eq!(subject, "[2 firing] device-offline at Riga");
        assert!(
            text.contains("FIRING (warning): nothing was heard of a")
                && text.ends_with("https://f/alerts\r\n"),
            "{text}"
        );
    }
}
