//! `dev --empty`: starts, can be used, stops on a signal, goes on with the same folder.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use crate::stage::{command, finish};

/// Starts `dev --empty` and waits until it is ready; the answer is the page's link.
async fn start(folder: &std::path::Path) -> (Child, String) {
    let mut command = command(folder);
    command.args(["dev", "--empty", "--port", "0", "--device-port", "0"]);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut link = None;
    let ready = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some(found) = line.trim().strip_prefix("Page") {
                link = Some(found.trim().to_owned());
            }
            if line.contains("Ready after") {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ready).await.expect("dev is not ready");
    // Read on, so that it never waits for a reader.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, link.expect("dev prints no link"))
}

async fn interrupt(mut child: Child) {
    let pid = child.id().unwrap();
    let status = std::process::Command::new("kill").args(["-INT", &pid.to_string()]).status().unwrap();
    assert!(status.success());
    let ended = tokio::time::timeout(Duration::from_secs(30), child.wait()).await.expect("dev does not stop");
    assert!(ended.unwrap().success());
}

async fn farshore(folder: &std::path::Path, line: &str) -> crate::stage::Ran {
    let mut command = command(folder);
    command.env("FARSHORE_CONFIG", folder.join(".farshore/config.yaml")).args(line.split_whitespace());
    finish(command, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_goes_on_where_it_was_and_its_link_logs_in_once() {
    let folder = tempfile::tempdir().unwrap();
    let (child, link) = start(folder.path()).await;
    let twice = {
        let mut command = command(folder.path());
        command.args(["dev", "--empty", "--port", "0", "--device-port", "0"]);
        finish(command, "").await
    };
    assert_eq!((twice.code, twice.stderr.contains("another farshore dev")), (5, true), "{}", twice.stderr);
    farshore(folder.path(), "token create mine").await.ok();
    let mut login = command(folder.path());
    login.args(["login", &link, "--ca-file", ".farshore/ca.pem"]);
    let login = finish(login, "").await;
    assert_eq!(login.code, 0, "{}", login.stderr);
    let mut again = command(folder.path());
    again.args(["login", &link, "--ca-file", ".farshore/ca.pem"]);
    assert_eq!(finish(again, "").await.code, 4);
    let server = farshore(folder.path(), "context list -o json").await.ok();
    interrupt(child).await;
    let (child, _) = start(folder.path()).await;
    assert_eq!(farshore(folder.path(), "context list -o json").await.ok(), server, "the ports stay");
    assert!(farshore(folder.path(), "token list").await.ok().contains("mine"));
    interrupt(child).await;
}
