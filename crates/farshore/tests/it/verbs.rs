//! The verbs on devices and rollouts against a real control plane and connected virtual devices: what each says, its exit code, and that it took effect.

use std::collections::BTreeMap;

use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_sim::{Behaviours, FleetOptions, Group, VirtualFleet};
use serde_json::Value;

use crate::stage::Stage;

const FLEET: &str = "kind: App\nmetadata: {name: web}\n---\nkind: Channel\nmetadata: {name: prod}\n---\nkind: Placement\nmetadata: {name: web}\nspec: {app: web}\n";

/// A claim token's text, for devices of this label.
async fn token(stage: &Stage, name: &str, uses: u32) -> String {
    let line = format!("token create {name} --uses {uses} --channel prod --label kind={name} -o json");
    let made: Value = serde_json::from_str(&stage.run(&line).await.ok()).unwrap();
    made["status"]["token"].as_str().unwrap().to_owned()
}

fn group(name: &str, count: u32, token: String) -> Group {
    let labels = Labels::new(BTreeMap::from([("kind".to_owned(), name.to_owned())])).unwrap();
    Group { labels, ..Group::new(Name::new(name).unwrap(), count, Some(token)) }
}

fn start(stage: &Stage, groups: Vec<Group>) -> VirtualFleet {
    let folder = stage.path("virtual");
    std::fs::create_dir_all(&folder).unwrap();
    let behaviours =
        Behaviours { stage_ms: (10, 50), start_ms: (10, 50), healthy_ms: (10, 50), ..Behaviours::default() };
    VirtualFleet::start(FleetOptions { behaviours, groups, ..FleetOptions::new(folder) }).unwrap()
}

/// Signs and pushes these versions of `web`.
async fn releases(stage: &Stage, versions: &[&str]) {
    std::fs::create_dir_all(stage.path("app/bin")).unwrap();
    stage.write("app/bin/app", "#!/bin/sh\n");
    stage.run("key generate").await.ok();
    stage.run("key init --key release.key").await.ok();
    stage.run("release pack app").await.ok();
    for version in versions {
        let manifest =
            format!("tenant: default\napp: web\nversion: '{version}'\nrun: {{command: [bin/app]}}\n");
        stage.write("manifest.yaml", &manifest);
        let platform = format!("linux/{}", std::env::consts::ARCH);
        let sign = format!(
            "release sign manifest.yaml --key release.key --artifact {platform}=app.tar.gz --out out-{version}"
        );
        stage.run(&sign).await.ok();
        stage.run(&format!("release push out-{version}")).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_verb_on_a_device_works_and_says_what_is_not_possible() {
    let stage = Stage::new().await;
    stage.write("fleet.yaml", FLEET);
    stage.run("apply -f fleet.yaml").await.ok();
    stage.write(
        "rule.yaml",
        "{kind: ClaimRule, metadata: {name: hold}, spec: {order: 1, action: hold, token: held}}\n---\nkind: ClaimRule\nmetadata: {name: rest}\nspec: {order: 2, action: auto}\n",
    );
    stage.run("apply -f rule.yaml").await.ok();
    releases(&stage, &["1.0"]).await;
    let fleet = start(
        &stage,
        vec![
            group("free", 1, token(&stage, "free", 1).await),
            group("held", 2, token(&stage, "held", 2).await),
        ],
    );
    stage.run("wait device/free-001 --for=online --timeout 50s").await.ok();
    for device in ["held-001", "held-002"] {
        stage.run(&format!("wait device/{device} --for=pending --timeout 50s")).await.ok();
    }

    insta::assert_snapshot!(stage.run("device approve held-001 -m ours").await.ok(), @"device/held-001 approved");
    stage.run("wait device/held-001 --for=online --timeout 50s").await.ok();
    assert_eq!(stage.run("device approve held-001").await.code, 5, "it is in already");
    insta::assert_snapshot!(stage.run("device reject held-002").await.ok(), @"device/held-002 rejected");
    let again = stage.run("device reject held-002").await;
    assert!(matches!(again.code, 3 | 5), "{}", again.stderr);

    insta::assert_snapshot!(stage.run("device cordon held-001 -m broken-door").await.ok(), @"device/held-001 cordoned");
    stage.run("wait device/held-001 --for=cordoned --timeout 10s").await.ok();
    let why = stage.run("explain device/held-001").await.ok();
    assert!(why.contains("cordoned"), "{why}");
    insta::assert_snapshot!(stage.run("device uncordon held-001").await.ok(), @"device/held-001 uncordoned");
    stage.run("wait device/held-001 --for=claimed --timeout 10s").await.ok();

    let nothing_runs = stage.run("device restart-app free-001 --app web").await;
    assert_eq!(nothing_runs.code, 1, "{}", nothing_runs.stderr);
    stage
        .run("rollout create --app web --channel prod --to 1.0 --wave 100%:0s --max-unavailable 100% --watch")
        .await
        .ok();
    stage.run("wait device/free-001 --for=version=web@1.0 --timeout 50s").await.ok();
    let asked = stage.run("device restart-app free-001 --app web").await.ok();
    assert!(asked.starts_with("device/free-001 restart-app: operation/"), "{asked}");
    let queue = stage.run("get operations --field-selector device=free-001,kind=restart-app").await.ok();
    assert!(queue.lines().any(|line| line.contains("free-001") && line.contains("web")), "{queue}");
    let look = stage.run("device drain -l site=nowhere --dry-run").await.ok();
    assert!(look.contains("0 of 0 devices would drain"), "{look}");
    let refused = stage.run("device exec free-001 --command id").await;
    assert_eq!(refused.code, 1, "virtual devices run no commands: {}", refused.stderr);
    assert_eq!(stage.run("device exec free-001").await.code, 2);
    assert_eq!(stage.run("device logs --app web").await.code, 2, "of which device?");
    let described: Value =
        serde_json::from_str(&stage.run("explain device/free-001 -o json").await.ok()).unwrap();
    assert_eq!(described["subject"]["name"], "free-001", "{described:#}");
    assert!(!described["chain"].as_array().unwrap().is_empty(), "{described:#}");

    insta::assert_snapshot!(stage.run("device revoke free-001").await.ok(), @"device/free-001 revoked");
    let described = stage.run("describe device/free-001").await.ok();
    assert!(described.contains("refused for ever"), "{described}");
    for verb in ["approve", "reject", "revoke", "cordon", "uncordon", "restart-app --app web"] {
        let missing = stage.run(&format!("device {verb} nobody")).await;
        assert_eq!(missing.code, 3, "{verb}: {}", missing.stderr);
    }
    assert_eq!(stage.run("explain app/web").await.code, 2);
    assert_eq!(stage.run("explain device/nobody").await.code, 3);
    fleet.stop().await.unwrap();
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_verb_on_a_rollout_works_and_a_release_that_went_back_is_held_back() {
    let stage = Stage::new().await;
    stage.write("fleet.yaml", FLEET);
    stage.run("apply -f fleet.yaml").await.ok();
    releases(&stage, &["1.0", "1.1"]).await;
    let fleet = start(&stage, vec![group("kiosk", 4, token(&stage, "kiosk", 4).await)]);
    for device in 1..=4 {
        stage.run(&format!("wait device/kiosk-00{device} --for=online --timeout 50s")).await.ok();
    }
    let create =
        "rollout create --app web --channel prod --wave 50%:0s --wave 100%:0s --max-unavailable 100%";
    stage.run(&format!("{create} --to 1.0 --no-start")).await.ok();
    insta::assert_snapshot!(stage.run("rollout start web-1-0 -m first").await.ok(), @"rollout/web-1-0 started");
    assert_eq!(stage.run("rollout start web-1-0").await.code, 5);
    stage.run("rollout status web-1-0 -w --timeout 50s").await.ok();

    // Gates that wait for a person hold the second one where the verbs can be tried.
    stage.write(
        "second.yaml",
        "kind: Rollout\nmetadata: {name: second}\nspec: {app: web, channel: prod, release: web@1.1, approval: one-person, maxUnavailable: '100%', waves: [{count: 2, soakSeconds: 0}, {percent: 100, soakSeconds: 0}]}\n",
    );
    let differs = stage.run("diff -f second.yaml").await;
    assert_eq!(differs.code, 1, "{}", differs.stderr);
    assert!(differs.stdout.contains("4 of 4 devices would get other releases"), "{}", differs.stdout);
    assert!(differs.stdout.contains("device/kiosk-001: web 1.0 → 1.1"), "{}", differs.stdout);
    stage.run("apply -f second.yaml").await.ok();
    assert_eq!(stage.run("diff -f second.yaml").await.code, 0);
    insta::assert_snapshot!(stage.run("rollout pause second").await.ok(), @"rollout/second paused");
    assert_eq!(stage.run("rollout pause second").await.code, 5);
    insta::assert_snapshot!(stage.run("rollout resume second").await.ok(), @"rollout/second resumed");
    assert_eq!(stage.run("rollout retry-failed second").await.code, 5, "nothing has failed");
    stage.run("wait rollout/second --for=awaiting-approval --timeout 50s").await.ok();
    let why = stage.run("explain rollout/second").await.ok();
    assert!(why.contains("approv"), "{why}");
    insta::assert_snapshot!(stage.run("rollout approve second -m seen").await.ok(), @"rollout/second approved");
    stage.run("rollout status second -w --timeout 50s").await.ok();
    assert_eq!(stage.run("rollout approve second").await.code, 5);

    // Back to 1.0, rejected half way, and held back from then on.
    stage.write(
        "third.yaml",
        "kind: Rollout\nmetadata: {name: third}\nspec: {app: web, channel: prod, release: web@1.0, approval: one-person, maxUnavailable: '100%', waves: [{count: 2, soakSeconds: 0}, {percent: 100, soakSeconds: 0}]}\n",
    );
    stage.run("apply -f third.yaml").await.ok();
    stage.run("wait rollout/third --for=awaiting-approval --timeout 50s").await.ok();
    insta::assert_snapshot!(stage.run("rollout reject third -m no").await.ok(), @"rollout/third rejected");
    let ended = stage.run("rollout status third -w --timeout 50s").await;
    assert_eq!(ended.code, 6, "{}", ended.stderr);
    assert_eq!(stage.run("diff -f third.yaml").await.code, 0, "applying it again changes nothing");
    let again = stage.run(&format!("{create} --to 1.0 --name fourth")).await;
    assert_eq!((again.code, again.stderr.contains("held back")), (5, true), "{}", again.stderr);
    insta::assert_snapshot!(stage.run("rollout release-hold third -m fixed").await.ok(), @"rollout/third no longer holds its release back");
    assert_eq!(stage.run("rollout release-hold third").await.code, 5);

    stage.run(&format!("{create} --to 1.0 --name fourth --no-start")).await.ok();
    insta::assert_snapshot!(stage.run("rollout abort fourth").await.ok(), @"rollout/fourth aborted");
    assert_eq!(stage.run("rollout rollback fourth").await.code, 5);
    assert_eq!(stage.run("rollout skip-wave fourth").await.code, 5);
    for verb in [
        "start",
        "pause",
        "resume",
        "approve",
        "reject",
        "skip-wave",
        "retry-failed",
        "abort",
        "rollback",
        "release-hold",
    ] {
        let missing = stage.run(&format!("rollout {verb} nothing")).await;
        assert_eq!(missing.code, 3, "{verb}: {}", missing.stderr);
    }
    fleet.stop().await.unwrap();
    stage.stop().await;
}
