//! Rollouts without devices: what the verbs say, and the exit code of one that did not succeed.

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_is_made_and_aborted_and_its_status_is_an_exit_code() {
    let stage = Stage::new().await;
    std::fs::create_dir_all(stage.path("app/bin")).unwrap();
    stage.write("app/bin/app", "#!/bin/sh\n");
    stage.write("manifest.yaml", "tenant: default\napp: web\nversion: '1.0'\nrun: {command: [bin/app]}\n");
    stage.write("fleet.yaml", "kind: App\nmetadata: {name: web}\n---\nkind: Channel\nmetadata: {name: prod}\n---\nkind: Placement\nmetadata: {name: web}\nspec: {app: web}\n");
    for line in [
        "apply -f fleet.yaml",
        "release pack app",
        "key generate",
        "key init --key release.key",
        "release sign manifest.yaml --key release.key --artifact linux/x86_64=app.tar.gz",
        "release push out",
    ] {
        stage.run(line).await.ok();
    }
    let bad = stage.run("rollout create --app web --channel prod --to 1.0 --wave 50% --wave 20%").await;
    assert_eq!((bad.code, bad.stderr.contains("waves[1].percent")), (2, true), "{}", bad.stderr);
    let missing = stage.run("rollout create --app web --channel prod --to 9.9").await;
    assert_eq!(missing.code, 1, "{}", missing.stderr);
    let create = "rollout create --app web --channel prod --to 1.0 --wave 10%:0s --wave 100%:0s --no-start";
    insta::assert_snapshot!(stage.run(create).await.ok(), @"rollout/web-1-0 created");
    let twice = stage.run(create).await;
    assert_eq!(twice.code, 5, "{}", twice.stderr);
    assert_eq!(stage.run("rollout status web-1-0").await.code, 0, "one that goes on is no failure");
    assert_eq!(stage.run("rollout resume web-1-0").await.code, 5);
    insta::assert_snapshot!(stage.run("rollout abort web-1-0 -m wrong").await.ok(), @"rollout/web-1-0 aborted");
    let status = stage.run("rollout status web-1-0").await;
    assert_eq!(status.code, 6, "{}", status.stderr);
    let watched = stage.run("rollout status web-1-0 --watch").await;
    assert_eq!(watched.code, 6, "{}", watched.stderr);
    assert_eq!(stage.run("wait rollout/web-1-0 --for=succeeded").await.code, 6);
    assert_eq!(stage.run("wait rollout/web-1-0 --for=done").await.code, 0);
    let described = stage.run("describe rollout/web-1-0").await.ok();
    assert!(described.contains("aborted by") && described.contains("\"wrong\""), "{described}");
    stage.stop().await;
}
