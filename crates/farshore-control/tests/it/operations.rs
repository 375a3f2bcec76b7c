//! Operations: asked for by who may, allowed by policy, queued, done once, followed while they run, and asked of many after a look at them.

use axum::http::Method;
use base64::Engine as _;
use farshore_domain::desired::DesiredState;
use farshore_protocol::{
    AppStatus, OperationBatch, OperationOutput, OperationUpdate, StatusReport, agent_frame, server_frame,
};
use serde_json::{Value, json};

use crate::harness::{Fleet, TestDevice, each_engine, eventually, secret_of};
use crate::wire::{Channel, SseReader};

const ABLE: [&str; 5] = ["process", "policy/v1", "operations/v2", "exec/v1", "drain/v1"];

async fn device_at(fleet: &Fleet, name: &str, site: &str) -> TestDevice {
    let token = fleet.claim_token(json!({"labels": {"site": site}})).await;
    let mut device = TestDevice::new(fleet);
    let claimed = device.claim(&secret_of(&token), name).await.expect(200).json();
    device.take(fleet, claimed);
    device
}

async fn able(fleet: &Fleet, device: &TestDevice) -> Channel {
    let mut channel = Channel::connect(fleet, device).await.unwrap();
    channel.hello_with(&ABLE).await;
    channel
}

async fn policy(fleet: &Fleet, name: &str, operations: Value) {
    let body = json!({"metadata": {"name": name}, "spec": {"rules": {"operations": operations}}});
    fleet.admin.post("/api/policies", body).await.expect(201);
}

async fn asked(channel: &mut Channel) -> farshore_protocol::Operation {
    channel
        .until("the operation", |body| match body {
            server_frame::Body::Operation(operation) => Some(operation),
            _ => None,
        })
        .await
}

async fn tell(channel: &mut Channel, sequence: u64, uid: &str, state: &str, output: &[u8]) {
    let update = OperationUpdate {
        uid: uid.to_owned(),
        state: state.to_owned(),
        output: output.to_vec(),
        output_total: output.len() as u64,
        exit_code: (state == "succeeded").then_some(0),
        ..Default::default()
    };
    channel.send(agent_frame::Body::Operations(OperationBatch { sequence, updates: vec![update] })).await;
    channel.acknowledged("operations", sequence).await;
}

async fn seen(fleet: &Fleet, uid: &str) -> Value {
    fleet.admin.get(&format!("/api/operations/{uid}")).await.expect(200).json()
}

async fn state(fleet: &Fleet, uid: &str, wanted: &str) -> Value {
    eventually(&format!("{uid} to be {wanted}"), || async {
        let seen = seen(fleet, uid).await;
        (seen["status"]["state"] == wanted).then_some(seen)
    })
    .await
}

fn uid(operation: &Value) -> String {
    operation["metadata"]["uid"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runbook_is_allowed_sent_followed_and_recorded() {
    Box::pin(each_engine(async |fleet| {
        let device = fleet.device("kiosk-7").await;
        let mut channel = able(fleet, &device).await;
        let path = "/api/devices/kiosk-7:exec";
        let ask = |runbook: &str| json!({"arguments": {"runbook": runbook}, "reason": "the queue is stuck"});
        let refused = fleet.admin.post(path, ask("flush")).await.problem(403, "forbidden");
        assert!(refused.detail.contains("no runbook flush"), "{refused:?}");
        policy(
            fleet,
            "flush",
            json!({"reasonRequired": true, "runbooks": [{"name": "flush", "command": ["/bin/true"], "timeoutSeconds": 9}]}),
        )
        .await;
        channel
            .until("the policy", |body| match body {
                server_frame::Body::Desired(desired) => DesiredState::parse(&desired.body).unwrap().policy,
                _ => None,
            })
            .await;
        let silent = json!({"arguments": {"runbook": "flush"}});
        assert_eq!(fleet.admin.post(path, silent).await.problem(400, "invalid").errors[0].field, "reason");
        fleet.role("viewer").await.post(path, ask("flush")).await.problem(403, "forbidden");
        let free = json!({"arguments": {"command": "id"}, "reason": "x"});
        fleet.admin.post(path, free).await.problem(403, "forbidden");
        for (body, field) in [
            (json!({"arguments": {}}), "runbook"),
            (json!({"arguments": {"runbook": "flush"}, "app": "web"}), "app"),
            (json!({"arguments": {"runbook": "flush", "timeoutSeconds": 0}}), "timeoutSeconds"),
            (json!({"arguments": {"runbook": "flush"}, "expiresInSeconds": 1}), "expiresInSeconds"),
            (json!({"arguments": {"runbook": "flush", "bytes": 1}}), "bytes"),
            (json!({"arguments": {"runbook": "flush"}, "reason": "x", "budget": {"maxConcurrent": 0}}), "budget.maxConcurrent"),
        ] {
            let problem = fleet.admin.post(path, body).await.problem(400, "invalid");
            assert_eq!(problem.errors[0].field, field, "{problem:?}");
        }
        fleet.admin.post(path, json!({"argumentz": 1})).await.problem(400, "invalid");

        let made: Value = fleet.role("operator").await.post(path, ask("flush")).await.expect(202).json();
        let id = uid(&made);
        assert_eq!((&made["status"]["state"], &made["spec"]["timeLimitSeconds"]), (&json!("queued"), &json!(9)));
        let sent = asked(&mut channel).await;
        assert_eq!((sent.uid.as_str(), sent.kind.as_str(), sent.reason.as_str()), (id.as_str(), "exec", "the queue is stuck"));
        tell(&mut channel, 1, &id, "delivered", b"").await;
        tell(&mut channel, 2, &id, "running", b"").await;
        let running = state(fleet, &id, "running").await;
        assert!(running["status"]["deadlineAt"].as_i64() > running["status"]["startedAt"].as_i64());
        let under_way: Value = fleet.admin.get("/api/active-ops").await.expect(200).json();
        assert_eq!(under_way["operations"][0]["state"], "running");

        let output = format!("/api/operations/{id}/output");
        fleet.role("viewer").await.get(&output).await.problem(403, "forbidden");
        let stream = fleet.admin.request(Method::GET, &output).header("accept", "text/event-stream");
        let mut stream = SseReader::open(stream).await;
        let piece = |offset: u64, bytes: &[u8]| {
            agent_frame::Body::OperationOutput(OperationOutput { uid: id.clone(), offset, bytes: bytes.to_vec() })
        };
        channel.send(piece(0, b"one\n")).await;
        let read = |data: &Value| base64::engine::general_purpose::STANDARD.decode(data["bytes"].as_str().unwrap()).unwrap();
        assert_eq!(read(&stream.of("output").await.data), b"one\n");
        channel.send(piece(4, b"two\n")).await;
        assert_eq!(read(&stream.of("output").await.data), b"two\n");
        assert_eq!(fleet.admin.get(&output).await.expect(200).text(), "one\ntwo\n");
        tell(&mut channel, 3, &id, "succeeded", b"one\ntwo\nthree\n").await;
        assert_eq!(read(&stream.of("output").await.data), b"three\n");
        assert_eq!(stream.of("end").await.data["status"]["exitCode"], 0);
        assert!(stream.next().await.is_none(), "it is over");
        // Sent again it changes nothing, whatever it says now.
        tell(&mut channel, 3, &id, "failed", b"lies").await;
        let done = seen(fleet, &id).await;
        assert_eq!((&done["status"]["state"], &done["status"]["outputBytes"]), (&json!("succeeded"), &json!(14)));
        assert_eq!(fleet.admin.get(&output).await.expect(200).text(), "one\ntwo\nthree\n");
        fleet.admin.post(&format!("/api/operations/{id}:cancel"), json!({})).await.problem(409, "conflict");
        let events = eventually("its events", || async {
            let list: Value =
                fleet.admin.get("/api/events?kind=device.operation-finished").await.expect(200).json();
            list["items"].as_array().unwrap().first().cloned()
        })
        .await;
        assert_eq!(events["payload"]["state"], "succeeded");

        fleet.tenant("other").await;
        let other = fleet.admin.in_tenant("other");
        for path in ["", "/output"] {
            other.get(&format!("/api/operations/{id}{path}")).await.problem(404, "not-found");
        }
        other.post(&format!("/api/operations/{id}:cancel"), json!({})).await.problem(404, "not-found");
        other.post(path, ask("flush")).await.problem(404, "not-found");
        let list: Value = other.get("/api/operations").await.expect(200).json();
        assert_eq!(list["items"], json!([]));
        channel.close().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offline_device_gets_on_return_what_nobody_gave_up() {
    Box::pin(each_engine(async |fleet| {
        let device = fleet.device("kiosk-7").await;
        able(fleet, &device).await.close().await;
        let path = "/api/devices/kiosk-7:diagnostics";
        let first: Value = fleet.admin.post(path, json!({})).await.expect(202).json();
        let second: Value = fleet.admin.post(path, json!({"expiresInSeconds": 60})).await.expect(202).json();
        let cancel = format!("/api/operations/{}:cancel", uid(&first));
        fleet.role("viewer").await.post(&cancel, json!({})).await.problem(403, "forbidden");
        let ended: Value =
            fleet.admin.post(&cancel, json!({"reason": "not needed"})).await.expect(200).json();
        assert_eq!(
            (&ended["status"]["state"], &ended["status"]["message"]),
            (&json!("cancelled"), &json!("not needed"))
        );
        let query = async |query: &str| -> Vec<String> {
            let list: Value = fleet.admin.get(&format!("/api/operations?{query}")).await.expect(200).json();
            list["items"].as_array().unwrap().iter().map(uid).collect()
        };
        assert_eq!(query("device=kiosk-7&state=open").await, [uid(&second)]);
        assert_eq!(query("kind=diagnostics&state=cancelled").await, [uid(&first)]);
        assert_eq!(query("limit=1").await, [uid(&second)]);
        assert_eq!(query(&format!("continue={}", uid(&second))).await, [uid(&first)]);
        fleet.admin.get("/api/operations?state=odd").await.problem(400, "invalid");
        fleet.admin.get("/api/operations?kind=odd").await.problem(400, "invalid");
        fleet.admin.get("/api/operations/odd").await.problem(404, "not-found");
        let mut channel = able(fleet, &device).await;
        assert_eq!(asked(&mut channel).await.uid, uid(&second));
        tell(&mut channel, 1, &uid(&second), "delivered", b"").await;
        // Taken: it is not sent again, also not on another channel, which brings the next one first.
        channel.close().await;
        let mut channel = able(fleet, &device).await;
        let third: Value = fleet.admin.post(path, json!({})).await.expect(202).json();
        assert_eq!(asked(&mut channel).await.uid, uid(&third));
        // Given up while the device has it: it hears of it, and its word counts.
        let cancel = format!("/api/operations/{}:cancel", uid(&second));
        let asked_to: Value = fleet.admin.post(&cancel, json!({})).await.expect(200).json();
        assert_eq!(asked_to["status"]["state"], "delivered");
        let heard = channel
            .until("the cancellation", |body| match body {
                server_frame::Body::OperationCancel(cancel) => {
                    Some(cancel.uid).filter(|uid| *uid != self::uid(&first))
                }
                _ => None,
            })
            .await;
        assert_eq!(heard, uid(&second));
        tell(&mut channel, 2, &uid(&second), "cancelled", b"").await;
        state(fleet, &uid(&second), "cancelled").await;
        channel.close().await;
    }))
    .await;
}

fn app(phase: &str) -> agent_frame::Body {
    let app = AppStatus {
        app: "web".to_owned(),
        phase: phase.to_owned(),
        active_release: uuid::Uuid::from_u128(7).to_string(),
        committed: true,
        ..Default::default()
    };
    agent_frame::Body::Status(StatusReport { apps: vec![app], ..Default::default() })
}

/// What a device is told of operations.
async fn told(channel: &mut Channel, wanted: Value) {
    channel
        .until("the policy", |body| match body {
            server_frame::Body::Desired(desired) => {
                let policy = DesiredState::parse(&desired.body).unwrap().policy?;
                (serde_json::to_value(policy.rules.operations).unwrap() == wanted).then_some(())
            }
            _ => None,
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_free_command_inside_a_container_needs_its_own_permission_and_an_agent_that_knows_it() {
    Box::pin(each_engine(async |fleet| {
        let device = fleet.device("kiosk-7").await;
        let path = "/api/devices/kiosk-7:exec";
        let inside = json!({"app": "web", "arguments": {"command": "id"}});
        // An agent of before would take `exec` for enough: it is told of nothing else, and not asked.
        let mut channel = Channel::connect(fleet, &device).await.unwrap();
        channel.hello_with(&[&ABLE[..], &["exec-inside/v1"]].concat()).await;
        channel.send(app("running")).await;
        eventually("the app", || async {
            let shown: Value = fleet.admin.get("/api/devices/kiosk-7").await.expect(200).json();
            (shown["status"]["apps"][0]["app"] == "web").then_some(())
        })
        .await;
        policy(fleet, "free", json!({"exec": true, "execInside": true})).await;
        told(&mut channel, json!({"exec": true})).await;
        let refused = fleet.admin.post(path, inside.clone()).await.problem(409, "conflict");
        assert!(refused.detail.contains("exec-inside/v2"), "{refused:?}");
        fleet.admin.post(path, json!({"arguments": {"command": "id"}})).await.expect(202);
        channel.close().await;

        let mut channel = Channel::connect(fleet, &device).await.unwrap();
        channel.hello_with(&[&ABLE[..], &["exec-inside/v1", "exec-inside/v2"]].concat()).await;
        channel.send(app("running")).await;
        told(&mut channel, json!({"exec": true, "execInside": true})).await;
        let made: Value = fleet.admin.post(path, inside.clone()).await.expect(202).json();
        let sent = channel
            .until("the operation", |body| match body {
                server_frame::Body::Operation(operation) if operation.app == "web" => Some(operation),
                _ => None,
            })
            .await;
        assert_eq!(sent.uid, uid(&made));
        // A policy from before there was that permission.
        fleet.admin.delete("/api/policies/free").await.expect(204);
        policy(fleet, "before", json!({"exec": true})).await;
        let refused = fleet.admin.post(path, inside).await.problem(403, "forbidden");
        assert!(refused.detail.contains("operations.execInside"), "{refused:?}");
        channel.close().await;
    }))
    .await;
}

async fn desired(channel: &mut Channel, stopped: bool) {
    channel
        .until("the desired state", |body| match body {
            server_frame::Body::Desired(desired) => {
                (DesiredState::parse(&desired.body).unwrap().stopped == stopped).then_some(())
            }
            _ => None,
        })
        .await;
}

async fn lifecycle(fleet: &Fleet, device: &str, wanted: &str) {
    eventually(&format!("{device} to be {wanted}"), || async {
        let shown: Value = fleet.admin.get(&format!("/api/devices/{device}")).await.expect(200).json();
        (shown["status"]["lifecycle"] == wanted).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_keeps_the_budget_of_its_place_and_ends_when_nothing_runs() {
    Box::pin(each_engine(async |fleet| {
        let mut channels = Vec::new();
        for name in ["till-1", "till-2"] {
            let device = device_at(fleet, name, "riga").await;
            let mut channel = able(fleet, &device).await;
            channel.send(app("running")).await;
            channels.push(channel);
        }
        let budget = json!({"groupBy": [{"label": "site", "maxUnavailable": 1}], "maxConcurrent": 2});
        let drain = json!({
            "verb": "drain", "selector": "site=riga", "ask": {"reason": "new shelves", "budget": budget}, "dryRun": true,
        });
        let plan: Value = fleet.admin.post("/api/devices:operate", drain.clone()).await.expect(200).json();
        assert_eq!((&plan["accepted"], &plan["refused"]), (&json!(2), &json!(0)), "{plan}");
        let mut really = drain;
        really["dryRun"] = json!(false);
        really["preview"] = plan["preview"].clone();
        let done: Value = fleet.admin.post("/api/devices:operate", really).await.expect(202).json();
        let made = |n: usize| done["devices"][n]["operation"].as_str().unwrap().to_owned();
        let (one, two) = (made(0), made(1));
        lifecycle(fleet, "till-1", "draining").await;
        desired(&mut channels[0], true).await;
        let waits = eventually("what the second waits for", || async {
            let waits = seen(fleet, &two).await["status"]["waits"].as_str().unwrap().to_owned();
            (!waits.is_empty()).then_some(waits)
        })
        .await;
        assert!(waits.contains("the budget of site=riga: 1 of 2 down already (till-1)"), "{waits}");
        lifecycle(fleet, "till-2", "cordoned").await;
        channels[0].send(app("stopping")).await;
        channels[0].send(app("stopped")).await;
        state(fleet, &one, "succeeded").await;
        lifecycle(fleet, "till-1", "drained").await;
        // Still down on purpose, so the other one goes on waiting, until this one is back.
        assert_eq!(seen(fleet, &two).await["status"]["state"], "queued");
        fleet.admin.post("/api/devices/till-1:drain", json!({})).await.problem(409, "conflict");
        fleet.admin.post("/api/devices/till-1:uncordon", json!({})).await.expect(200);
        desired(&mut channels[0], false).await;
        channels[0].send(app("running")).await;
        lifecycle(fleet, "till-2", "draining").await;
        desired(&mut channels[1], true).await;
        let cancel = format!("/api/operations/{two}:cancel");
        let ended: Value = fleet.admin.post(&cancel, json!({"reason": "later"})).await.expect(200).json();
        assert_eq!(ended["status"]["state"], "cancelled");
        lifecycle(fleet, "till-2", "cordoned").await;
        desired(&mut channels[1], false).await;
        let list: Value =
            fleet.admin.get(&format!("/api/operations?request={}", done["request"].as_str().unwrap())).await.expect(200).json();
        assert_eq!(list["items"].as_array().unwrap().len(), 2);
        for channel in channels {
            channel.close().await;
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_asked_as_they_were_shown_or_not_at_all() {
    Box::pin(each_engine(async |fleet| {
        let one = device_at(fleet, "till-1", "riga").await;
        device_at(fleet, "till-2", "riga").await;
        let mut channel = able(fleet, &one).await;
        policy(fleet, "all", json!({"runbooks": [{"name": "flush", "command": ["/bin/true"]}]})).await;
        let path = "/api/devices:operate";
        let ask = |verb: &str, ask: Value| json!({"verb": verb, "selector": "site=riga", "ask": ask, "dryRun": true});
        let exec = ask("exec", json!({"arguments": {"runbook": "flush"}}));
        let plan: Value = fleet.admin.post(path, exec.clone()).await.expect(200).json();
        assert_eq!((&plan["total"], &plan["accepted"], &plan["refused"]), (&json!(2), &json!(1), &json!(1)));
        assert_eq!(plan["devices"][0]["does"], "exec of runbook flush");
        assert_eq!(plan["devices"][1]["refused"]["code"], "Unsupported", "it never said that it can");
        let wipe: Value = fleet.admin.post(path, ask("exec", json!({"arguments": {"runbook": "wipe"}}))).await.expect(200).json();
        assert_eq!(wipe["devices"][0]["refused"]["code"], "PolicyForbids");
        let list: Value = fleet.admin.get("/api/operations").await.expect(200).json();
        assert_eq!(list["items"], json!([]), "nothing was done yet");

        let really = |preview: &Value| {
            let mut body = exec.clone();
            body["dryRun"] = json!(false);
            body["preview"] = preview.clone();
            body
        };
        fleet.admin.post(path, really(&Value::Null)).await.problem(400, "invalid");
        fleet.role("viewer").await.post(path, exec.clone()).await.problem(403, "forbidden");
        // Another one has come: what was shown is not what would be done.
        device_at(fleet, "till-3", "riga").await;
        fleet.admin.post(path, really(&plan["preview"])).await.problem(409, "conflict");
        let plan: Value = fleet.admin.post(path, exec.clone()).await.expect(200).json();
        assert_eq!(plan["total"], 3);
        let done: Value = fleet.role("operator").await.post(path, really(&plan["preview"])).await.expect(202).json();
        let sent = asked(&mut channel).await;
        assert_eq!(done["devices"][0]["operation"], sent.uid.as_str());

        let cordon = json!({"verb": "cordon", "devices": ["till-1", "till-3"], "dryRun": true});
        let plan: Value = fleet.admin.post(path, cordon.clone()).await.expect(200).json();
        let mut body = cordon;
        body["dryRun"] = json!(false);
        body["preview"] = plan["preview"].clone();
        fleet.admin.post(path, body.clone()).await.expect(202);
        lifecycle(fleet, "till-3", "cordoned").await;
        fleet.admin.post(path, body).await.problem(409, "conflict");
        fleet.admin.post("/api/channels", json!({"metadata": {"name": "beta"}, "spec": {}})).await.expect(201);
        let mut channel_change = json!({"verb": "set-channel", "devices": ["till-2"], "channel": "beta", "dryRun": true});
        let plan: Value = fleet.admin.post(path, channel_change.clone()).await.expect(200).json();
        channel_change["dryRun"] = json!(false);
        channel_change["preview"] = plan["preview"].clone();
        fleet.admin.post(path, channel_change).await.expect(202);
        let moved: Value = fleet.admin.get("/api/devices/till-2").await.expect(200).json();
        assert_eq!(moved["spec"]["channel"], "beta");

        for (body, field) in [
            (json!({"verb": "exec", "dryRun": true, "ask": {"arguments": {"runbook": "a"}}}), "selector"),
            (json!({"verb": "cordon", "devices": ["till-1"], "channel": "beta", "dryRun": true}), "channel"),
            (json!({"verb": "dance", "devices": ["till-1"], "dryRun": true}), "verb"),
            (json!({"verb": "logs", "devices": ["till-1"], "dryRun": true}), "app"),
        ] {
            let problem = fleet.admin.post(path, body.clone()).await.problem(400, "invalid");
            assert_eq!(problem.errors[0].field, field, "{body}");
        }
        let nobody = json!({"verb": "cordon", "devices": ["nobody"], "dryRun": true});
        fleet.admin.post(path, nobody).await.problem(404, "not-found");
        fleet.tenant("other").await;
        let elsewhere: Value =
            fleet.admin.in_tenant("other").post(path, ask("diagnostics", json!({}))).await.expect(200).json();
        assert_eq!(elsewhere["total"], 0);
        channel.close().await;
    }))
    .await;
}
