//! Containers with a network of their own: what the supervisor plans. Carrying it out needs more than the runner may do, so runc does it, as hooks of the
//! container ([`super::cni`]).

use std::path::{Path, PathBuf};

use farshore_domain::release::kind::{Network, Published};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::super::allowed::Containerd;
use super::super::RuntimeError;
use super::spec::Wish;
use crate::file;

/// Where a container's specification holds its [`Plan`].
pub(super) const ANNOTATION: &str = "farshore.dev/network";
/// Where programs of the device are that plugins need.
pub(super) const PROGRAMS: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// A hook that takes longer is killed.
const HOOK_SECONDS: u32 = 60;
const MAX_HOSTS: u64 = 64 * 1024;

/// What a container's network is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Of this container among all of the device.
    pub(super) id: String,
    /// Folders with CNI plugins.
    pub(super) plugins: Vec<PathBuf>,
    pub(super) bridge: String,
    pub(super) subnet: String,
    pub(super) state: PathBuf,
    pub(super) ports: Vec<Published>,
    /// The file that names the containers of its app, and its own name in it.
    pub(super) hosts: PathBuf,
    pub(super) name: String,
}

impl Plan {
    pub(super) fn of(wish: &Wish, device: &Containerd) -> Option<Self> {
        let bridge = &device.bridge;
        (wish.container.network == Network::Bridge).then(|| Self {
            id: format!("{}-{}", device.namespace, wish.id),
            plugins: bridge.plugins.clone(),
            bridge: bridge.name.clone(),
            subnet: bridge.subnet.clone(),
            state: bridge.state.clone(),
            ports: wish.container.ports.clone(),
            hosts: wish.hosts.clone(),
            name: wish.name.clone(),
        })
    }

    /// What each plugin is told, in the order in which they are asked.
    pub(super) fn plugins(&self) -> Vec<Value> {
        let mut plugins = vec![json!({
            "type": "bridge", "bridge": self.bridge, "isGateway": true, "ipMasq": true, "hairpinMode": true,
            "ipam": {
                "type": "host-local", "ranges": [[{"subnet": self.subnet}]], "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": self.state.join("networks"),
            },
        })];
        if !self.ports.is_empty() {
            let mapping = |port: &Published| {
                let mut mapping = json!({
                    "hostPort": port.port, "containerPort": port.inside(), "protocol": port.protocol.as_str(),
                });
                if let Some(address) = port.address {
                    mapping["hostIP"] = json!(address);
                }
                mapping
            };
            let mappings: Vec<_> = self.ports.iter().map(mapping).collect();
            plugins.push(json!({
                "type": "portmap", "snat": true, "capabilities": {"portMappings": true},
                "runtimeConfig": {"portMappings": mappings},
            }));
        }
        for plugin in &mut plugins {
            plugin["cniVersion"] = json!("0.4.0");
            plugin["name"] = json!(self.bridge);
        }
        plugins
    }

    /// What the device needs for it is there.
    pub(super) fn check(&self) -> Result<(), RuntimeError> {
        let mut needs = vec!["bridge", "host-local"];
        if !self.ports.is_empty() {
            needs.push("portmap");
        }
        let missing: Vec<_> = needs
            .into_iter()
            .filter(|name| !self.plugins.iter().any(|dir| dir.join(name).is_file()))
            .collect();
        if !missing.is_empty() {
            let folders: Vec<_> = self.plugins.iter().map(|dir| dir.display().to_string()).collect();
            return Err(RuntimeError::Said(format!(
                "network: bridge needs the CNI plugins {}, which are not in {}; install them (Debian: containernetworking-plugins)",
                missing.join(" and "),
                folders.join(" or ")
            )));
        }
        if !PROGRAMS.split(':').any(|dir| Path::new(dir).join("iptables").exists()) {
            return Err(RuntimeError::Said(
                "network: bridge needs iptables, which is not on this device; install it".to_owned(),
            ));
        }
        Ok(())
    }
}

/// Writes the network into a container's specification.
pub(super) fn apply(wish: &Wish, device: &Containerd, spec: &mut Value) -> Result<(), RuntimeError> {
    let mut mounts = Vec::new();
    let mut mount = |source: &Path, target: &str| {
        mounts.push(json!({
            "destination": target, "type": "bind", "source": source,
            "options": ["rbind", "ro", "nosuid", "nodev", "noexec"],
        }));
    };
    let (resolver, hosts) = (Path::new("/etc/resolv.conf"), Path::new("/etc/hosts"));
    match wish.container.network {
        Network::None => {}
        Network::Host => {
            for file in [resolver, hosts] {
                if file.exists() {
                    mount(file, &file.to_string_lossy());
                }
            }
        }
        Network::Bridge => {
            // A stub at the device's loopback can't be reached from there.
            let behind = Path::new("/run/systemd/resolve/resolv.conf");
            if let Some(file) = [behind, resolver].into_iter().find(|file| file.exists()) {
                mount(file, "/etc/resolv.conf");
            }
            mount(&wish.hosts, "/etc/hosts");
        }
    }
    if wish.container.network != Network::Host {
        append(spec, "/linux/namespaces", json!({"type": "network"}));
        // Its ports are nobody else's.
        spec["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "0"});
    }
    if let Some(plan) = Plan::of(wish, device) {
        let text = serde_json::to_string(&plan).map_err(|error| RuntimeError::Said(error.to_string()))?;
        spec["annotations"] = json!({ANNOTATION: text});
        let program = own_program()?;
        let hook = |verb: &str| {
            json!([{
                "path": program, "args": ["farshore-agent", "container-network", verb],
                "env": [format!("PATH={PROGRAMS}")], "timeout": HOOK_SECONDS,
            }])
        };
        spec["hooks"]["createRuntime"] = hook("add");
        spec["hooks"]["poststop"] = hook("del");
    }
    for mount in mounts {
        append(spec, "/mounts", mount);
    }
    Ok(())
}

fn append(spec: &mut Value, pointer: &str, value: Value) {
    if let Some(list) = spec.pointer_mut(pointer).and_then(Value::as_array_mut) {
        list.push(value);
    }
}

/// This program by its path, which may hold a newer one meanwhile.
fn own_program() -> Result<PathBuf, RuntimeError> {
    let path = std::env::current_exe().map_err(RuntimeError::io("finding this program"))?;
    let text = path.to_string_lossy().into_owned();
    Ok(text.strip_suffix(" (deleted)").map_or(path, PathBuf::from))
}

/// Begins the file that names the containers of an app to each other.
pub(super) fn begin_hosts(path: &Path) -> Result<(), RuntimeError> {
    use std::os::unix::fs::PermissionsExt as _;
    let written = std::fs::write(path, "127.0.0.1 localhost\n::1 localhost\n")
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)));
    written.map_err(RuntimeError::io("writing the containers' names"))
}

/// Gives a name this address, or none. Written in place: containers see this very file.
pub(super) fn name_host(path: &Path, name: &str, address: Option<&str>) -> std::io::Result<()> {
    let Some(bytes) = file::read_capped(path, MAX_HOSTS)? else { return Ok(()) };
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<String> = text
        .lines()
        .filter(|line| line.split_whitespace().nth(1) != Some(name) || name == "localhost")
        .map(str::to_owned)
        .collect();
    lines.extend(address.map(|address| format!("{address} {name}")));
    lines.push(String::new());
    std::fs::write(path, lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_last_address_and_none_when_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        begin_hosts(&path).unwrap();
        name_host(&path, "db", Some("10.0.0.2")).unwrap();
        name_host(&path, "web", Some("10.0.0.3")).unwrap();
        name_host(&path, "db", Some("10.0.0.4")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "127.0.0.1 localhost\n::1 localhost\n10.0.0.3 web\n10.0.0.4 db\n");
        name_host(&path, "web", None).unwrap();
        name_host(&path, "localhost", None).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "127.0.0.1 localhost\n::1 localhost\n10.0.0.4 db\n");
    }
}
