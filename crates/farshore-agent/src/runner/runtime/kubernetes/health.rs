//! How an object is, from what the cluster says of it in `status`.

use serde_json::Value;

/// How an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// It does its work.
    Ready,
    /// Not yet, or not now, and why.
    Waiting(String),
    /// It will not by itself.
    Failed(String),
}

use Condition::{Failed, Ready, Waiting};

fn number(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

/// The condition of this type: whether it is true, its reason and its message.
fn condition<'a>(object: &'a Value, kind: &str) -> Option<(bool, &'a str, String)> {
    let all = object.pointer("/status/conditions")?.as_array()?;
    let one = all.iter().find(|one| one["type"] == kind)?;
    let word = |name: &str| one.get(name).and_then(Value::as_str).unwrap_or_default();
    let (reason, message) = (word("reason"), word("message"));
    let said = if message.is_empty() { reason } else { message };
    Some((word("status") == "True", reason, said.chars().take(300).collect()))
}

/// The controller has seen what was applied last.
fn is_seen(object: &Value) -> bool {
    let generation = number(object, "/metadata/generation").unwrap_or(0);
    number(object, "/status/observedGeneration").unwrap_or(0) >= generation
}

fn counted(ready: i64, wanted: i64, what: &str) -> Condition {
    if ready >= wanted { Ready } else { Waiting(format!("{ready} of {wanted} {what}")) }
}

/// Judges an object as the cluster shows it.
pub(super) fn of(object: &Value) -> Condition {
    let kind = object["kind"].as_str().unwrap_or_default();
    let group =
        object["apiVersion"].as_str().and_then(|version| version.split_once('/')).map(|(group, _)| group);
    match (group, kind) {
        (Some("apps"), "Deployment") => deployment(object),
        (Some("apps"), "StatefulSet" | "ReplicaSet") => {
            let wanted = number(object, "/spec/replicas").unwrap_or(1);
            if !is_seen(object) {
                return Waiting("the cluster has not seen it yet".to_owned());
            }
            match number(object, "/status/updatedReplicas") {
                Some(updated) if updated < wanted => counted(updated, wanted, "updated"),
                _ => counted(number(object, "/status/readyReplicas").unwrap_or(0), wanted, "ready"),
            }
        }
        (Some("apps"), "DaemonSet") => {
            if !is_seen(object) {
                return Waiting("the cluster has not seen it yet".to_owned());
            }
            let wanted = number(object, "/status/desiredNumberScheduled").unwrap_or(0);
            let updated = number(object, "/status/updatedNumberScheduled").unwrap_or(0);
            if updated < wanted {
                return counted(updated, wanted, "updated");
            }
            counted(number(object, "/status/numberReady").unwrap_or(0), wanted, "ready")
        }
        (Some("batch"), "Job") => match (condition(object, "Failed"), condition(object, "Complete")) {
            (Some((true, _, said)), _) => Failed(said),
            (_, Some((true, ..))) => Ready,
            _ => Waiting("it has not completed".to_owned()),
        },
        (None, "Pod") => match object.pointer("/status/phase").and_then(Value::as_str) {
            Some("Succeeded") => Ready,
            Some("Failed") => Failed(
                object.pointer("/status/message").and_then(Value::as_str).unwrap_or("it failed").to_owned(),
            ),
            _ => generic(object, &["Ready"]),
        },
        (None, "PersistentVolumeClaim") => match object.pointer("/status/phase").and_then(Value::as_str) {
            Some("Lost") => Failed("its volume is lost".to_owned()),
            // Some are bound only when a pod wants them.
            _ => Ready,
        },
        _ => generic(object, &["Ready", "Available", "Established"]),
    }
}

fn deployment(object: &Value) -> Condition {
    if !is_seen(object) {
        return Waiting("the cluster has not seen it yet".to_owned());
    }
    if let Some((false, "ProgressDeadlineExceeded", said)) = condition(object, "Progressing") {
        return Failed(said);
    }
    if let Some((true, _, said)) = condition(object, "ReplicaFailure") {
        return Waiting(said);
    }
    let wanted = number(object, "/spec/replicas").unwrap_or(1);
    let count = |name: &str| number(object, &format!("/status/{name}")).unwrap_or(0);
    if count("updatedReplicas") < wanted {
        return counted(count("updatedReplicas"), wanted, "updated");
    }
    if count("replicas") > count("updatedReplicas") {
        return Waiting(format!("{} old ones are still there", count("replicas") - count("updatedReplicas")));
    }
    counted(count("availableReplicas"), wanted, "available")
}

/// What says nothing of itself is ready as soon as it is there.
fn generic(object: &Value, kinds: &[&str]) -> Condition {
    if let Some((true, _, said)) = condition(object, "Stalled") {
        return Failed(said);
    }
    if number(object, "/status/observedGeneration").is_some() && !is_seen(object) {
        return Waiting("the cluster has not seen it yet".to_owned());
    }
    match kinds.iter().find_map(|kind| condition(object, kind)) {
        Some((false, _, said)) => Waiting(said),
        _ => Ready,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(status: Value) -> Condition {
        of(
            &json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"generation": 2}, "spec": {"replicas": 2},
            "status": status}),
        )
    }

    #[test]
    fn a_deployment_is_ready_when_all_of_the_new_ones_are_available_and_no_old_one_is_left() {
        let seen = |extra: Value| {
            let mut status =
                json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2});
            for (key, value) in extra.as_object().unwrap() {
                status[key] = value.clone();
            }
            deployment(status)
        };
        assert_eq!(seen(json!({})), Ready);
        assert!(matches!(seen(json!({"observedGeneration": 1})), Waiting(_)));
        assert_eq!(seen(json!({"updatedReplicas": 1})), Waiting("1 of 2 updated".to_owned()));
        assert_eq!(seen(json!({"availableReplicas": 0})), Waiting("0 of 2 available".to_owned()));
        assert!(matches!(seen(json!({"replicas": 3})), Waiting(_)));
        let late = json!({"conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out"}]});
        assert_eq!(seen(late), Failed("timed out".to_owned()));
        assert!(matches!(deployment(json!({})), Waiting(_)));
    }

    #[test]
    fn other_kinds_say_it_in_their_own_words() {
        let job = |kind: &str| {
            of(
                &json!({"apiVersion": "batch/v1", "kind": "Job", "status": {"conditions": [{"type": kind, "status": "True", "message": "m"}]}}),
            )
        };
        assert_eq!((job("Complete"), job("Failed")), (Ready, Failed("m".to_owned())));
        assert!(matches!(of(&json!({"apiVersion": "batch/v1", "kind": "Job"})), Waiting(_)));
        let set = |updated: i64, ready: i64| {
            of(&json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": {"replicas": 1},
                "status": {"updatedReplicas": updated, "readyReplicas": ready}}))
        };
        assert_eq!(set(1, 1), Ready);
        assert!(matches!((set(0, 1), set(1, 0)), (Waiting(_), Waiting(_))));
        let every = |ready: i64| {
            of(&json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
                "status": {"desiredNumberScheduled": 1, "updatedNumberScheduled": 1, "numberReady": ready}}))
        };
        assert_eq!((every(1), every(0)), (Ready, Waiting("0 of 1 ready".to_owned())));
        assert_eq!(of(&json!({"apiVersion": "v1", "kind": "ConfigMap"})), Ready);
        let own = |status: &str| {
            of(&json!({"apiVersion": "example.com/v1", "kind": "Thing",
                "status": {"conditions": [{"type": "Ready", "status": status, "reason": "Because"}]}}))
        };
        assert_eq!((own("True"), own("False")), (Ready, Waiting("Because".to_owned())));
        let stalled = json!({"kind": "Thing", "apiVersion": "a/v1", "status": {"conditions": [{"type": "Stalled", "status": "True", "message": "no"}]}});
        assert_eq!(of(&stalled), Failed("no".to_owned()));
        assert_eq!(
            of(
                &json!({"apiVersion": "v1", "kind": "Pod", "status": {"phase": "Failed", "message": "Evicted"}})
            ),
            Failed("Evicted".to_owned())
        );
        assert_eq!(of(&json!({"status": {"conditions": 7}})), Ready);
    }
}
