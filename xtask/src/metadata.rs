//! What `cargo metadata` says, as far as the checks need it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::tools;

/// The platform whose dependencies are judged; what only Windows or macOS would use is never built.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    /// None for a package of this repository.
    pub(crate) source: Option<String>,
    pub(crate) dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// None (normal), "dev" or "build".
    pub(crate) kind: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Debug, Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<EdgeKind>,
}

#[derive(Debug, Deserialize)]
struct EdgeKind {
    kind: Option<String>,
}

impl Metadata {
    /// Asks cargo. `--locked`: a Cargo.lock that does not fit the manifests is itself a finding.
    ///
    /// # Errors
    /// When cargo fails or answers something unexpected.
    pub(crate) fn load() -> Result<Self> {
        Self::load_in("")
    }

    /// Of the workspace in a folder of this repository.
    ///
    /// # Errors
    /// As [`Metadata::load`].
    pub(crate) fn load_in(folder: &str) -> Result<Self> {
        let mut command =
            tools::cargo(&["metadata", "--format-version=1", "--locked", "--filter-platform", PLATFORM]);
        command.current_dir(tools::root().join(folder));
        let text = tools::output(&mut command)?;
        serde_json::from_str(&text).context("cargo metadata wrote something unexpected")
    }

    /// The packages of this repository.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.workspace_members.contains(&package.id))
    }

    pub(crate) fn package(&self, id: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.id == id)
    }

    /// Everything that is built into `package` besides itself, each with the package through which it comes.
    /// `with_build`: also what its build scripts and procedural macros need.
    pub(crate) fn built_into<'a>(
        &'a self,
        package: &'a Package,
        with_build: bool,
    ) -> BTreeMap<&'a str, &'a str> {
        let nodes: BTreeMap<&str, &Node> =
            self.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
        let mut reached = BTreeMap::new();
        let mut open = vec![package.id.as_str()];
        while let Some(id) = open.pop() {
            for edge in nodes.get(id).into_iter().flat_map(|node| &node.deps) {
                let wanted = edge.dep_kinds.iter().any(|kind| match kind.kind.as_deref() {
                    None => true,
                    Some("build") => with_build,
                    Some(_) => false,
                });
                if wanted && edge.pkg != package.id && !reached.contains_key(edge.pkg.as_str()) {
                    reached.insert(edge.pkg.as_str(), id);
                    open.push(&edge.pkg);
                }
            }
        }
        reached
    }

    /// The chain of package names by which `package` comes to depend on `id`, for a message.
    pub(crate) fn chain(&self, reached: &BTreeMap<&str, &str>, id: &str) -> String {
        let mut names = Vec::new();
        let mut at = Some(id);
        while let Some(id) = at {
            names.push(self.package(id).map_or(id, |package| package.name.as_str()));
            at = reached.get(id).copied();
        }
        names.reverse();
        names.join(" → ")
    }
}
