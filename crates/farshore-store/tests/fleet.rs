//! Objects, artifacts, key sets, releases, pointers, permits, desired states and rollouts behave the same on both engines, and stay within
//! their tenant.
#![expect(clippy::unwrap_used, reason = "a test that can't go on should stop right here")]

use std::collections::BTreeMap;

use farshore_domain::digest::Digest;
use farshore_domain::document::Rule;
use farshore_domain::document::merge::{Conflict, Winner};
use farshore_domain::id::{DeviceId, PermitId, ReleaseId, RolloutId};
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::object::Metadata;
use farshore_domain::release::Manifest;
use farshore_domain::time::{DAY_MS, UnixMs};
use farshore_store::artifacts::UploadRow;
use farshore_store::claim_tokens::NewClaimToken;
use farshore_store::claims::{ClaimAttempt, ClaimOutcome, NewCertificate};
use farshore_store::document_collections::CollectionRules;
use farshore_store::document_conflicts::ConflictFilter;
use farshore_store::events::EventFilter;
use farshore_store::fleet::{DesiredRow, PermitRow};
use farshore_store::keys::KeySetRow;
use farshore_store::objects::{NewStored, ObjectKind, Stored};
use farshore_store::releases::NewReleaseRow;
use farshore_store::rollouts::RolloutRow;
use farshore_store::test_util::{TestStore, each_engine};
use farshore_store::{Driver, SecretHash, StoreError, TenantDb};
use serde_json::json;
use uuid::Uuid;

const NOW: UnixMs = UnixMs(1_000_000);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

async fn tenant(test: &TestStore, text: &str) -> TenantDb {
    let system = test.store.system(Driver::Platform);
    let row = system.create_tenant(&name(text), "", &Labels::default(), NOW).await.unwrap();
    system.tenant(row.uid)
}

async fn device(test: &TestStore, db: &TenantDb, key: u8) -> DeviceId {
    let token = NewClaimToken {
        name: &name(&format!("token-{key}")),
        hash: SecretHash([key; 32]),
        device_labels: &Labels::default(),
        channel: &name("prod"),
        location: "riga",
        lifetime_seconds: 60,
        uses: 1,
        labels: &Labels::default(),
        managed_by: "test",
    };
    db.create_claim_token(&token, NOW).await.unwrap();
    let attempt = ClaimAttempt {
        token: SecretHash([key; 32]),
        public_key: [key; 32],
        hardware: &farshore_domain::device::Hardware::default(),
        labels: &Labels::default(),
    };
    let issue = |_, _| {
        Ok(NewCertificate {
            serial: format!("{key:02x}"),
            chain: String::new(),
            issued_at: NOW,
            expires_at: NOW.plus_ms(1),
        })
    };
    match test.store.system(Driver::DevicePort).claim(&attempt, &issue, NOW).await.unwrap() {
        ClaimOutcome::Claimed { device, .. } => device,
        other => panic!("not claimed: {other:?}"),
    }
}

fn manifest(tenant: &str, version: &str, artifact: &[u8]) -> Vec<u8> {
    serde_json::to_vec(&json!({
        "schema": "farshore.dev/release/v1", "tenant": tenant, "app": "web", "version": version,
        "platforms": [{"os": "linux", "arch": "x86_64",
                       "artifact": {"digest": Digest::of(artifact), "size": artifact.len(), "format": "tar.gz"}}],
        "run": {"command": ["bin/web"]},
    }))
    .unwrap()
}

async fn artifact(db: &TenantDb, bytes: &[u8]) {
    let upload = UploadRow {
        uid: Uuid::now_v7(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        name: "web".to_owned(),
    };
    let open = db.open_upload(&upload, 4, NOW).await.unwrap();
    assert_eq!(open, upload);
    db.finish_upload(&open, NOW).await.unwrap();
}

async fn release(db: &TenantDb, tenant: &str, version: &str) -> Result<ReleaseId, StoreError> {
    let bytes = manifest(tenant, version, b"web");
    let manifest = Manifest::parse(&bytes).unwrap();
    let new = NewReleaseRow {
        uid: ReleaseId(Uuid::now_v7()),
        name: &name(&format!("web-{version}")),
        manifest: &manifest,
        manifest_bytes: &bytes,
        signature: b"signature",
        signed_by: "key",
        key_name: "release",
        managed_by: "test",
    };
    db.create_release(new, NOW).await.map(|row| row.id())
}

#[tokio::test]
async fn an_object_is_created_once_replaced_at_its_version_and_deleted() {
    each_engine(async |test| {
        let (db, other) = (tenant(test, "acme").await, tenant(test, "rival").await);
        let labels = Labels::try_from([("team", "shop")]).unwrap();
        let spec = json!({"app": "web", "selector": "site=a"});
        let new = || NewStored { name: &WEB, labels: &labels, managed_by: "test", spec: &spec };
        static WEB: std::sync::LazyLock<Name> = std::sync::LazyLock::new(|| Name::new("web").unwrap());
        let made = db.create_object(ObjectKind::Placement, Uuid::now_v7(), new(), NOW).await.unwrap();
        assert_eq!((made.metadata.resource_version, &made.metadata.labels), (1, &labels));
        let again = db.create_object(ObjectKind::Placement, Uuid::now_v7(), new(), NOW).await;
        assert!(matches!(again, Err(StoreError::Conflict(_))));
        // Names are unique per kind and tenant only.
        db.create_object(ObjectKind::App, Uuid::now_v7(), new(), NOW).await.unwrap();
        other.create_object(ObjectKind::Placement, Uuid::now_v7(), new(), NOW).await.unwrap();

        let stale = db.replace_object(ObjectKind::Placement, "web", new(), Some(7), NOW).await;
        assert!(matches!(stale, Err(StoreError::VersionMismatch { expected: 7, current: 1 })));
        let replaced = db.replace_object(ObjectKind::Placement, "web", new(), Some(1), NOW).await.unwrap();
        assert_eq!((replaced.metadata.resource_version, replaced.metadata.uid), (2, made.metadata.uid));

        // By uid as well; but never another kind's or another tenant's.
        let uid = made.metadata.uid.to_string();
        let read: Stored<serde_json::Value> = db.object(ObjectKind::Placement, &uid).await.unwrap();
        assert_eq!(read.spec, spec);
        assert!(matches!(
            db.object::<serde_json::Value>(ObjectKind::App, &uid).await,
            Err(StoreError::NotFound("app"))
        ));
        assert!(other.object::<serde_json::Value>(ObjectKind::Placement, &uid).await.is_err());
        assert!(other.delete_object(ObjectKind::Placement, &uid, None, NOW).await.is_err());

        db.delete_object(ObjectKind::Placement, "web", Some(2), NOW).await.unwrap();
        assert!(db.object::<serde_json::Value>(ObjectKind::Placement, "web").await.is_err());
        assert_eq!(
            other.objects::<serde_json::Value>(ObjectKind::Placement, None, 10).await.unwrap().len(),
            1
        );
    })
    .await;
}

#[tokio::test]
async fn an_upload_goes_on_where_it_was_and_artifacts_are_hidden_across_tenants() {
    each_engine(async |test| {
        let (db, other) = (tenant(test, "acme").await, tenant(test, "rival").await);
        let upload = |uid| UploadRow { uid, digest: Digest::of(b"web"), size: 3, name: String::new() };
        let first = db.open_upload(&upload(Uuid::now_v7()), 1, NOW).await.unwrap();
        let second = db.open_upload(&upload(Uuid::now_v7()), 1, NOW).await.unwrap();
        assert_eq!(first.uid, second.uid, "the open upload is found again");
        let more = UploadRow { digest: Digest::of(b"more"), ..upload(Uuid::now_v7()) };
        assert!(matches!(db.open_upload(&more, 1, NOW).await, Err(StoreError::Conflict(_))));
        let longer = UploadRow { size: 4, ..upload(Uuid::now_v7()) };
        assert!(matches!(db.open_upload(&longer, 9, NOW).await, Err(StoreError::Conflict(_))));
        assert!(matches!(other.upload(first.uid).await, Err(StoreError::NotFound("upload"))));

        db.finish_upload(&first, NOW).await.unwrap();
        assert!(db.upload(first.uid).await.is_err());
        assert_eq!(db.artifact(&Digest::of(b"web")).await.unwrap().size, 3);
        assert!(matches!(other.artifact(&Digest::of(b"web")).await, Err(StoreError::NotFound("artifact"))));
        assert!(other.artifacts(None, 10).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn key_sets_follow_one_another_without_a_gap() {
    each_engine(async |test| {
        let (db, other) = (tenant(test, "acme").await, tenant(test, "rival").await);
        let set = |version| KeySetRow { version, document: vec![1], signature: vec![2] };
        assert!(matches!(db.append_key_set(&set(2), NOW).await, Err(StoreError::Conflict(_))));
        db.append_key_set(&set(1), NOW).await.unwrap();
        assert!(matches!(db.append_key_set(&set(1), NOW).await, Err(StoreError::Conflict(_))));
        db.append_key_set(&set(2), NOW).await.unwrap();
        assert_eq!(db.key_sets_after(1).await.unwrap(), vec![set(2)]);
        assert!(other.key_sets_after(0).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_release_never_changes_and_needs_its_artifacts() {
    each_engine(async |test| {
        let (db, other) = (tenant(test, "acme").await, tenant(test, "rival").await);
        assert!(
            matches!(release(&db, "acme", "1.0").await, Err(StoreError::Conflict(_))),
            "its artifact is not there"
        );
        artifact(&db, b"web").await;
        let one = release(&db, "acme", "1.0").await.unwrap();
        assert_eq!(
            release(&db, "acme", "1.0").await.unwrap(),
            one,
            "the same manifest once more is the same release"
        );
        assert!(
            matches!(release(&db, "rival", "1.0").await, Err(StoreError::Conflict(_))),
            "another manifest is not"
        );
        let two = release(&db, "acme", "1.1").await.unwrap();
        let listed: Vec<_> =
            db.releases(Some("web"), None, 10).await.unwrap().iter().map(|r| r.id()).collect();
        assert_eq!(listed, [two, one]);
        assert_eq!(db.releases(None, Some(two.0), 10).await.unwrap().len(), 1);
        assert_eq!(db.artifacts(None, 10).await.unwrap()[0].releases, ["web-1.0", "web-1.1"]);
        assert!(matches!(other.release(&one.to_string()).await, Err(StoreError::NotFound("release"))));

        let mut tx = db.begin().await.unwrap();
        db.move_pointer(&mut tx, &name("prod"), &name("web"), one, NOW).await.unwrap();
        db.move_pointer(&mut tx, &name("prod"), &name("web"), two, NOW).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = db.read().await.unwrap();
        let pointers = db.pointers(&mut tx).await.unwrap();
        assert_eq!((pointers.len(), pointers[0].release, pointers[0].version.as_str()), (1, two, "1.1"));
        drop(tx);
        db.delete_release("web-1.0", None, NOW).await.unwrap();
        assert!(
            matches!(db.delete_release("web-1.1", None, NOW).await, Err(StoreError::Conflict(_))),
            "pointed to"
        );
    })
    .await;
}

#[tokio::test]
async fn desired_states_only_grow_and_permits_are_forgotten_after_their_time() {
    each_engine(async |test| {
        let db = tenant(test, "acme").await;
        let device = device(test, &db, 1).await;
        let row = |epoch, generation, body: &[u8]| DesiredRow {
            device,
            epoch,
            generation,
            body: body.to_vec(),
            content: Digest::of(body),
        };
        let mut tx = db.begin().await.unwrap();
        db.write_desired(&mut tx, &[row(1, 2, b"new")], NOW).await.unwrap();
        db.write_desired(&mut tx, &[row(1, 1, b"old")], NOW).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(db.desired_state(device).await.unwrap(), Some(row(1, 2, b"new")));
        let mut tx = db.begin().await.unwrap();
        db.write_desired(&mut tx, &[row(2, 1, b"restored")], NOW).await.unwrap();
        let marks = db.desired_marks(&mut tx).await.unwrap();
        assert_eq!(marks, BTreeMap::from([(device, (2, 1, Digest::of(b"restored")))]));

        let permit = PermitRow {
            uid: PermitId(Uuid::now_v7()),
            device,
            app: name("web"),
            release: ReleaseId(Uuid::now_v7()),
            rollout: Some(RolloutId(Uuid::now_v7())),
            issued_at: NOW,
            expires_at: NOW.plus_ms(10),
        };
        db.add_permit(&mut tx, &permit).await.unwrap();
        db.add_permit(&mut tx, &permit).await.unwrap();
        assert_eq!(db.live_permits(&mut tx, NOW).await.unwrap(), vec![permit]);
        assert!(db.live_permits(&mut tx, NOW.plus_ms(10)).await.unwrap().is_empty());
        assert_eq!(db.forget_permits(&mut tx, NOW.plus_ms(11)).await.unwrap(), 1);
        tx.commit().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_rollout_is_changed_by_one_writer_at_a_time_and_the_newest_one_decides() {
    each_engine(async |test| {
        let (db, other) = (tenant(test, "acme").await, tenant(test, "rival").await);
        let row = |text: &str, phase: &str| RolloutRow {
            metadata: Metadata {
                uid: Uuid::now_v7(),
                name: name(text),
                labels: Labels::default(),
                resource_version: 1,
                managed_by: "test".to_owned(),
                created_at: NOW,
            },
            app: name("web"),
            channel: name("prod"),
            phase: phase.to_owned(),
            spec: json!({}),
            state: json!({"n": 1}),
        };
        let rows = [row("first", "succeeded"), row("second", "failed"), row("third", "pending")];
        let mut tx = db.begin().await.unwrap();
        for row in &rows {
            db.insert_rollout(&mut tx, row).await.unwrap();
        }
        assert!(matches!(db.insert_rollout(&mut tx, &rows[0]).await, Err(StoreError::Conflict(_))));
        tx.commit().await.unwrap();
        let mut tx = db.begin().await.unwrap();
        let deciding: Vec<_> = db
            .deciding_rollouts(&mut tx)
            .await
            .unwrap()
            .iter()
            .map(|r| r.metadata.name.to_string())
            .collect();
        assert_eq!(
            deciding,
            ["third", "second"],
            "one that only waits does not silence the last one that ran"
        );
        let id = rows[2].id();
        db.update_rollout(&mut tx, id, 1, "running", &json!({"n": 2})).await.unwrap();
        let late = db.update_rollout(&mut tx, id, 1, "paused", &json!({"n": 3})).await;
        assert!(matches!(late, Err(StoreError::Conflict(_))));
        tx.commit().await.unwrap();
        let read = db.rollout("third").await.unwrap();
        assert_eq!(
            (read.phase.as_str(), read.metadata.resource_version, read.state),
            ("running", 2, json!({"n": 2}))
        );
        assert!(matches!(other.rollout(&id.to_string()).await, Err(StoreError::NotFound("rollout"))));
        let open = test.store.system(Driver::Rollouts).tenants_with_open_rollouts().await.unwrap();
        assert_eq!(open, [db.tenant().0]);
    })
    .await;
}

#[tokio::test]
async fn decided_conflicts_are_kept_for_as_long_as_their_collection_says() {
    each_engine(async |test| {
        let db = tenant(test, "acme").await;
        let device = device(test, &db, 1).await;
        let days = |days: i64| UnixMs(500 * DAY_MS).plus_ms(-days * DAY_MS);
        for (collection, conflict_days) in [("long", Some(100)), ("short", Some(2)), ("usual", None)] {
            let set = CollectionRules { conflict_days, ..CollectionRules::default() };
            let row = db.put_document_collection(collection, &set, Some(0), NOW).await.unwrap();
            assert_eq!(row.set, set);
        }
        let mut tx = db.begin().await.unwrap();
        db.lock_documents(&mut tx, device).await.unwrap();
        for collection in ["long", "short", "usual", "none"] {
            for age in [1, 3, 31, 101] {
                for winner in [Winner::Cloud, Winner::Open] {
                    let conflict = Conflict {
                        path: String::new(),
                        rule: Rule::default(),
                        base: None,
                        edge: Some(json!(1)),
                        cloud: Some(json!(2)),
                        edge_stamp: None,
                        cloud_stamp: None,
                        winner,
                        note: None,
                    };
                    db.add_conflict(&mut tx, device, (collection, "n"), &conflict, 1, days(age))
                        .await
                        .unwrap();
                }
            }
        }
        tx.commit().await.unwrap();
        let system = test.store.system(Driver::Retention);
        system.delete_old_documents(days(30), days(400), 100).await.unwrap();
        system.delete_old_conflicts(days(0), 100).await.unwrap();
        let kept = async |collection: &str, open: bool| {
            let document = Some((collection.to_owned(), "n".to_owned()));
            let filter = ConflictFilter { open: Some(open), document, ..ConflictFilter::default() };
            db.conflicts(&filter, 100).await.unwrap().0.len()
        };
        for (collection, settled) in [("long", 3), ("short", 1), ("usual", 2), ("none", 2)] {
            assert_eq!(
                (kept(collection, false).await, kept(collection, true).await),
                (settled, 4),
                "{collection}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn of_many_changes_of_one_version_of_a_collections_rules_one_counts_and_is_an_event() {
    each_engine(async |test| {
        let db = tenant(test, "acme").await;
        let put = |expected| {
            let db = db.clone();
            let set = CollectionRules { rules: vec![Rule::default()], ..CollectionRules::default() };
            async move { db.put_document_collection("menu", &set, expected, NOW).await }
        };
        let mut version = 0;
        for _ in 0..10 {
            let mut all = tokio::task::JoinSet::new();
            for _ in 0..8 {
                all.spawn(put(Some(version)));
            }
            let mut won = Vec::new();
            for answer in all.join_all().await {
                match answer {
                    Ok(row) => won.push(row.resource_version),
                    Err(StoreError::VersionMismatch { expected, current }) => {
                        assert_eq!((expected, current), (version, version + 1));
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            assert_eq!(won, [version + 1]);
            version += 1;
        }
        let stale = db.delete_document_collection("menu", Some(version - 1), NOW).await;
        assert!(matches!(stale, Err(StoreError::VersionMismatch { .. })), "{stale:?}");
        db.delete_document_collection("menu", Some(version), NOW).await.unwrap();
        let gone = db.delete_document_collection("menu", None, NOW).await;
        assert!(matches!(gone, Err(StoreError::NotFound(_))), "{gone:?}");
        let gone = put(Some(version)).await;
        assert!(matches!(gone, Err(StoreError::VersionMismatch { current: 0, .. })), "{gone:?}");
        test.store.system(Driver::Platform).sequence_events().await.unwrap();
        let filter =
            EventFilter { kind: Some("documents.rules-changed".to_owned()), ..EventFilter::default() };
        let events = db.events_after(0, &filter, 100).await.unwrap();
        assert_eq!(events.len(), 11, "{events:?}");
        assert!(events.iter().all(|event| event.subject_name == "menu"));
        assert_eq!(events[9].payload["resourceVersion"], 10);
        assert!(events[10].message.contains("deleted"), "{}", events[10].message);
    })
    .await;
}
