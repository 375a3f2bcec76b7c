//! Leases and their fencing.

use farshore_domain::time::UnixMs;
use farshore_store::StoreError;
use farshore_store::test_util::each_engine;

use crate::world::{NOW, system};

#[tokio::test]
async fn a_lease_has_one_holder_until_it_runs_out() {
    each_engine(async |test| {
        let db = system(&test.store);
        let first = db.acquire_lease("rollouts", "a", 1_000, NOW).await.unwrap().unwrap();
        assert_eq!(first.epoch, 1);
        assert_eq!(db.acquire_lease("rollouts", "b", 1_000, NOW.plus_ms(999)).await.unwrap(), None);
        let renewed = db.acquire_lease("rollouts", "a", 1_000, NOW.plus_ms(500)).await.unwrap().unwrap();
        assert_eq!((renewed.epoch, renewed.expires_at), (1, NOW.plus_ms(1_500)));
        let second = db.acquire_lease("rollouts", "b", 1_000, NOW.plus_ms(1_500)).await.unwrap().unwrap();
        assert_eq!(second.epoch, 2);
        assert_eq!(db.acquire_lease("rollouts", "a", 1_000, NOW.plus_ms(1_600)).await.unwrap(), None);
        // Another name is another lease.
        assert_eq!(db.acquire_lease("sequencer", "a", 1_000, NOW).await.unwrap().unwrap().epoch, 1);
    })
    .await;
}

#[tokio::test]
async fn whoever_lost_its_lease_writes_nothing() {
    each_engine(async |test| {
        let db = system(&test.store);
        let old = db.acquire_lease("rollouts", "a", 1_000, NOW).await.unwrap().unwrap();
        let mut tx = db.begin().await.unwrap();
        old.check(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let new = db.acquire_lease("rollouts", "b", 1_000, NOW.plus_ms(2_000)).await.unwrap().unwrap();
        let mut tx = db.begin().await.unwrap();
        assert!(matches!(old.check(&mut tx).await, Err(StoreError::LeaseLost)));
        drop(tx);
        let mut tx = db.begin().await.unwrap();
        new.check(&mut tx).await.unwrap();
        drop(tx);
        // The old holder's return of what it lost takes nothing away.
        db.release_lease(&old).await.unwrap();
        assert_eq!(db.acquire_lease("rollouts", "c", 1_000, NOW.plus_ms(2_100)).await.unwrap(), None);
        db.release_lease(&new).await.unwrap();
        assert_eq!(
            db.acquire_lease("rollouts", "c", 1_000, NOW.plus_ms(2_100)).await.unwrap().unwrap().epoch,
            3
        );
    })
    .await;
}

#[tokio::test]
async fn a_holder_that_slept_past_the_end_gets_a_new_epoch() {
    each_engine(async |test| {
        let db = system(&test.store);
        let first = db.acquire_lease("x", "a", 1_000, NOW).await.unwrap().unwrap();
        let late = db.acquire_lease("x", "a", 1_000, NOW.plus_ms(5_000)).await.unwrap().unwrap();
        assert_eq!((first.epoch, late.epoch), (1, 2));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_want_a_lease_at_once_one_gets_it() {
    each_engine(async |test| {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..20 {
            let db = system(&test.store);
            tasks.spawn(
                async move { db.acquire_lease("x", &format!("holder-{n}"), 1_000, NOW).await.unwrap() },
            );
        }
        let leases: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
        assert_eq!(leases.len(), 1);
        let end = UnixMs(i64::MAX);
        assert_eq!(
            system(&test.store).acquire_lease("x", "late", i64::MAX, end).await.unwrap().unwrap().epoch,
            2
        );
    })
    .await;
}
