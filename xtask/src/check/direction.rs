//! The direction of the arrows between our crates, and what the pure ones may not contain.
//!
//! ARCHITECTURE.md draws the same picture. Development dependencies are free: a test may put anything together.

use anyhow::{Result, bail};

use crate::metadata::Metadata;

/// One crate: which of ours it may use, and which foreign crates must not be built into it, even indirectly.
#[derive(Debug)]
struct Row {
    name: &'static str,
    may_use: &'static [&'static str],
    never: &'static [&'static str],
}

/// Whatever talks to a network, a disk, a clock of a runtime or a database.
const IO: &[&str] = &["axum", "hyper", "mio", "reqwest", "rusqlite", "rustls", "sqlx", "sqlx-core", "tokio"];
/// Of these, what a crate that sets up TLS but does no IO itself may not have.
const IO_BUT_TLS: &[&str] = &["axum", "hyper", "mio", "reqwest", "rusqlite", "sqlx", "sqlx-core", "tokio"];
/// The control plane's weight, which has no place on a device. (Not utoipa: cargo joins the features of all members for its
/// metadata, so that the domain's `openapi` feature, which only the API switches on, seems to be everywhere.)
const SERVER: &[&str] = &["axum", "sqlx", "sqlx-core", "reqwest"];

const DOMAIN: &str = "farshore-domain";
const TRUST: &str = "farshore-trust";
const PROTOCOL: &str = "farshore-protocol";
const API: &str = "farshore-api";
const SERIES: &str = "farshore-series";
const JOURNAL: &str = "farshore-journal";
const COLLECT: &str = "farshore-collect";
const GATEWAY: &str = "farshore-gateway";
const AGENT: &str = "farshore-agent";
const STORE: &str = "farshore-store";
const CONTROL: &str = "farshore-control";
const SIM: &str = "farshore-sim";

/// A new crate gets a row here and a line in ARCHITECTURE.md.
const ROWS: &[Row] = &[
    Row { name: DOMAIN, may_use: &[], never: IO },
    Row { name: TRUST, may_use: &[DOMAIN], never: IO_BUT_TLS },
    Row { name: PROTOCOL, may_use: &[DOMAIN], never: IO },
    Row { name: API, may_use: &[DOMAIN], never: IO },
    Row { name: SERIES, may_use: &[DOMAIN], never: IO },
    Row { name: JOURNAL, may_use: &[DOMAIN, SERIES, TRUST], never: SERVER },
    Row { name: COLLECT, may_use: &[DOMAIN], never: SERVER },
    Row { name: GATEWAY, may_use: &[DOMAIN, JOURNAL, PROTOCOL, SERIES, TRUST], never: SERVER },
    Row {
        name: AGENT,
        may_use: &[COLLECT, DOMAIN, GATEWAY, JOURNAL, PROTOCOL, SERIES, TRUST],
        never: SERVER,
    },
    Row { name: STORE, may_use: &[DOMAIN, SERIES], never: &["axum", "hyper", "reqwest"] },
    Row { name: CONTROL, may_use: &[API, DOMAIN, PROTOCOL, SERIES, STORE, TRUST], never: &["rusqlite"] },
    Row { name: SIM, may_use: &[AGENT, COLLECT, DOMAIN, PROTOCOL, SERIES, TRUST], never: SERVER },
    Row { name: "farshore", may_use: &[API, CONTROL, DOMAIN, GATEWAY, SIM, STORE, TRUST], never: &[] },
    Row { name: "edge-web-service", may_use: &[], never: IO },
    Row { name: "xtask", may_use: &[], never: IO },
];

/// # Errors
/// Names each arrow that points the wrong way, and the chain by which something forbidden came in.
pub(crate) fn check(metadata: &Metadata) -> Result<()> {
    let findings = findings(metadata, ROWS);
    if findings.is_empty() {
        return Ok(());
    }
    bail!("{}\n  The table is in xtask/src/check/direction.rs.", findings.join("\n  "))
}

fn findings(metadata: &Metadata, rows: &[Row]) -> Vec<String> {
    let ours: Vec<&str> = metadata.members().map(|member| member.name.as_str()).collect();
    let mut findings = Vec::new();
    for member in metadata.members() {
        let Some(row) = rows.iter().find(|row| row.name == member.name) else {
            findings.push(format!("{} has no row that says what it may use", member.name));
            continue;
        };
        for dependency in &member.dependencies {
            let counts = dependency.kind.as_deref() != Some("dev");
            if counts && ours.contains(&dependency.name.as_str()) && !row.may_use.contains(&&*dependency.name)
            {
                findings.push(format!("{} must not use {}", member.name, dependency.name));
            }
        }
        let reached = metadata.built_into(member, false);
        for id in reached.keys() {
            let Some(package) = metadata.package(id) else { continue };
            if row.never.contains(&package.name.as_str()) {
                let chain = metadata.chain(&reached, id);
                findings.push(format!("{} must not contain {}: {chain}", member.name, package.name));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arrows_of_this_workspace_point_one_way() {
        let metadata = Metadata::load().expect("cargo metadata");
        assert_eq!(findings(&metadata, ROWS), Vec::<String>::new());
    }

    #[test]
    fn a_crate_that_reaches_for_the_wrong_one_is_named_with_its_chain() {
        let metadata: Metadata = serde_json::from_value(serde_json::json!({
            "packages": [
                {"id": "a", "name": "pure", "version": "1.0.0", "license": null, "source": null,
                 "dependencies": [{"name": "impure", "kind": null}, {"name": "other", "kind": "dev"}]},
                {"id": "b", "name": "impure", "version": "1.0.0", "license": null, "source": null, "dependencies": []},
                {"id": "o", "name": "other", "version": "1.0.0", "license": null, "source": null, "dependencies": []},
                {"id": "t", "name": "tokio", "version": "1.0.0", "license": "MIT", "source": "registry", "dependencies": []}
            ],
            "workspace_members": ["a", "b", "o"],
            "resolve": {"nodes": [
                {"id": "a", "deps": [{"pkg": "b", "dep_kinds": [{"kind": null}]}, {"pkg": "o", "dep_kinds": [{"kind": "dev"}]}]},
                {"id": "b", "deps": [{"pkg": "t", "dep_kinds": [{"kind": null}]}]},
                {"id": "o", "deps": [{"pkg": "t", "dep_kinds": [{"kind": "dev"}]}]},
                {"id": "t", "deps": []}
            ]}
        }))
        .expect("valid metadata");
        let rows = [
            Row { name: "pure", may_use: &[], never: &["tokio"] },
            Row { name: "impure", may_use: &[], never: &[] },
        ];
        assert_eq!(
            findings(&metadata, &rows),
            [
                "pure must not use impure",
                "pure must not contain tokio: pure → impure → tokio",
                "other has no row that says what it may use"
            ]
        );
    }
}
