//! The table of kinds: a new kind is one entry.

use farshore_domain::time::UnixMs;
use serde_json::Value;

use super::{Column, Kind};
use crate::output::cell::{self, Cell, age, left, pairs, percent, state_at, text, text_at};

const fn column(title: &'static str, cell: fn(&Value, UnixMs) -> Cell) -> Column {
    Column { title, wide: false, cell }
}

const fn wide(title: &'static str, cell: fn(&Value, UnixMs) -> Cell) -> Column {
    Column { title, wide: true, cell }
}

const fn envelope(
    kind: &'static str,
    singular: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    path: &'static str,
    columns: &'static [Column],
) -> Kind {
    Kind {
        kind,
        singular,
        plural,
        short,
        path,
        name: "/metadata/name",
        items: "/items",
        single: true,
        columns,
    }
}

const NAME: Column = column("NAME", |o, _| text(o, "/metadata/name"));
const AGE: Column = column("AGE", |o, now| age(o, "/metadata/createdAt", now));
const LABELS: Column = wide("LABELS", |o, _| pairs(o, "/metadata/labels"));
const MANAGED: Column = wide("MANAGED BY", |o, _| text(o, "/metadata/managedBy"));

/// Every kind. The order is the one in which `apply` sends them: what others refer to comes first.
pub(crate) const KINDS: &[Kind] = &[
    envelope(
        "Tenant",
        "tenant",
        "tenants",
        &[],
        "/api/tenants",
        &[NAME, column("DISPLAY NAME", |o, _| text(o, "/spec/displayName")), AGE, LABELS],
    ),
    envelope(
        "User",
        "user",
        "users",
        &[],
        "/api/users",
        &[
            NAME,
            column("EMAIL", |o, _| text(o, "/spec/email")),
            column("ROLE", |o, _| text(o, "/spec/role")),
            column("LAST LOGIN", |o, now| age(o, "/status/lastLoginAt", now)),
            AGE,
        ],
    ),
    Kind {
        single: false,
        ..envelope(
            "ApiToken",
            "api-token",
            "api-tokens",
            &["apitoken", "apitokens"],
            "/api/tokens",
            &[
                NAME,
                column("ROLE", |o, _| text(o, "/spec/role")),
                column("EXPIRES IN", |o, now| left(o, "/status/expiresAt", now)),
                column("LAST USED", |o, now| age(o, "/status/lastUsedAt", now)),
                AGE,
            ],
        )
    },
    Kind {
        single: false,
        ..envelope(
            "GatewayKey",
            "gateway-key",
            "gateway-keys",
            &["gatewaykey", "gatewaykeys", "gk"],
            "/api/gateway-keys",
            &[
                NAME,
                column("DEVICE", |o, _| text(o, "/spec/device")),
                column("EXPIRES IN", |o, now| left(o, "/status/expiresAt", now)),
                column("LAST USED", |o, now| age(o, "/status/lastUsedAt", now)),
                AGE,
                wide("LOCATION", |o, _| text(o, "/spec/location")),
            ],
        )
    },
    envelope(
        "Channel",
        "channel",
        "channels",
        &["ch"],
        "/api/channels",
        &[
            NAME,
            column("RELEASES", |o, _| channel_releases(o)),
            column("DESCRIPTION", |o, _| text(o, "/spec/description")),
            AGE,
            LABELS,
        ],
    ),
    envelope(
        "App",
        "app",
        "apps",
        &[],
        "/api/apps",
        &[NAME, column("DESCRIPTION", |o, _| text(o, "/spec/description")), AGE, LABELS, MANAGED],
    ),
    envelope(
        "Placement",
        "placement",
        "placements",
        &["pl"],
        "/api/placements",
        &[
            NAME,
            column("APP", |o, _| text(o, "/spec/app")),
            column("SELECTOR", |o, _| selector(o, "/spec/selector")),
            AGE,
            LABELS,
            MANAGED,
        ],
    ),
    envelope(
        "Config",
        "config",
        "configs",
        &["cfg"],
        "/api/configs",
        &[
            NAME,
            column("APP", |o, _| text(o, "/spec/app")),
            column("SELECTOR", |o, _| text(o, "/spec/selector")),
            column("DEVICE", |o, _| text(o, "/spec/device")),
            column("VALUES", |o, _| {
                Cell::Text(
                    o.pointer("/spec/values")
                        .and_then(Value::as_object)
                        .map_or(0, serde_json::Map::len)
                        .to_string(),
                )
            }),
            column("PIPELINES", |o, _| {
                let held = o.pointer("/spec/gateway/pipelines").is_some();
                Cell::Text(if held { "yes" } else { "-" }.to_owned())
            }),
            AGE,
            wide("SETS", |o, _| pairs(o, "/spec/values")),
            MANAGED,
        ],
    ),
    envelope(
        "ClaimRule",
        "claim-rule",
        "claim-rules",
        &["claimrule", "claimrules", "cr"],
        "/api/claim-rules",
        &[
            NAME,
            column("ORDER", |o, _| text(o, "/spec/order")),
            column("ACTION", |o, _| text(o, "/spec/action")),
            column("TOKEN", |o, _| text(o, "/spec/token")),
            column("SELECTOR", |o, _| selector(o, "/spec/selector")),
            AGE,
        ],
    ),
    envelope(
        "ClaimToken",
        "claim-token",
        "claim-tokens",
        &["claimtoken", "claimtokens", "token", "tokens", "ct"],
        "/api/claim-tokens",
        &[
            NAME,
            column("CHANNEL", |o, _| text(o, "/spec/channel")),
            column("USED", |o, _| {
                Cell::Text(format!("{}/{}", text_at(o, "/status/used"), text_at(o, "/spec/uses")))
            }),
            column("STATE", |o, now| {
                let revoked = o.pointer("/status/revoked").and_then(Value::as_bool).unwrap_or(false);
                let expired = cell::time_at(o, "/status/expiresAt").is_some_and(|at| at <= now);
                Cell::Text(
                    if revoked {
                        "revoked"
                    } else if expired {
                        "expired"
                    } else {
                        "usable"
                    }
                    .to_owned(),
                )
            }),
            column("EXPIRES IN", |o, now| left(o, "/status/expiresAt", now)),
            AGE,
            wide("LOCATION", |o, _| text(o, "/spec/location")),
            wide("GIVES LABELS", |o, _| pairs(o, "/spec/labels")),
        ],
    ),
    envelope(
        "Device",
        "device",
        "devices",
        &["dev"],
        "/api/devices",
        &[
            NAME,
            column("REACHABILITY", |o, _| state_at(o, "/status/reachability")),
            column("HEALTH", |o, _| state_at(o, "/status/health")),
            column("CONFORMANCE", |o, _| state_at(o, "/status/conformance")),
            column("LIFECYCLE", |o, _| text(o, "/status/lifecycle")),
            column("CHANNEL", |o, _| text(o, "/spec/channel")),
            column("APPS", |o, _| device_apps(o)),
            column("LAST SEEN", |o, now| age(o, "/status/lastSeenAt", now)),
            wide("LOCATION", |o, _| text(o, "/spec/location")),
            wide("CPU", |o, _| {
                Cell::Text(
                    o.pointer("/status/latest/cpu")
                        .and_then(Value::as_f64)
                        .map_or_else(|| "-".into(), percent),
                )
            }),
            wide("AGENT", |o, _| text(o, "/status/agentVersion")),
            wide("MODEL", |o, _| text(o, "/status/hardware/model")),
            LABELS,
            wide("AGE", |o, now| age(o, "/metadata/createdAt", now)),
        ],
    ),
    envelope(
        "Policy",
        "policy",
        "policies",
        &["pol"],
        "/api/policies",
        &[
            NAME,
            column("SELECTOR", |o, _| selector(o, "/spec/selector")),
            column("PRIORITY", |o, _| text(o, "/spec/priority")),
            column("DEVICES", |o, _| text(o, "/status/devices")),
            column("VERSION", |o, _| text(o, "/metadata/resourceVersion")),
            AGE,
            wide("DESCRIPTION", |o, _| text(o, "/spec/description")),
            LABELS,
            MANAGED,
        ],
    ),
    envelope(
        "Pin",
        "pin",
        "pins",
        &[],
        "/api/pins",
        &[
            NAME,
            column("DEVICE", |o, _| text(o, "/spec/device")),
            column("APP", |o, _| text(o, "/spec/app")),
            column("VERSION", |o, _| text(o, "/spec/version")),
            AGE,
            wide("REASON", |o, _| text(o, "/spec/reason")),
        ],
    ),
    envelope(
        "Release",
        "release",
        "releases",
        &["rel"],
        "/api/releases",
        &[
            NAME,
            column("APP", |o, _| text(o, "/spec/manifest/app")),
            column("VERSION", |o, _| text(o, "/spec/manifest/version")),
            column("PLATFORMS", |o, _| platforms(o)),
            column("SIGNED BY", |o, _| text(o, "/spec/keyName")),
            AGE,
            wide("FLOOR", |o, _| text(o, "/spec/manifest/floor")),
            wide("MANIFEST", |o, _| text(o, "/spec/manifestDigest")),
        ],
    ),
    envelope(
        "Rollout",
        "rollout",
        "rollouts",
        &["ro"],
        "/api/rollouts",
        &[
            NAME,
            column("APP", |o, _| text(o, "/spec/app")),
            column("CHANNEL", |o, _| text(o, "/spec/channel")),
            column("FROM", |o, _| text(o, "/status/summary/from/version")),
            column("TO", |o, _| text(o, "/status/summary/to/version")),
            column("PHASE", |o, _| state_at(o, "/status/summary/phase")),
            column("WAVE", |o, _| {
                let waves = o.pointer("/spec/waves").and_then(Value::as_array).map_or(0, Vec::len);
                Cell::Text(format!("{}/{waves}", text_at(o, "/status/summary/wave")))
            }),
            column("OK", |o, _| {
                Cell::Text(format!(
                    "{}/{}",
                    text_at(o, "/status/summary/counts/ok"),
                    text_at(o, "/status/summary/population")
                ))
            }),
            column("FAILED", |o, _| text(o, "/status/summary/counts/failed")),
            AGE,
            wide("FAILURE RATIO", |o, _| {
                let ratio = o.pointer("/status/summary/failureRatio").and_then(Value::as_f64);
                let limit = o.pointer("/status/summary/threshold").and_then(Value::as_f64);
                Cell::Text(match (ratio, limit) {
                    (Some(ratio), Some(limit)) => format!("{} of {}", percent(ratio), percent(limit)),
                    _ => "-".to_owned(),
                })
            }),
            wide("WHY", |o, _| text(o, "/status/summary/reasons/0/message")),
        ],
    ),
    envelope(
        "AlertRule",
        "alert-rule",
        "alert-rules",
        &["alertrule", "alertrules"],
        "/api/alert-rules",
        &[
            NAME,
            column("TYPE", |o, _| text(o, "/spec/type")),
            column("SEVERITY", |o, _| state_at(o, "/spec/severity")),
            column("THRESHOLD", |o, _| {
                Cell::Text(format!("{} {}", text_at(o, "/spec/threshold"), text_at(o, "/status/unit")))
            }),
            column("ENABLED", |o, _| text(o, "/spec/enabled")),
            wide("SELECTOR", |o, _| selector(o, "/spec/selector")),
            wide("DESCRIPTION", |o, _| text(o, "/spec/description")),
        ],
    ),
    envelope(
        "Silence",
        "silence",
        "silences",
        &["sil"],
        "/api/silences",
        &[
            NAME,
            column("STATE", |o, _| state_at(o, "/status/state")),
            column("ENDS IN", |o, now| left(o, "/spec/endsAt", now)),
            column("MATCHES", |o, _| matchers(o)),
            column("COMMENT", |o, _| text(o, "/spec/comment")),
        ],
    ),
    envelope(
        "AlertRoute",
        "alert-route",
        "alert-routes",
        &["alertroute", "alertroutes"],
        "/api/alert-routes",
        &[
            NAME,
            column("TYPE", |o, _| text(o, "/spec/type")),
            column("TO", |o, _| {
                let url = text_at(o, "/spec/webhook/url");
                Cell::Text(if url.is_empty() { text_at(o, "/spec/email/to/0") } else { url })
            }),
            column("FROM SEVERITY", |o, _| text(o, "/spec/minSeverity")),
            column("ENABLED", |o, _| text(o, "/spec/enabled")),
            AGE,
        ],
    ),
    envelope(
        "Sink",
        "sink",
        "sinks",
        &[],
        "/api/sinks",
        &[
            NAME,
            column("TYPE", |o, _| text(o, "/spec/type")),
            column("TO", |o, _| {
                let to =
                    ["/spec/webhook/url", "/spec/otlp/url", "/status/folder"].map(|path| text_at(o, path));
                Cell::Text(to.into_iter().find(|text| !text.is_empty()).unwrap_or_default())
            }),
            column("STATE", |o, _| state_at(o, "/status/state")),
            column("WAITING", |o, _| text(o, "/status/waitingBatches")),
            column("POINTS", |o, _| text(o, "/status/deliveredPoints")),
            column("SKIPPED", |o, _| text(o, "/status/skippedBatches")),
            wide("LAST ERROR", |o, _| text(o, "/status/lastError")),
            AGE,
        ],
    ),
    envelope(
        "Incident",
        "incident",
        "incidents",
        &["inc"],
        "/api/incidents",
        &[
            NAME,
            column("DEVICE", |o, _| text(o, "/spec/deviceName")),
            column("APP", |o, _| text(o, "/spec/app")),
            column("CAUSE", |o, _| text(o, "/spec/cause")),
            column("STATE", |o, _| state_at(o, "/status/state")),
            column("DONE", |o, _| {
                let actions = o.pointer("/status/actions").and_then(Value::as_array);
                let words: Vec<_> =
                    actions.into_iter().flatten().map(|action| text_at(action, "/kind")).collect();
                Cell::Text(if words.is_empty() { "-".to_owned() } else { words.join(",") })
            }),
            column("BEGAN", |o, now| age(o, "/spec/startedAt", now)),
            wide("SIGNS", |o, _| text(o, "/status/signs")),
            wide("VERSION", |o, _| text(o, "/spec/version")),
            wide("ROLLOUT", |o, _| text(o, "/spec/rolloutName")),
            wide("MESSAGE", |o, _| text(o, "/status/message")),
        ],
    ),
    envelope(
        "Operation",
        "operation",
        "operations",
        &["op"],
        "/api/operations",
        &[
            NAME,
            column("DEVICE", |o, _| text(o, "/spec/deviceName")),
            column("KIND", |o, _| text(o, "/spec/kind")),
            column("WHAT", |o, _| {
                let what = ["/spec/app", "/spec/arguments/runbook", "/spec/arguments/command"]
                    .map(|at| text_at(o, at));
                Cell::Text(what.into_iter().find(|word| !word.is_empty()).unwrap_or_else(|| "-".to_owned()))
            }),
            column("STATE", |o, _| state_at(o, "/status/state")),
            column("WAITS", |o, _| text(o, "/status/waits")),
            column("AGE", |o, now| age(o, "/metadata/createdAt", now)),
            wide("BY", |o, _| text(o, "/spec/requestedBy")),
            wide("REASON", |o, _| text(o, "/spec/reason")),
            wide("OUTPUT", |o, _| text(o, "/status/outputBytes")),
            wide("MESSAGE", |o, _| text(o, "/status/message")),
        ],
    ),
    Kind {
        name: "/name",
        single: false,
        ..envelope(
            "Series",
            "series",
            "series",
            &["ser"],
            "/api/series/latest",
            &[
                column("SERIES", |o, _| text(o, "/name")),
                column("DEVICE", |o, _| text(o, "/deviceName")),
                column("VALUE", |o, _| text(o, "/value")),
                column("AGE", |o, now| age(o, "/at", now)),
                wide("KIND", |o, _| text(o, "/kind")),
                wide("STREAM", |o, _| text(o, "/stream")),
                wide("LOCATION", |o, _| text(o, "/location")),
            ],
        )
    },
    Kind {
        name: "/deviceName",
        single: false,
        ..envelope(
            "Gateway",
            "gateway",
            "gateways",
            &["gw"],
            "/api/sync",
            &[
                column("DEVICE", |o, _| text(o, "/deviceName")),
                column("BACKLOG", |o, _| text(o, "/report/backlogPoints")),
                column("OLDEST UNSENT", |o, now| age(o, "/report/oldestUnsentAt", now)),
                column("DRAINED IN", |o, _| drained_in(o)),
                column("RECEIVED", |o, _| text(o, "/receivedPoints")),
                column("LOST", |o, _| text(o, "/lostPoints")),
                column("REPORTED", |o, now| age(o, "/reportedAt", now)),
                wide("LOCATION", |o, _| text(o, "/location")),
                wide("LAST BATCH", |o, now| age(o, "/lastBatchAt", now)),
                wide("REFUSED", |o, _| text(o, "/refusedBatches")),
                wide("PIPELINES FROM", |o, _| text(o, "/report/processing/source")),
                wide("ALERTS", |o, _| text(o, "/report/processing/alertsRaised")),
                wide("LAST ERROR", |o, _| text(o, "/report/lastError")),
            ],
        )
    },
    Kind {
        name: "/id",
        single: false,
        ..envelope(
            "IngestKey",
            "ingest-key",
            "ingest-keys",
            &["ingestkey", "ingestkeys"],
            "/api/ingest-keys",
            &[
                column("ID", |o, _| text(o, "/id")),
                column("STATE", |o, _| {
                    let current = o.pointer("/current").and_then(Value::as_bool).unwrap_or(false);
                    Cell::Text(if current { "current" } else { "retired" }.to_owned())
                }),
                column("AGE", |o, now| age(o, "/createdAt", now)),
                wide("PUBLIC KEY", |o, _| text(o, "/publicKey")),
            ],
        )
    },
    Kind {
        name: "/uid",
        ..envelope(
            "Alert",
            "alert",
            "alerts",
            &["al"],
            "/api/alerts",
            &[
                column("UID", |o, _| text(o, "/uid")),
                column("RULE", |o, _| text(o, "/rule")),
                column("SEVERITY", |o, _| state_at(o, "/severity")),
                column("STATE", |o, _| state_at(o, "/state")),
                column("LOCATION", |o, _| text(o, "/location")),
                column("SINCE", |o, now| age(o, "/startedAt", now)),
                column("SUMMARY", |o, _| text(o, "/summary")),
                wide("ACKNOWLEDGED BY", |o, _| text(o, "/acknowledgedBy")),
                wide("SILENCED BY", |o, _| text(o, "/silencedBy/0")),
            ],
        )
    },
    Kind {
        name: "/uid",
        single: false,
        ..envelope(
            "AlertDelivery",
            "alert-delivery",
            "alert-deliveries",
            &["delivery", "deliveries"],
            "/api/alert-deliveries",
            &[
                column("UID", |o, _| text(o, "/uid")),
                column("ROUTE", |o, _| text(o, "/routeName")),
                column("GROUP", |o, _| text(o, "/groupKey")),
                column("STATE", |o, _| state_at(o, "/state")),
                column("ATTEMPTS", |o, _| text(o, "/attempts")),
                column("AGE", |o, now| age(o, "/createdAt", now)),
                column("LAST ERROR", |o, _| text(o, "/lastError")),
            ],
        )
    },
    Kind {
        kind: "Artifact",
        singular: "artifact",
        plural: "artifacts",
        short: &["art"],
        path: "/api/artifacts",
        name: "/digest",
        items: "/items",
        single: false,
        columns: &[
            column("DIGEST", |o, _| text(o, "/digest")),
            column("NAME", |o, _| text(o, "/name")),
            column("SIZE", |o, _| {
                Cell::Text(cell::bytes(o.pointer("/size").and_then(Value::as_u64).unwrap_or(0)))
            }),
            column("AGE", |o, now| age(o, "/createdAt", now)),
            wide("RELEASES", |o, _| {
                let names: Vec<_> = o
                    .pointer("/releases")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect();
                Cell::Text(if names.is_empty() { "-".to_owned() } else { names.join(",") })
            }),
        ],
    },
    Kind {
        kind: "Event",
        singular: "event",
        plural: "events",
        short: &["ev"],
        path: "/api/events",
        name: "/sequence",
        items: "/items",
        single: false,
        columns: &[
            column("AGE", |o, now| age(o, "/at", now)),
            column("TYPE", |o, _| text(o, "/type")),
            column("SUBJECT", |o, _| {
                let kind = text_at(o, "/subject/kind");
                let word = KINDS
                    .iter()
                    .find(|known| known.kind == kind)
                    .map_or(kind.clone(), |known| known.singular.into());
                Cell::Text(format!("{word}/{}", text_at(o, "/subject/name")))
            }),
            wide("ACTOR", |o, _| text(o, "/actor")),
            column("MESSAGE", |o, _| text(o, "/message")),
            wide("SEQUENCE", |o, _| text(o, "/sequence")),
        ],
    },
    Kind {
        kind: "TrustedKey",
        singular: "trusted-key",
        plural: "trusted-keys",
        short: &["key", "keys", "trustedkey", "trustedkeys"],
        path: "/api/trusted-keys",
        name: "/name",
        items: "/keys",
        single: false,
        columns: &[column("NAME", |o, _| text(o, "/name")), column("KEY ID", |o, _| text(o, "/keyId"))],
    },
];

fn selector(object: &Value, pointer: &str) -> Cell {
    let text = text_at(object, pointer);
    Cell::Text(if text.is_empty() { "(every device)".to_owned() } else { text })
}

fn matchers(object: &Value) -> Cell {
    let matchers = object.pointer("/spec/matchers").and_then(Value::as_array);
    let one = |matcher: &Value| {
        let equal = matcher.pointer("/isEqual").and_then(Value::as_bool).unwrap_or(true);
        let sign = if equal { "=" } else { "!=" };
        format!("{}{sign}{}", text_at(matcher, "/name"), text_at(matcher, "/value"))
    };
    Cell::Text(matchers.into_iter().flatten().map(one).collect::<Vec<_>>().join(","))
}

fn channel_releases(object: &Value) -> Cell {
    let releases: Vec<_> = object
        .pointer("/status/releases")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|release| format!("{}@{}", text_at(release, "/app"), text_at(release, "/version")))
        .collect();
    Cell::Text(if releases.is_empty() { "-".to_owned() } else { releases.join(",") })
}

fn device_apps(object: &Value) -> Cell {
    let apps: Vec<_> = object
        .pointer("/status/apps")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|app| {
            let (active, wanted) = (text_at(app, "/activeVersion"), text_at(app, "/desired/version"));
            match (active.is_empty(), wanted.is_empty() || wanted == active) {
                (false, true) => format!("{}@{active}", text_at(app, "/app")),
                (false, false) => format!("{}@{active}→{wanted}", text_at(app, "/app")),
                (true, _) => format!("{}→{wanted}", text_at(app, "/app")),
            }
        })
        .collect();
    Cell::Text(if apps.is_empty() { "-".to_owned() } else { apps.join(",") })
}

fn platforms(object: &Value) -> Cell {
    let names: Vec<_> = object
        .pointer("/spec/manifest/platforms")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|platform| {
            let variant = text_at(platform, "/variant");
            let base = format!("{}/{}", text_at(platform, "/os"), text_at(platform, "/arch"));
            if variant.is_empty() { base } else { format!("{base}/{variant}") }
        })
        .collect();
    Cell::Text(names.join(","))
}

fn drained_in(object: &Value) -> Cell {
    let seconds = object.pointer("/report/drainSeconds").and_then(Value::as_i64);
    Cell::Text(
        seconds.map_or_else(
            || "-".to_owned(),
            |seconds| crate::output::time::span(seconds.saturating_mul(1_000)),
        ),
    )
}
