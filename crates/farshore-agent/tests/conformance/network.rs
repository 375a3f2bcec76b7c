//! Containers with a network of their own: reached at the ports that are published, found by name, and nothing of it is left, whoever is killed.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::bed::Bed;
use crate::container::{image, packed};
use crate::containerd::Containerd;
use crate::inside::{Law, command, run};
use crate::release::Release;
use crate::wait::until;

/// A bridge of the test's own.
struct Bridge {
    name: String,
    subnet: String,
    state: PathBuf,
    _folder: tempfile::TempDir,
}

impl Bridge {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("fs-cni-").tempdir().unwrap();
        let id = uuid::Uuid::new_v4();
        let [a, b, ..] = *id.as_bytes();
        Self {
            name: format!("fst{}", &id.simple().to_string()[..8]),
            subnet: format!("10.{}.{b}.0/24", 200 + a % 50),
            state: folder.path().join("state"),
            _folder: folder,
        }
    }

    fn settings(&self) -> Value {
        json!({"name": self.name, "subnet": self.subnet, "state": self.state})
    }

    fn files(&self, folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Addresses that are taken.
    fn addresses(&self) -> Vec<String> {
        let mut names = self.files(&self.state.join("networks").join(&self.name));
        names.retain(|name| name.parse::<std::net::Ipv4Addr>().is_ok());
        names
    }

    /// Everything that is kept of networks, on disk and in the kernel.
    fn left(&self) -> Vec<String> {
        let mut left = self.addresses();
        left.extend(
            self.files(&self.state)
                .into_iter()
                .filter(|name| name.ends_with(".json") || name.ends_with(".ns")),
        );
        let rules = Command::new("iptables-save").args(["-t", "nat"]).output().unwrap();
        let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
        let prefix = self.subnet.trim_end_matches("0/24");
        left.extend(
            rules
                .lines()
                .filter(|line| line.contains(prefix) || line.contains(&self.name))
                .map(str::to_owned),
        );
        let links = Command::new("ip").args(["-o", "link", "show", "master", &self.name]).output().unwrap();
        left.extend(String::from_utf8_lossy(&links.stdout).lines().map(str::to_owned));
        left
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        for name in self.files(&self.state).into_iter().filter(|name| name.ends_with(".ns")) {
            drop(Command::new("umount").args(["--quiet", "--lazy"]).arg(self.state.join(name)).status());
        }
        drop(Command::new("ip").args(["link", "delete", &self.name]).stderr(Stdio::null()).status());
    }
}

/// A device whose containers may have networks.
async fn bridged() -> (Containerd, Bridge, Bed) {
    let (containerd, bridge) = (Containerd::start(), Bridge::new());
    let mut device = containerd.allowed();
    device["bridge"] = bridge.settings();
    let bed = Bed::new(&json!({"container": device})).await;
    (containerd, bridge, bed)
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn get(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    Some(text)
}

const SERVER: &str = "#!/bin/sh\nmkdir -p /tmp/www\necho \"hello from $FARSHORE_VERSION\" >/tmp/www/index.html\n\
    ls /sys/class/net\ncat /etc/hosts\nexec httpd -f -p 80 -h /tmp/www\n";

fn release(bed: &Bed, version: &str, container: &Value) -> Release {
    release_of(bed, version, SERVER.as_bytes(), container)
}

fn release_of(bed: &Bed, version: &str, app: &[u8], container: &Value) -> Release {
    bed.signer.release_of(version, packed(&image("image", app)), |manifest| {
        manifest["run"] = json!({"kind": "container", "container": container});
        manifest["run"]["container"]["image"] = "image".into();
        manifest["run"]["container"]["network"] = "bridge".into();
        manifest["startTimeoutSeconds"] = 60.into();
    })
}

#[tokio::test]
async fn it_is_reached_at_its_published_port_and_leaves_nothing_whoever_is_killed() {
    let (containerd, bridge, mut bed) = bridged().await;
    let port = free_port();
    let one = release(&bed, "1.0", &json!({"ports": [{"port": port, "target": 80}]}));
    bed.run(&one, 1).await;
    let says = until("its answer", || async { get(port).await.filter(|text| text.contains("hello")) }).await;
    assert!(says.contains("hello from 1.0"), "{says}");
    let log = bed.logs().await;
    let address = bridge.addresses();
    assert!(log.contains("eth0\nlo\n"), "it has its own interfaces and no others: {log}");
    assert!(address.len() == 1 && log.contains("127.0.0.1 localhost"), "{address:?} {log}");
    // A port below 1024 in there is nobody's business out here.
    assert!(TcpStream::connect((address[0].as_str(), 80)).await.is_ok());

    // Supervisor and runner die; the next instance has a network of its own, the last one's is gone.
    bed.kill_supervisor().await;
    bed.kill_runner();
    assert!(get(port).await.is_some(), "the app itself was left alone");
    bed.start_runner().await;
    bed.start(&one, 2).await.unwrap();
    bed.up().await;
    until("its answer", || async { get(port).await.filter(|text| text.contains("hello")) }).await;
    assert_eq!(bridge.addresses().len(), 1);
    // It dies; what is started in its place is reached, too.
    assert!(containerd.ctr(&["tasks", "kill", "--signal", "KILL", "web"]).status.success());
    bed.failed(1).await;
    bed.up().await;
    until("its answer", || async { get(port).await.filter(|text| text.contains("hello")) }).await;
    bed.stop().await;
    assert_eq!(bridge.left(), Vec::<String>::new());
    assert!(get(port).await.is_none());
}

/// Answers each datagram with what it held.
const ECHO: &str = r"
#include <netinet/in.h>
#include <sys/socket.h>

int main(void) {
    int port = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(53) };
    if (port < 0 || bind(port, (struct sockaddr *)&at, sizeof at) != 0) return 1;
    for (;;) {
        char held[512];
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        ssize_t bytes = recvfrom(port, held, sizeof held, 0, (struct sockaddr *)&from, &length);
        if (bytes < 0 || sendto(port, held, bytes, 0, (struct sockaddr *)&from, length) != bytes) return 2;
    }
}
";

fn echo() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("echo.c"), folder.path().join("echo"));
    std::fs::write(&source, ECHO).unwrap();
    let built = Command::new("cc").args(["-static", "-O1", "-o"]).args([&program, &source]).status().unwrap();
    assert!(built.success(), "cc could not build the server");
    std::fs::read(program).unwrap()
}

#[tokio::test]
async fn datagrams_reach_it_at_a_published_port_and_its_answers_come_back() {
    let (_containerd, bridge, bed) = bridged().await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = std::net::UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    socket.connect(("127.0.0.1", port)).await.unwrap();
    let container = json!({"ports": [{"port": port, "target": 53, "protocol": "udp"}]});
    bed.run(&release_of(&bed, "1.0", &echo(), &container), 1).await;
    let answer = until("its answer", || async {
        let mut held = [0; 64];
        // Nobody may listen yet: then the kernel says so with the next call.
        socket.send(b"is anybody there").await.ok()?;
        let answered = tokio::time::timeout(std::time::Duration::from_millis(200), socket.recv(&mut held));
        let bytes = answered.await.ok()?.ok()?;
        Some(held[..bytes].to_vec())
    })
    .await;
    assert_eq!(answer, b"is anybody there");
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "only for datagrams");
    bed.stop().await;
    assert_eq!(bridge.left(), Vec::<String>::new());
}

#[tokio::test]
async fn what_can_not_be_is_said_and_leaves_nothing() {
    let (containerd, bridge, bed) = bridged().await;
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let one = release(&bed, "1.0", &json!({"ports": [{"port": port, "target": 80}]}));
    bed.stage(&one).await.unwrap();
    bed.start(&one, 1).await.unwrap();
    let why = bed.failed(1).await.last_exit.unwrap();
    assert!(why.contains(&format!("port tcp/{port} of the device can't be published")), "{why}");
    drop(taken);
    // It is waited for, as everything that an app needs.
    bed.up().await;
    bed.stop().await;
    assert_eq!(bridge.left(), Vec::<String>::new());

    let empty = tempfile::tempdir().unwrap();
    let mut device = containerd.allowed();
    device["bridge"] = bridge.settings();
    device["bridge"]["plugins"] = json!([empty.path()]);
    let bed = Bed::new(&json!({"container": device})).await;
    let one = release(&bed, "1.0", &json!({"ports": [{"port": port}]}));
    bed.stage(&one).await.unwrap();
    bed.start(&one, 1).await.unwrap();
    let why = bed.failed(1).await.last_exit.unwrap();
    assert!(why.contains("needs the CNI plugins bridge and host-local and portmap"), "{why}");
    assert_eq!(containerd.running(), Vec::<String>::new());
    bed.stop().await;
}

#[tokio::test]
async fn services_of_an_app_find_each_other_by_name() {
    let (_containerd, bridge, bed) = bridged().await;
    let port = free_port();
    let ask = "wget -q -O - http://db:8000/ && sleep 1000";
    let services = json!({
        "db": {"image": "one:1", "restart": "always",
            "command": ["sh", "-c", "mkdir -p /tmp/www; echo word >/tmp/www/index.html; exec httpd -f -p 8000 -h /tmp/www"],
            "healthcheck": {"test": ["CMD", "wget", "-q", "-O", "-", "http://127.0.0.1:8000/"], "interval": "1s", "retries": 20}},
        "web": {"image": "one:1", "restart": "always", "command": ["sh", "-c", ask],
            "depends_on": {"db": {"condition": "service_healthy"}}, "ports": [format!("127.0.0.1:{port}:9000")]},
    });
    let release = bed.signer.release_of("1.0", packed(&image("images/one", "#!/bin/sh\n")), |manifest| {
        manifest["run"] = json!({"kind": "compose", "compose": {
            "images": {"one:1": "images/one"}, "network": "bridge", "services": services,
        }});
        manifest["startTimeoutSeconds"] = 60.into();
    });
    bed.run(&release, 1).await;
    until("the word", || async { bed.logs().await.contains("word\n").then_some(()) }).await;
    // Also the one that was there first sees the other one.
    let law = Law::new(&bed);
    law.allow(&bed, json!({"execInside": true})).await;
    let mut order = command("cat /etc/hosts");
    order.arguments.service = Some("db".parse().unwrap());
    let (_, hosts) = run(&bed, order).await.unwrap();
    for name in ["db", "web"] {
        let named = hosts.lines().any(|line| line.split_whitespace().nth(1) == Some(name));
        assert!(named, "{name} is missing: {hosts}");
    }
    assert_eq!(bridge.addresses().len(), 2);
    bed.stop().await;
    assert_eq!(bridge.left(), Vec::<String>::new());
}

/// Something with a network of its own, as a container has, and the state that runc tells its hooks.
struct Stand {
    child: Child,
    id: String,
}

impl Stand {
    fn new(id: &str) -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "1000"]).spawn().unwrap();
        Self { child, id: id.to_owned() }
    }

    async fn ready(self) -> Self {
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let path = format!("/proc/{}/ns/net", self.child.id());
        until("its network", || async { std::fs::read_link(&path).ok().filter(|found| *found != own) }).await;
        self
    }

    fn hook(&self, verb: &str, bridge: &Bridge, ports: &Value) -> std::process::Output {
        let plan = json!({
            "id": self.id, "plugins": ["/usr/lib/cni"], "bridge": bridge.name, "subnet": bridge.subnet, "state": bridge.state,
            "ports": ports, "hosts": bridge.state.join("hosts"), "name": self.id,
        });
        let state = json!({
            "ociVersion": "1.0.2", "id": self.id, "pid": self.child.id(), "annotations": {"farshore.dev/network": plan.to_string()},
        });
        let mut hook = Command::new(env!("CARGO_BIN_EXE_farshore-agent"))
            .args(["container-network", verb])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        hook.stdin.take().unwrap().write_all(state.to_string().as_bytes()).unwrap();
        hook.wait_with_output().unwrap()
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test]
async fn what_a_crash_has_left_is_taken_back_before_the_next_network_is_made() {
    let bridge = Bridge::new();
    let ports = json!([{"port": free_port(), "target": 80}]);
    let first = Stand::new("first").ready().await;
    let made = first.hook("add", &bridge, &ports);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let address = bridge.addresses();
    assert_eq!(address.len(), 1);
    // Its port is taken as long as it lives.
    let second = Stand::new("second").ready().await;
    let refused = second.hook("add", &bridge, &ports);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("published by first already"), "{why}");
    assert_eq!(bridge.addresses(), address, "the refused one has taken nothing");
    // It is gone, and nobody has taken its network back.
    drop(first);
    let made = second.hook("add", &bridge, &ports);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let left = bridge.addresses();
    assert!(left.len() == 1 && left != address, "{left:?} after {address:?}");
    assert_eq!(bridge.files(&bridge.state).iter().filter(|name| name.ends_with(".json")).count(), 1);
    for round in 0..2 {
        let gone = second.hook("del", &bridge, &ports);
        assert!(gone.status.success(), "{round}: {}", String::from_utf8_lossy(&gone.stderr));
    }
    assert_eq!(bridge.left(), Vec::<String>::new());
}
