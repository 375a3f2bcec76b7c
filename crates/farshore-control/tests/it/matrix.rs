//! Route × role × tenant, enumerated from the route table: a route without a row here fails.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::Method;
use farshore_control::route::{Access, Route};
use farshore_control::server::{api_routes, device_port_routes};
use farshore_domain::access::{Permission, ROLES, RoleName};
use farshore_domain::digest::Digest;
use serde_json::{Value, json};

use crate::harness::{Answer, Client, Credentials, Fleet, TestDevice, each_engine, secret_of};
use crate::objects::Publisher;

/// A body with this name in it.
type MakeBody = Box<dyn Fn(&str) -> Value + Send + Sync>;

/// A request that a row should answer; `foreign` is the same for another tenant's object.
pub(crate) struct Example {
    pub(crate) path: String,
    pub(crate) foreign: Option<String>,
    /// Made anew for each call, because names are taken after the first.
    pub(crate) body: Option<MakeBody>,
    raw: Option<&'static [u8]>,
    /// What somebody who may gets the first time.
    ok: &'static [u16],
}

/// One of each object in a tenant.
struct Things {
    user: String,
    token: String,
    claim_token: String,
    gateway_key: String,
    rule: String,
    devices: [String; 3],
    pending: [String; 2],
    digest: Digest,
    upload: String,
    /// The first is used by rollouts; the second may be deleted.
    releases: [String; 2],
    next_release: Value,
    next_keys: Value,
    objects: BTreeMap<&'static str, String>,
    rollouts: Vec<String>,
    incident: String,
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap().to_owned()
}

impl Things {
    async fn new(fleet: &Fleet, tenant: &str) -> Self {
        let admin = fleet.admin.in_tenant(tenant);
        let create = async |path: &str, name: &str, spec: Value| {
            let body = json!({"metadata": {"name": name}, "spec": spec});
            uid(&admin.post(path, body).await.expect(201).json::<Value>())
        };
        let publisher = Publisher::new(fleet, tenant).await;
        let mut devices = Vec::new();
        let mut incident = uuid::Uuid::now_v7().to_string();
        for name in ["a", "b", "c"] {
            let device = fleet.device_in(tenant, name).await;
            if name == "a" {
                let (mut channel, _) = crate::wire::Channel::open(fleet, &device).await;
                let uid = uuid::Uuid::now_v7();
                let told = crate::incidents::incident(uid, 1, json!({}));
                crate::incidents::tell(&mut channel, 1, vec![told], Vec::new()).await;
                incident = uid.to_string();
            }
            devices.push(device.uid());
        }
        let document = format!("/api/devices/{}/documents/settings/main", devices[0]);
        admin.put(&document, json!({"tenant": tenant})).await.expect(200);
        let user = json!({"email": format!("{tenant}@example.com"), "role": "viewer"});
        let user = create("/api/users", "someone", user).await;
        let token = create("/api/tokens", "something", json!({"role": "viewer"})).await;
        let claim_token = create("/api/claim-tokens", "batch", json!({})).await;
        let gateway_key = create("/api/gateway-keys", "site", json!({"device": "site"})).await;
        let first = publisher.release("web", "1.0.0").await;
        publisher.release("web", "1.1.0").await;
        let unused = publisher.release("web", "1.2.0").await;
        let mut objects = BTreeMap::new();
        for (path, spec) in specs().into_iter().chain(alert_specs()) {
            objects.insert(path, create(path, "thing", spec("thing")).await);
        }
        // Rollouts of different channels, so that none stands in another's way.
        let mut rollouts = Vec::new();
        for channel in ["one", "two", "three", "four", "five", "six"] {
            create("/api/channels", channel, json!({})).await;
            let spec = json!({"app": "web", "channel": channel, "release": "web@1.0.0"});
            rollouts.push(create("/api/rollouts?start=false", &format!("roll-{channel}"), spec).await);
        }
        let next = "what comes next";
        let upload =
            json!({"digest": Digest::of(next.as_bytes()).to_string(), "size": next.len(), "name": "x"});
        let upload: Value = admin.post("/api/artifacts", upload).await.expect(201).json();
        let manifest_digest = format!("web 1.0.0 of {tenant}");
        // Last, because it holds every later device.
        let rule = create("/api/claim-rules", "hold", json!({"order": 1, "action": "hold"})).await;
        let held = fleet.claim_token_in(tenant, json!({"uses": 2})).await;
        for name in ["p", "q"] {
            TestDevice::new(fleet).claim(&secret_of(&held), name).await.expect(202);
        }
        let waiting: Value = admin.get("/api/devices?lifecycle=pending").await.expect(200).json();
        let pending: Vec<String> = waiting["items"].as_array().unwrap().iter().map(uid).collect();
        Self {
            user,
            token,
            claim_token,
            gateway_key,
            rule,
            devices: devices.try_into().unwrap(),
            pending: pending.try_into().unwrap(),
            digest: Digest::of(manifest_digest.as_bytes()),
            upload: upload["upload"].as_str().unwrap().to_owned(),
            releases: [uid(&first), uid(&unused)],
            next_release: publisher.signed_release("web", "2.0.0").await,
            next_keys: publisher.key_set(2).await,
            objects,
            rollouts,
            incident,
        }
    }

    /// Everything that another tenant must never see.
    fn secrets(&self) -> Vec<String> {
        let mut all: Vec<String> = self.objects.values().chain(&self.rollouts).cloned().collect();
        all.extend(
            [&self.user, &self.token, &self.claim_token, &self.gateway_key, &self.rule, &self.upload]
                .map(Clone::clone),
        );
        all.extend(self.devices.iter().chain(&self.pending).chain(&self.releases).cloned());
        all.extend([self.digest.to_string(), self.incident.clone()]);
        all
    }
}

type Spec = fn(&str) -> Value;

/// The kinds that are only a specification, in an order in which they can be made.
fn specs() -> [(&'static str, Spec); 6] {
    [
        ("/api/apps", |_| json!({"description": "x"})),
        ("/api/placements", |_| json!({"app": "web"})),
        ("/api/channels", |_| json!({"description": "x"})),
        ("/api/pins", |_| json!({"device": "a", "app": "web", "version": "1.0.0"})),
        ("/api/configs", |_| json!({"app": "web", "values": {"COLOR": "red"}})),
        ("/api/policies", |_| json!({"rules": {"restart": {"maxRestarts": 3}}})),
    ]
}

/// The same for alerts and sinks.
fn alert_specs() -> [(&'static str, Spec); 4] {
    [
        ("/api/alert-rules", |_| json!({"type": "incident", "severity": "info", "threshold": 5})),
        (
            "/api/silences",
            |_| json!({"matchers": [{"name": "app", "value": "web"}], "endsAt": crate::wire::now().0 + 600_000}),
        ),
        (
            "/api/alert-routes",
            |_| json!({"type": "webhook", "enabled": false, "webhook": {"url": "https://example.com/hook"}}),
        ),
        (
            "/api/sinks",
            |_| json!({"type": "webhook", "enabled": false, "webhook": {"url": "https://example.com/hook"}}),
        ),
    ]
}

fn named(spec: impl Fn(&str) -> Value + Send + Sync + 'static) -> Option<MakeBody> {
    Some(Box::new(move |name| json!({"metadata": {"name": name}, "spec": spec(name)})))
}

fn fixed(body: Value) -> Option<MakeBody> {
    Some(Box::new(move |_| body.clone()))
}

/// One example for each row of the API port, by `METHOD path`.
fn examples(own: &Things, other: &Things) -> BTreeMap<String, Example> {
    let mut all = BTreeMap::new();
    let mut add = |key: &str, ids: Option<(&str, &str)>, body, ok: &'static [u16]| {
        let (_, path) = key.split_once(' ').unwrap();
        let fill = |id: &str| {
            path.replace("{id}", id)
                .replace("{digest}", id)
                .replace("/~", ":")
                .replace("{collection}", "settings")
                .replace("{name}", "main")
        };
        let example = Example {
            path: fill(ids.map_or("", |(own, _)| own)),
            foreign: ids.map(|(_, foreign)| fill(foreign)),
            body,
            raw: None,
            ok,
        };
        all.insert(key.to_owned(), example);
    };
    for path in
        ["/healthz", "/readyz", "/metrics", "/api/openapi.json", "/api/me", "/api/roles", "/api/tenants"]
            .into_iter()
            .chain(["/api/users", "/api/tokens", "/api/claim-tokens", "/api/claim-rules", "/api/devices"])
            .chain([
                "/api/devices/summary",
                "/api/events",
                "/api/events/stream",
                "/api/artifacts",
                "/api/releases",
            ])
            .chain(["/api/trusted-keys", "/api/rollouts", "/api/active-ops"])
    {
        add(&format!("GET {path}"), None, None, &[200]);
    }
    for path in ["/api/sync", "/api/ingest-keys", "/api/series", "/api/series/latest"] {
        add(&format!("GET {path}"), None, None, &[200]);
    }
    add("POST /api/ingest-keys/~rotate", None, None, &[201]);
    add("GET /install/{file}", None, None, &[404]);
    add("POST /api/login", None, fixed(json!({"email": "x@example.com", "password": "x"})), &[401, 429]);
    add("POST /api/login/link", None, fixed(json!({"link": "x"})), &[401, 429]);
    add("POST /api/logout", None, fixed(json!({})), &[204]);
    add("POST /api/tenants", None, named(|_| json!({})), &[201]);

    let email = |name: &str| json!({"email": format!("{name}@example.com"), "role": "viewer"});
    let user = Some((own.user.as_str(), other.user.as_str()));
    add("POST /api/users", None, named(email), &[201]);
    add("GET /api/users/{id}", user, None, &[200]);
    let same =
        json!({"metadata": {"name": "someone"}, "spec": {"email": "default@example.com", "role": "finops"}});
    add("PUT /api/users/{id}", user, fixed(same), &[200]);
    add("DELETE /api/users/{id}", user, None, &[204]);
    add("POST /api/tokens", None, named(|_| json!({"role": "viewer"})), &[201]);
    add("DELETE /api/tokens/{id}", Some((&own.token, &other.token)), None, &[204]);

    let token = Some((own.claim_token.as_str(), other.claim_token.as_str()));
    add("POST /api/claim-tokens", None, named(|_| json!({})), &[201]);
    add("GET /api/claim-tokens/{id}", token, None, &[200]);
    add("DELETE /api/claim-tokens/{id}", token, None, &[204]);
    let key = Some((own.gateway_key.as_str(), other.gateway_key.as_str()));
    add("GET /api/gateway-keys", None, None, &[200]);
    add("POST /api/gateway-keys", None, named(|name| json!({"device": name})), &[201]);
    add("DELETE /api/gateway-keys/{id}", key, None, &[204]);
    let rule = Some((own.rule.as_str(), other.rule.as_str()));
    add("POST /api/claim-rules", None, named(|_| json!({"order": 5, "action": "auto"})), &[201]);
    add("GET /api/claim-rules/{id}", rule, None, &[200]);
    let same = json!({"metadata": {"name": "hold"}, "spec": {"order": 2, "action": "hold"}});
    add("PUT /api/claim-rules/{id}", rule, fixed(same), &[200]);
    add("DELETE /api/claim-rules/{id}", rule, None, &[204]);

    let [device, second, third] =
        [0, 1, 2].map(|n| Some((own.devices[n].as_str(), other.devices[n].as_str())));
    let [approved, rejected] = [0, 1].map(|n| Some((own.pending[n].as_str(), other.pending[n].as_str())));
    let comment = || fixed(json!({"comment": "because"}));
    add("GET /api/devices/{id}", device, None, &[200]);
    add("GET /api/devices/{id}/why", device, None, &[200]);
    add("GET /api/devices/{id}/policy", device, None, &[200]);
    add("GET /api/devices/{id}/connectivity", device, None, &[200]);
    add("GET /api/devices/{id}/metrics", device, None, &[200]);
    add("GET /api/devices/{id}/metrics/stream", device, None, &[200]);
    let same = json!({"metadata": {"name": "a"}, "spec": {"channel": "prod", "location": "Riga"}});
    add("PUT /api/devices/{id}", device, fixed(same), &[200]);
    add("POST /api/devices/{id}/~approve", approved, comment(), &[200]);
    add("POST /api/devices/{id}/~reject", rejected, comment(), &[200]);
    add("POST /api/devices/{id}/~cordon", device, comment(), &[200]);
    add("POST /api/devices/{id}/~uncordon", device, comment(), &[200]);
    for verb in ["resume", "restart-app"] {
        let app = fixed(json!({"app": "web"}));
        add(&format!("POST /api/devices/{{id}}/~{verb}"), device, app, &[200, 202, 400, 404, 409]);
    }
    // No gateway of it has sent anything.
    add("POST /api/devices/{id}/~force-sync", device, fixed(json!({})), &[409]);
    add("POST /api/devices/{id}/~revoke", second, comment(), &[200]);
    add("DELETE /api/devices/{id}", third, None, &[200, 204]);

    let (digest, foreign) = (own.digest.to_string(), other.digest.to_string());
    let upload = Some((own.upload.as_str(), other.upload.as_str()));
    let announced = json!({"digest": Digest::of(b"announced").to_string(), "size": 9, "name": "x"});
    add("POST /api/artifacts", None, fixed(announced), &[201]);
    add("GET /api/artifacts/{digest}", Some((&digest, &foreign)), None, &[200]);
    add("GET /api/artifacts/uploads/{id}", upload, None, &[200]);
    add("PATCH /api/artifacts/uploads/{id}", upload, None, &[200]);

    let release = Some((own.releases[0].as_str(), other.releases[0].as_str()));
    let unused = Some((own.releases[1].as_str(), other.releases[1].as_str()));
    add("POST /api/trusted-keys", None, fixed(own.next_keys.clone()), &[201]);
    add("POST /api/releases", None, fixed(own.next_release.clone()), &[201]);
    add("GET /api/releases/{id}", release, None, &[200]);
    add("DELETE /api/releases/{id}", unused, None, &[204]);
    for (path, spec) in specs() {
        let ids = Some((own.objects[path].as_str(), other.objects[path].as_str()));
        add(&format!("GET {path}"), None, None, &[200]);
        add(&format!("POST {path}"), None, named(spec), &[201]);
        add(&format!("GET {path}/{{id}}"), ids, None, &[200]);
        let same = json!({"metadata": {"name": "thing"}, "spec": spec("thing")});
        add(&format!("PUT {path}/{{id}}"), ids, fixed(same), &[200]);
        add(&format!("DELETE {path}/{{id}}"), ids, None, &[204]);
    }

    let placement = json!({"metadata": {"name": "thing"}, "spec": {"app": "web"}});
    add("POST /api/assignments/~preview", None, fixed(json!({"placements": [placement]})), &[200]);

    let policy = Some((own.objects["/api/policies"].as_str(), other.objects["/api/policies"].as_str()));
    add("GET /api/policies/{id}/versions", policy, None, &[200]);
    let calmer = json!({"metadata": {"name": "thing"}, "spec": {"rules": {"restart": {"maxRestarts": 9}}}});
    add("POST /api/policies/~preview", None, fixed(calmer), &[200]);

    let rollout = |n: usize| Some((own.rollouts[n].as_str(), other.rollouts[n].as_str()));
    let spec = |_: &str| json!({"app": "web", "channel": "prod", "release": "web@1.0.0"});
    add("POST /api/rollouts", None, named(spec), &[201]);
    add("GET /api/rollouts/{id}", rollout(0), None, &[200]);
    for part in ["devices", "plan", "why"] {
        add(&format!("GET /api/rollouts/{{id}}/{part}"), rollout(0), None, &[200]);
    }
    let next = |_: &str| json!({"app": "web", "channel": "five", "release": "web@1.1.0"});
    add("PUT /api/rollouts/{id}", rollout(4), named(next), &[201]);
    add("POST /api/rollouts/{id}/~simulate", rollout(2), fixed(json!({"runs": 1})), &[200]);
    let verbs =
        ["approve", "reject", "skip-wave", "retry-failed", "rollback", "release-hold"].map(|verb| (verb, 5));
    let verbs = [("start", 0), ("pause", 1), ("resume", 2), ("abort", 3)].into_iter().chain(verbs);
    for (verb, n) in verbs {
        add(&format!("POST /api/rollouts/{{id}}/~{verb}"), rollout(n), comment(), &[200, 409]);
    }
    for path in ["/api/incidents", "/api/alerts", "/api/alert-rules", "/api/silences", "/api/alert-routes"]
        .into_iter()
        .chain(["/api/alert-deliveries", "/api/sinks"])
    {
        add(&format!("GET {path}"), None, None, &[200]);
    }
    let incident = Some((own.incident.as_str(), other.incident.as_str()));
    add("GET /api/incidents/{id}", incident, None, &[200]);
    add("GET /api/incidents/{id}/evidence", incident, None, &[200]);
    add("POST /api/incidents/{id}/~acknowledge", incident, comment(), &[200]);
    add("POST /api/incidents/{id}/~resolve", incident, comment(), &[200]);
    add("GET /api/rollouts/{id}/incidents", rollout(0), None, &[200]);
    let nowhere = Some(("00000000-0000-7000-8000-000000000001", "00000000-0000-7000-8000-000000000002"));
    add("GET /api/alerts/{id}", nowhere, None, &[404]);
    add("GET /api/operations", None, None, &[200]);
    add("GET /api/operations/{id}", nowhere, None, &[404]);
    add("GET /api/operations/{id}/output", nowhere, None, &[404]);
    add("POST /api/operations/{id}/~cancel", nowhere, fixed(json!({"reason": "because"})), &[404]);
    for verb in ["drain", "inventory", "reboot"] {
        add(&format!("POST /api/devices/{{id}}/~{verb}"), device, fixed(json!({})), &[409]);
    }
    add("POST /api/devices/{id}/~diagnostics", device, fixed(json!({})), &[202]);
    add("POST /api/devices/{id}/~exec", device, fixed(json!({"arguments": {"runbook": "flush"}})), &[409]);
    add("POST /api/devices/{id}/~rollback", device, fixed(json!({"app": "web"})), &[409]);
    add("POST /api/devices/{id}/~logs", device, fixed(json!({"app": "web"})), &[400]);
    let look = json!({"verb": "diagnostics", "selector": "", "dryRun": true});
    add("POST /api/devices/~operate", None, fixed(look), &[200]);
    add("POST /api/alerts/{id}/~acknowledge", nowhere, comment(), &[404]);
    add("POST /api/alert-deliveries/{id}/~retry", nowhere, None, &[404]);
    add("GET /api/document-collections", None, None, &[200]);
    let rules = json!({"rules": [{"strategy": "cloud-wins"}]});
    add("PUT /api/document-collections/{name}", None, fixed(rules), &[200]);
    add("DELETE /api/document-collections/{name}", None, None, &[204]);
    add("GET /api/document-conflicts", None, None, &[200]);
    add("GET /api/document-conflicts/{id}", nowhere, None, &[404]);
    for verb in ["resolve", "restore"] {
        let choice = fixed(json!({"choose": "edge"}));
        add(&format!("POST /api/document-conflicts/{{id}}/~{verb}"), nowhere, choice, &[404]);
    }
    add("GET /api/devices/{id}/documents", device, None, &[200]);
    add("GET /api/devices/{id}/pipelines", device, None, &[200]);
    add("GET /api/devices/{id}/twin", device, None, &[200]);
    add("PATCH /api/devices/{id}/twin", device, fixed(json!({"a": 1})), &[200]);
    let one = "/api/devices/{id}/documents/{collection}/{name}";
    add(&format!("GET {one}"), device, None, &[200]);
    add(&format!("GET {one}/history"), device, None, &[200]);
    add(&format!("PUT {one}"), device, fixed(json!({"a": 1})), &[200]);
    add(&format!("PATCH {one}"), device, fixed(json!({"a": 2})), &[200]);
    add(&format!("DELETE {one}"), device, None, &[204]);
    for (path, spec) in alert_specs() {
        let ids = Some((own.objects[path].as_str(), other.objects[path].as_str()));
        add(&format!("POST {path}"), None, named(spec), &[201]);
        add(&format!("GET {path}/{{id}}"), ids, None, &[200]);
        let same = json!({"metadata": {"name": "thing"}, "spec": spec("thing")});
        add(&format!("PUT {path}/{{id}}"), ids, fixed(same), &[200]);
        add(&format!("DELETE {path}/{{id}}"), ids, None, &[204]);
    }
    if let Some(patch) = all.get_mut("PATCH /api/artifacts/uploads/{id}") {
        patch.raw = Some(b"what comes next");
    }
    all
}

fn key(route: &Route) -> String {
    format!("{} {}", route.method, route.path)
}

/// What ends something that another row still needs comes last.
fn is_an_end(route: &Route) -> bool {
    route.method == Method::DELETE || route.path.ends_with("/~revoke") || route.path.ends_with("/logout")
}

/// Only the head of the answer: streams never end.
async fn status(
    client: &Client,
    method: &Method,
    example: &Example,
    path: &str,
    name: &str,
) -> (u16, String) {
    let mut request = client.request(method.clone(), path);
    if let Some(body) = &example.body {
        request = request.json(&body(name));
    }
    if let Some(raw) = example.raw {
        request = request.header("upload-offset", "0").body(raw);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = if status >= 400 { response.text().await.unwrap() } else { String::new() };
    (status, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_lets_in_the_roles_that_its_row_names_and_shows_no_other_tenants_objects() {
    each_engine(async |fleet| {
        fleet.tenant("other").await;
        let (own, other) = (Things::new(fleet, "default").await, Things::new(fleet, "other").await);
        let examples = examples(&own, &other);
        let mut routes = api_routes();
        let known: BTreeSet<String> = examples.keys().cloned().collect();
        let wanted: BTreeSet<String> = routes.iter().map(key).collect();
        assert_eq!(
            wanted.symmetric_difference(&known).collect::<Vec<_>>(),
            Vec::<&String>::new(),
            "each route needs an example in this matrix, and each example a route"
        );
        let mut roles = BTreeMap::new();
        for row in ROLES {
            roles.insert(row.name, fleet.role(row.name).await);
        }
        let revoked = revoked(fleet).await;
        routes.sort_by_key(is_an_end);
        let mut failures = Vec::new();
        let mut calls = 0;
        for route in &routes {
            let example = &examples[&key(route)];
            let mut check = |who: &str, (status, text): (u16, String), right: bool| {
                if !right || status >= 500 {
                    failures.push(format!("{} as {who}: {status} {text}", key(route)));
                }
            };
            let mut ask = async |client: &Client, path: &str| {
                calls += 1;
                status(client, &route.method, example, path, &format!("n{calls}")).await
            };
            if route.access != Access::Public {
                for (who, client) in [("nobody", &fleet.nobody()), ("a revoked token", &revoked)] {
                    let answer = ask(client, &example.path).await;
                    let right = answer.0 == 401;
                    check(who, answer, right);
                }
            }
            let may = |role: &str| match route.access {
                Access::Needs(permission) => role.parse::<RoleName>().unwrap().allows(permission),
                _ => true,
            };
            for (role, client) in roles.iter().filter(|(role, _)| !may(role)) {
                let answer = ask(client, &example.path).await;
                let right = answer.0 == 403;
                check(role, answer, right);
            }
            let allowed: Vec<_> = roles.iter().filter(|(role, _)| may(role)).collect();
            if let Some(foreign) = &example.foreign {
                for (role, client) in &allowed {
                    let answer = ask(client, foreign).await;
                    let right = answer.0 == 404;
                    check(&format!("{role} for another tenant's object"), answer, right);
                }
            }
            for (n, (role, client)) in allowed.iter().enumerate() {
                let answer = ask(client, &example.path).await;
                let public = route.access == Access::Public;
                let right = if n == 0 {
                    example.ok.contains(&answer.0)
                } else {
                    public || !matches!(answer.0, 401 | 403)
                };
                check(role, answer, right);
            }
        }
        assert!(failures.is_empty(), "{} of {calls} calls:\n{}", failures.len(), failures.join("\n"));
        eprintln!("{calls} calls on {}", fleet.engine);
    })
    .await;
}

async fn revoked(fleet: &Fleet) -> Client {
    let token = json!({"metadata": {"name": "gone"}, "spec": {"role": "platform-admin"}});
    let token: Value = fleet.admin.post("/api/tokens", token).await.expect(201).json();
    fleet.admin.delete("/api/tokens/gone").await.expect(204);
    fleet.nobody().with(Credentials::Bearer(token["status"]["token"].as_str().unwrap().to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_list_holds_anything_of_another_tenant() {
    each_engine(async |fleet| {
        fleet.tenant("other").await;
        Things::new(fleet, "default").await;
        let other = Things::new(fleet, "other").await;
        let secrets = other.secrets();
        let admin = fleet.role("tenant-admin").await;
        for route in api_routes() {
            let is_list = route.method == Method::GET && !route.path.contains('{') && !route.path.ends_with("/stream");
            if !is_list || !matches!(route.access, Access::Needs(permission) if permission != Permission::PlatformWrite) {
                continue;
            }
            let text = admin.get(route.path).await.expect(200).text();
            for secret in &secrets {
                assert!(!text.contains(secret), "{} shows {secret}: {text}", route.path);
            }
        }
        // And they are there, for who may see them.
        let there = fleet.admin.in_tenant("other").get("/api/devices").await.expect(200).text();
        assert!(there.contains(&other.devices[0]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_device_port_knows_devices_and_nobody_else() {
    each_engine(async |fleet| {
        fleet.tenant("other").await;
        let (own, other) = (Publisher::new(fleet, "default").await, Publisher::new(fleet, "other").await);
        let (ours, theirs) = (own.artifact(b"ours").await, other.artifact(b"theirs").await);
        let device = fleet.device("kiosk").await;
        let gone = fleet.device("gone").await;
        let bare = TestDevice::new(fleet);
        fleet.admin.post(&format!("/api/devices/{}:revoke", gone.uid()), json!({})).await.expect(200);
        let Credentials::Bearer(admin) = &fleet.admin.credentials else { panic!("the admin has a token") };
        for route in device_port_routes() {
            let path = route.path.replace("{digest}", &ours.to_string());
            let ask = |device: &TestDevice| device.request(route.method.clone(), &path).json(&json!({}));
            match route.access {
                Access::Public => assert_eq!(route.path, "/api/devices/claim"),
                Access::Device | Access::Gateway | Access::RenewingDevice => {
                    Answer::of(ask(&bare)).await.problem(401, "unauthenticated");
                    // A person's token is no certificate.
                    Answer::of(ask(&bare).bearer_auth(admin)).await.problem(401, "unauthenticated");
                    if route.access != Access::RenewingDevice {
                        Answer::of(ask(&gone)).await.problem(403, "forbidden");
                    }
                }
                Access::Authenticated | Access::Needs(_) => panic!("{} is no row for a device", route.path),
            }
        }
        gone.renew(&gone.key).await.problem(403, "forbidden");
        let bytes = device.get(&format!("/api/artifacts/{ours}")).await.expect(200).body;
        assert_eq!(bytes.as_ref(), b"ours");
        device.get(&format!("/api/artifacts/{theirs}")).await.problem(404, "not-found");
        // What the API port has is not on the device port, and the other way round.
        device.get("/api/devices").await.problem(404, "not-found");
        fleet.admin.get("/api/channel").await.problem(404, "not-found");
        fleet.admin.post("/api/devices/renew", json!({})).await.problem(405, "method-not-allowed");
    })
    .await;
}

#[test]
fn every_route_is_in_the_openapi_document_and_nothing_else_is() {
    let spelled = |route: &Route| {
        let path = route.path.replace("/~", ":");
        format!("{} {path}", route.method)
    };
    let routes: BTreeSet<String> = api_routes().iter().chain(&device_port_routes()).map(spelled).collect();
    let document = serde_json::to_value(farshore_control::openapi::openapi()).unwrap();
    let mut described = BTreeSet::new();
    let mut operations = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if let "get" | "put" | "post" | "delete" | "patch" = method.as_str() {
                described.insert(format!("{} {path}", method.to_uppercase()));
                let id = operation["operationId"].as_str().unwrap_or_default();
                assert!(operations.insert(id.to_owned()), "two operations are called {id:?}");
            }
        }
    }
    let missing: Vec<_> = routes.difference(&described).collect();
    let extra: Vec<_> = described.difference(&routes).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "not described: {missing:?}; described, but no route: {extra:?}"
    );
}
