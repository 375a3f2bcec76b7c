//! The whole line on one device: claim, stage, activate, commit, fail, go back; with `run` and runner as real processes.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use farshore_agent::Status;
use farshore_protocol::{Goodbye, LiveRequest, Operation, agent_frame, server_frame};
use tokio_tungstenite::tungstenite::Message;

use crate::plane::{Mood, Plane, release_uid};
use crate::release::{Release, SLEEPER};
use crate::runner::Bed;
use crate::wait::{seen, until};

pub(crate) const FIT: &str = "#!/bin/sh\ntest ! -e \"$HOME/sick\"\n";

pub(crate) struct Device {
    pub(crate) plane: Arc<Plane>,
    pub(crate) bed: Bed,
    run: Option<Child>,
}

impl Device {
    pub(crate) async fn new() -> Self {
        Self::with(Bed::new().await).await
    }

    /// On a bed that was made before.
    pub(crate) async fn with(bed: Bed) -> Self {
        let mut device = Self { plane: Plane::start().await, bed, run: None };
        device.start_run();
        device.connected(1).await;
        device
    }

    pub(crate) fn state(&self) -> std::path::PathBuf {
        self.bed.folder.path().join("state")
    }

    pub(crate) fn start_run(&mut self) {
        let token = self.bed.folder.path().join("token");
        std::fs::write(&token, self.plane.token().to_text().as_bytes()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_farshore-agent"))
            .arg("run")
            .arg("--state-dir")
            .arg(self.state())
            .arg("--runner-socket")
            .arg(self.bed.socket())
            .arg("--token-file")
            .arg(token)
            .args(["--label", "site=riga"])
            .env("FARSHORE_LOG", "error")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.run = Some(child);
    }

    pub(crate) fn kill_run(&mut self) {
        let mut run = self.run.take().unwrap();
        run.kill().unwrap();
        run.wait().unwrap();
    }

    /// The `count`th channel is open.
    pub(crate) async fn connected(&self, count: usize) {
        seen("a channel", || {
            let book = self.plane.book();
            (book.channels >= count && book.outbox.is_some()).then_some(())
        })
        .await;
    }

    pub(crate) fn release(
        &self,
        version: &str,
        check: &str,
        change: impl FnOnce(&mut serde_json::Value),
    ) -> Release {
        let files = [("bin/app", 0o755, SLEEPER), ("bin/fit", 0o755, check)];
        let release = self.plane.signer.release(version, &files, |manifest| {
            manifest["health"] = serde_json::json!([{
                "name": "fit", "intervalSeconds": 1, "failureThreshold": 2,
                "probe": {"type": "command", "command": ["bin/fit"]},
            }]);
            change(manifest);
        });
        self.plane.publish(&release, Mood::Honest);
        release
    }

    pub(crate) async fn committed(&self, release: &Release) {
        seen("the commit", || {
            let app = self.plane.app_status()?;
            (app.committed && app.active_version == release.version && app.phase == "running").then_some(())
        })
        .await;
    }

    fn kinds(&self) -> Vec<String> {
        self.plane.events().into_iter().map(|event| event.kind).collect()
    }

    pub(crate) async fn event(&self, kind: &str) -> farshore_protocol::DeviceEvent {
        seen(kind, || self.plane.events().into_iter().rev().find(|event| event.kind == kind)).await
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(mut run) = self.run.take() {
            run.kill().unwrap();
            run.wait().unwrap();
        }
    }
}

#[tokio::test]
async fn a_release_runs_stays_healthy_and_a_bad_one_goes_back_by_itself() {
    let device = Device::new().await;
    let plane = &device.plane;
    let good = device.release("1.0", FIT, |_| {});
    plane.desire(1, &good, &[]);
    device.committed(&good).await;
    let app = plane.app_status().unwrap();
    assert_eq!((app.health.as_str(), app.active_release), ("healthy", release_uid(&good).to_string()));
    assert!(!app.permit.is_empty());
    assert_eq!(device.bed.app_pids().len(), 1);

    // Healthy at first, then not: it fails in its soak time.
    let sick = "#!/bin/sh\ntest -e \"$HOME/once\" && exit 1\ntouch \"$HOME/once\"\n";
    let bad = device.release("1.1", sick, |manifest| manifest["soakSeconds"] = 60.into());
    plane.desire(2, &bad, &[]);
    let held = seen("the rollback", || plane.app_status().filter(|app| app.phase == "held")).await;
    assert_eq!((held.active_version.as_str(), held.committed), ("1.0", true));
    assert_eq!(held.failed_release, release_uid(&bad).to_string());
    assert!(held.reasons.iter().any(|reason| reason.code == "HealthCheckFailed"), "{held:?}");
    assert_eq!(device.bed.app_pids().len(), 1);
    device.event("release.rolled-back").await;
    let kinds = device.kinds();
    for kind in ["agent.started", "release.staged", "release.activated", "release.committed", "health.failed"]
    {
        assert!(kinds.iter().any(|found| found == kind), "{kind} not in {kinds:?}");
    }
    // It says so on the device, too, without anybody's help.
    let status = Status::read(&device.state()).unwrap();
    assert_eq!((status.conformance.as_str(), status.name.as_str()), ("held", "till-1"));
    assert!(status.text(status.written_at).contains("HealthCheckFailed"));

    // The fleet goes back to 1.0: that is what runs.
    plane.desire(3, &good, &[]);
    device.committed(&good).await;
}

#[tokio::test]
async fn killing_run_or_runner_leaves_the_app_alone_and_both_find_it_again() {
    let mut device = Device::new().await;
    let good = device.release("1.0", FIT, |_| {});
    device.plane.desire(1, &good, &[]);
    device.committed(&good).await;
    let pids = device.bed.app_pids();

    device.kill_run();
    assert_eq!(device.bed.app_pids(), pids);
    device.plane.book().frames.clear();
    device.start_run();
    device.connected(2).await;
    device.committed(&good).await;
    assert_eq!(device.plane.book().claims, 1, "claimed once for ever");

    device.bed.kill_runner();
    let lost = seen("the loss", || {
        let status = Status::read(&device.state()).ok()?;
        status.reasons.iter().any(|reason| reason.code == "RunnerUnreachable").then_some(())
    });
    lost.await;
    device.bed.start_runner().await;
    seen("the runner again", || {
        let status = Status::read(&device.state()).ok()?;
        (status.health == "healthy" && status.reasons.is_empty()).then_some(())
    })
    .await;
    assert_eq!(device.bed.app_pids(), pids);
}

#[tokio::test]
async fn killed_again_and_again_during_a_switch_it_still_arrives_and_never_doubles() {
    let mut device = Device::new().await;
    let old = device.release("1.0", FIT, |_| {});
    device.plane.desire(1, &old, &[]);
    device.committed(&old).await;
    let new = device.release("1.1", FIT, |_| {});
    device.plane.desire(2, &new, &[]);
    // Eight points by default; more when asked, each at another moment, with one switch after the other.
    let points =
        std::env::var("FARSHORE_KILL_POINTS").ok().and_then(|text| text.parse().ok()).unwrap_or(8_u64);
    for round in 0..points {
        tokio::time::sleep(Duration::from_millis(40 + round * 7_919 % 350)).await;
        if round % 2 == 0 {
            let channels = device.plane.book().channels;
            device.kill_run();
            device.start_run();
            device.connected(channels + 1).await;
            // What a control plane does after each hello.
            device.plane.desire(3 + round, if round % 8 < 4 { &new } else { &old }, &[]);
        } else {
            device.bed.kill_runner();
            device.bed.start_runner().await;
        }
        assert!(device.bed.app_pids().len() <= 1, "never two");
    }
    device.plane.desire(3 + points, &new, &[]);
    device.committed(&new).await;
    seen("one app", || (device.bed.app_pids().len() == 1).then_some(())).await;
    let failures = device.kinds().into_iter().filter(|kind| kind == "release.rolled-back").count();
    assert_eq!(failures, 0, "a killed helper is nobody's failure");
}

#[tokio::test]
async fn what_is_old_foreign_or_forged_is_refused_and_reported() {
    let device = Device::new().await;
    let plane = &device.plane;
    let release = device.release("1.0", FIT, |_| {});
    plane.desire(5, &release, &[]);
    device.committed(&release).await;
    let refusals = || {
        let book = plane.book();
        let refused = book.frames.iter().filter_map(|frame| match &frame.body {
            Some(agent_frame::Body::Refused(refused)) => Some(refused.reason.clone()),
            _ => None,
        });
        refused.collect::<Vec<_>>()
    };
    let lies: Vec<(&str, farshore_protocol::SignedDesired)> = {
        let older = plane.state(4, &release, &[]);
        let mut foreign = plane.state(6, &release, &[]);
        foreign["device"] = serde_json::json!(uuid::Uuid::now_v7());
        let mut stranger = plane.state(6, &release, &[]);
        stranger["tenant"] = serde_json::json!(uuid::Uuid::now_v7());
        let mut bent = plane.sign(&plane.state(6, &release, &[]), &[&release]);
        bent.body[30] ^= 1;
        let mut unsigned = plane.sign(&plane.state(6, &release, &[]), &[&release]);
        unsigned.signature.clear();
        vec![
            ("older", plane.sign(&older, &[&release])),
            ("another device", plane.sign(&foreign, &[&release])),
            ("another device", plane.sign(&stranger, &[&release])),
            ("signature", bent),
            ("signature", unsigned),
        ]
    };
    for (count, (why, lie)) in lies.into_iter().enumerate() {
        plane.tell(server_frame::Body::Desired(lie));
        let reasons = seen(why, || Some(refusals()).filter(|reasons| reasons.len() > count)).await;
        assert!(reasons[count].contains(why), "{why}: {reasons:?}");
    }
    // Well signed by the online key, but referring to releases that are no good here.
    let files = [("bin/app", 0o755, SLEEPER)];
    let stranger = crate::release::Signer::new("acme");
    let bad = [
        ("BadSignature", stranger.release("2.0", &files, |_| {})),
        (
            "WrongTenant",
            plane.signer.release("2.0", &files, |manifest| manifest["tenant"] = "umbrella".into()),
        ),
        ("WrongPlatform", plane.signer.release("2.0", &files, |m| m["platforms"][0]["os"] = "plan9".into())),
        ("Unsupported", plane.signer.release("2.0", &files, |manifest| manifest["sandbox"] = true.into())),
    ];
    for (generation, (why, release)) in (10..).zip(&bad) {
        plane.publish(release, Mood::Honest);
        plane.desire(generation, release, &[]);
        let app = seen(why, || {
            plane.app_status().filter(|app| app.refused_release == release_uid(release).to_string())
        })
        .await;
        assert!(app.reasons.iter().any(|reason| reason.code == *why), "{why}: {app:?}");
        assert_eq!((app.active_version.as_str(), app.phase.as_str()), ("1.0", "running"));
    }
    // A mirror that swaps bytes.
    let swapped = device.release("3.0", FIT, |_| {});
    plane.publish(&swapped, Mood::Swapped);
    plane.desire(20, &swapped, &[]);
    let refused = seen("the swap", || {
        plane.app_status().filter(|app| app.reasons.iter().any(|reason| reason.code == "DigestMismatch"))
    });
    assert_eq!(refused.await.active_version, "1.0");
    // It becomes honest again, and all is well.
    plane.publish(&swapped, Mood::Honest);
    device.committed(&swapped).await;
}

#[tokio::test]
async fn garbage_frames_and_shedding_are_survived() {
    let mut device = Device { plane: Plane::start().await, bed: Bed::new().await, run: None };
    device.plane.book().garbage = Some(vec![0xff; 100]);
    device.plane.book().shed = 1;
    // An older control plane, which keeps no stream of them.
    device.plane.book().operations = false;
    device.start_run();
    device.connected(2).await;
    // An operation before anything is desired, sent twice, one of a kind nobody knows.
    let operation = |uid: &str, kind: &str| Operation {
        uid: uid.into(),
        kind: kind.into(),
        app: "web".into(),
        arguments_json: "{}".into(),
        expires_at_ms: 0,
        reason: String::new(),
    };
    device.plane.tell(server_frame::Body::Operation(operation("a", "format-disk")));
    device.plane.tell(server_frame::Body::Operation(operation("b", "diagnostics")));
    device.plane.tell(server_frame::Body::Operation(operation("b", "diagnostics")));
    device.plane.tell(server_frame::Body::Operation(operation("c", "logs")));
    let updates = || {
        let book = device.plane.book();
        let updates = book.frames.iter().filter_map(|frame| match &frame.body {
            Some(agent_frame::Body::OperationUpdate(update)) => {
                Some((update.uid.clone(), update.state.clone()))
            }
            _ => None,
        });
        updates.collect::<Vec<_>>()
    };
    let done = seen("the answers", || Some(updates()).filter(|updates| updates.len() >= 3)).await;
    let expect = [("a", "unsupported"), ("b", "succeeded"), ("c", "failed")];
    assert_eq!(done, expect.map(|(uid, state)| (uid.to_owned(), state.to_owned())));
    let retry_after_ms = 100;
    device.plane.tell(server_frame::Body::Goodbye(Goodbye { reason: "replaced".into(), retry_after_ms }));
    device.connected(3).await;
}

#[tokio::test]
async fn measurements_and_events_wait_for_their_acknowledgement_and_live_samples_do_not() {
    let device = Device::new().await;
    let plane = &device.plane;
    plane.book().acknowledge = false;
    let batches = |plane: &Plane| {
        let book = plane.book();
        let batches = book.frames.iter().filter_map(|frame| match &frame.body {
            Some(agent_frame::Body::Metrics(batch)) if batch.sequence > 0 => Some(batch.clone()),
            _ => None,
        });
        batches.collect::<Vec<_>>()
    };
    let acknowledged = plane.book().acknowledged.get("host").copied().unwrap_or(0);
    let first =
        seen("a batch", || batches(plane).into_iter().find(|batch| batch.sequence > acknowledged)).await;
    let block = farshore_series::decode(&first.block).unwrap();
    assert!(
        block.rows() >= 1 && block.column("load_1m").or(block.column("mem_used")).is_some()
            || block.series.len() > 5
    );
    plane.book().frames.clear();
    let channels = plane.book().channels;
    plane.book().outbox.as_ref().unwrap().send(Message::Close(None)).unwrap();
    device.connected(channels + 1).await;
    seen("the same batch again", || batches(plane).into_iter().find(|batch| *batch == first)).await;
    plane.book().acknowledge = true;

    plane.tell(server_frame::Body::Live(LiveRequest { seconds: 30, interval_ms: 200 }));
    let live = |plane: &Plane| {
        let book = plane.book();
        let live = book.frames.iter().filter(
            |frame| matches!(&frame.body, Some(agent_frame::Body::Metrics(batch)) if batch.sequence == 0),
        );
        live.count()
    };
    seen("live samples", || (live(plane) >= 5).then_some(())).await;
    plane.tell(server_frame::Body::Live(LiveRequest { seconds: 0, interval_ms: 0 }));
    until("their end", || async {
        let before = live(plane);
        tokio::time::sleep(Duration::from_millis(600)).await;
        (live(plane) == before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_certificate_is_renewed_without_dropping_the_channel_and_after_it_expired() {
    let mut device = Device { plane: Plane::start().await, bed: Bed::new().await, run: None };
    device.plane.book().held = 2;
    // Backdated by five minutes, so two thirds have passed at once.
    device.plane.book().lifetime = Duration::from_secs(3);
    device.start_run();
    device.connected(1).await;
    assert_eq!(device.plane.book().claims, 3, "held twice, then approved");
    device.plane.book().lifetime = Duration::from_secs(24 * 3600);
    seen("a renewal", || (device.plane.book().renewals >= 1).then_some(())).await;
    assert_eq!(device.plane.book().channels, 1);
    let roots = || std::fs::read_to_string(device.state().join("identity/roots.pem")).unwrap();
    assert_eq!(roots().trim(), device.plane.roots().join("").trim(), "the roots are those of the claim");

    // Off for longer than a certificate lives.
    device.kill_run();
    device.plane.book().lifetime = Duration::from_secs(1);
    let identity = device.state().join("identity");
    let key = farshore_trust::device::DeviceKey::from_pem(
        &std::fs::read_to_string(identity.join("key.pem")).unwrap(),
    );
    let certificate = device.plane.reissue(&key.unwrap());
    std::fs::write(identity.join("certificate.pem"), certificate).unwrap();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    device.plane.book().lifetime = Duration::from_secs(24 * 3600);
    let renewals = device.plane.book().renewals;
    device.start_run();
    device.connected(2).await;
    assert!(device.plane.book().renewals > renewals);
    assert_eq!(device.plane.book().claims, 3);
}

#[tokio::test]
async fn a_changed_config_reaches_the_app() {
    let device = Device::new().await;
    let release = device.release("1.0", FIT, |_| {});
    device.plane.desire(1, &release, &[("GREETING", "hello")]);
    device.committed(&release).await;
    let before = device.bed.app_pids();
    device.plane.desire(2, &release, &[("GREETING", "goodbye")]);
    let after =
        seen("the restart", || Some(device.bed.app_pids()).filter(|pids| pids.len() == 1 && *pids != before))
            .await;
    let environ = std::fs::read_to_string(format!("/proc/{}/environ", after[0])).unwrap();
    assert!(environ.contains("GREETING=goodbye"), "{environ}");
}

#[tokio::test]
async fn without_network_the_device_keeps_and_heals_its_apps_after_losing_everything_but_its_disk() {
    let mut device = Device::new().await;
    let release = device.release("1.0", FIT, |_| {});
    device.plane.desire(1, &release, &[("GREETING", "hello")]);
    device.committed(&release).await;
    device.kill_run();
    device.bed.kill_runner();
    // As when the power was cut: supervisor and app are gone, too.
    device.bed.kill_apps().await;
    device.plane.book().shed = usize::MAX;
    device.bed.start_runner().await;
    device.start_run();
    let pids = seen("the app again", || Some(device.bed.app_pids()).filter(|pids| pids.len() == 1)).await;
    let environ = std::fs::read_to_string(format!("/proc/{}/environ", pids[0])).unwrap();
    assert!(environ.contains("GREETING=hello"));
    let status = seen("its health", || {
        let tried = |status: &Status| !status.connected && status.link.contains("503");
        Status::read(&device.state()).ok().filter(|status| status.health == "healthy" && tried(status))
    })
    .await;
    assert_eq!((status.generation, status.apps[0].version.as_str()), (1, "1.0"));
}

#[tokio::test]
async fn without_a_live_permit_a_release_is_staged_and_no_more() {
    let device = Device::new().await;
    let plane = &device.plane;
    let release = device.release("1.0", FIT, |_| {});
    let mut state = plane.state(1, &release, &[]);
    let expires = state["issuedAt"].as_i64().unwrap() - 1;
    state["apps"][0]["permit"]["expiresAt"] = expires.into();
    plane.tell(server_frame::Body::Desired(plane.sign(&state, &[&release])));
    let app = seen("the stage", || plane.app_status().filter(|app| app.phase == "staged")).await;
    assert_eq!(app.staged_release, release_uid(&release).to_string());
    assert!(app.reasons.iter().any(|reason| reason.code == "WaitingForPermit"));
    state["generation"] = 2.into();
    state["apps"][0].as_object_mut().unwrap().remove("permit");
    plane.tell(server_frame::Body::Desired(plane.sign(&state, &[&release])));
    until("some time", || async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        Some(())
    })
    .await;
    assert_eq!(device.bed.app_pids(), Vec::<i32>::new());
    plane.desire(3, &release, &[]);
    device.committed(&release).await;
}

#[tokio::test]
async fn an_app_that_is_no_longer_placed_is_stopped_and_deleted() {
    let device = Device::new().await;
    let plane = &device.plane;
    let release = device.release("1.0", FIT, |_| {});
    plane.desire(1, &release, &[]);
    device.committed(&release).await;
    let mut state = plane.state(2, &release, &[]);
    state["apps"] = serde_json::json!([]);
    plane.tell(server_frame::Body::Desired(plane.sign(&state, &[])));
    device.event("app.removed").await;
    seen("its end", || device.bed.app_pids().is_empty().then_some(())).await;
    let folder = device.bed.folder.path().join("apps/web");
    seen("its folder's end", || (!folder.exists()).then_some(())).await;
    // And back again.
    plane.desire(3, &release, &[]);
    seen("the app", || (device.bed.app_pids().len() == 1).then_some(())).await;
}

#[tokio::test]
async fn a_release_that_never_answers_or_keeps_dying_goes_back() {
    let device = Device::new().await;
    let plane = &device.plane;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    // Answers HTTP like a service that is up and well.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
            drop(tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await);
        }
    });
    let web = |manifest: &mut serde_json::Value| {
        let checks = serde_json::json!([
            {"name": "http", "intervalSeconds": 1, "probe": {"type": "http", "port": "$PORT", "path": "/healthz"}},
            {"name": "tcp", "intervalSeconds": 1, "probe": {"type": "tcp", "port": "$PORT"}},
        ]);
        manifest["health"] = checks;
    };
    let config = [("PORT", port.as_str())];
    let good = device.release("1.0", FIT, web);
    plane.desire(1, &good, &config);
    device.committed(&good).await;

    let deaf = device.release("1.1", FIT, |manifest| {
        web(manifest);
        manifest["health"][0]["probe"]["port"] = 1.into();
        manifest["startTimeoutSeconds"] = 2.into();
    });
    plane.desire(2, &deaf, &config);
    let held = |release: &Release| {
        let uid = release_uid(release).to_string();
        seen("the rollback", move || {
            plane.app_status().filter(|app| app.phase == "held" && app.failed_release == uid)
        })
    };
    assert_eq!(held(&deaf).await.reasons[0].code, "StartTimeout");
    let dying = plane.signer.release("1.2", &[("bin/app", 0o755, "#!/bin/sh\nexit 1\n")], web);
    plane.publish(&dying, Mood::Honest);
    plane.desire(3, &dying, &config);
    let app = held(&dying).await;
    assert_eq!((app.reasons[0].code.as_str(), app.active_version.as_str()), ("RestartedTooOften", "1.0"));
    assert!(device.event("app.exited").await.message.contains("exited with 1"));
    let broken = plane.signer.release("1.3", &[("bin/app", 0o755, "#!/no/such/interpreter\n")], web);
    plane.publish(&broken, Mood::Honest);
    plane.desire(4, &broken, &config);
    assert_eq!(held(&broken).await.active_version, "1.0");
}

#[tokio::test]
async fn what_came_of_a_release_that_is_not_wanted_any_more_goes_also_at_a_start() {
    let mut device = Device::new().await;
    let downloads = device.state().join("downloads");
    let left = || std::fs::read_dir(&downloads).unwrap().count();
    let first = device.release("1.0", FIT, |_| {});
    device.plane.publish(&first, Mood::CutAfter(1_000));
    device.plane.desire(1, &first, &[]);
    let part = downloads.join(first.manifest.hex()).join(format!("{}.part", first.artifact_digest.hex()));
    seen("a part of it", || std::fs::metadata(&part).ok().filter(|part| part.len() >= 1_000)).await;
    // Another one takes its place before it has come.
    let second = device.release("1.1", FIT, |_| {});
    device.plane.desire(2, &second, &[]);
    device.committed(&second).await;
    seen("that nothing is left", || (left() == 0).then_some(())).await;

    device.kill_run();
    std::fs::create_dir(downloads.join(first.manifest.hex())).unwrap();
    std::fs::write(&part, "what a cut has left").unwrap();
    std::fs::write(downloads.join(second.artifact_digest.hex()), "as older versions kept it").unwrap();
    device.start_run();
    seen("that nothing is left", || (left() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_desired_state_that_could_not_be_verified_is_asked_for_again() {
    let device = Device::new().await;
    let plane = &device.plane;
    let release = device.release("1.0", FIT, |_| {});
    let good = plane.sign(&plane.state(1, &release, &[]), &[&release]);
    // As to a device whose clock says that the signer's certificate has expired.
    let mut bad = good.clone();
    bad.signature.reverse();
    plane.tell(server_frame::Body::Desired(bad));
    let refused =
        |frame: &farshore_protocol::AgentFrame| matches!(frame.body, Some(agent_frame::Body::Refused(_)));
    seen("the refusal", || plane.book().frames.iter().any(refused).then_some(())).await;
    device.connected(2).await;
    plane.tell(server_frame::Body::Desired(good));
    device.committed(&release).await;
}
