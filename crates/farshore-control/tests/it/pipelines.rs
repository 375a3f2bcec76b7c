//! Pipelines as config: refused with line and reason, given to gateways by layers, and how they stand.

use farshore_api::pipeline::{DeviceConfig, DevicePipelines, PipelinesState};
use farshore_domain::config::Layer;
use farshore_domain::digest::Digest;
use serde_json::{Value, json};

use crate::harness::{Answer, Client, Fleet, TestDevice, each_engine};

fn pipelines(filter: &str) -> String {
    format!(
        "pipelines:\n  - name: rooms\n    steps:\n      - filter: {filter}\n      - emit: {{stream: data/out}}\n"
    )
}

fn config(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": spec})
}

async fn set(client: &Client, name: &str, spec: Value) -> Answer {
    client.post("/api/configs", config(name, spec)).await
}

/// What a gateway is given that has seen `seen`.
async fn ask(device: &TestDevice, seen: Option<Digest>, processing: Value) -> DeviceConfig {
    let seen = seen.map_or(json!({}), |digest| json!({"pipelines": digest}));
    let body = json!({"epoch": "0000000000000001", "report": {"processing": processing}, "config": seen});
    let answer: Value = device.post("/api/device/sync", body).await.expect(200).json();
    serde_json::from_value(answer["config"].clone()).expect("a config")
}

async fn stands(fleet: &Fleet, device: &TestDevice) -> DevicePipelines {
    fleet.admin.get(&format!("/api/devices/{}/pipelines", device.name())).await.expect(200).json()
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_that_are_not_good_are_refused_with_line_and_reason() {
    each_engine(async |fleet| {
        let refused = async |spec: Value| {
            let problem = set(&fleet.admin, "rooms", spec).await.problem(400, "invalid");
            (problem.errors[0].field.clone(), problem.errors[0].message.clone())
        };
        let (field, why) = refused(json!({"gateway": {"pipelines": pipelines("valeu > 1")}})).await;
        assert_eq!(field, "spec.gateway.pipelines");
        assert!(why.contains("line 4") && why.contains("valeu"), "{why}");
        let (field, why) = refused(json!({"gateway": {"pipelines": "x".repeat(257 * 1024)}})).await;
        assert!(field == "spec.gateway.pipelines" && why.contains("at most"), "{why}");
        let (field, _) =
            refused(json!({"app": "edge-web", "gateway": {"pipelines": pipelines("value > 1")}})).await;
        assert_eq!(field, "spec.gateway");
        set(&fleet.admin, "rooms", json!({"gateway": {"pipeline": ""}})).await.problem(400, "invalid");
        // A change is looked at, too, and what was there stays.
        set(&fleet.admin, "rooms", json!({"gateway": {"pipelines": pipelines("value > 1")}}))
            .await
            .expect(201);
        let bad = config("rooms", json!({"gateway": {"pipelines": "pipelines: 7"}}));
        fleet.admin.put("/api/configs/rooms", bad).await.problem(400, "invalid");
        let kept: Value = fleet.admin.get("/api/configs/rooms").await.expect(200).json();
        assert_eq!(kept["spec"]["gateway"]["pipelines"], pipelines("value > 1"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nearest_layer_is_given_once_and_the_device_tells_what_came_of_it() {
    each_engine(async |fleet| {
        fleet.tenant("other").await;
        let device = fleet.device("gw").await;
        let foreign = fleet.device_in("other", "gw").await;
        // A gateway of before asks for nothing and is given nothing.
        let old = json!({"epoch": "0000000000000001"});
        let answer: Value = device.post("/api/device/sync", old).await.expect(200).json();
        assert!(answer.get("config").is_none());
        assert_eq!(ask(&device, None, Value::Null).await.pipelines, None);
        assert_eq!(stands(fleet, &device).await.state, PipelinesState::None);

        let (all, own) = (pipelines("value > 1"), pipelines("value > 2"));
        let digest = |text: &str| Digest::of(text.as_bytes());
        set(&fleet.admin, "all", json!({"gateway": {"pipelines": all}})).await.expect(201);
        let given = ask(&device, None, Value::Null).await.pipelines.expect("given");
        assert_eq!((given.from.as_str(), given.digest), ("all", digest(&all)));
        assert_eq!(given.text.as_deref(), Some(all.as_str()));
        let again = ask(&device, Some(given.digest), Value::Null).await.pipelines.expect("given");
        assert_eq!((again.digest, again.text), (given.digest, None), "it is not sent twice");
        assert_eq!(stands(fleet, &device).await.state, PipelinesState::Pending);
        assert_eq!(ask(&foreign, None, Value::Null).await.pipelines, None, "another tenant's is none of its");

        // A nearer layer, by a label that the device gets later.
        set(&fleet.admin, "cold", json!({"selector": "room=cold", "gateway": {"pipelines": own}})).await.expect(201);
        let seen = Some(digest(&all));
        assert_eq!(ask(&device, seen, Value::Null).await.pipelines.expect("given").digest, digest(&all));
        let path = format!("/api/devices/{}", device.name());
        let mut known: Value = fleet.admin.get(&path).await.expect(200).json();
        known["metadata"]["labels"]["room"] = json!("cold");
        let changed = json!({"metadata": {"name": device.name(), "labels": known["metadata"]["labels"]}, "spec": known["spec"]});
        fleet.admin.put(&path, changed).await.expect(200);
        let given = ask(&device, seen, Value::Null).await;
        assert_eq!(given.labels.get("room"), Some("cold"));
        assert_eq!(given.pipelines.expect("given").digest, digest(&own));

        // It runs the old one, does not take the new one, and takes it at last.
        let step = json!({"kind": "filter", "taken": 9, "passed": 4, "late": 1, "later": {}});
        let runs = |runs: &str, refused: Option<&str>| {
            json!({"source": "control-plane", "config": "x", "digest": digest(runs), "points": 9, "late": 1, "alertsRaised": 2,
                "refused": refused.map(|text| json!({"digest": digest(text), "why": "line 1: no\u{7}"})),
                "pipelines": [{"name": "rooms", "steps": vec![step.clone(); 300]}]})
        };
        ask(&device, Some(digest(&own)), runs(&all, Some(&own))).await;
        let pipelines = stands(fleet, &device).await;
        assert_eq!(pipelines.state, PipelinesState::Refused);
        let running = pipelines.running.expect("told");
        assert_eq!(running.refused.expect("refused").why, "line 1: no");
        assert_eq!((running.pipelines[0].steps.len(), running.pipelines[0].steps[0].taken), (256, 9));
        ask(&device, Some(digest(&own)), runs(&own, None)).await;
        let pipelines = stands(fleet, &device).await;
        let wanted = pipelines.wanted.expect("wanted");
        assert_eq!((pipelines.state, wanted.layer), (PipelinesState::Running, Layer::Selector));
        assert_eq!((wanted.config.as_str(), wanted.text), ("cold", own));
        let list: Value = fleet.admin.get("/api/sync").await.expect(200).json();
        assert_eq!(list["items"][0]["report"]["processing"]["alertsRaised"], 2);

        fleet.admin.delete("/api/configs/cold").await.expect(204);
        assert_eq!(ask(&device, None, Value::Null).await.pipelines.expect("given").digest, digest(&all));
        fleet.admin.in_tenant("other").get(&format!("/api/devices/{}/pipelines", device.uid())).await.problem(404, "not-found");
    })
    .await;
}
