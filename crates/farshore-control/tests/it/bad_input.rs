//! Bad input: whatever is sent to any route, the answer is a problem that says what is wrong, and never a 500.

use axum::http::Method;
use farshore_control::route::{Access, Route};
use farshore_control::server::{api_routes, device_port_routes};
use serde_json::{Value, json};

use crate::harness::{Answer, Fleet, TestDevice, each_engine};

/// Ids that nobody has; each in a path segment of its own.
const GARBAGE_IDS: &[&str] = &[
    "nobody",
    "00000000-0000-0000-0000-000000000000",
    "%00",
    "%ff%fe",
    "..%2f..%2fetc%2fpasswd",
    "%F0%9F%A6%80",
    "'%20OR%201=1--",
    "sha256:0000000000000000000000000000000000000000000000000000000000000000",
    "%7Bid%7D",
];

fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let large = format!("{{\"metadata\": {{\"name\": \"{}\"}}}}", "a".repeat(2 * 1024 * 1024));
    vec![
        ("nothing", Vec::new()),
        ("no JSON", b"{\"metadata\": ".to_vec()),
        ("two values", b"{} {}".to_vec()),
        ("no UTF-8", b"{\"\xff\xfe\": 1}".to_vec()),
        ("another type", b"[]".to_vec()),
        ("a number", b"7".to_vec()),
        ("null", b"null".to_vec()),
        ("an unknown field", b"{\"colour\": \"red\"}".to_vec()),
        (
            "wrong types",
            br#"{"metadata": {"name": 7}, "spec": [], "comment": {}, "email": [], "link": 1}"#.to_vec(),
        ),
        ("a bad name", br#"{"metadata": {"name": "../../etc"}, "spec": {}}"#.to_vec()),
        (
            "a NUL",
            br#"{"metadata": {"name": "a", "labels": {"a": "\u0000"}}, "spec": {}, "comment": "\u0000"}"#
                .to_vec(),
        ),
        (
            "a foreign kind",
            br#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {}}"#.to_vec(),
        ),
        ("depth", deep.into_bytes()),
        ("size", large.into_bytes()),
    ]
}

fn with_id(route: &Route, id: &str) -> String {
    route.path.replace("{id}", id).replace("{digest}", id).replace("/~", ":")
}

#[track_caller]
fn check(what: &str, answer: Answer, failures: &mut Vec<String>) {
    let problem: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let code = problem.as_ref().and_then(|problem| problem["code"].as_str());
    let is_problem = answer.header("content-type") == "application/problem+json"
        && code.is_some()
        && problem
            .as_ref()
            .is_some_and(|problem| problem["detail"].as_str().is_some_and(|text| !text.is_empty()));
    if !(400..500).contains(&answer.status) || !is_problem {
        let text: String = answer.text().chars().take(300).collect();
        failures.push(format!("{what}: {} {text}", answer.status));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_bodies_are_problems() {
    each_engine(async |fleet| {
        let device = fleet.device("kiosk").await;
        let mut failures = Vec::new();
        for (routes, on_device_port) in [(api_routes(), false), (device_port_routes(), true)] {
            for route in routes.iter().filter(|route| takes_json(route)) {
                let path = with_id(route, "nobody");
                for (what, body) in bodies() {
                    let text = format!("{} {path} with {what}", route.method);
                    let kind = "application/json";
                    let answer = if on_device_port {
                        let request = device
                            .request(route.method.clone(), &path)
                            .header("content-type", kind)
                            .body(body);
                        Answer::of(request).await
                    } else {
                        fleet.admin.send_raw(route.method.clone(), &path, kind, body).await
                    };
                    // An action's body may be left out in its parts, and then it is the device that is not there.
                    check(&text, answer, &mut failures);
                }
                let path = with_id(route, "nobody");
                let answer =
                    send(fleet, &device, on_device_port, &route.method, &path, "text/plain", "x").await;
                check(&format!("{} {path} as text", route.method), answer, &mut failures);
            }
        }
        assert!(failures.is_empty(), "{}:\n{}", failures.len(), failures.join("\n"));
    })
    .await;
}

async fn send(
    fleet: &Fleet,
    device: &TestDevice,
    on_device_port: bool,
    method: &Method,
    path: &str,
    kind: &str,
    body: &'static str,
) -> Answer {
    if on_device_port {
        Answer::of(device.request(method.clone(), path).header("content-type", kind).body(body)).await
    } else {
        fleet.admin.send_raw(method.clone(), path, kind, body).await
    }
}

fn takes_json(route: &Route) -> bool {
    // These look at no body.
    let bare = ["/api/logout", "/api/ingest-keys/~rotate"];
    matches!(route.method, Method::POST | Method::PUT) && !bare.contains(&route.path)
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_ids_are_problems() {
    each_engine(async |fleet| {
        let device = fleet.device("kiosk").await;
        let mut failures = Vec::new();
        for route in api_routes().iter().filter(|route| route.path.contains('{')) {
            for id in GARBAGE_IDS {
                let path = with_id(route, id);
                let body = takes_json(route).then(|| json!({}));
                let answer = fleet.admin.send(route.method.clone(), &path, body).await;
                check(&format!("{} {path}", route.method), answer, &mut failures);
            }
        }
        for id in GARBAGE_IDS {
            let path = format!("/api/artifacts/{id}");
            check(&path, device.get(&path).await, &mut failures);
        }
        assert!(failures.is_empty(), "{}:\n{}", failures.len(), failures.join("\n"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_queries_and_headers_are_problems() {
    each_engine(async |fleet| {
        let mut failures = Vec::new();
        let is_list = |route: &&Route| {
            route.method == Method::GET
                && !route.path.contains('{')
                && !matches!(route.access, Access::Public | Access::Authenticated)
        };
        for route in api_routes().iter().filter(is_list) {
            for query in [
                "colour=red",
                "limit=0",
                "limit=1001",
                "limit=many",
                "limit=-1",
                "limit=1&limit=2",
                "q=%00&colour=%00",
            ] {
                if query.starts_with("limit") && !takes_limit(route.path) {
                    continue;
                }
                let path = format!("{}?{query}", route.path);
                let answer = fleet.admin.get(&path).await;
                check(&path, answer, &mut failures);
            }
        }
        for (name, value) in
            [("farshore-tenant", "No Such Name"), ("farshore-tenant", "nowhere"), ("authorization", "Bearer")]
        {
            let answer = fleet
                .nobody()
                .with(fleet.admin.credentials.clone())
                .header(name, value)
                .get("/api/devices")
                .await;
            if name == "farshore-tenant" {
                check(&format!("{name}: {value}"), answer, &mut failures);
            }
        }
        let long = "k".repeat(256);
        for key in ["", long.as_str()] {
            let body = json!({"metadata": {"name": "t"}, "spec": {"role": "viewer"}});
            let answer = fleet.admin.header("idempotency-key", key).post("/api/tokens", body).await;
            check("a bad Idempotency-Key", answer, &mut failures);
        }
        assert!(failures.is_empty(), "{}:\n{}", failures.len(), failures.join("\n"));
    })
    .await;
}

/// These show everything at once.
fn takes_limit(path: &str) -> bool {
    !matches!(path, "/api/trusted-keys" | "/api/active-ops" | "/api/devices/summary" | "/api/events/stream")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_field_is_named() {
    each_engine(async |fleet| {
        for (path, body, field) in [
            (
                "/api/users",
                json!({"metadata": {"name": "a"}, "spec": {"email": "x@y", "role": "king"}}),
                "spec.role",
            ),
            (
                "/api/users",
                json!({"metadata": {"name": "a"}, "spec": {"email": "nobody", "role": "viewer"}}),
                "spec.email",
            ),
            (
                "/api/users",
                json!({"metadata": {"name": "A B"}, "spec": {"email": "x@y", "role": "viewer"}}),
                "metadata.name",
            ),
            ("/api/claim-tokens", json!({"metadata": {"name": "a"}, "spec": {"uses": 0}}), "spec.uses"),
            ("/api/claim-tokens", json!({"metadata": {"name": "a"}, "spec": {"uses": "1"}}), "spec.uses"),
            ("/api/claim-tokens", json!({"metadata": {"name": "a"}, "spec": {"colour": 1}}), "spec.colour"),
            ("/api/claim-tokens", json!({"kind": "Token", "metadata": {"name": "a"}, "spec": {}}), "kind"),
            (
                "/api/tokens",
                json!({"metadata": {"name": "a"}, "spec": {"role": "viewer", "lifetimeSeconds": 0}}),
                "spec.lifetimeSeconds",
            ),
        ] {
            let problem = fleet.admin.post(path, body.clone()).await.problem(400, "invalid");
            let fields: Vec<_> = problem.errors.iter().map(|error| error.field.as_str()).collect();
            assert_eq!(fields, [field], "{path} {body}");
        }
    })
    .await;
}
