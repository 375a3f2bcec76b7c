//! A real containerd with real runc for tests, and images made of busybox.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use farshore_domain::digest::Digest;

use crate::disk::Mounted;

/// A containerd in a folder of its own, with its own socket; ends with the test.
pub(crate) struct Containerd {
    /// It goes before its folder.
    pub(crate) disk: Option<Mounted>,
    child: Child,
    pub(crate) folder: tempfile::TempDir,
    /// The group its containers are below.
    pub(crate) namespace: String,
}

impl Containerd {
    pub(crate) fn start() -> Self {
        Self::on_disk(None)
    }

    /// What it stores lies on a disk of this many bytes.
    pub(crate) fn on_disk(bytes: Option<u64>) -> Self {
        assert!(rustix::process::geteuid().is_root(), "containers need root");
        let folder = tempfile::Builder::new().prefix("fs-ctd-").tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let disk = bytes.map(|bytes| {
            let store = at("root/io.containerd.content.v1.content");
            std::fs::create_dir_all(&store).unwrap();
            Mounted::over(&store, bytes)
        });
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n[debug]\naddress = {:?}\n",
            at("root"),
            at("state"),
            at("c.sock"),
            at("t.sock"),
            at("d.sock")
        );
        std::fs::write(at("config.toml"), config).unwrap();
        let log = std::fs::File::create(at("log")).unwrap();
        let child = Command::new("containerd")
            .arg("--config")
            .arg(at("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("containerd: {error}; type: apt-get install containerd runc"));
        let namespace = format!("farshore-{}", uuid::Uuid::new_v4().simple());
        let it = Self { disk, child, folder, namespace };
        for _ in 0..500 {
            if it.ctr(&["version"]).status.success() {
                return it;
            }
            drop(Command::new("sleep").arg("0.02").status());
        }
        panic!(
            "containerd does not come up: {}",
            std::fs::read_to_string(it.folder.path().join("log")).unwrap()
        );
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("c.sock")
    }

    pub(crate) fn ctr(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.socket()).args(["--namespace", &self.namespace]);
        command.args(arguments).output().unwrap()
    }

    /// Stops it for a while, say.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Ids of tasks that run.
    pub(crate) fn running(&self) -> Vec<String> {
        let listed = self.ctr(&["tasks", "list"]);
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let lines = text.lines().skip(1).filter(|line| line.contains("RUNNING"));
        lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    }

    pub(crate) fn words(&self, arguments: &[&str]) -> Vec<String> {
        let listed = self.ctr(arguments);
        String::from_utf8_lossy(&listed.stdout).split_whitespace().map(str::to_owned).collect()
    }

    pub(crate) fn allowed(&self) -> serde_json::Value {
        serde_json::json!({"socket": self.socket(), "namespace": self.namespace})
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for task in self.words(&["tasks", "list", "--quiet"]) {
            drop(self.ctr(&["tasks", "kill", "--signal", "KILL", "--all", &task]));
            drop(self.ctr(&["tasks", "delete", "--force", &task]));
        }
        drop(self.child.kill());
        drop(self.child.wait());
        drop(
            Command::new("umount")
                .args(["--recursive", "--quiet"])
                .arg(self.folder.path().join("state"))
                .status(),
        );
    }
}

/// One layer, with links to busybox.
pub(crate) fn layer(files: &[(&str, u32, &[u8])], links: &[&str]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, mode, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    for link in links {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        builder.append_link(&mut header, format!("bin/{link}"), "busybox").unwrap();
    }
    builder.into_inner().unwrap()
}

/// The layer with a shell and what it needs.
pub(crate) fn base() -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox")
        .unwrap_or_else(|error| panic!("busybox: {error}; type: apt-get install busybox-static"));
    let tools = [
        "sh", "sleep", "echo", "cat", "id", "head", "tail", "setsid", "test", "env", "grep", "ls", "touch",
        "mkdir", "httpd", "wget",
    ];
    layer(&[("bin/busybox", 0o755, &busybox)], &tools)
}

/// An OCI layout of one image below `at`: the digests of its layers as they are unpacked, and the layers with how they are packed. It runs `/bin/app`.
pub(crate) fn layout(
    at: &str,
    diffs: &[Digest],
    layers: impl IntoIterator<Item = (Vec<u8>, &'static str)>,
) -> Vec<(String, u32, Vec<u8>)> {
    let mut files = Vec::new();
    let mut put = |bytes: Vec<u8>, media: &str| {
        let digest = Digest::of(&bytes);
        let descriptor = serde_json::json!({"mediaType": media, "digest": digest, "size": bytes.len()});
        files.push((format!("{at}/blobs/sha256/{}", digest.hex()), 0o644, bytes));
        descriptor
    };
    let layers: Vec<_> = layers
        .into_iter()
        .map(|(bytes, packed)| put(bytes, &format!("application/vnd.oci.image.layer.v1.{packed}")))
        .collect();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux", "config": {"Entrypoint": ["/bin/app"], "Env": ["PATH=/bin", "FROM=image"]},
        "rootfs": {"type": "layers", "diff_ids": diffs},
    });
    let config = put(serde_json::to_vec(&config).unwrap(), "application/vnd.oci.image.config.v1+json");
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": layers});
    let manifest = put(serde_json::to_vec(&manifest).unwrap(), "application/vnd.oci.image.manifest.v1+json");
    let index =
        serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": [manifest]})).unwrap();
    files.push((format!("{at}/index.json"), 0o644, index));
    files.push((format!("{at}/oci-layout"), 0o644, b"{\"imageLayoutVersion\":\"1.0.0\"}".to_vec()));
    files
}
