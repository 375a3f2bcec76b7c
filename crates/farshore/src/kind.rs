//! The kinds of objects that the API has: what people call them, where they live, what a table shows of them.

use farshore_domain::digest::Digest;
use farshore_domain::time::UnixMs;
use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::output::cell::{self, Cell, age, left, pairs, percent, state_at, text, text_at};

/// One column of a table.
#[derive(Clone, Copy)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    /// Only with `-o wide`.
    pub(crate) wide: bool,
    pub(crate) cell: fn(&Value, UnixMs) -> Cell,
}

impl std::fmt::Debug for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.title)
    }
}

/// One kind.
#[derive(Debug)]
pub(crate) struct Kind {
    /// As in YAML: `Device`.
    pub(crate) kind: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) short: &'static [&'static str],
    pub(crate) path: &'static str,
    /// JSON pointer of the name that people use.
    name: &'static str,
    /// JSON pointer of the list in a list's answer.
    items: &'static str,
    /// Whether `GET path/{name}` exists.
    pub(crate) single: bool,
    pub(crate) columns: &'static [Column],
}

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

impl Kind {
    /// The objects of a list's answer.
    pub(crate) fn items<'a>(&self, list: &'a Value) -> &'a [Value] {
        list.pointer(self.items).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Whether its list comes in pages.
    pub(crate) fn is_paged(&self) -> bool {
        self.items == "/items"
    }

    pub(crate) fn name_of(&self, object: &Value) -> String {
        text_at(object, self.name)
    }

    /// The address of one object.
    pub(crate) fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }
}

/// The kind that a word means: singular, plural, short name or the kind itself, in any case.
pub(crate) fn find(word: &str) -> Result<&'static Kind> {
    let wanted = word.to_ascii_lowercase();
    let words = |kind: &'static Kind| {
        [kind.singular, kind.plural].into_iter().chain(kind.short.iter().copied()).collect::<Vec<_>>()
    };
    if let Some(kind) = KINDS
        .iter()
        .find(|kind| words(kind).contains(&wanted.as_str()) || kind.kind.eq_ignore_ascii_case(&wanted))
    {
        return Ok(kind);
    }
    let failure = Failure::usage(format!("there is no kind {word:?}"));
    let near = nearest(&wanted, KINDS.iter().flat_map(words));
    Err(match near {
        Some(near) => failure.why(format!("did you mean {near:?}?")),
        None => failure.why(format!(
            "known are {}",
            KINDS.iter().map(|kind| kind.plural).collect::<Vec<_>>().join(", ")
        )),
    })
}

/// The candidate that `word` was probably meant to be.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= limit && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters have to be put in, taken out, changed or swapped with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<_>, Vec<_>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX / 2);
            let mut best =
                (at(&above, j) + usize::from(x != y)).min(at(&above, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(0)
}

/// What a command is about: whole kinds, or objects by name.
#[derive(Debug)]
pub(crate) enum Selection {
    Kinds(Vec<&'static Kind>),
    Objects(Vec<(&'static Kind, String)>),
}

/// Reads `devices`, `device kiosk-7 kiosk-8`, `device/kiosk-7 rollout/x` and `devices,rollouts`.
pub(crate) fn select(words: &[String]) -> Result<Selection> {
    let Some((first, names)) = words.split_first() else {
        return Err(Failure::usage("say of what: TYPE, TYPE NAME or TYPE/NAME").next("farshore get devices"));
    };
    if words.iter().any(|word| word.contains('/')) {
        let objects = words.iter().map(|word| object(word)).collect::<Result<_>>()?;
        return Ok(Selection::Objects(objects));
    }
    let kinds = first.split(',').filter(|word| !word.is_empty()).map(find).collect::<Result<Vec<_>>>()?;
    match (kinds.as_slice(), names) {
        (_, []) => Ok(Selection::Kinds(kinds)),
        ([kind], names) => Ok(Selection::Objects(
            names.iter().map(|name| Ok((*kind, check_name(name)?))).collect::<Result<_>>()?,
        )),
        _ => Err(Failure::usage("names can only follow one kind; write TYPE/NAME for several")),
    }
}

/// Reads `TYPE/NAME`.
pub(crate) fn object(word: &str) -> Result<(&'static Kind, String)> {
    match word.split_once('/') {
        Some((kind, name)) if !name.is_empty() => Ok((find(kind)?, check_name(name)?)),
        _ => Err(Failure::usage(format!("{word:?} names no object"))
            .why("write TYPE/NAME, for example device/kiosk-7")),
    }
}

/// A name or uid (or digest) that can stand in an address.
pub(crate) fn check_name(name: &str) -> Result<String> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
    let is_name = plain && !name.is_empty() && name.len() <= 253 && name != "." && name != "..";
    if is_name || name.parse::<Digest>().is_ok() {
        Ok(name.to_owned())
    } else {
        Err(Failure::usage(format!("{name:?} is no name")).why("names hold a-z, 0-9, '-' and '.'"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_found_by_each_of_its_words() {
        for word in ["device", "devices", "dev", "Device", "DEVICES"] {
            assert_eq!(find(word).unwrap().kind, "Device", "{word}");
        }
        assert_eq!(find("claimtokens").unwrap().kind, "ClaimToken");
        assert_eq!(find("ro").unwrap().kind, "Rollout");
    }

    #[test]
    fn no_word_means_two_kinds() {
        let mut seen = std::collections::BTreeMap::new();
        for kind in KINDS {
            for word in [kind.singular, kind.plural].iter().chain(kind.short) {
                if let Some(other) = seen.insert(word.to_owned(), kind.kind) {
                    panic!("{word} means {other} and {}", kind.kind);
                }
            }
        }
    }

    #[test]
    fn a_typo_gets_the_nearest_word() {
        let said = |word| find(word).unwrap_err().render(crate::output::Format::Table, false);
        insta::assert_snapshot!(said("devcies"), @r#"error: there is no kind "devcies": did you mean "devices"?"#);
        insta::assert_snapshot!(said("rolout"), @r#"error: there is no kind "rolout": did you mean "rollout"?"#);
        assert!(said("xyzzy").contains("known are"));
    }

    #[test]
    fn distances_count_single_slips() {
        assert_eq!(
            [distance("", ""), distance("abc", "abc"), distance("acb", "abc"), distance("ab", "abc")],
            [0, 0, 1, 1]
        );
        assert_eq!([distance("kitten", "sitting"), distance("", "abc")], [3, 3]);
    }

    #[test]
    fn selections_are_read_as_kubectl_reads_them() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let Selection::Kinds(kinds) = select(&words("devices,rollouts")).unwrap() else { panic!() };
        assert_eq!(kinds.iter().map(|kind| kind.kind).collect::<Vec<_>>(), ["Device", "Rollout"]);
        let Selection::Objects(objects) = select(&words("dev a b")).unwrap() else { panic!() };
        assert_eq!(
            objects.iter().map(|(kind, name)| format!("{}/{name}", kind.kind)).collect::<Vec<_>>(),
            ["Device/a", "Device/b"]
        );
        for bad in [
            "devices,rollouts a",
            "device/",
            "device/a b",
            "device/../x",
            "device/a?b",
            "device/a/b",
            "device/a:revoke",
        ] {
            assert!(select(&words(bad)).is_err(), "{bad}");
        }
    }
}
