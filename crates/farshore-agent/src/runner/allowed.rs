//! What the device itself allows its apps beyond being plain processes: a file that only its administrator writes.
//!
//! A signed manifest alone is not enough for what reaches out of an app's own folders. Without the file nothing of it is allowed.

use std::path::{Path, PathBuf};

use farshore_domain::name::Name;
use farshore_domain::release::kind::Kind;
use serde::{Deserialize, Serialize};

use super::error::RunnerError;
use crate::file;

/// Where the file lies, unless the runner's arguments say otherwise.
pub const ALLOWED_FILE: &str = "/etc/farshore/executors.json";

/// The device's own say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Allowed {
    /// Apps that may run as root, when their manifest says so, too.
    pub root: Vec<Name>,
    /// Folders below which apps of kind `files` may put theirs.
    pub files: Vec<PathBuf>,
    pub systemd: Option<Systemd>,
    pub container: Option<Containerd>,
    pub kubernetes: Option<Kubernetes>,
}

/// Apps may be units of systemd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Systemd {
    pub bus: PathBuf,
    /// Before the app's name in the names of transient units.
    pub prefix: String,
    /// Installed units that apps may drive, such as `nginx.service`.
    pub units: Vec<String>,
}

impl Default for Systemd {
    fn default() -> Self {
        let bus = PathBuf::from("/run/dbus/system_bus_socket");
        Self { bus, prefix: "farshore-app-".to_owned(), units: Vec::new() }
    }
}

/// Apps may be containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Containerd {
    pub socket: PathBuf,
    pub namespace: String,
    pub snapshotter: String,
    /// Folders of the device that may be mounted, with all below them.
    pub mounts: Vec<PathBuf>,
    /// Kinds of CDI devices that may be given, such as `nvidia.com/gpu`.
    pub devices: Vec<String>,
    /// Where files say what CDI devices are.
    pub cdi_folders: Vec<PathBuf>,
    /// What containers with a network of their own are behind.
    pub bridge: Bridge,
}

/// The bridge of containers with a network of their own, made by CNI plugins of the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Bridge {
    /// Folders with the plugins.
    pub plugins: Vec<PathBuf>,
    /// The bridge's name among the device's interfaces.
    pub name: String,
    /// Their addresses, IPv4.
    pub subnet: String,
    /// Where it is kept who has which address; gone with the next boot, as they are.
    pub state: PathBuf,
}

impl Default for Bridge {
    fn default() -> Self {
        Self {
            plugins: ["/usr/lib/cni", "/opt/cni/bin"].map(PathBuf::from).to_vec(),
            name: "farshore0".to_owned(),
            subnet: "10.119.0.0/16".to_owned(),
            state: PathBuf::from("/run/farshore-cni"),
        }
    }
}

impl Default for Containerd {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/containerd/containerd.sock"),
            namespace: "farshore".to_owned(),
            snapshotter: "overlayfs".to_owned(),
            mounts: Vec::new(),
            devices: Vec::new(),
            cdi_folders: ["/etc/cdi", "/var/run/cdi"].map(PathBuf::from).to_vec(),
            bridge: Bridge::default(),
        }
    }
}

/// Apps may be objects of the device's Kubernetes, such as k3s.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Kubernetes {
    /// `https://host:port` of the API.
    pub server: String,
    /// The root certificate of the API, in PEM.
    pub ca_file: PathBuf,
    /// A bearer token of a service account. What that account may do is the outer bound of what apps may.
    pub token_file: PathBuf,
    /// Namespaces that apps may use.
    pub namespaces: Vec<String>,
    /// Whether apps may change what belongs to the whole cluster.
    pub cluster_scoped: bool,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            server: "https://127.0.0.1:6443".to_owned(),
            ca_file: PathBuf::from("/var/lib/rancher/k3s/server/tls/server-ca.crt"),
            token_file: PathBuf::from("/etc/farshore/kubernetes.token"),
            namespaces: Vec::new(),
            cluster_scoped: false,
        }
    }
}

impl Allowed {
    /// Reads the file; nothing is allowed where there is none.
    ///
    /// # Errors
    /// When it is there and can't be used: a typing error must not silently allow or forbid.
    pub fn load(path: &Path) -> Result<Self, RunnerError> {
        let bad = |source| RunnerError::Allowed { path: path.to_path_buf(), source };
        match file::read_capped(path, 1024 * 1024).map_err(bad)? {
            None => Ok(Self::default()),
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| bad(error.into())),
        }
    }

    /// Whether apps of this kind may run here, and what runs them is there.
    #[must_use]
    pub fn has(&self, kind: Kind) -> bool {
        match kind {
            Kind::Process | Kind::Installer => true,
            Kind::Files => !self.files.is_empty(),
            Kind::Systemd => self.systemd.as_ref().is_some_and(|systemd| systemd.bus.exists()),
            Kind::Container | Kind::Compose => {
                self.container.as_ref().is_some_and(|containerd| containerd.socket.exists())
            }
            Kind::Manifest => self
                .kubernetes
                .as_ref()
                .is_some_and(|cluster| cluster.ca_file.exists() && cluster.token_file.exists()),
        }
    }

    /// Whether apps of this kind may run here at all, whoever is there just now.
    #[must_use]
    pub fn allows(&self, kind: Kind) -> bool {
        match kind {
            Kind::Systemd => self.systemd.is_some(),
            Kind::Container | Kind::Compose => self.container.is_some(),
            Kind::Manifest => self.kubernetes.is_some(),
            _ => self.has(kind),
        }
    }

    /// Words for `hello`.
    pub(crate) fn capabilities(&self) -> Vec<String> {
        Kind::ALL.into_iter().filter(|kind| self.has(*kind)).map(Kind::capability).collect()
    }
}

/// Whether a path, with its links followed, is one of the folders or below one.
pub(crate) fn is_below(path: &Path, folders: &[PathBuf]) -> bool {
    folders.iter().any(|folder| folder.canonicalize().is_ok_and(|folder| path.starts_with(folder)))
}
