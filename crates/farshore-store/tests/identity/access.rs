//! Sessions, links, tokens, roles, throttling, idempotency keys.

use farshore_domain::access::{Permission, RoleName};
use farshore_domain::label::Labels;
use farshore_domain::time::UnixMs;
use farshore_store::idempotency::Repeated;
use farshore_store::sessions::{NewSession, Throttle};
use farshore_store::tenants::FirstStart;
use farshore_store::test_util::each_engine;
use farshore_store::tokens::NewApiToken;
use farshore_store::users::NewUser;
use farshore_store::{Principal, StoreError, StoreResult};

use crate::world::{HOUR, NOW, World, name, secret, system};

fn role(text: &str) -> RoleName {
    text.parse().unwrap()
}

async fn user(world: &World, by: &Principal, who: &str, as_role: &str) -> StoreResult<()> {
    let email = format!("{who}@example.com");
    let n = u64::from_be_bytes(*blake(who).first_chunk().unwrap());
    let new = NewUser {
        name: &name(who),
        email: &email,
        role: &role(as_role),
        labels: &Labels::default(),
        link: secret(n),
        link_expires_at: NOW.plus_ms(HOUR),
    };
    world.store.authorize(by, Permission::UserWrite)?.create_user(by, &new, NOW).await.map(|_| ())
}

fn blake(text: &str) -> [u8; 32] {
    *farshore_domain::digest::Digest::of(text.as_bytes()).as_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_happens_once_however_many_start_at_once() {
    each_engine(async |test| {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..5 {
            let db = system(&test.store);
            tasks.spawn(async move {
                let first = FirstStart {
                    tenant: &name("one"),
                    email: "admin@example.com",
                    link: secret(n),
                    link_expires_at: NOW.plus_ms(HOUR),
                };
                db.first_start(&first, NOW).await.unwrap()
            });
        }
        assert_eq!(tasks.join_all().await.into_iter().flatten().count(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_session_ends_by_time_and_by_revocation() {
    each_engine(async |test| {
        let world = World::new(&test.store).await;
        let who = |now: UnixMs| async move { world_session(&test.store, now).await };
        assert!(who(NOW).await.is_some());
        assert!(who(NOW.plus_ms(HOUR - 1)).await.is_some());
        assert!(who(NOW.plus_ms(HOUR)).await.is_none());
        system(&test.store).revoke_session(&world.session, NOW).await.unwrap();
        assert!(who(NOW).await.is_none());
        assert!(test.store.authenticate_session(&secret(99), None, NOW).await.unwrap().is_none());
    })
    .await;
}

async fn world_session(store: &farshore_store::Store, now: UnixMs) -> Option<Principal> {
    store.authenticate_session(&secret(2), None, now).await.unwrap()
}

#[tokio::test]
async fn a_password_that_is_set_ends_all_other_sessions() {
    each_engine(async |test| {
        let world = World::new(&test.store).await;
        let db = system(&test.store);
        db.create_login_link(world.admin, &secret(10), NOW.plus_ms(HOUR)).await.unwrap();
        let new = NewSession { hash: secret(11), expires_at: NOW.plus_ms(HOUR) };
        db.redeem_login_link(&secret(10), Some("another hash"), &new, NOW).await.unwrap().unwrap();
        assert!(test.store.authenticate_session(&world.session, None, NOW).await.unwrap().is_none());
        assert!(test.store.authenticate_session(&secret(11), None, NOW).await.unwrap().is_some());
        // Used, and ended, links are none.
        let new = NewSession { hash: secret(12), expires_at: NOW.plus_ms(HOUR) };
        assert!(db.redeem_login_link(&secret(10), Some("x"), &new, NOW).await.unwrap().is_none());
        db.create_login_link(world.admin, &secret(13), NOW).await.unwrap();
        assert!(db.redeem_login_link(&secret(13), Some("x"), &new, NOW).await.unwrap().is_none());
    })
    .await;
}

#[tokio::test]
async fn a_handle_opens_only_to_a_role_with_the_permission() {
    each_engine(async |test| {
        let world = World::new(&test.store).await;
        let admin = world.principal().await;
        let token = NewApiToken {
            name: &name("reader"),
            hash: secret(20),
            role: &role("viewer"),
            lifetime_seconds: 60,
            labels: &Labels::default(),
        };
        let db = test.store.authorize(&admin, Permission::UserWrite).unwrap();
        db.create_api_token(&admin, &token, NOW).await.unwrap();
        let reader = test.store.authenticate_api_token(&secret(20), NOW).await.unwrap().unwrap();
        test.store.authorize(&reader, Permission::DeviceRead).unwrap();
        let denied = test.store.authorize(&reader, Permission::DeviceWrite).unwrap_err();
        assert!(matches!(denied, StoreError::Denied(Permission::DeviceWrite)));
        assert!(test.store.authenticate_api_token(&secret(20), NOW.plus_ms(60_000)).await.unwrap().is_none());
        assert!(
            test.store.authenticate_session(&secret(20), None, NOW).await.unwrap().is_none(),
            "a token is no session"
        );
        db.revoke_api_token(&admin, "reader", None, NOW).await.unwrap();
        assert!(test.store.authenticate_api_token(&secret(20), NOW).await.unwrap().is_none());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_admins_who_remove_each_other_at_once_leave_one() {
    each_engine(async |test| {
        let world = World::new(&test.store).await;
        let admin = world.principal().await;
        user(&world, &admin, "second", "platform-admin").await.unwrap();
        let db = world.store.authorize(&admin, Permission::UserWrite).unwrap();
        let (viewer, labels) = (role("viewer"), Labels::default());
        let (a, b) = tokio::join!(
            db.change_user(&admin, "second", &viewer, &labels, None, NOW),
            db.change_user(&admin, "admin", &viewer, &labels, None, NOW),
        );
        assert!(a.is_ok() ^ b.is_ok(), "exactly one of the two: {a:?} {b:?}");
        let roles: Vec<_> = db.users(None, 10).await.unwrap().into_iter().map(|user| user.role).collect();
        assert!(roles.contains(&role("platform-admin")), "{roles:?}");
    })
    .await;
}

#[tokio::test]
async fn failures_are_counted_before_they_happen_and_forgotten_after_a_success() {
    each_engine(async |test| {
        let db = system(&test.store);
        let throttle = Throttle { free: 2, base_ms: 1_000, max_ms: 60_000, window_ms: HOUR };
        let attempt =
            async |now: i64| db.begin_attempt(&[("email:a", throttle)], NOW.plus_ms(now)).await.unwrap();
        assert_eq!(attempt(0).await, Ok(()));
        assert_eq!(attempt(1).await, Ok(()));
        assert_eq!(attempt(2).await, Ok(()));
        assert_eq!(attempt(3).await, Err(NOW.plus_ms(1_002)));
        // Asking does not make it longer.
        assert_eq!(attempt(4).await, Err(NOW.plus_ms(1_002)));
        assert_eq!(attempt(1_002).await, Ok(()));
        assert_eq!(attempt(1_003).await, Err(NOW.plus_ms(3_002)));
        db.attempt_succeeded("email:a", "ip:x").await.unwrap();
        assert_eq!(attempt(1_004).await, Ok(()));
        // After the window everything is forgotten.
        for n in 0..3 {
            let _ = attempt(10_000 * n).await;
        }
        assert_eq!(attempt(2 * HOUR).await, Ok(()));
        assert_eq!(attempt(2 * HOUR + 1).await, Ok(()));
    })
    .await;
}

#[tokio::test]
async fn an_idempotency_key_belongs_to_one_request() {
    each_engine(async |test| {
        let world = World::new(&test.store).await;
        let db = system(&test.store);
        let begin =
            async |digest: &str, now: UnixMs| db.begin_request(world.one, "k", digest, now).await.unwrap();
        assert_eq!(begin("d", NOW).await, Repeated::New);
        assert_eq!(begin("d", NOW).await, Repeated::UnderWay);
        assert_eq!(begin("e", NOW).await, Repeated::Different);
        db.finish_request(world.one, "k", 201, b"answer").await.unwrap();
        assert_eq!(begin("d", NOW).await, Repeated::Answered { status: 201, body: b"answer".to_vec() });
        // An answered key is not freed by a late failure.
        db.forget_request(world.one, "k").await.unwrap();
        assert!(matches!(begin("d", NOW).await, Repeated::Answered { .. }));
        // What was abandoned may be tried again.
        let again = async |now: UnixMs| db.begin_request(world.one, "abandoned", "d", now).await.unwrap();
        assert_eq!(again(NOW).await, Repeated::New);
        assert_eq!(again(NOW.plus_ms(HOUR)).await, Repeated::New);
        // The same key in another tenant is another key.
        let two = world.tenant("two").await;
        assert_eq!(db.begin_request(two, "k", "d", NOW).await.unwrap(), Repeated::New);
        assert!(db.forget_ended(NOW.plus_ms(100 * HOUR)).await.unwrap() >= 2);
    })
    .await;
}
