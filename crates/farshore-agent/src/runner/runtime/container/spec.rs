//! The OCI runtime specification of a container.

use farshore_domain::release::Limits;
use farshore_domain::release::kind;
use serde_json::{Value, json};

use super::super::super::allowed::{Containerd, is_below};
use super::super::super::users::Identity;
use super::super::RuntimeError;
use super::cdi::{self, Edits};
use super::network;

const CPU_PERIOD_US: u64 = 100_000;

/// What a container is to be.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) id: String,
    pub(super) container: kind::Container,
    pub(super) command: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) working_folder: String,
    pub(super) limits: Limits,
    /// None: root, which manifest and device have both allowed.
    pub(super) user: Option<Identity>,
    pub(super) data: std::path::PathBuf,
    /// With a network of its own: its name among the containers of its app, and the file that holds those names.
    pub(super) name: String,
    pub(super) hosts: std::path::PathBuf,
}

/// System calls that no app needs, and that have led out of containers.
const DENIED: [&str; 28] = [
    "acct",
    "add_key",
    "bpf",
    "clock_adjtime",
    "clock_settime",
    "create_module",
    "delete_module",
    "finit_module",
    "init_module",
    "ioperm",
    "iopl",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "mount",
    "move_mount",
    "open_by_handle_at",
    "perf_event_open",
    "pivot_root",
    "ptrace",
    "quotactl",
    "reboot",
    "request_key",
    "setns",
    "swapoff",
    "swapon",
    "umount2",
    "userfaultfd",
];

/// The process part, for the container and for what is run inside it beside.
pub(super) fn process(wish: &Wish, command: &[String]) -> Value {
    let (uid, gid) = wish.user.map_or((0, 0), |user| (user.uid, user.gid));
    json!({
        "terminal": false, "user": {"uid": uid, "gid": gid, "additionalGids": []},
        "args": command, "env": wish.env, "cwd": wish.working_folder, "noNewPrivileges": true,
        // Nothing of root's, also for root.
        "capabilities": {"bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": []},
    })
}

/// The whole specification.
pub(super) fn of(wish: &Wish, device: &Containerd) -> Result<Value, RuntimeError> {
    let namespaces = ["pid", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
    let mut resources = json!({"devices": [
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 7, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 8, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 9, "access": "rwm"},
        {"allow": true, "type": "c", "major": 5, "minor": 0, "access": "rwm"},
        {"allow": true, "type": "c", "major": 5, "minor": 2, "access": "rwm"},
        {"allow": true, "type": "c", "major": 136, "access": "rwm"},
    ]});
    if let Some(bytes) = wish.limits.memory_bytes {
        resources["memory"] = json!({"limit": bytes});
    }
    if let Some(millis) = wish.limits.cpu_millis {
        let quota = (u64::from(millis) * CPU_PERIOD_US / 1000).max(1000);
        resources["cpu"] = json!({"quota": quota, "period": CPU_PERIOD_US});
    }
    if let Some(count) = wish.limits.processes {
        resources["pids"] = json!({"limit": count});
    }
    let mut spec = json!({
        "ociVersion": "1.0.2",
        "hostname": wish.id,
        "process": process(wish, &wish.command),
        "root": {"path": "rootfs", "readonly": wish.container.read_only},
        "hooks": {},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777", "size=65536k"]},
        ],
        "linux": {
            "cgroupsPath": format!("/farshore/{}-{}", device.namespace, wish.id),
            "namespaces": namespaces,
            "resources": resources,
            "devices": [],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
                "/proc/sched_debug", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": DENIED, "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]},
        },
    });
    network::apply(wish, device, &mut spec)?;
    let mut mounts = Vec::new();
    for mount in &wish.container.mounts {
        mounts.push(bind(wish, device, mount)?);
    }
    if let Some(list) = spec.pointer_mut("/mounts").and_then(Value::as_array_mut) {
        list.extend(mounts);
    }
    for edits in devices(wish, device)? {
        edits.apply(&mut spec)?;
    }
    Ok(spec)
}

/// The devices it asks for, as far as the device allows their kinds.
fn devices(wish: &Wish, device: &Containerd) -> Result<Vec<Edits>, RuntimeError> {
    for name in &wish.container.devices {
        let kind = name.split_once('=').map_or("", |(kind, _)| kind);
        if !device.devices.iter().any(|allowed| allowed == kind) {
            return Err(RuntimeError::Said(format!("the device does not allow apps to use {name}")));
        }
    }
    cdi::find(&wish.container.devices, &device.cdi_folders)
}

/// A folder of the app's data, or one that the device allows.
fn bind(wish: &Wish, device: &Containerd, mount: &kind::Mount) -> Result<Value, RuntimeError> {
    let source = if mount.source.starts_with('/') {
        let real = std::path::Path::new(&mount.source).canonicalize();
        let real = real.map_err(RuntimeError::io(format!("finding {}", mount.source)))?;
        if !is_below(&real, &device.mounts) {
            return Err(RuntimeError::Said(format!(
                "the device does not allow apps to mount {}",
                mount.source
            )));
        }
        real
    } else {
        let folder = wish.data.join(&mount.source);
        // The data folder belongs to the app, which may have put a link there: nothing is made, given away or mounted behind one.
        if folder.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
            return Err(RuntimeError::Said(format!("{} is no folder of the app's data", mount.source)));
        }
        crate::file::make_folder(&folder, 0o700)
            .map_err(RuntimeError::io(format!("making {}", mount.source)))?;
        let real = folder.canonicalize().map_err(RuntimeError::io(format!("finding {}", mount.source)))?;
        if !is_below(&real, std::slice::from_ref(&wish.data)) {
            return Err(RuntimeError::Said(format!("{} leads out of the app's data folder", mount.source)));
        }
        if let Some(user) = wish.user {
            std::os::unix::fs::chown(&real, Some(user.uid), Some(user.gid))
                .map_err(RuntimeError::io(format!("giving away {}", mount.source)))?;
        }
        real
    };
    let mut options = vec!["rbind", "nosuid", "nodev"];
    options.push(if mount.read_only { "ro" } else { "rw" });
    Ok(json!({"destination": mount.target, "type": "bind", "source": source, "options": options}))
}
