//! Hours are what their points are, whatever came when, and stay when the points have gone.

use std::collections::BTreeMap;

use farshore_api::device::Measurements;
use farshore_api::series::SeriesRange;
use farshore_control::series::hours::roll_all;
use farshore_domain::id::DeviceId;
use farshore_domain::time::{DAY_MS, HOUR_MS, MINUTE_MS, UnixMs};
use farshore_series::{
    BlockBuilder, Columns, DEFAULT_LEVEL, PointBatch, Value as Reading, encode, encode_columns,
};
use farshore_store::Driver;
use farshore_store::channel::ChannelBatch;
use farshore_store::metrics::NewBlock;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::harness::{Fleet, each_engine};
use crate::sync::{ask, at, put, sealed};
use crate::wire::now;

/// Room, time in nanoseconds, and value; `None` is a text.
type Point = (&'static str, i64, Option<f64>);

/// Steps and their values.
type Line = Vec<(i64, Option<f64>)>;

fn block(points: &[Point]) -> Vec<u8> {
    let mut batch = PointBatch::new();
    for (room, at, value) in points {
        let series = batch.series("temp", "value", [("room", *room)]).unwrap();
        let value = value.map_or_else(|| Reading::Text("broken".to_owned()), Reading::Float);
        batch.push(series, *at, value).unwrap();
    }
    encode_columns(&Columns::of(&batch), DEFAULT_LEVEL).unwrap()
}

/// What `/api/series` should say: by room, the steps and their values.
fn expected(
    points: &[Point],
    (from, to, step): (i64, i64, i64),
    aggregate: &str,
    all: bool,
) -> BTreeMap<String, Line> {
    let mut steps: BTreeMap<(String, i64), Line> = BTreeMap::new();
    for (room, at_ns, value) in points {
        let ms = at_ns.div_euclid(1_000_000);
        if (from..=to).contains(&ms) {
            let room = if all { String::new() } else { (*room).to_owned() };
            steps.entry((room, ms.div_euclid(step) * step)).or_default().push((*at_ns, *value));
        }
    }
    let mut lines: BTreeMap<String, Vec<(i64, Option<f64>)>> = BTreeMap::new();
    for ((room, step), mut points) in steps {
        points.sort_by_key(|(at, _)| *at);
        let numbers: Vec<f64> = points.iter().filter_map(|(_, value)| *value).collect();
        let sum: f64 = numbers.iter().sum();
        let count = |n: usize| f64::from(u32::try_from(n).unwrap());
        let value = match aggregate {
            "count" => Some(count(points.len())),
            _ if numbers.is_empty() => None,
            "sum" => Some(sum),
            "mean" => Some(sum / count(numbers.len())),
            "min" => numbers.iter().copied().reduce(f64::min),
            "max" => numbers.iter().copied().reduce(f64::max),
            _ => numbers.last().copied(),
        };
        lines.entry(room).or_default().push((step, value));
    }
    lines
}

/// Numbers are read from JSON to some fifteen digits.
fn same(
    read: &BTreeMap<String, Vec<(i64, Option<f64>)>>,
    expected: &BTreeMap<String, Vec<(i64, Option<f64>)>>,
) -> bool {
    let close = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-12 * b.abs().max(1.0),
        (a, b) => a.is_none() && b.is_none(),
    };
    read.len() == expected.len()
        && read.iter().zip(expected).all(|((room, read), (wanted, expected))| {
            room == wanted
                && read.len() == expected.len()
                && read.iter().zip(expected).all(|(a, b)| a.0 == b.0 && close(a.1, b.1))
        })
}

async fn read(
    fleet: &Fleet,
    (from, to, step): (i64, i64, i64),
    aggregate: &str,
    all: bool,
) -> BTreeMap<String, Vec<(i64, Option<f64>)>> {
    let by = if all { "all" } else { "series" };
    let path = format!("/api/series?from={from}&to={to}&step={step}&aggregate={aggregate}&by={by}");
    let range: SeriesRange = fleet.admin.get(&path).await.expect(200).json();
    assert!(!range.truncated);
    let room = |tags: &BTreeMap<String, String>| tags.get("room").cloned().unwrap_or_default();
    range
        .items
        .into_iter()
        .map(|line| (room(&line.tags), line.at.into_iter().zip(line.values).collect()))
        .collect()
}

/// Batches in any order, some twice, some a week late; hours made at any time in between; points deleted at some time.
async fn live(fleet: &Fleet, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let gateway = fleet.device(&format!("gw-{seed}")).await;
    let (_, key) = ask(&gateway).await;
    let start = now().0.div_euclid(HOUR_MS) * HOUR_MS - 9 * DAY_MS;
    let mut points: Vec<Point> = Vec::new();
    let mut sent: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut kept = true;
    for sequence in 1..=25 {
        let of_batch: Vec<Point> = (0..random.random_range(1..25_i64))
            .map(|n| {
                // Quarters add up without rounding, and no two points share a time.
                let ms = start + random.random_range(0..6 * HOUR_MS);
                let value = random.random_bool(0.9).then(|| f64::from(random.random_range(-400..400)) * 0.25);
                let unique = i64::try_from(sequence).unwrap() * 100 + n;
                (if random.random_bool(0.5) { "a" } else { "b" }, ms * 1_000_000 + unique, value)
            })
            .collect();
        let bytes = sealed("data/a", sequence, &block(&of_batch), Some(&key));
        put(&gateway, &at("data/a", sequence), bytes.clone()).await.expect(200);
        points.extend(of_batch);
        sent.push((sequence, bytes));
        if random.random_bool(0.3) {
            let (sequence, bytes) = sent[random.random_range(0..sent.len())].clone();
            put(&gateway, &at("data/a", sequence), bytes).await.expect(200);
        }
        if random.random_bool(0.3) {
            roll_all(&fleet.app, now()).await.unwrap();
            if random.random_bool(0.3) {
                let retention = fleet.app.store().system(Driver::Retention);
                kept &= retention.delete_blocks_before(now(), 10_000).await.unwrap() == 0;
            }
        }
        if random.random_bool(0.4) {
            let hour = |random: &mut StdRng| start + random.random_range(-1..8) * HOUR_MS;
            let (mut from, mut to) = (hour(&mut random), hour(&mut random));
            if from > to {
                std::mem::swap(&mut from, &mut to);
            }
            if kept {
                // Edges within an hour come from points.
                from -= random.random_range(0..HOUR_MS);
                to += random.random_range(0..HOUR_MS);
            } else {
                to += HOUR_MS - 1;
            }
            let step = [1, 2, 3, 24][random.random_range(0..4)] * HOUR_MS;
            let aggregate = ["mean", "min", "max", "sum", "count", "last"][random.random_range(0..6)];
            let all = random.random_bool(0.3);
            let (read, expected) = (
                read(fleet, (from, to, step), aggregate, all).await,
                expected(&points, (from, to, step), aggregate, all),
            );
            assert!(
                same(&read, &expected),
                "{read:?} is not {expected:?}: seed {seed}, after {sequence}: {from} to {to} by {step}, {aggregate}"
            );
        }
    }
    // Nothing but hours is left, and they know all of it.
    roll_all(&fleet.app, now()).await.unwrap();
    fleet.app.store().system(Driver::Retention).delete_blocks_before(now(), 10_000).await.unwrap();
    for aggregate in ["mean", "min", "max", "sum", "count", "last"] {
        let span = (start, start + 8 * HOUR_MS - 1, HOUR_MS);
        let (read, expected) =
            (read(fleet, span, aggregate, false).await, expected(&points, span, aggregate, false));
        assert!(same(&read, &expected), "{read:?} is not {expected:?}: seed {seed}, {aggregate}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hours_are_what_their_points_are_whatever_came_when() {
    each_engine(async |fleet| live(fleet, 7).await).await;
    each_engine(async |fleet| live(fleet, 8).await).await;
    each_engine(async |fleet| live(fleet, 9).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_small_blocks_of_a_host_become_one_an_hour_and_say_the_same() {
    each_engine(async |fleet| {
        let device = fleet.device("till").await;
        let uid: DeviceId = device.uid().parse().unwrap();
        let hour = now().0.div_euclid(HOUR_MS) * HOUR_MS - 20 * DAY_MS;
        let tenants = fleet.app.store().system(Driver::Hours).tenant_ids().await.unwrap();
        let (tenant, _) = tenants[0];
        let blocks: Vec<NewBlock> = (0..180)
            .map(|minute| {
                let mut builder = BlockBuilder::new();
                for sample in 0..6 {
                    let at = hour + minute * MINUTE_MS + sample * 10_000;
                    let value = f64::from(u16::try_from(minute * 6 + sample).unwrap()) * 0.25;
                    builder.push(at, [("cpu", value), ("mem_used", 2.0)]).unwrap();
                }
                let block = builder.finish();
                let (from, to) = block.span_ms().unwrap();
                NewBlock {
                    tenant,
                    device: uid,
                    stream: "host".to_owned(),
                    sequence: minute + 1,
                    from: UnixMs(from),
                    to: UnixMs(to),
                    samples: 6,
                    block: encode(&block).unwrap(),
                    latest: BTreeMap::new(),
                }
            })
            .collect();
        let system = fleet.app.store().system(Driver::DevicePort);
        system.write_channel("r", &ChannelBatch { blocks, ..ChannelBatch::default() }, now()).await.unwrap();
        let read = async |from: i64, to: i64, points: u32| -> Measurements {
            let path = format!("/api/devices/{uid}/metrics?from={from}&to={to}&points={points}");
            fleet.admin.get(&path).await.expect(200).json()
        };
        let asked = [
            (hour, hour + 3 * HOUR_MS - 1, 3),
            (hour - DAY_MS, hour + 5 * HOUR_MS + 1, 9),
            (hour + 5, hour + HOUR_MS, 300),
        ];
        let mut before = Vec::new();
        for (from, to, points) in asked {
            before.push(read(from, to, points).await);
        }
        assert_eq!(before[0].columns["cpu"][0], Some(179.5 * 0.25));
        roll_all(&fleet.app, now()).await.unwrap();
        for ((from, to, points), before) in asked.into_iter().zip(&before) {
            assert_eq!(read(from, to, points).await, *before);
        }
        let db = system.tenant(tenant);
        let stored = db.metric_blocks(&[uid], "host", UnixMs(0), now(), 1_000).await.unwrap();
        assert_eq!(stored.len(), 3, "one an hour");
        // A year on, only hours are left.
        fleet.app.store().system(Driver::Retention).delete_blocks_before(now(), 10_000).await.unwrap();
        assert_eq!(read(hour, hour + 3 * HOUR_MS - 1, 3).await, before[0]);
        let path = format!("/api/devices/{uid}/metrics?from={}&to={}&points=5000", hour, hour + 40 * DAY_MS);
        assert_eq!(fleet.admin.get(&path).await.problem(400, "invalid").errors[0].field, "points");
    })
    .await;
}
