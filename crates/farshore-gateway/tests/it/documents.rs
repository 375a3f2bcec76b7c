//! Documents and the twin for apps on the device: over HTTP, without any cloud.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farshore_domain::document::exchange::{Answer as Said, Answered, Delta, Outcome, Request, State};
use farshore_gateway::sync::{Exchange, SyncAnswer, SyncRequest, Uplink, UplinkError};
use farshore_gateway::{EdgeGateway, GatewayConfig};
use farshore_journal::Outgoing;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::support::{Answer, Site, send};

async fn ask(site: &Site, method: &str, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    site.send(method, path, headers, body.as_bytes()).await
}

fn etag(answer: &Answer) -> String {
    let line = answer
        .head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("etag: ").map(str::to_owned));
    line.expect("an ETag")
}

#[tokio::test]
async fn apps_write_read_and_delete_documents_and_a_stale_version_is_refused() {
    let site = Site::new().await;
    let path = "/documents/settings/main";
    assert_eq!(ask(&site, "GET", path, &[], Value::Null).await.status, 404);
    let made = ask(&site, "PUT", path, &[], json!({"volume": 3, "x": null})).await;
    assert_eq!((made.status, made.json()), (200, json!({"volume": 3})));
    assert!(made.head.to_ascii_lowercase().contains("x-document-pending: true"), "{}", made.head);
    let first = etag(&made);
    let changed = ask(&site, "PATCH", path, &[("if-match", &first)], json!({"volume": 5, "on": true})).await;
    assert_eq!((changed.status, changed.json()), (200, json!({"volume": 5, "on": true})));
    assert_eq!(ask(&site, "PATCH", path, &[("if-match", &first)], json!({"volume": 9})).await.status, 412);
    let listed = ask(&site, "GET", "/documents/settings", &[], Value::Null).await.json();
    assert_eq!(
        (listed["items"].as_array().map(Vec::len), &listed["items"][0]["name"]),
        (Some(1), &json!("main"))
    );
    assert_eq!(listed["status"]["pending"], 1);
    assert_eq!(ask(&site, "DELETE", path, &[], Value::Null).await.status, 204);
    assert_eq!(ask(&site, "GET", path, &[], Value::Null).await.status, 404);
    assert_eq!(ask(&site, "DELETE", path, &[], Value::Null).await.status, 404);
}

#[tokio::test]
async fn bad_documents_are_refused_with_the_reason() {
    let site = Site::new().await;
    for (method, path, body, status) in [
        ("PUT", "/documents/settings/main", "[1]".to_owned(), 400),
        ("PUT", "/documents/settings/main", "{".to_owned(), 400),
        ("PATCH", "/documents/settings/main", "1".to_owned(), 400),
        ("PUT", "/documents/Settings/main", "{}".to_owned(), 400),
        ("PUT", "/documents/settings/..%2fx", "{}".to_owned(), 400),
        ("PUT", "/documents/settings/main", json!({"a": "x".repeat(200_000)}).to_string(), 400),
        ("PUT", "/documents/settings/main", json!({"a": "x".repeat(400_000)}).to_string(), 413),
        ("PUT", "/twin/desired", "{}".to_owned(), 403),
        ("PUT", "/twin/other", "{}".to_owned(), 400),
        ("POST", "/documents/settings/main", "{}".to_owned(), 405),
        ("POST", "/twin", "{}".to_owned(), 405),
        ("GET", "/changes?wait=100000", String::new(), 400),
        ("GET", "/documents/a/b/c", String::new(), 404),
    ] {
        let answer = site.send(method, path, &[], body.as_bytes()).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
    }
}

#[tokio::test]
async fn whoever_waits_is_told_of_a_change_and_of_a_deletion() {
    let site = Site::new().await;
    let address = site.at.http.expect("HTTP");
    let waiting =
        tokio::spawn(async move { send(address, "GET", "/changes?after=0&wait=30", &[], b"").await });
    ask(&site, "PATCH", "/twin", &[], json!({"interval": 10})).await;
    let told = waiting.await.expect("an answer").json();
    assert_eq!(
        (&told["items"][0]["name"], &told["items"][0]["value"]),
        (&json!("reported"), &json!({"interval": 10}))
    );
    ask(&site, "PUT", "/documents/c/n", &[], json!({})).await;
    ask(&site, "DELETE", "/documents/c/n", &[], Value::Null).await;
    let more = ask(&site, "GET", &format!("/changes?after={}", told["after"]), &[], Value::Null).await.json();
    let last = more["items"].as_array().expect("a list").last().expect("one").clone();
    assert_eq!((&last["name"], &last["value"]), (&json!("n"), &Value::Null));
    let twin = ask(&site, "GET", "/twin", &[], Value::Null).await.json();
    assert_eq!(
        (&twin["reported"], &twin["desired"], &twin["delta"]),
        (&json!({"interval": 10}), &json!({}), &json!([]))
    );
}

#[tokio::test]
async fn documents_want_the_same_credentials_as_readings() {
    let site = Site::with(|config| config.credentials = crate::support::token("secret")).await;
    assert_eq!(ask(&site, "GET", "/twin", &[], Value::Null).await.status, 401);
    assert_eq!(
        ask(&site, "GET", "/twin", &[("authorization", "Bearer secret")], Value::Null).await.status,
        200
    );
}

#[tokio::test]
async fn nobody_else_may_read_what_is_stored() {
    let site = Site::with(|config| config.local_analytics = Some(true)).await;
    ask(&site, "PUT", "/documents/c/n", &[], json!({"x": 1})).await;
    site.send("POST", "/api/data", &[], br#"{"sensor_id":"t","value":1}"#).await;
    let folder = site.journal_folder();
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).map(|found| found.permissions().mode() & 0o777).ok();
    assert_eq!(mode(&folder), Some(0o700));
    assert_eq!(mode(&folder.join("documents.db-wal")), Some(0o600));
    site.gateway.stop().await;
    assert_eq!(mode(&folder.join("documents.db")), Some(0o600));
    assert_eq!(mode(&folder.join("pipeline.state")), Some(0o600));
}

/// A control plane that does not take some documents, and has one of its own to tell.
#[derive(Debug, Default)]
struct Hub {
    not_now: Mutex<BTreeSet<String>>,
    /// Somebody waits for news.
    waited_for: Notify,
    news: Notify,
}

impl Uplink for Hub {
    fn ask<'a>(&'a self, _: &'a SyncRequest) -> Exchange<'a, SyncAnswer> {
        Box::pin(async { Err(UplinkError::NoSync) })
    }

    fn put<'a>(&'a self, _: &'a Outgoing) -> Exchange<'a, bool> {
        Box::pin(async { Err(UplinkError::NoSync) })
    }

    fn documents<'a>(&'a self, request: &'a Request) -> Exchange<'a, Said> {
        let answers = request.changes.iter().map(|change| {
            let later = self.not_now.lock().expect("no panic").contains(&change.name);
            Answered {
                number: change.number,
                collection: change.collection.clone(),
                name: change.name.clone(),
                outcome: if later { Outcome::Later } else { Outcome::Accepted },
                revision: 1,
                state: State::AsSent,
                why: later.then(|| "there are too many".to_owned()),
            }
        });
        let mut said = Said { from: request.cursor, cursor: request.cursor, ..Said::default() };
        said.answers = answers.collect();
        Box::pin(async move {
            if request.wait_seconds > 0 && request.cursor == 0 {
                self.waited_for.notify_one();
                self.news.notified().await;
                said.cursor = 1;
                said.documents = vec![Delta {
                    collection: "c".to_owned(),
                    name: "news".to_owned(),
                    revision: 1,
                    from: None,
                    state: State::Value(json!({"x": 1})),
                }];
            } else if request.wait_seconds > 0 {
                std::future::pending::<()>().await;
            }
            Ok(said)
        })
    }
}

#[tokio::test]
async fn what_the_cloud_does_not_take_now_holds_up_nothing_else_and_is_sent_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let hub = Arc::new(Hub::default());
    // More than one request has room for.
    let not_now: Vec<String> = (0..600).map(|number| format!("large-{number}")).collect();
    hub.not_now.lock().expect("no panic").extend(not_now.iter().cloned());
    let mut config = GatewayConfig::new("gw", folder.path().join("journal"));
    (config.http, config.mqtt) = (None, None);
    let site = EdgeGateway::new(config).expect("settings").with_uplink(Arc::clone(&hub) as Arc<dyn Uplink>);
    site.start().await.expect("a gateway");
    let documents = site.documents().expect("running");
    for name in not_now.iter().map(String::as_str).chain(["taken"]) {
        documents.put("c", name, Some(json!({"x": 1})), None).await.expect("written");
    }
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, hub.waited_for.notified()).await.expect("it waits for news");
    hub.news.notify_one();
    let until = async |what: &str, name: &str, as_wanted: fn(bool) -> bool| {
        let so = async {
            while !documents.get("c", name).await.is_ok_and(|found| as_wanted(found.pending)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(patience, so).await.expect(what);
    };
    until("news come", "news", |_| true).await;
    until("what can be taken is", "taken", |pending| !pending).await;
    let status = documents.status().await.expect("running");
    assert_eq!((status.pending, status.note.as_deref()), (600, Some("there are too many")));
    hub.not_now.lock().expect("no panic").clear();
    until("it is sent again", "large-599", |pending| !pending).await;
    site.stop().await;
}
