//! Claim tokens, claims, renewal, revocation.

use farshore_control::clock::now;
use farshore_domain::id::DeviceId;
use farshore_trust::device::DeviceKey;
use farshore_trust::identity::DeviceIdentity;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Fleet, TestDevice, each_engine, each_engine_with, eventually, secret_of};

fn identity(chain_pem: &str) -> DeviceIdentity {
    let chain = farshore_trust::certificate::chain_from_pem(chain_pem).unwrap();
    DeviceIdentity::parse(&chain[0]).unwrap()
}

async fn used(fleet: &Fleet, token: &Value) -> u64 {
    let name = token["metadata"]["name"].as_str().unwrap();
    let token: Value = fleet.admin.get(&format!("/api/claim-tokens/{name}")).await.expect(200).json();
    token["status"]["used"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_claimed_with_the_labels_of_its_token() {
    each_engine(async |fleet| {
        let token = fleet
            .claim_token(
                json!({"labels": {"site": "riga"}, "channel": "canary", "location": "Riga 1", "uses": 2}),
            )
            .await;
        let text = token["status"]["token"].as_str().unwrap();
        assert!(token["status"]["command"].as_str().unwrap().ends_with(text));
        let parsed: farshore_trust::token::ClaimToken = text.parse().unwrap();
        assert_eq!(parsed.url(), fleet.running.device_url);
        assert_eq!(parsed.ca(), fleet.running.ca_fingerprint);
        let device = TestDevice::new(fleet);
        let body =
            json!({"hardware": {"hostname": "Kiosk_7.shop"}, "labels": {"site": "elsewhere", "own": "yes"}});
        let claimed: Value = device.claim_with(&secret_of(&token), body).await.expect(200).json();
        assert_eq!(claimed["name"], "kiosk-7");
        let id = identity(claimed["certificate"].as_str().unwrap());
        assert_eq!(id.device.to_string(), claimed["device"].as_str().unwrap());
        assert_eq!(id.public_key, device.key.public_key_digest());
        // The secret is shown once.
        let name = token["metadata"]["name"].as_str().unwrap();
        let again: Value = fleet.admin.get(&format!("/api/claim-tokens/{name}")).await.expect(200).json();
        assert_eq!(again["status"].get("token"), None);
        // A second device with the same host name gets another name.
        let second = TestDevice::new(fleet);
        let second: Value = second.claim(&secret_of(&token), "kiosk-7").await.expect(200).json();
        assert!(second["name"].as_str().unwrap().starts_with("kiosk-7-"), "{second}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_claim_sent_again_gets_the_same_answer() {
    each_engine(async |fleet| {
        let token = fleet.claim_token(json!({})).await;
        let secret = secret_of(&token);
        let device = TestDevice::new(fleet);
        let first: Value = device.claim(&secret, "kiosk").await.expect(200).json();
        let second: Value = device.claim(&secret, "renamed").await.expect(200).json();
        for field in ["device", "name", "tenant", "certificate", "roots"] {
            assert_eq!(first[field], second[field], "{field}");
        }
        assert_eq!(used(fleet, &token).await, 1);
        // Also after the token was revoked: the device was let in, and its answer may have been lost.
        let name = token["metadata"]["name"].as_str().unwrap();
        fleet.admin.delete(&format!("/api/claim-tokens/{name}")).await.expect(204);
        device.claim(&secret, "kiosk").await.expect(200);
        TestDevice::new(fleet).claim(&secret, "late").await.problem(403, "forbidden");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_devices_with_a_token_for_one_exactly_one_wins() {
    each_engine(async |fleet| {
        let token = fleet.claim_token(json!({"uses": 1})).await;
        let secret = secret_of(&token);
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..100 {
            let (device, secret) = (TestDevice::new(fleet), secret.clone());
            tasks.spawn(async move { device.claim(&secret, &format!("kiosk-{n}")).await.status });
        }
        let statuses = tasks.join_all().await;
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
        assert_eq!(statuses.iter().filter(|status| **status == 403).count(), 99, "{statuses:?}");
        assert_eq!(used(fleet, &token).await, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_claiming_many_times_at_once_is_one_device() {
    each_engine(async |fleet| {
        let token = fleet.claim_token(json!({"uses": 50})).await;
        let secret = secret_of(&token);
        let device = std::sync::Arc::new(TestDevice::new(fleet));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..30 {
            let (device, secret) = (device.clone(), secret.clone());
            tasks.spawn(async move {
                let claimed: Value = device.claim(&secret, "kiosk").await.expect(200).json();
                claimed["device"].as_str().unwrap().to_owned()
            });
        }
        let mut devices = tasks.join_all().await;
        devices.sort_unstable();
        devices.dedup();
        assert_eq!(devices.len(), 1);
        assert_eq!(used(fleet, &token).await, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_used_up_or_ended_token_lets_nobody_in() {
    each_engine(async |fleet| {
        let device = TestDevice::new(fleet);
        device.claim("no such token", "x").await.problem(403, "forbidden");
        device.claim(&"x".repeat(10_000), "x").await.problem(400, "invalid");
        let token = fleet.claim_token(json!({"lifetimeSeconds": 1})).await;
        let expires = token["status"]["expiresAt"].as_i64().unwrap();
        eventually("the token ends", || async { (now().0 > expires).then_some(()) }).await;
        let problem = device.claim(&secret_of(&token), "x").await.problem(403, "forbidden");
        assert!(problem.detail.contains("ended"), "{}", problem.detail);
        let garbage = device.post("/api/devices/claim", json!({"token": "x", "csr": "garbage"})).await;
        assert_eq!(garbage.problem(400, "invalid").errors[0].field, "csr");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_device_waits_until_it_is_approved_and_a_rejected_one_stays_out() {
    each_engine(async |fleet| {
        let rule = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
        let hold = rule("hold", json!({"order": 2, "action": "hold", "selector": "hardware/os=linux"}));
        fleet.admin.post("/api/claim-rules", hold).await.expect(201);
        let reject = rule("closed", json!({"order": 1, "action": "reject", "selector": "site=closed"}));
        fleet.admin.post("/api/claim-rules", reject).await.expect(201);
        let token = fleet.claim_token(json!({"uses": 5})).await;
        let secret = secret_of(&token);
        let device = TestDevice::new(fleet);
        for _ in 0..2 {
            let pending = device.claim(&secret, "kiosk").await.expect(202);
            assert_eq!(pending.json::<Value>()["state"], "pending");
            assert_eq!(pending.header("retry-after"), "5");
        }
        assert_eq!(used(fleet, &token).await, 1);
        let db = fleet.app.store().authorize_device(tenant_of(fleet).await, DeviceId(Uuid::nil()));
        let uid = pending_device(fleet).await;
        db.approve_device(uid, "known", now()).await.unwrap();
        db.approve_device(uid, "again", now()).await.unwrap_err();
        let claimed: Value = device.claim(&secret, "kiosk").await.expect(200).json();
        assert_eq!(claimed["device"], uid.to_string());
        // Rejected by a rule: no use is counted.
        let closed = fleet.claim_token(json!({"labels": {"site": "closed"}})).await;
        let stranger = TestDevice::new(fleet);
        let problem = stranger.claim(&secret_of(&closed), "x").await.problem(403, "forbidden");
        assert!(problem.detail.contains("closed"), "{}", problem.detail);
        assert_eq!(used(fleet, &closed).await, 0);
        // Rejected by a person: for good.
        let second = TestDevice::new(fleet);
        second.claim(&secret, "kiosk").await.expect(202);
        db.reject_device(pending_device(fleet).await, "unknown", now()).await.unwrap();
        second.claim(&secret, "kiosk").await.problem(403, "forbidden");
    })
    .await;
}

async fn tenant_of(fleet: &Fleet) -> farshore_domain::id::TenantId {
    let me: Value = fleet.admin.get("/api/me").await.expect(200).json();
    me["tenantId"].as_str().unwrap().parse().unwrap()
}

/// The one device that waits for an approval.
async fn pending_device(fleet: &Fleet) -> DeviceId {
    let devices: Value = fleet.admin.get("/api/devices?lifecycle=pending").await.expect(200).json();
    assert_eq!(devices["items"].as_array().unwrap().len(), 1, "{devices}");
    devices["items"][0]["metadata"]["uid"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_also_for_a_new_key_and_also_when_the_answer_was_lost() {
    each_engine(async |fleet| {
        let mut device = fleet.device("kiosk").await;
        let first = identity(&device.claimed().certificate);
        let artifact = format!("/api/artifacts/sha256:{}", "0".repeat(64));
        device.get(&artifact).await.problem(404, "not-found");
        let renewed: Value = device.renew(&device.key).await.expect(200).json();
        let second = identity(renewed["certificate"].as_str().unwrap());
        assert_eq!(second.device, first.device);
        assert_ne!(second.serial, first.serial);
        // A new key, over the connection that the current key proved; the answer is lost, and it asks again.
        let next = DeviceKey::generate().unwrap();
        device.renew(&next).await.expect(200);
        let renewed: Value = device.renew(&next).await.expect(200).json();
        // With the old certificate only that key gets one now.
        device.renew(&DeviceKey::generate().unwrap()).await.problem(403, "forbidden");
        device.renew(&device.key).await.problem(403, "forbidden");
        // And it opens nothing else any more.
        device.get(&artifact).await.problem(403, "forbidden");
        device.key = next;
        device.use_certificate(fleet, renewed["certificate"].as_str().unwrap());
        device.renew(&device.key).await.expect(200);
        // Somebody else's key is not to be had.
        let other = fleet.device("other").await;
        device.renew(&other.key).await.problem(400, "invalid");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_renews_and_does_nothing_else() {
    let short = |settings: &mut farshore_control::settings::Settings| {
        settings.identity.device_certificate_ms = 2_000;
    };
    each_engine_with(short, async |fleet| {
        let mut device = fleet.device("kiosk").await;
        let ends = identity(&device.claimed().certificate).not_after;
        eventually("the certificate ends", || async { (now().0 > ends.0 + 1_000).then_some(()) }).await;
        // A new connection, so that no resumed session is used.
        let certificate = device.claimed().certificate.clone();
        device.use_certificate(fleet, &certificate);
        let renewed: Value = device.renew(&device.key).await.expect(200).json();
        assert!(identity(renewed["certificate"].as_str().unwrap()).not_after > ends);
    })
    .await;
    let strict = |settings: &mut farshore_control::settings::Settings| {
        settings.identity.device_certificate_ms = 1_000;
        settings.identity.renew_expired_ms = 1_000;
    };
    each_engine_with(strict, async |fleet| {
        let device = fleet.device("kiosk").await;
        let ends = identity(&device.claimed().certificate).not_after;
        eventually("the certificate is too old", || async { (now().0 > ends.0 + 1_500).then_some(()) }).await;
        device.renew(&device.key).await.problem(401, "unauthenticated");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_gets_no_certificate_and_its_key_never_comes_back() {
    each_engine(async |fleet| {
        let device = fleet.device("kiosk").await;
        let db = fleet.app.store().authorize_device(tenant_of(fleet).await, DeviceId(Uuid::nil()));
        let uid = DeviceId(device.claimed().device);
        db.revoke_device(uid, "stolen", now()).await.unwrap();
        device.renew(&device.key).await.problem(403, "forbidden");
        let token = fleet.claim_token(json!({})).await;
        let problem = device.claim(&secret_of(&token), "kiosk").await.problem(403, "forbidden");
        assert!(problem.detail.contains("revoked"), "{}", problem.detail);
        assert_eq!(used(fleet, &token).await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_without_a_certificate_or_with_a_foreign_one_is_nobody() {
    each_engine(async |fleet| {
        let stranger = TestDevice::new(fleet);
        stranger.renew(&stranger.key).await.problem(401, "unauthenticated");
        // A certificate of another installation does not pass the handshake.
        let foreign = Fleet::start(farshore_store::test_util::TestDatabase::sqlite(), &|_| {}).await;
        let theirs = foreign.device("kiosk").await;
        let mut stranger = TestDevice::new(fleet);
        stranger.key = DeviceKey::from_pem(&theirs.key.to_pem()).unwrap();
        stranger.use_certificate(fleet, &theirs.claimed().certificate);
        let request =
            stranger.request(axum::http::Method::POST, "/api/devices/renew").json(&json!({"csr": "x"}));
        crate::harness::Answer::try_of(request).await.unwrap_err();
        foreign.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_cuts_a_download_that_is_under_way() {
    each_engine(async |fleet| {
        let publisher = crate::objects::Publisher::new(fleet, "default").await;
        // More than both sockets hold, so that most of it has not been sent when the device is revoked.
        let bytes = vec![7_u8; 48 * 1024 * 1024];
        let digest = publisher.artifact(&bytes).await;
        let device = fleet.device("kiosk").await;
        let request = device.request(axum::http::Method::GET, &format!("/api/artifacts/{digest}"));
        let mut download = request.send().await.unwrap();
        let mut read = download.chunk().await.unwrap().unwrap().len();
        let revoke = format!("/api/devices/{}:revoke", device.uid());
        fleet.admin.post(&revoke, json!({"comment": "stolen"})).await.expect(200);
        let ended = loop {
            match download.chunk().await {
                Ok(Some(chunk)) => read += chunk.len(),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        assert!(ended.is_err() && read < bytes.len(), "{read} bytes were sent to a revoked device");
    })
    .await;
}
