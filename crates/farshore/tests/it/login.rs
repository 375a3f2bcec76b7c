//! `login`, `logout`, `context`, and which source of settings wins.

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_trusted_by_its_fingerprint_and_not_otherwise() {
    let stage = Stage::without_login().await;
    let link = stage.running.first_login.clone().unwrap();
    let unknown = stage.input("correct horse battery", &["login", &link, "--password-stdin"]).await;
    assert_eq!(unknown.code, 1);
    assert!(
        unknown.stderr.contains("UnknownIssuer") && unknown.stderr.contains("--ca-fingerprint"),
        "{}",
        unknown.stderr
    );
    let wrong = format!("sha256:{}", "0".repeat(64));
    let other = stage.input("x", &["login", &link, "--ca-fingerprint", &wrong, "--password-stdin"]).await;
    assert_eq!(other.code, 1, "{}", other.stderr);
    assert!(!stage.path("config.yaml").exists());
    let fingerprint = stage.running.ca_fingerprint.to_string();
    let short =
        stage.input("short", &["login", &link, "--ca-fingerprint", &fingerprint, "--password-stdin"]).await;
    assert_eq!(short.code, 1, "{}", short.stderr);
    let good = stage
        .input(
            "correct horse battery",
            &["login", &link, "--ca-fingerprint", &fingerprint, "--password-stdin"],
        )
        .await;
    insta::assert_snapshot!(stage.plain(&good.stderr), @r#"
    Logged in to https://localhost:PORT as admin@farshore.local (platform-admin) in tenant default.
    Context "localhost:PORT" is the current one now. Next: farshore get devices
    "#);
    let again = stage.input("correct horse battery", &["login", &link, "--password-stdin"]).await;
    assert_eq!((again.code, again.stderr.contains("was used")), (4, true), "{}", again.stderr);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_logs_in_again_with_the_pinned_ca_and_logout_ends_the_session() {
    let stage = Stage::new().await;
    let before = std::fs::read_to_string(stage.path("config.yaml")).unwrap();
    stage.run("logout").await.ok();
    let out = stage.run("get devices").await;
    assert_eq!(out.code, 4, "{}", out.stderr);
    assert!(out.stderr.contains("next: farshore login https://localhost:"), "{}", out.stderr);
    std::fs::write(stage.path("config.yaml"), before).unwrap();
    assert_eq!(stage.run("get devices").await.code, 4, "the session must have ended on the server too");
    let url = stage.running.api_url.clone();
    let arguments = ["login", &url, "--email", "admin@farshore.local", "--password-stdin"];
    assert_eq!(stage.input("wrong password!", &arguments).await.code, 4);
    assert_eq!(stage.input("correct horse battery", &arguments).await.code, 0);
    stage.run("get devices").await.ok();
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_win_over_the_environment_and_the_environment_over_the_context() {
    let stage = Stage::new().await;
    let token = stage.run("api-token create ci --role viewer").await.ok();
    let token = token.trim();
    let bad = [("FARSHORE_TOKEN", "fsat_wrong")];
    assert_eq!(stage.with(&bad, "get devices").await.code, 4);
    let mine = stage.with(&bad, &format!("get devices --token {token}")).await;
    assert_eq!(mine.code, 0, "{}", mine.stderr);
    let denied = stage.with(&[("FARSHORE_TOKEN", token)], "token create").await;
    assert_eq!(denied.code, 4);
    assert!(denied.stderr.contains("claim.write"), "{}", denied.stderr);
    // Another server by flag: the context's token stays at home.
    let elsewhere = stage.run("get devices --server https://127.0.0.1:1").await;
    assert_eq!(elsewhere.code, 1);
    let named = stage.run("get devices --context nowhere").await;
    assert_eq!(named.code, 2, "{}", named.stderr);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_are_listed_without_their_tokens() {
    let stage = Stage::new().await;
    let list = stage.run("context list -o json").await.ok();
    assert!(!list.contains("fsst_") && list.contains("\"loggedIn\": true"), "{list}");
    let typo = stage.run("context use localhos").await;
    assert_eq!(typo.code, 2);
    let file = std::fs::metadata(stage.path("config.yaml")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&file.permissions()) & 0o777, 0o600);
    let debug = stage.run("token create --debug").await;
    let secret = debug.stdout.trim().to_owned();
    let quiet = debug.stderr.lines().filter(|line| line.starts_with(['>', '<'])).collect::<String>();
    assert!(quiet.contains("POST") && !quiet.contains(&secret) && !quiet.contains("fsst_"), "{quiet}");
    stage.stop().await;
}
