//! Alerts: rules, silences, routes; webhooks against receivers on real sockets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_control::alerts::Targets;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Fleet, each_engine, each_engine_with, eventually};
use crate::incidents::{incident, sick, tell};
use crate::wire::now;

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Taken {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A receiver of webhooks.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) url: String,
    taken: Arc<Mutex<Vec<Taken>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    /// Answers with the statuses it was given, the last one for ever.
    async fn start(statuses: &'static [u16]) -> Self {
        Self::start_with(|count, _| statuses[count.min(statuses.len() - 1)]).await
    }

    /// Answers with what is made of how many came before, and of what came.
    pub(crate) async fn start_with(status: impl Fn(usize, &Taken) -> u16 + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let taken = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&taken);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // One that breaks off is not taken, and the sender tries again.
                let _ = read_request(stream, &status, &all).await;
            }
        });
        Self { url, taken, task }
    }

    pub(crate) fn taken(&self) -> Vec<Taken> {
        self.taken.lock().unwrap().clone()
    }

    pub(crate) async fn wait(&self, count: usize) -> Vec<Taken> {
        eventually("a webhook", async || {
            let taken = self.taken();
            (taken.len() >= count).then_some(taken)
        })
        .await
    }
}

async fn read_request(
    stream: TcpStream,
    status: impl Fn(usize, &Taken) -> u16,
    all: &Mutex<Vec<Taken>>,
) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).await.ok()?;
    assert_eq!(line.trim(), "POST /hook HTTP/1.1");
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    reader.read_exact(&mut body).await.ok()?;
    let status = {
        let mut all = all.lock().unwrap();
        all.push(Taken { headers, body });
        let (last, before) = all.split_last()?;
        status(before.len(), last)
    };
    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    reader.get_mut().write_all(answer.as_bytes()).await.ok()
}

impl Taken {
    /// The signature is Standard Webhooks'. Returns the message's id.
    pub(crate) fn check(&self, secret: &str) -> String {
        let id = &self.headers["webhook-id"];
        let seconds: i64 = self.headers["webhook-timestamp"].parse().unwrap();
        assert!((now().0 / 1_000 - seconds).abs() < 60);
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let mut signed = format!("{id}.{seconds}.").into_bytes();
        signed.extend_from_slice(&self.body);
        let tag = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key), &signed);
        assert_eq!(self.headers["webhook-signature"], format!("v1,{}", STANDARD.encode(tag)));
        id.clone()
    }
}

pub(crate) fn any(settings: &mut farshore_control::settings::Settings) {
    settings.alert_targets = Targets::Any;
}

async fn webhook(fleet: &Fleet, name: &str, url: &str, more: Value) -> Value {
    let mut spec = json!({"type": "webhook", "groupWaitSeconds": 0, "webhook": {"url": url}});
    for (key, value) in more.as_object().unwrap() {
        match (spec.get_mut(key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => old.extend(new.clone()),
            _ => spec[key] = value.clone(),
        }
    }
    fleet
        .admin
        .post("/api/alert-routes", json!({"metadata": {"name": name}, "spec": spec}))
        .await
        .expect(201)
        .json()
}

async fn alerts(fleet: &Fleet, query: &str) -> Vec<Value> {
    let list: Value = fleet.admin.get(&format!("/api/alerts{query}")).await.expect(200).json();
    list["items"].as_array().unwrap().clone()
}

pub(crate) async fn deliveries(fleet: &Fleet, state: &str) -> Vec<Value> {
    let list: Value =
        fleet.admin.get(&format!("/api/alert-deliveries?state={state}")).await.expect(200).json();
    list["items"].as_array().unwrap().clone()
}

/// Only this rule is on.
pub(crate) async fn only(fleet: &Fleet, rule: &str) {
    let list: Value = fleet.admin.get("/api/alert-rules").await.expect(200).json();
    for one in list["items"].as_array().unwrap() {
        let name = one["metadata"]["name"].as_str().unwrap();
        let mut spec = one["spec"].clone();
        spec["enabled"] = json!(name == rule);
        fleet
            .admin
            .put(&format!("/api/alert-rules/{name}"), json!({"metadata": {"name": name}, "spec": spec}))
            .await
            .expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_fires_is_told_signed_and_ends() {
    each_engine_with(any, async |fleet| {
        let receiver = Receiver::start(&[200]).await;
        only(fleet, "crash-loop").await;
        let made = webhook(fleet, "ops", &receiver.url, json!({})).await;
        let secret = made["status"]["secret"].as_str().unwrap().to_owned();
        let (_device, mut channel, uid) = sick(fleet, "kiosk").await;
        let taken = receiver.wait(1).await.remove(0);
        let id = taken.check(&secret);
        let body = taken.json();
        assert_eq!(
            (body["type"].as_str(), body["data"]["status"].as_str()),
            (Some("alerts"), Some("firing"))
        );
        assert_eq!(body["data"]["alerts"][0]["rule"], "crash-loop");
        assert_eq!(body["data"]["alerts"][0]["labels"]["device"], "kiosk");
        let firing = alerts(fleet, "?state=firing&severity=critical&rule=crash-loop").await;
        assert_eq!(firing.len(), 1, "{firing:?}");
        // It does not fire twice, and is over when the incident is.
        tell(&mut channel, 2, vec![incident(uid, 6, json!({}))], Vec::new()).await;
        tell(&mut channel, 3, vec![incident(uid, 6, json!({ "endedAt": now().0 }))], Vec::new()).await;
        let taken = receiver.wait(2).await;
        assert_eq!(taken[1].json()["data"]["status"], "resolved");
        assert_ne!(taken[1].headers["webhook-id"], id);
        assert_eq!(alerts(fleet, "?state=firing").await.len(), 0);
        assert_eq!(alerts(fleet, "?state=ended").await.len(), 1);
        assert_eq!(deliveries(fleet, "delivered").await.len(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_is_tried_again_and_one_that_is_gone_leaves_a_dead_letter() {
    each_engine_with(any, async |fleet| {
        let (flaky, gone) = (Receiver::start(&[500, 200]).await, Receiver::start(&[410, 200]).await);
        only(fleet, "crash-loop").await;
        webhook(fleet, "flaky", &flaky.url, json!({ "webhook": {"format": "alertmanager"} })).await;
        webhook(fleet, "gone", &gone.url, json!({})).await;
        let (_device, _channel, _) = sick(fleet, "kiosk").await;
        let taken = flaky.wait(2).await;
        assert_eq!(taken[0].headers["webhook-id"], taken[1].headers["webhook-id"], "the same message");
        assert_eq!(taken[0].body, taken[1].body);
        let body = taken[1].json();
        assert_eq!((body["version"].as_str(), body["receiver"].as_str()), (Some("4"), Some("flaky")));
        assert_eq!(body["alerts"][0]["labels"]["alertname"], "crash-loop");
        let dead = eventually("the dead letter", async || deliveries(fleet, "dead").await.pop()).await;
        assert_eq!(dead["routeName"], "gone");
        assert!(dead["lastError"].as_str().unwrap().contains("410"), "{dead}");
        let told = eventually("its event", async || {
            let events: Value =
                fleet.admin.get("/api/events?kind=alert.undelivered").await.expect(200).json();
            events["items"].as_array().unwrap().first().cloned()
        })
        .await;
        assert_eq!(
            (&told["subject"]["name"], &told["payload"]["delivery"]),
            (&json!("gone"), &dead["uid"]),
            "{told}"
        );
        let path = format!("/api/alert-deliveries/{}:retry", dead["uid"].as_str().unwrap());
        fleet.role("viewer").await.post(&path, json!({})).await.problem(403, "forbidden");
        fleet.admin.post(&path, json!({})).await.expect(200);
        gone.wait(2).await;
        eventually("both delivered", async || {
            (deliveries(fleet, "delivered").await.len() == 2).then_some(())
        })
        .await;
        fleet.admin.post(&path, json!({})).await.problem(409, "conflict");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silence_keeps_it_quiet_until_it_ends_and_an_acknowledged_alert_stays_so() {
    each_engine_with(any, async |fleet| {
        let receiver = Receiver::start(&[200]).await;
        only(fleet, "incident").await;
        webhook(fleet, "ops", &receiver.url, json!({})).await;
        let spec = json!({"matchers": [{"name": "device", "value": "kiosk"}], "endsAt": now().0 + 600_000, "comment": "works"});
        fleet.admin.post("/api/silences", json!({"metadata": {"name": "works"}, "spec": spec})).await.expect(201);
        let (_quiet, _first, _) = sick(fleet, "kiosk").await;
        let (_loud, _second, _) = sick(fleet, "other").await;
        let taken = receiver.wait(1).await;
        assert_eq!(taken[0].json()["data"]["alerts"][0]["labels"]["device"], "other");
        let silenced = eventually("both alerts", async || {
            let all = alerts(fleet, "?state=firing").await;
            (all.len() == 2).then(|| all.into_iter().find(|alert| alert["silencedBy"] != json!([])))
        })
        .await
        .unwrap();
        assert_eq!((silenced["silencedBy"].clone(), silenced["labels"]["device"].clone()), (json!(["works"]), json!("kiosk")));
        assert_eq!(receiver.taken().len(), 1);
        fleet.admin.delete("/api/silences/works").await.expect(204);
        let taken = receiver.wait(2).await;
        assert_eq!(taken[1].json()["data"]["alerts"][0]["labels"]["device"], "kiosk");
        let path = format!("/api/alerts/{}:acknowledge", silenced["uid"].as_str().unwrap());
        let said: Value = fleet.admin.post(&path, json!({"comment": "mine"})).await.expect(200).json();
        let again: Value = fleet.admin.post(&path, json!({"comment": "no, mine"})).await.expect(200).json();
        assert_eq!((said["comment"].as_str(), again["comment"].as_str()), (Some("mine"), Some("mine")));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_and_messages_survive_a_restart_without_being_told_twice() {
    for database in farshore_store::test_util::TestDatabase::each().await {
        let receiver = Receiver::start(&[200]).await;
        let fleet = Fleet::start(database, &any).await;
        only(&fleet, "incident").await;
        webhook(&fleet, "ops", &receiver.url, json!({})).await;
        let (_device, _channel, _) = sick(&fleet, "kiosk").await;
        receiver.wait(1).await;
        eventually("delivered", async || (deliveries(&fleet, "delivered").await.len() == 1).then_some(()))
            .await;
        let before = alerts(&fleet, "").await;
        let fleet = fleet.restart().await;
        // Another incident is told, which shows that rules were looked at again.
        let (_other, _second, _) = sick(&fleet, "other").await;
        let taken = receiver.wait(2).await;
        assert_eq!(taken[1].json()["data"]["alerts"][0]["labels"]["device"], "other");
        let after = alerts(&fleet, "").await;
        assert!(after.iter().any(|alert| alert["uid"] == before[0]["uid"]), "the first goes on");
        assert_eq!((after.len(), receiver.taken().len()), (2, 2));
        fleet.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_a_long_backlog_is_told_of_until_it_has_caught_up() {
    each_engine(async |fleet| {
        only(fleet, "gateway-backlog").await;
        let device = fleet.device("gateway").await;
        let reports = async |points: u64| {
            let body = json!({"epoch": "00000000000000a1", "report": {"backlogPoints": points}});
            device.post("/api/device/sync", body).await.expect(200);
        };
        reports(20_000).await;
        let firing = eventually("the alert", async || alerts(fleet, "?state=firing").await.pop()).await;
        assert_eq!(
            (firing["rule"].as_str(), firing["labels"]["device"].as_str()),
            (Some("gateway-backlog"), Some("gateway"))
        );
        reports(5).await;
        eventually("its end", async || alerts(fleet, "?state=ended").await.pop()).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_there_from_the_start_and_refuse_what_makes_no_sense() {
    each_engine(async |fleet| {
        let list: Value = fleet.admin.get("/api/alert-rules").await.expect(200).json();
        let names: Vec<_> =
            list["items"].as_array().unwrap().iter().map(|rule| rule["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(
            names,
            [
                "certificate-expiring", "crash-loop", "device-offline", "disk-full-soon", "gateway-backlog", "heartbeat-gap",
                "incident", "rollout-halted"
            ]
        );
        let rule = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
        let spec = json!({"type": "device-offline", "severity": "critical", "threshold": 60});
        let made = rule("shop-offline", spec.clone());
        let made: Value = fleet.admin.post("/api/alert-rules", made).await.expect(201).json();
        assert_eq!((made["status"]["builtIn"].clone(), made["status"]["unit"].clone()), (json!(false), json!("seconds")));
        for (name, change, field) in [
            ("x", json!({"threshold": 1}), "spec.threshold"),
            ("x", json!({"type": "full-moon"}), "spec.type"),
            ("x", json!({"severity": "bad"}), "spec.severity"),
            ("x", json!({"colour": "red"}), "spec.colour"),
            ("crash-loop", json!({}), "spec.type"),
        ] {
            let mut spec = spec.clone();
            spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let problem = fleet.admin.post("/api/alert-rules", rule(name, spec)).await.problem(400, "invalid");
            assert_eq!(problem.errors[0].field, field, "{change}");
        }
        fleet.admin.delete("/api/alert-rules/crash-loop").await.problem(409, "conflict");
        fleet.admin.delete("/api/alert-rules/shop-offline").await.expect(204);
        fleet.role("viewer").await.post("/api/alert-rules", rule("y", spec)).await.problem(403, "forbidden");
        for (spec, field) in [
            (json!({"matchers": [], "endsAt": now().0 + 1_000}), "spec.matchers"),
            (json!({"matchers": [{"name": "app", "value": "web", "isEqual": false}], "endsAt": now().0 + 9_000}), "spec.matchers"),
            (json!({"matchers": [{"name": "app", "value": "web"}], "endsAt": 5}), "spec.endsAt"),
        ] {
            let problem = fleet.admin.post("/api/silences", rule("s", spec)).await.problem(400, "invalid");
            assert_eq!(problem.errors[0].field, field);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_routes_are_never_shown_again_nor_stored_in_the_clear() {
    each_engine_with(any, async |fleet| {
        let secret = format!("whsec_{}", STANDARD.encode([7; 32]));
        let made = webhook(fleet, "ops", "http://127.0.0.1:9/hook", json!({ "webhook": {"secret": secret} })).await;
        assert_eq!(made["status"], json!({"secretSet": true}), "what was given is not shown");
        let mail = json!({"type": "email", "email": {"to": ["a@example.com"], "from": "f@example.com", "host": "127.0.0.1", "port": 465,
            "tls": "tls", "username": "u", "password": "hunter2-hunter2"}});
        fleet.admin.post("/api/alert-routes", json!({"metadata": {"name": "mail"}, "spec": mail})).await.expect(201);
        for path in ["/api/alert-routes", "/api/alert-routes/ops", "/api/alert-routes/mail", "/api/events"] {
            let text = fleet.admin.get(path).await.expect(200).text();
            assert!(!text.contains("hunter2") && !text.contains(&secret), "{path}: {text}");
        }
        let system = fleet.app.store().system(farshore_store::Driver::Alerts);
        let tenants = system.tenant_ids().await.unwrap();
        let mut stored = Vec::new();
        for (tenant, _) in tenants {
            let kind = farshore_store::objects::ObjectKind::AlertRoute;
            let all = system.all_objects::<Value>(tenant.0, kind).await.unwrap();
            stored.extend(all.into_iter().map(|route| route.spec.to_string()));
        }
        assert_eq!(stored.len(), 2);
        let clear = |spec: &String| spec.contains("hunter2") || spec.contains(&secret);
        assert!(!stored.iter().any(clear) && stored.iter().all(|spec| spec.contains("sealed")), "{stored:?}");
        // A kept password does not go to another server.
        let moved = json!({"type": "email", "email": {"to": ["a@example.com"], "from": "f@example.com", "host": "evil.example.com", "port": 465,
            "tls": "tls", "username": "u"}});
        let problem = fleet
            .admin
            .put("/api/alert-routes/mail", json!({"metadata": {"name": "mail"}, "spec": moved}))
            .await
            .problem(400, "invalid");
        assert_eq!(problem.errors[0].field, "spec.email.password");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_do_not_lead_inside_unless_the_server_allows_it() {
    each_engine(async |fleet| {
        let post = async |spec: Value| {
            fleet.admin.post("/api/alert-routes", json!({"metadata": {"name": "r"}, "spec": spec})).await.problem(400, "invalid")
        };
        for url in ["http://127.0.0.1:8443/", "http://[::ffff:169.254.169.254]/", "http://10.0.0.1/", "file:///etc/passwd", "http://0x7f000001/"] {
            let problem = post(json!({"type": "webhook", "webhook": {"url": url}})).await;
            assert_eq!(problem.errors[0].field, "spec.webhook.url", "{url}");
        }
        let mail = json!({"to": ["a@example.com"], "from": "f@example.com", "host": "127.0.0.1", "port": 25, "tls": "none"});
        assert_eq!(post(json!({"type": "email", "email": mail})).await.errors[0].field, "spec.email.host");
        // A name that leads inside is found out when the message is sent.
        let receiver = Receiver::start(&[200]).await;
        let url = receiver.url.replace("127.0.0.1", "localhost");
        only(fleet, "crash-loop").await;
        webhook(fleet, "sly", &url, json!({})).await;
        let (_device, _channel, _) = sick(fleet, "kiosk").await;
        let waiting = eventually("a failed attempt", async || {
            deliveries(fleet, "queued").await.into_iter().find(|one| one["attempts"].as_i64() > Some(0))
        })
        .await;
        assert!(waiting["lastError"].as_str().unwrap().contains("alert-targets"), "{waiting}");
        assert_eq!(receiver.taken().len(), 0);
    })
    .await;
}
