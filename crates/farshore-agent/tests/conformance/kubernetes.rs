//! Kind `manifest`: objects of a cluster, against a small API server of our own ([`crate::cluster`]) over real TLS.

use std::sync::atomic::Ordering;

use farshore_agent::runner::Request;
use serde_json::{Value, json};

use crate::bed::{Bed, refused, web};
use crate::cluster::{Cluster, FATE};
use crate::release::Release;
use crate::wait::until;

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/web";
const SETTINGS: &str = "/api/v1/namespaces/shop/configmaps/settings";
const SERVICE: &str = "/api/v1/namespaces/shop/services/extra";

async fn bed() -> (Cluster, Bed) {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), &["shop", "other"]).await;
    let allowed = cluster.allowed(&["shop"]);
    (cluster, Bed::made(folder, &allowed, None).await)
}

fn deployment(fate: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}, "annotations": {FATE: fate}},
            "spec": {"containers": [{"name": "web", "image": "registry.local/web:1"}]}},
    }})
}

fn settings(data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": data})
}

fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "extra"}, "spec": {"ports": [{"port": 80}]}})
}

/// A release of these objects.
fn release(bed: &Bed, version: &str, objects: &[Value]) -> Release {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    bed.signer.release(version, &[("objects.json", 0o644, &list)], |manifest| {
        manifest["run"] =
            json!({"kind": "manifest", "manifest": {"objects": ["objects.json"], "namespace": "shop"}});
        manifest["startTimeoutSeconds"] = 3.into();
    })
}

#[tokio::test]
async fn a_cluster_that_is_still_starting_is_waited_for() {
    let (cluster, bed) = bed().await;
    let list = settings(&json!({"a": "1"})).to_string();
    let release = bed.signer.release("1.0", &[("objects.json", 0o644, &list)], |manifest| {
        manifest["run"] =
            json!({"kind": "manifest", "manifest": {"objects": ["objects.json"], "namespace": "shop"}});
        manifest["startTimeoutSeconds"] = 60.into();
    });
    cluster.down.store(true, Ordering::Relaxed);
    bed.stage(&release).await.unwrap();
    bed.start(&release, 1).await.unwrap();
    until("it to be asked in vain", || async {
        bed.logs().await.contains("waiting for the cluster").then_some(())
    })
    .await;
    cluster.down.store(false, Ordering::Relaxed);
    assert_eq!(bed.up().await.restarts, 0);
    assert_eq!(cluster.paths(), [SETTINGS.to_owned()]);
    bed.stop().await;
}

#[tokio::test]
async fn objects_are_applied_waited_for_and_removed_when_a_release_has_them_no_more() {
    let (cluster, bed) = bed().await;
    assert!(bed.capabilities().await.contains(&"executor/manifest".to_owned()));
    let first =
        release(&bed, "1.0", &[settings(&json!({"a": "1", "b": "1"})), service(), deployment("late")]);
    bed.run(&first, 1).await;
    assert_eq!(cluster.paths(), [SETTINGS, SERVICE, DEPLOYMENT].map(str::to_owned));
    let applied = cluster.object(DEPLOYMENT).unwrap();
    assert_eq!(applied["metadata"]["labels"]["farshore.dev/app"], "web");
    assert_eq!(applied["metadata"]["annotations"]["farshore.dev/version"], "1.0");
    assert_eq!(applied["status"]["availableReplicas"], 1, "it was waited for");
    let logs = bed.logs().await;
    assert!(
        logs.contains("waiting for Deployment shop/web: 0 of 1 available")
            && logs.contains("web 1.0 is ready"),
        "{logs}"
    );

    // An autoscaler owns a field that the release does not name: it stays the autoscaler's.
    let mut scaled = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"}});
    scaled["spec"]["replicas"] = 3.into();
    cluster.apply_as("autoscaler", DEPLOYMENT, &scaled);
    bed.stop().await;
    assert_eq!(cluster.paths().len(), 3, "a stop leaves them");

    let second = release(&bed, "2.0", &[settings(&json!({"a": "2"})), deployment("ready")]);
    bed.run(&second, 2).await;
    assert_eq!(cluster.paths(), [SETTINGS, DEPLOYMENT].map(str::to_owned));
    assert_eq!(cluster.object(SETTINGS).unwrap()["data"], json!({"a": "2"}));
    assert_eq!(cluster.object(DEPLOYMENT).unwrap()["spec"]["replicas"], 3);
    bed.stop().await;

    // Going back is applying the one before.
    bed.start(&first, 3).await.unwrap();
    bed.up().await;
    assert_eq!(cluster.paths().len(), 3);
    assert_eq!(cluster.object(SETTINGS).unwrap()["data"], json!({"a": "1", "b": "1"}));
    bed.stop().await;
    bed.client.done(&Request::Remove { app: web() }).await.unwrap();
    assert_eq!(cluster.paths(), Vec::<String>::new());
    let deletions: Vec<String> =
        cluster.asked().into_iter().filter(|asked| asked.starts_with("DELETE")).collect();
    let last = [DEPLOYMENT, SERVICE, SETTINGS].map(|path| format!("DELETE {path}"));
    assert!(deletions.ends_with(&last), "the last applied goes first: {deletions:?}");
    assert_eq!(cluster.unauthorized(), 0);
}

#[tokio::test]
async fn a_release_that_does_not_get_ready_says_why_and_has_taken_nothing_away() {
    let (cluster, bed) = bed().await;
    let good = release(&bed, "1.0", &[settings(&json!({"a": "1"})), deployment("ready")]);
    bed.run(&good, 1).await;
    bed.stop().await;
    let mut extra = deployment("fails");
    extra["metadata"]["name"] = "new".into();
    let bad = release(&bed, "2.0", &[extra]);
    bed.stage(&bad).await.unwrap();
    bed.start(&bad, 2).await.unwrap();
    let why = bed.failed(1).await.last_exit.unwrap();
    assert!(why.contains("Deployment shop/new") && why.contains("timed out progressing"), "{why}");
    assert_eq!(cluster.paths().len(), 3, "what the release before needs is still there");
    bed.stop().await;
    bed.start(&good, 3).await.unwrap();
    bed.up().await;
    assert_eq!(cluster.paths(), [SETTINGS, DEPLOYMENT].map(str::to_owned));
    bed.stop().await;

    let hanging = release(&bed, "3.0", &[deployment("never")]);
    bed.stage(&hanging).await.unwrap();
    bed.start(&hanging, 4).await.unwrap();
    let why = bed.failed(1).await.last_exit.unwrap();
    assert!(why.contains("was not ready within 3 s"), "{why}");
    bed.stop().await;
}

#[tokio::test]
async fn what_is_deleted_in_the_cluster_is_applied_again_also_after_the_clusters_api_was_away() {
    let (cluster, mut bed) = bed().await;
    let good = release(&bed, "1.0", &[settings(&json!({"a": "1"})), deployment("ready")]);
    bed.run(&good, 1).await;
    let before = cluster.object(DEPLOYMENT).unwrap()["metadata"]["uid"].clone();
    // The API is away while it is looked twice: no reason to do anything.
    cluster.down.store(true, Ordering::Relaxed);
    bed.kill_runner();
    bed.start_runner().await;
    until("two looks in vain", || async { (cluster.in_vain.load(Ordering::Relaxed) >= 2).then_some(()) })
        .await;
    let running = bed.running().await.unwrap();
    assert_eq!((running.up, running.restarts), (true, 0));
    cluster.delete(DEPLOYMENT);
    cluster.down.store(false, Ordering::Relaxed);
    until("it to be there again", || async { cluster.object(DEPLOYMENT) }).await;
    let running = until("it to be well", || async { bed.running().await.filter(|running| running.up) }).await;
    assert_eq!(running.restarts, 1);
    assert!(running.last_exit.unwrap().contains("Deployment shop/web: it was deleted in the cluster"));
    assert_ne!(cluster.object(DEPLOYMENT).unwrap()["metadata"]["uid"], before);
    bed.stop().await;
}

#[tokio::test]
async fn what_the_device_does_not_allow_and_what_belongs_to_others_is_not_touched() {
    let (cluster, bed) = bed().await;
    let fails = async |version: &str, instance: u64, object: Value| {
        let release = release(&bed, version, &[object]);
        bed.stage(&release).await.unwrap();
        bed.start(&release, instance).await.unwrap();
        let why = bed.failed(1).await.last_exit.unwrap();
        bed.stop().await;
        why
    };
    let mut elsewhere = settings(&json!({}));
    elsewhere["metadata"]["namespace"] = "other".into();
    let why = fails("1.0", 1, elsewhere).await;
    assert!(why.contains("does not allow apps in namespace \"other\""), "{why}");
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mine"}});
    assert!(fails("1.1", 2, namespace).await.contains("belongs to the whole cluster"));
    let unknown = json!({"apiVersion": "v1", "kind": "Telepathy", "metadata": {"name": "x"}});
    assert!(fails("1.2", 3, unknown).await.contains("the cluster knows no Telepathy of v1"));
    let theirs = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "namespace": "shop"}, "data": {"a": "theirs"}});
    cluster.apply_as("somebody", SETTINGS, &theirs);
    let why = fails("1.3", 4, settings(&json!({"a": "ours"}))).await;
    assert!(
        why.contains("ConfigMap shop/settings is there already and does not belong to this app"),
        "{why}"
    );
    assert_eq!(cluster.object(SETTINGS).unwrap()["data"]["a"], "theirs");
    // What was never applied is nobody's to delete.
    bed.client.done(&Request::Remove { app: web() }).await.unwrap();
    assert_eq!(cluster.object(SETTINGS).unwrap()["data"]["a"], "theirs");
    cluster.set_token("another");
    assert!(fails("1.4", 5, deployment("ready")).await.contains("Unauthorized (401)"));
    assert!(cluster.unauthorized() > 0);
    assert_eq!(cluster.paths(), [SETTINGS.to_owned()]);

    // A device that is told of no cluster says that it can't.
    let none = Bed::new(&json!({})).await;
    assert!(!none.capabilities().await.contains(&"executor/manifest".to_owned()));
    let release = self::release(&none, "1.0", &[deployment("ready")]);
    refused(none.stage(&release).await, "Unsupported");
}
