//! Logins, sessions, tokens, users, tenants.

use axum::http::Method;
use serde_json::{Value, json};

use crate::harness::{ADMIN, Answer, Client, Credentials, PASSWORD, each_engine};

fn cookie_of(answer: &Answer) -> String {
    let cookie = answer.header("set-cookie");
    for part in ["__Host-farshore-session=", "Path=/", "Secure", "HttpOnly", "SameSite=Strict"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("Domain"), "{cookie}");
    cookie.split(';').next().unwrap().split_once('=').unwrap().1.to_owned()
}

async fn log_in(client: &Client, password: &str) -> Answer {
    client.post("/api/login", json!({"email": ADMIN, "password": password})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_opens_a_session_in_a_cookie_that_logout_ends() {
    each_engine(async |fleet| {
        let answer = log_in(&fleet.nobody(), PASSWORD).await.expect(200);
        let me: Value = answer.json();
        assert_eq!(me["email"], ADMIN);
        assert_eq!(me["role"], "platform-admin");
        assert_eq!(me["tenant"], "default");
        assert_eq!(me.get("token"), None, "a cookie session shows no token to scripts");
        let browser = fleet.nobody().with(Credentials::Cookie(cookie_of(&answer)));
        browser.get("/api/me").await.expect(200);
        browser.header("origin", &browser.origin()).post("/api/logout", json!({})).await.expect(204);
        browser.get("/api/me").await.problem(401, "unauthenticated");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_from_another_origin_changes_nothing() {
    each_engine(async |fleet| {
        let answer = log_in(&fleet.nobody(), PASSWORD).await.expect(200);
        let browser = fleet.nobody().with(Credentials::Cookie(cookie_of(&answer)));
        let tenant = || json!({"metadata": {"name": "evil"}, "spec": {}});
        browser.post("/api/tenants", tenant()).await.problem(403, "forbidden");
        for origin in ["https://evil.example", "null", "http://127.0.0.1"] {
            browser.header("origin", origin).post("/api/tenants", tenant()).await.problem(403, "forbidden");
        }
        browser.header("origin", &browser.origin()).post("/api/tenants", tenant()).await.expect(201);
        // Reading needs no Origin: the browser keeps the answer from other pages.
        browser.get("/api/tenants").await.expect(200);
        // Nor can another page log a browser in.
        let login = json!({"email": ADMIN, "password": PASSWORD});
        fleet
            .nobody()
            .header("origin", "https://evil.example")
            .post("/api/login", login)
            .await
            .problem(403, "forbidden");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_an_unknown_user_look_the_same_and_are_throttled() {
    each_engine(async |fleet| {
        let nobody = fleet.nobody();
        let wrong = log_in(&nobody, "wrong password 1").await.problem(401, "unauthenticated");
        let login = json!({"email": "nobody@example.com", "password": "wrong password 1"});
        let unknown = nobody.post("/api/login", login).await.problem(401, "unauthenticated");
        assert_eq!(wrong.detail, unknown.detail);
        let mut refused = None;
        for _ in 0..12 {
            let answer = log_in(&nobody, "wrong password 2").await;
            if answer.status == 429 {
                assert!(answer.header("retry-after").parse::<u32>().unwrap() >= 1);
                refused = Some(answer.problem(429, "too-many-requests"));
                break;
            }
            answer.problem(401, "unauthenticated");
        }
        assert!(refused.is_some(), "the attempts were never throttled");
        // While it lasts, the right password does not help either: it tells nothing.
        log_in(&nobody, PASSWORD).await.problem(429, "too-many-requests");
        // Another user is not concerned.
        let login = json!({"email": "other@example.com", "password": "x"});
        nobody.post("/api/login", login).await.problem(401, "unauthenticated");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_side_by_side_do_not_outrun_the_throttle() {
    each_engine(async |fleet| {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..40 {
            let nobody = fleet.nobody();
            tasks.spawn(async move { log_in(&nobody, "wrong password").await.status });
        }
        let statuses = tasks.join_all().await;
        let tried = statuses.iter().filter(|status| **status == 401).count();
        assert!((1..=8).contains(&tried), "{tried} of 40 were tried: {statuses:?}");
        assert!(statuses.iter().all(|status| matches!(status, 401 | 429 | 503)), "{statuses:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_link_works_once_however_many_try_at_once() {
    each_engine(async |fleet| {
        let user =
            json!({"metadata": {"name": "ann"}, "spec": {"email": "Ann@Example.com", "role": "operator"}});
        let user: Value = fleet.admin.post("/api/users", user).await.expect(201).json();
        assert_eq!(user["spec"]["email"], "ann@example.com");
        let link = user["status"]["loginLink"].as_str().unwrap().to_owned();
        assert!(link.starts_with(&format!("{}/login#link=", fleet.running.api_url)), "{link}");
        let link = link.split_once("#link=").unwrap().1.to_owned();
        // A link without a password can't be used by a user without one, and stays good.
        let nobody = fleet.nobody();
        nobody.post("/api/login/link", json!({"link": link})).await.problem(400, "invalid");
        let short = json!({"link": link, "password": "short"});
        nobody.post("/api/login/link", short).await.problem(400, "invalid");
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..10 {
            let (nobody, link) = (fleet.nobody(), link.clone());
            tasks.spawn(async move {
                let body = json!({"link": link, "password": format!("a long password {n}")});
                nobody.post("/api/login/link", body).await.status
            });
        }
        let statuses = tasks.join_all().await;
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
        assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 9, "{statuses:?}");
        // The link is never shown again.
        let shown: Value = fleet.admin.get("/api/users/ann").await.expect(200).json();
        assert_eq!(shown["status"].get("loginLink"), None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_what_he_does_not_have() {
    each_engine(async |fleet| {
        let tenant_admin = fleet.role("tenant-admin").await;
        let user = |name: &str, role: &str| {
            json!({"metadata": {"name": name}, "spec": {"email": format!("{name}@example.com"), "role": role}})
        };
        tenant_admin.post("/api/users", user("root", "platform-admin")).await.problem(403, "forbidden");
        tenant_admin.post("/api/users", user("op", "operator")).await.expect(201);
        tenant_admin.put("/api/users/op", user("op", "platform-admin")).await.problem(403, "forbidden");
        let token = json!({"metadata": {"name": "t"}, "spec": {"role": "platform-admin"}});
        tenant_admin.post("/api/tokens", token).await.problem(403, "forbidden");
        // Nor does he take from somebody above him.
        tenant_admin.put("/api/users/admin", json!({"metadata": {"name": "admin"}, "spec": {"email": ADMIN, "role": "viewer"}}))
            .await
            .problem(403, "forbidden");
        tenant_admin.delete("/api/users/admin").await.problem(403, "forbidden");
        fleet.role("operator").await.get("/api/users").await.problem(403, "forbidden");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_admin_stays() {
    each_engine(async |fleet| {
        let problem = fleet.admin.delete("/api/users/admin").await.problem(409, "conflict");
        assert!(problem.detail.contains("last platform admin"), "{}", problem.detail);
        let second = json!({"metadata": {"name": "second"}, "spec": {"email": "second@example.com", "role": "platform-admin"}});
        fleet.admin.post("/api/users", second).await.expect(201);
        fleet.admin.delete("/api/users/admin").await.expect(204);
        // With the role goes the session.
        fleet.admin.get("/api/me").await.problem(401, "unauthenticated");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_of_another_tenant_gets_a_role_but_no_new_password() {
    each_engine(async |fleet| {
        fleet.tenant("other").await;
        let other_admin = fleet.role_in("other", "tenant-admin").await;
        let guest = json!({"metadata": {"name": "guest"}, "spec": {"email": ADMIN, "role": "viewer"}});
        let guest: Value = other_admin.post("/api/users", guest).await.expect(201).json();
        assert_eq!(
            guest["status"].get("loginLink"),
            None,
            "a link would set the password of somebody else's admin"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_token_works_until_it_is_revoked_and_only_in_its_tenant() {
    each_engine(async |fleet| {
        fleet.tenant("other").await;
        let token = json!({"metadata": {"name": "ci"}, "spec": {"role": "operator"}});
        let token: Value = fleet.admin.post("/api/tokens", token).await.expect(201).json();
        let ci =
            fleet.nobody().with(Credentials::Bearer(token["status"]["token"].as_str().unwrap().to_owned()));
        let me: Value = ci.get("/api/me").await.expect(200).json();
        assert_eq!((me["email"].as_str(), me["role"].as_str()), (Some("ci"), Some("operator")));
        ci.in_tenant("other").get("/api/me").await.problem(404, "not-found");
        ci.in_tenant("nowhere").get("/api/me").await.problem(404, "not-found");
        let listed: Value = fleet.admin.get("/api/tokens").await.expect(200).json();
        assert_eq!(listed["items"][0]["status"].get("token"), None);
        fleet.admin.delete("/api/tokens/ci").await.expect(204);
        ci.get("/api/me").await.problem(401, "unauthenticated");
        // The name is free again.
        let token = json!({"metadata": {"name": "ci"}, "spec": {"role": "viewer"}});
        fleet.admin.post("/api/tokens", token).await.expect(201);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_admin_acts_in_every_tenant_and_a_tenant_admin_in_his_own() {
    each_engine(async |fleet| {
        fleet.tenant("other").await;
        let me: Value = fleet.admin.in_tenant("other").get("/api/me").await.expect(200).json();
        assert_eq!(me["tenant"], "other");
        assert_eq!(me["tenants"], json!(["default", "other"]));
        fleet.admin.in_tenant("nowhere").get("/api/me").await.problem(404, "not-found");
        // A user of both tenants, with one session.
        for (tenant, role) in [("default", "viewer"), ("other", "operator")] {
            let user = json!({"metadata": {"name": "both"}, "spec": {"email": "both@example.com", "role": role}});
            let user: Value = fleet.admin.in_tenant(tenant).post("/api/users", user).await.expect(201).json();
            if let Some(link) = user["status"]["loginLink"].as_str() {
                let link = link.split_once("#link=").unwrap().1;
                let body = json!({"link": link, "password": "a long password", "bearer": true});
                fleet.nobody().post("/api/login/link", body).await.expect(200);
            }
        }
        let login = json!({"email": "both@example.com", "password": "a long password", "tenant": "other", "bearer": true});
        let me: Value = fleet.nobody().post("/api/login", login).await.expect(200).json();
        assert_eq!((me["tenant"].as_str(), me["role"].as_str()), (Some("other"), Some("operator")));
        let both = fleet.nobody().with(Credentials::Bearer(me["token"].as_str().unwrap().to_owned()));
        let me: Value = both.in_tenant("default").get("/api/me").await.expect(200).json();
        assert_eq!(me["role"], "viewer");
        let login = json!({"email": "both@example.com", "password": "a long password", "tenant": "nowhere"});
        fleet.nobody().post("/api/login", login).await.problem(401, "unauthenticated");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_sent_twice_with_one_key_takes_effect_once() {
    each_engine(async |fleet| {
        let keyed = fleet.admin.header("idempotency-key", "k-1");
        let token = |name: &str| json!({"metadata": {"name": name}, "spec": {"role": "viewer"}});
        let first = keyed.post("/api/tokens", token("once")).await.expect(201);
        let second = keyed.post("/api/tokens", token("once")).await.expect(201);
        assert_eq!(first.body, second.body, "the secret is the same too");
        assert_eq!(second.header("idempotency-replayed"), "true");
        keyed.post("/api/tokens", token("twice")).await.problem(409, "conflict");
        // A key belongs to who sent it.
        let other = fleet.role("tenant-admin").await.header("idempotency-key", "k-1");
        other.post("/api/tokens", token("once")).await.problem(409, "conflict");
        // A refusal is an answer too.
        let refused = fleet.admin.header("idempotency-key", "k-2");
        let (one, two) = (
            refused.post("/api/tokens", token("once")).await.problem(409, "conflict"),
            refused.post("/api/tokens", token("once")).await.problem(409, "conflict"),
        );
        assert_eq!(one.detail, two.detail);
        // Many at once: one takes effect.
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let keyed = fleet.admin.header("idempotency-key", "k-3");
            tasks.spawn(async move { keyed.post("/api/tokens", token("many")).await.status });
        }
        let statuses = tasks.join_all().await;
        assert!(statuses.contains(&201), "{statuses:?}");
        assert!(statuses.iter().all(|status| matches!(status, 201 | 409)), "{statuses:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_an_old_version_is_refused() {
    each_engine(async |fleet| {
        let user = |role: &str| json!({"metadata": {"name": "bob"}, "spec": {"email": "bob@example.com", "role": role}});
        fleet.admin.post("/api/users", user("viewer")).await.expect(201);
        let etag = fleet.admin.get("/api/users/bob").await.expect(200).header("etag").to_owned();
        assert_eq!(etag, "\"1\"");
        fleet.admin.header("if-match", &etag).put("/api/users/bob", user("operator")).await.expect(200);
        fleet.admin.header("if-match", &etag).put("/api/users/bob", user("finops")).await.problem(412, "version-mismatch");
        fleet.admin.header("if-match", "garbage").send(Method::DELETE, "/api/users/bob", None).await.problem(400, "invalid");
    })
    .await;
}
