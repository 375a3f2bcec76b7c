//! Releases: one version of an app, its manifest signed over its exact bytes.
//!
//! A manifest is read strictly: a field that this version does not know makes it unsupported, because a
//! specification is never half-obeyed.

pub mod compose;
pub mod image;
pub mod isolation;
pub mod kind;
pub mod slot;
pub mod template;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use compose::Compose;
use image::ImageRef;
use isolation::Isolation;
use kind::{Container, Files, Installer, Kind, Objects, Ready, RunUser, Unit};
use slot::Slots;

use crate::digest::Digest;
use crate::name::Name;
use crate::version::Version;

/// The `schema` of the manifests this version understands.
pub const MANIFEST_SCHEMA: &str = "farshore.dev/release/v1";
/// At most this many bytes in a manifest.
pub const MAX_MANIFEST_BYTES: usize = 256 * 1024;
/// At most this many bytes in one artifact, unless the server's settings say less.
pub const MAX_ARTIFACT_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// What is signed: everything that decides what a device will execute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// [`MANIFEST_SCHEMA`].
    pub schema: String,
    /// Name of the tenant this release is for; a device of another tenant refuses it.
    pub tenant: Name,
    pub app: Name,
    pub version: Version,
    /// Once a device has committed this release, it never again activates one below this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Version>,
    pub platforms: Vec<Platform>,
    pub run: Run,
    #[serde(default)]
    pub health: Vec<HealthCheck>,
    #[serde(default)]
    pub restart: Restart,
    /// How long all checks must stay good before the release is committed, in seconds.
    #[serde(default = "default_soak")]
    pub soak_seconds: u32,
    /// How long a start may take until all checks are good for the first time, in seconds.
    #[serde(default = "default_start")]
    pub start_timeout_seconds: u32,
}

fn default_soak() -> u32 {
    10
}
fn default_start() -> u32 {
    60
}

/// One platform's artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Platform {
    pub os: String,
    pub arch: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    pub artifact: ArtifactRef,
}

/// Which bytes, and how they are packed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ArtifactRef {
    pub digest: Digest,
    pub size: u64,
    pub format: ArtifactFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ArtifactFormat {
    #[serde(rename = "tar")]
    Tar,
    #[serde(rename = "tar.gz")]
    TarGz,
    #[serde(rename = "tar.zst")]
    TarZst,
}

/// How to run it. The working directory is the release's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Run {
    /// What kind of app it is. Each kind but `process` has a section of its own below.
    #[serde(default, skip_serializing_if = "Kind::is_process")]
    pub kind: Kind,
    /// Program and arguments; the program is a relative path inside the release's folder. `${NAME}` in an argument is replaced by the value of the
    /// environment that the app gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(default = "default_stop")]
    pub stop_timeout_seconds: u32,
    #[serde(default)]
    pub limits: Limits,
    /// Left out: a user of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<RunUser>,
    /// For kind `process`. Left out: started is started, and the health checks say the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Ready>,
    /// For kind `process`: it can run twice, so that a release is started and checked beside the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<Slots>,
    /// For kind `process`: what it is kept apart from, beyond its user and its folders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compose: Option<Compose>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Files>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Objects>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installer: Option<Installer>,
}

fn default_stop() -> u32 {
    10
}

/// Limits enforced where the device's cgroups allow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Thousandths of one core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
}

/// One health check. It fails after `failureThreshold` failures in a row and is good again after one success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheck {
    pub name: Name,
    pub probe: Probe,
    #[serde(default = "default_interval")]
    pub interval_seconds: u32,
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u32,
    #[serde(default = "default_threshold")]
    pub failure_threshold: u32,
}

fn default_interval() -> u32 {
    5
}
fn default_timeout() -> u32 {
    2
}
fn default_threshold() -> u32 {
    3
}

/// What a health check does, always against this device itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", tag = "type", deny_unknown_fields)]
pub enum Probe {
    /// `GET http://127.0.0.1:<port><path>` answers 200 to 399.
    Http { port: Port, path: String },
    /// A TCP connection to `127.0.0.1:<port>` is accepted.
    Tcp { port: Port },
    /// The command, run in the release's folder as the app's user, exits with 0.
    Command { command: Vec<String> },
}

/// A port number, or the environment variable of the app that holds it, written `$NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum Port {
    Number(u16),
    Variable(String),
}

/// What happens when the app's process ends or its checks fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Restart {
    /// The first pause before a restart, in milliseconds; doubles up to `maxBackoffMs`, and starts again after ten healthy minutes.
    pub backoff_ms: u32,
    pub max_backoff_ms: u32,
    /// While a new release is starting or soaking, more restarts than this mean that it failed.
    pub max_restarts: u32,
}

impl Default for Restart {
    fn default() -> Self {
        Self { backoff_ms: 500, max_backoff_ms: 60_000, max_restarts: 3 }
    }
}

/// Why a manifest can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("a manifest has at most {MAX_MANIFEST_BYTES} bytes")]
    TooLarge,
    /// Another version's schema or field: the app is `unsupported` here, visibly.
    #[error("this version does not understand the manifest: {0}")]
    Unsupported(String),
    #[error("{field}: {what}")]
    Invalid { field: &'static str, what: String },
}

fn invalid(field: &'static str, what: impl Into<String>) -> ManifestError {
    ManifestError::Invalid { field, what: what.into() }
}

/// Whether `path` names something inside a folder: relative, without `..`, without empty parts.
#[must_use]
pub fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 4096
        && !path.starts_with('/')
        && !path.contains('\0')
        && path.split('/').all(|part| !part.is_empty() && part != "..")
}

/// Whether a text names a folder right in an app's data. Not one further down: who has the folder above it mounted could put a link in its place, which is
/// followed with the rights of the runner.
#[must_use]
pub fn is_data_folder(name: &str) -> bool {
    is_inside(name) && !name.contains('/') && name != "."
}

impl Manifest {
    /// Reads a manifest's exact bytes. The caller has checked the signature over the same bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge);
        }
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| ManifestError::Unsupported(error.to_string()))?;
        if manifest.schema != MANIFEST_SCHEMA {
            return Err(ManifestError::Unsupported(format!("schema {:?}", manifest.schema)));
        }
        manifest.check()?;
        Ok(manifest)
    }

    /// The artifact for a platform: the exact variant if there is one, else the entry without a variant.
    #[must_use]
    pub fn artifact_for(&self, os: &str, arch: &str, variant: &str) -> Option<&ArtifactRef> {
        let of = |wanted: &str| {
            self.platforms
                .iter()
                .find(|p| p.os == os && p.arch == arch && p.variant == wanted)
                .map(|p| &p.artifact)
        };
        of(variant).or_else(|| of(""))
    }

    /// Images that a registry has, each once.
    #[must_use]
    pub fn registry_images(&self) -> Vec<ImageRef> {
        let one = self.run.container.iter().map(|container| container.image.clone());
        let services = self.run.compose.iter().filter_map(|compose| compose.services().ok()).flatten();
        let all = one.chain(services.map(|service| service.container.image));
        let mut found: Vec<_> = all.filter_map(|image| ImageRef::find(&image).ok().flatten()).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    fn check(&self) -> Result<(), ManifestError> {
        if self.floor.as_ref().is_some_and(|floor| *floor > self.version) {
            return Err(invalid("floor", "is above the release's own version"));
        }
        if self.platforms.is_empty() || self.platforms.len() > 64 {
            return Err(invalid("platforms", "a release has 1 to 64 platforms"));
        }
        for (index, platform) in self.platforms.iter().enumerate() {
            if platform.artifact.size == 0 || platform.artifact.size > MAX_ARTIFACT_BYTES {
                return Err(invalid("platforms.artifact.size", format!("must be 1 to {MAX_ARTIFACT_BYTES}")));
            }
            let same = |other: &Platform| {
                other.os == platform.os && other.arch == platform.arch && other.variant == platform.variant
            };
            if self.platforms.iter().take(index).any(same) {
                return Err(invalid("platforms", "names the same os, arch and variant twice"));
            }
        }
        self.run.check()?;
        if self.health.len() > 16 {
            return Err(invalid("health", "a release has at most 16 checks"));
        }
        for check in &self.health {
            check.check(self.run.kind)?;
        }
        if let Some(slots) = &self.run.slots {
            slots.check(&self.run, &self.health)?;
        }
        if let Some(isolation) = &self.run.isolation {
            isolation.check_manifest(&self.health)?;
        }
        let day = 24 * 3600;
        if self.soak_seconds > day || self.start_timeout_seconds == 0 || self.start_timeout_seconds > day {
            return Err(invalid(
                "soakSeconds",
                "soak and start timeout are at most a day; the start timeout is not 0",
            ));
        }
        Ok(())
    }
}

impl Run {
    /// Whether the release's folder holds the program that `command` names.
    #[must_use]
    pub fn has_program(&self) -> bool {
        match self.kind {
            Kind::Process | Kind::Installer => true,
            Kind::Systemd => self.unit.as_ref().is_none_or(|unit| unit.installed.is_none()),
            Kind::Container | Kind::Compose | Kind::Files | Kind::Manifest => false,
        }
    }

    fn check(&self) -> Result<(), ManifestError> {
        self.check_sections()?;
        let program = self.command.first().map_or("", String::as_str);
        if self.has_program() {
            if !is_inside(program) {
                return Err(invalid(
                    "run.command",
                    "the program is a relative path inside the release's folder",
                ));
            }
        } else if self.kind != Kind::Container && !self.command.is_empty() {
            return Err(invalid("run.command", format!("an app of kind {} has none", self.kind)));
        }
        if self.command.len() > 256
            || self.command.iter().any(|part| part.len() > 4096 || part.contains('\0'))
        {
            return Err(invalid("run.command", "has at most 256 parts of at most 4096 characters"));
        }
        for (key, value) in &self.env {
            crate::config::check_pair(key, value).map_err(|error| invalid("run.env", error.to_string()))?;
        }
        if self.stop_timeout_seconds > 600 {
            return Err(invalid("run.stopTimeoutSeconds", "is at most 600"));
        }
        if self.ready.is_some() && !matches!(self.kind, Kind::Process | Kind::Systemd) {
            return Err(invalid("run.ready", "is for apps of kind process or systemd"));
        }
        Ok(())
    }

    /// The section of its own kind is there and good; there is no other.
    fn check_sections(&self) -> Result<(), ManifestError> {
        let sections: [(&'static str, Kind, bool); 8] = [
            ("run.isolation", Kind::Process, self.isolation.is_some()),
            ("run.slots", Kind::Process, self.slots.is_some()),
            ("run.unit", Kind::Systemd, self.unit.is_some()),
            ("run.container", Kind::Container, self.container.is_some()),
            ("run.compose", Kind::Compose, self.compose.is_some()),
            ("run.files", Kind::Files, self.files.is_some()),
            ("run.manifest", Kind::Manifest, self.manifest.is_some()),
            ("run.installer", Kind::Installer, self.installer.is_some()),
        ];
        for (field, kind, is_there) in sections {
            if is_there && kind != self.kind {
                return Err(invalid(
                    field,
                    format!("is for apps of kind {kind}, and this one is {}", self.kind),
                ));
            }
            // What a unit or an installer needs beyond its command has defaults.
            if !is_there
                && kind == self.kind
                && !matches!(kind, Kind::Process | Kind::Systemd | Kind::Installer)
            {
                return Err(invalid(field, format!("an app of kind {kind} needs it")));
            }
        }
        self.unit.as_ref().map_or(Ok(()), Unit::check)?;
        self.container.as_ref().map_or(Ok(()), Container::check)?;
        self.compose.as_ref().map_or(Ok(()), |compose| compose.services().map(drop))?;
        self.files.as_ref().map_or(Ok(()), Files::check)?;
        self.manifest.as_ref().map_or(Ok(()), Objects::check)?;
        self.installer.as_ref().map_or(Ok(()), Installer::check)
    }
}

impl HealthCheck {
    fn check(&self, kind: Kind) -> Result<(), ManifestError> {
        if self.interval_seconds == 0 || self.timeout_seconds == 0 || self.failure_threshold == 0 {
            return Err(invalid("health", "intervalSeconds, timeoutSeconds and failureThreshold are not 0"));
        }
        if self.interval_seconds > 3600 || self.timeout_seconds > 300 || self.failure_threshold > 100 {
            return Err(invalid(
                "health",
                "intervalSeconds ≤ 3600, timeoutSeconds ≤ 300, failureThreshold ≤ 100",
            ));
        }
        match &self.probe {
            Probe::Http { port, path } => {
                port.check()?;
                let plain = path.bytes().all(|b| (0x21..0x7f).contains(&b));
                if !path.starts_with('/') || path.len() > 1024 || !plain {
                    return Err(invalid(
                        "health.path",
                        "starts with '/' and holds printable ASCII, 1024 characters at most",
                    ));
                }
            }
            Probe::Tcp { port } => port.check()?,
            // Inside a container there are other paths than the release's.
            Probe::Command { command } if kind == Kind::Container => {
                if command.first().is_none_or(String::is_empty) {
                    return Err(invalid("health.command", "names a program"));
                }
            }
            Probe::Command { .. } if kind == Kind::Compose => {
                return Err(invalid("health.command", "is the healthcheck of the service it belongs to"));
            }
            Probe::Command { command } => {
                if !is_inside(command.first().map_or("", String::as_str)) {
                    return Err(invalid(
                        "health.command",
                        "the program is a relative path inside the release's folder",
                    ));
                }
            }
        }
        Ok(())
    }
}

impl Port {
    /// The port number, looked up in the app's environment where it is a variable.
    #[must_use]
    pub fn resolve(&self, env: &BTreeMap<String, String>) -> Option<u16> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Variable(text) => env.get(text.strip_prefix('$')?)?.parse().ok(),
        }
        .filter(|port| *port != 0)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let good = match self {
            Self::Number(number) => *number != 0,
            Self::Variable(text) => text.strip_prefix('$').is_some_and(crate::config::is_variable),
        };
        if good {
            Ok(())
        } else {
            Err(invalid("health.port", "is 1 to 65535, or \"$NAME\" of an environment variable"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> serde_json::Value {
        serde_json::json!({
            "schema": MANIFEST_SCHEMA, "tenant": "acme", "app": "edge-web", "version": "1.1", "floor": "1.0",
            "platforms": [{"os": "linux", "arch": "x86_64", "artifact": {"digest": Digest::of(b"x"), "size": 1, "format": "tar.gz"}}],
            "run": {"command": ["bin/edge-web-service", "--port", "${PORT}"], "env": {"PORT": "8080"}},
            "health": [{"name": "web", "probe": {"type": "http", "port": "$PORT", "path": "/healthz"}}]
        })
    }

    fn parse(value: &serde_json::Value) -> Result<Manifest, ManifestError> {
        Manifest::parse(&serde_json::to_vec(value).unwrap())
    }

    #[test]
    fn a_plain_manifest_is_read_with_its_defaults() {
        let manifest = parse(&manifest()).unwrap();
        assert_eq!((manifest.soak_seconds, manifest.restart.max_restarts), (10, 3));
        assert_eq!(manifest.artifact_for("linux", "x86_64", "v3").unwrap().size, 1);
        assert!(manifest.artifact_for("linux", "aarch64", "").is_none());
    }

    #[test]
    fn what_is_not_known_is_unsupported_and_never_half_obeyed() {
        let mut newer = manifest();
        newer["sandbox"] = serde_json::json!("strict");
        assert!(matches!(parse(&newer), Err(ManifestError::Unsupported(_))));
        let mut newer = manifest();
        newer["schema"] = serde_json::json!("farshore.dev/release/v2");
        assert!(matches!(parse(&newer), Err(ManifestError::Unsupported(_))));
        let mut newer = manifest();
        newer["health"][0]["probe"]["type"] = serde_json::json!("grpc");
        assert!(matches!(parse(&newer), Err(ManifestError::Unsupported(_))));
    }

    #[test]
    fn what_would_reach_out_of_the_release_is_refused() {
        for program in ["/bin/sh", "../x", "bin/../../x", "", "a//b", "a\0b"] {
            let mut bad = manifest();
            bad["run"]["command"][0] = serde_json::json!(program);
            assert!(parse(&bad).is_err(), "{program:?}");
        }
        for (key, value) in [("LD_PRELOAD", "x"), ("PATH", "/x"), ("a b", "x")] {
            let mut bad = manifest();
            bad["run"]["env"][key] = serde_json::json!(value);
            assert!(parse(&bad).is_err(), "{key}");
        }
    }

    #[test]
    fn a_plain_manifest_is_written_as_before_there_were_kinds() {
        let written = serde_json::to_value(parse(&manifest()).unwrap()).unwrap();
        let keys: Vec<_> = written["run"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["command", "env", "limits", "stopTimeoutSeconds"]);
    }

    fn of_kind(run: serde_json::Value) -> Result<Manifest, ManifestError> {
        let mut value = manifest();
        value["run"] = run;
        value["health"] = serde_json::json!([]);
        parse(&value)
    }

    #[test]
    fn each_kind_has_its_own_section_and_no_other() {
        let good = [
            serde_json::json!({"kind": "process", "command": ["bin/x"], "ready": "notify"}),
            serde_json::json!({"kind": "systemd", "command": ["bin/x"]}),
            serde_json::json!({"kind": "systemd", "unit": {"installed": "nginx.service"}}),
            serde_json::json!({"kind": "container", "container": {"image": ".", "devices": ["nvidia.com/gpu=all"],
                "mounts": [{"source": "state", "target": "/state"}]}, "command": ["/bin/x"]}),
            serde_json::json!({"kind": "compose", "compose": {"images": {"a": "a"}, "services": {"a": {"image": "a"}}}}),
            serde_json::json!({"kind": "files", "files": {"entries": [{"source": "x", "target": "/etc/x", "mode": "0640"}]}}),
            serde_json::json!({"kind": "manifest", "manifest": {"objects": ["a.json"], "namespace": "default"}}),
            serde_json::json!({"kind": "installer", "command": ["bin/install"], "user": "root"}),
        ];
        for run in good {
            let manifest = of_kind(run.clone()).unwrap_or_else(|error| panic!("{run}: {error}"));
            let again = Manifest::parse(&serde_json::to_vec(&manifest).unwrap()).unwrap();
            assert_eq!(again, manifest);
        }
        let bad = [
            (serde_json::json!({"kind": "vm", "command": ["bin/x"]}), "vm"),
            (serde_json::json!({"command": []}), "run.command"),
            (serde_json::json!({"kind": "container"}), "run.container"),
            (
                serde_json::json!({"kind": "process", "command": ["bin/x"], "container": {"image": "."}}),
                "run.container",
            ),
            (serde_json::json!({"kind": "container", "container": {"image": "../x"}}), "image"),
            (
                serde_json::json!({"kind": "container", "container": {"image": ".", "privileged": true}}),
                "privileged",
            ),
            (
                serde_json::json!({"kind": "container", "container": {"image": ".", "devices": ["/dev/sda"]}}),
                "devices",
            ),
            (
                serde_json::json!({"kind": "container", "container": {"image": ".", "mounts": [{"source": "/a/../b", "target": "/x"}]}}),
                "mounts",
            ),
            (
                serde_json::json!({"kind": "container", "container": {"image": ".", "mounts": [{"source": "a/b", "target": "/x"}]}}),
                "mounts",
            ),
            (
                serde_json::json!({"kind": "container", "container": {"image": ".", "mounts": [{"source": ".", "target": "/x"}]}}),
                "mounts",
            ),
            (serde_json::json!({"kind": "systemd", "unit": {"installed": "a/b.service"}}), "installed"),
            (
                serde_json::json!({"kind": "files", "files": {"entries": [{"source": "x", "target": "etc/x"}]}}),
                "target",
            ),
            (
                serde_json::json!({"kind": "files", "files": {"entries": [{"source": "x", "target": "/etc/../x"}]}}),
                "target",
            ),
            (
                serde_json::json!({"kind": "files", "files": {"entries": [{"source": "x", "target": "/x", "mode": "4755"}]}}),
                "mode",
            ),
            (
                serde_json::json!({"kind": "files", "files": {"entries": [{"source": "x", "target": "/x"}], "reload": ["/bin/sh"]}}),
                "validate",
            ),
            (
                serde_json::json!({"kind": "files", "command": ["bin/x"], "files": {"entries": [{"source": "x", "target": "/x"}]}}),
                "run.command",
            ),
            (serde_json::json!({"kind": "installer", "command": ["bin/x"], "user": "www-data"}), "www-data"),
            (serde_json::json!({"kind": "installer", "command": ["bin/x"], "ready": "notify"}), "run.ready"),
        ];
        for (run, expect) in bad {
            let error = of_kind(run.clone()).expect_err(&run.to_string()).to_string();
            assert!(error.contains(expect), "{run}: {error}");
        }
    }
}
