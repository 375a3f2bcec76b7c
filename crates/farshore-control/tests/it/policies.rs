//! Policies: checked, kept in versions, merged for a device, and sent to agents that understand them.

use farshore_domain::desired::DesiredState;
use farshore_protocol::server_frame;
use serde_json::{Value, json};

use crate::harness::{TestDevice, each_engine, secret_of};
use crate::wire::Channel;

fn policy(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "farshore.dev/v1", "kind": "Policy", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_checked_and_every_version_of_it_is_kept() {
    each_engine(async |fleet| {
        let first = json!({"selector": "site=riga", "rules": {"restart": {"maxRestarts": 3}}});
        let made: Value = fleet.admin.post("/api/policies", policy("calm", first.clone())).await.expect(201).json();
        assert_eq!((&made["kind"], &made["status"]["devices"]), (&json!("Policy"), &json!(0)));
        let uid = made["metadata"]["uid"].as_str().unwrap();
        for (spec, field, part) in [
            (json!({"rules": {}}), "spec.rules", "at least one value"),
            (json!({"rules": {"restart": {"backoffMs": 0}}}), "spec.rules.restart.backoffMs", "10 to 3600000"),
            (
                json!({"rules": {"health": {"conditions": [{"name": "hot", "when": "metric(\"temprature\") > 90"}]}}}),
                "spec.rules.health.conditions[0].when",
                "did you mean \"temperature\"?",
            ),
        ] {
            let problem = fleet.admin.post("/api/policies", policy("odd", spec)).await.problem(400, "invalid");
            let error = &problem.errors[0];
            assert!(error.field == field && error.message.contains(part), "{problem:?}");
        }
        fleet.admin.post("/api/policies", policy("odd", json!({"rulez": {}}))).await.problem(400, "invalid");
        let second = json!({"selector": "site=riga", "rules": {"restart": {"maxRestarts": 5}}});
        let changed = fleet.role("operator").await.put("/api/policies/calm", policy("calm", second)).await.expect(200);
        assert_eq!(changed.json::<Value>()["spec"]["rules"]["restart"]["maxRestarts"], 5);
        fleet.role("viewer").await.put("/api/policies/calm", policy("calm", first)).await.problem(403, "forbidden");
        let versions = async |query: &str| -> Value {
            fleet.admin.get(&format!("/api/policies/{uid}/versions{query}")).await.expect(200).json()
        };
        let said = |list: &Value| -> Vec<(i64, i64)> {
            let items = list["items"].as_array().unwrap();
            items
                .iter()
                .map(|v| (v["version"].as_i64().unwrap(), v["spec"]["rules"]["restart"]["maxRestarts"].as_i64().unwrap()))
                .collect()
        };
        let all = versions("").await;
        assert_eq!(said(&all), [(2, 5), (1, 3)]);
        assert_ne!(all["items"][0]["actor"], all["items"][1]["actor"]);
        let page = versions("?limit=1").await;
        let next = page["metadata"]["continue"].as_str().unwrap();
        assert_eq!(said(&versions(&format!("?limit=1&continue={next}")).await), [(1, 3)]);
        fleet.admin.delete("/api/policies/calm").await.expect(204);
        fleet.admin.get(&format!("/api/policies/{uid}/versions")).await.problem(404, "not-found");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_told_what_it_obeys_when_it_understands_policies_and_shown_where_it_comes_from() {
    each_engine(async |fleet| {
        let mut devices = Vec::new();
        for name in ["new", "old"] {
            let token = fleet.claim_token(json!({"labels": {"site": "riga"}})).await;
            let mut device = TestDevice::new(fleet);
            let claimed = device.claim(&secret_of(&token), name).await.expect(200).json();
            device.take(fleet, claimed);
            devices.push(device);
        }
        let (mut new, _) =
            (Channel::connect(fleet, &devices[0]).await.unwrap(), Channel::open(fleet, &devices[1]).await);
        new.hello_with(&["policy/v1"]).await;
        for (name, spec) in [
            ("base", json!({"rules": {"restart": {"maxRestarts": 5, "windowSeconds": 300}}})),
            ("riga", json!({"selector": "site=riga", "rules": {"restart": {"maxRestarts": 3}}})),
            (
                "oslo",
                json!({"selector": "site=oslo", "priority": 9, "rules": {"operations": {"exec": true}}}),
            ),
        ] {
            fleet.admin.post("/api/policies", policy(name, spec)).await.expect(201);
        }
        let shown = async |device: &str| -> Value {
            fleet.admin.get(&format!("/api/devices/{device}/policy")).await.expect(200).json()
        };
        let seen = shown("new").await;
        let rules = &seen["effective"]["rules"]["restart"];
        assert_eq!((&rules["maxRestarts"], &rules["windowSeconds"]), (&json!(3), &json!(300)));
        let from = &seen["effective"]["provenance"];
        assert_eq!(from["restart.maxRestarts"], json!({"policy": "riga", "version": 1}));
        assert_eq!(from["restart.windowSeconds"], json!({"policy": "base", "version": 1}));
        assert_eq!(seen["understood"], true);
        assert_eq!(shown("old").await["understood"], false);
        let told = new
            .until("the policy", |body| match body {
                server_frame::Body::Desired(desired) => {
                    let policy = DesiredState::parse(&desired.body).unwrap().policy?;
                    // The three policies come one after the other.
                    (policy.rules.restart.max_restarts == Some(3)).then_some(policy)
                }
                _ => None,
            })
            .await;
        assert_eq!(told.rules.restart.window_seconds, Some(300));
        let riga: Value = fleet.admin.get("/api/policies/riga").await.expect(200).json();
        assert_eq!(riga["status"]["devices"], 2);
        fleet.tenant("other").await;
        fleet.admin.in_tenant("other").get("/api/devices/new/policy").await.problem(404, "not-found");
    })
    .await;
}
