//! From facts to alerts.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::rule::{AlertRuleSpec, RuleKind, Severity};
use crate::device::OFFLINE_AFTER_MS;
use crate::incident::IncidentCause;
use crate::label::Labels;
use crate::time::{HOUR_MS, UnixMs};

/// A device as rules see it.
#[derive(Clone, Debug, Default)]
pub struct DeviceFacts {
    pub uid: Uuid,
    pub name: String,
    pub location: String,
    pub labels: Labels,
    /// Not one that is expected to be away: revoked, rejected, decommissioned or never claimed.
    pub expected: bool,
    pub last_seen: Option<UnixMs>,
    pub certificate_expires_at: Option<UnixMs>,
    pub disk: Option<Disk>,
    /// Messages a gateway on it has to send.
    pub gateway_backlog: Option<f64>,
}

/// A disk, as last measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disk {
    pub used: f64,
    pub total: f64,
    /// Bytes an hour over the last hours; `None` when there are too few measurements.
    pub grows: Option<f64>,
}

/// An open incident as rules see it.
#[derive(Clone, Debug)]
pub struct IncidentFacts {
    pub uid: Uuid,
    pub name: String,
    pub device: Uuid,
    pub app: String,
    pub cause: IncidentCause,
    pub signs: i64,
    pub message: String,
}

/// A rollout as rules see it.
#[derive(Clone, Debug)]
pub struct RolloutFacts {
    pub uid: Uuid,
    pub name: String,
    pub app: String,
    pub channel: String,
    /// Waits for a person, or has failed at that time: which word, and since when.
    pub stopped: Option<(String, UnixMs)>,
    /// It has ended: a failure is told of for a while only.
    pub ended: bool,
}

/// Everything that rules look at in one tenant.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub devices: Vec<DeviceFacts>,
    pub incidents: Vec<IncidentFacts>,
    pub rollouts: Vec<RolloutFacts>,
    pub heartbeat_ms: i64,
    /// Since when the control plane listens: silence before that is not the devices'.
    pub listening_since: UnixMs,
}

/// A rule that holds for a thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firing {
    /// The same rule and thing, always the same text.
    pub fingerprint: String,
    pub rule: String,
    pub severity: Severity,
    pub subject_kind: &'static str,
    pub subject: Uuid,
    pub subject_name: String,
    pub location: String,
    pub labels: BTreeMap<String, String>,
    pub summary: String,
}

/// What an evaluation found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub firing: BTreeMap<String, Firing>,
    /// Fingerprints of which it can't be said.
    pub unknown: BTreeSet<String>,
}

/// An alert that is not over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Active {
    pub uid: Uuid,
    pub fingerprint: String,
    pub summary: String,
    pub severity: Severity,
}

/// What changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Fire(Firing),
    /// It goes on, and says something else now.
    Update(Uuid, Firing),
    End(Uuid),
}

/// What a rule says of one thing.
enum Verdict {
    Holds(String),
    HoldsNot,
    Unknown,
}

use Verdict::{Holds, HoldsNot};

/// Looks at each enabled rule for each thing.
#[must_use]
pub fn evaluate(rules: &[(String, AlertRuleSpec)], facts: &Facts, now: UnixMs) -> Found {
    let mut found = Found::default();
    let devices: BTreeMap<Uuid, &DeviceFacts> =
        facts.devices.iter().map(|device| (device.uid, device)).collect();
    for (name, rule) in rules.iter().filter(|(_, rule)| rule.enabled) {
        match rule.kind {
            RuleKind::CrashLoop | RuleKind::Incident => {
                for incident in &facts.incidents {
                    let device = devices.get(&incident.device).copied();
                    if device.is_none_or(|device| rule.selector.matches(&device.labels)) {
                        let of = about(
                            rule,
                            name,
                            "Incident",
                            incident.uid,
                            &incident.name,
                            device,
                            &[("app", &incident.app)],
                        );
                        found.add(of, of_incident(rule, incident, device));
                    }
                }
            }
            RuleKind::RolloutHalted => {
                for rollout in &facts.rollouts {
                    let more =
                        [("rollout", &rollout.name), ("app", &rollout.app), ("channel", &rollout.channel)];
                    let of = about(rule, name, "Rollout", rollout.uid, &rollout.name, None, &more);
                    found.add(of, of_rollout(rule, rollout, now));
                }
            }
            _ => {
                let wanted = |device: &&DeviceFacts| device.expected && rule.selector.matches(&device.labels);
                for device in facts.devices.iter().filter(wanted) {
                    let of = about(rule, name, "Device", device.uid, &device.name, Some(device), &[]);
                    found.add(of, of_device(rule, device, facts, now));
                }
            }
        }
    }
    found
}

impl Found {
    fn add(&mut self, mut firing: Firing, verdict: Verdict) {
        match verdict {
            Holds(summary) => {
                firing.summary = summary;
                self.firing.insert(firing.fingerprint.clone(), firing);
            }
            HoldsNot => {}
            Verdict::Unknown => {
                self.unknown.insert(firing.fingerprint);
            }
        }
    }
}

/// A label's name as other programs take it.
fn plain_name(key: &str) -> String {
    key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

fn about(
    rule: &AlertRuleSpec,
    name: &str,
    kind: &'static str,
    uid: Uuid,
    subject: &str,
    device: Option<&DeviceFacts>,
    more: &[(&str, &String)],
) -> Firing {
    let mut labels = BTreeMap::from([
        ("alertname".to_owned(), name.to_owned()),
        ("severity".to_owned(), rule.severity.word().to_owned()),
    ]);
    if let Some(device) = device {
        labels.insert("device".to_owned(), device.name.clone());
        labels.insert("location".to_owned(), device.location.clone());
        for (key, value) in device.labels.iter() {
            labels.insert(format!("label_{}", plain_name(key)), value.to_owned());
        }
    }
    for (key, value) in more {
        labels.insert((*key).to_owned(), (*value).clone());
    }
    labels.retain(|_, value| !value.is_empty());
    Firing {
        fingerprint: format!("{name}/{uid}"),
        rule: name.to_owned(),
        severity: rule.severity,
        subject_kind: kind,
        subject: uid,
        subject_name: subject.to_owned(),
        location: device.map_or_else(String::new, |device| device.location.clone()),
        labels,
        summary: String::new(),
    }
}

fn of_incident(rule: &AlertRuleSpec, incident: &IncidentFacts, device: Option<&DeviceFacts>) -> Verdict {
    let on = device.map_or("a device", |device| device.name.as_str());
    #[expect(clippy::cast_precision_loss, reason = "a count of signs is small")]
    let enough = incident.signs as f64 >= rule.threshold;
    match rule.kind {
        RuleKind::CrashLoop if incident.cause == IncidentCause::ProcessExit && enough => {
            Holds(format!("{} on {on} ended {} times: {}", incident.app, incident.signs, incident.message))
        }
        RuleKind::Incident if enough => {
            let app = if incident.app.is_empty() { String::new() } else { format!("{}, ", incident.app) };
            Holds(format!("{} on {on} ({app}{}): {}", incident.name, incident.cause, incident.message))
        }
        _ => HoldsNot,
    }
}

fn of_rollout(rule: &AlertRuleSpec, rollout: &RolloutFacts, now: UnixMs) -> Verdict {
    match &rollout.stopped {
        #[expect(clippy::cast_precision_loss, reason = "hours are small")]
        Some((_, since))
            if rollout.ended && now.since_ms(*since) as f64 > rule.threshold * HOUR_MS as f64 =>
        {
            HoldsNot
        }
        Some((word, _)) => Holds(format!(
            "rollout {} of {} in channel {} is {word}",
            rollout.name, rollout.app, rollout.channel
        )),
        None => HoldsNot,
    }
}

fn of_device(rule: &AlertRuleSpec, device: &DeviceFacts, facts: &Facts, now: UnixMs) -> Verdict {
    let name = &device.name;
    match rule.kind {
        RuleKind::DeviceOffline => {
            #[expect(clippy::cast_possible_truncation, reason = "the threshold is bounded")]
            let after_ms = (rule.threshold * 1_000.0) as i64;
            silence(device, facts, after_ms, i64::MAX, now)
        }
        RuleKind::HeartbeatGap => {
            #[expect(clippy::cast_possible_truncation, reason = "the threshold is bounded")]
            let beats = rule.threshold as i64;
            silence(device, facts, facts.heartbeat_ms.saturating_mul(beats), OFFLINE_AFTER_MS, now)
        }
        RuleKind::DiskFullSoon => {
            let Some(disk) = device.disk.filter(|disk| disk.total > 0.0) else { return Verdict::Unknown };
            let free = (disk.total - disk.used).max(0.0);
            let share = free / disk.total * 100.0;
            if free / disk.total <= 0.02 {
                return Holds(format!("the disk of {name} is full: {share:.1} % is free"));
            }
            match disk.grows {
                None => Verdict::Unknown,
                Some(grows) if grows > 0.0 && free / grows <= rule.threshold => Holds(format!(
                    "the disk of {name} is full in {:.1} h at the present pace; {share:.0} % is free",
                    free / grows
                )),
                Some(_) => HoldsNot,
            }
        }
        RuleKind::CertificateExpiring => {
            let Some(ends) = device.certificate_expires_at else { return Verdict::Unknown };
            #[expect(clippy::cast_precision_loss, reason = "hours are small")]
            let hours = ends.since_ms(now) as f64 / HOUR_MS as f64;
            if hours > rule.threshold {
                HoldsNot
            } else if hours > 0.0 {
                Holds(format!("the certificate of {name} ends in {hours:.1} h"))
            } else {
                Holds(format!("the certificate of {name} has ended; the device renews it when it comes back"))
            }
        }
        RuleKind::GatewayBacklog => match device.gateway_backlog {
            None => Verdict::Unknown,
            Some(waiting) if waiting > rule.threshold => {
                Holds(format!("the gateway on {name} has {waiting:.0} points to send"))
            }
            Some(_) => HoldsNot,
        },
        _ => HoldsNot,
    }
}

/// Silence from `after_ms` to `before_ms`. What this control plane could not hear is not known.
fn silence(device: &DeviceFacts, facts: &Facts, after_ms: i64, before_ms: i64, now: UnixMs) -> Verdict {
    let Some(seen) = device.last_seen else { return HoldsNot };
    let silent = now.since_ms(seen);
    if silent < after_ms || silent >= before_ms {
        return HoldsNot;
    }
    if now.since_ms(seen.max(facts.listening_since)) < after_ms {
        return Verdict::Unknown;
    }
    Holds(format!("nothing was heard of {} for {} s", device.name, after_ms / 1_000))
}

/// Compares what was found with the alerts that are not over.
#[must_use]
pub fn step(active: &[Active], found: &Found) -> Vec<Change> {
    let mut changes = Vec::new();
    for alert in active {
        match found.firing.get(&alert.fingerprint) {
            Some(firing) if firing.summary != alert.summary || firing.severity != alert.severity => {
                changes.push(Change::Update(alert.uid, firing.clone()));
            }
            Some(_) => {}
            None if found.unknown.contains(&alert.fingerprint) => {}
            None => changes.push(Change::End(alert.uid)),
        }
    }
    let known: BTreeSet<&str> = active.iter().map(|alert| alert.fingerprint.as_str()).collect();
    let fresh = found.firing.values().filter(|firing| !known.contains(firing.fingerprint.as_str()));
    changes.extend(fresh.cloned().map(Change::Fire));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::rule::BuiltIn;
    use crate::time::MINUTE_MS;

    const NOW: UnixMs = UnixMs(1_700_000_000_000);

    fn rules(kinds: &[RuleKind]) -> Vec<(String, AlertRuleSpec)> {
        kinds.iter().map(|kind| (kind.word().to_owned(), BuiltIn::of(*kind).unwrap().spec())).collect()
    }

    fn device(seen_ms_ago: i64) -> DeviceFacts {
        DeviceFacts {
            uid: Uuid::from_u128(1),
            name: "kiosk-7".to_owned(),
            location: "Riga".to_owned(),
            expected: true,
            last_seen: Some(NOW.plus_ms(-seen_ms_ago)),
            ..DeviceFacts::default()
        }
    }

    fn facts(device: DeviceFacts) -> Facts {
        Facts { devices: vec![device], heartbeat_ms: 30_000, ..Facts::default() }
    }

    fn fired(rules: &[(String, AlertRuleSpec)], facts: &Facts) -> Vec<String> {
        evaluate(rules, facts, NOW).firing.into_values().map(|firing| firing.rule).collect()
    }

    #[test]
    fn silence_is_a_gap_first_and_then_offline() {
        let rules = rules(&[RuleKind::DeviceOffline, RuleKind::HeartbeatGap]);
        assert_eq!(fired(&rules, &facts(device(80_000))), Vec::<String>::new());
        assert_eq!(fired(&rules, &facts(device(91_000))), ["heartbeat-gap"]);
        assert_eq!(fired(&rules, &facts(device(300_000))), ["device-offline"]);
        let revoked = DeviceFacts { expected: false, ..device(300_000) };
        assert_eq!(fired(&rules, &facts(revoked)), Vec::<String>::new());
        let never = DeviceFacts { last_seen: None, ..device(0) };
        assert_eq!(fired(&rules, &facts(never)), Vec::<String>::new());
    }

    #[test]
    fn what_the_control_plane_could_not_hear_neither_fires_nor_ends() {
        let rules = rules(&[RuleKind::DeviceOffline]);
        let restarted = Facts { listening_since: NOW.plus_ms(-MINUTE_MS), ..facts(device(600_000)) };
        let found = evaluate(&rules, &restarted, NOW);
        assert_eq!((found.firing.len(), found.unknown.len()), (0, 1));
        let fingerprint = found.unknown.first().unwrap().clone();
        let active = Active {
            uid: Uuid::from_u128(9),
            fingerprint,
            summary: String::new(),
            severity: Severity::Warning,
        };
        assert_eq!(step(std::slice::from_ref(&active), &found), []);
        // Heard again: over.
        let heard = evaluate(&rules, &facts(device(1_000)), NOW);
        assert_eq!(step(std::slice::from_ref(&active), &heard), [Change::End(active.uid)]);
    }

    #[test]
    fn an_alert_fires_once_goes_on_and_ends_with_its_rule() {
        let mut rules = rules(&[RuleKind::DeviceOffline]);
        let facts = facts(device(400_000));
        let found = evaluate(&rules, &facts, NOW);
        let fired = step(&[], &found);
        let [Change::Fire(firing)] = fired.as_slice() else { panic!("{fired:?}") };
        assert_eq!((firing.location.as_str(), firing.labels["device"].as_str()), ("Riga", "kiosk-7"));
        let active = Active {
            uid: Uuid::from_u128(9),
            fingerprint: firing.fingerprint.clone(),
            summary: firing.summary.clone(),
            severity: firing.severity,
        };
        assert_eq!(step(std::slice::from_ref(&active), &found), []);
        rules[0].1.severity = Severity::Critical;
        let worse = evaluate(&rules, &facts, NOW);
        assert!(
            matches!(&step(std::slice::from_ref(&active), &worse)[..], [Change::Update(_, f)] if f.severity == Severity::Critical)
        );
        rules[0].1.enabled = false;
        assert_eq!(
            step(std::slice::from_ref(&active), &evaluate(&rules, &facts, NOW)),
            [Change::End(active.uid)]
        );
    }

    #[test]
    fn a_disk_is_judged_by_its_pace_and_missing_data_is_unknown() {
        let rules = rules(&[RuleKind::DiskFullSoon]);
        let with = |used, grows| {
            let disk = Some(Disk { used, total: 100.0, grows });
            evaluate(&rules, &facts(DeviceFacts { disk, ..device(0) }), NOW)
        };
        assert_eq!(with(50.0, Some(1.0)), Found::default(), "50 hours are left");
        assert_eq!(with(80.0, Some(1.0)).firing.len(), 1);
        assert_eq!(with(99.0, None).firing.len(), 1);
        assert_eq!(with(50.0, Some(-3.0)), Found::default());
        assert_eq!(with(50.0, None).unknown.len(), 1);
        assert_eq!(evaluate(&rules, &facts(device(0)), NOW).unknown.len(), 1);
    }

    #[test]
    fn incidents_rollouts_certificates_and_backlogs() {
        let rules = rules(RuleKind::ALL);
        let mut all = facts(DeviceFacts {
            certificate_expires_at: Some(NOW.plus_ms(HOUR_MS)),
            gateway_backlog: Some(20_000.0),
            disk: Some(Disk { used: 1.0, total: 100.0, grows: Some(0.0) }),
            ..device(1_000)
        });
        all.incidents.push(IncidentFacts {
            uid: Uuid::from_u128(5),
            name: "inc-1".to_owned(),
            device: Uuid::from_u128(1),
            app: "web".to_owned(),
            cause: IncidentCause::ProcessExit,
            signs: 3,
            message: "it ended with 1".to_owned(),
        });
        let rollout = |stopped: Option<i64>, ended| RolloutFacts {
            uid: Uuid::from_u128(6),
            name: "web-1-1".to_owned(),
            app: "web".to_owned(),
            channel: "prod".to_owned(),
            stopped: stopped.map(|ago| ("halted".to_owned(), NOW.plus_ms(-ago))),
            ended,
        };
        all.rollouts.push(rollout(Some(5 * HOUR_MS), false));
        assert_eq!(
            fired(&rules, &all),
            ["certificate-expiring", "crash-loop", "gateway-backlog", "incident", "rollout-halted"]
        );
        all.rollouts = vec![rollout(Some(5 * HOUR_MS), true)];
        all.incidents[0].signs = 2;
        assert_eq!(fired(&rules, &all), ["certificate-expiring", "gateway-backlog", "incident"]);
    }
}
