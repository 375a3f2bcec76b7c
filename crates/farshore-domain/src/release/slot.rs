//! Two places for an app, so that a new release is started and checked beside the one that runs before anything goes to it.

use serde::{Deserialize, Serialize};

use super::{HealthCheck, ManifestError, Port, Probe, Run, invalid, is_inside};

/// The word in `hello` that says that a device can keep two instances of an app beside each other for a while.
pub const SLOTS_CAPABILITY: &str = "blue-green/v1";
/// The variable that holds the port of the slot that an instance was started in.
pub const PORT: &str = "PORT";
/// The variable that holds the name of the slot.
pub const SLOT: &str = "FARSHORE_SLOT";
/// The variable that names the file in which the current slot stands.
pub const CURRENT: &str = "FARSHORE_CURRENT";

/// One of the two places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Slot {
    Blue,
    Green,
}

impl Slot {
    pub const BOTH: [Self; 2] = [Self::Blue, Self::Green];

    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Green => "green",
        }
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a device goes from one release of an app to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// The old one is stopped, then the new one is started.
    Replace,
    /// The new one is started beside the old one and checked; then the traffic goes to it, and the old one is kept running for the soak.
    BlueGreen,
}

impl std::fmt::Display for Activation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Replace => "replace",
            Self::BlueGreen => "blue-green",
        })
    }
}

/// For kind `process`: the app can run twice, each time on a port of its own, which it gets as `PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Slots {
    /// The port of the slot `blue`.
    pub blue: u16,
    /// The port of the slot `green`.
    pub green: u16,
    /// A program of the release that sends the traffic to `PORT`; must exit with 0. It may be run more than once. Left out: whoever sends the
    /// traffic reads the file `current.env` in the app's folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub switch: Vec<String>,
    /// How long that program may take.
    #[serde(default = "default_switch")]
    pub timeout_seconds: u32,
}

fn default_switch() -> u32 {
    30
}

impl Slots {
    #[must_use]
    pub const fn port(&self, slot: Slot) -> u16 {
        match slot {
            Slot::Blue => self.blue,
            Slot::Green => self.green,
        }
    }

    pub(super) fn check(&self, run: &Run, health: &[HealthCheck]) -> Result<(), ManifestError> {
        if self.blue == 0 || self.green == 0 || self.blue == self.green {
            return Err(invalid("run.slots", "blue and green are two different ports, 1 to 65535"));
        }
        if run.env.contains_key(PORT) {
            return Err(invalid("run.env", "PORT is the port of the slot; leave it out of env"));
        }
        if self.switch.first().is_some_and(|program| !is_inside(program)) || self.switch.len() > 256 {
            return Err(invalid(
                "run.slots.switch",
                "names a program by a relative path inside the release's folder, with at most 256 parts",
            ));
        }
        if self.timeout_seconds == 0 || self.timeout_seconds > 600 {
            return Err(invalid("run.slots.timeoutSeconds", "is 1 to 600"));
        }
        if health.is_empty() {
            return Err(invalid(
                "health",
                "an app with slots has at least one check: it says when the traffic may go to the new release",
            ));
        }
        let fixed = |check: &HealthCheck| {
            matches!(
                check.probe,
                Probe::Http { port: Port::Number(_), .. } | Probe::Tcp { port: Port::Number(_) }
            )
        };
        if health.iter().any(fixed) {
            return Err(invalid(
                "health.port",
                "of an app with slots is \"$PORT\": a number would ask the instance in the other slot",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MANIFEST_SCHEMA, Manifest, ManifestError};
    use crate::digest::Digest;

    fn parse(change: impl FnOnce(&mut serde_json::Value)) -> Result<Manifest, ManifestError> {
        let mut value = serde_json::json!({
            "schema": MANIFEST_SCHEMA, "tenant": "acme", "app": "web", "version": "1.1",
            "platforms": [{"os": "linux", "arch": "x86_64", "artifact": {"digest": Digest::of(b"x"), "size": 1, "format": "tar"}}],
            "run": {"command": ["bin/web", "${PORT}"], "slots": {"blue": 8081, "green": 8082, "switch": ["bin/switch"]}},
            "health": [{"name": "web", "probe": {"type": "http", "port": "$PORT", "path": "/"}}]
        });
        change(&mut value);
        Manifest::parse(&serde_json::to_vec(&value).unwrap())
    }

    #[test]
    fn slots_are_read_and_written_again() {
        let manifest = parse(|_| {}).unwrap();
        let again = Manifest::parse(&serde_json::to_vec(&manifest).unwrap()).unwrap();
        assert_eq!(again, manifest);
        assert_eq!(manifest.run.slots.map(|slots| (slots.blue, slots.green)), Some((8081, 8082)));
    }

    #[test]
    fn what_would_meet_itself_or_could_not_be_judged_is_refused_by_field() {
        let refused = |field: &str, change: fn(&mut serde_json::Value)| {
            let error = parse(change).expect_err(field).to_string();
            assert!(error.starts_with(field), "{field}: {error}");
        };
        refused("run.slots", |v| v["run"]["slots"]["green"] = 8081.into());
        refused("run.slots", |v| v["run"]["slots"]["blue"] = 0.into());
        refused("run.slots.switch", |v| v["run"]["slots"]["switch"] = serde_json::json!(["/bin/sh"]));
        refused("run.slots.timeoutSeconds", |v| v["run"]["slots"]["timeoutSeconds"] = 0.into());
        refused("run.env", |v| v["run"]["env"] = serde_json::json!({"PORT": "1"}));
        refused("health", |v| v["health"] = serde_json::json!([]));
        refused("health.port", |v| v["health"][0]["probe"]["port"] = 8081.into());
        refused("run.slots", |v| {
            v["run"] = serde_json::json!({"kind": "systemd", "command": ["bin/x"], "slots": {"blue": 1, "green": 2}});
        });
        refused("run.slots", |v| {
            v["run"] = serde_json::json!({"kind": "installer", "command": ["bin/x"], "slots": {"blue": 1, "green": 2}});
        });
    }
}
