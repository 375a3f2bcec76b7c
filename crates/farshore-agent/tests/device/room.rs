//! A full disk, with `run`, runner and apps as real processes: it is waited for, and no release fails for it.

use farshore_protocol::server_frame;

use crate::line::{Device, FIT};
use crate::plane::release_uid;
use crate::runner::Bed;
use crate::wait::seen;

/// A device that runs version 1.0.
async fn on_a_small_disk() -> Option<Device> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can make a small disk");
        return None;
    }
    let device = Device::with(Bed::on_disk(8 << 20).await).await;
    let old = device.release("1.0", FIT, |_| {});
    device.plane.desire(1, &old, &[]);
    device.committed(&old).await;
    Some(device)
}

#[tokio::test]
async fn a_full_disk_at_activation_keeps_what_runs_and_the_release_waits_for_room() {
    let Some(device) = on_a_small_disk().await else { return };
    let plane = &device.plane;
    let pids = device.bed.app_pids();

    let new = device.release("1.1", FIT, |_| {});
    let mut state = plane.state(2, &new, &[]);
    state["apps"][0].as_object_mut().unwrap().remove("permit");
    plane.tell(server_frame::Body::Desired(plane.sign(&state, &[&new])));
    seen("the stage", || plane.app_status().filter(|app| app.phase == "staged")).await;

    device.bed.filler().fill();
    let waits = || {
        let app = plane.app_status()?;
        let waits = app.reasons.iter().any(|reason| reason.code == "WaitingForRoom");
        (app.phase == "staged" && waits).then_some(app)
    };
    seen("that the disk is full", waits).await;
    // Now it may; and still it waits.
    plane.desire(3, &new, &[]);
    let told = seen("the permit", || {
        let status = farshore_agent::Status::read(&device.state()).ok()?;
        (status.generation == 3).then_some(())
    });
    told.await;
    let app = seen("that it waits", waits).await;
    assert_eq!((app.active_version.as_str(), app.committed, app.failed_release.as_str()), ("1.0", true, ""));
    assert_eq!(device.bed.app_pids(), pids, "what ran goes on running");
    let event = device.event("app.waiting").await;
    assert!(event.detail_json.contains("NoRoom"), "{event:?}");

    device.bed.filler().clear();
    device.committed(&new).await;
    let app = plane.app_status().unwrap();
    assert_eq!((app.failed_release.as_str(), app.active_release), ("", release_uid(&new).to_string()));
    assert!(plane.events().iter().all(|event| event.kind != "release.rolled-back"));
}

/// It writes a file when it starts, and ends when it can't.
const KEEPER: &str = "#!/bin/sh\nhead -c 600000 /dev/zero >\"$HOME/kept\" || exit 7\nexec sleep 1000\n";

#[tokio::test]
async fn a_release_on_trial_whose_program_finds_no_room_is_kept_until_it_can_be_judged() {
    let Some(device) = on_a_small_disk().await else { return };
    let plane = &device.plane;
    let files = [("bin/app", 0o755, KEEPER), ("bin/fit", 0o755, FIT)];
    let new = plane.signer.release("1.1", &files, |manifest| {
        manifest["soakSeconds"] = 1.into();
        manifest["startTimeoutSeconds"] = 2.into();
        manifest["restart"] = serde_json::json!({"backoffMs": 50, "maxBackoffMs": 100, "maxRestarts": 1});
    });
    plane.publish(&new, crate::plane::Mood::Honest);
    // Room for a start, not for what the program writes.
    device.bed.filler().fill_but(400 * 1024);
    plane.desire(2, &new, &[]);
    let exit = seen("how it ends", || {
        let app = plane.app_status()?;
        let reason = app.reasons.into_iter().find(|reason| reason.code == "Restarting")?;
        reason.message.contains("the disk is full").then_some(reason.message)
    });
    assert!(exit.await.contains("exited with 7"));
    let app = plane.app_status().unwrap();
    assert_eq!(
        (app.phase.as_str(), app.failed_release.as_str(), app.restarts),
        ("starting", "", 0),
        "{app:?}"
    );
    device.bed.filler().clear();
    device.committed(&new).await;
    assert!(plane.events().iter().all(|event| event.kind != "release.rolled-back"));
}
