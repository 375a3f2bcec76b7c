//! A policy that came with the desired state is obeyed without a network.

use std::process::Command;

use farshore_agent::Status;
use farshore_protocol::{agent_frame, server_frame};
use tokio_tungstenite::tungstenite::Message;

use crate::line::{Device, FIT};
use crate::wait::seen;

#[tokio::test]
async fn an_app_that_keeps_dying_goes_back_by_policy_without_a_network() {
    let device = Device::new().await;
    let plane = &device.plane;
    let known = seen("hello", || {
        plane.book().frames.iter().find_map(|frame| match &frame.body {
            Some(agent_frame::Body::Hello(hello)) => Some(hello.capabilities.clone()),
            _ => None,
        })
    })
    .await;
    assert!(known.iter().any(|capability| capability == "policy/v1"), "{known:?}");
    let before = device.release("1.0", FIT, |_| {});
    plane.desire(1, &before, &[]);
    device.committed(&before).await;
    let release = device.release("1.1", FIT, |_| {});
    let mut state = plane.state(2, &release, &[]);
    state["policy"] = serde_json::json!({"rules": {
        "restart": {"backoffMs": 20, "maxBackoffMs": 20, "windowSeconds": 600},
        "rollback": {"afterRestarts": 2},
    }});
    plane.tell(server_frame::Body::Desired(plane.sign(&state, &[&release])));
    device.committed(&release).await;

    plane.book().shed = usize::MAX;
    plane.book().outbox.as_ref().unwrap().send(Message::Close(None)).unwrap();
    let version = || Some(Status::read(&device.state()).ok()?.apps.first()?.version.clone());
    seen("that it is alone", || Status::read(&device.state()).ok().filter(|status| !status.connected)).await;
    for round in 0..2 {
        assert_eq!(version().as_deref(), Some("1.1"), "after {round} restarts");
        let pids = seen("the app", || Some(device.bed.app_pids()).filter(|pids| pids.len() == 1)).await;
        assert!(Command::new("kill").args(["-9", &pids[0].to_string()]).status().unwrap().success());
        seen("its end", || (!device.bed.app_pids().contains(&pids[0])).then_some(())).await;
    }
    seen("the release before", || version().filter(|version| version == "1.0")).await;
    let status = seen("its health", || {
        Status::read(&device.state())
            .ok()
            .filter(|status| status.health == "healthy" && status.conformance == "held")
    })
    .await;
    assert!(status.reasons.iter().any(|reason| reason.code == "RestartedTooOften"), "{status:?}");
    assert_eq!(device.bed.app_pids().len(), 1);
}

#[tokio::test]
async fn a_permit_outside_the_policys_maintenance_window_does_not_activate() {
    let device = Device::new().await;
    let plane = &device.plane;
    let before = device.release("1.0", FIT, |_| {});
    plane.desire(1, &before, &[]);
    device.committed(&before).await;
    // Opens for an hour, in half a day.
    let hour = (farshore_agent::clock::wall().0 / 3_600_000 + 12) % 24;
    let shut = serde_json::json!({"kind": "maintenance", "cron": format!("0 {hour} * * *"), "durationSeconds": 3600});
    let release = device.release("1.1", FIT, |_| {});
    let mut state = plane.state(2, &release, &[]);
    state["policy"] = serde_json::json!({"rules": {"schedule": {"windows": [shut]}}});
    plane.tell(server_frame::Body::Desired(plane.sign(&state, &[&release])));
    let status = seen("that it waits for its window", || {
        let status = Status::read(&device.state()).ok()?;
        let waits = |reason: &farshore_domain::object::Reason| reason.code == "MaintenanceWindow";
        status.apps.first()?.reasons.iter().any(waits).then_some(status)
    })
    .await;
    let app = &status.apps[0];
    assert_eq!((app.version.as_str(), app.phase.as_str()), ("1.0", "staged"), "fetched, and not activated");
    // Without the window the very same permit counts.
    let mut state = plane.state(3, &release, &[]);
    state["policy"] = serde_json::json!({"rules": {"restart": {"maxRestarts": 5}}});
    plane.tell(server_frame::Body::Desired(plane.sign(&state, &[&release])));
    device.committed(&release).await;
}

#[tokio::test]
async fn an_app_that_has_less_isolation_than_the_policy_demands_by_now_is_told_until_it_is_restarted() {
    let device = Device::new().await;
    let plane = &device.plane;
    let release = device.release("1.0", FIT, |_| {});
    plane.desire(1, &release, &[]);
    device.committed(&release).await;
    let before = device.bed.app_pids();
    let mut state = plane.state(2, &release, &[]);
    // Filters of system calls can be had everywhere, also without root.
    state["policy"] = serde_json::json!({"rules": {"isolation": {"seccomp": "default"}}});
    plane.tell(server_frame::Body::Desired(plane.sign(&state, &[&release])));
    let old = |status: &Status| {
        status.apps.iter().any(|app| app.reasons.iter().any(|reason| reason.code == "OldIsolation"))
    };
    let status = seen("that it is told", || Status::read(&device.state()).ok().filter(old)).await;
    assert!(status.text(farshore_agent::clock::wall()).contains("demanded more isolation"), "{status:?}");
    let app = seen("that the control plane knows", || {
        plane.app_status().filter(|app| app.reasons.iter().any(|reason| reason.code == "OldIsolation"))
    })
    .await;
    assert_eq!((app.health.as_str(), app.isolation.as_str()), ("healthy", "{}"));
    assert_eq!(device.bed.app_pids(), before, "a policy restarts nothing");
    plane.tell(server_frame::Body::Operation(farshore_protocol::Operation {
        uid: "op-restart".to_owned(),
        kind: "restart-app".to_owned(),
        app: "web".to_owned(),
        ..farshore_protocol::Operation::default()
    }));
    seen("that it is no more", || {
        let status = Status::read(&device.state()).ok()?;
        let pids = device.bed.app_pids();
        (!old(&status)
            && status.health == "healthy"
            && pids.iter().all(|pid| !before.contains(pid))
            && !pids.is_empty())
        .then_some(status.text(farshore_agent::clock::wall()))
        .filter(|text| text.contains("isolation: seccomp: default"))
    })
    .await;
    seen("that the control plane knows that, too", || {
        plane.app_status().filter(|app| app.isolation == r#"{"seccomp":"default"}"#)
    })
    .await;
}
