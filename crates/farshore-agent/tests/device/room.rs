//! A full disk, with `run`, runner and apps as real processes: it is waited for, and no release fails for it, but one that has filled it itself.

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

/// It writes until nothing more goes, and stays. Its check is good as long as there is room for what that writes.
const GLUTTON: &str = "#!/bin/sh\ncat /dev/zero >\"$HOME/more\"\nexec sleep 1000\n";
const WRITES: &str = "#!/bin/sh\nhead -c 4096 /dev/zero >\"$HOME/probe\"\n";

#[tokio::test]
async fn a_release_on_trial_that_fills_the_disk_itself_is_gone_back_from_by_the_device_alone() {
    let Some(device) = on_a_small_disk().await else { return };
    let plane = &device.plane;
    let files = [("bin/app", 0o755, GLUTTON), ("bin/fit", 0o755, WRITES)];
    let new = plane.signer.release("1.1", &files, |manifest| {
        manifest["soakSeconds"] = 60.into();
        manifest["startTimeoutSeconds"] = 3.into();
        manifest["health"] = serde_json::json!([{
            "name": "fit", "intervalSeconds": 1, "failureThreshold": 2,
            "probe": {"type": "command", "command": ["bin/fit"]},
        }]);
    });
    plane.publish(&new, crate::plane::Mood::Honest);
    plane.desire(2, &new, &[]);
    let back = device.event("release.rolled-back").await;
    assert!(
        back.message.contains("it has filled the disk") && back.detail_json.contains("DiskFilled"),
        "{back:?}"
    );
    // What it has written is still there, and what was good runs again.
    let app = seen("the release before", || {
        let app = plane.app_status()?;
        let runs = app.active_version == "1.0" && app.phase == "held" && !device.bed.app_pids().is_empty();
        runs.then_some(app)
    })
    .await;
    assert_eq!(app.failed_release, release_uid(&new).to_string());
    let data = std::fs::metadata(device.bed.on_its_disk("web/data/more")).unwrap();
    assert!(data.len() > 4 << 20, "{data:?}");
}

/// The journal of `run` may lie on the same disk as the apps.
#[tokio::test]
async fn what_is_to_be_done_is_written_down_on_a_full_disk_from_what_is_kept_back() {
    use farshore_agent::{Change, Journal as _, SqliteJournal};
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can make a small disk");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let small = crate::disk::Mounted::over(folder.path(), 4 << 20);
    let mut journal = SqliteJournal::open(&folder.path().join("journal.db"), 1 << 20).unwrap();
    let change = |key: &str, bytes: usize| Change {
        values: vec![(key.to_owned(), Some(vec![7; bytes]))],
        batches: Vec::new(),
    };
    journal.apply(change("state", 100)).unwrap();
    small.filler().fill();
    let error = journal.apply(change("other", 50_000)).unwrap_err();
    assert!(error.is_full(), "{error:?}");
    journal.apply(change("state", 50_000)).unwrap();
    assert_eq!(journal.get("state").unwrap().unwrap().len(), 50_000);
    small.filler().clear();
    journal.apply(change("other", 50_000)).unwrap();
    assert!(folder.path().join("reserve").exists(), "it is kept back again");
}
