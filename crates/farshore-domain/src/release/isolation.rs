//! How far an app of kind `process` is kept apart from the rest of the device: namespaces, the view of the file system, system calls.
//!
//! A release asks for it in its manifest, a policy demands it of every app of a device; the stricter of the two counts, for each value. A device that can't give
//! what is asked does not run the app: it is never run with less.

use serde::{Deserialize, Serialize};

use super::{HealthCheck, ManifestError, Probe, invalid};

/// At most so many paths in one list.
const MAX_PATHS: usize = 16;

/// The word in `hello` for a process number space of its own.
pub const PID_CAPABILITY: &str = "isolation/pid";
/// The word for a view of the file system of its own.
pub const MOUNT_CAPABILITY: &str = "isolation/mount";
pub const IPC_CAPABILITY: &str = "isolation/ipc";
pub const UTS_CAPABILITY: &str = "isolation/uts";
pub const NETWORK_CAPABILITY: &str = "isolation/network";
pub const SECCOMP_CAPABILITY: &str = "isolation/seccomp";

/// Whose namespace an app is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Namespace {
    /// The device's.
    Host,
    /// One of its own.
    Private,
}

/// What network an app has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = AppNetwork))]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// The device's.
    Host,
    /// None but a loopback of its own.
    None,
}

/// Which system calls an app may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = SeccompProfile))]
#[serde(rename_all = "kebab-case")]
pub enum Seccomp {
    /// All of them.
    None,
    /// Those that change the device, load code into the kernel or look into other processes fail with `EPERM`.
    Default,
    /// Those end the app; whatever ordinary programs do not need fails with `ENOSYS`.
    Strict,
}

/// What an app is kept apart from. What is left out stays as it is without: the device's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Isolation {
    /// `private`: it sees and signals only its own processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<Namespace>,
    /// `private`: shared memory, semaphores and message queues of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipc: Option<Namespace>,
    /// `private`: a host name of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uts: Option<Namespace>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// The file system can't be written but for the app's data folder, `/dev`, `/proc`, `/sys` and `writablePaths`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only_root: Option<bool>,
    /// `/tmp` and `/var/tmp` of its own, in memory, gone with the instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_tmp: Option<bool>,
    /// Absolute paths it can't see into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masked_paths: Option<Vec<String>>,
    /// Absolute paths that stay writable with `readOnlyRoot`, as far as the app's user may. In a policy: those that releases may ask for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writable_paths: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp>,
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Isolation {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The stricter one of this, a release's, and what the policy of the device demands.
    #[must_use]
    pub fn tightened(&self, policy: &Self) -> Self {
        let paths = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let mut masked = paths(&self.masked_paths);
        masked.extend(paths(&policy.masked_paths));
        masked.sort();
        masked.dedup();
        let mut writable = paths(&self.writable_paths);
        if policy.read_only_root == Some(true) {
            let allowed = paths(&policy.writable_paths);
            writable.retain(|path| allowed.iter().any(|folder| is_below(path, folder)));
        }
        let some = |list: Vec<String>| Some(list).filter(|list| !list.is_empty());
        Self {
            pid: self.pid.max(policy.pid),
            ipc: self.ipc.max(policy.ipc),
            uts: self.uts.max(policy.uts),
            network: self.network.max(policy.network),
            read_only_root: self.read_only_root.max(policy.read_only_root),
            private_tmp: self.private_tmp.max(policy.private_tmp),
            masked_paths: some(masked),
            writable_paths: some(writable),
            seccomp: self.seccomp.max(policy.seccomp),
        }
    }

    /// Whether an instance that is kept apart like this has less than the policy demands. Values that come to the same are no difference.
    #[must_use]
    pub fn falls_short_of(&self, policy: &Self) -> bool {
        let wanted = self.tightened(policy);
        // A list that is longer hides more; one of what may be written, less.
        self.needs() != wanted.needs()
            || self.seccomp() != wanted.seccomp()
            || self.read_only_root.unwrap_or(false) != wanted.read_only_root.unwrap_or(false)
            || self.private_tmp.unwrap_or(false) != wanted.private_tmp.unwrap_or(false)
            || self.masked_paths.iter().flatten().count() != wanted.masked_paths.iter().flatten().count()
            || self.writable_paths.iter().flatten().count() != wanted.writable_paths.iter().flatten().count()
    }

    #[must_use]
    pub fn has_pid(&self) -> bool {
        self.pid == Some(Namespace::Private)
    }

    #[must_use]
    pub fn has_ipc(&self) -> bool {
        self.ipc == Some(Namespace::Private)
    }

    #[must_use]
    pub fn has_uts(&self) -> bool {
        self.uts == Some(Namespace::Private)
    }

    #[must_use]
    pub fn has_no_network(&self) -> bool {
        self.network == Some(Network::None)
    }

    /// Whether it needs a view of the file system of its own: also for a `/proc` that shows its own processes, and its own `/dev/shm`.
    #[must_use]
    pub fn has_mounts(&self) -> bool {
        self.has_pid()
            || self.has_ipc()
            || self.read_only_root == Some(true)
            || self.private_tmp == Some(true)
            || self.masked_paths.as_ref().is_some_and(|paths| !paths.is_empty())
    }

    #[must_use]
    pub fn seccomp(&self) -> Seccomp {
        self.seccomp.unwrap_or(Seccomp::None)
    }

    /// What it comes to, for people; empty: the app shares everything with the device.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let hidden = self.masked_paths.as_ref().map_or(0, Vec::len);
        let seccomp = match self.seccomp() {
            Seccomp::None => None,
            Seccomp::Default => Some("seccomp: default"),
            Seccomp::Strict => Some("seccomp: strict"),
        };
        [
            self.has_pid().then_some("own processes"),
            self.has_ipc().then_some("own shared memory"),
            self.has_uts().then_some("own host name"),
            self.has_no_network().then_some("no network"),
            (self.read_only_root == Some(true)).then_some("read-only file system"),
            (self.private_tmp == Some(true)).then_some("own /tmp"),
            seccomp,
        ]
        .into_iter()
        .flatten()
        .map(str::to_owned)
        .chain(
            (hidden > 0)
                .then(|| if hidden == 1 { "1 hidden path".into() } else { format!("{hidden} hidden paths") }),
        )
        .collect()
    }

    /// The words that a device must have said in `hello`.
    #[must_use]
    pub fn needs(&self) -> Vec<&'static str> {
        [
            (self.has_pid(), PID_CAPABILITY),
            (self.has_mounts(), MOUNT_CAPABILITY),
            (self.has_ipc(), IPC_CAPABILITY),
            (self.has_uts(), UTS_CAPABILITY),
            (self.has_no_network(), NETWORK_CAPABILITY),
            (self.seccomp() != Seccomp::None, SECCOMP_CAPABILITY),
        ]
        .into_iter()
        .filter_map(|(needed, word)| needed.then_some(word))
        .collect()
    }

    /// What the types can't say; the field's name within this section, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        for (field, paths) in [("maskedPaths", &self.masked_paths), ("writablePaths", &self.writable_paths)] {
            let paths = paths.as_deref().unwrap_or_default();
            if paths.len() > MAX_PATHS {
                return Err((field, "has at most 16 paths"));
            }
            let good = |path: &String| {
                let inner = path.strip_prefix('/').unwrap_or_default();
                super::is_inside(inner) && inner.split('/').all(|part| part != ".")
            };
            if !paths.iter().all(good) {
                return Err((
                    field,
                    "has absolute paths below /, without . and .. and without a / at the end",
                ));
            }
        }
        Ok(())
    }

    /// Whether a check would ask over a network that the app does not have.
    #[must_use]
    pub fn cuts_off(&self, health: &[HealthCheck]) -> bool {
        self.has_no_network() && health.iter().any(|check| !matches!(check.probe, Probe::Command { .. }))
    }

    pub(super) fn check_manifest(&self, health: &[HealthCheck]) -> Result<(), ManifestError> {
        self.check().map_err(|(field, what)| invalid("run.isolation", format!("{field} {what}")))?;
        if self.writable_paths.is_some() && self.read_only_root != Some(true) {
            return Err(invalid(
                "run.isolation",
                "writablePaths says what readOnlyRoot: true leaves writable",
            ));
        }
        if self.cuts_off(health) {
            let what =
                "an app without a network has health checks of type command only: they run where the app is";
            return Err(invalid("health.type", what));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn isolation(value: serde_json::Value) -> Isolation {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn words_say_what_is_kept_apart() {
        let isolation: Isolation = serde_json::from_str(
            r#"{"pid":"private","ipc":"host","network":"none","privateTmp":true,"readOnlyRoot":false,"seccomp":"strict","maskedPaths":["/home","/root"]}"#,
        )
        .unwrap();
        assert_eq!(
            isolation.words(),
            ["own processes", "no network", "own /tmp", "seccomp: strict", "2 hidden paths"]
        );
        assert!(Isolation::default().words().is_empty());
    }

    #[test]
    fn the_stricter_one_counts_for_each_value() {
        let none = Isolation::default();
        assert!(none.tightened(&none).is_empty() && none.needs().is_empty());
        let own = isolation(
            json!({"pid": "host", "seccomp": "strict", "maskedPaths": ["/home"], "privateTmp": false}),
        );
        let policy = isolation(json!({
            "pid": "private", "network": "none", "seccomp": "default", "maskedPaths": ["/etc/farshore"], "privateTmp": true,
        }));
        let both = isolation(json!({
            "pid": "private", "network": "none", "seccomp": "strict", "maskedPaths": ["/etc/farshore", "/home"], "privateTmp": true,
        }));
        assert_eq!(own.tightened(&policy), both);
        assert_eq!(both.needs(), [PID_CAPABILITY, MOUNT_CAPABILITY, NETWORK_CAPABILITY, SECCOMP_CAPABILITY]);
        // What the policy loosens is what the release asked for.
        assert_eq!(
            both.tightened(&isolation(json!({"pid": "host", "network": "host", "seccomp": "none"}))),
            both
        );
    }

    #[test]
    fn a_policy_that_demands_a_read_only_root_says_what_may_be_written() {
        let own = isolation(
            json!({"readOnlyRoot": true, "writablePaths": ["/srv/spool/web", "/srv/spoolish", "/var"]}),
        );
        let policy = isolation(json!({"readOnlyRoot": true, "writablePaths": ["/srv/spool"]}));
        assert_eq!(own.tightened(&policy).writable_paths, Some(vec!["/srv/spool/web".to_owned()]));
        assert_eq!(own.tightened(&isolation(json!({"readOnlyRoot": true}))).writable_paths, None);
        assert_eq!(own.tightened(&Isolation::default()), own);
    }

    #[test]
    fn an_instance_falls_short_of_what_the_policy_demands_more_by_now() {
        let started = isolation(json!({
            "pid": "private", "seccomp": "default", "maskedPaths": ["/home"], "readOnlyRoot": true, "writablePaths": ["/srv/a"],
        }));
        for more in [
            json!({"ipc": "private"}),
            json!({"uts": "private"}),
            json!({"network": "none"}),
            json!({"privateTmp": true}),
            json!({"seccomp": "strict"}),
            json!({"maskedPaths": ["/root"]}),
            json!({"readOnlyRoot": true, "writablePaths": ["/srv/b"]}),
        ] {
            let policy = isolation(more);
            assert!(started.falls_short_of(&policy), "{policy:?}");
            assert!(!started.tightened(&policy).falls_short_of(&policy), "{policy:?}");
        }
        for same in [
            json!({}),
            json!({"pid": "private", "seccomp": "none", "network": "host", "ipc": "host", "privateTmp": false}),
            json!({"maskedPaths": ["/home"], "readOnlyRoot": true, "writablePaths": ["/srv"]}),
        ] {
            assert!(!started.falls_short_of(&isolation(same)));
        }
        let none = isolation(json!({"readOnlyRoot": true}));
        assert!(Isolation::default().falls_short_of(&none));
    }

    #[test]
    fn paths_are_absolute_and_few() {
        for bad in ["", "/", "srv", "/srv/", "/srv/../etc", "/srv//x", "/./srv", "/a\0b"] {
            assert!(isolation(json!({"maskedPaths": [bad]})).check().is_err(), "{bad:?}");
        }
        assert!(isolation(json!({"writablePaths": vec!["/srv"; 17]})).check().is_err());
        assert_eq!(isolation(json!({"writablePaths": ["/srv/a b", "/var/spool"]})).check(), Ok(()));
    }
}
