//! Exit codes and what is said on stderr.

use crate::stage::{Stage, command, finish};

#[tokio::test(flavor = "multi_thread")]
async fn every_exit_code_is_documented_and_happens() {
    let stage = Stage::new().await;
    let help = stage.run("help exit-codes").await.ok();
    for code in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "130"] {
        assert!(
            help.lines().any(|line| line.trim_start().starts_with(&format!("{code} "))),
            "{code} is not documented"
        );
    }
    stage.run("token create once").await.ok();
    for (line, code) in [
        ("get devices", 0),
        ("get devices --server https://127.0.0.1:1", 1),
        ("get devcies", 2),
        ("get devices --nonsense", 2),
        ("apply -f nothing.yaml", 1),
        ("wait device/x --for=happy", 2),
        ("get device/nope", 3),
        ("delete placement/nope", 3),
        ("get devices --token fsat_wrong", 4),
        ("token create once", 5),
        ("wait device/nope --for=online --timeout 1s", 8),
    ] {
        let ran = stage.run(line).await;
        assert_eq!(ran.code, code, "farshore {line}\n{}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.stderr.contains("error:"), code != 0, "farshore {line}\n{}", ran.stderr);
        assert!(code == 0 || ran.stdout.is_empty(), "data of a failure: {}", ran.stdout);
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_says_what_why_and_what_to_type_next() {
    let stage = Stage::new().await;
    let missing = stage.run("get device kiosk-9").await;
    let stderr = stage.plain(&missing.stderr);
    insta::assert_snapshot!(stderr, @r"
    error: can't get device kiosk-9: There is no such device here. Check the name, and the tenant you act in.
      request: UID
      next: farshore get devices
    ");
    let json = stage.run("get device kiosk-9 -o json").await;
    let problem: serde_json::Value = serde_json::from_str(&json.stderr).unwrap();
    assert_eq!(problem["code"], "not-found");
    assert_eq!((&problem["status"], &problem["exitCode"]), (&404.into(), &3.into()));
    assert_eq!(problem["type"], "https://farshore.dev/problems/not-found");
    assert!(json.stdout.is_empty());
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_the_command_says_how_to_log_in() {
    let folder = tempfile::tempdir().unwrap();
    let run = |line: &'static str| {
        let mut command = command(folder.path());
        command.args(line.split_whitespace());
        finish(command, "")
    };
    let lost = run("get devices").await;
    assert_eq!(lost.code, 4);
    insta::assert_snapshot!(lost.stderr, @r"
    error: don't know which server to talk to: there is no context, and neither --server nor FARSHORE_SERVER is given
      next: farshore login https://SERVER
    ");
    let typo = run("gett devices").await;
    assert_eq!(typo.code, 2);
    assert!(typo.stderr.contains("similar subcommand") && typo.stderr.contains("'get'"), "{}", typo.stderr);
    let help = run("help rolout").await;
    assert_eq!((help.code, help.stderr.contains("did you mean \"rollout\"?")), (2, true), "{}", help.stderr);
    assert_eq!(run("login http://farshore.example").await.code, 2);
    let shell = run("completion bash").await;
    assert!(shell.stdout.contains("COMPLETE") && shell.code == 0, "{}", shell.stderr);
    assert_eq!(run("completion tcsh").await.code, 2);
    let version = run("version -o json").await;
    assert_eq!(version.stdout, format!("{{\"version\":\"{}\"}}\n", env!("CARGO_PKG_VERSION")));
    let openapi: serde_json::Value = serde_json::from_str(&run("openapi").await.stdout).unwrap();
    assert_eq!(openapi["openapi"], "3.1.0");
}
