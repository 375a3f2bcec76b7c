//! Events: pages, filters, streams.

use std::collections::BTreeSet;

use axum::http::Method;
use farshore_domain::id::TenantId;
use farshore_store::Driver;
use farshore_store::events::NewEvent;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Fleet, each_engine};
use crate::wire::{SseReader, now};

async fn tenant(fleet: &Fleet) -> TenantId {
    let tenants = fleet.app.store().system(Driver::Platform).tenant_ids().await.unwrap();
    tenants.into_iter().find(|(_, name)| name.as_str() == "default").unwrap().0
}

fn event(kind: &str, subject: u128) -> NewEvent {
    NewEvent {
        uid: Uuid::now_v7(),
        at: now(),
        kind: kind.to_owned(),
        subject_kind: "Device".to_owned(),
        subject: Uuid::from_u128(subject),
        subject_name: format!("kiosk-{subject}"),
        actor: "driver:test".to_owned(),
        message: "something\nhappened".to_owned(),
        payload: json!({}),
    }
}

async fn write(fleet: &Fleet, tenant: TenantId, events: Vec<NewEvent>) {
    let rows: Vec<_> = events.into_iter().map(|event| (tenant, event)).collect();
    fleet.app.store().system(Driver::Platform).append_events(&rows).await.unwrap();
    fleet.app.events_written();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_resumes_sees_each_event_once_while_others_write() {
    each_engine(async |fleet| {
        let tenant = tenant(fleet).await;
        const WRITERS: usize = 4;
        const EACH: usize = 60;
        let first =
            SseReader::open(fleet.admin.request(Method::GET, "/api/events/stream?kind=test.wave")).await;
        let writers = async {
            let mut written = BTreeSet::new();
            for _ in 0..EACH {
                let events: Vec<NewEvent> = (0..WRITERS).map(|n| event("test.wave", n as u128)).collect();
                written.extend(events.iter().map(|event| event.uid));
                // Each its own transaction, all at once, and others in between that the filter leaves out.
                let each = events.into_iter().map(|event| write(fleet, tenant, vec![event]));
                futures_util::future::join_all(each).await;
                write(fleet, tenant, vec![event("test.other", 1)]).await;
            }
            written
        };
        let reader = async {
            let mut stream = first;
            let (mut seen, mut last, mut in_this) = (Vec::new(), 0, 0);
            while seen.len() < WRITERS * EACH {
                let next = stream.next().await.expect("the stream goes on");
                if next.event == "device-changed" {
                    continue;
                }
                assert_eq!(next.event, "test.wave");
                let id = next.id.unwrap();
                assert!(id > last, "in order: {id} after {last}");
                last = id;
                seen.push(next.data["uid"].as_str().unwrap().parse::<Uuid>().unwrap());
                in_this += 1;
                // Every so often the reader loses the connection and comes back.
                if in_this == 17 {
                    in_this = 0;
                    let request = fleet.admin.header("last-event-id", &last.to_string());
                    stream =
                        SseReader::open(request.request(Method::GET, "/api/events/stream?kind=test.wave"))
                            .await;
                }
            }
            seen
        };
        let (written, seen) = tokio::join!(writers, reader);
        assert_eq!(seen.len(), written.len());
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), written);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_is_too_far_behind_begins_anew() {
    each_engine(async |fleet| {
        let tenant = tenant(fleet).await;
        for id in ["999999999", "0"] {
            if id == "0" {
                // What it asks for is gone.
                write(fleet, tenant, vec![event("test.old", 1)]).await;
                let cutoff = now().plus_ms(60_000);
                crate::harness::eventually("numbered", async || {
                    let list: Value = fleet.admin.get("/api/events?kind=test.old").await.expect(200).json();
                    (!list["items"].as_array().unwrap().is_empty()).then_some(())
                })
                .await;
                let system = fleet.app.store().system(Driver::Retention);
                while system.delete_events_before(cutoff, 100).await.unwrap() > 0 {}
            }
            let request = fleet.admin.header("last-event-id", id).request(Method::GET, "/api/events/stream");
            let response = request.send().await.unwrap();
            let mut text = String::new();
            let mut response = response;
            while !text.contains(": open") {
                text.push_str(std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap());
            }
            assert!(text.contains("event: reset"), "{id}: {text}");
        }
        fleet.admin.header("last-event-id", "-1").get("/api/events/stream").await.problem(400, "invalid");
        fleet.admin.header("last-event-id", "x").get("/api/events/stream").await.problem(400, "invalid");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_paged_and_filtered_and_stay_in_their_tenant() {
    each_engine(async |fleet| {
        let tenant = tenant(fleet).await;
        fleet.tenant("other").await;
        write(fleet, tenant, (0..5).map(|n| event("test.page", n)).collect()).await;
        crate::harness::eventually("numbers", async || {
            let list: Value = fleet.admin.get("/api/events?kind=test.page").await.expect(200).json();
            (list["items"].as_array().unwrap().len() == 5).then_some(())
        })
        .await;
        let mut seen = Vec::new();
        let mut path = "/api/events?kind=test.page&limit=2".to_owned();
        loop {
            let list: Value = fleet.admin.get(&path).await.expect(200).json();
            seen.extend(list["items"].as_array().unwrap().iter().map(|e| e["sequence"].as_i64().unwrap()));
            let Some(next) = list["metadata"]["continue"].as_str() else { break };
            path = format!("/api/events?kind=test.page&limit=2&continue={next}");
        }
        assert_eq!(seen.len(), 5);
        assert!(seen.is_sorted_by(|a, b| a > b), "newest first: {seen:?}");
        let one: Value =
            fleet.admin.get("/api/events?subject=kiosk-3&subjectKind=Device").await.expect(200).json();
        assert_eq!(one["items"].as_array().unwrap().len(), 1);
        assert_eq!(one["items"][0]["message"], "something\nhappened");
        let other: Value =
            fleet.admin.in_tenant("other").get("/api/events?kind=test.page").await.expect(200).json();
        assert_eq!(other["items"], json!([]));
        fleet.admin.get("/api/events?limit=0").await.problem(400, "invalid");
        fleet.admin.get("/api/events?colour=red").await.problem(400, "invalid");
        fleet.nobody().get("/api/events").await.problem(401, "unauthenticated");
        fleet.nobody().get("/api/events/stream").await.problem(401, "unauthenticated");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_the_server_stops() {
    for database in farshore_store::test_util::TestDatabase::each().await {
        let fleet = Fleet::start(database, &|_| {}).await;
        let mut stream = SseReader::open(fleet.admin.request(Method::GET, "/api/events/stream")).await;
        let ((), ()) = tokio::join!(fleet.stop(), async { while stream.next().await.is_some() {} });
    }
}

/// The bound is for machines that are busy with other things; the figures are printed.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_events_a_second_reach_readers_soon() {
    each_engine(async |fleet| {
        let tenant = tenant(fleet).await;
        const ROUNDS: usize = 60;
        const EACH: usize = 50;
        let mut stream =
            SseReader::open(fleet.admin.request(Method::GET, "/api/events/stream?kind=test.rate")).await;
        let write = async {
            let mut ticks = tokio::time::interval(std::time::Duration::from_millis(50));
            for _ in 0..ROUNDS {
                ticks.tick().await;
                write(fleet, tenant, (0..EACH).map(|n| event("test.rate", n as u128)).collect()).await;
            }
        };
        let read = async {
            let mut late = Vec::new();
            while late.len() < ROUNDS * EACH {
                let next = stream.of("test.rate").await;
                late.push(now().0 - next.data["at"].as_i64().unwrap());
            }
            late.sort_unstable();
            late
        };
        let ((), late) = tokio::join!(write, read);
        let at = |part: usize| late[late.len() * part / 100];
        eprintln!(
            "{}: event to reader p50 {} ms, p95 {} ms, p99 {} ms",
            fleet.engine,
            at(50),
            at(95),
            at(99)
        );
        assert!(at(95) < 3_000, "{} ms", at(95));
    })
    .await;
}
