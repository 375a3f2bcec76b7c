//! How long pages of a large fleet take. The bound is far above what it takes, for machines that are busy; the figures are printed.

use std::time::{Duration, Instant};

use farshore_domain::device::{Health, Reachability};
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use farshore_store::device_list::{DeviceFilter, DeviceQuery, DeviceSort, Direction};
use farshore_store::presence::{HEARTBEAT_MS, Seen};
use farshore_store::test_util::each_engine;
use farshore_store::{Driver, on};
use uuid::Uuid;

const NOW: UnixMs = UnixMs(1_700_000_000_000);

#[tokio::test]
async fn a_page_of_a_large_fleet_is_found_quickly() {
    let devices: u128 = if std::env::var_os("FARSHORE_TEST_LONG").is_some() { 10_000 } else { 2_000 };
    each_engine(async |test| {
        let system = test.store.system(Driver::Platform);
        let name = Name::new("one").unwrap();
        let tenant = system.create_tenant(&name, "", &Labels::default(), NOW).await.unwrap().uid;
        let db = system.tenant(tenant);
        let mut tx = db.begin().await.unwrap();
        let ids: Vec<Uuid> = (0..devices).map(|n| Uuid::from_u128(n + 1)).collect();
        for (n, uid) in ids.iter().enumerate() {
            let (site, env) = (format!("site-{}", n % 200), if n % 10 == 0 { "canary" } else { "prod" });
            on!(&mut tx, c => sqlx::query(
                "INSERT INTO devices (tenant, uid, name, labels, managed_by, created_at, location, channel, driver,
                     lifecycle, public_key, hardware, health)
                 VALUES ($1, $2, $3, $4, 'test', $5, $6, 'prod', 'agent', 'claimed', $7, $8, $9)")
                .bind(tenant.0).bind(uid).bind(format!("kiosk-{n:06}"))
                .bind(sqlx::types::Json(serde_json::json!({"site": site, "env": env, "model": "pi4"})))
                .bind(NOW.0).bind(&site).bind(&uid.as_bytes()[..])
                .bind(sqlx::types::Json(serde_json::json!({"hostname": format!("kiosk-{n}"), "model": "Raspberry Pi 4"})))
                .bind(if n % 50 == 0 { "failing" } else { "healthy" }).execute(c).await.map(|_| ())).unwrap();
            for (key, value) in [("site", site.as_str()), ("env", env), ("model", "pi4")] {
                on!(&mut tx, c => sqlx::query("INSERT INTO device_labels (tenant, device, key, value) VALUES ($1, $2, $3, $4)")
                    .bind(tenant.0).bind(uid).bind(key).bind(value).execute(c).await.map(|_| ())).unwrap();
            }
        }
        tx.commit().await.unwrap();
        if let Some(mut superuser) = test.database.superuser().await {
            // What autovacuum does by itself within a minute.
            sqlx::query("ANALYZE").execute(&mut superuser).await.unwrap();
        }
        let start = Instant::now();
        let seen: Vec<Seen> =
            ids.iter().map(|uid| Seen { tenant, device: (*uid).into(), at: NOW }).collect();
        system.record_seen(&seen).await.unwrap();
        eprintln!("{}: presence of {devices} devices in {:?}", test.database.engine, start.elapsed());

        let filter = DeviceFilter::default;
        let cases = [
            ("all", filter(), DeviceSort::Name),
            ("by last seen", filter(), DeviceSort::LastSeen),
            ("by label", DeviceFilter { selector: "env=canary,site notin (site-3),model".parse().unwrap(), ..filter() }, DeviceSort::Name),
            ("by text", DeviceFilter { text: "kiosk site-7".to_owned(), ..filter() }, DeviceSort::Name),
            ("by state", DeviceFilter { health: vec![Health::Failing], reachability: vec![Reachability::Stale], ..filter() }, DeviceSort::Location),
        ];
        for (what, filter, sort) in cases {
            let query = DeviceQuery { filter, sort, direction: Direction::Descending, after: None, limit: 100 };
            let mut times: Vec<Duration> = Vec::new();
            let mut total = 0;
            for _ in 0..20 {
                let start = Instant::now();
                total = db.devices(&query, HEARTBEAT_MS, NOW).await.unwrap().total;
                times.push(start.elapsed());
            }
            times.sort();
            eprintln!("{}: {what}: {total} found, p50 {:?}, p95 {:?}", test.database.engine, times[10], times[18]);
            assert!(times[10] < Duration::from_millis(500), "{what}: {times:?}");
        }
        let start = Instant::now();
        db.device_counts(&DeviceFilter::default(), HEARTBEAT_MS, NOW).await.unwrap();
        eprintln!("{}: counts in {:?}", test.database.engine, start.elapsed());
    })
    .await;
}
