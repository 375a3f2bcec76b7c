//! Following what happens: driven by events.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn wait_ends_when_the_object_is_there_and_when_it_is_gone() {
    let stage = Stage::new().await;
    let wait = stage.run("wait app/web --for=exists --timeout 30s");
    let make = async {
        // The wait may be reading before or after this: both must end it.
        stage.input("kind: App\nmetadata: {name: web}\n", &["apply", "-f", "-"]).await.ok();
    };
    let (waited, ()) = tokio::join!(wait, make);
    insta::assert_snapshot!(waited.ok(), @"app/web exists");
    let gone = stage.run("wait app/web --for=deleted --timeout 30s");
    let (gone, deleted) = tokio::join!(gone, stage.run("delete app/web"));
    deleted.ok();
    insta::assert_snapshot!(gone.ok(), @"app/web deleted");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_prints_what_changes_as_it_changes() {
    let stage = Stage::new().await;
    stage.input("kind: App\nmetadata: {name: first}\n", &["apply", "-f", "-"]).await.ok();
    for (line, first) in
        [("get apps -w -o name", "app/first"), ("events --watch -o ndjson", "\"tenant.created\"")]
    {
        let mut command = stage.command();
        command.args(line.split(' ')).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut until = async |text: &str| loop {
            let line =
                tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await.expect("nothing came");
            let line = line.unwrap().expect("the watch ended");
            if line.contains(text) {
                break;
            }
        };
        until(first).await;
        // Only after the list has come: this must arrive as a change.
        let name = if first.starts_with("app") { "second" } else { "third" };
        stage.input(&format!("kind: App\nmetadata: {{name: {name}}}\n"), &["apply", "-f", "-"]).await.ok();
        until(name).await;
        child.kill().await.unwrap();
    }
    stage.stop().await;
}
