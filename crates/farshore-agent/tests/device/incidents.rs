//! Incidents that happen while nobody listens: kept, and told in order, once, with their black box.

use std::collections::BTreeMap;

use farshore_agent::Status;
use farshore_domain::incident::{ActionKind, Incident, IncidentCause};
use farshore_protocol::{IncidentBatch, agent_frame};
use tokio_tungstenite::tungstenite::Message;

use crate::line::{Device, FIT};
use crate::plane::Plane;
use crate::wait::seen;

fn batches(plane: &Plane) -> Vec<IncidentBatch> {
    let book = plane.book();
    let batches = book.frames.iter().filter_map(|frame| match &frame.body {
        Some(agent_frame::Body::Incidents(batch)) => Some(batch.clone()),
        _ => None,
    });
    batches.collect()
}

fn incidents(batches: &[IncidentBatch]) -> Vec<Incident> {
    let all = batches.iter().flat_map(|batch| &batch.incidents_json);
    all.map(|json| serde_json::from_str(json).unwrap()).collect()
}

#[tokio::test]
async fn an_incident_of_an_offline_device_outlives_its_agent_and_is_told_in_order_and_once() {
    let mut device = Device::new().await;
    let release = device.release("1.0", FIT, |_| {});
    device.plane.desire(1, &release, &[]);
    device.committed(&release).await;
    device.plane.book().shed = usize::MAX;
    device.plane.book().acknowledge = false;
    device.plane.book().outbox.as_ref().unwrap().send(Message::Close(None)).unwrap();
    std::fs::write(device.bed.folder.path().join("apps/web/data/sick"), "").unwrap();
    seen("the failing app", || {
        Status::read(&device.state()).ok().filter(|status| status.health == "failing")
    })
    .await;
    device.kill_run();
    device.start_run();
    seen("the agent again", || {
        let offline = |status: &Status| !status.connected && status.link.contains("503");
        Status::read(&device.state()).ok().filter(offline)
    })
    .await;
    assert_eq!(batches(&device.plane), [], "nobody could hear it");

    let channels = device.plane.book().channels;
    device.plane.book().shed = 0;
    device.connected(channels + 1).await;
    let told = seen("the incident and its evidence", || {
        let told = batches(&device.plane);
        told.iter().any(|batch| !batch.evidence.is_empty()).then_some(told)
    })
    .await;
    let first = incidents(&told).remove(0);
    assert_eq!(first.cause, IncidentCause::HealthCheckFailed);
    assert_eq!(first.actions.first().map(|action| action.kind), Some(ActionKind::AutoRestart));
    assert_eq!(first.version.as_ref().map(|version| version.as_str()), Some("1.0"));
    assert!(incidents(&told).iter().all(|incident| incident.uid == first.uid), "it is one incident");
    let evidence = told.iter().flat_map(|batch| &batch.evidence).next().unwrap();
    assert_eq!((evidence.incident.clone(), evidence.part.as_str()), (first.uid.to_string(), "opening"));
    assert!(evidence.blocks.iter().all(|block| farshore_series::decode(block).is_ok()));
    assert!(!evidence.blocks.is_empty(), "measurements from before the agent was killed or after");
    let sequences: Vec<u64> = told.iter().map(|batch| batch.sequence).collect();
    assert_eq!(sequences, (1..=told.len() as u64).collect::<Vec<_>>(), "in order, from the first");

    // Not acknowledged: the same again on the next channel. Acknowledged: never again.
    let channels = device.plane.book().channels;
    device.plane.book().frames.clear();
    device.plane.book().outbox.as_ref().unwrap().send(Message::Close(None)).unwrap();
    device.connected(channels + 1).await;
    let known: BTreeMap<u64, IncidentBatch> = told.into_iter().map(|batch| (batch.sequence, batch)).collect();
    let again =
        seen("the same batches", || Some(batches(&device.plane)).filter(|again| again.len() >= known.len()))
            .await;
    for batch in &again[..known.len()] {
        assert_eq!(known.get(&batch.sequence), Some(batch));
    }
    device.plane.book().acknowledge = true;
    device.plane.book().frames.clear();
    device.plane.book().outbox.as_ref().unwrap().send(Message::Close(None)).unwrap();
    device.connected(channels + 2).await;
    let last = known.keys().copied().max().unwrap();
    seen("its acknowledgement", || {
        device.plane.book().acknowledged.get("incidents").copied().filter(|sequence| *sequence >= last)
    })
    .await;
    device.plane.book().frames.clear();
    device.plane.book().outbox.as_ref().unwrap().send(Message::Close(None)).unwrap();
    device.connected(channels + 3).await;
    // A status comes first on each channel; batches that wait go with it.
    seen("the status", || device.plane.app_status()).await;
    assert!(
        batches(&device.plane).iter().all(|batch| batch.sequence > last),
        "what was stored is not told again"
    );
}
