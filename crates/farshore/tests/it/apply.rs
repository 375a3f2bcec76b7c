//! `apply` and `delete`.

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_twice_is_unchanged_and_what_differs_is_configured() {
    let stage = Stage::new().await;
    let app = |text: &str| format!("kind: App\nmetadata: {{name: web}}\nspec: {{description: '{text}'}}\n");
    stage.write("app.yaml", &app("one"));
    insta::assert_snapshot!(stage.run("apply -f app.yaml").await.ok(), @"app/web created");
    insta::assert_snapshot!(stage.run("apply -f app.yaml").await.ok(), @"app/web unchanged");
    insta::assert_snapshot!(stage.input(&app("two"), &["apply", "-f", "-"]).await.ok(), @"app/web configured");
    // What get prints can be applied as it is; an old copy of it is a conflict, not a step back.
    let shown = stage.run("get app web -o yaml").await.ok();
    insta::assert_snapshot!(stage.input(&shown, &["apply", "-f", "-"]).await.ok(), @"app/web unchanged");
    stage.run("apply -f app.yaml").await.ok();
    let old = stage.input(&shown, &["apply", "-f", "-"]).await;
    assert_eq!(old.code, 5, "{}", old.stderr);
    insta::assert_snapshot!(stage.run("delete -f app.yaml").await.ok(), @"app/web deleted");
    assert_eq!(stage.run("delete -f app.yaml").await.code, 3);
    stage.run("delete app/web --ignore-not-found").await.ok();
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_when_one_document_is_wrong() {
    let stage = Stage::new().await;
    std::fs::create_dir(stage.path("fleet")).unwrap();
    stage.write("fleet/a.yaml", "kind: App\nmetadata: {name: web}\n");
    stage.write("fleet/b.yaml", "kind: Placement\nmetadata: {name: p}\nspec: {app: web, selektor: x}\n---\nkind: Chanel\nmetadata: {name: c}\n");
    let refused = stage.run("apply -f fleet").await;
    assert_eq!(refused.code, 2);
    insta::assert_snapshot!(refused.stderr, @r#"
    error: nothing was sent, because not every document is valid: fleet/b.yaml, document 1: spec.selektor: unknown field `selektor`, expected `app` or `selector`
      because: fleet/b.yaml, document 2: there is no kind "Chanel"; did you mean "Channel"?
    "#);
    assert_eq!(stage.run("get apps -o name").await.ok(), "");
    stage.write("fleet/b.yaml", "kind: Placement\nmetadata: {name: p}\nspec: {app: web}\n");
    insta::assert_snapshot!(stage.run("apply -f fleet --dry-run=client").await.ok(), @r#"
    app/web valid (dry run)
    placement/p valid (dry run)
    "#);
    assert_eq!(stage.run("get apps -o name").await.ok(), "");
    insta::assert_snapshot!(stage.run("apply -f fleet").await.ok(), @r#"
    app/web created
    placement/p created
    "#);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_can_not_be_changed_and_a_device_not_be_made() {
    let stage = Stage::new().await;
    let token = |uses: u32| format!("kind: ClaimToken\nmetadata: {{name: t}}\nspec: {{uses: {uses}}}\n");
    let made = stage.input(&token(1), &["apply", "-f", "-"]).await;
    assert!(made.stderr.contains("token (shown once): fsct_"), "{}", made.stderr);
    let changed = stage.input(&token(2), &["apply", "-f", "-"]).await;
    assert_eq!(changed.code, 5, "{}", changed.stderr);
    let device = stage
        .input("kind: Device\nmetadata: {name: d}\nspec: {channel: prod}\n", &["apply", "-f", "-"])
        .await;
    assert_eq!(
        (device.code, device.stderr.contains("farshore token create")),
        (3, true),
        "{}",
        device.stderr
    );
    stage.stop().await;
}
