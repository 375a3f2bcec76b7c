//! Devices, presence, measurements, events and operations behave the same on both engines.
#![expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

use std::collections::{BTreeMap, BTreeSet};

use farshore_domain::desired::Generation;
use farshore_domain::device::{AppPhase, Conformance, Hardware, Health, Lifecycle, Reachability};
use farshore_domain::id::{DeviceId, OperationId, TenantId};
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::object::Reason;
use farshore_domain::operation::{Arguments, Budget, Kind, State};
use farshore_domain::release::isolation::Isolation;
use farshore_domain::selector::Selector;
use farshore_domain::time::UnixMs;
use farshore_store::channel::{ChannelBatch, DeviceEvents};
use farshore_store::device_apps::{AppReport, HelloReport, StatusReport};
use farshore_store::device_list::{DeviceFilter, DeviceQuery, DeviceSort, Direction};
use farshore_store::devices::{DeviceChange, LifecycleStep};
use farshore_store::events::{EventFilter, NewEvent};
use farshore_store::metrics::NewBlock;
use farshore_store::operations::{NewOperation, OperationFilter, OperationProgress, OperationReport};
use farshore_store::presence::{HEARTBEAT_MS, Seen, SessionClose, SessionOpen};
use farshore_store::test_util::{TestStore, each_engine};
use farshore_store::{Driver, StoreError, SystemDb, TenantDb, on};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::json;
use sqlx::types::Json;
use uuid::Uuid;

const NOW: UnixMs = UnixMs(1_700_000_000_000);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn system(test: &TestStore) -> SystemDb {
    test.store.system(Driver::DevicePort)
}

async fn tenant(test: &TestStore, text: &str) -> TenantDb {
    let row = system(test).create_tenant(&name(text), "", &Labels::default(), NOW).await.unwrap();
    system(test).tenant(row.uid)
}

/// A claimed device, without the detour over a claim.
#[derive(Clone, Debug)]
struct Planted {
    uid: DeviceId,
    name: String,
    labels: Labels,
    location: String,
    health: Health,
}

fn planted(number: usize) -> Planted {
    Planted {
        uid: DeviceId(Uuid::now_v7()),
        name: format!("kiosk-{number:05}"),
        labels: Labels::default(),
        location: format!("Shop {}", number % 7),
        health: Health::Unknown,
    }
}

async fn plant(db: &TenantDb, devices: &[Planted]) {
    let mut tx = db.begin().await.unwrap();
    for device in devices {
        let key = [device.uid.0.as_bytes(), device.uid.0.as_bytes()].map(|bytes| &bytes[..]).concat();
        on!(&mut tx, c => sqlx::query(
            "INSERT INTO devices (tenant, uid, name, labels, managed_by, created_at, location, channel, driver, lifecycle,
                 public_key, hardware, health)
             VALUES ($1, $2, $3, $4, 'test', $5, $6, 'prod', 'agent', 'claimed', $7, $8, $9)")
            .bind(db.tenant().0).bind(device.uid.0).bind(&device.name).bind(Json(&device.labels)).bind(NOW.0)
            .bind(&device.location).bind(key).bind(Json(Hardware::default())).bind(device.health.word())
            .execute(c).await.map(|_| ())).unwrap();
        for (label, value) in device.labels.iter() {
            on!(&mut tx, c => sqlx::query("INSERT INTO device_labels (tenant, device, key, value) VALUES ($1, $2, $3, $4)")
                .bind(db.tenant().0).bind(device.uid.0).bind(label).bind(value).execute(c).await.map(|_| ())).unwrap();
        }
    }
    tx.commit().await.unwrap();
}

async fn listed(db: &TenantDb, filter: DeviceFilter) -> BTreeSet<String> {
    let query = DeviceQuery { filter, limit: 1_000, ..DeviceQuery::default() };
    let page = db.devices(&query, HEARTBEAT_MS, NOW).await.unwrap();
    assert_eq!(page.total, page.devices.len() as u64);
    page.devices.iter().map(|device| device.metadata.name.to_string()).collect()
}

fn pick<T: std::fmt::Debug>(runner: &mut TestRunner, strategy: impl Strategy<Value = T>) -> T {
    strategy.new_tree(runner).unwrap().current()
}

#[tokio::test]
async fn a_selector_finds_in_the_database_what_it_matches_in_the_domain() {
    each_engine(async |test| {
        let (db, other) = (tenant(test, "one").await, tenant(test, "other").await);
        let mut runner = TestRunner::deterministic();
        let label = ("[abc]", "[xyz]?");
        let labels = || proptest::collection::btree_map(label.0, label.1, 0..4);
        let fleet: Vec<Planted> = (0..60)
            .map(|n| Planted { labels: Labels::new(pick(&mut runner, labels())).unwrap(), ..planted(n) })
            .collect();
        plant(&db, &fleet).await;
        plant(&other, &[Planted { labels: Labels::try_from([("a", "x")]).unwrap(), ..planted(999) }]).await;
        let requirement = "[abc]|![abc]|[abc]=[xyz]?|[abc]!=[xyz]?|[abc] in \\([xyz],[xyz]\\)|[abc] notin \\([xyz],[xyz]?\\)";
        let mut hits = 0;
        for _ in 0..120 {
            let parts: Vec<String> = pick(&mut runner, proptest::collection::vec(requirement, 0..4));
            let selector: Selector = parts.join(",").parse().unwrap();
            let expect: BTreeSet<String> =
                fleet.iter().filter(|d| selector.matches(&d.labels)).map(|d| d.name.clone()).collect();
            hits += usize::from(!expect.is_empty() && expect.len() < fleet.len());
            let found = listed(&db, DeviceFilter { selector: selector.clone(), ..DeviceFilter::default() }).await;
            assert_eq!(found, expect, "{selector}");
        }
        assert!(hits > 40, "the selectors tell devices apart in {hits} of 120 cases");
    })
    .await;
}

#[tokio::test]
async fn each_filter_finds_its_devices() {
    each_engine(async |test| {
        let db = tenant(test, "one").await;
        let labels = Labels::try_from([("site", "Riga"), ("env", "prod")]).unwrap();
        let mut fleet = [planted(1), planted(2), planted(3)];
        fleet[0].labels = labels.clone();
        fleet[1].health = Health::Failing;
        fleet[2].location = "100% \\_ Rīga".to_owned();
        plant(&db, &fleet).await;
        let one = |filter: DeviceFilter| listed(&db, filter);
        let text = |text: &str| DeviceFilter { text: text.to_owned(), ..DeviceFilter::default() };
        let only = |n: usize| BTreeSet::from([fleet[n].name.clone()]);
        assert_eq!(one(text("KIOSK-00001")).await, only(0));
        assert_eq!(one(text("riga prod")).await, only(0), "words of labels, in any case, all of them");
        assert_eq!(one(text("riga nowhere")).await.len(), 0);
        assert_eq!(one(text("100%")).await, only(2), "a percent sign is a percent sign");
        assert_eq!(one(text("\\_")).await, only(2));
        assert_eq!(one(text("kiosk_00001")).await.len(), 0, "an underscore is an underscore");
        let health =
            DeviceFilter { health: vec![Health::Failing, Health::Degraded], ..DeviceFilter::default() };
        assert_eq!(one(health).await, only(1));
        let location = DeviceFilter { location: Some("Shop 1".to_owned()), ..DeviceFilter::default() };
        assert_eq!(one(location).await, only(0));
        let channel = DeviceFilter { channel: Some(name("canary")), ..DeviceFilter::default() };
        assert_eq!(one(channel).await.len(), 0);
        db.decommission_device(&fleet[1].name, None, NOW).await.unwrap();
        assert_eq!(one(DeviceFilter::default()).await.len(), 2, "the decommissioned are left out");
        let gone = DeviceFilter { lifecycle: vec![Lifecycle::Decommissioned], ..DeviceFilter::default() };
        assert_eq!(one(gone).await, only(1));
    })
    .await;
}

#[tokio::test]
async fn pages_visit_each_device_once_while_others_come_and_change() {
    each_engine(async |test| {
        let db = tenant(test, "one").await;
        let fleet: Vec<Planted> = (0..100).map(|n| planted(n * 10)).collect();
        plant(&db, &fleet).await;
        for (sort, direction) in [
            (DeviceSort::Name, Direction::Ascending),
            (DeviceSort::Name, Direction::Descending),
            (DeviceSort::Location, Direction::Ascending),
            (DeviceSort::LastSeen, Direction::Descending),
            (DeviceSort::CreatedAt, Direction::Ascending),
        ] {
            let mut query = DeviceQuery { sort, direction, limit: 7, ..DeviceQuery::default() };
            let mut visited = Vec::new();
            let mut keys: Vec<(String, String)> = Vec::new();
            for round in 0.. {
                let page = db.devices(&query, HEARTBEAT_MS, NOW).await.unwrap();
                visited.extend(page.devices.iter().map(|d| d.metadata.name.to_string()));
                keys.extend(page.devices.iter().map(|d| (d.location.clone(), d.metadata.uid.to_string())));
                // Meanwhile one comes (anywhere in the order), and one already seen changes in what it is not sorted by.
                plant(&db, &[planted(10_000 * (sort as usize + 1) + 100 * direction as usize + round)]).await;
                let change = DeviceChange {
                    name: name(visited.last().unwrap()),
                    labels: Labels::try_from([("round", round.to_string().as_str())]).unwrap(),
                    managed_by: "test".to_owned(),
                    channel: name("prod"),
                    location: page.devices.last().unwrap().location.clone(),
                };
                db.change_device(visited.last().unwrap(), &change, None, NOW).await.unwrap();
                query.after = page.next;
                if query.after.is_none() {
                    break;
                }
            }
            let unique: BTreeSet<&String> = visited.iter().collect();
            assert_eq!(unique.len(), visited.len(), "{sort:?} {direction:?}: none twice");
            assert!(fleet.iter().all(|d| unique.contains(&d.name)), "{sort:?} {direction:?}: none left out");
            if sort == DeviceSort::Location {
                assert!(keys.is_sorted(), "by location, then uid");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn reachability_in_the_database_is_that_of_the_domain() {
    each_engine(async |test| {
        let db = tenant(test, "one").await;
        let system = system(test);
        let fleet: Vec<Planted> = (0..12).map(planted).collect();
        plant(&db, &fleet).await;
        let ages = [0, HEARTBEAT_MS * 3, HEARTBEAT_MS * 3 + 1, 299_999, 300_000, 300_001];
        for (index, device) in fleet.iter().enumerate() {
            let at = NOW.plus_ms(-ages[index % ages.len()]);
            if index < ages.len() {
                let open = SessionOpen { tenant: db.tenant(), device: device.uid, epoch: 1, at };
                let batch = ChannelBatch { opens: vec![open], ..ChannelBatch::default() };
                system.write_channel("r", &batch, at).await.unwrap();
            } else {
                system.record_seen(&[Seen { tenant: db.tenant(), device: device.uid, at }]).await.unwrap();
            }
        }
        let mut all = 0;
        for word in Reachability::ALL {
            let filter = DeviceFilter { reachability: vec![*word], ..DeviceFilter::default() };
            let query = DeviceQuery { filter: filter.clone(), limit: 100, ..DeviceQuery::default() };
            let page = db.devices(&query, HEARTBEAT_MS, NOW).await.unwrap();
            assert!(page.devices.iter().all(|d| d.reachability(HEARTBEAT_MS, NOW) == *word), "{word}");
            assert!(page.total > 0, "{word}");
            all += page.total;
            let counts = db.device_counts(&DeviceFilter::default(), HEARTBEAT_MS, NOW).await.unwrap();
            assert_eq!(counts.reachability.get(word.word()), Some(&page.total));
        }
        assert_eq!(all, 12);
        let counts = db.device_counts(&DeviceFilter::default(), HEARTBEAT_MS, NOW).await.unwrap();
        assert_eq!((counts.total, counts.locations.iter().map(|l| l.total).sum::<u64>()), (12, 12));
        assert_eq!(counts.locations.iter().map(|l| l.online).sum::<u64>(), counts.reachability["online"]);
        assert_eq!(counts.channels, ["prod"]);
    })
    .await;
}

#[tokio::test]
async fn a_change_needs_the_version_it_was_made_on() {
    each_engine(async |test| {
        let db = tenant(test, "one").await;
        let fleet = [planted(1)];
        plant(&db, &fleet).await;
        let change = |text: &str| DeviceChange {
            name: name("kiosk-00001"),
            labels: Labels::try_from([("site", text)]).unwrap(),
            managed_by: "api".to_owned(),
            channel: name("canary"),
            location: "Rīga".to_owned(),
        };
        let changed = db.change_device("kiosk-00001", &change("a"), Some(1), NOW).await.unwrap();
        assert_eq!((changed.metadata.resource_version, changed.channel.as_str()), (2, "canary"));
        let late = db.change_device("kiosk-00001", &change("b"), Some(1), NOW).await;
        assert!(matches!(late, Err(StoreError::VersionMismatch { expected: 1, current: 2 })), "{late:?}");
        let selector =
            |text: &str| DeviceFilter { selector: text.parse().unwrap(), ..DeviceFilter::default() };
        assert_eq!(listed(&db, selector("site=a")).await.len(), 1);
        assert_eq!(listed(&db, selector("site=b")).await.len(), 0);
        let other = tenant(test, "other").await;
        let foreign = other.change_device(&fleet[0].uid.to_string(), &change("c"), None, NOW).await;
        assert!(matches!(foreign, Err(StoreError::NotFound(_))), "{foreign:?}");
        // A step is taken once, and its event is told once.
        for _ in 0..2 {
            let row = db.step_device("kiosk-00001", LifecycleStep::Cordon, "works", NOW).await.unwrap();
            assert_eq!(row.lifecycle, Lifecycle::Cordoned);
        }
        let late = db.decommission_device("kiosk-00001", Some(1), NOW).await;
        assert!(matches!(late, Err(StoreError::VersionMismatch { .. })), "{late:?}");
        db.decommission_device("kiosk-00001", None, NOW).await.unwrap();
        let row = db.decommission_device("kiosk-00001", None, NOW).await.unwrap();
        assert_eq!((row.lifecycle, row.revoked_at), (Lifecycle::Decommissioned, Some(NOW)));
        let refused = db.step_device("kiosk-00001", LifecycleStep::Uncordon, "", NOW).await;
        assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
        system(test).sequence_events().await.unwrap();
        let filter = EventFilter { subject: Some("kiosk-00001".to_owned()), ..EventFilter::default() };
        let kinds: Vec<String> =
            db.events_after(0, &filter, 100).await.unwrap().into_iter().map(|event| event.kind).collect();
        assert_eq!(kinds, ["device.changed", "device.cordoned", "device.decommissioned"]);
    })
    .await;
}

fn report(db: &TenantDb, device: DeviceId, phase: AppPhase, health: Health) -> StatusReport {
    StatusReport {
        senses: std::collections::BTreeMap::new(),
        tenant: db.tenant(),
        device,
        accepted: Generation { epoch: 1, generation: 7 },
        health,
        conformance: Conformance::Conforming,
        reasons: vec![Reason::new("HealthCheckFailed", "the check failed", NOW)],
        apps: vec![AppReport {
            app: name("edge-web"),
            phase,
            health,
            active_release: Some(Uuid::from_u128(5)),
            active_version: "1.1.0".to_owned(),
            staged_release: None,
            previous_release: None,
            failed_release: None,
            refused_release: None,
            permit: None,
            committed: true,
            restarts: 3,
            reasons: Vec::new(),
            isolation: Some(Isolation { private_tmp: Some(true), ..Isolation::default() }),
            resumed_seen: 4,
        }],
        at: NOW,
    }
}

#[tokio::test]
async fn a_status_makes_events_of_what_changed_only() {
    each_engine(async |test| {
        let (db, system) = (tenant(test, "one").await, system(test));
        let fleet = [planted(1), planted(2)];
        plant(&db, &fleet).await;
        let gone = DeviceId(Uuid::now_v7());
        let send = async |statuses: Vec<StatusReport>| {
            let batch = ChannelBatch { statuses, ..ChannelBatch::default() };
            system.write_channel("r", &batch, NOW).await.unwrap();
            let numbered = system.sequence_events().await.unwrap();
            let mut kinds: Vec<String> =
                numbered.get(&db.tenant()).into_iter().flatten().map(|event| event.kind.clone()).collect();
            kinds.sort();
            kinds
        };
        system.sequence_events().await.unwrap();
        let status = |phase, health| report(&db, fleet[0].uid, phase, health);
        let first = send(vec![
            status(AppPhase::Starting, Health::Degraded),
            status(AppPhase::Running, Health::Healthy),
            report(&db, gone, AppPhase::Running, Health::Healthy),
        ])
        .await;
        assert_eq!(first, ["device.app-changed", "device.conformance-changed", "device.health-changed"]);
        assert_eq!(send(vec![status(AppPhase::Running, Health::Healthy)]).await, [""; 0], "nothing changed");
        assert_eq!(send(vec![status(AppPhase::Held, Health::Healthy)]).await, ["device.app-changed"]);
        let row = db.device("kiosk-00001").await.unwrap();
        let [app] = row.apps.as_slice() else { panic!("one app: {:?}", row.apps) };
        assert_eq!((app.phase, app.restarts, app.committed), (AppPhase::Held, 3, true));
        assert_eq!((app.resumed_seen, app.resumed_wanted), (4, 4));
        assert_eq!(app.isolation.as_ref().map(Isolation::words), Some(vec!["own /tmp".to_owned()]));
        assert_eq!(row.accepted, Generation { epoch: 1, generation: 7 });
        let resumed = db.resume_device_app("kiosk-00001", &name("edge-web"), NOW).await.unwrap();
        assert_eq!(resumed.apps[0].resumed_wanted, 5);
        let filter = DeviceFilter {
            app: Some(name("edge-web")),
            version: Some("1.1.0".to_owned()),
            ..DeviceFilter::default()
        };
        assert_eq!(listed(&db, filter.clone()).await.len(), 1);
        // An app that the report leaves out is gone; what people asked for stays.
        let mut empty = status(AppPhase::Running, Health::Healthy);
        empty.apps.clear();
        send(vec![empty]).await;
        let row = db.device("kiosk-00001").await.unwrap();
        assert_eq!((row.apps[0].phase, row.apps[0].resumed_wanted), (AppPhase::Absent, 5));
        assert_eq!(listed(&db, filter).await.len(), 0);
    })
    .await;
}

#[tokio::test]
async fn hello_keeps_the_hardware_when_it_tells_none() {
    each_engine(async |test| {
        let (db, system) = (tenant(test, "one").await, system(test));
        let fleet = [planted(1)];
        plant(&db, &fleet).await;
        for hardware in [Some(Hardware { model: "Pi 4".to_owned(), ..Hardware::default() }), None] {
            let hello = HelloReport {
                tenant: db.tenant(),
                device: fleet[0].uid,
                agent_version: "0.1.0".to_owned(),
                capabilities: vec!["process".to_owned()],
                hardware,
                accepted: Generation::default(),
            };
            let batch = ChannelBatch { hellos: vec![hello], ..ChannelBatch::default() };
            system.write_channel("r", &batch, NOW).await.unwrap();
            let row = db.device("kiosk-00001").await.unwrap();
            assert_eq!((row.hardware.model.as_str(), row.agent_version.as_str()), ("Pi 4", "0.1.0"));
        }
    })
    .await;
}

fn block(db: &TenantDb, device: DeviceId, sequence: i64, to: i64) -> NewBlock {
    NewBlock {
        tenant: db.tenant(),
        device,
        stream: "host".to_owned(),
        sequence,
        from: UnixMs(to - 50_000),
        to: UnixMs(to),
        samples: 6,
        block: vec![u8::try_from(sequence).unwrap(); 10],
        latest: BTreeMap::from([("cpu".to_owned(), 0.25)]),
    }
}

#[tokio::test]
async fn a_batch_sent_twice_is_stored_once_and_marks_never_go_back() {
    each_engine(async |test| {
        let (db, system) = (tenant(test, "one").await, system(test));
        let fleet = [planted(1), planted(2)];
        plant(&db, &fleet).await;
        let device = fleet[0].uid;
        let send = async |blocks: Vec<NewBlock>| {
            let batch = ChannelBatch { blocks, ..ChannelBatch::default() };
            system.write_channel("r", &batch, NOW).await.unwrap();
        };
        let stored = async || {
            let rows = db.metric_blocks(&[device], "host", UnixMs(0), NOW, 100).await.unwrap();
            rows.iter().map(|row| row.block[0]).collect::<Vec<_>>()
        };
        // Two of the same in one set, out of order, for two devices.
        send(vec![
            block(&db, device, 2, 200_000),
            block(&db, device, 1, 100_000),
            block(&db, device, 2, 200_000),
            block(&db, fleet[1].uid, 1, 100_000),
        ])
        .await;
        send(vec![block(&db, device, 1, 100_000), block(&db, device, 2, 200_000)]).await;
        assert_eq!(stored().await, [1, 2]);
        // A block without rows only moves the mark; what is below it is never stored again.
        send(vec![NewBlock { samples: 0, block: Vec::new(), ..block(&db, device, 9, 900_000) }]).await;
        send(vec![block(&db, device, 8, 800_000)]).await;
        assert_eq!(stored().await, [1, 2]);
        let open = SessionOpen { tenant: db.tenant(), device, epoch: 1, at: NOW };
        let batch = ChannelBatch { opens: vec![open], ..ChannelBatch::default() };
        let opened = system.write_channel("r", &batch, NOW).await.unwrap().opened;
        assert_eq!(opened[0].marks, [("host".to_owned(), 9)]);
        let row = db.device("kiosk-00001").await.unwrap();
        assert_eq!((row.latest["cpu"], row.latest_at), (0.25, Some(UnixMs(200_000))));
        // Retention, in chunks; what is in no hour yet stays.
        assert_eq!(system.delete_blocks_before(UnixMs(200_000), 1).await.unwrap(), 0);
        let mut tx = system.begin().await.unwrap();
        on!(&mut tx, c => sqlx::query("UPDATE metric_blocks SET rolled = 1").execute(c).await.map(|_| ()))
            .unwrap();
        tx.commit().await.unwrap();
        assert_eq!(system.delete_blocks_before(UnixMs(200_000), 1).await.unwrap(), 1);
        assert_eq!(system.delete_blocks_before(UnixMs(200_000), 1).await.unwrap(), 1);
        assert_eq!(system.delete_blocks_before(UnixMs(200_000), 1).await.unwrap(), 0);
        assert_eq!(stored().await, [2]);
        // Of some devices only, and not beyond what is asked for.
        let of = async |devices: &[_], limit| {
            system.delete_blocks_of(db.tenant(), devices, UnixMs(900_000), limit).await.unwrap()
        };
        assert_eq!((of(&[fleet[1].uid], 10).await, of(&[device], 0).await), (0, 0));
        assert_eq!((of(&[fleet[1].uid, device], 10).await, stored().await.len()), (1, 0));
        // An app's measurements have a stream of their own, and are of one device.
        assert!(db.latest_of_apps(device).await.unwrap().is_empty());
        send(vec![NewBlock { stream: "app/web".to_owned(), ..block(&db, device, 1, 300_000) }]).await;
        let apps = db.latest_of_apps(device).await.unwrap();
        assert_eq!(apps["web"], (UnixMs(300_000), BTreeMap::from([("cpu".to_owned(), 0.25)])));
        assert!(db.latest_of_apps(fleet[1].uid).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn the_newest_session_stays_whatever_order_they_end_in() {
    each_engine(async |test| {
        let (db, system) = (tenant(test, "one").await, system(test));
        let fleet = [planted(1)];
        plant(&db, &fleet).await;
        let (tenant, device) = (db.tenant(), fleet[0].uid);
        let open = |epoch| SessionOpen { tenant, device, epoch, at: NOW };
        let close = |epoch| SessionClose { tenant, device, epoch };
        let write = async |opens: Vec<SessionOpen>, closes: Vec<SessionClose>| {
            let batch = ChannelBatch { opens, closes, ..ChannelBatch::default() };
            system.write_channel("r", &batch, NOW).await.unwrap();
            db.device("kiosk-00001").await.unwrap().connected
        };
        assert!(write(vec![open(1)], vec![]).await);
        assert!(write(vec![open(2), open(3)], vec![close(1)]).await);
        assert!(write(vec![], vec![close(2)]).await, "the older one ends late");
        assert!(write(vec![open(2)], vec![]).await);
        assert!(!write(vec![], vec![close(3)]).await);
        assert!(!write(vec![open(4)], vec![close(4)]).await, "over before it was stored");
        assert!(write(vec![open(5)], vec![]).await);
        assert_eq!(system.forget_sessions("another", NOW.plus_ms(1)).await.unwrap(), 0);
        assert_eq!(system.forget_sessions("r", NOW).await.unwrap(), 0, "it was opened after the start");
        assert_eq!(system.forget_sessions("r", NOW.plus_ms(1)).await.unwrap(), 1);
    })
    .await;
}

#[tokio::test]
async fn silence_is_found_once() {
    each_engine(async |test| {
        let (db, system) = (tenant(test, "one").await, system(test));
        let fleet = [planted(1), planted(2), planted(3)];
        plant(&db, &fleet).await;
        let seen: Vec<Seen> = fleet[..2]
            .iter()
            .zip([100, 200])
            .map(|(device, at)| Seen { tenant: db.tenant(), device: device.uid, at: UnixMs(at) })
            .collect();
        system.record_seen(&seen).await.unwrap();
        // Time never goes back.
        system.record_seen(&[Seen { at: UnixMs(50), ..seen[0] }]).await.unwrap();
        let names = async |after, until| {
            let silent = system.silent_devices(UnixMs(after), UnixMs(until)).await.unwrap();
            silent.into_iter().map(|device| device.name).collect::<Vec<_>>()
        };
        assert_eq!(names(0, 99).await, [""; 0]);
        assert_eq!(names(99, 100).await, ["kiosk-00001"]);
        assert_eq!(names(100, 500).await, ["kiosk-00002"]);
        assert_eq!(system.last_heard(UnixMs(200)).await.unwrap(), Some(UnixMs(100)));
        db.decommission_device("kiosk-00002", None, NOW).await.unwrap();
        assert_eq!(names(100, 500).await, [""; 0], "nobody waits for what is revoked");
    })
    .await;
}

fn event(number: u128, subject: DeviceId) -> NewEvent {
    NewEvent {
        uid: Uuid::from_u128(number),
        at: NOW,
        kind: "app.started".to_owned(),
        subject_kind: "Device".to_owned(),
        subject: subject.0,
        subject_name: "kiosk-00001".to_owned(),
        actor: "device:kiosk-00001".to_owned(),
        message: "started".to_owned(),
        payload: json!({ "n": 1 }),
    }
}

#[tokio::test]
async fn events_get_numbers_without_gaps_under_concurrent_writers_and_sequencers() {
    each_engine(async |test| {
        let (db, system) = (tenant(test, "one").await, system(test));
        let fleet = [planted(1)];
        plant(&db, &fleet).await;
        let device = fleet[0].uid;
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..4_u128 {
            let (system, tenant) = (system.clone(), db.tenant());
            tasks.spawn(async move {
                for round in 0..25_u128 {
                    let events: Vec<(TenantId, NewEvent)> =
                        (0..3).map(|n| (tenant, event(1 + writer * 1_000 + round * 3 + n, device))).collect();
                    system.append_events(&events).await.unwrap();
                }
            });
        }
        // A reader that follows the numbers, while two sequencers are at work.
        let (mut last, mut followed) = (0, Vec::new());
        let mut ended = false;
        while !ended {
            ended = tasks.is_empty() || (tasks.try_join_next().is_some() && tasks.is_empty());
            let other = system.clone();
            let (one, two) = tokio::join!(system.sequence_events(), other.sequence_events());
            one.unwrap();
            two.unwrap();
            for event in db.events_after(last, &EventFilter::default(), 1_000).await.unwrap() {
                assert_eq!(event.sequence, last + 1, "no gap, no step back");
                last = event.sequence;
                followed.push(event.uid);
            }
        }
        let unique: BTreeSet<_> = followed.iter().collect();
        assert_eq!(unique.len(), followed.len());
        assert_eq!(followed.iter().filter(|uid| uid.as_u128() < 10_000).count(), 300);
        let span = db.event_span().await.unwrap();
        assert_eq!((span.first, span.last), (1, last));
        let newest = db.events_before(None, &EventFilter::default(), 2).await.unwrap();
        assert_eq!(newest.iter().map(|e| e.sequence).collect::<Vec<_>>(), [last, last - 1]);
    })
    .await;
}

#[tokio::test]
async fn a_devices_events_count_once_and_old_ones_are_deleted_in_chunks() {
    each_engine(async |test| {
        let (db, system) = (tenant(test, "one").await, system(test));
        let other = tenant(test, "other").await;
        let fleet = [planted(1)];
        plant(&db, &fleet).await;
        system.sequence_events().await.unwrap();
        let before = db.event_span().await.unwrap().last;
        let send = async |sequence, numbers: &[u128]| {
            let events = numbers.iter().map(|n| event(*n, fleet[0].uid)).collect();
            let from = DeviceEvents { tenant: db.tenant(), device: fleet[0].uid, sequence, events };
            let batch = ChannelBatch { events: vec![from], ..ChannelBatch::default() };
            system.write_channel("r", &batch, NOW).await.unwrap();
        };
        send(1, &[1, 2]).await;
        send(1, &[1, 2, 77]).await;
        send(2, &[2, 3]).await;
        system.sequence_events().await.unwrap();
        let filter = EventFilter { kind: Some("app.started".to_owned()), ..EventFilter::default() };
        let read = db.events_after(before, &filter, 100).await.unwrap();
        assert_eq!(read.iter().map(|e| e.uid.as_u128()).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(read[0].payload, json!({ "n": 1 }));
        assert_eq!(other.events_after(0, &filter, 100).await.unwrap().len(), 0, "not another tenant's");
        let by = |subject: &str| EventFilter { subject: Some(subject.to_owned()), ..filter.clone() };
        for (subject, count) in
            [(fleet[0].uid.to_string(), 3), ("kiosk-00001".to_owned(), 3), ("x".to_owned(), 0)]
        {
            assert_eq!(db.events_after(0, &by(&subject), 100).await.unwrap().len(), count, "{subject}");
        }
        let last = db.event_span().await.unwrap().last;
        while system.delete_events_before(NOW.plus_ms(1), 2).await.unwrap() > 0 {}
        let span = db.event_span().await.unwrap();
        assert_eq!((span.first, span.last), (last + 1, last), "numbers go on where they were");
    })
    .await;
}

#[tokio::test]
async fn an_operation_is_finished_once_or_expires() {
    each_engine(async |test| {
        let (db, system) = (tenant(test, "one").await, system(test));
        let fleet = [planted(1), planted(2)];
        plant(&db, &fleet).await;
        let device = db.device("kiosk-00001").await.unwrap();
        let operation = |number: u128, expires_at| NewOperation {
            uid: OperationId(Uuid::from_u128(number)),
            kind: Kind::RestartApp,
            app: "edge-web".to_owned(),
            arguments: Arguments::default(),
            reason: "it hangs".to_owned(),
            expires_at,
            time_limit_seconds: 10,
            request: None,
            request_size: 1,
            budget: Budget::default(),
            admitted: number < 3,
        };
        let mut tx = db.begin().await.unwrap();
        let new: Vec<_> = (1..=4)
            .map(|number| (device.id(), device.metadata.name.clone(), operation(number, NOW.plus_ms(100))))
            .collect();
        db.create_operations(&mut tx, &new, NOW).await.unwrap();
        tx.commit().await.unwrap();
        let open = async |at| {
            let open = db.open_operations(fleet[0].uid, at).await.unwrap();
            open.iter().map(|operation| operation.uid.0.as_u128()).collect::<Vec<_>>()
        };
        assert_eq!(open(NOW).await, [1, 2]);
        let progress = |device, number: u128, state: State| OperationProgress {
            tenant: db.tenant(),
            device,
            uid: OperationId(Uuid::from_u128(number)),
            state,
            message: String::new(),
            output: vec![1],
            output_total: 3,
            exit_code: Some(0),
        };
        let report = |device, sequence, updates| OperationReport {
            tenant: db.tenant(),
            device,
            sequence: Some(sequence),
            updates,
        };
        let write = async |operations: Vec<OperationReport>| {
            let batch = ChannelBatch { operations, ..ChannelBatch::default() };
            system.write_channel("r", &batch, NOW).await.unwrap();
        };
        let (mine, other) = (fleet[0].uid, fleet[1].uid);
        write(vec![
            report(other, 1, vec![progress(other, 1, State::Failed)]),
            report(mine, 1, vec![progress(mine, 1, State::Delivered)]),
            report(mine, 2, vec![progress(mine, 1, State::Running)]),
            report(mine, 3, vec![progress(mine, 1, State::Succeeded), progress(mine, 1, State::Failed)]),
            // The same batch again, and one that was sent before.
            report(mine, 3, vec![progress(mine, 2, State::Failed)]),
            report(mine, 2, vec![progress(mine, 2, State::Failed)]),
        ])
        .await;
        let done = db.operation(Uuid::from_u128(1)).await.unwrap();
        assert_eq!(
            (done.state, done.exit_code, done.output_bytes, done.output_total),
            (State::Succeeded, Some(0), 1, 3)
        );
        assert!(done.delivered_at.is_some() && done.started_at.is_some() && done.deadline_at.is_some());
        assert_eq!(db.operation_output(Uuid::from_u128(1)).await.unwrap(), [1]);
        assert_eq!(open(NOW).await, [2], "the others wait for their turn");
        assert_eq!(open(NOW.plus_ms(100)).await, [0; 0]);
        let cancelled = db.cancel_operation(Uuid::from_u128(4), "not needed", NOW).await.unwrap();
        assert_eq!((cancelled.state, cancelled.message.as_str()), (State::Cancelled, "not needed"));
        assert!(db.cancel_operation(Uuid::from_u128(1), "", NOW).await.is_err(), "it is over");
        assert_eq!(db.cancelled_operations(mine, NOW).await.unwrap(), [OperationId(Uuid::from_u128(4))]);
        assert_eq!(system.expire_operations(NOW).await.unwrap(), []);
        assert_eq!(system.expire_operations(NOW.plus_ms(100)).await.unwrap().len(), 2);
        assert_eq!(system.expire_operations(NOW.plus_ms(100)).await.unwrap(), []);
        let names = |filter: OperationFilter, before: Option<u128>, limit| {
            let db = &db;
            async move {
                let rows = db.operations(&filter, before.map(Uuid::from_u128), limit).await.unwrap();
                rows.iter().map(|row| row.uid.0.as_u128()).collect::<Vec<_>>()
            }
        };
        assert_eq!(names(OperationFilter::default(), None, 2).await, [4, 3]);
        assert_eq!(names(OperationFilter::default(), Some(3), 9).await, [2, 1]);
        let expired = OperationFilter { state: Some(State::Expired), ..OperationFilter::default() };
        assert_eq!(names(expired, None, 9).await, [3, 2]);
        let of = OperationFilter { device: Some(other), ..OperationFilter::default() };
        assert_eq!(names(of, None, 9).await, [0; 0]);
        // What was given up here and was done there is shown as done, once.
        let operations = vec![report(mine, 4, vec![progress(mine, 2, State::Succeeded)])];
        let batch = ChannelBatch { operations, ..ChannelBatch::default() };
        system.write_channel("r", &batch, NOW.plus_ms(200)).await.unwrap();
        let late = db.operation(Uuid::from_u128(2)).await.unwrap();
        assert_eq!((late.state, late.message.as_str()), (State::Succeeded, "told after it expired"));
        let month = NOW.plus_ms(31 * farshore_domain::time::DAY_MS);
        system.expire_operations(month).await.unwrap();
        assert_eq!(names(OperationFilter::default(), None, 9).await, [0; 0], "kept for a month");
        system.sequence_events().await.unwrap();
        let filter =
            EventFilter { kind: Some("device.operation-finished".to_owned()), ..EventFilter::default() };
        let states: Vec<String> = db
            .events_after(0, &filter, 10)
            .await
            .unwrap()
            .into_iter()
            .map(|event| event.payload["state"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(states, ["succeeded", "cancelled", "expired", "expired", "succeeded"]);
    })
    .await;
}
