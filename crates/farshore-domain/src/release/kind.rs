//! What kinds of app there are, and what each one's section of the manifest says.
//!
//! A device says in `hello` which kinds it can run (`executor/<kind>`); a release of another kind is `unsupported` there, visibly.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::image::ImageRef;
use super::{ManifestError, invalid, is_data_folder, is_inside};

/// Who runs an app, and what a release of it is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = AppKind))]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A program of the release, below a supervisor of the agent.
    #[default]
    Process,
    /// A unit of systemd, over D-Bus.
    Systemd,
    /// A container of containerd, from an OCI image inside the release.
    Container,
    /// Several containers that belong together.
    Compose,
    /// Files that are put into place, checked first, and taken back.
    Files,
    /// Objects that are applied to the device's Kubernetes.
    Manifest,
    /// Anything else, by a program of the release.
    Installer,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Process,
        Self::Systemd,
        Self::Container,
        Self::Compose,
        Self::Files,
        Self::Manifest,
        Self::Installer,
    ];

    /// As it is written in a manifest.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Systemd => "systemd",
            Self::Container => "container",
            Self::Compose => "compose",
            Self::Files => "files",
            Self::Manifest => "manifest",
            Self::Installer => "installer",
        }
    }

    /// The word in `hello` that says that a device can run it.
    #[must_use]
    pub fn capability(self) -> String {
        format!("executor/{}", self.as_str())
    }

    #[must_use]
    pub(crate) fn is_process(&self) -> bool {
        *self == Self::Process
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whom an app runs as, where that is not a user of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RunUser {
    /// Only where the device's own settings name the app, too.
    Root,
}

/// When a process counts as started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Ready {
    /// When it says `READY=1` to the socket in `NOTIFY_SOCKET`, as `sd_notify(3)` does.
    Notify,
}

/// Kind `systemd`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Unit {
    /// A unit that is installed on the device and named in its settings. Left out: a transient unit that runs `run.command`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed: Option<String>,
}

/// Kind `container`. `run.command` replaces the image's entrypoint and command; left out, they are used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Container {
    /// The folder of the OCI image layout inside the release, `.` when the artifact is one itself; or an image of a registry,
    /// `registry/name@sha256:…`, which the device fetches itself.
    pub image: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// CDI names of devices, such as `nvidia.com/gpu=all`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    #[serde(default)]
    pub network: Network,
    /// What of a network of its own can be reached at the device's ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Published>,
    /// The root file system can't be written.
    #[serde(default)]
    pub read_only: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_folder: Option<String>,
}

/// A folder of the device in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// A relative path is inside the app's data folder; an absolute one must be allowed by the device's settings.
    pub source: String,
    pub target: String,
    #[serde(default)]
    pub read_only: bool,
}

/// A container's network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = ContainerNetwork))]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// The device's own: what it listens on is the device's port.
    #[default]
    Host,
    /// One of its own behind the device's: an address on a bridge, and only the published ports from outside.
    Bridge,
    /// Only a loopback of its own.
    None,
}

impl Network {
    pub(crate) fn is_host(&self) -> bool {
        *self == Self::Host
    }
}

/// A port of a container that can be reached at a port of the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = PublishedPort))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Published {
    /// The device's port.
    pub port: u16,
    /// The container's; the same when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<u16>,
    #[serde(default)]
    pub protocol: Protocol,
    /// Only at this IPv4 address of the device, such as `127.0.0.1`; at all of them when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub address: Option<std::net::Ipv4Addr>,
}

impl Published {
    /// The container's port.
    #[must_use]
    pub fn inside(&self) -> u16 {
        self.target.unwrap_or(self.port)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = PortProtocol))]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

impl Protocol {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Kind `files`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Files {
    pub entries: Vec<FileEntry>,
    /// Run before anything goes live; must exit with 0. The rendered files lie below `$FARSHORE_FILES`, each at its own path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub validate: Vec<String>,
    /// Run after they went live; must exit with 0, or everything is taken back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reload: Vec<String>,
    /// How long each of the two may take.
    #[serde(default = "default_hook")]
    pub timeout_seconds: u32,
}

fn default_hook() -> u32 {
    60
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileEntry {
    /// Inside the release's folder.
    pub source: String,
    /// Where it goes: an absolute path below a folder that the device's settings allow.
    pub target: String,
    /// Octal, such as `"0640"`.
    #[serde(default = "default_mode")]
    pub mode: String,
    /// A user's name or number; root when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Replace `${NAME}` by the value of that name; a name without a value is an error.
    #[serde(default)]
    pub template: bool,
}

fn default_mode() -> String {
    "0644".to_owned()
}

impl FileEntry {
    /// The mode as a number.
    #[must_use]
    pub fn mode(&self) -> Option<u32> {
        let octal =
            (3..=4).contains(&self.mode.len()) && self.mode.bytes().all(|b| (b'0'..=b'7').contains(&b));
        u32::from_str_radix(&self.mode, 8).ok().filter(|mode| octal && *mode <= 0o777)
    }
}

/// Kind `manifest`: objects for the device's Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = KubernetesObjects))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Objects {
    /// JSON files inside the release's folder, each one object or a `List`; applied in this order.
    pub objects: Vec<String>,
    /// For objects that name none.
    pub namespace: String,
}

/// Kind `installer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Installer {
    /// How long each step may take.
    #[serde(default = "default_step")]
    pub timeout_seconds: u32,
    /// How often it is asked what is installed.
    #[serde(default = "default_look")]
    pub inventory_seconds: u32,
}

fn default_step() -> u32 {
    600
}
fn default_look() -> u32 {
    300
}

/// An absolute path without `..`, without empty parts.
fn is_absolute(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|rest| is_inside(rest) && rest.split('/').all(|part| part != "."))
}

impl Unit {
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        let plain = |name: &str| {
            name.len() <= 256
                && name.ends_with(".service")
                && name.len() > ".service".len()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@:\\".contains(&b))
        };
        match &self.installed {
            Some(name) if !plain(name) => {
                Err(invalid("run.unit.installed", "is the name of a service, such as nginx.service"))
            }
            _ => Ok(()),
        }
    }
}

impl Container {
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        let field = "run.container.image";
        let from_registry = ImageRef::find(&self.image).map_err(|what| invalid(field, what))?.is_some();
        if !from_registry && self.image != "." && !is_inside(&self.image) {
            return Err(invalid(
                field,
                "is a relative path inside the release's folder, or registry/name@sha256:…",
            ));
        }
        if self.mounts.len() > 64 || self.devices.len() > 64 {
            return Err(invalid("run.container", "has at most 64 mounts and 64 devices"));
        }
        for mount in &self.mounts {
            if !is_absolute(&mount.target) {
                return Err(invalid("run.container.mounts.target", "is an absolute path"));
            }
            if !is_absolute(&mount.source) && !is_data_folder(&mount.source) {
                return Err(invalid(
                    "run.container.mounts.source",
                    "is the name of a folder in the app's data, or an absolute path that the device allows",
                ));
            }
        }
        for device in &self.devices {
            let parts = device.split_once('=').and_then(|(kind, name)| Some((kind.split_once('/')?, name)));
            let good = parts.is_some_and(|((vendor, class), name)| {
                [vendor, class, name].iter().all(|part| {
                    !part.is_empty()
                        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
                })
            });
            if !good || device.len() > 256 {
                return Err(invalid("run.container.devices", "is a CDI name, such as nvidia.com/gpu=all"));
            }
        }
        self.check_ports()?;
        match &self.working_folder {
            Some(path) if path != "/" && !is_absolute(path) => {
                Err(invalid("run.container.workingFolder", "is an absolute path"))
            }
            _ => Ok(()),
        }
    }
}

impl Container {
    fn check_ports(&self) -> Result<(), ManifestError> {
        let field = "run.container.ports";
        if !self.ports.is_empty() && self.network != Network::Bridge {
            return Err(invalid(
                field,
                "are published with network: bridge; with host, what it listens on is the device's port",
            ));
        }
        if self.ports.len() > 64 {
            return Err(invalid(field, "are at most 64"));
        }
        let mut seen = Vec::new();
        for port in &self.ports {
            if port.port == 0 || port.target == Some(0) {
                return Err(invalid(field, "are 1 to 65535"));
            }
            seen.push((port.protocol, port.port));
        }
        match published_twice(&mut seen) {
            Some((protocol, port)) => {
                Err(invalid(field, format!("{}/{port} is published twice", protocol.as_str())))
            }
            None => Ok(()),
        }
    }
}

/// The first port that is there twice.
pub(super) fn published_twice(ports: &mut [(Protocol, u16)]) -> Option<(Protocol, u16)> {
    ports.sort_unstable();
    ports.windows(2).find_map(|pair| match pair {
        [one, other] if one == other => Some(*one),
        _ => None,
    })
}

impl Files {
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        if self.entries.is_empty() || self.entries.len() > 256 {
            return Err(invalid("run.files.entries", "a release has 1 to 256 files"));
        }
        let mut targets = BTreeMap::new();
        for entry in &self.entries {
            if !is_inside(&entry.source) {
                return Err(invalid("run.files.source", "is a relative path inside the release's folder"));
            }
            if !is_absolute(&entry.target) {
                return Err(invalid("run.files.target", format!("{:?} is no absolute path", entry.target)));
            }
            if targets.insert(&entry.target, ()).is_some() {
                return Err(invalid("run.files.target", format!("{:?} is there twice", entry.target)));
            }
            if entry.mode().is_none() {
                return Err(invalid("run.files.mode", "is an octal number from 000 to 0777, as a string"));
            }
            for name in [&entry.owner, &entry.group].into_iter().flatten() {
                let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
                if name.is_empty() || name.len() > 64 || !plain {
                    return Err(invalid("run.files.owner", format!("{name:?} is no user or group")));
                }
            }
        }
        for command in [&self.validate, &self.reload] {
            if command.first().is_some_and(|program| !is_inside(program)) {
                return Err(invalid(
                    "run.files.validate",
                    "validate and reload name a program by a relative path inside the release's folder",
                ));
            }
        }
        if self.timeout_seconds == 0 || self.timeout_seconds > 3600 {
            return Err(invalid("run.files.timeoutSeconds", "is 1 to 3600"));
        }
        Ok(())
    }
}

impl Objects {
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        if self.objects.is_empty()
            || self.objects.len() > 64
            || !self.objects.iter().all(|path| is_inside(path))
        {
            return Err(invalid(
                "run.manifest.objects",
                "names 1 to 64 files by relative paths inside the release's folder",
            ));
        }
        let label = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if self.namespace.is_empty() || self.namespace.len() > 63 || !self.namespace.bytes().all(label) {
            return Err(invalid("run.manifest.namespace", "is the name of a Kubernetes namespace"));
        }
        Ok(())
    }
}

impl Installer {
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        let day = 24 * 3600;
        let good = |seconds: u32| seconds > 0 && seconds <= day;
        if good(self.timeout_seconds) && good(self.inventory_seconds) {
            Ok(())
        } else {
            Err(invalid("run.installer", "timeoutSeconds and inventorySeconds are 1 to 86400"))
        }
    }
}
