//! Desired states and key sets that should not be taken.

use std::collections::BTreeMap;

use farshore_agent::clock;
use farshore_domain::digest::Digest;
use farshore_protocol::server_frame::Body;
use farshore_protocol::{SignedDesired, SignedKeySet, TrustedKeys, agent_frame};
use farshore_trust::key::{Algorithm, SigningKey};

use crate::device::Device;
use crate::liar::{Answer, DAY, authority};
use crate::release::{Release, Signer};
use crate::wait::seen;

/// What precedes a desired state in what its key signs; see `farshore_trust::online`.
const CONTEXT: &[u8] = b"farshore.dev/desired/v1\n";

/// Signed by any key with any chain.
fn forged(good: &SignedDesired, key: &SigningKey, chain: Vec<Vec<u8>>) -> SignedDesired {
    let signature = key.sign(&[CONTEXT, &good.body].concat()).unwrap();
    SignedDesired { signature, chain, ..good.clone() }
}

async fn refused(
    device: &mut Device,
    what: &str,
    why: &str,
    lie: SignedDesired,
    app: &BTreeMap<i32, Digest>,
) {
    let before = device.liar.refusals().len();
    device.liar.tell(Body::Desired(lie));
    let reason = seen(what, || device.liar.refusals().get(before).cloned()).await;
    assert!(reason.contains(why), "{what}: {reason}");
    device.check_still(what, app);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_desired_state_that_is_old_foreign_forged_or_garbage_is_refused() {
    let (mut device, first) = Device::with_release("1.0", None).await;
    let replayed = device.liar.sign(&device.liar.state(1, &first), &[&first]);
    // A second release, so that going back to the first would be seen; and a third that waits to be smuggled in.
    let second = device.liar.signer.release("1.1");
    device.generation_at(50);
    device.takes(&second).await;
    let app = device.steady().await;
    let liar = std::sync::Arc::clone(&device.liar);
    let wanted = liar.signer.release("2.0");
    liar.publish(&wanted, Answer::ok(&wanted.artifact));
    device.may_stage(&wanted);
    let state = |generation| liar.state(generation, &wanted);
    let good = || liar.sign(&state(90), &[&wanted]);
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut state = state(90);
        change(&mut state);
        liar.sign(&state, &[&wanted])
    };
    let now = clock::wall();
    let server = liar.authority.issue_server(&["127.0.0.1".to_owned()], now, DAY).unwrap();
    let der = |chain: &[farshore_trust::CertificateDer<'_>]| {
        chain.iter().map(|der| der.to_vec()).collect::<Vec<_>>()
    };
    let stranger = authority(&liar.trust_domain);
    let online = stranger.issue_online(now, DAY).unwrap();
    let expired = {
        let yesterday = farshore_domain::time::UnixMs(now.0 - 48 * 3_600_000);
        liar.authority.issue_online(yesterday, DAY)
    };
    let mut bent = good();
    bent.body[40] ^= 1;
    let mut cases = vec![
        ("replayed", "older", replayed),
        ("an older generation", "older", liar.sign(&state(40), &[&wanted])),
        ("an older epoch", "older", with(&|state| state["epoch"] = 0.into())),
        (
            "another device",
            "another device",
            with(&|state| state["device"] = serde_json::json!(uuid::Uuid::now_v7())),
        ),
        (
            "another tenant",
            "another device",
            with(&|state| state["tenant"] = serde_json::json!(uuid::Uuid::now_v7())),
        ),
        ("a bent body", "signature", bent),
        ("no signature", "signature", SignedDesired { signature: Vec::new(), ..good() }),
        (
            "another's signature",
            "signature",
            SignedDesired { signature: liar.sign(&state(91), &[]).signature, ..good() },
        ),
        ("no chain", "signature", SignedDesired { chain: Vec::new(), ..good() }),
        ("a long chain", "signature", SignedDesired { chain: vec![good().chain[0].clone(); 200], ..good() }),
        ("garbage as a chain", "signature", SignedDesired { chain: vec![vec![0x30; 900]; 3], ..good() }),
        (
            "the server's own certificate",
            "signature",
            forged(&good(), &server.key, der(&server.certificate.chain)),
        ),
        ("another authority", "signature", forged(&good(), online.key(), der(online.chain()))),
        (
            "another authority's key below this chain",
            "signature",
            forged(&good(), online.key(), good().chain),
        ),
        ("a chain of both", "signature", {
            let mut chain = der(online.chain());
            chain.extend(good().chain);
            forged(&good(), online.key(), chain)
        }),
        ("no desired state", "can't be used", liar.sign_bytes(b"[]".to_vec(), &[])),
        ("deep garbage", "can't be used", liar.sign_bytes(vec![b'['; 500_000], &[])),
        (
            "another schema",
            "can't be used",
            with(&|state| state["schema"] = "farshore.dev/desired/v2".into()),
        ),
        ("an unknown field", "can't be used", with(&|state| state["exec"] = "bin/app".into())),
        ("a path for an app", "can't be used", with(&|state| state["apps"][0]["app"] = "../../web".into())),
        (
            "too many manifests",
            "manifests",
            SignedDesired { manifests: vec![good().manifests[0].clone(); 300], ..good() },
        ),
    ];
    if let Ok(expired) = expired {
        let chain = der(expired.chain());
        cases.push(("an expired certificate", "signature", forged(&good(), expired.key(), chain)));
    }
    for (what, why, lie) in cases {
        refused(&mut device, what, why, lie, &app).await;
    }
    assert_eq!(liar.asked(&crate::liar::path(&wanted)), 0, "nothing of it was even fetched");
    device.generation_at(95);
    let last = liar.signer.release("3.0");
    device.takes(&last).await;
    device.check("the good one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_live_permit_a_verified_release_is_staged_and_not_executed() {
    let (mut device, _) = Device::with_release("1.0", None).await;
    let app = device.steady().await;
    let liar = std::sync::Arc::clone(&device.liar);
    let now = clock::wall();
    let permit =
        |expires: i64| serde_json::json!({"uid": uuid::Uuid::now_v7(), "expiresAt": now.0 + expires});
    let cases = [
        ("no permit", serde_json::Value::Null, 0),
        ("an expired permit", permit(-1_000), 0),
        ("a permit that ended before it was issued", permit(3_600_000), 7_200_000),
        ("a permit of the year 1970", permit(-now.0), 0),
    ];
    for (number, (what, permit, issued)) in cases.into_iter().enumerate() {
        let release = liar.signer.release(&format!("2.{number}"));
        liar.publish(&release, Answer::ok(&release.artifact));
        device.may_stage(&release);
        let mut state = liar.state(device.next(), &release);
        state["issuedAt"] = (now.0 + issued).into();
        state["apps"][0]["permit"] = permit;
        liar.tell(Body::Desired(liar.sign(&state, &[&release])));
        seen(what, || {
            let app = liar.app_status()?;
            let waits = app.reasons.iter().any(|reason| reason.code == "WaitingForPermit");
            (app.staged_release == release.uid().to_string() && waits).then_some(())
        })
        .await;
        // Whatever is decided next comes before this answer.
        device.answers(what).await;
        device.check_still(what, &app);
    }
    let good = liar.signer.release("3.0");
    device.takes(&good).await;
    device.check("the good one");
}

pub(crate) fn sets(sets: &[&farshore_agent::runner::Signed]) -> Body {
    let set = |set: &&farshore_agent::runner::Signed| SignedKeySet {
        document: set.document.clone(),
        signature: set.signature.clone(),
    };
    Body::TrustedKeys(TrustedKeys { sets: sets.iter().map(set).collect() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_server_cannot_bring_in_a_release_key_of_its_own() {
    let (mut device, _) = Device::with_release("1.0", None).await;
    let app = device.steady().await;
    let liar = std::sync::Arc::clone(&device.liar);
    let (own, tenant) = (&liar.signer, liar.signer.tenant);
    let thief = Signer::new("acme");
    let next = SigningKey::generate(Algorithm::Ed25519).unwrap();
    let mut bent = own.set(tenant, 2, &next);
    bent.document[60] ^= 1;
    let lies = [
        ("signed by a stranger", thief.set(tenant, 2, &thief.key)),
        ("a version skipped", own.set(tenant, 3, &next)),
        ("another tenant's", own.set(thief.tenant, 2, &next)),
        ("a bent set", bent),
        ("garbage", farshore_agent::runner::Signed { document: vec![0xff; 2_000], signature: Vec::new() }),
        ("from the end of time", own.set(tenant, u64::MAX, &next)),
    ];
    let smuggled = |version: &str| {
        let release = thief.release(version);
        Release { version: version.to_owned(), ..release }
    };
    for (number, (what, lie)) in lies.iter().enumerate() {
        let events = liar.events("keys.refused");
        liar.tell(sets(&[lie]));
        seen(what, || (liar.events("keys.refused") > events).then_some(())).await;
        let release = smuggled(&format!("2.{number}"));
        liar.publish(&release, Answer::ok(&release.artifact));
        let begun = clock::wall();
        device.desire(&release);
        device.says("another key", &["BadSignature"], begun).await;
        device.check_still(what, &app);
    }
    // Going back: the first version once more, with another key. It is known already and changes nothing.
    liar.tell(sets(&[&thief.set(tenant, 1, &thief.key)]));
    let release = smuggled("2.8");
    liar.publish(&release, Answer::ok(&release.artifact));
    let begun = clock::wall();
    device.desire(&release);
    device.says("another key", &["BadSignature"], begun).await;
    device.check_still("the first version again", &app);

    // The keys' owner changes them: the new key is good and the old one is not any more, on both sides of the socket.
    liar.tell(sets(&[&own.set(tenant, 2, &next)]));
    let renewed = Signer { key: next, tenant, tenant_name: own.tenant_name.clone() };
    let good = renewed.release("3.0");
    device.takes(&good).await;
    let app = device.steady().await;
    let old = own.release("3.1");
    liar.publish(&old, Answer::ok(&old.artifact));
    let begun = clock::wall();
    device.desire(&old);
    device.says("another key", &["BadSignature"], begun).await;
    device.check_still("signed by the key before", &app);
    liar.say(crate::liar::Say::HangUp);
    let version = seen("the next hello", || {
        let book = liar.book();
        let hello = book.frames.iter().rev().find_map(|frame| match &frame.body {
            Some(agent_frame::Body::Hello(hello)) => Some(hello.trusted_keys_version),
            _ => None,
        });
        hello.filter(|_| book.channels > 1)
    });
    assert_eq!(version.await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_that_a_stolen_server_chose_cannot_choose_what_is_executed() {
    // Programs are chosen by the manifest alone, even where its author has written a variable into one.
    let mut device = Device::new().await;
    let liar = std::sync::Arc::clone(&device.liar);
    let release = liar.signer.changed("1.0", |manifest| {
        manifest["health"][0]["probe"]["command"] = serde_json::json!(["${CHECK}", "check"]);
        manifest["startTimeoutSeconds"] = 2.into();
    });
    liar.publish(&release, Answer::ok(&release.artifact));
    device.may_run(&release);
    let touched = device.path().join("touched");
    let script = device.path().join("state/script");
    std::fs::write(&script, format!("#!/bin/sh\necho x > {}\n", touched.display())).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut state = liar.state(device.next(), &release);
    state["apps"][0]["config"] =
        serde_json::json!({"CHECK": {"value": script, "layer": "device", "from": "stolen"}});
    liar.tell(Body::Desired(liar.sign(&state, &[&release])));
    seen("a verdict on the check", || {
        let app = liar.app_status()?;
        (app.phase == "held" || app.health == "unhealthy" || !app.failed_release.is_empty() || app.committed)
            .then_some(())
    })
    .await;
    assert!(!touched.exists(), "the server's script was executed");
    device.check("a check named by config");
    // What would change how a program is executed is refused whole.
    for key in ["LD_PRELOAD", "PATH", "LUA_INIT", "ERL_FLAGS", "ZDOTDIR", "PERL5DB", "PHPRC"] {
        let release = liar.signer.release(&format!("2.{}", key.len()));
        liar.publish(&release, Answer::ok(&release.artifact));
        device.may_stage(&release);
        let mut state = liar.state(device.next(), &release);
        state["apps"][0]["config"] =
            serde_json::json!({key: {"value": "x", "layer": "device", "from": "stolen"}});
        liar.tell(Body::Desired(liar.sign(&state, &[&release])));
        seen(key, || {
            let app = liar.app_status()?;
            let refused = |reason: &farshore_protocol::Reason| reason.message.contains(key);
            app.reasons.iter().any(refused).then_some(())
        })
        .await;
        device.check(key);
    }
}
