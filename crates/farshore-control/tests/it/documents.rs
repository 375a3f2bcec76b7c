//! Documents between people, the control plane and a real gateway, over the device port.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::http::Method;
use farshore_api::List;
use farshore_api::document::{Document, DocumentConflict, DocumentRevision, Twin};
use farshore_domain::document::exchange as wire;
use farshore_gateway::documents::{Documents, DocumentsError};
use farshore_gateway::sync::{Exchange, SyncAnswer, SyncRequest, Uplink, UplinkError};
use farshore_gateway::{EdgeGateway, GatewayConfig};
use farshore_journal::Outgoing;
use serde_json::{Value, json};

use crate::harness::{Answer, Client, Fleet, TestDevice, each_engine, eventually};
use crate::objects::Publisher;

/// The device port as the gateway has it; can be cut, and lose answers.
#[derive(Debug)]
struct Link {
    device: TestDevice,
    cut: AtomicBool,
    lose_answers: AtomicBool,
    bytes: AtomicUsize,
}

impl Uplink for Link {
    fn ask<'a>(&'a self, _: &'a SyncRequest) -> Exchange<'a, SyncAnswer> {
        Box::pin(async { Err(UplinkError::NoSync) })
    }

    fn put<'a>(&'a self, _: &'a Outgoing) -> Exchange<'a, bool> {
        Box::pin(async { Err(UplinkError::NoSync) })
    }

    fn documents<'a>(&'a self, request: &'a wire::Request) -> Exchange<'a, wire::Answer> {
        Box::pin(async move {
            let unreachable = || UplinkError::Unreachable("cut off".to_owned());
            if self.cut.load(Ordering::SeqCst) {
                return Err(unreachable());
            }
            let answer =
                self.device.post("/api/device/documents", serde_json::to_value(request).unwrap()).await;
            if self.cut.load(Ordering::SeqCst) || self.lose_answers.load(Ordering::SeqCst) {
                return Err(unreachable());
            }
            if answer.status != 200 {
                return Err(UplinkError::Answer(answer.text()));
            }
            self.bytes.fetch_add(answer.body.len(), Ordering::SeqCst);
            Ok(answer.json())
        })
    }
}

struct Site {
    link: Arc<Link>,
    gateway: EdgeGateway,
    folder: tempfile::TempDir,
    name: String,
}

impl Site {
    async fn new(fleet: &Fleet, name: &str) -> Self {
        let device = fleet.device(name).await;
        let name = device.name().to_string();
        let link = Arc::new(Link {
            device,
            cut: AtomicBool::new(false),
            lose_answers: AtomicBool::new(false),
            bytes: AtomicUsize::new(0),
        });
        let folder = tempfile::tempdir().unwrap();
        let gateway = gateway(folder.path(), &link).await;
        Self { link, gateway, folder, name }
    }

    fn documents(&self) -> Documents {
        self.gateway.documents().unwrap()
    }

    fn cut(&self, cut: bool) {
        self.link.cut.store(cut, Ordering::SeqCst);
    }

    async fn restart(&mut self) {
        self.gateway.stop().await;
        self.gateway = gateway(self.folder.path(), &self.link).await;
    }

    /// Until the device has nothing to say and sees this.
    async fn sees(&self, collection: &str, name: &str, value: Option<Value>) {
        let documents = self.documents();
        eventually(&format!("{collection}/{name} is {value:?}"), || async {
            let found = match documents.get(collection, name).await {
                Ok(found) => Some(found),
                Err(DocumentsError::NotFound) => None,
                Err(error) => panic!("{error}"),
            };
            let settled = found.as_ref().is_none_or(|found| !found.pending);
            (settled && found.and_then(|found| found.value) == value).then_some(())
        })
        .await;
    }

    async fn in_cloud(&self, client: &Client, path: &str) -> Option<Value> {
        let answer = client.get(&format!("/api/devices/{}/documents/{path}", self.name)).await;
        (answer.status == 200).then(|| answer.json::<Value>()["value"].clone())
    }

    async fn conflicts(&self, client: &Client) -> Vec<DocumentConflict> {
        let path = format!("/api/document-conflicts?device={}", self.name);
        client.get(&path).await.expect(200).json::<List<DocumentConflict>>().items
    }
}

async fn gateway(folder: &std::path::Path, link: &Arc<Link>) -> EdgeGateway {
    let mut config = GatewayConfig::new("gw", folder.join("journal"));
    config.http = None;
    config.mqtt = None;
    let gateway = EdgeGateway::new(config).unwrap().with_uplink(Arc::clone(link) as Arc<dyn Uplink>);
    gateway.start().await.unwrap();
    gateway
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_go_both_ways_and_offline_edits_survive_a_restart() {
    each_engine(async |fleet| {
        let mut site = Site::new(fleet, "gw").await;
        let (admin, name) = (&fleet.admin, site.name.clone());
        let one = format!("/api/devices/{name}/documents/settings/main");
        let made: Document =
            admin.put(&one, json!({"volume": 3, "door": {"open": true}, "x": null})).await.expect(200).json();
        assert_eq!((made.revision, made.value), (1, Some(json!({"volume": 3, "door": {"open": true}}))));
        site.sees("settings", "main", Some(json!({"volume": 3, "door": {"open": true}}))).await;

        site.cut(true);
        let documents = site.documents();
        documents.patch("settings", "main", json!({"volume": 5}), None).await.unwrap();
        documents.put("notes", "first", Some(json!({"text": "written offline"})), None).await.unwrap();
        let changed =
            admin.send(Method::PATCH, &one, Some(json!({"door": {"open": false}}))).await.expect(200);
        assert_eq!(changed.header("etag"), "\"2\"");
        site.restart().await;
        assert_eq!(site.documents().status().await.unwrap().pending, 2);
        site.cut(false);
        let both = json!({"volume": 5, "door": {"open": false}});
        site.sees("settings", "main", Some(both.clone())).await;
        site.sees("notes", "first", Some(json!({"text": "written offline"}))).await;
        assert_eq!(site.in_cloud(admin, "settings/main").await, Some(both));
        assert_eq!(site.conflicts(admin).await, []);

        let history: List<DocumentRevision> = admin.get(&format!("{one}/history")).await.expect(200).json();
        let causes: Vec<(u64, &str, Option<Value>)> =
            history.items.iter().map(|one| (one.revision, one.cause.as_str(), one.changes.clone())).collect();
        assert_eq!(
            causes,
            [
                (3, "merge", Some(json!({"volume": 5}))),
                (2, "edit", Some(json!({"door": {"open": false}}))),
                (1, "edit", None)
            ]
        );

        // A deletion goes the same way, and the list has it no more.
        admin.delete(&one).await.expect(204);
        site.sees("settings", "main", None).await;
        documents_delete(&site, "notes", "first").await;
        eventually("the deletion arrives", || async {
            site.in_cloud(admin, "notes/first").await.is_none().then_some(())
        })
        .await;
        let list: List<Document> =
            admin.get(&format!("/api/devices/{name}/documents")).await.expect(200).json();
        assert_eq!(list.items, []);
    })
    .await;
}

async fn documents_delete(site: &Site, collection: &str, name: &str) {
    site.documents().put(collection, name, None, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_answer_is_lost_has_one_effect() {
    each_engine(async |fleet| {
        let site = Site::new(fleet, "gw").await;
        site.documents().put("c", "n", Some(json!({"a": 1})), None).await.unwrap();
        site.sees("c", "n", Some(json!({"a": 1}))).await;
        site.link.lose_answers.store(true, Ordering::SeqCst);
        site.documents().patch("c", "n", json!({"a": 2}), None).await.unwrap();
        eventually("it arrives", || async {
            (site.in_cloud(&fleet.admin, "c/n").await == Some(json!({"a": 2}))).then_some(())
        })
        .await;
        // Meanwhile somebody changes it again: the change that is sent a second time must not undo that.
        let path = format!("/api/devices/{}/documents/c/n", site.name);
        fleet.admin.put(&path, json!({"a": 3})).await.expect(200);
        site.link.lose_answers.store(false, Ordering::SeqCst);
        site.sees("c", "n", Some(json!({"a": 3}))).await;
        assert_eq!(site.conflicts(&fleet.admin).await, []);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_decided_by_the_rules_of_the_collection_and_can_be_decided_by_hand() {
    each_engine(async |fleet| {
        let site = Site::new(fleet, "gw").await;
        let admin = &fleet.admin;
        for (collection, rules) in [
            ("cloud", json!([{"strategy": "cloud-wins"}])),
            ("edge", json!([{"strategy": "edge-wins"}])),
            ("hand", json!([{"path": "/a", "strategy": "manual"}])),
            ("sum", json!([{"path": "/a", "strategy": "custom", "resolver": "edge + cloud - base"}])),
            ("broken", json!([{"strategy": "custom", "resolver": "edge.nothing"}])),
        ] {
            let path = format!("/api/document-collections/{collection}");
            admin.put(&path, json!({"rules": rules})).await.expect(200);
        }
        let expected = [
            ("cloud", json!({"a": 20}), "cloud"),
            ("edge", json!({"a": 10}), "edge"),
            ("hand", json!({"a": 20}), "open"),
            ("sum", json!({"a": 29}), "resolver"),
            ("broken", json!({"a": 20}), "open"),
        ];
        for (collection, ..) in &expected {
            site.documents().put(collection, "n", Some(json!({"a": 1})), None).await.unwrap();
            site.sees(collection, "n", Some(json!({"a": 1}))).await;
        }
        site.cut(true);
        for (collection, ..) in &expected {
            site.documents().put(collection, "n", Some(json!({"a": 10})), None).await.unwrap();
            let path = format!("/api/devices/{}/documents/{collection}/n", site.name);
            admin.put(&path, json!({"a": 20})).await.expect(200);
        }
        site.cut(false);
        for (collection, value, _) in &expected {
            site.sees(collection, "n", Some(value.clone())).await;
            assert_eq!(site.in_cloud(admin, &format!("{collection}/n")).await.as_ref(), Some(value));
        }
        let conflicts = site.conflicts(admin).await;
        for (collection, _, winner) in &expected {
            let conflict = conflicts.iter().find(|one| one.collection == *collection).unwrap();
            assert_eq!(serde_json::to_value(conflict.winner).unwrap(), *winner, "{collection}");
            assert!(conflict.edge_at.is_some() && conflict.cloud_at.is_some(), "{conflict:?}");
        }
        let of = |collection: &str| conflicts.iter().find(|one| one.collection == collection).unwrap().uid;
        assert!(
            conflicts
                .iter()
                .any(|one| one.collection == "broken" && one.note.as_ref().unwrap().contains("nothing"))
        );

        let verb = |uid: uuid::Uuid, verb: &str| format!("/api/document-conflicts/{uid}:{verb}");
        admin.post(&verb(of("hand"), "restore"), json!({"choose": "edge"})).await.problem(409, "conflict");
        admin.post(&verb(of("hand"), "resolve"), json!({"choose": "value"})).await.problem(400, "invalid");
        admin.post(&verb(of("hand"), "resolve"), json!({"choose": "edge"})).await.expect(200);
        admin.post(&verb(of("hand"), "resolve"), json!({"choose": "edge"})).await.problem(409, "conflict");
        site.sees("hand", "n", Some(json!({"a": 10}))).await;
        // What lost can be brought back.
        admin.post(&verb(of("cloud"), "restore"), json!({"choose": "edge"})).await.expect(200);
        site.sees("cloud", "n", Some(json!({"a": 10}))).await;
        let open: List<DocumentConflict> =
            admin.get("/api/document-conflicts?state=open").await.expect(200).json();
        assert_eq!(open.items.len(), 1);
        let settled = site.conflicts(admin).await;
        let hand = settled.iter().find(|one| one.collection == "hand").unwrap();
        assert_eq!((hand.chosen.as_deref(), hand.open), (Some("edge"), false));
        assert!(hand.settled_by.as_ref().unwrap().starts_with("user:"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rule_of_the_devices_program_holds_where_the_tenant_has_none() {
    each_engine(async |fleet| {
        let site = Site::new(fleet, "gw").await;
        assert!(site.gateway.set_conflict_resolution_strategy("newest").is_err());
        assert!(site.gateway.set_conflict_resolver("edge +").is_err());
        site.gateway.set_conflict_resolver("edge.n > cloud.n ? edge : cloud").unwrap();
        site.documents().put("c", "n", Some(json!({"n": 1, "by": "edge"})), None).await.unwrap();
        site.sees("c", "n", Some(json!({"n": 1, "by": "edge"}))).await;
        site.cut(true);
        site.documents().put("c", "n", Some(json!({"n": 9, "by": "edge"})), None).await.unwrap();
        let path = format!("/api/devices/{}/documents/c/n", site.name);
        fleet.admin.put(&path, json!({"n": 5, "by": "cloud"})).await.expect(200);
        site.cut(false);
        site.sees("c", "n", Some(json!({"n": 9, "by": "edge"}))).await;
        assert_eq!(site.conflicts(&fleet.admin).await.len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_twin_says_what_is_desired_and_not_reported_and_missed_changes_arrive() {
    each_engine(async |fleet| {
        let site = Site::new(fleet, "gw").await;
        let admin = &fleet.admin;
        let twin = format!("/api/devices/{}/twin", site.name);
        let read = async || -> Twin { admin.get(&twin).await.expect(200).json() };
        assert_eq!(read().await.desired.version, 0);
        admin.send(Method::PATCH, &twin, Some(json!({"interval": 10, "led": "red"}))).await.expect(200);
        site.sees("twin", "desired", Some(json!({"interval": 10, "led": "red"}))).await;
        // The device writes what it reports and nothing else, the cloud the other half.
        let refused = site.documents().put("twin", "desired", Some(json!({})), None).await;
        assert!(matches!(refused, Err(DocumentsError::ReadOnly)));
        let reported = format!("/api/devices/{}/documents/twin/reported", site.name);
        admin.put(&reported, json!({})).await.problem(409, "conflict");
        site.documents().patch("twin", "reported", json!({"interval": 10}), None).await.unwrap();
        eventually("it is reported", || async { (read().await.pending.len() == 1).then_some(()) }).await;
        let now = read().await;
        assert_eq!((now.pending[0].path.as_str(), now.pending[0].reported.as_ref()), ("/led", None));
        assert!(now.pending[0].since.is_some() && now.sync.synced_at.is_some());

        site.cut(true);
        for value in 1..=3 {
            let version = format!("\"{}\"", read().await.desired.version);
            let client = admin.header("if-match", &version);
            client
                .send(Method::PATCH, &twin, Some(json!({"interval": value, "led": null})))
                .await
                .expect(200);
        }
        assert!(!read().await.delivered);
        let stale = admin.header("if-match", "\"1\"");
        stale.send(Method::PATCH, &twin, Some(json!({"interval": 4}))).await.problem(412, "version-mismatch");
        site.cut(false);
        site.sees("twin", "desired", Some(json!({"interval": 3}))).await;
        eventually("the cloud knows that it was delivered", || async {
            read().await.delivered.then_some(())
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_a_collection_change_from_the_version_that_was_seen_and_each_change_is_an_event() {
    each_engine(async |fleet| {
        let (admin, path) = (&fleet.admin, "/api/document-collections/menu");
        let made = admin.put(path, json!({"readOnly": true})).await.expect(200);
        let etag = made.header("etag").to_owned();
        admin.put(path, json!({"readOnly": false})).await.expect(200);
        admin.header("if-match", &etag).put(path, json!({})).await.problem(412, "version-mismatch");
        admin.header("if-match", &etag).delete(path).await.problem(412, "version-mismatch");
        admin.header("if-match", "\"2\"").delete(path).await.expect(204);
        eventually("three events", async || {
            let events: Value =
                admin.get("/api/events?kind=documents.rules-changed&after=0").await.expect(200).json();
            (events["items"].as_array().unwrap().len() == 3).then_some(())
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_devices_may_only_read_they_can_not_change() {
    each_engine(async |fleet| {
        let site = Site::new(fleet, "gw").await;
        site.cut(true);
        // Written before the device has heard of the rule.
        site.documents().put("menu", "lunch", Some(json!({"soup": 1})), None).await.unwrap();
        fleet.admin.put("/api/document-collections/menu", json!({"readOnly": true})).await.expect(200);
        let path = format!("/api/devices/{}/documents/menu/lunch", site.name);
        fleet.admin.put(&path, json!({"soup": 2})).await.expect(200);
        site.cut(false);
        site.sees("menu", "lunch", Some(json!({"soup": 2}))).await;
        let refused = site.documents().put("menu", "lunch", Some(json!({})), None).await;
        assert!(matches!(refused, Err(DocumentsError::ReadOnly)), "{refused:?}");
        let conflicts = site.conflicts(&fleet.admin).await;
        assert_eq!((conflicts.len(), conflicts[0].edge.clone()), (1, Some(json!({"soup": 1}))));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_documents_come_within_seconds_and_nothing_new_costs_next_to_nothing() {
    each_engine(async |fleet| {
        let mut site = Site::new(fleet, "gw").await;
        site.cut(true);
        let documents = site.documents();
        let made = Instant::now();
        let mut writes = tokio::task::JoinSet::new();
        for worker in 0..4_u32 {
            let documents = documents.clone();
            writes.spawn(async move {
                for n in (worker..10_000).step_by(4) {
                    let value = json!({"n": n, "name": format!("thing {n}"), "on": n % 2 == 0});
                    documents.put("things", &n.to_string(), Some(value), None).await.unwrap();
                }
            });
        }
        while let Some(done) = writes.join_next().await {
            done.unwrap();
        }
        let written = made.elapsed();
        site.cut(false);
        // Out of the pause after failures.
        drop(documents);
        site.restart().await;
        let documents = site.documents();
        let begun = Instant::now();
        let mut deadline = begun;
        while documents.status().await.unwrap().pending > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            deadline = Instant::now();
        }
        let up = deadline - begun;
        // A second device store that knows nothing gets all of them.
        let fresh = tempfile::tempdir().unwrap();
        let begun = Instant::now();
        let second = gateway(fresh.path(), &site.link).await;
        while second.documents().unwrap().status().await.unwrap().documents < 10_000 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let down = begun.elapsed();
        eprintln!("{}: written in {written:?}, up in {up:?}, down in {down:?}", fleet.engine);
        let quiet = json!({"life": "0000000000000001", "cursor": 10_000});
        site.link.device.post("/api/device/documents", quiet.clone()).await.expect(200);
        let before = Instant::now();
        let answer = site.link.device.post("/api/device/documents", quiet).await.expect(200);
        assert!(answer.body.len() < 200 && before.elapsed() < Duration::from_secs(1), "{}", answer.text());
        assert_eq!(answer.json::<wire::Answer>().documents, []);
        second.stop().await;
        // Generous, because the machine may be busy.
        assert!(up < Duration::from_secs(60) && down < Duration::from_secs(30), "up {up:?}, down {down:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn config_takes_values_from_labels_and_the_twin_and_follows_them() {
    each_engine(async |fleet| {
        let site = Site::new(fleet, "gw").await;
        let (admin, name) = (&fleet.admin, site.name.as_str());
        let publisher = Publisher::new(fleet, "default").await;
        let shown: Value = admin.get(&format!("/api/devices/{name}")).await.expect(200).json();
        let labelled = json!({"metadata": {"name": name, "labels": {"store": "12"}}, "spec": shown["spec"]});
        admin.put(&format!("/api/devices/{name}"), labelled).await.expect(200);
        for (path, made, spec) in [
            ("/api/apps", "web", json!({})),
            ("/api/placements", "web", json!({"app": "web"})),
            ("/api/configs", "all", json!({"values": {"FLOOR": "1", "PORT": "80"}})),
            (
                "/api/configs",
                "web",
                json!({"app": "web", "values": {"COLOR": "red"}, "references": {
                    "STORE": {"label": "store", "default": "0"},
                    "FLOOR": {"label": "floor", "default": "ground"},
                    "INTERVAL": {"desired": "/poll/interval", "default": "30"},
                    "FIRMWARE": {"reported": "/firmware", "default": "unknown"},
                }}),
            ),
        ] {
            admin.post(path, json!({"metadata": {"name": made}, "spec": spec})).await.expect(201);
        }
        publisher.release("web", "1.0.0").await;
        let pin =
            json!({"metadata": {"name": "here"}, "spec": {"app": "web", "device": name, "version": "1.0.0"}});
        admin.post("/api/pins", pin).await.expect(201);
        let config = async || {
            let shown: Value = admin.get(&format!("/api/devices/{name}")).await.expect(200).json();
            shown["status"]["apps"][0]["config"].clone()
        };
        let becomes = async |interval: &str, firmware: &str| {
            let wanted = [
                ("COLOR", "red"),
                ("FIRMWARE", firmware),
                ("FLOOR", "ground"),
                ("INTERVAL", interval),
                ("PORT", "80"),
                ("STORE", "12"),
            ];
            eventually(&format!("the config has {interval} and {firmware}"), async || {
                let config = config().await;
                let values = config.as_object()?.iter();
                values
                    .map(|(key, one)| (key.as_str(), one["value"].as_str().unwrap()))
                    .eq(wanted)
                    .then_some(())
            })
            .await;
        };
        becomes("30", "unknown").await;
        let told = config().await;
        assert_eq!(told["FIRMWARE"]["reference"], "reported /firmware");
        assert_eq!((&told["PORT"]["reference"], &told["PORT"]["from"]), (&Value::Null, &json!("all")));
        let desired = json!({"poll": {"interval": 10}});
        admin.send(Method::PATCH, &format!("/api/devices/{name}/twin"), Some(desired)).await.expect(200);
        becomes("10", "unknown").await;
        site.documents().patch("twin", "reported", json!({"firmware": "7.1"}), None).await.unwrap();
        becomes("10", "7.1").await;
        // What would be another line of a configuration file is no value.
        let lines = json!({"firmware": "7.1\nroot: yes"});
        site.documents().patch("twin", "reported", lines, None).await.unwrap();
        becomes("10", "unknown").await;
        for (references, field) in [
            (json!({"A": {"default": ""}}), "spec.references.A"),
            (json!({"A": {"label": "a", "reported": "/a", "default": ""}}), "spec.references.A"),
            (json!({"A": {"reported": "a", "default": ""}}), "spec.references.A"),
            (json!({"A": {"label": "-", "default": ""}}), "spec.references.A"),
            (json!({"LD_PRELOAD": {"label": "a", "default": ""}}), "spec.references.LD_PRELOAD"),
            (json!({"B": {"label": "a", "default": ""}}), "spec.references.B"),
        ] {
            let spec = json!({"values": {"B": "1"}, "references": references});
            let body = json!({"metadata": {"name": "wrong"}, "spec": spec});
            let problem = admin.post("/api/configs", body).await.problem(400, "invalid");
            assert_eq!(problem.errors[0].field, field, "{problem:?}");
        }
        let without = json!({"metadata": {"name": "wrong"}, "spec": {"references": {"A": {"label": "a"}}}});
        admin.post("/api/configs", without).await.problem(400, "invalid");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_with_the_field() {
    each_engine(async |fleet| {
        let device = fleet.device("gw").await;
        let (admin, name) = (&fleet.admin, device.name().to_string());
        let rules = |rules: Value| json!({"rules": rules});
        for (path, body) in [
            ("/api/document-collections/c", rules(json!([{"strategy": "newest"}]))),
            ("/api/document-collections/c", rules(json!([{"strategy": "custom"}]))),
            ("/api/document-collections/c", rules(json!([{"strategy": "custom", "resolver": "edge +"}]))),
            ("/api/document-collections/c", rules(json!([{"strategy": "custom", "resolver": "edge.map(x, x)"}]))),
            ("/api/document-collections/c", rules(json!([{"path": "a", "strategy": "merge"}]))),
            ("/api/document-collections/c", rules(json!([{"strategy": "merge"}, {"strategy": "manual"}]))),
            ("/api/document-collections/C", rules(json!([]))),
            ("/api/document-collections/twin", rules(json!([]))),
            ("/api/document-collections/c", json!({"conflictDays": 0})),
            ("/api/document-collections/c", json!({"conflictDays": 401})),
        ] {
            admin.put(path, body).await.problem(400, "invalid");
        }
        let second = rules(json!([{"strategy": "merge"}, {"path": "/a", "strategy": "custom", "resolver": "edge +"}]));
        let problem = admin.put("/api/document-collections/c", second).await.problem(400, "invalid");
        assert_eq!(problem.errors[0].field, "rules[1]", "{problem:?}");
        let long = json!({"a": "x".repeat(200_000)});
        for (path, body) in [("c/n", json!([1])), ("c/n", json!("a")), ("C/n", json!({})), ("c/n", long), ("twin/x", json!({}))] {
            admin.put(&format!("/api/devices/{name}/documents/{path}"), body).await.problem(400, "invalid");
        }
        admin.get("/api/document-conflicts?state=none").await.problem(400, "invalid");
        for body in [
            json!({"life": "x", "cursor": 0}),
            json!({"life": "0000000000000001", "cursor": 0, "more": 1}),
            json!({"life": "0000000000000001", "cursor": 0, "changes": [{"number": 0, "collection": "c", "name": "n"}]}),
            json!({"life": "0000000000000001", "cursor": 0, "changes": [{"number": 1, "collection": "C", "name": "n"}]}),
            json!({"life": "0000000000000001", "cursor": 0, "wish": {"strategy": "custom"}}),
        ] {
            device.post("/api/device/documents", body).await.problem(400, "invalid");
        }
        let odd = json!({"life": "0000000000000001", "cursor": 0,
            "changes": [{"number": 1, "collection": "c", "name": "n", "base": 0, "patch": [1]}]});
        let answer: wire::Answer = device.post("/api/device/documents", odd).await.expect(200).json();
        assert_eq!(answer.answers[0].outcome, wire::Outcome::Later);
        // A cursor from a database that was lost.
        let lost = json!({"life": "0000000000000001", "cursor": 99});
        let answer: wire::Answer = device.post("/api/device/documents", lost).await.expect(200).json();
        assert_eq!(answer.reset, Some(wire::Reset::Restored));
    })
    .await;
}

/// What a device says that is no gateway of ours.
fn request(cursor: u64, changes: &[Value]) -> Value {
    json!({"life": "0000000000000001", "cursor": cursor, "changes": changes})
}

#[tokio::test(flavor = "multi_thread")]
async fn large_documents_come_in_several_answers_and_few_of_their_revisions_stay() {
    each_engine(async |fleet| {
        let device = fleet.device("gw").await;
        let path = |name: &str| format!("/api/devices/{}/documents/{name}", device.name());
        let large = |n: usize| json!({"n": n, "text": "x".repeat(120_000)});
        let names: Vec<String> = (0..10).map(|n| format!("doc{n}")).collect();
        for (n, name) in names.iter().enumerate() {
            fleet.admin.put(&path(&format!("c/{name}")), large(n)).await.expect(200);
        }
        let mut found = Vec::new();
        let mut cursor = 0;
        for round in 0.. {
            let answer = device.post("/api/device/documents", request(cursor, &[])).await.expect(200);
            assert!(answer.body.len() < 600_000 && round < 10, "{} in round {round}", answer.body.len());
            let answer: wire::Answer = answer.json();
            found.extend(answer.documents.into_iter().map(|delta| delta.name));
            cursor = answer.cursor;
            if !answer.more {
                break;
            }
        }
        assert_eq!(found, names);
        // What is wanted whole comes in part, and the rest with the next request.
        let want: Vec<Value> = names.iter().map(|name| json!({"collection": "c", "name": name})).collect();
        let body = json!({"life": "0000000000000001", "cursor": cursor, "want": want});
        let answer: wire::Answer = device.post("/api/device/documents", body).await.expect(200).json();
        assert_eq!(answer.documents.len(), 4);
        // The list says how large they are.
        let list: List<Document> = fleet.admin.get(&path("")[..path("").len() - 1]).await.expect(200).json();
        assert!(
            list.items.len() == 10 && list.items.iter().all(|one| one.bytes > 120_000 && one.value.is_none())
        );

        for n in 10..30 {
            fleet.admin.put(&path("c/doc0"), large(n)).await.expect(200);
        }
        let history: List<DocumentRevision> =
            fleet.admin.get(&path("c/doc0/history")).await.expect(200).json();
        let kept: Vec<u64> = history.items.iter().map(|one| one.revision).collect();
        assert_eq!(kept, (14..=21).rev().collect::<Vec<_>>());
        // A patch for a revision that is kept, the whole for one that is not.
        let answer: wire::Answer =
            device.post("/api/device/documents", request(cursor, &[])).await.expect(200).json();
        assert_eq!((answer.documents.len(), answer.documents[0].from), (1, None));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_can_be_deleted_without_a_trace_and_conflicts_are_taken_in_portions() {
    each_engine(async |fleet| {
        let device = fleet.device("gw").await;
        let gone =
            |number: u64| json!({"number": number, "collection": "c", "name": format!("none{number}")});
        let gone: Vec<Value> = (1..=20).map(gone).collect();
        let answer = device.post("/api/device/documents", request(0, &gone)).await.expect(200);
        let answer: wire::Answer = answer.json();
        assert!(answer.answers.iter().all(|one| one.outcome == wire::Outcome::Accepted && one.revision == 0));
        assert_eq!((answer.answers.len(), answer.cursor), (20, 0));
        let me: Value = fleet.admin.get("/api/me").await.expect(200).json();
        let tenant = me["tenantId"].as_str().unwrap().parse().unwrap();
        let id = farshore_domain::id::DeviceId(device.claimed().device);
        let db = fleet.app.store().authorize_device(tenant, id);
        let mut tx = db.read().await.unwrap();
        let names: Vec<String> = (1..=20).map(|number| format!("none{number}")).collect();
        let names: Vec<(&str, &str)> = names.iter().map(|name| ("c", name.as_str())).collect();
        assert_eq!(db.documents_named(&mut tx, id, &names).await.unwrap().len(), 0);
        drop(tx);

        let leaves = |value: &str, count: usize| -> Value {
            Value::Object((0..count).map(|n| (format!("k{n}"), json!(value))).collect())
        };
        let mut changes = Vec::new();
        for n in 1..=7_u64 {
            // The first has too many for one note each.
            let count = if n == 1 { 150 } else { 100 };
            let path = format!("/api/devices/{}/documents/c/doc{n}", device.name());
            fleet.admin.put(&path, leaves("cloud", count)).await.expect(200);
            changes.push(json!({"number": 100 + n, "collection": "c", "name": format!("doc{n}"), "base": 0,
                "patch": leaves("edge", count)}));
        }
        let answer = device.post("/api/device/documents", request(0, &changes)).await.expect(200);
        let answer: wire::Answer = answer.json();
        let outcomes: Vec<wire::Outcome> = answer.answers.iter().map(|one| one.outcome).collect();
        assert_eq!(outcomes, [wire::Outcome::Conflict; 5]);
        let answer = device.post("/api/device/documents", request(answer.cursor, &changes)).await.expect(200);
        let outcomes: Vec<wire::Outcome> =
            answer.json::<wire::Answer>().answers.iter().map(|one| one.outcome).collect();
        assert_eq!(outcomes[..5], [wire::Outcome::Before; 5]);
        assert_eq!(outcomes[5..], [wire::Outcome::Conflict; 2]);
        let list: List<DocumentConflict> =
            fleet.admin.get("/api/document-conflicts?limit=1000").await.expect(200).json();
        assert_eq!(list.items.len(), 601);
        let whole: Vec<&str> =
            list.items.iter().filter(|one| one.path.is_empty()).map(|one| one.name.as_str()).collect();
        assert_eq!(whole, ["doc1"]);
    })
    .await;
}

/// The device has asked; as it has nothing to hear, it waits.
async fn it_asked(fleet: &Fleet, device: &str) {
    eventually("it asks", || async {
        let twin: Value = fleet.admin.get(&format!("/api/devices/{device}/twin")).await.expect(200).json();
        twin["sync"]["syncedAt"].is_number().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_revoked_while_it_waits_gets_nothing_more() {
    each_engine(async |fleet| {
        let device = fleet.device("gw").await;
        let path = format!("/api/devices/{}/documents/c/n", device.name());
        let body = json!({"life": "0000000000000001", "cursor": 0, "waitSeconds": 20});
        let waiting = async { device.post("/api/device/documents", body.clone()).await };
        let revoking = async {
            it_asked(fleet, device.name().as_str()).await;
            fleet.admin.post(&format!("/api/devices/{}:revoke", device.uid()), json!({})).await.expect(200);
            fleet.admin.put(&path, json!({"secret": 1})).await.expect(200);
        };
        let (answer, ()) = tokio::join!(waiting, revoking);
        answer.problem(403, "forbidden");

        // The same for a gateway whose key is deleted.
        let key = json!({"metadata": {"name": "site"}, "spec": {"device": "site"}});
        let key: Value = fleet.admin.post("/api/gateway-keys", key).await.expect(201).json();
        let key: farshore_trust::token::GatewayKey = key["status"]["key"].as_str().unwrap().parse().unwrap();
        let bare = TestDevice::new(fleet);
        let asked = bare.request(Method::POST, "/api/device/documents").bearer_auth(key.secret().expose());
        let waiting = async { Answer::of(asked.json(&body)).await };
        let deleting = async {
            it_asked(fleet, "site").await;
            fleet.admin.delete("/api/gateway-keys/site").await.expect(204);
            fleet.admin.put("/api/devices/site/documents/c/n", json!({"secret": 1})).await.expect(200);
        };
        let (answer, ()) = tokio::join!(waiting, deleting);
        answer.problem(401, "unauthenticated");
    })
    .await;
}
