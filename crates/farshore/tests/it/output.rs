//! What is printed: tables for people, the API's own shape for programs.

use crate::stage::Stage;

const FLEET: &str = "\
kind: Channel
metadata: {name: prod}
spec: {description: Every shop}
---
kind: App
metadata: {name: edge-web, labels: {team: shop}}
---
kind: Placement
metadata: {name: web}
spec: {app: edge-web, selector: 'kind in (kiosk,till),!spare'}
---
kind: Config
metadata: {name: greeting}
spec: {app: edge-web, values: {GREETING: Welcome}}
";

async fn stage() -> Stage {
    let stage = Stage::new().await;
    stage.write("fleet.yaml", FLEET);
    stage.run("apply -f fleet.yaml").await.ok();
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_not_truncated_and_carry_no_colour_when_piped() {
    let stage = stage().await;
    let table = stage.run("get placements,configs -o wide").await.ok();
    insta::assert_snapshot!(stage.plain(&table), @r#"
    NAME   APP        SELECTOR                      AGE   LABELS   MANAGED BY
    web    edge-web   kind in (kiosk,till),!spare   0s    -        api

    NAME       APP        SELECTOR   DEVICE   VALUES   PIPELINES   AGE   SETS               MANAGED BY
    greeting   edge-web   -          -        1        -           0s    GREETING=Welcome   api
    "#);
    let bare = stage.run("get channels --no-headers").await.ok();
    insta::assert_snapshot!(stage.plain(&bare), @r#"
    prod   -   Every shop   0s
    "#);
    assert!(!table.contains('\x1b'));
    let none = stage.run("get devices").await;
    assert_eq!((none.code, none.stdout.as_str(), none.stderr.as_str()), (0, "", "No devices found.\n"));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_the_apis_own_shape() {
    let stage = stage().await;
    let list: serde_json::Value = serde_json::from_str(&stage.run("get apps -o json").await.ok()).unwrap();
    assert_eq!(list["items"][0]["kind"], "App");
    assert!(list["metadata"].is_object());
    let one: serde_json::Value =
        serde_json::from_str(&stage.run("get app edge-web -o json").await.ok()).unwrap();
    assert_eq!(one, list["items"][0]);
    let lines = stage.run("get apps,channels -o ndjson").await.ok();
    assert!(lines.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    assert_eq!(lines.lines().count(), 2);
    insta::assert_snapshot!(stage.run("get apps,channels,placements -o name").await.ok(), @r#"
    app/edge-web
    channel/prod
    placement/web
    "#);
    let yaml = stage.run("get placement/web -o yaml").await.ok();
    insta::assert_snapshot!(stage.plain(&yaml), @r#"
    apiVersion: farshore.dev/v1
    kind: Placement
    metadata:
      createdAt: TIME
      managedBy: api
      name: web
      resourceVersion: 1
      uid: UID
    spec:
      app: edge-web
      selector: kind in (kiosk,till),!spare
    status: {}
    "#);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_comes_in_pages_and_as_one() {
    let stage = Stage::new().await;
    let many: String =
        (0..1_050).map(|n| format!("kind: App\nmetadata: {{name: app-{n:04}}}\n---\n")).collect();
    stage.write("many.yaml", &many);
    stage.run("apply -f many.yaml").await.ok();
    let names = stage.run("get apps -o name").await.ok();
    let mut lines: Vec<_> = names.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 1_050);
    assert_eq!(stage.run("get apps -o name --limit 7").await.ok().lines().count(), 7);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_token_is_shown_once_and_with_the_command_for_the_device() {
    let stage = Stage::new().await;
    let made = stage
        .run("token create shop-12 --label store=12 --channel prod --location Riga --uses 3 --lifetime 2h")
        .await;
    assert!(made.stdout.starts_with("fsct_") && made.stdout.lines().count() == 1, "{}", made.stdout);
    assert!(made.stderr.contains("farshore-agent claim"), "{}", made.stderr);
    let list = stage.run("token list -o wide").await.ok();
    assert!(!list.contains("fsct_"));
    insta::assert_snapshot!(stage.plain(&list).replace("1h59m", "2h   "), @r#"
    NAME      CHANNEL   USED   STATE    EXPIRES IN   AGE   LOCATION   GIVES LABELS
    shop-12   prod      0/3    usable   2h           0s    Riga       store=12
    "#);
    insta::assert_snapshot!(stage.run("token revoke shop-12").await.ok(), @"claim-token/shop-12 revoked");
    assert!(stage.run("token list").await.ok().contains("revoked"));
    stage.stop().await;
}
