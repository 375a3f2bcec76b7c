//! Claims, renewals, revocations.

use std::sync::atomic::{AtomicU64, Ordering};

use farshore_domain::device::Hardware;
use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::label::Labels;
use farshore_store::claim_tokens::NewClaimToken;
use farshore_store::claims::{
    ClaimAttempt, ClaimOutcome, ClaimRefusal, NewCertificate, Renewal, RenewalOutcome, RenewalRefusal,
};
use farshore_store::test_util::each_engine;
use farshore_store::{Store, StoreError};

use crate::world::{HOUR, NOW, World, name, secret, system};

static SERIAL: AtomicU64 = AtomicU64::new(1);

type IssueError = Box<dyn std::error::Error + Send + Sync>;

fn issue(tenant: TenantId, device: DeviceId) -> Result<NewCertificate, IssueError> {
    let serial = format!("{:032x}", SERIAL.fetch_add(1, Ordering::Relaxed));
    let chain = format!("certificate {serial} of {device} in {tenant}");
    Ok(NewCertificate { serial, chain, issued_at: NOW, expires_at: NOW.plus_ms(24 * HOUR) })
}

async fn token(world: &World, n: u64, uses: i64) {
    let new = NewClaimToken {
        name: &name(&format!("token-{n}")),
        labels: &Labels::default(),
        managed_by: "test",
        hash: secret(n),
        device_labels: &Labels::try_from([("site", "riga")]).unwrap(),
        channel: &name("prod"),
        location: "Riga",
        lifetime_seconds: 3_600,
        uses,
    };
    world.db(world.one).create_claim_token(&new, NOW).await.unwrap();
}

async fn claim(store: &Store, n: u64, key: u8) -> ClaimOutcome {
    let hardware = Hardware { hostname: "kiosk".to_owned(), ..Hardware::default() };
    let labels = Labels::default();
    let attempt =
        ClaimAttempt { token: secret(n), public_key: [key; 32], hardware: &hardware, labels: &labels };
    system(store).claim(&attempt, &issue, NOW).await.unwrap()
}

fn device(outcome: ClaimOutcome) -> (DeviceId, String) {
    match outcome {
        ClaimOutcome::Claimed { device, chain, .. } => (device, chain),
        other => panic!("{other:?}"),
    }
}

fn refusal(outcome: ClaimOutcome) -> ClaimRefusal {
    match outcome {
        ClaimOutcome::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_claims_with_three_uses_exactly_three_win() {
    each_engine(async |test| {
        let world = World::new(&test.store).await;
        token(&world, 50, 3).await;
        let mut tasks = tokio::task::JoinSet::new();
        for key in 0..100 {
            let store = test.store.clone();
            tasks.spawn(async move { claim(&store, 50, key).await });
        }
        let outcomes = tasks.join_all().await;
        let won = outcomes.iter().filter(|outcome| matches!(outcome, ClaimOutcome::Claimed { .. })).count();
        assert_eq!(won, 3);
        assert!(outcomes.into_iter().all(|outcome| match outcome {
            ClaimOutcome::Claimed { .. } => true,
            other => refusal(other) == ClaimRefusal::TokenUsedUp,
        }));
        assert_eq!(world.db(world.one).claim_token("token-50").await.unwrap().used, 3);
    })
    .await;
}

#[tokio::test]
async fn a_failed_issue_leaves_no_device_and_no_use_behind() {
    each_engine(async |test| {
        let world = World::new(&test.store).await;
        token(&world, 51, 1).await;
        let hardware = Hardware::default();
        let labels = Labels::default();
        let attempt =
            ClaimAttempt { token: secret(51), public_key: [1; 32], hardware: &hardware, labels: &labels };
        let broken = |_: TenantId, _: DeviceId| Err::<NewCertificate, IssueError>("no key".into());
        let error = system(&test.store).claim(&attempt, &broken, NOW).await.unwrap_err();
        assert!(matches!(error, StoreError::Certificate(_)));
        assert_eq!(world.db(world.one).claim_token("token-51").await.unwrap().used, 0);
        device(claim(&test.store, 51, 1).await);
    })
    .await;
}

#[tokio::test]
async fn a_key_that_was_revoked_is_out_with_every_token() {
    each_engine(async |test| {
        let world = World::new(&test.store).await;
        token(&world, 52, 5).await;
        token(&world, 53, 5).await;
        let (uid, chain) = device(claim(&test.store, 52, 7).await);
        assert_eq!(device(claim(&test.store, 52, 7).await), (uid, chain));
        // A second token, the same key: the same device, and no use.
        assert_eq!(device(claim(&test.store, 53, 7).await).0, uid);
        assert_eq!(world.db(world.one).claim_token("token-53").await.unwrap().used, 0);
        let db = world.db(world.one);
        let revoked = db.revoke_device(uid, "stolen", NOW).await.unwrap();
        assert_eq!(revoked.name, name("kiosk"));
        assert!(matches!(db.revoke_device(uid, "again", NOW).await, Err(StoreError::Conflict(_))));
        for n in [52, 53] {
            assert_eq!(refusal(claim(&test.store, n, 7).await), ClaimRefusal::KeyRevoked);
        }
        let standing = system(&test.store).device_standing(world.one, uid).await.unwrap().unwrap();
        assert!(!standing.is_welcome());
        let renewal = Renewal {
            tenant: world.one,
            device: uid,
            presented_serial: "x",
            presented_key: [7; 32],
            next_key: [7; 32],
        };
        let outcome = system(&test.store).renew_certificate(&renewal, &issue).await.unwrap();
        assert!(matches!(outcome, RenewalOutcome::Refused(RenewalRefusal::NotClaimed)));
        // The other tenant does not know it at all.
        let two = world.tenant("two").await;
        assert_eq!(system(&test.store).device_standing(two, uid).await.unwrap(), None);
        assert!(matches!(
            world.db(two).revoke_device(uid, "", NOW).await,
            Err(StoreError::NotFound("device"))
        ));
    })
    .await;
}

#[tokio::test]
async fn a_revoked_key_is_no_next_key_either() {
    each_engine(async |test| {
        let world = World::new(&test.store).await;
        token(&world, 54, 5).await;
        let (first, _) = device(claim(&test.store, 54, 1).await);
        let (second, _) = device(claim(&test.store, 54, 2).await);
        world.db(world.one).revoke_device(second, "", NOW).await.unwrap();
        let renewal = |next: u8| Renewal {
            tenant: world.one,
            device: first,
            presented_serial: "x",
            presented_key: [1; 32],
            next_key: [next; 32],
        };
        let db = system(&test.store);
        let refused = db.renew_certificate(&renewal(2), &issue).await.unwrap();
        assert!(matches!(refused, RenewalOutcome::Refused(RenewalRefusal::BadKey)));
        assert!(matches!(
            db.renew_certificate(&renewal(3), &issue).await.unwrap(),
            RenewalOutcome::Renewed { .. }
        ));
        // The old key no longer renews, not even with a serial that was never issued.
        let refused = db.renew_certificate(&renewal(1), &issue).await.unwrap();
        assert!(matches!(refused, RenewalOutcome::Refused(RenewalRefusal::OtherKey)));
    })
    .await;
}

#[tokio::test]
async fn names_are_taken_once_and_labels_of_the_token_are_the_devices() {
    each_engine(async |test| {
        let world = World::new(&test.store).await;
        token(&world, 55, 5).await;
        let mut names = std::collections::BTreeSet::new();
        for key in 0..4 {
            match claim(&test.store, 55, key).await {
                ClaimOutcome::Claimed { name, .. } => assert!(names.insert(name)),
                other => panic!("{other:?}"),
            }
        }
        assert!(names.contains(&name("kiosk")));
        assert_eq!(refusal(claim(&test.store, 99, 9).await), ClaimRefusal::UnknownToken);
        world.db(world.one).revoke_claim_token("token-55", None, NOW).await.unwrap();
        assert_eq!(refusal(claim(&test.store, 55, 9).await), ClaimRefusal::TokenRevoked);
    })
    .await;
}
