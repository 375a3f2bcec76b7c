//! One rule broken on purpose, from outside: the engine is given another plan, sees another world, or does something else than it decided.
//! The oracle, which knows the true plan and world, must notice each. `cargo xtask mutants` breaks rules in the engine's source instead.

use farshore_domain::device::{AppPhase, Lifecycle, Reachability};
use farshore_domain::id::PermitId;
use farshore_domain::rollout::{Action, Decision, DeviceView, FleetView, Rollout};
use farshore_domain::time::UnixMs;
use serde_json::{Value, json};
use uuid::Uuid;

use super::run_once;
use crate::fleet::release;

#[derive(Clone, Copy, Debug)]
pub(super) struct Tamper {
    name: &'static str,
    /// The plan that the engine is given.
    pub(super) spec: fn(&mut Value),
    /// The world that the engine sees.
    pub(super) view: fn(&mut FleetView, UnixMs),
    /// What becomes of its decision.
    pub(super) decision: fn(&mut Decision, &Rollout, UnixMs),
}

const fn named(name: &'static str) -> Tamper {
    Tamper { name, spec: |_| {}, view: |_, _| {}, decision: |_, _, _| {} }
}

const fn plan(name: &'static str, spec: fn(&mut Value)) -> Tamper {
    Tamper { spec, ..named(name) }
}

const fn world(name: &'static str, view: fn(&mut FleetView, UnixMs)) -> Tamper {
    Tamper { view, ..named(name) }
}

const fn deed(name: &'static str, decision: fn(&mut Decision, &Rollout, UnixMs)) -> Tamper {
    Tamper { decision, ..named(name) }
}

fn each(view: &mut FleetView, mut change: impl FnMut(&mut DeviceView)) {
    let ids: Vec<_> = view.iter().map(|known| known.id).collect();
    for id in ids {
        if let Some(known) = view.get_mut(id) {
            change(known);
        }
    }
}

fn has_new(known: &mut DeviceView) {
    known.app.active = Some(release(1).uid);
    known.app.committed = true;
    known.app.phase = AppPhase::Running;
}

const TAMPERS: [Tamper; 23] = [
    plan("ignore the budget", |spec| spec["maxUnavailable"] = "100%".into()),
    plan("ignore the budgets of groups", |spec| spec["groupBy"] = json!([])),
    plan("open gates before the soak is over", |spec| {
        spec["waves"].as_array_mut().unwrap().iter_mut().for_each(|wave| wave["soakSeconds"] = 0.into());
    }),
    plan("open gates without approval", |spec| spec["approval"] = "automatic".into()),
    plan("take one person for two", |spec| {
        if spec["approval"] == "two-people" {
            spec["approval"] = "one-person".into();
        }
    }),
    plan("open gates with too few reports", |spec| {
        spec.as_object_mut().unwrap().remove("minReports");
    }),
    plan("halt at another threshold", |spec| spec["failureThreshold"] = 100.into()),
    plan("start at full speed", |spec| spec["slowStart"] = false.into()),
    plan("issue permits for longer", |spec| spec["permitSeconds"] = spec["deviceTimeoutSeconds"].clone()),
    plan("put everybody into one wave", |spec| {
        spec["waves"] = json!([{"percent": 100, "soakSeconds": 0}]);
    }),
    plan("call devices stuck too early", |spec| {
        spec["deviceTimeoutSeconds"] = spec["permitSeconds"].clone();
    }),
    world("count the unreachable as successes", |view, _| {
        each(view, |known| {
            if !known.is_online() {
                has_new(known);
            }
        });
    }),
    world("count missing reports as failures", |view, _| {
        each(view, |known| {
            if !known.is_online() {
                known.app.active = Some(release(1).uid);
                known.app.phase = AppPhase::Failing;
            }
        });
    }),
    world("wait for no one who falls silent", |view, _| {
        each(view, |known| {
            if !known.is_online() {
                known.reachability = Reachability::Offline;
            }
        });
    }),
    world("give permits to those out of reach", |view, now| {
        each(view, |known| {
            known.reachability = Reachability::Online;
            known.last_seen = Some(now);
        });
    }),
    world("ignore pins", |view, _| each(view, |known| known.pinned = false)),
    world("ignore cordons", |view, _| each(view, |known| known.lifecycle = Lifecycle::Claimed)),
    world("ignore what others keep down", |view, _| each(view, |known| known.busy_until = None)),
    world("take a trial for a success", |view, _| {
        each(view, |known| {
            if known.is_trying(release(1).uid) {
                has_new(known);
            }
        });
    }),
    world("overhear failures", |view, _| each(view, |known| known.app.failed_release = None)),
    deed("forget to take permits back", |decision, _, _| {
        decision.actions.retain(|action| !matches!(action, Action::RevokePermit { .. }));
    }),
    deed("issue one permit twice", |decision, _, _| {
        for action in &mut decision.actions {
            if let Action::Permit { permit, .. } = action {
                *permit = PermitId(Uuid::nil());
            }
        }
    }),
    deed("move the pointer with the first report", |decision, before, _| {
        let spec = before.spec();
        let first = before.current_wave() == 0 && !before.phase().is_final() && before.waves().len() > 1;
        if first && decision.actions.iter().any(|action| matches!(action, Action::Permit { .. })) {
            decision.actions.push(Action::MovePointer {
                channel: spec.channel.clone(),
                app: spec.app.clone(),
                release: before.to().uid,
            });
        }
    }),
];

/// So many histories notice each; most are noticed in a few.
const HISTORIES: u32 = 3_000;

#[test]
fn each_rule_that_is_broken_is_noticed() {
    let mut survived = Vec::new();
    for tamper in TAMPERS {
        match run_once(HISTORIES, 5, tamper) {
            Some((histories, why)) => {
                let why: String = why.chars().take(90).collect();
                println!("{}: in history {histories}: {why}", tamper.name);
                assert!(!why.starts_with("a generated spec is valid"), "{}: {why}", tamper.name);
            }
            None => survived.push(tamper.name),
        }
    }
    assert!(survived.is_empty(), "nobody noticed: {survived:?}");
}

#[derive(serde::Deserialize)]
struct Mutant {
    name: String,
    file: String,
    find: String,
    replace: String,
}

/// `cargo xtask mutants` runs them; that takes minutes. Here only: none is forgotten when the engine changes.
#[test]
fn each_mutant_fits_the_source_in_one_place() {
    let list: Vec<Mutant> = serde_json::from_str(include_str!("../mutants.json")).unwrap();
    assert!(list.len() >= 15);
    for mutant in list {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/rollout").join(&mutant.file);
        let source = std::fs::read_to_string(file).unwrap();
        assert_eq!(source.matches(&mutant.find).count(), 1, "{}: {}", mutant.file, mutant.name);
        assert_ne!(mutant.find, mutant.replace, "{}", mutant.name);
    }
}
