use serde_json::{Value, json};

use super::*;
use crate::label::Labels;
use crate::schedule::{Shut, WindowKind};

fn spec(value: Value) -> PolicySpec {
    serde_json::from_value(value).expect("a policy")
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn refused(rules: Value) -> PolicyError {
    spec(json!({"rules": rules})).check().expect_err("refused")
}

#[test]
fn each_value_comes_from_the_policy_that_ranks_highest_for_it() {
    let base = spec(
        json!({"rules": {"restart": {"maxRestarts": 5, "backoffMs": 500}, "operations": {"exec": false}}}),
    );
    let kiosks = spec(json!({"selector": "kind=kiosk", "rules": {"restart": {"maxRestarts": 3}}}));
    let store =
        spec(json!({"selector": "kind=kiosk,site=riga", "rules": {"restart": {"windowSeconds": 60}}}));
    let law = spec(json!({"priority": 10, "rules": {"operations": {"exec": true}}}));
    let others =
        spec(json!({"selector": "kind=till", "priority": 99, "rules": {"restart": {"maxRestarts": 1}}}));
    let names = ["base", "kiosks", "store", "law", "others"].map(name);
    let all = [&base, &kiosks, &store, &law, &others];
    let bound = || {
        names.iter().zip(all).enumerate().map(|(at, (name, spec))| Bound {
            name,
            version: i64::try_from(at).expect("small"),
            spec,
        })
    };
    let labels = Labels::try_from([("kind", "kiosk"), ("site", "riga")]).expect("labels");
    let outcome = effective(bound(), &labels).expect("merges");
    assert_eq!(
        outcome.rules,
        spec(json!({"rules": {
            "restart": {"maxRestarts": 3, "backoffMs": 500, "windowSeconds": 60}, "operations": {"exec": true}
        }}))
        .rules
    );
    let from = |path: &str| outcome.provenance.get(path).map(|p| (p.policy.as_str(), p.version));
    assert_eq!(from("restart.maxRestarts"), Some(("kiosks", 1)));
    assert_eq!(from("restart.backoffMs"), Some(("base", 0)));
    assert_eq!(from("restart.windowSeconds"), Some(("store", 2)));
    assert_eq!(from("operations.exec"), Some(("law", 3)));
    assert_eq!(from("rollback.to"), None);
    let order: Vec<_> = outcome.policies.iter().map(|p| p.policy.as_str()).collect();
    assert_eq!(order, ["law", "store", "kiosks", "base"]);
    // The order in which they are read makes no difference.
    let mut reversed: Vec<_> = bound().collect();
    reversed.reverse();
    assert_eq!(effective(reversed, &labels).expect("merges"), outcome);
}

#[test]
fn equals_are_decided_by_the_name_that_sorts_last() {
    let (a, b) = (
        spec(json!({"rules": {"restart": {"maxRestarts": 1}}})),
        spec(json!({"rules": {"restart": {"maxRestarts": 2}}})),
    );
    let (first, last) = (name("a"), name("b"));
    let bound = [Bound { name: &first, version: 1, spec: &a }, Bound { name: &last, version: 1, spec: &b }];
    let outcome = effective(bound, &Labels::default()).expect("merges");
    assert_eq!(outcome.rules.restart.max_restarts, Some(2));
}

#[test]
fn a_list_is_one_value() {
    let condition = |name: &str| json!({"name": name, "when": "metric(\"cpu\") > 0.9"});
    let low = spec(json!({"rules": {"health": {"conditions": [condition("a"), condition("b")]}}}));
    let high = spec(json!({"priority": 1, "rules": {"health": {"conditions": [condition("c")]}}}));
    let (one, two) = (name("low"), name("high"));
    let bound = [Bound { name: &one, version: 1, spec: &low }, Bound { name: &two, version: 1, spec: &high }];
    let outcome = effective(bound, &Labels::default()).expect("merges");
    let names: Vec<_> = outcome.rules.health.conditions.iter().flatten().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["c"]);
}

#[test]
fn errors_name_the_field_and_the_fix() {
    let condition = |when: &str| json!({"health": {"conditions": [{"name": "a", "when": when}]}});
    for (rules, field, what) in [
        (json!({}), "spec.rules", "at least one value"),
        (json!({"restart": {"backoffMs": 1}}), "spec.rules.restart.backoffMs", "10 to 3600000"),
        (
            json!({"restart": {"backoffMs": 5000, "maxBackoffMs": 1000}}),
            "spec.rules.restart.maxBackoffMs",
            "at least backoffMs",
        ),
        (
            json!({"restart": {"maxRestarts": 3}, "rollback": {"afterRestarts": 5}}),
            "spec.rules.rollback.afterRestarts",
            "never be reached",
        ),
        (json!({"rollback": {"to": "next"}}), "spec.rules.rollback.to", "previous or safe-mode"),
        (
            json!({"rollback": {"to": "safe-mode", "safeMode": []}}),
            "spec.rules.rollback.safeMode",
            "no release",
        ),
        (json!({"reporting": {"sampleSeconds": 0}}), "spec.rules.reporting.sampleSeconds", "1 to 3600"),
        (
            json!({"reporting": {"sampleSeconds": 60, "batchSeconds": 30}}),
            "spec.rules.reporting.batchSeconds",
            "at least sampleSeconds",
        ),
        (condition("metric(\"cpus\") > 1"), "spec.rules.health.conditions[0].when", "did you mean \"cpu\"?"),
        (condition("app.up"), "spec.rules.health.conditions[0].when", "unknown name \"app.up\""),
        (
            json!({"operations": {"runbooks": [{"name": "a", "command": ["/a"]}, {"name": "a", "command": ["/b"]}]}}),
            "spec.rules.operations.runbooks",
            "names a twice",
        ),
        (
            json!({"operations": {"runbooks": [{"name": "a", "command": ["sh"]}]}}),
            "spec.rules.operations.runbooks[0].command",
            "absolute path",
        ),
        (
            json!({"operations": {"runbooks": [{"name": "a", "command": ["/a"], "timeoutSeconds": 0}]}}),
            "spec.rules.operations.runbooks[0].timeoutSeconds",
            "1 to 3600",
        ),
        (
            json!({"schedule": {"windows": [{"kind": "maintenance", "cron": "0 2 30 2 *", "durationSeconds": 600}]}}),
            "spec.rules.schedule.windows[0].cron",
            "does not open",
        ),
        (
            json!({"schedule": {"energy": "off-hours"}}),
            "spec.rules.schedule.energy",
            "windows of the same policy",
        ),
        (
            json!({"schedule": {"blackouts": [{"from": "2026-12-24", "to": "2026-12-23"}]}}),
            "spec.rules.schedule.blackouts[0].to",
            "last day",
        ),
        (json!({"retention": {"releases": 0}}), "spec.rules.retention.releases", "needs that release"),
        (json!({"retention": {"logSeconds": 60}}), "spec.rules.retention.logSeconds", "as evidence"),
        (
            json!({"retention": {"unsentSeconds": 900}, "reporting": {"batchSeconds": 900}}),
            "spec.rules.retention.unsentSeconds",
            "more than reporting.batchSeconds",
        ),
        (json!({"retention": {"logBytes": 0}}), "spec.rules.retention.logBytes", "16384 to"),
        (json!({"resources": {"memoryBytes": 0}}), "spec.rules.resources.memoryBytes", "1048576 to"),
        (json!({"resources": {"processes": 0}}), "spec.rules.resources.processes", "1 to"),
        (
            json!({"restart": {"recreateAfter": 3}, "rollback": {"afterRestarts": 3}}),
            "spec.rules.restart.recreateAfter",
            "never be reached: rollback.afterRestarts",
        ),
    ] {
        let error = refused(rules.clone());
        assert_eq!(error.field, field, "{rules}");
        assert!(error.what.contains(what), "{rules}: {error}");
    }
    let unknown = serde_json::from_value::<PolicySpec>(json!({"rules": {"restrat": {}}}));
    assert!(unknown.expect_err("refused").to_string().contains("restrat"));
}

#[test]
fn what_nobody_says_is_allowed_only_where_it_does_no_harm() {
    let rules = OperationRules::default();
    assert!(rules.allow(RemoteOperation::Logs) && rules.allow(RemoteOperation::Restart));
    assert!(!rules.allow(RemoteOperation::Exec) && !rules.allow(RemoteOperation::Reboot));
    // One does not allow the other, whichever is said.
    for (said, beside, inside) in
        [(json!({"exec": true}), true, false), (json!({"execInside": true}), false, true)]
    {
        let rules: OperationRules = serde_json::from_value(said).expect("rules");
        assert_eq!(
            (rules.allow(RemoteOperation::Exec), rules.allow(RemoteOperation::ExecInside)),
            (beside, inside)
        );
    }
    let flush: Runbook =
        serde_json::from_value(json!({"name": "flush", "command": ["/bin/flush"]})).expect("a runbook");
    let rules = OperationRules { runbooks: Some(vec![flush]), ..OperationRules::default() };
    assert!(rules.allow(RemoteOperation::Runbook("flush")) && !rules.allow(RemoteOperation::Runbook("wipe")));
}

#[test]
fn a_policy_can_only_lower_the_limits_of_a_release() {
    let bounds =
        spec(json!({"rules": {"resources": {"memoryBytes": 2_097_152, "cpuMillis": 500}}})).rules.bounds();
    let own = Limits { memory_bytes: Some(1 << 20), cpu_millis: Some(900), processes: Some(7) };
    let expected = Limits { memory_bytes: Some(1 << 20), cpu_millis: Some(500), processes: Some(7) };
    assert_eq!(bounds.limits(&own), expected);
    assert!(Bounds::default().is_empty() && !bounds.is_empty());
}

#[test]
fn an_older_agent_is_not_sent_what_it_does_not_know() {
    let old = json!({"restart": {"maxRestarts": 4}, "retention": {"logBytes": 65536, "logFiles": 2}});
    let mut new = old.clone();
    new["restart"]["recreateAfter"] = json!(2);
    new["rollback"] = json!({"reboot": true});
    new["retention"]["releases"] = json!(3);
    new["retention"]["logSeconds"] = json!(86400);
    new["schedule"] = json!({"blackouts": [{"from": "2026-12-24", "to": "2026-12-26"}]});
    let (old, new) = (spec(json!({"rules": old})).rules, spec(json!({"rules": new})).rules);
    assert_eq!((new.capability(), old.capability()), (POLICY_CAPABILITY_2, POLICY_CAPABILITY));
    assert_eq!(new.without_v2(), old);
    // The very words that the first version knew.
    let sent = serde_json::to_value(new.without_v2()).expect("JSON");
    let names: Vec<_> = sent.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(names, ["health", "operations", "reporting", "resources", "restart", "retention", "rollback"]);
    // The runner is told what concerns it, and a runner of the first version understands what it always was told.
    assert_eq!(new.bounds().retention.log_seconds, Some(86400));
    assert_eq!(
        serde_json::to_value(old.bounds().retention).expect("JSON"),
        json!({"logBytes": 65536, "logFiles": 2})
    );
    let inside = json!({"exec": true, "execInside": true, "runbooks": [
        {"name": "a", "command": ["/a"]}, {"name": "b", "command": ["/b"], "app": "web"},
    ]});
    let inside: OperationRules = serde_json::from_value(inside).expect("rules");
    let told = |words: &[&str]| inside.clone().inside_for(|word| words.contains(&word));
    assert_eq!(told(&["exec-inside/v1", "exec-inside/v2"]), inside);
    let mut before = inside.clone();
    before.exec_inside = None;
    assert_eq!(told(&["exec-inside/v1"]), before);
    before.runbooks.iter_mut().for_each(|runbooks| runbooks.truncate(1));
    assert_eq!(told(&[]), before);
    let mut newest = new.clone();
    newest.isolation =
        serde_json::from_value(json!({"pid": "private", "seccomp": "default"})).expect("isolation");
    assert_eq!((newest.capability(), newest.without_v3()), (POLICY_CAPABILITY_3, new));
    assert_eq!((newest.bounds().isolation, newest.without_v2()), (newest.isolation, old));
}

#[test]
fn cheap_hours_go_with_the_windows_that_say_when_they_are() {
    let night = json!({"kind": "energy", "cron": "0 1 * * *", "durationSeconds": 3600});
    let low = spec(json!({"rules": {"schedule": {"windows": [night], "energy": "off-hours"}}}));
    let day = json!({"kind": "maintenance", "cron": "0 9 * * *", "durationSeconds": 3600});
    let high = spec(json!({"priority": 1, "rules": {"schedule": {"windows": [day]}}}));
    let freeze = spec(
        json!({"priority": 2, "rules": {"schedule": {"blackouts": [{"from": "2026-12-24", "to": "2026-12-26"}]}}}),
    );
    let names = ["low", "high", "freeze"].map(name);
    let bound =
        || names.iter().zip([&low, &high, &freeze]).map(|(name, spec)| Bound { name, version: 1, spec });
    let outcome = effective(bound(), &Labels::default()).expect("merges");
    assert_eq!(outcome.rules.schedule.energy, None, "it would never open");
    let hours = DeviceHours::of(&outcome).expect("windows");
    let whose = |shut| hours.whose(shut).map(Name::as_str);
    assert_eq!(whose(Shut::Blackout), Some("freeze"));
    assert_eq!(whose(Shut::Window(WindowKind::Maintenance)), Some("high"));
    let outcome = effective(bound().take(1), &Labels::default()).expect("merges");
    assert!(outcome.rules.schedule.energy.is_some());
    assert!(DeviceHours::of(&effective([], &Labels::default()).expect("merges")).is_none());
}
