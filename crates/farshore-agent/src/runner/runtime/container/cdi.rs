//! Devices by their CDI names (Container Device Interface): the device's own files in /etc/cdi and /var/run/cdi say what a name such as
//! `nvidia.com/gpu=0` stands for. Only files in JSON are read (`nvidia-ctk cdi generate --format=json`).

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::RuntimeError;
use crate::file;

const MAX_FILE: u64 = 4 * 1024 * 1024;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CdiFile {
    kind: String,
    devices: Vec<CdiDevice>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CdiDevice {
    name: String,
    #[serde(default)]
    container_edits: Edits,
}

/// What a device changes in the specification of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<CdiMount>,
    hooks: Vec<Hook>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: String,
    host_path: Option<String>,
    permissions: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CdiMount {
    host_path: String,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hook {
    hook_name: String,
    path: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
}

fn said(text: impl Into<String>) -> RuntimeError {
    RuntimeError::Said(text.into())
}

/// What the named devices change, looked up in these folders.
pub(super) fn find(names: &[String], folders: &[PathBuf]) -> Result<Vec<Edits>, RuntimeError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for folder in folders {
        files.extend(read(folder)?);
    }
    let mut edits = Vec::new();
    for name in names {
        let (kind, device) = name.split_once('=').ok_or_else(|| said(format!("{name:?} is no CDI name")))?;
        let found = files.iter().find_map(|file| {
            let device = file.devices.iter().find(|found| file.kind == kind && found.name == device)?;
            Some([file.container_edits.clone(), device.container_edits.clone()])
        });
        edits.extend(found.ok_or_else(|| {
            said(format!("this device has no {name}: no file in /etc/cdi or /var/run/cdi names it"))
        })?);
    }
    Ok(edits)
}

fn read(folder: &Path) -> Result<Vec<CdiFile>, RuntimeError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(RuntimeError::io("reading CDI files")(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(RuntimeError::io("reading CDI files"))?.path();
        if path.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        let bytes = file::read_capped(&path, MAX_FILE).map_err(RuntimeError::io("reading CDI files"))?;
        let parsed = serde_json::from_slice(&bytes.unwrap_or_default());
        files.push(parsed.map_err(|error| said(format!("{}: {error}", path.display())))?);
    }
    Ok(files)
}

fn append(spec: &mut Value, pointer: &str, value: Value) {
    if let Some(list) = spec.pointer_mut(pointer).and_then(Value::as_array_mut) {
        list.push(value);
    }
}

impl Edits {
    /// Changes an OCI runtime specification.
    pub(super) fn apply(&self, spec: &mut Value) -> Result<(), RuntimeError> {
        for pair in &self.env {
            append(spec, "/process/env", json!(pair));
        }
        for node in &self.device_nodes {
            use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
            let host = node.host_path.as_deref().unwrap_or(&node.path);
            let found = std::fs::metadata(host).map_err(RuntimeError::io(format!("looking at {host}")))?;
            let kind = if found.file_type().is_char_device() {
                "c"
            } else if found.file_type().is_block_device() {
                "b"
            } else {
                return Err(said(format!("{host} is no device")));
            };
            let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
            let access = node.permissions.as_deref().unwrap_or("rwm");
            append(
                spec,
                "/linux/devices",
                json!({"path": node.path, "type": kind, "major": major, "minor": minor, "fileMode": found.mode() & 0o777,
                    "uid": found.uid(), "gid": found.gid()}),
            );
            append(
                spec,
                "/linux/resources/devices",
                json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": access}),
            );
            // Its user must get at it: by the device's group, unless that is root's.
            if found.gid() != 0 {
                append(spec, "/process/user/additionalGids", json!(found.gid()));
            }
        }
        for mount in &self.mounts {
            let options = if mount.options.is_empty() {
                json!(["rbind", "ro", "nosuid", "nodev"])
            } else {
                json!(mount.options)
            };
            append(
                spec,
                "/mounts",
                json!({"destination": mount.container_path, "source": mount.host_path, "type": "bind", "options": options}),
            );
        }
        for hook in &self.hooks {
            let kinds =
                ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
            if !kinds.contains(&hook.hook_name.as_str()) {
                return Err(said(format!("a CDI file names the unknown hook {:?}", hook.hook_name)));
            }
            if let Some(hooks) = spec.pointer_mut("/hooks").and_then(Value::as_object_mut) {
                let list = hooks.entry(hook.hook_name.clone()).or_insert_with(|| json!([]));
                if let Some(list) = list.as_array_mut() {
                    list.push(json!({"path": hook.path, "args": hook.args, "env": hook.env}));
                }
            }
        }
        Ok(())
    }
}
