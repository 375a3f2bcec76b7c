//! Rollouts as the API makes and shows them: what is refused, who would be in which wave, what would change, why.

use farshore_domain::desired::DesiredState;
use farshore_domain::release::slot::Activation;
use farshore_protocol::server_frame;
use serde_json::{Value, json};

use crate::harness::{Client, Fleet, each_engine};
use crate::objects::Publisher;
use crate::wire::Channel;

/// Two devices in `canary` that have app `web` by placement, with releases 1.0.0 and 1.1.0 of it.
async fn stage(fleet: &Fleet) -> Client {
    stage_by(fleet).await.0
}

/// The same, with whoever signs releases.
async fn stage_by(fleet: &Fleet) -> (Client, Publisher) {
    let admin = fleet.admin.clone();
    let publisher = Publisher::new(fleet, "default").await;
    for (path, name, spec) in [
        ("/api/apps", "web", json!({})),
        ("/api/placements", "web", json!({"app": "web"})),
        ("/api/channels", "canary", json!({})),
        ("/api/channels", "wide", json!({})),
    ] {
        admin.post(path, json!({"metadata": {"name": name}, "spec": spec})).await.expect(201);
    }
    for name in ["a", "b"] {
        let uid = fleet.device(name).await.uid();
        let spec = json!({"metadata": {"name": name}, "spec": {"channel": "canary"}});
        admin.put(&format!("/api/devices/{uid}"), spec).await.expect(200);
    }
    publisher.release("web", "1.0.0").await;
    publisher.release("web", "1.1.0").await;
    (admin, publisher)
}

fn rollout(name: &str, more: Value) -> Value {
    let mut spec = json!({"app": "web", "channel": "canary", "release": "web@1.0.0"});
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_could_never_progress_is_refused_with_its_field() {
    each_engine(async |fleet| {
        let admin = stage(fleet).await;
        for (field, more) in [
            ("spec.dependsOn[0]", json!({"dependsOn": ["nothing"]})),
            ("spec.dependsOn[0]", json!({"dependsOn": ["it"]})),
            ("spec.promotion.to", json!({"promotion": {"to": "nowhere"}})),
            ("spec.waves[0].selector", json!({"waves": [{"selector": "ring=x"}, {"percent": 100}]})),
            ("spec.minAvailable", json!({"minAvailable": 2})),
            ("spec.minAvailable", json!({"minAvailable": 1, "maxUnavailable": "25%"})),
            ("spec.maxUnavailable", json!({"maxUnavailable": 0})),
            // The release may take 60 s to start, and soaks for 10.
            ("spec.deviceTimeoutSeconds", json!({"permitSeconds": 20, "deviceTimeoutSeconds": 69})),
            ("spec.gate", json!({"gate": "metric(\"no-such-metric\") > 1.0"})),
        ] {
            let problem =
                admin.post("/api/rollouts?start=false", rollout("it", more)).await.problem(400, "invalid");
            let fields: Vec<_> = problem.errors.iter().map(|error| error.field.as_str()).collect();
            assert!(fields.contains(&field), "{field}: {problem:?}");
        }
        let ended = rollout("ended", json!({}));
        admin.post("/api/rollouts?start=false", ended).await.expect(201);
        admin.post("/api/rollouts/ended:abort", json!({})).await.expect(200);
        let after = rollout("it", json!({"dependsOn": ["ended"]}));
        admin.post("/api/rollouts?start=false", after).await.problem(400, "invalid");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_in_which_no_device_could_ever_change_are_refused_at_creation() {
    each_engine(async |fleet| {
        let admin = stage(fleet).await;
        let at =
            |cron: &str| json!({"windows": [{"kind": "maintenance", "cron": cron, "durationSeconds": 3600}]});
        let refused = async |more: Value| {
            let body = rollout("it", more);
            let mut problem = admin.post("/api/rollouts?start=false", body).await.problem(400, "invalid");
            let error = problem.errors.remove(0);
            (error.field, error.message)
        };
        let (field, text) = refused(at("0 2 31 2 *")).await;
        assert_eq!(field, "spec.windows[0].cron", "{text}");
        // The devices' own hours, at night, and the rollout's, at noon.
        let nights =
            json!({"metadata": {"name": "nights"}, "spec": {"rules": {"schedule": at("0 2 * * *")}}});
        admin.post("/api/policies", nights).await.expect(201);
        let (field, text) = refused(at("0 12 * * *")).await;
        assert_eq!(field, "spec.windows");
        for part in ["2 of 2 devices (a, b)", "policy nights", "366 days"] {
            assert!(text.contains(part), "{text}");
        }
        admin.post("/api/rollouts?start=false", rollout("it", at("30 2 * * *"))).await.expect(201);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_in_which_wave_what_would_change_and_why_are_known_before_the_start() {
    each_engine(async |fleet| {
        let admin = stage(fleet).await;
        let waves = json!({"waves": [{"count": 1, "soakSeconds": 0}, {"percent": 100, "soakSeconds": 0}]});
        let body = rollout("first", waves);
        let preview: Value = admin
            .post("/api/assignments:preview", json!({"rollouts": [body.clone()]}))
            .await
            .expect(200)
            .json();
        assert_eq!((&preview["changed"], &preview["devices"]), (&json!(2), &json!(2)), "{preview:#}");
        assert_eq!(preview["items"][0]["to"], "1.0.0", "{preview:#}");
        admin.post("/api/rollouts?start=false", body).await.expect(201);
        let path = "/api/rollouts/first/plan";
        let plan: Value = admin.get(path).await.expect(200).json();
        assert_eq!((&plan["started"], &plan["population"]), (&json!(false), &json!(2)), "{plan:#}");
        let order = |plan: &Value| -> Vec<(String, u64)> {
            let items = plan["items"].as_array().unwrap();
            items
                .iter()
                .map(|i| (i["name"].as_str().unwrap().to_owned(), i["wave"].as_u64().unwrap()))
                .collect()
        };
        let before = order(&plan);
        assert_eq!(before.iter().map(|(_, wave)| *wave).collect::<Vec<_>>(), [1, 2]);
        let one: Value = admin.get(&format!("{path}?limit=1")).await.expect(200).json();
        assert_eq!((order(&one).len(), &one["metadata"]["continue"]), (1, &json!("1")));
        let draft: Value = admin.get("/api/rollouts/first").await.expect(200).json();
        assert_eq!(draft["status"]["summary"]["phase"], "pending", "looking does not start it: {draft:#}");
        let why: Value = admin.get("/api/rollouts/first/why").await.expect(200).json();
        assert_eq!(why["chain"][0]["code"], "Pending", "{why:#}");
        let waits = why["chain"].as_array().unwrap().iter().any(|cause| cause["owner"] == "operator");
        assert!(waits, "it waits for somebody to start it: {why:#}");

        admin.post("/api/rollouts/first:start", json!({"comment": "go"})).await.expect(200);
        let started: Value = admin.get(path).await.expect(200).json();
        assert_eq!(started["started"], true);
        assert_eq!(order(&started), before, "the waves are those that were shown");
        let name = &before[0].0;
        let why: Value = admin.get(&format!("/api/devices/{name}/why")).await.expect(200).json();
        assert_eq!(why["subject"]["name"], name.as_str(), "{why:#}");
        let linked = why["chain"].as_array().unwrap().iter().any(|cause| cause["link"] == "rollout/first");
        assert!(linked, "{why:#}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_may_approve_decides_at_a_gate() {
    each_engine(async |fleet| {
        let admin = stage(fleet).await;
        admin.post("/api/rollouts?start=false", rollout("first", json!({}))).await.expect(201);
        for verb in ["approve", "reject"] {
            let path = format!("/api/rollouts/first:{verb}");
            fleet.role("security-analyst").await.post(&path, json!({})).await.problem(403, "forbidden");
            fleet.role("operator").await.post(&path, json!({})).await.problem(409, "conflict");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_with_slots_goes_to_devices_that_can_run_it_twice_and_the_others_are_named() {
    each_engine(async |fleet| {
        let (admin, publisher) = stage_by(fleet).await;
        // What can't be done is refused by its field, and says why.
        let of_files = publisher
            .changed_release("web", "1.5.0", |manifest| {
                manifest["run"] = json!({"kind": "files", "files": {"entries": [{"source": "a", "target": "/etc/a"}]}});
            })
            .await;
        admin.post("/api/releases", of_files).await.expect(201);
        for (release, why) in [("web@1.1.0", "run.slots"), ("web@1.5.0", "kind files")] {
            let asked = json!({"release": release, "activation": "blue-green"});
            let problem =
                admin.post("/api/rollouts?start=false", rollout("it", asked)).await.problem(400, "invalid");
            assert_eq!(problem.errors[0].field, "spec.activation", "{problem:?}");
            assert!(problem.errors[0].message.contains(why), "{problem:?}");
        }
        let odd = json!({"activation": "sideways"});
        admin.post("/api/rollouts?start=false", rollout("it", odd)).await.problem(400, "invalid");

        let slotted = publisher
            .changed_release("web", "2.0.0", |manifest| {
                manifest["run"]["slots"] = json!({"blue": 8081, "green": 8082});
                let probe = json!({"type": "http", "port": "$PORT", "path": "/"});
                manifest["health"] = json!([{"name": "web", "probe": probe}]);
            })
            .await;
        admin.post("/api/releases", slotted).await.expect(201);
        let next = |more: Value| {
            let mut spec = json!({"channel": "pair", "release": "web@2.0.0", "waves": [{"percent": 100, "soakSeconds": 0}], "maxUnavailable": "100%"});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        // Devices of a channel of their own: first one that can't, then one that can.
        admin.post("/api/channels", json!({"metadata": {"name": "pair"}, "spec": {}})).await.expect(201);
        let mut channels = Vec::new();
        for (name, capabilities) in [("old", &["process"][..]), ("able", &["process", "blue-green/v1"])] {
            let device = fleet.device(name).await;
            let spec = json!({"metadata": {"name": name}, "spec": {"channel": "pair"}});
            admin.put(&format!("/api/devices/{}", device.uid()), spec).await.expect(200);
            let mut channel = Channel::connect(fleet, &device).await.unwrap();
            channel.hello_with(capabilities).await;
            channels.push(channel);
            while {
                let shown: Value = admin.get(&format!("/api/devices/{name}")).await.expect(200).json();
                shown["status"]["capabilities"] != json!(capabilities)
            } {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            if name == "old" {
                let problem = admin
                    .post("/api/rollouts?start=false", rollout("it", next(json!({}))))
                    .await
                    .problem(400, "invalid");
                assert_eq!(problem.errors[0].field, "spec.release", "{problem:?}");
            }
        }
        let mut channel = channels.pop().unwrap();
        let made: Value = admin
            .post("/api/rollouts", rollout("two", next(json!({"activation": "blue-green"}))))
            .await
            .expect(201)
            .json();
        assert_eq!(made["status"]["summary"]["activation"], "blue-green", "{made:#}");
        let waiting = made["status"]["waiting"].as_array().unwrap();
        let told = waiting.iter().find(|waiting| waiting["reason"]["code"] == "Incapable").unwrap();
        let message = told["reason"]["message"].as_str().unwrap();
        assert!(message.starts_with("1 device can't") && message.contains(": old;"), "{message}");
        let app = channel
            .until("the release", |body| match body {
                server_frame::Body::Desired(desired) => DesiredState::parse(&desired.body)
                    .unwrap()
                    .apps
                    .into_iter()
                    .find(|app| app.release.version.as_str() == "2.0.0"),
                _ => None,
            })
            .await;
        assert_eq!(app.activation, Some(Activation::BlueGreen));
        let mut left_out = Vec::new();
        let path = "/api/rollouts/two/devices?bucket=excluded";
        while left_out.is_empty() {
            let devices: Value = admin.get(path).await.expect(200).json();
            left_out = devices["items"].as_array().unwrap().clone();
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert!(left_out.iter().all(|device| device["reason"].as_str().unwrap().contains("two instances")), "{left_out:?}");
    })
    .await;
}
