//! Pipelines that the control plane gives, and what it and the documents say of the device.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use farshore_domain::digest::Digest;
use farshore_gateway::pipeline::ProcessingStatus;
use farshore_gateway::sync::{DeviceConfig, GivenPipelines, ProcessingReport, UplinkError};
use farshore_gateway::{DataPoint, EdgeGateway};
use farshore_journal::{AtRest, Value};
use serde_json::json;

use crate::sync::{Cloud, with};

/// Open windows of an hour, so that nothing ends by itself.
fn sums(filter: &str) -> String {
    format!(
        "pipelines:\n  - name: sums\n    steps:\n      - filter: {filter}\n      - window: {{tumbling: 1h, aggregates: [sum]}}\n      - emit: {{stream: data/sums}}\n"
    )
}

fn given(cloud: &Cloud, text: Option<&str>) {
    let pipelines = text.map(|text| GivenPipelines {
        digest: Digest::of(text.as_bytes()),
        from: "rooms".to_owned(),
        text: Some(text.to_owned()),
    });
    let labels = BTreeMap::from([("site".to_owned(), "north".to_owned())]);
    cloud.with(|cloud| cloud.config = Some(DeviceConfig { labels, pipelines }));
}

/// No batch arrives, so that all stays in the journal.
fn keep_all(cloud: &Cloud) {
    let cut_off = Some(UplinkError::Unreachable("cut off".to_owned()));
    cloud.with(|cloud| cloud.say = std::iter::repeat_n(cut_off, 10_000).collect());
}

/// Exchanges until it is so.
async fn until<T>(
    gateway: &EdgeGateway,
    what: &str,
    mut ask: impl FnMut(Option<ProcessingStatus>) -> Option<T>,
) -> T {
    let begun = Instant::now();
    loop {
        gateway.force_sync().await.expect("running");
        if let Some(found) = ask(gateway.processing().await.expect("running")) {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{what} did not come to be");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn told(cloud: &Cloud) -> Option<ProcessingReport> {
    cloud.with(|cloud| cloud.reports.last().and_then(|request| request.report.processing.clone()))
}

async fn send(gateway: &EdgeGateway, value: f64, second: i64) {
    let mut point = DataPoint::new("temp", value);
    point.timestamp_ns = Some((1_760_004_000 + second) * 1_000_000_000);
    gateway.send_data(point).await.expect("taken");
}

/// The points that pipelines wrote into a stream: tags and values.
fn written(folder: &Path, stream: &str) -> Vec<(String, f64)> {
    let rest = AtRest::open(folder.join("journal")).expect("a journal");
    let mut found = Vec::new();
    for part in rest.parts().expect("parts").into_iter().filter(|part| part.stream.as_str() == stream) {
        let contents = rest.contents(&part).expect("readable").expect("there");
        for (series, _, value) in contents.points.points() {
            let Value::Float(value) = value else { panic!("{value:?}") };
            found.push((series.to_string(), *value));
        }
    }
    found
}

#[tokio::test]
async fn pipelines_of_the_control_plane_are_taken_while_it_runs_and_a_bad_one_leaves_the_one_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let cloud = Cloud::new();
    keep_all(&cloud);
    let gateway = with(folder.path(), &cloud, |_| {}).await;
    send(&gateway, 100.0, 0).await;
    assert_eq!(gateway.processing().await.expect("running"), None);

    let first = sums("value > 0");
    given(&cloud, Some(&first));
    let status = until(&gateway, "the first", |status| status.filter(|s| s.source == "control-plane")).await;
    let config = status.config.expect("told");
    assert_eq!((config.name.as_str(), config.digest), ("rooms", Digest::of(first.as_bytes())));
    send(&gateway, 1.0, 60).await;
    send(&gateway, 2.0, 120).await;
    let points = |status: Option<ProcessingStatus>, points: u64| {
        status.filter(|status| status.engine.points == points && status.backlog == 0).map(drop)
    };
    until(&gateway, "two points", |status| points(status, 2)).await;

    // Not good: the reason goes back, the one before goes on, and it is not sent again and again.
    let bad = sums("valeu > 0");
    given(&cloud, Some(&bad));
    until(&gateway, "the refusal", |status| status.and_then(|status| status.refused)).await;
    gateway.force_sync().await.expect("running");
    let report = told(&cloud).expect("told");
    let refused = report.refused.expect("refused");
    assert_eq!((refused.digest, report.digest), (Some(Digest::of(bad.as_bytes())), Some(config.digest)));
    assert!(refused.why.contains("line 4") && refused.why.contains("valeu"), "{}", refused.why);
    let seen = cloud.with(|cloud| cloud.reports.last().and_then(|request| request.config.clone()));
    assert_eq!(seen.expect("asked").pipelines, refused.digest);
    send(&gateway, 4.0, 180).await;
    until(&gateway, "three points", |status| points(status, 3)).await;

    // Started anew with nobody to ask: it goes on, with what its windows hold.
    gateway.stop().await;
    cloud.with(|cloud| cloud.config = None);
    let gateway = with(folder.path(), &cloud, |_| {}).await;
    let status = gateway.processing().await.expect("running").expect("it processes");
    assert_eq!(status.config, Some(config));

    // Another one takes over what the window holds.
    let second = sums("value > 10");
    given(&cloud, Some(&second));
    let digest = Digest::of(second.as_bytes());
    until(&gateway, "the second", |status| status?.config.filter(|config| config.digest == digest)).await;
    send(&gateway, 5.0, 240).await;
    send(&gateway, 20.0, 300).await;
    send(&gateway, 20.0, 4000).await;
    until(&gateway, "the window's end", |status| status.filter(|status| status.points_written == 1)).await;
    let report = told(&cloud).expect("told");
    assert_eq!((report.source.as_deref(), report.config.as_deref()), (Some("control-plane"), Some("rooms")));
    let steps = &report.pipelines[0].steps;
    assert_eq!(steps.iter().map(|step| step.kind.as_str()).collect::<Vec<_>>(), ["filter", "window", "emit"]);
    assert_eq!((steps[0].taken, steps[0].passed), (3, 2));

    // None for this device: it is as it was before, and remembers nothing.
    given(&cloud, None);
    until(&gateway, "the end", |status| status.is_none().then_some(())).await;
    assert!(!folder.path().join("journal/pipeline.state").exists());
    gateway.force_sync().await.expect("running");
    assert_eq!(told(&cloud), None);
    send(&gateway, 1.0, 5000).await;
    given(&cloud, Some(&first));
    until(&gateway, "the first again", |status| status.filter(|s| s.source == "control-plane")).await;
    send(&gateway, 3.0, 8000).await;
    send(&gateway, 3.0, 12_000).await;
    until(&gateway, "another window's end", |status| status.filter(|status| status.points_written >= 2))
        .await;
    gateway.stop().await;
    // Of all versions of it, over the restart; and nothing of before it was given again.
    let sums: Vec<f64> = written(folder.path(), "data/sums").into_iter().map(|(_, value)| value).collect();
    assert_eq!(sums, [27.0, 3.0]);
}

#[tokio::test]
async fn what_waits_in_the_journal_when_pipelines_begin_is_not_processed_after_a_restart_either() {
    let folder = tempfile::tempdir().expect("a folder");
    let cloud = Cloud::new();
    let gateway = with(folder.path(), &cloud, |_| {}).await;
    keep_all(&cloud);
    send(&gateway, 100.0, 0).await;
    gateway.stop().await;
    let gateway = with(folder.path(), &cloud, |_| {}).await;
    send(&gateway, 100.0, 1).await;
    given(&cloud, Some(&sums("value > 0")));
    until(&gateway, "the pipelines", |status| status.filter(|s| s.source == "control-plane")).await;
    send(&gateway, 1.0, 60).await;
    until(&gateway, "a point", |status| status.filter(|s| s.engine.points == 1 && s.backlog == 0)).await;
    gateway.stop().await;
    let gateway = with(folder.path(), &cloud, |_| {}).await;
    send(&gateway, 2.0, 120).await;
    send(&gateway, 2.0, 4000).await;
    until(&gateway, "the window's end", |status| status.filter(|status| status.points_written == 1)).await;
    gateway.stop().await;
    let sums = written(folder.path(), "data/sums");
    assert_eq!(sums.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [3.0]);
}

#[tokio::test]
async fn the_file_of_the_device_counts_where_nothing_is_given_and_a_device_can_keep_out_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("own.yaml");
    std::fs::write(&file, sums("value > 5")).expect("written");
    let cloud = Cloud::new();
    let path = file.clone();
    let gateway = with(folder.path(), &cloud, |config| config.pipeline_file = Some(path)).await;
    let status = gateway.processing().await.expect("running").expect("it processes");
    assert_eq!((status.source, status.file), ("file", Some(file.display().to_string())));
    given(&cloud, Some(&sums("value > 0")));
    until(&gateway, "those given", |status| status.filter(|s| s.source == "control-plane")).await;
    given(&cloud, None);
    until(&gateway, "its own", |status| status.filter(|s| s.source == "file")).await;
    gateway.stop().await;

    given(&cloud, Some(&sums("value > 0")));
    let gateway = with(folder.path(), &cloud, |config| config.local_analytics = Some(false)).await;
    let begun = Instant::now();
    let why = loop {
        gateway.force_sync().await.expect("running");
        if let Some(refused) = told(&cloud).and_then(|report| report.refused) {
            break refused.why;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it says nothing");
    };
    assert!(why.contains("ENABLE_LOCAL_ANALYTICS=false"), "{why}");
    assert_eq!(gateway.processing().await.expect("running"), None);
    gateway.stop().await;
}

#[tokio::test]
async fn labels_and_twin_become_tags_and_change_without_a_new_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let cloud = Cloud::new();
    let gateway = with(folder.path(), &cloud, |_| {}).await;
    let text = "pipelines:\n  - name: tags\n    steps:\n      - enrich: {labels: [site], twin: {mode: reported.mode}}\n      - filter: value > twin.reported.limits.low\n      - emit: {stream: data/tagged}\n";
    given(&cloud, Some(text));
    let documents = gateway.documents().expect("running");
    let report = async |low: f64, mode: &str| {
        let patch = json!({"limits": {"low": low}, "mode": mode});
        documents.patch("twin", "reported", patch, None).await.expect("written");
    };
    report(10.0, "day").await;
    until(&gateway, "the pipelines", |status| status.filter(|s| s.source == "control-plane")).await;
    // What is known of the device is looked at once a second.
    let written_by = async |values: &[f64], before: u64| {
        let begun = Instant::now();
        loop {
            for value in values {
                gateway.send_data(DataPoint::new("temp", *value)).await.expect("taken");
            }
            let status = gateway.processing().await.expect("running").expect("it processes");
            if status.points_written > before && status.backlog == 0 {
                return status.points_written;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "nothing is written");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let before = written_by(&[5.0, 15.0], 0).await;
    report(0.0, "night").await;
    // Only the new limit lets this one pass.
    written_by(&[3.0], before).await;
    gateway.stop().await;
    let tagged = written(folder.path(), "data/tagged");
    let has = |value: f64, tags: [&str; 2]| {
        tagged.iter().any(|(series, found)| *found == value && tags.iter().all(|tag| series.contains(tag)))
    };
    assert!(has(15.0, ["site=north", "mode=day"]), "{tagged:?}");
    assert!(has(3.0, ["site=north", "mode=night"]), "{tagged:?}");
    assert!(!tagged.iter().any(|(_, value)| *value == 5.0), "{tagged:?}");
}
