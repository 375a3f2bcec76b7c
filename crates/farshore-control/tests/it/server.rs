//! What goes around every route: headers, errors, health, figures, restarts.

use axum::http::Method;
use serde_json::Value;

use crate::harness::{Answer, Fleet, TestDevice, each_engine, each_engine_with, eventually};
use farshore_store::test_util::TestDatabase;

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_carries_its_id_and_the_security_headers() {
    each_engine(async |fleet| {
        let nobody = fleet.nobody();
        for path in ["/healthz", "/readyz", "/metrics", "/api/me", "/api/nothing", "/", "/devices"] {
            let answer = nobody.header("x-request-id", "my-id.1").get(path).await;
            assert_eq!(answer.header("x-request-id"), "my-id.1", "{path}");
            assert!(answer.header("content-security-policy").contains("frame-ancestors 'none'"), "{path}");
            assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
            assert!(answer.header("strict-transport-security").starts_with("max-age="), "{path}");
        }
        let made = nobody.header("x-request-id", "two words").get("/api/me").await;
        assert_ne!(made.header("x-request-id"), "two words");
        assert_eq!(
            made.clone().problem(401, "unauthenticated").request_id.as_deref(),
            Some(made.header("x-request-id"))
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_a_problem_and_pages_are_pages() {
    each_engine(async |fleet| {
        let nobody = fleet.nobody();
        nobody.get("/api/nothing").await.problem(404, "not-found");
        nobody.send(Method::PATCH, "/api/me", None).await.problem(405, "method-not-allowed");
        // The inside spelling of a verb is no address.
        nobody.send(Method::POST, "/api/devices/x/~revoke", None).await.problem(404, "not-found");
        let page = nobody.get("/devices?q=kiosk").await.expect(200);
        assert!(page.header("content-type").starts_with("text/html"));
        nobody.get("/assets/none.js").await.problem(404, "not-found");
        nobody.send(Method::POST, "/devices", None).await.problem(405, "method-not-allowed");
        TestDevice::new(fleet).get("/").await.problem(404, "not-found");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_tell_routes_from_each_other_and_not_one_object_from_another() {
    each_engine(async |fleet| {
        for name in ["a", "b"] {
            fleet.admin.get(&format!("/api/users/{name}")).await.problem(404, "not-found");
        }
        let text = fleet.nobody().get("/metrics").await.expect(200).text();
        for figure in ["farshore_build_info{", "farshore_devices_connected 0\n", "farshore_db_connections "] {
            assert!(text.contains(figure), "{figure}: {text}");
        }
        let line = "farshore_http_request_duration_seconds_count{method=\"GET\",route=\"/api/users/{id}\",status=\"404\"} 2";
        assert!(text.contains(line), "{text}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_authority_sessions_and_devices() {
    for database in TestDatabase::each().await {
        let fleet = Fleet::start(database, &|_| {}).await;
        let mut device = fleet.device("kiosk").await;
        let before = (fleet.running.ca_fingerprint, device.claimed().certificate.clone());
        let fleet = fleet.restart().await;
        assert_eq!(fleet.running.ca_fingerprint, before.0);
        fleet.admin.get("/api/me").await.expect(200);
        device.url = fleet.running.device_url.clone();
        device.use_certificate(&fleet, &before.1);
        device.renew(&device.key).await.expect(200);
        fleet.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_of_the_api_is_served() {
    each_engine(async |fleet| {
        let document: Value = fleet.nobody().get("/api/openapi.json").await.expect(200).json();
        assert!(document["paths"]["/api/login"]["post"].is_object());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_hold_nobody_up() {
    each_engine_with(
        |settings| settings.limits.max_handshakes = 2,
        async |fleet| {
            let mut silent = Vec::new();
            for address in [fleet.running.api_addr, fleet.running.device_addr] {
                for _ in 0..100 {
                    silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
                }
            }
            let started = std::time::Instant::now();
            fleet.nobody().get("/healthz").await.expect(200);
            TestDevice::new(fleet).claim("x", "x").await.problem(403, "forbidden");
            assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
            drop(silent);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_port_sheds_and_serves_again_when_there_is_room() {
    each_engine_with(
        |settings| settings.limits.max_device_connections = 3,
        async |fleet| {
            let mut held = Vec::new();
            for _ in 0..3 {
                held.push(tokio::net::TcpStream::connect(fleet.running.device_addr).await.unwrap());
            }
            let text = eventually("a connection is shed", || async {
                let _refused = tokio::net::TcpStream::connect(fleet.running.device_addr).await.ok()?;
                let text = fleet.nobody().get("/metrics").await.text();
                text.contains("farshore_connections_shed_total{port=\"device\"}").then_some(text)
            });
            text.await;
            drop(held);
            let device = TestDevice::new(fleet);
            eventually("the port serves again", || async {
                let request = device.request(Method::POST, "/api/devices/claim").json(&serde_json::json!({}));
                Answer::try_of(request).await.ok().filter(|answer| answer.status == 400)
            })
            .await;
        },
    )
    .await;
}
