//! What gateways send is stored once, on both engines.
#![expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

use std::collections::BTreeMap;

use farshore_domain::device::Hardware;
use farshore_domain::id::DeviceId;
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::time::{DAY_MS, UnixMs};
use farshore_store::ingest_keys::IngestKeyRow;
use farshore_store::series_hours::{MergedBlock, Rolled};
use farshore_store::sync::{MAX_SERIES, MAX_STREAMS, NewBatch, NewLatest, NewLoss, Taken, block_stream};
use farshore_store::test_util::{TestStore, each_engine};
use farshore_store::{Driver, StoreError, TenantDb, on};
use sqlx::types::Json;
use uuid::Uuid;

const NOW: UnixMs = UnixMs(1_700_000_000_000);
const EPOCH: u64 = 0xfeed_0000_0000_0001;

async fn tenant(test: &TestStore, name: &str) -> TenantDb {
    let system = test.store.system(Driver::DevicePort);
    let row = system.create_tenant(&Name::new(name).unwrap(), "", &Labels::default(), NOW).await.unwrap();
    system.tenant(row.uid)
}

async fn device(db: &TenantDb, name: &str, location: &str) -> DeviceId {
    let uid = DeviceId(Uuid::now_v7());
    let mut tx = db.begin().await.unwrap();
    let key = [uid.0.as_bytes(), uid.0.as_bytes()].map(|bytes| &bytes[..]).concat();
    on!(&mut tx, c => sqlx::query(
        "INSERT INTO devices (tenant, uid, name, labels, managed_by, created_at, location, channel, driver, lifecycle, public_key, hardware, health)
         VALUES ($1, $2, $3, $4, 'test', $5, $6, 'prod', 'agent', 'claimed', $7, $8, 'unknown')")
        .bind(db.tenant().0).bind(uid.0).bind(name).bind(Json(Labels::default())).bind(NOW.0).bind(location)
        .bind(key).bind(Json(Hardware::default())).execute(c).await.map(|_| ())).unwrap();
    tx.commit().await.unwrap();
    uid
}

fn latest(number: u64, at_ns: i64, value: &str) -> NewLatest {
    let mut series = [0; 16];
    series[..8].copy_from_slice(&number.to_be_bytes());
    NewLatest {
        series,
        measurement: format!("m{number}"),
        field: "value".to_owned(),
        tags: BTreeMap::from([("room".to_owned(), "12".to_owned())]),
        kind: "float",
        at_ns,
        value: value.to_owned(),
    }
}

fn batch<'a>(
    device: DeviceId,
    sequence: u64,
    latest: &'a [NewLatest],
    losses: &'a [NewLoss],
) -> NewBatch<'a> {
    NewBatch {
        device,
        epoch: EPOCH,
        stream: "data/default",
        class: "telemetry",
        sequence,
        floor: 0,
        from: NOW,
        to: NOW.plus_ms(1_000),
        points: 10,
        sealed_bytes: 400,
        block: b"block",
        latest,
        losses,
    }
}

async fn blocks(db: &TenantDb, device: DeviceId) -> Vec<i64> {
    let span = (UnixMs(0), UnixMs(i64::MAX));
    let name = block_stream(EPOCH, "data/default");
    let blocks = db.series_blocks(device, &name, span, 0, 10_000).await.unwrap();
    blocks.into_iter().map(|block| block.sequence).collect()
}

#[tokio::test]
async fn a_batch_in_any_order_and_number_has_effect_once() {
    each_engine(async |test| {
        let db = tenant(test, "one").await;
        let other = tenant(test, "two").await;
        let gateway = device(&db, "gw", "Riga").await;
        let take = async |sequence: u64, floor: u64| {
            db.take_batch(&NewBatch { floor, ..batch(gateway, sequence, &[], &[]) }, NOW).await.unwrap()
        };
        for sequence in [1, 2, 7, 6, 4] {
            assert_eq!(take(sequence, 1).await, Taken::Stored, "{sequence}");
            assert_eq!(take(sequence, 1).await, Taken::Before, "{sequence}");
        }
        // What the gateway has settled is not taken any more; a batch is never below its own floor.
        assert_eq!(take(8, 6).await, Taken::Stored);
        assert_eq!(take(5, 6).await, Taken::Before);
        assert_eq!(take(9, 99).await, Taken::Stored);
        assert_eq!(blocks(&db, gateway).await, [1, 2, 4, 6, 7, 8, 9]);
        let marks = db.sync_marks(gateway, EPOCH).await.unwrap();
        assert_eq!((marks[0].received.floor(), marks[0].received.above()), (10, &[][..]));
        assert_eq!((marks[0].batches, marks[0].points, marks[0].bytes), (7, 70, 2_800));
        // Another life of the journal begins anew; another tenant sees nothing.
        let again = NewBatch { epoch: 1, ..batch(gateway, 1, &[], &[]) };
        assert_eq!(db.take_batch(&again, NOW).await.unwrap(), Taken::Stored);
        assert_eq!(other.sync_marks(gateway, EPOCH).await.unwrap(), []);
        assert_eq!(other.sync_streams(&[gateway]).await.unwrap(), []);
        assert!(other.take_batch(&batch(gateway, 1, &[], &[]), NOW).await.is_err());
        assert_eq!(blocks(&other, gateway).await, Vec::<i64>::new());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_batch_many_times_at_once_is_stored_once() {
    each_engine(async |test| {
        let db = tenant(test, "one").await;
        let gateway = device(&db, "gw", "").await;
        for sequence in 1..=5 {
            let tries: Vec<_> = (0..8)
                .map(|_| {
                    let db = db.clone();
                    tokio::spawn(async move {
                        db.take_batch(&batch(gateway, sequence, &[], &[]), NOW).await.unwrap()
                    })
                })
                .collect();
            let mut stored = 0;
            for one in tries {
                stored += usize::from(one.await.unwrap() == Taken::Stored);
            }
            assert_eq!(stored, 1);
        }
        assert_eq!(blocks(&db, gateway).await, [1, 2, 3, 4, 5]);
    })
    .await;
}

#[tokio::test]
async fn latest_values_go_forward_only_and_series_without_end_stop_at_a_cap() {
    each_engine(async |test| {
        let db = tenant(test, "one").await;
        let gateway = device(&db, "gw", "").await;
        let newer = [latest(1, 20, "2.5"), latest(1, 10, "1.5"), latest(2, 5, "\"x\"")];
        db.take_batch(&batch(gateway, 1, &newer, &[]), NOW).await.unwrap();
        db.take_batch(&batch(gateway, 2, &[latest(1, 15, "9")], &[]), NOW).await.unwrap();
        let rows = db.latest_series(&[gateway], None, None, None, 10).await.unwrap();
        let shown: Vec<_> =
            rows.iter().map(|row| (row.measurement.as_str(), row.at_ns, row.value.as_str())).collect();
        assert_eq!(shown, [("m1", 20, "2.5"), ("m2", 5, "\"x\"")]);
        assert_eq!(rows[0].tags["room"], "12");
        let after = (gateway, rows[0].stream.clone(), rows[0].series.clone());
        assert_eq!(db.latest_series(&[gateway], None, None, Some(&after), 10).await.unwrap(), rows[1..]);
        assert_eq!(
            db.latest_series(&[gateway], Some("m2"), Some("value"), None, 10).await.unwrap(),
            rows[1..]
        );
        let many: Vec<NewLatest> = (0..MAX_SERIES as u64 + 500).map(|n| latest(n, 30, "3")).collect();
        db.take_batch(&batch(gateway, 3, &many, &[]), NOW).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        let (count,): (i64,) =
            on!(&mut tx, c => sqlx::query_as("SELECT COUNT(*) FROM series_latest WHERE tenant = $1")
            .bind(db.tenant().0).fetch_one(c).await)
            .unwrap();
        drop(tx);
        assert_eq!(usize::try_from(count).unwrap(), MAX_SERIES);
        // Those that are known go on.
        db.take_batch(&batch(gateway, 4, &[latest(1, 40, "4"), latest(9_999_999, 40, "4")], &[]), NOW)
            .await
            .unwrap();
        let rows = db.latest_series(&[gateway], Some("m1"), None, None, 10).await.unwrap();
        assert_eq!(rows[0].value, "4");
        assert_eq!(db.latest_series(&[gateway], Some("m9999999"), None, None, 10).await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn losses_and_reports_of_gateways_are_listed_by_name_and_location() {
    each_engine(async |test| {
        let db = tenant(test, "one").await;
        let (a, b) = (device(&db, "a", "Riga").await, device(&db, "b", "Oslo").await);
        device(&db, "no-gateway", "Riga").await;
        let report = serde_json::json!({"backlogPoints": 7});
        for gateway in [b, a] {
            db.write_gateway_report(gateway, EPOCH, &serde_json::json!({}), NOW).await.unwrap();
            db.write_gateway_report(gateway, EPOCH, &report, NOW.plus_ms(1)).await.unwrap();
        }
        let names = |rows: Vec<farshore_store::sync::GatewayRow>| -> Vec<String> {
            rows.into_iter().map(|row| row.name.to_string()).collect()
        };
        let all = db.gateways(None, None, 10).await.unwrap();
        assert_eq!((all[0].epoch, all[0].reported_at, &all[0].report), (EPOCH, NOW.plus_ms(1), &report));
        assert_eq!(names(all), ["a", "b"]);
        assert_eq!(names(db.gateways(Some("Oslo"), None, 10).await.unwrap()), ["b"]);
        assert_eq!(names(db.gateways(None, Some("a"), 10).await.unwrap()), ["b"]);
        assert_eq!(names(db.gateways(None, None, 1).await.unwrap()), ["a"]);
        let loss = |points| NewLoss {
            stream: "data/default".to_owned(),
            reason: "expired".to_owned(),
            points,
            from: NOW,
            to: NOW.plus_ms(points),
            at: NOW,
        };
        for sequence in [1, 1, 2] {
            db.take_batch(&batch(a, sequence, &[], &[loss(3), loss(4)]), NOW).await.unwrap();
        }
        db.count_refused_batch(a, EPOCH, ("data/default", "telemetry"), NOW).await.unwrap();
        let lost = db.sync_losses(&[a, b]).await.unwrap();
        assert_eq!(lost.len(), 1);
        assert_eq!((lost[0].times, lost[0].points, lost[0].to), (4, 14, NOW.plus_ms(4)));
        assert_eq!(db.sync_streams(&[a, b]).await.unwrap()[0].refused, 1);
    })
    .await;
}

#[tokio::test]
async fn streams_and_gaps_without_end_are_stopped_and_what_is_old_goes() {
    each_engine(async |test| {
        let db = tenant(test, "one").await;
        let gateway = device(&db, "gw", "").await;
        for epoch in 1..=MAX_STREAMS.unsigned_abs() {
            let first = NewBatch { epoch, points: 0, ..batch(gateway, 1, &[], &[]) };
            assert_eq!(db.take_batch(&first, NOW).await.unwrap(), Taken::Stored);
        }
        let beyond = batch(gateway, 1, &[], &[]);
        assert_eq!(db.take_batch(&beyond, NOW).await.unwrap(), Taken::TooManyStreams);
        assert_eq!(db.sync_marks(gateway, EPOCH).await.unwrap(), []);
        // What is there goes on.
        let known = NewBatch { epoch: 1, ..batch(gateway, 2, &[], &[]) };
        assert_eq!(db.take_batch(&known, NOW.plus_ms(2 * DAY_MS)).await.unwrap(), Taken::Stored);
        let system = test.store.system(Driver::Retention);
        while system.delete_old_sync(NOW.plus_ms(DAY_MS), NOW, 100).await.unwrap() > 0 {}
        assert_eq!(db.sync_streams(&[gateway]).await.unwrap().len(), 1);
        assert_eq!(db.take_batch(&beyond, NOW).await.unwrap(), Taken::Stored);
    })
    .await;
}

#[tokio::test]
async fn a_batch_is_known_once_it_was_taken_and_its_floor_says_nothing_new() {
    each_engine(async |test| {
        let db = tenant(test, "one").await;
        let gateway = device(&db, "gw", "Riga").await;
        let known = async |stream, sequence, floor| {
            db.batch_is_known(gateway, (stream, EPOCH), sequence, floor).await.unwrap()
        };
        assert!(!known("data/default", 3, 1).await);
        db.take_batch(&NewBatch { floor: 1, ..batch(gateway, 3, &[], &[]) }, NOW).await.unwrap();
        assert!(known("data/default", 3, 1).await && !known("data/default", 2, 1).await);
        assert!(!known("data/other", 3, 1).await);
        assert!(!known("data/default", 3, 3).await, "its floor is to be kept");
        db.take_batch(&NewBatch { floor: 3, ..batch(gateway, 3, &[], &[]) }, NOW).await.unwrap();
        assert!(known("data/default", 3, 3).await && known("data/default", 2, 1).await);
    })
    .await;
}

#[tokio::test]
async fn what_came_late_is_kept_as_long_as_what_came_in_time() {
    each_engine(async |test| {
        let db = tenant(test, "one").await;
        let gateway = device(&db, "gw", "Riga").await;
        let came = NOW.plus_ms(30 * DAY_MS);
        for sequence in 1..=3 {
            db.take_batch(
                &batch(gateway, sequence, &[], &[]),
                came.plus_ms(i64::try_from(sequence).unwrap()),
            )
            .await
            .unwrap();
        }
        let (hours, retention) = (test.store.system(Driver::Hours), test.store.system(Driver::Retention));
        let lease = hours.acquire_lease("hours", "a", 1_000, NOW).await.unwrap().unwrap();
        let block = b"both".to_vec();
        let merged = MergedBlock { of: vec![1, 2], from: NOW, to: NOW, samples: 20, arrived: 2, block };
        let rolled = Rolled { rolled: vec![1, 2, 3], merged: vec![merged], ..Rolled::default() };
        db.write_rolled(&lease, gateway, &block_stream(EPOCH, "data/default"), &rolled).await.unwrap();
        let delete = async |cutoff| {
            let of_device = retention.delete_blocks_of(db.tenant(), &[gateway], cutoff, 10).await.unwrap();
            of_device + retention.delete_blocks_before(cutoff, 10).await.unwrap()
        };
        // Its points are a month old, but no sink has had the time to take them.
        assert_eq!((delete(came).await, blocks(&db, gateway).await), (0, vec![2, 3]));
        assert_eq!(delete(came.plus_ms(2)).await, 0, "what was put together is as new as the last of it");
        assert_eq!((delete(came.plus_ms(3)).await, blocks(&db, gateway).await), (1, vec![3]));
        assert_eq!((delete(came.plus_ms(4)).await, blocks(&db, gateway).await), (1, vec![]));
    })
    .await;
}

#[tokio::test]
async fn losses_that_are_too_much_together_are_still_listed() {
    each_engine(async |test| {
        let db = tenant(test, "one").await;
        let gateway = device(&db, "gw", "Riga").await;
        let loss = |stream: &str, points| NewLoss {
            stream: stream.to_owned(),
            reason: "expired".to_owned(),
            points,
            from: NOW,
            to: NOW,
            at: NOW,
        };
        let losses = [loss("a", i64::MAX), loss("a", i64::MAX), loss("b", 3), loss("b", 4)];
        db.take_batch(&batch(gateway, 1, &[], &losses), NOW).await.unwrap();
        let points: Vec<i64> =
            db.sync_losses(&[gateway]).await.unwrap().into_iter().map(|row| row.points).collect();
        assert_eq!(points, [i64::MAX, 7]);
    })
    .await;
}

#[tokio::test]
async fn of_several_first_ingest_keys_one_wins_and_old_ones_are_kept() {
    each_engine(async |test| {
        let db = tenant(test, "one").await;
        let key = |n: u8| IngestKeyRow {
            id: [n; 8],
            public_key: vec![n; 32],
            wrapped_key: vec![n; 61],
            created_at: NOW,
            retired_at: None,
        };
        assert_eq!(db.current_ingest_key().await.unwrap(), None);
        assert_eq!(db.add_ingest_key(&key(1), None, NOW).await.unwrap(), key(1));
        assert_eq!(db.add_ingest_key(&key(2), None, NOW).await.unwrap(), key(1), "somebody was first");
        assert_eq!(db.add_ingest_key(&key(3), Some([1; 8]), NOW).await.unwrap(), key(3));
        assert_eq!(
            db.add_ingest_key(&key(4), Some([1; 8]), NOW).await.unwrap(),
            key(3),
            "it was replaced already"
        );
        assert_eq!(db.current_ingest_key().await.unwrap(), Some(key(3)));
        let old = db.ingest_key([1; 8]).await.unwrap().unwrap();
        assert_eq!((old.wrapped_key, old.retired_at), (vec![1; 61], Some(NOW)));
        assert_eq!(db.ingest_keys().await.unwrap().len(), 2);
        assert_eq!(tenant(test, "two").await.ingest_key([1; 8]).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn blocks_go_into_hours_once_and_only_under_the_lease() {
    each_engine(async |test| {
        let db = tenant(test, "one").await;
        let other = tenant(test, "two").await;
        let gateway = device(&db, "gw", "Riga").await;
        let name = block_stream(EPOCH, "data/default");
        for sequence in 1..=4 {
            db.take_batch(&batch(gateway, sequence, &[], &[]), NOW).await.unwrap();
        }
        let (first, second) = (test.store.system(Driver::Hours), test.store.system(Driver::Hours));
        let late = NOW.plus_ms(DAY_MS);
        let due = first.streams_to_roll(late, 10).await.unwrap();
        assert_eq!(due.len(), 1);
        assert_eq!((due[0].device, due[0].stream.as_str()), (gateway, name.as_str()));
        assert_eq!(first.streams_to_roll(NOW, 10).await.unwrap(), []);
        let blocks = async |limit, bytes| {
            let blocks = db.blocks_to_roll(gateway, &name, late, limit, bytes).await.unwrap();
            blocks.into_iter().map(|block| block.sequence).collect::<Vec<_>>()
        };
        assert_eq!(blocks(3, 1_000).await, [1, 2, 3]);
        assert_eq!(blocks(9, 10).await, [1, 2], "five bytes each");
        assert_eq!(blocks(9, 1).await, [1], "never none");
        assert_eq!(other.blocks_to_roll(gateway, &name, late, 9, 1_000).await.unwrap(), []);

        let lease = first.acquire_lease("hours", "a", 1_000, NOW).await.unwrap().unwrap();
        let merged = MergedBlock {
            of: vec![1, 2],
            from: NOW,
            to: NOW.plus_ms(9),
            samples: 20,
            arrived: 2,
            block: b"both".to_vec(),
        };
        let rolled = Rolled {
            hours: vec![(UnixMs(0), b"hour".to_vec())],
            rolled: vec![1, 2],
            refused: vec![3],
            merged: vec![merged],
        };
        db.write_rolled(&lease, gateway, &name, &rolled).await.unwrap();
        // The same once more undoes itself as a whole: nothing is in an hour twice.
        let again =
            Rolled { hours: vec![(UnixMs(0), b"twice".to_vec())], merged: Vec::new(), ..rolled.clone() };
        assert!(db.write_rolled(&lease, gateway, &name, &again).await.is_err());
        // Another replica has taken over: the one that was held up writes nothing.
        let taken = second.acquire_lease("hours", "b", 1_000, NOW.plus_ms(2_000)).await.unwrap().unwrap();
        let rest = Rolled { rolled: vec![4], ..Rolled::default() };
        assert!(matches!(db.write_rolled(&lease, gateway, &name, &rest).await, Err(StoreError::LeaseLost)));
        db.write_rolled(&taken, gateway, &name, &rest).await.unwrap();
        assert_eq!(blocks(9, 1_000).await, [] as [i64; 0]);

        let mut tx = db.snapshot().await.unwrap();
        let stream = (gateway, name.as_str());
        let all = (UnixMs(i64::MIN), UnixMs(i64::MAX));
        let hours = db.hours_in(&mut tx, stream, all, None, 10).await.unwrap();
        assert_eq!(hours, [(UnixMs(0), b"hour".to_vec())]);
        let here = |blocks: Vec<(i64, Vec<u8>)>| {
            blocks.into_iter().map(|(sequence, _)| sequence).collect::<Vec<_>>()
        };
        assert_eq!(here(db.blocks_in(&mut tx, stream, all, true, 0, 10).await.unwrap()), [3]);
        assert_eq!(here(db.blocks_in(&mut tx, stream, all, false, 0, 10).await.unwrap()), [2, 3, 4]);
        // What is written now is not in what began to be read before.
        db.take_batch(&batch(gateway, 5, &[], &[]), NOW).await.unwrap();
        assert_eq!(here(db.blocks_in(&mut tx, stream, all, false, 0, 10).await.unwrap()), [2, 3, 4]);
        drop(tx);
        // Points that are in no hour are kept until they are.
        let system = test.store.system(Driver::Retention);
        assert_eq!(system.delete_blocks_before(late, 10).await.unwrap(), 3);
        assert_eq!(blocks(9, 1_000).await, [5]);
        assert_eq!(system.delete_hours_before(UnixMs(1), 10).await.unwrap(), 1);
        assert_eq!(system.delete_hours_before(UnixMs(1), 10).await.unwrap(), 0);
    })
    .await;
}
