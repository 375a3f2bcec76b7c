//! The network of containers, carried out: a program of its own that runc runs as a hook, once before the container begins and once after it is gone, with
//! the privileges of containerd. It asks CNI plugins of the device (<https://www.cni.dev/docs/spec/>).
//!
//! What it does is written down before it is done, below one folder that is gone with the next boot, as networks are: `<id>.json` says what was asked for and
//! what came of it, `<id>.ns` keeps the network as long as it is not taken back. What a crash has left is taken back before the next network is made.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use farshore_domain::release::kind::{Protocol, Published};
use rustix::fs::{FlockOperation, FsWord};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::super::spec::Process;
use super::network::{ANNOTATION, PROGRAMS, Plan, name_host};
use crate::file;

/// At most this many bytes of a container's state, a record, or a plugin's answer.
const MAX_BYTES: u64 = 1024 * 1024;
/// Of a plugin's complaint, so many characters are told.
const MAX_SAID: usize = 500;
/// What a kept network's file system says of itself.
const NSFS_MAGIC: FsWord = 0x6e73_6673;
const INTERFACE: &str = "eth0";

/// Why a container has no network, or its network was not taken back.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Said(String),
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
    let what = what.into();
    move |source| NetworkError::Io { what, source }
}

fn said<T>(text: impl Into<String>) -> Result<T, NetworkError> {
    Err(NetworkError::Said(text.into()))
}

/// As much of a container's state as runc tells its hooks.
#[derive(Debug, Deserialize)]
struct State {
    #[serde(default)]
    pid: i32,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    plan: Plan,
    process: Process,
    /// What the last plugin answered.
    result: Option<Value>,
}

/// Makes the network of the container whose state comes on standard input, or takes it back.
///
/// # Errors
/// When it is not there, or not gone.
pub fn container_network(make: bool) -> Result<(), NetworkError> {
    let mut bytes = Vec::new();
    io::stdin().take(MAX_BYTES).read_to_end(&mut bytes).map_err(failed("reading the container's state"))?;
    let broken = |error: serde_json::Error| NetworkError::Said(format!("the container's state: {error}"));
    let state: State = serde_json::from_slice(&bytes).map_err(broken)?;
    let Some(plan) = state.annotations.get(ANNOTATION) else {
        return said("the container has no plan of a network");
    };
    let plan: Plan = serde_json::from_str(plan).map_err(broken)?;
    let book = Book::open(&plan.state)?;
    if make { book.make(plan, state.pid) } else { book.take_back(&plan.id) }
}

/// Who has which network. One at a time.
struct Book {
    folder: PathBuf,
    _lock: File,
}

impl Book {
    fn open(folder: &Path) -> Result<Self, NetworkError> {
        let opening = || format!("opening {}", folder.display());
        file::make_folder(folder, 0o700).map_err(failed(opening()))?;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(folder.join("lock"));
        let lock = lock.map_err(failed(opening()))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|e| failed(opening())(e.into()))?;
        Ok(Self { folder: folder.to_path_buf(), _lock: lock })
    }

    fn record(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// Where a container's network is kept.
    fn kept(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.ns"))
    }

    fn read(path: &Path) -> Result<Option<Record>, NetworkError> {
        let reading = || format!("reading {}", path.display());
        let Some(bytes) = file::read_capped(path, MAX_BYTES).map_err(failed(reading()))? else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(reading())(error.into()))
    }

    fn write(&self, record: &Record) -> Result<(), NetworkError> {
        let bytes = serde_json::to_vec(record).map_err(|e| failed("writing down a network")(e.into()))?;
        file::write_atomically(&self.record(&record.plan.id), &bytes, 0o600)
            .map_err(failed("writing down a network"))
    }

    fn records(&self) -> Result<Vec<Record>, NetworkError> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed("listing networks"))? {
            let path = entry.map_err(failed("listing networks"))?.path();
            if path.extension().is_some_and(|ending| ending == "json") {
                records.extend(Self::read(&path)?);
            }
        }
        Ok(records)
    }

    fn make(&self, plan: Plan, pid: i32) -> Result<(), NetworkError> {
        let Some(process) = Process::of(pid) else { return said("the container is gone already") };
        self.take_back(&plan.id)?;
        for record in self.records()? {
            // Whoever should have done it was killed.
            if !record.process.is_alive()
                && let Err(error) = self.take_back(&record.plan.id)
            {
                eprintln!("farshore-agent: what {} has left: {}", record.plan.id, crate::chain(&error));
            }
        }
        self.check_ports(&plan)?;
        let mut record = Record { plan, process, result: None };
        self.write(&record)?;
        let made = self.keep(&record.plan.id, pid).and_then(|()| self.connect(&mut record));
        if let Err(error) = made {
            if let Err(again) = self.take_back(&record.plan.id) {
                eprintln!("farshore-agent: {}", crate::chain(&again));
            }
            return Err(error);
        }
        Ok(())
    }

    /// Nobody else has the device's ports that are to be published.
    fn check_ports(&self, plan: &Plan) -> Result<(), NetworkError> {
        let others = self.records()?;
        for port in &plan.ports {
            let says = format!("{}/{}", port.protocol.as_str(), port.port);
            let same = |other: &&Record| {
                other.plan.ports.iter().any(|one| (one.protocol, one.port) == (port.protocol, port.port))
            };
            if let Some(other) = others.iter().find(same) {
                return said(format!("port {says} of the device is published by {} already", other.plan.id));
            }
            if let Err(source) = bind(port) {
                return Err(failed(format!("port {says} of the device can't be published"))(source));
            }
        }
        Ok(())
    }

    /// Keeps the network of the container until it was taken back, whoever dies meanwhile.
    fn keep(&self, id: &str, pid: i32) -> Result<(), NetworkError> {
        let kept = self.kept(id);
        File::create(&kept).map_err(failed("keeping the network"))?;
        mount_bind(format!("/proc/{pid}/ns/net"), &kept).map_err(|e| failed("keeping the network")(e.into()))
    }

    /// Asks each plugin, and writes down what came of it.
    fn connect(&self, record: &mut Record) -> Result<(), NetworkError> {
        let netns = self.kept(&record.plan.id);
        for mut plugin in record.plan.plugins() {
            if let Some(before) = &record.result {
                plugin["prevResult"] = before.clone();
            }
            record.result = Some(ask(&record.plan, "ADD", &plugin, &netns.to_string_lossy())?);
        }
        self.write(record)?;
        let address = record.result.as_ref().and_then(|result| result.pointer("/ips/0/address")?.as_str());
        let address = address.and_then(|address| address.split('/').next());
        let Some(address) = address else { return said("the plugins gave the container no address") };
        name_host(&record.plan.hosts, &record.plan.name, Some(address))
            .map_err(failed("naming the container to the others"))
    }

    /// Takes a network back. Fine when there is none.
    fn take_back(&self, id: &str) -> Result<(), NetworkError> {
        let Some(record) = Self::read(&self.record(id))? else { return Ok(()) };
        let kept = self.kept(id);
        let netns = if is_network(&kept) { kept.to_string_lossy().into_owned() } else { String::new() };
        for mut plugin in record.plan.plugins().into_iter().rev() {
            if let Some(result) = &record.result {
                plugin["prevResult"] = result.clone();
            }
            ask(&record.plan, "DEL", &plugin, &netns)?;
        }
        match unmount(&kept, UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(failed("letting go of a network")(error.into())),
        }
        name_host(&record.plan.hosts, &record.plan.name, None)
            .map_err(failed("forgetting the container's name"))?;
        for path in [kept, self.record(id)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("forgetting a network")(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn bind(port: &Published) -> io::Result<()> {
    let at = (port.address.unwrap_or(Ipv4Addr::UNSPECIFIED), port.port);
    match port.protocol {
        Protocol::Tcp => TcpListener::bind(at).map(drop),
        Protocol::Udp => UdpSocket::bind(at).map(drop),
    }
}

fn is_network(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type == NSFS_MAGIC)
}

/// Asks a plugin.
fn ask(plan: &Plan, verb: &str, config: &Value, netns: &str) -> Result<Value, NetworkError> {
    let name = config["type"].as_str().unwrap_or_default();
    let what = format!("the CNI plugin {name} ({verb})");
    let program = plan.plugins.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    let Some(program) = program else { return said(format!("the CNI plugin {name} is not on this device")) };
    let folders: Vec<_> = plan.plugins.iter().map(|folder| folder.to_string_lossy()).collect();
    let mut child = Command::new(program)
        .env_clear()
        .env("PATH", PROGRAMS)
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", &plan.id)
        .env("CNI_NETNS", netns)
        .env("CNI_IFNAME", INTERFACE)
        .env("CNI_PATH", folders.join(":"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed(what.clone()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(config.to_string().as_bytes()).map_err(failed(what.clone()))?;
    }
    let done = child.wait_with_output().map_err(failed(what.clone()))?;
    let answer: Value = serde_json::from_slice(&done.stdout).unwrap_or_else(|_| json!({}));
    if done.status.success() {
        return Ok(answer);
    }
    let message = match (answer["msg"].as_str(), answer["details"].as_str()) {
        (Some(message), Some(details)) if !details.is_empty() => format!("{message}: {details}"),
        (Some(message), _) => message.to_owned(),
        (None, _) => String::from_utf8_lossy(&done.stderr).trim().to_owned(),
    };
    said(format!("{what}: {}", message.chars().take(MAX_SAID).collect::<String>()))
}
