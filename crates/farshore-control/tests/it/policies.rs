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

#[tokio::test(flavor = "multi_thread")]
async fn windows_go_only_to_agents_that_know_them_and_are_refused_when_they_never_open() {
    each_engine(async |fleet| {
        let window = |cron: &str| {
            let window = json!({"kind": "maintenance", "cron": cron, "durationSeconds": 600});
            json!({"rules": {"restart": {"maxRestarts": 3}, "schedule": {"windows": [window]}}})
        };
        let never = policy("never", window("0 2 31 2 *"));
        let problem = fleet.admin.post("/api/policies", never).await.problem(400, "invalid");
        assert_eq!(problem.errors[0].field, "spec.rules.schedule.windows[0].cron", "{problem:?}");
        let mut told = Vec::new();
        fleet.admin.post("/api/policies", policy("nights", window("0 2 * * *"))).await.expect(201);
        for (name, capabilities) in [("old", &["policy/v1"][..]), ("new", &["policy/v1", "policy/v2"])] {
            let token = fleet.claim_token(json!({"labels": {"timezone": "Europe_Riga"}})).await;
            let mut device = TestDevice::new(fleet);
            let claimed = device.claim(&secret_of(&token), name).await.expect(200).json();
            device.take(fleet, claimed);
            let mut channel = Channel::connect(fleet, &device).await.unwrap();
            channel.hello_with(capabilities).await;
            let policy = channel
                .until("the policy", |body| match body {
                    server_frame::Body::Desired(desired) => {
                        DesiredState::parse(&desired.body).unwrap().policy
                    }
                    _ => None,
                })
                .await;
            assert_eq!(policy.rules.restart.max_restarts, Some(3), "{name}");
            told.push((policy.rules.schedule.windows.map(|windows| windows.len()), policy.time_zone));
            let shown: Value =
                fleet.admin.get(&format!("/api/devices/{name}/policy")).await.expect(200).json();
            assert_eq!(shown["understood"], name == "new");
            let from = &shown["effective"]["provenance"]["schedule.windows"];
            assert_eq!(from, &json!({"policy": "nights", "version": 1}));
        }
        assert_eq!(told, [(None, None), (Some(1), Some("Europe/Riga".to_owned()))]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_says_what_changes_for_whom_and_stores_nothing() {
    each_engine(async |fleet| {
        for (name, site) in [("a", "riga"), ("b", "riga"), ("c", "oslo")] {
            let token = fleet.claim_token(json!({"labels": {"site": site}})).await;
            TestDevice::new(fleet).claim(&secret_of(&token), name).await.expect(200);
        }
        let of_riga =
            |most: u32| json!({"selector": "site=riga", "rules": {"restart": {"maxRestarts": most}}});
        let base = json!({"rules": {"restart": {"maxRestarts": 5, "windowSeconds": 300}}});
        fleet.admin.post("/api/policies", policy("base", base)).await.expect(201);
        let preview = async |name: &str, spec: Value| -> Value {
            fleet.admin.post("/api/policies:preview", policy(name, spec)).await.expect(200).json()
        };
        let seen = preview("riga", of_riga(3)).await;
        assert_eq!(
            (&seen["matching"], &seen["changed"], &seen["devices"]),
            (&json!(2), &json!(2), &json!(["a", "b"]))
        );
        let change =
            json!({"path": "restart.maxRestarts", "from": "5", "to": "3", "policy": "riga", "devices": 2});
        assert_eq!(seen["changes"], json!([change]));
        // The same as what is there changes nothing; to match fewer gives back what others say.
        fleet.admin.post("/api/policies", policy("riga", of_riga(3))).await.expect(201);
        assert_eq!(preview("riga", of_riga(3)).await["changed"], 0);
        let mut elsewhere = of_riga(3);
        elsewhere["selector"] = json!("site=lima");
        let seen = preview("riga", elsewhere).await;
        assert_eq!((&seen["matching"], &seen["changed"]), (&json!(0), &json!(2)));
        assert_eq!((&seen["changes"][0]["to"], &seen["changes"][0]["policy"]), (&json!("5"), &json!("base")));
        let bad = policy("riga", json!({"rules": {"restart": {"maxRestarts": 99}}}));
        let problem = fleet.admin.post("/api/policies:preview", bad).await.problem(400, "invalid");
        assert_eq!(problem.errors[0].field, "spec.rules.restart.maxRestarts");
        let riga: Value = fleet.admin.get("/api/policies/riga").await.expect(200).json();
        assert_eq!(riga["metadata"]["resourceVersion"], 1);
    })
    .await;
}

/// A day that many days from now.
fn day(days: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(crate::wire::now().0 + days * 86_400_000).unwrap();
    at.to_zoned(jiff::tz::TimeZone::UTC).date().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_can_never_meet_are_refused_with_the_field_and_how_many_devices_it_holds_for() {
    each_engine(async |fleet| {
        for (name, site) in [("a", "riga"), ("b", "riga"), ("c", "oslo")] {
            let token = fleet.claim_token(json!({"labels": {"site": site}})).await;
            let mut device = TestDevice::new(fleet);
            let claimed = device.claim(&secret_of(&token), name).await.expect(200).json();
            device.take(fleet, claimed);
        }
        let schedule = |schedule: Value| json!({"rules": {"schedule": schedule}});
        let refused = async |path: &str, body: Value| {
            let problem = fleet.admin.post(path, body).await.problem(400, "invalid");
            (problem.errors[0].field.clone(), problem.errors[0].message.clone())
        };
        // By itself.
        let frozen = json!([{"from": day(-1), "to": day(300)}, {"from": day(301), "to": day(500)}]);
        for path in ["/api/policies", "/api/policies:preview"] {
            let (field, text) = refused(path, policy("freeze", schedule(json!({"blackouts": frozen})))).await;
            assert_eq!(field, "spec.rules.schedule.blackouts");
            assert!(text.contains("all of the next 366 days"), "{text}");
        }
        // With another policy: a window once a year, and a freeze over just that day.
        let month_day = if day(40).ends_with("02-29") { day(41) } else { day(40) };
        let (month, date) = (&month_day[5..7], &month_day[8..10]);
        let yearly =
            json!({"kind": "maintenance", "cron": format!("0 2 {date} {month} *"), "durationSeconds": 7200});
        fleet
            .admin
            .post("/api/policies", policy("yearly", schedule(json!({"windows": [yearly]}))))
            .await
            .expect(201);
        let around = json!([{"from": day(30), "to": day(395)}]);
        let mut spec = schedule(json!({"blackouts": around}));
        spec["selector"] = json!("site=riga");
        for path in ["/api/policies", "/api/policies:preview"] {
            let (field, text) = refused(path, policy("freeze", spec.clone())).await;
            assert_eq!(field, "spec.rules.schedule.blackouts");
            for part in ["2 of 2 devices (a, b)", "together with policy yearly", "366 days"] {
                assert!(text.contains(part), "{text}");
            }
        }
        // The window itself may be somewhere else.
        spec["rules"]["schedule"]["blackouts"] = json!([{"from": day(60), "to": day(90)}]);
        fleet.admin.post("/api/policies", policy("freeze", spec)).await.expect(201);
        let daily = json!({"kind": "maintenance", "cron": "0 2 * * *", "durationSeconds": 7200});
        fleet
            .admin
            .put("/api/policies/yearly", policy("yearly", schedule(json!({"windows": [daily]}))))
            .await
            .expect(200);
    })
    .await;
}
