//! What may be built in: licences, bans and sources, held on every machine from the lists in `deny.toml`.
//!
//! cargo-deny does more (advisories, yanked versions) and runs as well where it is installed; why it is not installed
//! for this is in docs/decisions/0002-dependency-checks.md.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::licence;
use crate::metadata::Metadata;
use crate::tools::{self, Step};

/// Two versions of one of these would mean two TLS stacks, two providers or two SQLite libraries in one program.
const ONCE_ONLY: &[&str] = &["libsqlite3-sys", "ring", "rustls", "tokio", "zstd-sys"];

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// # Errors
/// Lists everything that is not allowed, with the chain that brings it in.
pub(crate) fn check(metadata: &Metadata) -> Result<()> {
    let text = std::fs::read_to_string(tools::root().join("deny.toml")).context("cannot read deny.toml")?;
    let lists = Lists::parse(&text)?;
    let findings = findings(metadata, &lists);
    if findings.is_empty() {
        return Ok(());
    }
    bail!("{}", findings.join("\n  "))
}

/// The two lists of `deny.toml` that are held here.
#[derive(Debug, PartialEq, Eq)]
struct Lists {
    licences: Vec<String>,
    banned: Vec<String>,
}

impl Lists {
    /// Reads the two arrays. This is not a TOML parser: it wants each array to begin with `key = [` in its section and
    /// each entry on a line of its own, and fails when a list comes out empty.
    fn parse(text: &str) -> Result<Self> {
        let licences = entries(text, "[licenses]", "allow");
        let banned = entries(text, "[bans]", "deny");
        if licences.is_empty() || banned.is_empty() {
            bail!("deny.toml has no list of licences or of bans that this check can read");
        }
        Ok(Self { licences, banned })
    }
}

/// The first quoted text of each line of an array.
fn entries(text: &str, section: &str, key: &str) -> Vec<String> {
    text.lines()
        .map(str::trim)
        .skip_while(|line| *line != section)
        .skip(1)
        .take_while(|line| !(line.starts_with('[') && line.ends_with(']')))
        .skip_while(|line| *line != format!("{key} = ["))
        .skip(1)
        .take_while(|line| *line != "]")
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split('"').nth(1))
        .map(str::to_owned)
        .collect()
}

fn findings(metadata: &Metadata, lists: &Lists) -> Vec<String> {
    let mut findings = BTreeSet::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for member in metadata.members() {
        let reached = metadata.built_into(member, true);
        for id in reached.keys() {
            let Some(package) = metadata.package(id) else { continue };
            let chain = || metadata.chain(&reached, id);
            versions.entry(&package.name).or_default().insert(&package.version);
            if lists.banned.contains(&package.name) {
                findings.insert(format!("{} is banned in deny.toml: {}", package.name, chain()));
            }
            let Some(source) = &package.source else { continue };
            if source != CRATES_IO {
                findings.insert(format!("{} comes from {source}, not from crates.io", package.name));
            }
            let licence = package.license.as_deref().unwrap_or("none named");
            if !licence::is_allowed(licence, &lists.licences) {
                findings.insert(format!(
                    "{} {} has the licence {licence:?}, which deny.toml does not allow: {}",
                    package.name,
                    package.version,
                    chain()
                ));
            }
        }
    }
    for name in ONCE_ONLY {
        if let Some(found) = versions.get(name).filter(|found| found.len() > 1) {
            let found: Vec<&str> = found.iter().copied().collect();
            findings.insert(format!("{name} is built in {} versions: {}", found.len(), found.join(", ")));
        }
    }
    findings.into_iter().collect()
}

/// Runs cargo-deny where it is installed.
///
/// # Errors
/// When cargo-deny finds something. A list of advisories that cannot be fetched is said, and is no failure: a check
/// must be able to run on a machine without that network.
pub(crate) fn cargo_deny() -> Result<Step> {
    if tools::which("cargo-deny").is_none() {
        return Ok(Step::Skipped(
            "cargo-deny is not installed (cargo install cargo-deny --locked); the step before holds licences and bans"
                .into(),
        ));
    }
    tools::run(&mut tools::cargo(&["deny", "check", "licenses", "bans", "sources"]))?;
    let advisories =
        tools::cargo(&["deny", "check", "advisories"]).stdin(Stdio::null()).output().context("cargo deny")?;
    let said = String::from_utf8_lossy(&advisories.stderr);
    if !advisories.status.success() && said.contains("failed to fetch advisory database") {
        return Ok(Step::Skipped(
            "advisories: their database cannot be fetched from here; the rest is ok".into(),
        ));
    }
    eprint!("{said}");
    if !advisories.status.success() {
        bail!("cargo-deny found advisories that apply");
    }
    Ok(Step::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_read_from_deny_toml_as_it_is() {
        let text = std::fs::read_to_string(tools::root().join("deny.toml")).expect("deny.toml");
        let lists = Lists::parse(&text).expect("lists");
        assert!(lists.licences.contains(&"MIT".to_owned()));
        assert!(lists.banned.contains(&"aws-lc-sys".to_owned()));
        assert!(!lists.banned.iter().any(|name| name.contains(' ')), "{lists:?}");
    }

    #[test]
    fn an_unreadable_list_is_an_error_rather_than_an_empty_one() {
        assert!(Lists::parse("[licenses]\nallow = [\"MIT\"]\n[bans]\ndeny = [\n]\n").is_err());
        assert!(Lists::parse("").is_err());
    }

    #[test]
    fn bans_licences_sources_and_doubles_are_found_with_their_chain() {
        let package = |id: &str, name: &str, version: &str, license: &str, source: &str| serde_json::json!({"id": id, "name": name, "version": version, "license": license, "source": source, "dependencies": []});
        let edge = |id: &str| serde_json::json!({"pkg": id, "dep_kinds": [{"kind": null}]});
        let metadata: Metadata = serde_json::from_value(serde_json::json!({
            "packages": [
                {"id": "m", "name": "ours", "version": "0.1.0", "license": "Apache-2.0", "source": null, "dependencies": []},
                package("1", "ring", "0.16.0", "MIT", CRATES_IO),
                package("2", "ring", "0.17.0", "MIT", CRATES_IO),
                package("3", "openssl-sys", "0.9.0", "MIT", CRATES_IO),
                package("4", "copyleft", "1.0.0", "GPL-3.0-only", CRATES_IO),
                package("5", "elsewhere", "1.0.0", "MIT", "git+https://example.org/x"),
            ],
            "workspace_members": ["m"],
            "resolve": {"nodes": [
                {"id": "m", "deps": [edge("1"), edge("4"), edge("5")]},
                {"id": "1", "deps": [edge("2"), edge("3")]},
                {"id": "2", "deps": []}, {"id": "3", "deps": []}, {"id": "4", "deps": []}, {"id": "5", "deps": []}
            ]}
        }))
        .expect("valid metadata");
        let lists = Lists { licences: vec!["MIT".into()], banned: vec!["openssl-sys".into()] };
        assert_eq!(
            findings(&metadata, &lists),
            [
                "copyleft 1.0.0 has the licence \"GPL-3.0-only\", which deny.toml does not allow: ours → copyleft",
                "elsewhere comes from git+https://example.org/x, not from crates.io",
                "openssl-sys is banned in deny.toml: ours → ring → openssl-sys",
                "ring is built in 2 versions: 0.16.0, 0.17.0"
            ]
        );
    }
}
