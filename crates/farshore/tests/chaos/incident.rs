//! An app that turns bad, with real processes: restart, rollback, an incident, an alert at a webhook, the evidence.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use farshore_domain::digest::Digest;
use serde_json::Value;

use crate::fleet::Fleet;

/// A receiver of webhooks: what came, as JSON.
fn receiver() -> (u16, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&taken);
    // It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let (mut length, mut signed) = (0, false);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let line = line.trim().to_ascii_lowercase();
                if line.is_empty() {
                    break;
                }
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                signed |= line.starts_with("webhook-signature: v1,");
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            assert!(signed, "without a signature");
            all.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
            let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            reader.get_mut().write_all(answer).unwrap();
        }
    });
    (port, taken)
}

/// The files of a bundle of evidence, without its folder.
pub(crate) fn unpack(path: &std::path::Path) -> BTreeMap<String, String> {
    let file = std::fs::File::open(path).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let read = |entry: std::io::Result<tar::Entry<'_, _>>| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().split_once('/').unwrap().1.to_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (name, text)
    };
    archive.entries().unwrap().map(read).collect()
}

/// The incident of a bad release, once it has a restart, the way back and both black boxes.
pub(crate) async fn gone_back(fleet: &Fleet) -> Value {
    fleet
        .until("an incident with a restart, a rollback and both black boxes", || {
            let list = fleet.read("get incidents -o json")?;
            let name = list["items"].as_array()?.first()?["metadata"]["name"].as_str()?.to_owned();
            let shown = fleet.read(&format!("get incident {name} -o json"))?;
            let did: Vec<_> =
                shown["status"]["actions"].as_array()?.iter().map(|action| action["kind"].clone()).collect();
            let whole = did == ["auto-restart", "rollback", "pin"];
            (whole && shown["status"]["evidence"].as_array()?.len() == 2).then_some(shown)
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_turns_bad_is_restarted_rolled_back_told_of_and_leaves_its_evidence() {
    let (port, taken) = receiver();
    let mut fleet = Fleet::start(2).await;
    fleet.release("1.0", true).await;
    fleet.roll_out("1.0").await;
    fleet.settled("1.0", "succeeded").await;
    let route = format!(
        "kind: AlertRoute\nmetadata: {{name: ops}}\nspec:\n  type: webhook\n  groupWaitSeconds: 0\n  webhook: {{url: \"http://127.0.0.1:{port}/hook\"}}\n"
    );
    std::fs::write(fleet.root().join("route.yaml"), route).unwrap();
    fleet.line("apply -f route.yaml");

    fleet.release("1.1", false).await;
    fleet.roll_out("1.1").await;
    fleet.settled("1.0", "failed").await;

    let incident = gone_back(&fleet).await;
    assert_eq!(incident["spec"]["cause"], "process-exit");
    assert_eq!(
        (incident["spec"]["app"].as_str(), incident["spec"]["version"].as_str()),
        (Some("web"), Some("1.1"))
    );
    assert_eq!(incident["spec"]["rolloutName"], "web-1-1", "{incident}");

    let device = incident["spec"]["deviceName"].as_str().unwrap();
    let alert = fleet
        .until("the alert at the webhook", || {
            let taken = taken.lock().unwrap();
            let mut alerts = taken.iter().flat_map(|body| body["data"]["alerts"].as_array().unwrap());
            alerts.find(|alert| alert["rule"] == "incident" && alert["labels"]["device"] == device).cloned()
        })
        .await;
    assert_eq!(alert["state"], "firing");
    let alerts = fleet.read("get alerts -o json").unwrap();
    assert!(alerts["items"].as_array().unwrap().iter().any(|one| one["uid"] == alert["uid"]));

    let name = incident["metadata"]["name"].as_str().unwrap();
    fleet.line(&format!("incident evidence {name} --file evidence.tar.gz"));
    assert!(
        fleet.farshore(&["incident", "evidence", name, "--file", "evidence.tar.gz"]).is_none(),
        "not twice"
    );
    let files = unpack(&fleet.root().join("evidence.tar.gz"));
    for line in files["SHA256SUMS"].lines() {
        let (sum, file) = line.split_once("  ").unwrap();
        assert_eq!(Digest::of(files[file].as_bytes()).to_string(), format!("sha256:{sum}"), "{file}");
    }
    let parsed = |file: &str| -> Value { serde_json::from_str(&files[file]).unwrap() };
    assert_eq!(parsed("release.json")["manifest"]["version"], "1.1");
    assert_eq!(parsed("rollout.json")["metadata"]["name"], "web-1-1");
    assert_eq!(parsed("incident.json")["metadata"]["name"], name);
    let events = parsed("events.json");
    let kinds: Vec<_> =
        events.as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"app.exited") && kinds.contains(&"release.rolled-back"), "{kinds:?}");
    assert!(files["metrics.csv"].starts_with("time_ms,") && files["metrics.csv"].lines().count() > 1);
    assert!(files.contains_key("logs/opening.log") && files.contains_key("logs/given-up.log"));
    for word in ["web 1.1", "web-1-1", "**rollback**", "**auto-restart**", device] {
        assert!(files["post-mortem.md"].contains(word), "{word} in {}", files["post-mortem.md"]);
    }
    let described = fleet.line(&format!("describe incident/{name}"));
    assert!(described.contains("auto-restart") && described.contains("rollout/web-1-1"), "{described}");
    fleet.line(&format!("incident ack {name} -m looking"));
    fleet.line(&format!("incident resolve {name} -m known"));
    fleet.line(&format!("silence create quiet --match device={device} --for 1h"));
    fleet.check();
}
