//! Operations on a real device: done once, streamed while they run, kept until they are acknowledged, and never more than the signed policy allows.
//! Each has a uid of its own, because what is left of a command is known by it, across all tests that run at once.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use farshore_agent::Status;
use farshore_agent::runner::{Anchor, ClientError, Order, Request, Signed, SignedState};
use farshore_domain::operation::{Arguments, EXEC_OUTPUT_BYTES};
use farshore_protocol::{
    Operation, OperationBatch, OperationCancel, OperationUpdate, agent_frame, server_frame,
};
use tokio_tungstenite::tungstenite::Message;

use crate::line::{Device, FIT};
use crate::plane::Plane;
use crate::wait::seen;

/// A folder that the commands' user may write to.
fn open_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    folder
}

fn runbook(name: &str, script: &str) -> serde_json::Value {
    serde_json::json!({"name": name, "command": ["/bin/sh", "-c", script], "timeoutSeconds": 30})
}

/// Says what the device's policy allows, without apps.
async fn allow(device: &Device, generation: u64, operations: serde_json::Value) {
    let release = device.release("0.1", FIT, |_| {});
    let mut state = device.plane.state(generation, &release, &[]);
    state["apps"] = serde_json::json!([]);
    state["policy"] = serde_json::json!({"rules": {"operations": operations}});
    device.plane.tell(server_frame::Body::Desired(device.plane.sign(&state, &[])));
    seen("the policy", || {
        Status::read(&device.state()).ok().filter(|status| status.generation == generation)
    })
    .await;
}

fn operation(uid: &str, kind: &str, arguments: serde_json::Value) -> server_frame::Body {
    server_frame::Body::Operation(Operation {
        uid: uid.to_owned(),
        kind: kind.to_owned(),
        app: String::new(),
        arguments_json: arguments.to_string(),
        expires_at_ms: 0,
        reason: String::new(),
    })
}

fn run(uid: &str, runbook: &str) -> server_frame::Body {
    operation(uid, "exec", serde_json::json!({"runbook": runbook}))
}

fn batches(plane: &Plane) -> Vec<OperationBatch> {
    let book = plane.book();
    let batches = book.frames.iter().filter_map(|frame| match &frame.body {
        Some(agent_frame::Body::Operations(batch)) => Some(batch.clone()),
        _ => None,
    });
    batches.collect()
}

fn updates(plane: &Plane, uid: &str) -> Vec<OperationUpdate> {
    let all = batches(plane).into_iter().flat_map(|batch| batch.updates);
    all.filter(|update| update.uid == uid).collect()
}

async fn answer(plane: &Plane, uid: &str) -> OperationUpdate {
    let open = ["delivered", "running"];
    seen(&format!("the answer to {uid}"), || {
        updates(plane, uid).into_iter().find(|update| !open.contains(&update.state.as_str()))
    })
    .await
}

/// What was streamed, put together by its offsets.
fn streamed(plane: &Plane, uid: &str) -> Vec<u8> {
    let mut whole = Vec::new();
    for frame in &plane.book().frames {
        if let Some(agent_frame::Body::OperationOutput(piece)) = &frame.body
            && piece.uid == uid
            && piece.offset == whole.len() as u64
        {
            whole.extend_from_slice(&piece.bytes);
        }
    }
    whole
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}

/// A script that says `first`, waits for a file and says `last`, and notes each time it runs.
fn waiting(folder: &Path) -> (String, PathBuf, PathBuf) {
    let (go, ran) = (folder.join("go"), folder.join("ran"));
    let script = format!(
        "echo x >> {}; echo first; while [ ! -e {} ]; do sleep 0.05; done; id -u; echo last >&2",
        ran.display(),
        go.display()
    );
    (script, go, ran)
}

#[tokio::test]
async fn a_runbook_streams_while_it_runs_and_its_output_is_recorded() {
    let device = Device::new().await;
    let folder = open_folder();
    let (script, go, ran) = waiting(folder.path());
    let big = runbook("big", "head -c 300000 /dev/zero | tr '\\0' x; exit 3");
    let echo = serde_json::json!({
        "name": "echo", "command": ["/bin/echo", "-n"], "arguments": [{"name": "word", "pattern": "a*"}],
    });
    let slow = serde_json::json!({"name": "slow", "command": ["/bin/sleep", "600"], "timeoutSeconds": 1});
    let runbooks = serde_json::json!([runbook("wait", &script), big, echo, slow]);
    allow(&device, 1, serde_json::json!({"runbooks": runbooks})).await;
    let plane = &device.plane;
    plane.tell(run("op-1a", "wait"));
    seen("the first line", || (streamed(plane, "op-1a") == b"first\n").then_some(())).await;
    let states = || updates(plane, "op-1a").into_iter().map(|update| update.state).collect::<Vec<_>>();
    assert_eq!(states(), ["delivered", "running"], "its output comes before its end");
    std::fs::write(&go, "").unwrap();
    let done = answer(plane, "op-1a").await;
    let text = String::from_utf8(done.output.clone()).unwrap();
    assert_eq!((done.state.as_str(), done.exit_code, text.lines().count()), ("succeeded", Some(0), 3));
    let user: u32 = text.lines().find_map(|line| line.parse().ok()).unwrap();
    assert!(user != 0, "never as root");
    assert_eq!((done.output_total, lines(&ran)), (done.output.len() as u64, 1));

    plane.tell(run("op-1b", "big"));
    let done = answer(plane, "op-1b").await;
    assert_eq!((done.state.as_str(), done.exit_code), ("failed", Some(3)));
    assert_eq!((done.output.len(), done.output_total), (EXEC_OUTPUT_BYTES, 300_000));

    plane.tell(operation("op-1c", "exec", serde_json::json!({"runbook": "echo", "arguments": ["abc"]})));
    assert_eq!(answer(plane, "op-1c").await.output, b"abc");
    plane.tell(operation("op-1d", "exec", serde_json::json!({"runbook": "echo", "arguments": ["op-1b"]})));
    let refused = answer(plane, "op-1d").await;
    assert!(refused.state == "failed" && refused.message.contains("does not fit"), "{refused:?}");
    plane.tell(run("op-1e", "slow"));
    let late = answer(plane, "op-1e").await;
    assert!(late.state == "failed" && late.message.contains("longer than 1 s"), "{late:?}");
}

#[tokio::test]
async fn nothing_runs_that_the_signed_policy_does_not_allow_whoever_asks() {
    let device = Device::new().await;
    let plane = &device.plane;
    let client = &device.bed.client;
    let order = |uid: &str, arguments: serde_json::Value| Order {
        operation: uid.to_owned(),
        app: None,
        arguments: serde_json::from_value::<Arguments>(arguments).unwrap(),
        reason: "because".to_owned(),
    };
    let code = |result: Result<_, ClientError>| match result {
        Err(ClientError::Failed { code, .. }) => code,
        other => panic!("{:?}", other.map(|_: farshore_agent::runner::Ended| ())),
    };
    // Straight to the runner, as a `run` that was taken over would: nothing was signed yet.
    let any = order("op-2x", serde_json::json!({"command": "id"}));
    assert_eq!(code(client.exec(any.clone(), drop).await), "NoState");
    plane.tell(run("op-2a", "flush"));
    let refused = answer(plane, "op-2a").await;
    assert!(refused.state == "failed" && refused.message.contains("no runbook flush"), "{refused:?}");

    allow(&device, 5, serde_json::json!({"runbooks": [runbook("flush", "echo ok")]})).await;
    plane.tell(operation("op-2b", "exec", serde_json::json!({"command": "id"})));
    let refused = answer(plane, "op-2b").await;
    assert!(refused.message.contains("does not allow a free command"), "{refused:?}");
    plane.tell(run("op-2c", "flush"));
    assert_eq!(answer(plane, "op-2c").await.output, b"ok\n");
    assert_eq!(code(client.exec(any.clone(), drop).await), "NotAllowed");
    let wipe = order("op-2y", serde_json::json!({"runbook": "wipe"}));
    assert_eq!(code(client.exec(wipe, drop).await), "NotAllowed");

    // A state that allows everything: older, of another control plane, of another device, changed.
    let der = |pem: &str| {
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        base64::engine::general_purpose::STANDARD.decode(body).unwrap()
    };
    let anchor = |plane: &Plane| {
        let root = der(&plane.roots()[0]);
        let root = rustls::pki_types::CertificateDer::from(root);
        Anchor::new(plane.signer.tenant, plane.device, plane.trust_domain.clone(), &[root])
    };
    let release = device.release("0.1", FIT, |_| {});
    let state = |signer: &Plane, generation: u64| {
        let mut state = plane.state(generation, &release, &[]);
        state["apps"] = serde_json::json!([]);
        state["policy"] = serde_json::json!({"rules": {"operations": {"exec": true}}});
        let signed = signer.sign(&state, &[]);
        SignedState {
            signed: Signed { document: signed.body, signature: signed.signature },
            chain: SignedState::encode(&signed.chain),
        }
    };
    let stranger = Plane::start().await;
    let obey = async |anchor: Anchor, state: SignedState| match client
        .done(&Request::Obey { anchor, state: Some(state) })
        .await
    {
        Err(ClientError::Failed { code, .. }) => code,
        other => panic!("{other:?}"),
    };
    assert_eq!(obey(anchor(&stranger), state(&stranger, 9)).await, "OtherDevice");
    assert_eq!(obey(anchor(plane), state(&stranger, 9)).await, "BadState");
    assert_eq!(obey(anchor(plane), state(plane, 4)).await, "BadState", "older than what was accepted");
    let mut changed = state(plane, 9);
    changed.signed.document.push(b' ');
    assert_eq!(obey(anchor(plane), changed).await, "BadState");
    assert_eq!(code(client.exec(any.clone(), drop).await), "NotAllowed");

    // And what it allows is done, also by a runner that was killed meanwhile and remembers.
    allow(&device, 10, serde_json::json!({"exec": true, "reasonRequired": true})).await;
    plane.tell(operation("op-2d", "exec", serde_json::json!({"command": "echo $((6*7))"})));
    let refused = answer(plane, "op-2d").await;
    assert!(refused.message.contains("asks for a reason"), "{refused:?}");
    let mut device = device;
    device.bed.kill_runner();
    device.bed.start_runner().await;
    let mut said = Vec::new();
    let ended = device.bed.client.exec(any, |bytes| said.extend(bytes)).await.unwrap();
    assert_eq!((ended.exit_code, ended.total), (Some(0), said.len() as u64));
}

#[tokio::test]
async fn an_agent_killed_between_taking_and_answering_does_it_once_and_says_so() {
    let mut device = Device::new().await;
    let folder = open_folder();
    let (script, go, ran) = waiting(folder.path());
    allow(&device, 1, serde_json::json!({"runbooks": [runbook("wait", &script)]})).await;
    device.plane.tell(run("op-3a", "wait"));
    device.plane.tell(run("op-3b", "wait"));
    seen("the first line", || (streamed(&device.plane, "op-3a") == b"first\n").then_some(())).await;
    device.plane.book().acknowledge = false;
    let channels = device.plane.book().channels;
    device.kill_run();
    device.start_run();
    device.connected(channels + 1).await;
    let interrupted = answer(&device.plane, "op-3a").await;
    assert!(interrupted.state == "failed" && interrupted.message.contains("not done again"));
    // The one that only waited is done now; both, sent again, are not.
    std::fs::write(&go, "").unwrap();
    let done = answer(&device.plane, "op-3b").await;
    assert_eq!(done.state, "succeeded", "{done:?}");
    device.plane.tell(run("op-3a", "wait"));
    device.plane.tell(run("op-3b", "wait"));
    device.plane.tell(operation("op-3c", "diagnostics", serde_json::json!({})));
    assert_eq!(answer(&device.plane, "op-3c").await.state, "succeeded");
    assert_eq!(lines(&ran), 2, "each ran once");

    // Not acknowledged: told again on the next channel, the same. Acknowledged: never again.
    let told = batches(&device.plane);
    for acknowledge in [false, true] {
        let channels = device.plane.book().channels;
        device.plane.book().frames.clear();
        device.plane.book().acknowledge = acknowledge;
        device.plane.book().outbox.as_ref().unwrap().send(Message::Close(None)).unwrap();
        device.connected(channels + 1).await;
        let last = told.last().unwrap().clone();
        let again =
            seen("the last result", || Some(batches(&device.plane)).filter(|b| b.contains(&last))).await;
        assert!(again.iter().all(|batch| told.contains(batch)), "{again:?}");
    }
    let channels = device.plane.book().channels;
    device.plane.book().frames.clear();
    device.plane.book().outbox.as_ref().unwrap().send(Message::Close(None)).unwrap();
    device.connected(channels + 1).await;
    device.plane.tell(operation("op-3d", "inventory", serde_json::json!({})));
    assert_eq!(answer(&device.plane, "op-3d").await.state, "succeeded");
    assert!(
        batches(&device.plane).iter().all(|batch| !told.contains(batch)),
        "what is stored is not told again"
    );
}

#[tokio::test]
async fn what_is_cancelled_ends_and_what_is_too_late_does_not_begin() {
    let mut device = Device::new().await;
    let folder = open_folder();
    let (script, _, ran) = waiting(folder.path());
    allow(&device, 1, serde_json::json!({"runbooks": [runbook("wait", &script)]})).await;
    let plane = std::sync::Arc::clone(&device.plane);
    let cancel =
        |uid: &str| plane.tell(server_frame::Body::OperationCancel(OperationCancel { uid: uid.to_owned() }));
    let runs = || {
        let found = Command::new("pgrep").args(["-f", &ran.display().to_string()]).output().unwrap();
        !found.stdout.is_empty()
    };
    plane.tell(run("op-4a", "wait"));
    plane.tell(run("op-4b", "wait"));
    seen("the first line", || (streamed(&plane, "op-4a") == b"first\n").then_some(())).await;
    assert!(runs());
    cancel("op-4b");
    assert_eq!(answer(&plane, "op-4b").await.message, "cancelled before it began");
    cancel("op-4a");
    let done = answer(&plane, "op-4a").await;
    assert_eq!((done.state.as_str(), done.output.as_slice()), ("cancelled", b"first\n".as_slice()));
    seen("its end", || (!runs()).then_some(())).await;
    assert_eq!(lines(&ran), 1);

    let server_frame::Body::Operation(mut late) = run("op-4c", "wait") else { unreachable!() };
    late.expires_at_ms = 1;
    plane.tell(server_frame::Body::Operation(late));
    assert_eq!(answer(&plane, "op-4c").await.state, "expired");

    // A runner that is killed leaves nothing behind once it is back.
    plane.tell(run("op-4d", "wait"));
    seen("the first line", || (streamed(&plane, "op-4d") == b"first\n").then_some(())).await;
    device.bed.kill_runner();
    assert_eq!(answer(&plane, "op-4d").await.state, "failed");
    device.bed.start_runner().await;
    seen("its end", || (!runs()).then_some(())).await;
}

#[tokio::test]
async fn an_app_goes_back_on_request_and_is_held_and_the_device_tells_of_itself() {
    let device = Device::new().await;
    let plane = &device.plane;
    let before = device.release("1.0", FIT, |_| {});
    plane.desire(1, &before, &[]);
    device.committed(&before).await;
    let app = |uid: &str, kind: &str, arguments: serde_json::Value| {
        let server_frame::Body::Operation(mut asked) = operation(uid, kind, arguments) else {
            unreachable!()
        };
        (asked.app, asked.reason) = ("web".to_owned(), "the till prints nonsense".to_owned());
        plane.tell(server_frame::Body::Operation(asked));
    };
    app("op-5a", "rollback", serde_json::json!({}));
    let refused = answer(plane, "op-5a").await;
    assert!(refused.state == "failed" && refused.message.contains("no earlier release"), "{refused:?}");
    let release = device.release("1.1", FIT, |_| {});
    plane.desire(2, &release, &[]);
    device.committed(&release).await;
    app("op-5b", "rollback", serde_json::json!({}));
    let done = answer(plane, "op-5b").await;
    assert!(done.state == "succeeded" && done.message.contains("back at 1.0"), "{done:?}");
    let status =
        seen("the hold", || Status::read(&device.state()).ok().filter(|status| status.conformance == "held"))
            .await;
    assert_eq!(status.apps[0].version, "1.0");
    let told =
        seen("why", || plane.events().into_iter().find(|event| event.kind == "release.rolled-back")).await;
    assert!(told.message.contains("the till prints nonsense"), "{told:?}");

    app("op-5c", "logs", serde_json::json!({"followSeconds": 600}));
    seen("that it is followed", || {
        updates(plane, "op-5c").iter().any(|update| update.state == "running").then_some(())
    })
    .await;
    plane.tell(server_frame::Body::OperationCancel(OperationCancel { uid: "op-5c".to_owned() }));
    assert_eq!(answer(plane, "op-5c").await.state, "succeeded");
    plane.tell(operation("op-5d", "diagnostics", serde_json::json!({})));
    let said: serde_json::Value = serde_json::from_slice(&answer(plane, "op-5d").await.output).unwrap();
    assert!(
        said["connectivity"]["connected"] == true && said["disks"][0]["bytes"].as_u64() > Some(0),
        "{said}"
    );
    assert!(said["lastEvents"].as_array().unwrap().len() > 3);
    plane.tell(operation("op-5e", "inventory", serde_json::json!({})));
    let said: serde_json::Value = serde_json::from_slice(&answer(plane, "op-5e").await.output).unwrap();
    assert_eq!((&said["apps"][0]["app"], &said["apps"][0]["version"]), (&"web".into(), &"1.0".into()));
    assert!(said["packageCount"].as_u64() > Some(10), "this machine has dpkg");
}

#[tokio::test]
async fn a_drained_device_stops_its_apps_and_starts_them_again_where_they_were() {
    let mut device = Device::new().await;
    let release = device.release("1.0", FIT, |_| {});
    device.plane.desire(1, &release, &[]);
    device.committed(&release).await;
    let kept = device.bed.folder.path().join("apps/web/data/kept");
    std::fs::write(&kept, "sales").unwrap();
    let mut state = device.plane.state(2, &release, &[]);
    state["stopped"] = true.into();
    device.plane.tell(server_frame::Body::Desired(device.plane.sign(&state, &[&release])));
    let phase = |device: &Device| device.plane.app_status().map(|app| app.phase);
    seen("the stop", || phase(&device).filter(|phase| phase == "stopped")).await;
    assert_eq!(device.bed.app_pids(), Vec::<i32>::new());
    // An agent that begins anew keeps to it.
    let channels = device.plane.book().channels;
    device.kill_run();
    device.plane.book().frames.clear();
    device.start_run();
    device.connected(channels + 1).await;
    seen("that it is still stopped", || phase(&device).filter(|phase| phase == "stopped")).await;
    assert_eq!(device.bed.app_pids(), Vec::<i32>::new());
    device.plane.desire(3, &release, &[]);
    seen("the app again", || phase(&device).filter(|phase| phase == "running")).await;
    let app = device.plane.app_status().unwrap();
    assert_eq!((app.active_version.as_str(), app.committed), ("1.0", true));
    // What was started is told a moment before it is the app's own program.
    seen("its process", || (device.bed.app_pids().len() == 1).then_some(())).await;
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "sales");
}

#[tokio::test]
async fn a_restart_is_over_when_the_app_is_healthy_again_and_not_before() {
    let device = Device::new().await;
    let plane = &device.plane;
    let release = device.release("1.0", FIT, |_| {});
    plane.desire(1, &release, &[]);
    device.committed(&release).await;
    let before = device.bed.app_pids();
    let restart = |uid: &str, app: &str| {
        server_frame::Body::Operation(Operation {
            uid: uid.to_owned(),
            kind: "restart-app".to_owned(),
            app: app.to_owned(),
            arguments_json: "{}".to_owned(),
            expires_at_ms: 0,
            reason: String::new(),
        })
    };
    let sick = device.bed.folder.path().join("apps/web/data/sick");
    std::fs::write(&sick, "").unwrap();
    plane.tell(restart("op-r1", "web"));
    seen("another process", || {
        let pids = device.bed.app_pids();
        (!pids.is_empty() && pids.iter().all(|pid| !before.contains(pid))).then_some(())
    })
    .await;
    seen("that it is not well", || plane.app_status().filter(|app| app.health == "degraded")).await;
    let states = || updates(plane, "op-r1").into_iter().map(|update| update.state).collect::<Vec<_>>();
    assert_eq!(states(), ["delivered", "running"], "it still takes its place");
    std::fs::remove_file(&sick).unwrap();
    let done = answer(plane, "op-r1").await;
    assert_eq!(done.state, "succeeded", "{done:?}");
    assert!(done.message.contains("1.0 is healthy again"), "{done:?}");
    plane.tell(restart("op-r2", "nothing"));
    assert_eq!(answer(plane, "op-r2").await.state, "failed");
}
